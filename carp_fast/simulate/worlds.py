"""Draws worlds from seeds: machines, segments, virtual hosts and faults.

A seed gives the same world on every machine and with every version of Python. Must not know how a
world is run, nor the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

from carp_fast.simulate._world import ALWAYS, LINK_WORDS, NIC_WORDS, PAUSE_WORDS, Random
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
SEED_MAX = 10**18
TICKS_A_SECOND = 100
"""Ticks of a pump whose virtual hosts all have longer intervals."""
DEMOTED_BY, ORDERED = 1 << 16, (0, 1, 1, 3)
"""The value of a "demote" is the number of a reason times this, plus the amount; not by a group."""
MANY_SOURCES = 100
"""More sources than a world has."""
NOISE = ("loss4", "loss6", "duplicate", "corrupt", "replay", "forge", "forward", "reflect", "late")


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
        self.draw_faults()

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

    # -- faults

    def draw_faults(self) -> None:
        for pair, delay_ns in self.world.delays.items():
            self.link(0, "delay_ns", pair, delay_ns)
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
        """Ends the remaining faults.

        A partition or a dead machine may stay: each part then has its own MASTER.
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


ENDINGS = {
    "link": 0,
    "nic": NIC_WORDS.index("back"),
    "key": 0,
    "replace": 0,
    "send_errors": 0,
    "netlink_errors": 0,
    "slow_netlink": 10_000,
    "lock_held": 0,
    "secondaries": 0,
    "source": BOTH,
}


