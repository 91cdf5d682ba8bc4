"""One turn of the pump: orders, receive, expire, carry out, plan the next wake-up.

Engine, sockets, netlink and clock come together here. Nothing needs the GIL, allocates or logs;
Python hears reports through a ring and an eventfd. The receivers are unwatched while frames
come, and looked at every wake tick instead: one wake-up for all that a tick brings. All times
are CLOCK_MONOTONIC. Who calls run_due() (a thread or a uvloop callback) is not known here.
"""

from libc.errno cimport E2BIG, EEXIST, ENODEV
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from carp_fast.engine._actions cimport (
    address_changed, addresses_done, advertisement_sent, announced, announcement_frames,
    next_advertisement, next_announcement, next_change, nothing_to_do)
from carp_fast.engine._core cimport (
    DONE, Interface, LOST_PRIORITY, MAX_INTERFACES, ORDER_SET_INTERFACE, Order, Report,
    SECONDARIES, SOCKET_DROPPED, SOURCE_PROVEN, STALLED, engine_absent, engine_dropped,
    engine_expire, engine_next_deadline, report_begin, report_end, verify_soon)
from carp_fast.engine._lanes cimport (
    LANE_COMMON, LANE_GENUINE, LANE_STRAY, lanes_find_source, lanes_heard_until,
    lanes_prove_nothing)
from carp_fast.pump._netlink cimport (
    Change, CHANGES, FOUND_FOREIGN, FOUND_NONE, FOUND_OURS, FOUND_UNMARKED, Found,
    LOOK_PARTS, netlink_carry_out, netlink_found, netlink_look, netlink_put)
from carp_fast.engine._orders cimport obey
from carp_fast.engine._receive cimport FrameHeard, engine_receive_many
from carp_fast.pump._socket cimport (
    receive_batch, send_batch, send_put, send_put_raw, SendBatch, socket_drops)
from carp_fast.engine._upkeep cimport (
    THERE_FOREIGN, THERE_NONE, THERE_OURS, THERE_SOMEBODYS, THERE_UNKNOWN, There, held_elsewhere,
    next_to_verify, upkeep_expire, upkeep_waits, verify_hosts, wanted_change)
from carp_fast.engine._vhid cimport Address, MASTER, Output, PEERS_MAX, RETIRED, VirtualHost
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport ETHERNET_LENGTH, wire_build_announcement

cdef extern from "atomic.h" nogil:
    uint64_t load_acquire(const uint64_t* p) noexcept
    void store_release(uint64_t* p, uint64_t x) noexcept

cdef extern from "system.h" nogil:
    int64_t clock_ns(int clock) noexcept
    int CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME
    int EPOLL_CTL_MOD, EPOLLIN
    struct epoll_event:
        uint32_t events
        int fd "data.fd"
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    void set_timer(int fd, int64_t at_ns) noexcept
    ssize_t write(int fd, const void* data, size_t length)

# After a look that the kernel did not answer.
cdef int64_t LOOK_AGAIN_NS = 1000000000


cdef int64_t DROPS_TOLD_NS = 10000000000        # between two reports of frames that were dropped


# ------------------------------------------------------------------------------ interface numbers

cdef uint32_t ifindex_place(PumpState* pump, int32_t ifindex) noexcept nogil:
    cdef uint32_t at = (<uint32_t>ifindex * 2654435761U) & (IFINDEX_MAP - 1)
    while pump.ifindexes[at].ifindex != ifindex and pump.ifindexes[at].ifindex != 0:
        at = (at + 1) & (IFINDEX_MAP - 1)
    return at


cdef void map_interface(PumpState* pump, const Order* order) noexcept nogil:
    """Remember the interface's ifindex for frames that arrive, and forget its former one."""
    cdef int32_t former = pump.core.interfaces[order.interface].ifindex
    cdef int32_t ifindex = (<const Interface*>order.pointer).ifindex
    cdef uint32_t number
    if former and former != ifindex:
        # An entry cannot be taken out of an open table without leaving a hole: made anew, rarely.
        memset(pump.ifindexes, 0, sizeof(pump.ifindexes))
        for number in range(MAX_INTERFACES):
            if number != order.interface and pump.core.interfaces[number].ifindex:
                put_ifindex(pump, pump.core.interfaces[number].ifindex, <uint16_t>number)
    if ifindex:
        put_ifindex(pump, ifindex, order.interface)


