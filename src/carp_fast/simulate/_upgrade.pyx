"""An upgrade of a simulated machine: another engine goes on from the state of its engine.

The machine drains as a pump that is frozen; if the kernel does not answer in time, the former
engine goes on. All invariants hold across an upgrade, since the world knows nothing of it; and no
host may differ from what it was.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy, memset

from carp_fast.engine._core cimport Core, ORDER_ADD, Order, engine_close, engine_open
from carp_fast.engine._orders cimport obey
from carp_fast.engine._placing cimport state_place
from carp_fast.engine._state cimport State, state_size, state_write
from carp_fast.engine._vhid cimport (
    Address, AlternateKey, IN_USE, Output, RETIRED, SIGNED, VirtualHost)
from carp_fast.pump._drain cimport turn_is_drained, turn_put_back
from carp_fast.simulate._network cimport (
    UPGRADE_CHANGED, broken, machine_now, machine_number, machine_wake, random_next)

# How long a machine drains before the former engine goes on.
cdef int64_t DRAIN_NS = 20000000


cdef Block* copied_block(World* world, const Block* block) noexcept nogil:
    """A copy of the block, laid out as by new_block() in engine/_prepared.pyx."""
    cdef size_t size = (
        sizeof(Block) + block.address_count * sizeof(Address)
        + block.output_count * sizeof(Output) + block.alternate_count * sizeof(AlternateKey))
    cdef Block* copy = <Block*>malloc(size)
    if copy == NULL:
        world.out_of_memory = True
        return NULL
    memcpy(copy, block, size)
    copy.alternates = <AlternateKey*>(copy + 1)
    copy.outputs = <Output*>(copy.alternates + copy.alternate_count)
    copy.addresses = <Address*>(copy.outputs + copy.output_count)
    return copy


cdef void upgrade_begin(World* world, Machine* machine) noexcept nogil:
    """Let the machine drain, and be upgraded when its turn is over."""
    if machine.running and not machine.upgrade_by_ns:
        machine.upgrade_by_ns = world.now_ns + DRAIN_NS
        machine.turn.draining = True
        if not machine.paused:
            machine_wake(world, machine, world.now_ns)


cdef void upgrade_if_due(World* world, Machine* machine) noexcept nogil:
    """A turn is over: upgrade the machine if it is drained, or give up if that takes too long."""
    if not machine.upgrade_by_ns:
        return
    if turn_is_drained(&machine.turn):
        turn_put_back(&machine.turn)
        with gil:
            upgrade(world, machine)
    elif world.now_ns < machine.upgrade_by_ns:
        return
    machine.upgrade_by_ns = 0
    machine.turn.draining = False


cdef int add_hosts(World* world, const Core* former, Core* core, int64_t now_ns) except -1:
    """Add the same hosts to an engine, as they were configured."""
    cdef const VirtualHost* was
    cdef VirtualHost host
    cdef Order order
    cdef uint32_t slot, k
    for slot in range(former.slots):
        was = &former.hosts[slot]
        if not was.flags & IN_USE:
            continue
        memset(&host, 0, sizeof(host))
        host.interface, host.vhid, host.key = was.interface, was.vhid, was.key
        host.configured, host.group = was.configured, was.group
        host.group_all = former.groups[was.group].all
        host.configured.source_missing = host.configured.source6_missing = False
        memcpy(host.source4, was.source4, 4)
        memcpy(host.source6, was.source6, 16)
        host.block = copied_block(world, was.block)
        if host.block == NULL:
            raise MemoryError("upgrade")
        for k in range(host.block.address_count):
            host.block.addresses[k].flags &= SIGNED | RETIRED
        memset(&order, 0, sizeof(order))
        order.kind, order.slot, order.pointer = ORDER_ADD, slot, &host
        obey(core, &order, now_ns)
    return 0


cdef void compare(World* world, Machine* machine, const Core* former) noexcept nogil:
    """No host may be different from what it was, and nothing may be reported."""
    cdef const VirtualHost* was
    cdef const VirtualHost* host
    cdef uint32_t slot
    cdef bint same
    for slot in range(former.slots):
        was, host = &former.hosts[slot], &machine.core.hosts[slot]
        if was.flags & IN_USE:
            same = (host.state == was.state and host.reason == was.reason
                    and host.counter == was.counter and host.deadline_ns == was.deadline_ns
                    and host.flags == was.flags and host.held == was.held
                    and host.pending == was.pending and host.since_ns == was.since_ns
                    and memcmp(host.ordered, was.ordered, sizeof(was.ordered)) == 0)
            if not same:
                broken(world, UPGRADE_CHANGED, machine_number(world, machine), slot, host.state)
    if machine.core.reports.tail != machine.core.reports.head:
        broken(world, UPGRADE_CHANGED, machine_number(world, machine), 0, -1)


cdef int upgrade(World* world, Machine* machine) except? -1:
    """Put another engine, which goes on from the former one's state, in its place."""
    cdef Core former = machine.core
    cdef int64_t now_ns = machine_now(world, machine)
    engine_open(&machine.core, <uint32_t>(former.reports.mask + 1), random_next(&world.random))
    try:
        room = bytearray(state_size(&former))
        state_write(&former, NULL, room)
        machine.core.wake_tick_ns = former.wake_tick_ns
        add_hosts(world, &former, &machine.core, now_ns)
        machine.core.reports.head = machine.core.reports.tail   # of hosts that only began
        placed = state_place(&machine.core, State(room), list(range(former.slots)), None, now_ns)
        if placed.added or placed.gone or placed.unheld:
            broken(world, UPGRADE_CHANGED, machine_number(world, machine), 0, -2)
        compare(world, machine, &former)
        world.tally.upgrades += 1
    finally:
        engine_close(&former)
    return 0
