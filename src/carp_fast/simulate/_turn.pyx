"""One turn of a simulated machine: orders, receive, expire, carry out, plan, and what must hold.

The steps and their limits are those of pump/_turn.pyx, around the same engine; sockets, netlink and
the clock are the world's. A turn takes time: each slice of it is a step of its own, and frames
arrive or the machine is paused in between. What the engine does is compared with what the world
knows: who sent a frame, whose key it bears, which addresses the kernel has.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from carp_fast.engine._actions cimport (
    advertisement_sent, announced, announcement_frames, next_advertisement, next_announcement,
    nothing_to_do)
from carp_fast.engine._core cimport (
    Core, FAMILY_HEARD, FAMILY_SILENT, Interface, ORDER_ADD, ORDER_BAR, ORDER_DEMOTE,
    ORDER_REPLACE, ORDER_SET_INTERFACE, Order, RELEASED, Report, SENDS_FAILING, SENDS_RECOVERED,
    STATE_CHANGED, UNDEMOTED, engine_absent, engine_dropped, engine_expire,
    engine_next_deadline, queue_length)
from carp_fast.engine._lanes cimport LANE_COMMON, LANE_GENUINE, lanes_heard_until
from carp_fast.engine._orders cimport obey
from carp_fast.engine._receive cimport FrameHeard, engine_receive
from carp_fast.simulate._addresses cimport check_addresses, mark_dirty, on_undemoted
from carp_fast.simulate._invariants cimport (
    check_announced, check_announcement, check_sending, keeps_backup, on_family, on_refused,
    on_state, on_taken)
from carp_fast.simulate._kernel cimport change_addresses, verify_addresses
from carp_fast.simulate._lanes cimport (
    anything_waits, arrived_at, find_source, forget_lanes, note_drops)
from carp_fast.simulate._nics cimport has_left, interface_value, obey_interface_order
from carp_fast.simulate._network cimport (
    Arrival, CARRYING_OUT, CHANGED_BY_REFUSED, Frame, IDLE,
    KEY_OTHER, KEY_RIGHT, Machine, ORDER_ARRIVES, PendingOrder, QUEUE_OVERFLOW, RECEIVING,
    REPORTS_LOST, Slot, Socket, TRACE_ANNOUNCED, TRACE_HEARD, TRACE_ORDER,
    TRACE_SENT, World, broken, event_push, frame_release, grown, machine_now, machine_number,
    machine_wake, note_disturbed, note_drop, random_below, random_next, trace,
    trace_stall, transmit, whose)
from carp_fast.simulate._rules cimport EITHER, Expected, rule_leaves, rule_replay
from carp_fast.engine._upkeep cimport upkeep_expire
from carp_fast.engine._vhid cimport (
    Address, AlternateKey, Block, IN_USE, LEAVING, MASTER, Output, REPLAY_STRICT, RETIRED,
    VirtualHost)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport (
    FRAME_ROOM, NOT_CARP, REPLAY, VERDICT_OK, Verdict, wire_build_announcement)

cdef enum:
    ORDERS_A_TURN = 512
    CHANGES_A_TURN = 8
    TURNS_AN_INTERVAL = 4           # the shortest one, where there is more to do than fits
    RECEIVE_COST_NS = 1000          # of a frame
    SEND_COST_NS = 1000
    TURN_COST_NS = 3000
    LATE_NS = 50000000              # a frame that waited for so long was behind many others
    RETRY_NS = 10000000             # until an order for a slot in use is given again
    STRANGE_COUNTER = 4             # one in so many begins with a random counter, as ucarp does


# ------------------------------------------------------------------------------------- orders

cdef uint64_t order_packed(uint32_t kind, uint32_t subject, int64_t value) noexcept nogil:
    """An order as the detail of an event; `value` has 32 bits."""
    return <uint64_t>kind << 56 | <uint64_t>subject << 32 | <uint32_t>value


cdef void order_push(World* world, Machine* machine, uint32_t kind, uint32_t subject,
                     int64_t value) noexcept nogil:
    """Give the machine an order: it wakes for it."""
    cdef PendingOrder* order
    cdef uint32_t i, room = machine.orders_room
    if machine.orders_count == room:
        machine.orders = <PendingOrder*>grown(world, machine.orders, &machine.orders_room,
                                              sizeof(PendingOrder))
        if world.out_of_memory:
            return
        for i in range(machine.orders_head):            # what had wrapped goes on after the end
            machine.orders[room + i] = machine.orders[i]
    order = &machine.orders[(machine.orders_head + machine.orders_count) % machine.orders_room]
    machine.orders_count += 1
    order.kind, order.subject, order.value = <uint8_t>kind, subject, value
    if machine.phase == IDLE and not machine.paused:
        machine_wake(world, machine, world.now_ns)


cdef Block* copied_block(World* world, const Block* block) noexcept nogil:
    """A block of its own, laid out as new_block() in engine/_prepared.pyx does."""
    cdef size_t size = (
        sizeof(Block) + block.address_count * sizeof(Address)
        + block.output_count * sizeof(Output) + block.alternate_count * sizeof(AlternateKey))
    cdef Block* copy = <Block*>malloc(size)
    if copy == NULL:
        world.out_of_memory = True
        return NULL
    memcpy(copy, block, size)
    copy.alternates = <AlternateKey*>(copy + 1)
    copy.outputs = <Output*>(copy.alternates + copy.alternate_count)
    copy.addresses = <Address*>(copy.outputs + copy.output_count)
    return copy


cdef uint64_t first_counter(World* world, Machine* machine, const VirtualHost* host) noexcept nogil:
    """The daemon's wall clock, so that it ascends from one life to the next.

    "strict" asks for clocks that do not go back; the others live with any number.
    """
    if host.configured.replay == REPLAY_STRICT:
        return <uint64_t>(machine_now(world, machine) + machine.wall_ns - machine.wall_error_ns)
    if random_below(&world.random, STRANGE_COUNTER) == 0:
        return random_next(&world.random) >> 1
    return <uint64_t>(machine_now(world, machine) + machine.wall_ns)


cdef void forget_slot(Slot* slot) noexcept nogil:
    """A host begins: what its predecessor in the slot knew and sent is nobody's any more."""
    slot.heard_at_ns = slot.left_at_ns = slot.priority_ns = slot.latest_ns = 0
    slot.counter = slot.first = 0
    slot.strangers = slot.stranger_taken = 0
    slot.sighting_count = slot.sequences = 0
    memset(slot.known_again, 0, sizeof(slot.known_again))
    slot.demotion = slot.theirs = slot.ties = 0
    slot.barred = False
    slot.lost_at_ns = 0
    memset(slot.family_at_ns, 0, sizeof(slot.family_at_ns))
    memset(slot.keeper, 0, sizeof(slot.keeper))
    memset(slot.learned, 0, sizeof(slot.learned))