cdef void put_ifindex(PumpState* pump, int32_t ifindex, uint16_t number) noexcept nogil:
    cdef uint32_t at = ifindex_place(pump, ifindex)
    pump.ifindexes[at].ifindex = ifindex
    pump.ifindexes[at].number = number


# ------------------------------------------------------------------------------------ one turn

cdef void tell(PumpState* pump, uint8_t kind, uint64_t value, int64_t now_ns) noexcept nogil:
    cdef Report* report = report_begin(pump.core, kind, NOBODY, now_ns)
    if report != NULL:
        report.value = value
        report_end(pump.core)


cdef inline bint is_over(const PumpState* pump) noexcept nogil:
    """Whether the turn has taken as long as it may: see note_absence."""
    return clock_ns(CLOCK_MONOTONIC) >= pump.turn_ends_ns


cdef void take_orders(PumpState* pump, int64_t now_ns) noexcept nogil:
    cdef uint64_t head = pump.ring.head, end = load_acquire(&pump.ring.tail)
    cdef const Order* order
    if end - head > ORDERS_A_TURN:
        end = head + ORDERS_A_TURN
        pump.more = True
    while head != end:
        if is_over(pump):
            pump.more = True
            break
        order = &pump.ring.orders[head & (ORDERS - 1)]
        if order.kind == ORDER_SET_INTERFACE:
            map_interface(pump, order)
        obey(pump.core, order, now_ns)
        head += 1
    store_release(&pump.ring.head, head)


cdef int64_t arrived_at(PumpState* pump, const Receiver* receiver, int which, int64_t now_ns,
                        int64_t offset_ns) noexcept nogil:
    """When a frame arrived, CLOCK_MONOTONIC, from the kernel's wall-clock timestamp.

    It must lie between the last look at the socket and now. Where the wall clock was stepped
    since, it does not, and the frame counts as arrived now.
    """
    cdef int64_t at = pump.receiving.arrivals[which].realtime_ns - offset_ns
    return at if receiver.heard_until_ns - 1000000 <= at <= now_ns else now_ns


cdef int take_in(PumpState* pump, Receiver* receiver) noexcept nogil:
    """Give one batch of a socket's frames to the engine; how many, or minus the errno."""
    cdef int i, count
    cdef uint32_t place, good, heard = 0
    cdef FrameHeard* frame
    cdef int64_t offset_ns, at_ns = 0, since_ns = receiver.heard_until_ns
    cdef int64_t until_ns = clock_ns(CLOCK_MONOTONIC)
    count = receive_batch(&pump.receiving, receiver.fd, receiver.kind)
    if count <= 0:
        receiver.heard_until_ns = until_ns
        return count
    offset_ns = clock_ns(CLOCK_REALTIME)
    at_ns = clock_ns(CLOCK_MONOTONIC)
    offset_ns -= at_ns
    for i in range(count):
        place = ifindex_place(pump, pump.receiving.arrivals[i].ifindex)
        if pump.ifindexes[place].ifindex == 0:
            continue                    # an interface without virtual hosts: not counted
        frame = &pump.heard[heard]
        frame.bytes, frame.length = pump.receiving.frames[i], pump.receiving.arrivals[i].length
        frame.interface = pump.ifindexes[place].number
        frame.arrived_ns = arrived_at(pump, receiver, i, at_ns, offset_ns)
        heard += 1
    good = engine_receive_many(pump.core, pump.heard, heard)
    if good and receiver.lane == LANE_COMMON and pump.lanes.sorting:
        for place in range(heard):
            if lanes_find_source(&pump.lanes, &pump.heard[place], at_ns):
                tell_source(pump, &pump.heard[place], at_ns)
    pump.frames += <uint64_t>count
    if count == BATCH:                  # more may wait: up to the last of these
        until_ns = arrived_at(pump, receiver, count - 1, at_ns, offset_ns)
        if until_ns == at_ns:           # a time that the wall clock gave and has not any more
            until_ns = receiver.heard_until_ns
    receiver.heard_until_ns = until_ns
    note_drops(pump, receiver, since_ns)
    return count


