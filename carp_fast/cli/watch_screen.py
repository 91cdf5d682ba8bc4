"""The screen of `carp-fast watch`: a view becomes lines of styled text that fit its terminal.

Pure: the same view gives the same lines. Must not know how a terminal shows a
style, nor what a key does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from carp_fast.cli import tables
from carp_fast.cli.tables import Column, Marks, columns, cut
from carp_fast.cli.watch_view import Page, Pane, Row, View, age
from carp_fast.control.overview import Overview

WIDTH_LEAST, HEIGHT_LEAST = tables.NARROWEST, 6
NOTICES_SHOWN = 3
PANE_LEAST = 2  # rows of a pane: its title, and one of its own
FILTER_SHOWN = 30  # characters of it in the last line

Span = tuple[str, str]  # a text, and the name of its style
Line = tuple[Span, ...]

TITLES: dict[Pane, str] = {
    "problems": "problems",
    "interfaces": "interfaces",
    "changes": "last changes",
}
COLUMNS: dict[Pane, list[Column]] = {
    "problems": columns(
        ("VIRTUAL HOST", "STATE", "FOR", "PROBLEM"),
        ("PROBLEM", "STATE", "FOR"),
        {"VIRTUAL HOST": 12, "PROBLEM": 20},
    ),
    "interfaces": columns(
        ("INTERFACE", "LINK", "HOSTS", "MASTER", "BACKUP", "INIT", "PROBLEMS", "CHANGED"),
        ("MASTER", "BACKUP", "INIT", "PROBLEMS", "HOSTS", "LINK", "CHANGED"),
        {"INTERFACE": 8},
    ),
    "changes": columns(
        ("TIME", "VIRTUAL HOST", "CHANGE", "REASON", "PEER"),
        ("CHANGE", "REASON", "TIME", "PEER"),
        {"VIRTUAL HOST": 12},
    ),
}
NUMBERS = frozenset({"HOSTS", "MASTER", "BACKUP", "INIT", "PROBLEMS"})
HEADED: tuple[Pane, ...] = ("interfaces",)
NONE: dict[Pane, str] = {
    "problems": "no virtual host has a problem",
    "interfaces": "no interface has virtual hosts",
    "changes": "no state has changed yet",
}


def screen(view: View, marks: Marks = tables.UNICODE) -> list[Line]:
    """The lines of the view's terminal, as many as it has."""
    width, height = view.width, view.height
    if width < WIDTH_LEAST or height < HEIGHT_LEAST:
        text = f"too small: {WIDTH_LEAST}x{HEIGHT_LEAST} at least"
        return _filled([_line(text, "", width, marks)], height)
    if view.page is not None:
        lines = _page(view, view.page, marks)
    else:
        lines = [_line(text, style, width, marks) for text, style in _head(view)][: height - 3]
        lines += _panes(view, height - 1 - len(lines), marks)
    return [*_filled(lines, height - 1), _footer(view, width, marks)]


def _filled(lines: Sequence[Line], height: int) -> list[Line]:
    return [*lines[:height], *[()] * (height - len(lines))]


def _line(text: str, style: str, width: int, marks: Marks) -> Line:
    return ((cut(printable(text), width, marks.cut), style),)


