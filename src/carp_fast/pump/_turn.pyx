"""One turn: orders, receive, expire, carry out, plan the next.

This is the only place that decides their order and limits. The functions of an Environment provide
what a turn needs (clock, orders, sockets, addresses), so the pump and the simulator run the same
code, each with its own. A turn consists of steps, each a slice of bounded work: the pump takes them
one after the other, the simulator lets time pass between them. All times are CLOCK_MONOTONIC. Uses
no socket, clock or file.
"""

from libc.errno cimport EEXIST, ESTALE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from carp_fast.engine._actions cimport (
    address_changed, addresses_done, advertisement_sent, announced, announcement_frames,
    announcement_pauses, announcement_until,
    announcement_failed, change_asked, next_announcement, next_change,
    nothing_to_do, nothing_to_send, take_asked)
from carp_fast.engine._core cimport (
    Core, Interface, Report, SOCKET_DROPPED, SOURCE_PROVEN, STALLED, engine_flushed,
    engine_next_deadline, engine_tell, engine_tell_rest, report_begin, report_end)
from carp_fast.engine._demotions cimport groups_expire
from carp_fast.engine._figures cimport note_lateness
from carp_fast.engine._lanes cimport (
    LANE_COMMON, LANE_GENUINE, LANE_STRAY, lanes_find_source, lanes_heard_until,
    lanes_prove_nothing)
from carp_fast.engine._receive cimport FrameHeard, engine_receive_many
from carp_fast.engine._sealing cimport next_advertisement, Sealing, sealing_end
from carp_fast.engine._transitions cimport engine_absent, engine_dropped, engine_expire
from carp_fast.engine._upkeep cimport (
    held_elsewhere, upkeep_expire, upkeep_waits, wanted_change, wants_route)
from carp_fast.engine._vhid cimport (
    Address, ANNOUNCING, MASTER, Output, RETIRED, VirtualHost)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport ETHERNET_LENGTH, wire_build_announcement
from carp_fast.pump._arrivals cimport arrived_at, take_arrivals
from carp_fast.pump._look cimport Look, look_due, look_taken

cdef enum:
    ORDERS_A_TURN = 512
    CHANGES_A_TURN = 8          # batches of addresses or announcements before the next receive
    TURNS_AN_INTERVAL = 4       # if there is more to do than fits into one

cdef int64_t DROPS_TOLD_NS = 10000000000        # between two reports of dropped frames


cdef void turn_open(Turn* turn, Core* core, const Environment* environment, void* where,
                    uint32_t batch, uint32_t slices, uint32_t changes) noexcept nogil:
    """Prepare a turn without receivers. batch, changes: 1 to BATCH_MAX, CHANGES_MAX."""
    memset(turn, 0, sizeof(Turn))
    turn.core, turn.environment, turn.where = core, environment, where
    turn.batch, turn.slices, turn.changes = batch, slices, changes
    turn.changing.slot = turn.announcing.slot = turn.looking.number = NOBODY
    turn.heard_until_ns = environment.now(where)
    turn.watching = True


cdef void turn_add_receiver(Turn* turn, uint8_t lane) noexcept nogil:
    """Add a socket of this lane; the caller keeps within RECEIVERS_MAX. Its index is its number."""
    turn.receivers[turn.receiver_count].lane = lane
    turn.receivers[turn.receiver_count].heard_until_ns = turn.heard_until_ns
    turn.receiver_count += 1
    if lane == LANE_GENUINE:
        turn.lanes.sorting = True


cdef inline int64_t clock(const Turn* turn) noexcept nogil:
    return turn.environment.now(turn.where)


cdef inline bint is_over(const Turn* turn) noexcept nogil:
    """Whether the turn has used up its time: see note_absence."""
    return clock(turn) >= turn.ends_ns


cdef bint turn_is_settled(const Turn* turn) noexcept nogil:
    """Whether all that was ordered is carried out: only announcements may still wait."""
    return nothing_to_send(turn.core) and turn.changing.slot == NOBODY and turn.asked == 0


cdef bint turn_is_idle(const Turn* turn) noexcept nogil:
    """Whether nothing is left to carry out, and every change has its outcome."""
    return (turn_is_settled(turn) and nothing_to_do(turn.core)
            and turn.announcing.slot == NOBODY)


