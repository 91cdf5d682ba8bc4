"""The state of another engine, placed in this one: its virtual hosts go on here.

The hosts were added from this engine's own configuration. Each goes on with the state of the one
with its interface and vhid: a MASTER advertises when the former one would have, a BACKUP waits for
as long. Nothing is announced, no address is changed, no change of a state is reported. All is
checked before anything is placed. While it is, no virtual host advertises: so nothing is done for
each of them in Python, and nothing is written that is as it should be. Uses no socket and no clock.
"""

from array import array as _array

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from carp_fast.engine._absence cimport Absence
from carp_fast.engine._checking cimport (
    expect_parts, expect_records, flaw_of_host, host_is_sound, host_spots, HostSpots)
from carp_fast.engine._core cimport (
    Core, Interface, MAX_INTERFACES, MAX_VIRTUAL_HOSTS, REJECTIONS, Rejection, TICK_NS,
    engine_ask, engine_plan_upkeep, engine_set_deadline, queue_push, verify_soon)
from carp_fast.engine._fields cimport Field, FIELDS_MAX, HOST
from carp_fast.engine._groups cimport group_place, group_review, groups_decide
from carp_fast.engine._orders cimport build_frames
from carp_fast.engine._reports cimport address_bytes
from carp_fast.engine._state cimport (
    byte_in, NO_FIELD, Part, part_field, part_get, part_of_number, part_record, Run, short_in,
    SOURCES_APART)
from carp_fast.engine._tables cimport (
    IN_ADVERTISE, IN_ADVERTISE_FIRST, IN_ANNOUNCE, IN_CHANGE, IN_OWED, OF_ABSENCE, OF_ADDRESS,
    OF_ENGINE, OF_HOST, OF_INTERFACE, OF_KEY, OF_QUEUED, OF_RECEIVER, OF_REJECTION, OF_SOURCE,
    OF_TURN, QUEUES, Queued)
from carp_fast.engine._transitions cimport engine_try_ready
from carp_fast.engine._upkeep cimport wanted_change
from carp_fast.engine._vhid cimport (
    Address, AlternateKey, Block, FAILED, FOREIGN, HELD, IN_USE, LEAVING, LOST, LOST_WITH_OURS,
    OWED, RETIRED, SIGNED, Source, SOURCES, STARTED, TO_ADVERTISE, TO_ADVERTISE_LAST, TO_ANNOUNCE,
    TO_CHANGE_ADDRESSES, TO_REPEAT, TO_RESIGN, TO_TELL_ADDRESSES, vhid_add_up, vhid_same_address,
    vhid_source, VirtualHost)
from carp_fast.engine._wheel cimport NOBODY, wheel_disarm, wheel_skip

from carp_fast.engine._vhid import STATE_WORDS as _STATES
import carp_fast.engine.states as _states

cdef enum:
    KEPT_OF_ADDRESS = HELD | FOREIGN | FAILED | LOST | LOST_WITH_OURS
    TO_SEND = TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN

cdef struct Placing:
    Core* core
    const Part* parts
    HostSpots spots
    uint32_t* numbers           # by former interface number: the number here, or NOBODY
    uint8_t* changed            # by number here: frames of its hosts may be other ones now
    uint32_t* slots             # by place in the state: the slot here, or NOBODY
    uint8_t* pending            # by place: what the host has to do
    uint8_t* unheld             # by place: it held an address that it does not have here
    uint8_t* goes_on            # by slot here: a host of the state does
    uint64_t address            # the next record of an address, and so on
    uint64_t source
    uint64_t key
    uint32_t digests_lost
    int64_t now_ns
    uint32_t absent_count       # the bytes of a host's state that this state does not have
    Run absent[FIELDS_MAX]


cdef struct Addressed:          # of a host before it goes on
    uint8_t source4[4]
    uint8_t source6[16]
    uint8_t destination4[4]
    uint16_t interface
    uint8_t group6
    uint8_t own4
    uint8_t own6
    uint8_t impeded


# ------------------------------------------------------------------------------------ who goes on