cdef void tell_source(PumpState* pump, const FrameHeard* frame, int64_t now_ns) noexcept nogil:
    """A source was heard genuine that is not in its lane yet."""
    cdef const uint8_t* ip = frame.bytes + ETHERNET_LENGTH
    cdef Report* report = report_begin(pump.core, SOURCE_PROVEN, NOBODY, now_ns)
    if report == NULL:
        return
    report.value = <uint64_t>pump.core.interfaces[frame.interface].ifindex
    if frame.bytes[12] == 0x08:
        report.peer_family = 4
        memcpy(report.peer, ip + 12, 4)
    else:
        report.peer_family = 6
        memcpy(report.peer, ip + 8, 16)
    pump.lanes.sources_told += 1                                # before Python can answer
    report_end(pump.core)


cdef bint take_lane(PumpState* pump, uint8_t lane, bint* any_frame) noexcept nogil:
    """One batch from each socket of a lane; whether more may wait there."""
    cdef int count
    cdef uint32_t i
    cdef bint any_full = False
    for i in range(pump.receiver_count):
        if pump.receivers[i].lane == lane:
            count = take_in(pump, &pump.receivers[i])
            any_frame[0] |= count > 0
            any_full |= count == BATCH
    return any_full


cdef void note_heard(PumpState* pump) noexcept nogil:
    """Silence counts up to where the sockets have been read, as far as they matter."""
    cdef int64_t now_ns = clock_ns(CLOCK_MONOTONIC)
    cdef int64_t genuine_ns = now_ns, common_ns = now_ns
    cdef const Receiver* receiver
    cdef uint32_t i
    for i in range(pump.receiver_count):
        receiver = &pump.receivers[i]
        if receiver.lane == LANE_GENUINE:
            genuine_ns = min(genuine_ns, receiver.heard_until_ns)
        elif receiver.lane == LANE_COMMON:
            common_ns = min(common_ns, receiver.heard_until_ns)
    pump.heard_until_ns = lanes_heard_until(&pump.lanes, genuine_ns, common_ns, now_ns)


cdef bint receive(PumpState* pump) noexcept nogil:
    """Give what has arrived to the engine, in slices; advertisements that are due go in between.

    The genuine lane first, until it is empty; of the common one what the turn has room for, and
    one batch at least; of what is astray one batch. What is left of these two waits for the next
    tick: strangers must not keep the pump from sleeping, or it loses its priority. Returns whether
    anything arrived.
    """
    cdef int slices
    cdef bint any_frame = False, genuine = True, common = True, last
    pump.lanes.told_count = 0
    for slices in range(SLICES_A_TURN):
        genuine = take_lane(pump, LANE_GENUINE, &any_frame)
        last = slices == SLICES_A_TURN - 1 or is_over(pump)
        if not genuine or last:
            common = take_lane(pump, LANE_COMMON, &any_frame)
        note_heard(pump)
        if last or not genuine and not common:
            break
        engine_expire(pump.core, clock_ns(CLOCK_MONOTONIC), pump.heard_until_ns)
        send_advertisements(pump)
    if genuine:
        pump.more = True
    take_lane(pump, LANE_STRAY, &any_frame)
    return any_frame


