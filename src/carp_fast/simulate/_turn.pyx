"""A simulated machine: the pump's own turn over the world's sockets, kernel and clock.

pump/_turn.pyx is the turn itself; this module has its environment. A turn takes time: each slice of
it is a step of its own, and frames arrive or the machine is paused in between. The engine's actions
are compared with what the world knows: the sender and the key of a frame, the addresses of the
kernel. Reports are taken before each of these functions, so the checks see the state of that time.
"""

from libc.errno cimport ENOBUFS
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from carp_fast.engine._core cimport (
    Core, FAMILY_HEARD, FAMILY_SILENT, GROUP_CHANGED, ORDER_ADD, ORDER_BAR, ORDER_DEMOTE,
    ORDER_PREEMPT,
    ORDER_REPLACE, ORDER_SET_INTERFACE, ORDER_WITHHOLD, ORDER_YIELD, Order, RELEASED, Report,
    SENDS_FAILING, SENDS_RECOVERED, SOURCE_PROVEN, STALLED, STATE_CHANGED, UNDEMOTED, queue_length)
from carp_fast.engine._orders cimport obey
from carp_fast.engine._receive cimport FrameHeard
from carp_fast.engine._vhid cimport (
    BY_MAINTENANCE, BY_TRACK, HARD, IN_MAINTENANCE, IN_USE, INIT,
    LEAVING, MASTER, REPLAY_STRICT, TAKEN_OVER, VirtualHost, WITHHELD, YIELDED)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport (
    ETHERNET_LENGTH, IPV4_LENGTH, IPV6_LENGTH, NOT_CARP, REPLAY, VERDICT_OK, Verdict)
from carp_fast.pump._look cimport Look
from carp_fast.pump._arrivals cimport Intake
from carp_fast.pump._turn cimport (
    AddressChange, BETWEEN, Environment, Outgoing, Turn, turn_add_receiver, turn_is_idle,
    turn_open, turn_step)
from carp_fast.simulate._addresses cimport (
    check_addresses, check_announced, check_announcement, mark_dirty, on_undemoted)
from carp_fast.simulate._groups cimport on_group
from carp_fast.simulate._invariants cimport keeps_backup, on_family, on_refused, on_state, on_taken
from carp_fast.simulate._kernel cimport (
    find_there, kernel_forget, request_changes, request_look, requests_room, take_changed,
    take_looked)
from carp_fast.simulate._lanes cimport anything_waits, forget_lanes, on_source
from carp_fast.simulate._network cimport (
    Arrival, Before, CHANGED_BY_REFUSED, CONDITION_KEPT, Frame, KEY_OTHER, KEY_RIGHT, Machine,
    ORDER_ARRIVES,
    ORDER_CHANGED, ORDER_OTHER_KEY, PendingOrder, QUEUE_OVERFLOW, REPORTS_LOST, SOCKETS, Slot,
    Socket, TRACE_ANNOUNCED, TRACE_HEARD, TRACE_ORDER, TRACE_SENT, World, broken, event_push,
    frame_release, grown, is_refused, machine_now, machine_number, machine_wake, note_disturbed,
    note_drop, random_below, random_next, trace, trace_stall, transmit, whose, MAINTENANCE_DEMOTION,
    ORDER_IGNORED)
from carp_fast.simulate._nics cimport has_left, interface_value, obey_interface_order
from carp_fast.simulate._rules cimport EITHER, Expected, rule_leaves, rule_replay
from carp_fast.simulate._upgrade cimport copied_block, upgrade_if_due
from carp_fast.simulate._sending cimport BUSY_NS, check_sending, note_hindered, on_sends, on_sent

cdef enum:
    RECEIVE_COST_NS = 1000          # per frame
    SEND_COST_NS = 1000
    TURN_COST_NS = 3000
    LATE_NS = 50000000              # a frame that waited for so long was behind many others
    RETRY_NS = 10000000             # until an order for a slot in use is repeated
    STRANGE_COUNTER = 4             # one in so many starts with a random counter, as ucarp does


# ------------------------------------------------------------------------------------- orders

cdef uint64_t order_packed(uint32_t kind, uint32_t subject, int64_t value) noexcept nogil:
    """An order as the detail of an event; `value` has 32 bits."""
    return <uint64_t>kind << 56 | <uint64_t>subject << 32 | <uint32_t>value


