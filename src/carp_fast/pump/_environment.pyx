"""The environment of a pump's turn: this machine's clock, sockets and addresses, Python's orders.

Nothing here decides what is done, or in which order: _turn.pyx does, and calls these functions with
a batch each. Nothing needs the GIL, allocates or logs; Python gets reports through a ring and an
eventfd. The sockets are not watched while frames come, but read every wake tick: one wake-up for
all frames of a tick. Must not know whether a thread or a uvloop callback calls run_due().
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from carp_fast.engine._core cimport (
    Core, Interface, LOST_PRIORITY, MAX_INTERFACES, ORDER_ADD, ORDER_SET_INTERFACE,
    ORDER_SNAPSHOT_INTERFACES, Order, Report, SECONDARIES, engine_tell, report_begin, report_end)
from carp_fast.engine._orders cimport obey
from carp_fast.engine._receive cimport FrameHeard
from carp_fast.engine._upkeep cimport (
    THERE_FOREIGN, THERE_NONE, THERE_OURS, THERE_ROUTE, THERE_SOMEBODYS, THERE_UNKNOWN, There)
from carp_fast.engine._vhid cimport Address, HELD, VirtualHost
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport VERDICTS
from carp_fast.pump._arrivals cimport BATCH_MAX, Intake
from carp_fast.pump._clones cimport (
    NOT_SENT, clones_forget, clones_note_rest, clones_send)
from carp_fast.pump._existing cimport netlink_found, netlink_found_route
from carp_fast.pump._look cimport Look
from carp_fast.pump._netlink cimport (
    CHANGES, FOUND_FOREIGN, FOUND_NONE, FOUND_OURS, FOUND_UNMARKED, Found)
from carp_fast.pump._refusals cimport (
    refusals_compare, refusals_expect, refusals_map, refusals_merge)
from carp_fast.pump._requests cimport (
    Request, requests_next, requests_open, requests_outcome, requests_put, requests_room,
    requests_take)
from carp_fast.pump._ring cimport (
    RingSlot, ring_begin, ring_drops, ring_give_back, ring_ignore, ring_is_blocked, ring_next,
    ring_take_waking, ring_watch)
from carp_fast.pump._socket cimport (
    Arrival, BATCH, RECEIVE_RING, SendBatch, receive_batch, send_batch, send_put, send_put_raw,
    socket_drops, take_waking)
from carp_fast.pump._turn cimport (
    AddressChange, CHANGES_MAX, Environment, Outgoing, turn_open, turn_step)

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

cdef enum:
    SLICES_A_TURN = 16

assert <int>BATCH <= <int>BATCH_MAX and <int>CHANGES <= <int>CHANGES_MAX


# ------------------------------------------------------------------------------------------ clock

cdef int64_t now(void* where) noexcept nogil:
    return clock_ns(CLOCK_MONOTONIC)


cdef int64_t suspended(void* where) noexcept nogil:
    return clock_ns(CLOCK_BOOTTIME) - clock_ns(CLOCK_MONOTONIC)


# ----------------------------------------------------------------------- orders, interface numbers

cdef uint32_t ifindex_place(const PumpState* pump, int32_t ifindex) noexcept nogil:
    cdef uint32_t at = (<uint32_t>ifindex * 2654435761U) & (IFINDEX_MAP - 1)
    while pump.ifindexes[at].ifindex != ifindex and pump.ifindexes[at].ifindex != 0:
        at = (at + 1) & (IFINDEX_MAP - 1)
    return at


cdef uint32_t interface_number(const PumpState* pump, int32_t ifindex) noexcept nogil:
    """Our number of an interface, or NOBODY."""
    cdef uint32_t place = ifindex_place(pump, ifindex)
    if pump.ifindexes[place].ifindex:
        return pump.ifindexes[place].number
    return NOBODY


cdef void map_interface(PumpState* pump, const Order* order) noexcept nogil:
    """Map the interface's ifindex, for frames that arrive, and drop its former one."""
    cdef int32_t former = pump.turn.core.interfaces[order.interface].ifindex
    cdef int32_t ifindex = (<const Interface*>order.pointer).ifindex
    cdef uint32_t number
    refusals_map(&pump.refusals, pump.turn.core, order.interface, ifindex)
    if former != ifindex or not (<const Interface*>order.pointer).up:
        clones_forget(&pump.clones, order.interface)
    if former and former != ifindex:
        # An open table has no removal of an entry: rebuild it, which is rare.
        memset(pump.ifindexes, 0, sizeof(pump.ifindexes))
        for number in range(MAX_INTERFACES):
            if number != order.interface and pump.turn.core.interfaces[number].ifindex:
                put_ifindex(pump, pump.turn.core.interfaces[number].ifindex, <uint16_t>number)
    if ifindex:
        put_ifindex(pump, ifindex, order.interface)