# ---------------------------------------------------------------------------------- its beginning

cdef void note_absence(Turn* turn, int64_t now_ns) noexcept nogil:
    """Note an absence longer than the shortest interval: some host may have missed a frame.

    Measured from the beginning of one turn to the beginning of the next, including time asleep and
    pauses within a turn. So a turn may take a quarter of the shortest interval, and plan() begins
    the next one a half later at most.
    """
    cdef int64_t since_ns = turn.begun_ns if turn.core.slots else 0
    cdef int64_t suspended_ns = turn.environment.suspended(turn.where)
    cdef int64_t asleep_ns = max(0, suspended_ns - turn.suspended_ns)
    if turn.planned_ns and now_ns - turn.planned_ns > turn.latest_ns:
        turn.latest_ns = now_ns - turn.planned_ns
    if turn.planned_ns and now_ns >= turn.planned_ns:
        note_lateness(&turn.core.figures, now_ns - turn.planned_ns)
    turn.suspended_ns = suspended_ns
    turn.begun_ns = now_ns
    turn.ends_ns = now_ns + turn.core.shortest_ns // TURNS_AN_INTERVAL
    if since_ns and now_ns - since_ns + asleep_ns > turn.core.shortest_ns:
        engine_tell(turn.core, STALLED, NOBODY, <uint64_t>(now_ns - since_ns + asleep_ns), NULL,
                    now_ns)
        engine_absent(turn.core, since_ns, now_ns, asleep_ns)


cdef void take_orders(Turn* turn, int64_t now_ns) noexcept nogil:
    """Take one order at least; those that the turn has no room for wait for the next."""
    for _ in range(ORDERS_A_TURN):
        if not turn.environment.obey_next(turn.where, now_ns):
            return
        if is_over(turn):
            break
    turn.more = True


cdef void begin(Turn* turn) noexcept nogil:
    cdef int64_t now_ns = clock(turn)
    turn.turns += 1
    turn.phase, turn.slice = RECEIVING, 0
    turn.any_frame = turn.more = False
    turn.lanes.told_count = 0
    note_absence(turn, now_ns)
    take_orders(turn, now_ns)


# -------------------------------------------------------------------------------------- receiving

cdef int take_in(Turn* turn, uint32_t which) noexcept nogil:
    """Pass one batch of a socket's frames to the engine; how many, or minus the errno."""
    cdef Receiver* receiver = &turn.receivers[which]
    cdef Intake* intake = &turn.intake
    cdef int64_t since_ns = receiver.heard_until_ns, until_ns = clock(turn)
    cdef int count = turn.environment.receive(turn.where, which, intake)
    cdef uint32_t i, good
    if count <= 0:
        receiver.heard_until_ns = since_ns if intake.blocked else until_ns
        return count
    take_arrivals(receiver, intake)
    turn.core.taken_ns = intake.taken_ns
    good = engine_receive_many(turn.core, intake.frames, intake.count,
                               turn.environment.onlooker, turn.where)
    if good and receiver.lane == LANE_COMMON and turn.lanes.sorting:
        for i in range(intake.count):
            if lanes_find_source(&turn.lanes, &intake.frames[i], intake.taken_ns):
                tell_source(turn, &intake.frames[i], intake.taken_ns)
    turn.frames += <uint64_t>count
    if count == turn.batch or intake.blocked:   # more may wait: read up to the last of these
        until_ns = arrived_at(receiver, intake.last_ns, intake.taken_ns)
        if until_ns == intake.taken_ns:     # the wall clock was stepped since
            until_ns = since_ns
    receiver.heard_until_ns = until_ns
    note_drops(turn, which, since_ns)
    return count


cdef void tell_source(Turn* turn, const FrameHeard* frame, int64_t now_ns) noexcept nogil:
    """Report a genuine source that is not in its lane yet."""
    cdef const uint8_t* ip = frame.bytes + ETHERNET_LENGTH
    cdef Report* report = report_begin(turn.core, SOURCE_PROVEN, NOBODY, now_ns)
    if report == NULL:
        return
    report.value = <uint64_t>turn.core.interfaces[frame.interface].ifindex
    if frame.bytes[12] == 0x08:
        report.peer_family = 4
        memcpy(report.peer, ip + 12, 4)
    else:
        report.peer_family = 6
        memcpy(report.peer, ip + 8, 16)
    turn.lanes.sources_told += 1                                # before Python can answer
    report_end(turn.core)