cdef uint32_t likely_slot(const Placing* placing, uint32_t place, uint32_t number) noexcept nogil:
    """The slot of the host with this interface, and the vhid and group of the one at this place,
    or of the only one, or NOBODY.
    """
    cdef const Core* core = placing.core
    cdef VirtualHost was
    cdef uint32_t slot, only
    memset(&was, 0, sizeof(was))
    part_get(&placing.parts[<int>OF_HOST], place, &was)
    slot = only = core.index[number * 256 + was.vhid] - 1
    if slot == NOBODY or was.flags & LEAVING:
        return NOBODY
    if core.hosts[slot].next_same != NOBODY:
        only = NOBODY
    while slot != NOBODY:
        if (memcmp(core.hosts[slot].destination4, was.destination4, 4) == 0
                and core.hosts[slot].group6 == was.group6):
            return slot
        slot = core.hosts[slot].next_same
    return only


cdef int find_numbers(Placing* placing, interfaces) except -1:
    """Fill `numbers`: by the caller's mapping, or the same number."""
    cdef const Part* part = &placing.parts[<int>OF_INTERFACE]
    cdef uint32_t k, of
    cdef set taken = set()
    for k in range(MAX_INTERFACES):
        placing.numbers[k] = NOBODY
    for k in range(part.count):
        of = part_of_number(part, k)
        number = of if interfaces is None else interfaces[of] if of < len(interfaces) else -1
        if number is None or number < 0 or number == NOBODY:
            continue
        if number >= MAX_INTERFACES or number in taken:
            raise ValueError(f"interface {of} becomes {number}: below {MAX_INTERFACES}, each once")
        taken.add(number)
        placing.numbers[of] = number
    return 0


cdef int find_slots(Placing* placing, slots) except -1:
    """Fill `slots`, `pending` and `goes_on`. Raises ValueError where a host would not be the same.
    """
    cdef const Part* part = &placing.parts[<int>OF_HOST]
    cdef const HostSpots* at = &placing.spots
    cdef const uint8_t* was
    cdef const int[:] given = None
    cdef uint32_t k, of, slot, number
    if slots is not None:
        given = slots if isinstance(slots, _array) else _array("i", slots)
    for k in range(part.count):
        was, of = part_record(part, k), part_of_number(part, k)
        if not host_is_sound(was, at):
            raise ValueError(f"the state of the host in slot {of} has {flaw_of_host(was, at)}")
        number, slot = placing.numbers[short_in(was, at.interface)], NOBODY
        placing.pending[k] = byte_in(was, at.pending)
        if given is not None:
            if of < <uint32_t>given.shape[0] and given[of] >= 0:
                slot = <uint32_t>given[of]
        elif number != NOBODY:
            slot = likely_slot(placing, k, number)
        placing.slots[k] = slot
        if slot == NOBODY:
            continue
        expect_same(placing, of, slot, number, byte_in(was, at.vhid))
        placing.goes_on[slot] = 1
    return 0


cdef int expect_same(const Placing* placing, uint32_t of, uint32_t slot, uint32_t number,
                     uint8_t vhid) except -1:
    cdef const VirtualHost* host = &placing.core.hosts[slot]
    if slot >= MAX_VIRTUAL_HOSTS or not host.flags & IN_USE or placing.goes_on[slot]:
        raise ValueError(f"slot {of} becomes {slot}: must be in use, each once")
    if host.interface != number or host.vhid != vhid:
        raise ValueError(
            f"slot {of} becomes {slot}: interface {number}, vhid {vhid} is not interface "
            f"{host.interface}, vhid {host.vhid}")
    return 0


# ---------------------------------------------------------------------------------------- placing

cdef void place_interfaces(Placing* placing) noexcept nogil:
    cdef Core* core = placing.core
    cdef const Part* part = &placing.parts[<int>OF_INTERFACE]
    cdef Interface* interface
    cdef Interface fresh
    cdef Rejection* rejection
    cdef uint32_t number
    cdef uint64_t k
    for k in range(part.count):
        number = placing.numbers[part_of_number(part, k)]
        if number == NOBODY:
            continue
        interface = &core.interfaces[number]
        fresh = interface[0]
        interface.rejections_count = 0
        memset(interface.rejections, 0, sizeof(interface.rejections))
        part_get(part, k, interface)
        placing.changed[number] = (
            memcmp(fresh.mac, interface.mac, 6) != 0
            or memcmp(fresh.source, interface.source, 4) != 0
            or memcmp(fresh.source6, interface.source6, 16) != 0)
        if number >= core.interface_count:
            core.interface_count = number + 1
        if interface.verify_at_ns:
            verify_soon(core, number, interface.verify_at_ns)
    part = &placing.parts[<int>OF_REJECTION]
    for k in range(part.count):
        number = placing.numbers[part_of_number(part, k)]
        if number != NOBODY:
            interface = &core.interfaces[number]
            rejection = &interface.rejections[interface.rejections_count & (REJECTIONS - 1)]
            part_get(part, k, rejection)
            interface.rejections_count += 1


