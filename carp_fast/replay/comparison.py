"""Compares the decisions of a scenario with those that an engine has made of its inputs.

Must not know how they were made.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from carp_fast.replay.player import Output
from carp_fast.replay.scenario import SECOND_NS, Line, Scenario, seconds_text

# How far apart equal decisions may be in a recording and now. Addresses are changed in batches, and
# the recorded time is that of the kernel's answer.
DECIDED_APART_NS = 50_000_000
CARRIED_OUT_APART_NS = 2 * SECOND_NS
CHANGED = ("ADD_ADDRESSES", "REMOVE_ADDRESSES", "ADD_ROUTES", "REMOVE_ROUTES")
ANNOUNCED = ("ANNOUNCE",)
CARRIED_OUT = (*CHANGED, *ANNOUNCED)


class Row(NamedTuple):
    """A decision as recorded and as made now; None if there is no such decision."""

    at_ns: int
    name: str
    recorded: str | None
    now: str | None
    now_ns: int | None
    same: bool


def compare(scenario: Scenario, outputs: Iterable[Output]) -> Iterator[Row]:
    """Compares each decision of the scenario with the next one of the same host now.

    In a recording, what the kernel has carried out may come after later decisions: changes of
    addresses are compared on their own. So are announcements: one that is repeated may leave while
    the kernel has not answered to a change that is tried again. Rows are in the order of the
    scenario, followed by decisions that it does not have.
    """
    alone = next(iter(host["name"] for host in scenario.hosts)) if len(scenario.hosts) == 1 else ""
    made: dict[tuple[str, tuple[str, ...]], deque[Output]] = defaultdict(deque)
    for output in outputs:
        made[output.name, _compared_with(scenario, output.text.split()[0])].append(output)
    for line in scenario.lines:
        if line.output:
            name = line.name or alone
            those = made[name, _compared_with(scenario, line.words[0])]
            now = those.popleft() if those else None
            same = now is not None and _is_same(scenario, line, now)
            yield Row(
                line.at_ns, name, line.text, now.text if now else None,
                now.at_ns if now else None, same,
            )  # fmt: skip
    for output in sorted((each for left in made.values() for each in left), key=lambda o: o.at_ns):
        yield Row(output.at_ns, output.name, None, output.text, output.at_ns, False)


def _compared_with(scenario: Scenario, word: str) -> tuple[str, ...]:
    """The words of the decisions among which one keeps its order; () are all others."""
    kinds = (CHANGED, ANNOUNCED) if scenario.turns else ()
    return next((kind for kind in kinds if word in kind), ())


def _is_same(scenario: Scenario, line: Line, now: Output) -> bool:
    if now.text != line.text:
        return False
    if not scenario.turns:
        return seconds_text(now.at_ns, line.digits) == seconds_text(line.at_ns, line.digits)
    apart_ns = CARRIED_OUT_APART_NS if line.words[0] in CARRIED_OUT else DECIDED_APART_NS
    return abs(now.at_ns - line.at_ns) <= apart_ns
