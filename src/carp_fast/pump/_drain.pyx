"""The end of a turn after which a state is handed over, and the beginning of one that goes on.

A draining turn goes on as ever, but asks nothing new of the kernel: once every change and look has
its outcome, whatever is under way goes back to its queue, and the state is whole. The successor
continues with the time of the last turn, so it notices the time between as an absence, and with how
far each socket was read. Uses no socket and no clock.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp, memset

from carp_fast.engine._actions cimport announcement_pauses
from carp_fast.engine._core cimport queue_push, verify_soon
from carp_fast.engine._tables cimport WORD_ROOM
from carp_fast.engine._vhid cimport ANNOUNCING, MASTER, TO_CHANGE_ADDRESSES, VirtualHost
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.pump._arrivals cimport heard_until, Receiver
from carp_fast.pump._turn cimport BETWEEN


cdef bint turn_is_drained(const Turn* turn) noexcept nogil:
    """Whether a turn is over, and every change and look that was asked for has its outcome."""
    return turn.phase == BETWEEN and turn.asked == 0 and not turn.looking.asked


cdef void turn_put_back(Turn* turn) noexcept nogil:
    """Put what a drained turn was at back: a host's changes, an announcement, a look."""
    cdef const VirtualHost* host
    if turn.changing.slot != NOBODY:
        host = &turn.core.hosts[turn.changing.slot]
        if host.block != NULL and host.pending & TO_CHANGE_ADDRESSES:
            queue_push(&turn.core.change, turn.changing.slot)
        turn.changing.slot = NOBODY
    if turn.announcing.slot != NOBODY:
        host = &turn.core.hosts[turn.announcing.slot]
        if host.block != NULL and host.state == MASTER and host.flags & ANNOUNCING:
            announcement_pauses(turn.core, turn.announcing.slot,
                                turn.announcing.at if host.block == turn.announcing.block else 0)
        turn.announcing.slot = NOBODY
    if turn.looking.number != NOBODY:
        verify_soon(turn.core, turn.looking.number, turn.begun_ns)
        turn.looking.number = NOBODY


cdef void turn_export(const Turn* turn, Pumped* pumped) noexcept nogil:
    """The turn's part of a state; the caller names the receivers."""
    cdef uint32_t i
    memset(pumped, 0, sizeof(Pumped))
    pumped.turn.begun_ns, pumped.turn.suspended_ns = turn.begun_ns, turn.suspended_ns
    pumped.turn.latest_ns, pumped.turn.turns = turn.latest_ns, turn.turns
    pumped.turn.frames, pumped.turn.dropped = turn.frames, turn.dropped
    pumped.turn.unproven = turn.unproven
    pumped.receiver_count = turn.receiver_count
    for i in range(turn.receiver_count):
        pumped.receivers[i].heard_until_ns = heard_until(&turn.receivers[i])


cdef int64_t mark_of(const Pumped* pumped, const ReceiverState* here) noexcept nogil:
    """How far the former pump had read what this receiver reads.

    If it had no such receiver, the least of all: a frame that it did hear is refused as a replay,
    and one that it did not is not lost.
    """
    cdef const ReceiverState* former
    cdef int64_t least_ns = pumped.receivers[0].heard_until_ns
    cdef uint32_t i
    for i in range(pumped.receiver_count):
        former = &pumped.receivers[i]
        if memcmp(former.kind, here.kind, WORD_ROOM) == 0 and (
                memcmp(former.lane, here.lane, WORD_ROOM) == 0):
            return former.heard_until_ns
        least_ns = min(least_ns, former.heard_until_ns)
    return least_ns


cdef void turn_assume(Turn* turn, const Pumped* pumped, const ReceiverState* here) noexcept nogil:
    """Go on from the turn of a former pump, before the first one of this; `here`: our receivers."""
    cdef Receiver* receiver
    cdef uint32_t i
    turn.begun_ns, turn.suspended_ns = pumped.turn.begun_ns, pumped.turn.suspended_ns
    turn.latest_ns, turn.turns = pumped.turn.latest_ns, pumped.turn.turns
    turn.frames, turn.dropped = pumped.turn.frames, pumped.turn.dropped
    turn.unproven = pumped.turn.unproven
    for i in range(turn.receiver_count if pumped.receiver_count else 0):
        receiver = &turn.receivers[i]
        receiver.discard_until_ns = mark_of(pumped, &here[i])
        receiver.heard_until_ns = receiver.discard_until_ns