cdef void put_ifindex(PumpState* pump, int32_t ifindex, uint16_t number) noexcept nogil:
    cdef uint32_t at = ifindex_place(pump, ifindex)
    pump.ifindexes[at].ifindex = ifindex
    pump.ifindexes[at].number = number


cdef bint obey_next(void* where, int64_t now_ns) noexcept nogil:
    cdef PumpState* pump = <PumpState*>where
    cdef const Order* order = &pump.ring.orders[pump.ring.head & (ORDERS - 1)]
    if pump.ring.head == load_acquire(&pump.ring.tail):
        return False
    if order.kind == ORDER_SET_INTERFACE:
        map_interface(pump, order)
    elif order.kind == ORDER_ADD:
        refusals_expect(&pump.refusals, pump.turn.core, <const VirtualHost*>order.pointer)
    obey(pump.turn.core, order, now_ns)
    if order.kind == ORDER_SNAPSHOT_INTERFACES:
        refusals_merge(&pump.refusals, <Interface*>order.pointer, order.slot,
                       <uint32_t>order.value)
    store_release(&pump.ring.head, pump.ring.head + 1)
    return True


cdef bint orders_wait(const PumpState* pump) noexcept nogil:
    """Whether an order of Python has not been taken."""
    return pump.ring.head != load_acquire(&pump.ring.tail)


cdef void obey_all(PumpState* pump) noexcept nogil:
    """Carry out all orders that wait, without a turn."""
    while obey_next(pump, clock_ns(CLOCK_MONOTONIC)):
        pass


cdef void map_interfaces(PumpState* pump) noexcept nogil:
    """Map every ifindex anew: the interfaces come from a state, not from orders."""
    cdef uint32_t number
    cdef int32_t ifindex
    memset(pump.ifindexes, 0, sizeof(pump.ifindexes))
    for number in range(pump.turn.core.interface_count):
        ifindex = pump.turn.core.interfaces[number].ifindex
        if ifindex:
            put_ifindex(pump, ifindex, <uint16_t>number)
            refusals_map(&pump.refusals, pump.turn.core, <uint16_t>number, ifindex)


cdef void count_refusals(PumpState* pump, int sign) noexcept nogil:
    """Add what the filters refused to the interfaces' own counters, or (`sign` -1) subtract it."""
    cdef uint32_t number, verdict
    for number in range(pump.turn.core.interface_count if pump.refusals.memory != NULL else 0):
        for verdict in range(VERDICTS):
            pump.turn.core.interfaces[number].rejected[verdict] += (
                sign * pump.refusals.memory.heard[number].refused[verdict])


# --------------------------------------------------------------------------------- in and out

cdef int receive(void* where, uint32_t which, Intake* intake) noexcept nogil:
    intake.count, intake.blocked = 0, False
    if (<PumpState*>where).sockets[which].kind == RECEIVE_RING:
        return receive_from_ring(<PumpState*>where, &(<PumpState*>where).sockets[which], intake)
    return receive_from_socket(<PumpState*>where, which, intake)


cdef int receive_from_ring(PumpState* pump, Socket* socket, Intake* intake) noexcept nogil:
    """Pass on where frames are in the ring; they stay until it is read again."""
    cdef Ring* ring = &socket.ring
    cdef const RingSlot* slot
    cdef FrameHeard* frame
    cdef uint32_t number
    cdef uint64_t lost = ring.lost
    cdef int count = 0
    if socket.woken:
        # First: the ring has the frame, which is read then, or blocked by another one.
        socket.woken = False
        while not ring_take_waking(ring) and take_waking(socket.fd):
            pass
    ring_begin(ring)
    while count < BATCH:
        slot = ring_next(ring)
        if slot == NULL:
            intake.blocked = ring_is_blocked(ring)
            break
        count += 1
        intake.last_ns = slot.arrived_ns
        number = interface_number(pump, slot.ifindex)
        if number == NOBODY:
            continue                    # as in receive_from_socket()
        frame = &intake.frames[intake.count]
        frame.bytes, frame.length = <const uint8_t*>slot.frame, slot.length
        frame.interface, frame.arrived_ns = <uint16_t>number, slot.arrived_ns
        intake.count += 1
    intake.taken_ns = clock_ns(CLOCK_MONOTONIC)
    return min(count + <int>(ring.lost - lost), <int>BATCH)     # the caller asks for drops then


