"""A world that is drawn: machines, segments, virtual hosts, and what faults are put together from.

Must not know which faults there are, how a world is run, nor the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from carp_fast.simulate._world import LINK_WORDS, NIC_WORDS, Random
from carp_fast.simulate.world import (
    BOTH,
    IPV4,
    IPV6,
    MS_NS,
    SECOND_NS,
    Dialect,
    Fault,
    Limits,
    Member,
    Pair,
    Replay,
    World,
)

BASE_DELAY_NS = 100_000
"""Delay of every link without a delay in the world or by a fault."""
LONGEST_DELAY_NS = 240 * MS_NS
"""Longest delay of a link; a frame may take a quarter more: 300 ms one way."""
GROUPS_SERIES = 0x9E3779B97F4A7C15 >> 1
UPGRADES_SERIES = 0xBF58476D1CE4E5B9 >> 1
"""Makes the series of numbers of groups from that of a world."""
GROUPS_MOST = 40
"""Groups of a large world."""
TICKS_A_SECOND = 100
"""Ticks of a pump whose virtual hosts all have longer intervals."""


class Drawing:
    """Draws a world from a seed, without faults until draw_faults() is called."""

    def __init__(self, seed: int, large: bool) -> None:
        self.random = Random(seed * 2 + large)
        below, between = self.random.below, self.random.between
        self.world = World(
            seed=seed,
            large=large,
            machines=8 if large else between(2, 5),
            segments=16 if large else between(1, 2),
            slots=4_000 if large else between(1, 20),
            limits=Limits(16_384, 2_000, 256, 16, 128)
            if large
            else Limits(
                socket_room=(64, 256, 4_096)[below(3)],
                source_room=(1, 3, 2_000, 2_000)[below(4)],
                batch=(2, 8, 256)[below(3)],
                slices=(2, 16)[below(2)],
                changes=(1, 3, 128)[below(3)],
            ),
        )
        self.world.aligned = self.world.machines < 4 and self.chance(3)
        self.end_ns = between(8, 12) * SECOND_NS if large else between(10, 40) * SECOND_NS
        self.draw_sources()
        self.draw_members()
        self.widen_turns()
        self.draw_delays()
        self.draw_routes(Random(~(seed * 2 + large) & (1 << 63) - 1))
        self.draw_groups(Random((seed * 2 + large) ^ GROUPS_SERIES))
        self.draw_upgrades(Random((seed * 2 + large) ^ UPGRADES_SERIES))

    def chance(self, one_in: int) -> bool:
        return self.random.below(one_in) == 0

    def draw_sources(self) -> None:
        """Draws distinct sources on each segment, with an independent order in each family.

        In half of the cases the last octets of IPv4 sources have another order than the sources.
        """
        for segment in range(self.world.segments):
            taken: set[bytes] = set()
            for machine in range(self.world.machines):
                source = b""
                while not source or source in taken:
                    low = 1 + self.random.below(200)
                    source = bytes((10, segment, self.random.below(4), low))
                taken.add(source)
                word = self.random.below(1 << 63).to_bytes(8, "big")
                source6 = b"\xfe\x80" + bytes(6) + word
                self.world.sources[machine, segment] = (source, source6)
        self.world.routers = {m for m in range(self.world.machines) if self.chance(2)}

    def draw_members(self) -> None:
        fast_world = self.chance(8)
        for slot in range(self.world.slots):
            self.draw_slot(slot, fast_world)

    def draw_slot(self, slot: int, fast_world: bool) -> None:
        """Draws a virtual host, equal on all its machines but for priority and preemption."""
        below, between = self.random.below, self.random.between
        dialect: Dialect = ("ucarp", "freebsd", "openbsd")[below(3)]
        replay: Replay = ("off", "learn", "learn", "learn", "learn", "strict")[below(6)]
        advbase = 0 if fast_world and self.chance(2) else 2 if self.chance(8) else 1
        # OpenBSD's 0/0 means 256 advertisements per second: only a few such.
        fastest = not advbase and dialect == "openbsd" and not self.world.large and self.chance(8)
        least = 0 if advbase or fastest else 64
        most = 3 if fastest else 254
        equal, common = self.chance(3), between(least, most)
        families = (IPV4, IPV6, BOTH, BOTH)[below(4)]
        many = self.chance(4)
        addresses = (between(1, 8) if many else 1) if families & IPV4 else 0
        addresses6 = (between(1, 8) if many else 1) if families & IPV6 else 0
        segment = slot % self.world.segments
        absent = below(self.world.machines * 2)
        machines = [m for m in range(self.world.machines) if m != absent]
        if self.world.machines == 2:
            machines = [0, 1]
        over = self.draw_unicast(families)
        common_to_all: dict[str, Any] = {
            "slot": slot,
            "segment": segment,
            "vhid": slot // self.world.segments + 1,
            "advbase": advbase,
            "dead_ratio": (3, 3, 3, 2, 4)[below(5)],
            "addresses": addresses,
            "addresses6": addresses6,
            "link_local": self.chance(6),
            "dialect": dialect,
            "replay": replay,
            "preempt_delay_ns": between(1, 3) * SECOND_NS if self.chance(10) else 0,
            "startup_delay_ns": between(1, 3) * SECOND_NS if self.chance(10) else 0,
        }
        for machine in machines:
            self.world.members.append(
                Member(
                    machine=machine,
                    advskew=common if equal else between(least, most),
                    preempt=(False, True, True, "demoted")[below(4)],
                    foreign=(below(addresses + addresses6),) if self.chance(40) else (),
                    peers=self.peers(machine, machines, segment, over),
                    other_advskew=between(least, most),
                    **common_to_all,
                )
            )

    def widen_turns(self) -> None:
        """Makes turns large enough for the frames of a tick, whichever host is MASTER.

        A pump's turns are. With smaller ones the common lane fills up without any fault, and late
        or dropped frames there postpone elections for ever.
        """
        limits = self.world.limits
        a_second = sum(one.families * 256 / one.interval for one in self.world.members)
        batch = max(limits.batch, ceil(a_second / TICKS_A_SECOND / limits.slices))
        self.world.limits = replace(limits, batch=batch)

    def draw_unicast(self, families: int) -> int:
        """Draws the families to advertise over by unicast; 0: to the groups of all addresses."""
        if self.random.below(5):
            return 0
        return BOTH if self.chance(4) else families

    def peers(
        self, machine: int, machines: list[int], segment: int, over: int
    ) -> tuple[bytes, ...]:
        others = [self.world.sources[other, segment] for other in machines if other != machine]
        return tuple(
            source
            for family, place in ((IPV4, 0), (IPV6, 1))
            if over & family
            for source in (pair[place] for pair in others)
        )

    def draw_delays(self) -> None:
        """Draws the delays of links: close to zero in most worlds, in others up to 300 ms.

        Delays are the same both ways or differ, and are at most 0.3 of the shortest interval: up to
        that, equal hosts are promised to settle their ties.
        """
        kind = self.random.below(8)
        shortest = min(member.interval for member in self.world.members)
        longest_ns = min(LONGEST_DELAY_NS, LONGEST_DELAY_NS * shortest // 256)
        if kind < 4 or self.world.large:
            return
        most_ns = (20_000, longest_ns, longest_ns, longest_ns)[kind - 4]
        every = range(self.world.machines)
        pairs = [(s, a, b) for s in range(self.world.segments) for a in every for b in every]
        common_ns = self.random.between(1_000, most_ns)
        for pair in pairs:
            own_ns = self.random.between(1_000, most_ns)
            self.world.delays[pair] = own_ns if kind == 7 else common_ns

    def draw_routes(self, random: Random) -> None:
        """Draws the virtual hosts that hold IPv4 addresses by local routes, and when that changes.

        By another series of numbers: the rest of a seed's world does not depend on it.
        """
        members = self.world.members
        for number, member in enumerate(members):
            members[number] = replace(member, by_route=random.below(3) == 0)
        for _ in range(random.below(8)):
            member = members[random.below(len(members))]
            at_ns = random.between(2_000, self.end_ns // MS_NS) * MS_NS
            where = {"machine": member.machine, "slot": member.slot}
            self.put(at_ns, "by_route", **where, value=random.below(2))

    def draw_groups(self, random: Random) -> None:
        """Draws groups of virtual hosts, over one or more segments, and what impedes some for good.

        By another series of numbers, as draw_routes(). Half of the worlds have none.
        """
        self.broken_links = []
        free = list(range(self.world.slots))
        if random.below(2) or len(free) < 2:
            return
        groups: dict[int, tuple[int, bool]] = {}
        for number in range(1, 1 + random.between(1, GROUPS_MOST if self.world.large else 3)):
            every = random.below(3) == 0
            for _ in range(random.between(2, 40 if self.world.large else 6)):
                if free:
                    groups[free.pop(random.below(len(free)))] = number, every
        for place, member in enumerate(self.world.members):
            number, every = groups.get(member.slot, (0, False))
            self.world.members[place] = replace(member, group=number, group_all=every)
        for _ in range(random.below(3)):
            where = random.below(self.world.machines), random.below(self.world.segments)
            self.broken_links.append(where)
        for _ in range(random.below(5)):
            self.cut(random)

    def draw_upgrades(self, random: Random) -> None:
        """Draws when another engine goes on from the state of a machine's, in half of the worlds.

        By another series of numbers, as draw_routes().
        """
        for _ in range(random.below(2) * random.between(1, 12)):
            at_ns = random.between(1_000, self.end_ns // MS_NS) * MS_NS
            self.put(at_ns, "upgrade", machine=random.below(self.world.machines))

    def cut(self, random: Random) -> None:
        """A link or an interface of a machine is gone for some seconds."""
        off, on = (("down", "up"), ("gone", "back"))[random.below(4) == 0]
        start_ns = random.between(2_000, self.end_ns // MS_NS - 100) * MS_NS
        end_ns = min(self.end_ns, start_ns + random.between(100, 15_000) * MS_NS)
        where = {
            "machine": random.below(self.world.machines),
            "segment": random.below(self.world.segments),
        }
        self.put(start_ns, "nic", **where, value=NIC_WORDS.index(off))
        self.put(end_ns, "nic", **where, value=NIC_WORDS.index(on))

    # -- faults

    def draw_faults(
        self,
        episodes: Sequence[Callable[[Drawing, int, int], None]],
        endings: Mapping[str, int],
    ) -> None:
        """Draws faults from `episodes`; `endings`: the value that ends each word of a fault."""
        for pair, delay_ns in self.world.delays.items():
            self.link(0, "delay_ns", pair, delay_ns)
        for machine in range(self.world.machines):
            self.put(self.random.between(0, 2_000) * MS_NS, "boot", machine=machine)
        for _ in range(self.random.between(3, 8)):
            befall = episodes[self.random.below(len(episodes))]
            self.world.episodes.append(befall.__name__)
            start_ns = self.random.between(2_000, self.end_ns // MS_NS - 500) * MS_NS
            most_ms = (self.end_ns - start_ns) // MS_NS
            length_ms = self.random.between(10, min(most_ms, 12_000))
            befall(self, start_ns, start_ns + length_ms * MS_NS)
        self.end_everything(endings)
        self.world.faults.sort(key=lambda fault: fault.at_ns)
        self.world.quiet_at_ns = self.end_ns
        self.put(self.end_ns, "quiet")

    def put(self, at_ns: int, word: str, **where: int) -> None:
        self.world.faults.append(Fault(at_ns, word, **where))

    def link(self, at_ns: int, name: str, pair: Pair, value: int) -> None:
        segment, one, two = pair
        number = LINK_WORDS.index(name)
        self.put(at_ns, "link", machine=one, other=two, segment=segment, slot=number, value=value)

    def end_everything(self, endings: Mapping[str, int]) -> None:
        """Ends the remaining faults.

        A partition or a dead machine may stay: each part then has its own MASTER.
        """
        at_ns = self.end_ns
        last: dict[tuple[Any, ...], Fault] = {}
        times: Counter[tuple[Any, ...]] = Counter()
        for fault in sorted(self.world.faults, key=lambda fault: fault.at_ns):
            if fault.word in endings:
                key = (fault.word, fault.machine, fault.other, fault.segment, fault.slot)
                last[key] = fault
                times[key] += 1
        for key, fault in last.items():
            value = endings[fault.word]
            if fault.word == "link" and fault.slot == LINK_WORDS.index("delay_ns"):
                value = self.delay_ns((fault.segment, fault.machine, fault.other))
            # If two flaps of a link overlapped, either may have left it removed.
            if fault.value != value if fault.word != "nic" else times[key] > 2:
                self.world.faults.append(replace(fault, at_ns=at_ns, value=value))
        dead = {self.random.below(self.world.machines)} if self.chance(4) else set()
        for machine in range(self.world.machines):
            if machine in dead:
                self.put(at_ns, "crash", machine=machine)
            else:
                self.put(at_ns, "resume", machine=machine)
                self.put(at_ns, "boot", machine=machine)
        # In INIT an engine does not look for addresses that it does not know to be there.
        kept = {"netlink_errors", "lost_addresses"} & {*self.world.episodes}
        for machine, segment in () if kept else self.broken_links:
            down = NIC_WORDS.index("down")
            self.put(at_ns, "nic", machine=machine, segment=segment, value=down)
        for fault in [fault for fault in self.world.faults if fault.word == "remove"]:
            self.put(at_ns, "add", machine=fault.machine, slot=fault.slot)
        if self.chance(6):
            self.part(at_ns, None)
        if self.chance(4):
            self.silence(at_ns, None)

    def some(self, machine: int) -> list[Member]:
        """Some virtual hosts of a machine: one, or in a large world up to a hundred."""
        members = self.world.on(machine)
        count = min(len(members), self.random.between(1, 100 if self.world.large else 3))
        return [members[self.random.below(len(members))] for _ in range(count)] if members else []

    def switch_some(self, word: str, start_ns: int, end_ns: int) -> None:
        """Switches a fault of some virtual hosts of a machine on, and off again."""
        machine = self.any_machine()
        for member in self.some(machine):
            self.put(start_ns, word, machine=machine, slot=member.slot, value=1)
            self.put(end_ns, word, machine=machine, slot=member.slot, value=0)

    def any_machine(self) -> int:
        return self.random.below(self.world.machines)

    def pairs(self) -> list[Pair]:
        """Links: all of a segment, all of a machine there, or a single direction."""
        segment = self.random.below(self.world.segments)
        every = range(self.world.machines)
        one, kind = self.any_machine(), self.random.below(3)
        pairs = [(segment, a, b) for a in every for b in every if a != b]
        if kind == 0:
            return pairs
        if kind == 1:
            return [pair for pair in pairs if one in pair[1:]]
        return [pairs[self.random.below(len(pairs))]]

    def delay_ns(self, pair: Pair) -> int:
        return self.world.delays.get(pair, BASE_DELAY_NS)

    def block(self, start_ns: int, end_ns: int | None, pair: Pair, families: int) -> None:
        self.link(start_ns, "blocked", pair, families)
        if end_ns is not None:
            self.link(end_ns, "blocked", pair, 0)

    def across(self) -> list[Pair]:
        """Both directions between two parts of a segment."""
        segment = self.random.below(self.world.segments)
        sides = 1 + self.random.below((1 << self.world.machines) - 2)
        every = range(self.world.machines)
        return [
            (segment, a, b) for a in every for b in every if (sides >> a & 1) != (sides >> b & 1)
        ]

    def part(self, start_ns: int, end_ns: int | None) -> None:
        """Splits a segment into two parts that do not hear each other."""
        self.world.partitions += 1
        for pair in self.across():
            self.block(start_ns, end_ns, pair, BOTH)

    def silence(self, start_ns: int, end_ns: int | None) -> None:
        """Blocks one family: everywhere, between two parts, or one way."""
        family, kind = (IPV4, IPV6)[self.random.below(2)], self.random.below(4)
        self.world.partitions += 1
        pairs = self.pairs() if kind == 0 else self.across()
        if kind == 3:
            pairs = [pair for pair in pairs if pair[1] < pair[2]]
        for pair in pairs:
            self.block(start_ns, end_ns, pair, family)
