"""The engine: CARP decided for tens of thousands of virtual hosts, compiled.

Holds frames, digests, timers, the state machine, and the recorder of what came in and was decided.
Must not know a socket, clock, file or packet in Python: frames and the time come in as arguments,
actions go out, so that the same code runs in the pump, in tests and in simulated time.
Start reading in `_vhid.pyx` (one virtual host), then `_core.pyx`; `_engine` is the Python face.
"""