cdef void place_engine(Placing* placing) noexcept nogil:
    cdef Core* core = placing.core
    cdef uint64_t k
    if placing.parts[<int>OF_ENGINE].count:
        part_get(&placing.parts[<int>OF_ENGINE], 0, core)
    core.absences.count = 0
    for k in range(placing.parts[<int>OF_ABSENCE].count):
        memset(&core.absences.kept[k], 0, sizeof(Absence))
        part_get(&placing.parts[<int>OF_ABSENCE], k, &core.absences.kept[k])
        core.absences.count += 1
    core.recorder.begin = core.recorder.tail            # a recording begins with this state
    core.recorder.turn_told = True


cdef void find_absent(Placing* placing) noexcept nogil:
    """Find the bytes of a host's state that the state at hand does not have: they are 0."""
    cdef const Part* part = &placing.parts[<int>OF_HOST]
    cdef const Field* field
    cdef uint32_t k, there
    for k in range(HOST.count):
        field, there = &HOST.fields[k], 0
        while there < field.count and (
                part_field(part, field.at + there * field.width) != NO_FIELD):
            there += 1
        if there < field.count:
            placing.absent[placing.absent_count].struct_at = field.at + there * field.width
            placing.absent[placing.absent_count].length = (field.count - there) * field.width
            placing.absent_count += 1


cdef void place_fields(Placing* placing, uint32_t place, uint32_t slot) noexcept nogil:
    """Give a host the state of the one at this place, but for what follows from other records.

    Its configuration stays its own, except for what orders have changed of the former one.
    """
    cdef VirtualHost* host = &placing.core.hosts[slot]
    cdef Addressed fresh
    cdef uint8_t impeded
    cdef uint32_t k
    addressed(host, &fresh)
    for k in range(placing.absent_count):
        memset(<char*>host + placing.absent[k].struct_at, 0, placing.absent[k].length)
    part_get(&placing.parts[<int>OF_HOST], place, host)
    keep_sources(host, &fresh)
    host.interface, host.recorded = fresh.interface, 0
    memcpy(host.destination4, fresh.destination4, 4)
    host.group6 = fresh.group6
    impeded, host.impeded = host.impeded, fresh.impeded
    vhid_add_up(host)
    if placing.changed[host.interface] or memcmp(host.source4, fresh.source4, 4) != 0 or (
            memcmp(host.source6, fresh.source6, 16) != 0):
        build_frames(placing.core, host)                # keeps a source while it is needed
    group_place(placing.core, slot, impeded)
    host.pending = 0
    host.flags &= ~<uint32_t>OWED


cdef void addressed(const VirtualHost* host, Addressed* fresh) noexcept nogil:
    """Note what stays a host's own, or decides whether its frames have to be built anew."""
    fresh.own4, fresh.own6 = host.configured.own_source, host.configured.own_source6
    memcpy(fresh.source4, host.source4, 4)
    memcpy(fresh.source6, host.source6, 16)
    memcpy(fresh.destination4, host.destination4, 4)
    fresh.interface, fresh.group6, fresh.impeded = host.interface, host.group6, host.impeded


cdef void keep_sources(VirtualHost* host, const Addressed* fresh) noexcept nogil:
    """Let a host have its own configured sources, which it has not missed if they are others."""
    cdef bint same4 = (host.configured.own_source == fresh.own4
                       and memcmp(host.source4, fresh.source4, 4) == 0)
    cdef bint same6 = (host.configured.own_source6 == fresh.own6
                       and memcmp(host.source6, fresh.source6, 16) == 0)
    host.configured.own_source, host.configured.own_source6 = fresh.own4, fresh.own6
    if fresh.own4 and not same4:
        memcpy(host.source4, fresh.source4, 4)
        host.configured.source_missing = 0
    if fresh.own6 and not same6:
        memcpy(host.source6, fresh.source6, 16)
        host.configured.source6_missing = 0


