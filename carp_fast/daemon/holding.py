"""How virtual hosts hold IPv4 addresses: as addresses of the interface, or by local routes.

A route is much cheaper for the kernel where an interface has thousands of addresses, but it does
not answer ARP with arp_ignore, and brings no connected route. So with hold = "auto" an address is
held by a route only where the interface keeps another address of its subnet. This module decides
that from what is known of interfaces, again whenever that changes, and informs the engine. Must not
know how an address is added.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from carp_fast.daemon.table import Hosts, every_address
from carp_fast.inet import prefix_bytes, prefix_text
from carp_fast.net.addresses import kernel_filters_routes
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, name_of

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.orders import Orders

logger = logging.getLogger(__name__)

CONF4 = Path("/proc/sys/net/ipv4/conf")
# The kernel does not report changes of arp_ignore: so many interfaces are read this often.
READ_EVERY_S, READ_AT_ONCE = 1.0, 64
HOST4 = 32  # a prefix length; the kernel adds no connected route for such an address
NO_FILTER = "Linux before 4.20 cannot look for routes without reading all of them"

Subnet = tuple[bytes, int]  # network address, prefix length


class Facts(NamedTuple):
    """What decides about an interface: its own IPv4 subnets, arp_ignore, its master device."""

    subnets: frozenset[Subnet]
    arp_ignore: int
    master: int


def arp_ignore(name: str) -> int:
    """arp_ignore of an interface as the kernel applies it: the larger one of "all" and its own."""
    return max(_read_arp_ignore("all"), _read_arp_ignore(name))


def _read_arp_ignore(name: str) -> int:
    try:
        return int((CONF4 / name / "arp_ignore").read_text())
    except (OSError, ValueError):  # the interface is gone
        return 0


@lru_cache(4096)
def _subnet(network: bytes, prefixlen: int) -> Subnet:
    return network, prefixlen


def subnet_of(address: bytes, prefixlen: int) -> Subnet:
    """The subnet of an IPv4 address."""
    bits = int.from_bytes(address) >> (HOST4 - prefixlen) << (HOST4 - prefixlen)
    return _subnet(bits.to_bytes(4), prefixlen)


def facts_of(
    interface: Interface, virtual: set[bytes], read: Callable[[str], int] = arp_ignore
) -> Facts:
    """The facts of an interface that exists. `virtual`: addresses that do not count as its own."""
    subnets = frozenset(
        subnet_of(each.address, each.prefixlen)
        for each in interface.addresses
        if each.family == 4 and each.protocol != OWN_PROTOCOL and each.address not in virtual
    )
    return Facts(subnets, read(interface.name), interface.master)


def subnets_of(host: VirtualHost) -> frozenset[Subnet]:
    """The subnets of a virtual host's IPv4 addresses."""
    return frozenset(
        subnet_of(*prefix_bytes(text)) for text in every_address(host) if ":" not in text
    )


def against(name: str, needed: Iterable[Subnet], facts: Facts | None) -> str | None:
    """Why local routes do not do for addresses of these subnets on an interface; None: they do."""
    if not kernel_filters_routes():
        return NO_FILTER
    if facts is None:
        return f"{name} does not exist"
    if facts.arp_ignore:
        return f"arp_ignore of {name} is {facts.arp_ignore}, and ARP requests are not answered"
    if facts.master:
        master = name_of(facts.master) or f"ifindex {facts.master}"
        return f"{name} belongs to {master}, which may have a routing table of its own"
    for network, prefixlen in sorted(needed):
        # An address with /32 has no connected route in any case.
        if prefixlen == HOST4 and not facts.subnets:
            return f"{name} has no IPv4 address of its own"
        if prefixlen != HOST4 and (network, prefixlen) not in facts.subnets:
            return f"{name} has no address of its own in {prefix_text(network, prefixlen)}"
    return None


