"""The table of cases: what the command lists and chooses, and what the documentation names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from carp_fast.lab.lab import LabTimeout
from tests.chaos.__main__ import chosen, row, summaries
from tests.chaos.case import CASES, PROGRAMS, Case, Outcome, Run, UnableError, play
from tests.chaos.cases import MODULES

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"

assert MODULES


def outcome(failing: bool, known: str = "", program: str = "carp-fast") -> Outcome:
    def body(run: Run) -> None:
        run.figure("silence", 3.25 + run.seed, "s")
        run.require(not failing, "two masters")

    one = Case("made", body, "It is made.", quick=False, programs=PROGRAMS, known=known)
    return play(one, Run("made", seed=1, seconds=1.0, program=program))


@pytest.mark.parametrize(
    ("failing", "known", "word", "passed"),
    [
        (False, "", "ok", True),
        (True, "", "FAILED", False),
        (True, "a reason", "known", True),
        (False, "a reason", "FIXED", False),
    ],
)
def test_a_case_fails_when_it_is_not_as_marked(
    failing: bool, known: str, word: str, passed: bool
) -> None:
    made = outcome(failing, known)
    assert (made.word, made.passed) == (word, passed)
    assert word in row(made)
    assert "silence 4.25 s" in row(made)


def test_an_exception_of_a_case_is_a_failure_of_it() -> None:
    def body(run: Run) -> None:
        raise LabTimeout("not within 5 s: a master")

    made = play(Case("made", body, "It.", False, PROGRAMS, ""), Run("made", 1, 1.0))
    assert made.word == "FAILED"
    assert "not within 5 s: a master" in made.run.failures[0]


def test_a_case_that_the_machine_cannot_play_names_what_it_lacks() -> None:
    def body(run: Run) -> None:
        raise UnableError("the queueing discipline tbf")

    made = play(Case("made", body, "It.", False, PROGRAMS, ""), Run("made", 1, 1.0))
    assert (made.word, made.passed) == ("unable", True)
    assert "the queueing discipline tbf" in row(made)


def test_other_programs_are_measured() -> None:
    assert outcome(False, program="ucarp").word == "measured"


def test_repeats_are_summarized() -> None:
    def body(run: Run) -> None:
        run.figure("silence", float(run.seed), "s")

    one = Case("made", body, "It.", False, PROGRAMS, "")
    outcomes = [play(one, Run("made", seed, 1.0)) for seed in (1, 2, 6)]
    (line,) = summaries(outcomes)
    assert "3 runs  silence 2 (1 to 6) s" in line


def test_cases_are_chosen_by_name_or_pattern() -> None:
    assert chosen("kill") == ["kill"]
    assert chosen("loss_*, kill") == [
        name for name in CASES if name == "kill" or name.startswith("loss_")
    ]
    assert chosen("*") == list(CASES)
    with pytest.raises(SystemExit, match="no case is named killl"):
        chosen("killl")


def test_the_documentation_names_every_case_and_no_other() -> None:
    cells = re.findall(r"^\|([^|]+)\|", DOCUMENT.read_text(), re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([a-z0-9_]+)`", cell)}
    assert named == set(CASES)


def test_the_documentation_names_what_is_known_to_fail() -> None:
    _, _, failing = DOCUMENT.read_text().partition("## What fails")
    assert {name for name, each in CASES.items() if each.known} <= set(
        re.findall(r"`(\w+)`", failing)
    )