cdef void note_drops(Turn* turn, uint32_t which, int64_t since_ns) noexcept nogil:
    """The socket was full after `since_ns`, and the newest frames were dropped: if a master's can
    have been among them, silence proves nothing.
    """
    cdef uint32_t drops = turn.environment.drops(turn.where, which)
    cdef int64_t now_ns
    cdef bint unproven
    if drops:
        now_ns = clock(turn)
        unproven = lanes_prove_nothing(&turn.lanes, turn.receivers[which].lane, now_ns)
        turn.dropped += drops
        turn.untold[unproven] += drops
        tell_drops(turn, now_ns)
        if unproven:
            turn.unproven += drops
            engine_dropped(turn.core, since_ns, now_ns)


cdef void tell_drops(Turn* turn, int64_t now_ns) noexcept nogil:
    """Report drops immediately, then every ten seconds: a flood fills a socket each tick."""
    cdef Report* report
    cdef int unproven
    for unproven in range(2):
        if turn.untold[unproven] == 0 or (
                turn.drops_told_ns[unproven]
                and now_ns - turn.drops_told_ns[unproven] < DROPS_TOLD_NS):
            continue
        report = report_begin(turn.core, SOCKET_DROPPED, NOBODY, now_ns)
        if report == NULL:
            return
        report.value, report.detail = turn.untold[unproven], unproven
        report_end(turn.core)
        turn.untold[unproven] = 0
        turn.drops_told_ns[unproven] = now_ns


cdef bint take_lane(Turn* turn, uint8_t lane) noexcept nogil:
    """Take in one batch from each socket of a lane; whether more may wait there."""
    cdef int count
    cdef uint32_t i
    cdef bint any_full = False
    for i in range(turn.receiver_count):
        if turn.receivers[i].lane == lane:
            count = take_in(turn, i)
            turn.any_frame |= count > 0 or turn.intake.blocked
            any_full |= count == turn.batch
    return any_full


cdef void note_heard(Turn* turn) noexcept nogil:
    """Set the time up to which silence counts: how far the sockets that matter have been read."""
    cdef int64_t now_ns = clock(turn)
    cdef int64_t genuine_ns = now_ns, common_ns = now_ns
    cdef const Receiver* receiver
    cdef uint32_t i
    for i in range(turn.receiver_count):
        receiver = &turn.receivers[i]
        if receiver.lane == LANE_GENUINE:
            genuine_ns = min(genuine_ns, receiver.heard_until_ns)
        elif receiver.lane == LANE_COMMON:
            common_ns = min(common_ns, receiver.heard_until_ns)
    turn.heard_until_ns = lanes_heard_until(&turn.lanes, genuine_ns, common_ns, now_ns)


cdef void receive_slice(Turn* turn) noexcept nogil:
    """Pass frames that have arrived to the engine; due advertisements go before the next slice.

    The genuine lane comes first, until it is empty; then as much of the common one as the turn has
    room for, one batch at least; then one batch of the stray one. The rest of these two waits for
    the next tick: strangers must not keep the pump from sleeping, or it loses its priority.
    """
    cdef bint genuine = take_lane(turn, LANE_GENUINE), common = True, last
    cdef int64_t now_ns
    turn.slice += 1
    last = turn.slice == turn.slices or is_over(turn)
    if not genuine or last:
        common = take_lane(turn, LANE_COMMON)
    note_heard(turn)
    if not last and (genuine or common):
        engine_expire(turn.core, clock(turn), turn.heard_until_ns)
        send_advertisements(turn)
        return
    turn.more |= genuine
    take_lane(turn, LANE_STRAY)
    now_ns = clock(turn)
    groups_expire(turn.core, now_ns)
    engine_expire(turn.core, now_ns, turn.heard_until_ns)
    upkeep_expire(turn.core, now_ns)
    turn.phase, turn.slice = CARRYING_OUT, 0


# ---------------------------------------------------------------------------------- carrying out

