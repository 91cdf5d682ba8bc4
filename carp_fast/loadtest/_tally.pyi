"""Counts of received frames by verdict and flow. Addresses as 4 or 16 bytes."""

from collections.abc import Sequence
from typing import Any, Self

from typing_extensions import disjoint_base

from carp_fast.engine._wire import VERDICT_WORDS as VERDICT_WORDS

FLOW_LIMIT: int
COUNTER_WINDOW: int
OTHER_LIMIT: int
OTHER_WORDS: tuple[str, ...]

_Signer = tuple[int, bytes, bytes, bytes, bool]
_Flow = tuple[bytes, int, bytes, int | None, int, int, int, int, int, int, int, int, int, int]

@disjoint_base
class Tally:
    def __new__(
        cls, signers: Sequence[_Signer] = (), flows_max: int = ..., vlan: int | None = None
    ) -> Self: ...
    @property
    def frames(self) -> int: ...
    def receive(self, frame: bytes, at_ns: int = 0, vlan: int = 0) -> None: ...
    def facts(self) -> dict[str, Any]: ...
    def other_list(self) -> list[tuple[str, bytes, bytes, int | None, int | None, int]]: ...
    def flow_list(self) -> list[_Flow]: ...
