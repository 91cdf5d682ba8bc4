"""A case: a fault put on running daemons, by name. What one run of it found.

A case is a function of a Run, registered by `case`. It opens a world, which judges what happened
by the oracles when it ends, and says what it requires besides.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from carp_fast.errors import CarpFastError
from tests.chaos.programs import QUICK, SECOND, Tempo

CARP_FAST = "carp-fast"
PROGRAMS = (CARP_FAST, "ucarp", "keepalived")


class UnableError(CarpFastError):
    """Raised by a case that this machine cannot play; names what it lacks."""


@dataclass
class Run:
    """One run of a case: what it may use, and what was found."""

    case: str
    seed: int
    seconds: float
    quick: bool = False
    program: str = CARP_FAST
    checkout: Path | None = None  # whose carp-fast is run, with its .venv; None: this one's
    failures: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    values: dict[str, tuple[float, str]] = field(default_factory=dict)  # with their units

    def __post_init__(self) -> None:
        self.random = Random(f"{self.case} {self.seed}")

    @property
    def tempo(self) -> Tempo:
        """An interval of a second, or the short ones of a quick run."""
        return QUICK if self.quick else SECOND

    @property
    def judged(self) -> bool:
        """Whether oracles decide: other programs are measured only."""
        return self.program == CARP_FAST

    def require(self, holds: object, what: str) -> None:
        """Notes a failure, and goes on."""
        if not holds:
            self.failures.append(what)

    def figure(self, name: str, value: float | str, unit: str = "") -> None:
        """A measured value for the table; text is not summarized."""
        if not isinstance(value, str):
            self.values[name] = (float(value), unit)
        text = value if isinstance(value, str) else f"{value:.3g}"
        self.figures[name] = f"{text} {unit}".strip()


@dataclass(frozen=True)
class Case:
    """A registered case. `known`: why it is expected to fail, empty where it is not."""

    name: str
    play: Callable[[Run], None]
    about: str
    quick: bool
    programs: Sequence[str]
    known: str


CASES: dict[str, Case] = {}


def case(
    *, quick: bool = False, programs: Sequence[str] = (CARP_FAST,), known: str = ""
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Registers a function as a case by its name; the first line of its docstring says what it is.

    `quick`: it also belongs to the tests, with short intervals. `programs`: which it can measure.
    """

    def register(play: Callable[[Run], None]) -> Callable[[Run], None]:
        name = play.__name__
        assert play.__doc__, name
        assert name not in CASES, name
        about = play.__doc__.strip().splitlines()[0]
        CASES[name] = Case(name, play, about, quick, tuple(programs), known)
        return play

    return register


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    run: Run
    known: str
    took_s: float
    lacks: str = ""  # why it could not be played

    @property
    def word(self) -> str:
        if self.lacks:
            return "unable"
        if not self.run.judged:
            return "measured" if not self.run.failures else "FAILED"
        if self.run.failures:
            return "known" if self.known else "FAILED"
        return "FIXED" if self.known else "ok"

    @property
    def passed(self) -> bool:
        """A case that is expected to fail and does not counts as failed, too: the mark is old."""
        return self.word in ("ok", "known", "measured", "unable")


def play(case_: Case, run: Run) -> Outcome:
    """Plays a case to its end; an exception of it is a failure like those it notes."""
    began_at = time.monotonic()
    try:
        case_.play(run)
    except UnableError as reason:
        return Outcome(run, case_.known, time.monotonic() - began_at, str(reason))
    except (CarpFastError, AssertionError) as reason:
        where = traceback.extract_tb(reason.__traceback__)
        here = next((f for f in reversed(where) if "/chaos/" in f.filename), where[-1])
        run.failures.append(f"{type(reason).__name__}: {reason} (line {here.lineno}: {here.line})")
    return Outcome(run, case_.known, time.monotonic() - began_at)
