"""A look at the addresses of an interface, a part at a time: which is due, and what follows."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._upkeep cimport Finder

cdef enum Routes:
    ROUTES_NONE                 # no virtual host of the interface has any
    ROUTES_PERIODIC             # if it is cheap
    ROUTES_DUE                  # they may be gone

cdef struct Look:               # at the addresses of an interface, a part at a time
    uint32_t number             # the interface, or NOBODY
    int32_t ifindex
    uint32_t part
    uint32_t parts
    bint asked                  # this part was requested
    uint8_t routes              # also at the local routes; a Routes

cdef bint look_due(Core* core, Look* look, int64_t now_ns) noexcept nogil
cdef void look_taken(Core* core, Look* look, int error, Finder find, void* where,
                     int64_t now_ns) noexcept nogil
