"""What tests of timing do about a busy machine: they measure its delays, or run before others.

Must not know what is timed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from carp_fast.closing import Closing

TICK_S = 0.01


class Delays(Closing):
    """Measures by how much a thread that asks for TICK_S of sleep is late, until closed."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []  # at, s; only delays of a tick and more
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delays", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def most_within(self, seconds: float) -> float:
        """The longest time that it was late, all told, in any `seconds`."""
        most = total = 0.0
        first = 0
        for at, late_s in self._late:
            total += late_s
            while self._late[first][0] < at - seconds:
                total -= self._late[first][1]
                first += 1
            most = max(most, total)
        return most

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stopping.wait(TICK_S):
            now = time.monotonic()
            if now - before > 2 * TICK_S:
                self._late.append((now, now - before - TICK_S))
            before = now


@contextmanager
def before_others() -> Iterator[None]:
    """Runs the calling thread, and what it starts meanwhile, before processes of normal priority.

    For tests that measure a network, not the machine. Changes nothing where the kernel forbids it.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)
