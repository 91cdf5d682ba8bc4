"""What is on this host already, compared with a configuration: warnings of `check` and `run`.

Reports foreign addresses, network and broadcast addresses of the interface's prefixes, interfaces
that are not Ethernet, and peers that are this host. Reads, and changes nothing. Must not know a
running daemon, nor how a warning is printed; config/rules.py and config/doubts.py judge a
configuration without its host, surroundings.py what it expects of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from carp_fast.config.doubts import Doubts
from carp_fast.config.lines import Lines
from carp_fast.config.load import Configuration, VirtualHost
from carp_fast.config.model import Fault, Origin, as_shown
from carp_fast.config.rules import POINT_TO_POINT4
from carp_fast.inet import address_bytes, address_text, is_link_local, prefix_text
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, LinkError, is_local, read_interfaces


class There(NamedTuple):
    """An address of an interface."""

    interface: str
    address: str  # with its prefix length


def foreign_addresses(interfaces: Iterable[Interface]) -> dict[str, list[There]]:
    """Addresses without our mark, by their text without prefix length, and where they are."""
    found: dict[str, list[There]] = {}
    for interface in interfaces:
        for each in interface.addresses:
            if each.protocol != OWN_PROTOCOL:
                address = prefix_text(each.address, each.prefixlen)
                there = There(interface.name, address)
                found.setdefault(address.partition("/")[0], []).append(there)
    return found


def prefix_ends(interface: Interface) -> dict[str, str]:
    """The network and broadcast addresses of an interface's IPv4 prefixes, and what each is."""
    ends: dict[str, str] = {}
    for each in interface.addresses:
        if each.family == 4 and each.prefixlen < POINT_TO_POINT4 and each.protocol != OWN_PROTOCOL:
            bits = (1 << 32 - each.prefixlen) - 1
            value, prefix = int.from_bytes(each.address), prefix_text(each.address, each.prefixlen)
            first, last = (value & ~bits).to_bytes(4), (value | bits).to_bytes(4)
            ends[address_text(first)] = f"network address of {prefix}"
            ends[address_text(last)] = f"broadcast address of {prefix}"
    return ends


def of_this_host(configuration: Configuration) -> list[str]:
    """The warnings for this host as it is now, except those that a running daemon gives itself."""
    try:
        interfaces = read_interfaces()
    except (OSError, LinkError) as error:
        return [f"could not read the interfaces of this host: {error}"]
    followed = {host.interface for host in configuration.virtual_hosts}
    return list(warnings(configuration, interfaces, followed=followed))


def warnings(
    configuration: Configuration,
    interfaces: Mapping[str, Interface],
    *,
    followed: Container[str] = (),
) -> Iterator[str]:
    """A line, like that of a fault, for each thing that does not fit this host.

    `interfaces`: all that exist, by name; `followed`: those whose foreign addresses are reported
    while the daemon runs. Without marks (before Linux 5.18) an address that a running daemon of
    this configuration holds looks like a foreign one.
    """
    lines = Lines()
    found = (
        *_of_host(configuration, interfaces, followed),
        *own_peers(configuration.virtual_hosts),
    )
    yield from (str(lines.of(fault)) for fault in found)


def _of_host(
    configuration: Configuration, interfaces: Mapping[str, Interface], followed: Container[str]
) -> Iterator[Fault]:
    there = foreign_addresses(e for name, e in interfaces.items() if name not in followed)
    ends = {name: prefix_ends(interface) for name, interface in interfaces.items()}
    tables: dict[Origin, Doubts] = {}
    odd: dict[tuple[Origin, str], Interface] = {}
    for host in configuration.virtual_hosts:
        interface = interfaces.get(host.interface)
        if interface is not None and interface.ifindex and not interface.is_ethernet:
            odd[host.settings.origin, host.interface] = interface
        ends_here = ends.get(host.interface, {})
        if not there and not ends_here:
            continue
        doubts = tables.setdefault(host.settings.origin, Doubts())
        for key, address in host.keyed_addresses:
            bare = address.partition("/")[0]
            if bare in there and host.settings.manage_addresses:
                doubts.add("foreign", host, key, address, _text_of(there[bare]))
            if bare in ends_here:
                text = f"is the {ends_here[bare]} on {host.interface}"
                doubts.add("end", host, key, address, f"{text}; allowed: an address of a host")
    for (origin, name), interface in odd.items():
        text = (
            f"is not Ethernet (hardware type {interface.kind}): CARP needs a MAC, and the virtual"
            " hosts there stay INIT; allowed: an Ethernet interface"
        )
        yield origin.fault("interface", as_shown(name), text)
    for origin, doubts in tables.items():
        for doubt in doubts.found:
            yield origin.fault(doubt.key, as_shown(doubt.address), doubt.text)


def own_peers(
    hosts: Iterable[VirtualHost], is_on_host: Callable[[bytes], bool] = is_local
) -> Iterator[Fault]:
    """Peers that are addresses of this host, once for each table: no other host hears what they
    get.
    """
    text = "is an address of this host, which does not hear itself; allowed: other hosts"
    for settings in {id(host.settings): host.settings for host in hosts}.values():
        for peer in settings.peers:
            if not is_link_local(address_bytes(peer)) and is_on_host(address_bytes(peer)):
                yield settings.origin.fault("peers", as_shown(peer), text)


def _text_of(there: list[There]) -> str:
    where = ", ".join(f"{each.interface} ({each.address})" for each in there)
    return (
        f"is on this host already, and carp-fast did not add it: {where}; it is left alone"
        " (address_foreign), also while another host is MASTER; allowed: an address that no other"
        " program adds"
    )
