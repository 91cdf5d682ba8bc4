"""Overviews for tests of who shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carp_fast.control.documents import StateEvent, Summary
from carp_fast.control.overview import InterfaceTotals, Overview, Problem

AT = "2027-01-15T12:00:31.000Z"


def interface(name: str, master: int = 0, backup: int = 0, init: int = 0, **more: Any) -> Any:
    given = {"link": "up", "problems": init, **more}
    return InterfaceTotals(
        name, given["link"], master + backup + init, master, backup, init, given["problems"]
    )


def problem(name: str, sentence: str, state: Any = "INIT") -> Problem:
    interface, _, vhid = name.partition("/")
    return Problem(interface, int(vhid), state, "2027-01-15T11:58:00.000Z", [sentence])


def change(host: str, second: int, state: Any = "MASTER", **more: Any) -> StateEvent:
    interface, _, vhid = host.partition("/")
    given = {"previous": "BACKUP", "reason": "master_down", "peer": "192.0.2.2", **more}
    at = f"2027-01-15T12:00:{second:02d}.123Z"
    return StateEvent(at, interface, int(vhid), state, **given)


def overview(
    interfaces: Sequence[InterfaceTotals] = (),
    problems: Sequence[Problem] = (),
    last: Sequence[StateEvent] = (),
    **more: Any,
) -> Overview:
    """An overview whose totals are those of its interfaces, unless told otherwise."""
    kinds: dict[str, int] = {}
    for each in problems:
        word = each.sentences[0].partition(":")[0].partition(" ")[0]
        kinds[word] = kinds.get(word, 0) + 1
    sums = [
        sum(getattr(each, name) for each in interfaces)
        for name in ("virtual_hosts", "master", "backup", "init")
    ]
    given: dict[str, Any] = {
        "at": AT,
        "host": "alpha",
        "version": "0.1.0",
        "pid": 4711,
        "started_at": "2027-01-15T09:00:00.000Z",
        "notices": [],
        "summary": Summary(*sums),
        "problem_hosts": len(problems),
        "problem_kinds": kinds,
        "problems_at": AT,
        "changes": len(last),
        **more,
    }
    return Overview(interfaces=list(interfaces), problems=list(problems), last=list(last), **given)
