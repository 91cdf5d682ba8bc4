"""A virtual host that continues from the recorded state of another. Uses no socket and no clock."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from carp_fast.engine._absence cimport absence_note
from carp_fast.engine._core cimport (
    Core, engine_ask, engine_plan_upkeep, engine_set_deadline)
from carp_fast.engine._groups cimport group_review
from carp_fast.engine._recorder cimport Checkpoint, ROUTED
from carp_fast.engine._upkeep cimport wants_route
from carp_fast.engine._vhid cimport (
    Address, FAILED, FOREIGN, HELD, IN_USE, LOST, LOST_WITH_OURS, SOURCES, TO_ADVERTISE,
    TO_ADVERTISE_LAST, TO_ANNOUNCE, TO_CHANGE_ADDRESSES, TO_REPEAT, TO_RESIGN, TO_TELL_ADDRESSES,
    vhid_add_up, vhid_source, VirtualHost)
from carp_fast.engine._wheel cimport wheel_disarm


cdef void assume(Core* core, uint32_t slot, const Checkpoint* was, int64_t now_ns) noexcept nogil:
    """Let a host that was just added continue from the state of another with its configuration.

    All its addresses count as held if any was, see assume_address. Nothing is reported.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t i
    cdef uint8_t queued = was.pending & (TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN)
    host.flags = IN_USE | was.flags
    host.state, host.reason = was.state, was.reason
    memcpy(host.ordered, was.ordered, sizeof(was.ordered))
    vhid_add_up(host)
    memcpy(host.master, was.master, 2)
    for i in range(SOURCES):
        vhid_source(host, i)[0] = was.sources[i]
    host.failed_sends, host.good_sends = was.failed_sends, was.good_sends
    host.repeat_in, host.announce_left = was.repeat_in, was.announce_left
    host.counter, host.since_ns = was.counter, was.since_ns
    host.preempt_from_ns, host.answered_ns = was.preempt_from_ns, was.answered_ns
    host.heard_ns[0], host.heard_ns[1] = was.heard_ns[0], was.heard_ns[1]
    host.announce_at_ns = was.announce_at_ns
    host.tie_since_ns, host.judged_ns = was.tie_since_ns, was.judged_ns
    host.history, host.duplicate_ms = was.history, was.duplicate_ms
    host.first_sent = was.first_sent
    memcpy(host.stranger, was.stranger, sizeof(was.stranger))
    memcpy(host.stranger_ms, was.stranger_ms, sizeof(was.stranger_ms))
    memcpy(host.duplicate_mac, was.duplicate_mac, 6)
    host.jitter_us = <uint32_t>(was.jitter_ns // 1000)
    host.ties, host.settled_ns = was.ties, was.settled_ns
    for i in range(was.absence_count):
        absence_note(&core.absences, &was.absences[i])
    host.retry_at_ns, host.without_ns = was.retry_at_ns, was.without_ns
    host.demoted_until_ns, host.retries = was.demoted_until_ns, was.retries
    host.leaving_ns = was.leaving_ns
    host.losses, host.lost_reason = was.losses, was.lost_reason
    host.failing_ns, host.announce_from = was.failing_ns, was.announce_from
    host.held = 0
    for i in range(host.block.address_count):
        host.block.addresses[i].flags &= ~<uint32_t>(
            HELD | FOREIGN | FAILED | LOST | LOST_WITH_OURS)
        if was.held:
            host.block.addresses[i].flags |= HELD
            host.block.addresses[i].routed = wants_route(host, &host.block.addresses[i])
            host.held += 1
    wheel_disarm(&core.wheel, slot)
    host.deadline_ns = 0
    if was.deadline_ns:
        engine_set_deadline(core, slot, was.deadline_ns)
    engine_plan_upkeep(core, slot, now_ns)
    group_review(core, slot, now_ns)
    if queued:
        engine_ask(core, &core.advertise, slot, queued)
    if was.pending & TO_CHANGE_ADDRESSES:
        engine_ask(core, &core.change, slot, was.pending & TO_TELL_ADDRESSES)
    if was.pending & TO_ANNOUNCE:
        engine_ask(core, &core.announce, slot, TO_ANNOUNCE)
    if was.pending & TO_REPEAT:
        engine_ask(core, &core.repeat, slot, TO_REPEAT)


cdef bint assume_address(Core* core, uint32_t slot, const uint8_t* address, uint8_t family,
                         uint8_t flags) noexcept nogil:
    """Set the flags of an assumed host's address that differ from the others': HELD, FOREIGN,
    FAILED, LOST, ROUTED, or none.

    False if the host has no such address.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t i
    cdef Address* mine
    cdef bint found = False
    host.held = 0
    for i in range(host.block.address_count):
        mine = &host.block.addresses[i]
        if mine.family == family and memcmp(mine.bytes, address, 16) == 0:
            mine.flags = <uint8_t>(mine.flags & ~<uint32_t>(HELD | FOREIGN | FAILED | LOST
                                                            | LOST_WITH_OURS)) | (
                                                                flags & ~<uint32_t>ROUTED)
            mine.routed = flags & ROUTED != 0
            found = True
        host.held += 1 if mine.flags & HELD else 0
    return found
