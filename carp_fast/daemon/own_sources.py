"""Configured sources: whether this host has each of them, and on which interface.

A host that advertises from an address that it does not have gets no answers, and if another host
has the address, it is mistaken for that one. So a virtual host waits in INIT, `no_source`, until
its own source exists. Must not know the configuration's files, nor how addresses are followed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

from carp_fast.inet import address_bytes, is_link_local
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, is_local
from carp_fast.net.kernel import IFA_F_DADFAILED, IFA_F_TENTATIVE

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.orders import Orders
    from carp_fast.daemon.table import Hosts

logger = logging.getLogger(__name__)

# On the interface; on another one of this host, as on an unnumbered link; on it, but not usable
# yet, or not at all since another host has it; on none.
Where = Literal["here", "elsewhere", "tentative", "duplicate", "missing"]
USABLE = frozenset({"here", "elsewhere"})
MEANINGS: dict[str, str] = {
    "here": "is present",
    "elsewhere": "is an address of another interface of this host",
    "tentative": "is tentative: the kernel checks for duplicates",
    "duplicate": "is not used by the kernel, since another host has it (dadfailed)",
    "missing": "is not an address of this host",
}


def configured(host: VirtualHost) -> list[tuple[int, str]]:
    """(family, source) of the configured sources that a virtual host advertises from."""
    settings = host.settings
    if settings.source is None and settings.source6 is None:
        return []
    both = ((4, settings.source), (6, settings.source6))
    return [(family, source) for family, source in both if source and family in host.families]


def whereabouts(
    source: str, interface: Interface, is_on_host: Callable[[bytes], bool] = is_local
) -> Where:
    """Where a configured source of an interface's virtual host is.

    A virtual address, which has our mark, counts as missing: it exists only while MASTER.
    """
    packed = address_bytes(source)
    for each in interface.addresses:
        if each.address == packed:
            if each.protocol == OWN_PROTOCOL:
                return "missing"
            if each.family == 6 and each.flags & IFA_F_DADFAILED:
                return "duplicate"
            return "tentative" if each.family == 6 and each.flags & IFA_F_TENTATIVE else "here"
    # A link-local address belongs to its link.
    if not is_link_local(packed) and is_on_host(packed):
        return "elsewhere"
    return "missing"


class OwnSources:
    """Follows the configured sources of all virtual hosts and informs the engine which are missing.

    `now`: what is known of each interface, by name; `is_on_host`: whether any has an address.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        now: Mapping[str, Interface],
        is_on_host: Callable[[bytes], bool] = is_local,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._now = now
        self._where: dict[tuple[str, str], Where] = {}  # by interface and source
        self._is_on_host = is_on_host

    def where(self, name: str, source: str) -> Where:
        """Where an interface's configured source is; "missing" if the interface does not exist."""
        found = self._where.get((name, source))
        interface = self._now.get(name)
        if found is None and interface is not None and interface.ifindex:
            return self._look_for(source, interface)
        return found or "missing"

    def missing(self, host: VirtualHost) -> tuple[bool, bool]:
        """Whether a virtual host cannot use its IPv4 and its IPv6 source."""
        missing = {
            family: self.where(host.interface, source) not in USABLE
            for family, source in configured(host)
        }
        return missing.get(4, False), missing.get(6, False)

    def addresses(self) -> set[bytes]:
        """All configured sources, 4 or 16 bytes each."""
        return {
            address_bytes(source)
            for settings in {
                id(host.settings): host.settings for _, host in self._hosts.used()
            }.values()
            for source in (settings.source, settings.source6)
            if source is not None
        }

    def on_interface(self, interface: Interface) -> None:
        """Looks again after the addresses of an interface may have changed."""
        slots = self._slots(interface.name) if interface.ifindex else {}
        changed = set()
        for source in slots:
            before = self._where.get((interface.name, source), "missing")
            if (before in USABLE) != (self._look_for(source, interface) in USABLE):
                changed.update(slots[source])
        for slot in sorted(changed):
            self._inform(slot)

    def on_address(self, address: bytes) -> None:
        """Looks again after a configured source was added to some interface, or removed."""
        for name, interface in self._now.items():
            if any(address_bytes(source) == address for source in self._slots(name)):
                self.on_interface(interface)

    def _slots(self, name: str) -> dict[str, list[int]]:
        """The slots of an interface's virtual hosts, by the configured source that they use."""
        found: dict[str, list[int]] = {}
        number = self._hosts.known(name)
        for slot in () if number is None else self._hosts.slots[number]:
            host = self._hosts.hosts[slot]
            for _, source in () if host is None else configured(host):
                found.setdefault(source, []).append(slot)
        return found

    def _look_for(self, source: str, interface: Interface) -> Where:
        """Where it is now; logs a change, but "here" only if it was elsewhere before."""
        before = self._where.get((interface.name, source))
        now = whereabouts(source, interface, self._is_on_host)
        self._where[interface.name, source] = now
        if now != before and (now != "here" or before is not None):
            level = logging.INFO if now == "here" else logging.WARNING
            waits = "" if now in USABLE else "; its virtual hosts wait for it"
            logger.log(level, "%s: source %s %s%s", interface.name, source, MEANINGS[now], waits)
        return now

    def _inform(self, slot: int) -> None:
        host = self._hosts.hosts[slot]
        if host is not None:
            four, six = self.missing(host)
            pump = self._orders.pump
            order = partial(pump.set_own_source, slot, missing=four, missing6=six)
            self._orders.post(self._hosts.only_now(slot, order))
