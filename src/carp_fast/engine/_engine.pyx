"""The engine as a Python class: orders, reports, status.

`Engine` is the pure engine: time and frames in, actions out. Tests, tools and the simulator use
this class; the pump uses its C core directly. It uses no socket, clock or file.
"""

from libc.errno cimport ENETDOWN
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from carp_fast.engine._actions cimport (
    address_changed, addresses_done, advertisement_sent, announced, announcement_failed,
    announcement_frames, announcement_pauses, announcement_until, change_asked, next_announcement,
    next_change, take_asked)
from carp_fast.engine._core cimport (
    Interface, MAX_INTERFACES as _MAX_INTERFACES, MAX_VIRTUAL_HOSTS as _MAX_VIRTUAL_HOSTS,
    ORDER_ADOPT, ORDER_ANNOUNCE, ORDER_ASSUME, ORDER_BAR, ORDER_BY_ROUTE,
    ORDER_LOSE_ADDRESS, ORDER_MARK, ORDER_OWN_SOURCE, ORDER_REMOVE, ORDER_REPLACE, ORDER_RESIGN_ALL,
    ORDER_SET_INTERFACE, ORDER_TALLY, ORDER_TELL_GROUPS, Order, RELEASED, Report,
    TICK_NS, engine_checkpoint,
    engine_close, engine_next_deadline, engine_open, ORDER_PREEMPT, ORDER_WITHHOLD)
from carp_fast.engine._arguments cimport (
    addition, demotion_order, fill_address, fill_interface, hand_over_order)
from carp_fast.engine._assume cimport assume_address
from carp_fast.engine._demotions cimport groups_expire
from carp_fast.engine._fields cimport Checkpoint
from carp_fast.engine._orders cimport obey
from carp_fast.engine._copies cimport (
    explained_host, host_copy, interface_dict, rejections_list)
from carp_fast.engine._placing cimport state_place
from carp_fast.engine._prepared cimport PreparedHost, expect_bytes, source_flags
from carp_fast.engine._receive cimport FrameHeard, engine_receive, engine_receive_many
from carp_fast.engine._recorder cimport (
    RecordCopy, Record, checkpoint_dict, fill_checkpoint, flags_of, recorder_copy,
    recorder_open, records_list)
from carp_fast.engine._reports cimport address_bytes, report_object
from carp_fast.engine._sealing cimport next_advertisement, Sealing, sealing_end
from carp_fast.engine._state cimport State, state_size, state_write
from carp_fast.engine._tallies cimport Tallies
from carp_fast.engine._transitions cimport (
    engine_absent, engine_dropped, engine_expire, engine_shown)
from carp_fast.engine._upkeep cimport (
    THERES, There, address_found, upkeep_expire, wanted_change, wants_route)
from carp_fast.engine._vhid cimport (
    Address, Block, IN_USE, Output, RETIRED, vhid_interval_ns, VirtualHost)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport FRAME_ROOM, VERDICTS, wire_build_announcement

from carp_fast.engine._recorder import ADDRESS_WORDS, THERE_WORDS
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.engine.actions import (
    AddAddresses, AddRoutes, Advertise, Announce, RemoveAddresses, RemoveRoutes, Resign)

MAX_VIRTUAL_HOSTS = _MAX_VIRTUAL_HOSTS
MAX_INTERFACES = _MAX_INTERFACES
HOST_BYTES = sizeof(VirtualHost)
assert len(THERE_WORDS) == THERES

cdef enum:
    BATCH = 64                  # advertisements that advertise_rounds() seals together


