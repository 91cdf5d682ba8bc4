"""What must hold in a simulated world: at each step of a machine, and once faults are over.

Compares what an engine did with what the world knows independently: the sender and the key of a
frame, when it arrived, the addresses of the kernel, who can hear whom. The rules of election and
replay are those of _rules.pyx. The first invariant that does not hold ends the run.

Two machines are *connected* for a virtual host when they hear each other, both ways over the same
one of its families. A part of a segment is judged when all its machines are connected with each
other, and none of them hears a machine outside: it must have exactly one MASTER.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport FAMILY_SILENT, Interface, Report
from carp_fast.engine._lanes cimport LANE_COMMON
from carp_fast.simulate._addresses cimport is_loss, mark_dirty, on_loss
from carp_fast.simulate._groups cimport check_group, note_link
from carp_fast.simulate._network cimport (
    ACCEPTED_LOOP, ACCEPTED_REPLAY, ACCEPTED_UNAUTHENTIC, Arrival, CHANGED_WHILE_QUIET,
    CHANGED_WITHOUT_CAUSE, EVERYBODY, Frame, HEARD_TOO_LATELY, HEARD_UNREAD, JITTER_WRONG,
    LINK_BLOCKED, Link, Machine, NEVER_QUIET, NO_MASTER, OVER_4, OVER_6, PAUSE_NONE,
    PREEMPTED_WRONGLY, QUIET, REFUSED_GENUINE, RESTLESS, ROSE_IN_MAINTENANCE, SILENCE_IMAGINED,
    SILENCE_UNPROVEN, SILENCE_UNSAID, SLOT_IS_CHECKED, SLOWER_MASTER, SOCKETS, STILL_INIT, Slot,
    Socket, TIE_UNSETTLED, TRACE_CHECKED, TRACE_FAMILY, TRACE_STATE, TWO_MASTERS, UNCHECKED, World,
    YIELDED_WRONGLY, broken, event_push, has_sorted, longest_delay_ns, machine_number, nic_works,
    trace)
from carp_fast.simulate._rules cimport (
    Expected, TO_BE_REFUSED, TO_BE_TAKEN, rule_could_hold, rule_counter, rule_fell,
    rule_from_master, rule_heard_after_tie, rule_interval_ns, rule_jitter_most_ns, rule_learn,
    rule_least_master_down_ns, rule_note_master, rule_least_skew_ns, rule_leaves,
    rule_silence_until_ns, rule_may_preempt, rule_more_demoted, rule_outdone, rule_replaces,
    rule_replay, rule_resigns, rule_yields)
from carp_fast.simulate._sending cimport check_demotion
from carp_fast.engine._vhid cimport (
    BACKUP, BY_MAINTENANCE, DEMOTIONS, DIALECT_UCARP, FASTER_MASTER, GROUP_DEMOTED, INIT,
    IN_MAINTENANCE, IN_USE,
    LESS_DEMOTED_MASTER, MASTER, MASTER_DEMOTED, MASTER_DOWN, MASTER_RESIGNED, MASTER_TOO_SLOW,
    NO_SOURCE, PREEMPTED, RESIGNED, SECOND_NS, SEND_DEMOTED, SILENT_4, SILENT_6, TAKEN_OVER,
    TIE_LOST, TRACK_FAILED, VirtualHost, vhid_interval_ns, vhid_master_down_ns, YIELDED)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport BAD_DESTINATION, LOOP, REPLAY, Verdict

cdef int64_t MS_NS = 1000000
cdef int64_t COMMON_LAG_NS = 250 * 1000000       # the longest delay by strangers' backlog
cdef int64_t SLACK_NS = 50 * 1000000            # for ticks, delays and turns, in every limit
cdef int64_t CLOCK_SLACK_NS = 25 * 1000000      # the effect of a stepped wall clock on a deadline
cdef int64_t CLOCK_STEPPED_NS = 10 * <int64_t>SECOND_NS     # ... and how long it lasts
cdef int64_t NEVER_NS = 1500 * <int64_t>SECOND_NS           # never quiet for longer: broken
cdef uint8_t ROUNDS_PROMISED = 6                # ties lost by all: one slot in 100 may have more
cdef uint8_t CROSSINGS_MAX = 12                 # ... more than this is a failure


# -------------------------------------------------------------------------------- of one machine

cdef int64_t clock_slack_ns(const Machine* machine, int64_t at_ns) noexcept nogil:
    if machine.clock_stepped_ns and at_ns - machine.clock_stepped_ns < CLOCK_STEPPED_NS:
        return CLOCK_SLACK_NS
    return 0


cdef void check_silence(World* world, Machine* machine, uint32_t slot,
                        int64_t at_ns) noexcept nogil:
    """Check a rise for silence: it heard no master, while it listened for a master-down time."""
    cdef Slot* known = &machine.slots[slot]
    cdef const Arrival* arrival
    cdef const Frame* frame
    cdef const Socket* socket
    cdef uint32_t i, lane, number = machine_number(world, machine)
    cdef int64_t wait_ns = rule_least_master_down_ns(known)
    cdef int64_t slack_ns = clock_slack_ns(machine, at_ns)
    cdef int64_t until_ns = rule_silence_until_ns(machine, known, &machine.core.hosts[slot],
                                                  known.heard_at_ns)
    if at_ns < until_ns - slack_ns:
        broken(world, SILENCE_UNPROVEN, number, slot, until_ns - at_ns)
    if known.heard_at_ns and at_ns - known.heard_at_ns < wait_ns - slack_ns:
        broken(world, HEARD_TOO_LATELY, number, slot, at_ns - known.heard_at_ns)
    if not known.heard_at_ns:
        return
    for lane in range(SOCKETS):
        if (lane == LANE_COMMON and has_sorted(machine)
                and at_ns - known.heard_at_ns - wait_ns > COMMON_LAG_NS - slack_ns - MS_NS):
            continue
        socket = &machine.sockets[lane]
        for i in range(socket.count):
            arrival = &socket.arrivals[(socket.head + i) % world.socket_room]
            frame = NULL if arrival.frame == NOBODY else &world.frames[arrival.frame]
            if (frame != NULL and arrival.at_ns < known.heard_at_ns + wait_ns - slack_ns
                    and frame.slot == slot and frame.sender != number
                    and keeps_backup(machine, frame) and is_addressed(machine, frame)
                    and rule_replay(known, &machine.core.hosts[slot], frame, False,
                                    arrival.at_ns) == TO_BE_TAKEN):
                broken(world, HEARD_UNREAD, number, slot, at_ns - arrival.at_ns)


cdef bint keeps_backup(const Machine* machine, const Frame* frame) noexcept nogil:
    """Whether the frame is genuine, and its master advertises often enough for this host."""
    return (frame.key == machine.slots[frame.slot].key
            and not rule_leaves(frame, &machine.core.hosts[frame.slot]))


cdef bint has_source(const Machine* machine, const Frame* frame) noexcept nogil:
    """Whether the engine has an address of the frame's family."""
    if frame.family == 4:
        return machine.core.interfaces[frame.segment].has_source
    return machine.core.interfaces[frame.segment].has_source6


