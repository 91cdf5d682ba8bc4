"""Which modules and which installation `python -m carp_fast` and its child processes use."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

import carp_fast
from carp_fast.lab.fleet import CARP_FAST

DEADLINE_S = 60.0
ROOT = Path(carp_fast.__file__).absolute().parent.parent
VERSION = f"carp-fast {carp_fast.__version__}\n"
WITHOUT_SAFE_PATH = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}


def run(*argv: str, cwd: Path, path: Iterable[Path] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=cwd,
        env={**WITHOUT_SAFE_PATH, "PYTHONPATH": ":".join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def sources_that_are_not_built(directory: Path) -> Path:
    """A checkout as a package that is found, but cannot be used."""
    package = directory / "checkout" / "carp_fast"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the sources were started')\n")
    return package.parent


def loaded_by_any_module(directory: Path) -> list[str]:
    """What Python itself imports before a module that is run with -m gets control."""
    empty = directory / "path" / "nothing"
    empty.mkdir(parents=True)
    (empty / "__init__.py").touch()
    (empty / "__main__.py").write_text("import sys\nprint(*sys.modules)\n")
    return run(sys.executable, "-m", "nothing", cwd=directory, path=[empty.parent]).stdout.split()


def test_nothing_is_imported_from_the_current_directory(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = [line.partition(">")[0].replace("-", "_") for line in project["dependencies"]]
    loaded = loaded_by_any_module(tmp_path)
    assert "sys" in loaded
    names = sorted({*sys.stdlib_module_names, *ours} - set(loaded))
    assert {"typing", "__future__", "click", "signal"} <= set(names)
    decoys = tmp_path / "decoys"
    decoys.mkdir()
    for name in names:
        (decoys / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    for arguments in (["--version"], ["ucarp", "--help"], ["run", "-c", "missing.toml"]):
        done = run(sys.executable, "-m", "carp_fast", *arguments, cwd=decoys, path=[ROOT])
        assert "was imported" not in done.stderr
    assert done.stderr == "missing.toml: cannot be read: No such file or directory\n"


def test_a_package_in_the_current_directory_runs_there() -> None:
    """As in a checkout that is built and that no venv knows."""
    words = ["simulate", "--seeds", "1-2", "--jobs", "2"]  # in processes of its own
    done = run(sys.executable, "-m", "carp_fast", *words, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("where", ["current directory", "search path"])
def test_child_processes_run_this_installation(where: str, tmp_path: Path) -> None:
    checkout = sources_that_are_not_built(tmp_path)
    path = [checkout] if where == "search path" else [ROOT]
    done = run(*CARP_FAST, "--version", cwd=checkout, path=path)
    assert (done.stdout, done.stderr) == (VERSION, "")
