"""The engine's pending actions: advertisements, address changes, announcements.

Each kind is a pair of functions: `next_...` returns the next host with its frames ready, and one in
the past tense takes the outcome; next_advertisement() is in _sealing.pyx. The caller (the pump, the
simulator, a test) carries the action out. Order of one turn: all advertisements, then addresses,
then announcements. The outcome of an address change may come much later, since the kernel may be
busy for seconds: until then the address is ASKED, and not asked for again, whatever becomes of its
host.
"""

from libc.errno cimport EADDRNOTAVAIL, EAGAIN, EEXIST, ENOBUFS, ENODEV, ENOMEM, ESTALE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from carp_fast.engine._core cimport (
    ADDRESS_FAILED, ADDRESS_FOREIGN, ADDRESS_GONE, ADDRESS_RESTORED, ADDRESSES_CHANGED, Core,
    Interface, Queue, RESTORED_REFUSED, RESTORED_REMOVED, RESTORED_ROUTE, RESTORED_WITH_OURS,
    Report, RestoredWhy, SENDS_FAILING, SENDS_RECOVERED, engine_ask, engine_drop_source,
    engine_end_duplicate, engine_release, engine_set_deadline, queue_empty, queue_length,
    queue_pop, queue_push, report_begin, report_end, verify_all_soon, verify_soon)
from carp_fast.engine._figures cimport note_takeover
from carp_fast.engine._groups cimport group_review
from carp_fast.engine._history cimport history_ms, history_send
from carp_fast.engine._recorder cimport (
    RECORD_ADDED, RECORD_ADVERTISED, RECORD_ANNOUNCED, RECORD_CHANGED, RECORD_REMOVED, Record,
    record_output)
from carp_fast.engine._transitions cimport advertise_again
from carp_fast.engine._upkeep cimport resign, tell_address, upkeep_done, wanted_change, wants_route
from carp_fast.engine._vhid cimport (
    Address, ADDRESS_DEMOTED, ANNOUNCING, ASKED, Block, DUPLICATE, FAILED, FOREIGN, HELD,
    HOLDS_ROUTES, LEAVING, LOST, LOST_WITH_OURS, MASTER, REFUSED_PARTLY, REPEAT_AFTER, REPEATING,
    REPLACES_ROUTES, RESIGN_AFTER_REMOVAL, ROUTED_ONCE, SECOND_NS, SEND_DEMOTED, TO_ADVERTISE_LAST,
    TO_ANNOUNCE, TO_CHANGE_ADDRESSES, TO_REPEAT, TO_RESIGN, TO_TELL_ADDRESSES, UNANNOUNCED,
    UNSOURCED, vhid_duplicate_over, vhid_interval_ns, vhid_same_address, vhid_span_ms, VirtualHost)
from carp_fast.engine._wheel cimport NOBODY

cdef enum:
    FAILED_SENDS = 3            # in a row, and for an interval: the host is demoted by 240
    GOOD_SENDS = 3              # in a row: the demotion ends
    RETRY_DOUBLINGS = 10        # of the wait until a refused advertisement is sent again, a tick
    LOOKED_AT = 4096            # hosts waiting for their interface's pace that one call examines
    # Delay of a check of existing addresses: after a take-over, after removal of an IPv4 address.
    RISEN_NS = 1000000000
    REMOVED_NS = 20000000


# For so long a host that stepped down tries again to send what it owes; its addresses may stay for
# half of that.
cdef int64_t OWED_NS = 2000000000

# ---------------------------------------------------------------------------------- advertisements

cdef bint may_release(const VirtualHost* host) noexcept nogil:
    """Whether a removed host has no address left to remove and no frame left to send."""
    return host.flags & LEAVING and not host.held and not host.asked and not host.pending & (
        TO_CHANGE_ADDRESSES | TO_RESIGN | TO_ADVERTISE_LAST)


