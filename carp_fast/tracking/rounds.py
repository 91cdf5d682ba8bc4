"""Rounds: something that is tried again and again, spread over time among many.

Must not know what is tried.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator

FIRST_WITHIN_S = 0.5  # the first rounds of all are spread over this, or over their interval
_GOLDEN = 0.6180339887498949


def phases() -> Iterator[float]:
    """Numbers from 0 to 1, each as far from those before it as can be: the golden ratio's."""
    return (number * _GOLDEN % 1.0 for number in itertools.count(1))


_phases = phases()


class Rounds:
    """Calls `begin` soon, and from then on every `interval_s`; `phase` from 0 to 1.

    `begin` gets a function to call when the round has ended: the next one begins at its time, or
    then, if that is later. Rounds with different phases begin at different times.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval_s: float,
        begin: Callable[[Callable[[], None]], None],
        phase: float | None = None,
    ) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._begin = begin
        self._stopped = False
        phase = next(_phases) if phase is None else phase
        now = loop.time()
        first_at = now + phase * min(interval_s, FIRST_WITHIN_S)
        # At least half an interval after the first one.
        self._due_at = now + phase * interval_s
        while self._due_at < first_at + interval_s / 2:
            self._due_at += interval_s
        self._timer: asyncio.TimerHandle | None = loop.call_at(first_at, self._run)

    def stop(self) -> None:
        """Begins no further round; the end of the one under way has no effect."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        self._timer = None
        ended = False

        def end() -> None:
            nonlocal ended
            if ended or self._stopped:
                return
            ended = True
            now = self._loop.time()
            while self._due_at + self._interval_s < now:  # rounds that were missed
                self._due_at += self._interval_s
            self._timer = self._loop.call_at(max(self._due_at, now), self._run)
            self._due_at += self._interval_s

        self._begin(end)
