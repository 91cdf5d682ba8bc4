"""The counters of the pump."""

from __future__ import annotations

from typing import Literal

import msgspec


class PumpFacts(msgspec.Struct, frozen=True, gc=False):
    """Counters of the pump since it was made.

    `frames`: received; `dropped`: by the kernel because a socket was full; `latest_ns`: the longest
    delay of a turn; `reports_lost`: because their ring was full; `wake_tick_ns`: the time between
    turns while frames arrive; `scheduling`: that of its thread; `clones`: frames sent as clones;
    `clone_runs_failed`: runs of their program that failed, whose frames the packet socket sent;
    `refused_by_filter`: frames that the filters of rings refused, which are not in `frames`.
    """

    turns: int
    frames: int
    dropped: int
    latest_ns: int
    reports_lost: int
    wake_tick_ns: int
    scheduling: Literal["normal", "nice", "fifo"]
    clones: int = 0
    clone_runs_failed: int = 0
    refused_by_filter: int = 0