cdef void note_absence(PumpState* pump, int64_t now_ns) noexcept nogil:
    """Away for longer than the shortest interval, asleep or not: some host may have missed a frame.

    From the beginning of one turn to the beginning of the next, so that a pause within a turn
    counts. So a turn may take a quarter of the shortest interval, and plan() sees to it that the
    next one begins a half later at most.
    """
    cdef int64_t since_ns = pump.last_turn_ns if pump.core.slots else 0
    cdef int64_t suspended_ns = clock_ns(CLOCK_BOOTTIME) - clock_ns(CLOCK_MONOTONIC)
    cdef int64_t asleep_ns = max(0, suspended_ns - pump.suspended_ns)
    if pump.planned_ns and now_ns - pump.planned_ns > pump.latest_ns:
        pump.latest_ns = now_ns - pump.planned_ns
    pump.suspended_ns = suspended_ns
    pump.last_turn_ns = now_ns
    pump.turn_ends_ns = now_ns + pump.core.shortest_ns // TURNS_AN_INTERVAL
    if since_ns and now_ns - since_ns + asleep_ns > pump.core.shortest_ns:
        tell(pump, STALLED, <uint64_t>(now_ns - since_ns + asleep_ns), now_ns)
        engine_absent(pump.core, since_ns, now_ns, asleep_ns)


cdef void note_drops(PumpState* pump, Receiver* receiver, int64_t since_ns) noexcept nogil:
    """The socket was full after `since_ns`, and the newest frames were dropped: where a master's
    can have been among them, silence proves nothing.
    """
    cdef uint32_t drops = socket_drops(receiver.fd, receiver.kind, &receiver.dropped)
    cdef int64_t now_ns
    cdef bint unproven
    if drops:
        now_ns = clock_ns(CLOCK_MONOTONIC)
        unproven = lanes_prove_nothing(&pump.lanes, receiver.lane, now_ns)
        pump.dropped += drops
        pump.untold[unproven] += drops
        tell_drops(pump, now_ns)
        if unproven:
            engine_dropped(pump.core, since_ns, now_ns)


cdef void tell_drops(PumpState* pump, int64_t now_ns) noexcept nogil:
    """At once, and what follows together, every ten seconds: a flood fills a socket each tick."""
    cdef Report* report
    cdef int unproven
    for unproven in range(2):
        if pump.untold[unproven] == 0 or (
                pump.drops_told_ns[unproven]
                and now_ns - pump.drops_told_ns[unproven] < DROPS_TOLD_NS):
            continue
        report = report_begin(pump.core, SOCKET_DROPPED, NOBODY, now_ns)
        if report == NULL:
            return
        report.value, report.detail = pump.untold[unproven], <uint16_t>unproven
        report_end(pump.core)
        pump.untold[unproven] = 0
        pump.drops_told_ns[unproven] = now_ns


# ---------------------------------------------------------------------------------- carrying out

cdef inline bint has_room(const PumpState* pump) noexcept nogil:
    """Whether every batch has room for all outputs of one more host."""
    return (pump.sending.count <= BATCH - PEERS_MAX
            and pump.unicast[0].count <= BATCH - PEERS_MAX
            and pump.unicast[1].count <= BATCH - PEERS_MAX)


cdef uint32_t put_advertisements(PumpState* pump) noexcept nogil:
    """Fill the batches with hosts that advertise, each with all its outputs; how many hosts.

    A batch for each way out: the packet socket, and a raw socket of each family for unicast.
    """
    cdef VirtualHost* host
    cdef Output* output
    cdef int32_t ifindex
    cdef uint32_t slot, k, count = 0
    pump.sending.count = pump.unicast[0].count = pump.unicast[1].count = 0
    while has_room(pump):
        slot = next_advertisement(pump.core)
        if slot == NOBODY:
            break
        host = &pump.core.hosts[slot]
        ifindex = pump.core.interfaces[host.interface].ifindex
        for k in range(host.block.output_count):
            output = &host.block.outputs[k]
            if output.unicast:
                send_put_raw(&pump.unicast[output.family == 6], count, ifindex, output.frame,
                             output.length)
            else:
                send_put(&pump.sending, count, ifindex, output.frame, output.length)
        pump.outcomes[count].slot = slot
        pump.outcomes[count].failures, pump.outcomes[count].error = 0, 0
        count += 1
    return count


