"""All virtual hosts of one process: the table, queues, deadlines, reports and checkpoints.

Actions wait in queues that hold each host at most once, reports in a ring. Nothing here decides,
allocates once it is open, logs, or uses a socket, a clock or a file. _transitions.pyx decides what
happens to a host, _actions.pyx turns the queues into frames and address changes, _orders.pyx
changes the table. Order of one turn: receive, expire, carry out.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from carp_fast.engine._absence cimport Absence, absence_counts
from carp_fast.engine._fields cimport CHECKPOINT_ABSENCES, Checkpoint, checkpoint_take
from carp_fast.engine._figures cimport InterfaceFigures
from carp_fast.engine._recorder cimport (
    record_checkpoint, recorder_close, recorder_wants, Record, RECORD_FOUND, RECORD_HEARD,
    RECORD_ORDERED, Recorder)
from carp_fast.engine._vhid cimport (
    Address, Block, CACHE_LINE, DUPLICATE, MASTER, OWED, SECOND_NS, Source, SOURCES, TO_ADVERTISE,
    TO_ADVERTISE_LAST, TO_ANNOUNCE, TO_CHANGE_ADDRESSES, TO_REPEAT, TO_RESIGN, vhid_interval_ns,
    vhid_least_interval_ns, vhid_master, VirtualHost, RESIGN_AFTER_REMOVAL, UNSOURCED)
from carp_fast.engine._wheel cimport (
    NOBODY, wheel_arm, wheel_close, wheel_disarm, wheel_next, wheel_open, wheel_skip)

cdef enum:
    PACE = 65536                # advertisements a second while phases are filled
    # Of one interface, unless another pace is set: faster broadcasts may be dropped by a switch,
    # faster ARP by a neighbour.
    ANNOUNCEMENTS_A_SECOND = 10000
    ANNOUNCEMENTS_AT_ONCE = 512

cdef extern from "atomic.h" nogil:
    uint64_t load_acquire(const uint64_t* p) noexcept
    void store_release(uint64_t* p, uint64_t x) noexcept
    void store_release_16(uint16_t* p, uint16_t x) noexcept

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
    """The first cache line boundary within `room`."""
    return <void*>((<size_t>room + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))


cdef int engine_open(Core* core, uint32_t report_capacity, uint64_t seed) except -1:
    """Reserve the tables; their pages are first touched when hosts are added.

    `report_capacity`: a power of two, at least 4 x RESERVED_REPORTS; `seed`: of the random
    numbers, a different one on every machine. Raises MemoryError.
    """
    memset(core, 0, sizeof(Core))
    core.seed = seed
    core.pace.rate, core.pace.at_once = ANNOUNCEMENTS_A_SECOND, ANNOUNCEMENTS_AT_ONCE
    core.wake_tick_ns = core.longest_tick_ns = 10 * TICK_NS
    core.shortest_ns = SECOND_NS
    core.room = calloc(MAX_VIRTUAL_HOSTS + 1, sizeof(VirtualHost))
    core.hosts = <VirtualHost*>at_line(core.room)
    core.sources_room = calloc(SOURCES * MAX_VIRTUAL_HOSTS + 1, sizeof(Source))
    core.sources = <Source*>at_line(core.sources_room)
    core.interfaces = <Interface*>calloc(MAX_INTERFACES, sizeof(Interface))
    core.index = <uint32_t*>calloc(MAX_INTERFACES * 256, sizeof(uint32_t))
    core.groups = <Group*>calloc(MAX_GROUPS + 1, sizeof(Group))
    core.figures.interfaces = <InterfaceFigures*>calloc(MAX_INTERFACES, sizeof(InterfaceFigures))
    core.reports.reports = <Report*>calloc(report_capacity, sizeof(Report))
    core.reports.mask = report_capacity - 1
    if (core.room == NULL or core.sources_room == NULL or core.interfaces == NULL
            or core.index == NULL or core.groups == NULL or core.figures.interfaces == NULL
            or core.reports.reports == NULL):
        raise MemoryError("engine")
    wheel_open(&core.wheel, MAX_VIRTUAL_HOSTS)
    queue_open(&core.advertise_first, MAX_VIRTUAL_HOSTS)
    wheel_open(&core.upkeep, MAX_VIRTUAL_HOSTS)
    queue_open(&core.advertise, MAX_VIRTUAL_HOSTS)
    queue_open(&core.owed, MAX_VIRTUAL_HOSTS)
    queue_open(&core.change, MAX_VIRTUAL_HOSTS)
    queue_open(&core.announce, MAX_VIRTUAL_HOSTS)
    queue_open(&core.repeat, MAX_VIRTUAL_HOSTS)
    return 0


cdef void engine_close(Core* core) noexcept:
    cdef uint32_t slot
    cdef Block* block
    if core.room != NULL:
        for slot in range(core.slots):
            free(core.hosts[slot].block)
    while core.unreturned != NULL:
        block = core.unreturned
        core.unreturned = <Block*>block.addresses
        free(block)
    free(core.room)
    free(core.sources_room)
    free(core.interfaces)
    free(core.index)
    free(core.groups)
    free(core.figures.interfaces)
    free(core.reports.reports)
    free(core.advertise_first.slots)
    free(core.advertise.slots)
    free(core.owed.slots)
    free(core.change.slots)
    free(core.announce.slots)
    free(core.repeat.slots)
    wheel_close(&core.wheel)
    wheel_close(&core.upkeep)
    recorder_close(&core.recorder)
    memset(core, 0, sizeof(Core))


cdef void engine_ask(Core* core, Queue* queue, uint32_t slot, uint8_t pending) noexcept nogil:
    """Queue `slot` unless it is queued already; its pending bits tell what for."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint8_t here
    if queue == &core.owed:
        here = TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN
    elif queue == &core.advertise:
        here = TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN
        if vhid_interval_ns(host) < SECOND_NS:          # it has less time than all hosts that wait
            queue = &core.advertise_first
    elif queue == &core.change:
        here = TO_CHANGE_ADDRESSES
        pending |= TO_CHANGE_ADDRESSES
    else:
        here = TO_ANNOUNCE if queue == &core.announce else TO_REPEAT
    if not host.pending & here:
        queue_push(queue, slot)
        if queue == &core.owed:
            host.flags |= OWED
    host.pending |= pending


