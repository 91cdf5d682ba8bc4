"""The pump: the thread that carries out what the engine decides, compiled, without the GIL.

Holds one turn of receiving, expiring and sending (`_turn`), which is pure and reaches the world by
an environment of functions; the environment of this machine (`_environment`): batches in and out of
packet and raw sockets, address messages over netlink; and the thread with its rings (`_pump`). Must
not decide: that is the engine's. Opens nothing: sockets come from Python.
Start reading in `_turn.pyx`.
"""
