"""The status document: what `carp-fast status --json` prints, built from the pump's snapshots.

Must not change anything; interface.md of the command line is its contract.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from carp_fast import __version__
from carp_fast.control.slices import document_slices
from carp_fast.daemon.explain_text import problems
from carp_fast.daemon.network import NO_SOURCES
from carp_fast.daemon.reports import known_address, rfc3339
from carp_fast.daemon.table import BACKUP, INIT, MASTER, STATES, Hosts, every_address
from carp_fast.inet import mac_text
from carp_fast.pump._pump import HOSTS_A_SNAPSHOT

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.network import Network
    from carp_fast.daemon.orders import Orders
    from carp_fast.daemon.reports import Reports
    from carp_fast.pump._pump import Pump


# What three failed sends in a row add, by dialect: to the advskew, or to OpenBSD's demote byte.
SEND_ERRORS, SEND_ERRORS_OPENBSD = 240, 1
ADDRESS_DEMOTION = 240  # what addresses that could not be held add, see engine/_vhid.pxd
SPANS_A_SLICE = 32  # orders to the pump, which has room for 4,096


Copied = tuple[int, dict[str, Any]]  # a slot, and the host_dict of what the pump found there


def seconds_ago(at_ns: int, now_ns: int) -> float:
    return round((now_ns - at_ns) / 1e9, 3)


def warnings(fields: Mapping[str, Any]) -> dict[str, str]:
    """What of a host_dict is wrong for as long as it stands here, by word: a sentence."""
    found = {}
    if fields["duplicate_source"] is not None:
        mac = fields["duplicate_source"]
        who = f" ({mac_text(mac)})" if any(mac) else ""  # a raw socket knows no MAC
        found["duplicate_source"] = f"another host{who} advertises from our source"
    return found


def demotion(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The demotion of a host_dict by reasons; in dialect "openbsd" the byte that is sent, too."""
    openbsd = fields["dialect"] == "openbsd"
    reasons = {}
    if fields["demotion"]:
        reasons["ordered"] = fields["demotion"]
    if fields["address_demotion"]:
        reasons[fields["address_demotion"]] = ADDRESS_DEMOTION
    if fields["sends_failing"]:
        reasons["send_errors"] = SEND_ERRORS_OPENBSD if openbsd else SEND_ERRORS
    sent = {"demote": fields["demote"]} if openbsd else {}
    return {"total": sum(reasons.values()), "reasons": reasons, **sent}


def heard(source: Mapping[str, Any], now_ns: int) -> dict[str, Any]:
    """A source of a host_dict: who advertised, and what. A raw socket knows no MAC: None."""
    return {
        "source": known_address(source["source"]),
        "mac": mac_text(source["mac"]) if any(source["mac"]) else None,
        "advbase": source["advbase"],
        "advskew": source["advskew"],
        "demote": source["demote"],
        "counter": source["counter"],
        "heard_ago_s": seconds_ago(source["heard_ns"], now_ns),
        "current": source["current"],
    }