cdef bint is_addressed(const Machine* machine, const Frame* frame) noexcept nogil:
    """Whether the engine has the address that a unicast goes to."""
    return frame.to == EVERYBODY or has_source(machine, frame)


cdef void on_taken(World* world, Machine* machine, const Frame* frame, uint8_t state, bint keeps,
                   bint leaves, Expected expected, int64_t at_ns,
                   int64_t arrived_ns) noexcept nogil:
    """Check a frame that the engine accepted; the host's state is from before.

    A frame that arrived before one that was accepted already, from another socket, shortens no wait
    and begins no take-over.
    """
    cdef uint32_t number = machine_number(world, machine)
    cdef Slot* known = &machine.slots[frame.slot]
    cdef bint own = frame.sender == number and not frame.strange, late = at_ns < known.latest_ns
    cdef bint last = at_ns >= known.family_at_ns[frame.family == 6]
    world.tally.heard += 1
    if frame.key != known.key:
        broken(world, ACCEPTED_UNAUTHENTIC, number, frame.slot, frame.sender)
        return
    if state == BACKUP:
        if not late:
            note_permission(machine, frame)
        rule_heard_after_tie(known, &machine.core.hosts[frame.slot], frame, at_ns)
    if (own and has_source(machine, frame) and known.first
            and rule_counter(frame) - known.first <= known.counter - known.first):
        broken(world, ACCEPTED_LOOP, number, frame.slot, <int64_t>rule_counter(frame))
    if expected == TO_BE_REFUSED:
        broken(world, ACCEPTED_REPLAY, number, frame.slot, frame.sender)
    rule_learn(world, known, &machine.core.hosts[frame.slot], frame, True, at_ns)
    known.latest_ns = max(known.latest_ns, at_ns)
    if last:
        known.family_at_ns[frame.family == 6] = at_ns
    if state == BACKUP and keeps and not own:
        known.heard_at_ns = max(known.heard_at_ns, arrived_ns)
        if not late:
            known.left_at_ns = 0
    elif state == BACKUP and leaves:
        if not rule_from_master(known, frame):
            return
        if known.left_at_ns == 0 and not late:
            known.left_at_ns = at_ns
        if last and not late:
            known.resigned = rule_resigns(frame)
    if known.keeper[frame.family == 6] == 0 or state != INIT and last:
        rule_note_master(known, frame, late)


