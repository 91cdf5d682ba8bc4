"""Signals that arrive before there is anything to act on them.

A daemon that is still importing, or reading its configuration, has no loop yet, and most signals
end such a process. Must not import anything else of ours.
"""

from __future__ import annotations

import signal
from types import FrameType

_came: list[int] = []


def remember(*numbers: signal.Signals) -> None:
    """Has these signals remembered from now on, until something else handles them."""
    for number in numbers:
        signal.signal(number, _note)


def take_remembered() -> list[int]:
    """Returns the remembered signals, each once, in the order in which they came first."""
    taken = list(dict.fromkeys(_came))
    _came.clear()
    return taken


def _note(number: int, frame: FrameType | None) -> None:
    _came.append(number)
