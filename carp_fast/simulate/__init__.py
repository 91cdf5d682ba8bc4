"""Simulates hosts on a virtual network in virtual time: each seed gives a world.

Holds the worlds (`world`) and how they are drawn from seeds (`seeds`, `worlds`, `episodes`), the
run of a world and its trace (`run`), and the compiled network, turns, rules and invariants. CARP's
rules are written here a second time and must not be taken from the engine, which they judge. Must
not know sockets, clocks or files.
Start reading in `run`.
"""