cdef void note_permission(Machine* machine, const Frame* frame) noexcept nogil:
    """Note what the frame permits a BACKUP that lost a tie, after its jitter."""
    cdef Slot* known = &machine.slots[frame.slot]
    cdef const VirtualHost* host = &machine.core.hosts[frame.slot]
    if rule_may_preempt(known, host, frame):
        known.may_take_over = PREEMPTED
    elif rule_more_demoted(known, host, frame):
        known.may_take_over = MASTER_DEMOTED
    elif not rule_leaves(frame, host):
        known.may_take_over = 0


cdef void on_refused(World* world, Machine* machine, const Frame* frame, Verdict verdict,
                     Expected expected, int64_t at_ns) noexcept nogil:
    """Check a frame that the engine refused: a genuine one only as its own, or as sent before."""
    cdef uint32_t number = machine_number(world, machine)
    cdef Slot* known = &machine.slots[frame.slot]
    cdef bint allowed = frame.strange
    world.tally.rejected += 1
    if frame.key != known.key or not machine.core.hosts[frame.slot].flags & IN_USE:
        return
    if verdict == LOOP:
        allowed |= frame.sender == number
    elif verdict == REPLAY:
        allowed |= expected != TO_BE_TAKEN or frame.sender == number
        rule_learn(world, known, &machine.core.hosts[frame.slot], frame, False, at_ns)
    elif verdict == BAD_DESTINATION:
        allowed |= not is_addressed(machine, frame)
    if not allowed:
        broken(world, REFUSED_GENUINE, number, frame.slot, verdict)


# ------------------------------------------------------------------------------ changes of state

cdef void on_state(World* world, Machine* machine, const Report* report) noexcept nogil:
    cdef uint32_t slot = report.slot, number = machine_number(world, machine)
    cdef Slot* known = &machine.slots[slot]
    trace(world, TRACE_STATE, number, slot, report.state, report.reason)
    note_link(known, report)
    if report.state == report.previous:
        return
    if world.slot_rest[slot] == QUIET:
        broken(world, CHANGED_WHILE_QUIET, number, slot, report.reason)
    mark_dirty(machine, slot)
    known.state = report.state
    known.owes_announcement = report.state == MASTER
    known.told = 0
    if report.state == INIT:
        known.lost_tie = False
        known.ties = 0
    elif known.barred or known.withheld:
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
    if report.state == MASTER:
        known.rose_ns = report.at_ns
        known.owes_last = known.owes_resignation = False
        world.tally.take_overs += 1
        on_rise(world, machine, report)
        known.left_at_ns = 0
    elif report.previous == MASTER:
        known.owes_last = report.reason == FASTER_MASTER
        known.owes_resignation = (
            report.reason == RESIGNED or is_loss(report.reason) or report.reason == NO_SOURCE
            or is_ordered(report.reason) or report.reason == GROUP_DEMOTED
            or report.reason == TRACK_FAILED
            or machine.leaving[world.slot_segment[slot]])
        known.leaving_ns = report.at_ns
        if is_loss(report.reason):
            on_loss(world, machine, report)
        on_fall(world, machine, report)


cdef inline bint is_ordered(uint8_t reason) noexcept nogil:
    """Whether a MASTER that steps down for this reason was ordered to hand over."""
    return reason == YIELDED or reason == IN_MAINTENANCE