def spans(slots: Iterable[int]) -> Iterator[list[tuple[int, int]]]:
    """Ascending slots as (first, how many) of those that follow one another, a slice at a time."""
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
    """Builds the document; each virtual host is whole, copied out by the pump in slices.

    `receive`: the receive path; `in_use`: by slot, the process that has a virtual host instead.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        network: Network,
        reports: Reports,
        *,
        receive: str = "packet",
        in_use: Mapping[int, str] | None = None,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._pump: Pump = orders.pump
        self._network = network
        self._reports = reports
        self._started_at_ns = time.monotonic_ns()
        self._receive = receive
        self._in_use = {} if in_use is None else in_use

    async def snapshots(self, slots: Iterable[int]) -> AsyncIterator[list[Copied]]:
        """What these slots hold, ascending, copied out one slice after the other.

        An advertisement never waits for more than one slice, and few are ever in memory.
        """
        for slice_ in spans(slots):
            await self._orders.room_for(len(slice_))
            snapshots = [self._pump.snapshot(first, count) for first, count in slice_]
            await self._orders.done()
            copied = itertools.chain.from_iterable(each.hosts() for each in snapshots)
            yield [(slot, fields) for slot, fields in copied if self._host(slot, fields)]

    def _host(self, slot: int, fields: Mapping[str, Any]) -> VirtualHost | None:
        """Whom a host_dict is of; None: its slot was given to another while the pump copied."""
        host = self._hosts.hosts[slot] if slot < len(self._hosts.hosts) else None
        if host is None or host.vhid != fields["vhid"]:
            return None
        return host if self._hosts.number(host.interface) == fields["interface"] else None

    def summary(self) -> dict[str, int]:
        """How many virtual hosts there are, and in which state."""
        used = sum(host is not None for host in self._hosts.hosts)
        master, backup = self._hosts.states.count(MASTER), self._hosts.states.count(BACKUP)
        return {
            "virtual_hosts": used,
            "master": master,
            "backup": backup,
            "init": used - master - backup,
        }

    async def fields(self, interface: str | None) -> dict[str, Any]:
        """Everything but the virtual hosts."""
        # Those that have virtual hosts now; a reload may bring more while the pump copies.
        names = [name for name in self._hosts.used_names() if interface in (None, name)]
        await self._orders.room_for(1)
        snapshot = self._pump.snapshot_interfaces(len(self._hosts.names))
        await self._orders.done()
        counters = snapshot.counters()
        return {
            "daemon": {
                "version": __version__,
                "pid": os.getpid(),
                "started_at": rfc3339(self._started_at_ns),
                "host": socket.gethostname(),
                "receive": self._receive,
                "maintenance": False,
                "pump": self._pump.facts,
            },
            "summary": self.summary(),
            "interfaces": [
                self._interface(number, name, counters[number])
                for name in names
                if (number := self._hosts.number(name)) < len(counters)
            ],
        }

    def _interface(self, number: int, name: str, counters: dict[str, int]) -> dict[str, Any]:
        now = self._network.now.get(name)
        sources = self._network.sources.get(name, NO_SOURCES)
        states = [self._hosts.states[slot] for slot in self._hosts.slots[number]]
        return {
            "name": name,
            "ifindex": now.ifindex if now else 0,
            "link": "missing" if not now or not now.ifindex else "up" if now.up else "down",
            "source": known_address(sources.ipv4),
            "source6": known_address(sources.ipv6),
            "virtual_hosts": len(states),
            "master": states.count(MASTER),
            "backup": states.count(BACKUP),
            "init": states.count(INIT),
            "counters": counters,
        }

    def _slots(self, wanted: Mapping[str, Any]) -> list[int]:
        """Of the virtual hosts that `wanted` (interface, vhid) names; all where it names none."""
        found = self._hosts.matching(wanted.get("interface"), wanted.get("vhid"))
        return [slot for slot, _ in found]

    def virtual_hosts(
        self, copied: Iterable[Copied], wanted: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Those that match `wanted` (interface, vhid, state; None: all; problems: only those)."""
        now_ns = time.monotonic_ns()
        for slot, fields in copied:
            host = self._host(slot, fields)
            if host is None:
                continue
            if wanted.get("interface") not in (None, host.interface):
                continue
            if wanted.get("vhid") not in (None, host.vhid):
                continue
            if wanted.get("state") not in (None, fields["state"]):
                continue
            entry = self._virtual_host(slot, fields, now_ns)
            if not wanted.get("problems") or _has_problems(entry):
                yield entry

    async def _virtual_hosts(self, wanted: Mapping[str, Any]) -> AsyncIterator[list[Any]]:
        async for copied in self.snapshots(self._slots(wanted)):
            yield list(self.virtual_hosts(copied, wanted))

    def _virtual_host(self, slot: int, fields: dict[str, Any], now_ns: int) -> dict[str, Any]:
        host = self._hosts.hosts[slot]
        assert host is not None
        peer = None
        if fields["peer"]:
            peer = {
                "source": known_address(fields["peer"]),
                "advbase": fields["peer_advbase"],
                "advskew": fields["peer_advskew"],
                "heard_ago_s": seconds_ago(fields["heard_ns"], now_ns),
            }
        every = every_address(host)
        found = self._reports.address_problems.get(slot, {})
        return {
            "interface": host.interface,
            "vhid": host.vhid,
            "families": list(host.families),
            "destinations": list(host.destinations),
            "state": fields["state"],
            "since": rfc3339(fields["since_ns"]),
            "reason": fields["reason"],
            "in_use_by": self._in_use.get(slot) if fields["reason"] == "in_use" else None,
            "addresses": list(every),
            "addresses_held": fields["held"],
            "address_problems": {text: why for text, why in found.items() if text in every},
            "warnings": warnings(fields),
            "advbase": fields["advbase"],
            "advskew": fields["advskew"],
            "effective_advskew": fields["effective_advskew"],
            "demotion": demotion(fields),
            "peer": peer,
            "peers": [heard(source, now_ns) for source in fields["peers"]],
            "counters": fields["counters"],
        }

    async def answer(self, request: dict[str, Any]) -> AsyncIterator[bytes]:
        """The answer to a status request, in slices."""
        from carp_fast.control.protocol import ControlError

        state = request.get("state")
        if state is not None:
            state = str(state).upper()
            if state not in STATES:
                raise ControlError(f"state {state}: one of {', '.join(STATES)}")
        fields = await self.fields(request.get("interface"))
        slices = self._virtual_hosts({**request, "state": state})
        return document_slices("status", fields, "virtual_hosts", slices)


def _has_problems(entry: Mapping[str, Any]) -> bool:
    return bool(problems(entry))
