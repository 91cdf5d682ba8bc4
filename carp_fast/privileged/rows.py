"""The table of programs as bytes, which a loader writes and the helper keeps. Imports little.

Must not know a configuration.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

FORMER_MAX = 2  # configurations: hooks of hosts that a reload removed may still wait

Place = tuple[str, str]


class Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A program: its path, what follows its place, and the places that it may get if it is a hook.

    `inherits`: as in Program.
    """

    path: str
    more: tuple[str, ...]
    hook: bool
    places: list[Place] = []
    inherits: bool = False


def encode(rows: list[Row]) -> bytes:
    """The table as bytes."""
    return msgspec.msgpack.encode(rows)


def decode(table: bytes) -> list[Row]:
    """The table in these bytes. Raises msgspec.MsgspecError."""
    return msgspec.msgpack.decode(table, type=list[Row])


class Tables:
    """The tables of the configuration that was read last, and of the last ones that were applied.

    By number. Of those that were applied, FORMER_MAX are kept besides the last.
    """

    def __init__(self) -> None:
        self._rows: dict[int, list[Row]] = {}
        self._places: dict[int, dict[tuple[str, tuple[str, ...]], frozenset[str]]] = {}
        self._applied: list[int] = []

    def keep(self, number: int, found: list[Row]) -> None:
        """Keeps a table; one that was read before and not applied is forgotten."""
        self._forget(self._rows.keys() - self._applied)
        self._rows[number] = found
        self._places[number] = {
            (row.path, row.more): frozenset(map("\0".join, row.places)) for row in found if row.hook
        }
        for row in found:
            row.places = []

    def apply(self, number: int) -> None:
        """Takes note that the daemon runs a configuration now; does nothing for an unknown one."""
        if number in self._rows and number not in self._applied:
            self._applied.append(number)
            self._forget(self._applied[: -1 - FORMER_MAX])
            del self._applied[: -1 - FORMER_MAX]

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            del self._rows[number], self._places[number]

    def row(self, number: int, program: int) -> Row | None:
        """A program by its numbers; None if there is none."""
        found = self._rows.get(number, [])
        return found[program] if program < len(found) else None

    def allows(self, row: Row, place: Place | None) -> bool:
        """Whether a program is configured with this place; None: without one."""
        if place is None or not row.hook:
            return place is None and not row.hook
        # A host that a reload removed is only in the table before.
        key, text = (row.path, row.more), "\0".join(place)
        return any(text in places.get(key, ()) for places in self._places.values())
