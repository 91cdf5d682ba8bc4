"""A simulated world: machines that run the real engine on a virtual network, in virtual time.

Holds the faults, the order of all events, and the Python class. The same seed, the same machines
and the same faults give the same trace, event for event. Uses no real socket, clock or file;
carp_fast/simulate/worlds.py decides what a world consists of.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from carp_fast.engine._core cimport (
    ORDER_ADD, ORDER_BAR, ORDER_BY_ROUTE, ORDER_DEMOTE, ORDER_LOSE_ADDRESS, ORDER_PREEMPT,
    ORDER_REMOVE, ORDER_REPLACE, ORDER_RESIGN_ALL, ORDER_SET_INTERFACE, ORDER_VERIFY,
    ORDER_WITHHOLD, ORDER_YIELD, engine_close, engine_open)
from carp_fast.engine._prepared cimport PreparedHost
from carp_fast.simulate._addresses cimport check_addresses
from carp_fast.simulate._groups cimport check_unsplit
from carp_fast.simulate._invariants cimport check_election, check_families, check_slot
from carp_fast.simulate._lanes cimport anything_waits, begin_flood, flood_goes_on, source_is_sorted
from carp_fast.simulate._nics cimport NicFault, change_nic, interface_value
from carp_fast.simulate._network cimport (
    ABSENT, ADDRESSES_MAX, Arrival, BROKEN_KINDS, CERTAIN, Event, FAULT_CHANGES, FLOOD_GOES_ON,
    FOREIGN_THERE, FRAME_ARRIVES, Fault, KERNEL_WORKS, LINK_DELAY_NS, LINK_FIELDS, MACHINES_MAX,
    MACHINE_STEPS, Machine, NOT_BROKEN, ORDER_ARRIVES, ORDER_CHANGED, ORDER_OTHER_KEY, OUR_ROUTE,
    OURS, OVER_4, OVER_6, PAUSE_NONE, PAUSE_STOPPED, PAUSE_SUSPENDED, QUIET, SEGMENTS_MAX,
    SLOT_IS_CHECKED, SOCKETS, SOURCE_IS_SORTED, Slot, TRACE_FAULT, TRACE_KINDS, Trace, World,
    event_pop, event_push, frame_arrives, grown, machine_now, machine_wake, note_missed,
    random_below, random_next, trace, MAINTENANCE_DEMOTION)
from carp_fast.simulate._kernel cimport drop_routes, kernel_go, kernel_works
from carp_fast.simulate._sending cimport note_hindered
from carp_fast.simulate._turn cimport (
    forget_slot, machine_begin, machine_forget, machine_step, order_packed, order_push)
from carp_fast.simulate._upgrade cimport upgrade_begin
from carp_fast.pump._arrivals cimport BATCH_MAX
from carp_fast.pump._turn cimport BETWEEN, CHANGES_MAX
from carp_fast.engine._upkeep cimport routes_of
from carp_fast.engine._vhid cimport BACKUP, BY_MAINTENANCE
from carp_fast.engine._wheel cimport NOBODY, power_of_two

FAULT_WORDS = (
    "link", "pause", "resume", "crash", "boot", "nic", "source", "key", "replace", "send_errors",
    "netlink_errors", "slow_netlink", "lock_held", "secondaries", "clock_step", "address_removed",
    "address_left", "address_lost", "demote", "bar", "by_route", "yield", "preempt",
    "maintenance", "remove", "add", "resign_all", "flood", "quiet", "upgrade")
LINK_WORDS = (
    "blocked", "loss4", "loss6", "duplicate", "corrupt", "replay", "forge", "forward", "reflect",
    "late", "stranger", "delay_ns")
PAUSE_WORDS = ("none", "stopped", "frozen", "suspended")
NIC_WORDS = ("down", "up", "gone", "back", "renamed", "named")
BROKEN_WORDS = (
    "", "two_masters", "no_master", "slower_master", "still_init", "changed_while_quiet",
    "never_quiet", "address_kept", "address_missing", "foreign_removed", "not_announced",
    "sent_by_backup", "resigned_with_addresses", "sent_wrong_priority", "sent_late",
    "demoted_wrongly", "demotion_unequal",
    "announced_by_backup", "sent_old_counter", "accepted_unauthentic", "accepted_replay",
    "accepted_loop", "changed_by_refused", "refused_genuine", "heard_too_lately", "heard_unread",
    "silence_unproven", "preempted_wrongly", "yielded_wrongly", "changed_without_cause",
    "tie_unsettled", "jitter_wrong", "silence_unsaid", "silence_imagined", "queue_overflow",
    "reports_lost", "resigned_late", "announced_absent", "rose_in_maintenance",
    "order_ignored", "group_unequal", "group_kept", "group_split", "condition_kept",
    "upgrade_changed")
TRACE_WORDS = (
    "sent", "heard", "lost", "changed", "no_room", "state", "address", "announced", "order",
    "fault", "stalled", "checked", "family")
ORDER_WORDS = (
    "add", "remove", "replace", "set_interface", "demote", "resign_all", "announce", "verify",
    "lose_address", "mark", "flush", "snapshot", "snapshot_interfaces", "copy_records", "bar",
    "assume", "own_source", "adopt", "grow_reports", "by_route", "tell_groups",
    "yield", "preempt", "withhold", "tally")
MAX_MACHINES, MAX_SEGMENTS, MAX_ADDRESSES = MACHINES_MAX, SEGMENTS_MAX, ADDRESSES_MAX
ALWAYS = CERTAIN
assert len(FAULT_WORDS) == FAULT_KINDS and len(LINK_WORDS) == LINK_FIELDS
assert len(BROKEN_WORDS) == BROKEN_KINDS and len(TRACE_WORDS) == TRACE_KINDS

cdef enum:
    BASE_DELAY_NS = 100000
    CHANGE_COST_NS = 10000          # of an address change
    ORDER_DELAY_NS = 20000000       # until Python has noticed and sent the order
    TICK_NS = 20000000              # of a pump
    TOGETHER_NS = 50000             # the largest difference of the ticks of aligned clocks
    BOOTTIME_READ_NS = -40          # CLOCK_BOOTTIME read before CLOCK_MONOTONIC, never suspended

cdef int64_t EPOCH_NS = 1700000000 * <int64_t>1000000000    # the beginning of wall clocks
# In one world of so many counters pass 2^64, those of wall clocks after this time.
cdef uint64_t TURNING = 8
cdef int64_t TURN_NS = 20 * <int64_t>1000000000


# ---------------------------------------------------------------------------------------- faults

cdef void order_later(World* world, Machine* machine, uint32_t kind, uint32_t subject,
                      int64_t value) noexcept nogil:
    """Queue an order that Python gives once it has noticed; orders keep their order."""
    cdef int64_t at_ns = world.now_ns + <int64_t>random_below(&world.random, ORDER_DELAY_NS)
    machine.order_ns = max(machine.order_ns, at_ns)
    world.disturbed_ns = max(world.disturbed_ns, machine.order_ns)
    event_push(world, machine.order_ns, ORDER_ARRIVES, <uint32_t>(machine - world.machines),
               order_packed(kind, subject, value))


cdef void pause(World* world, Machine* machine, uint8_t kind) noexcept nogil:
    """Stop the machine's steps until it is resumed, anywhere in its turn."""
    if machine.paused != PAUSE_NONE or not machine.running:
        return
    machine.paused, machine.paused_at_ns = kind, world.now_ns
    machine.step_at_ns = -1
    machine.generation += 1