cdef bint may_be_ordered(const Slot* known, uint8_t reason, uint8_t state) noexcept nogil:
    """Whether the host obeys an order just now that has this reason and this state."""
    if reason == IN_MAINTENANCE and state == INIT:
        return known.withheld
    return known.bidden == reason


cdef bint is_cause(const Machine* machine, uint32_t slot) noexcept nogil:
    """Whether a genuine frame of the slot is being received."""
    return (machine.cause != NULL and machine.cause.slot == slot
            and machine.cause.key == machine.slots[slot].key)


cdef void on_rise(World* world, Machine* machine, const Report* report) noexcept nogil:
    """Check a rise to MASTER: for silence, or for a frame that permits it."""
    cdef uint32_t slot = report.slot, number = machine_number(world, machine)
    cdef Slot* known = &machine.slots[slot]
    cdef const VirtualHost* host = &machine.core.hosts[slot]
    cdef bint by_frame = report.reason == PREEMPTED or report.reason == MASTER_DEMOTED
    if report.reason == TAKEN_OVER:
        if known.bidden != TAKEN_OVER:
            broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
        elif known.ordered[<int>BY_MAINTENANCE]:
            broken(world, ROSE_IN_MAINTENANCE, number, slot, report.reason)
        elif not rule_could_hold(known, host):
            broken(world, PREEMPTED_WRONGLY, number, slot, report.reason)
        return
    if known.ordered[<int>BY_MAINTENANCE] and by_frame:
        broken(world, ROSE_IN_MAINTENANCE, number, slot, report.reason)
    if known.lost_tie and machine.cause == NULL and report.reason == known.may_take_over:
        return
    if by_frame != is_cause(machine, slot) or by_frame != (machine.cause != NULL):
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
    elif by_frame and report.at_ns < known.latest_ns:
        broken(world, PREEMPTED_WRONGLY, number, slot, report.at_ns - known.latest_ns)
    elif report.reason == MASTER_DOWN:
        check_silence(world, machine, slot, report.at_ns)
    elif report.reason == MASTER_RESIGNED or report.reason == MASTER_TOO_SLOW:
        if known.resigned != (report.reason == MASTER_RESIGNED):
            broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
        if not known.left_at_ns or (report.at_ns - known.left_at_ns
                                    + clock_slack_ns(machine, report.at_ns)
                                    < rule_least_skew_ns(known)):
            broken(world, HEARD_TOO_LATELY, number, slot, report.at_ns - known.left_at_ns)
    elif report.reason == PREEMPTED:
        if (not rule_may_preempt(known, host, machine.cause)
                or rule_outdone(known, host, machine.cause, report.at_ns)):
            broken(world, PREEMPTED_WRONGLY, number, slot, report.reason)
    elif report.reason == MASTER_DEMOTED:
        if not rule_more_demoted(known, host, machine.cause):
            broken(world, PREEMPTED_WRONGLY, number, slot, report.reason)
    else:
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)


cdef bint lacks_source(const World* world, const Machine* machine, uint32_t slot) noexcept nogil:
    """Whether the machine has told its engine that there is no address of one of its families."""
    cdef const Interface* interface = &machine.core.interfaces[world.slot_segment[slot]]
    cdef uint8_t families = world.slot_families[slot]
    return (families & OVER_4 and not interface.has_source
            or families & OVER_6 and not interface.has_source6)


cdef void on_fall(World* world, Machine* machine, const Report* report) noexcept nogil:
    """Check that a MASTER stepped down: it yielded to a frame, or was ordered to."""
    cdef uint32_t slot = report.slot, number = machine_number(world, machine)
    cdef Slot* known = &machine.slots[slot]
    cdef const VirtualHost* host = &machine.core.hosts[slot]
    cdef int64_t waits_ns
    cdef bint yielded = (report.reason == FASTER_MASTER or report.reason == TIE_LOST
                         or report.reason == LESS_DEMOTED_MASTER)
    if yielded != is_cause(machine, slot) or yielded != (machine.cause != NULL):
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
    elif (is_ordered(report.reason)
            and not may_be_ordered(known, report.reason, report.state)):
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
    elif report.reason == NO_SOURCE and not lacks_source(world, machine, slot):
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
    elif yielded and not rule_yields(known, host, &machine.nics[world.slot_segment[slot]],
                                     machine.cause, report.reason):
        broken(world, YIELDED_WRONGLY, number, slot, report.reason)
    elif report.reason == GROUP_DEMOTED and not known.steps_down:
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
    elif report.reason == TRACK_FAILED and not known.resigns:
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, report.reason)
    known.steps_down = known.resigns = False
    rule_fell(known, host, report.at_ns)
    if host.flags & SEND_DEMOTED and not known.muted_ns:
        known.muted_ns = report.at_ns
    if report.reason == TIE_LOST:
        known.ties += 1
        known.lost_tie = True
        known.may_take_over = 0
    waits_ns = (host.deadline_ns - max(report.at_ns, known.latest_ns)
                - vhid_master_down_ns(host))
    # Without a source it takes no part any more, and waits for nothing.
    if (report.state == BACKUP and not lacks_source(world, machine, slot)
            and not 0 <= waits_ns <= rule_jitter_most_ns(known, host)):
        broken(world, JITTER_WRONG, number, slot, waits_ns)
    if yielded:
        note_crossing(world, number, slot)


