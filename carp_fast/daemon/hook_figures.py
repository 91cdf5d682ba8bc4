"""What became of hooks: results by kind, and how long those that ran took.

Must not know how a hook is run.
"""

from __future__ import annotations

from collections import Counter

from carp_fast.metrics.histogram import Histogram


class HookFigures:
    """Counts results by (kind, outcome), and durations by kind, "up" or "down"."""

    def __init__(self) -> None:
        self.results: Counter[tuple[str, str]] = Counter()
        self.durations = {"up": Histogram(), "down": Histogram()}

    def note(self, kind: str, outcome: str, duration_s: float) -> None:
        """Counts a result; one of a hook that was not started has no duration, 0."""
        self.results[kind, outcome] += 1
        if duration_s:
            self.durations[kind].add(duration_s)
