"""Tracks by scripts: programs that exit with 0 while all is well.

At most `concurrency` run at once; the others wait for their turn. Must not know what becomes of a
result.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque
from collections.abc import Callable

from carp_fast.config.tracks import ScriptTrack, Track
from carp_fast.programs.children import printable
from carp_fast.programs.launching import DirectLauncher, Launcher, Running, reap
from carp_fast.programs.spawning import ChildError, LauncherEnded, Program, ending
from carp_fast.programs.starting import Starting
from carp_fast.tracking.judging import Result
from carp_fast.tracking.rounds import Rounds

logger = logging.getLogger(__name__)

OUTPUT_BYTES_MAX = 4_096  # of one run, kept; what follows is read and dropped
OUTPUT_LINES_MAX = 10  # the last ones of a run, for the log
KILL_AFTER_S = 1.0  # between SIGTERM and SIGKILL
WAITING_LOG_S = 60.0  # between two lines about scripts that wait for others

Take = Callable[[Result], None]


class Scripts:
    """Runs the scripts of all tracks. All methods must be called on the loop's thread.

    `launcher`: starts them; without one they are children of this process.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        concurrency: int = 16,
        launcher: Launcher | None = None,
    ) -> None:
        self.loop = loop
        self.launcher: Launcher = launcher or DirectLauncher(loop)
        self.concurrency = concurrency
        self.late = 0  # runs that waited for longer than their interval
        self._ready: deque[_Run] = deque()
        self._running: set[_Run] = set()
        self._killed: list[Running] = []  # until reap()
        self._starting = Starting(loop, self._may_start, self._start_next)
        self._late_logged_at = -WAITING_LOG_S

    def watch(self, track: Track, take: Take) -> Callable[[], None]:
        """Runs a track's script in rounds; `take` gets each result.

        Returns what ends that, after which reap() has to follow.
        """
        assert isinstance(track, ScriptTrack)
        current: _Run | None = None

        def begin(end: Callable[[], None]) -> None:
            nonlocal current
            current = _Run(self, track, take, end)
            self._ready.append(current)
            self._starting.soon()

        rounds = Rounds(self.loop, track.interval_s, begin)

        def stop() -> None:
            rounds.stop()
            if current is not None:
                self._give_up(current)

        return stop

    def set_concurrency(self, concurrency: int) -> None:
        """Runs so many at once from now on."""
        self.concurrency = concurrency
        self._starting.soon()

    def close(self) -> None:
        """Kills every script that runs, with its children."""
        self._ready.clear()
        for run in list(self._running):
            self._give_up(run)
        self.reap()

    def reap(self) -> None:
        """Waits for the end of the scripts that were killed, not for each after the other."""
        reap(self._killed)
        self._killed.clear()

    def ended(self, run: _Run) -> None:
        """Handles that a run has ended: the next one may start."""
        self._running.discard(run)
        self._starting.soon()

    def _give_up(self, run: _Run) -> None:
        self._killed += run.abandon()
        if run in self._ready:
            self._ready.remove(run)
        self.ended(run)

    def _may_start(self) -> bool:
        return bool(self._ready) and len(self._running) < self.concurrency

    def _start_next(self) -> None:
        run = self._ready.popleft()
        self._note_wait(run)
        self._running.add(run)
        run.start()

    def _note_wait(self, run: _Run) -> None:
        now = self.loop.time()
        if now - run.ready_at <= run.track.interval_s:
            return
        self.late += 1
        if now - self._late_logged_at >= WAITING_LOG_S:
            self._late_logged_at = now
            logger.warning(
                "track %s: its script waited %.1f s for others to end: track_concurrency = %d is"
                " reached (%d times so far)",
                run.track.name,
                now - run.ready_at,
                self.concurrency,
                self.late,
            )


class _Run:
    """One run of a script."""

    def __init__(
        self, scripts: Scripts, track: ScriptTrack, take: Take, end: Callable[[], None]
    ) -> None:
        self.track = track
        self.ready_at = scripts.loop.time()
        self._scripts = scripts
        self._take = take
        self._end = end
        self._output = b""
        self._child: Running | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._timed_out = False

    def start(self) -> None:
        loop, track = self._scripts.loop, self.track
        self._started_at = loop.time()
        path, *more = track.script
        try:
            self._child = self._scripts.launcher.launch(
                Program(path, None, tuple(more)),
                {"CARP_TRACK": track.name},
                self._on_output,
                self._on_exit,
                self._on_failed,
                leaves_nothing=True,
            )
        except ChildError as error:
            self._on_failed(error)
            return
        self._timers.append(loop.call_later(track.timeout_s, self._on_timeout))

    def abandon(self) -> list[Running]:
        """Kills it now, with its children; nothing is reported. Returns what is to be reaped."""
        self._cancel_timers()
        if self._child is None:
            return []
        child, self._child = self._child, None
        child.abandon()
        return [child]

    def _on_output(self, data: bytes) -> None:
        self._output = (self._output + data)[-OUTPUT_BYTES_MAX:]

    def _on_timeout(self) -> None:
        assert self._child is not None
        self._timed_out = True
        text = f"not finished within {self.track.timeout_s:g} s"
        self._take(self._result(False, text))  # however it ends
        self._child.terminate()
        self._timers.append(self._scripts.loop.call_later(KILL_AFTER_S, self._on_deaf))

    def _on_deaf(self) -> None:
        assert self._child is not None
        self._child.kill(signal.SIGKILL)

    def _on_exit(self, exit_status: int) -> None:
        took_s = self._scripts.loop.time() - self._started_at
        text = f"{ending(exit_status)} after {took_s:.2f} s"
        self._done(None if self._timed_out else self._result(exit_status == 0, text))

    def _on_failed(self, error: ChildError) -> None:
        # A script that cannot be run any more says nothing about what it checks.
        known = self._timed_out or isinstance(error, LauncherEnded)
        self._done(None if known else Result(False, str(error)))

    def _result(self, ok: bool, text: str) -> Result:
        lines = printable(self._output)[-OUTPUT_LINES_MAX:]
        text = f"{text}: {lines[-1]}" if lines else text
        took_s = self._scripts.loop.time() - self._started_at
        return Result(ok, text, output=tuple(lines), took_s=took_s)

    def _done(self, result: Result | None) -> None:
        self._cancel_timers()
        self._child = None  # they refer to each other, and there are hundreds a second
        self._scripts.ended(self)
        if result is not None:
            self._take(result)
        self._end()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
