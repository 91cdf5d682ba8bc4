"""A histogram with fixed bounds for what the loop measures; the pump has its own.

Knows numbers only.
"""

from __future__ import annotations

from bisect import bisect_left

# Of programs and checks: from what answers at once to what reaches a timeout.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """Counts durations by the first of BOUNDS_S that they do not exceed; the last count is of
    those above all.
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration; one below 0 counts as 0."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += max(seconds, 0.0)

    def copy(self) -> Histogram:
        """One that does not change any more."""
        copied = Histogram()
        copied.counts, copied.sum_s = list(self.counts), self.sum_s
        return copied
