"""A hashed timer wheel: intrusive, integer ticks, stable order.

Timers are numbers below a capacity, ticks are integers that only grow; the caller defines the
meaning of a tick. Arm, disarm and pop are constant-time; memory is reserved once. Timers of one
tick are popped in the order in which they were armed. Knows no virtual host and no clock.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

cdef extern from *:
    int __builtin_ctzll(unsigned long long) noexcept nogil


cpdef uint64_t power_of_two(uint64_t least) noexcept nogil:
    """The lowest power of two that is not below `least`: the size of rings and tables."""
    cdef uint64_t size = 1
    while size < least:
        size <<= 1
    return size


cdef int wheel_open(Wheel* wheel, uint32_t capacity) except -1:
    """Reserve room for timers 0 to capacity - 1. Raises MemoryError."""
    memset(wheel, 0, sizeof(Wheel))
    wheel.capacity = capacity
    wheel.cursor = NOBODY
    wheel.first = <uint32_t*>malloc(WHEEL_SLOTS * sizeof(uint32_t))
    wheel.last = <uint32_t*>malloc(WHEEL_SLOTS * sizeof(uint32_t))
    wheel.occupied = <uint64_t*>calloc(WHEEL_SLOTS // 64, sizeof(uint64_t))
    # calloc leaves pages of timers that are never armed untouched: `at` is stored as tick + 1.
    wheel.next = <uint32_t*>calloc(capacity, sizeof(uint32_t))
    wheel.previous = <uint32_t*>calloc(capacity, sizeof(uint32_t))
    wheel.at = <int64_t*>calloc(capacity, sizeof(int64_t))
    if (wheel.first == NULL or wheel.last == NULL or wheel.occupied == NULL
            or wheel.next == NULL or wheel.previous == NULL or wheel.at == NULL):
        wheel_close(wheel)
        raise MemoryError("timer wheel")
    memset(wheel.first, 0xff, WHEEL_SLOTS * sizeof(uint32_t))
    memset(wheel.last, 0xff, WHEEL_SLOTS * sizeof(uint32_t))
    return 0


cdef void wheel_close(Wheel* wheel) noexcept:
    free(wheel.first)
    free(wheel.last)
    free(wheel.occupied)
    free(wheel.next)
    free(wheel.previous)
    free(wheel.at)
    memset(wheel, 0, sizeof(Wheel))


cdef void wheel_arm(Wheel* wheel, uint32_t timer, int64_t tick) noexcept nogil:
    """Arm `timer` for `tick`, or move it there; a tick that has passed becomes the next one."""
    cdef uint32_t slot, tail
    wheel_disarm(wheel, timer)
    if tick <= wheel.tick:
        tick = wheel.tick + 1
    slot = tick & (WHEEL_SLOTS - 1)
    tail = wheel.last[slot]
    wheel.at[timer] = tick + 1
    wheel.next[timer] = NOBODY
    wheel.previous[timer] = tail
    wheel.last[slot] = timer
    if tail == NOBODY:
        wheel.first[slot] = timer
        wheel.occupied[slot >> 6] |= <uint64_t>1 << (slot & 63)
    else:
        wheel.next[tail] = timer
    wheel.armed += 1


cdef void wheel_disarm(Wheel* wheel, uint32_t timer) noexcept nogil:
    """Disarm `timer`; nothing happens when it is not armed."""
    cdef uint32_t slot, before, after
    if wheel.at[timer] == 0:
        return
    slot = (wheel.at[timer] - 1) & (WHEEL_SLOTS - 1)
    before, after = wheel.previous[timer], wheel.next[timer]
    if wheel.cursor == timer:
        wheel.cursor = after
    if before == NOBODY:
        wheel.first[slot] = after
    else:
        wheel.next[before] = after
    if after == NOBODY:
        wheel.last[slot] = before
    else:
        wheel.previous[after] = before
    if wheel.first[slot] == NOBODY:
        wheel.occupied[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
    wheel.at[timer] = 0
    wheel.armed -= 1


cdef inline int64_t next_occupied(const Wheel* wheel, int64_t tick) noexcept nogil:
    """The first tick from `tick` on, within one revolution, whose slot is occupied, or -1."""
    cdef int64_t end = tick + WHEEL_SLOTS
    cdef uint64_t word
    cdef uint32_t slot
    while tick < end:
        slot = tick & (WHEEL_SLOTS - 1)
        word = wheel.occupied[slot >> 6] >> (slot & 63)
        if word:
            tick += __builtin_ctzll(word)
            return tick if tick < end else -1
        tick += 64 - (slot & 63)
    return -1


cdef uint32_t wheel_pop(Wheel* wheel, int64_t tick) noexcept nogil:
    """Disarm and return the next timer due at or before `tick`, or NOBODY when none is left.

    Timers may be armed and disarmed between two calls. One that is armed for the tick being popped
    waits for the next tick.
    """
    cdef uint32_t timer
    cdef int64_t found
    while True:
        while wheel.cursor != NOBODY:
            timer = wheel.cursor
            if wheel.at[timer] - 1 <= wheel.tick:
                wheel_disarm(wheel, timer)          # moves the cursor on
                return timer
            wheel.cursor = wheel.next[timer]        # due in a later revolution
        if wheel.tick >= tick:
            return NOBODY
        found = next_occupied(wheel, wheel.tick + 1) if wheel.armed else -1
        if found < 0 or found > tick:
            wheel.tick = tick
            return NOBODY
        wheel.tick = found
        wheel.cursor = wheel.first[found & (WHEEL_SLOTS - 1)]


cdef int64_t wheel_next(const Wheel* wheel) noexcept nogil:
    """A lower bound of the earliest armed tick, at most a revolution away; -1 when none is armed.

    It is exact for timers of the current revolution; a later one may cost an extra wake-up.
    """
    if not wheel.armed:
        return -1
    if wheel.cursor != NOBODY:
        return wheel.tick                               # this tick's timers are being popped
    return next_occupied(wheel, wheel.tick + 1)


cdef void wheel_skip(Wheel* wheel, int64_t tick) noexcept nogil:
    """Move an empty wheel forward to `tick`: no timer is armed in between."""
    if not wheel.armed and wheel.tick < tick:
        wheel.tick = tick


cdef class TimerWheel:
    """The wheel for tests and benchmarks. The engine embeds the C struct."""
    cdef Wheel wheel

    def __cinit__(self, uint32_t capacity):
        wheel_open(&self.wheel, capacity)

    def __dealloc__(self):
        wheel_close(&self.wheel)

    def arm(self, uint32_t timer, int64_t tick) -> None:
        """Arm or move `timer`."""
        if timer >= self.wheel.capacity:
            raise IndexError(f"timer {timer} of {self.wheel.capacity}")
        wheel_arm(&self.wheel, timer, tick)

    def disarm(self, uint32_t timer) -> None:
        """Disarm `timer` if it is armed."""
        if timer >= self.wheel.capacity:
            raise IndexError(f"timer {timer} of {self.wheel.capacity}")
        wheel_disarm(&self.wheel, timer)

    def pop(self, int64_t tick):
        """The next timer due at or before `tick`, disarmed, or None."""
        cdef uint32_t timer = wheel_pop(&self.wheel, tick)
        return None if timer == NOBODY else timer

    def next(self):
        """A lower bound of the earliest armed tick, or None."""
        cdef int64_t tick = wheel_next(&self.wheel)
        return None if tick < 0 else tick

    def __len__(self) -> int:
        return self.wheel.armed

    def spin(self, int64_t rounds) -> None:
        """Arm every timer again `rounds` times in turn: the benchmark's inner loop."""
        cdef int64_t i
        cdef uint32_t timer
        with nogil:
            for i in range(rounds):
                for timer in range(self.wheel.capacity):
                    wheel_arm(&self.wheel, timer, self.wheel.tick + 1 + (timer + i) % 4000)
