"""Runs the simulated worlds of seeds, and formats their traces.

The engine is the real one; time and network are virtual. Must not know the command line, the
daemon or a real network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from errno import errorcode

from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine._vhid import REASON_WORDS, STATE_WORDS
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.simulate._world import FAULT_WORDS, LINK_WORDS, ORDER_WORDS, Simulator
from carp_fast.simulate.seeds import SEED_MAX, draw
from carp_fast.simulate.world import SECOND_NS, Member, World

HOLD_NS = 20 * SECOND_NS
"""Time for which a world must stay quiet at its end: longer than any master-down time here (12 s),
and long enough for a late BACKUP to notice that a family is silent."""
STEP_NS = SECOND_NS


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a seed. `broken`: the invariant that did not hold, in words, or None."""

    seed: int
    large: bool
    machines: int
    segments: int
    slots: int
    episodes: int
    partitions: int
    virtual_ns: int
    real_s: float
    digest: int
    tally: dict[str, int]
    broken: str | None

    @property
    def line(self) -> str:
        """The world and its result in one line."""
        return (
            f"{self.machines} hosts, {self.segments} segments, {self.slots:,} virtual hosts,"
            f" {self.episodes} faults, {self.virtual_ns / SECOND_NS:.0f} s: "
            f"{self.broken or 'every invariant held'} (trace {self.digest:016x})"
        )

    @property
    def command(self) -> str:
        """The command that runs this seed again."""
        return f"carp-fast simulate --seed {self.seed}{' --large' if self.large else ''}"


def prepared(member: Member, passphrase: bytes) -> PreparedHost:
    """A virtual host in the form that an engine takes."""
    number = member.slot * 16
    addresses = [
        (bytes((172, 16 + (number + i >> 16), number + i >> 8 & 255, number + i & 255)), 32)
        for i in range(member.addresses)
    ]
    for i in range(member.addresses6):
        link_local = member.link_local and i == member.addresses6 - 1
        prefix = b"\xfe\x80" + bytes(6) if link_local else b"\x20\x01\x0d\xb8" + bytes(4)
        addresses.append((prefix + (number + i).to_bytes(8, "big"), 128))
    return PreparedHost(
        interface=member.segment,
        vhid=member.vhid,
        addresses=addresses,
        passphrase=passphrase,
        advbase=member.advbase,
        advskew=member.advskew,
        dead_ratio=member.dead_ratio,
        preempt=member.preempt,
        startup_delay_ns=member.startup_delay_ns,
        preempt_delay_ns=member.preempt_delay_ns,
        dialect=member.dialect,
        replay=member.replay,
        peers=member.peers,
        by_route=member.by_route,
        group=member.group,
        group_all=member.group_all,
    )


def build(world: World, tracing: bool = False) -> Simulator:
    """A simulator of the world, ready to run."""
    limits = world.limits
    simulator = Simulator(
        world.seed,
        world.machines,
        world.segments,
        world.slots,
        socket_room=limits.socket_room,
        source_room=limits.source_room,
        batch=limits.batch,
        slices=limits.slices,
        changes=limits.changes,
        aligned=world.aligned,
        tracing=tracing,
    )
    for (machine, segment), (source, source6) in world.sources.items():
        simulator.attach(machine, segment, source, source6, machine in world.routers)
    for member in world.members:
        right, other = prepared(member, b"right"), prepared(member, b"other")
        changed = prepared(replace(member, advskew=member.other_advskew), b"right")
        simulator.add(member.machine, member.slot, right, other, changed, member.foreign)
    for fault in world.faults:
        simulator.fault(
            fault.at_ns,
            fault.word,
            machine=fault.machine,
            other=fault.other,
            segment=fault.segment,
            slot=fault.slot,
            value=fault.value,
        )
    return simulator


