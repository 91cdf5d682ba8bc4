"""The machine's own delay: how late it runs a thread that wants to run.

Timings of a lab hold only as well as the machine keeps its own appointments, so every limit of the
oracles grows by what is measured here.
"""

from __future__ import annotations

import threading
import time

from carp_fast.closing import Closing

EVERY_S = 0.005


class Delay(Closing):
    """Measures until closed; a context manager."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def begin(self) -> None:
        """Forgets what was measured so far."""
        self.worst_s = 0.0

    def _run(self) -> None:
        while not self._stopping.is_set():
            began_at = time.monotonic()
            time.sleep(EVERY_S)
            self.worst_s = max(self.worst_s, time.monotonic() - began_at - EVERY_S)
