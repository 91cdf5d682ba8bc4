"""Tracking: what is observed of this machine and others, and what follows from it.

`tracks` is all of them; a module for each kind watches or tries what it is about: `interfaces`,
`processes`, `files`, `scripts`, `pings`, `connections`. Must not know virtual hosts, the engine or
the daemon, nor which virtual hosts name a track. Start reading at `tracks`.
"""
