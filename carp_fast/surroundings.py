"""What a configuration expects of this host, and what is there: a line for each difference.

Interfaces, sources and peers are compared with the host as it is now. It may change under the
daemon, which follows: nothing here is a fault. Must not start, send or change anything.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping

from carp_fast import addresses
from carp_fast.config import VirtualHost
from carp_fast.hosts import every_address
from carp_fast.interfaces import Interface, absent, is_local, name_of
from carp_fast.own_sources import MEANINGS, USABLE, configured, whereabouts

IsOnHost = Callable[[bytes], bool]


def differences(hosts: Iterable[VirtualHost], interfaces: Mapping[str, Interface]) -> Iterator[str]:
    """A line for each expectation that this host, with all its interfaces, does not meet."""
    by_interface: dict[str, list[VirtualHost]] = {}
    for host in hosts:
        by_interface.setdefault(host.interface, []).append(host)
    yield from compared(by_interface, interfaces, is_local, real_name)


def compared(
    by_interface: Mapping[str, list[VirtualHost]],
    interfaces: Mapping[str, Interface],
    is_on_host: IsOnHost,
    real_name_of: Callable[[str], str | None],
) -> Iterator[str]:
    """The same of given interfaces; see real_name() for what `real_name_of` says."""
    for name, hosts in by_interface.items():
        interface = interfaces.get(name, absent(name))
        if not interface.ifindex:
            real = real_name_of(name)
            if real is not None:
                yield f"{name}: {other_name(real)}"
        if not interface.ifindex or not interface.is_ethernet:
            continue
        if interface.master:
            of = name_of(interface.master) or f"ifindex {interface.master}"
            yield f"{name}: is a port of {of}, and addresses there may not answer"
        yield from _sources(interface, hosts, is_on_host)
    yield from own_peers((host for hosts in by_interface.values() for host in hosts), is_on_host)


def real_name(name: str) -> str | None:
    """The name of the interface that has this one as an alternative name; None: none has."""
    try:
        real = socket.if_indextoname(socket.if_nametoindex(name))
    except OSError:
        return None
    return None if real == name else real


def other_name(real: str) -> str:
    """What is wrong with an interface that is configured by an alternative name."""
    return f'is an alternative name of {real}, and waited for as a name; allowed: "{real}"'


def _sources(
    interface: Interface, hosts: Iterable[VirtualHost], is_on_host: IsOnHost
) -> Iterator[str]:
    """What its virtual hosts advertise from: the configured address, or one of its own."""
    hosts = list(hosts)
    wanted: dict[str, None] = {}
    needed: set[int] = set()
    for host in hosts:
        given = configured(host)
        wanted.update((source, None) for _, source in given)
        needed.update(set(host.families) - {family for family, _ in given})
    for source in wanted:
        where = whereabouts(source, interface, is_on_host)
        if where != "here":
            waits = "" if where in USABLE else ", and its virtual hosts wait for it"
            yield f"{interface.name}: source = {source}: {MEANINGS[where]}{waits}"
    virtual = {addresses.split(text)[0] for host in hosts for text in every_address(host)}
    finders = {4: addresses.find_source, 6: addresses.find_source6}
    for family in sorted(needed):
        if finders[family](interface, virtual) is None:
            yield (
                f"{interface.name}: no IPv{family} address to advertise from, and its virtual"
                " hosts wait for one"
            )


def own_peers(hosts: Iterable[VirtualHost], is_on_host: IsOnHost = is_local) -> Iterator[str]:
    """Peers that are addresses of this host: what is sent there is heard by nobody else."""
    seen: dict[tuple[str, str], None] = {}
    for settings, host in {id(host.settings): (host.settings, host) for host in hosts}.values():
        for peer in settings.peers:
            packed = addresses.packed(peer)
            if not addresses.is_link_local(packed) and is_on_host(packed):
                seen[host.interface, peer] = None
    for name, peer in seen:
        yield f"{name}: peers = {peer}: is an address of this host, which does not hear itself"
