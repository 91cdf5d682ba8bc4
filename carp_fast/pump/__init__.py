"""The pump: the thread that carries out the engine's decisions, compiled, without the GIL.

Holds one turn of receiving, expiring and sending (`_turn`), which is pure and calls the functions
of an environment for all else; the environment of this machine (`_environment`): batches of packet
and raw sockets, address messages over netlink; and the thread with its rings (`_pump`). Must not
decide, which is the engine's task. Opens nothing: sockets come from Python.
Start reading in `_turn.pyx`.
"""
