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
CARRIED_OUT = ("ADD_ADDRESSES", "REMOVE_ADDRESSES", "ADD_ROUTES", "REMOVE_ROUTES", "ANNOUNCE")


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

    In a recording, what the kernel has carried out may come after later decisions: it is compared
    on its own. Rows are in the order of the scenario, followed by decisions that it does not have.
    """
    alone = next(iter(host["name"] for host in scenario.hosts)) if len(scenario.hosts) == 1 else ""
    made: dict[tuple[str, bool], deque[Output]] = defaultdict(deque)
    for output in outputs:
        apart = scenario.turns and output.text.split()[0] in CARRIED_OUT
        made[output.name, apart].append(output)
    for line in scenario.lines:
        if line.output:
            name = line.name or alone
            those = made[name, scenario.turns and line.words[0] in CARRIED_OUT]
            now = those.popleft() if those else None
            same = now is not None and _is_same(scenario, line, now)
            yield Row(
                line.at_ns, name, line.text, now.text if now else None,
                now.at_ns if now else None, same,
            )  # fmt: skip
    for output in sorted((each for left in made.values() for each in left), key=lambda o: o.at_ns):
        yield Row(output.at_ns, output.name, None, output.text, output.at_ns, False)


def _is_same(scenario: Scenario, line: Line, now: Output) -> bool:
    if now.text != line.text:
        return False
    if not scenario.turns:
        return seconds_text(now.at_ns, line.digits) == seconds_text(line.at_ns, line.digits)
    apart_ns = CARRIED_OUT_APART_NS if line.words[0] in CARRIED_OUT else DECIDED_APART_NS
    return abs(now.at_ns - line.at_ns) <= apart_ns
