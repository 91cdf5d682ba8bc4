"""Addresses that are not as they should be: retries, deadlines, results of checks."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._vhid cimport Address, VirtualHost

cdef enum There:                # the result of a check of an address on its interface
    THERE_NONE                  # it does not exist
    THERE_OURS                  # it has our mark
    THERE_FOREIGN               # it does not have our mark
    THERE_SOMEBODYS             # it exists, of unknown origin
    THERE_UNKNOWN               # the check was not possible
    THERE_ROUTE                 # a local route of ours has it
    THERES

# Reports the result of a check of one of a host's addresses.
ctypedef There (*Finder)(void* where, uint32_t slot, uint32_t which) noexcept nogil

cdef bint wants_route(const VirtualHost* host, const Address* address) noexcept nogil
cdef bint routes_of(const Core* core, uint32_t number) noexcept nogil
cdef int wanted_change(const VirtualHost* host, const Address* address) noexcept nogil
cdef void tell_address(Core* core, uint8_t kind, uint32_t slot, uint32_t which, uint64_t value,
                       int64_t now_ns) noexcept nogil
cdef void resign(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void upkeep_done(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void upkeep_expire(Core* core, int64_t now_ns) noexcept nogil
cdef void upkeep_lose(Core* core, uint32_t slot, uint8_t reason, int64_t now_ns) noexcept nogil
cdef bint upkeep_waits(const Core* core) noexcept nogil
cdef bint held_elsewhere(const Core* core, uint32_t slot, uint32_t which) noexcept nogil
cdef void address_found(Core* core, uint32_t slot, uint32_t which, There there,
                        int64_t now_ns) noexcept nogil
cdef uint32_t next_to_verify(Core* core, int64_t now_ns) noexcept nogil
cdef void verify_hosts(Core* core, uint32_t number, Finder find, void* where,
                       int64_t now_ns) noexcept nogil
