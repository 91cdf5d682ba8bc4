"""Groups of virtual hosts: their members, and whether they are demoted.

A group shares demotion, nothing else. A member is impeded while it cannot be MASTER here. While one
member is impeded, or all of them where the group demands that, every member is demoted. The members
are two lists through the hosts' slots: the impeded ones and the others. What follows from a change
is due in the next turn, in slices: a report, and the demotion of each member, which _demotions.pyx
carries out and records. Changes no host but for its place here. Uses no socket and no clock.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from carp_fast.engine._core cimport (
    Core, DUE_AGAIN, DUE_TELL, DUE_WALK, GROUP_CHANGED, Group, Report, report_begin, report_end)
from carp_fast.engine._vhid cimport (
    ADDRESS_DEMOTED, BY_GROUP, BY_LINK, CANNOT_BE_MASTER, GROUP_DEMOTION, INIT, SEND_DEMOTED,
    STARTUP_DELAY, vhid_demoted_by, VirtualHost)
from carp_fast.engine._wheel cimport NOBODY

cdef enum:
    NAMED = 4                   # impeded members that a report names


cdef bint is_impeded(const Core* core, const VirtualHost* host) noexcept nogil:
    """Whether a host cannot be MASTER here: every condition that its group counts is named here.

    Not counted: an interface that has not been reported yet, since the host has only not begun;
    another process of this machine that has the host; demotions by order. After its link has failed
    a host is impeded until its startup delay is over: the others would be MASTER without it.
    """
    if host.flags & (CANNOT_BE_MASTER | SEND_DEMOTED | ADDRESS_DEMOTED):
        return True
    if host.state == INIT and host.reason == STARTUP_DELAY:
        return host.impeded != 0
    return core.interfaces[host.interface].known and vhid_demoted_by(host, BY_LINK) != 0


cdef inline uint8_t demotion_by(const Group* group) noexcept nogil:
    return GROUP_DEMOTION if group.demoted else 0


# -------------------------------------------------------------------------------------- the lists

cdef void put_in(Core* core, Group* group, uint32_t slot) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t* first = &group.first[host.impeded]
    host.group_previous, host.group_next = 0, first[0]
    if first[0]:
        core.hosts[first[0] - 1].group_previous = slot + 1
    first[0] = slot + 1


cdef inline uint32_t after(const Group* group, const VirtualHost* host) noexcept nogil:
    """The member after this one, the impeded ones last; 0: none."""
    return host.group_next if host.group_next or host.impeded else group.first[1]


cdef void take_out(Core* core, Group* group, uint32_t slot) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    if group.at == slot + 1:
        group.at = after(group, host)
    if host.group_previous:
        core.hosts[host.group_previous - 1].group_next = host.group_next
    else:
        group.first[host.impeded] = host.group_next
    if host.group_next:
        core.hosts[host.group_next - 1].group_previous = host.group_previous


cdef void make_due(Core* core, uint16_t number, uint8_t due, int64_t now_ns) noexcept nogil:
    """Queue a group for the next turn, unless it is queued already."""
    cdef Group* group = &core.groups[number]
    if not group.due:
        group.next_due = 0
        if core.first_due:
            core.groups[core.last_due].next_due = number
        else:
            core.first_due, core.due_ns = number, now_ns
        core.last_due = number
    group.due |= due


cdef void decide(Core* core, uint16_t number, uint32_t decider, int64_t now_ns) noexcept nogil:
    """Decide again whether a group is demoted, after a change of its members."""
    cdef Group* group = &core.groups[number]
    cdef bint was = group.demoted
    group.demoted = group.impeded != 0 and (not group.all or group.impeded == group.members)
    group.decider = decider
    make_due(core, number, DUE_TELL, now_ns)
    if group.demoted != was:
        group.at = group.first[0] if group.first[0] else group.first[1]
        make_due(core, number, DUE_WALK, now_ns)


# ------------------------------------------------------------------------------------- membership

cdef void group_join(Core* core, uint32_t slot, uint16_t number, bint all,
                     int64_t now_ns) noexcept nogil:
    """Make a host a member of a group, 0: of none; `all`: the group's rule from now on.

    The caller gives it the demotion of its new group.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Group* group = &core.groups[number]
    if host.group != number:
        group_leave(core, slot, now_ns)
    if not number:
        return
    if not host.group:
        host.group, host.impeded = number, 0
        host.impeded = is_impeded(core, host)
        group.members += 1
        group.impeded += host.impeded
        put_in(core, group, slot)
        if number >= core.group_count:
            core.group_count = number + 1
    group.all = all
    decide(core, number, slot, now_ns)


