"""The fuzzers on the command line: `make fuzz`, which builds with sanitizers, calls this.

    python -m tests.fuzz [--seconds N] [--seed N] [NAME ...]
    python -m tests.fuzz --replay FILE

Each fuzzer runs in a process of its own, for so many seconds, from a seed on that is another one
each time. What it finds is written to build/fuzz/failures with the command that plays it again; a
case that kills the process is taken from its journal.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from tests.fuzz.cases import Case, Failure, journalled, load, play, save, shrink
from tests.fuzz.fuzzers import FUZZERS
from tests.fuzz.runs import GROWN, KEPT, ROOT, Run, report, shrunk

FAILURES = GROWN / "failures"
CORPUS = GROWN / "corpus"
SHRINKING_S = 60.0  # of a case that kills its process: each attempt starts one
ATTEMPT_S = 60.0
PYTHON_FAILED = 1  # any other exit code but 0: a sanitizer, or a signal


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *FUZZERS])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each fuzzer")
    parser.add_argument("--seed", type=int, help="the first one; any unless given")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="plays a case")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def journal_of(name: str) -> Path:
    return GROWN / f"{name}.journal"


def inside(name: str, seconds: float, seed: int) -> int:
    """Runs a fuzzer in this process."""
    fuzzer = FUZZERS[name]()
    with contextlib.closing(fuzzer):
        run = Run(fuzzer, seconds, corpus=(KEPT, CORPUS), grown=CORPUS, journal=journal_of(name))
        outcome = run.run(itertools.count(seed))
        print(outcome, flush=True)
        if outcome.failed is None:
            return 0
        case = outcome.failed
        try:
            case = shrunk(fuzzer, case)
        except Failure as failure:
            case.failure += f"\n{failure}"
        print(report(case, FAILURES / f"{name}-{seed}.json"))
    return PYTHON_FAILED


def replay(path: Path) -> int:
    """Plays a case in this process."""
    case = load(path)
    with contextlib.closing(FUZZERS[case.fuzzer]()) as fuzzer:
        failure = play(fuzzer, case)
    print(f"{path}: {failure or 'passes'}")
    return PYTHON_FAILED if failure else 0


def started(*given: str, deadline_s: float | None = None) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "tests.fuzz", *given]
    return subprocess.run(argv, cwd=ROOT, stderr=subprocess.PIPE, timeout=deadline_s, check=False)


def killed(case: Case) -> str:
    """What playing a case in a process of its own ends with, if that is the end of the process."""
    path = GROWN / "attempt.json"
    save(case, path)
    try:
        done = started("--replay", str(path), deadline_s=ATTEMPT_S)
    except subprocess.TimeoutExpired:
        return "does not end"
    return end_of(done) if done.returncode not in (0, PYTHON_FAILED) else ""


def end_of(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode(errors="replace")
    return f"the process ended with {done.returncode}:\n{said}"


def outside(name: str, seconds: float, seed: int) -> int:
    """Runs a fuzzer in a process of its own, and writes the case that kills it."""
    done = started("--inside", name, f"--seconds={seconds}", f"--seed={seed}")
    if done.returncode in (0, PYTHON_FAILED):
        sys.stderr.buffer.write(done.stderr)
        return done.returncode
    case = journalled(journal_of(name).read_bytes().splitlines(keepends=True))
    if case is None:
        print(end_of(done))
        return PYTHON_FAILED
    case = msgspec.structs.replace(case, failure=end_of(done))
    end_at = time.monotonic() + SHRINKING_S
    case = shrink(case, killed, lambda: time.monotonic() >= end_at)
    print(report(case, FAILURES / f"{name}-{seed}.json"))
    return PYTHON_FAILED


def main() -> int:
    given = arguments()
    if given.replay:
        return replay(given.replay)
    seed = int.from_bytes(os.urandom(4), "big") if given.seed is None else given.seed
    if given.inside:
        return inside(given.names[0], given.seconds, seed)
    codes = [outside(name, given.seconds, seed) for name in given.names or FUZZERS]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
