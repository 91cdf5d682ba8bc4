"""A pump that is frozen: its state is whole, and it neither sends nor reads.

Python asks for it and waits, since nothing else is to be done meanwhile. The pump then drains what
the kernel was asked for, finishes its turn and waits for Python alone; frames wait in the sockets.
The state then goes to another process, or the pump resumes as after an absence.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from carp_fast.engine._placing cimport pumped_get, state_place
from carp_fast.engine._state cimport state_write
from carp_fast.engine._tables cimport Pumped, RECEIVERS, ReceiverState, WORD_ROOM
from carp_fast.pump._drain cimport turn_assume, turn_export, turn_is_drained, turn_put_back
from carp_fast.pump._environment cimport (
    FREEZE_ASKED, FREEZE_DONE, FREEZE_NOT, count_refusals, map_interfaces,
    orders_wait, run_due)
from carp_fast.pump._requests cimport requests_work_off

from carp_fast.engine._lanes import LANE_WORDS

cdef extern from "atomic.h" nogil:
    uint32_t load_acquire_32(const uint32_t* p) noexcept
    int compare_exchange_32(uint32_t* p, uint32_t before, uint32_t x) noexcept

cdef extern from "system.h" nogil:
    int64_t clock_ns(int clock) noexcept
    int CLOCK_MONOTONIC, POLLIN
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout)
    ssize_t read(int fd, void* data, size_t length)
    ssize_t write(int fd, const void* data, size_t length)

cdef enum:
    STEP_MS = 5                 # at most, until a pump without a thread looks for outcomes again

RECEIVER_WORDS = ("packet", "raw4", "raw6", "ring")
cdef char[4][WORD_ROOM] KINDS       # the same words, as they are in a state
cdef char[3][WORD_ROOM] LANES


cdef int fill_words(char[WORD_ROOM]* room, words) except -1:
    cdef bytes encoded
    for number, word in enumerate(words):
        encoded = word.encode()
        memset(room[<int>number], 0, WORD_ROOM)
        memcpy(room[<int>number], <const char*>encoded, len(encoded))
    return 0


fill_words(KINDS, RECEIVER_WORDS)
fill_words(LANES, LANE_WORDS)


# ------------------------------------------------------------------------------- in the pump

cdef bint freeze_now(PumpState* pump) noexcept nogil:
    """Freeze if that is asked for, and all is drained; otherwise drain, or stop draining."""
    cdef uint64_t one = 1
    pump.turn.draining = load_acquire_32(&pump.freezing) == FREEZE_ASKED
    if not pump.turn.draining or not turn_is_drained(&pump.turn) or orders_wait(pump):
        return False
    turn_put_back(&pump.turn)
    if not compare_exchange_32(&pump.freezing, FREEZE_ASKED, FREEZE_DONE):
        pump.turn.draining = False
        return False
    write(pump.frozen_fd, &one, sizeof(one))
    return True


cdef bint wait_readable(int fd, int timeout_ms) noexcept nogil:
    """Wait until an eventfd is readable, and read it; False: it was not in time."""
    cdef pollfd waited
    cdef uint64_t value
    waited.fd, waited.events, waited.revents = fd, POLLIN, 0
    while poll(&waited, 1, timeout_ms) < 0 and errno == EINTR:
        pass
    return read(fd, &value, sizeof(value)) == sizeof(value)


cdef void stay_frozen(PumpState* pump) noexcept nogil:
    """Wait until Python resumes the pump, or stops it."""
    while load_acquire_32(&pump.freezing) == FREEZE_DONE and not pump.stopping:
        wait_readable(pump.order_fd, -1)
    pump.turn.draining = False


# --------------------------------------------------------------------------------- for Python

cdef str what_hangs(const PumpState* pump):
    """What a pump that is not drained waits for."""
    hanging = []
    if pump.turn.asked:
        hanging.append(f"{pump.turn.asked} changes of addresses have no outcome")
    if pump.turn.looking.asked:
        hanging.append("a look at the addresses of an interface has none")
    if orders_wait(pump):
        hanging.append("orders wait")
    return ", ".join(hanging) or "a turn is not over"


cdef void wake(PumpState* pump) noexcept nogil:
    cdef uint64_t one = 1
    write(pump.order_fd, &one, sizeof(one))


cdef void drain_here(PumpState* pump, int64_t until_ns) noexcept nogil:
    """Run turns of a pump without a thread until it is drained, or the time is over."""
    while True:
        run_due(pump)
        if freeze_now(pump) or clock_ns(CLOCK_MONOTONIC) >= until_ns:
            return
        if pump.requests.running:
            wait_readable(pump.order_fd, STEP_MS)
        else:
            requests_work_off(&pump.requests)


cdef int freeze(PumpState* pump, bint running, double timeout_s) except -1:
    """Let the pump freeze, and wait until it is. Raises TimeoutError, and then it goes on."""
    if pump.freezing != FREEZE_NOT:
        raise RuntimeError("the pump is frozen already")
    wait_readable(pump.frozen_fd, 0)            # of a pump that was frozen as the time was over
    compare_exchange_32(&pump.freezing, FREEZE_NOT, FREEZE_ASKED)
    with nogil:
        if running:
            wake(pump)
            wait_readable(pump.frozen_fd, <int>(timeout_s * 1000))
        else:
            drain_here(pump, clock_ns(CLOCK_MONOTONIC) + <int64_t>(timeout_s * 1e9))
            wait_readable(pump.frozen_fd, 0)
    if compare_exchange_32(&pump.freezing, FREEZE_ASKED, FREEZE_NOT):
        hanging = what_hangs(pump)
        if running:
            wake(pump)
        else:
            pump.turn.draining = False
        raise TimeoutError(f"the pump is not drained after {timeout_s:g} s: {hanging}")
    return 0


cdef int resume(PumpState* pump, bint running) except -1:
    """Let a frozen pump go on, as after an absence: frames that wait are read first."""
    if not compare_exchange_32(&pump.freezing, FREEZE_DONE, FREEZE_NOT):
        raise RuntimeError("the pump is not frozen")
    if running:
        wake(pump)
    else:
        pump.turn.draining = False
        with nogil:
            run_due(pump)
    return 0


cdef void name_receivers(const PumpState* pump, ReceiverState* receivers) noexcept nogil:
    cdef uint32_t i
    for i in range(pump.turn.receiver_count):
        memcpy(receivers[i].kind, KINDS[pump.sockets[i].kind], WORD_ROOM)
        memcpy(receivers[i].lane, LANES[pump.turn.receivers[i].lane], WORD_ROOM)


cdef list marks_of(const PumpState* pump):
    """(kind, lane, heard until when) of each receiver."""
    cdef Pumped pumped
    turn_export(&pump.turn, &pumped)
    return [(RECEIVER_WORDS[pump.sockets[i].kind], LANE_WORDS[pump.turn.receivers[i].lane],
             pumped.receivers[i].heard_until_ns) for i in range(pumped.receiver_count)]


cdef int64_t write_state(PumpState* pump, buffer) except -1:
    """Write the state of a drained pump, with its turn's; how many bytes. See Engine."""
    cdef Pumped pumped
    turn_export(&pump.turn, &pumped)
    name_receivers(pump, pumped.receivers)
    count_refusals(pump, 1)
    try:
        return state_write(pump.turn.core, &pumped, buffer)
    finally:
        count_refusals(pump, -1)


cdef object assume_state(PumpState* pump, State state, slots, interfaces):
    """Let the hosts go on from a state, and the turn from that of its pump: a Placed."""
    cdef ReceiverState here[RECEIVERS]
    cdef Pumped pumped
    pumped_get(state, &pumped)
    placed = state_place(pump.turn.core, state, slots, interfaces, clock_ns(CLOCK_MONOTONIC))
    map_interfaces(pump)
    memset(here, 0, sizeof(here))
    name_receivers(pump, here)
    turn_assume(&pump.turn, &pumped, here)
    wake(pump)                                  # the first turn is due
    return placed