cdef class FramesHeard:
    """Frames in one buffer, as a receive ring has them: (interface, frame) in order."""

    cdef FrameHeard* heard
    cdef bytes buffer
    cdef readonly uint32_t count

    def __init__(self, frames) -> None:
        cdef list kept = [(interface, <bytes?>frame) for interface, frame in frames]
        cdef const uint8_t* at
        cdef uint32_t i
        self.buffer, self.count = b"".join([frame for _, frame in kept]), len(kept)
        free(self.heard)
        self.heard = <FrameHeard*>calloc(self.count or 1, sizeof(FrameHeard))
        if self.heard == NULL:
            raise MemoryError("frames")
        at = self.buffer
        for i in range(self.count):
            self.heard[i].interface, self.heard[i].bytes = kept[i][0], at
            self.heard[i].length = <uint32_t>len(kept[i][1])
            at += self.heard[i].length

    def __dealloc__(self) -> None:
        free(self.heard)


# ------------------------------------------------------------------------------------ the engine

cdef class Engine:
    """All virtual hosts of one process, without sockets: every call takes the time, in ns.

    Slots (below MAX_VIRTUAL_HOSTS) and interface numbers (below MAX_INTERFACES) are chosen by
    the caller.
    """

    def __cinit__(self, uint32_t report_capacity=8192, uint64_t seed=1):
        if report_capacity < 4096 or report_capacity & (report_capacity - 1):
            raise ValueError("report_capacity: must be a power of two and at least 4096")
        engine_open(&self.core, report_capacity, seed)
        self.asked = []

    def __dealloc__(self):
        engine_close(&self.core)

    @property
    def wake_tick_ns(self) -> int:
        """Advertisements are due at multiples of this."""
        return self.core.wake_tick_ns

    @wake_tick_ns.setter
    def wake_tick_ns(self, int64_t value):
        if value < TICK_NS:
            raise ValueError(f"wake_tick_ns is at least {TICK_NS} ns, not {value}")
        self.core.wake_tick_ns = self.core.longest_tick_ns = value

    def set_pace(self, uint32_t rate, uint32_t at_once, uint32_t in_all=0) -> None:
        """Set the pace of announcements: of an interface a second, at once, of all a second.

        `in_all` 0: no limit. Raises ValueError.
        """
        if not rate or not at_once:
            raise ValueError("rate and at_once are at least 1")
        self.core.pace.rate, self.core.pace.at_once = rate, at_once
        self.core.pace.in_all = in_all

    @property
    def reports_lost(self) -> int:
        """The number of reports lost because the ring was full."""
        return self.core.reports.lost

    cdef give(self, uint8_t kind, uint32_t slot, int64_t value, void* pointer, int64_t now_ns):
        cdef Order order
        memset(&order, 0, sizeof(order))
        order.kind, order.slot, order.value, order.pointer = kind, slot, value, pointer
        obey(&self.core, &order, now_ns)

    def set_interface(self, uint16_t number, int64_t now_ns, *, int ifindex=1, bint up=True,
                      bytes mac=b"\x02\0\0\0\0\x01", bytes source=None, bytes source6=None,
                      bint forwards6=False, bint renamed=False, bint announce=False) -> None:
        """Set the properties of an interface; ifindex 0: it does not exist.

        `renamed`: it has lost its name. Its hosts leave it as if it was gone, but in order: they
        remove their addresses there and resign. The caller then sets the interface to not existing.
        `announce`: neighbours have to learn its place again, so every MASTER announces.
        """
        cdef Interface interface
        cdef Order order
        if number >= _MAX_INTERFACES:
            raise IndexError(f"interface numbers are below {_MAX_INTERFACES}")
        fill_interface(&interface, ifindex, up, mac, source, source6, forwards6, renamed, announce)
        memset(&order, 0, sizeof(order))
        order.kind, order.interface, order.pointer = ORDER_SET_INTERFACE, number, &interface
        obey(&self.core, &order, now_ns)

    def mark(self, int64_t now_ns) -> None:
        """End a batch of orders: the wake tick follows the shortest interval that is left."""
        self.give(ORDER_MARK, 0, 0, NULL, now_ns)

    def add(self, uint32_t slot, PreparedHost prepared, int64_t now_ns, int demotion=0,
            int track=0, bint hard=False, int maintenance=0) -> None:
        """Add a virtual host in a free slot; it takes part once its interface is ready.

        From the beginning it is demoted by the operator (`demotion`), by what it tracks (`track`,
        `hard`) and by maintenance; see demote().
        """
        cdef Order order
        if slot >= _MAX_VIRTUAL_HOSTS or self.core.hosts[slot].flags & IN_USE:
            raise IndexError(f"slot {slot} is in use or not below {_MAX_VIRTUAL_HOSTS}")
        addition(&order, slot, demotion, track, hard, maintenance)
        order.pointer = prepared.give_away()
        obey(&self.core, &order, now_ns)

    def replace(self, uint32_t slot, PreparedHost prepared, int64_t now_ns, *,
                int64_t grace_ns=0) -> None:
        """Change a host in place; its old digest is accepted for another `grace_ns`."""
        self.used(slot)
        if self.core.hosts[slot].interface != prepared.host.interface:
            raise ValueError("a virtual host cannot change its interface")
        self.give(ORDER_REPLACE, slot, grace_ns, prepared.give_away(), now_ns)

    def remove(self, uint32_t slot, int64_t now_ns) -> None:
        """Remove a host; a MASTER removes its addresses and resigns first."""
        self.give(ORDER_REMOVE, slot, 0, NULL, now_ns)

    def resign_all(self, int64_t now_ns) -> None:
        """Shut down: every host goes to INIT, every MASTER resigns."""
        self.give(ORDER_RESIGN_ALL, 0, 0, NULL, now_ns)

    def demote(self, uint32_t slot, int demotion, int64_t now_ns, str by="operator", *,
               bint hard=False) -> None:
        """Set a host's demotion by one reason, see demotion_order(); those by others stay."""
        cdef Order order
        demotion_order(&order, slot, demotion, by, hard)
        obey(&self.core, &order, now_ns)

    def tally(self, Tallies tallies, int64_t now_ns, uint32_t first=0, uint32_t count=0) -> None:
        """Add virtual hosts to the tallies, all by default, and copy the engine's own figures."""
        self.give(ORDER_TALLY, first, count or tallies.tally.slots, &tallies.tally, now_ns)
        self.give(ORDER_TALLY, 0, 0, &tallies.tally, now_ns)

    def tell_groups(self, int64_t now_ns) -> None:
        """Report every group that has members, in the next turn."""
        self.give(ORDER_TELL_GROUPS, 0, 0, NULL, now_ns)

    def hand_over(self, uint32_t slot, int64_t now_ns, str why="yielded") -> None:
        """Let a MASTER give its addresses up and resign; see hand_over_order()."""
        cdef Order order
        hand_over_order(&order, slot, why)
        obey(&self.core, &order, now_ns)

    def take_over(self, uint32_t slot, int64_t now_ns) -> None:
        """Let a BACKUP take over from its master, whatever `preempt` is; nothing from one that
        would take it back.
        """
        self.give(ORDER_PREEMPT, slot, 0, NULL, now_ns)

    def withhold(self, uint32_t slot, bint withheld, int64_t now_ns) -> None:
        """Set whether a host takes no part while its machine is in maintenance; a MASTER resigns.
        """
        self.give(ORDER_WITHHOLD, slot, withheld, NULL, now_ns)

    def bar(self, uint32_t slot, bint barred, int64_t now_ns) -> None:
        """Set whether another process of this machine has the host."""
        self.give(ORDER_BAR, slot, barred, NULL, now_ns)

    def announce(self, uint32_t slot, int64_t now_ns) -> None:
        """Announce now: the up script has run."""
        self.give(ORDER_ANNOUNCE, slot, 0, NULL, now_ns)

    def found(self, uint32_t slot, bytes address, str there, int64_t now_ns) -> None:
        """Report the result of a check: whether one of the host's addresses is on its interface.

        `there`: "none", "ours", "foreign", "somebodys" (of unknown origin), "unknown", or "route"
        (a local route of ours has it). Raises ValueError if the host has no such address.
        """
        cdef VirtualHost* host = &self.core.hosts[slot]
        cdef uint32_t i
        cdef bint any_such = False
        self.used(slot)
        if there not in THERE_WORDS:
            raise ValueError(f"{there}: must be one of {', '.join(THERE_WORDS)}")
        for i in range(host.block.address_count):
            if address_bytes(host.block.addresses[i].bytes,
                             host.block.addresses[i].family) == address:
                any_such = True
                address_found(&self.core, slot, i, <There><int>THERE_WORDS.index(there), now_ns)
        if not any_such:
            raise ValueError("the host has no such address")

    def lose_address(self, uint32_t slot, int64_t now_ns, *, bint demoted=True) -> None:
        """Let a MASTER resign whose addresses are removed repeatedly, and demote it."""
        self.give(ORDER_LOSE_ADDRESS, slot, demoted, NULL, now_ns)

    def set_own_source(self, uint32_t slot, int64_t now_ns, *, bint missing=False,
                       bint missing6=False) -> None:
        """Set which of the host's configured sources are not addresses of this machine."""
        self.give(ORDER_OWN_SOURCE, slot, source_flags(missing, missing6), NULL, now_ns)

    def set_by_route(self, uint32_t slot, bint by_route, int64_t now_ns) -> None:
        """Set whether the host's IPv4 addresses are added as local routes; False replaces them."""
        self.give(ORDER_BY_ROUTE, slot, by_route, NULL, now_ns)

    def adopt(self, uint32_t slot, bytes address, uint8_t prefixlen, int64_t now_ns) -> None:
        """Adopt an address of the host that the kernel has, with our mark, from before."""
        cdef Address there
        fill_address(&there, address, prefixlen)
        self.give(ORDER_ADOPT, slot, 0, &there, now_ns)

    def receive(self, uint16_t interface, bytes frame, int64_t now_ns) -> str:
        """Take in one frame; returns the word of its verdict, "not_carp" for other protocols."""
        cdef FrameHeard heard
        heard.bytes, heard.length, heard.interface = frame, <uint32_t>len(frame), interface
        heard.arrived_ns = now_ns
        cdef int verdict = engine_receive(&self.core, &heard)
        return VERDICT_WORDS[verdict] if verdict < VERDICTS else "not_carp"

    def receive_many(self, frames, int64_t now_ns) -> int:
        """Take in `frames`, a FramesHeard or (interface, frame) in order; how many are OK."""
        cdef FramesHeard heard = frames if isinstance(frames, FramesHeard) else FramesHeard(frames)
        cdef uint32_t i, good
        for i in range(heard.count):
            heard.heard[i].arrived_ns = now_ns
        with nogil:
            good = engine_receive_many(&self.core, heard.heard, heard.count, NULL, NULL)
        return good

    def advertise_rounds(self, int64_t now_ns, int rounds) -> int:
        """Expire and seal for `rounds` wake ticks, a benchmark; how many advertisements."""
        cdef uint32_t[BATCH] slots
        cdef uint32_t i, count, sealed = 0
        cdef Sealing sealing
        cdef int _
        sealing.count = 0
        with nogil:
            for _ in range(rounds):
                now_ns += self.core.wake_tick_ns
                engine_expire(&self.core, now_ns, now_ns)
                count = BATCH
                while count == BATCH:
                    count = 0
                    while count < BATCH:
                        slots[count] = next_advertisement(&self.core, &sealing, BATCH)
                        if slots[count] == NOBODY:
                            break
                        count += 1
                    sealing_end(&sealing)
                    for i in range(count):
                        advertisement_sent(&self.core, slots[i], 0, 0, now_ns)
                    sealed += count
        return sealed

    def expire(self, int64_t now_ns, heard_until_ns=None) -> None:
        """Process every deadline up to `now_ns` (master-down up to `heard_until_ns`)."""
        groups_expire(&self.core, now_ns)
        engine_expire(&self.core, now_ns, now_ns if heard_until_ns is None else heard_until_ns)
        upkeep_expire(&self.core, now_ns)

    def stall(self, int64_t now_ns, since_ns=None, int64_t asleep_ns=0) -> None:
        """The pump was away since `since_ns` (None: the last expire): frames may be missed.

        A BACKUP whose interval was shorter than that waits longer. `asleep_ns`: the part of
        that time that the engine's clock did not count.
        """
        engine_absent(&self.core, self.core.recorder.turn_ns if since_ns is None else since_ns,
                      now_ns, asleep_ns)

    def drop(self, int64_t now_ns, since_ns=None) -> None:
        """Frames were lost since `since_ns` (None: the last expire): every BACKUP waits longer."""
        engine_dropped(&self.core, self.core.recorder.turn_ns if since_ns is None else since_ns,
                       now_ns)

    def next_deadline_ns(self):
        """When expire() must be called next, ns, at the latest; None: never."""
        cdef int64_t deadline_ns = engine_next_deadline(&self.core)
        return None if deadline_ns < 0 else deadline_ns

    def record(self, uint32_t capacity) -> None:
        """Start recording what comes in and what is decided; `capacity`: a power of two."""
        if capacity < 1024 or capacity & (capacity - 1):
            raise ValueError("record: must be a power of two and at least 1024")
        recorder_open(&self.core.recorder, capacity)

    def records(self) -> list:
        """The records in the ring; see records_list in _recorder.pyx."""
        cdef RecordCopy copy
        memset(&copy, 0, sizeof(copy))
        copy.room = self.core.recorder.capacity
        copy.records = <Record*>calloc(copy.room or 1, sizeof(Record))
        if copy.records == NULL:
            raise MemoryError("records")
        try:
            recorder_copy(&self.core.recorder, &copy)
            return records_list(copy.records, copy.count)
        finally:
            free(copy.records)

    def checkpoint(self, uint32_t slot, int64_t now_ns) -> dict:
        """The state that decides what a host does next; see checkpoint_dict in _recorder.pyx."""
        cdef Checkpoint checkpoint
        self.used(slot)
        engine_checkpoint(&self.core, slot, &checkpoint, now_ns)
        return checkpoint_dict(&checkpoint)

    def assume(self, uint32_t slot, dict state, int64_t now_ns) -> None:
        """Let a host that was just added continue from `state`, checkpoint()["state"] of another.

        `state` may also have "addresses": (4 or 16 bytes, words of ADDRESS_WORDS) of each address
        that differs from the others. The reports so far are dropped, since nothing has happened.
        Raises ValueError for values that do not fit.
        """
        cdef Checkpoint checkpoint
        cdef uint8_t[16] room
        self.used(slot)
        exceptions = state.get("addresses", ())
        fill_checkpoint(&checkpoint, {key: value for key, value in state.items()
                                      if key != "addresses"})
        self.take_reports()
        self.give(ORDER_ASSUME, slot, 0, &checkpoint, now_ns)
        for address, words in exceptions:
            expect_bytes(address, (4, 16), "an address")
            memset(room, 0, 16)
            memcpy(room, <const char*>(<bytes>address), len(address))
            if not assume_address(&self.core, slot, room, 4 if len(address) == 4 else 6,
                                  <uint8_t>flags_of(ADDRESS_WORDS, words)):
                raise ValueError("an assumed address does not belong to the host")

    def state_size(self) -> int:
        """How many bytes export_state() may need while these virtual hosts are there."""
        return state_size(&self.core)

    def export_state(self, buffer) -> int:
        """Write the whole state into a writable buffer, for another engine; how many bytes.

        It has the digests' midstates, but no passphrase. See State in _state.pyx. Raises ValueError
        if there is too little room, or a change of an address has no outcome yet.
        """
        return state_write(&self.core, NULL, buffer)

    def assume_state(self, state, int64_t now_ns, *, slots=None, interfaces=None):
        """Let the hosts, which were added, go on where those of another engine were: a Placed.

        See the stub. Raises ValueError, and then nothing has changed.
        """
        self.take_reports()
        return state_place(&self.core, state if isinstance(state, State) else State(state), slots,
                           interfaces, now_ns)

    def take_actions(self, int64_t now_ns, errors=None, *, bint busy=False) -> list:
        """Carry out all that is queued, as a network without faults would.

        Returns the actions in order, see actions.py. `errors`: {address: errno} that the kernel
        would answer, for one host {(slot, address): errno}; {(slot, None): errno}: its
        advertisements are not sent, {(slot, 6): errno}: those over IPv6, {(slot, "frames"): n}: the
        first n frames of each alone, {(slot, "announce"): errno}: its announcements. `busy`: the
        kernel does not answer yet, see answer().
        """
        cdef list actions = []
        cdef uint32_t slot
        cdef Output* output
        cdef Sealing sealing
        cdef uint32_t i
        cdef int error
        sealing.count = 0
        while True:
            slot = next_advertisement(&self.core, &sealing, BATCH)
            if slot != NOBODY:
                sealing_end(&sealing)
                for i in range(self.core.hosts[slot].block.output_count):
                    output = &self.core.hosts[slot].block.outputs[i]
                    frame = (<const char*>output.frame)[:output.length]
                    kind = Resign if frame[output.carp_at + 2] == 255 else Advertise
                    actions.append(kind(slot, frame))
                self.note_sent(slot, errors, now_ns)
                continue
            slot = next_change(&self.core)
            if slot != NOBODY:
                self.ask_for_changes(slot, actions)
                if not self.core.hosts[slot].asked:
                    addresses_done(&self.core, slot, now_ns)
                elif not busy:
                    self.answer(now_ns, errors)
                continue
            slot = next_announcement(&self.core, now_ns)
            if slot == NOBODY:
                return actions
            error = errors.get((slot, "announce"), 0) if errors else 0
            i = announcement_until(&self.core, &self.core.hosts[slot])
            if not error and i < self.announced_frames(slot):
                announcement_pauses(&self.core, slot, i)
            elif not error or not announcement_failed(&self.core, slot, 0, error, now_ns):
                actions.append(Announce(slot, self.announcement(slot)))
                announced(&self.core, slot)

    cdef note_sent(self, uint32_t slot, errors, int64_t now_ns):
        """The outcome of a host's advertisement, with the errors of take_actions()."""
        cdef const Block* block = self.core.hosts[slot].block
        cdef uint32_t i, failures = 0, first = block.output_count
        cdef int error = 0, one
        if errors:
            first = errors.get((slot, "frames"), 0) or first
        for i in range(block.output_count if errors else 0):
            one = errors.get((slot, None), 0) if i < first else 0
            one = one or errors.get((slot, block.outputs[i].family), 0)
            failures += one != 0
            error = one or error
        advertisement_sent(&self.core, slot, failures, error, now_ns)

    def fail_sends(self, uint32_t slot, int times, int64_t now_ns, int error=ENETDOWN) -> None:
        """Let sending the host's advertisements fail for `times` intervals from `now_ns` on."""
        cdef int _
        self.used(slot)
        for _ in range(times):
            advertisement_sent(&self.core, slot, self.core.hosts[slot].block.output_count, error,
                               now_ns)
            now_ns += vhid_interval_ns(&self.core.hosts[slot])

    cdef ask_for_changes(self, uint32_t slot, list actions):
        cdef VirtualHost* host = &self.core.hosts[slot]
        cdef dict changes = {RemoveAddresses: [], RemoveRoutes: [], AddAddresses: [], AddRoutes: []}
        cdef Address asked
        cdef uint32_t i
        cdef int wanted
        for i in range(host.block.address_count):
            asked = host.block.addresses[i]
            wanted = wanted_change(host, &asked)
            if wanted:
                if wanted > 0:
                    asked.routed = wants_route(host, &asked)
                data = address_bytes(asked.bytes, asked.family)
                if asked.routed:
                    changes[AddRoutes if wanted > 0 else RemoveRoutes].append(data)
                else:
                    changes[AddAddresses if wanted > 0 else RemoveAddresses].append(data)
                change_asked(&self.core, slot, i)
                self.asked.append((slot, i, data, wanted > 0,
                                   (<const char*>&asked)[:sizeof(Address)]))
        actions += [kind(slot, data) for kind, data in changes.items() if data]

    def answer(self, int64_t now_ns, errors=None) -> None:
        """Let the kernel answer all changes that it was asked for; `errors` as in take_actions."""
        cdef uint32_t slot, i
        cdef bytes was
        cdef const Address* address
        asked, self.asked = self.asked, []
        for slot, i, data, added, was in asked:
            address = <const Address*><const char*>was
            i = take_asked(&self.core, slot, i, address)
            if i != NOBODY:
                error = (errors or {}).get((slot, data), (errors or {}).get(data, 0))
                address_changed(&self.core, slot, i, added, address.routed, error, now_ns)
            if not self.core.hosts[slot].asked:
                addresses_done(&self.core, slot, now_ns)

    cdef uint32_t announced_frames(self, uint32_t slot):
        cdef const VirtualHost* host = &self.core.hosts[slot]
        return host.block.address_count * announcement_frames(host)

    cdef list announcement(self, uint32_t slot):
        cdef VirtualHost* host = &self.core.hosts[slot]
        cdef Interface* interface = &self.core.interfaces[host.interface]
        cdef uint8_t frame[FRAME_ROOM]
        cdef list frames = []
        cdef Address* address
        cdef uint32_t i, length
        for i in range(self.announced_frames(slot)):
            address = &host.block.addresses[i % host.block.address_count]
            if not address.flags & RETIRED:
                length = wire_build_announcement(frame, interface.mac, address.family,
                                                 address.bytes, interface.forwards6)
                frames.append((<const char*>frame)[:length])
        return frames

    def take_reports(self) -> list:
        """All reports so far, oldest first; reports.py has their classes."""
        cdef list reports = []
        cdef Report* report
        while self.core.reports.head != self.core.reports.tail:
            report = &self.core.reports.reports[self.core.reports.head & self.core.reports.mask]
            if report.kind == RELEASED:
                free(<void*>report.value)
            reports.append(report_object(report))
            self.core.reports.head += 1
        return reports

    def host(self, uint32_t slot):
        """The HostCopy of a host, also of one that has been removed since."""
        if slot >= _MAX_VIRTUAL_HOSTS or self.core.hosts[slot].sources == NULL:
            raise IndexError(f"slot {slot} was never in use or is not below {_MAX_VIRTUAL_HOSTS}")
        return host_copy(&self.core.hosts[slot])

    def explained(self, uint32_t slot, int64_t now_ns):
        """A host and the reasons for its state, an ExplainedHost. Changes nothing."""
        cdef VirtualHost shown
        self.used(slot)
        shown = self.core.hosts[slot]
        engine_shown(&self.core, &shown)
        return explained_host(&shown, now_ns)

    cdef used(self, uint32_t slot):
        if slot >= _MAX_VIRTUAL_HOSTS or not self.core.hosts[slot].flags & IN_USE:
            raise IndexError(f"slot {slot} is not in use")

    def interface_counters(self, uint16_t number) -> dict:
        """Advertisements heard and frames rejected on an interface, by word."""
        if number >= _MAX_INTERFACES:
            raise IndexError(f"interface numbers are below {_MAX_INTERFACES}")
        return interface_dict(&self.core.interfaces[number])

    def rejections(self, uint16_t number) -> list:
        """The last frames rejected on an interface, newest first, each a RejectedFrame."""
        if number >= _MAX_INTERFACES:
            raise IndexError(f"interface numbers are below {_MAX_INTERFACES}")
        return rejections_list(&self.core.interfaces[number])
