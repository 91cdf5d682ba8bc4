"""The benchmark: carp-fast compared with C ucarp and keepalived, and with the kernel's floor.

Holds the run of a benchmark, the daemons that take part, what is measured, and the figure of it.
Must not know the daemon from inside: every contender is a program in a lab, seen from outside.
Start reading in `run`.
"""
