"""The engine's Python face: virtual hosts prepared from plain values, orders, reports.

`Engine` is the pure engine as a Python object: time and frames in, actions out. Tests, tools and
the simulator use it as it stands; the pump works on its C core directly. Knows no socket, clock
or file.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from carp_fast._actions cimport (
    address_changed, addresses_done, advertisement_sent, announced, announcement_frames,
    next_advertisement, next_announcement, next_change, wanted_change)
from carp_fast._auth cimport KEY_LENGTH, auth_prepare
from carp_fast._core cimport (
    Interface, MAX_INTERFACES as _MAX_INTERFACES, MAX_VIRTUAL_HOSTS as _MAX_VIRTUAL_HOSTS,
    ORDER_ADD, ORDER_ANNOUNCE, ORDER_DEMOTE, ORDER_LOSE_ADDRESS, ORDER_REMOVE, ORDER_REPLACE,
    ORDER_RESIGN_ALL, ORDER_SET_INTERFACE, ORDER_VERIFY, Order, RELEASED, Report, TICK_NS,
    engine_close, engine_expire, engine_foresee, engine_next_deadline, engine_open, engine_receive,
    engine_stall)
from carp_fast._orders cimport obey
from carp_fast._vhid cimport (
    ALTERNATE_KEYS, ANNOUNCE_ON_ORDER, Address, AlternateKey, BSD_MAC, Block, FAILED, FOREIGN, HELD,
    IGNORE_LINK, IN_USE, MANAGE_ADDRESSES, OWN_SOURCE, Output, PREEMPT_ALWAYS, PREEMPT_DEMOTED,
    PREEMPT_NEVER, RETIRED, SECOND_NS, SEND_DEMOTED, SIGNED, UCARP_MAC, VirtualHost, vhid_advskew)
from carp_fast._wheel cimport NOBODY
from carp_fast._wire cimport ADVERTISEMENT4_LENGTH, ETHERNET_LENGTH, IPV4_LENGTH, VERDICTS
from carp_fast._wire cimport wire_build_arp

from carp_fast._core import REPORT_WORDS
from carp_fast._vhid import REASON_WORDS, STATE_WORDS
from carp_fast._wire import VERDICT_WORDS

MAX_VIRTUAL_HOSTS = _MAX_VIRTUAL_HOSTS
MAX_INTERFACES = _MAX_INTERFACES
HOST_BYTES = sizeof(VirtualHost)
# Nobody's address and everybody's never enter a digest.
NEVER_SIGNED = {b"\0\0\0\0", b"\xff\xff\xff\xff"}
ADVERTISE_MAC = {"interface": 0, "ucarp": UCARP_MAC, "bsd": BSD_MAC}
PREEMPT = {False: PREEMPT_NEVER, True: PREEMPT_ALWAYS, "demoted": PREEMPT_DEMOTED}


# ------------------------------------------------------------------------------- preparing a host

cdef Block* new_block(uint32_t addresses, uint32_t outputs, uint32_t alternates) except NULL:
    """One allocation for a block and all that it points to, zeroed."""
    cdef size_t size = (sizeof(Block) + addresses * sizeof(Address) + outputs * sizeof(Output)
                        + alternates * sizeof(AlternateKey))
    cdef Block* block = <Block*>calloc(1, size)
    if block == NULL:
        raise MemoryError("virtual host")
    block.alternates = <AlternateKey*>(block + 1)           # the widest alignment first
    block.outputs = <Output*>(block.alternates + alternates)
    block.addresses = <Address*>(block.outputs + outputs)
    block.address_count, block.output_count = addresses, outputs
    block.alternate_count = alternates
    return block


def multicast_mac(bytes group) -> bytes:
    """The Ethernet address of a 4-byte IPv4 multicast `group` (RFC 1112)."""
    return bytes((1, 0, 0x5E, group[1] & 0x7F, group[2], group[3]))


cdef class PreparedHost:
    """A virtual host as the engine wants it, ready to be added or to replace another.

    interface: the engine's number; addresses, unsigned_addresses, retired_addresses: sequences
    of (4 bytes, prefixlen); the unsigned stay out of the digest, the retired are only removed;
    passphrase: 1 to 20 bytes; destination: 4 bytes; source: 4 bytes, or None for the
    interface's; preempt: False, True or "demoted"; times in ns; counter: what the first
    advertisement's counter exceeds; advertise_mac: "interface", "ucarp" or "bsd" (virtual MACs);
    broadcast: to ff:ff:ff:ff:ff:ff, whatever the group; alternates: room to accept digests that
    are given up.
    Raises ValueError for what does not fit.
    """

    def __cinit__(self):
        memset(&self.host, 0, sizeof(VirtualHost))

    def __init__(self, *, uint16_t interface, uint8_t vhid, addresses, bytes passphrase,
                 uint8_t advbase=1, uint8_t advskew=0, uint8_t dead_ratio=3, preempt="demoted",
                 unsigned_addresses=(), retired_addresses=(),
                 bytes destination=b"\xe0\x00\x00\x12", bytes source=None,
                 bint ignore_link_state=False, bint manage_addresses=True,
                 bint announce_on_order=False, int64_t startup_delay_ns=0,
                 int64_t preempt_delay_ns=0, uint8_t announce_count=1,
                 int64_t announce_interval_ns=0, int64_t announce_refresh_ns=0,
                 uint64_t counter=0, bint alternates=False, str advertise_mac="interface",
                 bint broadcast=False):
        cdef VirtualHost* host = &self.host
        if not 1 <= vhid or not addresses or not 1 <= len(passphrase) <= KEY_LENGTH:
            raise ValueError("a virtual host has a vhid, an address and a passphrase")
        if interface >= _MAX_INTERFACES:
            raise ValueError(f"interface out of range: numbers are below {_MAX_INTERFACES}")
        if len(destination) != 4 or (source is not None and len(source) != 4):
            raise ValueError("an IPv4 address has 4 bytes")
        if not dead_ratio or not announce_count:
            raise ValueError("dead_ratio and announce_count are at least 1")
        host.interface, host.vhid = interface, vhid
        host.advbase, host.advskew, host.dead_ratio = advbase, advskew, dead_ratio
        host.preempt = PREEMPT[preempt]
        host.startup_delay_ms = startup_delay_ns // 1000000
        host.preempt_delay_ms = preempt_delay_ns // 1000000
        host.announce_count = announce_count
        host.announce_interval_ns = announce_interval_ns
        host.announce_refresh_ns = announce_refresh_ns
        host.counter = counter
        host.flags |= IGNORE_LINK if ignore_link_state else 0
        host.flags |= MANAGE_ADDRESSES if manage_addresses else 0
        host.flags |= ANNOUNCE_ON_ORDER if announce_on_order else 0
        host.flags |= ADVERTISE_MAC[advertise_mac]
        if source is not None:
            host.flags |= OWN_SOURCE
            memcpy(host.source, <const char*>source, 4)
        self.fill_block(addresses, unsigned_addresses, retired_addresses, destination, alternates)
        if broadcast:
            memset(host.block.outputs[0].destination_mac, 0xff, 6)
        self.prepare_key(passphrase, addresses)

    cdef fill_block(self, addresses, free_addresses, retired, bytes destination,
                    bint alternates):
        cdef Block* block = new_block(len(addresses) + len(free_addresses) + len(retired), 1,
                                      ALTERNATE_KEYS if alternates else 0)
        cdef Output* output = &block.outputs[0]
        cdef Address* address = block.addresses
        cdef bytes data, mac = multicast_mac(destination)
        self.host.block = block
        output.family = 4
        output.length = ADVERTISEMENT4_LENGTH
        output.carp_at = ETHERNET_LENGTH + IPV4_LENGTH
        memcpy(output.destination, <const char*>destination, 4)
        memcpy(output.destination_mac, <const char*>mac, 6)
        for some, flag in ((addresses, SIGNED), (free_addresses, 0), (retired, RETIRED)):
            for data, prefixlen in some:
                if len(data) != 4:
                    raise ValueError("an IPv4 address has 4 bytes")
                memcpy(address.bytes, <const char*>data, 4)
                address.family, address.prefixlen, address.flags = 4, prefixlen, flag
                address += 1

    cdef prepare_key(self, bytes passphrase, addresses):
        """Digest: version, type, vhid, then the addresses ascending, no duplicates."""
        cdef bytes message = bytes((2, 1, self.host.vhid)) + b"".join(
            sorted({data for data, _ in addresses} - NEVER_SIGNED))
        cdef bytes secret = passphrase.ljust(KEY_LENGTH, b"\0")
        auth_prepare(&self.host.key, secret, message, <uint32_t>len(message))

    cdef VirtualHost* give_away(self) except NULL:
        """The host for one order; its block is the engine's from now on."""
        if self.given:
            raise ValueError("this prepared host was given away already")
        self.given = True
        return &self.host

    def __dealloc__(self):
        if not self.given:
            free(self.host.block)


