"""The engine: the CARP state machines of tens of thousands of virtual hosts, compiled.

Holds frames, digests, timers, the state machine, and the recorder of inputs and decisions. Must
not know a socket, clock, file or packet in Python: frames and the time are arguments, and actions
are results, so that the same code runs in the pump, in tests and in simulated time.
Start reading in `_vhid.pyx` (one virtual host), then `_core.pyx`; `_engine` is the Python API.
"""
