"""Histograms of durations with fixed bounds: adding one is a search in a short row.

Allocates nothing; the memory of the figures is the engine's. Knows numbers only.
"""

from libc.stdint cimport int64_t, uint32_t

cdef int64_t[BOUNDS] LATENESS_NS = [
    100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 25000000, 50000000, 100000000,
    250000000, 500000000, 1000000000, 2500000000]
# Close together around three seconds, where a take-over with the usual interval and ratio ends.
cdef int64_t[BOUNDS] TAKEOVER_NS = [
    10000000, 50000000, 100000000, 250000000, 500000000, 1000000000, 2000000000, 3000000000,
    3250000000, 3500000000, 4000000000, 5000000000, 10000000000, 30000000000]


cdef void add(Durations* durations, const int64_t* bounds, int64_t ns) noexcept nogil:
    cdef uint32_t i = 0
    while i < BOUNDS and ns > bounds[i]:
        i += 1
    durations.counts[i] += 1
    durations.sum_ns += <uint64_t>max(ns, 0)


cdef void note_lateness(Figures* figures, int64_t ns) noexcept nogil:
    """Count how much later than planned a turn began."""
    add(&figures.lateness, LATENESS_NS, ns)


cdef void note_takeover(Figures* figures, int64_t ns) noexcept nogil:
    """Count how long nothing was heard of a master until its addresses were here."""
    add(&figures.takeover, TAKEOVER_NS, ns)


LATENESS_BOUNDS_NS = tuple([ns for ns in LATENESS_NS])
TAKEOVER_BOUNDS_NS = tuple([ns for ns in TAKEOVER_NS])
