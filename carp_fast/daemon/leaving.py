"""Gives the masters of this host to others, and back: what maintenance does, step by step.

First every virtual host is demoted and keeps its addresses, so that peers that preempt take over
without a gap. What remains MASTER resigns: one canary of each unit first, the others once another
host has the canary. What no host adopts is MASTER again after its master-down time: the engine
does that, and this module only looks. A unit is what is on one segment (interface) and in one
group. A group of which a virtual host was not adopted is taken back as a whole: it is no longer
demoted, and takes over what others have. Must not know files, nor who asks.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from carp_fast.control.documents import MaintenancePhase, MaintenanceProgress
from carp_fast.daemon.demotions import group_of
from carp_fast.daemon.hand_overs import PREEMPTED_WITHIN, Snapshots, is_adopted
from carp_fast.daemon.orders import at_the_pace
from carp_fast.daemon.table import INIT, MASTER, Hosts

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.orders import Order, Orders

logger = logging.getLogger(__name__)

MAINTENANCE_DEMOTION = 240
"""Added to the advskew, or to OpenBSD's demote byte."""
LOOK_S = 0.1  # between two looks at what was given up
NAMED_MAX = 20  # virtual hosts that no other host adopted, in an answer; the others are counted


class Unit(NamedTuple):
    """What is given up together: the virtual hosts of an interface, and of a group ("": none)."""

    interface: str
    group: str


def unit_of(host: VirtualHost) -> Unit:
    return Unit(host.interface, group_of(host) or "")


