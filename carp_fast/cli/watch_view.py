"""What `carp-fast watch` shows and what its keys do to that: panes, selection, filter, sorting.

Pure: takes overviews and the names of keys. Must not know a terminal, the daemon's socket, or how
many rows have room.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from datetime import datetime
from typing import Literal, NamedTuple

from carp_fast.cli import tables
from carp_fast.control.documents import StateEvent
from carp_fast.control.overview import InterfaceTotals, Overview, Problem
from carp_fast.daemon.explain_words import in_two_units

CHANGES_KEPT = 500
PANES = ("problems", "interfaces", "changes")
SORTS = ("problems", "name", "master", "backup", "init", "changed")  # of interfaces
SERIOUS = ("second_master", "other_master", "bad_auth", "duplicate_source")
PAGE = 10  # rows that a page key moves by
KEYS = (
    ("q", "quits"),
    ("tab, shift-tab", "the next pane, the one before"),
    ("arrows, page up, page down, home, end", "select a row; up from the first one: none"),
    ("enter", "explains the virtual host; on an interface: shows what concerns it alone"),
    ("e", "explains a virtual host that is typed: eth0/7"),
    ("/", "filters all panes: rows with every word that is typed; esc ends that"),
    ("s, S", "sorts interfaces by the next key, the one before: " + ", ".join(SORTS)),
    ("?", "this help"),
)

Pane = Literal["problems", "interfaces", "changes"]
Quit = Literal["quit"]


class Explain(NamedTuple):
    """A virtual host that is to be explained."""

    interface: str
    vhid: int

    @property
    def name(self) -> str:
        """ "eth0/7"."""
        return f"{self.interface}/{self.vhid}"

    def labelled(self, name: str | None) -> str:
        """ "eth0/7 (web)" if it has a name."""
        return f"{self.name} ({name})" if name else self.name


class Row(NamedTuple):
    """A row of a pane; `key`: stays the same while the row moves; `host`: what enter explains."""

    key: str
    cells: tuple[str, ...]
    style: str
    host: Explain | None = None

    def matches(self, words: list[str]) -> bool:
        """Whether it has every word, in whatever case."""
        text = " ".join(self.cells).lower()
        return all(word in text for word in words)


class Page:
    """A text in place of the panes. `lines`: None until it is there."""

    def __init__(self, title: str, lines: list[str] | None, host: Explain | None = None) -> None:
        self.title = title
        self.lines = lines
        self.host = host
        self.top = 0

    def wrapped(self, width: int) -> list[str]:
        """Its lines on a terminal of this width."""
        return tables.wrapped("\n".join(self.lines or ()), width).split("\n")


class Typed(NamedTuple):
    """What is being typed, and for what."""

    purpose: Literal["filter", "explain"]
    text: str


class View:
    """Everything that is shown.

    `width` and `height`: of the terminal. `lost`: why the daemon does not answer, "" if it does;
    `note`: a line about the last key. `unseen`: changes that came faster than they were asked for.
    """

    def __init__(self, *, words: str = "", sort: str = SORTS[0]) -> None:
        self.width, self.height = 80, 24
        self.overview: Overview | None = None
        self.lost = ""
        self.note = ""
        self.unseen = 0
        self.pane: Pane = "interfaces"
        self.page: Page | None = None
        self.typed: Typed | None = None
        self.filter = words
        self.sort = sort
        self._changes: deque[Row] = deque(maxlen=CHANGES_KEPT)  # the newest first
        self._seen = 0  # changes of this daemon
        self._changed_at: dict[str, str] = {}  # by interface
        self._selected: dict[str, str] = {}  # keys of rows, by pane

    @property
    def page_room(self) -> int:
        """How many lines of a page are shown: one above is its title, the last one has keys."""
        return max(1, self.height - 2)

    # -- the daemon

    def take(self, overview: Overview) -> None:
        """Shows this one from now on."""
        before, self.overview, self.lost = self.overview, overview, ""
        if before is not None and before.pid == overview.pid:
            self.unseen += max(0, overview.changes - self._seen - len(overview.last))
            known = {each.name: each for each in before.interfaces}
            for each in overview.interfaces:
                if counts(each) != counts(known.get(each.name)):
                    self._changed_at[each.name] = overview.at
        for number, event in enumerate(overview.last, overview.changes - len(overview.last)):
            self._changes.appendleft(change_row(event, f"{overview.pid} {number}"))
            self._changed_at[event.interface] = event.at
        self._seen = overview.changes

    def explained(self, host: Explain, text: str) -> None:
        """Takes an explanation, or why there is none, if it is still wanted."""
        if self.page is not None and self.page.host == host:
            self.page.lines = text.split("\n")

    # -- rows

    def rows(self, pane: Pane) -> list[Row]:
        """The rows of a pane that the filter lets through, in order."""
        words = self.filter.lower().split()
        return [row for row in self._every(pane) if row.matches(words)]

    def total(self, pane: Pane) -> int:
        """How many rows there are without the filter."""
        if self.overview is None:
            return 0
        if pane == "problems":
            return self.overview.problem_hosts
        return len(self.overview.interfaces if pane == "interfaces" else self._changes)

    def _every(self, pane: Pane) -> Iterator[Row]:
        found = self.overview
        if found is None:
            return
        if pane == "changes":
            yield from self._changes
        elif pane == "problems":
            now, names = datetime.fromisoformat(found.at), Counter[str]()
            for problem in found.problems:
                row = problem_row(problem, now)
                names[row.key] += 1  # it may have another destination
                yield row._replace(key=f"{row.key} {names[row.key]}")
        else:
            now = datetime.fromisoformat(found.at)
            for each in sorted(found.interfaces, key=self._sort_key):
                yield interface_row(each, self._changed_at.get(each.name), now)

    def _sort_key(self, each: InterfaceTotals) -> tuple[object, ...]:
        name = natural(each.name)
        if self.sort == "problems":
            return (-each.problems, each.link == "up", name)
        if self.sort == "changed":
            return (not_before(self._changed_at.get(each.name, "")), name)
        if self.sort == "name":
            return (name,)
        return (-int(getattr(each, self.sort)), name)

    # -- selection

    def index(self, pane: Pane, rows: list[Row]) -> int | None:
        """The selected row of a pane; None: none is, or it is not there any more."""
        key = self._selected.get(pane)
        return next((number for number, row in enumerate(rows) if row.key == key), None)

    def _select(self, key: str) -> None:
        rows = self.rows(self.pane)
        at = self.index(self.pane, rows)
        last = len(rows) - 1
        moved = {
            "up": None if not at else at - 1,
            "down": 0 if at is None else at + 1,
            "pageup": 0 if at is None else max(at - PAGE, 0),
            "pagedown": PAGE - 1 if at is None else at + PAGE,
            "home": 0,
            "end": last,
        }[key]
        if moved is None or not rows:
            self._selected.pop(self.pane, None)
        else:
            self._selected[self.pane] = rows[min(moved, last)].key

    # -- keys

    def press(self, key: str) -> Quit | Explain | None:
        """Does what a key is for; returns what the caller has to do for it."""
        self.note = ""
        if self.typed is not None:
            return self._type(self.typed, key)
        if key == "q":
            return "quit"
        if self.page is None and key == "enter":
            return self._enter()
        if self.page is None:
            self._press(key)
        else:
            self._turn(self.page, key)
        return None

    def _press(self, key: str) -> None:
        if key in ("tab", "backtab"):
            step = 1 if key == "tab" else -1
            panes: tuple[Pane, ...] = ("problems", "interfaces", "changes")
            self.pane = panes[(panes.index(self.pane) + step) % len(panes)]
        elif key in ("up", "down", "pageup", "pagedown", "home", "end"):
            self._select(key)
        elif key in ("s", "S"):
            step = 1 if key == "s" else -1
            self.sort = SORTS[(SORTS.index(self.sort) + step) % len(SORTS)]
        elif key == "/":
            self.typed = Typed("filter", self.filter)
        elif key == "e":
            self.typed = Typed("explain", "")
        elif key == "escape":
            self.filter = ""
        elif key == "?":
            width = max(len(keys) for keys, _ in KEYS)
            self.page = Page("keys", [f"{keys:{width}}  {does}" for keys, does in KEYS])

    def _enter(self) -> Explain | None:
        rows = self.rows(self.pane)
        at = self.index(self.pane, rows)
        if at is None:
            self.note = "select a row with up and down first"
        elif (host := rows[at].host) is not None:
            return self._explain(host)
        else:
            self.filter = rows[at].cells[0]
        return None

    def _explain(self, host: Explain) -> Explain:
        self.page = Page(host.name, None, host)
        return host

    def _turn(self, page: Page, key: str) -> None:
        """Moves within a page, or leaves it."""
        last = max(0, len(page.wrapped(self.width)) - self.page_room)
        steps = {"up": -1, "down": 1, "pageup": -PAGE, "pagedown": PAGE, " ": PAGE}
        steps |= {"home": -last, "end": last}
        if key in steps:
            page.top = max(0, min(page.top + steps[key], last))
        elif key in ("escape", "enter", "?", "left", "backspace"):
            self.page = None

    def _type(self, typed: Typed, key: str) -> Explain | None:
        text = typed.text
        if key == "escape":
            self.typed = None
            if typed.purpose == "filter":
                self.filter = ""
        elif key == "enter":
            self.typed = None
            if typed.purpose == "explain":
                return self._explain_typed(text)
        elif key == "backspace" or len(key) == 1:
            text = text[:-1] if key == "backspace" else text + key
            self.typed = typed._replace(text=text)
            if typed.purpose == "filter":
                self.filter = text
        return None

    def _explain_typed(self, text: str) -> Explain | None:
        found = re.fullmatch(r"\s*(\S+?)(?:\s*/\s*|\s+)(\d{1,3})\s*", text)
        if found is None or not 1 <= int(found[2]) <= 255:
            self.note = f"{text!r}: must be an interface and a vhid, as eth0/7"
            return None
        return self._explain(Explain(found[1], int(found[2])))


def counts(each: InterfaceTotals | None) -> tuple[int, ...]:
    """What counts as a change of an interface."""
    return () if each is None else (each.virtual_hosts, each.master, each.backup, each.init)


def natural(name: str) -> list[tuple[str, int]]:
    """A key that sorts eth2 before eth10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def not_before(at: str) -> tuple[int, ...]:
    """A key that sorts later RFC 3339 times first."""
    return tuple(-ord(char) for char in at) or (0,)


