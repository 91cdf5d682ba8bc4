"""What benchmarks beside another way have in common: the fixture's type, the best run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

SideBySide = Callable[[Callable[[], Any], str, Callable[[], Any], int], None]


def best_ns(benchmark: BenchmarkFixture) -> float:
    """The best run of a benchmark that has been run."""
    assert benchmark.stats is not None
    return float(benchmark.stats.stats.min) * 1e9