class Leaving:
    """One hand-over of every MASTER, or the way back; `progress` shows how far it is.

    `rate`: returns the hand-overs a second; `snapshots`: copies of the virtual hosts in ascending
    slots, as the engine has them.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        snapshots: Snapshots,
        rate: Callable[[], int],
        progress: MaintenanceProgress,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._snapshots = snapshots
        self._rate = rate
        self.progress = progress
        self._begun_s = time.monotonic()
        # By slot: when it was given up, and in which unit; until its outcome is known.
        self._awaited: dict[int, tuple[int, Unit]] = {}
        self._leaving = False
        self._failed: set[Unit] = set()  # units of which a virtual host was not adopted
        self._tried: set[int] = set()
        self._groups: set[str] = set()  # those that are taken back as a whole

    # -- out

    async def leave(self, *, force: bool, withheld: bool = False) -> None:
        """Gives every MASTER up. With `force` no virtual host takes part afterwards.

        `withheld`: some take no part yet, since a way back did not end; without `force` they do
        again, demoted.
        """
        masters = self._masters()
        self.progress.masters, self._leaving = len(masters), True
        self._step("demoting")
        await self._demote(masters)
        if withheld and not force:
            pump = self._orders.pump
            await self._orders.give(
                self._only_now(slot, partial(pump.withhold, slot, False))
                for slot, _ in self._hosts.used()
            )
        await self._until_preempted(masters)
        if force:
            await self._withhold()
        else:
            await self._give_up()
        self._step("done")

    async def _demote(self, masters: Sequence[int]) -> None:
        """Demotes all: what is not MASTER at once, since no hand-over follows from that."""
        pump, known = self._orders.pump, set(masters)
        others = [slot for slot, _ in self._hosts.used() if slot not in known]
        await self._orders.give(
            self._only_now(slot, partial(pump.demote, slot, MAINTENANCE_DEMOTION, "maintenance"))
            for slot in others
        )
        await self._paced(
            masters,
            lambda slot: partial(pump.demote, slot, MAINTENANCE_DEMOTION, "maintenance"),
        )

    async def _until_preempted(self, masters: Sequence[int]) -> None:
        """Waits until peers that preempt have taken over; others do not."""
        self._step("waiting")
        left = [self._hosts.hosts[slot] for slot in self._masters() if slot in set(masters)]
        longest_s = max((interval_s(host) for host in left if host is not None), default=0.0)
        until_s = time.monotonic() + PREEMPTED_WITHIN * longest_s
        while MASTER in self._hosts.states and time.monotonic() < until_s:
            self._step("waiting")
            await asyncio.sleep(LOOK_S)

    async def _withhold(self) -> None:
        """No virtual host takes part any more: the masters resign, at the pace."""
        self._step("giving_up")
        pump, masters = self._orders.pump, self._masters()
        await self._paced(masters, lambda slot: partial(pump.withhold, slot, True))
        await self._orders.give(
            self._only_now(slot, partial(pump.withhold, slot, True))
            for slot, _ in self._hosts.used()
        )

    async def _give_up(self) -> None:
        """The canaries resign, then the others of each unit whose canary was adopted."""
        units: dict[Unit, list[int]] = {}
        for slot in self._masters():
            if (host := self._hosts.hosts[slot]) is not None:
                units.setdefault(unit_of(host), []).append(slot)
        self._step("canaries")
        await self._resign((unit, slots[0]) for unit, slots in units.items())
        while self._awaited:
            await asyncio.sleep(LOOK_S)
            await self._look()
        self._step("giving_up")
        rest = itertools.zip_longest(
            *([(unit, slot) for slot in slots[1:]] for unit, slots in units.items())
        )
        await self._resign(each for row in rest for each in row if each is not None)
        while self._awaited:
            await asyncio.sleep(LOOK_S)
            await self._look()
        self.progress.not_tried = sum(
            self._is_master(slot) and slot not in self._tried
            for slots in units.values()
            for slot in slots
        )

    async def _resign(self, wanted: Iterable[tuple[Unit, int]]) -> None:
        """Lets these resign at the pace; none of a unit that has failed by then."""
        pump, looked_s = self._orders.pump, time.monotonic()

        def orders() -> Iterator[Order]:
            for unit, slot in wanted:
                if not self._has_failed(unit) and self._is_master(slot):
                    self._awaited[slot] = time.monotonic_ns(), unit
                    self._tried.add(slot)
                    yield self._only_now(slot, partial(pump.hand_over, slot, "maintenance"))

        async for _ in at_the_pace(self._orders, orders(), self._rate):
            if time.monotonic() - looked_s >= LOOK_S:
                await self._look()
                looked_s = time.monotonic()

    async def _look(self) -> None:
        """Finds out what became of those that were given up."""
        groups = set(self._groups)
        for slot, (_, unit) in list(self._awaited.items()):
            if self._hosts.states[slot] == MASTER:  # after its master-down time
                del self._awaited[slot]
                if unit.group not in groups:  # otherwise it is taken over again
                    self._fail(unit, slot)
        for group in self._groups - groups:
            await self._take_back(group)
        async for copies in self._snapshots(sorted(self._awaited)):
            for slot, copy in copies:
                since_ns, _ = self._awaited.get(slot, (0, None))
                if since_ns and copy.state == "BACKUP" and is_adopted(copy, since_ns):
                    del self._awaited[slot]
        for slot in list(self._awaited):  # its link failed, or it was removed
            if self._hosts.states[slot] == INIT:
                del self._awaited[slot]
        self._step(self.progress.phase)

    def _fail(self, unit: Unit, slot: int) -> None:
        name = self._hosts.name(slot)
        self._failed.add(unit)
        if unit.group:
            name += f" (group {unit.group})"
            self._groups.add(unit.group)
        self.progress.taken_back_count += 1
        if len(self.progress.taken_back) < NAMED_MAX:
            self.progress.taken_back.append(name)
            logger.error("%s: no other host adopted it, taken back", name)

    def _has_failed(self, unit: Unit) -> bool:
        return unit in self._failed or unit.group in self._groups

    async def _take_back(self, group: str) -> None:
        """Ends the demotion of a group, and takes over what others have of it, as far as these are
        slower.
        """
        pump = self._orders.pump
        members = [slot for slot, host in self._hosts.used() if group_of(host) == group]
        await self._orders.give(
            self._only_now(slot, partial(pump.demote, slot, 0, "maintenance")) for slot in members
        )
        given = [slot for slot in members if not self._is_master(slot)]
        await self._paced(given, lambda slot: partial(pump.take_over, slot))
        logger.error("group %s: taken back as a whole, %d virtual hosts", group, len(members))

    # -- back

    async def come_back(self, *, withheld: bool) -> None:
        """Ends the demotion: at the pace where peers may be preempted."""
        self._step("returning")
        pump = self._orders.pump

        def end(slot: int) -> Iterator[Order]:
            yield partial(pump.demote, slot, 0, "maintenance")
            if withheld:
                yield partial(pump.withhold, slot, False)

        slots = [slot for slot, _ in self._hosts.used()]
        masters = set(self._masters())
        await self._orders.give(
            self._only_now(slot, order) for slot in masters for order in end(slot)
        )

        def both(slot: int) -> Order:
            return lambda: [order() for order in end(slot)]

        await self._paced([slot for slot in slots if slot not in masters], both)
        self._step("done")

    # -- what both do

    def _step(self, phase: MaintenancePhase) -> None:
        progress = self.progress
        progress.phase = phase
        if self._leaving:
            progress.given = max(0, progress.masters - self._hosts.states.count(MASTER))
        progress.seconds = round(time.monotonic() - self._begun_s, 1)

    def _masters(self) -> list[int]:
        return [slot for slot, state in enumerate(self._hosts.states) if state == MASTER]

    def _is_master(self, slot: int) -> bool:
        return self._hosts.states[slot] == MASTER

    def _only_now(self, slot: int, order: Order) -> Order:
        return self._hosts.only_now(slot, order)

    async def _paced(self, slots: Iterable[int], order: Callable[[int], Order]) -> None:
        wanted = (self._only_now(slot, order(slot)) for slot in slots)
        async for _ in at_the_pace(self._orders, wanted, self._rate):
            self._step(self.progress.phase)


def interval_s(host: VirtualHost) -> float:
    """The advertisement interval of a virtual host in maintenance; see vhid_advskew."""
    settings = host.settings
    skew = settings.advskew
    if settings.dialect != "openbsd":
        skew = max(skew, MAINTENANCE_DEMOTION)
    return settings.advbase + skew / 256
