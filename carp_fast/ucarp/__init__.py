"""The daemon with ucarp's command line, and the import of ucarp set-ups into one configuration.

Holds ucarp's command line, log lines, scripts and process around the same daemon, and the importer,
which reads ucarp's command lines from shell scripts (`shell_*`) and systemd units (`units`). Must
not know the commands of carp-fast: what runs as ucarp imports neither click nor rich. Start reading
in `main`; for `carp-fast import`, in `importer`.
"""