cdef bint obey_host_order(World* world, Machine* machine, const PendingOrder* pending,
                          Order* order, int64_t now_ns) noexcept nogil:
    """ADD and REPLACE; False where who leaves the slot is not gone yet: to be tried again."""
    cdef Slot* slot = &machine.slots[pending.subject]
    cdef uint32_t flags = machine.core.hosts[pending.subject].flags
    cdef VirtualHost host
    if pending.kind == ORDER_ADD and flags & IN_USE:
        return not flags & LEAVING
    if pending.kind == ORDER_REPLACE and not flags & IN_USE:
        return True
    slot.key = KEY_OTHER if pending.value else KEY_RIGHT
    host = slot.other[0] if pending.value else slot.right[0]
    host.block = copied_block(world, host.block)
    if host.block == NULL:
        return True
    host.counter = first_counter(world, machine, &host)
    if pending.kind == ORDER_ADD:
        forget_slot(slot)
    order.pointer = &host
    order.value = 0                                     # no grace for the former digest
    obey(&machine.core, order, now_ns)
    return True


cdef void take_orders(World* world, Machine* machine) noexcept nogil:
    cdef int64_t now_ns = machine_now(world, machine)
    cdef uint32_t count = min(machine.orders_count, <uint32_t>ORDERS_A_TURN)
    cdef PendingOrder pending
    cdef Order order
    machine.more |= count < machine.orders_count
    for _ in range(count):
        pending = machine.orders[machine.orders_head]
        machine.orders_head = (machine.orders_head + 1) % machine.orders_room
        machine.orders_count -= 1
        memset(&order, 0, sizeof(order))
        order.kind, order.slot, order.value = pending.kind, pending.subject, pending.value
        trace(world, TRACE_ORDER, machine_number(world, machine),
              NOBODY if pending.kind == ORDER_SET_INTERFACE else pending.subject, pending.kind, 0)
        if world.now_ns > world.disturbed_ns:
            world.disturbed_ns = world.now_ns
        if pending.kind == ORDER_SET_INTERFACE:
            obey_interface_order(world, machine, &pending, &order, now_ns)
        elif pending.kind == ORDER_ADD or pending.kind == ORDER_REPLACE:
            if not obey_host_order(world, machine, &pending, &order, now_ns):
                event_push(world, world.now_ns + RETRY_NS, ORDER_ARRIVES,
                           machine_number(world, machine),
                           order_packed(pending.kind, pending.subject, pending.value))
        else:
            if (pending.kind == ORDER_DEMOTE
                    and machine.core.hosts[pending.subject].flags & IN_USE):
                machine.slots[pending.subject].demotion = <uint16_t>pending.value
                machine.slots[pending.subject].priority_ns = now_ns
            elif (pending.kind == ORDER_BAR
                    and machine.core.hosts[pending.subject].flags & IN_USE):
                machine.slots[pending.subject].barred = pending.value != 0
            obey(&machine.core, &order, now_ns)
    take_reports(world, machine)


