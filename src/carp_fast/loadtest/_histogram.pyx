"""A histogram of durations: counts by size, to within 3 %, and the exact largest.

Buckets as in HdrHistogram: each power of two is divided into SHARES equal parts, so the relative
error is the same for a microsecond and a second, and adding is an increment. Knows numbers only.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from *:
    int __builtin_clzll(unsigned long long x) noexcept nogil


cdef inline uint32_t bucket_of(uint64_t ns) noexcept nogil:
    """Up to 2 x SHARES every value has its own bucket; above that, SHARES per power of two."""
    cdef uint32_t shift
    if ns < 2 * SHARES:
        return <uint32_t>ns
    shift = 63 - __builtin_clzll(ns) - 5            # leaves SHARES to 2 x SHARES - 1
    return shift * SHARES + <uint32_t>(ns >> shift)


cdef inline int64_t top_of(uint32_t bucket) noexcept nogil:
    """The largest value of a bucket."""
    cdef uint32_t shift
    if bucket < 2 * SHARES:
        return bucket
    shift = bucket // SHARES - 1
    return <int64_t>(((<uint64_t>(bucket - shift * SHARES) + 1) << shift) - 1)


cdef void histogram_add(Histogram* histogram, int64_t ns) noexcept nogil:
    """Count one duration; one below 0 counts as 0."""
    if ns < 0:
        ns = 0
    histogram.counts[bucket_of(<uint64_t>ns)] += 1
    histogram.total += 1
    if ns > histogram.max_ns:
        histogram.max_ns = ns


cdef int64_t histogram_percentile(const Histogram* histogram, double share) noexcept nogil:
    """The value that `share` (0 to 1) of the durations do not exceed, rounded up; 0 of none."""
    cdef uint64_t wanted = <uint64_t>(share * <double>histogram.total)
    cdef uint64_t seen = 0
    cdef uint32_t bucket
    if <double>wanted < share * <double>histogram.total:
        wanted += 1
    for bucket in range(BUCKETS):
        seen += histogram.counts[bucket]
        if seen and seen >= wanted:
            return min(top_of(bucket), histogram.max_ns)
    return 0


cdef class Durations:
    """The histogram, for tests and tools; times in ns."""

    cdef Histogram histogram

    def __cinit__(self):
        memset(&self.histogram, 0, sizeof(Histogram))

    def add(self, int64_t ns) -> None:
        """Count one duration; one below 0 counts as 0."""
        histogram_add(&self.histogram, ns)

    def percentile(self, double share) -> int:
        """The value that `share` of the durations do not exceed, to within 3 %; 0 of none."""
        return histogram_percentile(&self.histogram, share)

    def __len__(self) -> int:
        return <int>self.histogram.total
