"""The configuration: TOML files become typed, frozen virtual hosts; all faults are reported.

Holds the loader (`load`), the types (`model`), the rule of each key, ranges and templates,
passphrases, and the search for identities and addresses used twice. Must not know this machine:
the daemon and `check` find out elsewhere whether an interface exists.
Start reading in `load`.
"""
