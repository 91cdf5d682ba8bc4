"""The daemon: the pump's sockets, interfaces and virtual hosts, wired together, and ended in order.

Holds the composition root (`daemon`), what the pump is ordered and what it reports, hooks, reload,
status and explain, what service managers hear, and what `check` tells of a configuration. Must not
know the commands, nor ucarp's manners. Python here never touches a packet.
Start reading in `daemon`.
"""
