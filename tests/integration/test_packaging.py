"""What users install: an sdist, the wheel made from it, `pip install` of the source tree.

Everything is built from a copy of the sources, so that no module compiled before can help, and
installed with its dependencies into venvs that hold nothing else. Compiled once, with the
setuptools and Cython of this environment and without optimization: what is in a package does not
depend on it; nor on who made the C from the Cython, so C that was made from these sources is used.
It takes so long that these tests begin before all others.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import carp_fast

ROOT = Path(__file__).parents[2]
BUILD_DEADLINE_S = 1200.0
COMMAND_DEADLINE_S = 60.0
SOURCES = sorted(path for path in (ROOT / "src" / "carp_fast").rglob("*") if path.is_file())
PYTHON_SOURCES = sorted((ROOT / "carp_fast").rglob("*.py"))
TEST_FILES = sorted(
    path
    for path in (ROOT / "tests").rglob("*")
    if path.is_file() and path.parent.name != "__pycache__"
)
COMPILED = sorted(
    ".".join(path.relative_to(ROOT / "src" / "carp_fast").with_suffix("").parts)
    for path in SOURCES
    if path.suffix == ".pyx"
)
MADE_OF_CYTHON = ROOT / "build" / "cython"
LATER = 2_000_000_000  # s; newer than the Cython that an isolated build installs
NOT_SOURCES = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")

pytestmark = pytest.mark.first

# What the sdist's own tests are, here: they need no root, and read most of what tests read.
OWN_TESTS = (
    "tests/scenarios",
    "tests/simulation/test_mutants.py",
    "tests/unit/test_documents.py",
    "tests/unit/test_readme.py",
    "tests/unit/test_vectors.py",
)
# It tells of files as they were, and this one names what is not there.
NO_POINTERS = {"CHANGELOG.md", Path(__file__).name}
POINTER = re.compile(
    r"""(?<![\w/:.-])(
        (?:docs|tests|src|benches|contrib)/[\w@./*-]*\.(?:md|pyx?|pxd|h|c|json|toml|txt|sh|svg|service)
        |[A-Za-z][\w-]*\.md
    )\b""",
    re.VERBOSE,
)


def pointers(text: str, markdown: bool = False) -> set[str]:
    """Files of the project that a text names: by their path, any *.md, and what Markdown links."""
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    return {*POINTER.findall(text), *(links if markdown else ())}


def finish(
    *command: str | Path,
    cwd: Path,
    deadline_s: float = BUILD_DEADLINE_S,
) -> str:
    """Runs a command that must succeed; gives its standard output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "CARP_FAST_CFLAGS": "-O0"},
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: what a fresh clone holds of the package."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("src", "carp_fast", "tests", "benches", "contrib", "docs", ".ci"):
        shutil.copytree(ROOT / name, tree / name, ignore=NOT_SOURCES)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    made = [
        (MADE_OF_CYTHON / path.relative_to(ROOT)).with_suffix(".c")
        for path in SOURCES
        if path.suffix == ".pyx"
    ]
    changed_at = max(path.stat().st_mtime for path in (*SOURCES, ROOT / "setup.py"))
    if all(path.exists() and path.stat().st_mtime > changed_at for path in made):
        shutil.copytree(MADE_OF_CYTHON, tree / MADE_OF_CYTHON.relative_to(ROOT))
        older_than_none(tree / "build")
    return tree


def older_than_none(build: Path) -> None:
    """Makes all files below newer than any source, so that none is made again."""
    for path in build.rglob("*"):
        os.utime(path, (LATER, LATER))


class Built(NamedTuple):
    """The packages, and what was compiled for the wheel, from the unpacked sdist."""

    sdist: Path
    wheel: Path
    objects: Path


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built once: where tests run in several processes, the others wait for the first one."""
    pytest.importorskip("build", reason="needs the package build")
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    made = common / "packages"
    with open(common / "packages.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            unfinished = tmp_path_factory.mktemp("dist")
            build = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={unfinished}"]
            finish(*build, "--sdist", cwd=tree)
            [sdist] = unfinished.glob("*.tar.gz")
            root = extracted(sdist, tmp_path_factory.mktemp("compiled"))
            (tree / "build").rename(root / "build")  # the C files, which are not in the sdist
            finish(*build, "--wheel", cwd=root)
            (root / "build").rename(unfinished / "build")
            unfinished.rename(made)
    [sdist], [wheel] = made.glob("*.tar.gz"), made.glob("*.whl")
    return Built(sdist, wheel, made / "build")


def extracted(sdist: Path, directory: Path) -> Path:
    """Unpacks an sdist into an empty directory; gives its only folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    [root] = directory.iterdir()
    return root


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist, with the modules that were compiled from it for the wheel in place."""
    root = extracted(built.sdist, tmp_path_factory.mktemp("sdist"))
    with zipfile.ZipFile(built.wheel) as archive_of_modules:
        for name in archive_of_modules.namelist():
            if name.endswith(".so"):
                archive_of_modules.extract(name, root)
    return root


def empty_venv(directory: Path) -> Path:
    """Makes a venv that holds pip alone; gives its bin directory."""
    finish(sys.executable, "-m", "venv", directory, cwd=directory.parent)
    return directory / "bin"


def try_installed(bin_directory: Path, cwd: Path, tree: Path) -> None:
    """The command answers, and the compiled modules come from the venv and from nowhere else."""
    version = finish(
        bin_directory / "carp-fast", "--version", cwd=cwd, deadline_s=COMMAND_DEADLINE_S
    )
    assert version == f"carp-fast {carp_fast.__version__}\n"
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print(importlib.import_module(f'carp_fast.{name}').__file__)\n"
    )
    found = finish(
        bin_directory / "python", "-c", code, *COMPILED, cwd=cwd, deadline_s=COMMAND_DEADLINE_S
    ).splitlines()
    assert len(found) == len(COMPILED)
    for name, file in zip(COMPILED, found, strict=True):
        assert file.startswith(f"{bin_directory.parent}/")
        assert f"/carp_fast/{name.replace('.', '/')}." in file
    # What the demo and the benchmark start, where sources are that are not built.
    code = "from carp_fast.lab.fleet import CARP_FAST; print(*CARP_FAST, sep='\\n')"
    program = finish(bin_directory / "python", "-P", "-c", code, cwd=cwd).splitlines()
    assert finish(*program, "--version", cwd=tree, deadline_s=COMMAND_DEADLINE_S) == version
    checked = subprocess.run(
        [bin_directory / "carp-fast", "check", "-c", cwd / "missing.toml"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=COMMAND_DEADLINE_S,
        check=False,
    )
    # The libraries that a configuration needs are there: it is the file that is missing.
    assert checked.returncode == 1
    assert checked.stderr == f"{cwd / 'missing.toml'}: cannot be read: No such file or directory\n"


def test_the_sdist_holds_what_building_needs(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {str(path.relative_to(ROOT)) for path in SOURCES} <= names
    assert {str(path.relative_to(ROOT)) for path in PYTHON_SOURCES} <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "Makefile"} <= names
    assert {f"tests/{path.relative_to(ROOT / 'tests')}" for path in TEST_FILES} <= names
    # Generated C, and anything compiled, is made anew.
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    assert not [name for name in names if name.endswith(".c") and not name.startswith("tests/")]


def test_the_sdist_passes_its_own_tests(unpacked: Path) -> None:
    """A part of them, from its own files and modules; all others are read at least."""
    where = [sys.executable, "-c", "import carp_fast.pump._pump as m; print(m.__file__)"]
    assert finish(*where, cwd=unpacked).startswith(f"{unpacked}/carp_fast/pump/_pump.")
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    listed = finish(*pytest_there, "--collect-only", "tests", cwd=unpacked)
    assert int(re.findall(r"^(\d+) tests collected", listed, re.MULTILINE)[0]) > 5_000
    tests = [str(unpacked / name) for name in OWN_TESTS]
    assert re.search(r"^\d+ passed in ", finish(*pytest_there, *tests, cwd=unpacked), re.MULTILINE)


def test_no_file_of_the_sdist_points_to_one_that_is_not_there(unpacked: Path) -> None:
    missing = [
        f"{path.relative_to(unpacked)}: {pointer}"
        for path in sorted(unpacked.rglob("*"))
        if path.suffix in {".md", ".py", ".pyx", ".pxd", ".pyi", ".h", ".c", ".toml", ".sh"}
        and path.name not in NO_POINTERS
        for pointer in pointers(path.read_text(), path.suffix == ".md")
        if not any(
            list(place.glob(pointer)) for place in (unpacked, unpacked / "docs", path.parent)
        )
    ]
    assert missing == []


def test_the_search_for_pointers_finds_them() -> None:
    text = "See docs/addresses.md, [the map](ARCHITECTURE.md#map), protocol.md and tests/x_*.py."
    found = {"docs/addresses.md", "ARCHITECTURE.md", "protocol.md", "tests/x_*.py"}
    assert pointers(text, markdown=True) == found
    assert pointers("[0-9](value)") == set()
    assert pointers("https://example.org/docs/a.md and [b](https://example.org/b)", True) == set()


def test_the_wheel_holds_the_package_and_no_sources_in_cython(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {str(path.relative_to(ROOT)) for path in PYTHON_SOURCES} <= set(names)
    others = ("py.typed", "engine/_engine.pyi", "metrics/page.html")
    assert {f"carp_fast/{name}" for name in others} <= set(names)
    extensions = [name for name in names if name.endswith(".so")]
    modules = [name.removeprefix("carp_fast/").partition(".")[0] for name in extensions]
    assert sorted(name.replace("/", ".") for name in modules) == COMPILED
    assert {Path(name).suffix for name in names} == {".py", ".pyi", ".html", ".typed", ".so"}
    assert all(name.startswith("carp_fast/") for name in names)


def test_the_wheel_from_the_sdist_in_an_empty_venv(
    built: Built, tree: Path, tmp_path: Path
) -> None:
    bin_directory = empty_venv(tmp_path / "venv")
    finish(bin_directory / "pip", "install", "--quiet", built.wheel, cwd=tmp_path)
    try_installed(bin_directory, tmp_path, tree)


def test_pip_install_of_the_source_tree(built: Built, tree: Path, tmp_path: Path) -> None:
    """As in the README, with the build isolated: pyproject.toml alone says what building needs.

    The compiler's output for the same sources is there already.
    """
    source_tree = shutil.copytree(tree, tmp_path / "source")
    shutil.copytree(built.objects, source_tree / "build")
    older_than_none(source_tree / "build")
    bin_directory = empty_venv(tmp_path / "venv")
    finish(bin_directory / "pip", "install", "--quiet", source_tree, cwd=tmp_path)
    try_installed(bin_directory, tmp_path, tree)
