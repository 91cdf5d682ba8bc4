"""Each mutant fits the sources as they are: a run of all takes long, and a misfit would end it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.mutant import Mutant
from tests.simulation.mutants import MUTANTS

TESTS = Path(__file__).parent.parent
SOURCES = TESTS.parent / "src" / "carp_fast"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_what_stands_once_in_its_file(mutant: Mutant) -> None:
    for name, old, new in mutant.changes:
        assert (SOURCES / name).read_text().count(old) == 1
        assert old != new


def test_the_tests_that_a_mutant_names_exist() -> None:
    for mutant in MUTANTS:
        for name in mutant.caught_by:
            file, _, test = name.partition("::")
            assert f"def {test.partition('[')[0]}(" in (TESTS / file).read_text(), mutant.name


def test_no_two_mutants_have_one_name() -> None:
    assert [name for name, count in Counter(m.name for m in MUTANTS).items() if count > 1] == []
