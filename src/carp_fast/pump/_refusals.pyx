"""What the filters of rings know of virtual hosts, and the frames that they refused.

A filter (net/ring_filter.py) refuses a frame that no virtual host can accept, and counts it in the
memory that is kept here. The pump alone tells it which interfaces and vhids are in use: a vhid's
bit is set before a host is added and cleared after the last one has left, so that the engine judges
every frame that a host may accept. Uses memory alone, no system call.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from carp_fast.engine._vhid cimport Output
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport BAD_VHID

cdef uint8_t[8] LINK_LOCAL_GROUPS = [0xff, 2, 0, 0, 0, 0, 0, 0]

assert <int>VERDICTS_SHOWN == <int>BAD_VHID + 1
assert sizeof(Heard) == 256 and MAX_INTERFACES & (MAX_INTERFACES - 1) == 0


cdef void refusals_map(Refusals* refusals, const Core* core, uint16_t number,
                       int32_t ifindex) noexcept nogil:
    """An interface is about to get this ifindex; 0: none."""
    cdef FilterMemory* memory = refusals.memory
    cdef int32_t former = core.interfaces[number].ifindex
    cdef uint32_t place = <uint32_t>former & (IFINDEX_PLACES - 1), other
    if memory == NULL:
        return
    if former and former != ifindex:
        memory.numbers[place] = 0
        for other in range(MAX_INTERFACES):
            if (other != number and core.interfaces[other].ifindex
                    and <uint32_t>core.interfaces[other].ifindex & (IFINDEX_PLACES - 1) == place):
                memory.numbers[place] = <uint16_t>(other + 1)
    memory.heard[number].ifindex = ifindex
    if ifindex:
        memory.numbers[<uint32_t>ifindex & (IFINDEX_PLACES - 1)] = <uint16_t>(number + 1)


cdef void refusals_expect(Refusals* refusals, const Core* core,
                          const VirtualHost* host) noexcept nogil:
    """This host is about to be added."""
    cdef uint16_t number = host.interface
    cdef uint32_t hosts = core.interfaces[number].hosts
    if refusals.memory == NULL:
        return
    refusals_expect_groups(refusals, number, host)
    refusals.memory.heard[number].vhids[host.vhid >> 6] |= <uint64_t>1 << (host.vhid & 63)
    # A host that has left must not be forgotten because another one makes up for its number.
    refusals.hosts[number] = hosts + 1 if refusals.hosts[number] == hosts else UNCOUNTED


cdef void refusals_expect_groups(Refusals* refusals, uint16_t number,
                                 const VirtualHost* host) noexcept nogil:
    """Keep the groups that a host has or is about to have, as far as there is room."""
    cdef Heard* heard
    cdef const Output* output
    cdef uint32_t i, group4
    cdef uint64_t group6
    if refusals.memory == NULL:
        return
    heard = &refusals.memory.heard[number]
    for i in range(host.block.output_count):
        output = &host.block.outputs[i]
        memcpy(&group4, output.destination, 4)
        memcpy(&group6, output.destination + 8, 8)
        if output.unicast:
            continue
        if output.family == 4:
            keep_4(heard, group4)
        elif memcmp(output.destination, LINK_LOCAL_GROUPS, 8) == 0:
            keep_6(heard, group6)


cdef void keep_4(Heard* heard, uint32_t group) noexcept nogil:
    cdef uint32_t i
    for i in range(GROUPS):
        if heard.groups4[i] == group or heard.groups4[i] == 0:
            heard.groups4[i] = group
            return


cdef void keep_6(Heard* heard, uint64_t group) noexcept nogil:
    cdef uint32_t i
    for i in range(GROUPS):
        if heard.groups6[i] == group or heard.groups6[i] == 0:
            heard.groups6[i] = group
            return


cdef void refusals_compare(Refusals* refusals, const Core* core) noexcept nogil:
    """Compare the next interface with the table: clear the bits of vhids that no host has now.

    Its groups are collected anew.
    """
    cdef uint32_t number = refusals.next, vhid, slot
    cdef uint64_t bit
    if refusals.memory == NULL:
        return
    refusals.next = number + 1 if number + 1 < core.interface_count else 0
    if refusals.hosts[number] == core.interfaces[number].hosts:
        return
    refusals.hosts[number] = core.interfaces[number].hosts
    memset(refusals.memory.heard[number].groups4, 0, GROUPS * sizeof(uint32_t))
    memset(refusals.memory.heard[number].groups6, 0, GROUPS * sizeof(uint64_t))
    for vhid in range(256):
        bit = <uint64_t>1 << (vhid & 63)
        slot = core.index[number * 256 + vhid] - 1          # 0 - 1 is NOBODY
        if slot == NOBODY:
            refusals.memory.heard[number].vhids[vhid >> 6] &= ~bit
        while slot != NOBODY:
            refusals_expect_groups(refusals, <uint16_t>number, &core.hosts[slot])
            slot = core.hosts[slot].next_same


cdef void refusals_merge(const Refusals* refusals, Interface* copies, uint32_t first,
                         uint32_t count) noexcept nogil:
    """Add what was refused to the copies of `count` interfaces, from number `first` on."""
    cdef uint32_t i, verdict
    if refusals.memory == NULL:
        return
    for i in range(count):
        for verdict in range(VERDICTS):
            copies[i].rejected[verdict] += refusals.memory.heard[first + i].refused[verdict]


cdef uint64_t refusals_count(const Refusals* refusals, const Core* core) noexcept nogil:
    """The frames refused so far."""
    cdef uint64_t total = 0
    cdef uint32_t number, verdict
    if refusals.memory == NULL:
        return 0
    for number in range(core.interface_count):
        for verdict in range(VERDICTS):
            total += refusals.memory.heard[number].refused[verdict]
    return total
