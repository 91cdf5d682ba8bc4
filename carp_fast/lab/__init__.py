"""Hosts in network namespaces, for the demo, the tests and the benchmark.

Holds namespaces with an owner, hosts and segments built of them, observers of the wire and of the
addresses, and the demo. Must not know which daemon is measured: a daemon is a program that is
started in a host. Needs root. Start reading in `lab`.
"""
