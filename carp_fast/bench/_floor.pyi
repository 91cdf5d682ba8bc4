"""The kernel floor: loops that only send or receive frames."""

from typing import Self

from typing_extensions import disjoint_base

@disjoint_base
class Mover:
    def __new__(cls, fd: int, tick_ns: int) -> Self: ...
    def stop(self) -> None: ...
    def send(
        self, ifindexes: list[int], frames: list[bytes], rate: float, seconds: float
    ) -> tuple[int, int, int]: ...
    def receive(self, seconds: float) -> tuple[int, int, int]: ...
