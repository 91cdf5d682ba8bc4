"""Runs the cases and prints a table: `python -m tests.chaos [--cases NAME,...] [--seconds S]`.

Needs root. It writes nothing but what a lab needs under /run, which it removes. Exit code 1: a
case failed, or one that is marked as known to fail did not.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from tests.chaos.case import CARP_FAST, CASES, PROGRAMS, Outcome, Run, play
from tests.chaos.cases import MODULES


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--cases", default="*", help="names or patterns, with commas")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long a condition lasts")
    parser.add_argument("--programs", default=CARP_FAST, help=f"of {', '.join(PROGRAMS)}, or all")
    parser.add_argument("--repeats", type=int, default=1, help="how often each case is run")
    parser.add_argument("--seed", type=int, default=1, help="of the first repeat")
    parser.add_argument("--quick", action="store_true", help="the short intervals of the tests")
    parser.add_argument("--checkout", type=Path, help="run the daemon of this built checkout")
    parser.add_argument("--list", action="store_true", help="print the cases, run none")
    return parser.parse_args()


def chosen(patterns: str) -> list[str]:
    """The names that match, in the order of the table. Exits where a pattern matches none."""
    wanted = [pattern for pattern in patterns.replace(",", " ").split() if pattern]
    for pattern in wanted:
        if not fnmatch.filter(CASES, pattern):
            sys.exit(f"no case is named {pattern}; there are {', '.join(CASES)}")
    return [name for name in CASES if any(fnmatch.fnmatch(name, each) for each in wanted)]


def row(outcome: Outcome) -> str:
    run = outcome.run
    figures = "; ".join(f"{name} {value}" for name, value in run.figures.items())
    known = f" (known: {outcome.known})" if outcome.known else ""
    figures = outcome.lacks or figures
    return (
        f"{run.case:22} {run.program:11} {outcome.word:9} {outcome.took_s:5.0f} s  {figures}{known}"
    )


def summaries(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Median, least and most of each figure of what was run several times."""
    by_name: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault((outcome.run.case, outcome.run.program), []).append(outcome)
    for (name, program), group in by_name.items():
        texts = []
        for figure in dict.fromkeys(each for one in group for each in one.run.values):
            values = [one.run.values[figure] for one in group if figure in one.run.values]
            numbers, unit = [number for number, _ in values], values[0][1]
            spread = f"{min(numbers):.3g} to {max(numbers):.3g}"
            texts.append(f"{figure} {median(numbers):.3g} ({spread}) {unit}".strip())
        yield f"{name:22} {program:11} {len(group):3} runs  {'; '.join(texts)}"


def main() -> int:
    assert MODULES
    given = arguments()
    names = chosen(given.cases)
    if given.list:
        for name in names:
            marks = ["quick"] * CASES[name].quick + list(CASES[name].programs)
            print(f"{name:22} {CASES[name].about}  [{', '.join(marks)}]")
        return 0
    programs = PROGRAMS if given.programs == "all" else given.programs.split(",")
    outcomes: list[Outcome] = []
    began_at = time.monotonic()
    for name in names:
        for program in [each for each in programs if each in CASES[name].programs]:
            for repeat in range(given.repeats):
                run = Run(name, given.seed + repeat, given.seconds, given.quick, program)
                run.checkout = given.checkout
                outcome = play(CASES[name], run)
                outcomes.append(outcome)
                print(row(outcome), flush=True)
                for failure in () if outcome.lacks else run.failures:
                    print(f"  {failure}", flush=True)
    if given.repeats > 1:
        print("\nmedian (least to most)", *summaries(outcomes), sep="\n", flush=True)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    counts = f"{len(outcomes)} runs, {len(failed)} failed, {time.monotonic() - began_at:.0f} s"
    print(f"{counts}: {', '.join(each.run.case for each in failed)}" if failed else counts)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
