"""When each frame of a flood is due, and how well the sender kept to it."""

from libc.stdint cimport int64_t, uint64_t

from carp_fast.loadtest._frames cimport Recording
from carp_fast.loadtest._histogram cimport Histogram

cdef class Pace:
    cdef readonly bint unpaced      # always due immediately
    cdef double period_ns           # from one frame to the next; 0: immediately
    cdef double rate, rate_end      # of a ramp
    cdef double ramp_ns
    cdef uint64_t burst
    cdef double burst_gap_ns        # from the first frame of a burst to the first of the next
    cdef Recording recorded
    cdef double speed
    cdef uint64_t number            # of the next frame
    cdef double ramp_due_ns(self) noexcept nogil
    cdef int64_t due_ns(self) noexcept nogil
    cdef void advance(self) noexcept nogil

cdef enum:
    LATE_NS = 1000000               # a sender that is later was held up

cdef struct Gaps:                   # between one frame and the next
    Histogram histogram
    int64_t first_at_ns
    int64_t last_at_ns
    int64_t last_due_ns
    uint64_t bursts                 # two frames or more in under half of the planned time
    uint64_t longest_burst
    uint64_t burst                  # frames of the current one
    int64_t latest_ns               # how late the latest frame was
    uint64_t late                   # frames more than LATE_NS late

cdef void gaps_add(Gaps* gaps, int64_t at_ns, int64_t due_ns) noexcept nogil
cdef dict gaps_facts(const Gaps* gaps, bint paced)