cdef void place_sources(Placing* placing, uint32_t place, VirtualHost* host) noexcept nogil:
    cdef const Part* part = &placing.parts[<int>OF_SOURCE]
    cdef uint32_t of, k
    for k in range(SOURCES):
        if vhid_source(host, k).family:                 # others were never written to
            memset(vhid_source(host, k), 0, sizeof(Source))
    while placing.source < part.count:
        of = part_of_number(part, placing.source)
        if of // SOURCES_APART > place:
            break
        if of // SOURCES_APART == place:
            part_get(part, placing.source, vhid_source(host, of % SOURCES_APART))
        placing.source += 1
    for k in range(2):
        if host.master[k] and not vhid_source(host, host.master[k] - 1).heard_ns:
            host.master[k] = 0


cdef void place_keys(Placing* placing, uint32_t place, VirtualHost* host) noexcept nogil:
    """Accept digests of former keys as long as the former engine would have."""
    cdef const Part* part = &placing.parts[<int>OF_KEY]
    cdef Block* block = host.block
    cdef AlternateKey former
    cdef uint32_t at = block.permanent_count
    while placing.key < part.count and part_of_number(part, placing.key) <= place:
        if part_of_number(part, placing.key) == place:
            memset(&former, 0, sizeof(former))
            part_get(part, placing.key, &former)
            if former.until_ns > placing.now_ns and at < block.alternate_count:
                block.alternates[at] = former
                at += 1
            elif former.until_ns > placing.now_ns:
                placing.digests_lost += 1
        placing.key += 1


cdef bint place_address(const Part* part, uint64_t first, uint64_t end, uint64_t likely,
                        Address* mine) noexcept nogil:
    """Find what became of an address among the records from `first` to `end`; False: it is new.

    A local route has no prefix length.
    """
    cdef Address was
    cdef uint64_t k
    memset(&was, 0, sizeof(was))
    for k in range(first, end + 1):
        if k == first and likely >= end:
            continue
        part_get(part, likely if k == first else k - 1, &was)
        if vhid_same_address(&was, mine) or (
                was.routed and was.family == 4 and mine.family == 4 and was.flags & HELD
                and memcmp(was.bytes, mine.bytes, 4) == 0):
            mine.flags = <uint8_t>(mine.flags & (SIGNED | RETIRED)) | (was.flags & KEPT_OF_ADDRESS)
            mine.error, mine.routed = was.error, was.routed
            return True
    return False


cdef void place_addresses(Placing* placing, uint32_t place, uint32_t slot) noexcept nogil:
    """Give a host's addresses what became of them, and ask for those that are new."""
    cdef const Part* part = &placing.parts[<int>OF_ADDRESS]
    cdef VirtualHost* host = &placing.core.hosts[slot]
    cdef Address* mine
    cdef Address was
    cdef uint64_t first, end, at
    cdef uint32_t k
    while placing.address < part.count and part_of_number(part, placing.address) < place:
        placing.address += 1
    first = end = placing.address
    while end < part.count and part_of_number(part, end) == place:
        end += 1
    placing.address = end
    host.held = 0
    for k in range(host.block.address_count):
        mine = &host.block.addresses[k]
        mine.flags &= SIGNED | RETIRED
        mine.routed = mine.error = 0
        if not place_address(part, first, end, first + k, mine) and wanted_change(host, mine):
            engine_ask(placing.core, &placing.core.change, slot, TO_TELL_ADDRESSES)
        host.held += mine.flags & HELD != 0
    for at in range(first, end):
        memset(&was, 0, sizeof(was))
        part_get(part, at, &was)
        if was.flags & HELD and not is_held(host, &was):
            placing.unheld[place] = 1


cdef void place_host(Placing* placing, uint32_t place, uint32_t slot) noexcept nogil:
    cdef Core* core = placing.core
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int64_t deadline_ns
    place_fields(placing, place, slot)
    place_sources(placing, place, host)
    place_keys(placing, place, host)
    place_addresses(placing, place, slot)
    deadline_ns, host.deadline_ns = host.deadline_ns, 0
    wheel_disarm(&core.wheel, slot)
    if deadline_ns:
        engine_set_deadline(core, slot, deadline_ns)
    engine_plan_upkeep(core, slot, placing.now_ns)