cdef void resume(World* world, Machine* machine) noexcept nogil:
    cdef int64_t away_ns = world.now_ns - machine.paused_at_ns, now_ns
    if machine.paused == PAUSE_NONE:
        return
    if machine.paused == PAUSE_SUSPENDED:
        machine.origin_ns -= away_ns
        machine.suspended_ns += away_ns
    if machine.paused != PAUSE_STOPPED:
        now_ns = machine_now(world, machine)
        note_missed(machine, now_ns - away_ns, now_ns, away_ns,
                    0 if machine.paused == PAUSE_SUSPENDED else away_ns)
    machine.away_ns = world.now_ns
    note_hindered(machine, machine_now(world, machine))
    machine.paused = PAUSE_NONE
    kernel_go(world, machine)
    if machine.turn.phase != BETWEEN or machine.orders_count or (
            machine.turn.watching and anything_waits(machine)):
        machine_wake(world, machine, world.now_ns)
    elif machine.turn.planned_ns:
        machine_wake(world, machine, max(machine.turn.planned_ns - machine.origin_ns, world.now_ns))


cdef void crash(World* world, Machine* machine) noexcept:
    """Remove the whole machine, and its addresses."""
    cdef uint32_t slot
    if not machine.running:
        return
    engine_close(&machine.core)
    machine_forget(world, machine)
    machine.running = False
    machine.paused = PAUSE_NONE
    for slot in range(world.slot_count):
        memset(machine.slots[slot].kernel, ABSENT, ADDRESSES_MAX)
        forget_slot(&machine.slots[slot])
        machine.slots[slot].refused = machine.slots[slot].found_in = 0
        machine.slots[slot].dirty = machine.slots[slot].disturbed = False
        machine.slots[slot].owes_last = machine.slots[slot].owes_resignation = False
        machine.slots[slot].owes_announcement = False


