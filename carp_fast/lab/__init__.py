"""Hosts in network namespaces: the stage for the demo, the tests and the benchmark.

Holds namespaces that have an owner, hosts and segments made of them, what observes the wire and the
addresses there, and the demo. Must not know who is measured: a daemon is a program that is started
in a host. Needs root.
Start reading in `lab`.
"""
