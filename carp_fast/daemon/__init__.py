"""The daemon: opens sockets, interfaces and the pump, connects all parts, and ends them in order.

Holds how its process begins (`run`), the composition root (`opened`), the phases of its life
(`daemon`), orders to the pump and its reports, hooks, reload, status and explain, messages to
service managers, and what `check` reports of a configuration. Must not know the commands, nor
ucarp's manner. Python here never touches a packet. Start reading in `run`, then `daemon`.
"""
