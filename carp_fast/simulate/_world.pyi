"""The simulator of a world. Times are in ns of the world's clock."""

from collections.abc import Iterable
from typing import Self

from typing_extensions import disjoint_base

from carp_fast.engine._prepared import PreparedHost

FAULT_WORDS: tuple[str, ...]
LINK_WORDS: tuple[str, ...]
PAUSE_WORDS: tuple[str, ...]
NIC_WORDS: tuple[str, ...]
BROKEN_WORDS: tuple[str, ...]
TRACE_WORDS: tuple[str, ...]
ORDER_WORDS: tuple[str, ...]
MAX_MACHINES: int
MAX_SEGMENTS: int
MAX_ADDRESSES: int
ALWAYS: int

# (at_ns, what, machine, segment, vhid, a, b)
_Event = tuple[int, str, int, int, int, int, int]

@disjoint_base
class Random:
    def __new__(cls, seed: int) -> Self: ...
    def below(self, bound: int) -> int: ...
    def between(self, low: int, high: int) -> int: ...

@disjoint_base
class Simulator:
    def __new__(
        cls,
        random: int,
        machines: int,
        segments: int,
        slots: int,
        *,
        socket_room: int = 4096,
        source_room: int = 2000,
        batch: int = 256,
        slices: int = 16,
        changes: int = 128,
        aligned: bool = False,
        tracing: bool = False,
    ) -> Self: ...
    def attach(
        self, machine: int, segment: int, source: bytes, source6: bytes, forwards6: bool = False
    ) -> None: ...
    def add(
        self,
        machine: int,
        slot: int,
        right: PreparedHost,
        other: PreparedHost,
        changed: PreparedHost | None = None,
        foreign: Iterable[int] = (),
    ) -> None: ...
    def fault(
        self,
        at_ns: int,
        word: str,
        *,
        machine: int = 0,
        other: int = 0,
        segment: int = 0,
        slot: int = 0,
        value: int = 0,
    ) -> None: ...
    def run(self, until_ns: int) -> bool: ...
    def check(self) -> bool: ...
    @property
    def quiet(self) -> bool: ...
    @property
    def now_ns(self) -> int: ...
    @property
    def digest(self) -> int: ...
    @property
    def broken(self) -> tuple[str, int, int | None, int] | None: ...
    @property
    def tally(self) -> dict[str, int]: ...
    def take_trace(self) -> list[_Event]: ...
