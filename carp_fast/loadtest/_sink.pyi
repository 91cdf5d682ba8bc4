"""The receiving end: passes frames of a packet socket to a tally."""

from typing import Self

from typing_extensions import disjoint_base

from carp_fast.loadtest._tally import Tally

@disjoint_base
class Sink:
    def __new__(cls, fd: int, tally: Tally) -> Self: ...
    def run(self, count: int = 0) -> None: ...
    def stop(self) -> None: ...
    @property
    def cpu_seconds(self) -> float: ...