class Simulation:
    """The world of a seed: machines, faults and virtual time, judged by CARP's invariants.

    `seed`: 0 to SEED_MAX; the same seed gives the same world in every run. `large`: 8 machines with
    4,000 virtual hosts instead of 2 to 5 with up to 20. A run ends at the end of the world, or at
    the first broken invariant. Needs neither root nor a network. Raises ValueError for a seed out
    of range.
    """

    def __init__(self, seed: int, *, large: bool = False, tracing: bool = False) -> None:
        if not 0 <= seed <= SEED_MAX:
            raise ValueError(f"seed {seed}: must be from 0 to {SEED_MAX}")
        self._world = draw(seed, large)
        self._tracing = tracing
        self._simulator = build(self._world, tracing)
        self._good = True
        self._until_ns = 0
        self._hold_until_ns: int | None = None
        self._real_s = 0.0

    @property
    def ended(self) -> bool:
        """True if an invariant is broken, or all has been quiet for HOLD_NS."""
        held = self._hold_until_ns is not None and self._until_ns >= self._hold_until_ns
        return held or not self._good

    def step(self) -> list[str]:
        """Runs one virtual second; returns the lines of the trace, or none without `tracing`."""
        began_s = time.perf_counter()
        self._until_ns += STEP_NS
        self._good = self._simulator.run(self._until_ns)
        if self._hold_until_ns is None and self._simulator.quiet:
            self._hold_until_ns = self._until_ns + HOLD_NS
        lines = map(trace_line, self._simulator.take_trace()) if self._tracing else ()
        self._real_s += time.perf_counter() - began_s
        return list(lines)

    def run(self, show: Callable[[str], None] | None = None) -> Outcome:
        """Runs to the end of the world; `show` is called with each line of the trace."""
        while not self.ended:
            for line in self.step():
                if show is not None:
                    show(line)
        self._simulator.check()
        world, simulator = self._world, self._simulator
        return Outcome(
            seed=world.seed,
            large=world.large,
            machines=world.machines,
            segments=world.segments,
            slots=world.slots,
            episodes=len(world.episodes),
            partitions=world.partitions,
            virtual_ns=simulator.now_ns,
            real_s=self._real_s,
            digest=simulator.digest,
            tally=simulator.tally,
            broken=broken_line(world, simulator),
        )


def broken_line(world: World, simulator: Simulator) -> str | None:
    """The broken invariant, with its time and place, or None."""
    if simulator.broken is None:
        return None
    word, machine, slot, value = simulator.broken
    where = f"h{machine}"
    if slot is not None:
        member = next(member for member in world.members if member.slot == slot)
        where += f" s{member.segment}/{member.vhid}"
    return f"{word} at {simulator.now_ns / SECOND_NS:.6f} s: {where} ({value})"


def run(seed: int, large: bool = False) -> Outcome:
    """Runs the world of a seed to its end or to the first broken invariant."""
    return Simulation(seed, large=large).run()


def run_all(seeds: Iterable[int], large: bool = False, jobs: int = 1) -> Iterator[Outcome]:
    """Runs many seeds and yields outcomes in their order; uses `jobs` processes."""
    if jobs == 1:
        for seed in seeds:
            yield run(seed, large)
        return
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial
    from multiprocessing import get_context

    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        chunk = 1 if large else 50
        yield from pool.map(partial(run, large=large), seeds, chunksize=chunk)


