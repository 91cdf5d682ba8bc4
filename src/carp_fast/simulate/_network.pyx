"""A simulated network: frames in flight between machines, in an order given by a seed.

Holds the queue of events, ordered by (time, sequence), the seeded random numbers, the effects of
links on frames, the sockets that frames arrive in, and the trace. Must not know what a machine does
with a frame: that is _turn.pyx. Uses no real socket, clock or file.
"""

from libc.errno cimport ENETDOWN, ENOBUFS, ENODEV
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcmp, memcpy

from carp_fast.engine._lanes cimport LANE_COMMON, LANE_GENUINE
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport (
    CARP_LENGTH, ETHERNET_LENGTH, IPV4_LENGTH, IPV6_LENGTH, wire_checksum)
from carp_fast.pump._turn cimport BETWEEN, Outgoing

cdef enum:
    LATE_MAX_NS = 3000000000        # the longest additional delay of a reordered frame
    WAKE_NS = 5000                  # from an event to the turn that it wakes

cdef int64_t UNPROVEN_NS = 30 * <int64_t>1000000000     # drops count if no source is known
cdef int64_t FOUND_NS = 1500000000              # so long a source that was found may be unsorted
cdef int64_t UNPROVEN_SLACK_NS = 1000000000             # ... by the clock of a later reader,
cdef int64_t PAUSED_MAX_NS = 15 * <int64_t>1000000000   # ... which may have been paused


# --------------------------------------------------------------------- numbers, trace, and memory

cdef uint64_t random_below(uint64_t* state, uint64_t bound) noexcept nogil:
    return random_next(state) % bound if bound else 0


cdef bint random_chance(uint64_t* state, int64_t of_65536) noexcept nogil:
    """True with this probability; uses no random number if the outcome is certain."""
    if of_65536 <= 0:
        return False
    return of_65536 >= CERTAIN or <int64_t>(random_next(state) & 0xffff) < of_65536


cdef void* grown(World* world, void* array, uint32_t* room, size_t size) noexcept nogil:
    """The array with twice its room; without memory the run ends with an error."""
    cdef uint32_t wanted = room[0] * 2 if room[0] else 1024
    cdef void* larger = realloc(array, wanted * size)
    if larger == NULL:
        world.out_of_memory = True
        return array
    room[0] = wanted
    return larger


cdef void trace(World* world, uint8_t kind, uint32_t machine, uint32_t slot, uint32_t a,
                uint32_t b) noexcept nogil:
    """Add an event to the digest, and to the trace if that is kept."""
    cdef Trace* line
    cdef uint8_t segment = 0, vhid = 0
    cdef uint64_t word
    if slot != NOBODY:
        segment, vhid = world.slot_segment[slot], world.slot_vhid[slot]
    word = (<uint64_t>kind << 56 | <uint64_t>machine << 48 | <uint64_t>segment << 40
            | <uint64_t>vhid << 32 | a)
    world.digest ^= <uint64_t>world.now_ns * <uint64_t>0x9E3779B97F4A7C15ULL
    world.digest ^= <uint64_t>b << 17
    world.digest = (world.digest ^ word) * <uint64_t>0xD6E8FEB86659FD93ULL
    world.digest ^= world.digest >> 32
    if not world.tracing:
        return
    if world.trace_count == world.trace_room:
        world.traces = <Trace*>grown(world, world.traces, &world.trace_room, sizeof(Trace))
        if world.out_of_memory:
            return
    line = &world.traces[world.trace_count]
    world.trace_count += 1
    line.at_ns, line.kind, line.machine = world.now_ns, kind, <uint8_t>machine
    line.segment, line.vhid, line.a, line.b = segment, vhid, a, b


cdef void broken(World* world, uint8_t kind, uint32_t machine, uint32_t slot,
                 int64_t value) noexcept nogil:
    """Note an invariant that does not hold: the first one ends the run."""
    if world.broken == NOT_BROKEN:
        world.broken, world.broken_machine = kind, <uint8_t>machine
        world.broken_slot, world.broken_value = slot, value


# ------------------------------------------------------------------------------- order of events

cdef inline bint earlier(const Event* one, const Event* other) noexcept nogil:
    if one.at_ns != other.at_ns:
        return one.at_ns < other.at_ns
    return one.sequence < other.sequence


