"""Tracks as a test follows them: on a loop of its own, awaited with deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Self

import uvloop

from carp_fast.closing import Closing
from carp_fast.config.tracks import Track
from carp_fast.tracking.judging import Judged, State
from carp_fast.tracking.tracks import Tracks

DEADLINE_S = 60.0


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Follower(Closing):
    """Follows tracks; `changes` are (name, former state, state) in their order."""

    def __init__(self, *tracks: Track, concurrency: int = 16) -> None:
        self.loop = uvloop.new_event_loop()
        self.changes: list[tuple[str, State, State]] = []
        self.tracks = Tracks(self.loop, self._on_change, concurrency=concurrency)
        self.follow(*tracks, concurrency=concurrency)

    def __enter__(self) -> Self:
        return self

    def _on_change(self, judged: Judged, before: State) -> None:
        self.changes.append((judged.track.name, before, judged.state))

    def follow(self, *tracks: Track, concurrency: int = 16, reloaded: bool = False) -> list[str]:
        return self.tracks.follow(tracks, concurrency=concurrency, reloaded=reloaded)

    def judged(self, name: str) -> Judged:
        (found,) = self.tracks.of([name])
        return found

    def wait(self, condition: Callable[[], bool], what: str = "a change") -> None:
        """Runs the loop until `condition` holds."""

        async def until() -> None:
            async with asyncio.timeout(DEADLINE_S):
                while not condition():
                    await asyncio.sleep(0.005)

        try:
            self.loop.run_until_complete(until())
        except TimeoutError:
            raise AssertionError(f"in vain waited for {what}: {self.states()}") from None

    def wait_state(self, name: str, state: State) -> Judged:
        self.wait(lambda: self.judged(name).state == state, f"{name} to be {state}")
        return self.judged(name)

    def run(self, seconds: float) -> None:
        """Runs the loop for so long."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def states(self) -> dict[str, tuple[str, str]]:
        return {each.track.name: (each.state, each.text) for each in self.tracks}

    def close(self) -> None:
        self.tracks.close()
        self.loop.close()