cdef uint32_t queue_pop(Queue* queue) noexcept nogil:
    """The longest waiting slot, or NOBODY. The caller clears its pending bits."""
    cdef uint32_t slot
    if queue.head == queue.tail:
        return NOBODY
    slot = queue.slots[queue.head]
    queue.head = queue.head + 1 if queue.head + 1 < queue.capacity else 0
    if queue.head == queue.tail:
        queue.head = queue.tail = 0                     # reuses the pages that are in use
    return slot


cdef bint has_room(const ReportRing* ring, uint8_t kind) noexcept nogil:
    """Whether a report fits. Others leave room for RELEASED, and these for DONE."""
    cdef uint64_t kept = RESERVED_REPORTS
    if kind == DONE:
        kept = 0
    elif kind == RELEASED:
        kept = RESERVED_REPORTS // 2
    return ring.tail - load_acquire(&ring.head) <= ring.mask - kept


cdef void engine_return(Core* core, uint32_t slot, Block* block, int64_t now_ns) noexcept nogil:
    """Report that a block is no longer used, and with it the host in `slot`, unless that is NOBODY.

    Where the ring is full the block waits, linked by its first pointer, until engine_tell_rest().
    """
    if not has_room(&core.reports, RELEASED):
        block.addresses, block.address_count = <Address*>core.unreturned, slot
        core.unreturned = block
        return
    engine_tell(core, RELEASED, slot, <uint64_t>block, NULL, now_ns)


cdef void engine_done(Core* core, int64_t mark, int64_t now_ns) noexcept nogil:
    """Report that the orders before a mark are carried out; a later mark includes earlier ones."""
    core.undone_mark = mark
    if has_room(&core.reports, DONE):
        engine_tell(core, DONE, NOBODY, <uint64_t>mark, NULL, now_ns)
        core.undone_mark = 0


cdef void engine_flushed(Core* core, int64_t now_ns) noexcept nogil:
    """Report that nothing is left to carry out, or try again in the next turn."""
    if has_room(&core.reports, DONE):
        engine_tell(core, DONE, NOBODY, <uint64_t>core.flush_mark, NULL, now_ns)
        core.flush_mark = 0


cdef bint engine_tell_rest(Core* core, int64_t now_ns) noexcept nogil:
    """Report what found no room before, as far as it fits now; whether that is all."""
    cdef Block* block
    while core.unreturned != NULL and has_room(&core.reports, RELEASED):
        block = core.unreturned
        core.unreturned = <Block*>block.addresses
        engine_tell(core, RELEASED, block.address_count, <uint64_t>block, NULL, now_ns)
    if core.undone_mark:
        engine_done(core, core.undone_mark, now_ns)
    return core.unreturned == NULL and core.undone_mark == 0


cdef void engine_grow_reports(Core* core, Report* room, uint64_t capacity) noexcept nogil:
    """Continue the ring in a larger room. The reader takes what is in the former one from there."""
    cdef ReportRing* ring = &core.reports
    ring.reports, ring.mask = room, capacity - 1
    store_release(&ring.grown_at, ring.tail)


