"""What a configuration would do, interface by interface: the table that `check` prints.

Takes a Configuration and facts about interfaces; starts nothing, sends nothing, changes nothing.
Must not know how a table is drawn, nor TOML.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from carp_fast.config.load import Configuration, VirtualHost
from carp_fast.daemon.limits import Demand, Kernel, passed, read_kernel
from carp_fast.daemon.locks import Locks, named
from carp_fast.daemon.receiving import RING, TCX, planned_receive
from carp_fast.daemon.sending import planned
from carp_fast.inet import address_bytes, mac_text
from carp_fast.net.kernel import ARPHRD_ETHER
from carp_fast.net.rings import ring_bytes

SYSCTL = Path("/proc/sys")
LOCAL_GROUPS = "224.0.0."  # 224.0.0.0/24 is joined by MAC only and needs no IGMP
RAW_BELOW = 1_000  # virtual hosts; with more, packet sockets are cheaper in any case
STRAYS_A_TURN = 256  # per socket: one batch of the pump's
SHOWN_MAX = 4  # peers of an interface that a row names; the others are counted
SIOCGIFFLAGS = 0x8913
SIOCGIFHWADDR = 0x8927
IFF_UP = 0x1
IFF_RUNNING = 0x40


class InterfaceFacts(msgspec.Struct, frozen=True):
    """An interface that exists.

    `up`: set up and with carrier; `mac`: "02:00:00:00:00:01"; `kind`: hardware type, ARPHRD_*.
    """

    ifindex: int
    up: bool
    mac: str
    kind: int = ARPHRD_ETHER


class InterfacePlan(msgspec.Struct, frozen=True):
    """One interface; `facts` is None if it does not exist (yet), and the daemon will wait."""

    name: str
    facts: InterfaceFacts | None
    virtual_hosts: int
    advertisements_per_s: float  # if all of them are MASTER here
    families: tuple[int, ...]
    groups: tuple[str, ...]  # of both families
    peers: tuple[str, ...]  # unicast
    macs: int  # MACs from which the virtual hosts send, including the interface's own
    receive: str
    receive_reason: str


class Plan(msgspec.Struct, frozen=True):
    """The plan of all interfaces, in the order of the configuration.

    `limits`: a line for each limit of this machine that would be exceeded; `send`: the send path,
    "clones" or "packet", and `send_reason`, why; `ring_bytes`: the memory of the ring path,
    otherwise 0.
    """

    interfaces: tuple[InterfacePlan, ...]
    virtual_hosts: int
    advertisements_per_s: float
    limits: tuple[str, ...]
    send: str
    send_reason: str
    ring_bytes: int = 0

    @property
    def uncounted(self) -> str:
        """What the counters of rejections do not, or not completely, include: a sentence."""
        tagged = any(item.receive != "raw" for item in self.interfaces)
        others = "of a VLAN or on another interface" if tagged else "on another interface"
        return (
            f"protocol 112 {others}; and, if more than {STRAYS_A_TURN} come in a tick, frames that"
            " a filter does not take for advertisements for these virtual hosts (bad_length,"
            " bad_ttl, bad_source, bad_destination, vrrp, bad_version, bad_type)"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """The plan as a table of texts: header, a row for each interface, totals."""
        rows: list[tuple[str, ...]] = [
            (
                "interface",
                "link",
                "virtual hosts",
                "adverts/s",
                "families",
                "groups",
                "peers",
                "MACs",
                "receive",
                "why",
            )
        ]
        for item in self.interfaces:
            link = "missing" if item.facts is None else "up" if item.facts.up else "down"
            if item.facts is not None and item.facts.kind != ARPHRD_ETHER:
                link = "not Ethernet"
            own = "" if item.facts is None else f" ({item.facts.mac})"
            rows.append(
                (
                    item.name,
                    link,
                    f"{item.virtual_hosts:,}",
                    f"{item.advertisements_per_s:,.1f}",
                    " ".join(f"IPv{family}" for family in item.families),
                    " ".join(item.groups),
                    _cut(item.peers),
                    f"{item.macs}{own}",
                    item.receive,
                    item.receive_reason,
                )
            )
        total = ("total", "", f"{self.virtual_hosts:,}", f"{self.advertisements_per_s:,.1f}")
        rows.append((*total, *[""] * (len(rows[0]) - len(total))))
        return rows


def plan(
    configuration: Configuration,
    interfaces: Callable[[str], InterfaceFacts | None] | None = None,
    kernel: Kernel | None = None,
) -> Plan:
    """The plan of a configuration.

    `interfaces` returns what is known of an interface by name, None if it does not exist; by
    default the kernel is queried, and likewise for what the kernel allows.
    """
    facts_of = interface_facts if interfaces is None else interfaces
    by_interface: dict[str, list[VirtualHost]] = {}
    for host in configuration.virtual_hosts:
        by_interface.setdefault(host.interface, []).append(host)
    rate = sum(map(advertisements_per_s, configuration.virtual_hosts))
    receive, reason = planned_receive(receive_path(configuration), rate)
    items = []
    for name, hosts in by_interface.items():
        groups = {group for host in hosts if not host.settings.peers for group in host.destinations}
        items.append(
            InterfacePlan(
                name=name,
                facts=facts_of(name),
                virtual_hosts=len(hosts),
                advertisements_per_s=sum(map(advertisements_per_s, hosts)),
                families=tuple(sorted({family for host in hosts for family in host.families})),
                groups=tuple(sorted(groups, key=_numerically)),
                peers=tuple(
                    sorted({p for host in hosts for p in host.settings.peers}, key=_numerically)
                ),
                macs=_macs(hosts),
                receive=receive,
                receive_reason=reason,
            )
        )
    limits = passed(_demand(items, rate), read_kernel() if kernel is None else kernel)
    send = planned(configuration.daemon.send)
    memory = ring_bytes(rate) if receive in (RING, TCX) else 0
    return Plan(tuple(items), len(configuration.virtual_hosts), rate, limits, *send, memory)


def _demand(items: list[InterfacePlan], rate: float) -> Demand:
    """What all interfaces together need of the machine."""
    raw = any(item.receive in ("raw", TCX) for item in items)
    groups = [group for item in items for group in item.groups]
    peers = {peer for item in items for peer in item.peers}
    peers6 = {peer for peer in peers if ":" in peer}
    return Demand(
        interfaces=len(items),
        advertisements_per_s=rate,
        igmp_memberships=sum(
            ":" not in group and (raw or not group.startswith(LOCAL_GROUPS)) for group in groups
        ),
        mld_memberships=sum(":" in group for group in groups),
        raw=raw,
        ring=any(item.receive in (RING, TCX) for item in items),
        peers=len(peers - peers6),
        peers6=len(peers6),
        macs=sum(item.macs - 1 for item in items),
    )


def taken(
    configuration: Configuration, own: int | None, locks: Callable[[], Locks] | None = None
) -> list[str]:
    """A line for each other process that has virtual hosts of the configuration on this machine.

    `own` is the process of the configuration's own daemon, if it runs. `locks`: for tests.
    """
    found: dict[tuple[int | None, str], list[str]] = {}
    by_destination: dict[tuple[str, str], list[int]] = {}
    for host in configuration.virtual_hosts:
        for destination in host.destinations:
            by_destination.setdefault((host.interface, destination), []).append(host.vhid)
    try:
        file = Locks(create=False) if locks is None else locks()
    except OSError:
        return []  # none was ever locked, or this user may not know
    with file:
        for (name, destination), vhids in by_destination.items():
            facts = interface_facts(name)
            if facts is None:
                continue
            had = file.conflict(facts.ifindex, destination, min(vhids), max(vhids))
            while had:
                both = [f"{name}/{vhid}" for vhid in sorted(vhids) if vhid in had]
                pid = file.owner(facts.ifindex, had.start, destination) if both else own
                if both and (pid is None or pid != own):
                    found.setdefault((pid, name), []).extend(both)
                rest = had.stop
                had = range(0)
                if rest <= max(vhids):
                    had = file.conflict(facts.ifindex, destination, rest, max(vhids))
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: in_use:"
        f" {named(pid)} of this machine has it, and a daemon would wait for it"
        for (pid, _), every in found.items()
        if (names := list(dict.fromkeys(every)))
    ]


def receive_path(configuration: Configuration) -> tuple[str, str]:
    """How advertisements are to be received, "packet", "ring", "raw" or "tcx", and why.

    A ring costs least per advertisement, but its packet sockets add a cost to every packet that the
    host forwards. So raw sockets are used if the host forwards and advertisements are few.
    """
    wanted = configuration.daemon.receive
    if wanted != "auto":
        return wanted, f'daemon.receive = "{wanted}"'
    forwarding = None
    for name in dict.fromkeys(host.interface for host in configuration.virtual_hosts):
        forwarding = forwards(name)
        if forwarding is not None:
            break
    if forwarding is None:
        return RING, "no interface with virtual hosts forwards"
    if len(configuration.virtual_hosts) >= RAW_BELOW:
        return RING, f"{forwarding} is 1, but there are {RAW_BELOW:,} virtual hosts or more"
    why = f"{forwarding} is 1, and there are fewer than {RAW_BELOW:,} virtual hosts"
    return "raw", f"{why}; heard behind the firewall and rp_filter"


def forwards(name: str) -> str | None:
    """The setting of this network namespace by which an interface forwards; None if it does not."""
    for family in ("ipv4", "ipv6"):
        setting = f"net.{family}.conf.{name}.forwarding"
        if _read_number(SYSCTL / "net" / family / "conf" / name / "forwarding", 0):
            return setting
    return None


def _numerically(address: str) -> tuple[int, bytes]:
    data = address_bytes(address)
    return len(data), data


def _cut(addresses: tuple[str, ...]) -> str:
    more = len(addresses) - SHOWN_MAX
    return " ".join(addresses[:SHOWN_MAX]) + (f" and {more:,} more" if more > 0 else "")


def advertisements_per_s(host: VirtualHost) -> float:
    """The frames per second that a virtual host sends as MASTER: one to each destination."""
    # OpenBSD uses 1/256 s for an interval of 0.
    interval = max(host.settings.advbase * 256 + host.settings.advskew, 1)
    return 256 / interval * len(host.destinations)


def interface_facts(name: str) -> InterfaceFacts | None:
    """What the kernel reports of an interface in this namespace; None if it does not exist."""
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
    (kind,) = struct.unpack_from("H", hardware, 16)
    return InterfaceFacts(ifindex, up, mac_text(hardware[18:24]), kind)


def _read_number(path: Path, default: int) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return default


def _macs(hosts: list[VirtualHost]) -> int:
    """The interface's own MAC, which sends announcements, and each virtual one that advertises."""
    virtual = {
        (host.settings.advertise_mac, host.vhid)
        for host in hosts
        if host.settings.advertise_mac != "interface"
    }
    return 1 + len(virtual)
