"""Benchmarks that stand beside another way to do the same, and the ratios that compare them.

A ratio is how many times longer the other way takes, in the same run: it carries over from one
machine to the next where nanoseconds do not. Those of an earlier run are kept in baseline.json; a
run prints both, and fails only where a ratio fell to less than 1 / ALLOWED of what it was.
`pytest benches --update-baseline` stores the ratios of a run in place of the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.comparison import ALLOWED, SideBySide, best_ns, compared, repeat_ns

BASELINE = Path(__file__).parent / "baseline.json"
LINES = pytest.StashKey[list[str]]()
RATIOS = pytest.StashKey[dict[str, float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-baseline", action="store_true", help="store this run's ratios in baseline.json"
    )


@pytest.fixture
def side_by_side(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> SideBySide:
    """`side_by_side(ours, name, theirs, operations)`: measures both, notes how they compare.

    Each callable does `operations` operations. Of both the best run counts, in ns an operation;
    extra_info of the benchmark has ours_ns, theirs_ns, theirs and ratio (theirs to ours). Where
    ours was measured already, by `benchmark.pedantic` for one, `ours` is None.
    """

    def measure(
        ours: Callable[[], Any] | None,
        name: str,
        theirs: Callable[[], Any],
        operations: int,
        setup: Callable[[], Any] = lambda: None,
    ) -> None:
        if ours is not None:
            benchmark(ours)
        ours_ns = best_ns(benchmark) / operations
        theirs_ns = repeat_ns(theirs, setup) / operations
        ratio = theirs_ns / ours_ns
        benchmark.extra_info.update(
            ours_ns=ours_ns, theirs=name, theirs_ns=theirs_ns, ratio=ratio, operations=operations
        )
        request.config.stash.setdefault(RATIOS, {})[request.node.name] = ratio
        request.config.stash.setdefault(LINES, []).append(
            f"{request.node.name}: {ours_ns:,.0f} ns, {name} {theirs_ns:,.0f} ns: {ratio:.1f} times"
        )

    return measure


def baseline() -> dict[str, float]:
    found: dict[str, float] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    ratios = session.config.stash.get(RATIOS, {})
    if session.config.getoption("--update-baseline"):
        kept = {name: round(ratio, 2) for name, ratio in (baseline() | ratios).items()}
        BASELINE.write_text(json.dumps(kept, indent=2) + "\n")
    elif compared(ratios, baseline(), ALLOWED)[1] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section("best of each, per operation")
        for line in lines:
            terminalreporter.write_line(line)
    ratios = config.stash.get(RATIOS, {})
    if ratios:
        lines, fallen = compared(ratios, baseline(), ALLOWED)
        terminalreporter.section(f"ratios beside {BASELINE.name}")
        for line in lines:
            terminalreporter.write_line(line)
        for line in fallen:
            terminalreporter.write_line(f"FAILED {line}", red=True)
