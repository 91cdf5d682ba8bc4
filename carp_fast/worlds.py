"""Worlds from seeds: machines, segments, virtual hosts, and the faults that befall them.

A seed decides everything, on every machine and with every version of Python alike. Holds plain
values; must not know how a world is run, nor the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from carp_fast._simulator import ALWAYS, LINK_WORDS, NIC_WORDS, PAUSE_WORDS, Random

MS_NS = 1_000_000
SECOND_NS = 1_000 * MS_NS
BASE_DELAY_NS = 100_000
"""Of every link that no fault makes slower."""
SEED_MAX = 10**18
NOISE = ("loss", "duplicate", "corrupt", "replay", "forge", "late")

Preempt = Literal["demoted"] | bool
Pair = tuple[int, int, int]
"""(segment, from, to): one direction between two machines."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a turn and a socket can take: small ones show what only happens when they are full."""

    socket_room: int
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
    sources: dict[tuple[int, int], bytes] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    episodes: list[str] = field(default_factory=list)
    partitions: int = 0
    quiet_at_ns: int = 0

    def on(self, machine: int) -> list[Member]:
        """The virtual hosts of one machine."""
        return [member for member in self.members if member.machine == machine]


class Drawing:
    """Draws a world from a seed."""

    def __init__(self, seed: int, large: bool) -> None:
        self.random = Random(seed * 2 + large)
        below, between = self.random.below, self.random.between
        self.world = World(
            seed=seed,
            large=large,
            machines=8 if large else between(2, 5),
            segments=16 if large else between(1, 2),
            slots=4_000 if large else between(1, 20),
            limits=Limits(16_384, 256, 16, 128)
            if large
            else Limits(
                socket_room=(64, 256, 4_096)[below(3)],
                batch=(2, 8, 256)[below(3)],
                slices=(2, 16)[below(2)],
                changes=(1, 3, 128)[below(3)],
            ),
        )
        self.end_ns = between(8, 12) * SECOND_NS if large else between(10, 40) * SECOND_NS
        self.draw_sources()
        self.draw_members()
        self.draw_faults()

    def chance(self, one_in: int) -> bool:
        return self.random.below(one_in) == 0

    def draw_sources(self) -> None:
        """Distinct on a segment; last octet and number disagree about order every other time."""
        for segment in range(self.world.segments):
            taken: set[bytes] = set()
            for machine in range(self.world.machines):
                source = b""
                while not source or source in taken:
                    low = 1 + self.random.below(200)
                    source = bytes((10, segment, self.random.below(4), low))
                taken.add(source)
                self.world.sources[machine, segment] = source

    def draw_members(self) -> None:
        below, between = self.random.below, self.random.between
        fast_world = self.chance(8)
        for slot in range(self.world.slots):
            segment = slot % self.world.segments
            vhid = slot // self.world.segments + 1
            advbase = 0 if fast_world and self.chance(2) else 2 if self.chance(8) else 1
            equal = self.chance(3)
            common = between(64, 254) if advbase == 0 else below(255)
            addresses = between(1, 8) if self.chance(4) else 1
            preempt_delay_ns = between(1, 3) * SECOND_NS if self.chance(10) else 0
            startup_delay_ns = between(1, 3) * SECOND_NS if self.chance(10) else 0
            dead_ratio = (3, 3, 3, 2, 4)[below(5)]
            absent = below(self.world.machines * 2)
            for machine in range(self.world.machines):
                if machine == absent and self.world.machines > 2:
                    continue
                low = 64 if advbase == 0 else 0
                self.world.members.append(
                    Member(
                        machine=machine,
                        slot=slot,
                        segment=segment,
                        vhid=vhid,
                        advbase=advbase,
                        advskew=common if equal else between(low, 254),
                        dead_ratio=dead_ratio,
                        preempt=(False, True, True, "demoted")[below(4)],
                        addresses=addresses,
                        startup_delay_ns=startup_delay_ns,
                        preempt_delay_ns=preempt_delay_ns,
                        foreign=(below(addresses),) if self.chance(40) else (),
                    )
                )

    # -- faults

    def draw_faults(self) -> None:
        for machine in range(self.world.machines):
            self.put(self.random.between(0, 2_000) * MS_NS, "boot", machine=machine)
        for _ in range(self.random.between(3, 8)):
            befall = EPISODES[self.random.below(len(EPISODES))]
            self.world.episodes.append(befall.__name__)
            start_ns = self.random.between(2_000, self.end_ns // MS_NS - 500) * MS_NS
            most_ms = (self.end_ns - start_ns) // MS_NS
            length_ms = self.random.between(10, min(most_ms, 12_000))
            befall(self, start_ns, start_ns + length_ms * MS_NS)
        self.end_everything()
        self.world.faults.sort(key=lambda fault: fault.at_ns)
        self.world.quiet_at_ns = self.end_ns
        self.put(self.end_ns, "quiet")

    def put(self, at_ns: int, word: str, **where: int) -> None:
        self.world.faults.append(Fault(at_ns, word, **where))

    def link(self, at_ns: int, name: str, pair: Pair, value: int) -> None:
        segment, one, two = pair
        number = LINK_WORDS.index(name)
        self.put(at_ns, "link", machine=one, other=two, segment=segment, slot=number, value=value)

    def end_everything(self) -> None:
        """Whatever was left as it must not stay is made right when the faults are over.

        A partition or a dead machine may stay: every part then has its own MASTER.
        """
        at_ns = self.end_ns
        last: dict[tuple[Any, ...], Fault] = {}
        times: Counter[tuple[Any, ...]] = Counter()
        for fault in sorted(self.world.faults, key=lambda fault: fault.at_ns):
            if fault.word in ENDINGS:
                key = (fault.word, fault.machine, fault.other, fault.segment, fault.slot)
                last[key] = fault
                times[key] += 1
        for key, fault in last.items():
            value = ENDINGS[fault.word]
            if fault.word == "link" and fault.slot == LINK_WORDS.index("delay_ns"):
                value = BASE_DELAY_NS
            # Links that flapped twice at a time may have been left gone by either.
            if fault.value != value if fault.word != "nic" else times[key] > 2:
                self.world.faults.append(replace(fault, at_ns=at_ns, value=value))
        dead = {self.random.below(self.world.machines)} if self.chance(4) else set()
        for machine in range(self.world.machines):
            if machine in dead:
                self.put(at_ns, "crash", machine=machine)
            else:
                self.put(at_ns, "resume", machine=machine)
                self.put(at_ns, "boot", machine=machine)
        for fault in [fault for fault in self.world.faults if fault.word == "remove"]:
            self.put(at_ns, "add", machine=fault.machine, slot=fault.slot)
        if self.chance(6):
            self.part(at_ns, None)

    def some(self, machine: int) -> list[Member]:
        """Some virtual hosts of a machine: one, or in a large world up to a hundred."""
        members = self.world.on(machine)
        count = min(len(members), self.random.between(1, 100 if self.world.large else 3))
        return [members[self.random.below(len(members))] for _ in range(count)] if members else []

    def any_machine(self) -> int:
        return self.random.below(self.world.machines)

    def pairs(self) -> list[Pair]:
        """All of a segment, of a machine there, or one direction alone."""
        segment = self.random.below(self.world.segments)
        every = range(self.world.machines)
        one, kind = self.any_machine(), self.random.below(3)
        pairs = [(segment, a, b) for a in every for b in every if a != b]
        if kind == 0:
            return pairs
        if kind == 1:
            return [pair for pair in pairs if one in pair[1:]]
        return [pairs[self.random.below(len(pairs))]]

    def part(self, start_ns: int, end_ns: int | None) -> None:
        """Two parts of a segment that do not hear each other."""
        segment = self.random.below(self.world.segments)
        sides = 1 + self.random.below((1 << self.world.machines) - 2)
        self.world.partitions += 1
        for a in range(self.world.machines):
            for b in range(self.world.machines):
                if a != b and (sides >> a & 1) != (sides >> b & 1):
                    self.link(start_ns, "blocked", (segment, a, b), 1)
                    if end_ns is not None:
                        self.link(end_ns, "blocked", (segment, a, b), 0)


ENDINGS = {
    "link": 0,
    "nic": NIC_WORDS.index("back"),
    "key": 0,
    "send_errors": 0,
    "netlink_errors": 0,
    "slow_netlink": 10_000,
    "demote": 0,
}


def noise(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Loss, duplicates, flipped bits, replays, forgeries, late frames: some of them, on links."""
    names = [name for name in NOISE if to.chance(2)] or [NOISE[to.random.below(len(NOISE))]]
    for name in names:
        rate = to.random.between(ALWAYS // 100, ALWAYS // 2)
        for segment, a, b in to.pairs():
            to.link(start_ns, name, (segment, a, b), rate)
            to.link(end_ns, name, (segment, a, b), 0)


def delay(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Frames take longer, and overtake each other when they no longer do."""
    longer_ns = to.random.between(1, 400) * MS_NS
    for segment, a, b in to.pairs():
        to.link(start_ns, "delay_ns", (segment, a, b), longer_ns)
        to.link(end_ns, "delay_ns", (segment, a, b), BASE_DELAY_NS)


def partition(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A segment falls in two."""
    to.part(start_ns, end_ns)


def one_way(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine hears a segment and is not heard, or the other way round."""
    segment, deaf = to.random.below(to.world.segments), to.any_machine()
    heard = to.chance(2)
    to.world.partitions += 1
    for other in range(to.world.machines):
        if other != deaf:
            a, b = (deaf, other) if heard else (other, deaf)
            to.link(start_ns, "blocked", (segment, a, b), 1)
            to.link(end_ns, "blocked", (segment, a, b), 0)


def pause(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A process is stopped, or its machine frozen or suspended."""
    machine = to.any_machine()
    to.put(start_ns, "pause", machine=machine, value=1 + to.random.below(len(PAUSE_WORDS) - 1))
    to.put(end_ns, "resume", machine=machine)


def hiccups(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A process is stopped again and again, each time for less than the shortest interval."""
    machine, at_ns = to.any_machine(), start_ns
    while at_ns + SECOND_NS < end_ns:
        length_ns = to.random.between(50, 950) * MS_NS
        to.put(at_ns, "pause", machine=machine, value=PAUSE_WORDS.index("stopped"))
        to.put(at_ns + length_ns, "resume", machine=machine)
        at_ns += length_ns + to.random.between(50, 500) * MS_NS


def flap(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A link goes down and up, or an interface disappears and comes back."""
    machine, segment = to.any_machine(), to.random.below(to.world.segments)
    off, on = (("down", "up"), ("gone", "back"))[to.random.below(2)]
    to.put(start_ns, "nic", machine=machine, segment=segment, value=NIC_WORDS.index(off))
    to.put(end_ns, "nic", machine=machine, segment=segment, value=NIC_WORDS.index(on))


def crash(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine is gone and boots again."""
    machine = to.any_machine()
    to.put(start_ns, "crash", machine=machine)
    to.put(end_ns, "boot", machine=machine)


def shutdown(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Every MASTER resigns before its machine is gone."""
    machine = to.any_machine()
    gone_ns = start_ns + min(SECOND_NS, (end_ns - start_ns) // 2)
    to.put(start_ns, "resign_all", machine=machine)
    to.put(gone_ns, "crash", machine=machine)
    to.put(end_ns, "boot", machine=machine)


def wrong_key(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine has another passphrase for a while."""
    machine = to.any_machine()
    for member in to.some(machine):
        to.put(start_ns, "key", machine=machine, slot=member.slot, value=1)
        to.put(end_ns, "key", machine=machine, slot=member.slot, value=0)


def send_errors(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Sending fails, now and then or always."""
    machine = to.any_machine()
    rate = ALWAYS if to.chance(2) else to.random.between(1_000, ALWAYS)
    to.put(start_ns, "send_errors", machine=machine, value=rate)
    to.put(end_ns, "send_errors", machine=machine, value=0)


def netlink_errors(to: Drawing, start_ns: int, end_ns: int) -> None:
    """The kernel refuses address changes, or is slow with them."""
    machine = to.any_machine()
    if to.chance(2):
        to.put(start_ns, "netlink_errors", machine=machine, value=to.random.below(ALWAYS))
        to.put(end_ns, "netlink_errors", machine=machine, value=0)
    else:
        most_ns = MS_NS // 10 if to.world.large else 5 * MS_NS
        value = to.random.between(10_000, most_ns)
        to.put(start_ns, "slow_netlink", machine=machine, value=value)
        to.put(end_ns, "slow_netlink", machine=machine, value=ENDINGS["slow_netlink"])


def clock_step(to: Drawing, start_ns: int, end_ns: int) -> None:
    """The wall clock is stepped, a little or by up to an hour, and perhaps back."""
    machine = to.any_machine()
    most_ms = 20 if to.chance(2) else 3_600_000
    value = to.random.between(-most_ms, most_ms) * MS_NS
    to.put(start_ns, "clock_step", machine=machine, value=value)
    to.put(end_ns, "clock_step", machine=machine, value=-value)


def lost_addresses(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Somebody removes addresses; too often, so that the virtual host gives up."""
    machine = to.any_machine()
    for member in to.some(machine):
        which = to.random.below(member.addresses)
        to.put(start_ns, "address_removed", machine=machine, slot=member.slot, value=which)
        if to.chance(2):
            to.put(end_ns, "address_lost", machine=machine, slot=member.slot)


def demotion(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Some virtual hosts are demoted for a while."""
    machine, value = to.any_machine(), to.random.between(1, 240)
    for member in to.some(machine):
        to.put(start_ns, "demote", machine=machine, slot=member.slot, value=value)
        to.put(end_ns, "demote", machine=machine, slot=member.slot, value=0)


def removal(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Some virtual hosts are removed by a reload, and added by another."""
    machine = to.any_machine()
    for member in to.some(machine):
        to.put(start_ns, "remove", machine=machine, slot=member.slot)
        to.put(end_ns, "add", machine=machine, slot=member.slot)


EPISODES: tuple[Callable[[Drawing, int, int], None], ...] = (
    noise,
    noise,
    noise,
    delay,
    partition,
    partition,
    one_way,
    pause,
    pause,
    hiccups,
    flap,
    crash,
    crash,
    shutdown,
    wrong_key,
    send_errors,
    netlink_errors,
    clock_step,
    lost_addresses,
    demotion,
    removal,
)


def draw(seed: int, large: bool = False) -> World:
    """The world of a seed, from 0 on; the large one of the same number is another."""
    return Drawing(seed, large).world