cdef void ask(Placing* placing, uint32_t place, uint8_t queue) noexcept nogil:
    """Queue a host for what it has to do, as far as that queue is for it."""
    cdef Core* core = placing.core
    cdef uint32_t slot = placing.slots[place]
    cdef uint8_t pending = placing.pending[place]
    if queue <= IN_OWED and not pending & TO_SEND:
        return
    if queue == IN_ADVERTISE_FIRST:
        if not core.hosts[slot].pending & TO_SEND:
            queue_push(&core.advertise_first, slot)
        core.hosts[slot].pending |= pending & TO_SEND
    elif queue == IN_ADVERTISE:
        engine_ask(core, &core.advertise, slot, pending & TO_SEND)
    elif queue == IN_OWED:
        engine_ask(core, &core.owed, slot, pending & TO_SEND)
    elif queue == IN_CHANGE:
        if pending & TO_CHANGE_ADDRESSES:
            engine_ask(core, &core.change, slot, pending & TO_TELL_ADDRESSES)
    elif queue == IN_ANNOUNCE:
        if pending & TO_ANNOUNCE:
            engine_ask(core, &core.announce, slot, TO_ANNOUNCE)
    elif pending & TO_REPEAT:
        engine_ask(core, &core.repeat, slot, TO_REPEAT)


cdef void place_queues(Placing* placing) noexcept nogil:
    """Queue the hosts in their order, and after them those whose place is not known."""
    cdef const Part* part = &placing.parts[<int>OF_QUEUED]
    cdef Queued queued
    cdef uint64_t k
    cdef uint32_t place
    cdef uint8_t queue
    queued.queue = 0
    for k in range(part.count):
        place = part_of_number(part, k)
        part_get(part, k, &queued)
        if placing.slots[place] != NOBODY:
            ask(placing, place, queued.queue)
    for place in range(placing.parts[<int>OF_HOST].count):
        if placing.slots[place] != NOBODY and placing.pending[place]:
            for queue in range(<uint8_t>IN_ADVERTISE, <uint8_t>QUEUES):
                if queue != IN_OWED:
                    ask(placing, place, queue)


