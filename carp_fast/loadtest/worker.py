"""A thread with one task, whose end is an event: an interrupted wait does not count as the end.

Up to Python 3.12 a Thread.join that a signal interrupts marks a running thread as ended, and who
joins it again goes on beside it. Must not know what the task is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Runs `task` once, in a daemon thread named `name`."""

    def __init__(self, name: str, task: Callable[[], None]) -> None:
        self._task = task
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        try:
            self._task()
        finally:
            self._ended.set()

    def start(self) -> None:
        self._thread.start()

    @property
    def running(self) -> bool:
        """It was started and has not ended."""
        return self._thread.ident is not None and not self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for the end of the task, None: however long it takes; True if it has ended.

        Returns False immediately if it was not started.
        """
        return self._ended.wait(timeout_s) if self._thread.ident is not None else False
