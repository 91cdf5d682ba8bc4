"""All virtual hosts of one process: lookup, receive, expire, and what follows from it.

Frames and the time come in as arguments; orders go out in queues that hold each host at most
once, reports in a ring. Nothing here allocates, logs or knows a socket, a clock or a file.
_actions.pyx turns the queues into frames and address changes, _orders.pyx changes the table.
Order of one turn: receive, expire, carry out.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from carp_fast.engine._absence cimport (
    Absence, absence_counts, absence_end, absence_extended, absence_note)
from carp_fast.engine._recorder cimport (
    CHECKPOINT_ABSENCES, Checkpoint, RECORD_ABSENT, RECORD_DROPPED, RECORD_STATE, RECORD_TURN,
    Record, checkpoint_take, record_checkpoint, record_input, record_output, record_turn,
    recorder_close, recorder_wants)
from carp_fast.engine._vhid cimport (
    ADD_ADDRESSES, ADVERTISE, ADVERTISE_AGAIN, AGAIN_AFTER, ANNOUNCING, ANSWER, ARM_JITTER,
    ARM_JITTERED, ARM_MASTER_DOWN, ARM_SKEW, BACKUP, BARRED, CACHE_LINE, Configured, CONTESTED,
    DIALECT_OPENBSD, DISARM, DUPLICATE, Event, EXTENDED, FOREIGN, INIT, INTERFACE_MISSING,
    LAST_ADVERTISEMENT, LINK_DOWN, LOST, LOST_WITH_OURS, MASTER, MASTER_DEMOTED, MASTER_LEAVES,
    NO_SOURCE, ON_ADVERTISEMENT_DUE, ON_MASTER_DOWN, ON_MASTER_LEFT, ON_NOT_READY, ON_OUR_TURN,
    ON_READY, ON_RENAMED, PRECEDED, PREEMPTED, REMOVE_ADDRESSES, REPEATING, RESIGN,
    RESIGN_AFTER_REMOVAL, RESIGNED, SECOND_NS, Source, SOURCES, STARTED, STARTUP_DELAY,
    TO_ADVERTISE, TO_ADVERTISE_LAST, TO_ANNOUNCE, TO_CHANGE_ADDRESSES, TO_REPEAT, TO_RESIGN,
    TO_TELL_ADDRESSES, Transition, USED_ELSEWHERE, vhid_advskew, vhid_demote, vhid_foresee_sending,
    vhid_forget_ties, vhid_heard_ns, vhid_interval_ns, vhid_jitter_ns, vhid_least_interval_ns,
    vhid_master, vhid_master_down_ns, vhid_tied, vhid_transition, VirtualHost)
from carp_fast.engine._wheel cimport (
    NOBODY, wheel_arm, wheel_close, wheel_disarm, wheel_next, wheel_open, wheel_pop)

cdef enum:
    PACE = 65536                # advertisements a second while phases are filled

cdef extern from "random.h" nogil:
    uint64_t random_mixed(uint64_t x) noexcept
cdef extern from "atomic.h" nogil:
    uint64_t load_acquire(const uint64_t* p) noexcept
    void store_release(uint64_t* p, uint64_t x) noexcept

cdef uint32_t TELL_EVERY_MS = 60000     # at most, of one virtual host, however many packets come


# ---------------------------------------------------------------------------- memory and queues

cdef int queue_open(Queue* queue, uint32_t capacity) except -1:
    queue.slots = <uint32_t*>calloc(capacity + 1, sizeof(uint32_t))
    queue.capacity = capacity + 1                       # one place stays free: full is not empty
    queue.head = queue.tail = 0
    if queue.slots == NULL:
        raise MemoryError("queue")
    return 0


cdef inline void* at_line(void* room) noexcept nogil:
    """Where the first cache line within `room` begins."""
    return <void*>((<size_t>room + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))


cdef int engine_open(Core* core, uint32_t report_capacity, uint64_t seed) except -1:
    """Reserve the tables; pages are touched as hosts come.

    `report_capacity`: a power of two, at least 4 x RESERVED_REPORTS; `seed`: of the random
    numbers, another one on every machine. Raises MemoryError.
    """
    memset(core, 0, sizeof(Core))
    core.seed = seed
    core.wake_tick_ns = core.longest_tick_ns = 10 * TICK_NS
    core.shortest_ns = SECOND_NS
    core.room = calloc(MAX_VIRTUAL_HOSTS + 1, sizeof(VirtualHost))
    core.hosts = <VirtualHost*>at_line(core.room)
    core.sources_room = calloc(SOURCES * MAX_VIRTUAL_HOSTS + 1, sizeof(Source))
    core.sources = <Source*>at_line(core.sources_room)
    core.interfaces = <Interface*>calloc(MAX_INTERFACES, sizeof(Interface))
    core.index = <uint32_t*>calloc(MAX_INTERFACES * 256, sizeof(uint32_t))
    core.reports.reports = <Report*>calloc(report_capacity, sizeof(Report))
    core.reports.mask = report_capacity - 1
    if (core.room == NULL or core.sources_room == NULL or core.interfaces == NULL
            or core.index == NULL or core.reports.reports == NULL):
        raise MemoryError("engine")
    wheel_open(&core.wheel, MAX_VIRTUAL_HOSTS)
    queue_open(&core.advertise_first, MAX_VIRTUAL_HOSTS)
    wheel_open(&core.upkeep, MAX_VIRTUAL_HOSTS)
    queue_open(&core.advertise, MAX_VIRTUAL_HOSTS)
    queue_open(&core.change, MAX_VIRTUAL_HOSTS)
    queue_open(&core.announce, MAX_VIRTUAL_HOSTS)
    queue_open(&core.repeat, MAX_VIRTUAL_HOSTS)
    return 0


cdef void engine_close(Core* core) noexcept:
    cdef uint32_t slot
    if core.room != NULL:
        for slot in range(core.slots):
            free(core.hosts[slot].block)
    free(core.room)
    free(core.sources_room)
    free(core.interfaces)
    free(core.index)
    free(core.reports.reports)
    free(core.advertise_first.slots)
    free(core.advertise.slots)
    free(core.change.slots)
    free(core.announce.slots)
    free(core.repeat.slots)
    wheel_close(&core.wheel)
    wheel_close(&core.upkeep)
    recorder_close(&core.recorder)
    memset(core, 0, sizeof(Core))


cdef void engine_ask(Core* core, Queue* queue, uint32_t slot, uint8_t pending) noexcept nogil:
    """Queue `slot` unless it waits there already; its pending bits say for what."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint8_t here
    if queue == &core.advertise:
        here = TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN
        if vhid_interval_ns(host) < SECOND_NS:          # it has less time than all that wait
            queue = &core.advertise_first
    elif queue == &core.change:
        here = TO_CHANGE_ADDRESSES
        pending |= TO_CHANGE_ADDRESSES
    else:
        here = TO_ANNOUNCE if queue == &core.announce else TO_REPEAT
    if not host.pending & here:
        queue_push(queue, slot)
    host.pending |= pending