cdef void note_crossing(World* world, uint32_t number, uint32_t slot) noexcept nogil:
    """Count ties that all lose: on a BSD the hearer yields, and where advertisements cross, all do.

    The last may yield to one that is less demoted, and has just yielded itself. Then silence
    decides again, and jitter prevents that they rise together again: the time of the slot starts
    again, a few times at most. How often that happens is limited for two and three machines, and
    counted: the rate shows over many seeds.
    """
    cdef uint32_t other, peers = connected(world, number, slot), count = 0
    if not is_judged(world, slot, peers):
        return
    for other in range(world.machine_count):
        count += peers >> other & 1
        if peers >> other & 1 and world.machines[other].core.hosts[slot].state == MASTER:
            return
    world.tally.crossed_ties += 1
    world.slot_disturbed_ns[slot] = world.now_ns
    if world.quiet_ns and world.now_ns > world.disturbed_ns:
        world.slot_crossings[slot] += 1
        if count <= 3:
            world.tally.tied += world.slot_crossings[slot] == 1
            world.tally.long_ties += world.slot_crossings[slot] == ROUNDS_PROMISED + 1
        if world.slot_crossings[slot] > CROSSINGS_MAX:
            broken(world, TIE_UNSETTLED, number, slot, world.slot_crossings[slot])


cdef void on_family(World* world, Machine* machine, const Report* report) noexcept nogil:
    """Check a report that one of two families is silent, or heard again."""
    cdef uint32_t slot = report.slot, number = machine_number(world, machine)
    cdef const Slot* known = &machine.slots[slot]
    cdef uint8_t family = <uint8_t>report.value
    cdef bint silent = report.kind == FAMILY_SILENT
    cdef int64_t heard_ns = known.family_at_ns[family == 6]
    trace(world, TRACE_FAMILY, number, slot, family, silent)
    world.tally.silent_families += silent
    if not is_cause(machine, slot) or (machine.cause.family == family) == silent:
        broken(world, CHANGED_WITHOUT_CAUSE, number, slot, family)
    elif silent and heard_ns and report.at_ns - heard_ns < rule_least_master_down_ns(known):
        broken(world, SILENCE_IMAGINED, number, slot, report.at_ns - heard_ns)


# --------------------------------------------------------------------------- once faults are over

cdef bint takes_part(const World* world, uint32_t number, uint32_t slot) noexcept nogil:
    """Whether this machine could be MASTER of the slot: nothing prevents it."""
    cdef const Machine* machine = &world.machines[number]
    cdef uint32_t segment = world.slot_segment[slot]
    return (nic_works(machine, segment) and machine.paused == PAUSE_NONE
            and not world.slot_families[slot] & ~machine.nics[segment].sources
            and machine.slots[slot].right != NULL and not machine.slots[slot].barred
            and not machine.slots[slot].withheld
            and machine.core.hosts[slot].flags & IN_USE
            and machine.core.hosts[slot].reason != RESIGNED)


cdef uint8_t open_to(const World* world, uint32_t slot, uint32_t sender,
                     uint32_t receiver) noexcept nogil:
    """The slot's families that pass from one machine to another, as bits."""
    cdef const Link* link = &world.links[world.slot_segment[slot]][sender][receiver]
    return world.slot_families[slot] & ~<uint8_t>link.fields[LINK_BLOCKED]


