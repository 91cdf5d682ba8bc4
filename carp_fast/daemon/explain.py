"""Why a virtual host is in its state: the facts for `carp-fast explain`, from the pump's snapshots.

Must not change anything, nor judge: the engine itself returns what the election makes of the hosts
that it heard. The sentences are in explain_text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from carp_fast.capture.digests import automatic_of, link_local_addresses
from carp_fast.capture.judge import signer_of
from carp_fast.config.model import nearest_to
from carp_fast.config.ranges import in_ranges
from carp_fast.control.documents import VirtualHostFacts, VirtualHostStatus
from carp_fast.control.explanations import (
    Digest,
    Event,
    Explained,
    Explanation,
    HeardMaster,
    Link,
    Rejection,
    Stalled,
    Timer,
    VirtualHostExplanation,
)
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import ExplainRequest, StatusRequest
from carp_fast.daemon.demotions import group_of
from carp_fast.daemon.own_sources import configured
from carp_fast.daemon.reports import rfc3339
from carp_fast.daemon.status import SPANS_A_SLICE
from carp_fast.daemon.table import MASTER, Hosts
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.engine.copies import ExplainedHost, HostCopy, JudgedSource, RejectedFrame
from carp_fast.engine.reports import State
from carp_fast.inet import address_text, mac_text

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.network import Network
    from carp_fast.daemon.orders import Orders
    from carp_fast.daemon.status import Status
    from carp_fast.pump._pump import Pump

# The counters of rejections of an interface: the verdicts' words except "ok".
REJECTED = frozenset(VERDICT_WORDS[1:])
INTERFACES_NAMED = 5  # in the error that an interface does not exist


class Rejected(NamedTuple):
    """The last rejections of an interface for one vhid or an unknown one, and its counters."""

    last: list[Rejection]
    counters: dict[str, int]


class Explanations:
    """Answers `explain` requests; `now_ns`: the pump's clock."""

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        network: Network,
        status: Status,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._pump: Pump = orders.pump
        self._network = network
        self._status = status
        self._now_ns = now_ns

    async def answer(self, request: ExplainRequest) -> Explained:
        """Every virtual host of the interface and vhid. Raises ControlError if there is none."""
        interface, vhid = request.interface, request.vhid
        slots = self.find(interface, vhid)
        snapshots = []
        for first in range(0, len(slots), SPANS_A_SLICE):
            await self._orders.room_for(SPANS_A_SLICE + 1)
            slice_ = slots[first : first + SPANS_A_SLICE]
            snapshots += [self._pump.snapshot(slot, 1) for slot in slice_]
            of_interface = self._pump.snapshot_interfaces(1, self._hosts.number(interface))
            await self._orders.done()
        now_ns = self._now_ns()
        rejected = Rejected(
            rejections(of_interface.rejections()[0], vhid, now_ns),
            {
                word: count
                for word, count in of_interface.counters()[0].items()
                if word in REJECTED and count
            },
        )
        found, wanted = [], StatusRequest(interface, vhid)
        for snapshot in snapshots:
            # A slot may have become free, or have been reused, while the pump copied.
            for host, entry in self._status.matching(snapshot.hosts(), wanted):
                [(_, explained)] = snapshot.explained(now_ns)
                found.append(self._explained(host, entry, explained, rejected, now_ns))
        return Explained(ok=True, explain=Explanation(found))

    async def judged(self, slot: int) -> ExplainedHost:
        """A virtual host as the engine has it now, and what it makes of the hosts that it heard.

        Raises ControlError if it is being removed.
        """
        await self._orders.room_for(1)
        snapshot = self._pump.snapshot(slot, 1)
        await self._orders.done()
        for found, explained in snapshot.explained(self._now_ns()):
            if found == slot:
                return explained
        raise ControlError(f"{self._hosts.name(slot)} is being removed")

    def find(self, interface: str, vhid: int) -> list[int]:
        """The slots of a vhid. Raises ControlError naming the existing ones."""
        names = self._hosts.used_names()
        if not names:
            raise ControlError("the daemon has no virtual hosts")
        if interface not in names:
            named = ", ".join(names[:INTERFACES_NAMED])
            more = f" and {len(names) - INTERFACES_NAMED} more"
            raise ControlError(
                f"no virtual host on {interface!r}: the nearest interface that has some is "
                f"{nearest_to(interface, names)} (of {named}"
                f"{more if len(names) > INTERFACES_NAMED else ''})"
            )
        vhids: dict[int, list[int]] = {}
        for slot in self._hosts.slots[self._hosts.number(interface)]:
            host = self._hosts.hosts[slot]
            if host is not None:
                vhids.setdefault(host.vhid, []).append(slot)
        if vhid not in vhids:
            nearest = min(vhids, key=lambda other: (abs(other - vhid), other))
            raise ControlError(
                f"{interface} has no virtual host {vhid}: the nearest is {nearest} "
                f"(of {in_ranges(vhids)})"
            )
        return vhids[vhid]

    def _explained(
        self,
        host: VirtualHost,
        entry: VirtualHostStatus,
        explained: ExplainedHost,
        rejected: Rejected,
        now_ns: int,
    ) -> VirtualHostExplanation:
        """A virtual host as it stands in the status document, and why."""
        settings, fields = host.settings, explained.host
        facts = {name: getattr(entry, name) for name in VirtualHostFacts.__struct_fields__}
        facts["families"] = fields.families
        facts.update(host.labels.given)
        return VirtualHostExplanation(
            **facts,
            peers=entry.peers,
            counters=entry.counters,
            digest=digest(host),
            source=source(fields, 4),
            source6=source(fields, 6),
            configured_sources=self._configured_sources(host),
            dialect=fields.dialect,
            replay=fields.replay,
            dead_ratio=fields.dead_ratio,
            interval_s=in_s(fields.interval_ns),
            master_down_s=in_s(fields.master_down_ns),
            preempt=settings.preempt,
            preempt_delay_s=settings.preempt_delay_s,
            startup_delay_s=settings.startup_delay_s,
            ignore_link_state=settings.ignore_link_state,
            manage_addresses=settings.manage_addresses,
            hold=settings.hold,
            no_routes_because=self._no_routes_because(host),
            address_deadline_s=settings.address_deadline_s,
            without_addresses_s=since_s(fields.without_ns, now_ns),
            retries_in_s=until_s(fields.retry_at_ns, now_ns),
            undemoted_in_s=until_s(fields.demoted_until_ns, now_ns),
            link=self._link(host.interface),
            for_s=in_s(now_ns - fields.since_ns),
            heard=[heard(judged, now_ns) for judged in explained.heard],
            silent_families=explained.silent_families,
            timer=timer(explained, now_ns),
            preempts_in_s=preempts_in_s(explained, now_ns),
            stalled=stalled(explained, now_ns),
            ties=explained.ties,
            jitter_s=in_s(explained.jitter_ns),
            demote=fields.demote,
            operator_demotions=dict(self._status.demotions_of(host)),
            group=self._hosts.group_status(host),
            maintenance=self._status.maintenance()[0],
            tracks=self._status.tracks_of(host),
            failed_sends=explained.failed_sends,
            rejections=rejected.last,
            interface_rejected=rejected.counters,
            set_up=self._is_set_up(host.interface),
            group_masters=self._group_masters(host),
        )

    def _no_routes_because(self, host: VirtualHost) -> str | None:
        """Why a virtual host that is to hold addresses by routes does not; None: it does."""
        hold = host.settings.hold
        return None if hold == "address" else self._network.holding.against(host)

    def _configured_sources(self, host: VirtualHost) -> dict[str, str]:
        """Where each configured source of a virtual host is, see own_sources.Where."""
        where = self._network.own_sources.where
        return {source: where(host.interface, source) for _, source in configured(host)}

    def _group_masters(self, host: VirtualHost) -> int:
        """How many members of its group are MASTER here; 0 if it is in none."""
        group, states = group_of(host), self._hosts.states
        if group is None:
            return 0
        return sum(
            states[slot] == MASTER and group_of(member) == group
            for slot, member in self._hosts.used()
        )

    def _is_set_up(self, name: str) -> bool:
        now = self._network.now.get(name)
        return now is not None and now.set_up

    def _link(self, name: str) -> Link:
        now = self._network.now.get(name)
        if now is None or not now.ifindex:
            return "missing"
        if not now.is_ethernet:
            return "unusable"
        return "up" if now.up else "down"


