"""promote_secondaries of an interface, set over netlink before an IPv4 address is removed."""

from libc.stdint cimport int32_t

from carp_fast.pump._netlink cimport Netlink

cdef void keep_secondaries(Netlink* netlink, int32_t ifindex) noexcept nogil