cdef int boot(World* world, Machine* machine) except -1:
    """Start the machine again: a new CLOCK_MONOTONIC, an empty engine, orders as from a daemon.

    Raises MemoryError.
    """
    cdef uint32_t slot, segment
    if machine.running:
        return 0
    engine_open(&machine.core, power_of_two(4 * world.slot_count + 4096),
                random_next(&world.random))
    machine_forget(world, machine)
    machine.running = True
    machine.origin_ns = (<int64_t>random_below(&world.random, <uint64_t>1 << 55) + 1) - world.now_ns
    if world.aligned:
        machine.origin_ns += -machine.origin_ns % TICK_NS
        machine.origin_ns += <int64_t>random_below(&world.random, TOGETHER_NS)
    machine.wall_ns = EPOCH_NS - machine.origin_ns + machine.wall_error_ns
    machine.suspended_ns = BOOTTIME_READ_NS
    machine.missed_count = 0
    machine.clock_stepped_ns = machine.hindered_ns = 0
    machine_begin(world, machine)
    for segment in range(world.segment_count):
        if machine.nics[segment].attached:
            order_push(world, machine, ORDER_SET_INTERFACE, segment,
                       interface_value(machine, segment))
    for slot in range(world.slot_count):
        if machine.slots[slot].right != NULL:
            order_push(world, machine, ORDER_ADD, slot, 0)
    return 0


cdef void remove_address(World* world, Machine* machine, const Fault* fault) noexcept nogil:
    """Remove an address of ours; Python notices and orders a check."""
    cdef Slot* slot = &machine.slots[fault.slot]
    if slot.kernel[fault.value] & (OURS | OUR_ROUTE):
        slot.kernel[fault.value] = ABSENT
        slot.disturbed = True
        drop_routes(world, machine, world.slot_segment[fault.slot])
        order_later(world, machine, ORDER_VERIFY, fault.slot, 0)


cdef inline bint leaves_route(const World* world, const Machine* machine, uint32_t slot,
                              uint32_t which) noexcept nogil:
    """Whether a route is left: not where its engine never had any, and does not look for them."""
    cdef const Slot* known = &machine.slots[slot]
    return (known.right.configured.by_route and known.right.block.addresses[which].family == 4
            and routes_of(&machine.core, world.slot_segment[slot]))


cdef void leave_address(World* world, Machine* machine, const Fault* fault) noexcept nogil:
    """Leave an address of ours on a machine that is not MASTER: it is found at the next look."""
    cdef Slot* slot = &machine.slots[fault.slot]
    if (machine.running and slot.right != NULL and slot.kernel[fault.value] == ABSENT
            and machine.nics[world.slot_segment[fault.slot]].ifindex
            and machine.core.hosts[fault.slot].state == BACKUP):
        slot.kernel[fault.value] = OURS
        if leaves_route(world, machine, fault.slot, <uint32_t>fault.value):
            slot.kernel[fault.value] = OUR_ROUTE
        slot.disturbed = True
        order_later(world, machine, ORDER_VERIFY, fault.slot, 0)


cdef void order_now(World* world, Machine* machine, uint32_t kind, uint32_t slot,
                    int64_t value) noexcept nogil:
    if machine.running:
        order_later(world, machine, kind, slot, value)


cdef void maintain(World* world, Machine* machine, uint8_t maintenance) noexcept nogil:
    """Maintenance begins or ends: it is written down, whatever becomes of the orders."""
    cdef uint32_t slot
    cdef int64_t amount = MAINTENANCE_DEMOTION if maintenance else 0
    machine.maintenance = maintenance
    for slot in range(world.slot_count):
        if machine.slots[slot].right != NULL:
            order_now(world, machine, ORDER_DEMOTE, slot, BY_MAINTENANCE << 16 | amount)
            order_now(world, machine, ORDER_WITHHOLD, slot, maintenance == 2)