cdef inline Outgoing* put_frame(Turn* turn, uint32_t count, uint32_t slot, uint32_t which,
                                const uint8_t* frame, uint32_t length) noexcept nogil:
    cdef Outgoing* outgoing = &turn.outgoing[count]
    outgoing.bytes, outgoing.length = frame, length
    outgoing.slot, outgoing.which = slot, which
    outgoing.ifindex = turn.core.interfaces[turn.core.hosts[slot].interface].ifindex
    outgoing.unicast, outgoing.last, outgoing.error = False, False, 0
    return outgoing


cdef uint32_t put_advertisements(Turn* turn) noexcept nogil:
    """Fill a batch with hosts that advertise, each with all its outputs, at least one host if
    there is any; how many frames.
    """
    cdef const VirtualHost* host
    cdef const Output* output
    cdef Outgoing* outgoing
    cdef Sealing sealing
    cdef uint32_t slot, k, count = 0
    sealing.count = 0
    while count < turn.batch:
        slot = next_advertisement(turn.core, &sealing, turn.batch - count if count else BATCH_MAX)
        if slot == NOBODY:
            break
        host = &turn.core.hosts[slot]
        for k in range(host.block.output_count):
            output = &host.block.outputs[k]
            outgoing = put_frame(turn, count, slot, k, output.frame, output.length)
            outgoing.family, outgoing.unicast = output.family, output.unicast
            count += 1
    sealing_end(&sealing)
    return count


cdef void note_sent(Turn* turn, uint32_t count, int64_t now_ns) noexcept nogil:
    """Pass the outcome of a batch to the engine, for each host."""
    cdef uint32_t i = 0, slot, failures
    cdef int error
    while i < count:
        slot, failures, error = turn.outgoing[i].slot, 0, 0
        while i < count and turn.outgoing[i].slot == slot:
            if turn.outgoing[i].error:
                failures += 1
                error = turn.outgoing[i].error
            i += 1
        advertisement_sent(turn.core, slot, failures, error, now_ns)


cdef void send_advertisements(Turn* turn) noexcept nogil:
    """Send every advertisement that is queued, one batch at least; if the turn has no time left,
    the rest is sent in the next, after those with a shorter interval.
    """
    cdef uint32_t count
    cdef int64_t now_ns = 0
    while now_ns < turn.ends_ns:
        count = put_advertisements(turn)
        if count == 0:
            return
        turn.environment.advertise(turn.where, turn.outgoing, count)
        now_ns = clock(turn)
        note_sent(turn, count, now_ns)
    turn.more = True


cdef uint32_t put_changes(Turn* turn, uint32_t room, uint32_t* ended) noexcept nogil:
    """Fill a batch with `room` changes at most: how many; `ended`: hosts that have no more."""
    cdef Core* core = turn.core
    cdef Progress* at = &turn.changing
    cdef AddressChange* change
    cdef VirtualHost* host
    cdef uint32_t count = 0
    cdef int wanted
    while count < room and ended[0] < turn.changes:
        if at.slot == NOBODY:
            at.slot, at.at = next_change(core), 0
            if at.slot == NOBODY:
                break
            at.block = core.hosts[at.slot].block
        host = &core.hosts[at.slot]
        if host.block != at.block:                  # replaced: start again; released: skip it
            if host.block == NULL:
                at.slot = NOBODY
                continue
            at.block, at.at = host.block, 0
        while at.at < host.block.address_count and count < room:
            wanted = wanted_change(host, &host.block.addresses[at.at])
            if wanted:
                change = &turn.pending[count]
                change.slot, change.which, change.added = at.slot, at.at, wanted > 0
                change.address = host.block.addresses[at.at]
                change.generation, change.preferred = host.generation, host.configured.preferred
                change.ifindex = core.interfaces[host.interface].ifindex
                change.error = change.was_ours = 0
                if wanted > 0:
                    change.address.routed = wants_route(host, &change.address)
                change_asked(core, at.slot, at.at)
                count += 1
            at.at += 1
        if at.at >= host.block.address_count:
            turn.changed[ended[0]] = at.slot
            ended[0] += 1
            at.slot = NOBODY
    return count


