"""Tables and lines that fit a terminal: columns are shortened or left out, lines break at spaces.

Pure: takes texts and widths, returns texts. Must not know a terminal, a command, or what a cell
means.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

GAP = "  "  # between two columns
NARROWEST = 20  # columns of a terminal; a narrower one gets lines of this width


class Marks(NamedTuple):
    """What stands for a cut end, and the line below a header."""

    cut: str
    rule: str


UNICODE = Marks("…", "─")
ASCII = Marks("~", "-")


def cut(text: str, width: int, mark: str) -> str:
    """The beginning of a text with a mark at its end, if it is wider than `width`."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + mark


def cut_list(text: str, width: int, mark: str) -> str:
    """As many whole items of "a,b,c +2" as fit, and the number of the others: "a +4"."""
    if len(text) <= width:
        return text
    listed, _, more = text.partition(" +")
    items = listed.split(",")
    for shown in range(len(items) - 1, 0, -1):
        shorter = f"{','.join(items[:shown])} +{len(items) - shown + int(more or 0)}"
        if len(shorter) <= width:
            return shorter
    return cut(text, width, mark)


def cut_time(text: str, width: int, mark: str) -> str:
    """An RFC 3339 time without its date."""
    return cut(text if len(text) <= width else text.partition("T")[2], width, mark)


class Column(NamedTuple):
    """A column of a table.

    `rank`: the column with the highest is left out first, one with 0 never. `least`: its cells can
    be shortened to this width by `shorten` (text, width, mark); None if they cannot.
    """

    name: str
    rank: int = 0
    least: int | None = None
    shorten: Callable[[str, int, str], str] = cut


def columns(
    header: Iterable[str],
    importance: Sequence[str] = (),
    shortened: Mapping[str, int] | None = None,
    lists: Sequence[str] = (),
) -> list[Column]:
    """Columns by name: `importance` has those that may be left out, the most important first.

    `shortened`: the least width of each column whose cells may be shortened; `lists`: those whose
    cells have the form of cut_list().
    """
    ranks = {name: rank for rank, name in enumerate(importance, 1)}
    least = shortened or {}
    return [
        Column(name, ranks.get(name, 0), least.get(name), cut_list if name in lists else cut)
        for name in header
    ]


def fit(every: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """The widths of the columns that fit `room`, 0 for each that is left out.

    Cells are shortened, those of the least important column first; if that is not enough, the
    least important column is left out. Columns of width 0 stay so. What cannot be left out is cut
    at last, the widest first.
    """
    room = max(room, NARROWEST)
    shown = [number for number, width in enumerate(widths) if width]
    while True:
        given = {number: widths[number] for number in shown}
        excess = sum(given.values()) + len(GAP) * (len(shown) - 1) - room
        for number in sorted(shown, key=lambda each: (-every[each].rank, -each)):
            least = every[number].least
            if excess > 0 and least is not None:
                less = min(excess, max(given[number] - least, 0))
                given[number] -= less
                excess -= less
        if excess <= 0:
            break
        last = max(shown, key=lambda number: every[number].rank, default=0)
        if not every[last].rank:
            while excess > 0 and max(given.values()) > 1:
                given[max(given, key=lambda number: given[number])] -= 1
                excess -= 1
            break
        shown.remove(last)
    return [given.get(number, 0) for number in range(len(widths))]


def row_text(
    every: Sequence[Column], widths: Sequence[int], row: Sequence[str], mark: str = UNICODE.cut
) -> str:
    """A row with these widths; columns of width 0 are left out."""
    cells = [
        column.shorten(cell, width, mark).ljust(width)
        for column, width, cell in zip(every, widths, row, strict=True)
        if width
    ]
    return GAP.join(cells).rstrip()


def widths_of(rows: Iterable[Sequence[str]], before: Sequence[int]) -> list[int]:
    """The width of the widest cell of each column; at least those `before`."""
    widths = list(before)
    for row in rows:
        widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
    return widths


def left_out(every: Sequence[Column], natural: Sequence[int], widths: Sequence[int]) -> list[str]:
    """The names of columns that have cells and are not shown."""
    return [
        column.name
        for column, wanted, width in zip(every, natural, widths, strict=True)
        if wanted and not width
    ]


def wrapped(text: str, room: int) -> str:
    """Lines that fit `room`, broken at spaces; what continues a line is indented further.

    A word that is wider than `room` stays whole.
    """
    room = max(room, NARROWEST)
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= room:
            lines.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(
            line,
            room,
            subsequent_indent=indent,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


class Stream:
    """Rows that are printed as they come: each column is as wide as its widest cell so far.

    `room`: the width of the terminal, None for a pipe, where nothing is shortened or left out. The
    last column may be a sentence; on a terminal it is continued on further lines.
    """

    def __init__(self, every: Sequence[Column], room: int | None, mark: str = UNICODE.cut) -> None:
        self._columns = every
        self._room = room
        self._mark = mark
        self._widths = [0] * len(every)
        self.left_out: dict[str, None] = {}  # names, in the order in which they were left out

    def line(self, row: Sequence[str]) -> str:
        """The row as text."""
        *first, last = row
        self._widths = [*widths_of([first], self._widths[:-1]), self._columns[-1].least or 0]
        widths = self._widths
        if self._room is not None:
            widths = fit(self._columns, self._widths, self._room)
            self.left_out.update(dict.fromkeys(left_out(self._columns, self._widths, widths)))
        start = row_text(self._columns[:-1], widths[:-1], first, self._mark)
        used = sum(widths[:-1]) + len(GAP) * sum(1 for width in widths[:-1] if width)
        text = start.ljust(used) + last
        return text if self._room is None else wrapped(text, self._room)
