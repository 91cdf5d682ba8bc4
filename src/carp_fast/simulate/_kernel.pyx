"""The kernel of a simulated machine: which addresses it has, and how it answers.

Address changes with the outcomes of netlink_carry_out(): refused, or done with the answer lost, or
removing other addresses as well; and looks at an interface. Uses no real socket, clock or file.
"""

from libc.errno cimport E2BIG, EADDRNOTAVAIL, EAGAIN, EEXIST, ENOBUFS, ENODEV, ENXIO
from libc.stdint cimport uint8_t, uint32_t

from carp_fast.simulate._addresses cimport mark_dirty
from carp_fast.simulate._network cimport (
    ABSENT, FOREIGN_REMOVED, FOREIGN_THERE, Machine, OURS, Slot, TRACE_ADDRESS, World, broken,
    machine_number, random_below, random_chance, trace)
from carp_fast.engine._upkeep cimport THERE_FOREIGN, THERE_NONE, THERE_OURS, THERE_UNKNOWN, There
from carp_fast.engine._vhid cimport INIT
from carp_fast.pump._turn cimport AddressChange

cdef enum:
    MANY = 4                        # one in so many failing looks has too many addresses


cdef int change_address(World* world, Machine* machine, uint32_t slot, uint32_t which,
                        bint adding) noexcept nogil:
    """The outcome of one address change as of netlink_carry_out(): 0 or an errno.

    The origin of an existing address has been determined; EAGAIN if that was not possible.
    """
    cdef Slot* known = &machine.slots[slot]
    cdef uint8_t* there = &known.kernel[which]
    cdef uint32_t segment = world.slot_segment[slot], fault = 0
    machine.busy_ns += machine.change_cost_ns
    if (machine.nics[segment].ifindex == 0
            or machine.nics[segment].ifindex != machine.core.interfaces[segment].ifindex):
        return ENODEV
    if random_chance(&world.random, machine.netlink_error):
        world.tally.refused_changes += 1
        known.refused |= <uint32_t>1 << which
        fault = 1 + <uint32_t>random_below(&world.random, 3)
        if fault < 3:                               # nothing was changed
            return ENOBUFS if fault == 1 else ENXIO
    if adding and there[0] == FOREIGN_THERE:
        return EAGAIN if fault else EEXIST
    if not adding and there[0] == ABSENT:
        return EADDRNOTAVAIL
    if not adding and there[0] == FOREIGN_THERE:
        broken(world, FOREIGN_REMOVED, machine_number(world, machine), slot, which)
    there[0] = OURS if adding else ABSENT
    if not adding:
        take_secondaries(world, machine, slot, which)
    if fault:                                       # changed, and the answer was lost
        return EAGAIN
    known.refused &= ~(<uint32_t>1 << which)
    return 0


cdef void take_secondaries(World* world, Machine* machine, uint32_t slot,
                           uint32_t which) noexcept nogil:
    """Remove some other addresses with an IPv4 one, if the kernel does not promote them."""
    cdef uint32_t other, i
    cdef Slot* known
    if (not machine.takes_secondaries
            or machine.slots[slot].right.block.addresses[which].family != 4):
        return
    for other in range(world.slot_count):
        known = &machine.slots[other]
        if known.right == NULL or world.slot_segment[other] != world.slot_segment[slot]:
            continue
        for i in range(known.right.block.address_count):
            if (known.kernel[i] == OURS and known.right.block.addresses[i].family == 4
                    and random_chance(&world.random, machine.takes_secondaries)):
                known.kernel[i] = ABSENT
                known.disturbed = True
                world.tally.secondaries += 1


cdef There find_there(void* where, uint32_t slot, uint32_t which) noexcept nogil:
    """The kernel's state of an address; the parts of a look cover all of an interface."""
    cdef Machine* machine = <Machine*>where
    cdef uint8_t there = machine.slots[slot].kernel[which]
    # A host that does not take part changes nothing.
    if machine.core.hosts[slot].state != INIT and machine.part + 1 == machine.parts:
        machine.slots[slot].disturbed = False
    mark_dirty(machine, slot)
    if (slot + which) % machine.parts != machine.part:
        return THERE_UNKNOWN
    if there == ABSENT:
        return THERE_NONE
    return THERE_OURS if there == OURS else THERE_FOREIGN


cdef int look_at(World* world, Machine* machine, uint32_t number, uint32_t part,
                 uint32_t parts) noexcept nogil:
    """Look at an interface: 0 or an errno; E2BIG requires parts."""
    world.tally.looks += 1
    machine.busy_ns += machine.change_cost_ns
    machine.part, machine.parts = part, parts
    if random_chance(&world.random, machine.netlink_error):
        return E2BIG if random_below(&world.random, MANY) == 0 else ENOBUFS
    return 0 if machine.nics[number].ifindex == machine.core.interfaces[number].ifindex else ENODEV


cdef void change_addresses(World* world, Machine* machine, AddressChange* changes,
                           uint32_t count) noexcept nogil:
    """Carry out one batch of address changes, with the outcomes that netlink has."""
    cdef AddressChange* change
    cdef uint32_t i
    for i in range(count):
        change = &changes[i]
        change.was_ours = (change.added
                           and machine.slots[change.slot].kernel[change.which] == OURS)
        change.error = change_address(world, machine, change.slot, change.which, change.added)
        trace(world, TRACE_ADDRESS, machine_number(world, machine), change.slot,
              change.which * 2 + change.added, change.error)
        mark_dirty(machine, change.slot)