def noise(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Loss, duplicates, flipped bits, replays, forgeries, late frames and the like, on links."""
    names = [name for name in NOISE if to.chance(2)] or [NOISE[to.random.below(len(NOISE))]]
    for name in names:
        rate = to.random.between(ALWAYS // 100, ALWAYS // 2)
        for segment, a, b in to.pairs():
            pair = (segment, a, a if name == "reflect" else b)
            to.link(start_ns, name, pair, rate)
            to.link(end_ns, name, pair, 0)


def strangers(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A stranger without the key sends captured frames again, from its own addresses."""
    rate = to.random.between(ALWAYS // 100, ALWAYS // 5)
    for pair in to.pairs():
        to.link(start_ns, "stranger", pair, rate)
        to.link(end_ns, "stranger", pair, 0)


def delay(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Frames take longer, and overtake each other when the delay ends."""
    longer_ns = to.random.between(1, 400) * MS_NS
    for segment, a, b in to.pairs():
        to.link(start_ns, "delay_ns", (segment, a, b), longer_ns)
        to.link(end_ns, "delay_ns", (segment, a, b), to.delay_ns((segment, a, b)))


def partition(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A segment is split in two."""
    to.part(start_ns, end_ns)


def one_way(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine hears a segment but is not heard, or the other way round."""
    segment, deaf = to.random.below(to.world.segments), to.any_machine()
    heard = to.chance(2)
    to.world.partitions += 1
    for other in range(to.world.machines):
        if other != deaf:
            a, b = (deaf, other) if heard else (other, deaf)
            to.block(start_ns, end_ns, (segment, a, b), BOTH)


def one_family(to: Drawing, start_ns: int, end_ns: int) -> None:
    """One family is blocked, the other one is not."""
    to.silence(start_ns, end_ns)


def pause(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A process is stopped, or its machine frozen or suspended."""
    machine = to.any_machine()
    to.put(start_ns, "pause", machine=machine, value=1 + to.random.below(len(PAUSE_WORDS) - 1))
    to.put(end_ns, "resume", machine=machine)


def hiccups(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A process is stopped repeatedly, each time for less than the shortest interval."""
    machine, at_ns = to.any_machine(), start_ns
    while at_ns + SECOND_NS < end_ns:
        length_ns = to.random.between(50, 950) * MS_NS
        to.put(at_ns, "pause", machine=machine, value=PAUSE_WORDS.index("stopped"))
        to.put(at_ns + length_ns, "resume", machine=machine)
        at_ns += length_ns + to.random.between(50, 500) * MS_NS


def flap(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A link goes down and up, or an interface or its name disappears and comes back."""
    machine, segment = to.any_machine(), to.random.below(to.world.segments)
    off, on = (("down", "up"), ("gone", "back"), ("renamed", "named"))[to.random.below(3)]
    to.put(start_ns, "nic", machine=machine, segment=segment, value=NIC_WORDS.index(off))
    to.put(end_ns, "nic", machine=machine, segment=segment, value=NIC_WORDS.index(on))


def no_source(to: Drawing, start_ns: int, end_ns: int) -> None:
    """An interface has no address of one family, or of any."""
    machine, segment = to.any_machine(), to.random.below(to.world.segments)
    left = to.random.below(BOTH)
    if to.chance(2):  # another one takes its place
        end_ns = min(end_ns, start_ns + to.random.between(1, 900) * MS_NS)
    to.put(start_ns, "source", machine=machine, segment=segment, value=left)
    to.put(end_ns, "source", machine=machine, segment=segment, value=BOTH)


def crash(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine crashes and boots again."""
    machine = to.any_machine()
    to.put(start_ns, "crash", machine=machine)
    to.put(end_ns, "boot", machine=machine)


def shutdown(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine shuts down: every MASTER resigns first."""
    machine = to.any_machine()
    gone_ns = start_ns + min(SECOND_NS, (end_ns - start_ns) // 2)
    to.put(start_ns, "resign_all", machine=machine)
    to.put(gone_ns, "crash", machine=machine)
    to.put(end_ns, "boot", machine=machine)


def wrong_key(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine has another passphrase for a while."""
    to.switch_some("key", start_ns, end_ns)


def send_errors(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Sending fails, sometimes or always, over one family or both."""
    machine = to.any_machine()
    rate = ALWAYS if to.chance(2) else to.random.between(1_000, ALWAYS)
    families = (IPV4, IPV6, BOTH, BOTH)[to.random.below(4)]
    for family in range(2):
        if families >> family & 1:
            to.put(start_ns, "send_errors", machine=machine, slot=family, value=rate)
            to.put(end_ns, "send_errors", machine=machine, slot=family, value=0)


def hold_lock(to: Drawing, machine: int, start_ns: int, end_ns: int) -> None:
    """Another program holds the lock of the kernel's addresses, up to some seconds each time."""
    most_ns = (20 * MS_NS, SECOND_NS, 6 * SECOND_NS)[to.random.below(3)]
    at_ns = start_ns
    while at_ns < end_ns:
        until_ns = min(at_ns + to.random.between(MS_NS, most_ns), end_ns)
        to.put(at_ns, "lock_held", machine=machine, value=1)
        to.put(until_ns, "lock_held", machine=machine, value=0)
        at_ns = until_ns + to.random.between(MS_NS, most_ns)


def netlink_errors(to: Drawing, start_ns: int, end_ns: int) -> None:
    """The kernel refuses address changes, loses answers, removes secondaries too, or is slow.

    Or another program holds its lock, all the time or again and again.
    """
    machine, kind = to.any_machine(), to.random.below(4)
    if kind == 3:
        hold_lock(to, machine, start_ns, end_ns)
    elif kind:
        rate = ALWAYS if to.chance(4) else to.random.below(ALWAYS)
        word = ("netlink_errors", "secondaries")[kind - 1]
        to.put(start_ns, word, machine=machine, value=rate)
        to.put(end_ns, word, machine=machine, value=0)
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
    """Another program removes addresses, or a BACKUP still has one of ours.

    Half of the virtual hosts then give up an address that was removed too often.
    """
    machine = to.any_machine()
    for member in to.some(machine):
        which = to.random.below(member.addresses + member.addresses6)
        word = ("address_removed", "address_removed", "address_left")[to.random.below(3)]
        to.put(start_ns, word, machine=machine, slot=member.slot, value=which)
        if to.chance(2):
            to.put(end_ns, "address_lost", machine=machine, slot=member.slot)


def flood(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Strangers fill the common lane of a machine or of all, for a while or to the end.

    To the end only if all genuine sources have their own lanes: others could never take over.
    """
    for_good = to.world.limits.source_room > MANY_SOURCES and to.chance(2)
    frames, dropped = to.random.between(1, 10), to.random.between(ALWAYS // 100, ALWAYS * 8 // 10)
    every = range(to.world.machines)
    for machine in every if to.chance(2) else [to.any_machine()]:
        to.put(start_ns, "flood", machine=machine, slot=frames, value=dropped)
        if not for_good:
            to.put(end_ns, "flood", machine=machine)


def demotion(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Some virtual hosts are demoted by one reason, for a while or to the end."""
    machine, for_good = to.any_machine(), to.chance(2)
    by = DEMOTED_BY * ORDERED[to.random.below(len(ORDERED))]
    value = to.random.between(1, (3, 240, 300)[to.random.below(3)])
    for member in to.some(machine):
        to.put(start_ns, "demote", machine=machine, slot=member.slot, value=by + value)
        if not for_good:
            to.put(end_ns, "demote", machine=machine, slot=member.slot, value=by)


def many_orders(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Orders come faster than advertisements: demotions and reloads, of the same or in turn."""
    machine, at_ns, turn = to.any_machine(), start_ns, 0
    members = to.some(machine)
    word, values = (("demote", 1), ("demote", 2), ("replace", 2))[to.random.below(3)]
    end_ns = min(end_ns, start_ns + 5 * SECOND_NS)
    while at_ns < end_ns:
        for member in members:
            to.put(at_ns, word, machine=machine, slot=member.slot, value=turn % values)
        at_ns += to.random.between(5, 300) * MS_NS
        turn += 1
    for member in members:
        to.put(end_ns, word, machine=machine, slot=member.slot, value=0)


def in_use(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Another process of a machine runs some of the virtual hosts for a while."""
    to.switch_some("bar", start_ns, end_ns)


def removal(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A reload removes some virtual hosts, and another one adds them again."""
    machine = to.any_machine()
    for member in to.some(machine):
        to.put(start_ns, "remove", machine=machine, slot=member.slot)
        to.put(end_ns, "add", machine=machine, slot=member.slot)


EPISODES: tuple[Callable[[Drawing, int, int], None], ...] = (
    3 * (noise,)
    + 2 * (strangers,)
    + (delay,)
    + 2 * (partition,)
    + (one_way,)
    + 2 * (one_family,)
    + 2 * (pause,)
    + (hiccups,)
    + (flap,)
    + (no_source,)
    + 2 * (crash,)
    + (shutdown,)
    + (wrong_key,)
    + (send_errors,)
    + (netlink_errors,)
    + (clock_step,)
    + (netlink_errors,)
    + (lost_addresses,)
    + 2 * (flood,)
    + 2 * (demotion,)
    + (many_orders,)
    + (in_use,)
    + (removal,)
)


def draw(seed: int, large: bool = False) -> World:
    """The world of a seed (0 to SEED_MAX); the large world of the same seed is another one."""
    return Drawing(seed, large).world
