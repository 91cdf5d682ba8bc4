"""The kernel of a simulated machine: which addresses it has, and how it answers.

Address changes with the outcomes of netlink_carry_out(): refused, or done with the answer lost, or
removing other addresses as well; and looks at an interface. Requests are carried out one after the
other, each as an event of its own, and none while another program holds the kernel's lock. Uses no
real socket, clock or file.
"""

from libc.errno cimport (
    E2BIG, EADDRNOTAVAIL, EAGAIN, ESTALE, EEXIST, ENOBUFS, ENODEV, ENXIO)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from carp_fast.simulate._addresses cimport mark_dirty
from carp_fast.simulate._network cimport (
    ADDRESSES_MAX, FOREIGN_REMOVED, FOREIGN_THERE, KERNEL_REQUESTS, KERNEL_WORKS,
    KernelRequest, Machine, OUR_ROUTE, OURS, OVER_4, Slot, TRACE_ADDRESS, World, broken, event_push,
    machine_number, machine_wake, random_below, random_chance, trace)
from carp_fast.engine._upkeep cimport (
    THERE_FOREIGN, THERE_NONE, THERE_OURS, THERE_ROUTE, THERE_UNKNOWN, There)
from carp_fast.engine._vhid cimport Address, HELD, INIT
from carp_fast.pump._look cimport Look, ROUTES_DUE, ROUTES_NONE, ROUTES_PERIODIC
from carp_fast.pump._turn cimport AddressChange, BETWEEN

cdef enum:
    MANY = 4                        # one in so many failing looks has too many addresses


cdef int change_address(World* world, Machine* machine,
                        const AddressChange* change) noexcept nogil:
    """The outcome of one address change as of netlink_carry_out(): 0 or an errno.

    The origin of an existing address has been determined; EAGAIN if that was not possible.
    """
    cdef uint32_t slot = change.slot, which = change.which, fault = 0
    cdef bint adding = change.added
    cdef Slot* known = &machine.slots[slot]
    cdef uint8_t* there = &known.kernel[which]
    cdef uint8_t mine = OUR_ROUTE if change.address.routed else OURS
    if machine.nics[world.slot_segment[slot]].ifindex != change.ifindex:
        return ENODEV
    if random_chance(&world.random, machine.netlink_error):
        world.tally.refused_changes += 1
        known.refused |= <uint32_t>1 << which
        fault = 1 + <uint32_t>random_below(&world.random, 3)
        if fault < 3:                               # nothing was changed
            return ENOBUFS if fault == 1 else ENXIO
    if adding and there[0] == FOREIGN_THERE:
        return EAGAIN if fault else EEXIST
    if adding and mine == OUR_ROUTE and there[0] == OURS:
        return EAGAIN if fault else EEXIST
    if not adding and not there[0] & (mine | FOREIGN_THERE):
        return EADDRNOTAVAIL
    if not adding and there[0] == FOREIGN_THERE:
        broken(world, FOREIGN_REMOVED, machine_number(world, machine), slot, which)
    if adding:
        there[0] |= mine
    else:
        there[0] &= ~<uint32_t>mine
    if not adding and mine == OURS:
        take_secondaries(world, machine, slot, which)
        drop_routes(world, machine, world.slot_segment[slot])
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
            if (known.kernel[i] & OURS and known.right.block.addresses[i].family == 4
                    and random_chance(&world.random, machine.takes_secondaries)):
                known.kernel[i] &= ~<uint32_t>OURS
                known.disturbed = True
                world.tally.secondaries += 1


cdef void drop_routes(World* world, Machine* machine, uint32_t segment) noexcept nogil:
    """Drop all local routes of an interface without an IPv4 address, as silently as the kernel."""
    cdef uint32_t slot, i
    cdef Slot* known
    if machine.nics[segment].sources & OVER_4:
        return
    for slot in range(world.slot_count):
        known = &machine.slots[slot]
        if known.right != NULL and world.slot_segment[slot] == segment:
            for i in range(known.right.block.address_count):
                if (known.kernel[i] & (OURS | FOREIGN_THERE)
                        and known.right.block.addresses[i].family == 4):
                    return
    for slot in range(world.slot_count):
        known = &machine.slots[slot]
        if known.right != NULL and world.slot_segment[slot] == segment:
            for i in range(known.right.block.address_count):
                if known.kernel[i] & OUR_ROUTE:
                    known.kernel[i] &= ~<uint32_t>OUR_ROUTE
                    known.disturbed = True
                    world.tally.routes_dropped += 1


cdef There find_there(void* where, uint32_t slot, uint32_t which) noexcept nogil:
    """What the look found of an address; the parts of a look cover all of an interface."""
    cdef Machine* machine = <Machine*>where
    cdef uint8_t there = machine.slots[slot].seen[which]
    cdef const Address* address
    # A host that does not take part changes nothing.
    if machine.core.hosts[slot].state == INIT and there != machine.slots[slot].kernel[which]:
        machine.slots[slot].disturbed = True
    mark_dirty(machine, slot)
    if (slot + which) % machine.parts != machine.part:
        return THERE_UNKNOWN
    address = &machine.core.hosts[slot].block.addresses[which]
    if address.flags & HELD and address.routed:
        if not machine.looked_at_routes:
            return THERE_UNKNOWN
        return THERE_ROUTE if there & OUR_ROUTE else THERE_NONE
    if machine.looked_at_routes and there & OUR_ROUTE and (
            address.flags & HELD or not there & OURS):
        return THERE_ROUTE
    if there & OURS:
        return THERE_OURS
    return THERE_FOREIGN if there & FOREIGN_THERE else THERE_NONE