cdef bint ask_for_changes(Turn* turn) noexcept nogil:
    """Hand over one batch of address changes; False if there was nothing to do, or no room."""
    cdef uint32_t ended = 0, i, room = min(turn.changes, turn.environment.room(turn.where)), count
    cdef int64_t now_ns
    count = put_changes(turn, room, &ended)
    if count:
        turn.asked += count
        turn.environment.change(turn.where, turn.pending, count)
    now_ns = clock(turn)
    for i in range(ended):
        if not turn.core.hosts[turn.changed[i]].asked:
            addresses_done(turn.core, turn.changed[i], now_ns)
    return ended != 0 or count != 0


cdef void take_outcome(Turn* turn, AddressChange* change, int64_t now_ns) noexcept nogil:
    """Pass the outcome of a change to the engine; its address may not be the host's any more."""
    cdef Core* core = turn.core
    cdef const VirtualHost* host = &core.hosts[change.slot]
    cdef uint32_t which = take_asked(core, change.slot, change.which, &change.address)
    turn.asked -= 1
    if change.ifindex != core.interfaces[host.interface].ifindex:
        change.error = ESTALE                    # the interface is gone, and all it had
    # Two of our virtual hosts may have an address in common: each then holds its own.
    elif which != NOBODY and change.was_ours and held_elsewhere(core, change.slot, which):
        change.error = EEXIST
    if which != NOBODY:
        address_changed(core, change.slot, which, change.added, change.address.routed,
                        change.error, now_ns)
    if not host.asked and turn.changing.slot != change.slot:
        addresses_done(core, change.slot, now_ns)


cdef bint take_outcomes(Turn* turn) noexcept nogil:
    """Take a batch of outcomes, or that of a look; False if there was none."""
    cdef uint32_t i, count = turn.environment.changed(turn.where, turn.pending, turn.changes)
    cdef int64_t now_ns = clock(turn)
    cdef int error = 0
    for i in range(count):
        take_outcome(turn, &turn.pending[i], now_ns)
    if count:
        return True
    if turn.looking.asked and turn.environment.looked(turn.where, &error):
        look_taken(turn.core, &turn.looking, error, turn.environment.find, turn.where, now_ns)
        return True
    return False


cdef uint32_t put_announcements(Turn* turn) noexcept nogil:
    """Fill a batch with gratuitous ARPs and unsolicited NAs; how many."""
    cdef Core* core = turn.core
    cdef Progress* at = &turn.announcing
    cdef const VirtualHost* host
    cdef const Address* address
    cdef const Interface* interface
    cdef Outgoing* outgoing
    cdef uint32_t frames, which, length, count = 0
    cdef int64_t now_ns = clock(turn)
    while count < turn.batch:
        if at.slot == NOBODY:
            at.slot = next_announcement(core, now_ns)
            if at.slot == NOBODY:
                break
            at.at, at.block = core.hosts[at.slot].announce_from, core.hosts[at.slot].block
            at.until = announcement_until(core, &core.hosts[at.slot])
        host = &core.hosts[at.slot]
        if host.block != at.block or host.state != MASTER or not host.flags & ANNOUNCING:
            if host.block != at.block and host.flags & ANNOUNCING:
                announcement_pauses(core, at.slot, 0)   # replaced: it begins anew
            at.slot = NOBODY
            continue
        interface = &core.interfaces[host.interface]
        frames = host.block.address_count * announcement_frames(host)
        while at.at < at.until and count < turn.batch:
            which = at.at % host.block.address_count
            address = &host.block.addresses[which]
            if not address.flags & RETIRED:
                length = wire_build_announcement(turn.announcements[count], interface.mac,
                                                 address.family, address.bytes, interface.forwards6)
                outgoing = put_frame(turn, count, at.slot, which, turn.announcements[count], length)
                outgoing.at = at.at
                count += 1
            at.at += 1
        if at.at >= at.until and at.until < frames:
            announcement_pauses(core, at.slot, at.at)
            at.slot = NOBODY
        elif at.at >= frames:
            if count and turn.outgoing[count - 1].slot == at.slot:
                turn.outgoing[count - 1].last = True
            else:
                announced(core, at.slot)                # its last addresses are retired
            at.slot = NOBODY
    return count


