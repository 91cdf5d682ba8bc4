"""What must hold in a simulated world: at each step of a machine, and once faults are over.

Compares what an engine did with what the world knows without it: who sent a frame, whose key it
bears, when it arrived, which addresses the kernel has, who can hear whom. The rules are those of
protocol and election alone, written here a second time; of the engine only a host's interval and
master-down time are asked. The first rule that does not hold ends the run. IPv4 and the dialect
ucarp; another dialect brings its own `precedes` and `least_master_down_ns`.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast._core cimport Report
from carp_fast._simulator_network cimport (
    ABSENT, ADDRESS_KEPT, ADDRESS_MISSING, Arrival, CHANGED_WHILE_QUIET, FOREIGN_THERE, Frame,
    HEARD_TOO_LATELY, HEARD_UNREAD, LINK_BLOCKED, Machine, NEVER_QUIET, NOT_ANNOUNCED, NO_MASTER,
    OURS, PAUSE_NONE, PREEMPTED_WRONGLY, RESIGNED_WITH_ADDRESSES, SENT_BY_BACKUP,
    SILENCE_UNPROVEN, SLOT_IS_CHECKED, SLOWER_MASTER, STILL_INIT, Slot, TRACE_CHECKED,
    TRACE_STATE, TWO_MASTERS, World, YIELDED_WRONGLY, broken, event_push, machine_number,
    nic_works, trace)
from carp_fast._vhid cimport (
    ADDRESS_LOST, BACKUP, DEMOTED_ADVSKEW, FASTER_MASTER, INIT, IN_USE, MANAGE_ADDRESSES, MASTER,
    MASTER_DOWN, PREEMPTED, PREEMPT_ALWAYS, PREEMPT_NEVER, RESIGNED, SECOND_NS, SEND_DEMOTED,
    TIE_LOST, VirtualHost, vhid_advskew, vhid_interval, vhid_interval_ns, vhid_master_down,
    vhid_master_down_ns)

cdef int64_t MS_NS = 1000000
cdef int64_t SLACK_NS = 50 * 1000000            # for ticks, delays and turns, in every bound
cdef int64_t CLOCK_SLACK_NS = 25 * 1000000      # what a stepped wall clock may do to a deadline
cdef int64_t CLOCK_STEPPED_NS = 10 * <int64_t>SECOND_NS     # ... and for how long
cdef int64_t NEVER_NS = 300 * <int64_t>SECOND_NS            # without rest for so long: broken


cdef int64_t least_master_down_ns(const VirtualHost* host) noexcept nogil:
    """The master-down time without demotion: it is never shorter. 1/256 s as in ucarp."""
    cdef uint32_t least = <uint32_t>host.dead_ratio * host.advbase * 256 + host.advskew
    if host.advbase == 0:
        least = <uint32_t>host.dead_ratio * host.advskew
    return <int64_t>least * SECOND_NS // 256


cdef void check_silence(World* world, Machine* machine, uint32_t slot,
                        int64_t at_ns) noexcept nogil:
    """It rose for silence: nobody was heard, and it did listen, for a whole master-down time."""
    cdef Slot* known = &machine.slots[slot]
    cdef const Arrival* arrival
    cdef uint32_t i, number = machine_number(world, machine)
    cdef int64_t wait_ns = least_master_down_ns(&machine.core.hosts[slot])
    cdef int64_t slack_ns = 0
    if machine.clock_stepped_ns and at_ns - machine.clock_stepped_ns < CLOCK_STEPPED_NS:
        slack_ns = CLOCK_SLACK_NS
    if at_ns - machine.attentive_ns < wait_ns:
        broken(world, SILENCE_UNPROVEN, number, slot, at_ns - machine.attentive_ns)
    if known.heard_at_ns and at_ns - known.heard_at_ns < wait_ns - slack_ns:
        broken(world, HEARD_TOO_LATELY, number, slot, at_ns - known.heard_at_ns)
    if not known.heard_at_ns:
        return
    for i in range(machine.socket_count):
        arrival = &machine.socket[(machine.socket_head + i) % world.socket_room]
        if (arrival.at_ns < known.heard_at_ns + wait_ns - slack_ns
                and world.frames[arrival.frame].slot == slot
                and keeps_backup(machine, &world.frames[arrival.frame])):
            broken(world, HEARD_UNREAD, number, slot, at_ns - arrival.at_ns)


cdef bint keeps_backup(const Machine* machine, const Frame* frame) noexcept nogil:
    """Whether the frame is genuine, and its master advertises often enough for this host."""
    cdef const uint8_t* carp = frame.bytes + 34
    return (frame.key == machine.slots[frame.slot].key
            and carp[5] * 256 + carp[2] <= <int>vhid_master_down(&machine.core.hosts[frame.slot]))


cdef bint precedes(const uint8_t* one, const uint8_t* other) noexcept nogil:
    """Whether an IPv4 address wins a tie in ucarp: the lower, its last octet counting most."""
    cdef int i
    for i in range(3, -1, -1):
        if one[i] != other[i]:
            return one[i] < other[i]
    return False


cdef void on_state(World* world, Machine* machine, const Report* report) noexcept nogil:
    cdef uint32_t slot = report.slot, number = machine_number(world, machine)
    cdef uint32_t theirs = report.peer_advbase * 256 + report.peer_advskew
    cdef Slot* known = &machine.slots[slot]
    cdef const VirtualHost* host = &machine.core.hosts[slot]
    trace(world, TRACE_STATE, number, slot, report.state, report.reason)
    if report.state == report.previous:
        return
    if world.slot_quiet[slot]:
        broken(world, CHANGED_WHILE_QUIET, number, slot, report.reason)
    mark_dirty(machine, slot)
    known.state = report.state
    known.owes_announcement = report.state == MASTER
    if report.state == MASTER:
        known.owes_last = known.owes_resignation = False
        world.tally.take_overs += 1
        if report.reason == MASTER_DOWN:
            check_silence(world, machine, slot, report.at_ns)
        elif report.reason == PREEMPTED and (
                host.preempt == PREEMPT_NEVER or theirs <= vhid_interval(host)):
            broken(world, PREEMPTED_WRONGLY, number, slot, theirs)
    elif report.previous == MASTER:
        known.owes_last = report.reason == FASTER_MASTER
        known.owes_resignation = report.reason == RESIGNED or report.reason == ADDRESS_LOST
        if report.reason == FASTER_MASTER and theirs >= vhid_interval(host):
            broken(world, YIELDED_WRONGLY, number, slot, theirs)
        if report.reason == TIE_LOST and not precedes(report.peer, host.source4):
            broken(world, YIELDED_WRONGLY, number, slot, theirs)


cdef void check_sending(World* world, Machine* machine, uint32_t slot,
                        const uint8_t* carp) noexcept nogil:
    """A MASTER advertises, and who has just left it says so once; a BACKUP is silent."""
    cdef Slot* known = &machine.slots[slot]
    cdef VirtualHost* host = &machine.core.hosts[slot]
    cdef uint32_t i, number = machine_number(world, machine)
    if carp[2] == 255 and carp[5] == 255:
        if not known.owes_resignation:
            broken(world, SENT_BY_BACKUP, number, slot, carp[5] * 256 + carp[2])
        known.owes_resignation = False
        for i in range(host.block.address_count):
            if known.kernel[i] == OURS and not known.refused >> i & 1:
                broken(world, RESIGNED_WITH_ADDRESSES, number, slot, i)
    elif host.state != MASTER:
        if not known.owes_last:
            broken(world, SENT_BY_BACKUP, number, slot, carp[5] * 256 + carp[2])
        known.owes_last = False


cdef void check_addresses(World* world, Machine* machine, uint32_t slot) noexcept nogil:
    """Nothing is left to do: the kernel has the addresses of a MASTER, and no other's."""
    cdef VirtualHost* host = &machine.core.hosts[slot]
    cdef Slot* known = &machine.slots[slot]
    cdef uint32_t i, segment = world.slot_segment[slot], number = machine_number(world, machine)
    cdef bint wanted = False
    cdef bint same = machine.nics[segment].ifindex == machine.core.interfaces[segment].ifindex
    if host.block != NULL:
        wanted = host.state == MASTER and host.flags & MANAGE_ADDRESSES
    for i in range(known.right.block.address_count):
        if known.refused >> i & 1 or known.kernel[i] == FOREIGN_THERE:
            continue                                    # said in a report
        if known.kernel[i] == OURS and not wanted:
            broken(world, ADDRESS_KEPT, number, slot, i)
        if known.kernel[i] == ABSENT and wanted and same and not known.disturbed:
            broken(world, ADDRESS_MISSING, number, slot, i)
    if known.owes_announcement and host.block != NULL and host.state == MASTER:
        broken(world, NOT_ANNOUNCED, number, slot, 0)