class Summary:
    """The sums of many outcomes."""

    def __init__(self) -> None:
        self.seeds = self.partitions = self.virtual_ns = 0
        self.real_s = 0.0
        self.tally: dict[str, int] = {}
        self.failed: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Adds an outcome."""
        self.seeds += 1
        self.partitions += outcome.partitions
        self.virtual_ns += outcome.virtual_ns
        self.real_s += outcome.real_s
        for name, count in outcome.tally.items():
            self.tally[name] = self.tally.get(name, 0) + count
        if outcome.broken is not None:
            self.failed.append(outcome)

    @property
    def unsettled(self) -> str | None:
        """The failure if long ties were more frequent than promised, or None.

        Without faults, one tie in a hundred of two or three machines may need more than six rounds;
        of fewer than a hundred ties, one may.
        """
        tied, long = self.tally.get("tied", 0), self.tally.get("long_ties", 0)
        if long <= max(1, tied // 100):
            return None
        return f"{long:,} of {tied:,} ties lasted for more than six rounds"

    def lines(self) -> list[str]:
        """The lines of the summary."""
        virtual_s = self.virtual_ns / SECOND_NS
        rate = virtual_s / self.real_s if self.real_s else 0.0
        words = {"take_overs": "take-overs", "rejected": "rejected packets"}
        counted = {
            words.get(name, name.replace("_", " ")): count for name, count in self.tally.items()
        }
        return [
            f"{self.seeds:,} seed{'' if self.seeds == 1 else 's'}: "
            f"{len(self.failed):,} broke an invariant",
            f"{self.partitions:,} partitions, "
            + ", ".join(f"{count:,} {name}" for name, count in counted.items()),
            f"{virtual_s:,.0f} virtual s in {self.real_s:,.1f} s: {rate:,.0f} virtual s per s",
        ]


def show(
    write: Callable[[str], None],
    *,
    seed: int | None,
    seeds: str | None,
    large: bool = False,
    jobs: int = 1,
) -> str | None:
    """Runs the world of `seed`, or those of `seeds` ("A-B"), and writes the results in lines.

    For a single seed it also writes every event. Returns the error if an invariant was broken, or
    None. Raises ValueError for invalid seeds.
    """
    chosen = _seeds(seed, seeds)
    summary = Summary()
    if seed is None:
        every = run_all(chosen, large, jobs)
    else:
        every = iter([Simulation(seed, large=large, tracing=True).run(write)])
    for outcome in every:
        summary.add(outcome)
        if outcome.broken is not None:
            write(f"seed {outcome.seed}: {outcome.broken}; to show it: {outcome.command}")
        elif seed is not None:
            write(f"seed {seed}: {outcome.line}")
    for line in summary.lines():
        write(line)
    if not summary.failed:
        return summary.unsettled
    return f"{len(summary.failed):,} of {summary.seeds:,} seeds broke an invariant"


def _seeds(seed: int | None, seeds: str | None) -> Sequence[int]:
    if (seed is None) == (seeds is None):
        raise ValueError("either --seed N or --seeds A-B must be given")
    first, _, last = (seeds or f"{seed}-{seed}").partition("-")
    if not (first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal()):
        raise ValueError(f"--seeds {seeds}: must be a range A-B")
    if not int(first) <= int(last) <= SEED_MAX:
        raise ValueError(f"--seeds {first}-{last}: must be A-B with A <= B <= {SEED_MAX}")
    return range(int(first), int(last) + 1)


# ------------------------------------------------------------------------------------ trace


def trace_line(event: tuple[int, str, int, int, int, int, int]) -> str:
    """An event of a trace in one line: time, machine, virtual host, event."""
    at_ns, word, machine, segment, vhid, a, b = event
    where = f"s{segment}/{vhid}" if vhid else "-"
    return f"{at_ns / SECOND_NS:14.6f}  h{machine:<2d} {where:<8s} {word:<9s} {_detail(word, a, b)}"


def _detail(word: str, a: int, b: int) -> str:
    if word == "sent":
        demoted = f" demote {a >> 16 & 255}" if a >> 16 & 255 else ""
        return f"IPv{a >> 24} {a >> 8 & 255}/{a & 255}{demoted}{_error(b)}"
    if word == "heard":
        return f"{_whose(a)} {VERDICT_WORDS[b] if b < len(VERDICT_WORDS) else 'not_carp'}"
    if word in ("lost", "no_room"):
        return _whose(a)
    if word == "changed":
        return f"{_whose(a)} {LINK_WORDS[b]}"
    if word == "family":
        return f"IPv{a} {'silent' if b else 'heard'}"
    if word == "state":
        return f"{STATE_WORDS[a]} {REASON_WORDS[b]}"
    if word == "address":
        return f"{'added' if a & 1 else 'removed'} {a >> 1}{_error(b)}"
    if word == "order":
        return ORDER_WORDS[a]
    if word == "fault":
        return f"{FAULT_WORDS[a]} {b - (1 << 32) if b >> 31 else b}"
    if word == "stalled":
        return f"{a} dropped, {b} ms late"
    return str(a)


def _whose(a: int) -> str:
    return f"IPv{a >> 8} from h{a & 255}"


def _error(error: int) -> str:
    return f" {errorcode.get(error, str(error))}" if error else ""