cdef uint32_t connected(const World* world, uint32_t number, uint32_t slot) noexcept nogil:
    """The machines that take part and are connected with this one, itself included, as bits."""
    cdef uint32_t other, found = 0
    for other in range(world.machine_count):
        if takes_part(world, other, slot) and (other == number or (
                open_to(world, slot, number, other) & open_to(world, slot, other, number))):
            found |= <uint32_t>1 << other
    return found


cdef bint is_judged(const World* world, uint32_t slot, uint32_t peers) noexcept nogil:
    """Whether all machines of a part are connected with each other, and hear no other."""
    cdef uint32_t number, other
    for number in range(world.machine_count):
        if not peers >> number & 1:
            continue
        if connected(world, number, slot) != peers:
            return False
        for other in range(world.machine_count):
            if (not peers >> other & 1 and takes_part(world, other, slot)
                    and open_to(world, slot, other, number)):
                return False
    return True


cdef bint check_part(World* world, uint32_t slot, uint32_t peers) noexcept nogil:
    """Check that exactly one of them is MASTER, and none that must replace it is BACKUP.

    Returns whether it can stay so: no BACKUP's wait is shorter than its master's interval.
    """
    cdef uint32_t other, masters = 0, which = 0
    cdef bint may_rest = True
    cdef const Machine* machine
    for other in range(world.machine_count):
        if not peers >> other & 1:
            continue
        machine = &world.machines[other]
        if machine.core.hosts[slot].state == INIT:
            broken(world, STILL_INIT, other, slot, machine.core.hosts[slot].reason)
        if machine.core.hosts[slot].state == MASTER:
            masters += 1
            which = other
            trace(world, TRACE_CHECKED, other, slot, other, 0)
    world.tally.judged += 1
    if masters != 1:
        for other in range(world.machine_count):
            if peers >> other & 1:
                broken(world, TWO_MASTERS if masters else NO_MASTER, other, slot, masters)
        return True
    for other in range(world.machine_count):
        machine = &world.machines[other]
        if not peers >> other & 1 or other == which:
            continue
        if rule_replaces(
                &machine.slots[slot], &machine.core.hosts[slot],
                &world.machines[which].slots[slot], &world.machines[which].core.hosts[slot]):
            broken(world, SLOWER_MASTER, other, slot, which)
        may_rest &= vhid_master_down_ns(&machine.core.hosts[slot]) > SLACK_NS + rule_interval_ns(
            &world.machines[which].slots[slot], &world.machines[which].core.hosts[slot])
    return may_rest


cdef bint check_election(World* world, uint32_t slot) noexcept nogil:
    """Check that of connected machines exactly one is MASTER, the first of those that may be.

    Returns whether all of the slot could be judged, and can stay as it is.
    """
    cdef uint32_t number, peers, seen = 0
    cdef bint at_rest = True
    for number in range(world.machine_count):
        if seen >> number & 1 or not takes_part(world, number, slot):
            continue
        peers = connected(world, number, slot)
        seen |= peers
        if not is_judged(world, slot, peers) or not check_part(world, slot, peers):
            at_rest = False
    return at_rest


cdef void check_families(World* world, uint32_t slot) noexcept nogil:
    """Long after the faults: a BACKUP has reported which family is silent, and no other."""
    cdef uint32_t number, other, expected
    cdef const VirtualHost* host
    if world.slot_families[slot] != OVER_4 | OVER_6:
        return
    for number in range(world.machine_count):
        host = &world.machines[number].core.hosts[slot]
        if not takes_part(world, number, slot) or host.state != BACKUP:
            continue
        for other in range(world.machine_count):
            if (other == number or not takes_part(world, other, slot)
                    or world.machines[other].core.hosts[slot].state != MASTER):
                continue
            expected = 0
            if not open_to(world, slot, other, number) & OVER_4:
                expected |= SILENT_4
            if not open_to(world, slot, other, number) & OVER_6:
                expected |= SILENT_6
            if expected != SILENT_4 | SILENT_6 and host.flags & (SILENT_4 | SILENT_6) != expected:
                broken(world, SILENCE_UNSAID, number, slot, host.flags & (SILENT_4 | SILENT_6))


