"""Logs what changes about interfaces, each change once.

Must not know the engine, nor change anything.
"""

from __future__ import annotations

import logging

from carp_fast.daemon.surroundings import other_name, real_name
from carp_fast.daemon.table import Hosts
from carp_fast.inet import address_text, mac_text
from carp_fast.net.interfaces import Interface, name_of

logger = logging.getLogger(__name__)

NEVER_LOGGED = b""


class InterfaceLog:
    """Logs changes of interfaces."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._logged: dict[tuple[str, int], bytes | None] = {}  # sources, by name and family

    def log_change(self, before: Interface | None, now: Interface, renamed_to: str | None) -> None:
        """Logs each change of an interface on a line; `before` is None if it was not known."""
        name = now.name
        if not now.ifindex:
            self.forget_sources(name)
            if before is None:
                logger.warning("%s: no such interface yet, waiting for it", name)
                real = real_name(name)
                if real is not None:
                    logger.warning("%s: %s", name, other_name(real))
            elif renamed_to not in (None, name):
                logger.warning("%s: interface was renamed to %s, waiting for it", name, renamed_to)
            elif before.ifindex:
                logger.warning("%s: interface disappeared, waiting for it", name)
            return
        if not now.is_ethernet and (before is None or before.ifindex != now.ifindex):
            logger.error("%s: not an Ethernet interface, it cannot be used", name)
        if before is not None and before.ifindex != now.ifindex:
            logger.info("%s: interface appeared (ifindex %d)", name, now.ifindex)
        if before is not None and before.ifindex == now.ifindex:
            _log_place(before, now)
        was_up = before is None or not before.ifindex or before.up  # a new one is logged if down
        if was_up != now.up:
            level = logging.INFO if now.up else logging.WARNING
            logger.log(level, "%s: link %s", name, "up" if now.up else "down")

    def log_sources(self, name: str, ipv4: bytes | None, ipv6: bytes | None) -> None:
        """Logs the source addresses, if a virtual host advertises from the interface's own."""
        number = self._hosts.number(name)
        for family, source in ((4, ipv4), (6, ipv6)):
            if not self._hosts.needs_source(number, family):
                self._logged.pop((name, family), None)
            elif self._logged.get((name, family), NEVER_LOGGED) != source:
                self._logged[name, family] = source
                if source is None:
                    logger.warning("%s: no IPv%d address to advertise from", name, family)
                else:
                    logger.info("%s: advertising from %s", name, address_text(source))

    def forget_sources(self, name: str) -> None:
        """Forgets which sources were logged, so that they are logged again."""
        for family in (4, 6):
            self._logged.pop((name, family), None)


def _log_place(before: Interface, now: Interface) -> None:
    """Logs another MAC, another bridge or bond."""
    if before.mac != now.mac:
        macs = mac_text(now.mac), mac_text(before.mac)
        logger.info("%s: MAC %s instead of %s", now.name, *macs)
    if now.master and before.master != now.master:
        of = name_of(now.master) or f"ifindex {now.master}"
        logger.warning("%s: is now a port of %s, and its addresses may not answer", now.name, of)
    elif before.master != now.master:
        logger.info("%s: is no longer a port of another interface", now.name)