cdef void carry_away(PumpState* pump, SendBatch* batch, int fd) noexcept nogil:
    """Send a batch of advertisements, and note for each host what failed."""
    cdef uint32_t i
    send_batch(batch, fd)
    for i in range(batch.count):
        if batch.errors[i]:
            pump.outcomes[batch.owners[i]].failures += 1
            pump.outcomes[batch.owners[i]].error = batch.errors[i]


cdef void send_advertisements(PumpState* pump) noexcept nogil:
    """Send every advertisement that is queued, a batch a system call, one at least; what the turn
    has no time for is sent in the next, after those with a shorter interval.
    """
    cdef uint32_t i, count
    cdef int64_t now_ns = 0
    while now_ns < pump.turn_ends_ns:
        count = put_advertisements(pump)
        if count == 0:
            return
        carry_away(pump, &pump.sending, pump.send_fd)
        carry_away(pump, &pump.unicast[0], pump.raw_fds[0])
        carry_away(pump, &pump.unicast[1], pump.raw_fds[1])
        now_ns = clock_ns(CLOCK_MONOTONIC)
        for i in range(count):
            advertisement_sent(pump.core, pump.outcomes[i].slot, pump.outcomes[i].failures,
                               pump.outcomes[i].error, now_ns)
    pump.more = True


cdef bint change_addresses(PumpState* pump) noexcept nogil:
    """Carry out one batch of address changes; False when there was nothing to do."""
    cdef uint32_t ended = 0, i
    cdef VirtualHost* host
    cdef Address* address
    cdef Change* change
    cdef int wanted
    cdef int64_t now_ns
    pump.netlink.count = pump.netlink.used = 0
    while pump.netlink.count < CHANGES and ended < CHANGES:
        if pump.changing == NOBODY:
            pump.changing = next_change(pump.core)
            pump.changing_at = 0
            if pump.changing == NOBODY:
                break
            pump.changing_block = pump.core.hosts[pump.changing].block
        host = &pump.core.hosts[pump.changing]
        if host.block != pump.changing_block:
            if host.block == NULL:
                pump.changing = NOBODY
                continue
            pump.changing_block, pump.changing_at = host.block, 0
        while pump.changing_at < host.block.address_count and pump.netlink.count < CHANGES:
            address = &host.block.addresses[pump.changing_at]
            wanted = wanted_change(host, address)
            if wanted:
                netlink_put(&pump.netlink, pump.changing, pump.changing_at, wanted > 0,
                            pump.core.interfaces[host.interface].ifindex, address.family,
                            host.configured.preferred != 0, address.prefixlen, address.bytes)
            pump.changing_at += 1
        if pump.changing_at >= host.block.address_count:
            pump.changed[ended] = pump.changing
            ended += 1
            pump.changing = NOBODY
    if pump.netlink.count:
        netlink_carry_out(&pump.netlink)
        tell_secondaries(pump)
    now_ns = clock_ns(CLOCK_MONOTONIC)
    for i in range(pump.netlink.count):
        change = &pump.netlink.changes[i]
        # Two of our virtual hosts may have an address in common: each then holds its own.
        if change.was_ours and held_elsewhere(pump.core, change.slot, change.which):
            change.error = EEXIST
        address_changed(pump.core, change.slot, change.which, change.added, change.error, now_ns)
    for i in range(ended):
        addresses_done(pump.core, pump.changed[i], now_ns)
    return ended != 0 or pump.netlink.count != 0


cdef uint32_t interface_number(PumpState* pump, int32_t ifindex) noexcept nogil:
    """Our number of an interface, or NOBODY."""
    cdef uint32_t place = ifindex_place(pump, ifindex)
    if pump.ifindexes[place].ifindex:
        return pump.ifindexes[place].number
    return NOBODY