def printable(text: str) -> str:
    """A text without control characters, which would move the cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


# -- the head


def _head(view: View) -> Iterable[Span]:
    """Texts of the first lines, with their styles."""
    found = view.overview
    if found is None:
        yield "carp-fast watch", "bold"
        yield view.lost or "waiting for the daemon", "bad" if view.lost else ""
        return
    clock = found.at.partition("T")[2].partition(".")[0]
    now = datetime.fromisoformat(found.at)
    running = f"pid {found.pid}, running for {age(found.started_at, now)}"
    yield f"{found.host}  {clock} UTC  carp-fast {found.version}, {running}", "bold"
    if view.lost:
        yield f"{view.lost}; tried again every second, below is what it was at {clock}", "bad"
    yield _totals(found), ""
    for notice in found.notices[:NOTICES_SHOWN]:
        yield notice, "INIT"
    more = len(found.notices) - NOTICES_SHOWN
    if more > 0:
        yield f"... and {more} more; see carp-fast status", "INIT"


def _totals(found: Overview) -> str:
    totals = found.summary
    counts = f"{totals.master:,} MASTER, {totals.backup:,} BACKUP, {totals.init:,} INIT"
    return f"{totals.virtual_hosts:,} virtual hosts: {counts}"


# -- the panes


def _panes(view: View, room: int, marks: Marks) -> list[Line]:
    rows = {pane: view.rows(pane) for pane in TITLES}
    wanted = {
        pane: 1 + (len(found) + (pane in HEADED) if found else pane == view.pane)
        for pane, found in rows.items()
    }
    if room < len(TITLES) * PANE_LEAST:
        heights = {pane: room if pane == view.pane else 0 for pane in TITLES}
    else:
        heights = shared(wanted, room)
        heights["changes"] += room - sum(heights.values())
    lines: list[Line] = []
    for pane, height in heights.items():
        if height:
            lines += _filled(_pane(view, pane, rows[pane], height, marks), height)
    return lines


def shared(wanted: dict[Pane, int], room: int) -> dict[Pane, int]:
    """How many of `room` lines each gets: what it wants, or an equal share of what is left."""
    given: dict[Pane, int] = {}
    for number, (pane, want) in enumerate(sorted(wanted.items(), key=lambda item: item[1])):
        given[pane] = min(want, (room - sum(given.values())) // (len(wanted) - number))
    return {pane: given[pane] for pane in wanted}


def _pane(view: View, pane: Pane, rows: list[Row], height: int, marks: Marks) -> list[Line]:
    """A title, the names of columns where they are shown, and the rows that have room."""
    width = view.width
    lines = [_title(view, pane, len(rows), width, marks)]
    if not rows:
        hidden = bool(view.filter) and view.total(pane) > 0
        text = "nothing that the filter lets through" if hidden else NONE[pane]
        return [*lines, _line(f"  {text}", "dim", width, marks)]
    every, headed = COLUMNS[pane], pane in HEADED and height > PANE_LEAST
    cells = [tuple(map(printable, row.cells)) for row in rows]
    header = [column.name for column in every]
    natural = tables.widths_of([header, *cells] if headed else cells, [0] * len(every))
    widths = tables.fit(every, natural, width)
    if headed:
        lines.append(((_text(every, widths, header, width, marks), "dim"),))
    room = height - len(lines)
    selected = view.index(pane, rows)
    first = 0 if selected is None else max(0, min(selected - room // 2, len(rows) - room))
    for number in range(first, min(first + room, len(rows))):
        style = "selected" if number == selected and pane == view.pane else rows[number].style
        lines.append(((_text(every, widths, cells[number], width, marks), style),))
    return lines


def _text(
    every: Sequence[Column], widths: Sequence[int], row: Sequence[str], width: int, marks: Marks
) -> str:
    """A row; numbers are at the right of their columns."""
    aligned = [
        cell.rjust(room) if column.name in NUMBERS else cell
        for column, room, cell in zip(every, widths, row, strict=True)
    ]
    return cut(tables.row_text(every, widths, aligned, marks.cut), width, marks.cut)


def _title(view: View, pane: Pane, shown: int, width: int, marks: Marks) -> Line:
    total, found = view.total(pane), view.overview
    text = f"{TITLES[pane]}: {shown:,}" + (f" of {total:,}" if shown != total else "")
    if pane == "problems" and found is not None and found.problem_kinds:
        kinds = ", ".join(f"{count:,} {word}" for word, count in found.problem_kinds.items())
        text += f" ({kinds})"
    if pane == "interfaces":
        text += f", by {view.sort}"
    if pane == "changes" and view.unseen:
        text += f" ({view.unseen:,} more came too fast to be shown)"
    style = "active" if pane == view.pane else "title"
    text = cut(f"{marks.rule * 2} {text} ", width, marks.cut)
    return ((text.ljust(width, marks.rule), style),)


# -- a page, and the last line


def _page(view: View, page: Page, marks: Marks) -> list[Line]:
    """A title, and the part of the page that has room."""
    width = view.width
    title = f"{page.title} ({view.lost})" if view.lost else page.title
    title = cut(f"{marks.rule * 2} {printable(title)} ", width, marks.cut).ljust(width, marks.rule)
    head: Line = ((title, "bad" if view.lost else "active"),)
    if page.lines is None:
        return [head, _line("  asking the daemon", "dim", width, marks)]
    wrapped = page.wrapped(width)
    first = min(page.top, max(0, len(wrapped) - view.page_room))  # it may be shorter than before
    shown = wrapped[first : first + view.page_room]
    return [head, *(_line(line, "", width, marks) for line in shown)]


def _footer(view: View, width: int, marks: Marks) -> Line:
    if view.typed is not None:
        prompt = f"{view.typed.purpose}: {view.typed.text}"
        return ((printable(prompt)[-(width - 1) :] + "_", "bold"),)
    if view.note:
        return _line(view.note, "INIT", width, marks)
    if view.page is not None:
        keys = ["esc back", "up/down scroll", "q quit"]
    else:
        keys = ["q quit", "? help", "tab pane", "up/down select", "enter explain"]
        keys += ["/ filter", "s sort", "e explain IF/VHID"]
        if view.filter:
            shown = cut(printable(view.filter), FILTER_SHOWN, marks.cut)
            keys.insert(0, f"filter: {shown} (esc clears)")
    while len("  ".join(keys)) > width and len(keys) > 1:
        keys.pop()
    return _line("  ".join(keys), "dim", width, marks)
