"""Groups as the world sees them: whether each machine demotes them rightly.

The rule is written a second time: a group is demoted while one of its members, or all of them,
lacks a link, an interface or a source, cannot send, could not hold its addresses, or lacks a hard
condition of its tracks. All members have 240 then, and those that are MASTER step down once. Of the
engine it uses its reports, and which hosts it has. Knows no rule of election.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Report
from carp_fast.engine._vhid cimport (
    BACKUP, BY_GROUP, INIT, INTERFACE_MISSING, IN_USE, LINK_DOWN, MASTER, NO_SOURCE, PREEMPT_NEVER,
    RESIGNED, STARTUP_DELAY, VirtualHost)
from carp_fast.simulate._network cimport (
    GROUP_SPLIT, GROUP_UNEQUAL, LINK_BLOCKED, Machine, QUIET, Slot, World, broken, machine_number)
from carp_fast.simulate._rules cimport rule_least_advskew

cdef enum:
    DEMOTED_BY_GROUP = 240


cdef void note_link(Slot* known, const Report* report) noexcept nogil:
    """A state was reported: note whether the host lacks its link, interface or source.

    While its startup delay runs it is as it was before: at the first start not impeded, after its
    link was gone still.
    """
    cdef uint8_t why = report.reason
    if report.state == INIT and why == STARTUP_DELAY:
        return
    known.unlinked = report.state == INIT and (
        why == LINK_DOWN or why == INTERFACE_MISSING or why == NO_SOURCE)


cdef bint is_member(const World* world, const Machine* machine, uint32_t slot,
                    uint32_t group) noexcept nogil:
    cdef const VirtualHost* host = &machine.core.hosts[slot]
    return (world.slot_group[slot] == group and machine.slots[slot].right != NULL
            and host.flags & IN_USE and host.reason != RESIGNED)


cdef inline bint is_impeded(const Slot* known) noexcept nogil:
    return (known.unlinked != 0 or known.mute != 0 or known.lost_at_ns != 0
            or known.lacks_condition != 0)


cdef bint rule_group(const World* world, const Machine* machine, uint32_t group,
                     uint32_t* members, uint32_t* impeded) noexcept nogil:
    """Whether the group has to be demoted on this machine, and how many members decide it."""
    cdef uint32_t slot
    cdef const Slot* known
    members[0] = impeded[0] = 0
    for slot in range(world.slot_count):
        if is_member(world, machine, slot, group):
            known = &machine.slots[slot]
            members[0] += 1
            impeded[0] += is_impeded(known)
    if world.group_all[group]:
        return impeded[0] != 0 and impeded[0] == members[0]
    return impeded[0] != 0


cdef void on_group(World* world, Machine* machine, const Report* report) noexcept nogil:
    """A machine's engine reports a group: check what it decided, and note what follows.

    Members that are MASTER when the demotion begins step down, before they advertise again.
    """
    cdef uint32_t group = report.detail, members = 0, impeded = 0, slot
    cdef bint demoted = rule_group(world, machine, group, &members, &impeded)
    cdef Slot* known
    if (demoted != report.state or report.value >> 32 != members
            or <uint32_t>report.value != impeded):
        broken(world, GROUP_UNEQUAL, machine_number(world, machine), report.slot,
               <int64_t>report.value)
    world.tally.groups_demoted += demoted
    for slot in range(world.slot_count):
        known = &machine.slots[slot]
        if not is_member(world, machine, slot, group):
            continue
        if (known.ordered[<int>BY_GROUP] != 0) == demoted:
            continue
        known.ordered[<int>BY_GROUP] = DEMOTED_BY_GROUP if demoted else 0
        known.steps_down = demoted and known.state == MASTER
        world.tally.stepped_down += known.steps_down
        known.priority_ns = report.at_ns
        world.slot_disturbed_ns[slot] = world.now_ns


cdef void check_group(World* world, Machine* machine, uint32_t slot) noexcept nogil:
    """All is quiet: the host's demotion by its group is as the rule has it, reported or not."""
    cdef uint32_t members = 0, impeded = 0
    cdef const Slot* known = &machine.slots[slot]
    if world.slot_group[slot] and (known.ordered[<int>BY_GROUP] != 0) != rule_group(
            world, machine, world.slot_group[slot], &members, &impeded):
        broken(world, GROUP_UNEQUAL, machine_number(world, machine), slot, impeded)


# ------------------------------------------------------------------------------- over all machines

cdef bint is_free(const World* world, uint32_t number, uint32_t slot) noexcept nogil:
    """Whether nothing demotes this machine's host, and it may take over from one that is."""
    cdef const Machine* machine = &world.machines[number]
    cdef const Slot* known = &machine.slots[slot]
    cdef int by
    if not (machine.running and is_member(world, machine, slot, world.slot_group[slot])
            and machine.core.hosts[slot].state == BACKUP and not known.mute
            and not known.lost_at_ns and known.right.configured.preempt != PREEMPT_NEVER):
        return False
    for by in range(4):
        if known.ordered[by]:
            return False
    return rule_least_advskew(known) < DEMOTED_BY_GROUP


cdef void check_unsplit(World* world) noexcept nogil:
    """All is quiet: a machine whose group is demoted is MASTER only of what no sound one hears.

    So a group is split between machines only where the wire is, or no machine has all of it.
    """
    cdef uint32_t slot, number, other
    cdef const Machine* machine
    for slot in range(world.slot_count):
        if not world.slot_group[slot] or world.slot_rest[slot] != QUIET:
            continue
        for number in range(world.machine_count):
            machine = &world.machines[number]
            if (not machine.running or not machine.slots[slot].ordered[<int>BY_GROUP]
                    or machine.core.hosts[slot].state != MASTER):
                continue
            for other in range(world.machine_count):
                if other != number and is_free(world, other, slot) and not world.links[
                        world.slot_segment[slot]][number][other].fields[LINK_BLOCKED]:
                    broken(world, GROUP_SPLIT, number, slot, other)
