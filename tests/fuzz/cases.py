"""Cases of the fuzzers: a world's setup and the steps taken in it, as JSON; played, shrunk, kept.

A case does not depend on how it was drawn: its steps have every byte and every time in them, so
that a file plays the same after a fuzzer draws differently. Must not know what a step means.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Protocol

import msgspec

Document = dict[str, Any]


class Failure(Exception):
    """Raised when what is tested is not as it must be: one line, and details below it."""


class Case(msgspec.Struct):
    """One run of a fuzzer. `seed`: what it was drawn from; `failure`: what became of it."""

    fuzzer: str
    setup: Document
    steps: list[Document]
    seed: int | None = None
    failure: str = ""


class World(Protocol):
    """What is tested, in one state that steps change.

    `features`: what was seen in it, so that a case with something new can be kept.
    """

    features: set[str]

    def take(self, step: Document) -> None:
        """Takes a step and checks what must follow. Raises Failure."""

    def end(self) -> None:
        """Checks what must be so at the end. Raises Failure."""


class Fuzzer(Protocol):
    """Draws worlds and steps.

    `seeds`: how many of the first ones are known to pass; `shrinking_s`: how long a failing case
    may be shrunk.
    """

    name: ClassVar[str]
    seeds: ClassVar[int]
    shrinking_s: ClassVar[float]

    def setup(self, random: Random) -> Document:
        """Draws a world."""

    def world(self, setup: Document) -> World:
        """Makes that world."""

    def steps(self, random: Random, setup: Document, world: Any) -> Iterator[Document]:
        """Draws steps, each after the one before was taken."""

    def close(self) -> None:
        """Ends what all worlds share."""


def attempted(act: Callable[[], None]) -> str:
    """What failed in it, or an empty string."""
    try:
        act()
    except Failure as failure:
        return str(failure)
    except Exception:
        return "an exception\n" + traceback.format_exc()
    return ""


def play(fuzzer: Fuzzer, case: Case) -> str:
    """What fails when this case is played, or an empty string."""

    def played() -> None:
        world = fuzzer.world(case.setup)
        for step in case.steps:
            world.take(step)
        world.end()

    return attempted(played)


def kind(failure: str) -> str:
    """The part of a failure that stays the same while its case is shrunk: up to the colon."""
    return failure.split("\n", 1)[0].split(":", 1)[0]


def shrink(case: Case, fails: Callable[[Case], str], over: Callable[[], bool]) -> Case:
    """The case with as few steps as fail in the same way, as far as it is found until `over`.

    Drops runs of steps, ever shorter ones, from the end to the beginning.
    """
    length = len(case.steps) // 2
    while length and not over():
        end = len(case.steps)
        while end > 0 and not over():
            begin = max(0, end - length)
            fewer = msgspec.structs.replace(case, steps=case.steps[:begin] + case.steps[end:])
            failure = fails(fewer)
            if failure and kind(failure) == kind(case.failure):
                case = msgspec.structs.replace(fewer, failure=failure)
            end = begin
        length //= 2
    return case


def load(path: Path) -> Case:
    return msgspec.json.decode(path.read_bytes(), type=Case)


def load_all(directory: Path) -> list[Case]:
    """The cases of a corpus, in the order of their names; none if there is no such directory."""
    return [load(path) for path in sorted(directory.glob("*.json"))]


def save(case: Case, path: Path) -> None:
    """Writes a case with a line for each of its steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = msgspec.json.encode
    head = {
        "fuzzer": case.fuzzer,
        "seed": case.seed,
        "failure": case.failure,
        "setup": case.setup,
    }
    steps = b",\n".join(encode(step) for step in case.steps)
    path.write_bytes(encode(head)[:-1] + b',\n"steps":[\n' + steps + b"\n]}\n")


class Journal:
    """The case that is being played, on disk: what is left of it when the process is killed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb", buffering=0)

    def begin(self, fuzzer: str, seed: int, setup: Document) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.add({"fuzzer": fuzzer, "seed": seed, "setup": setup})

    def add(self, document: Document) -> None:
        self._file.write(msgspec.json.encode(document) + b"\n")

    def close(self) -> None:
        self._file.close()


def journalled(lines: Sequence[bytes]) -> Case | None:
    """The case that a journal's lines tell, None if it has not begun."""
    whole = [msgspec.json.decode(line) for line in lines if line.endswith(b"\n")]
    if not whole:
        return None
    head: Document = whole[0]
    return Case(head["fuzzer"], head["setup"], whole[1:], head["seed"])
