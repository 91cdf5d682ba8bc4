"""Benchmarks that stand beside another way to do the same, and the lines that compare them."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Any

import pytest
from comparison import SideBySide, best_ns
from pytest_benchmark.fixture import BenchmarkFixture

REPEATS = 50
LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def side_by_side(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> SideBySide:
    """`side_by_side(ours, name, theirs, operations)`: measures both, notes how they compare.

    Each callable does `operations` operations. Of both the best run counts, in ns an operation;
    extra_info of the benchmark has ours_ns, theirs_ns, theirs and ratio (theirs to ours).
    """

    def measure(
        ours: Callable[[], Any], name: str, theirs: Callable[[], Any], operations: int
    ) -> None:
        benchmark(ours)
        ours_ns = best_ns(benchmark) / operations
        theirs_ns = min(timeit.repeat(theirs, number=1, repeat=REPEATS)) * 1e9 / operations
        ratio = theirs_ns / ours_ns
        benchmark.extra_info.update(
            ours_ns=ours_ns, theirs=name, theirs_ns=theirs_ns, ratio=ratio, operations=operations
        )
        request.config.stash.setdefault(LINES, []).append(
            f"{request.node.name}: {ours_ns:,.0f} ns, {name} {theirs_ns:,.0f} ns: {ratio:.1f} times"
        )

    return measure


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Notes a line for the summary, after the name of the benchmark."""

    def add(text: str) -> None:
        request.config.stash.setdefault(LINES, []).append(f"{request.node.name}: {text}")

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section("best of each, per operation")
        for line in lines:
            terminalreporter.write_line(line)
