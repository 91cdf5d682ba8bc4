"""What benchmarks against another implementation share: the fixture's type, the best of runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from pytest_benchmark.fixture import BenchmarkFixture

REPEATS = 50
ALLOWED = 2.0  # a ratio may fall to one part in so many before a run fails
BUDGET_S = 3.0  # of the other implementation, which may take seconds for one run
LEAST = 3


class SideBySide(Protocol):
    """The fixture of that name in conftest.py."""

    def __call__(
        self,
        ours: Callable[[], Any] | None,
        name: str,
        theirs: Callable[[], Any],
        operations: int,
        setup: Callable[[], Any] = ...,
    ) -> None: ...


def best_ns(benchmark: BenchmarkFixture) -> float:
    """The best run of a benchmark that has been run."""
    assert benchmark.stats is not None
    return float(benchmark.stats.stats.min) * 1e9


def repeat_ns(work: Callable[[], Any], setup: Callable[[], Any] = lambda: None) -> int:
    """The best of REPEATS runs, or of as many as fit the budget, at least LEAST; without setup."""
    best: int | None = None
    end_at = time.monotonic() + BUDGET_S
    for done in range(REPEATS):
        if done >= LEAST and time.monotonic() > end_at:
            break
        setup()
        begun_ns = time.perf_counter_ns()
        work()
        took_ns = time.perf_counter_ns() - begun_ns
        best = took_ns if best is None else min(best, took_ns)
    assert best is not None
    return best


def compared(
    ratios: dict[str, float], baseline: dict[str, float], allowed: float
) -> tuple[list[str], list[str]]:
    """(a line for each ratio with the stored one, those that fell further than allowed)."""
    lines, fallen = [], []
    for name, ratio in ratios.items():
        stored = baseline.get(name)
        lines.append(f"{name}: {ratio:.1f} times" + (f", was {stored:.1f}" if stored else ", new"))
        if stored and ratio * allowed < stored:
            fallen.append(f"{name}: {ratio:.1f} times is less than {stored:.1f} / {allowed:g}")
    return lines, fallen
