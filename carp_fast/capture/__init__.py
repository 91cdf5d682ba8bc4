"""Captures advertisements: capture files, listening, verdicts, lines of text.

Holds pcap files, listening on interfaces without taking part, the verdict on an advertisement by a
configuration, and explanations of wrong digests. Must not know the daemon: capturing needs no
virtual host.
Start reading in `dump`.
"""