cdef Report* report_begin(Core* core, uint8_t kind, uint32_t slot, int64_t now_ns) noexcept nogil:
    """A new report with the host's fields; NULL, which is counted, if the ring is full."""
    cdef ReportRing* ring = &core.reports
    cdef Report* report
    cdef VirtualHost* host
    cdef const Source* master
    if not has_room(ring, kind):
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
        report.configuration = host.configuration
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
    """End the report of another host with our source: none is heard any more."""
    cdef VirtualHost* host = &core.hosts[slot]
    host.flags &= ~<uint32_t>DUPLICATE
    engine_tell(core, DUPLICATE_ENDED, slot, 0, host.duplicate_mac, now_ns)


cdef void engine_drop_source(Core* core, uint32_t slot) noexcept nogil:
    """A host that is not MASTER any more forgets a lost source, once it owes nothing from it."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef const Interface* interface = &core.interfaces[host.interface]
    if host.pending & (TO_ADVERTISE_LAST | TO_RESIGN) or host.flags & RESIGN_AFTER_REMOVAL:
        return
    host.flags &= ~<uint32_t>UNSOURCED
    if not host.configured.own_source and not interface.has_source:
        memset(host.source4, 0, 4)
    if not host.configured.own_source6 and not interface.has_source6:
        memset(host.source6, 0, 16)


cdef bint engine_may_tell(uint32_t* told_ms, int64_t now_ns) noexcept nogil:
    """Whether TELL_EVERY_MS have passed since the last report of this kind; if so, note the time.

    Frames of two sockets are not in the order of their arrival: time may go back a little.
    """
    cdef uint32_t now_ms = <uint32_t>(now_ns // 1000000)
    if told_ms[0] and now_ms - told_ms[0] + TELL_EVERY_MS < 2 * TELL_EVERY_MS:
        return False
    told_ms[0] = now_ms if now_ms else 1
    return True


# ------------------------------------------------------------------------------------- deadlines

cdef void engine_set_deadline(Core* core, uint32_t slot, int64_t deadline_ns) noexcept nogil:
    """Set the host's deadline. If it is later, its timer stays: it is armed again when popped."""
    cdef int64_t tick = (deadline_ns + TICK_NS - 1) // TICK_NS
    core.hosts[slot].deadline_ns = deadline_ns
    if core.wheel.at[slot] == 0 or core.wheel.at[slot] - 1 > tick:
        wheel_arm(&core.wheel, slot, tick)


