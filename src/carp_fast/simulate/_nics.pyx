"""The interfaces of a simulated machine: their faults, and the orders that follow.

Python's part is written a second time here: an interface that lost its name is left in two steps,
and addresses with our mark that an appearing interface has are ours. Knows no socket.
"""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from carp_fast.engine._core cimport Interface, ORDER_ADOPT, Order
from carp_fast.engine._orders cimport obey
from carp_fast.simulate._lanes cimport forget_sources
from carp_fast.simulate._network cimport (
    ABSENT, ADDRESSES_MAX, Machine, Nic, OURS, OVER_4, OVER_6, PendingOrder, World, random_below)
from carp_fast.engine._vhid cimport IN_USE

cdef enum:
    UP = 1                          # bits of an order's value
    SOURCES_AT = 1
    RENAMED = 8
    IFINDEX_AT = 4


cdef bint change_nic(World* world, Machine* machine, uint32_t segment,
                     NicFault fault) noexcept nogil:
    """Apply a fault; whether Python notices. The kernel drops addresses with an interface."""
    cdef Nic* nic = &machine.nics[segment]
    cdef uint32_t slot
    if fault == NIC_RENAMED or fault == NIC_NAMED:
        nic.renamed = fault == NIC_RENAMED
        machine.left[segment] = False
        forget_sources(machine, segment)
        return nic.ifindex != 0
    nic.up = fault == NIC_UP or fault == NIC_BACK
    if fault == NIC_DOWN or fault == NIC_UP:
        return not nic.renamed
    forget_sources(machine, segment)
    nic.renamed = False
    nic.ifindex = 2 + <int>random_below(&world.random, 1 << 20) if fault == NIC_BACK else 0
    for slot in range(world.slot_count):
        if world.slot_segment[slot] == segment:
            memset(machine.slots[slot].kernel, ABSENT, ADDRESSES_MAX)
    return True


cdef int64_t interface_value(const Machine* machine, uint32_t segment) noexcept nogil:
    """The value of an order about an interface: ifindex, whether to leave it, sources, up.

    A renamed interface is gone, but an engine that knows it has to leave it first.
    """
    cdef const Nic* nic = &machine.nics[segment]
    cdef int64_t flags = nic.sources << SOURCES_AT | nic.up
    cdef bint known = machine.running and (
        nic.ifindex == machine.core.interfaces[segment].ifindex)
    if nic.renamed and known and not machine.left[segment]:
        return <int64_t>nic.ifindex << IFINDEX_AT | flags | RENAMED
    return (0 if nic.renamed else <int64_t>nic.ifindex) << IFINDEX_AT | flags


cdef bint has_left(Machine* machine, uint32_t segment) noexcept nogil:
    """Nothing is left to carry out: whether an interface was being left, and is left now.

    The interface that has the name next is ordered then.
    """
    if not machine.leaving[segment]:
        return False
    machine.leaving[segment], machine.left[segment] = False, True
    return True


cdef void obey_interface_order(World* world, Machine* machine, const PendingOrder* pending,
                               Order* order, int64_t now_ns) noexcept nogil:
    """Carry out an order with the values of its time; nothing while an interface is being left."""
    cdef uint32_t segment = pending.subject
    cdef Nic* nic = &machine.nics[segment]
    cdef int32_t before = machine.core.interfaces[segment].ifindex
    cdef Interface interface
    if machine.leaving[segment]:
        return
    memset(&interface, 0, sizeof(interface))
    interface.ifindex = <int>(pending.value >> IFINDEX_AT)
    interface.up = pending.value & UP
    interface.renamed = machine.leaving[segment] = pending.value & RENAMED != 0
    machine.left[segment] = False
    interface.has_source = interface.ifindex and pending.value >> SOURCES_AT & OVER_4
    interface.has_source6 = interface.ifindex and pending.value >> SOURCES_AT & OVER_6
    interface.forwards6 = nic.forwards6
    memcpy(interface.mac, nic.mac, 6)
    if interface.has_source:
        memcpy(interface.source, nic.source, 4)
    if interface.has_source6:
        memcpy(interface.source6, nic.source6, 16)
    order.interface = <uint16_t>segment
    order.pointer = &interface
    obey(&machine.core, order, now_ns)
    if interface.ifindex and interface.ifindex != before and interface.ifindex == nic.ifindex:
        adopt_marked(world, machine, segment, now_ns)


cdef void adopt_marked(World* world, Machine* machine, uint32_t segment,
                       int64_t now_ns) noexcept nogil:
    """Adopt addresses of ours on an interface that appeared."""
    cdef uint32_t slot, i
    cdef Order order
    for slot in range(world.slot_count):
        if (world.slot_segment[slot] != segment or machine.slots[slot].right == NULL
                or not machine.core.hosts[slot].flags & IN_USE):
            continue
        for i in range(machine.slots[slot].right.block.address_count):
            if machine.slots[slot].kernel[i] & OURS:
                memset(&order, 0, sizeof(order))
                order.kind, order.slot = ORDER_ADOPT, slot
                order.pointer = &machine.slots[slot].right.block.addresses[i]
                obey(&machine.core, &order, now_ns)
