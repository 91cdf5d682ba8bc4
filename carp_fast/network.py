"""Interfaces and addresses as they change under the daemon: what the engine must know of them.

Sources, group memberships, links that come and go, virtual addresses that somebody removes. Must
not know hooks, the control socket or configuration files.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from carp_fast import addresses
from carp_fast.hosts import MASTER, Hosts, every_address
from carp_fast.interfaces import Interface, absent
from carp_fast.sockets import Joins, filter_interfaces

if TYPE_CHECKING:
    from carp_fast.orders import Orders

logger = logging.getLogger(__name__)

# An address that is removed this often within this time is given up, and its host demoted.
LOST_TIMES, LOST_WITHIN_S = 5, 60.0
LOST_DEMOTION = 240


class Network:
    """Follows the interfaces of the virtual hosts and tells the engine.

    `now` and `sources` are what is known of each interface that has virtual hosts, by name.
    """

    def __init__(self, hosts: Hosts, orders: Orders, receiver: socket.socket) -> None:
        self._hosts = hosts
        self._orders = orders
        self._receiver = receiver
        self._joins = Joins(receiver)
        self._promoted: set[int] = set()  # ifindexes
        self._filter_due = False
        self._closed = False
        self._lost: dict[tuple[int, str], deque[float]] = {}
        self._demoted: dict[int, asyncio.TimerHandle] = {}
        self.now: dict[str, Interface] = {}
        self.sources: dict[str, bytes | None] = {}
        # Whether an address (slot, text) is known to be somebody else's.
        self.is_foreign: Callable[[int, str], bool] = lambda slot, text: False

    def on_interface(self, interface: Interface) -> None:
        """An interface appeared, vanished or changed: the engine hears it, the groups follow."""
        name = interface.name
        number = self._hosts.known(name)
        if number is None or not self._hosts.slots[number]:
            return
        before = self.now.get(name)
        source = addresses.find_source(interface, self._hosts.virtual_addresses(number))
        self._say(before, interface, source)
        self.now[name] = interface
        self.sources[name] = source
        if before is None or before.ifindex != interface.ifindex:
            if before is not None:
                self._leave(before)
            self.promote([name])
            self._filter_soon()
        if interface.ifindex:
            self._joins.join(name, interface.ifindex, self._hosts.groups(number))
        self._tell(number, interface, source)

    def on_reload(self) -> None:
        """Virtual hosts came or went: groups, sources and the filter follow."""
        used = set(self._hosts.used_names())
        for name in self.now.keys() - used:
            self._forget(name)
        for name, interface in self.now.items():
            number = self._hosts.number(name)
            if interface.ifindex:
                self._joins.join(name, interface.ifindex, self._hosts.groups(number))
            source = addresses.find_source(interface, self._hosts.virtual_addresses(number))
            if source != self.sources[name]:
                self._say(interface, interface, source)
                self.sources[name] = source
                self._tell(number, interface, source)
        self._filter_soon()

    def promote(self, names: Iterable[str]) -> None:
        """Sees to promote_secondaries where we add addresses, before the first one is there."""
        for name in names:
            interface, number = self.now.get(name), self._hosts.known(name)
            if interface is None or number is None or interface.ifindex in {0, *self._promoted}:
                continue
            if self._hosts.manages_addresses(number):
                self._promoted.add(interface.ifindex)
                addresses.promote_secondaries(name)

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
            if not host.settings.manage_addresses:
                continue
            if text in every_address(host):
                if self.is_foreign(slot, text):
                    logger.info("%s: address %s is nobody's any more, added", host.name, text)
                    self._verify(slot)
                else:
                    self._on_lost(slot, text)

    def on_overrun(self, interfaces: dict[str, Interface]) -> None:
        """Notifications were lost: every MASTER's addresses are looked after."""
        for slot, _ in self._hosts.used():
            if self._hosts.states[slot] == MASTER:
                self._verify(slot)

    def on_released(self, slot: int) -> None:
        """The slot is free: what was known of its virtual host does not hold for the next one."""
        for key in [key for key in self._lost if key[0] == slot]:
            del self._lost[key]
        timer = self._demoted.pop(slot, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Leaves every group."""
        self._closed = True
        for timer in self._demoted.values():
            timer.cancel()
        self._joins.close()

    def _tell(self, number: int, interface: Interface, source: bytes | None) -> None:
        usable = interface.ifindex != 0 and len(interface.mac) == 6
        self._orders.post(
            lambda: self._orders.pump.set_interface(
                number,
                ifindex=interface.ifindex if usable else 0,
                up=interface.up,
                mac=interface.mac if usable else bytes(6),
                source=source,
            )
        )

    def _filter_soon(self) -> None:
        """One filter for all that changes in this turn of the loop: each names all interfaces."""
        if not self._filter_due:
            self._filter_due = True
            asyncio.get_running_loop().call_soon(self._filter)

    def _filter(self) -> None:
        self._filter_due = False
        if not self._closed:
            used = [each.ifindex for each in self.now.values() if each.ifindex]
            filter_interfaces(self._receiver, used)

    def _leave(self, interface: Interface) -> None:
        self._joins.leave(interface.ifindex)
        self._promoted.discard(interface.ifindex)

    def _forget(self, name: str) -> None:
        """No virtual host is left there."""
        self._leave(self.now.pop(name))
        del self.sources[name]
        self._tell(self._hosts.number(name), absent(name), None)

    def _verify(self, slot: int) -> None:
        self._orders.post(lambda: self._orders.pump.verify(slot))

    def _on_lost(self, slot: int, text: str) -> None:
        loop = asyncio.get_running_loop()
        times = self._lost.setdefault((slot, text), deque(maxlen=LOST_TIMES))
        times.append(loop.time())
        name = self._hosts.name(slot)
        if len(times) < LOST_TIMES or times[-1] - times[0] > LOST_WITHIN_S:
            logger.warning("%s: address %s was removed by somebody, added again", name, text)
            self._verify(slot)
            return
        logger.error(
            "%s: address_lost: %s was removed %d times within %d s, given up",
            name,
            text,
            LOST_TIMES,
            LOST_WITHIN_S,
        )
        times.clear()
        self._orders.post(lambda: self._orders.pump.demote(slot, LOST_DEMOTION))
        self._orders.post(lambda: self._orders.pump.lose_address(slot))
        timer = self._demoted.pop(slot, None)
        if timer is not None:
            timer.cancel()
        self._demoted[slot] = loop.call_later(LOST_WITHIN_S, self._undemote, slot)

    def _undemote(self, slot: int) -> None:
        del self._demoted[slot]
        logger.info("%s: no longer demoted for address_lost", self._hosts.name(slot))
        self._orders.post(lambda: self._orders.pump.demote(slot, 0))

    def _say(self, before: Interface | None, now: Interface, source: bytes | None) -> None:
        """What changed about an interface, a line each, once."""
        name = now.name
        if not now.ifindex:
            if before is None:
                logger.warning("%s: no such interface yet, waiting for it", name)
            elif before.ifindex:
                logger.warning("%s: interface disappeared, waiting for it", name)
            return
        if len(now.mac) != 6 and (before is None or before.mac != now.mac):
            logger.error("%s: not an Ethernet interface, it cannot be used", name)
        if before is not None and not before.ifindex:
            logger.info("%s: interface appeared (ifindex %d)", name, now.ifindex)
        was_up = before is None or not before.ifindex or before.up  # a new one: if it is down
        if was_up != now.up:
            level = logging.INFO if now.up else logging.WARNING
            logger.log(level, "%s: link %s", name, "up" if now.up else "down")
        if before is None or not before.ifindex or source != self.sources[name]:
            if source is None and not self._hosts.needs_source(self._hosts.number(name)):
                return
            if source is None:
                logger.warning("%s: no IPv4 address to advertise from", name)
            else:
                logger.info("%s: advertising from %s", name, socket.inet_ntoa(source))
