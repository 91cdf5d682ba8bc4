"""The pump: the thread that carries out what the engine decides, compiled, without the GIL.

Holds batches in and out of packet and raw sockets, address messages over netlink, one turn of
receiving, expiring and sending (`_turn`), and the thread with its rings (`_pump`). Must not decide:
that is the engine's. Opens nothing: sockets come from Python, and only their use is here.
Start reading in `_turn.pyx`.
"""
