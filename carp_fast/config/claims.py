"""Finds identities and addresses that two virtual hosts of a configuration would share.

Tables claim identities; a clash names the table that claimed it first. Must not know TOML, files,
how a fault is written, or the other keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from carp_fast.config.model import Origin, VirtualHost
from carp_fast.inet import address_bytes, is_link_local


class Clash(NamedTuple):
    """Virtual hosts of a table, such as "eth0/7", whose destinations `owner` has claimed."""

    owner: Origin
    names: tuple[str, ...]
    destinations: tuple[str, ...]


class SharedAddress(NamedTuple):
    """An address that virtual hosts of two tables hold on one interface.

    `host` and `holder` are the first such pair; `others`: how many more addresses the two tables
    share.
    """

    origin: Origin
    key: str
    address: str
    host: VirtualHost
    holder: VirtualHost
    others: int


class Identities:
    """The table that claimed each (interface, destination, vhid), which only one may have.

    A virtual host claims each of its destinations; two clash if they share one.
    """

    def __init__(self) -> None:
        # By interface and destination; each list is indexed by vhid.
        self._owners: dict[tuple[str, str], list[Origin | None]] = {}

    def claim(
        self,
        origin: Origin,
        interfaces: Sequence[str],
        vhids: Sequence[int],
        destinations: Iterable[str],
    ) -> list[Clash]:
        """Claims the identities of a table and returns clashes; the first owner keeps its own."""
        # Ordered sets: a virtual host may clash in several destinations, and is named once.
        taken: dict[Origin, tuple[dict[str, None], dict[str, None]]] = {}
        for destination in destinations:
            for interface in interfaces:
                owners = self._owners.setdefault((interface, destination), [None] * 256)
                for vhid in vhids:
                    owner = owners[vhid]
                    if owner is None:
                        owners[vhid] = origin
                        continue
                    names, shared = taken.setdefault(owner, ({}, {}))
                    names[f"{interface}/{vhid}"] = shared[destination] = None
        return [
            Clash(owner, tuple(names), tuple(shared)) for owner, (names, shared) in taken.items()
        ]


def _host_part(address: str) -> str:
    return address.partition("/")[0]


def repeated_address(host: VirtualHost) -> tuple[str, str] | None:
    """(key, address) of an address that the virtual host holds twice or that is also a peer."""
    seen = set(host.settings.peers)
    for key, address in host.keyed_addresses:
        if _host_part(address) in seen:
            return key, address
        seen.add(_host_part(address))
    return None


def unlisted_source(peers: Iterable[str]) -> str | None:
    """The text of a fault in peers where no IPv6 source is configured; None without a fault.

    The default source is a link-local address, which a peer that lists another address refuses.
    """
    for peer in peers:
        if ":" in peer and not is_link_local(address_bytes(peer)):
            return (
                f"{peer} would hear us from our link-local address, which it does not list, and"
                " both hosts would be MASTER; allowed: source given, too, or link-local peers"
            )
    return None


def virtual_sources(hosts: Iterable[VirtualHost]) -> dict[Origin, tuple[str, str]]:
    """Tables whose source is an address of a virtual host: (source, name of the virtual host).

    Such an address exists only while that virtual host is MASTER. Virtual hosts whose addresses
    are managed by scripts are left out.
    """
    hosts = list(hosts)
    every = {id(host.settings): host.settings for host in hosts}.values()
    sources = {
        source: settings.origin
        for settings in every
        for source in (settings.source, settings.source6)
        if source is not None
    }
    if not sources:
        return {}
    return {
        sources[_host_part(address)]: (_host_part(address), host.name)
        for host in hosts
        if host.settings.manage_addresses
        for _, address in host.keyed_addresses
        if _host_part(address) in sources
    }


def shared_addresses(interfaces: Iterable[Iterable[VirtualHost]]) -> list[SharedAddress]:
    """Addresses held by two virtual hosts of one interface, one entry for each pair of tables."""
    shared: dict[tuple[Origin, Origin], SharedAddress] = {}
    for hosts in interfaces:
        holders: dict[str, VirtualHost] = {}
        for host in hosts:
            for key, address in host.keyed_addresses:
                holder = holders.setdefault(_host_part(address), host)
                if holder is host:
                    continue
                tables = (host.settings.origin, holder.settings.origin)
                found = shared.get(tables)
                if found is None:
                    shared[tables] = SharedAddress(tables[0], key, address, host, holder, 0)
                else:
                    shared[tables] = found._replace(others=found.others + 1)
    return list(shared.values())
