"""Runs of a fuzzer: seed after seed until the time is over, with a corpus that grows.

A world is drawn from its seed alone, or goes on from the first steps of a case of the corpus. Must
not know what is tested.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random

import msgspec

from tests.fuzz.cases import (
    Case,
    Document,
    Failure,
    Fuzzer,
    Journal,
    World,
    attempted,
    kind,
    load_all,
    play,
    save,
    shrink,
)

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "corpus"
GROWN = ROOT / "build" / "fuzz"
FROM_CORPUS = 0.25  # of the worlds go on from a case of the corpus
KEPT_BYTES_MAX = 16_384  # a longer case is not added to the corpus


class Outcome(msgspec.Struct):
    """What a run did. `failed`: the case that ended it, None if its time was over."""

    fuzzer: str
    worlds: int = 0
    steps: int = 0
    last_seed: int = 0
    elapsed_s: float = 0.0
    features: Counter[str] = msgspec.field(default_factory=Counter)
    failed: Case | None = None
    kept: list[Path] = []

    def __str__(self) -> str:
        return (
            f"{self.fuzzer}: {self.worlds} worlds, {self.steps} steps, "
            f"{len(self.features)} features in {self.elapsed_s:.0f} s"
            f" (to seed {self.last_seed}, {len(self.kept)} cases kept)"
        )


class Run:
    """One run of a fuzzer over `seeds`, for `seconds`.

    `corpus`: directories of cases, all of which are played first; new ones go to `grown`, if
    given. `journal`: where the case being played is written.
    """

    def __init__(
        self,
        fuzzer: Fuzzer,
        seconds: float,
        *,
        corpus: Iterable[Path] = (),
        grown: Path | None = None,
        journal: Path | None = None,
    ) -> None:
        self.fuzzer = fuzzer
        self.end_at = time.monotonic() + seconds
        self.cases = [case for directory in corpus for case in load_all(directory / fuzzer.name)]
        self.grown = grown
        self.journal = Journal(journal) if journal else None
        self.outcome = Outcome(fuzzer.name)

    def over(self) -> bool:
        return time.monotonic() >= self.end_at

    def run(self, seeds: Iterable[int]) -> Outcome:
        """Plays the corpus, then draws from each seed; ends with the first failure."""
        began_at = time.monotonic()
        for case in self.cases:
            failure = self._replay(case)
            if failure:
                self.outcome.failed = msgspec.structs.replace(case, failure=failure)
                break
        else:
            for seed in seeds:
                if self.over():
                    break
                self.outcome.failed = self._draw(seed)
                self.outcome.worlds += 1
                self.outcome.last_seed = seed
                if self.outcome.failed:
                    break
        self.outcome.elapsed_s = time.monotonic() - began_at
        if self.journal:
            self.journal.close()
        return self.outcome

    def _begin(self, seed: int, setup: Document) -> None:
        if self.journal:
            self.journal.begin(self.fuzzer.name, seed, setup)

    def _replay(self, case: Case) -> str:
        self._begin(case.seed or 0, case.setup)
        if self.journal:
            for step in case.steps:
                self.journal.add(step)
        return play(self.fuzzer, case)

    def _draw(self, seed: int) -> Case | None:
        """The case of a seed if it fails."""
        random = Random(f"{self.fuzzer.name} {seed}")
        first: list[Document] = []
        if self.cases and random.random() < FROM_CORPUS:
            old = random.choice(self.cases)
            setup, first = old.setup, old.steps[: random.randrange(len(old.steps) + 1)]
        else:
            setup = self.fuzzer.setup(random)
        case = Case(self.fuzzer.name, setup, [], seed)
        features: set[str] = set()

        def played() -> None:
            self._begin(seed, setup)
            world = self.fuzzer.world(setup)
            for step in itertools.chain(first, self.fuzzer.steps(random, setup, world)):
                take(step, world)
            world.end()
            features.update(world.features)

        def take(step: Document, world: World) -> None:
            case.steps.append(step)
            if self.journal:
                self.journal.add(step)
            self.outcome.steps += 1
            world.take(step)

        case.failure = attempted(played)
        if case.failure:
            return case
        self._keep(case, features)
        return None

    def _keep(self, case: Case, features: set[str]) -> None:
        """Adds a case in which something was seen for the first time to the corpus that grows."""
        new = features - self.outcome.features.keys()
        self.outcome.features.update(features)
        if not new or self.grown is None:
            return
        encoded = msgspec.json.encode(case)
        if len(encoded) <= KEPT_BYTES_MAX:
            name = hashlib.sha1(encoded).hexdigest()[:12]
            path = self.grown / self.fuzzer.name / f"{name}.json"
            save(case, path)
            self.outcome.kept.append(path)
            self.cases.append(case)


def shrunk(fuzzer: Fuzzer, case: Case) -> Case:
    """A failing case with as few steps as are found in the fuzzer's time for that.

    Raises Failure if the case does not fail again as it did: it depends on what it does not hold.
    """
    again = play(fuzzer, case)
    if kind(again) != kind(case.failure):
        again = again or "no failure"
        raise Failure(f"{case.failure} (not the same when it is played again: {again})")
    end_at = time.monotonic() + fuzzer.shrinking_s
    return shrink(case, lambda fewer: play(fuzzer, fewer), lambda: time.monotonic() >= end_at)


def report(case: Case, path: Path) -> str:
    """Writes a failing case and tells how it is played."""
    save(case, path)
    return (
        f"{case.fuzzer}: seed {case.seed}, {len(case.steps)} steps: {case.failure}\n"
        f"written to {path}; play it: make fuzz REPLAY={path}"
    )
