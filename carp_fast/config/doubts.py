"""What a configuration may mean, but seldom does: warnings about the addresses of virtual hosts.

Each kind of doubt is told once a table, with the first address and how many more there are. Must
not know TOML, files, how a warning is written, or interfaces that exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Interface
from typing import NamedTuple

from carp_fast.config.model import VirtualHost

LINK_LOCAL = "fe80:"  # of its 10 bits the kernels look at these 16
LAST_GROUP6 = 112  # up to this prefix length the last group belongs to the host
POINT_TO_POINT6 = 127  # from this prefix length on every address is a host's (RFC 6164)

LINK_LOCAL_SIGNED = (
    'is link-local: in dialect "ucarp" a digest holds it as FreeBSD and NetBSD sign it, and OpenBSD'
    ' refuses that, so that both would be MASTER; allowed: dialect "openbsd" where another host is'
    " OpenBSD"
)
ANYCAST = (
    "is the subnet-router anycast address of its prefix, which every router there answers for;"
    " allowed: another address of the prefix, or the prefix length 127 or 128"
)


class Doubt(NamedTuple):
    """One kind of doubt in a table: the key and the address that it arose from first, and why."""

    key: str
    address: str
    text: str


class Doubts:
    """The doubts of one table, gathered from its virtual hosts."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[VirtualHost, str, str, str]] = {}  # by kind
        self._more: dict[str, int] = {}

    def look(self, host: VirtualHost) -> None:
        """Take in what may be doubted of a virtual host by itself."""
        # Nearly all of 131,072 are IPv4, or end in what no anycast address ends in.
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
        """Take in a doubt; of each kind the first is told, and how many more there are."""
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
    """Whether an IPv6 address with its prefix length is the subnet-router anycast address."""
    slash = address.index("/")
    prefixlen = int(address[slash + 1 :])
    # Its last 128 - prefixlen bits are 0, and so are its last digits.
    if prefixlen >= POINT_TO_POINT6 or address[slash - 1] not in "048c:":
        return False
    if prefixlen <= LAST_GROUP6 and not address.endswith(("::", ":0"), 0, slash):
        return False
    interface = IPv6Interface(address)
    return interface.ip == interface.network.network_address
