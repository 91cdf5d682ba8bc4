"""Measures what metrics show: one pass over the virtual hosts in the pump, and what the loop has.

The pump adds up a slice of virtual hosts a turn; Python objects of virtual hosts are made only of
those that have problems. Must not know Prometheus or how metrics are asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from carp_fast import __version__
from carp_fast.config.fingerprint import fingerprint
from carp_fast.daemon.network import NO_SOURCES
from carp_fast.daemon.problems import counted, marked, marks_of, words_of
from carp_fast.daemon.reports import FOREIGN
from carp_fast.daemon.segments import by_segment
from carp_fast.engine import tallied
from carp_fast.engine._auth import SHA1_FORM
from carp_fast.engine._figures import LATENESS_BOUNDS_NS, TAKEOVER_BOUNDS_NS
from carp_fast.engine._tallies import Tallies
from carp_fast.metrics.histogram import BOUNDS_S, Histogram
from carp_fast.metrics.measured import (
    Durations,
    HooksMeasured,
    InterfaceMeasured,
    Measured,
    ProblemsMeasured,
    PumpMeasured,
    TrackMeasured,
)
from carp_fast.metrics.virtual_hosts import Row

if TYPE_CHECKING:
    from carp_fast.config.model import Configuration, VirtualHost
    from carp_fast.control.documents import ControlStatus
    from carp_fast.daemon.hooks import Hooks
    from carp_fast.daemon.opened import Opened
    from carp_fast.pump._snapshots import Snapshot
    from carp_fast.pump.facts import PumpFacts

TALLIED_AT_ONCE = 512  # virtual hosts in one turn of the pump
PROBLEMS_MAX = 1_000  # that have a line of their own
ROWS_A_SLICE = 4_096  # virtual hosts whose lines are written without a pause
OPERATOR, MAINTENANCE, GROUP = "operator", "maintenance", "group"
GROUP_DEMOTION = 240


class Reloads(msgspec.Struct):
    """Whether the last reload was applied, and when one last was, in seconds since the epoch."""

    succeeded: bool = True
    at: float = msgspec.field(default_factory=time.time)

    def note(self, *, succeeded: bool) -> None:
        """Notes the outcome of a reload."""
        self.succeeded = succeeded
        if succeeded:
            self.at = time.time()


class Gathered(msgspec.Struct, frozen=True):
    """One pass, with what the loop knew at its end; the worker makes the rest of it.

    By an interface's number: `names`, `ups`, `sources`, `foreign`. `wrong_digests`: the last report
    of one by slot, CLOCK_MONOTONIC; `address_problems`: slots.
    """

    now_ns: int
    tallies: Tallies
    snapshot: Snapshot
    facts: PumpFacts
    names: list[str]
    ups: Mapping[str, bool]
    sources: Mapping[str, tuple[bytes | None, bytes | None]]
    foreign: Mapping[str, int]
    demotions: Mapping[tuple[str, str], int]
    maintenance: bool
    tracks: list[tuple[str, bool, Histogram | None]]
    hooks: HooksMeasured
    configuration: Configuration
    receive: str
    reloaded: tuple[bool, float]
    control: ControlStatus | None
    refused: Mapping[str, int]
    wrong_digests: Mapping[int, int]
    address_problems: list[int]


class Measuring:
    """Measures the parts of a daemon. `configuration`: returns the running one; `refused`: returns
    the number of clients that the metrics' listener refused, by reason.
    """

    def __init__(
        self,
        opened: Opened,
        hooks: Hooks,
        reloads: Reloads,
        configuration: Callable[[], Configuration],
    ) -> None:
        self._opened = opened
        self._hosts = opened.hosts
        self._hooks = hooks
        self._reloads = reloads
        self._configuration = configuration
        self._started_at = time.time()
        self._pass: asyncio.Task[Gathered] | None = None
        self._digest: tuple[Configuration, str] | None = None  # of the worker's thread
        self.refused: Callable[[], Mapping[str, int]] = dict

    async def gather(self) -> Gathered:
        """One pass. Requests that come while one is under way share it."""
        if self._pass is None:
            self._pass = asyncio.get_running_loop().create_task(self._gather())
            self._pass.add_done_callback(self._on_passed)
        return await asyncio.shield(self._pass)

    def close(self) -> None:
        """Ends a pass that is under way."""
        if self._pass is not None:
            self._pass.cancel()

    def _on_passed(self, task: asyncio.Task[Gathered]) -> None:
        self._pass = None
        if not task.cancelled():
            task.exception()  # whoever waits for it gets it, if there is still one

    async def _gather(self) -> Gathered:
        orders, pump = self._opened.orders, self._opened.pump
        tallies = Tallies(len(self._hosts.names), len(self._hosts.hosts))
        for first in range(0, tallies.slots, TALLIED_AT_ONCE):
            await orders.room_for(1)
            pump.tally(tallies, first, TALLIED_AT_ONCE)
            await orders.done()
        await orders.room_for(2)
        pump.tally(tallies)
        names = list(self._hosts.names)
        snapshot = pump.snapshot_interfaces(len(names))
        await orders.done()
        return self._note(tallies, snapshot, names)

    def _note(self, tallies: Tallies, snapshot: Snapshot, names: list[str]) -> Gathered:
        """What the loop knows now. Its cost does not grow with the virtual hosts."""
        opened = self._opened
        network, reports = opened.network, opened.reports
        used = [
            name if slots else "" for name, slots in zip(names, self._hosts.slots, strict=False)
        ]
        running, waiting = self._hooks.present()
        figures = self._hooks.figures
        return Gathered(
            now_ns=time.monotonic_ns(),
            tallies=tallies,
            snapshot=snapshot,
            facts=opened.pump.facts,
            names=used,
            ups={name: now.up and bool(now.ifindex) for name, now in network.now.items()},
            sources={
                name: (found.ipv4, found.ipv6)
                for name in used
                for found in (network.sources.get(name, NO_SOURCES),)
            },
            foreign=self._foreign(),
            demotions=self._demotions(),
            maintenance=opened.maintenance.state is not None,
            tracks=[
                (each.track.name, each.counts_as_ok, each.durations and each.durations.copy())
                for each in opened.tracked.judged()
            ],
            hooks=HooksMeasured(
                dict(figures.results),
                running,
                waiting,
                {kind: _durations(each.copy()) for kind, each in figures.durations.items()},
            ),
            configuration=self._configuration(),
            receive=opened.receive.path,
            reloaded=(self._reloads.succeeded, self._reloads.at),
            control=opened.status.control(),
            refused=self.refused(),
            wrong_digests=dict(reports.wrong_digest_ns),
            address_problems=list(reports.address_problems),
        )

    def _foreign(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for slot, problems in self._opened.reports.address_problems.items():
            host = self._hosts.hosts[slot]
            if host is not None:
                found[host.interface] += sum(why.startswith(FOREIGN) for why in problems.values())
        return found

    def _demotions(self) -> dict[tuple[str, str], int]:
        opened = self._opened
        found = {("", OPERATOR): 0, ("", MAINTENANCE): opened.maintenance.demotion}
        for group, amount in opened.demotions.by_group().items():
            found[group, OPERATOR] = amount
        for group in self._hosts.demotion_groups.demoted():
            found[group, GROUP] = GROUP_DEMOTION
        return found

    # -- in the worker's thread

    def measured(self, gathered: Gathered, *, problems: bool) -> Measured:
        """What was measured, from a pass; `problems`: those of virtual hosts, too."""
        facts = gathered.facts
        configuration = gathered.configuration
        if self._digest is None or self._digest[0] is not configuration:
            self._digest = configuration, fingerprint(configuration)
        control = gathered.control
        return Measured(
            build={
                "version": __version__,
                "sha1": SHA1_FORM,
                "receive": gathered.receive,
                "pump": configuration.daemon.pump,
                "scheduling": facts.scheduling,
            },
            started_at=self._started_at,
            maintenance=gathered.maintenance,
            interfaces=list(_interfaces(gathered, self._hosts.hosts)),
            demotions=gathered.demotions,
            tracks=[
                TrackMeasured(name, ok, None if found is None else _durations(found))
                for name, ok, found in gathered.tracks
            ],
            hooks=gathered.hooks,
            reloaded=gathered.reloaded,
            configuration_sha256=self._digest[1],
            pump=PumpMeasured(
                turns=facts.turns,
                frames=facts.frames,
                dropped=facts.dropped,
                reports_lost=facts.reports_lost,
                lateness=_of_engine(gathered.tallies.lateness(), LATENESS_BOUNDS_NS),
                takeover=_of_engine(gathered.tallies.takeover(), TAKEOVER_BOUNDS_NS),
            ),
            control_clients=0 if control is None else control.clients,
            events_dropped=0 if control is None else control.events_dropped,
            refused=gathered.refused,
            problems=self._problems(gathered) if problems else None,
        )

    def marks(self, gathered: Gathered) -> bytes:
        """By slot: what is wrong with the virtual hosts of a pass, see problems.marks_of."""
        return marks_of(
            gathered.tallies.problems(),
            self._hosts.hosts,
            gathered.wrong_digests,
            gathered.address_problems,
            gathered.now_ns,
        )

    def rows(self, gathered: Gathered) -> Rows:
        """The virtual hosts of a pass, slice by slice."""
        return Rows(self._hosts.hosts, gathered.tallies)

    def _problems(self, gathered: Gathered) -> ProblemsMeasured:
        hosts, states = self._hosts.hosts, self._hosts.states
        marks = self.marks(gathered)
        rows: list[tuple[str, int, str, str]] = []
        for slot in marked(marks):
            host = hosts[slot]
            if host is not None and len(rows) < PROBLEMS_MAX:
                words = words_of(marks[slot], states[slot])
                rows += [(host.interface, host.vhid, host.labels.name, word) for word in words]
        every = sum(counted(marks, states).values())
        return ProblemsMeasured(rows[:PROBLEMS_MAX], max(0, every - PROBLEMS_MAX))


class Rows:
    """The virtual hosts of a pass in slices, as often as they are wanted.

    A slot whose virtual host has changed since is left out.
    """

    def __init__(self, hosts: list[Any], tallies: Tallies) -> None:
        self._hosts = hosts
        self._tallies = tallies

    def __iter__(self) -> Iterator[list[Row]]:
        for first in range(0, self._tallies.slots, ROWS_A_SLICE):
            yield [
                (
                    host.interface,
                    vhid,
                    (labels := host.labels).name,
                    labels.segment or host.interface,
                    state,
                    transitions,
                )
                for slot, vhid, state, transitions in self._tallies.hosts(first, ROWS_A_SLICE)
                if (host := self._hosts[slot]) is not None and host.vhid == vhid
            ]


def _interfaces(
    gathered: Gathered, hosts: Sequence[VirtualHost | None]
) -> Iterator[InterfaceMeasured]:
    counters, interfaces = gathered.snapshot.counters(), gathered.tallies.interfaces()
    named = dict(zip(gathered.names, interfaces, strict=False))
    segments = by_segment(hosts, gathered.tallies, named)
    for number, found in enumerate(interfaces):
        name = gathered.names[number]
        if name:  # of one that has virtual hosts now
            yield InterfaceMeasured(
                name=name,
                up=gathered.ups.get(name, False),
                sources={
                    str(family): bool(gathered.sources[name][family == 6])
                    for family in found.families
                },
                tallied=found,
                counters=counters[number],
                foreign=gathered.foreign.get(name, 0),
                segments=segments.get(name, {}),
            )


def _durations(histogram: Histogram) -> Durations:
    return Durations(BOUNDS_S, histogram.counts, histogram.sum_s)


def _of_engine(found: tallied.Durations, bounds_ns: tuple[int, ...]) -> Durations:
    return Durations([ns / 1e9 for ns in bounds_ns], found.counts, found.sum_ns / 1e9)
