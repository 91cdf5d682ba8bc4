"""The host's interfaces as they are now: which exist, which are up, which addresses they have.

Holds `Interface`, `read_interfaces`, and the decoding of the kernel's messages about links and
addresses. Must not know virtual hosts, loops or threads, nor change anything: it only reads.

pyroute2 decodes the links. Addresses are decoded here, because there may be tens of thousands, and
a decoder that builds the whole message is too slow for that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from carp_fast.closing import Closing
from carp_fast.errors import CarpFastError
from carp_fast.inet import family_of, hardware_bytes
from carp_fast.net.kernel import (
    ARPHRD_ETHER,
    IFA_ADDRESS,
    IFA_FLAGS,
    IFA_LOCAL,
    IFA_PROTO,
    IFLA_EXT_MASK,
    NETLINK_GET_STRICT_CHK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    RT_TABLE_LOCAL,
    RTA_DST,
    RTA_OIF,
    RTEXT_FILTER_SKIP_STATS,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTN_LOCAL,
    SOL_NETLINK,
)
from carp_fast.net.structures import structure

Read = TypeVar("Read")

OWN_PROTOCOL = 112  # IFA_PROTO of an address, and protocol of a route, that carp-fast added

MESSAGE_BYTES_MAX = 65_536  # one read; a notification or a part of a dump is at most 32 KiB
DUMP_ATTEMPTS = 5  # a dump marked as interrupted by a change is read again this often
DUMP_TIMEOUT_S = 10.0  # the kernel normally answers a dump immediately

NLMSG_DONE = 3
NETCONFA_IFINDEX = 1
FORWARDING6 = Path("/proc/sys/net/ipv6/conf")
UPPER_KINDS = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"})
# IFF_LOWER_UP is the carrier, IFF_RUNNING an operational state that lets traffic pass.
IFF_UP = 0x1
IFF_PASSES = IFF_UP | 0x40 | 0x10000  # IFF_UP, IFF_RUNNING, IFF_LOWER_UP

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
LINK_BODY = struct.Struct("=BxHiII")  # family, hardware type, ifindex, flags, change
ADDRESS_BODY = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, ifindex
# family, destination and source lengths, TOS, table, protocol, scope, type, flags
ROUTE_BODY = struct.Struct("=BBBBBBBBI")
ATTRIBUTE = struct.Struct("=HH")  # length, type
NETCONF_BODY = struct.Struct("=B3x")  # family


class InterfaceAddress(msgspec.Struct, frozen=True):
    """One address of an interface; `address` has 4 or 16 bytes, `flags` are IFA_F_*."""

    family: int  # 4 or 6
    address: bytes
    prefixlen: int
    scope: int  # RT_SCOPE_*: 0 global, 253 link, 254 host
    flags: int
    protocol: int  # IFA_PROTO, 0 if the kernel reports none (always before Linux 5.18)


class Interface(msgspec.Struct, frozen=True):
    """An interface as it was at one moment; addresses are in the kernel's order.

    `ifindex` is 0 if it does not exist. `mac` has six bytes on Ethernet; other kinds of interface
    have another length, or none. `up`: it is administratively up, has carrier, and its operational
    state lets traffic pass. `forwards6`: it forwards IPv6, as a router does.
    `master`: the ifindex of the bridge or bond that it is a port of, or 0. `uppers`: the VLANs,
    macvlans and so on of this namespace that get frames from it. `kind` is its hardware type,
    ARPHRD_*. `set_up`: administratively, with or without carrier.
    """

    name: str
    ifindex: int
    mac: bytes
    up: bool
    addresses: tuple[InterfaceAddress, ...]
    forwards6: bool = False
    master: int = 0
    kind: int = ARPHRD_ETHER
    uppers: tuple[str, ...] = ()
    set_up: bool = True

    @property
    def is_ethernet(self) -> bool:
        """Whether it has what CARP needs: Ethernet frames and a MAC. Loopback has only a MAC."""
        return self.kind == ARPHRD_ETHER and len(self.mac) == 6


class LinkError(CarpFastError):
    """Raised when the kernel does not return its links or addresses; one line."""


class Link(NamedTuple):
    """`lower`: the ifindex of the link that it gets its frames from, or 0."""

    ifindex: int
    name: str
    mac: bytes
    up: bool
    master: int = 0
    kind: int = ARPHRD_ETHER
    lower: int = 0
    set_up: bool = True


def absent(name: str) -> Interface:
    """An interface that does not exist."""
    return Interface(name, 0, b"", False, ())


def read_interfaces(names: Iterable[str] | None = None) -> dict[str, Interface]:
    """Reads these interfaces, with all addresses, in the calling thread's network namespace.

    None: all that exist. Every name is in the answer, in this order. Raises LinkError.
    """
    with KernelReader() as kernel:
        links = {link.name: link for link in kernel.links()}
        wanted = {name: links.get(name) for name in (links if names is None else names)}
        addresses = kernel.addresses({link.ifindex for link in wanted.values() if link})
    uppers = uppers_of(links.values())
    return {name: as_interface(name, link, addresses, uppers) for name, link in wanted.items()}


def is_local(address: bytes) -> bool:
    """Whether an address, 4 or 16 bytes, is on any interface of the calling thread's namespace.

    If so, the kernel delivers to the host itself what is sent there.
    """
    body = ROUTE_BODY.pack(family_of(address), 8 * len(address), 0, 0, 0, 0, 0, 0, 0)
    body += ATTRIBUTE.pack(ATTRIBUTE.size + len(address), RTA_DST) + address
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as asking:
        asking.settimeout(DUMP_TIMEOUT_S)
        asking.bind((0, 0))
        header = HEADER.pack(HEADER.size + len(body), RTM_GETROUTE, NLM_F_REQUEST, 1, 0)
        try:
            asking.send(header + body)
            data = asking.recv(MESSAGE_BYTES_MAX)
        except OSError:  # a kernel without IPv6 has no such address
            return False
    kind = HEADER.unpack_from(data)[1]
    return kind == RTM_NEWROUTE and bool(ROUTE_BODY.unpack_from(data, HEADER.size)[7] == RTN_LOCAL)


def without_marked(interface: Interface) -> Interface:
    """A copy without the addresses that carry our mark."""
    others = tuple(each for each in interface.addresses if each.protocol != OWN_PROTOCOL)
    return msgspec.structs.replace(interface, addresses=others)


def uppers_of(links: Iterable[Link]) -> dict[int, tuple[str, ...]]:
    """The names of the links above each link that has any, by its ifindex."""
    found: dict[int, list[str]] = {}
    for link in links:
        if link.lower:
            found.setdefault(link.lower, []).append(link.name)
    return {ifindex: tuple(sorted(names)) for ifindex, names in found.items()}


def as_interface(
    name: str,
    link: Link | None,
    addresses: Mapping[int, tuple[InterfaceAddress, ...]],
    uppers: Mapping[int, tuple[str, ...]],
) -> Interface:
    if link is None:
        return absent(name)
    there = addresses.get(link.ifindex, ())
    return Interface(
        name,
        link.ifindex,
        link.mac,
        link.up,
        there,
        forwards6(name),
        link.master,
        link.kind,
        uppers.get(link.ifindex, ()),
        link.set_up,
    )


def name_of(ifindex: int) -> str | None:
    """The current name of an interface in the calling thread's namespace; None if it does not
    exist.
    """
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return None


def forwards6(name: str) -> bool:
    """Whether an interface forwards IPv6, in the calling thread's network namespace."""
    try:
        return (FORWARDING6 / name / "forwarding").read_text().strip() != "0"
    except OSError:  # it no longer exists, or the kernel has no IPv6
        return False


