"""The pump as a Python class: a native thread around run_due(), orders in, reports out.

The thread of uvloop owns this object: it starts and stops the pump's thread (or calls run_due()
itself), sends every order through a ring and an eventfd, and gets every report by watching
`report_fd`. The pump's thread never takes the GIL. Nothing here decides anything about CARP.
"""

cimport cython

import os
from collections import deque

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from carp_fast.engine._core cimport (
    Core, DONE, Interface, MAX_INTERFACES, MAX_VIRTUAL_HOSTS, ORDER_ADOPT, ORDER_ANNOUNCE,
    ORDER_BAR, ORDER_BY_ROUTE, ORDER_COPY_RECORDS, ORDER_FLUSH, ORDER_GROW_REPORTS,
    ORDER_LOSE_ADDRESS, ORDER_MARK, ORDER_OWN_SOURCE, ORDER_PREEMPT, ORDER_REMOVE, ORDER_REPLACE,
    ORDER_RESIGN_ALL, ORDER_SET_INTERFACE, ORDER_SNAPSHOT, ORDER_SNAPSHOT_INTERFACES, ORDER_TALLY,
    ORDER_TELL_GROUPS, ORDER_VERIFY, ORDER_WITHHOLD, Order, RELEASED, Report)
from carp_fast.engine._arguments cimport (
    addition, demotion_order, fill_address, fill_interface, hand_over_order)
from carp_fast.engine._engine cimport Engine
from carp_fast.engine._lanes cimport LANE_COMMON, lanes_cover
from carp_fast.engine._lanes import COVERAGE_WORDS, LANE_WORDS
from carp_fast.pump.facts import PumpFacts
from carp_fast.pump._changes cimport netlink_remove, netlink_template
from carp_fast.pump._clones cimport Clones, Run, TRIAL_FAILED, clones_open
from carp_fast.pump._freezing cimport assume_state, freeze, marks_of, resume, write_state
from carp_fast.pump._freezing import RECEIVER_WORDS
from carp_fast.engine._prepared cimport PreparedHost, source_flags
from carp_fast.engine._reports cimport report_object
from carp_fast.engine._state cimport State
from carp_fast.engine._tallies cimport Tallies
from carp_fast.pump._refusals cimport FilterMemory, refusals_count
from carp_fast.pump._requests cimport requests_thread, requests_wait, requests_work_off
from carp_fast.pump._snapshots cimport Records, Snapshot
from carp_fast.pump._ring cimport ring_open, ring_wake_by
from carp_fast.pump._socket cimport receive_prepare, send_prepare
from carp_fast.pump._environment cimport (
    FREEZE_DONE, ORDERS, PumpState, Socket, environment_open, obey_all)
from carp_fast.pump._thread cimport (
    add_to_epoll, pthread_t, pump_forget, pump_thread, start_thread, system_error, wait_and_run,
    watch_budget)
from carp_fast.pump._turn cimport RECEIVERS_MAX, Turn, turn_add_receiver
from carp_fast.engine._vhid cimport Address, VirtualHost

cdef extern from "atomic.h" nogil:
    uint64_t load_acquire(const uint64_t* p) noexcept
    void store_release(uint64_t* p, uint64_t x) noexcept

cdef extern from "system.h" nogil:
    int CLOCK_MONOTONIC
    int EPOLL_CLOEXEC
    int TFD_NONBLOCK, TFD_CLOEXEC, EFD_NONBLOCK, EFD_CLOEXEC
    int epoll_create1(int flags)
    int timerfd_create(int clock, int flags)
    int eventfd(unsigned int value, int flags)
    ssize_t read(int fd, void* data, size_t length)
    ssize_t write(int fd, const void* data, size_t length)
    int close(int fd)
    int pthread_join(pthread_t thread, void** result)
    void leave_out_of_cores(const void* memory, size_t length)

SCHEDULING_WORDS = ("normal", "nice", "fifo")
HOSTS_A_SNAPSHOT = 1000