cdef int receive_from_socket(PumpState* pump, uint32_t which, Intake* intake) noexcept nogil:
    cdef int count = receive_batch(&pump.receiving, pump.sockets[which].fd,
                                   pump.sockets[which].kind)
    cdef int64_t offset_ns
    cdef const Arrival* arrival
    cdef FrameHeard* frame
    cdef uint32_t number
    cdef int i
    if count <= 0:
        return count
    offset_ns = clock_ns(CLOCK_REALTIME)
    intake.taken_ns = clock_ns(CLOCK_MONOTONIC)
    offset_ns -= intake.taken_ns
    for i in range(count):
        arrival = &pump.receiving.arrivals[i]
        number = interface_number(pump, arrival.ifindex)
        if number == NOBODY:
            continue                    # an interface without virtual hosts: not counted
        frame = &intake.frames[intake.count]
        frame.bytes, frame.length = pump.receiving.frames[i], arrival.length
        frame.interface = <uint16_t>number
        frame.arrived_ns = arrival.realtime_ns - offset_ns
        intake.count += 1
    intake.last_ns = pump.receiving.arrivals[count - 1].realtime_ns - offset_ns
    return count


cdef uint32_t drops(void* where, uint32_t which) noexcept nogil:
    cdef Socket* socket = &(<PumpState*>where).sockets[which]
    if socket.kind == RECEIVE_RING:
        return ring_drops(&socket.ring)
    return socket_drops(socket.fd, socket.kind, &socket.dropped)


cdef void carry_away(SendBatch* batch, int fd, Outgoing* frames) noexcept nogil:
    """Send a batch, and set the errno of each frame."""
    cdef uint32_t i
    send_batch(batch, fd)
    for i in range(batch.count):
        frames[batch.owners[i]].error = batch.errors[i]


cdef void send(void* where, Outgoing* frames, uint32_t count) noexcept nogil:
    """Send by batches: as clones, and the rest through the packet socket, and for unicast a raw
    socket of each family.
    """
    cdef PumpState* pump = <PumpState*>where
    cdef const Outgoing* frame
    cdef bint tried = clones_send(&pump.clones, pump.turn.core, frames, count)
    cdef uint32_t i
    cdef int family
    pump.sending.count = pump.unicast[0].count = pump.unicast[1].count = 0
    for i in range(count):
        frame = &frames[i]
        if tried and frame.error != NOT_SENT:
            continue
        if frame.unicast:
            send_put_raw(&pump.unicast[frame.family == 6], i, frame.ifindex, frame.bytes,
                         frame.length)
        else:
            send_put(&pump.sending, i, frame.ifindex, frame.bytes, frame.length)
    carry_away(&pump.sending, pump.send_fd, frames)
    for family in range(2):
        carry_away(&pump.unicast[family], pump.raw_fds[family], frames)
    if tried and pump.clones.refused:
        clones_note_rest(&pump.clones, pump.turn.core, frames, count)


# -------------------------------------------------------------------------------------- addresses

cdef uint32_t room(void* where) noexcept nogil:
    return requests_room(&(<PumpState*>where).requests)


cdef void wake_requests(PumpState* pump) noexcept nogil:
    cdef uint64_t one = 1
    if pump.requests.running:
        write(pump.requests.work_fd, &one, sizeof(one))


cdef void change(void* where, const AddressChange* changes, uint32_t count) noexcept nogil:
    cdef PumpState* pump = <PumpState*>where
    cdef Request* request
    cdef uint32_t i
    for i in range(count):
        request = requests_next(&pump.requests)
        request.change, request.parts = changes[i], 0
        request.generation = &pump.turn.core.hosts[changes[i].slot].generation
        requests_put(&pump.requests)
    wake_requests(pump)


cdef uint32_t changed(void* where, AddressChange* changes, uint32_t count) noexcept nogil:
    cdef PumpState* pump = <PumpState*>where
    cdef const Request* request
    cdef uint32_t taken = 0
    while taken < count:
        request = requests_outcome(&pump.requests)
        if request == NULL or request.parts:
            break
        if request.promoted:
            tell_secondaries(pump, request)
        changes[taken] = request.change
        taken += 1
        requests_take(&pump.requests)
    return taken


cdef void tell_secondaries(PumpState* pump, const Request* request) noexcept nogil:
    """Report an interface where removing addresses would have removed others, or will."""
    cdef uint32_t number = interface_number(pump, request.change.ifindex)
    cdef Report* report
    if number == NOBODY:
        return
    report = report_begin(pump.turn.core, SECONDARIES, NOBODY, clock_ns(CLOCK_MONOTONIC))
    if report != NULL:
        report.detail = number
        report.value = <uint64_t>request.promote_error
        report_end(pump.turn.core)


