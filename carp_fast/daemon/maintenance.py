"""Maintenance of this host: kept across restarts, begun, ended, planned, and shown.

It is in the state directory, on the disk, before anything follows from it, and is removed from
there before anything is taken back: a crash at any point leaves either. Must not know how the
masters are given up (leaving), nor who asks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from carp_fast.config.state import content_of, remove_file, replace_file
from carp_fast.control.documents import (
    Maintenance,
    MaintenanceProgress,
    MaintenanceState,
    PlannedUnit,
)
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import MaintenanceRequest
from carp_fast.daemon.demotions import check_reason
from carp_fast.daemon.hand_overs import RESIGNED, Snapshots
from carp_fast.daemon.leaving import MAINTENANCE_DEMOTION, Leaving, Unit, unit_of
from carp_fast.daemon.systemd import rfc3339
from carp_fast.daemon.table import MASTER, Hosts

if TYPE_CHECKING:
    from carp_fast.daemon.orders import Orders

logger = logging.getLogger(__name__)

FOR_MAX_S = 30 * 86_400.0
"""The longest time that maintenance can be asked for; without one it has no end."""
CLOCK_S = 30.0  # how often it looks whether its time is over: the clock may be set


class Kept(msgspec.Struct, frozen=True):
    """What is written down. Times are in seconds since 1970; `until` None: until it is ended."""

    since: float
    reason: str
    until: float | None = None
    force: bool = False


class ModeState(msgspec.Struct, forbid_unknown_fields=True):
    """What a successor has to go on with, see MaintenanceMode."""

    kept: Kept | None = None
    until_stop: bool = False
    withheld: bool = False
    progress: MaintenanceProgress | None = None


class MaintenanceMode:
    """Whether this host is in maintenance, and its way there and back.

    `path`: the file that keeps it; None: it ends with this run. A new virtual host begins with
    `demotion` and `withheld`. `run`: runs a coroutine as long as the daemon does.
    """

    def __init__(
        self,
        path: Path | None,
        worker: concurrent.futures.Executor,
        *,
        hosts: Hosts,
        orders: Orders,
        snapshots: Snapshots,
        run: Callable[[Coroutine[Any, Any, None]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._worker = worker
        self._hosts = hosts
        self._orders = orders
        self._snapshots = snapshots
        self._run = run
        self._clock = clock
        self.rate = 200  # daemon.maintenance_rate
        self._kept: Kept | None = None
        self._until_stop = False
        self._withheld = False  # some virtual hosts may take no part, of this one or a former one
        self._progress: MaintenanceProgress | None = None
        self._changing = asyncio.Lock()
        self._moving: asyncio.Task[None] | None = None
        self._ending: asyncio.TimerHandle | None = None

    # -- what others ask for

    @property
    def on(self) -> bool:
        """Whether this host is in maintenance."""
        return self._kept is not None

    @property
    def demotion(self) -> int:
        """What a new virtual host is demoted by."""
        return MAINTENANCE_DEMOTION if self._kept else 0

    @property
    def withheld(self) -> bool:
        """Whether a new virtual host takes no part."""
        return self._kept is not None and self._kept.force

    @property
    def state(self) -> MaintenanceState | None:
        """Since when and why; None: it is not in maintenance."""
        kept = self._kept
        if kept is None:
            return None
        return MaintenanceState(
            since=instant(kept.since),
            reason=kept.reason,
            until=None if kept.until is None else instant(kept.until),
            until_stop=self._until_stop,
            force=kept.force,
        )

    @property
    def progress(self) -> MaintenanceProgress | None:
        """How far the last way there or back has come; None: there was none in this run."""
        return self._progress

    @property
    def moving(self) -> bool:
        """Whether it is on the way there or back."""
        return self._moving is not None and not self._moving.done()

    # -- the start

    @property
    def kept_state(self) -> ModeState:
        """What a successor has to go on with."""
        return ModeState(self._kept, self._until_stop, self._withheld, self._progress)

    def go_on(self, state: ModeState) -> None:
        """Goes on with the `kept_state` of another process, instead of read()."""
        self._kept, self._until_stop = state.kept, state.until_stop
        self._withheld, self._progress = state.withheld, state.progress

    def read(self) -> None:
        """Reads what the last run was told, and logs it; a file that is not usable is logged.

        What cannot be read is maintenance: better a host that others have to be missing for, than
        one that takes over while it is serviced.
        """
        if self._path is None:
            return
        try:
            self._kept = msgspec.json.decode(content_of(self._path), type=Kept)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            reason = f"{self._path.name} is not usable"
            self._kept = Kept(self._clock(), reason)
            logger.error("in maintenance: %s is not usable: %s", self._path, error)
            return
        self._withheld = self._kept.force
        logger.warning("%s, as before the start", described(self._kept))

    def begin(self) -> None:
        """Watches the end of the time that it was asked for; the loop runs."""
        if self._kept is not None:
            self._watch_the_end()

    # -- requests

    async def answer(self, request: MaintenanceRequest) -> Maintenance:
        """Begins, ends, plans or shows maintenance. Raises ControlError."""
        if request.action == "on":
            await self._begin(request)
        elif request.action == "off":
            await self._end()
        elif request.action == "plan":
            return Maintenance(True, self.state, self._progress, await self._planned())
        return Maintenance(True, self.state, self._progress)

    async def _begin(self, request: MaintenanceRequest) -> None:
        if request.reason:
            check_reason("maintenance", request.reason)
        if request.for_s is not None and not 1 <= request.for_s <= FOR_MAX_S:
            raise ControlError(
                f"maintenance: for = {request.for_s:g} s: allowed: 1 to {FOR_MAX_S:.0f} s"
            )
        async with self._changing:
            if self._kept is not None:
                raise ControlError(
                    f"maintenance: refused: {described(self._kept)}; carp-fast maintenance off ends"
                    " it"
                )
            now = self._clock()
            until = None if request.for_s is None else now + request.for_s
            kept = Kept(now, request.reason, until, request.force)
            if not request.until_stop:
                await self._write(partial(self._keep, msgspec.json.encode(kept)))
            self._kept, self._until_stop = kept, request.until_stop
            self._withheld |= kept.force
            logger.warning("%s", described(kept))
            self._watch_the_end()
            await self._move("on", lambda leaving: self._leave(leaving, kept))

    async def _end(self, timed: Kept | None = None) -> None:
        """Ends maintenance. `timed`: the one whose time is over; nothing if that has ended."""
        async with self._changing:
            if timed is not None and self._kept is not timed:
                return
            if self._kept is None:
                if self._progress is not None and self._progress.phase == "failed":
                    await self._move("off", self._come_back)  # again
                    return
                raise ControlError("maintenance: off: this host is not in maintenance")
            if not self._until_stop:
                await self._write(self._forget)
            self._kept, self._until_stop = None, False
            if self._ending is not None:
                self._ending.cancel()
                self._ending = None
            logger.warning("the maintenance is over")
            await self._move("off", self._come_back)

    async def _leave(self, leaving: Leaving, kept: Kept) -> None:
        await leaving.leave(force=kept.force, withheld=self._withheld)
        self._withheld = kept.force
        made = leaving.progress
        logger.log(
            logging.ERROR if made.failed else logging.WARNING,
            "in maintenance: %d of %d given up in %.1f s, %d taken back, %d not tried",
            made.given,
            made.masters,
            made.seconds,
            made.taken_back_count,
            made.not_tried,
        )

    async def _come_back(self, leaving: Leaving) -> None:
        await leaving.come_back(withheld=self._withheld)
        self._withheld = False

    async def _move(self, action: str, way: Callable[[Leaving], Coroutine[Any, Any, None]]) -> None:
        """Begins the way there or back, in place of the one under way."""
        if self._moving is not None and not self._moving.done():
            self._moving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._moving
        self._progress = made = MaintenanceProgress()
        leaving = Leaving(self._hosts, self._orders, self._snapshots, lambda: self.rate, made)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def moving() -> None:
            self._moving = asyncio.current_task()
            begun.set_result(None)
            try:
                await way(leaving)
            except Exception as error:  # a command that waits has to be told
                logger.exception("maintenance %s failed in phase %s", action, made.phase)
                made.phase, made.reason = "failed", str(error) or type(error).__name__

        self._run(moving())
        await begun

    # -- the end of its time

    def _watch_the_end(self) -> None:
        kept = self._kept
        if kept is None or kept.until is None:
            return
        left_s = kept.until - self._clock()
        if left_s <= 0:
            self._run(self._end_by_time(kept))
            return
        loop = asyncio.get_running_loop()
        self._ending = loop.call_later(min(left_s, CLOCK_S), self._watch_the_end)

    async def _end_by_time(self, kept: Kept) -> None:
        logger.warning("the time of the maintenance is over")
        try:
            await self._end(kept)
        except ControlError as error:
            logger.error("%s; tried again in %g s", error, CLOCK_S)
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(CLOCK_S, self._watch_the_end)

    # -- what is on the disk

    async def _write(self, write: Callable[[], None]) -> None:
        """Raises ControlError if the disk does not have it."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._worker, write)
        except OSError as error:
            text = f"{self._path}: {error.strerror}; nothing was changed"
            raise ControlError(f"maintenance: cannot be written down: {text}") from error

    def _keep(self, content: bytes) -> None:
        if self._path is not None:
            replace_file(self._path, content)

    def _forget(self) -> None:
        if self._path is not None:
            remove_file(self._path)

    # -- the plan

    async def _planned(self) -> list[PlannedUnit]:
        """What would be given up, by unit: changes nothing."""
        masters: Counter[Unit] = Counter()
        heard: Counter[Unit] = Counter()
        canaries: dict[Unit, str] = {}
        slots = [slot for slot, _ in self._hosts.used() if self._hosts.states[slot] == MASTER]
        async for copies in self._snapshots(slots):
            for slot, copy in copies:
                host = self._hosts.hosts[slot]
                if host is None:
                    continue
                unit = unit_of(host)
                masters[unit] += 1
                canaries.setdefault(unit, host.name)
                own = (copy.source, copy.source6)
                heard[unit] += any(
                    each.source not in own and each.advbase != RESIGNED for each in copy.peers
                )
        return [
            PlannedUnit(unit.interface, unit.group, count, heard[unit], canaries[unit])
            for unit, count in masters.items()
        ]


def instant(seconds: float) -> str:
    return rfc3339(int(seconds * 1000))


def described(kept: Kept) -> str:
    why = f" ({kept.reason})" if kept.reason else ""
    until = f", until {instant(kept.until)}" if kept.until is not None else ""
    force = ", forced" if kept.force else ""
    return f"in maintenance since {instant(kept.since)}{why}{until}{force}"
