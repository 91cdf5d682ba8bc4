"""Tracks by processes: by the path of their executable, by the pid in a file, or by both.

A process that runs is watched by a pidfd for its end. One that is to come is noticed by the
kernel's process events, or by a change of its pid file. Must not know what becomes of a result.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
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


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


class _Watched:
    """A track of a process, and the pidfd of the process that it has found."""

    def __init__(self, track: ProcessTrack, take: Take) -> None:
        self.track = track
        self.take = take
        # The kernel names a file by where it is, not by links to it.
        self.real = os.path.realpath(track.executable) if track.executable else None
        self.pid = 0
        self.fd = -1

    @property
    def by_executable(self) -> bool:
        """Whether a process is looked for by its executable alone."""
        return self.track.pid_file is None


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
        unfollow = None
        if track.pid_file is not None:
            unfollow = self._paths.follow(track.pid_file, lambda: self._look(watched))
        if watched.real is not None:
            self._follow_executions()
        self._look(watched)

        def stop() -> None:
            self._every.discard(watched)
            self._let_go(watched)
            if unfollow is not None:
                unfollow()
            if not any(each.real for each in self._every):
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
        self._look_again()

    def _look_again(self) -> None:
        """Looks for what is missing, and whether processes still run what they should."""
        missing = []
        for each in list(self._every):
            if each.by_executable and each.fd < 0:
                missing.append(each)
            elif each.real is not None:
                self._look(each)
        if missing:
            self._find(missing)

    def _on_executed(self) -> None:
        assert self._events is not None
        pids, dropped = self._events.executed()
        running: dict[int, list[_Watched]] = {}  # several tracks may follow one process
        wanted: dict[str, list[_Watched]] = {}
        for each in self._every:
            if each.fd >= 0:
                running.setdefault(each.pid, []).append(each)
            elif each.real is not None:
                wanted.setdefault(each.real, []).append(each)
        for pid in pids:
            path = executable_of(pid)
            for watched in running.get(pid, ()):
                if watched.real not in (None, path):
                    self._look(watched)  # it is another program now
            for watched in wanted.get(path or "", ()):
                if watched.fd >= 0:
                    continue  # found already, by an event before this one
                if watched.by_executable:
                    self._hold(watched, pid)
                else:
                    self._look(watched)
        if dropped:
            self._look_again()

    # -- one process

    def _look(self, watched: _Watched) -> None:
        """Looks for a track's process again, unless the one that it has is still the right one."""
        if watched not in self._every:
            return
        if watched.track.pid_file is None:
            if not self._still_runs(watched):
                self._find([watched])
            return
        pid = pid_in(watched.track.pid_file)
        if isinstance(pid, str):
            self._miss(watched, pid)
            return
        if pid == watched.pid and self._still_runs(watched):
            return
        why_not = self._hold(watched, pid)
        if why_not is not None:
            self._miss(watched, f"{watched.track.pid_file}: {why_not}")

    def _still_runs(self, watched: _Watched) -> bool:
        """Whether it has a process, which runs what it should. One that ended is noticed later."""
        if watched.fd < 0:
            return False
        return watched.real is None or executable_of(watched.pid) == watched.real

    def _find(self, missing: list[_Watched]) -> None:
        """Looks through every process for these executables."""
        pids: dict[str, list[int]] = {each.real: [] for each in missing if each.real is not None}
        for pid in every_pid():
            path = executable_of(pid)
            if path in pids:
                pids[path].append(pid)
        for watched in missing:
            assert watched.real is not None
            if all(self._hold(watched, pid) for pid in pids[watched.real]):
                self._miss(watched, f"no process runs {watched.real}")

    def _hold(self, watched: _Watched, pid: int) -> str | None:
        """Watches a process. Returns why not, if it has ended meanwhile or runs something else."""
        self._let_go(watched)
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return f"pid {pid}, which does not run"
        except OSError as error:
            return f"pid {pid}: {error.strerror}"
        path = executable_of(pid)
        # What was read is about this process only if it still runs: the pid may be in use again.
        ended = _has_ended(fd)
        if ended or watched.real not in (None, path):
            os.close(fd)
            what = "which does not run" if ended or path is None else f"which runs {path}"
            return f"pid {pid}, {what}"
        watched.fd, watched.pid = fd, pid
        self._loop.add_reader(watched.fd, self._on_ended, watched)
        watched.take(Result(True, f"pid {pid} runs"))
        return None

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