cdef void mark_dirty(Machine* machine, uint32_t slot) noexcept nogil:
    if not machine.slots[slot].dirty:
        machine.slots[slot].dirty = True
        machine.dirty[machine.dirty_count] = slot
        machine.dirty_count += 1

# ------------------------------------------------------------------------- once faults are over

cdef bint takes_part(const World* world, uint32_t number, uint32_t slot) noexcept nogil:
    """Whether this machine could be MASTER of the slot: nothing keeps it from it."""
    cdef const Machine* machine = &world.machines[number]
    return (nic_works(machine, world.slot_segment[slot]) and machine.paused == PAUSE_NONE
            and machine.slots[slot].right != NULL and machine.core.hosts[slot].flags & IN_USE
            and machine.core.hosts[slot].reason != RESIGNED)


cdef uint32_t connected(const World* world, uint32_t number, uint32_t slot) noexcept nogil:
    """The machines that take part and that this one hears and is heard by, as bits; itself too."""
    cdef uint32_t segment = world.slot_segment[slot], other, found = 0
    for other in range(world.machine_count):
        if takes_part(world, other, slot) and (other == number or not (
                world.links[segment][number][other].fields[LINK_BLOCKED]
                or world.links[segment][other][number].fields[LINK_BLOCKED])):
            found |= <uint32_t>1 << other
    return found