cdef void tell_secondaries(PumpState* pump) noexcept nogil:
    """Report where removing addresses would have taken others with them, or will."""
    cdef uint32_t i, number
    cdef Report* report
    for i in range(pump.netlink.promoted_count):
        number = interface_number(pump, pump.netlink.promoted[i])
        if number != NOBODY:
            report = report_begin(pump.core, SECONDARIES, NOBODY, clock_ns(CLOCK_MONOTONIC))
            if report != NULL:
                report.detail = <uint16_t>number
                report.value = <uint64_t>pump.netlink.promote_errors[i]
                report_end(pump.core)


cdef There find_there(void* where, uint32_t slot, uint32_t which) noexcept nogil:
    """What the last look at a host's interface says of one of its addresses."""
    cdef PumpState* pump = <PumpState*>where
    cdef const Address* address = &pump.core.hosts[slot].block.addresses[which]
    cdef Found found = netlink_found(&pump.netlink, address.family, address.prefixlen,
                                     address.bytes)
    if found == FOUND_NONE:
        return THERE_NONE
    if found == FOUND_OURS:
        return THERE_OURS
    if found == FOUND_FOREIGN:
        return THERE_FOREIGN
    return THERE_SOMEBODYS if found == FOUND_UNMARKED else THERE_UNKNOWN


cdef void verify_addresses(PumpState* pump) noexcept nogil:
    """Look at the addresses of one interface, where that is due: a dump, a part at a time."""
    cdef int64_t now_ns = clock_ns(CLOCK_MONOTONIC)
    cdef uint32_t number = next_to_verify(pump.core, now_ns), part = 0, parts = 1
    cdef int error
    if number == NOBODY:
        return
    if next_is_due(pump, now_ns):
        pump.more = True
    while part < parts:
        error = netlink_look(&pump.netlink, pump.core.interfaces[number].ifindex, part, parts)
        if error == E2BIG and parts < LOOK_PARTS:
            part, parts = 0, parts * 2
            continue
        if error:                                   # gone, or asked again before long
            if error != ENODEV:
                verify_soon(pump.core, number, now_ns + LOOK_AGAIN_NS)
            return
        verify_hosts(pump.core, number, find_there, pump, now_ns)
        part += 1
    if not nothing_to_do(pump.core):
        pump.more = True


cdef inline bint next_is_due(const PumpState* pump, int64_t now_ns) noexcept nogil:
    return pump.core.verify_at_ns != 0 and pump.core.verify_at_ns <= now_ns


cdef bint send_announcements(PumpState* pump) noexcept nogil:
    """Send one batch of gratuitous ARPs and unsolicited NAs; False when there was nothing to do."""
    cdef SendBatch* batch = &pump.sending
    cdef VirtualHost* host
    cdef Address* address
    cdef Interface* interface
    cdef uint32_t repeat, length
    cdef int64_t now_ns = clock_ns(CLOCK_MONOTONIC)
    batch.count = 0
    while batch.count < BATCH:
        if pump.announcing == NOBODY:
            pump.announcing = next_announcement(pump.core, now_ns)
            pump.announcing_at = 0
            if pump.announcing == NOBODY:
                break
            pump.announcing_block = pump.core.hosts[pump.announcing].block
        host = &pump.core.hosts[pump.announcing]
        if host.block != pump.announcing_block or host.state != MASTER:
            pump.announcing = NOBODY
            continue
        interface = &pump.core.interfaces[host.interface]
        repeat = announcement_frames(host)
        while (pump.announcing_at < host.block.address_count * repeat and batch.count < BATCH):
            address = &host.block.addresses[pump.announcing_at % host.block.address_count]
            if not address.flags & RETIRED:
                length = wire_build_announcement(
                    pump.announcements[batch.count], interface.mac, address.family, address.bytes,
                    interface.forwards6)
                send_put(batch, pump.announcing, interface.ifindex,
                         pump.announcements[batch.count], length)
            pump.announcing_at += 1
        if pump.announcing_at >= host.block.address_count * repeat:
            announced(pump.core, pump.announcing)
            pump.announcing = NOBODY
    if batch.count:
        send_batch(batch, pump.send_fd)
    return batch.count != 0


