"""Remembers signals that arrive before the daemon can handle them.

A daemon that is still importing, or reading its configuration, has no loop yet, and most signals
end such a process. Must not import anything else of carp-fast.
"""

from __future__ import annotations

import signal
from types import FrameType

_came: list[int] = []


def remember(*numbers: signal.Signals) -> None:
    """Remembers these signals from now on, until something else handles them."""
    for number in numbers:
        signal.signal(number, _note)


def take_remembered() -> list[int]:
    """Returns the remembered signals, each once, in the order of their first arrival."""
    taken = list(dict.fromkeys(_came))
    _came.clear()
    return taken


def _note(number: int, frame: FrameType | None) -> None:
    _came.append(number)
