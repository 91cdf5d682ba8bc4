"""The host's network: interfaces, addresses and sockets, as the kernel has them.

Holds interfaces as they are and as they change (`monitor`), messages that change addresses, the
sockets of the three lanes with their filters, and the groups that interfaces have joined. Must not
know virtual hosts or their states.
Start reading in `interfaces`; for what is received, in `lanes`.
"""
