"""The limits of this machine and of carp-fast that a plan would exceed, each by its name.

Takes figures of a plan and settings of the kernel, returns lines for people. Must not know a
configuration, nor open a socket; the kernel's settings are read from /proc in one place.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec

from carp_fast.config.writers import in_initial_user_namespace
from carp_fast.net.filters import FILTERED_INTERFACES_MAX
from carp_fast.net.lane_filters import SOURCES_MAX
from carp_fast.net.memberships import MEMBERSHIPS_MAX
from carp_fast.net.rings import SECONDS, SLOT_BYTES, ring_slots
from carp_fast.net.sockets import BUFFER_MAX, BUFFER_SECONDS, receive_room

SYSCTL = Path("/proc/sys")
MLD_MEMBERSHIP_BYTES = 56  # what the kernel charges to optmem_max per membership (measured on 6.18)
FILTERED_INTERFACE_BYTES = 28  # ... and per additional interface in a filter
MIB = 1 << 20
# Sending a frame, carrying it to a neighbour and receiving it there takes some 2.4 us of a core
# (measured), and the pump has one.
PUMP_FRAMES_PER_S = 400_000
SWITCH_MACS = 8_192  # the MAC table of a small switch
DESCRIPTORS_KEPT = 128  # reserved for sockets, pipes of hooks, clients of the control socket


class Kernel(msgspec.Struct, frozen=True):
    """What the kernel allows; the defaults are the kernel's, used if a setting cannot be read.

    `forces_buffers`: root may exceed rmem_max, as in every user namespace except nested ones.
    """

    igmp_max_memberships: int = 20
    optmem_max: int = 20_480
    rmem_max: int = 212_992
    neighbours: int = 1_024
    neighbours6: int = 1_024
    descriptors: int = 1_024
    forces_buffers: bool = True


class Demand(msgspec.Struct, frozen=True):
    """What a plan needs of the machine. A membership is one of an interface and a group."""

    interfaces: int
    advertisements_per_s: float
    igmp_memberships: int
    mld_memberships: int
    raw: bool  # received on raw sockets, which join every group by IP
    ring: bool  # received through rings
    peers: int  # IPv4 addresses of unicast peers
    peers6: int
    macs: int  # virtual MACs on all interfaces


def read_kernel() -> Kernel:
    """The settings of this network namespace and of this process."""
    usual = Kernel()
    return Kernel(
        igmp_max_memberships=_read("net/ipv4/igmp_max_memberships", usual.igmp_max_memberships),
        optmem_max=_read("net/core/optmem_max", usual.optmem_max),
        rmem_max=_read("net/core/rmem_max", usual.rmem_max),
        neighbours=_read("net/ipv4/neigh/default/gc_thresh3", usual.neighbours),
        neighbours6=_read("net/ipv6/neigh/default/gc_thresh3", usual.neighbours6),
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        forces_buffers=in_initial_user_namespace(),
    )


def _read(name: str, default: int) -> int:
    try:
        return int((SYSCTL / name).read_text())
    except (OSError, ValueError):
        return default


def passed(demand: Demand, kernel: Kernel) -> tuple[str, ...]:
    """A line for each limit that would be exceeded: its name, what is needed, what is allowed."""
    return (
        *_memberships(demand, kernel),
        *_filter(demand, kernel),
        *_lanes(demand),
        *_buffers(demand, kernel),
        *_neighbours(demand, kernel),
        *_wire(demand),
    )


def _memberships(demand: Demand, kernel: Kernel) -> Iterator[str]:
    igmp, mld = demand.igmp_memberships, demand.mld_memberships
    igmp_room = kernel.igmp_max_memberships
    mld_room = max(kernel.optmem_max - 1, 0) // MLD_MEMBERSHIP_BYTES
    if igmp > igmp_room:
        groups = "group" if demand.raw else "group outside 224.0.0.0/24"
        yield (
            f"net.ipv4.igmp_max_memberships: {igmp} IGMP memberships would be needed, one for each"
            f" interface and {groups}, and a socket may hold {igmp_room}:"
            f" {_sockets(igmp, igmp_room)}"
        )
    if mld > mld_room:
        yield (
            f"net.core.optmem_max: {mld} MLD memberships would be needed, one for each interface"
            f" and IPv6 group, and a socket may hold about {mld_room}: {_sockets(mld, mld_room)}"
        )
    descriptors = DESCRIPTORS_KEPT + _count(igmp, igmp_room) + _count(mld, mld_room)
    if kernel.descriptors != resource.RLIM_INFINITY and descriptors > kernel.descriptors:
        yield (
            f"RLIMIT_NOFILE: some {descriptors} descriptors would be open, and {kernel.descriptors}"
            " are allowed"
        )


def _count(memberships: int, room: int) -> int:
    """How many sockets net/memberships.py would need."""
    return -(-memberships // min(room, MEMBERSHIPS_MAX)) if room else 0


def _sockets(memberships: int, room: int) -> str:
    return f"spread over {_count(memberships, room)} sockets" if room else "none can be joined"


def _filter(demand: Demand, kernel: Kernel) -> Iterator[str]:
    if demand.ring:
        return  # it has a bit for each interface
    room = kernel.optmem_max // FILTERED_INTERFACE_BYTES
    if demand.interfaces > FILTERED_INTERFACES_MAX:
        yield (
            f"FILTERED_INTERFACES_MAX: {demand.interfaces:,} interfaces, and a filter of at most"
            f" 4,096 instructions has room for {FILTERED_INTERFACES_MAX:,}: advertisements of all"
            " interfaces would be read"
        )
    elif demand.interfaces > room:
        yield (
            f"net.core.optmem_max: {demand.interfaces:,} interfaces, and a filter that the kernel"
            f" accepts has room for about {room:,}: advertisements of all interfaces would be read"
        )


def _lanes(demand: Demand) -> Iterator[str]:
    """Checks the lanes: a master on each interface is a source."""
    if demand.interfaces > SOURCES_MAX:
        yield (
            f"SOURCES_MAX: {demand.interfaces:,} interfaces, and {SOURCES_MAX:,} genuine sources"
            " have a receive lane of their own: a flood can keep BACKUPs of other sources from"
            " taking over"
        )


def _buffers(demand: Demand, kernel: Kernel) -> Iterator[str]:
    rate = demand.advertisements_per_s
    if demand.ring:
        yield from _rings(rate)
        return
    wanted, given = receive_room(rate, most=None), receive_room(rate)
    if wanted > given:
        yield (
            f"BUFFER_MAX: {BUFFER_SECONDS} s of advertisements would need a receive buffer of"
            f" {wanted / MIB:,.0f} MiB, and {BUFFER_MAX // MIB} MiB hold"
            f" {BUFFER_SECONDS * given / wanted:.1f} s of them"
        )
    if given > kernel.rmem_max and not kernel.forces_buffers:
        yield (
            f"net.core.rmem_max: a receive buffer of {given:,} bytes would be needed, and"
            f" {kernel.rmem_max:,} are allowed in this user namespace"
        )


def _rings(rate: float) -> Iterator[str]:
    seconds, room = SECONDS["genuine"], ring_slots("genuine", rate)
    if seconds * rate > room:
        yield (
            f"SLOTS_MAX: {seconds:.0f} s of advertisements would need a ring of"
            f" {seconds * rate * SLOT_BYTES / MIB:,.0f} MiB, and {room * SLOT_BYTES // MIB} MiB"
            f" hold {room / rate:.1f} s of them"
        )


def _neighbours(demand: Demand, kernel: Kernel) -> Iterator[str]:
    for family, peers, room in (
        ("ipv4", demand.peers, kernel.neighbours),
        ("ipv6", demand.peers6, kernel.neighbours6),
    ):
        if peers > room:
            yield (
                f"net.{family}.neigh.default.gc_thresh3: {peers:,} unicast peers, and the"
                f" neighbour table holds {room:,}"
            )


def _wire(demand: Demand) -> Iterator[str]:
    if demand.advertisements_per_s > PUMP_FRAMES_PER_S:
        yield (
            f"PUMP_FRAMES_PER_S: {demand.advertisements_per_s:,.0f} advertisements/s, and one core"
            f" moves about {PUMP_FRAMES_PER_S:,} frames/s"
        )
    if demand.macs > SWITCH_MACS:
        yield (
            f"SWITCH_MACS: {demand.macs:,} virtual MACs would be sent from, and the table of a"
            f" small switch holds {SWITCH_MACS:,}: it would flood frames to the others"
        )