cdef void record_advertised(Core* core, uint32_t slot, uint32_t failures, int error,
                            int64_t now_ns) noexcept nogil:
    """Record the fields of the host's first output; those of the others are the same."""
    cdef const VirtualHost* host = &core.hosts[slot]
    cdef const uint8_t* carp = host.block.outputs[0].frame + host.block.outputs[0].carp_at
    cdef Record* record = record_output(&core.recorder, RECORD_ADVERTISED, slot, host.interface,
                                        now_ns)
    record.advskew, record.demote, record.advbase = carp[2], carp[4], carp[5]
    record.value, record.error = host.counter, <uint8_t>error
    record.detail = <uint8_t>failures if failures < host.block.output_count else 0


cdef inline bint passes(int error) noexcept nogil:
    """Whether a queue was full, of the interface or of our socket: it empties by itself.

    Anything else needs a change of link, route, firewall or MTU, and is tried again when the next
    advertisement is due.
    """
    return error == ENOBUFS or error == EAGAIN or error == ENOMEM


cdef void note_failure(Core* core, uint32_t slot, int error, int64_t now_ns) noexcept nogil:
    """No frame of an advertisement was sent; after an interval without any the host is demoted."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Report* report
    if host.failed_sends == 0:
        host.failing_ns = now_ns
    host.failed_sends = min(host.failed_sends + 1, <uint8_t>255)
    host.good_sends = 0
    if (host.state != MASTER or host.flags & SEND_DEMOTED or host.failed_sends < FAILED_SENDS
            or now_ns - host.failing_ns < vhid_interval_ns(host)):
        return
    host.flags |= SEND_DEMOTED
    group_review(core, slot, now_ns)
    report = report_begin(core, SENDS_FAILING, slot, now_ns)
    if report != NULL:
        report.value = <uint32_t>error
        report_end(core)


cdef void note_success(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """A host that is demoted for failed sends has sent an advertisement."""
    cdef VirtualHost* host = &core.hosts[slot]
    host.good_sends += 1
    if host.good_sends >= GOOD_SENDS:
        host.good_sends = 0
        host.flags &= ~<uint32_t>SEND_DEMOTED
        group_review(core, slot, now_ns)
        if report_begin(core, SENDS_RECOVERED, slot, now_ns) != NULL:
            report_end(core)


cdef void send_again(Core* core, uint32_t slot, uint32_t failures, int error,
                     int64_t now_ns) noexcept nogil:
    """Let a host whose frames a full queue refused advertise again, from the next tick on.

    The wait doubles while nothing is sent, up to the next advertisement. If only some frames were
    refused, all are sent once more. A host that has stepped down tries in every tick for OWED_NS.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef bint partly = failures < host.block.output_count
    cdef bint again = host.flags & REFUSED_PARTLY != 0
    cdef int64_t tick_ns = core.wake_tick_ns, ticks = 1
    cdef const uint8_t* carp = host.block.outputs[0].frame + host.block.outputs[0].carp_at
    host.flags &= ~<uint32_t>REFUSED_PARTLY
    if not failures or not passes(error) or partly and again:
        return
    if partly:
        host.flags |= REFUSED_PARTLY
    if host.state == MASTER:
        if not partly:
            ticks <<= min(host.failed_sends - 1, RETRY_DOUBLINGS)
        if (now_ns // tick_ns + ticks) * tick_ns < host.deadline_ns:
            engine_set_deadline(core, slot, (now_ns // tick_ns + ticks) * tick_ns)
    elif now_ns - host.since_ns < OWED_NS:
        core.owed_at_ns = (now_ns // tick_ns + 1) * tick_ns
        engine_ask(core, &core.owed, slot,
                   TO_RESIGN if carp[2] == 255 and carp[5] == 255 else TO_ADVERTISE_LAST)


cdef void advertisement_sent(Core* core, uint32_t slot, uint32_t failures, int error,
                             int64_t now_ns) noexcept nogil:
    """Take the outcome of the host's frames: `failures` were not sent; `error`: errno of one.

    It counts as a failure only if none was sent, since then nobody can have heard it. One that must
    not be lost is repeated once it was sent, however often it was refused before.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Interface* interface = &core.interfaces[host.interface]
    cdef bint late
    if host.block == NULL:
        return
    late = host.failed_sends or host.flags & REFUSED_PARTLY
    if not host.history.sent[0].count:
        host.first_sent = host.counter + 1 - host.block.output_count
    history_send(&host.history, host.counter + 1 - host.block.output_count,
                 host.block.output_count, history_ms(now_ns),
                 vhid_span_ms(host),
                 <uint32_t>(vhid_interval_ns(host) // 1000000))
    if host.flags & DUPLICATE and vhid_duplicate_over(host, now_ns):
        engine_end_duplicate(core, slot, now_ns)
    if core.recorder.records != NULL:
        record_advertised(core, slot, failures, error if failures else 0, now_ns)
    interface.send_errors += failures
    host.send_errors += failures
    if failures and failures >= host.block.output_count:
        note_failure(core, slot, error, now_ns)
    else:
        interface.sent += 1
        host.sent += 1
        if host.failed_sends:
            host.failed_sends = 0
            if not host.flags & ADDRESS_DEMOTED:
                host.losses = 0
        if host.flags & SEND_DEMOTED:
            note_success(core, slot, now_ns)
    if failures or host.flags & REFUSED_PARTLY:
        send_again(core, slot, failures, error, now_ns)
    if host.flags & UNSOURCED and host.state != MASTER:
        engine_drop_source(core, slot)
    if host.failed_sends and host.state == MASTER:
        return                                  # nothing was sent: what follows some waits, too
    if host.state == MASTER:
        if late and host.flags & REPEATING:
            advertise_again(core, slot, now_ns)
        if host.repeat_in:
            host.repeat_in -= 1
            if host.repeat_in == 0:
                engine_ask(core, &core.repeat, slot, TO_REPEAT)
        # A tick early: a late pump must not decide between this one and the next.
        if host.announce_at_ns and now_ns + core.wake_tick_ns >= host.announce_at_ns:
            engine_ask(core, &core.repeat, slot, TO_REPEAT)
            plan_announcement(host, now_ns)
    elif may_release(host):
        engine_release(core, slot, now_ns)


# ---------------------------------------------------------------------------------------- addresses

cdef uint32_t next_change(Core* core) noexcept nogil:
    """The next host whose addresses may differ from what its state wants, or NOBODY.

    Its pending bits stay until addresses_done().
    """
    cdef uint32_t slot
    while True:
        slot = queue_pop(&core.change)
        if slot == NOBODY:
            return NOBODY
        if core.hosts[slot].block != NULL and core.hosts[slot].pending & TO_CHANGE_ADDRESSES:
            return slot


cdef void change_asked(Core* core, uint32_t slot, uint32_t which) noexcept nogil:
    """A change of the address was handed over; take_asked() counts its outcome."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Address* address = &host.block.addresses[which]
    if not address.flags & HELD and wants_route(host, address):
        host.flags |= ROUTED_ONCE
    address.flags |= ASKED
    host.asked += 1


cdef uint32_t take_asked(Core* core, uint32_t slot, uint32_t which,
                         const Address* asked) noexcept nogil:
    """A change has its outcome: the place of the address that was number `which`, or NOBODY.

    The host's configuration may have been replaced since, and have no such address.
    """
    cdef const Block* block = core.hosts[slot].block
    cdef uint32_t i
    core.hosts[slot].asked -= 1
    if which < block.address_count and vhid_same_address(&block.addresses[which], asked):
        return which
    for i in range(block.address_count):
        if vhid_same_address(&block.addresses[i], asked):
            return i
    return NOBODY


cdef void address_changed(Core* core, uint32_t slot, uint32_t which, bint added, bint routed,
                          int error, int64_t now_ns) noexcept nogil:
    """The kernel acknowledged a change (`error` 0) or refused it (an errno).

    `routed`: the change was that of a local route.
    EEXIST on adding: another program has added the address, and it is left alone. EADDRNOTAVAIL or
    ENODEV on removing: it is gone already, with its interface or removed by another program.
    ESTALE: it was not carried out. Reported when it begins to fail.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Address* address = &host.block.addresses[which]
    cdef Record* record
    cdef bint failing = address.flags & FAILED and address.error == <uint8_t>error
    address.flags &= ~<uint32_t>ASKED
    if error == ESTALE:
        return
    if core.recorder.records != NULL:
        record = record_output(&core.recorder, RECORD_ADDED if added else RECORD_REMOVED, slot,
                               host.interface, now_ns)
        record.family, record.error, record.detail = address.family, <uint8_t>error, routed
        memcpy(record.address, address.bytes, 16)
    if not added and (error == EADDRNOTAVAIL or error == ENODEV):
        error = 0
    if error and not (added and error == EEXIST):
        address.flags = <uint8_t>(address.flags & ~<uint32_t>FOREIGN) | FAILED
        address.error = <uint8_t>error
        if routed:                              # it may have been carried out all the same
            verify_all_soon(core, host.interface, now_ns + RISEN_NS)
        if not failing:
            tell_address(core, ADDRESS_FAILED, slot, which, error, now_ns)
    elif not added:
        if address.flags & HELD:
            host.held -= 1
        if address.flags & FAILED:
            tell_address(core, ADDRESS_GONE, slot, which, 0, now_ns)
        address.flags &= ~<uint32_t>(HELD | FAILED)
        # Its secondaries may have been removed with it, and with the last one local routes.
        if address.family == 4 and not routed:
            if address.prefixlen < 32:
                core.interfaces[host.interface].removed_ns = now_ns
            verify_all_soon(core, host.interface, now_ns + REMOVED_NS)
    elif error:
        if not address.flags & FOREIGN:
            tell_address(core, ADDRESS_FOREIGN, slot, which, 0, now_ns)
        address.flags = <uint8_t>(address.flags & ~<uint32_t>(FAILED | LOST | LOST_WITH_OURS)
                                  ) | FOREIGN
    else:
        address_added(core, slot, which, routed, now_ns)


cdef void address_added(Core* core, uint32_t slot, uint32_t which, bint routed,
                        int64_t now_ns) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Address* address = &host.block.addresses[which]
    if not address.flags & HELD:                        # not adopted since it was asked for
        host.held += 1
    if address.flags & LOST:
        host.addresses_restored += 1
        core.figures.interfaces[host.interface].addresses_restored += 1
    if address.flags & (FOREIGN | FAILED | LOST):       # added again, or at last
        engine_ask(core, &core.announce, slot, TO_ANNOUNCE)
        tell_address(core, ADDRESS_RESTORED, slot, which, why_restored(address), now_ns)
    address.flags = <uint8_t>(address.flags & ~<uint32_t>(FOREIGN | FAILED | LOST
                                                          | LOST_WITH_OURS)) | HELD
    address.routed = routed
    if routed:
        host.flags |= HOLDS_ROUTES


cdef RestoredWhy why_restored(const Address* address) noexcept nogil:
    if not address.flags & LOST:
        return RESTORED_REFUSED
    if address.routed:
        return RESTORED_ROUTE
    return RESTORED_WITH_OURS if address.flags & LOST_WITH_OURS else RESTORED_REMOVED


cdef void addresses_done(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Every change of the host has its outcome: announce, resign, or release the host.

    The caller calls this only when `asked` is 0.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t i
    cdef Address* address
    cdef bint tell = host.pending & TO_TELL_ADDRESSES, routed = False
    if core.recorder.records != NULL:
        record_output(&core.recorder, RECORD_CHANGED, slot, host.interface, now_ns)
    host.pending &= ~<uint32_t>(TO_CHANGE_ADDRESSES | TO_TELL_ADDRESSES)
    for i in range(host.block.address_count):
        address = &host.block.addresses[i]
        routed |= address.routed and address.flags & HELD
        if not address.flags & (FOREIGN | FAILED) and wanted_change(host, address):
            # The state changed while a long list was carried out: start again from the first.
            engine_ask(core, &core.change, slot, TO_TELL_ADDRESSES if tell else 0)
            return
    if not routed:
        host.flags &= ~<uint32_t>(HOLDS_ROUTES | REPLACES_ROUTES)
    upkeep_done(core, slot, now_ns)
    if tell and report_begin(core, ADDRESSES_CHANGED, slot, now_ns) != NULL:
        report_end(core)
    if host.state == MASTER:
        if host.took_from_ns and (host.held or not host.configured.manage_addresses):
            note_takeover(&core.figures, now_ns - host.took_from_ns)
            host.took_from_ns = 0
        if tell:
            verify_soon(core, host.interface, now_ns + RISEN_NS)
        if tell and not host.configured.announce_on_order:
            begin_announcing(core, slot, now_ns)
        return
    if host.flags & RESIGN_AFTER_REMOVAL:
        resign(core, slot, now_ns)
    elif may_release(host):
        engine_release(core, slot, now_ns)


# ------------------------------------------------------------------------------------ announcements

cdef void begin_announcing(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """The addresses are added: announce now, and again two advertisements later."""
    cdef VirtualHost* host = &core.hosts[slot]
    if host.state != MASTER:
        return
    host.flags = (host.flags & ~<uint32_t>UNANNOUNCED) | ANNOUNCING
    host.announce_from = 0
    host.repeat_in = REPEAT_AFTER + (host.flags & REPEATING != 0)
    host.announce_left = (host.configured.announce_count if host.configured.announce_interval_ms
                          else 1)
    plan_announcement(host, now_ns)
    engine_ask(core, &core.announce, slot, TO_ANNOUNCE)


cdef void plan_announcement(VirtualHost* host, int64_t now_ns) noexcept nogil:
    """An announcement of a series by time is being sent: plan the next one.

    This is checked whenever an advertisement is sent, so it is as exact as the interval is short.
    """
    if host.announce_left:
        host.announce_left -= 1
    if host.announce_left:
        host.announce_at_ns = now_ns + host.configured.announce_interval_ms * <int64_t>1000000
    else:
        host.announce_at_ns = (now_ns + host.configured.announce_refresh_ms * <int64_t>1000000
                               if host.configured.announce_refresh_ms else 0)


cdef uint32_t announcement_frames(const VirtualHost* host) noexcept nogil:
    """Frames per address in one announcement: all of them if no interval is set."""
    return 1 if host.configured.announce_interval_ms else host.configured.announce_count


cdef uint32_t next_announcement(Core* core, int64_t now_ns) noexcept nogil:
    """The next host whose addresses are to be announced, or NOBODY. First ones before repeats.

    When an interface has used up its share, or all of them theirs, hosts wait in their order, and
    `paced_until_ns` is when one of them may be announced.
    """
    cdef uint32_t slot
    core.paced_until_ns = 0
    if core.pace.in_all and wait_for_all(core, now_ns):
        return NOBODY
    slot = next_within_pace(core, &core.announce, TO_ANNOUNCE, now_ns)
    core.repeating = slot == NOBODY
    if core.repeating:
        slot = next_within_pace(core, &core.repeat, TO_REPEAT, now_ns)
    return slot


cdef bint wait_for_all(Core* core, int64_t now_ns) noexcept nogil:
    """Whether the pace in all is used up; the host that waits is counted at its interface."""
    cdef const Queue* queue = &core.repeat if queue_empty(&core.announce) else &core.announce
    cdef int64_t from_ns = core.announced_until_ns - time_of(core.pace.at_once, core.pace.in_all)
    if from_ns <= now_ns or queue_empty(queue):
        return False
    core.interfaces[core.hosts[queue.slots[queue.head]].interface].paced += 1
    core.paced_until_ns = from_ns
    return True


cdef inline int64_t time_of(int64_t announcements, uint32_t rate) noexcept nogil:
    return announcements * <int64_t>SECOND_NS // rate


cdef uint32_t announcement_until(const Core* core, const VirtualHost* host) noexcept nogil:
    """The frame before which the host's announcement ends, or pauses."""
    return min(host.block.address_count * announcement_frames(host),
               host.announce_from + core.pace.at_once)


cdef void announcement_pauses(Core* core, uint32_t slot, uint32_t at) noexcept nogil:
    """The host has more addresses than are announced at once: it goes on with frame `at`."""
    core.hosts[slot].announce_from = at
    if core.repeating:
        engine_ask(core, &core.repeat, slot, TO_REPEAT)
    else:
        engine_ask(core, &core.announce, slot, TO_ANNOUNCE)


cdef uint32_t next_within_pace(Core* core, Queue* queue, uint8_t pending,
                               int64_t now_ns) noexcept nogil:
    """The next MASTER of a queue whose interface has room; the others go to its end.

    As many addresses of a host are announced together as may be at once, so an interface may exceed
    its pace for a while and then pause.
    """
    cdef uint32_t slot, left = min(queue_length(queue), LOOKED_AT)
    cdef VirtualHost* host
    cdef Interface* interface
    cdef int64_t from_ns, count
    while left:
        left -= 1
        slot = queue_pop(queue)
        host = &core.hosts[slot]
        # Until its addresses are there an announcement would be of a former time as MASTER.
        if (host.block == NULL or not host.pending & pending or host.state != MASTER
                or not host.flags & ANNOUNCING):
            host.pending &= ~<uint32_t>pending
            continue
        interface = &core.interfaces[host.interface]
        from_ns = interface.announced_until_ns - time_of(core.pace.at_once, core.pace.rate)
        if from_ns > now_ns:
            interface.paced += 1
        from_ns = max(from_ns, interface.refused_until_ns)
        if from_ns > now_ns:
            queue_push(queue, slot)
            if core.paced_until_ns == 0 or from_ns < core.paced_until_ns:
                core.paced_until_ns = from_ns
            continue
        host.pending &= ~<uint32_t>pending
        count = <int64_t>announcement_until(core, host) - host.announce_from
        interface.announced_until_ns = (max(interface.announced_until_ns, now_ns)
                                        + time_of(count, core.pace.rate))
        if core.pace.in_all:
            core.announced_until_ns = (max(core.announced_until_ns, now_ns)
                                       + time_of(count, core.pace.in_all))
        return slot
    return NOBODY


cdef bint announcement_failed(Core* core, uint32_t slot, uint32_t at, int error,
                              int64_t now_ns) noexcept nogil:
    """A frame of the host's announcement was not sent; True: it goes on there in the next tick.

    That is if a full queue refused it. `at`: the number of the frame. Otherwise the announcement
    does not count as sent, and its repeat follows.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Interface* interface = &core.interfaces[host.interface]
    host.announce_errors += 1
    interface.announce_errors += 1
    if not passes(error) or host.state != MASTER:
        host.flags |= UNANNOUNCED
        return False
    interface.refused_until_ns = (now_ns // core.wake_tick_ns + 1) * core.wake_tick_ns
    if not host.pending & TO_ANNOUNCE or at < host.announce_from:
        host.announce_from = at
    engine_ask(core, &core.announce, slot, TO_ANNOUNCE)
    return True


cdef void announced(Core* core, uint32_t slot) noexcept nogil:
    """The host's announcement was sent; it is recorded with the time of its turn."""
    core.hosts[slot].announce_from = 0
    if core.hosts[slot].flags & UNANNOUNCED:
        core.hosts[slot].flags &= ~<uint32_t>UNANNOUNCED
        return
    if core.recorder.records != NULL:
        record_output(&core.recorder, RECORD_ANNOUNCED, slot, core.hosts[slot].interface,
                      core.recorder.turn_ns)
    core.hosts[slot].announced += 1
    core.interfaces[core.hosts[slot].interface].announced += 1


cdef bint nothing_to_send(const Core* core) noexcept nogil:
    """Whether no advertisement and no change of an address waits to be carried out."""
    return (queue_empty(&core.advertise_first) and queue_empty(&core.advertise)
            and queue_empty(&core.owed)
            and queue_empty(&core.change))


cdef bint nothing_to_do(const Core* core) noexcept nogil:
    return (nothing_to_send(core)
            and queue_empty(&core.announce) and queue_empty(&core.repeat))