cdef void group_leave(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Take a host out of its group, if it is in one; its own demotion by it stays."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint16_t number = host.group
    cdef Group* group = &core.groups[number]
    if not number:
        return
    take_out(core, group, slot)
    group.members -= 1
    group.impeded -= host.impeded
    host.group = host.impeded = 0
    decide(core, number, slot, now_ns)


cdef void group_review(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Find out whether a host can be MASTER here, after whatever may have changed that."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Group* group = &core.groups[host.group]
    cdef uint8_t impeded
    if not host.group:
        return
    impeded = is_impeded(core, host)
    if impeded == host.impeded:
        return
    if group.due & DUE_WALK and host.ordered[<int>BY_GROUP] != demotion_by(group):
        group.due |= DUE_AGAIN          # the walk may be past the place where it is put
    take_out(core, group, slot)
    group.impeded += 1 if impeded else -1
    host.impeded = impeded
    put_in(core, group, slot)
    decide(core, host.group, slot, now_ns)


cdef void group_place(Core* core, uint32_t slot, bint impeded) noexcept nogil:
    """Set whether a host cannot be MASTER here, as another engine knew it; decides nothing."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Group* group = &core.groups[host.group]
    if not host.group or host.impeded == impeded:
        return
    take_out(core, group, slot)
    group.impeded += 1 if impeded else -1
    host.impeded = impeded
    put_in(core, group, slot)


cdef void groups_decide(Core* core, int64_t now_ns) noexcept nogil:
    """Decide every group again, report it, and go through the demotions of its members."""
    cdef uint32_t number
    cdef Group* group
    for number in range(1, core.group_count):
        group = &core.groups[number]
        if group.members:
            decide(core, <uint16_t>number, group.decider, now_ns)
            group.at = group.first[0] if group.first[0] else group.first[1]
            make_due(core, <uint16_t>number, DUE_WALK, now_ns)


cdef void groups_end(Core* core) noexcept nogil:
    """Forget all groups: their members leave for good, and there is none to demote."""
    cdef uint32_t slot
    for slot in range(core.slots):
        core.hosts[slot].group = core.hosts[slot].impeded = 0
    memset(core.groups, 0, core.group_count * sizeof(Group))
    core.group_count = core.first_due = 0


# ------------------------------------------------------------------------------------ what is due

cdef uint8_t group_demotion(const Core* core, uint32_t slot) noexcept nogil:
    """What the host is to be demoted by, by its group; 0 without one."""
    return demotion_by(&core.groups[core.hosts[slot].group])


cdef void groups_tell(Core* core, int64_t now_ns) noexcept nogil:
    """Report every group that has members: reports of their changes were lost."""
    cdef uint32_t number
    for number in range(1, core.group_count):
        if core.groups[number].members:
            make_due(core, <uint16_t>number, DUE_TELL, now_ns)


cdef void tell(Core* core, uint16_t number, int64_t now_ns) noexcept nogil:
    """Report a group: its members, and the first of those that are impeded."""
    cdef const Group* group = &core.groups[number]
    cdef Report* report = report_begin(core, GROUP_CHANGED, group.decider, now_ns)
    cdef uint32_t[NAMED] named
    cdef uint32_t at = group.first[1], i
    if report == NULL:
        return
    for i in range(NAMED):
        named[i] = at
        if at:
            at = core.hosts[at - 1].group_next
    report.detail, report.state = number, group.demoted
    report.value = group.impeded | <uint64_t>group.members << 32
    memcpy(report.peer, named, sizeof(named))
    report_end(core)


cdef uint32_t next_to_demote(Core* core, uint32_t* visits, int64_t now_ns) noexcept nogil:
    """The next member whose demotion by its group has to change, see group_demotion().

    NOBODY: there is none, or it has looked at `visits` members. Reports groups that it comes to.
    """
    cdef Group* group
    cdef uint32_t slot
    cdef uint16_t number
    while core.first_due:
        number = core.first_due
        group = &core.groups[number]
        if group.due & DUE_TELL:                # before what its members report
            group.due &= ~<uint32_t>DUE_TELL
            tell(core, number, now_ns)
        while group.due & DUE_WALK and group.at:
            if not visits[0]:
                return NOBODY
            visits[0] -= 1
            slot = group.at - 1
            group.at = after(group, &core.hosts[slot])
            if core.hosts[slot].ordered[<int>BY_GROUP] != demotion_by(group):
                return slot
        if group.due & DUE_AGAIN:
            group.due &= ~<uint32_t>DUE_AGAIN
            group.at = group.first[0] if group.first[0] else group.first[1]
            continue
        group.due = 0
        core.first_due = group.next_due
    return NOBODY
