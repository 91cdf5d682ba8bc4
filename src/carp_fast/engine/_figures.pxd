"""Figures that only grow, which no report and no virtual host keeps: transitions, durations."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from carp_fast.engine._vhid cimport REASONS

cdef enum:
    BOUNDS = 14                     # of a histogram; longer durations are counted beyond the last
    STATES = 3

cdef struct Durations:
    uint64_t counts[BOUNDS + 1]     # by the first bound that is not exceeded
    uint64_t sum_ns

cdef struct InterfaceFigures:       # of its virtual hosts, also of those that have left
    uint64_t transitions[STATES][REASONS]       # by the new state
    uint64_t addresses_restored
    uint64_t duplicates
    uint64_t counter_resets
    uint64_t family_silences

cdef struct Figures:
    InterfaceFigures* interfaces
    Durations lateness              # of turns, since they were due
    # From the last advertisement heard of the master before to the outcome of the addresses.
    Durations takeover

cdef void note_lateness(Figures* figures, int64_t ns) noexcept nogil
cdef void note_takeover(Figures* figures, int64_t ns) noexcept nogil
