"""The fuzzers' own machinery: a failing case is found again, shrunk, written and played."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

from tests.fuzz.cases import Case, Document, Failure, Journal, journalled, load, play, save
from tests.fuzz.runs import Run, report, shrunk


class Sum:
    """A world in which the sum of all steps must stay below a limit, and no step may be 13."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sum = 0
        self.features: set[str] = set()

    def take(self, step: Document) -> None:
        self.sum += step["add"]
        self.features.add(f"last digit {self.sum % 10}")
        if step["add"] == 13:
            raise Failure(f"unlucky: {self.sum}")

    def end(self) -> None:
        if self.sum >= self.limit:
            raise Failure(f"too much: {self.sum}")


class SumFuzzer:
    name: ClassVar[str] = "sum"
    seeds: ClassVar[int] = 100
    shrinking_s: ClassVar[float] = 60.0

    def __init__(self, highest: int) -> None:
        self.highest = highest

    def setup(self, random: Random) -> Document:
        return {"limit": 1_000}

    def world(self, setup: Document) -> Sum:
        return Sum(setup["limit"])

    def steps(self, random: Random, setup: Document, world: Sum) -> Iterator[Document]:
        for _ in range(50):
            yield {"add": random.randrange(1, self.highest)}

    def close(self) -> None:
        """Nothing is shared."""


def failed(fuzzer: SumFuzzer, seconds: float = 60.0) -> Case:
    case = Run(fuzzer, seconds).run(itertools.count(1)).failed
    assert case is not None
    return case


def test_a_failing_case_is_shrunk_to_the_step_that_fails() -> None:
    case = shrunk(SumFuzzer(20), failed(SumFuzzer(20)))
    assert (case.steps, case.failure) == ([{"add": 13}], "unlucky: 13")


def test_a_case_is_shrunk_to_another_that_fails_in_the_same_way() -> None:
    case = Case("sum", {"limit": 30}, [{"add": number} for number in range(1, 12)], 1)
    case.failure = play(SumFuzzer(12), case)
    fewer = shrunk(SumFuzzer(12), case)
    assert sum(step["add"] for step in fewer.steps) >= 30
    assert len(fewer.steps) < 6
    assert fewer.failure.startswith("too much: ")


def test_what_does_not_fail_again_is_reported_as_such() -> None:
    case = Case("sum", {"limit": 30}, [{"add": 1}], 1, "too much: 31")
    with pytest.raises(Failure, match="not the same when it is played again: no failure"):
        shrunk(SumFuzzer(12), case)


def test_a_seed_draws_the_same_each_time() -> None:
    assert failed(SumFuzzer(20)) == failed(SumFuzzer(20))


def test_an_exception_is_a_failure_with_its_traceback() -> None:
    failure = play(SumFuzzer(12), Case("sum", {"limit": 30}, [{"subtract": 1}]))
    assert failure.startswith("an exception\nTraceback ")
    assert failure.rstrip().endswith("KeyError: 'add'")


def test_a_run_ends_when_its_time_is_over() -> None:
    outcome = Run(SumFuzzer(12), 0.05).run(itertools.count(1))
    assert outcome.failed is None
    assert outcome.steps == 50 * outcome.worlds > 0


def test_cases_with_something_new_are_kept_and_played_first_next_time(tmp_path: Path) -> None:
    outcome = Run(SumFuzzer(12), 0.05, grown=tmp_path).run([1, 2, 3])
    assert 1 <= len(outcome.kept) <= 3
    assert set(outcome.features) == {f"last digit {digit}" for digit in range(10)}
    broken = load(outcome.kept[0])
    broken.setup["limit"] = 1
    save(broken, outcome.kept[0])
    case = Run(SumFuzzer(12), 60.0, corpus=[tmp_path]).run(itertools.count(1)).failed
    assert case is not None
    assert case.failure.startswith("too much: ")


def test_a_written_case_plays_the_same(tmp_path: Path) -> None:
    case = failed(SumFuzzer(20))
    path = tmp_path / "case.json"
    told = report(case, path)
    assert f"make fuzz REPLAY={path}" in told
    assert case.failure in told
    assert load(path) == case
    assert play(SumFuzzer(20), load(path)) == case.failure


def test_a_journal_holds_the_case_of_a_process_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    case = failed_with_journal(path)
    lines = path.read_bytes().splitlines(keepends=True)
    found = journalled(lines)
    assert found is not None
    assert (found.setup, found.steps, found.seed) == (case.setup, case.steps, case.seed)
    cut = journalled([*lines[:-1], lines[-1][:-2]])
    assert cut is not None
    assert cut.steps == case.steps[:-1]


def failed_with_journal(path: Path) -> Case:
    case = Run(SumFuzzer(20), 60.0, journal=path).run(itertools.count(1)).failed
    assert case is not None
    return case


def test_an_empty_journal_holds_no_case(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").close()
    assert journalled((tmp_path / "journal").read_bytes().splitlines(keepends=True)) is None