def in_s(time_ns: int) -> float:
    return round(time_ns / 1e9, 3)


def since_s(at_ns: int, now_ns: int) -> float | None:
    """The time since an instant; None if it never happened."""
    return in_s(now_ns - at_ns) if at_ns else None


def until_s(at_ns: int, now_ns: int) -> float | None:
    """The time until an instant; None if there is none."""
    return max(0.0, in_s(at_ns - now_ns)) if at_ns else None


def digest(host: VirtualHost) -> Digest | None:
    """How the digest that it sends is made, if it has link-local addresses; otherwise None.

    Implementations differ only in these. `form` is that of _prepared.signed_forms.
    """
    signer = signer_of(host)
    link_local = link_local_addresses(signer.addresses)
    if not link_local:
        return None
    form, _ = signer.forms()[0]
    return Digest(
        form=form,
        link_local=[address_text(each) for each in link_local],
        automatic=automatic_of(signer.vhid),
    )


def source(fields: HostCopy, family: int) -> str | None:
    """The source address of a virtual host in a family; None if it lacks or does not use one."""
    address: bytes = fields.source if family == 4 else fields.source6
    return address_text(address) if family in fields.families and any(address) else None


def heard(judged: JudgedSource, now_ns: int) -> HeardMaster:
    """A source as the engine remembers it, and its effect: an event's word or None."""
    peer = judged.heard
    return HeardMaster(
        source=address_text(peer.source),
        family=peer.family,
        mac=mac_text(peer.mac),
        advbase=peer.advbase,
        advskew=peer.advskew,
        demote=peer.demote,
        interval_s=in_s(judged.interval_ns),
        counter=peer.counter,
        heard_ago_s=in_s(now_ns - peer.heard_ns),
        current=peer.current,
        own_source=judged.own_source,
        event=judged.event,
        undemoted=judged.undemoted,
    )


