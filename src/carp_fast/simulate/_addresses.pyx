"""What must hold of the addresses in a simulated world: held and announced if and only if MASTER.

Compares the engine's state with the addresses of the machine's kernel. Knows no rule of election.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp

from carp_fast.engine._core cimport Report
from carp_fast.simulate._network cimport (
    ABSENT, ADDRESS_KEPT, ADDRESS_MISSING, ANNOUNCED_ABSENT, ANNOUNCED_BY_BACKUP,
    CHANGED_WITHOUT_CAUSE, FOREIGN_THERE, Machine, NOT_ANNOUNCED, Nic, OUR_ROUTE, OURS, Slot, World,
    broken, machine_number)
from carp_fast.engine._vhid cimport (
    ADDRESS_DEADLINE, ADDRESS_LOST, Address, LOST, MASTER, REPLACES_ROUTES, RETIRED, SECOND_NS,
    VirtualHost)
from carp_fast.engine._wire cimport ARP_FRAME_LENGTH, NA_FRAME_LENGTH

cdef int64_t MS_NS = 1000000
cdef int64_t LEAST_DEMOTED_NS = 60 * <int64_t>SECOND_NS     # for addresses that could not be held


cdef void mark_dirty(Machine* machine, uint32_t slot) noexcept nogil:
    if not machine.slots[slot].dirty:
        machine.slots[slot].dirty = True
        machine.dirty[machine.dirty_count] = slot
        machine.dirty_count += 1


cdef void check_addresses(World* world, Machine* machine, uint32_t slot,
                          bint at_last) noexcept nogil:
    """Nothing is left to do: the kernel has the addresses of a MASTER, and of no other host.

    `at_last`: long after the faults, also those that the kernel once refused, or removed.
    """
    cdef VirtualHost* host = &machine.core.hosts[slot]
    cdef Slot* known = &machine.slots[slot]
    cdef uint32_t i, segment = world.slot_segment[slot], number = machine_number(world, machine)
    cdef bint wanted = False
    cdef bint same = machine.nics[segment].ifindex == machine.core.interfaces[segment].ifindex
    if host.block != NULL:
        wanted = host.state == MASTER and host.configured.manage_addresses
    for i in range(known.right.block.address_count):
        if known.kernel[i] == FOREIGN_THERE or known.refused >> i & 1 and not at_last:
            continue                                    # there was a report
        if known.kernel[i] & (OURS | OUR_ROUTE) and not wanted and (at_last or not known.disturbed):
            broken(world, ADDRESS_KEPT, number, slot, i)
        if known.kernel[i] == ABSENT and wanted and same and (at_last or not known.disturbed):
            broken(world, ADDRESS_MISSING, number, slot, i)
    if known.owes_announcement and host.block != NULL and host.state == MASTER:
        broken(world, NOT_ANNOUNCED, number, slot, 0)


cdef bint is_loss(uint8_t reason) noexcept nogil:
    return reason == ADDRESS_LOST or reason == ADDRESS_DEADLINE


cdef void on_loss(World* world, Machine* machine, const Report* report) noexcept nogil:
    """A host gave up for its addresses: for the deadline only if it was without them so long."""
    cdef Slot* known = &machine.slots[report.slot]
    cdef uint32_t i
    cdef bint there = False
    world.tally.losses += 1
    known.lost_at_ns = known.priority_ns = report.at_ns
    if report.reason != ADDRESS_DEADLINE:
        return
    for i in range(known.right.block.address_count):
        there |= known.kernel[i] == FOREIGN_THERE and not known.refused >> i & 1
        there |= known.kernel[i] & (OURS | OUR_ROUTE) != 0 and not known.refused >> i & 1
    if machine.requested != machine.taken_up:           # an outcome is on its way
        there = False
    if there or report.at_ns - known.rose_ns < known.right.configured.address_deadline_ms * MS_NS:
        broken(world, CHANGED_WITHOUT_CAUSE, machine_number(world, machine), report.slot,
               report.reason)


cdef void on_undemoted(World* world, Machine* machine, const Report* report) noexcept nogil:
    """A demotion by time ended: at the earliest a minute after the host gave up its addresses, or
    stepped down, unable to send.
    """
    cdef Slot* known = &machine.slots[report.slot]
    cdef int64_t since_ns = known.lost_at_ns
    if known.muted_ns and (not since_ns or known.muted_ns < since_ns):
        since_ns = known.muted_ns
    if not since_ns or report.at_ns - since_ns < LEAST_DEMOTED_NS:
        broken(world, CHANGED_WITHOUT_CAUSE, machine_number(world, machine), report.slot,
               report.at_ns - since_ns)
    known.pardoned |= known.muted_ns != 0
    if known.state != MASTER:
        known.mute = False                              # it sends nothing that could end that
    known.lost_at_ns, known.muted_ns, known.priority_ns = 0, 0, report.at_ns
    world.slot_disturbed_ns[report.slot] = world.now_ns


cdef void check_announcement(World* world, Machine* machine, uint32_t slot, uint32_t which,
                             const uint8_t* frame, uint32_t length) noexcept nogil:
    """Check a gratuitous ARP or unsolicited NA: it is of a MASTER's address, with the right MAC."""
    cdef const Nic* nic = &machine.nics[world.slot_segment[slot]]
    cdef const Address* address = &machine.core.hosts[slot].block.addresses[which]
    cdef bint good
    if address.family == 4:
        good = (length == ARP_FRAME_LENGTH and frame[12] == 8 and frame[13] == 6
                and frame[0] == 255 and memcmp(frame + 22, nic.mac, 6) == 0
                and memcmp(frame + 28, address.bytes, 4) == 0
                and memcmp(frame + 38, address.bytes, 4) == 0)
    else:
        good = (length == NA_FRAME_LENGTH and frame[12] == 0x86 and frame[13] == 0xdd
                and frame[21] == 255 and frame[54] == 136
                and frame[58] == (0xa0 if nic.forwards6 else 0x20)
                and memcmp(frame + 62, address.bytes, 16) == 0
                and memcmp(frame + 80, nic.mac, 6) == 0)
    if (machine.slots[slot].kernel[which] == ABSENT and not machine.slots[slot].disturbed
            and machine.taken_up >= machine.slots[slot].found_in
            and nic.ifindex == machine.core.interfaces[world.slot_segment[slot]].ifindex
            and not machine.slots[slot].refused >> which & 1 and not address.flags & LOST
            and not machine.core.hosts[slot].flags & REPLACES_ROUTES
            and machine.core.hosts[slot].configured.manage_addresses):
        broken(world, ANNOUNCED_ABSENT, machine_number(world, machine), slot, which)
    if machine.core.hosts[slot].state != MASTER:
        broken(world, ANNOUNCED_BY_BACKUP, machine_number(world, machine), slot, which)
    if not good:
        broken(world, NOT_ANNOUNCED, machine_number(world, machine), slot, which)
    machine.slots[slot].told |= <uint32_t>1 << which


cdef void check_announced(World* world, Machine* machine, uint32_t slot) noexcept nogil:
    """An announcement is sent: check that it includes every address since the host became MASTER.

    It may be the rest of one that was begun before it stepped down and rose again.
    """
    cdef const VirtualHost* host = &machine.core.hosts[slot]
    cdef Slot* known = &machine.slots[slot]
    cdef uint32_t i
    cdef bint owes = False
    for i in range(host.block.address_count):
        if not known.told >> i & 1 and not host.block.addresses[i].flags & RETIRED:
            owes = True
    known.owes_announcement = owes