# ------------------------------------------------------------------------------------- reports

cdef void take_reports(World* world, Machine* machine) noexcept nogil:
    """What Python would be told; it also frees what the engine gives up."""
    cdef Core* core = &machine.core
    cdef Report* report
    while core.reports.head != core.reports.tail:
        report = &core.reports.reports[core.reports.head & core.reports.mask]
        if report.kind == RELEASED:
            free(<void*>report.value)
            if report.slot != NOBODY:
                mark_dirty(machine, report.slot)
                # Nobody is there any more, whatever its last state was.
                machine.slots[report.slot].heard_at_ns = 0
        elif report.kind == STATE_CHANGED:
            on_state(world, machine, report)
        elif report.kind == FAMILY_SILENT or report.kind == FAMILY_HEARD:
            on_family(world, machine, report)
        elif report.kind == SENDS_FAILING or report.kind == SENDS_RECOVERED:
            world.slot_disturbed_ns[report.slot] = world.now_ns
            machine.slots[report.slot].priority_ns = report.at_ns
        elif report.kind == UNDEMOTED:
            on_undemoted(world, machine, report)
        core.reports.head += 1
    if core.reports.lost:
        broken(world, REPORTS_LOST, machine_number(world, machine), NOBODY, core.reports.lost)


# ------------------------------------------------------------------------------------- receive

cdef uint32_t queued(const Core* core) noexcept nogil:
    return (queue_length(&core.advertise_first) + queue_length(&core.advertise)
            + queue_length(&core.change) + queue_length(&core.announce)
            + queue_length(&core.repeat))


cdef void take_frame(World* world, Machine* machine, uint8_t lane, const Frame* frame,
                     int64_t at_ns, int64_t arrived_ns) noexcept nogil:
    """Give one frame to the engine, and judge what the engine makes of it."""
    cdef Core* core = &machine.core
    cdef uint32_t number = machine_number(world, machine), told = frame.slot
    cdef uint32_t claimed = world.slot_of[frame.segment][frame.bytes[frame.carp_at + 1]] - 1
    cdef VirtualHost* host = &core.hosts[told]
    cdef uint8_t state = host.state
    cdef bint keeps = keeps_backup(machine, frame), leaves = rule_leaves(frame, host)
    cdef int64_t deadline_ns
    cdef uint64_t counter
    cdef uint32_t before = queued(core)
    cdef Expected expected = EITHER
    cdef Verdict verdict
    cdef FrameHeard heard
    if frame.key == machine.slots[told].key and machine.slots[told].right != NULL:
        expected = rule_replay(&machine.slots[told], host, frame,
                               frame.sender == number and not frame.strange, at_ns)
    if claimed != NOBODY:                               # where corrupted, another one perhaps
        host = &core.hosts[claimed]
    deadline_ns, counter = host.deadline_ns, host.counter
    machine.cause = frame
    heard.bytes = &frame.bytes[0]
    heard.length, heard.interface, heard.arrived_ns = frame.length, frame.segment, at_ns
    verdict = engine_receive(core, &heard)
    heard.verdict = <uint8_t>verdict
    if lane == LANE_COMMON:
        find_source(world, machine, frame, &heard, machine_now(world, machine))
    trace(world, TRACE_HEARD, number, told, whose(frame), verdict)
    if verdict == VERDICT_OK:
        on_taken(world, machine, frame, state, keeps, leaves, expected, at_ns, arrived_ns)
    else:
        if (core.hosts[told].state != state or host.deadline_ns != deadline_ns
                or host.counter != counter or queued(core) != before
                and not (verdict == REPLAY and state == MASTER)):       # it may answer
            broken(world, CHANGED_BY_REFUSED, number, told, verdict)
        if verdict != NOT_CARP or frame.key == machine.slots[told].key:
            on_refused(world, machine, frame, verdict, expected, at_ns)
    take_reports(world, machine)
    machine.cause = NULL