cdef void event_push(World* world, int64_t at_ns, uint32_t what, uint32_t subject,
                     uint64_t detail) noexcept nogil:
    """Queue an event for `at_ns`; those at the same time keep their order."""
    cdef uint32_t at, parent
    cdef Event event
    if world.event_count == world.event_room:
        world.events = <Event*>grown(world, world.events, &world.event_room, sizeof(Event))
        if world.out_of_memory:
            return
    event.at_ns = at_ns if at_ns > world.now_ns else world.now_ns
    event.what, event.subject, event.detail = what, subject, detail
    event.sequence = world.sequence
    world.sequence += 1
    at = world.event_count
    world.event_count += 1
    while at:
        parent = (at - 1) >> 1
        if not earlier(&event, &world.events[parent]):
            break
        world.events[at] = world.events[parent]
        at = parent
    world.events[at] = event


cdef bint event_pop(World* world, Event* event) noexcept nogil:
    """Take the earliest event; False if there is none."""
    cdef uint32_t at = 0, child
    cdef Event last
    if world.event_count == 0:
        return False
    event[0] = world.events[0]
    world.event_count -= 1
    last = world.events[world.event_count]
    while True:
        child = 2 * at + 1
        if child >= world.event_count:
            break
        if child + 1 < world.event_count and earlier(&world.events[child + 1],
                                                     &world.events[child]):
            child += 1
        if not earlier(&world.events[child], &last):
            break
        world.events[at] = world.events[child]
        at = child
    world.events[at] = last
    return True


# -------------------------------------------------------------------------------------- machines

cdef int64_t machine_now(const World* world, const Machine* machine) noexcept nogil:
    """The machine's CLOCK_MONOTONIC."""
    return world.now_ns + machine.origin_ns


cdef uint32_t machine_number(const World* world, const Machine* machine) noexcept nogil:
    return <uint32_t>(machine - world.machines)


cdef void machine_wake(World* world, Machine* machine, int64_t at_ns) noexcept nogil:
    """Schedule the machine's next step at `at_ns` of the world, unless it is earlier."""
    if machine.step_at_ns >= 0 and machine.step_at_ns <= at_ns:
        return
    machine.step_at_ns = at_ns
    machine.generation += 1
    event_push(world, at_ns, MACHINE_STEPS, machine_number(world, machine), machine.generation)


