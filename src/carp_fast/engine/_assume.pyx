"""A virtual host that continues from the recorded state of another. Uses no socket and no clock."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp

from carp_fast.engine._absence cimport absence_note
from carp_fast.engine._core cimport (
    Core, engine_ask, engine_plan_upkeep, engine_set_deadline)
from carp_fast.engine._fields cimport Checkpoint, checkpoint_put_back
from carp_fast.engine._groups cimport group_review
from carp_fast.engine._recorder cimport ROUTED
from carp_fast.engine._upkeep cimport wants_route
from carp_fast.engine._vhid cimport (
    Address, FAILED, FOREIGN, HELD, IN_USE, LOST, LOST_WITH_OURS, OWED, TO_ADVERTISE,
    TO_ADVERTISE_LAST, TO_ANNOUNCE, TO_CHANGE_ADDRESSES, TO_REPEAT, TO_RESIGN, TO_TELL_ADDRESSES,
    vhid_add_up, VirtualHost)
from carp_fast.engine._wheel cimport wheel_disarm


cdef void assume(Core* core, uint32_t slot, const Checkpoint* was, int64_t now_ns) noexcept nogil:
    """Let a host that was just added continue from the state of another with its configuration.

    All its addresses count as held if any was, see assume_address. Nothing is reported.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t i
    cdef uint8_t queued = was.pending & (TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN)
    checkpoint_put_back(host, was)
    host.flags = (host.flags & ~<uint32_t>OWED) | IN_USE
    host.pending = 0
    vhid_add_up(host)
    for i in range(was.absence_count):
        absence_note(&core.absences, &was.absences[i])
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
    if queued and was.flags & OWED:
        core.owed_at_ns = was.owed_at_ns
        engine_ask(core, &core.owed, slot, queued)
    elif queued:
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
