"""What `carp-fast watch` prints in a pipe: a line for each change of what the screen would show.

Pure: takes overviews, returns lines. Must not know where they go.
"""

from __future__ import annotations

from collections.abc import Iterator

from carp_fast.cli.events import state_line
from carp_fast.cli.watch_view import Explain, counts
from carp_fast.control.overview import InterfaceTotals, Overview, Problem

CHANGES_AT_ONCE = 100  # lines about changes of states in one overview; the others are counted


class Lines:
    """Compares each overview with the one before. `words`: a line has to have each of them."""

    def __init__(self, words: str = "") -> None:
        self._words = words.lower().split()
        self._before: Overview | None = None

    def of(self, overview: Overview) -> Iterator[str]:
        """The lines for this one: changes of states, then totals, then new problems."""
        before, self._before = self._before, overview
        for line in self._every(before, overview):
            if all(word in line.lower() for word in self._words):
                yield line

    def _every(self, before: Overview | None, now: Overview) -> Iterator[str]:
        if before is not None and before.pid != now.pid:
            yield f"{now.at} {now.host}: another process answers, pid {now.pid}"
        if before is not None:
            yield from self._changes(before, now)
        if before is None or totals(before) != totals(now):
            yield f"{now.at} {now.host}: {totals(now)}"
        known = {} if before is None else {each.name: each for each in before.interfaces}
        for each in now.interfaces:
            if facts(each) != facts(known.get(each.name)):
                yield f"{now.at} {each.name}: {interface_text(each)}"
        for notice in now.notices:
            if before is None or notice not in before.notices:
                yield f"{now.at} {now.host}: {notice}"
        named = set() if before is None else set(map(identity, before.problems))
        for problem in now.problems:
            if identity(problem) not in named:
                name = Explain(problem.interface, problem.vhid).labelled(problem.name)
                yield f"{now.at} problem of {name}: {'; '.join(problem.sentences)}"

    def _changes(self, before: Overview, now: Overview) -> Iterator[str]:
        shown = now.last[-CHANGES_AT_ONCE:]
        since = before.changes if before.pid == now.pid else 0
        more = now.changes - since - len(shown)
        if more > 0:
            yield f"{now.at} {now.host}: {more:,} more changes of states before the next line"
        yield from map(state_line, shown)


def totals(found: Overview) -> str:
    """The virtual hosts by state and problem."""
    all_of = found.summary
    text = (
        f"{all_of.virtual_hosts:,} virtual hosts: {all_of.master:,} MASTER,"
        f" {all_of.backup:,} BACKUP, {all_of.init:,} INIT"
    )
    kinds = ", ".join(f"{count:,} {word}" for word, count in found.problem_kinds.items())
    return f"{text}; problems: {kinds}" if kinds else text


def facts(each: InterfaceTotals | None) -> tuple[object, ...]:
    """What makes a line about an interface."""
    return () if each is None else (each.link, *counts(each))


def interface_text(each: InterfaceTotals) -> str:
    """The totals of an interface, and its link where it has none."""
    link = "" if each.link == "up" else f", link {each.link}"
    return (
        f"{each.virtual_hosts:,} virtual hosts: {each.master:,} MASTER, {each.backup:,} BACKUP,"
        f" {each.init:,} INIT{link}"
    )


def identity(problem: Problem) -> tuple[object, ...]:
    """What makes a problem another one: its sentences have times and numbers that change."""
    words = tuple(sentence.partition(":")[0] for sentence in problem.sentences)
    return problem.interface, problem.vhid, words
