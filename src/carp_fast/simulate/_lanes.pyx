"""The lanes of a simulated machine's sockets: sorting of sources, and floods of strangers.

The pump's turn decides what a drop proves and which source is found; Python's part, later and with
limited room, is written a second time here.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from carp_fast.engine._core cimport Report
from carp_fast.engine._lanes cimport (
    COVERS_ALL, COVERS_NOBODY, COVERS_SOME, LANE_COMMON, lanes_cover)
from carp_fast.pump._turn cimport BETWEEN
from carp_fast.simulate._network cimport (
    Arrival, FLOOD_GOES_ON, MACHINES_MAX, Machine, PAUSE_NONE, PAUSE_STOPPED, SOCKETS,
    SOURCE_IS_SORTED, Socket, World, event_push, family_bit, frame_release, machine_at, machine_now,
    machine_number, machine_wake, note_drop, random_below, random_chance)
from carp_fast.engine._wheel cimport NOBODY

cdef enum:
    SORT_DELAY_NS = 20000000        # as in net/lanes.py
    SORT_MORE_NS = 100000000        # until Python has noticed, at most
    FLOOD_TICK_NS = 20000000        # twice the average: in step with no other time
    FLOOD_SLICES = 20
    WAKE_NS = 5000


cdef bint anything_waits(const Machine* machine) noexcept nogil:
    """Whether a frame is in any of its sockets."""
    cdef uint32_t lane
    for lane in range(SOCKETS):
        if machine.sockets[lane].count:
            return True
    return False


# ------------------------------------------------------------------------------- sorting of sources

cdef void on_source(World* world, Machine* machine, const Report* report) noexcept nogil:
    """A genuine source in the common lane is reported to Python, which sorts it soon."""
    cdef uint32_t segment = 0, sender
    cdef uint64_t packed
    while machine.core.interfaces[segment].ifindex != <int32_t>report.value:
        segment += 1
    sender = machine_at(world, segment, report.peer_family, report.peer)
    packed = (<uint64_t>machine.lives << 32 | <uint64_t>segment << 16 | <uint64_t>sender << 8
              | <uint64_t>family_bit(report.peer_family) << 1 | (sender == MACHINES_MAX))
    machine.unsorted += 1
    machine.found_ns = report.at_ns
    event_push(world, world.now_ns + SORT_DELAY_NS
               + <int64_t>random_below(&world.random, SORT_MORE_NS), SOURCE_IS_SORTED,
               machine_number(world, machine), packed)


cdef void source_is_sorted(World* world, Machine* machine, uint64_t packed) noexcept nogil:
    """Change the filters, unless there is no room: then all are learned again, once."""
    cdef uint32_t segment = (packed >> 16) & 0xff, sender = (packed >> 8) & 0xff
    cdef uint8_t bit = (packed >> 1) & 3, strange = packed & 1
    if not machine.running or packed >> 32 != machine.lives:
        return
    if machine.paused != PAUSE_NONE:                    # and Python with it
        event_push(world, world.now_ns + SORT_MORE_NS, SOURCE_IS_SORTED,
                   machine_number(world, machine), packed)
        return
    machine.unsorted -= 1
    machine.turn.lanes.sources_sorted += 1
    if machine.nics[segment].ifindex == 0 or not strange and machine.sorted[segment][sender] & bit:
        return
    if machine.sorted_count == world.source_room:
        if machine.sorted_anew:
            machine.sorted_full = True
            cover(machine)
            return
        machine.sorted_anew = True
        memset(machine.sorted, 0, sizeof(machine.sorted))
        machine.sorted_count = 0
    if not strange:
        machine.sorted[segment][sender] |= bit
    machine.sorted_count += 1
    cover(machine)


cdef void cover(Machine* machine) noexcept nogil:
    if machine.sorted_full or machine.sorted_count:     # a source is known
        machine.nobody_since_ns = 0
    lanes_cover(&machine.turn.lanes, COVERS_SOME if machine.sorted_full
                else COVERS_ALL if machine.sorted_count else COVERS_NOBODY)


cdef void forget_sources(Machine* machine, uint32_t segment) noexcept nogil:
    """The interface is gone: one with another ifindex is a new interface."""
    cdef uint32_t sender, known = 0
    for sender in range(sizeof(machine.sorted[segment])):
        known += ((machine.sorted[segment][sender] & 1)
                  + (machine.sorted[segment][sender] >> 1 & 1))
        machine.sorted[segment][sender] = 0
    machine.sorted_count -= known
    cover(machine)


cdef void forget_lanes(World* world, Machine* machine) noexcept nogil:
    """The machine is gone: drop waiting frames and all known sources."""
    cdef uint32_t lane
    cdef Socket* socket
    for lane in range(SOCKETS):
        socket = &machine.sockets[lane]
        while socket.count:
            if socket.arrivals[socket.head].frame != NOBODY:
                frame_release(world, socket.arrivals[socket.head].frame)
            socket.head = (socket.head + 1) % world.socket_room
            socket.count -= 1
        socket.drops = 0
    memset(machine.sorted, 0, sizeof(machine.sorted))
    machine.sorted_count = machine.unsorted = 0
    machine.sorted_full = machine.sorted_anew = False
    machine.nobody_since_ns = machine.found_ns = 0
    machine.lives += 1


# ------------------------------------------------------------------------------------------ floods

cdef void begin_flood(World* world, Machine* machine, uint32_t frames,
                      uint32_t dropped) noexcept nogil:
    """Let strangers fill the common lane: `frames` per tick find room, and while some of them
    wait, `dropped` of 65,536 other frames do not. Both 0: the flood is over.
    """
    machine.flood_frames, machine.flooded = frames, dropped
    if dropped and not machine.flood_comes:
        machine.flood_comes = True
        event_push(world, world.now_ns, FLOOD_GOES_ON, machine_number(world, machine), 0)


cdef void flood_goes_on(World* world, Machine* machine) noexcept nogil:
    cdef Socket* socket = &machine.sockets[<int>LANE_COMMON]
    cdef Arrival* arrival
    cdef int64_t now_ns = machine_now(world, machine)
    cdef uint32_t _, room
    machine.flood_comes = machine.flooded != 0
    if not machine.flooded:
        return
    event_push(world, world.now_ns + 1 + <int64_t>random_below(&world.random, FLOOD_TICK_NS),
               FLOOD_GOES_ON, machine_number(world, machine), 0)
    if not machine.running or machine.paused > PAUSE_STOPPED:
        return
    # With small slices there is little room: in a pump strangers wait for 0.1 s at most.
    room = min(world.socket_room, FLOOD_SLICES * world.slices * world.batch)
    for _ in range(min(machine.flood_frames, room - min(room, socket.count))):
        arrival = &socket.arrivals[(socket.head + socket.count) % world.socket_room]
        arrival.at_ns, arrival.stamp_ns = now_ns, now_ns + machine.wall_ns
        arrival.frame = NOBODY
        socket.count += 1
        world.tally.strangers += 1
    if socket.count and random_chance(&world.random, machine.flooded):
        socket.drops += 1
        note_drop(world, machine, False, True)
    if machine.turn.phase == BETWEEN and machine.turn.watching and not machine.paused:
        machine_wake(world, machine, world.now_ns + WAKE_NS)
