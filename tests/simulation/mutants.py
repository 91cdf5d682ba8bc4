"""Mutants of the engine: faults put into a copy of it, and which tests catch each.

    .venv/bin/python -m tests.simulation.mutants [--seeds N] [--first] [NAME ...]

The sources, the package and the tests are copied to a temporary directory and built there; each
mutant changes a line or two, rebuilds and runs the unit tests of the engine, the scenarios, the
tests of the simulation and seeds, each until its first failure; or the tests that a mutant names,
some of which need root. A mutant that nobody catches is a missing test: exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.simulation import (
    mutants_of_clones,
    mutants_of_elections,
    mutants_of_frames,
    mutants_of_groups,
    mutants_of_pump,
    mutants_of_tracks,
    mutants_of_turns,
    mutants_of_upgrades,
)
from tests.simulation.mutant import Mutant

ROOT = Path(__file__).parent.parent.parent
UNIT = ROOT / "tests" / "unit"
COPIED = ("src", "carp_fast", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
DEADLINE_S = 300.0  # of one suite
BUILD_DEADLINE_S = 1800.0  # all modules, where other programs have the processor, too
SEEDS = 1000
# Of the unit tests those that look at what the engine does, not at sources or at the daemon.
CONCERNED = (
    "test_auth.py",
    "test_crossing.py",
    "test_elections.py",
    "test_lanes.py",
    "test_engine*.py",
    "test_history.py",
    "test_vectors.py",
    "test_vhid.py",
    "test_wire*.py",
)
# The worlds of the smoke run as seeds beside it, which tell more.
WORLDS = "small_worlds or large_worlds"
MUTANTS = (
    *mutants_of_elections.MUTANTS,
    *mutants_of_frames.MUTANTS,
    *mutants_of_turns.MUTANTS,
    *mutants_of_pump.MUTANTS,
    *mutants_of_clones.MUTANTS,
    *mutants_of_groups.MUTANTS,
    *mutants_of_tracks.MUTANTS,
    *mutants_of_upgrades.MUTANTS,
)
SUITES = {
    "unit": [str(path.relative_to(ROOT)) for glob in CONCERNED for path in UNIT.glob(glob)],
    "scenarios": ["tests/scenarios"],
    "simulation": ["tests/simulation/test_simulation.py", "-k", f"not ({WORLDS})"],
}


def copy(to: Path) -> None:
    """Copy what builds and tests the engine, without what was built."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", ".hypothesis", "interop")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, to / name)


def run(
    arguments: list[str], where: Path, deadline_s: float = DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, away from the package of the original."""
    environment = os.environ | {"PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    try:
        return subprocess.run(
            command,
            cwd=where,
            env=environment,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:  # a mutant that waits for ever
        return subprocess.CompletedProcess(command, 1, "", f"not over after {deadline_s:g} s")


def pytest(arguments: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy, with temporary files of their own: other runs remove shared ones."""
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={where / 'temporary'}"]
    return run(["-m", "pytest", *options, *arguments], where)


def build(where: Path) -> None:
    """Compile what has changed. Raises RuntimeError with the compiler's last words."""
    done = run(["setup.py", "--quiet", "build_ext", "--inplace"], where, BUILD_DEADLINE_S)
    if done.returncode:
        raise RuntimeError(f"the copy does not build: {done.stderr[-2000:]}")


def failure(output: str) -> str:
    """The first test that failed, from pytest's summary."""
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split(" - ")[0].split(" ", 1)[1]
    return "did not end well: " + " ".join(output.split()[-12:])


def broken_by(where: Path, seeds: int) -> str | None:
    """The invariant that the first bad seed broke, or None."""
    code = (
        "import sys\n"
        "from carp_fast.simulate import run\n"
        f"for outcome in run.run_all(range({seeds})):\n"
        "    if outcome.broken:\n"
        "        sys.exit(f'seed {outcome.seed}: {outcome.broken}')\n"
    )
    done = run(["-c", code], where)
    if done.returncode == 0:
        return None
    # A mutant that ends the process leaves no words.
    return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]


def catch(where: Path, seeds: int, first: bool = False) -> dict[str, str | None]:
    """What each suite says of the engine as it is in the copy: a failed test, or None.

    `first`: the suites end with the first that fails.
    """
    caught: dict[str, str | None] = {}
    for suite, paths in SUITES.items():
        if first and any(caught.values()):
            return caught
        done = pytest(["-x", *paths], where)
        caught[suite] = None if done.returncode == 0 else failure(done.stdout + done.stderr)
    if not first or not any(caught.values()):
        caught["seeds"] = broken_by(where, seeds)
    return caught


def catch_named(where: Path, names: tuple[str, ...]) -> dict[str, str | None]:
    """What each of the tests that a mutant names says of it."""
    caught: dict[str, str | None] = {}
    for name in names:
        done = pytest([f"tests/{name}"], where)
        caught[name] = None if done.returncode == 0 else failure(done.stdout + done.stderr)
    return caught


def mutate(where: Path, mutant: Mutant) -> dict[Path, str]:
    """Change the copy; returns what the files held. Raises ValueError where it does not fit."""
    held: dict[Path, str] = {}
    for name, old, new in mutant.changes:
        path = where / "src" / "carp_fast" / name
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{mutant.name}: {name} has {text.count(old)} times {old!r}")
        held.setdefault(path, text)
        path.write_text(text.replace(old, new))
    return held


def report(name: str, caught: dict[str, str | None], seconds: float) -> bool:
    """Print what caught a mutant; whether anything did."""
    print(f"{name} ({seconds:.0f} s)")
    for suite, what in caught.items():
        print(f"    {suite:<11s} {what or '-'}", flush=True)
    return any(caught.values())


def main() -> int:
    """Run the mutants named, or all of them, after the engine as it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants whose name begins so")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="small worlds for each mutant")
    parser.add_argument("--first", action="store_true", help="one suite that catches it will do")
    chosen = parser.parse_args()
    mutants = [m for m in MUTANTS if not chosen.names or m.name.startswith(tuple(chosen.names))]
    survived = []
    with tempfile.TemporaryDirectory(prefix="carp-fast-mutants-") as directory:
        where = Path(directory)
        copy(where)
        build(where)
        if report("the engine as it is", catch(where, chosen.seeds), 0.0):
            print("tests fail without a mutant: nothing can be said", file=sys.stderr)
            return 1
        for mutant in mutants:
            began_s = time.monotonic()
            held = mutate(where, mutant)
            build(where)
            caught = (
                catch_named(where, mutant.caught_by)
                if mutant.caught_by
                else catch(where, chosen.seeds, chosen.first)
            )
            if not report(mutant.name, caught, time.monotonic() - began_s):
                survived.append(mutant.name)
            for path, text in held.items():
                path.write_text(text)
    print(f"{len(mutants)} mutants, {len(survived)} survived: {', '.join(survived) or 'none'}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
