"""Ctrl-C and SIGTERM during a load test: noted, so that its result is completed and printed.

Must not know what is tested.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

import click

LOOK_S = 0.1
"""The longest time after which a command looks whether it was interrupted."""
PATIENCE = 3
"""So many signals end the program without a result, should completing it take too long."""
EXIT_CODE = 130


class Interrupts:
    """Notes SIGINT and SIGTERM within its `with` block, where neither ends the program.

    A command looks at `came` at least every LOOK_S. An exception in the middle of anything would
    leave it half done: a thread that was not waited for, a count that is a batch short.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted += 1
        if self._noted >= PATIENCE:
            raise KeyboardInterrupt

    @property
    def came(self) -> bool:
        """A signal came since the beginning of the block."""
        return self._noted > 0

    def exit(self) -> None:
        """Ends the command with EXIT_CODE if a signal came; after the result was printed."""
        if self.came:
            raise click.exceptions.Exit(EXIT_CODE)


def marked(seconds: float) -> str:
    """The line that marks a result as partial."""
    return f"interrupted after {seconds:.1f} s: the result is partial"
