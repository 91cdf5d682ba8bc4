"""What docs/security.md promises is measured: each test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
CASES = re.findall(r"`make chaos CASES=(\w+)`", TEXT)


def functions(path: Path) -> set[str]:
    """The functions at the top level of a module."""
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}


@pytest.mark.parametrize(("file", "function"), NAMED)
def test_a_test_that_is_named_exists(file: str, function: str) -> None:
    assert function.startswith("test_")
    assert function in functions(ROOT / file)


def test_a_case_of_chaos_that_is_named_exists() -> None:
    found = set().union(*(functions(path) for path in (ROOT / "tests/chaos").glob("*.py")))
    assert CASES
    assert set(CASES) <= found


@pytest.mark.parametrize("heading", ["What each attacker can do", "What each capability is for"])
def test_each_row_names_what_measures_it(heading: str) -> None:
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert rows
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`|`make chaos CASES=\w+`", row.split(" | ")[-1]), (
            row
        )


def test_every_test_of_attacks_is_named() -> None:
    file = "tests/integration/test_attacks.py"
    written = {name for name in functions(ROOT / file) if name.startswith("test_")}
    assert written == {function for named, function in NAMED if named == file}
