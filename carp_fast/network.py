"""Interfaces and addresses as they change under the daemon: what the engine must know of them.

Sources, group memberships, links that come and go, virtual addresses that somebody removes. Must
not know hooks, the control socket or configuration files.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from carp_fast import addresses
from carp_fast.hosts import MASTER, Hosts
from carp_fast.interfaces import Interface
from carp_fast.sockets import Joins, attach_filter, packet_filter

if TYPE_CHECKING:
    from carp_fast.orders import Orders

logger = logging.getLogger(__name__)

# An address that is removed this often within this time is given up, and its host demoted.
LOST_TIMES, LOST_WITHIN_S = 5, 60.0
LOST_DEMOTION = 240


class Network:
    """Follows the interfaces of the virtual hosts and tells the engine."""

    def __init__(self, hosts: Hosts, orders: Orders, receiver: socket.socket) -> None:
        self._hosts = hosts
        self._orders = orders
        self._receiver = receiver
        self._joins = Joins(receiver)
        self._lost: dict[int, deque[float]] = {}
        self.now: dict[str, Interface] = {}
        self.sources: dict[str, bytes | None] = {}
        # Told of each address (slot, text) that is foreign or that could not be changed.
        self.on_address_given_up: Callable[[int], None] = lambda slot: None

    def on_interface(self, interface: Interface) -> None:
        """An interface appeared, vanished or changed: the engine hears it, the groups follow."""
        name = interface.name
        number = self._hosts.known(name)
        if number is None:
            return
        before = self.now.get(name)
        source = addresses.find_source(interface, self._hosts.virtual_addresses(number))
        self._say(before, interface, source)
        self.now[name] = interface
        self.sources[name] = source
        if before is not None and before.ifindex and before.ifindex != interface.ifindex:
            self._joins.leave(before.ifindex)
        if interface.ifindex:
            if before is None or before.ifindex != interface.ifindex:
                if any(
                    host is not None and host.settings.manage_addresses
                    for host in map(self._hosts.hosts.__getitem__, self._hosts.slots[number])
                ):
                    addresses.promote_secondaries(name)
            self._joins.join(name, interface.ifindex, self._hosts.groups(number))
        if before is None or before.ifindex != interface.ifindex:
            self.filter_interfaces()
        mac = interface.mac if len(interface.mac) == 6 else bytes(6)
        usable = interface.ifindex != 0 and len(interface.mac) == 6
        self._orders.post(
            lambda: self._orders.pump.set_interface(
                number,
                ifindex=interface.ifindex if usable else 0,
                up=interface.up,
                mac=mac,
                source=source,
            )
        )

    def filter_interfaces(self) -> None:
        """Lets the kernel drop frames of interfaces without virtual hosts."""
        ifindexes = [
            interface.ifindex
            for name, interface in self.now.items()
            if interface.ifindex
            and (number := self._hosts.known(name)) is not None
            and self._hosts.slots[number]
        ]
        attach_filter(self._receiver, packet_filter(ifindexes))

    def rejoin(self, name: str) -> None:
        """The groups of an interface may have changed by a reload."""
        interface = self.now.get(name)
        number = self._hosts.known(name)
        if interface is not None and interface.ifindex and number is not None:
            self._joins.join(name, interface.ifindex, self._hosts.groups(number))

    def on_address_removed(self, name: str, address: bytes, prefixlen: int) -> None:
        """Somebody else removed an address: where it is one of a MASTER here, it comes back."""
        number = self._hosts.known(name)
        if number is None or len(address) != 4:
            return
        text = addresses.text(address, prefixlen)
        for slot in self._hosts.slots[number]:
            host = self._hosts.hosts[slot]
            if host is None or self._hosts.states[slot] != MASTER:
                continue
            if text in host.addresses or text in host.unsigned_addresses:
                self._on_lost(slot, text)

    def on_overrun(self, interfaces: dict[str, Interface]) -> None:
        """Notifications were lost: every MASTER's addresses are looked after."""
        for slot, _ in self._hosts.used():
            if self._hosts.states[slot] == MASTER:
                self._orders.post(lambda slot=slot: self._orders.pump.verify(slot))  # type: ignore[misc]

    def close(self) -> None:
        """Leaves every group."""
        self._joins.close()

    def _on_lost(self, slot: int, text: str) -> None:
        loop = asyncio.get_running_loop()
        times = self._lost.setdefault(slot, deque(maxlen=LOST_TIMES))
        times.append(loop.time())
        name = self._hosts.name(slot)
        if len(times) == LOST_TIMES and times[-1] - times[0] <= LOST_WITHIN_S:
            logger.error(
                "%s: address %s was removed %d times within %d s, given up",
                name,
                text,
                LOST_TIMES,
                LOST_WITHIN_S,
            )
            times.clear()
            self._orders.post(lambda: self._orders.pump.demote(slot, LOST_DEMOTION))
            self._orders.post(lambda: self._orders.pump.lose_address(slot))
            loop.call_later(
                LOST_WITHIN_S,
                lambda: self._orders.post(lambda: self._orders.pump.demote(slot, 0)),
            )
            self.on_address_given_up(slot)
            return
        logger.warning("%s: address %s was removed by somebody, added again", name, text)
        self._orders.post(lambda: self._orders.pump.verify(slot))

    def _say(self, before: Interface | None, now: Interface, source: bytes | None) -> None:
        """What changed about an interface, a line each, once."""
        name = now.name
        if not now.ifindex:
            if before is None:
                logger.warning("%s: no such interface yet, waiting for it", name)
            elif before.ifindex:
                logger.warning("%s: interface disappeared, waiting for it", name)
            return
        if len(now.mac) != 6:
            logger.error("%s: not an Ethernet interface, it cannot be used", name)
        if before is not None and not before.ifindex:
            logger.info("%s: interface appeared (ifindex %d)", name, now.ifindex)
        if before is None or not before.ifindex or before.up != now.up:
            if before is not None or not now.up:
                logger.log(logging.INFO if now.up else logging.WARNING, "%s: link %s", name,
                           "up" if now.up else "down")
        former = self.sources.get(name)
        if source != former or before is None:
            if source is None:
                logger.warning("%s: no IPv4 address to advertise from", name)
            else:
                logger.info("%s: advertising from %s", name, socket.inet_ntoa(source))
