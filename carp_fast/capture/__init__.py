"""Advertisements as they are heard or stored: capture files, lines of text, verdicts.

Holds pcap files, listening on interfaces without taking part, the verdict on an advertisement by a
configuration, and what would have made its digest right. Must not know the daemon: whoever only
looks needs no virtual host of their own.
Start reading in `dump`.
"""