# The thread uses the engine: the garbage collector must not take it from a pump in a cycle.
@cython.no_gc_clear
cdef class Pump:
    """An engine with its sockets. Give it orders; take its reports when `report_fd` is readable.

    receivers: [(kind, file descriptor, lane)], a "packet" socket, or "raw4" and "raw6", for each
    lane, by default the common one (an eventfd that never fires if nothing is received), or
    ("ring", file descriptor, lane, memory), a packet socket with the addresses of its ring's
    control and slots, their number, the address of what all filters share, if they have it, and
    those of the positions of a ring buffer map that wakes in place of the socket, as net/rings.py
    makes them;
    send_fd: a packet socket; netlink_fd: a bound rtnetlink socket; templates: {key: (encoded
    message, the address in it)}, with the keys (family, adding) and, for addresses that may become
    the source of other traffic, (6, True, "preferred"); report_capacity: a power of two; record:
    the number of records of inputs and decisions to keep, a power of two, or 0; marks: the kernel
    keeps IFA_PROTO. The caller keeps the file descriptors and rings. Raises OSError.
    """
    cdef Engine engine
    cdef PumpState* state
    cdef pthread_t thread
    cdef pthread_t netlink_thread
    cdef bint running
    cdef int64_t next_mark
    cdef object waiting         # (mark, objects that an order points to), oldest first
    # The room that reports are read from, and the one that an order to grow has given.
    cdef Report* reading
    cdef uint64_t reading_mask
    cdef Report* grown
    cdef uint64_t grown_mask

    def __cinit__(self, receivers, int send_fd, int netlink_fd, dict templates,
                  uint32_t report_capacity=8192, uint32_t record=0, bint marks=True):
        self.engine = Engine(report_capacity, int.from_bytes(os.urandom(8), "little"))
        self.reading = self.engine.core.reports.reports
        self.reading_mask = self.engine.core.reports.mask
        # The digests' keys of all virtual hosts, but for those that are accepted besides.
        leave_out_of_cores(self.engine.core.room, (MAX_VIRTUAL_HOSTS + 1) * sizeof(VirtualHost))
        if record:
            self.engine.record(record)
        self.waiting = deque()
        self.state = <PumpState*>calloc(1, sizeof(PumpState))
        if self.state == NULL:
            raise MemoryError("pump")
        cdef PumpState* state = self.state
        state.epoll_fd = state.timer_fd = state.order_fd = state.report_fd = -1
        state.frozen_fd = -1
        state.requests.work_fd = -1
        environment_open(state, &self.engine.core)
        state.send_fd, state.requests.netlink.fd = send_fd, netlink_fd
        state.requests.netlink.marks = marks
        state.raw_fds[0] = state.raw_fds[1] = -1
        self.set_receivers(list(receivers))
        receive_prepare(&state.receiving)
        send_prepare(&state.sending)
        send_prepare(&state.unicast[0])
        send_prepare(&state.unicast[1])
        for key, (encoded, address) in templates.items():
            if key[1]:
                place = 0 if key[0] == 4 else 2 if "preferred" in key else 1
                netlink_template(&state.requests.netlink.adding[place], encoded, address)
            else:
                netlink_template(&state.requests.netlink.removing[key[0] == 6], encoded, address)
        self.open_descriptors()

    cdef set_receivers(self, list receivers):
        cdef PumpState* state = self.state
        cdef Socket* socket
        if not 1 <= len(receivers) <= RECEIVERS_MAX:
            raise ValueError(f"{len(receivers)} receivers, from 1 to {RECEIVERS_MAX}")
        for kind, fd, *lane in receivers:
            socket = &state.sockets[state.turn.receiver_count]
            socket.fd, socket.kind = fd, RECEIVER_WORDS.index(kind)
            if kind == "ring":
                ring_open(&socket.ring, lane[1][:3])
                self.share(lane[1][3:4])
                if len(lane[1]) > 4:
                    ring_wake_by(&socket.ring, lane[1][4], lane[1][5])
            turn_add_receiver(&state.turn, LANE_WORDS.index(lane[0]) if lane else LANE_COMMON)

    cdef share(self, shared):
        """Keep the memory of the filters up to date; it is the same for all rings."""
        cdef size_t address
        for address in shared:
            self.state.refusals.memory = <FilterMemory*>address

    cdef open_descriptors(self):
        cdef PumpState* state = self.state
        state.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        state.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        state.order_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        state.report_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        state.frozen_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        state.requests.work_fd = eventfd(0, EFD_CLOEXEC)        # its thread waits in read()
        state.requests.done_fd = state.order_fd
        if min(state.epoll_fd, state.timer_fd, state.order_fd, state.report_fd, state.frozen_fd,
               state.requests.work_fd) < 0:
            raise system_error(errno)
        for fd in (state.timer_fd, state.order_fd):
            add_to_epoll(state.epoll_fd, fd)
        for i in range(state.turn.receiver_count):
            add_to_epoll(state.epoll_fd, state.sockets[i].fd)

    def __dealloc__(self):
        if self.state == NULL:
            return
        self.halt()
        pump_forget(self.state)
        for fd in (self.state.epoll_fd, self.state.timer_fd, self.state.order_fd,
                   self.state.report_fd, self.state.frozen_fd, self.state.requests.work_fd):
            if fd >= 0:
                close(fd)
        free(self.state)
        if self.grown != NULL:      # the engine frees the room that it writes to
            free(self.reading if self.engine.core.reports.reports == self.grown else self.grown)

    @property
    def report_fd(self) -> int:
        """Readable when there are reports."""
        return self.state.report_fd

    @property
    def epoll_fd(self) -> int:
        """Readable when run_due() has something to do, if no thread runs."""
        return self.state.epoll_fd

    @property
    def facts(self) -> PumpFacts:
        """The pump's counters."""
        cdef const Turn* turn = &self.state.turn
        return PumpFacts(
            turns=turn.turns, frames=turn.frames, dropped=turn.dropped, latest_ns=turn.latest_ns,
            reports_lost=self.engine.core.reports.lost,
            wake_tick_ns=self.engine.core.wake_tick_ns,
            scheduling=SCHEDULING_WORDS[self.state.scheduling],
            clones=self.state.clones.frames, clone_runs_failed=self.state.clones.failed,
            refused_by_filter=refusals_count(&self.state.refusals, &self.engine.core))

    # -- running

    def start(self, str scheduling="fifo") -> None:
        """Start the thread with `scheduling`: "fifo", "nice" or "normal", or the best possible."""
        if self.running:
            raise RuntimeError("the pump is running already")
        self.start_netlink(scheduling)
        self.state.stopping = False
        self.state.wanted_scheduling = SCHEDULING_WORDS.index(scheduling)
        if scheduling == "fifo":
            watch_budget()
        error = start_thread(&self.thread, pump_thread, self.state)
        if error:
            raise system_error(error)
        self.running = True

    def start_netlink(self, str scheduling="nice") -> None:
        """Start the thread for netlink alone: the pump's turns are run by run_due().

        `scheduling`: with "normal" it does not ask for priority. Without this thread run_due()
        waits for the kernel.
        """
        if self.state.requests.running:
            return
        self.state.requests.stopping = False
        self.state.requests.wants_priority = SCHEDULING_WORDS.index(scheduling) > 0
        error = start_thread(&self.netlink_thread, requests_thread, &self.state.requests)
        if error:
            raise system_error(error)
        self.state.requests.running = True

    def stop(self) -> None:
        """Stop the threads and wait for them, even for a request that the kernel is at.

        Orders that were not taken stay in the ring.
        """
        self.halt()

    cdef halt(self):
        cdef uint64_t one = 1
        if self.running:
            self.state.stopping = True
            self.wake()
            with nogil:
                pthread_join(self.thread, NULL)
            self.running = False
        if self.state.requests.running:
            self.state.requests.stopping = True
            write(self.state.requests.work_fd, &one, sizeof(one))
            with nogil:
                pthread_join(self.netlink_thread, NULL)
            self.state.requests.running = False

    def run_due(self) -> None:
        """Run one turn of a pump without a thread: call it when `epoll_fd` is readable.

        If there is no thread for netlink either, it waits for the answers to what this turn
        requested, and runs another one with them. A frozen pump does nothing.
        """
        if self.state.freezing == FREEZE_DONE:
            return
        with nogil:
            wait_and_run(self.state, 0)
            if not self.state.requests.running and requests_wait(&self.state.requests):
                requests_work_off(&self.state.requests)
                wait_and_run(self.state, 0)

    # -- handed over to another process: the stub says how

    def freeze(self, double timeout_s=1.0) -> list:
        """Drain and freeze the pump: (kind, lane, heard until, ns) of each receiver."""
        freeze(self.state, self.running, timeout_s)
        return marks_of(self.state)

    def resume(self) -> None:
        """Let a frozen pump go on, as after an absence."""
        resume(self.state, self.running)

    def state_size(self) -> int:
        """How many bytes export_state() may need; see Engine."""
        return self.engine.state_size()

    def export_state(self, buffer) -> int:
        """Write the state of a frozen pump and its engine into a buffer; how many bytes."""
        if self.running and self.state.freezing != FREEZE_DONE:
            raise RuntimeError("the pump is not frozen")
        return write_state(self.state, buffer)

    def assume_state(self, state, *, slots=None, interfaces=None):
        """Go on, before the start, from the state of another process: a Placed."""
        if self.running:
            raise RuntimeError("the pump is running")
        obey_all(self.state)
        while self.take_reports():
            pass
        return assume_state(self.state, state if isinstance(state, State) else State(state), slots,
                            interfaces)

    def carry_out_orders(self) -> None:
        """Carry out the orders given so far, before the start, without a turn."""
        if self.running:
            raise RuntimeError("the pump is running")
        obey_all(self.state)

    # -- orders

    cdef wake(self):
        cdef uint64_t one = 1
        write(self.state.order_fd, &one, sizeof(one))

    cdef push(self, uint8_t kind, uint32_t slot, uint16_t interface, int64_t value, void* pointer):
        cdef Order order
        memset(&order, 0, sizeof(Order))
        order.kind, order.slot, order.interface = kind, slot, interface
        order.value, order.pointer = value, pointer
        self.push_order(&order)

    cdef push_order(self, const Order* order):
        cdef PumpState* state = self.state
        if state.ring.tail - load_acquire(&state.ring.head) >= ORDERS:
            raise BufferError(f"more than {ORDERS} orders are waiting for the pump")
        state.ring.orders[state.ring.tail & (ORDERS - 1)] = order[0]
        store_release(&state.ring.tail, state.ring.tail + 1)

    def room(self) -> int:
        """How many orders fit into the ring before the pump takes some."""
        return ORDERS - <int>(self.state.ring.tail - load_acquire(&self.state.ring.head))

    def mark(self, bint when_settled=False) -> int:
        """Request a "done" report with the number returned, and wake the pump.

        It comes when every earlier order has been carried out; with `when_settled`, when the
        advertisements and changes of addresses that follow from them have been, too. Announcements
        may still wait for the pace of their interface.
        """
        self.next_mark += 1
        self.push(ORDER_FLUSH if when_settled else ORDER_MARK, 0, 0, self.next_mark, NULL)
        self.wake()
        return self.next_mark

    cdef keep(self, thing):
        """Keep the memory that an order points to until a later mark is done."""
        self.waiting.append((self.next_mark + 1, thing))

    def set_raw(self, int raw4_fd, int raw6_fd) -> None:
        """Set the raw sockets for unicast, IPv4 and IPv6; -1: none.

        Call it before adding hosts with peers. The pump uses them from the next order on, or
        earlier.
        """
        self.state.raw_fds[0], self.state.raw_fds[1] = raw4_fd, raw6_fd

    def send_clones(self, int program_fd, size_t address, int directory_fd) -> None:
        """Send large batches as clones, by a program and a memory as net/clones.py makes them.

        directory_fd: /sys/class/net. Call it before the pump runs; the caller keeps all of them
        until it has stopped.
        """
        clones_open(&self.state.clones, program_fd, <Run*>address, directory_fd,
                    self.state.send_fd)

    def set_pace(self, uint32_t rate, uint32_t at_once, uint32_t in_all=0) -> None:
        """Set the pace of announcements, before the pump runs; see Engine.set_pace."""
        if self.running:
            raise RuntimeError("the pump is running")
        self.engine.set_pace(rate, at_once, in_all)

    def sends_clones(self, interface=None) -> bool:
        """Whether large batches are clones: in general, or to one interface, by our number.

        An interface that was not tried yet counts as one that takes them.
        """
        cdef const Clones* clones = &self.state.clones
        if interface is None:
            return clones.on
        return clones.on and clones.trials[<uint32_t>interface].state != TRIAL_FAILED

    def cover(self, str coverage) -> None:
        """Set how many genuine sources are in the genuine lane: "nobody", "some" or "all".

        Frames dropped in the common lane postpone a take-over unless it is "all".
        """
        lanes_cover(&self.state.turn.lanes, COVERAGE_WORDS.index(coverage))

    def settle_sources(self, uint64_t count) -> None:
        """Tell that the filters know the first `count` reported sources, as far as there is room.

        Until they know all, frames dropped in the common lane postpone a take-over.
        """
        self.state.turn.lanes.sources_sorted = <uint32_t>count

    def add(self, uint32_t slot, PreparedHost prepared, int demotion=0, int track=0,
            bint hard=False, int maintenance=0) -> None:
        """Add a virtual host in a free slot; see Engine.add."""
        cdef Order order
        addition(&order, slot, demotion, track, hard, maintenance)
        order.pointer = prepared.give_away()
        self.push_order(&order)
        self.keep(prepared)

    def replace(self, uint32_t slot, PreparedHost prepared, int64_t grace_ns) -> None:
        """Change a virtual host in place; its old digest is accepted for another `grace_ns`."""
        self.push(ORDER_REPLACE, slot, 0, grace_ns, prepared.give_away())
        self.keep(prepared)

    def remove(self, uint32_t slot) -> None:
        """Remove a virtual host; its slot is free when its "released" report has come."""
        self.push(ORDER_REMOVE, slot, 0, 0, NULL)

    def set_interface(self, uint16_t number, *, int ifindex, bint up, bytes mac,
                      bytes source=None, bytes source6=None, bint forwards6=False,
                      bint renamed=False, bint announce=False) -> None:
        """Set the properties of an interface; see Engine.set_interface."""
        if number >= MAX_INTERFACES:
            raise IndexError(f"interface numbers are below {MAX_INTERFACES}")
        cdef bytes room = bytes(sizeof(Interface))
        cdef Interface* interface = <Interface*><char*>room
        fill_interface(interface, ifindex, up, mac, source, source6, forwards6, renamed, announce)
        self.push(ORDER_SET_INTERFACE, 0, number, 0, interface)
        self.keep(room)

    def demote(self, uint32_t slot, int demotion, str by="operator", *, bint hard=False) -> None:
        """Set a host's demotion by one reason; see Engine.demote."""
        cdef Order order
        demotion_order(&order, slot, demotion, by, hard)
        self.push_order(&order)

    def tell_groups(self) -> None:
        """Request a report of every group that has members."""
        self.push(ORDER_TELL_GROUPS, 0, 0, 0, NULL)

    def hand_over(self, uint32_t slot, str why="yielded") -> None:
        """Let a MASTER give its addresses up and resign; see Engine."""
        cdef Order order
        hand_over_order(&order, slot, why)
        self.push_order(&order)

    def take_over(self, uint32_t slot) -> None:
        """Let a BACKUP take over from its master; see Engine."""
        self.push(ORDER_PREEMPT, slot, 0, 0, NULL)

    def withhold(self, uint32_t slot, bint withheld) -> None:
        """Set whether a host takes no part while its machine is in maintenance."""
        self.push(ORDER_WITHHOLD, slot, 0, withheld, NULL)

    def bar(self, uint32_t slot, bint barred) -> None:
        """Set whether another process of this machine has the host."""
        self.push(ORDER_BAR, slot, 0, barred, NULL)

    def announce(self, uint32_t slot) -> None:
        """Announce now: the up script of the host has run."""
        self.push(ORDER_ANNOUNCE, slot, 0, 0, NULL)

    def verify(self, uint32_t slot) -> None:
        """Request a check of the addresses of the host's interface."""
        self.push(ORDER_VERIFY, slot, 0, 0, NULL)

    def set_own_source(self, uint32_t slot, *, bint missing=False, bint missing6=False) -> None:
        """Set which of the host's configured sources are not addresses of this machine."""
        self.push(ORDER_OWN_SOURCE, slot, 0, source_flags(missing, missing6), NULL)

    def adopt(self, uint32_t slot, bytes address, uint8_t prefixlen) -> None:
        """Adopt an address of the host that the interface has, with our mark, from before."""
        cdef bytes room = bytes(sizeof(Address))
        fill_address(<Address*><char*>room, address, prefixlen)
        self.push(ORDER_ADOPT, slot, 0, 0, <char*>room)
        self.keep(room)

    def set_by_route(self, uint32_t slot, bint by_route) -> None:
        """Set whether the host's IPv4 addresses are added as local routes; see Engine."""
        self.push(ORDER_BY_ROUTE, slot, 0, by_route, NULL)

    def lose_address(self, uint32_t slot, *, bint demoted=True) -> None:
        """Let a MASTER resign whose addresses are removed repeatedly, and demote it."""
        self.push(ORDER_LOSE_ADDRESS, slot, 0, demoted, NULL)

    def resign_all(self) -> None:
        """Shut down: every MASTER removes its addresses and resigns."""
        self.push(ORDER_RESIGN_ALL, 0, 0, 0, NULL)

    # -- reports and snapshots

    @property
    def report_capacity(self) -> int:
        """How many reports fit into the ring, once the orders so far are carried out."""
        return (self.reading_mask if self.grown == NULL else self.grown_mask) + 1

    def grow_reports(self, uint32_t report_capacity) -> None:
        """Enlarge the ring of reports to a power of two; a smaller one changes nothing.

        Only when the reports of an earlier call have been taken up to a mark after it.
        """
        if report_capacity <= self.report_capacity:
            return
        if self.grown != NULL or report_capacity & (report_capacity - 1):
            raise ValueError("report_capacity: must be a power of two, with no other on its way")
        cdef Report* room = <Report*>calloc(report_capacity, sizeof(Report))
        if room == NULL:
            raise MemoryError("reports")
        try:
            self.push(ORDER_GROW_REPORTS, 0, 0, report_capacity, room)
        except BufferError:
            free(room)
            raise
        self.grown, self.grown_mask = room, report_capacity - 1

    def take_reports(self, int limit=1000) -> list:
        """At most `limit` reports, oldest first; their classes are in engine/reports.py."""
        cdef Core* core = &self.engine.core
        cdef Report* report
        cdef uint64_t head = core.reports.head, end, value
        cdef list reports = []
        # Read the wake-up first: one that comes after this is for reports beyond `end`.
        read(self.state.report_fd, &value, sizeof(value))
        end = load_acquire(&core.reports.tail)
        if end - head > <uint64_t>limit:
            end = head + <uint64_t>limit
            self.wake_reader()
        while head != end:
            if self.grown != NULL and head == load_acquire(&core.reports.grown_at):
                self.read_grown()
            report = &self.reading[head & self.reading_mask]
            if report.kind == RELEASED:
                free(<void*>report.value)
            elif report.kind == DONE:
                while self.waiting and self.waiting[0][0] <= <int64_t>report.value:
                    self.waiting.popleft()
            reports.append(report_object(report))
            head += 1
        store_release(&core.reports.head, head)
        return reports

    cdef read_grown(self):
        """Reads from the larger room from now on: all reports in the former one are taken."""
        free(self.reading)
        self.reading, self.reading_mask, self.grown = self.grown, self.grown_mask, NULL

    cdef wake_reader(self):
        cdef uint64_t one = 1
        write(self.state.report_fd, &one, sizeof(one))

    def snapshot(self, uint32_t first, uint32_t count):
        """Order a copy of hosts `first` to `first + count`: a Snapshot, filled at the next mark."""
        cdef Snapshot snapshot = Snapshot(count, first, False)
        self.push(ORDER_SNAPSHOT, first, 0, count, &snapshot.copy)
        self.keep(snapshot)
        return snapshot

    def snapshot_interfaces(self, uint32_t count, uint32_t first=0):
        """Order a copy of `count` interfaces' counters and rejections, from number `first` on."""
        cdef Snapshot snapshot = Snapshot(count, first, True)
        self.push(ORDER_SNAPSHOT_INTERFACES, first, 0, count, snapshot.of_interfaces)
        self.keep(snapshot)
        return snapshot

    def tally(self, Tallies tallies, uint32_t first=0, uint32_t count=0) -> None:
        """Order that hosts from slot `first` on are added; count 0: that the figures are copied."""
        self.push(ORDER_TALLY, first, 0, count, &tallies.tally)
        self.keep(tallies)

    def records(self, uint64_t first, uint32_t count):
        """Order a copy of `count` records from position `first` on; filled at the next mark."""
        cdef Records records = Records(first, count)
        self.push(ORDER_COPY_RECORDS, 0, 0, 0, &records.copy)
        self.keep(records)
        return records

    # -- before the start, while the engine holds nothing

    def remove_addresses(self, addresses) -> list:
        """Remove addresses, [(ifindex, 4 or 16 bytes, prefixlen)], now; their errnos in order.

        prefixlen None: a local route of ours to this IPv4 address. Only while no thread runs,
        since it uses the netlink socket.
        """
        if self.running or self.state.requests.running:
            raise RuntimeError("the pump is running")
        return netlink_remove(&self.state.requests.netlink, list(addresses))
