"""Sends the frames of a source when they are due: by sendmmsg, or as live frames."""

from typing import Any

from typing_extensions import disjoint_base

from carp_fast.loadtest._frames import FrameSource
from carp_fast.loadtest._pace import Pace
from carp_fast.loadtest.backends import Backend

LINK_LOST: tuple[int, ...]

@disjoint_base
class Flood:
    def __init__(
        self,
        source: FrameSource,
        backend: Backend,
        *,
        pace: Pace,
        duration_ns: int,
        count: int = 0,
        steady: bool = False,
    ) -> None: ...
    def stop(self) -> None: ...
    def run(self) -> None: ...
    def facts(self) -> dict[str, Any]: ...
