"""What no engine can have written into a state."""

from libc.stdint cimport uint8_t, uint32_t

from carp_fast.engine._state cimport Part

cdef struct HostSpots:              # in a record of a host, as part_field() finds them
    uint32_t state
    uint32_t reason
    uint32_t lost_reason
    uint32_t pending
    uint32_t master4
    uint32_t master6
    uint32_t retries
    uint32_t losses
    uint32_t vhid
    uint32_t interface
    uint32_t flags

cdef HostSpots host_spots(const Part* part) noexcept
cdef bint host_is_sound(const uint8_t* was, const HostSpots* at) noexcept nogil
cdef str flaw_of_host(const uint8_t* was, const HostSpots* at)
cdef int expect_parts(const Part* parts) except -1
cdef int expect_records(const Part* parts) except -1
