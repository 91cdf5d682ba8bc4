"""What a configuration may mean, but seldom does: warnings about the addresses of virtual hosts.

Each kind of doubt is told once a table, with the first address and how many more there are. Must
not know TOML, files, how a warning is written, or interfaces that exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from carp_fast.settings import VirtualHost

LINK_LOCAL = "fe80:"  # of its 10 bits the kernels look at these 16

LINK_LOCAL_SIGNED = (
    'is link-local: in dialect "ucarp" a digest holds it as FreeBSD and NetBSD sign it, and OpenBSD'
    ' refuses that, so that both would be MASTER; allowed: dialect "openbsd" where another host is'
    " OpenBSD"
)


class Doubt(NamedTuple):
    """One kind of doubt in a table: the key and the address that it arose from first, and why."""

    key: str
    address: str
    text: str


class Doubts:
    """The doubts of one table, gathered from its virtual hosts."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[VirtualHost, str, str]] = {}
        self._more: dict[str, int] = {}

    def look(self, host: VirtualHost) -> None:
        """Take in a virtual host."""
        for key, address, text in _doubts(host):
            if text in self._first:
                self._more[text] = self._more.get(text, 0) + 1
            else:
                self._first[text] = (host, key, address)

    @property
    def found(self) -> Iterator[Doubt]:
        for text, (host, key, address) in self._first.items():
            more = self._more.get(text)
            others = f" (and {more:,} more in this table)" if more else ""
            yield Doubt(key, address, f"of {host.name} {text}{others}")


def _doubts(host: VirtualHost) -> Iterator[tuple[str, str, str]]:
    """(key, address, why) of each doubt about a virtual host."""
    if host.settings.dialect == "ucarp":
        for address in host.addresses:
            if address.startswith(LINK_LOCAL):
                yield "addresses", address, LINK_LOCAL_SIGNED
