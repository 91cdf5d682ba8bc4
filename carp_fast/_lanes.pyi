"""The lanes in which frames are received: by their words, and judged for tests. Times in ns."""

from typing import Self

from typing_extensions import disjoint_base

LANE_WORDS: tuple[str, ...]
COVERAGE_WORDS: tuple[str, ...]

@disjoint_base
class LaneJudge:
    def __new__(cls, coverage: str, sorting: bool = True) -> Self: ...
    def proves_nothing(self, lane: str, now_ns: int) -> bool: ...
    def heard_until(self, genuine_ns: int, common_ns: int, now_ns: int) -> int: ...
    def finds(
        self, frame: bytes, now_ns: int, interface: int = 0, genuine: bool = True
    ) -> bool: ...
    def begin_turn(self) -> None: ...