cdef void look(void* where, const Look* look) noexcept nogil:
    cdef PumpState* pump = <PumpState*>where
    cdef Request* request = requests_next(&pump.requests)
    request.change.ifindex = look.ifindex
    request.part, request.parts, request.promoted = look.part, look.parts, 0
    request.routes = look.routes
    requests_put(&pump.requests)
    wake_requests(pump)


cdef bint looked(void* where, int* error) noexcept nogil:
    cdef PumpState* pump = <PumpState*>where
    cdef const Request* request = requests_outcome(&pump.requests)
    if request == NULL or not request.parts:
        return False
    error[0] = request.change.error
    requests_take(&pump.requests)
    return True


cdef There find(void* where, uint32_t slot, uint32_t which) noexcept nogil:
    """What the last look at a host's interface found of one of its addresses."""
    cdef PumpState* pump = <PumpState*>where
    cdef const Address* address = &pump.turn.core.hosts[slot].block.addresses[which]
    cdef Found found = netlink_found(&pump.requests.netlink, &pump.requests.looked, address.family,
                                     address.prefixlen, address.bytes)
    cdef Found route = FOUND_NONE
    if address.family == 4:
        route = netlink_found_route(&pump.requests.looked, address.bytes)
    if address.flags & HELD and address.routed:
        return (THERE_ROUTE if route == FOUND_OURS else THERE_NONE if route == FOUND_NONE
                else THERE_UNKNOWN)
    if route == FOUND_OURS and (address.flags & HELD or found != FOUND_OURS):
        return THERE_ROUTE
    if found == FOUND_NONE:
        return THERE_NONE
    if found == FOUND_OURS:
        return THERE_OURS
    if found == FOUND_FOREIGN:
        return THERE_FOREIGN
    return THERE_SOMEBODYS if found == FOUND_UNMARKED else THERE_UNKNOWN


# ------------------------------------------------------------------------------ the turn as a whole

cdef Environment environment
environment.now, environment.suspended = now, suspended
environment.obey_next, environment.receive, environment.drops = obey_next, receive, drops
environment.advertise, environment.announce = send, send
environment.room, environment.change, environment.changed = room, change, changed
environment.look, environment.looked, environment.find = look, looked, find
environment.onlooker = NULL


cdef void environment_open(PumpState* pump, Core* core) noexcept nogil:
    """Prepare for the first turn; receivers are added later."""
    pump.watching = True
    requests_open(&pump.requests)
    turn_open(&pump.turn, core, &environment, pump, BATCH, SLICES_A_TURN, CHANGES)


cdef bint watch(PumpState* pump, bint watching) noexcept nogil:
    """The turn is over: set whether a frame that arrives wakes the pump; True: one came
    meanwhile.
    """
    cdef epoll_event event
    cdef Socket* socket
    cdef uint32_t i
    cdef bint came = False
    for i in range(pump.turn.receiver_count):
        socket = &pump.sockets[i]
        if socket.kind == RECEIVE_RING:             # its socket is always watched
            ring_give_back(&socket.ring)
            if watching:
                came |= ring_watch(&socket.ring)
            elif pump.watching:
                ring_ignore(&socket.ring)
        elif watching != pump.watching:
            event.events = EPOLLIN if watching else 0
            event.fd = socket.fd
            epoll_ctl(pump.epoll_fd, EPOLL_CTL_MOD, socket.fd, &event)
    pump.watching = watching
    return came


cdef void note_woken(PumpState* pump, int fd) noexcept nogil:
    """A descriptor that is not the pump's own is readable: the socket of a receiver."""
    cdef uint32_t i
    for i in range(pump.turn.receiver_count):
        pump.sockets[i].woken |= pump.sockets[i].fd == fd


cdef void run_due(PumpState* pump) noexcept nogil:
    """Run one turn, and arm the next wake-up: the timer, and frames while none come."""
    cdef uint64_t one = 1
    cdef int64_t at_ns
    while turn_step(&pump.turn):
        pass
    refusals_compare(&pump.refusals, pump.turn.core)
    if pump.lost_priority and pump.scheduling == SCHEDULED_FIFO:
        pump.scheduling = SCHEDULED_NORMAL
        engine_tell(pump.turn.core, LOST_PRIORITY, NOBODY, 0, NULL, clock_ns(CLOCK_MONOTONIC))
    at_ns = pump.turn.planned_ns
    if watch(pump, pump.turn.watching):
        at_ns = clock_ns(CLOCK_MONOTONIC)
    if at_ns != pump.armed_ns or pump.turn.more:
        pump.armed_ns = at_ns
        set_timer(pump.timer_fd, at_ns)                 # 0 disarms
    if pump.turn.core.reports.tail != pump.reported:
        pump.reported = pump.turn.core.reports.tail
        write(pump.report_fd, &one, sizeof(one))
