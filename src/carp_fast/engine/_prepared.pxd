"""A virtual host in the engine's form: its outputs, keys and addresses, from plain values."""

from libc.stdint cimport uint32_t

from carp_fast.engine._auth cimport Passphrase
from carp_fast.engine._vhid cimport VirtualHost

cdef class PreparedHost:
    cdef VirtualHost host
    cdef bint given             # the engine owns the block
    cdef set_sources(self, bytes source, bytes source6)
    cdef list groups(self, addresses, bytes destination, bytes destination6)
    cdef fill_addresses(self, addresses, free_addresses, retired)
    cdef fill_outputs(self, list destinations, bint unicast, bint broadcast)
    cdef fill_keys(self, Passphrase passphrase, list messages)
    cdef VirtualHost* give_away(self) except NULL

cdef uint32_t source_flags(bint missing, bint missing6) noexcept
cdef int expect_bytes(data, tuple lengths, str what) except -1
