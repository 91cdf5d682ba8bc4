"""The rules for tests: who may import whom. What tests share is in tests/support alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benches").rglob("*.py")])
# Where the modules are that others import: helpers, mutants, fuzzers, cases of chaos, benchmarks'.
ROOTS = ("tests.support", "tests.simulation", "tests.fuzz", "tests.chaos", "benches")
LOCAL = {path.stem for path in FILES} | {
    path.name for path in (ROOT / "tests").iterdir() if path.is_dir()
}


def imported(text: str) -> set[str]:
    """Every module that a source imports; what comes from a package counts as a module of it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def refused(text: str) -> set[str]:
    """Imports of test modules, and of helpers by another root than the repository's."""
    return {
        name
        for name in imported(text)
        if name.startswith(".")
        or any(part.startswith("test_") for part in name.split("."))
        or (
            name.split(".")[0] in {"tests", *LOCAL}
            and not any(name == root or name.startswith(f"{root}.") for root in ROOTS)
        )
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_test_imports_helpers_from_their_root_and_no_other_test(path: Path) -> None:
    assert refused(path.read_text()) == set()


@pytest.mark.parametrize(
    "line",
    [
        "from tests.unit.test_vectors import VECTORS",
        "from tests.unit import test_vectors",
        "import test_lab",
        "from unit.segment import ip",
        "import segment",
        "from .segment import ip",
        "from tests import conftest",
    ],
)
def test_that_rule_refuses_what_it_should(line: str) -> None:
    assert refused(line)


def test_helpers_hold_no_tests() -> None:
    for path in (ROOT / "tests" / "support").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert not node.name.lower().startswith("test"), f"{path.name}: {node.name}"