cdef void check_election(World* world, uint32_t slot) noexcept nogil:
    """Of machines that hear each other exactly one is MASTER, and the fastest that may preempt."""
    cdef uint32_t number, other, peers, masters, seen = 0
    cdef const VirtualHost* host
    cdef const VirtualHost* master
    for number in range(world.machine_count):
        if seen >> number & 1 or not takes_part(world, number, slot):
            continue
        peers = connected(world, number, slot)
        seen |= peers
        masters = 0
        master = NULL
        for other in range(world.machine_count):
            if not peers >> other & 1:
                continue
            host = &world.machines[other].core.hosts[slot]
            if host.state == INIT:
                broken(world, STILL_INIT, other, slot, host.reason)
            if host.state == MASTER:
                masters += 1
                master = host
                trace(world, TRACE_CHECKED, other, slot, other, 0)
        if masters != 1:
            broken(world, TWO_MASTERS if masters else NO_MASTER, number, slot, masters)
            return
        for other in range(world.machine_count):
            host = &world.machines[other].core.hosts[slot]
            if (peers >> other & 1 and vhid_interval(host) < vhid_interval(master)
                    and (host.preempt == PREEMPT_ALWAYS
                         or (host.preempt != PREEMPT_NEVER
                             and vhid_advskew(master) >= DEMOTED_ADVSKEW))):
                broken(world, SLOWER_MASTER, other, slot, vhid_interval(master))


cdef void check_slot(World* world, uint32_t slot) noexcept nogil:
    """When the slot has had its time since the last fault, check it; from then on it is quiet.

    Its time: the slowest master-down + one interval + 50 ms; where configured, also the startup
    delay, and the preempt delay with the advertisement that ends it.
    """
    cdef int64_t since_ns = max(world.disturbed_ns, world.slot_disturbed_ns[slot])
    cdef int64_t down_ns = 0, interval_ns = 0, startup_ns = 0, preempt_ns = 0, bound_ns
    cdef bint recovering = False
    cdef uint32_t number
    cdef const VirtualHost* host
    if world.slot_quiet[slot]:
        return
    for number in range(world.machine_count):
        if not takes_part(world, number, slot):
            continue
        host = &world.machines[number].core.hosts[slot]
        down_ns = max(down_ns, vhid_master_down_ns(host))
        interval_ns = max(interval_ns, vhid_interval_ns(host))
        startup_ns = max(startup_ns, host.startup_delay_ms * MS_NS)
        preempt_ns = max(preempt_ns, host.preempt_delay_ms * MS_NS)
        # Three advertisements after its sends succeed again it is faster: another election.
        if host.state == MASTER and host.flags & SEND_DEMOTED:
            recovering = True
    bound_ns = since_ns + down_ns + interval_ns + SLACK_NS + startup_ns
    if preempt_ns:
        bound_ns += preempt_ns + interval_ns
    if recovering and world.now_ns >= bound_ns:
        bound_ns = world.now_ns + interval_ns
    if world.now_ns < bound_ns:
        if bound_ns - world.quiet_ns > NEVER_NS:
            broken(world, NEVER_QUIET, 0, slot, recovering)
        event_push(world, bound_ns, SLOT_IS_CHECKED, slot, 0)
        return
    check_election(world, slot)
    world.slot_quiet[slot] = True
    world.quiet_count += 1