cdef void order_of_fault(World* world, Machine* machine, const Fault* fault) noexcept nogil:
    """Give the order that a fault consists of."""
    cdef uint8_t kind = fault.kind
    if kind == FAULT_ADDRESS_LOST:
        order_now(world, machine, ORDER_LOSE_ADDRESS, fault.slot, 1)
    elif kind == FAULT_DEMOTE:
        order_now(world, machine, ORDER_DEMOTE, fault.slot, fault.value)
    elif kind == FAULT_BAR:
        order_now(world, machine, ORDER_BAR, fault.slot, fault.value)
    elif kind == FAULT_BY_ROUTE:
        order_now(world, machine, ORDER_BY_ROUTE, fault.slot, fault.value)
    elif kind == FAULT_YIELD:
        order_now(world, machine, ORDER_YIELD, fault.slot, fault.value)
    elif kind == FAULT_PREEMPT:
        order_now(world, machine, ORDER_PREEMPT, fault.slot, 0)
    elif kind == FAULT_MAINTENANCE:
        maintain(world, machine, <uint8_t>fault.value)
    elif kind == FAULT_REMOVE:
        order_now(world, machine, ORDER_REMOVE, fault.slot, 0)
    elif kind == FAULT_ADD:
        order_now(world, machine, ORDER_ADD, fault.slot, 0)
    elif kind == FAULT_RESIGN_ALL:
        order_now(world, machine, ORDER_RESIGN_ALL, 0, 0)


cdef int begin_fault(World* world, const Fault* fault) except -1:
    """Begin or end one fault, depending on its value. Raises MemoryError."""
    cdef Machine* machine = &world.machines[fault.machine]
    cdef uint8_t kind = fault.kind
    cdef uint32_t slot
    trace(world, TRACE_FAULT, fault.machine, NOBODY, kind, <uint32_t>fault.value)
    world.disturbed_ns = max(world.disturbed_ns, world.now_ns)
    if kind == FAULT_LINK:
        world.links[fault.segment][fault.machine][fault.other].fields[fault.slot] = fault.value
    elif kind == FAULT_PAUSE:
        pause(world, machine, <uint8_t>fault.value)
    elif kind == FAULT_RESUME:
        resume(world, machine)
    elif kind == FAULT_CRASH:
        crash(world, machine)
    elif kind == FAULT_BOOT:
        boot(world, machine)
    elif kind == FAULT_NIC:
        if change_nic(world, machine, fault.segment, <NicFault>fault.value):
            order_now(world, machine, ORDER_SET_INTERFACE, fault.segment,
                      interface_value(machine, fault.segment))
    elif kind == FAULT_SOURCE:
        machine.nics[fault.segment].sources = <uint8_t>fault.value
        drop_routes(world, machine, fault.segment)
        order_now(world, machine, ORDER_SET_INTERFACE, fault.segment,
                  interface_value(machine, fault.segment))
    elif kind == FAULT_KEY:
        order_now(world, machine, ORDER_REPLACE, fault.slot,
                  ORDER_OTHER_KEY if fault.value else 0)
    elif kind == FAULT_REPLACE:
        order_now(world, machine, ORDER_REPLACE, fault.slot, ORDER_CHANGED if fault.value else 0)
    elif kind == FAULT_SEND_ERRORS:
        machine.send_error[fault.slot & 1] = <uint32_t>fault.value
    elif kind == FAULT_NETLINK_ERRORS:
        machine.netlink_error = <uint32_t>fault.value
    elif kind == FAULT_SLOW_NETLINK:
        machine.change_cost_ns = fault.value
    elif kind == FAULT_LOCK_HELD:
        machine.lock_held = fault.value != 0
        kernel_go(world, machine)
    elif kind == FAULT_SECONDARIES:
        machine.takes_secondaries = <uint32_t>fault.value
    elif kind == FAULT_CLOCK_STEP:
        machine.wall_ns += fault.value
        machine.wall_error_ns += fault.value
        machine.clock_stepped_ns = machine_now(world, machine)
    elif kind == FAULT_ADDRESS_REMOVED:
        remove_address(world, machine, fault)
    elif kind == FAULT_ADDRESS_LEFT:
        leave_address(world, machine, fault)
    elif FAULT_ADDRESS_LOST <= kind <= FAULT_RESIGN_ALL:
        order_of_fault(world, machine, fault)
    elif kind == FAULT_FLOOD:
        begin_flood(world, machine, fault.slot, <uint32_t>fault.value)
    elif kind == FAULT_UPGRADE:
        upgrade_begin(world, machine)
    elif kind == FAULT_QUIET:
        world.quiet_ns = world.now_ns
        for slot in range(world.slot_count):
            check_slot(world, slot)
    return 0