def messages(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yields (type, flags, start of the body, end) of each netlink message in a datagram."""
    start = 0
    while start + HEADER.size <= len(data):
        length, kind, flags, _, _ = HEADER.unpack_from(data, start)
        if length < HEADER.size or start + length > len(data):
            raise LinkError(f"netlink message of {length} bytes, but {len(data) - start} received")
        yield kind, flags, start + HEADER.size, start + length
        start += (length + 3) & ~3


def decode_link(message: bytes) -> Link | None:
    """Decodes RTM_NEWLINK; None if it is not about a link (bridges use it for their ports, too)."""
    decoded = structure("ifinfmsg")(message)
    decoded.decode()
    if decoded["family"] != socket.AF_UNSPEC:
        return None
    mac = decoded.get_attr("IFLA_ADDRESS") or ""
    information = decoded.get_attr("IFLA_LINKINFO")
    lower = 0
    # The other end of a veth is no such link, nor is one of another namespace.
    if (
        information is not None
        and information.get_attr("IFLA_INFO_KIND") in UPPER_KINDS
        and decoded.get_attr("IFLA_LINK_NETNSID") is None
    ):
        lower = int(decoded.get_attr("IFLA_LINK") or 0)
    return Link(
        ifindex=int(decoded["index"]),
        name=str(decoded.get_attr("IFLA_IFNAME")),
        mac=hardware_bytes(mac),
        up=decoded["flags"] & IFF_PASSES == IFF_PASSES,
        master=int(decoded.get_attr("IFLA_MASTER") or 0),
        kind=int(decoded["ifi_type"]),
        lower=lower,
        set_up=bool(decoded["flags"] & IFF_UP),
    )


def decode_address(
    data: bytes, start: int, end: int, wanted: Container[int], excluded: int | None = None
) -> tuple[int, InterfaceAddress] | None:
    """Decodes the body of RTM_NEWADDR or RTM_DELADDR to (ifindex, address).

    None if it is not on one of the `wanted` ifindexes, is neither IPv4 nor IPv6, or has the
    `excluded` protocol.
    """
    family, prefixlen, flags, scope, ifindex = ADDRESS_BODY.unpack_from(data, start)
    if ifindex not in wanted or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    address = b""
    protocol = 0
    at = start + ADDRESS_BODY.size
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            break
        # On a point-to-point link IFA_ADDRESS is the peer's, and IFA_LOCAL comes after it.
        if kind == IFA_LOCAL or (kind == IFA_ADDRESS and not address):
            address = data[at + 4 : at + length]
        elif kind == IFA_FLAGS:
            flags = int.from_bytes(data[at + 4 : at + 8], sys.byteorder)
        elif kind == IFA_PROTO:
            protocol = data[at + 4]
        at += (length + 3) & ~3
    if excluded is not None and protocol == excluded:
        return None
    version = 4 if family == socket.AF_INET else 6
    return ifindex, InterfaceAddress(version, address, prefixlen, scope, flags, protocol)


def decode_route(data: bytes, start: int, end: int) -> tuple[int, bytes] | None:
    """Decodes the body of RTM_NEWROUTE or RTM_DELROUTE to (ifindex, address).

    None if it is not a local route to an IPv4 address with our mark.
    """
    family, length, _, _, table, protocol, _, kind, _ = ROUTE_BODY.unpack_from(data, start)
    if (family, length, table) != (socket.AF_INET, 32, RT_TABLE_LOCAL):
        return None
    if (protocol, kind) != (OWN_PROTOCOL, RTN_LOCAL):
        return None
    address, ifindex = b"", 0
    at = start + ROUTE_BODY.size
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            break
        if kind == RTA_DST:
            address = data[at + 4 : at + length]
        elif kind == RTA_OIF:
            ifindex = int.from_bytes(data[at + 4 : at + 8], sys.byteorder)
        at += (length + 3) & ~3
    return ifindex, address


def decode_netconf(data: bytes, start: int, end: int) -> int:
    """Decodes the body of RTM_NEWNETCONF to its ifindex; 0 or less: not about one interface."""
    at = start + NETCONF_BODY.size
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            break
        if kind == NETCONFA_IFINDEX:
            return int.from_bytes(data[at + 4 : at + 8], sys.byteorder, signed=True)
        at += (length + 3) & ~3
    return 0


class _Interrupted(CarpFastError):
    """Raised when something changed during a dump, so that it may be inconsistent."""


class KernelReader(Closing):
    """A netlink socket for dumps, in the namespace of the thread that created it.

    Raises LinkError if there is none to be had.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        except OSError as error:
            raise LinkError(f"cannot open a netlink socket: {error.strerror}") from error
        self._socket.bind((0, 0))
        self._sequence = 0
        # Kernels before 4.20 do not know it and dump everything; the decoder filters that.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

    def close(self) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """All links of the namespace."""
        attribute = struct.pack("=HHI", 8, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        body = LINK_BODY.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute

        def read() -> list[Link]:
            decoded = (
                decode_link(data[start - HEADER.size : end])
                for data, start, end in self._dump(RTM_GETLINK, body)
            )
            return [link for link in decoded if link is not None]

        return self._consistent(read)

    def addresses(
        self, wanted: Container[int], only: int = 0, excluded: int | None = None
    ) -> dict[int, tuple[InterfaceAddress, ...]]:
        """The addresses of the wanted ifindexes; `only` limits the kernel's dump to one ifindex."""
        body = ADDRESS_BODY.pack(socket.AF_UNSPEC, 0, 0, 0, only)

        def read() -> dict[int, tuple[InterfaceAddress, ...]]:
            found: dict[int, list[InterfaceAddress]] = {}
            for data, start, end in self._dump(RTM_GETADDR, body):
                if decoded := decode_address(data, start, end, wanted, excluded):
                    found.setdefault(decoded[0], []).append(decoded[1])
            return {ifindex: tuple(addresses) for ifindex, addresses in found.items()}

        return self._consistent(read)

    def local_routes(self) -> list[tuple[int, bytes]]:
        """(ifindex, address) of each IPv4 address that a local route with our mark holds.

        The kernel filters this dump, since a router may have a million other routes; that needs
        Linux 4.20.
        """
        body = ROUTE_BODY.pack(
            socket.AF_INET, 0, 0, 0, RT_TABLE_LOCAL, OWN_PROTOCOL, 0, RTN_LOCAL, 0
        )

        def read() -> list[tuple[int, bytes]]:
            routes = (
                decode_route(data, start, end)
                for data, start, end in self._dump(RTM_GETROUTE, body)
            )
            return [route for route in routes if route is not None]

        return self._consistent(read)

    def _consistent(self, read: Callable[[], Read]) -> Read:
        for _ in range(DUMP_ATTEMPTS):
            try:
                return read()
            except _Interrupted:
                continue
            except TimeoutError:
                raise LinkError(f"no answer to a dump within {DUMP_TIMEOUT_S:g} s") from None
        raise LinkError(f"links or addresses changed during each of {DUMP_ATTEMPTS} dumps")

    def _dump(self, request: int, body: bytes) -> Iterator[tuple[bytes, int, int]]:
        """Yields (data, start of the body, end) of each message; must be read to its end."""
        self._sequence += 1
        length = HEADER.size + len(body)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        self._socket.settimeout(DUMP_TIMEOUT_S)
        self._socket.send(HEADER.pack(length, request, flags, self._sequence, 0) + body)
        interrupted = False
        while True:
            data = self._socket.recv(MESSAGE_BYTES_MAX)
            if HEADER.unpack_from(data)[3] != self._sequence:
                continue  # the rest of an abandoned dump
            for kind, message_flags, start, end in messages(data):
                interrupted |= bool(message_flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    code = -struct.unpack_from("=i", data, start)[0] if end - start >= 4 else 0
                    # An interface that disappeared meanwhile has no addresses, a table that does
                    # not exist yet no routes.
                    if code not in (0, errno.ENODEV, errno.ENOENT):
                        raise LinkError(f"dump of type {request}: {os.strerror(code)}")
                    if interrupted:
                        raise _Interrupted
                    return
                yield data, start, end
