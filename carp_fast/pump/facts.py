"""What the pump counts, as Python sees it."""

from __future__ import annotations

from typing import Literal

import msgspec


class PumpFacts(msgspec.Struct, frozen=True, gc=False):
    """What the pump has done since it was made.

    `frames`: received; `dropped`: by the kernel, since a socket was full; `latest_ns`: the longest
    that a turn came after its time; `reports_lost`: that found their ring full; `wake_tick_ns`:
    how often it looks while frames come; `scheduling`: what its thread got.
    """

    turns: int
    frames: int
    dropped: int
    latest_ns: int
    reports_lost: int
    wake_tick_ns: int
    scheduling: Literal["normal", "nice", "fifo"]