def timer(explained: ExplainedHost, now_ns: int) -> Timer | None:
    """The event that comes next if nothing is heard, and when."""
    host = explained.host
    if not host.deadline_ns:
        return None
    left: Event = "master_left" if explained.master_leaves else "master_down"
    events: dict[State, Event] = {
        "INIT": "ready",
        "BACKUP": "our_turn" if explained.contested else left,
        "MASTER": "advertisement_due",
    }
    return Timer(events[host.state], max(0.0, in_s(host.deadline_ns - now_ns)))


def preempts_in_s(explained: ExplainedHost, now_ns: int) -> float | None:
    """How long the preempt delay still runs; None: no slower master has started it."""
    host = explained.host
    if host.state != "BACKUP" or not explained.preempt_from_ns:
        return None
    return max(0.0, in_s(explained.preempt_from_ns - now_ns))


def stalled(explained: ExplainedHost, now_ns: int) -> Stalled | None:
    """Until when a BACKUP waits longer because the pump did not run or frames were lost."""
    host = explained.host
    attentive_ns = explained.attentive_ns
    heard_ns = max(host.heard_ns, host.since_ns)
    if host.state != "BACKUP" or attentive_ns <= heard_ns:
        return None
    return Stalled(rfc3339(attentive_ns), in_s(now_ns - attentive_ns))


def rejections(remembered: Iterable[RejectedFrame], vhid: int, now_ns: int) -> list[Rejection]:
    """The last rejections of an interface for a vhid or an unknown one, newest first."""
    return [
        Rejection(
            at=rfc3339(each.at_ns),
            ago_s=in_s(now_ns - each.at_ns),
            verdict=each.verdict,
            vhid=each.vhid,
            source=None if each.source is None else address_text(each.source),
        )
        for each in remembered
        if each.vhid in (None, vhid)
    ]