cdef void order_push(World* world, Machine* machine, uint32_t kind, uint32_t subject,
                     int64_t value) noexcept nogil:
    """Give the machine an order, which wakes it."""
    cdef PendingOrder* order
    cdef uint32_t i, room = machine.orders_room
    if machine.orders_count == room:
        machine.orders = <PendingOrder*>grown(world, machine.orders, &machine.orders_room,
                                              sizeof(PendingOrder))
        if world.out_of_memory:
            return
        for i in range(machine.orders_head):            # those that wrapped follow the end
            machine.orders[room + i] = machine.orders[i]
    order = &machine.orders[(machine.orders_head + machine.orders_count) % machine.orders_room]
    machine.orders_count += 1
    order.kind, order.subject, order.value = <uint8_t>kind, subject, value
    if machine.turn.phase == BETWEEN and not machine.paused:
        machine_wake(world, machine, world.now_ns)


cdef uint64_t first_counter(World* world, Machine* machine, const VirtualHost* host) noexcept nogil:
    """The daemon's wall clock, so that it ascends from one life to the next.

    "strict" requires clocks that do not go back; the others work with any number. In some worlds
    all of them go on from 0 after a while.
    """
    cdef uint64_t drawn
    if host.configured.replay == REPLAY_STRICT:
        return world.counters_ahead + <uint64_t>(
            machine_now(world, machine) + machine.wall_ns - machine.wall_error_ns)
    if random_below(&world.random, STRANGE_COUNTER) == 0:
        drawn = random_next(&world.random)
        return <uint64_t>0 - 1 - (drawn & 63) if world.counters_ahead else drawn >> 1
    return world.counters_ahead + <uint64_t>(machine_now(world, machine) + machine.wall_ns)


cdef void forget_slot(Slot* slot) noexcept nogil:
    """A host begins: drop what its predecessor in the slot knew and sent."""
    slot.state = INIT                                   # not reported: it begins in it
    slot.heard_at_ns = slot.left_at_ns = slot.priority_ns = slot.latest_ns = 0
    slot.counter = slot.first = 0
    slot.sent_ns = slot.sent_every_ns = slot.failing_ns = 0
    slot.failures = 0
    slot.strangers = slot.stranger_taken = 0
    slot.sighting_count = slot.sequences = 0
    memset(slot.known_again, 0, sizeof(slot.known_again))
    slot.leaving_ns = 0
    slot.theirs = slot.ties = 0
    memset(slot.ordered, 0, sizeof(slot.ordered))
    slot.barred = slot.withheld = False
    slot.bidden = 0
    slot.unlinked = slot.mute = slot.steps_down = False
    slot.lacks_condition = slot.resigns = False
    slot.lost_at_ns = slot.muted_ns = 0
    slot.pardoned = False
    memset(slot.family_at_ns, 0, sizeof(slot.family_at_ns))
    memset(slot.keeper, 0, sizeof(slot.keeper))
    memset(slot.learned, 0, sizeof(slot.learned))


cdef bint obey_host_order(World* world, Machine* machine, const PendingOrder* pending,
                          Order* order, int64_t now_ns) noexcept nogil:
    """ADD and REPLACE; False while the former host of the slot is not gone yet: try again."""
    cdef Slot* slot = &machine.slots[pending.subject]
    cdef uint32_t flags = machine.core.hosts[pending.subject].flags
    cdef VirtualHost host
    if pending.kind == ORDER_ADD and flags & IN_USE:
        return not flags & LEAVING
    if pending.kind == ORDER_REPLACE and not flags & IN_USE:
        return True
    if slot.right != slot.variants[pending.value & ORDER_CHANGED != 0]:
        slot.right = slot.variants[pending.value & ORDER_CHANGED != 0]
        slot.priority_ns = now_ns
    slot.key = KEY_OTHER if pending.value & ORDER_OTHER_KEY else KEY_RIGHT
    host = slot.other[0] if pending.value & ORDER_OTHER_KEY else slot.right[0]
    host.configured = slot.right.configured
    host.block = copied_block(world, host.block)
    if host.block == NULL:
        return True
    host.counter = first_counter(world, machine, &host)
    order.value = 0                                     # no grace for the former digest
    if pending.kind == ORDER_ADD:
        forget_slot(slot)
        if machine.maintenance:                         # it begins as what is written down
            slot.ordered[<int>BY_MAINTENANCE] = MAINTENANCE_DEMOTION
            order.value = <int64_t>MAINTENANCE_DEMOTION << 8 * BY_MAINTENANCE
            slot.withheld = machine.maintenance == 2
            host.flags |= WITHHELD if slot.withheld else 0
    order.pointer = &host
    obey(&machine.core, order, now_ns)
    return True


