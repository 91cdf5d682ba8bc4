"""Tracks by processes: by the path of their executable, by the pid in a file, or by both.

A process that runs is watched by a pidfd for its end. One that is to come is noticed by the
kernel's process events, or by a change of its pid file. Must not know what becomes of a result.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from carp_fast.config.tracks import ProcessTrack, Track
from carp_fast.inotify import Paths
from carp_fast.tracking.judging import Result
from carp_fast.tracking.process_events import ProcessEvents

logger = logging.getLogger(__name__)

PROC = Path("/proc")
POLL_S = 1.0  # between two looks at every process where the kernel reports none
PID_BYTES = 32  # of a pid file
PID_MAX = 1 << 22  # the kernel's limit; a number beyond a C int could not be passed to it
DELETED = " (deleted)"  # behind the path of an executable that was replaced or removed

Take = Callable[[Result], None]


def executable_of(pid: int) -> str | None:
    """The path of a process's executable; None if it has none, or is gone."""
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(DELETED)  # noqa: PTH115
    except OSError:
        return None


def every_pid() -> Iterator[int]:
    """The pids of all processes of this machine that /proc shows."""
    return (int(name) for name in os.listdir(PROC) if name.isdecimal())  # noqa: PTH208


def pid_in(path: str) -> int | str:
    """The pid in a file, or why there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        first = os.read(fd, PID_BYTES).split(b"\n")[0].strip()
    except OSError as error:
        return f"{path}: {error.strerror}"
    finally:
        os.close(fd)
    if not first.isdigit() or not 1 <= int(first) <= PID_MAX:
        return f"{path}: holds no pid"
    return int(first)


class _Watched:
    """A track of a process, and the pidfd of the process that it has found."""

    def __init__(self, track: ProcessTrack, take: Take) -> None:
        self.track = track
        self.take = take
        # The kernel names a file by where it is, not by links to it.
        self.real = os.path.realpath(track.executable) if track.executable else None
        self.pid = 0
        self.fd = -1


class Processes:
    """Follows the processes of tracks. All methods must be called on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        paths: Paths,
        open_events: Callable[[], ProcessEvents] = ProcessEvents,
    ) -> None:
        self._loop = loop
        self._paths = paths
        self._open_events = open_events
        self._events: ProcessEvents | None = None
        self._polling: asyncio.TimerHandle | None = None
        self._every: set[_Watched] = set()

    @property
    def polls(self) -> bool:
        """Whether it looks at every process each POLL_S, because the kernel reports none."""
        return self._polling is not None

    def watch(self, track: Track, take: Take) -> Callable[[], None]:
        """Follows a track's process; `take` gets each result. Returns what ends that."""
        assert isinstance(track, ProcessTrack)
        watched = _Watched(track, take)
        self._every.add(watched)
        if track.pid_file is not None:
            unfollow = self._paths.follow(track.pid_file, lambda: self._look(watched))
        else:
            unfollow = None
            self._follow_executions()
        self._look(watched)

        def stop() -> None:
            self._every.discard(watched)
            self._let_go(watched)
            if unfollow is not None:
                unfollow()
            if not any(each.track.pid_file is None for each in self._every):
                self._unfollow_executions()

        return stop

    def close(self) -> None:
        """Follows nothing from now on."""
        for watched in self._every:
            self._let_go(watched)
        self._every.clear()
        self._unfollow_executions()

    # -- processes that come

    def _follow_executions(self) -> None:
        if self._events is not None or self._polling is not None:
            return
        try:
            self._events = self._open_events()
        except OSError as error:
            logger.warning(
                "tracked processes are looked for every %g s, since the kernel reports none: %s",
                POLL_S,
                error.strerror or error,
            )
            self._polling = self._loop.call_later(POLL_S, self._poll)
        else:
            self._loop.add_reader(self._events.fileno(), self._on_executed)

    def _unfollow_executions(self) -> None:
        if self._events is not None:
            self._loop.remove_reader(self._events.fileno())
            self._events.close()
            self._events = None
        if self._polling is not None:
            self._polling.cancel()
            self._polling = None

    def _poll(self) -> None:
        self._polling = self._loop.call_later(POLL_S, self._poll)
        self._look_for_missing()

    def _look_for_missing(self) -> None:
        missing = [each for each in self._every if each.fd < 0 and each.track.pid_file is None]
        if missing:
            self._find(missing)

    def _on_executed(self) -> None:
        assert self._events is not None
        pids, dropped = self._events.executed()
        running: dict[int, list[_Watched]] = {}  # several tracks may follow one process
        for each in self._every:
            if each.fd >= 0:
                running.setdefault(each.pid, []).append(each)
        wanted = {each.real for each in self._every if each.fd < 0 and each.track.pid_file is None}
        for pid in pids:
            path = executable_of(pid)
            for watched in running.get(pid, ()):
                if watched.real not in (None, path):
                    self._look(watched)  # it is another program now
            if path in wanted:
                for watched in [each for each in self._every if each.fd < 0]:
                    if watched.real == path and watched.track.pid_file is None:
                        self._hold(watched, pid)
        if dropped:
            self._look_for_missing()

    # -- one process

    def _look(self, watched: _Watched) -> None:
        """Looks for a track's process again."""
        if watched not in self._every:
            return
        if watched.track.pid_file is None:
            self._let_go(watched)
            self._find([watched])
            return
        pid = pid_in(watched.track.pid_file)
        if isinstance(pid, str):
            self._miss(watched, pid)
        elif watched.fd < 0 or pid != watched.pid:
            self._let_go(watched)
            path = executable_of(pid)
            if watched.real is not None and path != watched.real:
                what = f"which runs {path}" if path else "which does not run"
                self._miss(watched, f"{watched.track.pid_file}: pid {pid}, {what}")
            else:
                self._hold(watched, pid)

    def _find(self, missing: list[_Watched]) -> None:
        """Looks through every process for these executables."""
        pids: dict[str, int] = {}
        wanted = {each.real for each in missing}
        for pid in every_pid():
            path = executable_of(pid)
            if path in wanted and path is not None:
                pids.setdefault(path, pid)
        for watched in missing:
            assert watched.real is not None
            if watched.real in pids:
                self._hold(watched, pids[watched.real])
            else:
                self._miss(watched, f"no process runs {watched.real}")

    def _hold(self, watched: _Watched, pid: int) -> None:
        try:
            watched.fd = os.pidfd_open(pid)
        except OSError as error:
            self._miss(watched, f"pid {pid}: {error.strerror}")
            return
        watched.pid = pid
        self._loop.add_reader(watched.fd, self._on_ended, watched)
        watched.take(Result(True, f"pid {pid} runs"))

    def _on_ended(self, watched: _Watched) -> None:
        pid = watched.pid
        self._let_go(watched)
        if watched.track.pid_file is None:
            self._find([watched])  # it may have left its work to a child
        else:
            self._miss(watched, f"pid {pid} has ended")

    def _miss(self, watched: _Watched, text: str) -> None:
        self._let_go(watched)
        watched.take(Result(False, text))

    def _let_go(self, watched: _Watched) -> None:
        if watched.fd >= 0:
            self._loop.remove_reader(watched.fd)
            os.close(watched.fd)
            watched.fd, watched.pid = -1, 0
