"""The privileged helper: a small process that stays root beside the daemon.

It has the configuration read by a short-lived loader, and starts programs by their numbers in what
that loader found, and a successor of the daemon by the daemon's first command line, never by a path
that the daemon names. Opens no network socket. Must not know CARP, the engine or what the daemon
does. Start reading at `messages`, then `server`.
"""
