"""A simulated world before it begins, as plain values: what a seed decides of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MS_NS = 1_000_000
SECOND_NS = 1_000 * MS_NS
IPV4, IPV6, BOTH = 1, 2, 3
"""Families as bits: what a link lets through, what an interface has an address of."""

Dialect = Literal["ucarp", "freebsd", "openbsd"]
Replay = Literal["off", "learn", "strict"]
Preempt = Literal["demoted"] | bool
Pair = tuple[int, int, int]
"""(segment, from, to): one direction between two machines."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a turn and a socket can take: small ones show what only happens when they are full."""

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
    """The last of the IPv6 addresses is one."""
    dialect: Dialect = "ucarp"
    replay: Replay = "learn"
    peers: tuple[bytes, ...] = ()
    """Unicast addresses of the other machines, in place of the groups."""

    @property
    def interval(self) -> int:
        """In 1/256 s, without demotion."""
        return self.advbase * 256 + self.advskew or 1

    @property
    def families(self) -> int:
        """How many it advertises over."""
        return bool(self.addresses) + bool(self.addresses6)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that begins or ends at an instant; the fields of Simulator.fault()."""

    at_ns: int
    word: str
    machine: int = 0
    other: int = 0
    segment: int = 0
    slot: int = 0
    value: int = 0


@dataclass(slots=True)
class World:
    """A world before it begins: all that a seed decides."""

    seed: int
    large: bool
    machines: int
    segments: int
    slots: int
    limits: Limits
    aligned: bool = False
    """The machines' clocks tick together, so that their advertisements cross."""
    sources: dict[tuple[int, int], tuple[bytes, bytes]] = field(default_factory=dict)
    """By machine and segment: its IPv4 and its IPv6 address there."""
    routers: set[int] = field(default_factory=set)
    members: list[Member] = field(default_factory=list)
    delays: dict[Pair, int] = field(default_factory=dict)
    """ns from one machine to another while no fault makes it longer; BASE_DELAY_NS unless here."""
    faults: list[Fault] = field(default_factory=list)
    episodes: list[str] = field(default_factory=list)
    partitions: int = 0
    quiet_at_ns: int = 0

    def on(self, machine: int) -> list[Member]:
        """The virtual hosts of one machine."""
        return [member for member in self.members if member.machine == machine]
