"""The virtual hosts of a flood: from a configuration, so that digests are valid, or made up.

Holds what each advertises by family, and what it announces. Must not know how frames are made
(_mix.pyx), nor the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from carp_fast.capture.digests import GROUPS
from carp_fast.config.model import Configuration, VirtualHost
from carp_fast.engine._prepared import multicast_mac, signed_forms, signed_message
from carp_fast.errors import CarpFastError
from carp_fast.inet import (
    VIRTUAL_MACS,
    address_bytes,
    address_text,
    mac_bytes,
    prefix_bytes,
    virtual_mac,
)
from carp_fast.loadtest.walks import Walk
from carp_fast.net.kernel import RT_SCOPE_LINK

SentRow = tuple[int, bytes, bytes, int | None, int, int, int, int]
"""A row of _mix.Mix.sent_by."""

MADE_UP_SOURCES = (address_bytes("198.18.0.1"), address_bytes("fe80::1"))
MADE_UP_MAC = bytes((2, 0, 0, 0, 0, 1))


class StreamError(CarpFastError):
    """Raised when no frames can be made from the options; the text is one line."""


class Stream(NamedTuple):
    """A virtual host in one family, as _mix.Mix takes it; `message`: the message that it signs."""

    vhid: int
    passphrase: bytes
    message: bytes
    source: bytes
    destination: bytes
    source_mac: bytes
    destination_mac: bytes
    advbase: int
    advskew: int
    demote: int = 0

    @property
    def interval_s(self) -> float:
        return self.advbase + self.advskew / 256


class Announcement(NamedTuple):
    """An address that a virtual host holds, and the MAC that owns it."""

    mac: bytes
    address: bytes
    router: bool


class Place(NamedTuple):
    """The default source of frames: MAC, IPv4 and IPv6 address."""

    mac: bytes = MADE_UP_MAC
    source: bytes = MADE_UP_SOURCES[0]
    source6: bytes = MADE_UP_SOURCES[1]
    router: bool = False


class Streams(NamedTuple):
    streams: list[Stream]
    announcements: list[Announcement]


def place_of(interface: str | None) -> Place:
    """The addresses of the interface, with made-up ones for those that it lacks.

    Raises interfaces.LinkError.
    """
    if interface is None:
        return Place()
    from carp_fast.net.interfaces import read_interfaces

    found = read_interfaces([interface])[interface]
    four = [each.address for each in found.addresses if each.family == 4]
    six = [a.address for a in found.addresses if a.family == 6 and a.scope == RT_SCOPE_LINK]
    return Place(
        found.mac if len(found.mac) == 6 else MADE_UP_MAC,
        (four or MADE_UP_SOURCES)[0],
        (six or MADE_UP_SOURCES[1:])[0],
        found.forwards6,
    )


def from_configuration(
    configuration: Configuration,
    interface: str | None,
    place: Place,
    *,
    vhids: Iterable[int] | None = None,
    peer_mac: bytes | None = None,
) -> Streams:
    """The virtual hosts on `interface`, or all of them if the configuration has none on it.

    `vhids`: only these; `peer_mac`: the destination of advertisements to peers. Raises StreamError.
    """
    hosts = configuration.virtual_hosts
    here = [host for host in hosts if host.interface == interface] or hosts
    wanted = None if vhids is None else set(vhids)
    chosen = [host for host in here if wanted is None or host.vhid in wanted]
    if not chosen:
        lacks = f" has none of the {len(wanted or ()):,} chosen vhids" if wanted else " is empty"
        raise StreamError(f"{configuration.path}{lacks}")
    found = Streams([], [])
    for host in chosen:
        _add(found, host, place, peer_mac)
    return found


def _add(found: Streams, host: VirtualHost, place: Place, peer_mac: bytes | None) -> None:
    settings = host.settings
    addresses = [prefix_bytes(each)[0] for each in host.addresses]
    unsigned = [prefix_bytes(each)[0] for each in host.unsigned_addresses]
    lladdr = mac_bytes(settings.lladdr) if settings.lladdr else None
    forms = signed_forms(host.vhid, addresses, dialect=settings.dialect, lladdr=lladdr)
    _, message = forms[0]
    kind = settings.advertise_mac
    mac = virtual_mac(kind, host.vhid) if kind in VIRTUAL_MACS else place.mac
    for destination in map(address_bytes, host.destinations):
        own = settings.source if len(destination) == 4 else settings.source6
        usual = place.source if len(destination) == 4 else place.source6
        if settings.peers:
            if peer_mac is None:
                raise StreamError(
                    f"{host.name} advertises to peers: give their MAC with --destination-mac"
                )
            target = peer_mac
        else:
            target = b"\xff" * 6 if settings.broadcast else multicast_mac(destination)
        found.streams.append(
            Stream(
                host.vhid, settings.passphrase_text, message,
                address_bytes(own) if own else usual, destination, mac, target,
                settings.advbase, settings.advskew,
            )
        )  # fmt: skip
    found.announcements.extend(
        Announcement(place.mac, address, place.router) for address in addresses + unsigned
    )


def made_up(
    vhids: Sequence[int], addresses: Sequence[bytes], passphrase: bytes, place: Place
) -> Streams:
    """Virtual hosts with advbase 1 and advskew 0; without addresses, 198.51.100.VHID each.

    With as many addresses as vhids each gets one, in order; otherwise each gets all of them.
    Raises StreamError.
    """
    if not vhids or not all(1 <= vhid <= 255 for vhid in vhids):
        raise StreamError("a vhid must be a number from 1 to 255")
    found = Streams([], [])
    for number, vhid in enumerate(vhids):
        if not addresses:
            own = [bytes((198, 51, 100, vhid))]
        elif len(addresses) == len(vhids):
            own = [addresses[number]]
        else:
            own = list(addresses)
        message = signed_message(vhid, own)
        for group, usual in zip(GROUPS, (place.source, place.source6), strict=True):
            if any(len(address) == len(group) for address in own):
                found.streams.append(
                    Stream(
                        vhid, passphrase, message, usual, group, place.mac,
                        multicast_mac(group), 1, 0,
                    )
                )  # fmt: skip
        found.announcements.extend(Announcement(place.mac, each, place.router) for each in own)
    return found


class SentFlow(msgspec.Struct, frozen=True):
    """Advertisements of one source, destination, vhid and VLAN (None: without a tag).

    `sent` of them have a counter of their own, `replayed` repeat one; `bad_length` and `vrrp` are
    frames without one.
    """

    vhid: int
    source: str
    destination: str
    vlan: int | None
    sent: int
    replayed: int
    bad_length: int = 0
    vrrp: int = 0


def named(sent_by: Iterable[SentRow]) -> list[SentFlow]:
    """The result of _mix.Mix.sent_by with addresses as text."""
    return [
        SentFlow(vhid, address_text(source), address_text(destination), vlan, *counts)
        for vhid, source, destination, vlan, *counts in sent_by
    ]


def groups_of(streams: Iterable[Stream], walks: Mapping[str, Walk]) -> Iterator[bytes]:
    """The groups that the frames are sent to, each once; not addresses of peers or broadcasts."""
    fixed: dict[bytes, None] = {}
    for family, field in ((4, "destination"), (16, "destination6")):
        here = [stream.destination for stream in streams if len(stream.destination) == family]
        if here and field in walks:
            yield from filter(is_group, (value.to_bytes(family) for value in walks[field][1]))
        else:
            fixed.update(dict.fromkeys(filter(is_group, here)))
    yield from fixed


def is_group(address: bytes) -> bool:
    return address[0] >> 4 == 0xE if len(address) == 4 else address[0] == 0xFF
