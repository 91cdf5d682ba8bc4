"""Refuses interfaces that a flood could make unusable.

These have the default route or the address of the user's SSH session. Must not know what would be
sent.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from carp_fast.net.interfaces import read_interfaces

ROUTES = Path("/proc/thread-self/net/route")
ROUTES6 = Path("/proc/thread-self/net/ipv6_route")
PROCESSES = Path("/proc")
RTF_REJECT = 0x0200
SESSION = "SSH_CONNECTION"


def refusal(interface: str) -> str | None:
    """The reason not to send to an interface, in one line; None if there is none.

    Raises interfaces.LinkError.
    """
    if interface in (*_default_routes(_read(ROUTES)), *_default_routes6(_read(ROUTES6))):
        return f"{interface} holds the default route"
    own = {each.address for each in read_interfaces([interface])[interface].addresses}
    for address in _session_addresses():
        if address in own:
            return f"{interface} has the address of this SSH session"
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # a kernel without that family
        return ""


def _default_routes(table: str) -> Iterator[str]:
    for line in table.splitlines()[1:]:
        name, destination, _, flags, *rest = line.split()
        if destination == "00000000" and rest[3] == "00000000" and not int(flags, 16) & RTF_REJECT:
            yield name


def _default_routes6(table: str) -> Iterator[str]:
    for line in table.splitlines():
        fields = line.split()
        if fields[1] == "00" and not int(fields[8], 16) & RTF_REJECT:
            yield fields[9]


def _session_addresses() -> Iterator[bytes]:
    """Addresses of this end of the SSH session.

    Reads the environments of our ancestors, too: sudo removes the variable from ours.
    """
    pid = os.getpid()
    yield from _session_address(os.environ)
    while pid > 1:
        try:
            entries = (PROCESSES / str(pid) / "environ").read_bytes().split(b"\0")
            state = (PROCESSES / str(pid) / "stat").read_text()
        except OSError:
            return
        pairs = (entry.decode(errors="replace").partition("=") for entry in entries)
        yield from _session_address({name: value for name, _, value in pairs})
        pid = int(state.rpartition(")")[2].split()[1])


def _session_address(environment: Mapping[str, str]) -> Iterator[bytes]:
    """The server address in SSH_CONNECTION: client address and port, server address and port."""
    fields = environment.get(SESSION, "").split()
    if len(fields) == 4:
        try:
            address = ipaddress.ip_address(fields[2].partition("%")[0])
        except ValueError:
            return
        yield address.packed
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            yield address.ipv4_mapped.packed
