"""The configuration: from TOML files to typed, frozen virtual hosts, all faults in one run.

Holds the loader (`load`), the types (`model`), the rule of each key, ranges and templates,
passphrases, and what two virtual hosts would both have. Must not know this host: whether an
interface exists, the daemon and `check` ask elsewhere.
Start reading in `load`.
"""
