"""Tracking: what this machine and others are asked about, and what is made of the answers.

`tracks` is all of them; a module for each kind watches or tries what it is about: `interfaces`,
`processes`, `files`, `scripts`, `pings`, `connections`. Must not know virtual hosts, the engine or
the daemon: who uses a track, and what follows for that, is not decided here. Start reading at
`tracks`.
"""
