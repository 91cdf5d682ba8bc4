"""Starts what waits on the loop, without holding it up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

START_BUDGET_S = 0.002  # per turn of the loop, for starting programs; at least one is started


class Starting:
    """Starts programs in turns of the loop, as many in one as the budget allows.

    `may_start`: whether one waits and may run now; `start_next`: starts it, or drops it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        may_start: Callable[[], bool],
        start_next: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._may_start = may_start
        self._start_next = start_next
        self._due = False

    def soon(self) -> None:
        """Starts what may start in the next turn of the loop; nothing within this call."""
        if not self._due and self._may_start():
            self._due = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._due = False
        end_at = self._loop.time() + START_BUDGET_S
        while self._may_start():
            self._start_next()
            if self._loop.time() >= end_at:
                break
        self.soon()