cdef void carry_out(PumpState* pump) noexcept nogil:
    """Advertisements first, then addresses, then announcements, in bounded slices."""
    cdef int _
    cdef bint changed
    for _ in range(CHANGES_A_TURN):
        send_advertisements(pump)
        changed = change_addresses(pump)
        if not send_announcements(pump) and not changed:
            return
        if is_over(pump):
            break
        engine_expire(pump.core, clock_ns(CLOCK_MONOTONIC), pump.heard_until_ns)
    pump.more = True


cdef void plan(PumpState* pump, int64_t now_ns, bint any_frame) noexcept nogil:
    """Arm the timer for the next turn, and watch the receivers only while nothing comes."""
    cdef int64_t tick_ns = pump.core.wake_tick_ns
    cdef int64_t next_tick_ns = (now_ns // tick_ns + 1) * tick_ns
    cdef int64_t at_ns = engine_next_deadline(pump.core)
    cdef uint32_t i
    cdef epoll_event event
    if at_ns >= 0:
        at_ns = (at_ns + tick_ns - 1) // tick_ns * tick_ns
        if at_ns < next_tick_ns:
            at_ns = next_tick_ns
    if any_frame and (at_ns < 0 or at_ns > next_tick_ns):
        at_ns = next_tick_ns
    if pump.core.verify_at_ns and (at_ns < 0 or pump.core.verify_at_ns < at_ns):
        at_ns = max((pump.core.verify_at_ns + tick_ns - 1) // tick_ns * tick_ns, next_tick_ns)
    # Awake often enough to see that it was not.
    if pump.core.slots and (at_ns < 0 or at_ns > now_ns + pump.core.shortest_ns // 2):
        at_ns = (now_ns + pump.core.shortest_ns // 2) // tick_ns * tick_ns + tick_ns
    if pump.more:
        at_ns = now_ns
    if pump.watching == any_frame:
        pump.watching = not any_frame
        for i in range(pump.receiver_count):
            event.events = EPOLLIN if pump.watching else 0
            event.fd = pump.receivers[i].fd
            epoll_ctl(pump.epoll_fd, EPOLL_CTL_MOD, pump.receivers[i].fd, &event)
    if at_ns < 0:
        at_ns = 0                                   # disarms
    if at_ns != pump.planned_ns or at_ns <= now_ns:
        set_timer(pump.timer_fd, at_ns)
    pump.planned_ns = at_ns


cdef void run_due(PumpState* pump) noexcept nogil:
    """One turn: orders, receive, expire, carry out, plan."""
    cdef int64_t now_ns = clock_ns(CLOCK_MONOTONIC)
    cdef uint64_t one = 1
    cdef bint any_frame
    pump.more = False
    pump.turns += 1
    note_absence(pump, now_ns)
    take_orders(pump, now_ns)
    any_frame = receive(pump)
    now_ns = clock_ns(CLOCK_MONOTONIC)
    engine_expire(pump.core, now_ns, pump.heard_until_ns)
    upkeep_expire(pump.core, now_ns)
    carry_out(pump)
    verify_addresses(pump)
    now_ns = clock_ns(CLOCK_MONOTONIC)
    if (pump.core.flush_mark and nothing_to_do(pump.core) and pump.changing == NOBODY
            and pump.announcing == NOBODY and not upkeep_waits(pump.core)):
        tell(pump, DONE, <uint64_t>pump.core.flush_mark, now_ns)
        pump.core.flush_mark = 0
    if pump.untold[0] or pump.untold[1]:
        tell_drops(pump, now_ns)
    if pump.lost_priority and pump.scheduling == SCHEDULED_FIFO:
        pump.scheduling = SCHEDULED_NORMAL
        tell(pump, LOST_PRIORITY, 0, now_ns)
    plan(pump, now_ns, any_frame)
    if pump.core.reports.tail != pump.reported:
        pump.reported = pump.core.reports.tail
        write(pump.report_fd, &one, sizeof(one))
