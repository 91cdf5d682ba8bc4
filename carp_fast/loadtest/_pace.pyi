"""When each frame of a flood is due, and how well the sender kept to it."""

from collections.abc import Iterable

from typing_extensions import disjoint_base

from carp_fast.loadtest._frames import Recording

RATE_MAX: float

@disjoint_base
class Pace:
    def __init__(
        self,
        rate: float | None = None,
        *,
        rate_end: float | None = None,
        ramp_s: float = 0,
        burst: int = 0,
        burst_gap_s: float = 0,
        recorded: Recording | None = None,
        speed: float = 1,
    ) -> None: ...
    @property
    def unpaced(self) -> bool: ...
    def take(self) -> int: ...

def judge_gaps(instants: Iterable[tuple[int, int]]) -> dict[str, int]: ...
