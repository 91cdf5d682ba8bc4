"""Demotions by order, and those of groups: carried out and recorded.

That of a group is recorded for each member like an order, so a replay needs to know nothing of
groups, and may be of some hosts only. Uses no socket and no clock.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core, engine_reschedule, engine_touch
from carp_fast.engine._groups cimport group_demotion, group_join, group_review, next_to_demote
from carp_fast.engine._recorder cimport (
    ORDERED_DEMOTE, RECORD_ORDERED, Record, record_input, recorder_begin)
from carp_fast.engine._transitions cimport engine_event
from carp_fast.engine._vhid cimport (
    BACKUP, BY_GROUP, BY_MAINTENANCE, BY_TRACK, CANNOT_BE_MASTER, CONTESTED, GROUP_DEMOTED, MASTER,
    MOST_DEMOTION, ON_ADDRESS_LOST, ON_MASTER_HEARD, RESIGNED, TRACK_FAILED, vhid_add_up,
    VirtualHost)
from carp_fast.engine._wheel cimport NOBODY

cdef enum:
    VISITS_A_TURN = 4096        # members of groups: about 2 ms, then advertisements that are due


cdef void demote(Core* core, uint32_t slot, uint8_t by, int64_t amount, bint hard,
                 int64_t now_ns) noexcept nogil:
    """Set a host's demotion by one reason. A MASTER resigns when one begins by its group, or a
    `hard` one: by tracks, without which it cannot be MASTER.

    Only then: afterwards the demotion alone decides. Two hosts that can hold different members of a
    group would otherwise take over and resign again and again; so would one that hears no other.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Record* record
    cdef uint8_t why = 0
    if by == BY_GROUP and amount and not host.ordered[by]:
        why = GROUP_DEMOTED
    elif hard and not host.flags & CANNOT_BE_MASTER:
        why = TRACK_FAILED
    if core.recorder.records != NULL:
        engine_touch(core, slot, now_ns)
        record = record_input(&core.recorder, RECORD_ORDERED, slot, host.interface, now_ns)
        record.detail, record.reason, record.state = ORDERED_DEMOTE, by, hard
        record.value = <uint64_t>amount
    host.ordered[by] = <uint8_t>min(amount, MOST_DEMOTION)
    vhid_add_up(host)
    if by == BY_MAINTENANCE and amount and host.state == BACKUP and host.flags & CONTESTED:
        engine_event(core, slot, ON_MASTER_HEARD, 0, now_ns)    # it was about to preempt that one
    if by == BY_TRACK:
        host.flags &= ~<uint32_t>CANNOT_BE_MASTER
        host.flags |= CANNOT_BE_MASTER if hard else 0
        group_review(core, slot, now_ns)
    if why and host.state == MASTER:
        engine_event(core, slot, ON_ADDRESS_LOST, why, now_ns)
    elif host.state == MASTER:
        engine_reschedule(core, slot, now_ns)


cdef void join(Core* core, uint32_t slot, uint16_t group, bint all, int64_t now_ns) noexcept nogil:
    """Make a host a member of a group, 0: of none, with its demotion; see group_join()."""
    if core.hosts[slot].reason == RESIGNED:
        return                          # it has left its group for good
    group_join(core, slot, group, all, now_ns)
    if core.hosts[slot].ordered[<int>BY_GROUP] != group_demotion(core, slot):
        demote(core, slot, BY_GROUP, group_demotion(core, slot), False, now_ns)


cdef void groups_expire(Core* core, int64_t now_ns) noexcept nogil:
    """Demote the members of groups that changed, as many as one turn may; the next one goes on.

    Before engine_expire(), like the orders of a turn: in a replay they are orders.
    """
    cdef uint32_t visits = VISITS_A_TURN, slot
    while core.first_due:
        slot = next_to_demote(core, &visits, now_ns)
        if slot == NOBODY:
            return
        recorder_begin(&core.recorder)
        demote(core, slot, BY_GROUP, group_demotion(core, slot), False, now_ns)