# --------------------------------------------------------------------------------- reports, status

cdef object report_tuple(const Report* report):
    """(kind, at_ns, slot or None, state, previous, reason, peer, advbase, advskew, mac, value,
    detail): words, a 4-byte peer or None, numbers."""
    return (
        REPORT_WORDS[report.kind], report.at_ns,
        None if report.slot == NOBODY else report.slot, STATE_WORDS[report.state],
        STATE_WORDS[report.previous], REASON_WORDS[report.reason],
        (<const char*>report.peer)[:4] if report.peer_family else None,
        report.peer_advbase, report.peer_advskew, (<const char*>report.mac)[:6],
        report.value, report.detail)


cdef dict host_dict(const VirtualHost* host):
    """A host's changing part as plain values; times in ns of the engine's clock."""
    cdef dict counters = {
        "advertisements_sent": host.sent, "advertisements_heard": host.heard,
        "announcements_sent": host.announced, "send_errors": host.send_errors,
        "became_master": host.became_master, "addresses_restored": host.addresses_restored,
        "duplicate_source": host.duplicates}
    cdef int i
    for i in range(1, VERDICTS):
        counters[VERDICT_WORDS[i]] = host.rejected[i]
    return {
        "interface": host.interface, "vhid": host.vhid, "state": STATE_WORDS[host.state],
        "reason": REASON_WORDS[host.reason], "since_ns": host.since_ns,
        "advbase": host.advbase, "advskew": host.advskew,
        "effective_advskew": vhid_advskew(host), "demotion": host.demotion,
        "sends_failing": bool(host.flags & SEND_DEMOTED),
        "source": (<const char*>host.source)[:4], "held": host.held,
        "peer": (<const char*>host.peer)[:4] if host.peer_family else None,
        "peer_advbase": host.peer_advbase, "peer_advskew": host.peer_advskew,
        "heard_ns": host.heard_ns, "deadline_ns": host.deadline_ns, "counters": counters}


