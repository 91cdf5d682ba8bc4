"""What a configuration would do, interface by interface: the table that `check` prints.

Reads a Configuration and facts about interfaces; starts nothing, sends nothing, changes nothing.
Must not know how a table is drawn, nor TOML.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from carp_fast.config import Configuration, VirtualHost

IGMP_LIMIT_FILE = Path("/proc/sys/net/ipv4/igmp_max_memberships")
IGMP_LIMIT_DEFAULT = 20  # the kernel's own, where the file cannot be read
LOCAL_GROUPS = "224.0.0."  # 224.0.0.0/24 is joined by MAC only and needs no IGMP
SIOCGIFFLAGS = 0x8913
SIOCGIFHWADDR = 0x8927
IFF_UP = 0x1
IFF_RUNNING = 0x40


class InterfaceFacts(msgspec.Struct, frozen=True):
    """An interface that exists. `up`: set up and with carrier; `mac`: "02:00:00:00:00:01"."""

    ifindex: int
    up: bool
    mac: str


class InterfacePlan(msgspec.Struct, frozen=True):
    """One interface; `facts` is None where it does not exist (yet), and the daemon will wait."""

    name: str
    facts: InterfaceFacts | None
    virtual_hosts: int
    advertisements_per_s: float  # if all of them are MASTER here
    groups: tuple[str, ...]
    macs: int  # MACs that the virtual hosts put on the segment, the interface's own included
    receive: str
    receive_reason: str


class Plan(msgspec.Struct, frozen=True):
    """The plan of all interfaces, in the order of the configuration.

    `limits`: a line for each limit of this machine that would be passed.
    """

    interfaces: tuple[InterfacePlan, ...]
    virtual_hosts: int
    advertisements_per_s: float
    limits: tuple[str, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """The plan as a table of texts: header, a row for each interface, totals."""
        rows: list[tuple[str, ...]] = [
            ("interface", "link", "virtual hosts", "adverts/s", "groups", "MACs", "receive", "why")
        ]
        for item in self.interfaces:
            link = "missing" if item.facts is None else "up" if item.facts.up else "down"
            own = "" if item.facts is None else f" ({item.facts.mac})"
            rows.append(
                (
                    item.name,
                    link,
                    f"{item.virtual_hosts:,}",
                    f"{item.advertisements_per_s:,.1f}",
                    " ".join(item.groups),
                    f"{item.macs}{own}",
                    item.receive,
                    item.receive_reason,
                )
            )
        total = f"{self.virtual_hosts:,}"
        rows.append(("total", "", total, f"{self.advertisements_per_s:,.1f}", "", "", "", ""))
        return rows


def plan(
    configuration: Configuration,
    interfaces: Callable[[str], InterfaceFacts | None] | None = None,
    igmp_max_memberships: int | None = None,
) -> Plan:
    """The plan of a configuration.

    `interfaces` says what is known of an interface by name, None for one that does not exist; by
    default the kernel is asked. `igmp_max_memberships`: by default the kernel's setting.
    """
    facts_of = interface_facts if interfaces is None else interfaces
    by_interface: dict[str, list[VirtualHost]] = {}
    for host in configuration.virtual_hosts:
        by_interface.setdefault(host.interface, []).append(host)
    reason = _receive_reason(configuration.daemon.receive)
    items = []
    for name, hosts in by_interface.items():
        groups = sorted({host.settings.destination for host in hosts}, key=socket.inet_aton)
        rate = sum(advertisements_per_s(host) for host in hosts)
        items.append(
            InterfacePlan(
                name,
                facts_of(name),
                len(hosts),
                rate,
                tuple(groups),
                _macs(hosts),
                "packet",
                reason,
            )
        )
    allowed = read_igmp_limit() if igmp_max_memberships is None else igmp_max_memberships
    return Plan(
        tuple(items),
        len(configuration.virtual_hosts),
        sum(item.advertisements_per_s for item in items),
        _limits(items, allowed),
    )


def advertisements_per_s(host: VirtualHost) -> float:
    """How often a virtual host advertises while it is MASTER."""
    return 256 / (host.settings.advbase * 256 + host.settings.advskew)


def interface_facts(name: str) -> InterfaceFacts | None:
    """What the kernel says of an interface in this network namespace; None: it does not exist."""
    request = struct.pack("256s", name.encode())
    try:
        ifindex = socket.if_nametoindex(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            flags = fcntl.ioctl(control, SIOCGIFFLAGS, request)
            hardware = fcntl.ioctl(control, SIOCGIFHWADDR, request)
    except OSError:
        return None
    (bits,) = struct.unpack_from("H", flags, 16)
    up = bits & IFF_UP != 0 and bits & IFF_RUNNING != 0
    return InterfaceFacts(ifindex, up, hardware[18:24].hex(":"))


def read_igmp_limit() -> int:
    """How many IGMP memberships one socket may hold: net.ipv4.igmp_max_memberships."""
    try:
        return int(IGMP_LIMIT_FILE.read_text())
    except (OSError, ValueError):
        return IGMP_LIMIT_DEFAULT


def _macs(hosts: list[VirtualHost]) -> int:
    """The interface's own MAC, which announces, and each virtual one that is advertised from."""
    virtual = {
        (host.settings.advertise_mac, host.vhid)
        for host in hosts
        if host.settings.advertise_mac != "interface"
    }
    return 1 + len(virtual)


def _receive_reason(receive: str) -> str:
    if receive == "packet":
        return 'daemon.receive = "packet"'
    return 'daemon.receive = "auto": the only path in this version'


def _limits(items: list[InterfacePlan], igmp_max_memberships: int) -> tuple[str, ...]:
    memberships = sum(not group.startswith(LOCAL_GROUPS) for item in items for group in item.groups)
    if memberships <= igmp_max_memberships:
        return ()
    return (
        f"net.ipv4.igmp_max_memberships: {memberships} IGMP memberships would be needed, one for"
        " each interface and group outside 224.0.0.0/24, and a socket may hold"
        f" {igmp_max_memberships}",
    )
