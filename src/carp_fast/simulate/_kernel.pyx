"""The kernel of a simulated machine: which addresses it has, and how it answers.

Address changes as netlink_carry_out() has them, whose outcome is settled: refused, or done with
the answer lost, or taking others along; and looks at what an interface has. Knows no real socket,
clock or file.
"""

from libc.errno cimport EADDRNOTAVAIL, EAGAIN, EEXIST, ENOBUFS, ENODEV, ENXIO
from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._actions cimport address_changed, addresses_done, next_change, nothing_to_do
from carp_fast.engine._core cimport Core, verify_soon
from carp_fast.simulate._addresses cimport mark_dirty
from carp_fast.simulate._network cimport (
    ABSENT, FOREIGN_REMOVED, FOREIGN_THERE, Machine, OURS, Slot, TRACE_ADDRESS, World, broken,
    machine_now, machine_number, random_below, random_chance, trace)
from carp_fast.engine._upkeep cimport (
    THERE_FOREIGN, THERE_NONE, THERE_OURS, There, next_to_verify, verify_hosts, wanted_change)
from carp_fast.engine._vhid cimport INIT, VirtualHost
from carp_fast.engine._wheel cimport NOBODY

cdef enum:
    LOOK_AGAIN_NS = 1000000000      # after a look that the kernel did not answer


cdef int change_address(World* world, Machine* machine, uint32_t slot, uint32_t which,
                        bint adding) noexcept nogil:
    """What became of one address change, as netlink_carry_out() has it: 0 or an errno.

    Whose an address is that is there already, it has asked; where nobody could say, EAGAIN.
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
        if fault < 3:                               # nothing was done
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
    if fault:                                       # done, and the answer was lost
        return EAGAIN
    known.refused &= ~(<uint32_t>1 << which)
    return 0


cdef void take_secondaries(World* world, Machine* machine, uint32_t slot,
                           uint32_t which) noexcept nogil:
    """Where the kernel does not promote them, some others go with an IPv4 address."""
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
    """What the kernel has of an address; a look is of all addresses of an interface."""
    cdef Machine* machine = <Machine*>where
    cdef uint8_t there = machine.slots[slot].kernel[which]
    if machine.core.hosts[slot].state != INIT:      # who does not take part leaves all as it is
        machine.slots[slot].disturbed = False
    mark_dirty(machine, slot)
    if there == ABSENT:
        return THERE_NONE
    return THERE_OURS if there == OURS else THERE_FOREIGN


cdef void verify_addresses(World* world, Machine* machine) noexcept nogil:
    """Look at the addresses of one interface, where that is due; the kernel may not answer."""
    cdef int64_t now_ns = machine_now(world, machine)
    cdef uint32_t number = next_to_verify(&machine.core, now_ns)
    if number == NOBODY:
        return
    world.tally.looks += 1
    machine.busy_ns += machine.change_cost_ns
    if machine.core.verify_at_ns and machine.core.verify_at_ns <= now_ns:
        machine.more = True
    if random_chance(&world.random, machine.netlink_error):
        verify_soon(&machine.core, number, now_ns + LOOK_AGAIN_NS)
    elif machine.nics[number].ifindex == machine.core.interfaces[number].ifindex:
        verify_hosts(&machine.core, number, find_there, machine, now_ns)
        if not nothing_to_do(&machine.core):
            machine.more = True


cdef bint change_addresses(World* world, Machine* machine) noexcept nogil:
    """One batch of address changes, with outcomes in the end as netlink has them."""
    cdef Core* core = &machine.core
    cdef uint32_t[128] ended, slots, places
    cdef bint[128] adding
    cdef int[128] errors
    cdef uint32_t done = 0, count = 0, i
    cdef VirtualHost* host
    cdef int wanted
    while count < world.changes and done < world.changes:
        if machine.changing == NOBODY:
            machine.changing, machine.changing_at = next_change(core), 0
            if machine.changing == NOBODY:
                break
            machine.changing_block = core.hosts[machine.changing].block
        host = &core.hosts[machine.changing]
        if host.block != machine.changing_block:
            if host.block == NULL:
                machine.changing = NOBODY
                continue
            machine.changing_block, machine.changing_at = host.block, 0
        while machine.changing_at < host.block.address_count and count < world.changes:
            wanted = wanted_change(host, &host.block.addresses[machine.changing_at])
            if wanted:
                slots[count], places[count] = machine.changing, machine.changing_at
                adding[count] = wanted > 0
                count += 1
            machine.changing_at += 1
        if machine.changing_at >= host.block.address_count:
            ended[done] = machine.changing
            done += 1
            machine.changing = NOBODY
    for i in range(count):
        errors[i] = change_address(world, machine, slots[i], places[i], adding[i])
        trace(world, TRACE_ADDRESS, machine_number(world, machine), slots[i],
              places[i] * 2 + adding[i], errors[i])
    for i in range(count):
        address_changed(core, slots[i], places[i], adding[i], errors[i],
                        machine_now(world, machine))
        mark_dirty(machine, slots[i])
    for i in range(done):
        addresses_done(core, ended[i], machine_now(world, machine))
    return done != 0 or count != 0