cdef void obey_by_hand(World* world, Machine* machine, Order* order, int64_t now_ns) noexcept nogil:
    """A hand-over: the reports that follow have it as their cause, and it must not be ignored."""
    cdef Slot* known = &machine.slots[order.slot]
    cdef const VirtualHost* host = &machine.core.hosts[order.slot]
    cdef uint8_t was = host.state
    known.bidden = TAKEN_OVER
    if order.kind == ORDER_YIELD:
        known.bidden = IN_MAINTENANCE if order.value else YIELDED
        order.reason, order.value = known.bidden, 0
    obey(&machine.core, order, now_ns)
    take_reports(world, machine)
    known.bidden = 0
    if order.kind == ORDER_YIELD and was == MASTER and host.state == MASTER:
        broken(world, ORDER_IGNORED, machine_number(world, machine), order.slot, was)


cdef void obey_demotion(World* world, Machine* machine, uint32_t slot, int64_t value,
                        int64_t now_ns) noexcept nogil:
    """Demote a host by one reason; `value` as that of a fault, see episodes.py.

    The rule of a hard condition, a second time: a MASTER resigns when it begins to fail, and only
    then. Others notice nothing but the demotion.
    """
    cdef Slot* known = &machine.slots[slot]
    cdef bint was_master = machine.core.hosts[slot].state == MASTER
    cdef bint hard = value >> 24 & 1, begins = False
    cdef Order order
    memset(&order, 0, sizeof(order))
    order.kind, order.slot = ORDER_DEMOTE, slot
    order.reason, order.value = <uint8_t>(value >> 16), value & 0xffff
    known.ordered[order.reason] = <uint8_t>min(order.value, 255)
    known.priority_ns = now_ns
    if order.reason == BY_TRACK:
        begins = was_master and hard and not known.lacks_condition
        known.resigns |= begins                         # until that is reported
        known.lacks_condition = hard
        world.tally.conditions_failed += begins
        order.value |= HARD if hard else 0
    obey(&machine.core, &order, now_ns)
    if begins and machine.core.hosts[slot].state == MASTER:
        broken(world, CONDITION_KEPT, machine_number(world, machine), slot, value)


cdef bint obey_next(void* where, int64_t now_ns) noexcept nogil:
    """Carry out one order; reports before and after it are judged apart from other orders."""
    cdef Machine* machine = <Machine*>where
    if not machine.orders_count:
        return False
    take_reports(machine.world, machine)
    obey_pending(machine.world, machine, now_ns)
    take_reports(machine.world, machine)
    return True


cdef void obey_pending(World* world, Machine* machine, int64_t now_ns) noexcept nogil:
    """Carry out the oldest order."""
    cdef PendingOrder pending
    cdef Order order
    pending = machine.orders[machine.orders_head]
    machine.orders_head = (machine.orders_head + 1) % machine.orders_room
    machine.orders_count -= 1
    memset(&order, 0, sizeof(order))
    order.kind, order.slot, order.value = pending.kind, pending.subject, pending.value
    trace(world, TRACE_ORDER, machine_number(world, machine),
          NOBODY if pending.kind == ORDER_SET_INTERFACE else pending.subject, pending.kind, 0)
    note_disturbed(world, world.now_ns)
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
            obey_demotion(world, machine, pending.subject, pending.value, now_ns)
            return
        elif (pending.kind == ORDER_BAR
                and machine.core.hosts[pending.subject].flags & IN_USE):
            machine.slots[pending.subject].barred = pending.value != 0
        elif (pending.kind == ORDER_WITHHOLD
                and machine.core.hosts[pending.subject].flags & IN_USE):
            machine.slots[pending.subject].withheld = pending.value != 0
        elif ((pending.kind == ORDER_YIELD or pending.kind == ORDER_PREEMPT)
                and machine.core.hosts[pending.subject].flags & IN_USE):
            obey_by_hand(world, machine, &order, now_ns)
            return
        obey(&machine.core, &order, now_ns)


# ------------------------------------------------------------------------------------- reports

