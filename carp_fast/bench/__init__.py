"""The benchmark: carp-fast compared with C ucarp and keepalived, and with the kernel's floor.

Holds the steps of a benchmark, the daemons that take part, what is measured, and its figure. Must
not know the daemon's internals: every contender is a program in a lab, observed from outside. Start
reading in `run`.
"""
