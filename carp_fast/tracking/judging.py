"""One track: its results, what state they make of it, and what follows for its virtual hosts.

Pure: the time comes in as an argument. Must not know how a result is found.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from carp_fast.config.tracks import HARD_DEMOTION, InterfaceTrack, Probed, ProcessTrack, Track
from carp_fast.metrics.histogram import Histogram

State = Literal["unknown", "ok", "failed"]
TEXT_LENGTH_MAX = 200  # of what a result says


class Result(NamedTuple):
    """What was found: `text` is one line for people; `number` is that of a file; `output`: lines
    of a script, for the log; `took_s`: how long it took to find, where something was asked.
    """

    ok: bool
    text: str
    number: int | None = None
    output: tuple[str, ...] = ()
    took_s: float | None = None


class Effect(NamedTuple):
    """The demotion of a virtual host by tracks, and whether it cannot be MASTER here."""

    demotion: int = 0
    hard: bool = False

    def plus(self, other: Effect) -> Effect:
        return Effect(self.demotion + other.demotion, self.hard or other.hard)


NONE = Effect()


class JudgedState(msgspec.Struct, forbid_unknown_fields=True):
    """What is known of a track, for another process that follows the same one, see Judged."""

    state: State
    since_ns: int
    text: str = ""
    number: int | None = None
    flaps: int = 0
    assumed_ok: bool = False
    against: int = 0


class Judged:
    """A track and its state.

    `since_ns`: when it entered its state, CLOCK_MONOTONIC; `text`: of the last result; `flaps`: how
    often it changed between ok and failed. `assumed_ok`: what it counts as until its first result;
    None: as its `initial` says; `durations`: of what was asked.
    """

    def __init__(self, track: Track, now_ns: int, *, assumed_ok: bool | None = None) -> None:
        self.track = track
        self.state: State = "unknown"
        self.since_ns = now_ns
        self.text = "no result yet"
        self.number: int | None = None
        self.flaps = 0
        self.durations = Histogram() if isinstance(track, Probed) else None
        self._assumed_ok = track.initial == "ok" if assumed_ok is None else assumed_ok
        self._against = 0  # results in a row that contradict the state

    @property
    def known(self) -> JudgedState:
        """What is known of it."""
        return JudgedState(
            self.state,
            self.since_ns,
            self.text,
            self.number,
            self.flaps,
            self._assumed_ok,
            self._against,
        )

    def go_on(self, known: JudgedState) -> None:
        """Goes on with what another process knew."""
        self.state, self.since_ns, self.text = known.state, known.since_ns, known.text
        self.number, self.flaps = known.number, known.flaps
        self._assumed_ok, self._against = known.assumed_ok, known.against

    @property
    def counts_as_ok(self) -> bool:
        """Whether it is ok, or counts as that before its first result."""
        return self.state == "ok" or (self.state == "unknown" and self._assumed_ok)

    @property
    def effect(self) -> Effect:
        """What follows for the virtual hosts that name it."""
        if self.counts_as_ok:
            return Effect(self.number or 0)
        demotion = self.track.demotion
        return Effect(HARD_DEMOTION, True) if demotion is None else Effect(demotion)

    @property
    def ends(self) -> str:
        """What ends its failure, in words: "it is ok again ...".

        "" if it has not failed, or there is nothing to count.
        """
        track = self.track
        if self.state != "failed":
            return ""
        if isinstance(track, Probed):
            tried = f"one every {track.interval_s:g} s"
            if track.rise == 1:
                return f"after the next good result, {tried}"
            so_far = f"{self._against} so far"
            return f"after {track.rise} good results in a row (rise), {so_far}, {tried}"
        if isinstance(track, InterfaceTrack | ProcessTrack) and track.rise_s:
            return f"once that has lasted for {track.rise_s:g} s (rise_s)"
        return ""

    def take(self, result: Result, now_ns: int) -> bool:
        """Takes a result; returns whether the state, or the number of a file, has changed.

        The first one decides alone; afterwards a change needs `rise` or `fall` of them in a row.
        """
        self.text = result.text[:TEXT_LENGTH_MAX]
        if self.durations is not None and result.took_s is not None:
            self.durations.add(result.took_s)
        state: State = "ok" if result.ok else "failed"
        if state == self.state:
            self._against = 0
            changed = result.number != self.number
            self.number = result.number
            return changed
        self._against += 1
        if self.state != "unknown" and self._against < self._needed(result.ok):
            return False
        self._against = 0
        self.flaps += self.state != "unknown"
        self.state, self.since_ns, self.number = state, now_ns, result.number
        return True

    def _needed(self, ok: bool) -> int:
        if not isinstance(self.track, Probed):
            return 1
        return self.track.rise if ok else self.track.fall
