"""What a configuration expects of this host's interfaces: a line for each mismatch, like a fault.

A mismatch may end while the daemon runs; the daemon follows that and has its own messages. Must not
start, send or change anything, nor know how a warning is printed; present.py looks for what is on
the host and should not be.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter

from carp_fast.config.lines import Lines
from carp_fast.config.load import VirtualHost
from carp_fast.config.model import Fault, Origin, as_shown
from carp_fast.daemon.holding import against, facts_of, subnets_of
from carp_fast.daemon.own_sources import MEANINGS, USABLE, configured, whereabouts
from carp_fast.daemon.table import every_address
from carp_fast.inet import prefix_bytes
from carp_fast.net import addresses
from carp_fast.net.interfaces import Interface, absent, is_local, name_of

ADVISED_ABOVE = 255  # IPv4 addresses of one interface: local routes are advised

IsOnHost = Callable[[bytes], bool]


def differences(
    hosts: Iterable[VirtualHost],
    interfaces: Mapping[str, Interface],
    is_on_host: IsOnHost = is_local,
) -> Iterator[str]:
    """A line for each mismatch.

    `interfaces`: all that exist, by name; `is_on_host`: whether any of them has an address.
    """
    lines = Lines()
    yield from (str(lines.of(fault)) for fault in _faults(hosts, interfaces, is_on_host))


def _faults(
    hosts: Iterable[VirtualHost], interfaces: Mapping[str, Interface], is_on_host: IsOnHost
) -> Iterator[Fault]:
    by_interface: dict[str, list[VirtualHost]] = {}
    for host in hosts:
        by_interface.setdefault(host.interface, []).append(host)
    missing: dict[Origin, list[str]] = {}
    for name, its_hosts in by_interface.items():
        interface = interfaces.get(name, absent(name))
        origins = dict.fromkeys(host.settings.origin for host in its_hosts)
        for text in _of_interface(interface):
            yield from (origin.fault("interface", as_shown(name), text) for origin in origins)
        if not interface.ifindex and real_name(name) is None:
            for origin in origins:
                missing.setdefault(origin, []).append(name)
        if interface.ifindex and interface.is_ethernet:
            yield from _of_sources(interface, its_hosts, is_on_host)
            yield from _of_routes(interface, its_hosts)
    for origin, names in missing.items():
        more = f" (nor do {len(names) - 1:,} more of this table)" if len(names) > 1 else ""
        text = f"does not exist{more}; its virtual hosts wait for it"
        yield origin.fault("interface", as_shown(names[0]), text)


def real_name(name: str) -> str | None:
    """The name of the interface that has this alternative name; None if there is none."""
    try:
        real = socket.if_indextoname(socket.if_nametoindex(name))
    except OSError:
        return None
    return None if real == name else real


def other_name(real: str) -> str:
    """The text of a fault: an interface is configured by an alternative name."""
    return f'is an alternative name of {real}, and does not count as its name; allowed: "{real}"'


def _of_interface(interface: Interface) -> Iterator[str]:
    if not interface.ifindex:
        real = real_name(interface.name)
        if real is not None:
            yield other_name(real)
    elif interface.master:
        of = name_of(interface.master) or f"ifindex {interface.master}"
        yield f"is a port of {of}; the kernel does not answer for addresses of a port"


def _of_routes(interface: Interface, hosts: list[VirtualHost]) -> Iterator[Fault]:
    """Warnings about addresses that are held by local routes where those do not do, and, where an
    interface would have many addresses, the advice to use them. Once for each table.
    """
    virtual = {prefix_bytes(text)[0] for host in hosts for text in every_address(host)}
    facts = facts_of(interface, virtual)
    by_table: dict[Origin, VirtualHost] = {}
    plain: dict[Origin, None] = {}
    count = 0
    for host in hosts:
        settings = host.settings
        why = None
        if settings.hold == "route":
            why = against(interface.name, subnets_of(host), facts)
        elif settings.hold == "address" and settings.manage_addresses:
            plain[settings.origin] = None
            count += sum(":" not in text for text in every_address(host))
        if why is not None and settings.origin not in by_table:
            by_table[settings.origin] = host
            text = f'{why}: {host.name} may not be reachable; allowed: "auto", which sees to that'
            yield settings.origin.fault("hold", as_shown("route"), text)
    if count > ADVISED_ABOVE:
        for origin in plain:
            text = (
                f"{interface.name} would have {count:,} IPv4 addresses, each of which the kernel"
                f' compares with all others; advised above {ADVISED_ABOVE}: "auto"'
            )
            yield origin.fault("hold", as_shown("address"), text)


def _of_sources(
    interface: Interface, hosts: list[VirtualHost], is_on_host: IsOnHost
) -> Iterator[Fault]:
    """Warnings about the source addresses: the configured ones, or the interface's own."""
    wanted: dict[tuple[Origin, str], None] = {}
    needed: dict[tuple[int, Origin], None] = {}
    for host in hosts:
        given = configured(host)
        origin = host.settings.origin
        wanted.update(((origin, source), None) for _, source in given)
        left = set(host.families) - {family for family, _ in given}
        needed.update(((family, origin), None) for family in left)
    for origin, source in wanted:
        where = whereabouts(source, interface, is_on_host)
        if where != "here":
            waits = (
                "" if where in USABLE else f"; the virtual hosts on {interface.name} wait for it"
            )
            yield origin.fault("source", as_shown(source), f"{MEANINGS[where]}{waits}")
    virtual = {prefix_bytes(text)[0] for host in hosts for text in every_address(host)}
    finders = {4: addresses.find_source, 6: addresses.find_source6}
    for family, origin in sorted(needed, key=itemgetter(0)):
        if finders[family](interface, virtual) is None:
            text = (
                f"has no IPv{family} address to advertise from, and its virtual hosts wait for one;"
                " allowed: one that is not virtual, or a source"
            )
            yield origin.fault("interface", as_shown(interface.name), text)