cdef void take_reports(World* world, Machine* machine) noexcept nogil:
    """Take the reports as Python does, and free the blocks that the engine releases."""
    cdef Core* core = &machine.core
    cdef Report* report
    while core.reports.head != core.reports.tail:
        report = &core.reports.reports[core.reports.head & core.reports.mask]
        if report.kind == RELEASED:
            free(<void*>report.value)
            if report.slot != NOBODY:
                mark_dirty(machine, report.slot)
                # The host is gone, whatever its last state was.
                machine.slots[report.slot].heard_at_ns = 0
        elif report.kind == STATE_CHANGED:
            on_state(world, machine, report)
        elif report.kind == FAMILY_SILENT or report.kind == FAMILY_HEARD:
            on_family(world, machine, report)
        elif report.kind == SENDS_FAILING or report.kind == SENDS_RECOVERED:
            on_sends(world, machine, report)
        elif report.kind == UNDEMOTED:
            on_undemoted(world, machine, report)
        elif report.kind == GROUP_CHANGED:
            on_group(world, machine, report)
        elif report.kind == SOURCE_PROVEN:
            on_source(world, machine, report)
        elif report.kind == STALLED:
            trace_stall(world, machine, 0, <int64_t>report.value)
        core.reports.head += 1
    if core.reports.lost:
        broken(world, REPORTS_LOST, machine_number(world, machine), NOBODY, core.reports.lost)


# ------------------------------------------------------------------------------------- receive

cdef uint32_t queued(const Core* core) noexcept nogil:
    return (queue_length(&core.advertise_first) + queue_length(&core.advertise)
            + queue_length(&core.change) + queue_length(&core.announce)
            + queue_length(&core.repeat))


cdef void before_frame(World* world, Machine* machine, const Frame* frame,
                       int64_t at_ns) noexcept nogil:
    """The engine is about to handle a frame: note the state before, and the expected outcome."""
    cdef Core* core = &machine.core
    cdef uint32_t told = frame.slot
    cdef VirtualHost* host = &core.hosts[told]
    cdef Before* before = &machine.before
    take_reports(world, machine)                        # these do not follow from the frame
    before.claimed = world.slot_of[frame.segment][frame.bytes[frame.carp_at + 1]] - 1
    before.state, before.keeps = host.state, keeps_backup(machine, frame)
    before.leaves, before.queued = rule_leaves(frame, host), queued(core)
    before.expected = EITHER
    if frame.key == machine.slots[told].key and machine.slots[told].right != NULL:
        before.expected = rule_replay(
            &machine.slots[told], host, frame,
            frame.sender == machine_number(world, machine) and not frame.strange, at_ns)
    if before.claimed == NOBODY:                        # maybe a wrong one if corrupted
        before.claimed = told
    host = &core.hosts[before.claimed]
    before.deadline_ns, before.counter = host.deadline_ns, host.counter
    machine.cause = frame


cdef void after_frame(World* world, Machine* machine, const Frame* frame, Verdict verdict,
                      int64_t at_ns, int64_t arrived_ns) noexcept nogil:
    """Judge the outcome of a frame."""
    cdef Core* core = &machine.core
    cdef const Before* before = &machine.before
    cdef const VirtualHost* host = &core.hosts[before.claimed]
    cdef uint32_t number = machine_number(world, machine), told = frame.slot
    trace(world, TRACE_HEARD, number, told, whose(frame), verdict)
    if verdict == VERDICT_OK:
        on_taken(world, machine, frame, before.state, before.keeps, before.leaves,
                 <Expected>before.expected, at_ns, arrived_ns)
    else:
        if (core.hosts[told].state != before.state or host.deadline_ns != before.deadline_ns
                or host.counter != before.counter or queued(core) != before.queued
                and not (verdict == REPLAY and before.state == MASTER)):    # it may answer
            broken(world, CHANGED_BY_REFUSED, number, told, verdict)
        if verdict != NOT_CARP or frame.key == machine.slots[told].key:
            on_refused(world, machine, frame, verdict, <Expected>before.expected, at_ns)
    take_reports(world, machine)
    machine.cause = NULL


cdef void look_on(void* where, uint32_t which, bint over) noexcept nogil:
    cdef Machine* machine = <Machine*>where
    cdef World* world = machine.world
    cdef const Frame* frame = &world.frames[machine.taken[which].frame]
    cdef const FrameHeard* heard = &machine.turn.intake.frames[which]
    if over:
        after_frame(world, machine, frame, <Verdict>heard.verdict, heard.arrived_ns,
                    machine.taken[which].at_ns)
    else:
        before_frame(world, machine, frame, heard.arrived_ns)


