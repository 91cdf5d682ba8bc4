"""carp-fast: CARP virtual-IP failover, tens of thousands of virtual hosts in one process."""

__version__ = "0.1.0"
