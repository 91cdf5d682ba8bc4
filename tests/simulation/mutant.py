"""A mutant: a change of sources that some test must catch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change of sources: (file, text that stands there once, what takes its place).

    `caught_by`: the tests that catch it, each "FILE::TEST" below tests/; none: the suites of
    mutants.py do.
    """

    name: str
    changes: tuple[tuple[str, str, str], ...]
    caught_by: tuple[str, ...] = ()
