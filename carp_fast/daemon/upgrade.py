"""The command `upgrade`: one at a time, with reloads held back meanwhile, answered as the last act.

Must not know the phases (upgrading), nor how a successor's process is started.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from carp_fast import __version__
from carp_fast.control.documents import Upgraded
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import UpgradeRequest
from carp_fast.daemon.upgrade_messages import UpgradeError
from carp_fast.daemon.upgrading import Predecessor, Start, Upgrading

if TYPE_CHECKING:
    from carp_fast.daemon.reloader import Reloader
    from carp_fast.daemon.systemd import Systemd

logger = logging.getLogger(__name__)


class UpgradeCommand:
    """Answers requests for an upgrade. `start`: starts a successor's process."""

    def __init__(
        self,
        predecessor: Predecessor,
        start: Start,
        *,
        reloader: Reloader,
        systemd: Systemd,
        stopping: Callable[[], bool],
    ) -> None:
        self._predecessor = predecessor
        self._start = start
        self._reloader = reloader
        self._systemd = systemd
        self._stopping = stopping
        self._upgrading: Upgrading | None = None
        self._task: asyncio.Task[object] | None = None

    @property
    def committed(self) -> bool:
        """Whether another process is the daemon now."""
        return self._upgrading is not None and self._upgrading.committed

    async def answer(self, request: UpgradeRequest) -> Upgraded:
        """Has the installed version take over; returns when it has, and this process ends.

        Raises ControlError: nothing has changed.
        """
        if self._stopping():
            raise ControlError("the daemon is starting or ending")
        if self._upgrading is not None:
            raise ControlError(f"upgrade: one is under way already, in {self._upgrading.phase}")
        self._upgrading = upgrading = Upgrading(self._predecessor, self._start)
        self._task = asyncio.current_task()
        try:
            async with self._reloader.held_back("an upgrade is under way"):
                return await self._upgraded(upgrading)
        finally:
            self._task = None
            if not upgrading.committed:
                self._upgrading = None

    async def _upgraded(self, upgrading: Upgrading) -> Upgraded:
        self._systemd.reloading()
        logger.info("upgrade: a successor is started")
        why = ""
        try:
            done = await upgrading.run()
        except UpgradeError as error:
            why = str(error)
            for fault in error.faults:
                logger.error("upgrade: %s", fault)
            logger.error("upgrade: nothing was changed, this process goes on: %s", why)
            raise ControlError(f"upgrade: {why}; the daemon goes on", error.faults) from error
        except BaseException as error:
            why = f"interrupted: {type(error).__name__}"
            raise
        finally:
            if not upgrading.committed:
                self._systemd.ready(f"the last upgrade changed nothing: {why}")
        logger.info(
            "upgrade: carp-fast %s (pid %d) goes on, this process ends", done.version, done.pid
        )
        return Upgraded(
            ok=True,
            pid=done.pid,
            version=done.version,
            from_version=__version__,
            seconds=round(done.seconds, 3),
            still_s=round(done.still_s, 6),
        )

    async def abort(self) -> None:
        """Ends an upgrade that is not committed, since the daemon is to end; then it goes on."""
        task = self._task
        if task is not None and not self.committed:
            task.cancel()
            await asyncio.wait([task])