cdef int happen(World* world, const Event* event) except -1:
    cdef Machine* machine = &world.machines[event.subject]
    if event.what == FRAME_ARRIVES:
        frame_arrives(world, event.subject, <uint32_t>event.detail)
    elif event.what == MACHINE_STEPS:
        if machine.running and event.detail == machine.generation:
            machine.step_at_ns = -1
            machine_step(world, machine)
    elif event.what == ORDER_ARRIVES:
        if machine.running:
            order_push(world, machine, event.detail >> 56, (event.detail >> 32) & 0xffffff,
                       <int64_t>(event.detail & 0xffffffff))
    elif event.what == SLOT_IS_CHECKED:
        check_slot(world, event.subject)
    elif event.what == SOURCE_IS_SORTED:
        source_is_sorted(world, machine, event.detail)
    elif event.what == KERNEL_WORKS:
        kernel_works(world, machine, event.detail)
    elif event.what == FLOOD_GOES_ON:
        flood_goes_on(world, machine)
    else:
        begin_fault(world, &world.faults[event.detail])
    return 0


# ------------------------------------------------------------------------------------ for Python

cdef class Random:
    """Seeded numbers that are the same on every machine and version: splitmix64."""

    def __cinit__(self, uint64_t seed):
        self.state = seed

    def below(self, uint64_t bound) -> int:
        """A number from 0 to bound - 1; 0 if bound is 0."""
        return random_below(&self.state, bound)

    def between(self, int64_t low, int64_t high) -> int:
        """A number from low to high, both included."""
        return low + <int64_t>random_below(&self.state, <uint64_t>(high - low + 1))


