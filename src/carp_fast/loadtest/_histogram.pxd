"""A histogram of durations: counts by size, to within 3 %, and the exact largest."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    SHARES = 32                     # buckets between a power of two and the next
    BUCKETS = 60 * SHARES           # up to 2^63 ns

cdef struct Histogram:
    uint64_t counts[BUCKETS]
    uint64_t total
    int64_t max_ns

cdef void histogram_add(Histogram* histogram, int64_t ns) noexcept nogil
cdef int64_t histogram_percentile(const Histogram* histogram, double share) noexcept nogil
