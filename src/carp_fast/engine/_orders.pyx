"""Orders of Python to the engine: add, change and remove hosts, interfaces, snapshots.

An order brings all the memory that it needs, prepared by its sender; nothing is allocated or freed
here. Blocks that are no longer used go back in RELEASED reports. Uses no socket and no clock.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from carp_fast.engine._actions cimport begin_announcing, may_release
from carp_fast.engine._assume cimport assume
from carp_fast.engine._core cimport (
    Core, core_source, count_block, engine_plan_upkeep, engine_record, engine_redirect,
    engine_touch, HostsCopy, Interface, MAX_INTERFACES, MAX_VIRTUAL_HOSTS, ORDER_ADD, ORDER_ADOPT,
    ORDER_ANNOUNCE, ORDER_ASSUME, ORDER_BAR, ORDER_BY_ROUTE, ORDER_COPY_RECORDS, ORDER_DEMOTE,
    ORDER_FLUSH, ORDER_GROW_REPORTS, ORDER_LOSE_ADDRESS, ORDER_MARK, ORDER_REMOVE, ORDER_REPLACE,
    ORDER_RESIGN_ALL, ORDER_SET_INTERFACE, ORDER_SNAPSHOT, ORDER_SNAPSHOT_INTERFACES,
    ORDER_TELL_GROUPS, ORDER_VERIFY, Order, ORDER_OWN_SOURCE, Report, TICK_NS, engine_ask,
    engine_done, engine_grow_reports, engine_release, engine_return, engine_set_deadline,
    verify_all_soon, engine_reschedule, ORDER_PREEMPT, ORDER_WITHHOLD, ORDER_YIELD, ORDER_TALLY)
from carp_fast.engine._demotions cimport demote, join
from carp_fast.engine._fields cimport Checkpoint
from carp_fast.engine._grace cimport keep_old_keys
from carp_fast.engine._groups cimport group_leave, group_review, groups_end, groups_tell
from carp_fast.engine._recorder cimport (
    ANNOUNCED_ANEW, ORDERED_ADDRESS_LOST, ORDERED_ADOPT, ORDERED_ANNOUNCE, ORDERED_BAR,
    ORDERED_BY_ROUTE, ORDERED_REMOVE, ORDERED_OWN_SOURCE, ORDERED_RESIGN, RECORD_INTERFACE,
    RECORD_ORDERED, RENAMED, Record, RecordCopy, record_input, recorder_begin, recorder_copy,
    ORDERED_PREEMPT, ORDERED_WITHHOLD, ORDERED_YIELD)
from carp_fast.engine._tallies cimport tally_ordered
from carp_fast.engine._transitions cimport engine_event, engine_shown, engine_try_ready
from carp_fast.engine._upkeep cimport upkeep_lose, wanted_change
from carp_fast.engine._vhid cimport (
    Address, ADDRESS_LOST, ANNOUNCING, ASKED, BACKUP, BARRED, Block, BSD_MAC,
    BY_TRACK, EXTENDED, FAILED, FOREIGN, FREED, HARD, HELD, HOLDS_ROUTES, IN_USE, INIT,
    INTERFACE_FOUND, INTERFACE_MISSING, LEAVING, LINK_UP, LOST, LOST_WITH_OURS, MASTER,
    ON_ADDRESS_LOST, MOST_DEMOTION, ON_NOT_READY, ON_RESIGN, ORDERED_BY, Output, OWN_MAC,
    REPLACES_ROUTES, RESIGNED, RETIRED, SECOND_NS, SILENT_4, SILENT_6, Source, SOURCE6_MISSING,
    SOURCE_FOUND, SOURCE_MISSING, SOURCES, STARTED, TO_ADVERTISE_LAST, TO_RESIGN, TO_TELL_ADDRESSES,
    vhid_interval_ns, vhid_least_interval_ns, vhid_master_down_ns, vhid_same_address, vhid_source,
    vhid_virtual_mac, VirtualHost, CONTESTED, MASTER_LEAVES, vhid_heard_ns, vhid_jitter_ns,
    RESIGN_AFTER_REMOVAL, MAINTENANCE_OVER, ON_OUR_TURN, TAKEN_OVER, vhid_beats, vhid_master,
    WITHHELD, vhid_add_up, BY_MAINTENANCE)
from carp_fast.engine._wheel cimport NOBODY, wheel_skip
from carp_fast.engine._wire cimport wire_build4, wire_build6, wire_is_link_group6

# Delay of the check of addresses after an event of their interface: more events may follow.
cdef int64_t SETTLED_NS = 20000000


cdef void build_frames(Core* core, VirtualHost* host) noexcept nogil:
    """Write the constant part of every output's frame: addresses of the interface and ours."""
    cdef uint32_t i
    cdef Output* output
    cdef Interface* interface = &core.interfaces[host.interface]
    cdef uint8_t[6] mac
    memcpy(mac, interface.mac, 6)
    if vhid_virtual_mac(host):
        mac[0], mac[1], mac[2], mac[3], mac[5] = 0, 0, 0x5e, 0, host.vhid
        mac[4] = 1 if host.configured.advertise_mac == BSD_MAC else 0
    elif host.configured.advertise_mac == OWN_MAC:
        memcpy(mac, host.block.mac, 6)
    # What a MASTER sends before it is without a source comes from the last one.
    if not host.configured.own_source and (interface.has_source or not keeps_source(host)):
        memcpy(host.source4, interface.source, 4)
    if not host.configured.own_source6 and (interface.has_source6 or not keeps_source(host)):
        memcpy(host.source6, interface.source6, 16)
    memcpy(host.mac, mac, 6)
    if host.block.outputs[0].unicast:                   # the kernel sends it
        memcpy(host.mac, interface.mac, 6)
    memset(host.destination4, 0, 4)
    host.group6 = 0
    for i in range(host.block.output_count):
        output = &host.block.outputs[i]
        if output.family == 6:
            wire_build6(output.frame, output.destination_mac, mac, host.source6,
                        output.destination)
            if not output.unicast and wire_is_link_group6(output.destination):
                host.group6 = output.destination[15]
            continue
        wire_build4(output.frame, output.destination_mac, mac, host.source4, output.destination)
        if not output.unicast:
            memcpy(host.destination4, output.destination, 4)


