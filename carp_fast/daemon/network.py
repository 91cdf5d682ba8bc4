"""Interfaces and addresses as they change while the daemon runs: what the engine must know of them.

Sources, group memberships, links that come and go, virtual addresses that another program removes.
Must not know hooks, the control socket or configuration files.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from carp_fast.daemon.holding import Holding
from carp_fast.daemon.interface_log import InterfaceLog
from carp_fast.daemon.own_sources import OwnSources
from carp_fast.daemon.table import MASTER, Hosts, every_address
from carp_fast.inet import prefix_text
from carp_fast.net import addresses, promotion
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, absent, name_of
from carp_fast.net.memberships import Joins

if TYPE_CHECKING:
    from carp_fast.daemon.in_use import InUse
    from carp_fast.daemon.orders import Orders
    from carp_fast.net.lanes import Lanes

logger = logging.getLogger(__name__)

# Minimum time between two announcements of an interface's hosts because its place changed.
ANNOUNCE_APART_S = 1.0


class Sources(NamedTuple):
    """The source addresses of an interface, 4 and 16 bytes, and whether it forwards IPv6."""

    ipv4: bytes | None
    ipv6: bytes | None
    forwards6: bool


NO_SOURCES = Sources(None, None, False)


class Network:
    """Follows the interfaces of the virtual hosts and informs the engine.

    `now` and `sources` are what is known of each interface that has virtual hosts, by name. `lanes`
    are the sockets that the pump reads. `on_known` is called with an interface whenever it, or the
    set of its virtual hosts, may have changed.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        lanes: Lanes,
        in_use: InUse,
        on_known: Callable[[Interface], None],
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._lanes = lanes
        self._in_use = in_use
        self._on_known = on_known
        self._joins = Joins(lanes.joining)
        self._promoted: set[int] = set()  # ifindexes
        self._filter_due = False
        self._closed = False
        self._names: dict[int, str] = {}  # of the used interfaces, by ifindex
        # Numbers of interfaces that are being left in order, and their tasks.
        self._leaving: dict[int, asyncio.Task[None]] = {}
        # Numbers of interfaces that were announced within ANNOUNCE_APART_S, and those of them that
        # changed again meanwhile.
        self._announced: dict[int, asyncio.TimerHandle] = {}
        self._announce_again: set[int] = set()
        self._appeared: dict[int, Interface] = {}  # as they appeared: with our own addresses
        self.now: dict[str, Interface] = {}
        self.sources: dict[str, Sources] = {}
        self._log = InterfaceLog(hosts)
        self.own_sources = OwnSources(hosts, orders, self.now)
        self.holding = Holding(hosts, orders, self.now)

    def on_interface(self, interface: Interface) -> None:
        """Handles that an interface appeared, vanished or changed: informs the engine, joins
        groups.

        An interface that lost its name still exists, with our addresses: it is left in order before
        the engine gets the interface that has the name now.
        """
        name = interface.name
        number = self._hosts.known(name)
        if number is None or not self._hosts.slots[number]:
            return
        before = self.now.get(name)
        had = self.sources.get(name, NO_SOURCES)
        sources = self._find_sources(number, interface)
        moved = before is None or before.ifindex != interface.ifindex
        renamed_to = name_of(before.ifindex) if before is not None and moved else None
        self._log.log_change(before, interface, renamed_to)
        if interface.ifindex:
            self._log.log_sources(name, sources.ipv4, sources.ipv6)
        self.now[name] = interface
        self.sources[name] = sources
        if before is not None and moved:
            self._leave(before)
            if renamed_to is not None and number not in self._leaving:
                self._inform(number, before, had, renamed=True)
                task = asyncio.get_running_loop().create_task(self._after_leaving(number))
                self._leaving[number] = task
        if before is not None and above(before) != above(interface):
            self._filter_soon()
        if moved:
            self._in_use.on_ifindex(number, interface.ifindex)
            self.promote([name])
            self._filter_soon()
        if interface.ifindex:
            self._names[interface.ifindex] = name
            self._joins.join(name, interface.ifindex, self._hosts.groups(number))
        if moved:
            self._appeared[number] = interface
        self.own_sources.on_interface(interface)
        self.holding.on_interface(interface)
        announce = is_elsewhere(before, interface) and self._may_announce(number)
        self._inform(number, interface, sources, announce=announce)
        self._on_known(interface)

    @property
    def leaving(self) -> bool:
        """Whether an interface that lost its name is being left."""
        return bool(self._leaving)

    def inform_all(self) -> None:
        """Informs the engine of every interface, as it is known now."""
        for name, interface in self.now.items():
            self._inform(self._hosts.number(name), interface, self.sources[name])

    def _may_announce(self, number: int) -> bool:
        """Whether the last announcement is long enough ago; if not, another one follows it."""
        if number in self._announced:
            self._announce_again.add(number)
            return False
        loop = asyncio.get_running_loop()
        timer = loop.call_later(ANNOUNCE_APART_S, self._on_announced, number)
        self._announced[number] = timer
        return True

    def _on_announced(self, number: int) -> None:
        del self._announced[number]
        name = self._hosts.names[number]
        again = number in self._announce_again and name in self.now
        self._announce_again.discard(number)
        if again:
            announce = self._may_announce(number)
            self._inform(number, self.now[name], self.sources[name], announce=announce)

    async def _after_leaving(self, number: int) -> None:
        """Waits until the hosts have given up their addresses and resigned, then uses the new
        interface.
        """
        await self._orders.done(when_settled=True)
        del self._leaving[number]
        name = self._hosts.names[number]
        now = self.now.get(name, absent(name))
        self._inform(number, now, self.sources.get(name, NO_SOURCES))

    def adopt(self, interface: Interface) -> None:
        """Takes configured addresses with our mark as ours: a former run or this one added them."""
        number = self._hosts.number(interface.name)
        texts = {
            prefix_text(each.address, each.prefixlen): each
            for each in interface.addresses
            if each.protocol == OWN_PROTOCOL
        }
        if not texts:
            return
        count = 0
        for slot in self._hosts.slots[number]:
            host = self._hosts.hosts[slot]
            if host is None or not host.settings.manage_addresses or slot in self._in_use.barred:
                continue
            for text in texts.keys() & set(every_address(host)):
                there = texts[text]
                order = partial(self._orders.pump.adopt, slot, there.address, there.prefixlen)
                self._orders.post(self._hosts.only_now(slot, order))
                count += 1
        if count:
            logger.info("%s: %d addresses there have our mark and are ours", interface.name, count)

    def on_reload(self) -> None:
        """Updates groups, sources and the filter after virtual hosts were added or removed."""
        used = set(self._hosts.used_names())
        for name in self.now.keys() - used:
            self._forget(name)
        for name, interface in self.now.items():
            number = self._hosts.number(name)
            if interface.ifindex:
                self._joins.join(name, interface.ifindex, self._hosts.groups(number))
            sources = self._find_sources(number, interface)
            if interface.ifindex:
                self._log.log_sources(name, sources.ipv4, sources.ipv6)
            if sources != self.sources[name]:
                self.sources[name] = sources
                self._inform(number, interface, sources)
            self._on_known(interface)
        self.holding.on_hosts()
        self._filter_soon()

    def promote(self, names: Iterable[str]) -> None:
        """Sets promote_secondaries where we add addresses, before the first one is added."""
        for name in names:
            interface, number = self.now.get(name), self._hosts.known(name)
            if interface is None or number is None or interface.ifindex in {0, *self._promoted}:
                continue
            if self._hosts.manages_addresses(number):
                self._promoted.add(interface.ifindex)
                promotion.promote_secondaries(name, interface.ifindex)

    def on_address_removed(self, name: str, address: bytes, prefixlen: int) -> None:
        """Handles that an address was removed: if it is a MASTER's, the pump looks at the
        interface.

        Our own removals may be reported here, too, and late. An address was lost only if the
        engine, which knows which should exist, reports that it was added again.
        """
        number = self._hosts.known(name)
        if number is None:
            return
        text = prefix_text(address, prefixlen)
        for slot in self._hosts.slots[number]:
            host = self._hosts.hosts[slot]
            if host is None or self._hosts.states[slot] != MASTER:
                continue
            if not host.settings.manage_addresses:
                continue
            # With the last IPv4 address the kernel drops local routes, and does not report that.
            may_be_routes = len(address) == 4 and host.settings.hold != "address"
            if may_be_routes or text in every_address(host):
                self._verify(slot)
                return  # the pump looks at the whole interface

    def on_route_removed(self, name: str) -> None:
        """Handles that a local route with our mark was removed by another program."""
        number = self._hosts.known(name)
        if number is not None and self._hosts.slots[number]:
            self._verify(self._hosts.slots[number][0])

    def on_overrun(self, interfaces: dict[str, Interface]) -> None:
        """Handles lost notifications: looks at the addresses of every interface."""
        for slots in self._hosts.slots:
            if slots:
                self._verify(slots[0])

    def close(self) -> None:
        """Leaves every group."""
        self._closed = True
        for timer in self._announced.values():
            timer.cancel()
        for task in self._leaving.values():
            task.cancel()
        self.holding.close()
        self._joins.close()

    def _find_sources(self, number: int, interface: Interface) -> Sources:
        virtual = self._hosts.virtual_addresses(number)
        return Sources(
            addresses.find_source(interface, virtual),
            addresses.find_source6(interface, virtual),
            interface.forwards6,
        )

    def _inform(
        self,
        number: int,
        interface: Interface,
        sources: Sources,
        *,
        renamed: bool = False,
        announce: bool = False,
    ) -> None:
        usable = interface.ifindex != 0 and interface.is_ethernet
        if number in self._leaving:
            return
        self._orders.post(
            lambda: self._orders.pump.set_interface(
                number,
                ifindex=interface.ifindex if usable else 0,
                up=interface.up,
                mac=interface.mac if usable else bytes(6),
                source=sources.ipv4,
                source6=sources.ipv6,
                forwards6=sources.forwards6,
                renamed=renamed,
                announce=announce,
            )
        )
        appeared = self._appeared.pop(number, None)
        if appeared is not None and appeared.ifindex == interface.ifindex:
            self.adopt(appeared)

    def _filter_soon(self) -> None:
        """Attaches one filter for all changes in this turn of the loop: it names all interfaces."""
        if not self._filter_due:
            self._filter_due = True
            asyncio.get_running_loop().call_soon(self._filter)

    def _filter(self) -> None:
        self._filter_due = False
        if not self._closed:
            used = {name: each.ifindex for name, each in self.now.items() if each.ifindex}
            numbers = [self._hosts.number(name) for name in used]
            groups = {group for number in numbers for group in self._hosts.groups(number)}
            peers = {peer for number in numbers for peer in self._hosts.peers(number)}
            present = [each for each in self.now.values() if each.ifindex]
            unfit = next(filter(None, map(tcx_unfit, present)), None)
            shared = {each.ifindex: why for each in present if (why := shared_with(each))}
            self._lanes.use(list(used.values()), groups, peers, unfit, shared)

    def _leave(self, interface: Interface) -> None:
        """Leaves an interface that was renamed or is gone; one with a used name was reported
        before.
        """
        if self._names.get(interface.ifindex) == interface.name:
            del self._names[interface.ifindex]
            self._joins.leave(interface.ifindex)
            self._promoted.discard(interface.ifindex)

    def _forget(self, name: str) -> None:
        """Forgets an interface without virtual hosts."""
        self._log.forget_sources(name)
        self._leave(self.now.pop(name))
        del self.sources[name]
        self._inform(self._hosts.number(name), absent(name), NO_SOURCES)

    def _verify(self, slot: int) -> None:
        pump = self._orders.pump
        self._orders.post(self._hosts.only_now(slot, lambda: pump.verify(slot)))


def tcx_unfit(interface: Interface) -> str | None:
    """Why raw sockets would hear nothing on it of what tcx leaves to them; None if they would."""
    if interface.master:
        return f"{interface.name} is a port of {name_of(interface.master) or 'another device'}"
    return None


def shared_with(interface: Interface) -> str | None:
    """Which devices a program at its ingress would keep frames from; None: none."""
    if interface.uppers:
        return f"{interface.name} has upper devices: {', '.join(interface.uppers)}"
    return None


def above(interface: Interface) -> tuple[str | None, str | None]:
    return tcx_unfit(interface), shared_with(interface)


def is_elsewhere(before: Interface | None, now: Interface) -> bool:
    """Whether switches and neighbours have to learn again where an interface is, or its MAC."""
    if before is None or before.ifindex != now.ifindex:
        return False  # no virtual host is MASTER there yet
    came_up = now.up and not before.up
    return came_up or (before.mac, before.master) != (now.mac, now.master)