cdef void engine_schedule(Core* core, uint32_t slot, int64_t from_ns) noexcept nogil:
    """Schedule the next advertisement: at most one interval after `from_ns`, on the host's phase.

    Rounded down to the wake tick: it may be early to reach its phase, never late. Phases are
    filled one after the other at PACE. A backup waits from the last advertisement on, so hosts
    that are heard together are taken over together, without wake-ups in between. The phase depends
    on nothing but the slot and the tick, or a replay of some hosts would differ.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t ticks = vhid_interval_ns(host) // core.wake_tick_ns
    cdef int64_t last = from_ns // core.wake_tick_ns + (ticks if ticks else 1)
    cdef int64_t a_tick = PACE * core.wake_tick_ns // SECOND_NS
    if ticks > 1:
        last -= (last - slot // a_tick % ticks) % ticks
    engine_set_deadline(core, slot, last * core.wake_tick_ns)


cdef int64_t address_deadline_ns(const VirtualHost* host) noexcept nogil:
    """When a MASTER without addresses gives up, not before a demotion for it ends; 0: never."""
    cdef int64_t at_ns = host.without_ns + host.configured.address_deadline_ms * <int64_t>1000000
    if (not host.without_ns or not host.configured.address_deadline_ms or host.state != MASTER
            or host.held):                              # of many, the first ones are there
        return 0
    return max(at_ns, host.demoted_until_ns)


cdef int64_t leaving_at_ns(const VirtualHost* host) noexcept nogil:
    """When a host whose resignation waits for the removal advertises again, or resigns at last."""
    return min(host.leaving_ns + LEAVING_NS, max(
        host.leaving_ns + LEAVING_FIRST_NS, host.answered_ns + vhid_interval_ns(host)))


cdef void engine_plan_upkeep(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Arm the host's timer for the part of its upkeep that is due first."""
    cdef const VirtualHost* host = &core.hosts[slot]
    cdef int64_t at_ns = host.retry_at_ns, other_ns = address_deadline_ns(host)
    if other_ns and (not at_ns or other_ns < at_ns):
        at_ns = other_ns
    if host.demoted_until_ns and (not at_ns or host.demoted_until_ns < at_ns):
        at_ns = host.demoted_until_ns
    if host.leaving_ns and (not at_ns or leaving_at_ns(host) < at_ns):
        at_ns = leaving_at_ns(host)
    if not at_ns:
        wheel_disarm(&core.upkeep, slot)
        return
    wheel_skip(&core.upkeep, now_ns // TICK_NS)
    wheel_arm(&core.upkeep, slot, (at_ns + TICK_NS - 1) // TICK_NS)


cdef void engine_redirect(Core* core, uint32_t slot) noexcept nogil:
    """The host's addresses should be different now: changes asked for before no longer apply.

    Whoever carries them out reads the generation just before, from another thread.
    """
    store_release_16(&core.hosts[slot].generation,
                     <uint16_t>(core.hosts[slot].generation + 1))


cdef void engine_reschedule(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """A MASTER's interval has changed: its next advertisement is not later than it was due.

    Others wait for what the last one promised; and orders may come faster than advertisements.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t due_ns = host.deadline_ns
    engine_schedule(core, slot, now_ns)
    if due_ns < host.deadline_ns:
        engine_set_deadline(core, slot, due_ns)


cdef int64_t engine_next_deadline(const Core* core) noexcept nogil:
    """When the next deadline is over, ns; -1 when none is armed. May be too early."""
    cdef int64_t tick = wheel_next(&core.wheel), other = wheel_next(&core.upkeep)
    if tick < 0 or 0 <= other < tick:
        tick = other
    cdef int64_t at_ns = -1 if tick < 0 else tick * TICK_NS
    if core.paced_until_ns and (at_ns < 0 or core.paced_until_ns < at_ns):
        at_ns = core.paced_until_ns
    if core.owed_at_ns and (at_ns < 0 or core.owed_at_ns < at_ns):
        at_ns = core.owed_at_ns
    return core.due_ns if core.first_due else at_ns


# ------------------------------------------------------------------------------------- recording

cdef void engine_checkpoint(const Core* core, uint32_t slot, Checkpoint* checkpoint,
                            int64_t now_ns) noexcept nogil:
    """Copy the state of a host, and the fields of engine and interface that affect it."""
    cdef const VirtualHost* host = &core.hosts[slot]
    cdef const Interface* interface = &core.interfaces[host.interface]
    cdef uint32_t i
    memset(checkpoint, 0, sizeof(Checkpoint))
    checkpoint.at_ns, checkpoint.slot, checkpoint.interface = now_ns, slot, host.interface
    checkpoint.wake_tick_ns, checkpoint.seed = core.wake_tick_ns, core.seed
    checkpoint.owed_at_ns = core.owed_at_ns
    checkpoint.pace[0], checkpoint.pace[1] = core.pace.rate, core.pace.at_once
    checkpoint.pace[2] = core.pace.in_all
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
            core.recorder.turn_told = True          # an order: what follows belongs to no turn
        record_checkpoint(&core.recorder, &core.hosts[slot], &checkpoint)


cdef void engine_touch(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Record the state of a host before something happens to it, unless it is in the ring.

    Not between an input of the host and what follows from it, where no recording can begin: then
    the next call does, and the state before is kept until then.
    """
    cdef const Recorder* recorder = &core.recorder
    cdef const Record* last
    if not recorder_wants(recorder, &core.hosts[slot]):
        return
    last = &recorder.records[(recorder.tail - 1) & (recorder.capacity - 1)]
    if ((last.kind == RECORD_HEARD or last.kind == RECORD_ORDERED or last.kind == RECORD_FOUND)
            and last.slot == slot and last.at_ns == now_ns
            and <uint32_t>recorder.tail - core.hosts[slot].recorded < recorder.capacity // 4 * 3):
        return
    engine_record(core, slot, False, False, now_ns)


cdef void engine_release(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Take a host out of the table; its block goes back to its sender."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t* first = &core.index[<uint32_t>host.interface * 256 + host.vhid]
    cdef uint32_t at = first[0] - 1, before = NOBODY    # 0 - 1 is NOBODY
    while at != NOBODY and at != slot:
        before, at = at, core.hosts[at].next_same
    if at == slot and before == NOBODY:
        first[0] = host.next_same + 1
    elif at == slot:
        core.hosts[before].next_same = host.next_same
    core.interfaces[host.interface].hosts -= 1
    core.used -= 1
    count_block(core, host.block, -1)
    wheel_disarm(&core.wheel, slot)
    wheel_disarm(&core.upkeep, slot)
    core.shortest_left |= vhid_least_interval_ns(host) <= core.shortest_ns
    engine_return(core, slot, host.block, now_ns)
    host.block = NULL
    host.flags = 0
