"""The overview that `carp-fast watch` and the page show: totals, problems, the last changes.

Costs little however often it is asked for: totals are counted again only after a change, and those
who ask share a pass over the virtual hosts, at most HOSTS_A_SECOND of them. Must not know who asks,
nor how it is shown.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from carp_fast import __version__
from carp_fast.control.documents import HELPER_RUNS, Summary
from carp_fast.control.overview import InterfaceTotals, Overview, Overviewed, Problem
from carp_fast.control.requests import OverviewRequest, StatusRequest
from carp_fast.daemon.explain_demotion import in_maintenance
from carp_fast.daemon.explain_text import problems
from carp_fast.daemon.problems import counted, having, worst
from carp_fast.daemon.reports import rfc3339
from carp_fast.daemon.table import BACKUP, INIT, MASTER

if TYPE_CHECKING:
    from carp_fast.daemon.feed import Feed
    from carp_fast.daemon.measuring import Measuring
    from carp_fast.daemon.opened import Opened

HOSTS_A_SECOND = 16_384  # virtual hosts that passes look at, on average
PASS_AT_MOST_EVERY_S = 1.0
PASS_AWAITED_S = 0.5  # by an answer; a pass that takes longer is in the next one
PROBLEMS_SHOWN = 100
NAMED = 3  # groups and tracks in a sentence; the others are counted


class Found(msgspec.Struct, frozen=True):
    """What a pass has found; `marks`: by slot, see problems.marks_of."""

    at: str
    marks: bytes
    hosts: int
    kinds: Mapping[str, int]
    first: list[Problem]


class Overviews:
    """Makes overviews of a daemon. All methods are called on the loop's thread."""

    def __init__(self, opened: Opened, measuring: Measuring, feed: Feed) -> None:
        self._opened = opened
        self._hosts = opened.hosts
        self._measuring = measuring
        self._feed = feed
        self._found: Found | None = None
        self._fresh_until_s = 0.0
        self._looking: asyncio.Task[Found] | None = None
        # What the totals were counted from, and the totals.
        self._counted: tuple[int, bytes, bytes] | None = None
        self._totals: list[tuple[str, tuple[int, ...]]] = []

    async def answer(self, request: OverviewRequest) -> Overviewed:
        """The overview, with the changes after those that the asker has."""
        return Overviewed(ok=True, overview=await self.overview(request.since))

    async def overview(self, since: int) -> Overview:
        """Everything as it is now, but the problems, which may be some seconds old."""
        found = await self.found()
        totals = self._count(found.marks)
        opened = self._opened
        links = opened.status.link
        sums = [sum(column) for column in zip(*(counts for _, counts in totals), strict=True)]
        return Overview(
            at=rfc3339(time.monotonic_ns()),
            host=socket.gethostname(),
            version=__version__,
            pid=os.getpid(),
            started_at=rfc3339(opened.status.started_at_ns),
            notices=list(self._notices()),
            summary=Summary(*(sums[:4] or (0, 0, 0, 0))),
            interfaces=[InterfaceTotals(name, links(name), *counts) for name, counts in totals],
            problem_hosts=found.hosts,
            problem_kinds=dict(found.kinds),
            problems=found.first,
            problems_at=found.at,
            changes=self._feed.published,
            last=self._feed.since(since),
        )

    def close(self) -> None:
        """Ends a pass that is under way."""
        if self._looking is not None:
            self._looking.cancel()

    # -- problems

    async def found(self) -> Found:
        """What the last pass has found; begins another one if that was long ago."""
        loop = asyncio.get_running_loop()
        if self._looking is None and loop.time() >= self._fresh_until_s:
            self._looking = loop.create_task(self._look())
            self._looking.add_done_callback(self._on_looked)
        if self._looking is None:
            assert self._found is not None
            return self._found
        looking = asyncio.shield(self._looking)
        if self._found is None:
            return await looking
        try:
            async with asyncio.timeout(PASS_AWAITED_S):
                return await looking
        except TimeoutError:
            return self._found

    def _on_looked(self, task: asyncio.Task[Found]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is None:
            self._found = task.result()
            slots = len(self._found.marks)
            rest_s = max(PASS_AT_MOST_EVERY_S, slots / HOSTS_A_SECOND)
            self._fresh_until_s = asyncio.get_running_loop().time() + rest_s

    async def _look(self) -> Found:
        gathered = await self._measuring.gather()
        marks = self._measuring.marks(gathered)
        return Found(
            at=rfc3339(gathered.now_ns),
            marks=marks,
            hosts=having(marks).count(1),
            kinds={
                "INIT" if word == "init" else word: count  # as the status has it
                for word, count in counted(marks, self._hosts.states).items()
            },
            first=await self._first(worst(marks, PROBLEMS_SHOWN)),
        )

    async def _first(self, slots: Sequence[int]) -> list[Problem]:
        """The problems of these slots in sentences, in their order."""
        status, found = self._opened.status, {}
        async for copied in status.snapshots(sorted(slots)):
            for slot, copy in copied:
                # It may have been solved since the pass, or have another virtual host.
                for host in status.virtual_hosts([(slot, copy)], StatusRequest(problems=True)):
                    sentences = problems(host)
                    found[slot] = Problem(
                        host.interface, host.vhid, host.state, host.since, sentences, host.name
                    )
        return [found[slot] for slot in slots if slot in found]

    # -- totals

    def _count(self, marks: bytes) -> list[tuple[str, tuple[int, ...]]]:
        """By interface: virtual hosts, MASTER, BACKUP, INIT, and those that have a problem."""
        hosts = self._hosts
        now = hosts.layout, bytes(hosts.states), having(marks.ljust(len(hosts.states), b"\0"))
        if now != self._counted:
            self._counted = now
            _, states, marked = now
            self._totals = [
                (name, (len(slots), *_states(states, slots), _of(marked, slots).count(1)))
                for name, slots in zip(hosts.names, hosts.slots, strict=True)
                if slots
            ]
        return self._totals

    # -- what concerns the host as a whole

    def _notices(self) -> Iterator[str]:
        opened = self._opened
        maintenance, _ = opened.status.maintenance()
        if maintenance is not None:
            yield in_maintenance(maintenance)
        helper = opened.status.helper()
        if helper not in (None, HELPER_RUNS):
            yield f"the privileged helper has ended ({helper}): no hook can be run"
        for reason, amount in opened.status.demotions().items():
            yield f"demoted by {amount}: {reason}"
        groups = self._hosts.demotion_groups.demoted()
        if groups:
            yield f"demoted groups: {_named(groups)}"
        failed = [each.track.name for each in opened.tracked.judged() if not each.counts_as_ok]
        if failed:
            yield f"failed tracks: {_named(failed)}"


def _of(column: bytes, slots: array[int]) -> bytes:
    """What a column by slot has for these slots."""
    return bytes([column[slot] for slot in slots])


def _states(states: bytes, slots: array[int]) -> tuple[int, int, int]:
    own = _of(states, slots)
    return own.count(MASTER), own.count(BACKUP), own.count(INIT)


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
