"""A hashed timer wheel: intrusive, integer ticks, stable order."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    WHEEL_SLOTS = 4096              # one revolution: 4.096 s with ticks of 1 ms

cdef enum:
    NOBODY = 0xffffffff

cdef struct Wheel:
    int64_t tick                    # all timers up to here have been popped
    uint32_t cursor                 # next entry of the slot being popped, or NOBODY
    uint32_t capacity
    uint32_t armed                  # how many timers are armed
    uint32_t* first                 # per slot
    uint32_t* last
    uint64_t* occupied              # a bit per slot
    uint32_t* next                  # per timer
    uint32_t* previous
    int64_t* at                     # per timer: its tick + 1, or 0

cpdef uint64_t power_of_two(uint64_t least) noexcept nogil
cdef int wheel_open(Wheel* wheel, uint32_t capacity) except -1
cdef void wheel_close(Wheel* wheel) noexcept
cdef void wheel_arm(Wheel* wheel, uint32_t timer, int64_t tick) noexcept nogil
cdef void wheel_disarm(Wheel* wheel, uint32_t timer) noexcept nogil
cdef uint32_t wheel_pop(Wheel* wheel, int64_t tick) noexcept nogil
cdef int64_t wheel_next(const Wheel* wheel) noexcept nogil
cdef void wheel_skip(Wheel* wheel, int64_t tick) noexcept nogil
