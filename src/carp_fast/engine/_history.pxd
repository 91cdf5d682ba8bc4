"""The counters that a virtual host has sent or heard: ranges, and when each was in use."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    HISTORY_NEAR = 64           # counters no further apart belong to one range
    HISTORY_SENT = 4            # ranges of our last advertisements, which have their own times
    HISTORY_LATELY = 5          # ranges of half a span each: more than two spans
    HISTORY_FORMERLY = 3        # older ranges
    HISTORY_LONG_AGO = 0xffffffff       # as an age: longer than two spans, not known how long
    COUNTER_TURN = 0xffffffffffff       # counters on each side of 2^64 between which order goes on

cdef struct Range:              # of consecutive counters
    uint64_t begin
    uint32_t count              # 0: free
    uint32_t at_ms              # when the last of them was in use, modulo 2^32

cdef struct History:
    Range sent[HISTORY_SENT]                # newest first
    Range lately[HISTORY_LATELY]
    Range formerly[HISTORY_FORMERLY]

cdef inline uint32_t history_ms(int64_t at_ns) noexcept nogil:
    """A time in the unit of ranges: ms modulo 2^32."""
    return <uint32_t>(at_ns // 1000000)


cdef inline bint counter_above(uint64_t one, uint64_t other) noexcept nogil:
    """Whether a counter comes after another one; 0 comes after 2^64 - 1."""
    if one > other:
        return other - one > COUNTER_TURN
    return one - other <= COUNTER_TURN and one != other


cdef inline bint history_in(uint64_t counter, uint64_t begin, uint64_t count) noexcept nogil:
    return counter - begin < count


cdef void history_send(History* history, uint64_t begin, uint32_t count, uint32_t at_ms,
                       uint32_t span_ms, uint32_t interval_ms) noexcept nogil
cdef void history_note_late(History* history, uint64_t begin, uint32_t count, int64_t at_ns,
                            int64_t now_ns, uint32_t span_ms) noexcept nogil
cdef bint history_is_ours(const History* history, uint64_t first, uint64_t counter) noexcept nogil
cdef int64_t history_sent_ms(const History* history, uint64_t counter,
                             uint32_t now_ms) noexcept nogil
cdef int64_t history_age_ms(const History* history, uint64_t counter, uint32_t now_ms,
                            uint32_t span_ms) noexcept nogil
