"""The description of a simulated world, as plain values: all that a seed decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MS_NS = 1_000_000
SECOND_NS = 1_000 * MS_NS
IPV4, IPV6, BOTH = 1, 2, 3
"""Families as bits: those that a link passes, or that an interface has addresses of."""

Dialect = Literal["ucarp", "freebsd", "openbsd"]
Replay = Literal["off", "learn", "strict"]
Preempt = Literal["demoted"] | bool
Pair = tuple[int, int, int]
"""(segment, from, to): one direction between two machines."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes of turns and sockets; small ones show what happens only when they are full."""

    socket_room: int
    source_room: int
    batch: int
    slices: int
    changes: int


@dataclass(frozen=True, slots=True)
class Member:
    """A virtual host on one machine."""

    machine: int
    slot: int
    segment: int
    vhid: int
    advbase: int
    advskew: int
    dead_ratio: int
    preempt: Preempt
    addresses: int
    startup_delay_ns: int
    preempt_delay_ns: int
    foreign: tuple[int, ...]
    addresses6: int = 0
    link_local: bool = False
    """The last of the IPv6 addresses is link-local."""
    dialect: Dialect = "ucarp"
    replay: Replay = "learn"
    peers: tuple[bytes, ...] = ()
    """Unicast addresses of the other machines, in place of the groups."""
    by_route: bool = False
    """Its IPv4 addresses are local routes."""
    other_advskew: int = 0
    """The advskew that a reload changes it to."""
    group: int = 0
    """The number of its group, the same on every machine; 0: none."""
    group_all: bool = False
    """The group is demoted only when every member is impeded."""

    @property
    def interval(self) -> int:
        """The advertisement interval in 1/256 s, without demotion."""
        return self.advbase * 256 + self.advskew or 1

    @property
    def families(self) -> int:
        """The number of families that it advertises over."""
        return bool(self.addresses) + bool(self.addresses6)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that begins or ends at an instant; the arguments of Simulator.fault()."""

    at_ns: int
    word: str
    machine: int = 0
    other: int = 0
    segment: int = 0
    slot: int = 0
    value: int = 0


@dataclass(slots=True)
class World:
    """The description of a world: all that a seed decides."""

    seed: int
    large: bool
    machines: int
    segments: int
    slots: int
    limits: Limits
    aligned: bool = False
    """The clocks of the machines tick together, so that their advertisements cross."""
    sources: dict[tuple[int, int], tuple[bytes, bytes]] = field(default_factory=dict)
    """The IPv4 and the IPv6 address, by machine and segment."""
    routers: set[int] = field(default_factory=set)
    members: list[Member] = field(default_factory=list)
    delays: dict[Pair, int] = field(default_factory=dict)
    """Delays in ns from one machine to another without faults; the default is BASE_DELAY_NS."""
    faults: list[Fault] = field(default_factory=list)
    episodes: list[str] = field(default_factory=list)
    partitions: int = 0
    quiet_at_ns: int = 0

    def on(self, machine: int) -> list[Member]:
        """The virtual hosts of one machine."""
        return [member for member in self.members if member.machine == machine]
