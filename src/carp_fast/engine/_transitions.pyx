"""Events of virtual hosts and their effects, deadlines, absences of the pump.

An event comes from a deadline, an advertisement heard, an interface or an order. Its row in the
table (_vhid.pyx) has the next state and the effects: deadlines are set, and the host is queued for
the actions that follow. Nothing here allocates, or uses a socket, clock or file.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cimport carp_fast.engine._vhid as vhid
from carp_fast.engine._absence cimport Absence, absence_end, absence_extended, absence_note
from carp_fast.engine._core cimport (
    Core, engine_ask, engine_end_duplicate, engine_may_tell, engine_redirect, engine_schedule,
    engine_set_deadline, engine_tell, engine_touch, Interface, REASSERTED, Report, report_begin,
    report_end, STATE_CHANGED, TICK_NS, verify_soon, engine_plan_upkeep, queue_empty, queue_pop,
    queue_push, engine_drop_source)
from carp_fast.engine._groups cimport group_review
from carp_fast.engine._recorder cimport (
    RECORD_ABSENT, RECORD_DROPPED, RECORD_STATE, Record, record_input, record_output, record_turn,
    record_turn_of)
from carp_fast.engine._vhid cimport (
    Configured, Event, Source, Transition, vhid_advskew, vhid_demote, vhid_demoted_by,
    vhid_foresee_sending,
    vhid_forget_ties, vhid_heard_ns, vhid_interval_ns, vhid_jitter_ns, vhid_master,
    vhid_master_down_ns, vhid_tied, vhid_transition, VirtualHost)
from carp_fast.engine._wheel cimport NOBODY, wheel_arm, wheel_disarm, wheel_pop

cdef extern from "random.h" nogil:
    uint64_t random_mixed(uint64_t x) noexcept


cdef void tell_state(Core* core, uint32_t slot, uint8_t previous, int64_t now_ns) noexcept nogil:
    cdef Report* report = report_begin(core, STATE_CHANGED, slot, now_ns)
    cdef Record* record
    cdef const VirtualHost* host = &core.hosts[slot]
    cdef int by
    if host.state != previous:
        core.figures.interfaces[host.interface].transitions[host.state][host.reason] += 1
        core.hosts[slot].transitions += 1
    if report != NULL:
        report.previous = previous
        report.detail = core.hosts[slot].lost_reason
        for by in range(vhid.DEMOTIONS):
            report.value |= <uint64_t>vhid_demoted_by(&core.hosts[slot], by) << 8 * by
        report_end(core)
    if core.recorder.records != NULL:
        record = record_output(&core.recorder, RECORD_STATE, slot, core.hosts[slot].interface,
                               now_ns)
        record.state, record.reason = core.hosts[slot].state, core.hosts[slot].reason


cdef uint64_t random_at(const Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """A random number that depends on seed, host and time only, so that replays are exact."""
    return random_mixed((core.seed + slot) * 0x9e3779b97f4a7c15U + <uint64_t>now_ns)


cdef void arm_master_down(Core* core, VirtualHost* host, uint32_t slot, bint tie,
                          int64_t now_ns) noexcept nogil:
    """Wait a master-down time from `now_ns`, or a later arrival, longer by jitter after lost ties.

    The jitter stays until a single master has been heard for two master-down times: otherwise a
    host that waits while others tie would have the same deadline as they, and so would one that
    hears the winner over a second family.
    """
    cdef int64_t down_ns = vhid_master_down_ns(host), from_ns = max(now_ns, vhid_heard_ns(host))
    if tie:
        vhid_tied(host, random_at(core, slot, now_ns))
    elif host.ties and now_ns - host.settled_ns > 2 * down_ns:
        vhid_forget_ties(host)
    host.flags &= ~<uint32_t>vhid.OF_ONE_WAIT
    engine_set_deadline(core, slot, from_ns + down_ns + vhid_jitter_ns(host))


cdef void advertise_again(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Bring the next advertisement forward to AGAIN_AFTER, unless it is due before that.

    For advertisements that end an election. If one of those is lost, two hosts stay MASTER until
    the next, an interval later; with one loss in three frames that is half of all elections.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t at_ns = now_ns + vhid_interval_ns(host) // vhid.AGAIN_AFTER
    if at_ns < host.deadline_ns:
        host.flags |= vhid.REPEATING
        host.repeat_in += host.repeat_in != 0           # a repeated announcement keeps its time
        engine_set_deadline(core, slot, at_ns)


cdef void engine_event(Core* core, uint32_t slot, Event event, uint8_t cause,
                       int64_t now_ns) noexcept nogil:
    """Apply `event` to a host: look it up in the table, change state, queue what follows.

    `cause`: the reason, if the table leaves it to the event. `now_ns`: the time of the event;
    of an advertisement, when the kernel received it.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint8_t previous = host.state, reason
    cdef uint32_t effects
    cdef const Transition* row = vhid_transition(host.state, event)
    if row == NULL:
        return
    engine_touch(core, slot, now_ns)
    effects = row.effects
    host.state = row.next
    reason = row.reason if row.reason else cause
    if host.state != previous:
        if previous == vhid.MASTER and now_ns - host.since_ns > 2 * vhid_master_down_ns(host):
            host.ties = host.jitter_us = 0      # it was the only MASTER: the next tie is a new one
        # Heard in this time as BACKUP: otherwise nobody was taken over from.
        host.took_from_ns = (vhid_heard_ns(host) if host.state == vhid.MASTER
                             and vhid_heard_ns(host) >= host.since_ns else 0)
        host.since_ns = host.settled_ns = now_ns
        host.preempt_from_ns = host.tie_since_ns = host.without_ns = 0
        if previous == vhid.INIT:                       # addresses left by a former run
            verify_soon(core, host.interface, now_ns)
        if host.state == vhid.MASTER:
            host.flags &= ~<uint32_t>vhid.PRECEDED
            host.became_master += 1
            core.interfaces[host.interface].became_master += 1
    if effects & vhid.DISARM:
        wheel_disarm(&core.wheel, slot)
        host.deadline_ns = 0
        vhid_forget_ties(host)
        if host.flags & vhid.DUPLICATE:                 # a duplicate hears no master
            engine_end_duplicate(core, slot, now_ns)
        host.flags &= ~<uint32_t>vhid.OF_ONE_WAIT
    if effects & (vhid.ARM_MASTER_DOWN | vhid.ARM_JITTERED):
        arm_master_down(core, host, slot, effects & vhid.ARM_JITTERED, now_ns)
    if effects & vhid.ARM_SKEW and not host.flags & vhid.MASTER_LEAVES:
        host.flags = (host.flags & ~<uint32_t>vhid.EXTENDED) | vhid.MASTER_LEAVES
        engine_set_deadline(
            core, slot, now_ns + <int64_t>vhid_advskew(host) * vhid.SECOND_NS // 256)
    if effects & vhid.ARM_JITTER and not host.flags & vhid.CONTESTED:
        host.flags = (host.flags & ~<uint32_t>vhid.EXTENDED) | vhid.CONTESTED
        engine_set_deadline(core, slot, now_ns + vhid_jitter_ns(host))
    apply_effects(core, slot, effects, now_ns)
    if host.state != previous or (reason and reason != host.reason):
        host.reason = reason
        tell_state(core, slot, previous, now_ns)
        group_review(core, slot, now_ns)
    if host.flags & vhid.UNSOURCED and host.state == vhid.BACKUP:
        engine_event(core, slot, vhid.ON_NOT_READY, vhid.NO_SOURCE, now_ns)
    elif host.flags & vhid.UNSOURCED and host.state == vhid.INIT:
        engine_drop_source(core, slot)


cdef void change_addresses(Core* core, uint32_t slot, uint32_t effects,
                           int64_t now_ns) noexcept nogil:
    """The host's addresses are to be added or removed, however long the kernel takes for it."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t i
    host.repeat_in = host.retries = 0
    host.announce_at_ns = host.without_ns = host.leaving_ns = 0
    host.flags &= ~<uint32_t>(vhid.RESIGN_AFTER_REMOVAL | vhid.ANNOUNCING)
    if effects & vhid.RESIGN:
        host.flags |= vhid.RESIGN_AFTER_REMOVAL
        host.leaving_ns = now_ns
    elif effects & vhid.ADD_ADDRESSES and host.configured.manage_addresses and not host.held:
        # A frame may have come while the process was stopped: nobody could add them then.
        host.without_ns = max(now_ns, core.taken_ns)
    for i in range(host.block.address_count):           # tried again
        host.block.addresses[i].flags &= ~<uint32_t>(
            vhid.FOREIGN | vhid.LOST | vhid.LOST_WITH_OURS)
    engine_plan_upkeep(core, slot, now_ns)
    engine_redirect(core, slot)
    engine_ask(core, &core.change, slot, vhid.TO_TELL_ADDRESSES)


cdef void apply_effects(Core* core, uint32_t slot, uint32_t effects, int64_t now_ns) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    if effects & vhid.ADVERTISE:
        # One that was refused is still to be repeated, see advertisement_sent.
        if not host.failed_sends and not host.flags & vhid.REFUSED_PARTLY:
            host.flags &= ~<uint32_t>vhid.REPEATING
        host.flags &= ~<uint32_t>(vhid.OF_ONE_WAIT & ~vhid.REPEATING)
        engine_schedule(core, slot, now_ns)
        if effects & vhid.ADVERTISE_AGAIN:
            advertise_again(core, slot, now_ns)
        engine_ask(core, &core.advertise, slot, vhid.TO_ADVERTISE)
        # MASTER again: a last advertisement for stepping down before is no longer due.
        host.pending &= ~<uint32_t>(vhid.TO_ADVERTISE_LAST | vhid.TO_RESIGN)
    if effects & vhid.LAST_ADVERTISEMENT:
        engine_ask(core, &core.advertise, slot, vhid.TO_ADVERTISE_LAST)
    if effects & vhid.ANSWER and now_ns - host.answered_ns >= vhid_interval_ns(host):
        host.answered_ns = now_ns
        engine_ask(core, &core.advertise, slot, vhid.TO_ADVERTISE)
        advertise_again(core, slot, now_ns)
        if engine_may_tell(&host.told_reasserted_ms, now_ns):
            engine_tell(core, REASSERTED, slot, 0, NULL, now_ns)
        if host.flags & vhid.ANNOUNCING:                     # otherwise they are not added yet
            engine_ask(core, &core.announce, slot, vhid.TO_ANNOUNCE)
    if effects & (vhid.ADD_ADDRESSES | vhid.REMOVE_ADDRESSES):
        change_addresses(core, slot, effects, now_ns)


cdef uint8_t missing(Core* core, VirtualHost* host) noexcept nogil:
    """The Reason that keeps a host from taking part, or 0."""
    cdef const Interface* interface = &core.interfaces[host.interface]
    cdef const Configured* configured = &host.configured
    cdef bint has_source, has_source6
    if interface.ifindex == 0 or interface.renamed:
        return vhid.INTERFACE_MISSING
    if host.flags & vhid.BARRED:
        return vhid.USED_ELSEWHERE
    if host.flags & vhid.WITHHELD:
        return vhid.IN_MAINTENANCE
    if not interface.up and not configured.ignore_link_state:
        return vhid.LINK_DOWN
    # Configured, but not an address of this machine; or the interface's own, and it has none.
    has_source = not configured.source_missing if configured.own_source else interface.has_source
    has_source6 = (not configured.source6_missing if configured.own_source6
                   else interface.has_source6)
    if (configured.expects_4 and not has_source) or (configured.expects_6 and not has_source6):
        return vhid.NO_SOURCE
    return 0


cdef void engine_try_ready(Core* core, uint32_t slot, uint8_t cause, int64_t now_ns) noexcept nogil:
    """Move a host as its interface permits: out of INIT, after its startup delay, or back.

    A MASTER without a source waits for another one until it has to advertise: a DHCP client removes
    an address before it adds the next. Then it advertises from that immediately.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint8_t lacks = missing(core, host)
    if host.reason == vhid.RESIGNED:
        return                                          # it left on purpose and for ever
    if lacks == vhid.NO_SOURCE and host.state == vhid.MASTER:
        engine_touch(core, slot, now_ns)
        host.flags |= vhid.UNSOURCED
        return
    if not lacks and host.flags & vhid.UNSOURCED:
        engine_touch(core, slot, now_ns)
        host.flags &= ~<uint32_t>vhid.UNSOURCED
        if host.state == vhid.MASTER:
            engine_ask(core, &core.advertise, slot, vhid.TO_ADVERTISE)
    if host.state == vhid.MASTER and (lacks == vhid.IN_MAINTENANCE or (
            lacks and core.interfaces[host.interface].renamed)):
        engine_event(core, slot, vhid.ON_RENAMED, lacks, now_ns)
    elif lacks:
        engine_event(core, slot, vhid.ON_NOT_READY, lacks, now_ns)
    elif host.state == vhid.INIT and host.deadline_ns == 0:
        if host.configured.startup_delay_ms:
            host.reason = vhid.STARTUP_DELAY
            engine_set_deadline(
                core, slot, now_ns + host.configured.startup_delay_ms * <int64_t>1000000)
            tell_state(core, slot, vhid.INIT, now_ns)
        else:
            engine_event(core, slot, vhid.ON_READY, cause, now_ns)


cdef void note_absence(Core* core, uint8_t kind, int64_t since_ns, int64_t now_ns,
                       int64_t asleep_ns) noexcept nogil:
    cdef Absence absence
    cdef Record* record
    cdef int64_t[2] since
    absence.since_ns, absence.until_ns, absence.asleep_ns = since_ns, now_ns, asleep_ns
    absence.dropped = kind == RECORD_DROPPED
    if core.recorder.records != NULL:
        record = record_input(&core.recorder, kind, NOBODY, 0, now_ns)
        record.value = <uint64_t>core.recorder.turn_ns
        since[0], since[1] = since_ns, asleep_ns
        memcpy(record.address, since, sizeof(since))
    absence_note(&core.absences, &absence)


cdef void engine_absent(Core* core, int64_t since_ns, int64_t now_ns,
                        int64_t asleep_ns) noexcept nogil:
    """The pump was away since `since_ns`: frames that came may be lost without a trace.

    `asleep_ns`: the time that passed in addition to the clock's. The effect on a BACKUP follows
    when its deadline is over, and only if the absence was longer than its own interval.
    """
    note_absence(core, RECORD_ABSENT, since_ns, now_ns, asleep_ns)


cdef void engine_dropped(Core* core, int64_t since_ns, int64_t now_ns) noexcept nogil:
    """Frames were lost between these two times, and any of them may have been a master's.

    It is an absence, but counts for each BACKUP, however short it was.
    """
    note_absence(core, RECORD_DROPPED, since_ns, now_ns, 0)


cdef bint waits_on(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Whether a BACKUP whose deadline is over missed too much; if so, its deadline is moved."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t counted_until_ns = 0
    cdef int64_t deadline_ns = absence_extended(&core.absences, host, &counted_until_ns)
    if deadline_ns == 0:
        return False
    engine_touch(core, slot, now_ns)
    record_turn_of(&core.recorder, slot, host.interface)
    host.flags |= vhid.EXTENDED
    host.judged_ns = counted_until_ns
    engine_set_deadline(core, slot, deadline_ns)
    return True


cdef void engine_shown(const Core* core, VirtualHost* copy) noexcept nogil:
    """Complete the copy of a BACKUP: its deadline and judged_ns including absences."""
    cdef int64_t counted_until_ns = 0, deadline_ns
    if copy.state != vhid.BACKUP:
        return
    deadline_ns = absence_extended(&core.absences, copy, &counted_until_ns)
    if deadline_ns:
        copy.deadline_ns = deadline_ns
    copy.judged_ns = absence_end(&core.absences, vhid_interval_ns(copy))


cdef void engine_expire(Core* core, int64_t now_ns, int64_t heard_until_ns) noexcept nogil:
    """Process every deadline up to `now_ns`.

    Master-down counts only up to `heard_until_ns`: all frames that arrived before it have been
    passed to engine_receive. A host whose silence is not proven yet is checked again next tick.
    """
    cdef uint32_t slot
    cdef VirtualHost* host
    cdef int64_t tick = now_ns // TICK_NS, due_ns
    record_turn(&core.recorder, now_ns, heard_until_ns)
    if core.owed_at_ns and core.owed_at_ns <= now_ns:
        core.owed_at_ns = 0
        while not queue_empty(&core.owed):              # before the advertisements of this tick
            slot = queue_pop(&core.owed)
            core.hosts[slot].flags &= ~<uint32_t>vhid.OWED
            queue_push(&core.advertise_first, slot)
    while True:
        slot = wheel_pop(&core.wheel, tick)
        if slot == NOBODY:
            return
        host = &core.hosts[slot]
        if host.deadline_ns > now_ns:
            engine_set_deadline(core, slot, host.deadline_ns)       # moved since: arm again
        elif host.state == vhid.MASTER:
            if host.flags & vhid.UNSOURCED:
                engine_event(core, slot, vhid.ON_SOURCE_LOST, 0, now_ns)
                continue
            vhid_foresee_sending(host)
            due_ns = host.deadline_ns
            engine_event(core, slot, vhid.ON_ADVERTISEMENT_DUE, 0,
                         due_ns if now_ns - due_ns < core.wake_tick_ns else now_ns)
        elif host.state == vhid.BACKUP:
            if host.deadline_ns > heard_until_ns:
                wheel_arm(&core.wheel, slot, tick + 1)
            elif waits_on(core, slot, now_ns):
                continue
            elif host.flags & vhid.CONTESTED:
                engine_event(core, slot, vhid.ON_OUR_TURN, why_our_turn(host), now_ns)
            elif host.flags & vhid.MASTER_LEAVES:
                engine_event(core, slot, vhid.ON_MASTER_LEFT,
                             vhid.MASTER_RESIGNED if host.flags & vhid.MASTER_RESIGNS
                             else vhid.MASTER_TOO_SLOW, now_ns)
            else:
                engine_event(core, slot, vhid.ON_MASTER_DOWN, 0, now_ns)
        elif host.reason == vhid.STARTUP_DELAY:
            host.deadline_ns = 0
            engine_event(core, slot, vhid.ON_READY, vhid.STARTED, now_ns)


cdef uint8_t why_our_turn(const VirtualHost* host) noexcept nogil:
    """The reason for taking over without a lost tie: its master's demotion, or interval."""
    cdef const Source* master = vhid_master(host)
    if (host.configured.dialect == vhid.DIALECT_OPENBSD and master != NULL
            and master.demote > vhid_demote(host)):
        return vhid.MASTER_DEMOTED
    return vhid.PREEMPTED