cdef void release_taken(World* world, Machine* machine) noexcept nogil:
    """Release the frames of the last intake."""
    cdef uint32_t i
    for i in range(machine.taken_count):
        frame_release(world, machine.taken[i].frame)
    machine.taken_count = 0


cdef int receive(void* where, uint32_t which, Intake* intake) noexcept nogil:
    cdef Machine* machine = <Machine*>where
    cdef World* world = machine.world
    cdef Socket* socket = &machine.sockets[which]
    cdef uint32_t count = min(socket.count, world.batch), _
    cdef Arrival* arrival
    cdef const Frame* frame
    cdef FrameHeard* heard
    take_reports(world, machine)
    release_taken(world, machine)
    intake.taken_ns, intake.count = machine_now(world, machine), 0
    for _ in range(count):
        arrival = &socket.arrivals[socket.head]
        socket.head = (socket.head + 1) % world.socket_room
        socket.count -= 1
        intake.last_ns = arrival.stamp_ns - machine.wall_ns
        if arrival.frame == NOBODY:                     # a stranger's: refused, and counted
            if intake.taken_ns - arrival.at_ns > LATE_NS:       # and maybe waited for
                note_drop(world, machine, False, False)
            continue
        frame = &world.frames[arrival.frame]
        if (intake.taken_ns - arrival.at_ns > LATE_NS           # behind a flood
                and machine.slots[frame.slot].right != NULL):
            note_disturbed(world, world.now_ns)
        if not machine.core.interfaces[frame.segment].ifindex:
            frame_release(world, arrival.frame)
            continue
        heard = &intake.frames[intake.count]
        heard.bytes, heard.length = world.frames[arrival.frame].bytes, frame.length
        heard.interface, heard.arrived_ns = frame.segment, intake.last_ns
        machine.taken[intake.count] = arrival[0]
        intake.count += 1
    machine.taken_count = intake.count
    machine.busy_ns += count * RECEIVE_COST_NS
    return <int>count


cdef uint32_t drops(void* where, uint32_t which) noexcept nogil:
    cdef Socket* socket = &(<Machine*>where).sockets[which]
    cdef uint32_t dropped = socket.drops
    socket.drops = 0
    return dropped


# --------------------------------------------------------------------------------- carrying out

cdef void advertise(void* where, Outgoing* frames, uint32_t count) noexcept nogil:
    cdef Machine* machine = <Machine*>where
    cdef World* world = machine.world
    cdef const uint8_t* carp
    cdef Outgoing* frame
    cdef uint32_t i
    cdef bint sent = False, refused = False
    take_reports(world, machine)
    for i in range(count):
        frame = &frames[i]
        if frame.which == 0:                            # the first of a host's outputs
            check_sending(world, machine, frame.slot)
            world.tally.sent += 1
            sent = refused = False
        frame.error = transmit(world, machine, frame)
        sent |= frame.error == 0
        refused |= frame.error == ENOBUFS
        if i + 1 == count or frames[i + 1].which == 0:
            on_sent(world, machine, frame.slot, sent, refused)
        carp = frame.bytes + ETHERNET_LENGTH + (IPV4_LENGTH if frame.family == 4 else IPV6_LENGTH)
        trace(world, TRACE_SENT, machine_number(world, machine), frame.slot,
              <uint32_t>frame.family << 24 | <uint32_t>carp[4] << 16 | <uint32_t>carp[5] << 8
              | carp[2], frame.error)
    machine.busy_ns += count * SEND_COST_NS


cdef void announce(void* where, Outgoing* frames, uint32_t count) noexcept nogil:
    """Check gratuitous ARPs and unsolicited NAs; the simulation has no neighbours."""
    cdef Machine* machine = <Machine*>where
    cdef World* world = machine.world
    cdef Outgoing* frame
    cdef uint32_t i, first = 0
    take_reports(world, machine)
    for i in range(count):
        frame = &frames[i]
        if is_refused(world, machine, frame.bytes[12] == 0x86):
            frame.error = ENOBUFS
        else:
            check_announcement(world, machine, frame.slot, frame.which, frame.bytes, frame.length)
        if i + 1 == count or frames[i + 1].slot != frame.slot:
            check_announced(world, machine, frame.slot)
            trace(world, TRACE_ANNOUNCED, machine_number(world, machine), frame.slot,
                  i + 1 - first, 0)
            first = i + 1
    machine.busy_ns += count * SEND_COST_NS