cdef void note_announced(Turn* turn, uint32_t count, int64_t now_ns) noexcept nogil:
    """Pass the outcome of a batch of announcements to the engine.

    One that goes on in a later tick begins with its first frame that was refused.
    """
    cdef const Outgoing* frame
    cdef uint32_t i
    cdef bint goes_on = False
    for i in range(count):
        frame = &turn.outgoing[i]
        if i == 0 or frame.slot != turn.outgoing[i - 1].slot:
            goes_on = False
        if frame.error:
            goes_on |= announcement_failed(turn.core, frame.slot, frame.at, frame.error, now_ns)
        if goes_on and turn.announcing.slot == frame.slot:
            turn.announcing.slot = NOBODY
        if frame.last and not goes_on:
            announced(turn.core, frame.slot)


cdef bint send_announcements(Turn* turn) noexcept nogil:
    """Send one batch of gratuitous ARPs and unsolicited NAs; False if there was nothing to do."""
    cdef uint32_t count = put_announcements(turn)
    if count:
        turn.environment.announce(turn.where, turn.outgoing, count)
        note_announced(turn, count, clock(turn))
    return count != 0


cdef void carry_out_slice(Turn* turn) noexcept nogil:
    """Send advertisements, then change a batch of addresses, then send a batch of announcements.

    An announcement follows the outcome of its addresses' change.
    """
    cdef bint taken, asked
    if turn.slice == CHANGES_A_TURN or turn.slice and is_over(turn):
        turn.more = True
        turn.phase = BETWEEN
        return
    if turn.slice:                                  # time has passed since the last batch
        engine_expire(turn.core, clock(turn), turn.heard_until_ns)
    turn.slice += 1
    send_advertisements(turn)
    taken = take_outcomes(turn)
    asked = not turn.draining and ask_for_changes(turn)
    if not send_announcements(turn) and not taken and not asked:
        turn.phase = BETWEEN


# ------------------------------------------------------------------------------------------ its end

cdef void look_on(Turn* turn) noexcept nogil:
    """Request the next part of a look at the addresses of an interface, if one is due."""
    cdef Look* look = &turn.looking
    if not turn.draining and look_due(turn.core, look, clock(turn)) and (
            turn.environment.room(turn.where)):
        look.asked = True
        turn.environment.look(turn.where, look)


cdef void plan(Turn* turn, int64_t now_ns) noexcept nogil:
    """Plan when the next turn begins; sockets are watched only while no frames come."""
    cdef const Core* core = turn.core
    cdef int64_t tick_ns = core.wake_tick_ns
    cdef int64_t next_tick_ns = (now_ns // tick_ns + 1) * tick_ns
    cdef int64_t at_ns = engine_next_deadline(core)
    if at_ns >= 0:
        at_ns = max((at_ns + tick_ns - 1) // tick_ns * tick_ns, next_tick_ns)
    if turn.any_frame and (at_ns < 0 or at_ns > next_tick_ns):
        at_ns = next_tick_ns
    if core.verify_at_ns and turn.looking.number == NOBODY and (
            at_ns < 0 or core.verify_at_ns < at_ns):
        at_ns = max((core.verify_at_ns + tick_ns - 1) // tick_ns * tick_ns, next_tick_ns)
    # Wake up often enough to notice absences.
    if core.slots and (at_ns < 0 or at_ns > now_ns + core.shortest_ns // 2):
        at_ns = (now_ns + core.shortest_ns // 2) // tick_ns * tick_ns + tick_ns
    if turn.more:
        at_ns = now_ns
    turn.planned_ns = max(at_ns, 0)
    turn.watching = not turn.any_frame


cdef void end(Turn* turn) noexcept nogil:
    cdef int64_t now_ns
    look_on(turn)
    now_ns = clock(turn)
    if (engine_tell_rest(turn.core, now_ns) and turn.core.flush_mark and turn_is_settled(turn)
            and not upkeep_waits(turn.core)):
        engine_flushed(turn.core, now_ns)
    if turn.untold[0] or turn.untold[1]:
        tell_drops(turn, now_ns)
    plan(turn, now_ns)


cdef bint turn_step(Turn* turn) noexcept nogil:
    """Run a slice of a turn, the first of a new one if none is under way; False: it was the last.

    After the last one, `planned_ns` and `watching` tell when the next turn begins.
    """
    if turn.phase == BETWEEN:
        begin(turn)
    if turn.phase == RECEIVING:
        receive_slice(turn)
    else:
        carry_out_slice(turn)
    if turn.phase == BETWEEN:
        end(turn)
    return turn.phase != BETWEEN
