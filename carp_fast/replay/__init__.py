"""Scenarios: what virtual hosts hear and are told, and all that they then do, line by line.

Holds the format (`scenario`), the engine that plays it (`player`), a daemon's ring of records as a
scenario (`recording`), and an election of a capture with our engine in it (`election`). Must not
touch the network: time and frames come from a file or from the ring.
Start reading in `scenario`.
"""
