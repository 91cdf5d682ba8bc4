"""What the virtual hosts of each interface add up to, and the engine's figures, for Python."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Core, Order
from carp_fast.engine._figures cimport Figures, STATES

cdef enum Problem:              # bits of what is wrong with a virtual host
    PROBLEM_INIT = 1
    PROBLEM_DEMOTED = 2         # but for the link, which INIT tells
    PROBLEM_SECOND_MASTER = 4
    PROBLEM_DUPLICATE = 8       # another host advertises from our source

cdef struct InterfaceTally:
    uint32_t states[STATES]
    uint32_t held
    uint32_t wanted             # addresses that its MASTERs should have
    uint32_t second_masters     # MASTERs that hear another one
    uint8_t needs_source[2]     # one of them has the interface's as source, IPv4, IPv6

cdef struct Tally:              # room that Python makes for one pass over the virtual hosts
    InterfaceTally* interfaces
    uint32_t interface_count
    uint8_t* states             # by slot: a State plus 1; 0: not in use
    uint8_t* problems           # by slot
    uint32_t* transitions       # by slot
    uint8_t* vhids              # by slot
    uint32_t slots
    Figures figures

cdef void tally_ordered(const Core* core, const Order* order, int64_t now_ns) noexcept nogil

cdef class Tallies:
    cdef Tally tally
    cdef object interface(self, uint32_t number)