class Holding:
    """Decides for each virtual host, and informs the engine of changes.

    `now`: what is known of each interface, by name; `read`: arp_ignore of an interface.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        now: Mapping[str, Interface],
        read: Callable[[str], int] = arp_ignore,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._now = now
        self._read = read
        self._facts: dict[str, Facts] = {}
        self._names: list[str] = []  # of interfaces where arp_ignore matters; read in turn
        self._timer: asyncio.TimerHandle | None = None

    def by_route(self, host: VirtualHost) -> bool:
        """Whether a virtual host's IPv4 addresses are to be added as local routes."""
        return self.against(host) is None

    def against(self, host: VirtualHost) -> str | None:
        """Why a virtual host's IPv4 addresses are to be added as addresses; None: as routes."""
        hold = host.settings.hold
        if hold == "address":
            return 'hold = "address"'
        if hold == "route":
            return None if kernel_filters_routes() else NO_FILTER
        return against(host.interface, subnets_of(host), self._facts.get(host.interface))

    @property
    def wanted(self) -> bool:
        """Whether any virtual host may hold addresses by routes."""
        settings = {id(host.settings): host.settings for _, host in self._hosts.used()}
        return any(each.hold != "address" for each in settings.values())

    def on_interface(self, interface: Interface) -> None:
        """Decides again after the addresses of an interface may have changed."""
        number = self._hosts.known(interface.name)
        slots = () if number is None else self._hosts.slots[number]
        auto = {
            slot: host
            for slot in slots
            if (host := self._hosts.hosts[slot]) is not None and host.settings.hold == "auto"
        }
        before = self._facts.pop(interface.name, None)
        if interface.ifindex and auto and number is not None:
            virtual = self._hosts.virtual_addresses(number)
            self._facts[interface.name] = facts_of(interface, virtual, self._read)
        after = self._facts.get(interface.name)
        if before != after:
            self._decide(interface.name, auto, before, after)

    def on_hosts(self) -> None:
        """Decides again after virtual hosts were added, changed or removed."""
        names = dict.fromkeys(
            host.interface for _, host in self._hosts.used() if host.settings.hold == "auto"
        )
        for name in self._facts.keys() - names.keys():
            del self._facts[name]
        for name in names:
            if name in self._now and name not in self._facts:
                self.on_interface(self._now[name])
        self._names = list(names)
        if self._names and self._timer is None:
            self._read_soon()

    def close(self) -> None:
        """Reads nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _decide(
        self,
        name: str,
        auto: Mapping[int, VirtualHost],
        before: Facts | None,
        after: Facts | None,
    ) -> None:
        """Orders what differs between two facts of an interface, and logs why."""
        reasons: dict[str | None, int] = {}
        decided: dict[frozenset[Subnet], tuple[str | None, str | None]] = {}
        for slot, host in auto.items():
            needed = subnets_of(host)
            if needed not in decided:
                decided[needed] = against(name, needed, before), against(name, needed, after)
            was, now = decided[needed]
            if (was is None) != (now is None):
                reasons[now] = reasons.get(now, 0) + 1
                order = partial(self._orders.pump.set_by_route, slot, now is None)
                self._orders.post(self._hosts.only_now(slot, order))
        for reason, count in reasons.items():
            if reason is None:
                logger.info('%s: hold = "auto": local routes for %d virtual hosts', name, count)
            else:
                text = '%s: hold = "auto": addresses instead of routes for %d virtual hosts: %s'
                logger.warning(text, name, count, reason)

    def _read_soon(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(READ_EVERY_S, self._read_some)

    def _read_some(self) -> None:
        """Reads arp_ignore of the next interfaces; a change decides again."""
        self._timer = None
        some, self._names = self._names[:READ_AT_ONCE], self._names[READ_AT_ONCE:]
        self._names += some
        for name in some:
            known, interface = self._facts.get(name), self._now.get(name)
            if known is None or interface is None:
                continue
            if self._read(name) != known.arp_ignore:
                self.on_interface(interface)
        if self._names:
            self._read_soon()