cdef bint take_lane(World* world, Machine* machine, uint8_t lane) noexcept nogil:
    """One batch from the socket of a lane; whether more may wait there."""
    cdef int64_t begin_ns = machine_now(world, machine), at_ns = 0
    cdef Socket* socket = &machine.sockets[lane]
    cdef int64_t since_ns = socket.heard_until_ns
    cdef uint32_t count = min(socket.count, world.batch), drops, _
    cdef Arrival arrival
    for _ in range(count):
        arrival = socket.arrivals[socket.head]
        socket.head = (socket.head + 1) % world.socket_room
        socket.count -= 1
        at_ns = arrived_at(world, machine, socket, &arrival)
        if arrival.frame == NOBODY:                     # a stranger's: refused, and counted
            if begin_ns - arrival.at_ns > LATE_NS:      # and waited for, perhaps
                note_drop(world, machine, False, False)
            continue
        if (begin_ns - arrival.at_ns > LATE_NS          # behind a flood
                and machine.slots[world.frames[arrival.frame].slot].right != NULL):
            note_disturbed(world, world.now_ns)
        if machine.core.interfaces[world.frames[arrival.frame].segment].ifindex:
            take_frame(world, machine, lane, &world.frames[arrival.frame], at_ns, arrival.at_ns)
        frame_release(world, arrival.frame)
    machine.busy_ns += count * RECEIVE_COST_NS
    if count < world.batch:
        socket.heard_until_ns = begin_ns
    elif at_ns != begin_ns:                             # else its stamp does not hold any more
        socket.heard_until_ns = at_ns
    if count:
        machine.any_frame = True
        drops = note_drops(world, machine, lane)
        if drops:
            trace_stall(world, machine, drops, 0)
            engine_dropped(&machine.core, since_ns, machine_now(world, machine))
    take_reports(world, machine)
    return count == world.batch


