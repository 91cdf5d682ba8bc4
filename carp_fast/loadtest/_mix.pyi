"""Frames of a load test: advertisements of virtual hosts, valid and invalid, announcements."""

from collections.abc import Mapping, Sequence

from typing_extensions import disjoint_base

from carp_fast.loadtest._frames import FrameSource

ORDER_WORDS: tuple[str, ...]
KIND_WORDS: tuple[str, ...]
FIELD_WORDS: tuple[str, ...]
FLOWS_MAX: int
WEIGHTS_MAX: int
VALUES_MAX: int

_Row = tuple[int, bytes, bytes, int | None, int, int, int, int]

@disjoint_base
class Mix(FrameSource):
    def __init__(
        self,
        streams: Sequence[tuple[int, bytes, bytes, bytes, bytes, bytes, bytes, int, int, int]],
        weights: Mapping[str, int],
        *,
        announcements: Sequence[tuple[bytes, bytes, bool]] = (),
        walks: Mapping[str, tuple[str, Sequence[int]]] | None = None,
        seed: int = 0,
        stamped: bool = False,
    ) -> None: ...
    def made(self) -> dict[str, int]: ...
    def sent_by(self) -> list[_Row]: ...
    def announces(self, mac: bytes, address: bytes, vlan: int | None = None) -> bool: ...
