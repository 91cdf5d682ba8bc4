"""A mutant: a change of sources that some test must catch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change of sources: (file, text that stands there once, what takes its place)."""

    name: str
    changes: tuple[tuple[str, str, str], ...]