cdef bint may_tie_over_6(const World* world, uint32_t slot) noexcept nogil:
    """Whether IPv4 cannot decide every tie, between machines that have both families."""
    cdef uint32_t one, other
    if world.slot_families[slot] != OVER_4 | OVER_6:
        return False
    for one in range(world.machine_count):
        if (world.machines[one].slots[slot].right != NULL
                and world.machines[one].slots[slot].right.configured.dialect != DIALECT_UCARP):
            return False
        for other in range(world.machine_count):
            if other != one and not open_to(world, slot, one, other) & OVER_4:
                return True
    return False


cdef bint is_recovering(const World* world, uint32_t number, uint32_t slot, int64_t* since_ns,
                        int64_t* startup_ns) noexcept nogil:
    """Whether a host, or another member of its group, may soon be less demoted: another election.

    Moves `since_ns` to the end of a demotion by time, and `startup_ns` to the longest delay.
    """
    cdef const Machine* machine = &world.machines[number]
    cdef const VirtualHost* host
    cdef uint32_t other
    cdef bint recovering = False
    for other in range(world.slot_count):
        host = &machine.core.hosts[other]
        if other != slot and (not world.slot_group[slot] or not host.flags & IN_USE
                              or world.slot_group[other] != world.slot_group[slot]):
            continue
        startup_ns[0] = max(startup_ns[0], host.configured.startup_delay_ms * MS_NS)
        # An address may still be tried again; a host that gave up for one is faster after that.
        recovering |= host.retry_at_ns != 0 or host.without_ns != 0
        if host.demoted_until_ns:
            since_ns[0] = max(since_ns[0], host.demoted_until_ns - machine.origin_ns)
        # Three advertisements after its sends succeed again it is faster.
        recovering |= host.state == MASTER and host.flags & SEND_DEMOTED != 0
    return recovering


cdef void check_slot(World* world, uint32_t slot) noexcept nogil:
    """Check the slot when its time since the last fault has passed; from then on it is quiet.

    Its time: the slowest master-down + one interval + 50 ms; if configured, also the startup
    delay, and the preempt delay with the advertisement that ends it; one more interval if IPv6 must
    decide a tie that IPv4 usually decides, since it waits for IPv4 so long; one more for jitter, if
    a tie was lost; the delay of frames, both ways; another master-down and interval if a machine
    was away or dropped frames, and waits longer. It starts again when all lose a tie to each other,
    see note_crossing().
    """
    cdef int64_t since_ns = max(world.disturbed_ns, world.slot_disturbed_ns[slot])
    cdef int64_t down_ns = 0, interval_ns = 0, startup_ns = 0, preempt_ns = 0, bound_ns
    cdef bint recovering = False, tied = False, away = False
    cdef uint32_t number
    cdef const VirtualHost* host
    if world.slot_rest[slot] != UNCHECKED:
        return
    for number in range(world.machine_count):
        if not takes_part(world, number, slot):
            continue
        host = &world.machines[number].core.hosts[slot]
        down_ns = max(down_ns, vhid_master_down_ns(host))
        interval_ns = max(interval_ns, vhid_interval_ns(host))
        preempt_ns = max(preempt_ns, host.configured.preempt_delay_ms * MS_NS)
        tied |= world.machines[number].slots[slot].lost_tie
        away |= world.machines[number].away_ns + 2 * vhid_master_down_ns(host) >= since_ns
        recovering |= is_recovering(world, number, slot, &since_ns, &startup_ns)
    bound_ns = (since_ns + down_ns + interval_ns + SLACK_NS + startup_ns
                + 2 * longest_delay_ns(world, slot))
    if tied:
        bound_ns += interval_ns
    if away:
        bound_ns += down_ns + interval_ns
    if may_tie_over_6(world, slot):
        bound_ns += interval_ns
    if preempt_ns:
        bound_ns += preempt_ns + interval_ns
    if recovering and world.now_ns >= bound_ns:
        bound_ns = world.now_ns + interval_ns
    if world.now_ns < bound_ns:
        if bound_ns - world.quiet_ns > NEVER_NS:
            broken(world, NEVER_QUIET, 0, slot, recovering)
        event_push(world, bound_ns, SLOT_IS_CHECKED, slot, 0)
        return
    for number in range(world.machine_count):
        if takes_part(world, number, slot):
            check_group(world, &world.machines[number], slot)
            check_demotion(world, &world.machines[number], slot, DEMOTIONS)
    world.slot_rest[slot] = QUIET if check_election(world, slot) else RESTLESS
    world.quiet_count += 1