cdef inline bint keeps_source(const VirtualHost* host) noexcept nogil:
    return (host.state == MASTER or host.flags & RESIGN_AFTER_REMOVAL
            or host.pending & (TO_ADVERTISE_LAST | TO_RESIGN))


cdef void note_shortest(Core* core, const VirtualHost* host) noexcept nogil:
    cdef int64_t interval_ns = vhid_least_interval_ns(host)
    if interval_ns < core.shortest_ns:
        core.shortest_ns = interval_ns
    # A sixteenth of the shortest interval keeps rounding small where intervals are small.
    while core.wake_tick_ns > TICK_NS and core.wake_tick_ns * 16 > core.shortest_ns:
        core.wake_tick_ns //= 2
    if core.wake_tick_ns < TICK_NS:
        core.wake_tick_ns = TICK_NS


cdef void find_shortest(Core* core) noexcept nogil:
    """Find the shortest interval: the host that had it has gone, or has a longer one now."""
    cdef uint32_t slot
    core.shortest_left = False
    core.shortest_ns = SECOND_NS
    core.wake_tick_ns = core.longest_tick_ns
    for slot in range(core.slots):
        if core.hosts[slot].flags & IN_USE:
            note_shortest(core, &core.hosts[slot])


cdef void add_host(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[order.slot]
    cdef uint32_t* first
    cdef uint32_t i
    cdef uint16_t generation = host.generation
    memcpy(host, order.pointer, sizeof(VirtualHost))
    # Of the slot: no request of a predecessor applies.
    host.generation = <uint16_t>(generation + 1)
    host.sources = core_source(core, order.slot, 0)
    host.sources_apart = MAX_VIRTUAL_HOSTS
    for i in range(SOURCES):
        if vhid_source(host, i).family:     # of the host that had the slot before
            memset(vhid_source(host, i), 0, sizeof(Source))
    host.flags |= IN_USE
    host.group = 0                          # it joins the one that is wanted at the end
    for i in range(ORDERED_BY):             # before it listens: they make its wait longer
        host.ordered[i] = <uint8_t>(order.value >> 8 * i)
    vhid_add_up(host)
    host.state = INIT
    host.since_ns = now_ns
    first = &core.index[<uint32_t>host.interface * 256 + host.vhid]
    host.next_same = first[0] - 1           # 0 - 1 is NOBODY
    first[0] = order.slot + 1
    core.interfaces[host.interface].hosts += 1
    core.used += 1
    count_block(core, host.block, 1)
    if order.slot >= core.slots:
        core.slots = order.slot + 1
    note_shortest(core, host)
    build_frames(core, host)
    verify_all_soon(core, host.interface, now_ns + SETTLED_NS)
    engine_record(core, order.slot, True, True, now_ns)
    engine_try_ready(core, order.slot, STARTED, now_ns)


cdef void join_wanted(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """Make a host that was added or replaced a member of the group that the order names."""
    cdef const VirtualHost* wanted = <const VirtualHost*>order.pointer
    join(core, order.slot, wanted.group, wanted.group_all, now_ns)


cdef void remove_host(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Resign if MASTER; the host leaves the table once its addresses are gone."""
    cdef VirtualHost* host = &core.hosts[slot]
    host.flags |= LEAVING
    group_leave(core, slot, now_ns)
    engine_event(core, slot, ON_RESIGN, 0, now_ns)
    if host.held:                           # if a removal failed: try once more, immediately
        engine_ask(core, &core.change, slot, 0)
    if may_release(host):
        engine_release(core, slot, now_ns)


cdef void copy_hosts(const Core* core, uint32_t first, uint32_t count,
                     HostsCopy* copy) noexcept nogil:
    """Copy hosts from slot `first` on, each with its sources."""
    cdef uint32_t i, k
    memcpy(copy.hosts, &core.hosts[first], count * sizeof(VirtualHost))
    for i in range(count):
        copy.hosts[i].sources = &copy.sources[i * SOURCES]
        copy.hosts[i].sources_apart = 1
        for k in range(SOURCES):
            copy.sources[i * SOURCES + k] = core_source(core, first + i, k)[0]
        engine_shown(core, &copy.hosts[i])


cdef void forget_family(VirtualHost* host, int family) noexcept nogil:
    """The host no longer advertises over this family: it has no master there.

    The silence of one family is reported only while the host expects to hear it.
    """
    host.master[family] = 0
    host.heard_ns[family] = 0
    host.flags &= ~<uint32_t>(SILENT_4 | SILENT_6)


cdef void change_wait(Core* core, uint32_t slot, int64_t former_ns, int64_t now_ns) noexcept nogil:
    """A BACKUP's master-down time has changed from `former_ns`: its wait began when it began.

    If it is shorter now, a master that is alive may have advertised less often until now: it counts
    from this moment, and ends no later than before. Absences are judged anew at its end. A short
    wait, after a resignation or a tie, goes on.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t down_ns = vhid_master_down_ns(host), jitter_ns = vhid_jitter_ns(host)
    cdef int64_t began_ns = max(vhid_heard_ns(host), host.since_ns), due_ns = host.deadline_ns
    if host.flags & (MASTER_LEAVES | CONTESTED):
        return
    if not host.flags & EXTENDED:
        began_ns = min(began_ns, due_ns - former_ns - jitter_ns)
    host.flags &= ~<uint32_t>EXTENDED
    engine_set_deadline(core, slot, max(began_ns + down_ns + jitter_ns,
                                        min(due_ns, now_ns + down_ns)))


cdef void keep_routes(Block* block) noexcept nogil:
    """A local route has no prefix length: it stays where only that of its address has changed."""
    cdef uint32_t i, j
    cdef Address* former
    cdef Address* now
    for i in range(block.address_count):
        former = &block.addresses[i]
        if not (former.flags & RETIRED and former.flags & HELD and former.routed):
            continue
        for j in range(block.address_count):
            now = &block.addresses[j]
            if now.family == 4 and not now.flags & (RETIRED | HELD | ASKED) and (
                    memcmp(now.bytes, former.bytes, 4) == 0):
                now.flags |= HELD
                now.routed = 1
                former.flags &= ~<uint32_t>HELD
                break


cdef void replace_host(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """Change a host in place; its state, peer and counters stay. `value`: digest grace time, ns."""
    cdef VirtualHost* host = &core.hosts[order.slot]
    cdef const VirtualHost* wanted = <const VirtualHost*>order.pointer
    cdef Block* block = wanted.block
    cdef uint32_t i, j
    cdef int64_t interval_ns = vhid_interval_ns(host), down_ns = vhid_master_down_ns(host)
    cdef int64_t least_ns = vhid_least_interval_ns(host)
    keep_old_keys(host, wanted, now_ns + order.value, now_ns)
    for i in range(block.address_count):
        for j in range(host.block.address_count):
            if vhid_same_address(&block.addresses[i], &host.block.addresses[j]):
                block.addresses[i].flags |= host.block.addresses[j].flags & (
                    HELD | FOREIGN | FAILED | LOST | LOST_WITH_OURS | ASKED)
                block.addresses[i].error = host.block.addresses[j].error
                block.addresses[i].routed = host.block.addresses[j].routed
    keep_routes(block)
    count_block(core, host.block, -1)
    count_block(core, block, 1)
    engine_return(core, NOBODY, host.block, now_ns)
    host.block = block
    host.configuration = <uint8_t>(host.configuration + 1)
    host.announce_from = 0
    host.key = wanted.key
    host.configured = wanted.configured
    if not host.configured.expects_4:
        forget_family(host, 0)
    if not host.configured.expects_6:
        forget_family(host, 1)
    if host.configured.own_source:
        memcpy(host.source4, wanted.source4, 4)
    if host.configured.own_source6:
        memcpy(host.source6, wanted.source6, 16)
    core.shortest_left |= least_ns <= core.shortest_ns
    note_shortest(core, host)
    build_frames(core, host)
    if host.state == MASTER and vhid_interval_ns(host) != interval_ns:
        engine_reschedule(core, order.slot, now_ns)
    elif host.state == BACKUP and vhid_master_down_ns(host) != down_ns:
        change_wait(core, order.slot, down_ns, now_ns)
    engine_redirect(core, order.slot)
    host.held = 0                           # every change still has an outcome: `asked` stays
    for i in range(block.address_count):
        host.held += 1 if block.addresses[i].flags & HELD else 0
        if wanted_change(host, &block.addresses[i]) and not block.addresses[i].flags & FOREIGN:
            engine_ask(core, &core.change, order.slot, TO_TELL_ADDRESSES)
    if host.retry_at_ns or host.without_ns:         # of addresses that the host no longer has
        engine_ask(core, &core.change, order.slot, 0)
    engine_plan_upkeep(core, order.slot, now_ns)
    engine_record(core, order.slot, False, True, now_ns)
    engine_try_ready(core, order.slot, SOURCE_FOUND, now_ns)
    join_wanted(core, order, now_ns)


cdef void lose_interface(Core* core, uint16_t number, int64_t now_ns) noexcept nogil:
    """The interface is gone, and its addresses with it: its hosts leave."""
    cdef uint32_t vhid, slot, next, i
    cdef VirtualHost* host
    for vhid in range(256):
        slot = core.index[<uint32_t>number * 256 + vhid] - 1
        while slot != NOBODY:
            host = &core.hosts[slot]
            next = host.next_same
            if host.reason != RESIGNED:
                engine_event(core, slot, ON_NOT_READY, INTERFACE_MISSING, now_ns)
            for i in range(host.block.address_count):
                host.block.addresses[i].flags &= ~<uint32_t>(HELD | FOREIGN | LOST | LOST_WITH_OURS)
            host.held = 0
            host.flags &= ~<uint32_t>(HOLDS_ROUTES | REPLACES_ROUTES)
            if may_release(host):
                engine_release(core, slot, now_ns)
            slot = next


cdef void record_interface(Core* core, uint16_t number, const Interface* now,
                           int64_t now_ns) noexcept nogil:
    """Record the properties of an interface, after the former states of its hosts."""
    cdef uint32_t vhid, slot
    cdef Record* record
    for vhid in range(256):
        slot = core.index[<uint32_t>number * 256 + vhid] - 1
        while slot != NOBODY:
            engine_touch(core, slot, now_ns)
            slot = core.hosts[slot].next_same
    record = record_input(&core.recorder, RECORD_INTERFACE, NOBODY, number, now_ns)
    record.value, record.state, record.demote = <uint32_t>now.ifindex, now.up, now.forwards6
    record.detail = (RENAMED if now.renamed else 0) | (ANNOUNCED_ANEW if now.announce else 0)
    record.advbase, record.advskew = now.has_source, now.has_source6
    memcpy(record.mac, now.mac, 6)
    memcpy(record.source4, now.source, 4)
    memcpy(record.address, now.source6, 16)


cdef void record_order(Core* core, uint8_t ordered, uint32_t slot, int64_t value,
                       int64_t now_ns) noexcept nogil:
    cdef Record* record
    if core.recorder.records == NULL:
        return
    if slot != NOBODY:
        engine_touch(core, slot, now_ns)
    record = record_input(&core.recorder, RECORD_ORDERED, slot,
                          0 if slot == NOBODY else core.hosts[slot].interface, now_ns)
    record.detail, record.value = ordered, <uint64_t>value


cdef bint is_changed(const Interface* was, const Interface* now) noexcept nogil:
    return (was.ifindex != now.ifindex or was.up != now.up or was.forwards6 != now.forwards6
            or was.has_source != now.has_source or was.has_source6 != now.has_source6
            or memcmp(was.mac, now.mac, 6) != 0 or memcmp(was.source, now.source, 4) != 0
            or memcmp(was.source6, now.source6, 16) != 0)


cdef void set_interface(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """An interface appeared, vanished, went up or down, or changed its MAC, place or source."""
    cdef Interface* interface = &core.interfaces[order.interface]
    cdef const Interface* now = <const Interface*>order.pointer
    cdef uint32_t vhid, slot
    cdef uint8_t cause = STARTED
    cdef bint changed = is_changed(interface, now)
    if core.recorder.records != NULL:
        record_interface(core, order.interface, now, now_ns)
    if interface.ifindex and interface.ifindex != now.ifindex:
        lose_interface(core, order.interface, now_ns)
    if interface.ifindex != now.ifindex or interface.renamed:
        cause = INTERFACE_FOUND
    elif not interface.up and now.up:
        cause = LINK_UP
    elif (now.has_source and not interface.has_source
          or now.has_source6 and not interface.has_source6):
        cause = SOURCE_FOUND
    interface.known, interface.ifindex, interface.up = True, now.ifindex, now.up
    interface.has_source, interface.has_source6 = now.has_source, now.has_source6
    interface.forwards6, interface.renamed = now.forwards6, now.renamed
    memcpy(interface.mac, now.mac, 6)
    memcpy(interface.source, now.source, 4)
    memcpy(interface.source6, now.source6, 16)
    verify_all_soon(core, order.interface, now_ns + SETTLED_NS)
    for vhid in range(256):
        slot = core.index[<uint32_t>order.interface * 256 + vhid] - 1
        while slot != NOBODY:
            build_frames(core, &core.hosts[slot])
            engine_try_ready(core, slot, cause, now_ns)
            group_review(core, slot, now_ns)        # also where nothing else changed
            if now.announce and core.hosts[slot].flags & ANNOUNCING:
                begin_announcing(core, slot, now_ns)
            if changed and core.hosts[slot].retry_at_ns:    # a refused change may be possible now
                core.hosts[slot].retries = 0
                engine_ask(core, &core.change, slot, 0)
            slot = core.hosts[slot].next_same


cdef void set_by_route(Core* core, uint32_t slot, bint by_route, int64_t now_ns) noexcept nogil:
    """Set how a host's IPv4 addresses are added; routes of a MASTER that do not do are replaced."""
    cdef VirtualHost* host = &core.hosts[slot]
    host.configured.by_route = by_route
    host.flags &= ~<uint32_t>REPLACES_ROUTES
    if not by_route and host.state == MASTER:
        host.flags |= REPLACES_ROUTES
        engine_ask(core, &core.change, slot, 0)


cdef void adopt(Core* core, uint32_t slot, const Address* there, int64_t now_ns) noexcept nogil:
    """Adopt an address that the kernel has with our mark; it is removed unless MASTER."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Address* mine
    cdef uint32_t i
    for i in range(host.block.address_count):
        mine = &host.block.addresses[i]
        if not mine.flags & HELD and vhid_same_address(mine, there):
            mine.flags = <uint8_t>(mine.flags & ~<uint32_t>(FOREIGN | FAILED | LOST
                                                            | LOST_WITH_OURS)) | HELD
            mine.routed = 0
            host.held += 1
            engine_ask(core, &core.change, slot, 0)


cdef void record_adoption(Core* core, uint32_t slot, const Address* there,
                          int64_t now_ns) noexcept nogil:
    cdef Record* record
    if core.recorder.records != NULL:
        engine_touch(core, slot, now_ns)
        record = record_input(&core.recorder, RECORD_ORDERED, slot, core.hosts[slot].interface,
                              now_ns)
        record.detail, record.value, record.family = ORDERED_ADOPT, there.prefixlen, there.family
        memcpy(record.address, there.bytes, 16)


cdef void demote_added(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """Set the demotions of a new host, before it hears anything: a byte each, by reason; and its
    group's.
    """
    cdef int by
    cdef int64_t amount
    for by in range(ORDERED_BY):
        amount = order.value >> 8 * by & MOST_DEMOTION
        if amount:
            demote(core, order.slot, <uint8_t>by, amount, by == BY_TRACK and order.reason, now_ns)
    join_wanted(core, order, now_ns)


cdef void bar(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """Set whether another process of this machine has the host."""
    cdef VirtualHost* host = &core.hosts[order.slot]
    host.flags &= ~<uint32_t>BARRED
    host.flags |= BARRED if order.value else 0
    engine_try_ready(core, order.slot, FREED, now_ns)


cdef void withhold(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """Set whether a host takes no part while its machine is in maintenance: a MASTER resigns."""
    cdef VirtualHost* host = &core.hosts[order.slot]
    host.flags &= ~<uint32_t>WITHHELD
    host.flags |= WITHHELD if order.value else 0
    engine_try_ready(core, order.slot, MAINTENANCE_OVER, now_ns)


cdef void take_over(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """A BACKUP takes over from its master, whatever `preempt` is, if the election keeps it MASTER.

    Not in maintenance. It has been asked for by someone who may have seen an older state.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef const Source* master = vhid_master(host)
    if (host.state == BACKUP and not host.ordered[<int>BY_MAINTENANCE] and master != NULL
            and vhid_beats(host, master)):
        engine_event(core, slot, ON_OUR_TURN, TAKEN_OVER, now_ns)


cdef void resign_all(Core* core, int64_t now_ns) noexcept nogil:
    cdef uint32_t slot
    for slot in range(core.slots):
        if core.hosts[slot].flags & IN_USE:
            engine_touch(core, slot, now_ns)
    record_order(core, ORDERED_RESIGN, NOBODY, 0, now_ns)
    groups_end(core)
    for slot in range(core.slots):
        if core.hosts[slot].flags & IN_USE:
            engine_event(core, slot, ON_RESIGN, 0, now_ns)


cdef void obey(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """Carry out one order. Orders for slots that are not in use change nothing."""
    cdef uint32_t slot = order.slot
    # Until the first timer the wheel is at tick 0, and the machine may have been up for a year.
    wheel_skip(&core.wheel, now_ns // TICK_NS)
    recorder_begin(&core.recorder)
    cdef bint alive = (slot < MAX_VIRTUAL_HOSTS and order.interface < MAX_INTERFACES
                       and core.hosts[slot].flags & IN_USE)
    if order.kind == ORDER_ADD:
        if slot < MAX_VIRTUAL_HOSTS and not alive:
            add_host(core, order, now_ns)
            demote_added(core, order, now_ns)
    elif order.kind == ORDER_SET_INTERFACE:
        set_interface(core, order, now_ns)
    elif order.kind == ORDER_RESIGN_ALL:
        resign_all(core, now_ns)
    elif order.kind == ORDER_COPY_RECORDS:
        recorder_copy(&core.recorder, <RecordCopy*>order.pointer)
    elif order.kind == ORDER_MARK:
        if core.shortest_left:
            find_shortest(core)
        engine_done(core, order.value, now_ns)
    elif order.kind == ORDER_FLUSH:
        core.flush_mark = order.value
    elif order.kind == ORDER_GROW_REPORTS:
        engine_grow_reports(core, <Report*>order.pointer, <uint64_t>order.value)
    elif order.kind == ORDER_SNAPSHOT:
        copy_hosts(core, slot, <uint32_t>order.value, <HostsCopy*>order.pointer)
    elif order.kind == ORDER_SNAPSHOT_INTERFACES:
        memcpy(order.pointer, &core.interfaces[slot], order.value * sizeof(Interface))
    elif order.kind == ORDER_TALLY:
        tally_ordered(core, order, now_ns)
    elif order.kind == ORDER_TELL_GROUPS:
        groups_tell(core, now_ns)
    elif alive:
        obey_of_host(core, order, now_ns)


cdef void obey_of_host(Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """Carry out an order for a host that is in use."""
    cdef uint32_t slot = order.slot
    if order.kind == ORDER_ASSUME:
        assume(core, slot, <const Checkpoint*>order.pointer, now_ns)
    elif order.kind == ORDER_REMOVE:
        record_order(core, ORDERED_REMOVE, slot, 0, now_ns)
        remove_host(core, slot, now_ns)
    elif order.kind == ORDER_REPLACE:
        replace_host(core, order, now_ns)
    elif order.kind == ORDER_DEMOTE:
        if order.reason < ORDERED_BY and order.value >= 0:
            demote(core, slot, order.reason, order.value & HARD - 1,
                   order.reason == BY_TRACK and order.value & HARD, now_ns)
    elif order.kind == ORDER_BAR:
        record_order(core, ORDERED_BAR, slot, order.value, now_ns)
        bar(core, order, now_ns)
    elif order.kind == ORDER_WITHHOLD:
        record_order(core, ORDERED_WITHHOLD, slot, order.value, now_ns)
        withhold(core, order, now_ns)
    elif order.kind == ORDER_YIELD:
        record_order(core, ORDERED_YIELD, slot, order.reason, now_ns)
        if core.hosts[slot].state == MASTER:
            engine_event(core, slot, ON_ADDRESS_LOST, order.reason, now_ns)
    elif order.kind == ORDER_PREEMPT:
        record_order(core, ORDERED_PREEMPT, slot, 0, now_ns)
        take_over(core, slot, now_ns)
    elif order.kind == ORDER_ANNOUNCE:
        record_order(core, ORDERED_ANNOUNCE, slot, 0, now_ns)
        begin_announcing(core, slot, now_ns)
    elif order.kind == ORDER_VERIFY:
        verify_all_soon(core, core.hosts[slot].interface, now_ns)
    elif order.kind == ORDER_OWN_SOURCE:
        record_order(core, ORDERED_OWN_SOURCE, slot, order.value, now_ns)
        core.hosts[slot].configured.source_missing = order.value & SOURCE_MISSING != 0
        core.hosts[slot].configured.source6_missing = order.value & SOURCE6_MISSING != 0
        engine_try_ready(core, slot, SOURCE_FOUND, now_ns)
    elif order.kind == ORDER_BY_ROUTE:
        record_order(core, ORDERED_BY_ROUTE, slot, order.value, now_ns)
        set_by_route(core, slot, order.value != 0, now_ns)
    elif order.kind == ORDER_ADOPT:
        record_adoption(core, slot, <const Address*>order.pointer, now_ns)
        adopt(core, slot, <const Address*>order.pointer, now_ns)
    elif order.kind == ORDER_LOSE_ADDRESS:
        record_order(core, ORDERED_ADDRESS_LOST, slot, order.value, now_ns)
        if order.value:
            upkeep_lose(core, slot, ADDRESS_LOST, now_ns)
        else:
            engine_event(core, slot, ON_ADDRESS_LOST, ADDRESS_LOST, now_ns)