cdef dict interface_dict(const Interface* interface):
    """An interface's counters: those of its hosts, and the frames rejected, by word."""
    cdef dict counters = {
        "advertisements_sent": interface.sent, "advertisements_heard": interface.heard,
        "announcements_sent": interface.announced, "send_errors": interface.send_errors,
        "became_master": interface.became_master}
    cdef int i
    for i in range(1, VERDICTS):
        counters[VERDICT_WORDS[i]] = interface.rejected[i]
    return counters


# ------------------------------------------------------------------------------------ the engine

cdef class Engine:
    """All virtual hosts of one process, without sockets: every call takes the time, in ns.

    Slots (below MAX_VIRTUAL_HOSTS) and interface numbers (below MAX_INTERFACES) are chosen by
    the caller.
    """

    def __cinit__(self, uint32_t report_capacity=8192):
        if report_capacity < 4096 or report_capacity & (report_capacity - 1):
            raise ValueError("report_capacity: a power of two from 4096 on")
        engine_open(&self.core, report_capacity)

    def __dealloc__(self):
        engine_close(&self.core)

    @property
    def wake_tick_ns(self) -> int:
        """Advertisements are due at multiples of this."""
        return self.core.wake_tick_ns

    @wake_tick_ns.setter
    def wake_tick_ns(self, int64_t value):
        if value < TICK_NS:
            raise ValueError(f"a wake tick has at least {TICK_NS} ns")
        self.core.wake_tick_ns = value

    @property
    def reports_lost(self) -> int:
        """Reports that found the ring full."""
        return self.core.reports.lost

    cdef give(self, uint8_t kind, uint32_t slot, int64_t value, void* pointer, int64_t now_ns):
        cdef Order order
        memset(&order, 0, sizeof(order))
        order.kind, order.slot, order.value, order.pointer = kind, slot, value, pointer
        obey(&self.core, &order, now_ns)

    def set_interface(self, uint16_t number, int64_t now_ns, *, int ifindex=1, bint up=True,
                      bytes mac=b"\x02\0\0\0\0\x01", bytes source=None) -> None:
        """Tell what an interface is like now; ifindex 0: it does not exist."""
        cdef Interface interface
        cdef Order order
        if number >= _MAX_INTERFACES:
            raise IndexError(f"interface numbers are below {_MAX_INTERFACES}")
        if len(mac) != 6 or (source is not None and len(source) != 4):
            raise ValueError("a MAC has 6 bytes and an IPv4 address 4")
        memset(&interface, 0, sizeof(interface))
        memset(&order, 0, sizeof(order))
        interface.ifindex, interface.up = ifindex, up
        interface.has_source = source is not None
        memcpy(interface.mac, <const char*>mac, 6)
        if source is not None:
            memcpy(interface.source, <const char*>source, 4)
        order.kind, order.interface, order.pointer = ORDER_SET_INTERFACE, number, &interface
        obey(&self.core, &order, now_ns)

    def add(self, uint32_t slot, PreparedHost prepared, int64_t now_ns) -> None:
        """Add a virtual host in a free slot; it takes part once its interface is ready."""
        if slot >= _MAX_VIRTUAL_HOSTS or self.core.hosts[slot].flags & IN_USE:
            raise IndexError(f"slot {slot} is in use or not below {_MAX_VIRTUAL_HOSTS}")
        self.give(ORDER_ADD, slot, 0, prepared.give_away(), now_ns)

    def replace(self, uint32_t slot, PreparedHost prepared, int64_t now_ns, *,
                int64_t grace_ns=0) -> None:
        """Change a host in place; its old digest is accepted for `grace_ns` more."""
        self.used(slot)
        if self.core.hosts[slot].interface != prepared.host.interface:
            raise ValueError("a host keeps its interface")
        self.give(ORDER_REPLACE, slot, grace_ns, prepared.give_away(), now_ns)

    def remove(self, uint32_t slot, int64_t now_ns) -> None:
        """Take a host out; a MASTER removes its addresses and resigns first."""
        self.give(ORDER_REMOVE, slot, 0, NULL, now_ns)

    def resign_all(self, int64_t now_ns) -> None:
        """Shutdown: every host goes to INIT, every MASTER resigns."""
        self.give(ORDER_RESIGN_ALL, 0, 0, NULL, now_ns)

    def demote(self, uint32_t slot, int demotion, int64_t now_ns) -> None:
        """Add `demotion` to the host's advskew, at most 240 in all."""
        self.give(ORDER_DEMOTE, slot, demotion, NULL, now_ns)

    def announce(self, uint32_t slot, int64_t now_ns) -> None:
        """The up script has run: announce now."""
        self.give(ORDER_ANNOUNCE, slot, 0, NULL, now_ns)

    def verify(self, uint32_t slot, int64_t now_ns) -> None:
        """Look after the host's addresses: somebody removed one."""
        self.give(ORDER_VERIFY, slot, 0, NULL, now_ns)

    def lose_address(self, uint32_t slot, int64_t now_ns) -> None:
        """Its addresses are removed too often: a MASTER gives up."""
        self.give(ORDER_LOSE_ADDRESS, slot, 0, NULL, now_ns)

    def receive(self, uint16_t interface, bytes frame, int64_t now_ns) -> str:
        """Take in one frame; returns its verdict's word, "not_carp" for other protocols."""
        cdef int verdict = engine_receive(&self.core, interface, frame, <uint32_t>len(frame),
                                          now_ns)
        return VERDICT_WORDS[verdict] if verdict < VERDICTS else "not_carp"

    def receive_rounds(self, frames, int64_t now_ns, int rounds) -> int:
        """Benchmark: take in every (interface, frame) of `frames` `rounds` times; how many OK."""
        cdef list kept = list(frames)
        cdef uint32_t count = len(kept), i, good = 0
        cdef int r
        cdef const uint8_t** data = <const uint8_t**>calloc(count, sizeof(void*))
        cdef uint16_t* where = <uint16_t*>calloc(count, sizeof(uint16_t))
        cdef uint32_t length = len(kept[0][1])
        for i in range(count):
            where[i] = kept[i][0]
            data[i] = <const uint8_t*><const char*>(<bytes>kept[i][1])
        with nogil:
            for r in range(rounds):
                for i in range(count):
                    if i + 4 < count:
                        engine_foresee(&self.core, where[i + 4], data[i + 4], length)
                    good += engine_receive(&self.core, where[i], data[i], length, now_ns) == 0
        free(data)
        free(where)
        return good

    def advertise_rounds(self, int64_t now_ns, int rounds) -> int:
        """Benchmark: `rounds` wake ticks of expiring and sealing; how many advertisements."""
        cdef uint32_t slot, sealed = 0
        cdef int r
        with nogil:
            for r in range(rounds):
                now_ns += self.core.wake_tick_ns
                engine_expire(&self.core, now_ns, now_ns)
                while True:
                    slot = next_advertisement(&self.core)
                    if slot == NOBODY:
                        break
                    advertisement_sent(&self.core, slot, 0, now_ns)
                    sealed += 1
        return sealed

    def expire(self, int64_t now_ns, heard_until_ns=None) -> None:
        """Let every deadline up to `now_ns` happen (master-down up to `heard_until_ns`)."""
        engine_expire(&self.core, now_ns, now_ns if heard_until_ns is None else heard_until_ns)

    def stall(self, int64_t now_ns) -> None:
        """Frames may have been missed: every BACKUP waits a whole master-down time from now."""
        engine_stall(&self.core, now_ns)

    def next_deadline_ns(self):
        """When expire() has something to do next, at the latest; None when never."""
        cdef int64_t deadline_ns = engine_next_deadline(&self.core)
        return None if deadline_ns < 0 else deadline_ns

    def take_actions(self, int64_t now_ns, errors=None) -> list:
        """Carry out all that is queued, as a network without faults would, and say what it was.

        Returns (action, slot, ...) in order: ("ADVERTISE" or "RESIGN", slot, frame),
        ("ADD_ADDRESSES" or "REMOVE_ADDRESSES", slot, [4 bytes, ...]), ("ANNOUNCE", slot,
        [frame, ...]). `errors`: {4-byte address: errno} that the kernel would answer.
        """
        cdef list actions = []
        cdef uint32_t slot
        cdef Output* output
        cdef uint32_t i
        while True:
            slot = next_advertisement(&self.core)
            if slot != NOBODY:
                for i in range(self.core.hosts[slot].block.output_count):
                    output = &self.core.hosts[slot].block.outputs[i]
                    frame = (<const char*>output.frame)[:output.length]
                    kind = "RESIGN" if frame[output.carp_at + 2] == 255 else "ADVERTISE"
                    actions.append((kind, slot, frame))
                advertisement_sent(&self.core, slot, 0, now_ns)
                continue
            slot = next_change(&self.core)
            if slot != NOBODY:
                self.change_addresses(slot, now_ns, errors or {}, actions)
                continue
            slot = next_announcement(&self.core)
            if slot == NOBODY:
                return actions
            actions.append(("ANNOUNCE", slot, self.arp_frames(slot)))
            announced(&self.core, slot)

    cdef change_addresses(self, uint32_t slot, int64_t now_ns, dict errors, list actions):
        cdef VirtualHost* host = &self.core.hosts[slot]
        cdef list added = [], removed = []
        cdef uint32_t i
        cdef int wanted
        for i in range(host.block.address_count):
            wanted = wanted_change(host, &host.block.addresses[i])
            if wanted:
                data = (<const char*>host.block.addresses[i].bytes)[:4]
                (added if wanted > 0 else removed).append(data)
                address_changed(&self.core, slot, i, wanted > 0, errors.get(data, 0), now_ns)
        if removed:
            actions.append(("REMOVE_ADDRESSES", slot, removed))
        if added:
            actions.append(("ADD_ADDRESSES", slot, added))
        addresses_done(&self.core, slot, now_ns)

    cdef list arp_frames(self, uint32_t slot):
        cdef VirtualHost* host = &self.core.hosts[slot]
        cdef uint8_t frame[42]
        cdef list frames = []
        cdef Address* address
        cdef uint32_t i
        for i in range(host.block.address_count * announcement_frames(host)):
            address = &host.block.addresses[i % host.block.address_count]
            if not address.flags & RETIRED:
                wire_build_arp(frame, self.core.interfaces[host.interface].mac, address.bytes)
                frames.append((<const char*>frame)[:42])
        return frames

    def take_reports(self) -> list:
        """All reports so far, oldest first; see report_tuple for the fields."""
        cdef list reports = []
        cdef Report* report
        while self.core.reports.head != self.core.reports.tail:
            report = &self.core.reports.reports[self.core.reports.head & self.core.reports.mask]
            if report.kind == RELEASED:
                free(<void*>report.value)
            reports.append(report_tuple(report))
            self.core.reports.head += 1
        return reports

    def host(self, uint32_t slot) -> dict:
        """A host's status; see host_dict."""
        if slot >= _MAX_VIRTUAL_HOSTS:
            raise IndexError(f"slots are below {_MAX_VIRTUAL_HOSTS}")
        return host_dict(&self.core.hosts[slot])

    cdef used(self, uint32_t slot):
        if slot >= _MAX_VIRTUAL_HOSTS or not self.core.hosts[slot].flags & IN_USE:
            raise IndexError(f"slot {slot} is not in use")

    def interface_counters(self, uint16_t number) -> dict:
        """Advertisements heard and frames rejected on an interface, by word."""
        if number >= _MAX_INTERFACES:
            raise IndexError(f"interface numbers are below {_MAX_INTERFACES}")
        return interface_dict(&self.core.interfaces[number])
