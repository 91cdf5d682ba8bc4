"""The state of another engine, placed in this one: its virtual hosts go on here.

The hosts were added from this engine's own configuration. Each goes on with the state of the one
with its interface and vhid: a MASTER advertises when the former one would have, a BACKUP waits for
as long. Nothing is announced, no address is changed, no change of a state is reported. All is
checked before anything is placed. Uses no socket and no clock.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from carp_fast.engine._absence cimport Absence
from carp_fast.engine._checking cimport expect_parts, expect_records, flaw_of_host
from carp_fast.engine._core cimport (
    Core, Interface, MAX_INTERFACES, MAX_VIRTUAL_HOSTS, REJECTIONS, Rejection, TICK_NS,
    engine_ask, engine_plan_upkeep, engine_set_deadline, queue_push, verify_soon)
from carp_fast.engine._fields cimport HOST
from carp_fast.engine._grace cimport is_form, keep_key
from carp_fast.engine._groups cimport group_place, group_review, groups_decide
from carp_fast.engine._orders cimport build_frames
from carp_fast.engine._reports cimport address_bytes
from carp_fast.engine._state cimport Part, part_get, part_of_number, SOURCES_APART
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

cdef int64_t FOREVER_NS = 0x7fffffffffffffff

cdef struct Placing:
    Core* core
    const Part* parts
    uint32_t* numbers           # by former interface number: the number here, or NOBODY
    uint32_t* slots             # by place in the state: the slot here, or NOBODY
    uint8_t* pending            # by place: what the host has to do
    uint64_t address            # the next record of an address, and so on
    uint64_t source
    uint64_t key
    uint32_t digests_lost
    int64_t grace_ns
    int64_t now_ns


# ------------------------------------------------------------------------------------ who goes on

cdef uint32_t likely_slot(const Core* core, const VirtualHost* was, uint32_t number) noexcept nogil:
    """The slot of the host with this interface, vhid and group, or of the only one, or NOBODY."""
    cdef uint32_t slot = core.index[number * 256 + was.vhid] - 1, only = slot
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
    """Fill `slots` and `pending`. Raises ValueError where a host would not be the same one."""
    cdef const Part* part = &placing.parts[<int>OF_HOST]
    cdef Core* core = placing.core
    cdef VirtualHost was
    cdef uint32_t k, of, slot, number
    cdef bytearray taken = bytearray(MAX_VIRTUAL_HOSTS)
    memset(&was, 0, sizeof(was))
    for k in range(part.count):
        part_get(part, k, &was)
        of = part_of_number(part, k)
        flaw = flaw_of_host(&was)
        if flaw:
            raise ValueError(f"the state of the host in slot {of} has {flaw}")
        number, placing.pending[k], slot = placing.numbers[was.interface], was.pending, NOBODY
        if slots is not None:
            given = slots[of] if of < len(slots) else None
            slot = NOBODY if given is None or given < 0 else given
        elif number != NOBODY:
            slot = likely_slot(core, &was, number)
        placing.slots[k] = slot
        if slot == NOBODY:
            continue
        if slot >= MAX_VIRTUAL_HOSTS or not core.hosts[slot].flags & IN_USE or taken[slot]:
            raise ValueError(f"slot {of} becomes {slot}: must be in use, each once")
        if core.hosts[slot].interface != number or core.hosts[slot].vhid != was.vhid:
            raise ValueError(
                f"slot {of} becomes {slot}: interface {number}, vhid {was.vhid} is not interface "
                f"{core.hosts[slot].interface}, vhid {core.hosts[slot].vhid}")
        taken[slot] = 1
    return 0


# ---------------------------------------------------------------------------------------- placing

cdef void place_interfaces(Placing* placing) noexcept nogil:
    cdef Core* core = placing.core
    cdef const Part* part = &placing.parts[<int>OF_INTERFACE]
    cdef Interface* interface
    cdef Rejection* rejection
    cdef uint32_t number
    cdef uint64_t k
    for k in range(part.count):
        number = placing.numbers[part_of_number(part, k)]
        if number == NOBODY:
            continue
        interface = &core.interfaces[number]
        interface.rejections_count = 0
        memset(interface.rejections, 0, sizeof(interface.rejections))
        part_get(part, k, interface)
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


cdef void place_fields(Placing* placing, uint32_t place, uint32_t slot) noexcept nogil:
    """Give a host the state of the one at this place, but for what follows from other records.

    Its configuration stays its own, except for what orders have changed of the former one.
    """
    cdef VirtualHost* host = &placing.core.hosts[slot]
    cdef VirtualHost fresh = host[0]
    cdef bint same4, same6
    cdef uint8_t impeded
    cdef uint32_t k
    for k in range(HOST.count):
        memset(<char*>host + HOST.fields[k].at, 0, HOST.fields[k].width * HOST.fields[k].count)
    part_get(&placing.parts[<int>OF_HOST], place, host)
    same4 = (host.configured.own_source == fresh.configured.own_source
             and memcmp(host.source4, fresh.source4, 4) == 0)
    same6 = (host.configured.own_source6 == fresh.configured.own_source6
             and memcmp(host.source6, fresh.source6, 16) == 0)
    host.configured.own_source = fresh.configured.own_source
    host.configured.own_source6 = fresh.configured.own_source6
    if fresh.configured.own_source and not same4:
        memcpy(host.source4, fresh.source4, 4)
        host.configured.source_missing = 0
    if fresh.configured.own_source6 and not same6:
        memcpy(host.source6, fresh.source6, 16)
        host.configured.source6_missing = 0
    host.interface, host.recorded = fresh.interface, 0
    impeded, host.impeded = host.impeded, fresh.impeded
    vhid_add_up(host)
    build_frames(placing.core, host)                    # keeps a source while it is needed
    group_place(placing.core, slot, impeded)
    host.pending = 0
    host.flags &= ~<uint32_t>OWED


cdef void place_sources(Placing* placing, uint32_t place, VirtualHost* host) noexcept nogil:
    cdef const Part* part = &placing.parts[<int>OF_SOURCE]
    cdef uint32_t of, k
    for k in range(SOURCES):
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
    """Accept digests of former keys as long as the former engine would have; those of its key for
    the time of grace, if that is another one. The former host's own key is the last to be dropped.
    """
    cdef const Part* part = &placing.parts[<int>OF_KEY]
    cdef Block* block = host.block
    cdef AlternateKey former
    cdef uint64_t first, k
    cdef uint32_t at = block.permanent_count
    while placing.key < part.count and part_of_number(part, placing.key) < place:
        placing.key += 1
    first = placing.key
    while placing.key < part.count and part_of_number(part, placing.key) == place:
        memset(&former, 0, sizeof(former))
        part_get(part, placing.key, &former)
        placing.key += 1
        if former.until_ns == FOREVER_NS or former.until_ns <= placing.now_ns:
            continue
        if at < block.alternate_count:
            block.alternates[at] = former
            at += 1
        else:
            placing.digests_lost += 1
    for k in range(placing.key, first, -1):
        memset(&former, 0, sizeof(former))
        part_get(part, k - 1, &former)
        if former.until_ns != FOREVER_NS or is_form(host, &former.key) or not placing.grace_ns:
            continue
        if block.permanent_count == block.alternate_count:
            placing.digests_lost += 1
        keep_key(block, &former.key, placing.now_ns + placing.grace_ns)


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
    cdef uint64_t first, end
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
    place_interfaces(placing)
    place_engine(placing)
    for place in range(placing.parts[<int>OF_HOST].count):
        if placing.slots[place] != NOBODY:
            place_host(placing, place, placing.slots[place])
    place_queues(placing)
    for slot in range(core.slots):
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
    cdef const Part* part = &placing.parts[<int>OF_HOST]
    cdef VirtualHost was
    cdef Interface interface
    cdef dict ifindexes = {}
    cdef list gone = [], unheld = []
    cdef uint32_t k, slot
    for k in range(placing.parts[<int>OF_INTERFACE].count):
        memset(&interface, 0, sizeof(interface))
        part_get(&placing.parts[<int>OF_INTERFACE], k, &interface)
        ifindexes[part_of_number(&placing.parts[<int>OF_INTERFACE], k)] = interface.ifindex
    memset(&was, 0, sizeof(was))
    for k in range(part.count):
        slot = placing.slots[k]
        part_get(part, k, &was)
        ifindex = ifindexes.get(was.interface, 0)
        if slot == NOBODY:
            gone.append(_states.GoneHost(
                part_of_number(part, k), was.interface, was.vhid, _STATES[was.state],
                held_of(placing, k, False, ifindex)))
        else:
            unheld += [(slot, held) for held in held_of(placing, k, True, ifindex)]
    return _states.Placed(part.count - len(gone), gone, unheld, added, placing.digests_lost)


cdef list begin_added(Placing* placing):
    """Let the hosts that are here only begin, and return their slots."""
    cdef Core* core = placing.core
    cdef set here = {placing.slots[k] for k in range(placing.parts[<int>OF_HOST].count)}
    cdef list added = [slot for slot in range(core.slots)
                       if core.hosts[slot].flags & IN_USE and slot not in here]
    for slot in added:
        build_frames(core, &core.hosts[<uint32_t>slot])
        engine_try_ready(core, slot, STARTED, placing.now_ns)
        group_review(core, slot, placing.now_ns)
    return added


cdef object state_place(Core* core, State state, slots, interfaces, int64_t grace_ns,
                        int64_t now_ns):
    """Let the hosts go on from a state: a Placed. See Engine.assume_state()."""
    cdef Placing placing
    cdef uint64_t hosts = state.parts[<int>OF_HOST].count
    expect_parts(state.parts)
    expect_records(state.parts)
    memset(&placing, 0, sizeof(placing))
    placing.core, placing.parts = core, state.parts
    placing.grace_ns, placing.now_ns = grace_ns, now_ns
    placing.numbers = <uint32_t*>calloc(MAX_INTERFACES, sizeof(uint32_t))
    placing.slots = <uint32_t*>calloc(hosts + 1, sizeof(uint32_t))
    placing.pending = <uint8_t*>calloc(hosts + 1, 1)
    try:
        if placing.numbers == NULL or placing.slots == NULL or placing.pending == NULL:
            raise MemoryError("state")
        find_numbers(&placing, interfaces)
        find_slots(&placing, slots)
        with nogil:
            place_all(&placing)
        return outcome_of(&placing, begin_added(&placing))
    finally:
        free(placing.numbers)
        free(placing.slots)
        free(placing.pending)


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
