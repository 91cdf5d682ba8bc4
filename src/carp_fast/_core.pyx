"""All virtual hosts of one process: lookup, receive, expire, and what follows from it.

Frames and the time come in as arguments; orders go out in queues that hold each host at most
once, reports in a ring. Nothing here allocates, logs or knows a socket, a clock or a file.
_actions.pyx turns the queues into frames and address changes, _orders.pyx changes the table.
Order of one turn: receive, expire, carry out.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from carp_fast._auth cimport auth_verify
from carp_fast._vhid cimport (
    ADD_ADDRESSES, ADVERTISE, ANNOUNCING, AlternateKey, ANSWER, ARM_MASTER_DOWN, ARM_SKEW, BACKUP,
    DEMOTE_TOLD, DISARM, EVENTS, Event, FAILED, FOREIGN, IGNORE_LINK, IN_USE, INIT,
    INTERFACE_MISSING, LAST_ADVERTISEMENT, LINK_DOWN, MASTER, MASTER_LEAVES, NO_SOURCE,
    ON_ADVERTISEMENT_DUE, ON_MASTER_DOWN, ON_MASTER_LEAVING, ON_MASTER_LEFT, ON_NOT_READY, ON_READY,
    ON_SLOWER_MASTER, OWN_SOURCE, RECENT_COUNTERS, REMOVE_ADDRESSES, RESIGN, RESIGN_AFTER_REMOVAL,
    RESIGNED, SECOND_NS, STARTED, STARTUP_DELAY, State, TO_ADVERTISE, TO_ADVERTISE_LAST,
    TO_ANNOUNCE, TO_CHANGE_ADDRESSES, TO_RESIGN, TO_TELL_ADDRESSES, Transition, VirtualHost,
    vhid_advskew, vhid_interval_ns, vhid_judge, vhid_master_down_ns, vhid_transition)
from carp_fast._wheel cimport (
    NOBODY, wheel_arm, wheel_close, wheel_disarm, wheel_next, wheel_open, wheel_pop)
from carp_fast._wire cimport (
    ADVERTISEMENT4_LENGTH, Advertisement, BAD_AUTH, BAD_DESTINATION, BAD_VERSION, BAD_VHID, LOOP,
    NOT_CARP, VERDICT_OK, VRRP, Verdict, wire_parse)

cdef extern from *:
    void __builtin_prefetch(const void* p) noexcept nogil

cdef enum:
    CACHE_LINE = 64
    VHID_AT = 35                    # in a frame whose IPv4 header has no options

cdef extern from "atomic.h" nogil:
    uint64_t load_acquire(const uint64_t* p) noexcept
    void store_release(uint64_t* p, uint64_t x) noexcept

REPORT_WORDS = (
    "state_changed", "addresses_changed", "address_failed", "address_foreign",
    "address_restored", "duplicate_source", "other_master", "demote_heard", "sends_failing",
    "sends_recovered", "released", "done", "stalled", "socket_dropped", "send_failed",
    "lost_priority", "reasserted", "wrong_digest")

# Said at most this often for one virtual host, however many packets come.
cdef int64_t TELL_EVERY_NS = 60 * <int64_t>SECOND_NS


# ---------------------------------------------------------------------------- memory and queues

cdef int queue_open(Queue* queue, uint32_t capacity) except -1:
    queue.slots = <uint32_t*>calloc(capacity + 1, sizeof(uint32_t))
    queue.capacity = capacity + 1                       # one place stays free: full is not empty
    queue.head = queue.tail = 0
    if queue.slots == NULL:
        raise MemoryError("queue")
    return 0


cdef int engine_open(Core* core, uint32_t report_capacity) except -1:
    """Reserve the tables; pages are touched as hosts come.

    `report_capacity`: a power of two, at least 4 x RESERVED_REPORTS. Raises MemoryError.
    """
    memset(core, 0, sizeof(Core))
    core.wake_tick_ns = 20 * TICK_NS
    core.shortest_ns = SECOND_NS
    core.room = calloc(MAX_VIRTUAL_HOSTS + 1, sizeof(VirtualHost))
    core.hosts = <VirtualHost*>((<size_t>core.room + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
    core.interfaces = <Interface*>calloc(MAX_INTERFACES, sizeof(Interface))
    core.index = <uint32_t*>calloc(MAX_INTERFACES * 256, sizeof(uint32_t))
    core.reports.reports = <Report*>calloc(report_capacity, sizeof(Report))
    core.reports.mask = report_capacity - 1
    if (core.room == NULL or core.interfaces == NULL or core.index == NULL
            or core.reports.reports == NULL):
        raise MemoryError("engine")
    wheel_open(&core.wheel, MAX_VIRTUAL_HOSTS)
    queue_open(&core.advertise, MAX_VIRTUAL_HOSTS)
    queue_open(&core.change, MAX_VIRTUAL_HOSTS)
    queue_open(&core.announce, MAX_VIRTUAL_HOSTS)
    return 0


cdef void engine_close(Core* core) noexcept:
    cdef uint32_t slot
    if core.room != NULL:
        for slot in range(core.slots):
            free(core.hosts[slot].block)
    free(core.room)
    free(core.interfaces)
    free(core.index)
    free(core.reports.reports)
    free(core.advertise.slots)
    free(core.change.slots)
    free(core.announce.slots)
    wheel_close(&core.wheel)
    memset(core, 0, sizeof(Core))


cdef void engine_ask(Core* core, Queue* queue, uint32_t slot, uint8_t pending) noexcept nogil:
    """Queue `slot` unless it waits there already; its pending bits say for what."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint8_t here
    if queue == &core.advertise:
        here = TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN
    elif queue == &core.change:
        here = TO_CHANGE_ADDRESSES
        pending |= TO_CHANGE_ADDRESSES
    else:
        here = TO_ANNOUNCE
    if not host.pending & here:
        queue.slots[queue.tail] = slot
        queue.tail = queue.tail + 1 if queue.tail + 1 < queue.capacity else 0
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