cdef void trace_stall(World* world, Machine* machine, uint32_t drops,
                      int64_t gap_ns) noexcept nogil:
    world.tally.stalls += 1
    machine.away_ns = world.now_ns
    trace(world, TRACE_STALLED, machine_number(world, machine), NOBODY, drops,
          <uint32_t>(gap_ns // 1000000))


cdef void note_missed(Machine* machine, int64_t since_ns, int64_t until_ns, int64_t length_ns,
                      int64_t clock_ns) noexcept nogil:
    """Note that the machine could not hear until then; consecutive drops are merged."""
    cdef Missed* last = &machine.missed[(machine.missed_count - 1) % MISSED_MAX]
    if not length_ns and machine.missed_count and not last.length_ns:
        last.until_ns = max(last.until_ns, until_ns)
        return
    last = &machine.missed[machine.missed_count % MISSED_MAX]
    last.since_ns, last.until_ns = since_ns, until_ns
    last.length_ns, last.clock_ns = length_ns, clock_ns
    machine.missed_count += 1


cdef bint nic_works(const Machine* machine, uint32_t segment) noexcept nogil:
    return (machine.running and machine.nics[segment].ifindex and machine.nics[segment].up
            and not machine.nics[segment].renamed)


# ---------------------------------------------------------------------------------------- frames

cdef uint32_t frame_new(World* world) noexcept nogil:
    """A free frame without users, or NOBODY without memory."""
    cdef uint32_t which = world.frame_free
    if which != NOBODY:
        world.frame_free = world.frames[which].next_free
        return which
    if world.frame_count == world.frame_room:
        world.frames = <Frame*>grown(world, world.frames, &world.frame_room, sizeof(Frame))
        if world.out_of_memory:
            return NOBODY
    which = world.frame_count
    world.frame_count += 1
    world.frames[which].users = 0
    return which


cdef void frame_release(World* world, uint32_t which) noexcept nogil:
    """Remove one user of the frame; the last one frees it."""
    cdef Frame* frame = &world.frames[which]
    frame.users -= 1
    if frame.users == 0:
        frame.next_free = world.frame_free
        world.frame_free = which


cdef uint32_t frame_copy(World* world, const Frame* original) noexcept nogil:
    cdef Frame kept = original[0]           # growing may move what `original` points to
    cdef uint32_t which = frame_new(world)
    if which != NOBODY:
        world.frames[which] = kept
        world.frames[which].users = 0
    return which


cdef void deliver(World* world, uint32_t which, uint32_t receiver, int64_t delay_ns) noexcept nogil:
    if which == NOBODY:
        return
    world.frames[which].users += 1
    event_push(world, world.now_ns + delay_ns, FRAME_ARRIVES, receiver, which)


cdef int64_t longest_delay_ns(const World* world, uint32_t slot) noexcept nogil:
    """The longest of the slot's segment; a link's delay may be a quarter longer."""
    cdef uint32_t one, other, segment = world.slot_segment[slot]
    cdef int64_t longest_ns = 0
    for one in range(world.machine_count):
        for other in range(world.machine_count):
            if one != other:
                longest_ns = max(longest_ns,
                                 world.links[segment][one][other].fields[LINK_DELAY_NS])
    return longest_ns + longest_ns // 4


cdef void note_disturbed(World* world, int64_t until_ns) noexcept nogil:
    if until_ns > world.disturbed_ns:
        world.disturbed_ns = until_ns


cdef uint8_t family_bit(uint8_t family) noexcept nogil:
    return OVER_4 if family == 4 else OVER_6


cdef uint32_t whose(const Frame* frame) noexcept nogil:
    """Family and sender, as in a trace."""
    return <uint32_t>frame.family << 8 | frame.sender


cdef void corrupt(World* world, Frame* frame) noexcept nogil:
    """Flip one bit, and note whether it can be detected.

    The MACs do not count: with other ones it stays genuine. IPv6 has no checksum of its own and
    CARP's does not cover it: class, flow and the source may change undetected.
    """
    cdef uint64_t bit = random_below(&world.random, <uint64_t>frame.length * 8)
    cdef uint32_t at = bit >> 3
    frame.bytes[at] ^= <uint8_t>(1 << (bit & 7))
    if at < 12:
        return
    if frame.family == 6:
        if at == 14 and bit & 7 < 4 or 15 <= at < 18:           # class and flow
            return
        if at == 21 and frame.to != EVERYBODY:                  # a unicast's hop limit
            return
        if 22 <= at < 38:
            frame.strange = True
            return
    frame.key = KEY_NONE


cdef inline void seal_carp(uint8_t* carp) noexcept nogil:
    cdef uint16_t sum
    carp[6] = carp[7] = 0
    sum = wire_checksum(carp, CARP_LENGTH)
    carp[6], carp[7] = <uint8_t>(sum >> 8), <uint8_t>(sum & 0xff)


cdef void forge(World* world, Frame* frame) noexcept nogil:
    """Forge a better advertisement without the key: all checks succeed but the digest's."""
    cdef uint8_t* carp = frame.bytes + frame.carp_at
    carp[2] = <uint8_t>random_below(&world.random, 2)
    carp[4] = carp[4] and <uint8_t>random_below(&world.random, 2)
    carp[5] = <uint8_t>random_below(&world.random, 2)
    carp[15] ^= <uint8_t>(1 + random_below(&world.random, 255))
    seal_carp(carp)
    frame.key = KEY_NONE


cdef void forward(Frame* frame) noexcept nogil:
    """Forward the frame as by a router: with a TTL below 255. Unicasts may come from far away."""
    cdef uint8_t* ip = frame.bytes + ETHERNET_LENGTH
    cdef uint16_t sum
    if frame.family == 6:
        ip[7] = 254
    else:
        ip[8] = 254
        ip[10] = ip[11] = 0
        sum = wire_checksum(ip, IPV4_LENGTH)
        ip[10], ip[11] = <uint8_t>(sum >> 8), <uint8_t>(sum & 0xff)
    if frame.to == EVERYBODY:
        frame.key = KEY_NONE


cdef void replay(World* world, uint32_t which, uint32_t receiver, uint32_t field,
                 int64_t delay_ns) noexcept nogil:
    """Send again what a machine of the segment sent earlier, also to this receiver."""
    cdef uint32_t segment = world.frames[which].segment, old
    old = <uint32_t>random_below(&world.random, min(world.remembered[segment], HISTORY))
    if (world.history[segment][old].to != EVERYBODY
            and (world.history[segment][old].to != receiver or field == LINK_STRANGER)):
        return
    note_disturbed(world, world.now_ns + delay_ns)
    old = frame_copy(world, &world.history[segment][old])
    if old != NOBODY:
        trace(world, TRACE_CHANGED_ON_WAY, receiver, world.frames[old].slot,
              whose(&world.frames[old]), field)
        if field == LINK_STRANGER:
            estrange(world, &world.frames[old])
    deliver(world, old, receiver, delay_ns)


cdef void estrange(World* world, Frame* frame) noexcept nogil:
    """Change source and fields that the digest does not cover, as a stranger without the key.

    To a host that has not seen the counter it is as good as any.
    """
    cdef uint8_t* carp = frame.bytes + frame.carp_at
    cdef uint8_t* ip = frame.bytes + ETHERNET_LENGTH
    cdef uint64_t* random = &world.random
    cdef uint8_t number = <uint8_t>(1 + random_below(random, 3))
    cdef uint64_t what = random_below(random, 8)
    cdef uint16_t sum
    frame.bytes[6], frame.bytes[11] = 2, number
    if frame.family == 6:
        ip[8 + 14], ip[8 + 15] = 0xfe, number
    else:
        ip[12 + 2], ip[12 + 3] = 250, number
        ip[10] = ip[11] = 0
        sum = wire_checksum(ip, IPV4_LENGTH)
        ip[10], ip[11] = <uint8_t>(sum >> 8), <uint8_t>(sum & 0xff)
    if what < 5:
        carp[2], carp[4] = 0, 0
        carp[5] = min(carp[5], <uint8_t>1)
    elif what == 5:
        carp[2] = carp[5] = 255
    elif what == 6:
        carp[2] = 254
    seal_carp(carp)
    frame.strange = frame.stranger = True


cdef void insert(World* world, uint32_t which, uint32_t receiver, uint32_t field,
                 int64_t delay_ns) noexcept nogil:
    """Send a changed copy in addition to the frame, as a stranger without the key."""
    trace(world, TRACE_CHANGED_ON_WAY, receiver, world.frames[which].slot,
          whose(&world.frames[which]), field)
    which = frame_copy(world, &world.frames[which])
    if which == NOBODY:
        return
    if field == LINK_FORGE:
        forge(world, &world.frames[which])
    else:
        note_disturbed(world, world.now_ns + delay_ns)
        forward(&world.frames[which])
    deliver(world, which, receiver, delay_ns)


cdef void send_over(World* world, uint32_t which, uint32_t sender,
                    uint32_t receiver) noexcept nogil:
    """Send one frame over one link, with the link's faults."""
    cdef uint32_t segment = world.frames[which].segment, slot = world.frames[which].slot
    cdef uint32_t from_whom = whose(&world.frames[which])
    cdef uint8_t family = world.frames[which].family
    cdef int64_t* fields = world.links[segment][sender][receiver].fields
    cdef uint64_t* random = &world.random
    cdef int64_t delay_ns = fields[LINK_DELAY_NS]
    cdef int64_t loss = fields[LINK_LOSS_4 if family == 4 else LINK_LOSS_6]
    if fields[LINK_BLOCKED] & family_bit(family) or random_chance(random, loss):
        if loss:
            note_disturbed(world, world.now_ns)
        trace(world, TRACE_LOST, receiver, slot, from_whom, 0)
        return
    delay_ns += <int64_t>random_below(random, 1 + <uint64_t>delay_ns // 4)
    if random_chance(random, fields[LINK_LATE]):
        delay_ns += <int64_t>random_below(random, LATE_MAX_NS)
        note_disturbed(world, world.now_ns + delay_ns)
        trace(world, TRACE_CHANGED_ON_WAY, receiver, slot, from_whom, LINK_LATE)
    if random_chance(random, fields[LINK_DUPLICATE]):
        note_disturbed(world, world.now_ns + 2 * delay_ns)
        trace(world, TRACE_CHANGED_ON_WAY, receiver, slot, from_whom, LINK_DUPLICATE)
        deliver(world, which, receiver, 2 * delay_ns)
    if random_chance(random, fields[LINK_FORGE]):
        insert(world, which, receiver, LINK_FORGE, delay_ns)
    if random_chance(random, fields[LINK_FORWARD]):
        insert(world, which, receiver, LINK_FORWARD, delay_ns)
    if random_chance(random, fields[LINK_REPLAY]):
        replay(world, which, receiver, LINK_REPLAY, delay_ns)
    if random_chance(random, fields[LINK_STRANGER]):
        replay(world, which, receiver, LINK_STRANGER, delay_ns)
    if random_chance(random, fields[LINK_CORRUPT]):
        note_disturbed(world, world.now_ns + delay_ns)
        trace(world, TRACE_CHANGED_ON_WAY, receiver, slot, from_whom, LINK_CORRUPT)
        which = frame_copy(world, &world.frames[which])
        if which != NOBODY:
            corrupt(world, &world.frames[which])
    deliver(world, which, receiver, delay_ns)


cdef uint32_t machine_at(const World* world, uint32_t segment, uint8_t family,
                         const uint8_t* source) noexcept nogil:
    """The machine that has this address on the segment, or MACHINES_MAX."""
    cdef uint32_t number
    cdef const Nic* nic
    for number in range(world.machine_count):
        nic = &world.machines[number].nics[segment]
        if (memcmp(nic.source, source, 4) == 0 if family == 4
                else memcmp(nic.source6, source, 16) == 0):
            return number
    return MACHINES_MAX


cdef uint8_t addressee(const World* world, uint32_t segment, const Outgoing* frame) noexcept nogil:
    """The machine of a unicast's destination, or MACHINES_MAX; for a group EVERYBODY."""
    cdef const uint8_t* ip = frame.bytes + ETHERNET_LENGTH
    if not frame.unicast:
        return EVERYBODY
    return <uint8_t>machine_at(world, segment, frame.family, ip + (16 if frame.family == 4 else 24))


cdef bint is_refused(World* world, Machine* machine, bint six) noexcept nogil:
    """Whether the machine's queue has no room for a frame."""
    if not random_chance(&world.random, machine.send_error[six]):
        return False
    note_disturbed(world, world.now_ns)
    return True


cdef int transmit(World* world, Machine* machine, const Outgoing* frame) noexcept nogil:
    """Send one frame of an advertisement to its receivers on its segment; 0 or an errno."""
    cdef uint32_t segment = world.slot_segment[frame.slot], receiver, which
    cdef uint32_t sender = machine_number(world, machine)
    cdef Frame* made
    cdef uint8_t to
    if machine.nics[segment].ifindex != frame.ifindex:
        return ENODEV
    if not machine.nics[segment].up:
        return ENETDOWN
    if is_refused(world, machine, frame.family == 6):
        return ENOBUFS
    which = frame_new(world)
    if which == NOBODY:
        return ENOBUFS
    made = &world.frames[which]
    memcpy(made.bytes, frame.bytes, frame.length)
    made.slot, made.segment, made.sender = frame.slot, <uint8_t>segment, <uint8_t>sender
    made.length, made.family = <uint8_t>frame.length, frame.family
    made.carp_at = ETHERNET_LENGTH + (IPV4_LENGTH if frame.family == 4 else IPV6_LENGTH)
    made.to = to = addressee(world, segment, frame)
    made.key, made.strange, made.stranger = machine.slots[frame.slot].key, False, False
    made.users = 1                                      # ours, until all copies are queued
    world.history[segment][world.remembered[segment] % HISTORY] = made[0]
    world.remembered[segment] += 1
    for receiver in range(world.machine_count):
        if (receiver != sender and (to == EVERYBODY or to == receiver)
                and world.machines[receiver].nics[segment].attached):
            send_over(world, which, sender, receiver)
    if to == EVERYBODY and random_chance(
            &world.random, world.links[segment][sender][sender].fields[LINK_REFLECT]):
        note_disturbed(world, world.now_ns)
        trace(world, TRACE_CHANGED_ON_WAY, sender, frame.slot, whose(&world.frames[which]),
              LINK_REFLECT)
        deliver(world, which, sender, world.links[segment][sender][sender].fields[LINK_DELAY_NS])
    frame_release(world, which)
    return 0


cdef uint8_t lane_of(const Machine* machine, const Frame* frame) noexcept nogil:
    """The socket of a frame: one with a forged source shares the lane of the source."""
    if not frame.strange and machine.sorted[frame.segment][frame.sender] & family_bit(frame.family):
        return LANE_GENUINE
    return LANE_COMMON


cdef bint has_sorted(const Machine* machine) noexcept nogil:
    """Whether all sources that the machine knows to be genuine have their lane."""
    return machine.sorted_count and not machine.sorted_full and not machine.unsorted


cdef void note_drop(World* world, Machine* machine, bint known, bint missed) noexcept nogil:
    """The common lane had no room: if that must not count as silence, the machine missed
    something, and elections may be postponed. `known`: a frame of a source that has its lane; not
    `missed`: it waited behind many others.

    If no source is known, it counts for UNPROVEN_NS, by the clock of the pump that reads it later.
    """
    cdef int64_t now_ns = machine_now(world, machine), since_ns = 0
    if known or machine.sorted_count or machine.sorted_full or machine.unsorted:
        machine.nobody_since_ns = 0
        if not known and has_sorted(machine):
            if now_ns - machine.found_ns < FOUND_NS:    # the pump does not know yet
                note_disturbed(world, world.now_ns)
            return
    elif missed:
        if machine.nobody_since_ns == 0 or now_ns - machine.nobody_dropped_ns > UNPROVEN_NS:
            machine.nobody_since_ns = now_ns
        machine.nobody_dropped_ns = now_ns
    if machine.nobody_since_ns:
        since_ns = now_ns - machine.nobody_since_ns
    if missed and since_ns < UNPROVEN_NS - UNPROVEN_SLACK_NS:
        # The turn that finds the drop counts from its beginning.
        note_missed(machine, now_ns,
                    machine.turn.begun_ns if machine.turn.phase != BETWEEN else now_ns, 0, 0)
        machine.away_ns = world.now_ns
    if since_ns < UNPROVEN_NS + PAUSED_MAX_NS:
        note_disturbed(world, world.now_ns)


cdef void frame_arrives(World* world, uint32_t machine, uint32_t which) noexcept nogil:
    """A frame reaches a machine: put it into the socket of its lane, if there is room."""
    cdef Machine* receiver = &world.machines[machine]
    cdef Frame* frame = &world.frames[which]
    cdef uint8_t lane = lane_of(receiver, frame)
    cdef Socket* socket = &receiver.sockets[lane]
    cdef Arrival* arrival
    if not nic_works(receiver, frame.segment) or receiver.paused > PAUSE_STOPPED:
        trace(world, TRACE_LOST, machine, frame.slot, whose(frame), 1)
        frame_release(world, which)
        return
    if socket.count == world.socket_room or (
            lane == LANE_COMMON and socket.count
            and random_chance(&world.random, receiver.flooded)):
        socket.drops += 1
        world.tally.drops += 1
        note_drop(world, receiver, lane == LANE_GENUINE, True)
        if receiver.slots[frame.slot].right != NULL:    # otherwise it has no effect
            note_disturbed(world, world.now_ns)
        trace(world, TRACE_NO_ROOM, machine, frame.slot, whose(frame), lane)
        frame_release(world, which)
        return
    arrival = &socket.arrivals[(socket.head + socket.count) % world.socket_room]
    socket.count += 1
    arrival.at_ns = machine_now(world, receiver)
    arrival.stamp_ns = arrival.at_ns + receiver.wall_ns
    arrival.frame = which
    if receiver.turn.phase == BETWEEN and receiver.turn.watching and not receiver.paused:
        machine_wake(world, receiver, world.now_ns + WAKE_NS)
