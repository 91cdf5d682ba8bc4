"""Faults put on running daemons in namespaces, by name, and oracles that judge from outside.

Holds a switch that impairs, a tape of every advertisement, a record of every address, the oracles
over both, the programs that are compared, and the cases. Start reading in `case` and `world`.
`python -m tests.chaos --help` runs them; test_chaos.py runs the short ones.
"""