cdef int look_at(World* world, Machine* machine, const KernelRequest* request) noexcept nogil:
    """Look at an interface: 0 or an errno; E2BIG requires parts."""
    cdef uint32_t slot
    cdef Slot* known
    world.tally.looks += 1
    if request.part == 0:
        machine.looked_at_routes = request.routes == ROUTES_DUE or (
            request.routes == ROUTES_PERIODIC and random_below(&world.random, 2) == 0)
    machine.part, machine.parts = request.part, request.parts
    if random_chance(&world.random, machine.netlink_error):
        return E2BIG if random_below(&world.random, MANY) == 0 else ENOBUFS
    if machine.nics[request.number].ifindex != request.change.ifindex:
        return ENODEV
    for slot in range(world.slot_count):
        known = &machine.slots[slot]
        if world.slot_segment[slot] == request.number and known.right != NULL:
            memcpy(known.seen, known.kernel, ADDRESSES_MAX)
            # A host that does not take part changes nothing.
            if (request.part + 1 == request.parts and machine.core.hosts[slot].state != INIT
                    and (machine.looked_at_routes or request.routes == ROUTES_NONE)
                    and known.disturbed):
                known.disturbed, known.found_in = False, machine.answered + 1
    return 0


cdef void kernel_go(World* world, Machine* machine) noexcept nogil:
    """Schedule the next request, unless nothing waits, or it cannot go on."""
    if (machine.answered != machine.requested and not machine.kernel_works
            and not machine.lock_held and not machine.paused):
        machine.kernel_works = True
        event_push(world, world.now_ns + machine.change_cost_ns, KERNEL_WORKS,
                   machine_number(world, machine), machine.lives)


cdef void kernel_works(World* world, Machine* machine, uint64_t life) noexcept nogil:
    """Carry out one request, and wake the machine for its outcome."""
    cdef KernelRequest* request = &machine.requests[machine.answered % KERNEL_REQUESTS]
    cdef AddressChange* change = &request.change
    if not machine.running or life != machine.lives:
        return
    machine.kernel_works = False
    if machine.lock_held or machine.paused:
        return
    if request.parts:
        change.error = look_at(world, machine, request)
    elif machine.core.hosts[change.slot].generation != change.generation:
        change.error = ESTALE
    else:
        change.was_ours = (change.added
                           and machine.slots[change.slot].kernel[change.which] & (
                               OUR_ROUTE if change.address.routed else OURS) != 0)
        change.error = change_address(world, machine, change)
        trace(world, TRACE_ADDRESS, machine_number(world, machine), change.slot,
              change.which * 2 + change.added, change.error)
        mark_dirty(machine, change.slot)
    machine.answered += 1
    if machine.turn.phase == BETWEEN:
        machine_wake(world, machine, world.now_ns)
    kernel_go(world, machine)


cdef uint32_t requests_room(void* where) noexcept nogil:
    cdef const Machine* machine = <const Machine*>where
    cdef uint32_t most = min(KERNEL_REQUESTS, 2 * machine.world.changes)
    return most - <uint32_t>(machine.requested - machine.taken_up)


cdef void request_changes(World* world, Machine* machine, const AddressChange* changes,
                          uint32_t count) noexcept nogil:
    cdef KernelRequest* request
    cdef uint32_t i
    for i in range(count):
        request = &machine.requests[machine.requested % KERNEL_REQUESTS]
        request.change, request.parts = changes[i], 0
        request.number = world.slot_segment[changes[i].slot]
        machine.requested += 1
    kernel_go(world, machine)


cdef void request_look(World* world, Machine* machine, const Look* look) noexcept nogil:
    cdef KernelRequest* request = &machine.requests[machine.requested % KERNEL_REQUESTS]
    request.change.ifindex = look.ifindex
    request.number, request.part, request.parts = look.number, look.part, look.parts
    request.routes = look.routes
    machine.requested += 1
    kernel_go(world, machine)


cdef uint32_t take_changed(Machine* machine, AddressChange* changes, uint32_t count) noexcept nogil:
    """The next outcomes, `count` at most, none beyond that of a look: how many."""
    cdef const KernelRequest* request
    cdef uint32_t taken = 0
    while taken < count and machine.taken_up != machine.answered:
        request = &machine.requests[machine.taken_up % KERNEL_REQUESTS]
        if request.parts:
            break
        changes[taken] = request.change
        taken += 1
        machine.taken_up += 1
    return taken


cdef bint take_looked(Machine* machine, int* error) noexcept nogil:
    """Whether the next outcome is that of a look, and its errno."""
    cdef const KernelRequest* request
    if machine.taken_up == machine.answered:
        return False
    request = &machine.requests[machine.taken_up % KERNEL_REQUESTS]
    if not request.parts:
        return False
    error[0] = request.change.error
    machine.taken_up += 1
    return True


cdef void kernel_forget(Machine* machine) noexcept nogil:
    """The machine is gone, with all that it requested."""
    machine.requested = machine.answered = machine.taken_up = 0
    machine.kernel_works = False
