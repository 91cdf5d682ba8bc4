"""The daemon as ucarp's users know it, and the way from their ucarps to one configuration.

Holds ucarp's command line, log lines, scripts and process around the same daemon, and the importer,
which reads ucarp's command lines from shell scripts (`shell_*`) and systemd units (`units`). Must
not know the commands of carp-fast: what runs as ucarp imports neither click nor rich.
Start reading in `main`; for `carp-fast import`, in `importer`.
"""
