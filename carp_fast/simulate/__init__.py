"""Simulated worlds: hosts on a virtual network in virtual time, by seed.

Holds what a seed decides (`world`, `worlds`), the run of a world and its trace (`run`), and the
compiled network, turns, rules and invariants. CARP's rules are written here a second time and must
not be taken from the engine, which they judge. Knows no socket, clock or file.
Start reading in `run`.
"""