cdef uint32_t queue_pop(Queue* queue) noexcept nogil:
    """The longest waiting slot, or NOBODY. The caller clears its pending bits."""
    cdef uint32_t slot
    if queue.head == queue.tail:
        return NOBODY
    slot = queue.slots[queue.head]
    queue.head = queue.head + 1 if queue.head + 1 < queue.capacity else 0
    if queue.head == queue.tail:
        queue.head = queue.tail = 0                     # keeps to the pages in use
    return slot


cdef Report* report_begin(Core* core, uint8_t kind, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Room for a report, filled with what concerns `slot`; NULL, and counted, when none is left."""
    cdef ReportRing* ring = &core.reports
    cdef Report* report
    cdef VirtualHost* host
    cdef const Source* master
    # What somebody waits for always finds room: its senders keep within RESERVED_REPORTS.
    if ring.tail - load_acquire(&ring.head) > (
            ring.mask if kind == DONE or kind == RELEASED else ring.mask - RESERVED_REPORTS):
        store_release(&ring.lost, ring.lost + 1)
        return NULL
    report = &ring.reports[ring.tail & ring.mask]
    memset(report, 0, sizeof(Report))
    report.kind = kind
    report.at_ns = now_ns
    report.slot = slot
    if slot != NOBODY:
        host = &core.hosts[slot]
        report.interface = host.interface
        report.state = report.previous = host.state
        report.reason = host.reason
        master = vhid_master(host)
        if master != NULL:
            report.peer_family = master.family
            report.peer_advbase, report.peer_advskew = master.advbase, master.advskew
            memcpy(report.peer, master.address, 16)
            memcpy(report.mac, master.mac, 6)
    return report


cdef void report_end(Core* core) noexcept nogil:
    store_release(&core.reports.tail, core.reports.tail + 1)


cdef void engine_tell(Core* core, uint8_t kind, uint32_t slot, uint64_t value, const uint8_t* mac,
                      int64_t now_ns) noexcept nogil:
    cdef Report* report = report_begin(core, kind, slot, now_ns)
    if report != NULL:
        report.value = value
        if mac != NULL:
            memcpy(report.mac, mac, 6)
        report_end(core)


cdef void engine_end_duplicate(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """No other host advertises from our source any more, as far as can be told."""
    cdef VirtualHost* host = &core.hosts[slot]
    host.flags &= ~<uint32_t>DUPLICATE
    engine_tell(core, DUPLICATE_ENDED, slot, 0, host.duplicate_mac, now_ns)


cdef bint engine_may_tell(uint32_t* told_ms, int64_t now_ns) noexcept nogil:
    """Whether TELL_EVERY_MS have passed since it was last said; it is said now, then.

    Frames of two sockets are not in the order of their arrival: time may go back a little.
    """
    cdef uint32_t now_ms = <uint32_t>(now_ns // 1000000)
    if told_ms[0] and now_ms - told_ms[0] + TELL_EVERY_MS < 2 * TELL_EVERY_MS:
        return False
    told_ms[0] = now_ms if now_ms else 1
    return True


# ------------------------------------------------------------------------------------- deadlines

cdef void engine_set_deadline(Core* core, uint32_t slot, int64_t deadline_ns) noexcept nogil:
    """Set the host's deadline. A later one leaves its timer where it is: it re-arms when popped."""
    cdef int64_t tick = (deadline_ns + TICK_NS - 1) // TICK_NS
    core.hosts[slot].deadline_ns = deadline_ns
    if core.wheel.at[slot] == 0 or core.wheel.at[slot] - 1 > tick:
        wheel_arm(&core.wheel, slot, tick)


cdef void engine_schedule(Core* core, uint32_t slot, int64_t from_ns) noexcept nogil:
    """The next advertisement: at most one interval after `from_ns`, on the host's phase.

    Rounded down to the wake tick: it may come early to reach its phase, never late. Phases are
    filled one after the other at PACE: whoever waits for silence waits from the last advertisement
    on, so what is heard together is taken over together, and wakes nobody between. Nothing but the
    slot and the tick decides, or a replay of some hosts would not be equal.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t ticks = vhid_interval_ns(host) // core.wake_tick_ns
    cdef int64_t last = from_ns // core.wake_tick_ns + (ticks if ticks else 1)
    cdef int64_t a_tick = PACE * core.wake_tick_ns // SECOND_NS
    if ticks > 1:
        last -= (last - slot // a_tick % ticks) % ticks
    engine_set_deadline(core, slot, last * core.wake_tick_ns)


cdef void advertise_again(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Bring the next advertisement forward to AGAIN_AFTER, unless it comes before that.

    For advertisements that end an election. Where one of those is lost, two hosts stay MASTER
    until the next, an interval later; with one loss in three frames that is half of all elections.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t at_ns = now_ns + vhid_interval_ns(host) // AGAIN_AFTER
    if at_ns < host.deadline_ns:
        host.flags |= REPEATING
        host.repeat_in += host.repeat_in != 0           # that of the announcement is not hastened
        engine_set_deadline(core, slot, at_ns)


cdef int64_t engine_next_deadline(const Core* core) noexcept nogil:
    """When there is something to do next, ns; -1 when nothing is armed. May be early."""
    cdef int64_t tick = wheel_next(&core.wheel), other = wheel_next(&core.upkeep)
    if tick < 0 or 0 <= other < tick:
        tick = other
    if core.paced_until_ns and (tick < 0 or core.paced_until_ns < tick * TICK_NS):
        return core.paced_until_ns
    return -1 if tick < 0 else tick * TICK_NS


# ------------------------------------------------------------------------------------ transitions

cdef void tell_state(Core* core, uint32_t slot, uint8_t previous, int64_t now_ns) noexcept nogil:
    cdef Report* report = report_begin(core, STATE_CHANGED, slot, now_ns)
    cdef Record* record
    if report != NULL:
        report.previous = previous
        report_end(core)
    if core.recorder.records != NULL:
        record = record_output(&core.recorder, RECORD_STATE, slot, core.hosts[slot].interface,
                               now_ns)
        record.state, record.reason = core.hosts[slot].state, core.hosts[slot].reason


cdef uint64_t random_at(const Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """A function of seed, host and time, so that a replay of one host alone gives it again."""
    return random_mixed((core.seed + slot) * 0x9e3779b97f4a7c15U + <uint64_t>now_ns)


cdef void arm_master_down(Core* core, VirtualHost* host, uint32_t slot, bint tie,
                          int64_t now_ns) noexcept nogil:
    """Wait a master-down time from `now_ns`, or a later arrival, longer by jitter after lost ties.

    The jitter stays until one master alone has been heard for two master-down times: a host that
    waits while others tie would else have their deadline in common, and so would one that hears
    the winner over a second family.
    """
    cdef int64_t down_ns = vhid_master_down_ns(host), from_ns = max(now_ns, vhid_heard_ns(host))
    if tie:
        vhid_tied(host, random_at(core, slot, now_ns))
    elif host.ties and now_ns - host.settled_ns > 2 * down_ns:
        vhid_forget_ties(host)
    host.flags &= ~<uint32_t>(MASTER_LEAVES | CONTESTED | REPEATING | EXTENDED)
    engine_set_deadline(core, slot, from_ns + down_ns + vhid_jitter_ns(host))


cdef void engine_event(Core* core, uint32_t slot, Event event, uint8_t cause,
                       int64_t now_ns) noexcept nogil:
    """Let `event` happen to a host: look it up in the table, change state, queue what follows.

    `cause`: the reason where the table leaves it to the event. `now_ns`: the time of the event,
    for an advertisement when the kernel received it.
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
        if previous == MASTER and now_ns - host.since_ns > 2 * vhid_master_down_ns(host):
            host.ties = host.jitter_us = 0      # it alone was MASTER: a tie now is another one
        host.since_ns = host.settled_ns = now_ns
        host.preempt_from_ns = host.tie_since_ns = host.without_ns = 0
        if previous == INIT:                            # what a former life left is found now
            verify_soon(core, host.interface, now_ns)
        if host.state == MASTER:
            host.flags &= ~<uint32_t>PRECEDED
            host.became_master += 1
            core.interfaces[host.interface].became_master += 1
    if effects & DISARM:
        wheel_disarm(&core.wheel, slot)
        host.deadline_ns = 0
        vhid_forget_ties(host)
        if host.flags & DUPLICATE:                      # nobody is listened to
            engine_end_duplicate(core, slot, now_ns)
        host.flags &= ~<uint32_t>(MASTER_LEAVES | CONTESTED | REPEATING | EXTENDED)
    if effects & (ARM_MASTER_DOWN | ARM_JITTERED):
        arm_master_down(core, host, slot, effects & ARM_JITTERED, now_ns)
    if effects & ARM_SKEW and not host.flags & MASTER_LEAVES:
        host.flags = (host.flags & ~<uint32_t>EXTENDED) | MASTER_LEAVES
        engine_set_deadline(core, slot, now_ns + <int64_t>vhid_advskew(host) * SECOND_NS // 256)
    if effects & ARM_JITTER and not host.flags & CONTESTED:
        host.flags = (host.flags & ~<uint32_t>EXTENDED) | CONTESTED
        engine_set_deadline(core, slot, now_ns + vhid_jitter_ns(host))
    apply_effects(core, slot, effects, now_ns)
    if host.state != previous or (reason and reason != host.reason):
        host.reason = reason
        tell_state(core, slot, previous, now_ns)


cdef void apply_effects(Core* core, uint32_t slot, uint32_t effects, int64_t now_ns) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t i
    if effects & ADVERTISE:
        host.flags &= ~<uint32_t>(MASTER_LEAVES | CONTESTED | REPEATING | EXTENDED)
        engine_schedule(core, slot, now_ns)
        if effects & ADVERTISE_AGAIN:
            advertise_again(core, slot, now_ns)
        engine_ask(core, &core.advertise, slot, TO_ADVERTISE)
        # MASTER again: what it owed for having stepped down before does not count any more.
        host.pending &= ~<uint32_t>(TO_ADVERTISE_LAST | TO_RESIGN)
    if effects & LAST_ADVERTISEMENT:
        engine_ask(core, &core.advertise, slot, TO_ADVERTISE_LAST)
    if effects & ANSWER and now_ns - host.answered_ns >= vhid_interval_ns(host):
        host.answered_ns = now_ns
        engine_ask(core, &core.advertise, slot, TO_ADVERTISE)
        advertise_again(core, slot, now_ns)
        if engine_may_tell(&host.told_reasserted_ms, now_ns):
            engine_tell(core, REASSERTED, slot, 0, NULL, now_ns)
        if host.flags & ANNOUNCING:                     # else the addresses are not there yet
            engine_ask(core, &core.announce, slot, TO_ANNOUNCE)
    if effects & (ADD_ADDRESSES | REMOVE_ADDRESSES):
        host.repeat_in = 0
        host.announce_at_ns = 0
        host.flags &= ~<uint32_t>(RESIGN_AFTER_REMOVAL | ANNOUNCING)
        if effects & RESIGN:
            host.flags |= RESIGN_AFTER_REMOVAL
        host.retries = 0
        for i in range(host.block.address_count):       # tried anew
            host.block.addresses[i].flags &= ~<uint32_t>(FOREIGN | LOST | LOST_WITH_OURS)
        engine_ask(core, &core.change, slot, TO_TELL_ADDRESSES)


cdef uint8_t missing(Core* core, VirtualHost* host) noexcept nogil:
    """What keeps a host from taking part: a Reason, or 0."""
    cdef const Interface* interface = &core.interfaces[host.interface]
    cdef const Configured* configured = &host.configured
    cdef bint has_source, has_source6
    if interface.ifindex == 0 or interface.renamed:
        return INTERFACE_MISSING
    if host.flags & BARRED:
        return USED_ELSEWHERE
    if not interface.up and not configured.ignore_link_state:
        return LINK_DOWN
    # Configured, and no address of this machine, or the interface's own, and it has none.
    has_source = not configured.source_missing if configured.own_source else interface.has_source
    has_source6 = (not configured.source6_missing if configured.own_source6
                   else interface.has_source6)
    if (configured.expects_4 and not has_source) or (configured.expects_6 and not has_source6):
        return NO_SOURCE
    return 0


cdef void engine_try_ready(Core* core, uint32_t slot, uint8_t cause, int64_t now_ns) noexcept nogil:
    """Bring a host to where its interface allows: out of INIT, after its startup delay, or back."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint8_t lacks = missing(core, host)
    if host.reason == RESIGNED:
        return                                          # it left on purpose, and for good
    if lacks and core.interfaces[host.interface].renamed and host.state == MASTER:
        engine_event(core, slot, ON_RENAMED, lacks, now_ns)
    elif lacks:
        engine_event(core, slot, ON_NOT_READY, lacks, now_ns)
    elif host.state == INIT and host.deadline_ns == 0:
        if host.configured.startup_delay_ms:
            host.reason = STARTUP_DELAY
            engine_set_deadline(
                core, slot, now_ns + host.configured.startup_delay_ms * <int64_t>1000000)
            tell_state(core, slot, INIT, now_ns)
        else:
            engine_event(core, slot, ON_READY, cause, now_ns)


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
    """The pump did not look from `since_ns` on: frames that came may be lost without a trace.

    `asleep_ns`: how much more time passed than the clock shows. What it means to a BACKUP follows
    when its deadline is over, and only where all of it is longer than its own interval.
    """
    note_absence(core, RECORD_ABSENT, since_ns, now_ns, asleep_ns)


cdef void engine_dropped(Core* core, int64_t since_ns, int64_t now_ns) noexcept nogil:
    """Frames were lost between these two times, and any of them may have been a master's.

    As an absence, but it counts for each BACKUP, however short it was.
    """
    note_absence(core, RECORD_DROPPED, since_ns, now_ns, 0)


cdef bint waits_on(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Whether a BACKUP whose deadline is over missed too much, and has a later one now."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t counted_until_ns = 0
    cdef int64_t deadline_ns = absence_extended(&core.absences, host, &counted_until_ns)
    cdef Record* record
    if deadline_ns == 0:
        return False
    engine_touch(core, slot, now_ns)
    if core.recorder.records != NULL:
        record = record_output(&core.recorder, RECORD_TURN, slot, host.interface,
                               core.recorder.turn_ns)
        record.value = <uint64_t>core.recorder.heard_until_ns
    host.flags |= EXTENDED
    host.judged_ns = counted_until_ns
    engine_set_deadline(core, slot, deadline_ns)
    return True


cdef void engine_shown(const Core* core, VirtualHost* copy) noexcept nogil:
    """Complete the copy of a BACKUP: the deadline and the judged_ns that its absences give it."""
    cdef int64_t counted_until_ns = 0, deadline_ns
    if copy.state != BACKUP:
        return
    deadline_ns = absence_extended(&core.absences, copy, &counted_until_ns)
    if deadline_ns:
        copy.deadline_ns = deadline_ns
    copy.judged_ns = absence_end(&core.absences, vhid_interval_ns(copy))


cdef void engine_expire(Core* core, int64_t now_ns, int64_t heard_until_ns) noexcept nogil:
    """Let every deadline up to `now_ns` happen.

    Master-down counts only up to `heard_until_ns`: all frames that arrived before it have been
    given to engine_receive. A host whose silence is not yet proven is looked at again next tick.
    """
    cdef uint32_t slot
    cdef VirtualHost* host
    cdef int64_t tick = now_ns // TICK_NS, due_ns
    record_turn(&core.recorder, now_ns, heard_until_ns)
    while True:
        slot = wheel_pop(&core.wheel, tick)
        if slot == NOBODY:
            return
        host = &core.hosts[slot]
        if host.deadline_ns > now_ns:
            engine_set_deadline(core, slot, host.deadline_ns)       # re-armed since: lazily
        elif host.state == MASTER:
            vhid_foresee_sending(host)
            due_ns = host.deadline_ns
            engine_event(core, slot, ON_ADVERTISEMENT_DUE, 0,
                         due_ns if now_ns - due_ns < core.wake_tick_ns else now_ns)
        elif host.state == BACKUP:
            if host.deadline_ns > heard_until_ns:
                wheel_arm(&core.wheel, slot, tick + 1)
            elif waits_on(core, slot, now_ns):
                continue
            elif host.flags & CONTESTED:
                engine_event(core, slot, ON_OUR_TURN, why_our_turn(host), now_ns)
            elif host.flags & MASTER_LEAVES:
                engine_event(core, slot, ON_MASTER_LEFT, 0, now_ns)
            else:
                engine_event(core, slot, ON_MASTER_DOWN, 0, now_ns)
        elif host.reason == STARTUP_DELAY:
            host.deadline_ns = 0
            engine_event(core, slot, ON_READY, STARTED, now_ns)


cdef uint8_t why_our_turn(const VirtualHost* host) noexcept nogil:
    """What let it take over, had it not lost a tie lately: its master's demotion, or interval."""
    cdef const Source* master = vhid_master(host)
    if (host.configured.dialect == DIALECT_OPENBSD and master != NULL
            and master.demote > vhid_demote(host)):
        return MASTER_DEMOTED
    return PREEMPTED


# ------------------------------------------------------------------------------------- recording

cdef void engine_checkpoint(const Core* core, uint32_t slot, Checkpoint* checkpoint,
                            int64_t now_ns) noexcept nogil:
    """Write down what a host is, and what of engine and interface bears on it."""
    cdef const VirtualHost* host = &core.hosts[slot]
    cdef const Interface* interface = &core.interfaces[host.interface]
    cdef uint32_t i
    memset(checkpoint, 0, sizeof(Checkpoint))
    checkpoint.at_ns, checkpoint.slot, checkpoint.interface = now_ns, slot, host.interface
    checkpoint.wake_tick_ns, checkpoint.seed = core.wake_tick_ns, core.seed
    for i in range(core.absences.count):
        if absence_counts(&core.absences.kept[i], vhid_interval_ns(host)):
            if checkpoint.absence_count == CHECKPOINT_ABSENCES:
                checkpoint.absence_count -= 1
                memmove(checkpoint.absences, &checkpoint.absences[1],
                        checkpoint.absence_count * sizeof(Absence))
            checkpoint.absences[checkpoint.absence_count] = core.absences.kept[i]
            checkpoint.absence_count += 1
    checkpoint.ifindex, checkpoint.up = interface.ifindex, interface.up
    checkpoint.has_source, checkpoint.has_source6 = interface.has_source, interface.has_source6
    checkpoint.forwards6, checkpoint.renamed = interface.forwards6, interface.renamed
    memcpy(checkpoint.mac, interface.mac, 6)
    memcpy(checkpoint.source, interface.source, 4)
    memcpy(checkpoint.source6, interface.source6, 16)
    checkpoint_take(host, checkpoint)


cdef void engine_record(Core* core, uint32_t slot, bint added, bint changed,
                        int64_t now_ns) noexcept nogil:
    """Put a host's checkpoint into the ring of records."""
    cdef Checkpoint checkpoint
    if core.recorder.records != NULL:
        engine_checkpoint(core, slot, &checkpoint, now_ns)
        checkpoint.added, checkpoint.changed = added, changed
        if changed:
            core.recorder.turn_told = True          # an order: what follows is no part of a turn
        record_checkpoint(&core.recorder, &core.hosts[slot], &checkpoint)


cdef void engine_touch(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Something is about to happen to a host: what it was before must be in the ring."""
    if recorder_wants(&core.recorder, &core.hosts[slot]):
        engine_record(core, slot, False, False, now_ns)


cdef void engine_release(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Take a host out of the table; its block goes back to whoever allocated it."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t* first = &core.index[<uint32_t>host.interface * 256 + host.vhid]
    cdef uint32_t at = first[0] - 1, before = NOBODY    # 0 - 1 is NOBODY
    cdef Report* report
    while at != NOBODY and at != slot:
        before, at = at, core.hosts[at].next_same
    if at == slot and before == NOBODY:
        first[0] = host.next_same + 1
    elif at == slot:
        core.hosts[before].next_same = host.next_same
    core.interfaces[host.interface].hosts -= 1
    wheel_disarm(&core.wheel, slot)
    wheel_disarm(&core.upkeep, slot)
    core.shortest_left |= vhid_least_interval_ns(host) <= core.shortest_ns
    report = report_begin(core, RELEASED, slot, now_ns)
    if report != NULL:
        report.value = <uint64_t>host.block
        report_end(core)
    host.block = NULL
    host.flags = 0
