"""The status document that `carp-fast status --json` prints, built from the pump's snapshots.

Must not change anything. Programs read it: its keys, words and units are a contract.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from carp_fast import __version__
from carp_fast.config.model import is_function
from carp_fast.control.documents import (
    HELPER_RUNS,
    ControlStatus,
    DaemonStatus,
    Demotion,
    Heard,
    InterfaceStatus,
    MaintenanceProgress,
    MaintenanceState,
    Peer,
    StatusHead,
    Summary,
    TrackStatus,
    UpgradesStatus,
    VirtualHostStatus,
)
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import StatusRequest
from carp_fast.control.slices import document_slices
from carp_fast.daemon.explain_text import problems
from carp_fast.daemon.network import NO_SOURCES
from carp_fast.daemon.receiving import ReceivePath
from carp_fast.daemon.reports import known_address, rfc3339
from carp_fast.daemon.sending import SendPath
from carp_fast.daemon.table import BACKUP, INIT, MASTER, STATES, Hosts, every_address
from carp_fast.daemon.upgrades import Upgrades
from carp_fast.engine.copies import HostCopy, SourceCopy
from carp_fast.inet import address_text, mac_text
from carp_fast.pump._pump import HOSTS_A_SNAPSHOT

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.network import Network
    from carp_fast.daemon.orders import Orders
    from carp_fast.daemon.reports import Reports
    from carp_fast.daemon.tracked import Tracked
    from carp_fast.pump._pump import Pump


# The engine reports a wrong digest once a minute while there are some.
WRONG_DIGEST_LASTS_NS = 120_000_000_000
SECOND_NS = 1_000_000_000
RESIGNED = 255  # advbase of a resignation
# A host is still MASTER if it was heard within this many of its own intervals: by a MASTER, which
# it ought to have heard by then, and by a BACKUP, which hears both sides of every hand-over.
MASTER_INTERVALS, BACKUP_INTERVALS = 3, 1.5
SPANS_A_SLICE = 32  # orders to the pump, which has room for 4,096


MaintenanceNow = tuple[MaintenanceState | None, MaintenanceProgress | None]
Copied = tuple[int, HostCopy]  # a slot, and the copy of its virtual host


def seconds_ago(at_ns: int, now_ns: int) -> float:
    return round((now_ns - at_ns) / 1e9, 3)


def warnings(fields: HostCopy, wrong_digest_ns: int | None, now_ns: int) -> dict[str, str]:
    """What is wrong on the segment of a virtual host now, by word: a sentence.

    `wrong_digest_ns`: when a wrong digest was last reported, None: never.
    """
    found = {}
    lasts_ns = max(WRONG_DIGEST_LASTS_NS, 3 * fields.interval_ns)
    if wrong_digest_ns is not None and now_ns - wrong_digest_ns < lasts_ns:
        word = "other_master" if fields.state == "MASTER" else "bad_auth"
        count = fields.counters["bad_auth"]
        found[word] = f"{count:,} advertisements with another passphrase or address list"
    other = second_master(fields, now_ns)
    if other is not None:
        name = address_text(other.source)
        if any(other.mac):  # unknown with a raw socket
            name += f" ({mac_text(other.mac)})"
        ago_s = seconds_ago(other.heard_ns, now_ns)
        found["second_master"] = f"{name} is MASTER, too, heard {ago_s:.1f} s ago"
    if fields.duplicate_source is not None:
        mac = fields.duplicate_source
        host_mac = f" ({mac_text(mac)})" if any(mac) else ""  # unknown with a raw socket
        found["duplicate_source"] = f"another host{host_mac} advertises from our source"
    return found


def hooks_fail(host: VirtualHost, helper: str | None) -> dict[str, str]:
    """A warning, by its word, if hooks of a virtual host cannot be run; `helper`: its state."""
    settings = host.settings
    programs = [each for each in (settings.up, settings.down) if each and not is_function(each)]
    if helper in (None, HELPER_RUNS) or not programs:
        return {}
    text = f"its hooks cannot be run: the privileged helper has ended ({helper})"
    return {"hooks_fail": f"{text}; a restart starts it again"}


def holds_routes(fields: HostCopy) -> bool:
    """Whether IPv4 addresses are held by local routes, or will be by a host that holds none."""
    return fields.holds_routes if fields.held else fields.by_route


def second_master(fields: HostCopy, now_ns: int) -> SourceCopy | None:
    """A host that advertises although there is another MASTER; None if there is none.

    For a MASTER it is one that was heard within the last MASTER_INTERVALS of its own intervals, and
    later than half of one after the take-over: the host before it advertises once more as it gives
    way. For a BACKUP it is one that was heard recently and is not the master of its family. After a
    hand-over two hosts may have advertised within that time.
    """
    if fields.state == "INIT":
        return None
    master = fields.state == "MASTER"
    for each in fields.peers:
        if each.source in (fields.source, fields.source6) or each.advbase == RESIGNED:
            continue
        interval_ns = (each.advbase + each.advskew / 256) * SECOND_NS
        lasts_ns = (MASTER_INTERVALS if master else BACKUP_INTERVALS) * interval_ns
        if now_ns - each.heard_ns > lasts_ns:
            continue
        if each.heard_ns > fields.since_ns + interval_ns / 2 if master else not each.current:
            return each
    return None


def demotion(fields: HostCopy) -> Demotion:
    """The demotion of a host by reasons; in dialect "openbsd" also the byte that is sent."""
    openbsd = fields.dialect == "openbsd"
    sent = fields.demote if openbsd else msgspec.UNSET
    return Demotion(sum(fields.demotions.values()), fields.demotions, sent)


def heard(source: SourceCopy, now_ns: int) -> Heard:
    """A host that advertised. Its MAC is None with a raw socket."""
    return Heard(
        source=address_text(source.source),
        mac=mac_text(source.mac) if any(source.mac) else None,
        advbase=source.advbase,
        advskew=source.advskew,
        demote=source.demote,
        counter=source.counter,
        heard_ago_s=seconds_ago(source.heard_ns, now_ns),
        current=source.current,
    )


def spans(slots: Iterable[int]) -> Iterator[list[tuple[int, int]]]:
    """Ascending slots as (first, number) of adjacent ones, a slice at a time."""
    slice_: list[tuple[int, int]] = []
    for slot in slots:
        if slice_ and slot == sum(slice_[-1]):
            slice_[-1] = (slice_[-1][0], slice_[-1][1] + 1)
        else:
            slice_.append((slot, 1))
        if len(slice_) == SPANS_A_SLICE or sum(count for _, count in slice_) == HOSTS_A_SNAPSHOT:
            yield slice_
            slice_ = []
    if slice_:
        yield slice_


class Status:
    """Builds the document; the pump copies each virtual host as a whole, in slices.

    `receive`: the receive path, and why; `sending`: the send path; `in_use`: by slot, the process
    that has a virtual host instead; `demotions`: returns the operator's, by their reasons;
    `demotions_of`: those of one virtual host; `maintenance`: whether this host is in it, and the
    way there or back; `tracked`: what virtual hosts track.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        network: Network,
        reports: Reports,
        *,
        receive: ReceivePath | None = None,
        sending: SendPath | None = None,
        in_use: Mapping[int, str] | None = None,
        demotions: Callable[[], Mapping[str, int]] = dict,
        demotions_of: Callable[[VirtualHost], Mapping[str, int]] = lambda host: {},
        maintenance: Callable[[], MaintenanceNow] = lambda: (None, None),
        tracked: Tracked | None = None,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._pump: Pump = orders.pump
        self._network = network
        self._reports = reports
        self.started_at_ns = time.monotonic_ns()
        self._receive = ReceivePath() if receive is None else receive
        self._sending = SendPath("packet") if sending is None else sending
        self._in_use = {} if in_use is None else in_use
        self.demotions = demotions
        self.demotions_of = demotions_of
        self.maintenance = maintenance
        self.control: Callable[[], ControlStatus | None] = lambda: None  # of the control socket
        self.helper: Callable[[], str | None] = lambda: None  # of the privileged helper
        self._tracked = tracked
        self.upgrades: Callable[[], Upgrades] = Upgrades

    def _upgrades(self) -> UpgradesStatus | None:
        last = self.upgrades()
        if not last.count:
            return None
        at = rfc3339(last.at_ns)
        still_s = round(last.still_s, 6)
        return UpgradesStatus(last.count, at, last.from_version, still_s, last.reload)

    def tracks_of(self, host: VirtualHost) -> list[TrackStatus]:
        """The tracks that a virtual host names."""
        return [] if self._tracked is None else self._tracked.status_for(host)

    async def snapshots(self, slots: Iterable[int]) -> AsyncIterator[list[Copied]]:
        """Copies of the virtual hosts in these ascending slots, one slice after the other.

        An advertisement never waits for more than one slice, and few are in memory at a time.
        """
        for slice_ in spans(slots):
            await self._orders.room_for(len(slice_))
            snapshots = [self._pump.snapshot(first, count) for first, count in slice_]
            await self._orders.done()
            copied = itertools.chain.from_iterable(each.hosts() for each in snapshots)
            yield [(slot, fields) for slot, fields in copied if self._host(slot, fields)]

    def _host(self, slot: int, fields: HostCopy) -> VirtualHost | None:
        """The virtual host of a copy; None if its slot was reused while the pump copied."""
        host = self._hosts.hosts[slot] if slot < len(self._hosts.hosts) else None
        if host is None or host.vhid != fields.vhid:
            return None
        return host if self._hosts.number(host.interface) == fields.interface else None

    def summary(self) -> Summary:
        """The number of virtual hosts, in total and in each state."""
        used = sum(host is not None for host in self._hosts.hosts)
        master, backup = self._hosts.states.count(MASTER), self._hosts.states.count(BACKUP)
        return Summary(used, master, backup, used - master - backup)

    async def head(self, interface: str | None) -> StatusHead:
        """The document without the virtual hosts."""
        # Those that have virtual hosts now; a reload may add more while the pump copies.
        names = [name for name in self._hosts.used_names() if interface in (None, name)]
        await self._orders.room_for(1)
        snapshot = self._pump.snapshot_interfaces(len(self._hosts.names))
        await self._orders.done()
        counters = snapshot.counters()
        maintenance, progress = self.maintenance()
        return StatusHead(
            daemon=DaemonStatus(
                version=__version__,
                pid=os.getpid(),
                started_at=rfc3339(self.started_at_ns),
                host=socket.gethostname(),
                receive=self._receive.path,
                receive_reason=self._receive.reason,
                receive_fallbacks=self._receive.fallbacks,
                send=self._sending.path,
                send_reason=self._sending.reason,
                maintenance=maintenance is not None,
                pump=self._pump.facts,
                demotions=dict(self.demotions()),
                maintenance_state=maintenance,
                maintenance_progress=progress,
                control=self.control(),
                helper=self.helper(),
                upgrades=self._upgrades(),
            ),
            summary=self.summary(),
            interfaces=[
                self._interface(number, name, counters[number])
                for name in names
                if (number := self._hosts.number(name)) < len(counters)
            ],
            groups=self._hosts.group_statuses(),
            tracks=[] if self._tracked is None else self._tracked.status(),
        )

    def link(self, name: str) -> Literal["missing", "up", "down"]:
        """Whether an interface exists, and has a link."""
        now = self._network.now.get(name)
        if now is None or not now.ifindex:
            return "missing"
        return "up" if now.up else "down"

    def _interface(self, number: int, name: str, counters: dict[str, int]) -> InterfaceStatus:
        now = self._network.now.get(name)
        sources = self._network.sources.get(name, NO_SOURCES)
        states = [self._hosts.states[slot] for slot in self._hosts.slots[number]]
        return InterfaceStatus(
            name=name,
            ifindex=now.ifindex if now else 0,
            link=self.link(name),
            source=known_address(sources.ipv4),
            source6=known_address(sources.ipv6),
            send=self._sending.path_of(number),
            virtual_hosts=len(states),
            master=states.count(MASTER),
            backup=states.count(BACKUP),
            init=states.count(INIT),
            counters=counters,
        )

    def _slots(self, wanted: StatusRequest) -> list[int]:
        """The slots of the virtual hosts with this interface and vhid; None matches all."""
        return [slot for slot, _ in self._hosts.matching(wanted.interface, wanted.vhid)]

    def virtual_hosts(
        self, copied: Iterable[Copied], wanted: StatusRequest
    ) -> Iterator[VirtualHostStatus]:
        """The virtual hosts that match."""
        return (entry for _, entry in self.matching(copied, wanted))

    def matching(
        self, copied: Iterable[Copied], wanted: StatusRequest
    ) -> Iterator[tuple[VirtualHost, VirtualHostStatus]]:
        """The virtual hosts that match, each with its configuration."""
        now_ns = time.monotonic_ns()
        for slot, fields in copied:
            host = self._host(slot, fields)
            if host is None:
                continue
            if wanted.interface not in (None, host.interface):
                continue
            if wanted.vhid not in (None, host.vhid):
                continue
            if wanted.state not in (None, fields.state):
                continue
            entry = self._virtual_host(slot, host, fields, now_ns)
            if not wanted.problems or problems(entry):
                yield host, entry

    async def _virtual_hosts(self, wanted: StatusRequest) -> AsyncIterator[list[VirtualHostStatus]]:
        async for copied in self.snapshots(self._slots(wanted)):
            yield list(self.virtual_hosts(copied, wanted))

    def _virtual_host(
        self, slot: int, host: VirtualHost, fields: HostCopy, now_ns: int
    ) -> VirtualHostStatus:
        peer = None
        if fields.peer:
            peer = Peer(
                source=address_text(fields.peer),
                advbase=fields.peer_advbase,
                advskew=fields.peer_advskew,
                heard_ago_s=seconds_ago(fields.heard_ns, now_ns),
            )
        every = every_address(host)
        found = self._reports.address_problems.get(slot, {})
        return VirtualHostStatus(
            interface=host.interface,
            vhid=host.vhid,
            families=list(host.families),
            destinations=list(host.destinations),
            state=fields.state,
            since=rfc3339(fields.since_ns),
            reason=fields.reason,
            in_use_by=self._in_use.get(slot) if fields.reason == "in_use" else None,
            addresses=list(every),
            addresses_held=fields.held,
            held_by="route" if holds_routes(fields) else "address",
            address_problems={text: why for text, why in found.items() if text in every},
            warnings={
                **warnings(fields, self._reports.wrong_digest_ns.get(slot), now_ns),
                **hooks_fail(host, self.helper()),
            },
            advbase=fields.advbase,
            advskew=fields.advskew,
            effective_advskew=fields.effective_advskew,
            demotion=demotion(fields),
            peer=peer,
            peers=[heard(source, now_ns) for source in fields.peers],
            counters=fields.counters,
            group=None if host.settings.group is None else host.settings.group.name,
            **host.labels.given,
        )

    async def answer(self, request: StatusRequest) -> AsyncIterator[bytes]:
        """The status document, in slices. Raises ControlError."""
        if request.state is not None:
            request = msgspec.structs.replace(request, state=request.state.upper())
            if request.state not in STATES:
                raise ControlError(f"state {request.state}: one of {', '.join(STATES)}")
        head = await self.head(request.interface)
        return document_slices("status", head, "virtual_hosts", self._virtual_hosts(request))
