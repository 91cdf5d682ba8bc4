"""When each frame of a flood is due, and how well the sender kept to it.

Times are ns from the first frame. Knows no clock: the sender asks when frames are due, and reports
when it sent them.
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from carp_fast.loadtest._frames cimport Recording
from carp_fast.loadtest._histogram cimport histogram_add, histogram_percentile

RATE_MAX = 1e9
"""Frames a second: one each ns."""


cdef class Pace:
    """A schedule of frames, given by one of these:

    nothing: as fast as possible; `rate`: frames a second, evenly; with `rate_end`: the rate changes
    evenly to that within `ramp_s`, and stays; `burst`: so many frames together (with `rate`: at
    that rate) every `burst_gap_s`; `recorded`: as recorded, `speed` times as fast. Raises
    ValueError.
    """

    def __init__(self, rate=None, *, rate_end=None, double ramp_s=0, uint64_t burst=0,
                 double burst_gap_s=0, Recording recorded=None, double speed=1):
        for value in (rate, rate_end):
            if value is not None and not 0 < value <= RATE_MAX:
                raise ValueError(f"a rate of {value:g} frames/s: above 0, at most {RATE_MAX:,.0f}")
        if rate_end is not None and (rate is None or not ramp_s > 0 or burst):
            raise ValueError("a ramp needs a rate, an end and a time, but no bursts")
        if (burst > 0) != (burst_gap_s > 0):
            raise ValueError("bursts need a size and a gap, both above 0")
        if burst and rate and burst / rate > burst_gap_s:
            raise ValueError(f"a burst of {burst:,} frames at {rate:,.0f} frames/s takes longer "
                             f"than the {burst_gap_s:g} s to the next one")
        if recorded is not None and (rate is not None or burst or not 0 < speed < 1e9):
            raise ValueError("a recorded pace needs a speed above 0, but no rate or bursts")
        self.unpaced = rate is None and not burst and recorded is None
        self.rate, self.rate_end = rate or 0.0, rate_end or 0.0
        self.period_ns = 1e9 / rate if rate else 0.0
        self.ramp_ns, self.burst_gap_ns = ramp_s * 1e9, burst_gap_s * 1e9
        self.burst, self.recorded, self.speed = burst, recorded, speed

    cdef int64_t due_ns(self) noexcept nogil:
        """When the next frame is due."""
        if self.unpaced:
            return 0
        if self.burst:
            return <int64_t>(<double>(self.number // self.burst) * self.burst_gap_ns
                             + <double>(self.number % self.burst) * self.period_ns)
        if self.recorded is not None:
            return <int64_t>(<double>self.recorded.due_ns(self.number) / self.speed)
        if self.rate_end:
            return <int64_t>self.ramp_due_ns()
        return <int64_t>(<double>self.number * self.period_ns)

    cdef double ramp_due_ns(self) noexcept nogil:
        """When so many frames have become due as precede the next one: the rate is integrated."""
        cdef double number = <double>self.number, ramp_s = self.ramp_ns / 1e9
        cdef double within = (self.rate + self.rate_end) / 2 * ramp_s
        if number >= within:
            return self.ramp_ns + (number - within) / self.rate_end * 1e9
        # The solution of rate * t + (rate_end - rate) / (2 * ramp_s) * t * t = number.
        return 2e9 * number / (self.rate + sqrt(
            self.rate * self.rate + 2 * (self.rate_end - self.rate) / ramp_s * number))

    cdef void advance(self) noexcept nogil:
        self.number += 1

    def take(self) -> int:
        """When the next frame is due, ns; advances to the one after it."""
        due_ns = self.due_ns()
        self.advance()
        return due_ns


cdef void gaps_add(Gaps* gaps, int64_t at_ns, int64_t due_ns) noexcept nogil:
    """Add a frame sent at `at_ns` and due at `due_ns`, of one clock; the first has no gap."""
    cdef int64_t gap_ns = at_ns - gaps.last_at_ns, asked_ns = due_ns - gaps.last_due_ns
    if gaps.last_at_ns:
        histogram_add(&gaps.histogram, gap_ns)
        if 2 * gap_ns < asked_ns:
            gaps.bursts += gaps.burst == 0
            gaps.burst = max(gaps.burst, 1) + 1
            gaps.longest_burst = max(gaps.longest_burst, gaps.burst)
        else:
            gaps.burst = 0
    else:
        gaps.first_at_ns = at_ns
    gaps.late += at_ns - due_ns > LATE_NS
    gaps.latest_ns = max(gaps.latest_ns, at_ns - due_ns)
    gaps.last_at_ns, gaps.last_due_ns = at_ns, due_ns


def judge_gaps(instants) -> dict:
    """The gaps of `Flood.facts`, for tests: instants are [(sent at, due at)], ns, above 0."""
    cdef Gaps gaps
    memset(&gaps, 0, sizeof(Gaps))
    for at_ns, due_ns in instants:
        gaps_add(&gaps, at_ns, due_ns)
    return gaps_facts(&gaps, True)


cdef dict gaps_facts(const Gaps* gaps, bint paced):
    """p50_ns, p99_ns, max_ns of the gaps, and span_ns from the first frame to the last.

    Of a paced flood also bursts, longest_burst, latest_ns, and late: frames more than LATE_NS late.
    """
    facts = {"p50_ns": histogram_percentile(&gaps.histogram, 0.5),
             "p99_ns": histogram_percentile(&gaps.histogram, 0.99),
             "max_ns": gaps.histogram.max_ns,
             "span_ns": gaps.last_at_ns - gaps.first_at_ns}
    if paced:
        facts.update(bursts=gaps.bursts, longest_burst=gaps.longest_burst,
                     latest_ns=gaps.latest_ns, late=gaps.late)
    return facts
