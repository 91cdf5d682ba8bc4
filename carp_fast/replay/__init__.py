"""Scenarios: the inputs of virtual hosts and all that they then do, line by line.

Holds the format (`scenario`), the engine that plays it (`player`), the conversion of a daemon's
ring of records to a scenario (`recording`), and a captured election with our engine in the place of
a host (`election`). Must not use the network: time and frames come from a file or from the ring.
Start reading in `scenario`.
"""
