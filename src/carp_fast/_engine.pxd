"""The engine's Python face: virtual hosts prepared from plain values, orders, reports."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast._core cimport Core, Interface, Report
from carp_fast._vhid cimport VirtualHost

cdef class PreparedHost:
    cdef VirtualHost host
    cdef bint given             # the engine owns the block now
    cdef fill_block(self, addresses, free_addresses, retired, bytes destination, bint alternates)
    cdef prepare_key(self, bytes passphrase, addresses)
    cdef VirtualHost* give_away(self) except NULL

cdef class Engine:
    cdef Core core
    cdef give(self, uint8_t kind, uint32_t slot, int64_t value, void* pointer, int64_t now_ns)
    cdef change_addresses(self, uint32_t slot, int64_t now_ns, dict errors, list actions)
    cdef list arp_frames(self, uint32_t slot)
    cdef used(self, uint32_t slot)

cdef object report_tuple(const Report* report)
cdef dict host_dict(const VirtualHost* host)
cdef dict interface_dict(const Interface* interface)
