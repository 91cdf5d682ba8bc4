"""A successor that the helper has started, as the daemon that it succeeds sees it.

Must not know what a successor does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from carp_fast.privileged.messages import Exited, Failed
from carp_fast.programs.spawning import ChildError, ending


class RemoteSuccessor:
    """A successor's process, which is the helper's child.

    `begun` is done once it runs, and raises ChildError if it could not be started; `pid` is its
    number from then on. `kill_by_helper` has the helper send SIGKILL.
    """

    abandoned = False  # as a program may be

    def __init__(self, loop: asyncio.AbstractEventLoop, kill_by_helper: Callable[[], None]) -> None:
        self.pid = 0
        self.begun: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._kill_by_helper = kill_by_helper
        self._pidfd = -1
        self._gone = asyncio.Event()
        self._ending: asyncio.Future[str] = loop.create_future()

    def kill(self) -> None:
        """Sends SIGKILL, as far as this process and the helper may."""
        # Landlock may keep this process from it, and the helper may have ended.
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if not self._ending.done():
            self._kill_by_helper()

    async def ended(self) -> str:
        """Waits for its end; returns how it ended, in words."""
        await self._gone.wait()
        return await asyncio.shield(self._ending)

    def close(self) -> None:
        """Stops watching it."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def on_begun(self, pid: int, pidfd: int) -> None:
        """Handles that it runs. Takes the descriptor, which is readable once it has ended."""
        self.pid, self._pidfd = pid, pidfd
        self._loop.add_reader(pidfd, self._on_gone)
        if not self.begun.done():
            self.begun.set_result(None)

    def _on_gone(self) -> None:
        self.close()
        self._gone.set()

    def on_reply(self, reply: Exited | Failed) -> None:
        """Handles how it has ended, or that it could not be started."""
        if isinstance(reply, Failed):
            self.on_lost(ChildError(reply.text, reply.reason))
        else:
            self._ending.set_result(ending(reply.status))

    def on_lost(self, error: ChildError) -> None:
        """Handles that it could not be started, or that the helper has ended: it may go on."""
        if not self.begun.done():
            self.begun.set_exception(error)
        if not self._ending.done():
            self._ending.set_result(f"how is not known: {error.reason}")