cdef void change(void* where, const AddressChange* changes, uint32_t count) noexcept nogil:
    cdef Machine* machine = <Machine*>where
    take_reports(machine.world, machine)
    request_changes(machine.world, machine, changes, count)


cdef uint32_t changed(void* where, AddressChange* changes, uint32_t count) noexcept nogil:
    cdef Machine* machine = <Machine*>where
    take_reports(machine.world, machine)
    return take_changed(machine, changes, count)


cdef void look(void* where, const Look* look) noexcept nogil:
    cdef Machine* machine = <Machine*>where
    take_reports(machine.world, machine)
    request_look(machine.world, machine, look)


cdef bint looked(void* where, int* error) noexcept nogil:
    cdef Machine* machine = <Machine*>where
    take_reports(machine.world, machine)
    return take_looked(machine, error)


cdef int64_t now(void* where) noexcept nogil:
    return machine_now((<Machine*>where).world, <Machine*>where)


cdef int64_t suspended(void* where) noexcept nogil:
    return (<Machine*>where).suspended_ns


# ----------------------------------------------------------------------------- the turn as a whole

cdef Environment environment
environment.now, environment.suspended = now, suspended
environment.obey_next, environment.receive, environment.drops = obey_next, receive, drops
environment.advertise, environment.announce = advertise, announce
environment.room, environment.change, environment.changed = requests_room, change, changed
environment.look, environment.looked, environment.find = look, looked, find_there
environment.onlooker = look_on


cdef void rest(World* world, Machine* machine) noexcept nogil:
    """The turn is over: check what was carried out, and schedule the next one."""
    cdef Turn* turn = &machine.turn
    cdef uint32_t i
    upgrade_if_due(world, machine)
    if turn_is_idle(turn) and machine.requested == machine.taken_up:
        for i in range(machine.dirty_count):
            machine.slots[machine.dirty[i]].dirty = False
            check_addresses(world, machine, machine.dirty[i], False)
        machine.dirty_count = 0
        for i in range(world.segment_count):
            if has_left(machine, i):
                order_push(world, machine, ORDER_SET_INTERFACE, i, interface_value(machine, i))
    if machine.orders_count or turn.watching and anything_waits(machine):
        machine_wake(world, machine, world.now_ns)
    elif turn.planned_ns:
        machine_wake(world, machine, turn.planned_ns - machine.origin_ns)


cdef void machine_step(World* world, Machine* machine) noexcept nogil:
    """Run one step of the machine's turn at the world's time; the next one is later."""
    cdef Core* core = &machine.core
    cdef uint64_t unproven = machine.turn.unproven
    cdef uint32_t most
    cdef bint begins = machine.turn.phase == BETWEEN, goes_on
    world.tally.turns += begins
    machine.busy_ns = TURN_COST_NS if begins else 0
    goes_on = turn_step(&machine.turn)
    take_reports(world, machine)
    release_taken(world, machine)
    if machine.turn.unproven != unproven:
        trace_stall(world, machine, <uint32_t>(machine.turn.unproven - unproven), 0)
    most = max(queue_length(&core.advertise), queue_length(&core.change),
               queue_length(&core.announce), queue_length(&core.repeat))
    if most > core.slots:
        broken(world, QUEUE_OVERFLOW, machine_number(world, machine), NOBODY, most)
    if machine.busy_ns > BUSY_NS:
        note_hindered(machine, machine_now(world, machine) + machine.busy_ns)
    if goes_on:
        machine_wake(world, machine, world.now_ns + machine.busy_ns)
    else:
        rest(world, machine)


cdef void machine_begin(World* world, Machine* machine) noexcept nogil:
    """The machine has booted: prepare its first turn."""
    cdef uint32_t lane
    turn_open(&machine.turn, &machine.core, &environment, machine, world.batch, world.slices,
              world.changes)
    for lane in range(SOCKETS):
        turn_add_receiver(&machine.turn, <uint8_t>lane)


cdef void machine_forget(World* world, Machine* machine) noexcept nogil:
    """The machine is gone, with its sockets, orders and turn."""
    forget_lanes(world, machine)
    kernel_forget(machine)
    machine.orders_count = 0
    machine.upgrade_by_ns = 0
    machine.turn.phase = BETWEEN
    machine.step_at_ns = -1
    machine.generation += 1
    memset(machine.leaving, 0, sizeof(machine.leaving))
    memset(machine.left, 0, sizeof(machine.left))
    machine.dirty_count = 0