cdef bint is_over(const World* world, const Machine* machine) noexcept nogil:
    """Whether the turn has taken as long as it may."""
    return (machine_now(world, machine) - machine.turn_ns
            >= machine.core.shortest_ns // TURNS_AN_INTERVAL)


cdef void receive_slice(World* world, Machine* machine) noexcept nogil:
    """A batch of the genuine lane, and of the common one when that is empty or the turn ends; where
    one was full, what is due is sent before the next slice.
    """
    cdef bint genuine = take_lane(world, machine, LANE_GENUINE), common = True, last
    machine.slice += 1
    last = machine.slice == world.slices or is_over(world, machine)
    if not genuine or last:
        common = take_lane(world, machine, LANE_COMMON)
    machine.heard_until_ns = lanes_heard_until(
        &machine.lanes, machine.sockets[<int>LANE_GENUINE].heard_until_ns,
        machine.sockets[<int>LANE_COMMON].heard_until_ns, machine_now(world, machine))
    if not genuine and not common:
        listen_no_more(world, machine)
        return
    engine_expire(&machine.core, machine_now(world, machine), machine.heard_until_ns)
    take_reports(world, machine)
    send_advertisements(world, machine)
    if last:                                            # strangers' rest waits for the next tick
        machine.more = genuine
        listen_no_more(world, machine)


cdef void listen_no_more(World* world, Machine* machine) noexcept nogil:
    """The sockets have been read as far as this turn does."""
    cdef int64_t now_ns = machine_now(world, machine)
    engine_expire(&machine.core, now_ns, machine.heard_until_ns)
    upkeep_expire(&machine.core, now_ns)
    take_reports(world, machine)
    machine.phase, machine.slice = CARRYING_OUT, 0


cdef void note_absence(World* world, Machine* machine) noexcept nogil:
    """Away for longer than the shortest interval, asleep or not: silence proves nothing then."""
    cdef int64_t since_ns = machine.last_turn_ns if machine.core.slots else 0
    cdef int64_t asleep_ns = max(0, machine.suspended_ns - machine.seen_suspended_ns)
    cdef int64_t gap_ns = machine.turn_ns - since_ns + asleep_ns
    machine.seen_suspended_ns = machine.suspended_ns
    machine.last_turn_ns = machine.turn_ns
    if since_ns and gap_ns > machine.core.shortest_ns:
        trace_stall(world, machine, 0, gap_ns)
        engine_absent(&machine.core, since_ns, machine.turn_ns, asleep_ns)


# --------------------------------------------------------------------------------- carrying out

cdef void send_advertisements(World* world, Machine* machine) noexcept nogil:
    """All that is due; the outputs of one advertisement in one go, each with its own outcome."""
    cdef uint32_t slot, k, failures, number = machine_number(world, machine)
    cdef VirtualHost* host
    cdef Output* output
    cdef const uint8_t* carp
    cdef int error, one
    while True:
        slot = next_advertisement(&machine.core)
        if slot == NOBODY:
            break
        host = &machine.core.hosts[slot]
        error, failures = 0, 0
        check_sending(world, machine, slot)
        for k in range(host.block.output_count):
            output = &host.block.outputs[k]
            carp = output.frame + output.carp_at
            one = transmit(world, machine, slot, output)
            if one:
                error = one
                failures += 1
            trace(world, TRACE_SENT, number, slot,
                  <uint32_t>output.family << 24 | <uint32_t>carp[4] << 16
                  | <uint32_t>carp[5] << 8 | carp[2], one)
            machine.busy_ns += SEND_COST_NS
        world.tally.sent += 1
        advertisement_sent(&machine.core, slot, failures, error, machine_now(world, machine))
    take_reports(world, machine)


cdef bint send_announcements(World* world, Machine* machine) noexcept nogil:
    """One batch of gratuitous ARPs and unsolicited NAs; nobody here listens, they are checked."""
    cdef Core* core = &machine.core
    cdef uint32_t count = 0, repeat, which, length
    cdef VirtualHost* host
    cdef Address* address
    cdef Interface* interface
    cdef uint8_t frame[FRAME_ROOM]
    while count < world.batch:
        if machine.announcing == NOBODY:
            machine.announcing, machine.announcing_at = next_announcement(
                core, machine_now(world, machine)), 0
            if machine.announcing == NOBODY:
                break
            machine.announcing_block = core.hosts[machine.announcing].block
        host = &core.hosts[machine.announcing]
        if host.block != machine.announcing_block or host.state != MASTER:
            machine.announcing = NOBODY
            continue
        interface = &core.interfaces[host.interface]
        repeat = announcement_frames(host)
        while machine.announcing_at < host.block.address_count * repeat and count < world.batch:
            which = machine.announcing_at % host.block.address_count
            address = &host.block.addresses[which]
            if not address.flags & RETIRED:
                length = wire_build_announcement(frame, interface.mac, address.family,
                                                 address.bytes, interface.forwards6)
                check_announcement(world, machine, machine.announcing, which, frame, length)
                count += 1
            machine.announcing_at += 1
        if machine.announcing_at >= host.block.address_count * repeat:
            announced(core, machine.announcing)
            check_announced(world, machine, machine.announcing)
            trace(world, TRACE_ANNOUNCED, machine_number(world, machine), machine.announcing,
                  host.block.address_count * repeat, 0)
            machine.announcing = NOBODY
    machine.busy_ns += count * SEND_COST_NS
    return count != 0


cdef void carry_out_slice(World* world, Machine* machine) noexcept nogil:
    """Advertisements first, then addresses, then announcements; the turn ends with nothing left."""
    cdef Core* core = &machine.core
    cdef bint changed
    cdef uint32_t most = max(queue_length(&core.advertise), queue_length(&core.change),
                             queue_length(&core.announce), queue_length(&core.repeat))
    if most > core.slots:
        broken(world, QUEUE_OVERFLOW, machine_number(world, machine), NOBODY, most)
    if machine.slice:                               # time has passed since the last batch
        engine_expire(core, machine_now(world, machine), machine.heard_until_ns)
        take_reports(world, machine)
    if machine.slice == CHANGES_A_TURN or machine.slice and is_over(world, machine):
        machine.more = True
        machine.phase = IDLE
        return
    send_advertisements(world, machine)
    changed = change_addresses(world, machine)
    take_reports(world, machine)
    if not send_announcements(world, machine) and not changed:
        machine.phase = IDLE
        return
    machine.slice += 1


# ----------------------------------------------------------------------------- the turn as a whole

cdef void plan(World* world, Machine* machine) noexcept nogil:
    """When the next turn is due: as in pump/_turn.pyx, on the machine's clock."""
    cdef int64_t now_ns = machine_now(world, machine)
    cdef int64_t tick_ns = machine.core.wake_tick_ns
    cdef int64_t next_tick_ns = (now_ns // tick_ns + 1) * tick_ns
    cdef int64_t at_ns = engine_next_deadline(&machine.core)
    cdef uint32_t i
    if (nothing_to_do(&machine.core) and machine.changing == NOBODY
            and machine.announcing == NOBODY):
        for i in range(machine.dirty_count):
            machine.slots[machine.dirty[i]].dirty = False
            check_addresses(world, machine, machine.dirty[i], False)
        machine.dirty_count = 0
        for i in range(world.segment_count):
            if has_left(machine, i):
                order_push(world, machine, ORDER_SET_INTERFACE, i, interface_value(machine, i))
    if at_ns >= 0:
        at_ns = (at_ns + tick_ns - 1) // tick_ns * tick_ns
        if at_ns < next_tick_ns:
            at_ns = next_tick_ns
    if machine.any_frame and (at_ns < 0 or at_ns > next_tick_ns):
        at_ns = next_tick_ns
    if machine.core.verify_at_ns and (at_ns < 0 or machine.core.verify_at_ns < at_ns):
        at_ns = max((machine.core.verify_at_ns + tick_ns - 1) // tick_ns * tick_ns, next_tick_ns)
    # Awake often enough to see that it was not.
    if machine.core.slots and (at_ns < 0 or at_ns > now_ns + machine.core.shortest_ns // 2):
        at_ns = (now_ns + machine.core.shortest_ns // 2) // tick_ns * tick_ns + tick_ns
    if machine.more:
        at_ns = now_ns
    machine.watching = not machine.any_frame
    machine.planned_ns = at_ns if at_ns >= 0 else 0
    if machine.orders_count or (machine.watching and anything_waits(machine)):
        at_ns = now_ns
    if at_ns >= 0:
        machine_wake(world, machine, at_ns - machine.origin_ns)


cdef void machine_step(World* world, Machine* machine) noexcept nogil:
    """One step of the machine's turn at the world's time; the next one takes place later."""
    machine.busy_ns = 0
    if machine.phase == IDLE:
        world.tally.turns += 1
        machine.turn_ns = machine_now(world, machine)
        machine.more = machine.any_frame = False
        machine.slice = machine.lanes.told_count = 0
        machine.phase = RECEIVING
        machine.busy_ns = TURN_COST_NS
        note_absence(world, machine)
        take_orders(world, machine)
        receive_slice(world, machine)
    elif machine.phase == RECEIVING:
        receive_slice(world, machine)
    else:
        carry_out_slice(world, machine)
    if machine.phase == IDLE:
        verify_addresses(world, machine)
        take_reports(world, machine)
        plan(world, machine)
    else:
        machine_wake(world, machine, world.now_ns + machine.busy_ns)


cdef void machine_forget(World* world, Machine* machine) noexcept nogil:
    """The machine is gone: its sockets, orders and turn with it."""
    forget_lanes(world, machine)
    machine.orders_count = 0
    machine.phase = IDLE
    machine.step_at_ns = -1
    machine.generation += 1
    machine.changing = machine.announcing = NOBODY
    machine.planned_ns = machine.last_turn_ns = 0
    machine.watching = True
    memset(machine.leaving, 0, sizeof(machine.leaving))
    memset(machine.left, 0, sizeof(machine.left))
    machine.dirty_count = 0
