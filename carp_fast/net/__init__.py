"""The host's network: its interfaces, addresses and sockets.

Holds the interfaces, read once (`interfaces`) or followed (`monitor`), the messages that change
addresses, the sockets of the three lanes with their filters, and the groups that interfaces have
joined. Must not know virtual hosts or their states. Start reading in `interfaces`; for what is
received, in `lanes`.
"""