cdef void place_all(Placing* placing) noexcept nogil:
    cdef Core* core = placing.core
    cdef uint32_t place, slot
    wheel_skip(&core.wheel, placing.now_ns // TICK_NS)
    find_absent(placing)
    place_interfaces(placing)
    place_engine(placing)
    for place in range(placing.parts[<int>OF_HOST].count):
        if placing.slots[place] != NOBODY:
            place_host(placing, place, placing.slots[place])
    place_queues(placing)
    for slot in range(core.slots if core.group_count else 0):
        if core.hosts[slot].flags & IN_USE:
            group_review(core, slot, placing.now_ns)
    groups_decide(core, placing.now_ns)


# ------------------------------------------------------------------------------------ for Python

cdef list held_of(const Placing* placing, uint32_t place, bint unheld, int32_t ifindex):
    """The addresses that the host at this place held; `unheld`: those that it does not have here.
    """
    cdef const Part* part = &placing.parts[<int>OF_ADDRESS]
    cdef Address was
    cdef uint64_t low = 0, high = part.count, middle
    cdef list found = []
    while low < high:
        middle = (low + high) // 2
        if part_of_number(part, middle) < place:
            low = middle + 1
        else:
            high = middle
    while low < part.count and part_of_number(part, low) == place:
        memset(&was, 0, sizeof(was))
        part_get(part, low, &was)
        low += 1
        if was.flags & HELD and not (
                unheld and is_held(&placing.core.hosts[placing.slots[place]], &was)):
            found.append(_states.HeldAddress(
                ifindex, address_bytes(was.bytes, was.family), was.prefixlen, bool(was.routed)))
    return found


cdef bint is_held(const VirtualHost* host, const Address* was) noexcept nogil:
    cdef const Address* mine
    cdef uint32_t k
    for k in range(host.block.address_count):
        mine = &host.block.addresses[k]
        if mine.flags & HELD and (vhid_same_address(mine, was) or (
                was.routed and mine.routed and memcmp(mine.bytes, was.bytes, 4) == 0)):
            return True
    return False


cdef object outcome_of(const Placing* placing, list added):
    """What was placed, and what was not."""
    cdef const Part* part = &placing.parts[<int>OF_INTERFACE]
    cdef VirtualHost was
    cdef Interface interface
    cdef dict ifindexes = {}
    cdef list gone = [], unheld = []
    cdef uint32_t k
    for k in range(part.count):
        memset(&interface, 0, sizeof(interface))
        part_get(part, k, &interface)
        ifindexes[part_of_number(part, k)] = interface.ifindex
    part = &placing.parts[<int>OF_HOST]
    for k in range(part.count):
        if placing.slots[k] != NOBODY and not placing.unheld[k]:
            continue
        memset(&was, 0, sizeof(was))
        part_get(part, k, &was)
        held = held_of(placing, k, placing.slots[k] != NOBODY, ifindexes.get(was.interface, 0))
        if placing.slots[k] == NOBODY:
            gone.append(_states.GoneHost(
                part_of_number(part, k), was.interface, was.vhid, _STATES[was.state], held))
        else:
            unheld += [(placing.slots[k], each) for each in held]
    return _states.Placed(part.count - len(gone), gone, unheld, added, placing.digests_lost)


cdef list begin_added(Placing* placing):
    """Let the hosts that are here only begin, and return their slots."""
    cdef Core* core = placing.core
    cdef list added = []
    cdef uint32_t slot
    for slot in range(core.slots):
        if not placing.goes_on[slot] and core.hosts[slot].flags & IN_USE:
            added.append(slot)
            build_frames(core, &core.hosts[slot])
            engine_try_ready(core, slot, STARTED, placing.now_ns)
            group_review(core, slot, placing.now_ns)
    return added


cdef int reserve(Placing* placing, uint64_t hosts) except -1:
    placing.numbers = <uint32_t*>calloc(MAX_INTERFACES, sizeof(uint32_t))
    placing.changed = <uint8_t*>calloc(MAX_INTERFACES, 1)
    placing.slots = <uint32_t*>calloc(hosts + 1, sizeof(uint32_t))
    placing.pending = <uint8_t*>calloc(hosts + 1, 1)
    placing.unheld = <uint8_t*>calloc(hosts + 1, 1)
    placing.goes_on = <uint8_t*>calloc(MAX_VIRTUAL_HOSTS, 1)
    if (placing.numbers == NULL or placing.changed == NULL or placing.slots == NULL
            or placing.pending == NULL or placing.unheld == NULL or placing.goes_on == NULL):
        raise MemoryError("state")
    return 0


cdef object state_place(Core* core, State state, slots, interfaces, int64_t now_ns):
    """Let the hosts go on from a state: a Placed. See Engine.assume_state()."""
    cdef Placing placing
    expect_parts(state.parts)
    expect_records(state.parts)
    memset(&placing, 0, sizeof(placing))
    placing.core, placing.parts, placing.now_ns = core, state.parts, now_ns
    placing.spots = host_spots(&state.parts[<int>OF_HOST])
    try:
        reserve(&placing, state.parts[<int>OF_HOST].count)
        find_numbers(&placing, interfaces)
        find_slots(&placing, slots)
        with nogil:
            place_all(&placing)
        return outcome_of(&placing, begin_added(&placing))
    finally:
        free(placing.numbers)
        free(placing.changed)
        free(placing.slots)
        free(placing.pending)
        free(placing.unheld)
        free(placing.goes_on)


cdef int pumped_get(State state, Pumped* pumped) except -1:
    """What the former pump added to the state; all 0 if there was none."""
    cdef uint64_t k
    expect_parts(state.parts)
    memset(pumped, 0, sizeof(Pumped))
    if state.parts[<int>OF_TURN].count:
        part_get(&state.parts[<int>OF_TURN], 0, &pumped.turn)
    for k in range(state.parts[<int>OF_RECEIVER].count):
        part_get(&state.parts[<int>OF_RECEIVER], k, &pumped.receivers[k])
        pumped.receiver_count += 1
    return 0
