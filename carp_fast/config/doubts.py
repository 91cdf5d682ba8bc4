"""Warnings about addresses of virtual hosts that are allowed, but are probably a mistake.

Each kind of doubt is reported once per table, with the first address and the number of others.
Must not know TOML, files, how a warning is written, or interfaces that exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Interface
from typing import NamedTuple

from carp_fast.config.model import VirtualHost

LINK_LOCAL = "fe80:"  # fe80::/10, of which kernels in practice compare 16 bits
LAST_GROUP6 = 112  # up to this prefix length the host part includes the last group
POINT_TO_POINT6 = 127  # from this prefix length on, hosts may have any address (RFC 6164)

LINK_LOCAL_SIGNED = (
    'is link-local: in dialect "ucarp" it is signed as FreeBSD and NetBSD sign it, and OpenBSD'
    ' refuses that digest, so both hosts would be MASTER; allowed: dialect "openbsd" where another'
    " host runs OpenBSD"
)
ANYCAST = (
    "is the subnet-router anycast address of its prefix, for which every router there answers;"
    " allowed: another address of the prefix, or the prefix length 127 or 128"
)


class Doubt(NamedTuple):
    """One kind of doubt in a table: the key and address where it was found first, and the text."""

    key: str
    address: str
    text: str


class Doubts:
    """Collects the doubts about the virtual hosts of one table."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[VirtualHost, str, str, str]] = {}  # by kind
        self._more: dict[str, int] = {}

    def look(self, host: VirtualHost) -> None:
        """Checks the addresses of a virtual host."""
        # Fast for the usual case: of up to 131,072 hosts nearly all are IPv4 or clearly unicast.
        ucarp = host.settings.dialect == "ucarp"
        for address in host.addresses:
            if ":" in address:
                if ucarp and address.startswith(LINK_LOCAL):
                    self.add("link-local", host, "addresses", address, LINK_LOCAL_SIGNED)
                if is_anycast(address):
                    self.add("anycast", host, "addresses", address, ANYCAST)
        for address in host.unsigned_addresses:
            if ":" in address and is_anycast(address):
                self.add("anycast", host, "unsigned_addresses", address, ANYCAST)

    def add(self, kind: str, host: VirtualHost, key: str, address: str, text: str) -> None:
        """Adds a doubt; of each kind the first is kept and the others are counted."""
        if kind in self._first:
            self._more[kind] = self._more.get(kind, 0) + 1
        else:
            self._first[kind] = (host, key, address, text)

    @property
    def found(self) -> Iterator[Doubt]:
        for kind, (host, key, address, text) in self._first.items():
            more = self._more.get(kind)
            others = f" (and {more:,} more in this table)" if more else ""
            yield Doubt(key, address, f"of {host.name} {text}{others}")


def is_anycast(address: str) -> bool:
    """True if an IPv6 address with a prefix length is the subnet-router anycast address."""
    slash = address.index("/")
    prefixlen = int(address[slash + 1 :])
    # Its last 128 - prefixlen bits are 0, so its last digits are as well.
    if prefixlen >= POINT_TO_POINT6 or address[slash - 1] not in "048c:":
        return False
    if prefixlen <= LAST_GROUP6 and not address.endswith(("::", ":0"), 0, slash):
        return False
    interface = IPv6Interface(address)
    return interface.ip == interface.network.network_address
