"""Benchmarks against another implementation, and the ratios of the two.

A ratio is how many times longer the other one takes, in the same run: unlike nanoseconds it can be
compared between machines. Those of an earlier run are kept in baseline.json; a run prints both, and
fails only if a ratio fell to less than 1 / ALLOWED of its former value.
`pytest benches --update-baseline` replaces the stored ratios by those of the run.
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
    """`side_by_side(ours, name, theirs, operations)`: measures both, stores their ratio.

    Each callable does `operations` operations. The best run of both counts, in ns per operation;
    extra_info of the benchmark has ours_ns, theirs_ns, theirs and ratio (theirs to ours). If ours
    was measured already, for example by `benchmark.pedantic`, `ours` is None.
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
        terminalreporter.section(f"ratios compared with {BASELINE.name}")
        for line in lines:
            terminalreporter.write_line(line)
        for line in fallen:
            terminalreporter.write_line(f"FAILED {line}", red=True)
