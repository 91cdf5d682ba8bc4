"""All tracks: followed by kind, judged, and reported when they change.

Must not know virtual hosts: `effect_of` answers what a set of names amounts to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from carp_fast.closing import Closing
from carp_fast.config.tracks import InterfaceTrack, ProcessTrack, Track
from carp_fast.inotify import Paths
from carp_fast.programs.launching import Launcher
from carp_fast.tracking.connections import Connections
from carp_fast.tracking.files import Files
from carp_fast.tracking.interfaces import Interfaces
from carp_fast.tracking.judging import NONE, Effect, Judged, JudgedState, Result, State
from carp_fast.tracking.pings import Pings
from carp_fast.tracking.processes import Processes
from carp_fast.tracking.scripts import Scripts

logger = logging.getLogger(__name__)

NOTHING_KNOWN: Mapping[str, JudgedState] = {}

Watch = Callable[[Track, Callable[[Result], None]], Callable[[], None]]


class _Followed:
    """A track that is followed. One with `rise_s` or `fall_s` waits before it takes a change."""

    def __init__(self, tracks: Tracks, judged: Judged, watch: Watch) -> None:
        self.judged = judged
        self._tracks = tracks
        self._waiting: asyncio.TimerHandle | None = None
        self._waits_for: Result | None = None
        self._stop = watch(judged.track, self._on_result)

    def stop(self) -> None:
        self._stop()
        self._settle()

    def _settle(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _on_result(self, result: Result) -> None:
        delay_s = self._delay_s(result.ok)
        if not delay_s:
            self._settle()
            self._tracks.take(self.judged, result)
            return
        self._waits_for = result
        if self._waiting is None:
            self._waiting = self._tracks.loop.call_later(delay_s, self._on_lasted)

    def _on_lasted(self) -> None:
        self._waiting = None
        assert self._waits_for is not None
        self._tracks.take(self.judged, self._waits_for)

    def _delay_s(self, ok: bool) -> float:
        track, state = self.judged.track, self.judged.state
        if not isinstance(track, InterfaceTrack | ProcessTrack) or state == "unknown":
            return 0.0
        if ok == (state == "ok"):
            return 0.0
        return track.rise_s if ok else track.fall_s


class Tracks(Closing):
    """The tracks that are followed.

    `on_change` is called with each whose state, or number, has changed, and its former state; not
    within follow(). `interfaces` has to get the states of those that it names. All methods must be
    called on the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[Judged, State], None],
        *,
        concurrency: int = 16,
        launcher: Launcher | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.loop = loop
        self.interfaces = Interfaces()
        self._on_change = on_change
        self._now_ns = now_ns
        self._paths = Paths(loop)
        self._processes = Processes(loop, self._paths)
        self._scripts = Scripts(loop, concurrency, launcher)
        self._pings = Pings(loop)
        self._connections = Connections(loop)
        self._watches: dict[str, Watch] = {
            "interface": self.interfaces.watch,
            "process": self._processes.watch,
            "file": Files(self._paths).watch,
            "script": self._scripts.watch,
            "ping": self._pings.watch,
            "tcp": self._connections.watch,
        }
        self._followed: dict[str, _Followed] = {}
        self._setting = False

    def __iter__(self) -> Iterator[Judged]:
        """The tracks, in the order of the configuration."""
        return (followed.judged for followed in self._followed.values())

    def of(self, names: Iterable[str]) -> list[Judged]:
        """Those with these names."""
        return [self._followed[name].judged for name in names if name in self._followed]

    def effect_of(self, names: Iterable[str]) -> Effect:
        """What these amount to for a virtual host that names them."""
        effect = NONE
        for judged in self.of(names):
            effect = effect.plus(judged.effect)
        return effect

    @property
    def known(self) -> dict[str, JudgedState]:
        """What is known of each track, by name."""
        return {name: followed.judged.known for name, followed in self._followed.items()}

    def follow(
        self,
        tracks: Iterable[Track],
        *,
        concurrency: int,
        reloaded: bool = False,
        known: Mapping[str, JudgedState] = NOTHING_KNOWN,
    ) -> list[str]:
        """Follows these and no others; returns a line for each that differs.

        One that is as before keeps its state. Until its first result a new one counts as its
        `initial` says; if `reloaded`, as ok, and one that differs as it did before. `known`: what
        another process knew of some, by name.
        """
        before, self._followed = self._followed, {}
        wanted = {track.name: track for track in tracks}
        lines = []
        for name, followed in before.items():
            if wanted.get(name) != followed.judged.track:
                followed.stop()
                if name not in wanted:
                    lines.append(f"track {name}: removed")
        self._scripts.reap()
        self._scripts.set_concurrency(concurrency)
        self._setting = True
        for name, track in wanted.items():
            former = before.get(name)
            if former is not None and former.judged.track == track:
                self._followed[name] = former
                continue
            as_ok = True if former is None else former.judged.counts_as_ok
            judged = Judged(track, self._now_ns(), assumed_ok=as_ok if reloaded else None)
            if name in known:
                judged.go_on(known[name])
            self._followed[name] = _Followed(self, judged, self._watches[track.kind])
            lines.append(f"track {name}: {'added' if former is None else 'changed'}")
        self._setting = False
        return lines

    def close(self) -> None:
        """Follows nothing from now on; no script is left running."""
        for followed in self._followed.values():
            followed.stop()
        self._followed.clear()
        self._scripts.close()
        self._processes.close()
        self._connections.close()
        self._pings.close()
        self._paths.close()

    def take(self, judged: Judged, result: Result) -> None:
        """Takes a result of a track."""
        before = judged.state
        if judged.take(result, self._now_ns()):
            _log(judged, before, result)
            if not self._setting:  # the caller of follow() looks at all of them afterwards
                self._on_change(judged, before)


def _log(judged: Judged, before: State, result: Result) -> None:
    name, state = judged.track.name, judged.state
    level = logging.WARNING if state == "failed" else logging.INFO
    change = state if before in ("unknown", state) else f"{before} -> {state}"
    logger.log(level, "track %s: %s: %s", name, change, judged.text)
    if before != "unknown" or state == "failed":
        for line in result.output:
            logger.log(level, "track %s: its output: %s", name, line)