cdef class Simulator:
    """A world of machines on segments. Times are ns from its beginning; a run never goes back.

    random: the seed of random events; slots: the number of virtual hosts, the same numbers on every
    machine; socket_room: frames that a socket keeps; source_room: sources that have a lane of their
    own; batch, slices, changes: the limits of one turn (frames a slice, slices, addresses a batch),
    256, 16 and 128 in the pump; aligned: the machines' clocks tick within 50 us of each other, so
    frames that are due are sent together. Raises ValueError for values out of range.
    """

    def __cinit__(self, uint64_t random, uint32_t machines, uint32_t segments, uint32_t slots, *,
                  uint32_t socket_room=4096, uint32_t source_room=2000, uint32_t batch=256,
                  uint32_t slices=16, uint32_t changes=128, bint aligned=False, bint tracing=False):
        if not 1 <= machines <= MACHINES_MAX or not 1 <= segments <= SEGMENTS_MAX:
            raise ValueError(f"at most {MACHINES_MAX} machines and {SEGMENTS_MAX} segments")
        if not (slots and socket_room and source_room and slices and 1 <= batch <= BATCH_MAX
                and 1 <= changes <= CHANGES_MAX):
            raise ValueError("slots and limits are at least 1, "
                             f"batch at most {BATCH_MAX}, changes {CHANGES_MAX}")
        self.kept = []
        self.world = <World*>calloc(1, sizeof(World))
        if self.world == NULL:
            raise MemoryError("world")
        cdef World* world = self.world
        world.random, world.tracing, world.aligned = random, tracing, aligned
        if random % TURNING == 0:
            world.counters_ahead = <uint64_t>0 - <uint64_t>(EPOCH_NS + TURN_NS)
        world.machine_count, world.segment_count, world.slot_count = machines, segments, slots
        world.socket_room, world.batch, world.slices = socket_room, batch, slices
        world.source_room, world.changes = source_room, changes
        world.frame_free = NOBODY
        world.slot_segment = <uint8_t*>calloc(slots, 1)
        world.slot_vhid = <uint8_t*>calloc(slots, 1)
        world.slot_families = <uint8_t*>calloc(slots, 1)
        world.slot_crossings = <uint8_t*>calloc(slots, 1)
        world.slot_group = <uint8_t*>calloc(slots, 1)
        world.slot_rest = <uint8_t*>calloc(slots, 1)
        world.slot_disturbed_ns = <int64_t*>calloc(slots, sizeof(int64_t))
        world.machines = <Machine*>calloc(machines, sizeof(Machine))
        if (world.slot_segment == NULL or world.slot_vhid == NULL or world.slot_families == NULL
                or world.slot_crossings == NULL or world.slot_group == NULL
                or world.slot_rest == NULL or world.slot_disturbed_ns == NULL
                or world.machines == NULL):
            raise MemoryError("world")
        self.open_machines()

    cdef open_machines(self):
        cdef World* world = self.world
        cdef uint32_t number, segment, other, lane
        cdef Machine* machine
        for number in range(world.machine_count):
            machine = &world.machines[number]
            machine.slots = <Slot*>calloc(world.slot_count, sizeof(Slot))
            machine.dirty = <uint32_t*>calloc(world.slot_count, sizeof(uint32_t))
            for lane in range(SOCKETS):
                machine.sockets[lane].arrivals = <Arrival*>calloc(world.socket_room,
                                                                  sizeof(Arrival))
                if machine.sockets[lane].arrivals == NULL:
                    raise MemoryError("socket")
            if machine.slots == NULL or machine.dirty == NULL:
                raise MemoryError("machine")
            machine.world = world
            machine.step_at_ns = -1
            machine.change_cost_ns = CHANGE_COST_NS
            for segment in range(world.segment_count):
                for other in range(world.machine_count):
                    world.links[segment][number][other].fields[LINK_DELAY_NS] = BASE_DELAY_NS

    def __dealloc__(self):
        cdef World* world = self.world
        cdef uint32_t number, lane, slot
        if world == NULL:
            return
        if world.machines != NULL:
            for number in range(world.machine_count):
                if world.machines[number].running:
                    engine_close(&world.machines[number].core)
                if world.machines[number].slots != NULL:
                    for slot in range(world.slot_count):
                        free(world.machines[number].slots[slot].sightings)
                free(world.machines[number].slots)
                free(world.machines[number].dirty)
                for lane in range(SOCKETS):
                    free(world.machines[number].sockets[lane].arrivals)
                free(world.machines[number].orders)
            free(world.machines)
        free(world.slot_segment)
        free(world.slot_vhid)
        free(world.slot_families)
        free(world.slot_crossings)
        free(world.slot_group)
        free(world.slot_rest)
        free(world.slot_disturbed_ns)
        free(world.events)
        free(world.frames)
        free(world.faults)
        free(world.traces)
        free(world)

    cdef Machine* machine(self, uint32_t number) except NULL:
        if number >= self.world.machine_count:
            raise ValueError(f"machine {number} of {self.world.machine_count}")
        return &self.world.machines[number]

    def attach(self, uint32_t machine, uint32_t segment, bytes source, bytes source6,
               bint forwards6=False) -> None:
        """Put a machine on a segment, with a 4- and a 16-byte address; its link is up."""
        if segment >= self.world.segment_count or len(source) != 4 or len(source6) != 16:
            raise ValueError(f"segment {segment} of {self.world.segment_count}, "
                             "4 and 16 bytes of address")
        nic = &self.machine(machine).nics[segment]
        nic.ifindex, nic.up, nic.attached = <int>(2 + segment), 1, 1
        nic.sources, nic.forwards6 = OVER_4 | OVER_6, forwards6
        memcpy(nic.source, <const char*>source, 4)
        memcpy(nic.source6, <const char*>source6, 16)
        memcpy(nic.mac, b"\x02\0", 2)
        memcpy(nic.mac + 2, <const char*>source, 4)

    def add(self, uint32_t machine, uint32_t slot, PreparedHost right, PreparedHost other,
            PreparedHost changed=None, foreign=()) -> None:
        """Configure a virtual host, the same with another passphrase and with another priority.

        Without `changed` it never has another priority. Its interface is the segment. foreign:
        which of its addresses the kernel has already, added by another program. Before run().
        """
        cdef World* world = self.world
        cdef Slot* place
        cdef uint32_t segment = right.host.interface
        if slot >= world.slot_count or segment >= world.segment_count:
            raise ValueError(f"slot {slot} of {world.slot_count}, segment {segment}")
        if not 1 <= right.host.block.address_count <= ADDRESSES_MAX:
            raise ValueError(f"at most {ADDRESSES_MAX} addresses per virtual host")
        place = &self.machine(machine).slots[slot]
        place.right, place.other = &right.host, &other.host
        place.variants[0] = place.variants[1] = &right.host
        if changed is not None:
            place.variants[1] = &changed.host
        for which in foreign:
            place.kernel[<uint32_t>which % ADDRESSES_MAX] = FOREIGN_THERE
        world.slot_segment[slot], world.slot_vhid[slot] = <uint8_t>segment, right.host.vhid
        world.slot_families[slot] = (
            (OVER_4 if right.host.configured.expects_4 else 0)
            | (OVER_6 if right.host.configured.expects_6 else 0))
        world.slot_of[segment][right.host.vhid] = slot + 1
        world.slot_group[slot] = <uint8_t>right.host.group
        world.group_all[right.host.group & 255] = right.host.group_all
        self.kept += [right, other, changed]

    def fault(self, int64_t at_ns, str word, *, uint32_t machine=0, uint32_t other=0,
              uint32_t segment=0, uint32_t slot=0, int64_t value=0) -> None:
        """Schedule the begin or the end of a fault at `at_ns`; see FAULT_WORDS. Before run()."""
        cdef World* world = self.world
        cdef Fault* made
        self.machine(machine)
        self.machine(other)
        if segment >= world.segment_count or slot >= max(world.slot_count, LINK_FIELDS):
            raise ValueError(f"segment {segment} of {world.segment_count}, slot {slot}")
        if world.fault_count == world.fault_room:
            world.faults = <Fault*>grown(world, world.faults, &world.fault_room, sizeof(Fault))
            self.check_memory()
        made = &world.faults[world.fault_count]
        made.kind, made.machine, made.other = FAULT_WORDS.index(word), machine, other
        made.segment, made.slot, made.value = segment, slot, value
        event_push(world, at_ns, FAULT_CHANGES, 0, world.fault_count)
        world.fault_count += 1

    cdef check_memory(self):
        if self.world.out_of_memory:
            raise MemoryError("world")

    def run(self, int64_t until_ns) -> bool:
        """Run all events up to `until_ns`; False if an invariant was broken."""
        cdef World* world = self.world
        cdef Event event
        while (world.event_count and world.events[0].at_ns <= until_ns
               and world.broken == NOT_BROKEN and not world.out_of_memory):
            event_pop(world, &event)
            world.now_ns = event.at_ns
            happen(world, &event)
        self.check_memory()
        if world.broken == NOT_BROKEN:
            world.now_ns = max(world.now_ns, until_ns)
        return world.broken == NOT_BROKEN

    def check(self) -> bool:
        """Check all virtual hosts again, when all is quiet."""
        cdef World* world = self.world
        cdef Machine* machine
        cdef uint32_t number, slot
        for slot in range(world.slot_count):
            check_election(world, slot)
            if world.slot_rest[slot] == QUIET:
                check_families(world, slot)
            for number in range(world.machine_count):
                machine = &world.machines[number]
                if machine.running and machine.slots[slot].right != NULL:
                    check_addresses(world, machine, slot, True)
        check_unsplit(world)
        return world.broken == NOT_BROKEN

    @property
    def quiet(self) -> bool:
        """Whether every virtual host has settled after the last fault, and was checked."""
        return self.world.quiet_count == self.world.slot_count

    @property
    def now_ns(self) -> int:
        """The world's time."""
        return self.world.now_ns

    @property
    def digest(self) -> int:
        """The digest of the trace so far, the same whether the trace is kept or not."""
        return self.world.digest

    @property
    def broken(self):
        """(invariant, machine, slot or None, value) of the first broken one, or None."""
        cdef World* world = self.world
        if world.broken == NOT_BROKEN:
            return None
        return (BROKEN_WORDS[world.broken], world.broken_machine,
                None if world.broken_slot == NOBODY else world.broken_slot, world.broken_value)

    @property
    def tally(self) -> dict:
        """The counts of events so far."""
        return self.world.tally

    def take_trace(self) -> list:
        """(at_ns, what, machine, segment, vhid, a, b) of each event since the last call."""
        cdef World* world = self.world
        cdef Trace* line
        cdef uint32_t i
        cdef list lines = []
        for i in range(world.trace_count):
            line = &world.traces[i]
            lines.append((line.at_ns, TRACE_WORDS[line.kind], line.machine, line.segment,
                          line.vhid, line.a, line.b))
        world.trace_count = 0
        return lines
