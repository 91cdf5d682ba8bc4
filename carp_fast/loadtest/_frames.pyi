"""Sources of a flood's frames: the interface of all makers of frames, and a recording."""

from collections.abc import Sequence

from typing_extensions import disjoint_base

FRAME_BYTES_MAX: int
RECORDED_FRAMES_MAX: int

@disjoint_base
class FrameSource:
    @property
    def kinds(self) -> tuple[str, ...]: ...
    @property
    def longest(self) -> int: ...
    @property
    def stamped(self) -> int: ...
    def take(self) -> tuple[str, bytes] | None: ...

@disjoint_base
class Recording(FrameSource):
    def __init__(self, frames: Sequence[tuple[int, bytes]], times: int = 1) -> None: ...
    @property
    def frames(self) -> int: ...
    @property
    def times(self) -> int: ...
    @property
    def gap_ns(self) -> int: ...
