"""What the virtual hosts of each interface add up to, and the engine's figures, for Python.

Python makes the room, and the engine fills it when it comes to the order: a slice of virtual hosts
at a time, which makes no Python object of any of them. Changes nothing in the engine. Uses no
socket, clock or file.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from carp_fast.engine._core cimport Core, MAX_INTERFACES, MAX_VIRTUAL_HOSTS, Order
from carp_fast.engine._figures cimport BOUNDS, Durations, InterfaceFigures, STATES
from carp_fast.engine._vhid cimport (
    BY_LINK, DEMOTIONS, DUPLICATE, IN_USE, INIT, MASTER, REASONS, RETIRED,
    SECOND_NS, Source, SOURCES, vhid_demoted_by, vhid_source, VirtualHost)

from carp_fast.engine._vhid import REASON_WORDS as _REASONS, STATE_WORDS as _STATES
import carp_fast.engine.tallied as _tallied

cdef enum:
    RESIGNED_ADVBASE = 255

PROBLEM_WORDS = {
    PROBLEM_INIT: "init", PROBLEM_DEMOTED: "demoted", PROBLEM_SECOND_MASTER: "second_master",
    PROBLEM_DUPLICATE: "duplicate_source"}


cdef bint is_own(const VirtualHost* host, const Source* source) noexcept nogil:
    if source.family == 4:
        return memcmp(source.address, host.source4, 4) == 0
    return memcmp(source.address, host.source6, 16) == 0


cdef bint hears_second_master(const VirtualHost* host, int64_t now_ns) noexcept nogil:
    """Whether a host advertises although there is another MASTER.

    For a MASTER it is one heard within three of its own intervals, and later than half of one
    after the take-over: the host before it advertises once more as it gives way. For a BACKUP it
    is one heard within one and a half, and not the master of its family.
    """
    cdef const Source* source
    cdef int64_t interval_ns
    cdef uint32_t i
    if host.state == INIT:
        return False
    for i in range(SOURCES):
        source = vhid_source(host, i)
        if not source.heard_ns or source.advbase == RESIGNED_ADVBASE or is_own(host, source):
            continue
        interval_ns = (<int64_t>source.advbase * 256 + source.advskew) * SECOND_NS // 256
        if host.state == MASTER:
            if (now_ns - source.heard_ns <= 3 * interval_ns
                    and source.heard_ns > host.since_ns + interval_ns // 2):
                return True
        elif (now_ns - source.heard_ns <= interval_ns + interval_ns // 2
                and host.master[source.family == 6] != i + 1):
            return True
    return False


cdef bint is_demoted(const VirtualHost* host) noexcept nogil:
    cdef int by
    for by in range(DEMOTIONS):
        if by != BY_LINK and vhid_demoted_by(host, by):
            return True
    return False


cdef void tally_hosts(const Core* core, uint32_t first, uint32_t count, Tally* tally,
                      int64_t now_ns) noexcept nogil:
    """Add the hosts from slot `first` on to the tally, as far as it has room for them."""
    cdef const VirtualHost* host
    cdef InterfaceTally* of
    cdef uint32_t slot, i
    cdef uint8_t problems
    for slot in range(first, min(first + count, tally.slots)):
        host = &core.hosts[slot]
        if not host.flags & IN_USE or host.interface >= tally.interface_count:
            continue
        of = &tally.interfaces[host.interface]
        of.states[host.state] += 1
        of.held += host.held
        if host.configured.expects_4 and not host.configured.own_source:
            of.needs_source[0] = 1
        if host.configured.expects_6 and not host.configured.own_source6:
            of.needs_source[1] = 1
        if host.state == MASTER and host.configured.manage_addresses:
            for i in range(host.block.address_count):
                of.wanted += not host.block.addresses[i].flags & RETIRED
        problems = PROBLEM_INIT if host.state == INIT else 0
        problems |= PROBLEM_DEMOTED if is_demoted(host) else 0
        problems |= PROBLEM_DUPLICATE if host.flags & DUPLICATE else 0
        if hears_second_master(host, now_ns):
            problems |= PROBLEM_SECOND_MASTER
            of.second_masters += host.state == MASTER
        tally.states[slot] = host.state + 1
        tally.problems[slot] = problems
        tally.transitions[slot] = host.transitions
        tally.vhids[slot] = host.vhid


cdef void tally_figures(const Core* core, Tally* tally) noexcept nogil:
    """Copy the figures that do not belong to a virtual host, of as many interfaces as it has."""
    memcpy(tally.figures.interfaces, core.figures.interfaces,
           tally.interface_count * sizeof(InterfaceFigures))
    tally.figures.lateness = core.figures.lateness
    tally.figures.takeover = core.figures.takeover


cdef void tally_ordered(const Core* core, const Order* order, int64_t now_ns) noexcept nogil:
    """Carry out an ORDER_TALLY."""
    cdef Tally* tally = <Tally*>order.pointer
    if order.value:
        tally_hosts(core, order.slot, <uint32_t>order.value, tally, now_ns)
    else:
        tally_figures(core, tally)


cdef object durations_object(const Durations* durations):
    return _tallied.Durations([durations.counts[i] for i in range(BOUNDS + 1)], durations.sum_ns)


cdef dict transitions_dict(const InterfaceFigures* figures):
    cdef int state, reason
    return {(_STATES[state], _REASONS[reason]): figures.transitions[state][reason]
            for state in range(STATES) for reason in range(REASONS)
            if figures.transitions[state][reason]}


cdef class Tallies:
    """Room for one pass over `slots` virtual hosts on `interfaces` interfaces.

    Read it when the mark after its last order is done. Raises MemoryError.
    """

    def __cinit__(self, uint32_t interfaces, uint32_t slots):
        if interfaces > MAX_INTERFACES or slots > MAX_VIRTUAL_HOSTS:
            raise IndexError("more than the engine's tables have")
        cdef Tally* tally = &self.tally
        tally.interface_count, tally.slots = interfaces, slots
        tally.interfaces = <InterfaceTally*>calloc(interfaces or 1, sizeof(InterfaceTally))
        tally.states = <uint8_t*>calloc(slots or 1, 1)
        tally.problems = <uint8_t*>calloc(slots or 1, 1)
        tally.vhids = <uint8_t*>calloc(slots or 1, 1)
        tally.transitions = <uint32_t*>calloc(slots or 1, sizeof(uint32_t))
        tally.figures.interfaces = <InterfaceFigures*>calloc(interfaces or 1,
                                                             sizeof(InterfaceFigures))
        if (tally.interfaces == NULL or tally.states == NULL or tally.problems == NULL
                or tally.vhids == NULL or tally.transitions == NULL
                or tally.figures.interfaces == NULL):
            raise MemoryError("tallies")

    def __dealloc__(self):
        free(self.tally.interfaces)
        free(self.tally.states)
        free(self.tally.problems)
        free(self.tally.vhids)
        free(self.tally.transitions)
        free(self.tally.figures.interfaces)

    @property
    def slots(self) -> int:
        """The number of slots that there is room for."""
        return self.tally.slots

    def interfaces(self) -> list:
        """The Tallied of every interface, by its number."""
        return [self.interface(i) for i in range(self.tally.interface_count)]

    cdef object interface(self, uint32_t number):
        cdef const InterfaceTally* of = &self.tally.interfaces[number]
        cdef const InterfaceFigures* figures = &self.tally.figures.interfaces[number]
        cdef int i
        return _tallied.Tallied(
            {_STATES[i]: of.states[i] for i in range(STATES)}, of.held, of.wanted,
            of.second_masters, [4 + 2 * i for i in range(2) if of.needs_source[i]],
            transitions_dict(figures), figures.addresses_restored,
            figures.duplicates, figures.counter_resets, figures.family_silences)

    def lateness(self):
        """The Durations by which turns of the pump began later than planned."""
        return durations_object(&self.tally.figures.lateness)

    def takeover(self):
        """The Durations from the last advertisement of a master to the outcome of its addresses."""
        return durations_object(&self.tally.figures.takeover)

    def hosts(self, uint32_t first, uint32_t count) -> list:
        """(slot, vhid, state, transitions) of every virtual host in a range of slots; `state`: 0
        INIT, 1 BACKUP, 2 MASTER.
        """
        cdef const Tally* tally = &self.tally
        cdef uint32_t slot
        return [(slot, tally.vhids[slot], tally.states[slot] - 1, tally.transitions[slot])
                for slot in range(first, min(first + count, tally.slots)) if tally.states[slot]]

    def problems(self) -> bytes:
        """By slot: what is wrong with its virtual host, bits of PROBLEM_WORDS."""
        return <bytes>(<char*>self.tally.problems)[:self.tally.slots]