cdef bint queue_empty(const Queue* queue) noexcept nogil:
    return queue.head == queue.tail


cdef Report* report_begin(Core* core, uint8_t kind, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Room for a report, filled with what concerns `slot`; NULL, and counted, when none is left."""
    cdef ReportRing* ring = &core.reports
    cdef Report* report
    cdef VirtualHost* host
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
        report.peer_family = host.peer_family
        report.peer_advbase = host.peer_advbase
        report.peer_advskew = host.peer_advskew
        memcpy(report.peer, host.peer, 16)
        memcpy(report.mac, host.peer_mac, 6)
    return report


cdef void report_end(Core* core) noexcept nogil:
    store_release(&core.reports.tail, core.reports.tail + 1)


# ------------------------------------------------------------------------------------- deadlines

cdef void engine_set_deadline(Core* core, uint32_t slot, int64_t deadline_ns) noexcept nogil:
    """Set the host's deadline. A later one leaves its timer where it is: it re-arms when popped."""
    cdef int64_t tick = (deadline_ns + TICK_NS - 1) // TICK_NS
    core.hosts[slot].deadline_ns = deadline_ns
    if core.wheel.at[slot] == 0 or core.wheel.at[slot] - 1 > tick:
        wheel_arm(&core.wheel, slot, tick)


cdef void engine_schedule(Core* core, uint32_t slot, int64_t from_ns) noexcept nogil:
    """The next advertisement: at most one interval after `from_ns`, on the host's phase.

    Rounded down to the wake tick: it may come early to reach its phase, never late.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t ticks = vhid_interval_ns(host) // core.wake_tick_ns
    cdef int64_t last = from_ns // core.wake_tick_ns + (ticks if ticks else 1)
    if ticks > 1:
        last -= (last - host.order % <uint32_t>ticks) % ticks
    engine_set_deadline(core, slot, last * core.wake_tick_ns)


cdef int64_t engine_next_deadline(const Core* core) noexcept nogil:
    """When expire has something to do next, ns; -1 when nothing is armed. May be early."""
    cdef int64_t tick = wheel_next(&core.wheel)
    return -1 if tick < 0 else tick * TICK_NS


# ------------------------------------------------------------------------------------ transitions

cdef void tell_state(Core* core, uint32_t slot, uint8_t previous, int64_t now_ns) noexcept nogil:
    cdef Report* report = report_begin(core, STATE_CHANGED, slot, now_ns)
    if report != NULL:
        report.previous = previous
        report_end(core)


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
    effects = row.effects
    host.state = row.next
    reason = row.reason if row.reason else cause
    if host.state != previous:
        host.since_ns = now_ns
        host.preempt_from_ns = 0
        if host.state == MASTER:
            host.became_master += 1
            core.interfaces[host.interface].became_master += 1
    if effects & DISARM:
        wheel_disarm(&core.wheel, slot)
        host.deadline_ns = 0
    if effects & (ARM_MASTER_DOWN | DISARM):
        host.flags &= ~<uint32_t>MASTER_LEAVES
    if effects & ARM_MASTER_DOWN:
        # A frame read late, from before the pump was away, does not shorten the wait after it.
        engine_set_deadline(core, slot, (now_ns if now_ns > core.attentive_ns
                                         else core.attentive_ns) + vhid_master_down_ns(host))
    if effects & ARM_SKEW and not host.flags & MASTER_LEAVES:
        host.flags |= MASTER_LEAVES
        engine_set_deadline(core, slot, now_ns + <int64_t>vhid_advskew(host) * SECOND_NS // 256)
    apply_effects(core, slot, effects, now_ns)
    if host.state != previous or (reason and reason != host.reason):
        host.reason = reason
        tell_state(core, slot, previous, now_ns)


cdef void apply_effects(Core* core, uint32_t slot, uint32_t effects,
                        int64_t now_ns) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t i
    if effects & ADVERTISE:
        host.flags &= ~<uint32_t>MASTER_LEAVES
        engine_schedule(core, slot, now_ns)
        engine_ask(core, &core.advertise, slot, TO_ADVERTISE)
        # MASTER again: what it owed for having stepped down before does not count any more.
        host.pending &= ~<uint32_t>(TO_ADVERTISE_LAST | TO_RESIGN)
    if effects & LAST_ADVERTISEMENT:
        engine_ask(core, &core.advertise, slot, TO_ADVERTISE_LAST)
    if effects & ANSWER and now_ns - host.answered_ns >= vhid_interval_ns(host):
        host.answered_ns = now_ns
        engine_ask(core, &core.advertise, slot, TO_ADVERTISE)
        tell_reasserted(core, slot, now_ns)
        if host.flags & ANNOUNCING:                     # else the addresses are not there yet
            engine_ask(core, &core.announce, slot, TO_ANNOUNCE)
    if effects & (ADD_ADDRESSES | REMOVE_ADDRESSES):
        host.repeat_in = 0
        host.announce_at_ns = 0
        host.flags &= ~<uint32_t>(RESIGN_AFTER_REMOVAL | ANNOUNCING)
        if effects & RESIGN:
            host.flags |= RESIGN_AFTER_REMOVAL
        for i in range(host.block.address_count):       # tried anew
            host.block.addresses[i].flags &= ~<uint32_t>(FOREIGN | FAILED)
        engine_ask(core, &core.change, slot, TO_TELL_ADDRESSES)


cdef void tell_reasserted(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    if host.told_reasserted_ns == 0 or now_ns - host.told_reasserted_ns >= TELL_EVERY_NS:
        host.told_reasserted_ns = now_ns
        if report_begin(core, REASSERTED, slot, now_ns) != NULL:
            report_end(core)


cdef uint8_t missing(Core* core, VirtualHost* host) noexcept nogil:
    """What keeps a host from taking part: a Reason, or 0."""
    cdef Interface* interface = &core.interfaces[host.interface]
    if interface.ifindex == 0:
        return INTERFACE_MISSING
    if not interface.up and not host.flags & IGNORE_LINK:
        return LINK_DOWN
    if not interface.has_source and not host.flags & OWN_SOURCE:
        return NO_SOURCE
    return 0


cdef void engine_try_ready(Core* core, uint32_t slot, uint8_t cause, int64_t now_ns) noexcept nogil:
    """Bring a host to where its interface allows: out of INIT, after its startup delay, or back."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint8_t lacks = missing(core, host)
    if host.reason == RESIGNED:
        return                                          # it left on purpose, and for good
    if lacks:
        engine_event(core, slot, ON_NOT_READY, lacks, now_ns)
    elif host.state == INIT and host.deadline_ns == 0:
        if host.startup_delay_ms:
            host.reason = STARTUP_DELAY
            engine_set_deadline(core, slot, now_ns + host.startup_delay_ms * <int64_t>1000000)
            tell_state(core, slot, INIT, now_ns)
        else:
            engine_event(core, slot, ON_READY, cause, now_ns)


cdef void engine_stall(Core* core, int64_t now_ns) noexcept nogil:
    """The pump was away, or frames were dropped: what was not heard then proves no silence.

    Every BACKUP waits at least one whole master-down time from now.
    """
    cdef uint32_t slot
    cdef VirtualHost* host
    cdef int64_t earliest
    core.attentive_ns = now_ns
    for slot in range(core.slots):
        host = &core.hosts[slot]
        if host.flags & IN_USE and host.state == BACKUP:
            earliest = now_ns + vhid_master_down_ns(host)
            if host.deadline_ns < earliest:
                engine_set_deadline(core, slot, earliest)


cdef void engine_expire(Core* core, int64_t now_ns, int64_t heard_until_ns) noexcept nogil:
    """Let every deadline up to `now_ns` happen.

    Master-down counts only up to `heard_until_ns`: all frames that arrived before it have been
    given to engine_receive. A host whose silence is not yet proven is looked at again next tick.
    """
    cdef uint32_t slot
    cdef VirtualHost* host
    cdef int64_t tick = now_ns // TICK_NS, due_ns
    while True:
        slot = wheel_pop(&core.wheel, tick)
        if slot == NOBODY:
            return
        host = &core.hosts[slot]
        if host.deadline_ns > now_ns:
            engine_set_deadline(core, slot, host.deadline_ns)       # re-armed since: lazily
        elif host.state == MASTER:
            due_ns = host.deadline_ns
            engine_event(core, slot, ON_ADVERTISEMENT_DUE, 0,
                         due_ns if now_ns - due_ns < core.wake_tick_ns else now_ns)
        elif host.state == BACKUP:
            if host.deadline_ns > heard_until_ns:
                wheel_arm(&core.wheel, slot, tick + 1)
            elif host.flags & MASTER_LEAVES:
                engine_event(core, slot, ON_MASTER_LEFT, 0, now_ns)
            else:
                engine_event(core, slot, ON_MASTER_DOWN, 0, now_ns)
        elif host.reason == STARTUP_DELAY:
            host.deadline_ns = 0
            engine_event(core, slot, ON_READY, STARTED, now_ns)


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
    report = report_begin(core, RELEASED, slot, now_ns)
    if report != NULL:
        report.value = <uint64_t>host.block
        report_end(core)
    host.block = NULL
    host.flags = 0


# ---------------------------------------------------------------------------------------- receive

cdef void engine_foresee(Core* core, uint16_t interface, const uint8_t* frame,
                         uint32_t length) noexcept nogil:
    """A hint that `frame` is given to engine_receive soon: its host is fetched into the cache.

    Tens of thousands of hosts do not fit there, and waiting for them one by one is what costs.
    """
    cdef uint32_t slot
    cdef const char* host
    if length < ADVERTISEMENT4_LENGTH:
        return
    slot = core.index[<uint32_t>interface * 256 + frame[VHID_AT]] - 1
    if slot != NOBODY:
        host = <const char*>&core.hosts[slot]
        __builtin_prefetch(host)
        __builtin_prefetch(host + CACHE_LINE)
        __builtin_prefetch(host + 2 * CACHE_LINE)
        __builtin_prefetch(host + 3 * CACHE_LINE)
        __builtin_prefetch(&core.wheel.at[slot])


cdef inline bint takes_destination(const VirtualHost* host,
                                   const Advertisement* heard) noexcept nogil:
    cdef uint32_t i
    if heard.family == 4 and memcmp(host.destination4, heard.destination, 4) == 0:
        return True
    for i in range(host.block.output_count):
        if (host.block.outputs[i].family == heard.family
                and memcmp(host.block.outputs[i].destination, heard.destination, 16) == 0):
            return True
    return False


cdef bint authentic(VirtualHost* host, const Advertisement* heard, int64_t now_ns) noexcept nogil:
    """Whether the digest fits the host's key, or one that it gave up within the grace time."""
    cdef uint32_t i
    cdef AlternateKey* alternate
    if auth_verify(&host.key, heard.carp + 8, heard.carp + 16):
        return True
    for i in range(host.block.alternate_count):
        alternate = &host.block.alternates[i]
        if (alternate.until_ns > now_ns
                and auth_verify(&alternate.key, heard.carp + 8, heard.carp + 16)):
            return True
    return False


cdef Verdict refuse(Core* core, uint16_t interface, uint32_t slot, Verdict verdict) noexcept nogil:
    core.interfaces[interface].rejected[<int>verdict] += 1
    if slot != NOBODY:
        core.hosts[slot].rejected[<int>verdict] += 1
    return verdict


cdef void tell_wrong_digest(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint8_t kind
    if host.state != INIT and (host.told_other_master_ns == 0
                               or now_ns - host.told_other_master_ns >= TELL_EVERY_NS):
        host.told_other_master_ns = now_ns
        kind = OTHER_MASTER if host.state == MASTER else WRONG_DIGEST
        if report_begin(core, kind, slot, now_ns) != NULL:
            report_end(core)


cdef Verdict engine_receive(Core* core, uint16_t interface, const uint8_t* frame,
                            uint32_t length, int64_t arrived_ns) noexcept nogil:
    """Take in one frame heard on `interface` at `arrived_ns`; returns its verdict, counted.

    The checks run in the order of the Verdict enum (_wire.pxd).
    """
    cdef Advertisement heard
    cdef uint32_t slot
    cdef bint vrrp_like
    cdef Verdict verdict
    if interface >= MAX_INTERFACES:
        return NOT_CARP
    verdict = wire_parse(frame, length, &heard)
    if verdict == NOT_CARP:
        return verdict
    if verdict != VERDICT_OK:
        return refuse(core, interface, NOBODY, verdict)
    vrrp_like = heard.version == 3 or heard.vrrp_length
    slot = core.index[<uint32_t>interface * 256 + heard.vhid] - 1   # 0 - 1 is NOBODY
    if slot == NOBODY:
        return refuse(core, interface, NOBODY, VRRP if vrrp_like else BAD_VHID)
    while not takes_destination(&core.hosts[slot], &heard):
        if core.hosts[slot].next_same == NOBODY:
            return refuse(core, interface, slot, VRRP if vrrp_like else BAD_DESTINATION)
        slot = core.hosts[slot].next_same
    if not authentic(&core.hosts[slot], &heard, arrived_ns):
        if vrrp_like:
            return refuse(core, interface, slot, VRRP)
        tell_wrong_digest(core, slot, arrived_ns)
        return refuse(core, interface, slot, BAD_AUTH)
    if heard.version == 3:
        return refuse(core, interface, slot, BAD_VERSION)
    return on_advertisement(core, slot, &heard, arrived_ns)


cdef Verdict on_advertisement(Core* core, uint32_t slot, const Advertisement* heard,
                              int64_t arrived_ns) noexcept nogil:
    """A genuine advertisement: a loop of our own, or something to act on."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Report* report
    cdef Event event
    cdef bint duplicate = memcmp(heard.source, host.source, 16) == 0
    if duplicate:
        if host.recent[heard.counter % RECENT_COUNTERS] == heard.counter:
            return refuse(core, host.interface, slot, LOOP)
        host.duplicates += 1
        if (host.told_duplicate_ns == 0
                or arrived_ns - host.told_duplicate_ns >= TELL_EVERY_NS):
            host.told_duplicate_ns = arrived_ns
            report = report_begin(core, DUPLICATE_SOURCE, slot, arrived_ns)
            if report != NULL:
                memcpy(report.mac, heard.source_mac, 6)
                report_end(core)
    core.interfaces[host.interface].heard += 1
    host.heard += 1
    if heard.counter > host.counter:
        host.counter = heard.counter                # ours go on above whatever was heard
    event = vhid_judge(host, heard, duplicate, arrived_ns)
    if event != EVENTS or host.peer_family == 0:
        memcpy(host.peer, heard.source, 16)
        memcpy(host.peer_mac, heard.source_mac, 6)
        host.peer_family = heard.family
        host.peer_advbase = heard.advbase
        host.peer_advskew = heard.advskew
        host.heard_ns = arrived_ns
    if heard.demote and not host.flags & DEMOTE_TOLD:
        host.flags |= DEMOTE_TOLD
        report = report_begin(core, DEMOTE_HEARD, slot, arrived_ns)
        if report != NULL:
            report.value = heard.demote
            report_end(core)
    if event != EVENTS:
        engine_event(core, slot, event, 0, arrived_ns)
    return VERDICT_OK