def age(at: str, now: datetime) -> str:
    """The time since then in its two largest units."""
    return in_two_units((now - datetime.fromisoformat(at)).total_seconds())


def change_row(event: StateEvent, key: str) -> Row:
    """A change of state."""
    host = Explain(event.interface, event.vhid)
    state, before = event.state, event.previous
    change = state if state == before else f"{before} -> {state}"
    shown = host.labelled(event.name)
    cells = (event.at.partition("T")[2], shown, change, event.reason, event.peer or "")
    return Row(key, cells, state, host)


def problem_row(each: Problem, now: datetime) -> Row:
    """A virtual host that is not as configured."""
    host = Explain(each.interface, each.vhid)
    text = "; ".join(each.sentences)
    style = "bad" if text.startswith(SERIOUS) else "INIT"
    shown = host.labelled(each.name)
    return Row(host.name, (shown, each.state, age(each.since, now), text), style, host)


def interface_row(each: InterfaceTotals, changed_at: str | None, now: datetime) -> Row:
    """The totals of an interface."""
    numbers = (each.virtual_hosts, each.master, each.backup, each.init, each.problems)
    changed = "" if changed_at is None else f"{age(changed_at, now)} ago"
    style = "bad" if each.link != "up" else "INIT" if each.problems else ""
    cells = (each.name, each.link, *(f"{number:,}" for number in numbers), changed)
    return Row(each.name, cells, style)
