"""The stubs of the compiled modules say what is there: every name, every parameter."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import carp_fast
from carp_fast.engine._prepared import PreparedHost

PACKAGE = Path(carp_fast.__file__).parent
ALLOWED = Path(__file__).parent.parent / "stubs-allowed.txt"
DEADLINE_S = 120.0


def dotted(path: Path) -> str:
    """The name of a module's file within carp_fast: "package.module"."""
    return ".".join((*path.relative_to(PACKAGE).parts[:-1], path.name.partition(".")[0]))


COMPILED = sorted(map(dotted, PACKAGE.rglob("*.so")))
STUBBED = sorted(map(dotted, PACKAGE.rglob("*.pyi")))


def test_a_compiled_module_with_public_names_has_a_stub() -> None:
    assert {"engine._engine", "pump._pump"} <= set(COMPILED)
    public = {
        name
        for name in COMPILED
        if any(not word.startswith("_") for word in vars(importlib.import_module(full(name))))
    }
    assert sorted(public) == STUBBED


def test_the_stubs_agree_with_the_modules() -> None:
    pytest.importorskip("mypy", reason="needs mypy")
    options = ["--allowlist", str(ALLOWED), "--ignore-unused-allowlist"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", *options, *map(full, STUBBED)],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"no issues found in {len(STUBBED)} modules" in done.stdout


def test_the_parameters_of_a_prepared_host() -> None:
    """They have no signature to inspect; Cython embeds one in the first line of the docstring."""
    line = (PreparedHost.__doc__ or "").splitlines()[0]
    arguments = re.fullmatch(r"PreparedHost\((.*)\)", line)
    assert arguments is not None
    # Without the C types, it is Python: "bytes source=None" becomes "source=None".
    plain = re.sub(r"(^|, )\w+ (\w+)", r"\1\2", arguments[1])
    embedded = ast.parse(f"def f({plain}): ...").body[0]
    assert isinstance(embedded, ast.FunctionDef)
    stub = ast.parse((PACKAGE / "engine" / "_prepared.pyi").read_text())
    [declared] = (
        function
        for node in stub.body
        if isinstance(node, ast.ClassDef) and node.name == "PreparedHost"
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
    )
    assert defaults(declared.args) == defaults(embedded.args)


def defaults(arguments: ast.arguments) -> dict[str, str | None]:
    """Every parameter but self, with its default as source; all of them are keywords."""
    names = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
    given = [None] * (len(names) - len(arguments.kw_defaults)) + arguments.kw_defaults
    return {
        name: None if default is None else ast.unparse(default)
        for name, default in zip(names, given, strict=True)
        if name != "self"
    }


def full(name: str) -> str:
    return f"carp_fast.{name}"
