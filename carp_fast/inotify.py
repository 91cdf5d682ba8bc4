"""Changes of files as the kernel reports them: inotify, and which directories to watch for a path.

A path changes with everything on the way to it: a directory that comes into being, a link that
points elsewhere, a file that an editor renames over another. So every directory on the way is
watched for the one name in it that matters. Must not know what is in a file.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import stat
import struct
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE = 0x2, 0x4, 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_DELETE_SELF, IN_MOVE_SELF = 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED = 0x4000, 0x8000
IN_ONLYDIR, IN_MASK_ADD = 0x1000000, 0x20000000
COMES_OR_GOES = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
# Of every directory on the way, and of the one with a file whose content matters: reports of what
# other programs write beside it wake this one for nothing.
OF_A_STEP = COMES_OR_GOES | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
OF_CONTENT = OF_A_STEP | IN_MODIFY | IN_CLOSE_WRITE

EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name that follows
READ_BYTES = 65_536
LINKS_MAX = 40  # the kernel follows as many
SETTLE_S = 0.2  # a file being written is looked at this long after a write, or when it is closed
POLL_S = 1.0  # between two looks at every path where the kernel does not watch

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def steps_of(path: str) -> list[tuple[str, str]]:
    """(directory, name) of each step on the way to an absolute path, links included.

    Ends with the first step that does not exist, or with the file.
    """
    steps: list[tuple[str, str]] = []
    left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    here, links = "/", 0
    while left:
        name = left.pop()
        if name == "..":
            here = os.path.dirname(here)  # noqa: PTH120 (of text, not of a file)
            continue
        steps.append((here, name))
        there = os.path.join(here, name)  # noqa: PTH118
        try:
            mode = os.lstat(there).st_mode
            target = os.readlink(there) if stat.S_ISLNK(mode) else None  # noqa: PTH115
        except OSError:
            return steps
        if target is None:
            here = there
        else:
            links += 1
            if links > LINKS_MAX:
                return steps
            left += [part for part in reversed(target.split("/")) if part not in ("", ".")]
            here = "/" if target.startswith("/") else here
    return steps


class _Path:
    """A path that is followed: `on_change` is called when what is there may be another."""

    def __init__(self, path: str, on_change: Callable[[], None], content: bool) -> None:
        self.path = path
        self.on_change = on_change
        self.content = content
        self.steps: list[tuple[str, str]] = []
        self.timer: asyncio.TimerHandle | None = None


class Paths:
    """Follows paths. Without inotify it looks at every path each POLL_S, and logs that.

    All methods must be called on the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = -1
        # The kernel has one watch for a directory, however many paths lead to it (bind mounts).
        self._watches: dict[int, set[str]] = {}
        self._of_directory: dict[str, tuple[int, int]] = {}  # its watch, and the watch's mask
        # What is followed in each directory, by name.
        self._followed: dict[str, dict[str, set[_Path]]] = {}
        self._every: set[_Path] = set()
        self._polling: asyncio.TimerHandle | None = None

    @property
    def polls(self) -> bool:
        """Whether it looks at every path each POLL_S, because there is no inotify."""
        return self._polling is not None

    def follow(
        self, path: str, on_change: Callable[[], None], *, content: bool = True
    ) -> Callable[[], None]:
        """Calls `on_change` whenever what is at the path may have changed, from now on. Without
        `content` it need not be called for what is written to the file.

        Returns what ends that. The caller looks at the path itself first, after this call.
        """
        followed = _Path(path, on_change, content)
        self._every.add(followed)
        self._open()
        self._watch_way(followed)

        def stop() -> None:
            self._every.discard(followed)
            self._leave(followed)
            if followed.timer is not None:
                followed.timer.cancel()
            if not self._every:
                self.close()

        return stop

    def close(self) -> None:
        """Watches nothing from now on."""
        if self._polling is not None:
            self._polling.cancel()
            self._polling = None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._watches.clear()
        self._of_directory.clear()
        self._followed.clear()

    def _open(self) -> None:
        if self._fd >= 0 or self._polling is not None:
            return
        try:
            self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            self._poll_because(error)
        else:
            self._loop.add_reader(self._fd, self._read)

    def _poll_because(self, error: OSError) -> None:
        if self._polling is None:
            logger.warning(
                "files are looked at every %g s, since inotify is not available: %s",
                POLL_S,
                error.strerror,
            )
            self._polling = self._loop.call_later(POLL_S, self._poll)

    def _poll(self) -> None:
        self._polling = self._loop.call_later(POLL_S, self._poll)
        for followed in list(self._every):
            followed.on_change()

    # -- which directories to watch

    def _watch_way(self, followed: _Path) -> None:
        """Watches every directory on the way; again if it changed before all were watched."""
        for _ in range(LINKS_MAX):
            steps = steps_of(followed.path)
            if steps == followed.steps:
                return
            self._leave(followed)
            followed.steps = steps
            for directory, name in steps:
                self._followed.setdefault(directory, {}).setdefault(name, set()).add(followed)
                last = (directory, name) == steps[-1]
                self._watch(directory, OF_CONTENT if last and followed.content else OF_A_STEP)

    def _watch(self, directory: str, mask: int) -> None:
        _, watched = self._of_directory.get(directory, (-1, 0))
        if mask & ~watched == 0 or self._fd < 0:
            return
        mask |= watched
        try:
            path = os.fsencode(directory)
            watch = _checked(_libc.inotify_add_watch(self._fd, path, mask | IN_MASK_ADD))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # the next look finds that
                self._poll_because(error)
            return
        before = self._unwatch(directory)
        if before not in (None, watch):  # another directory was there
            _libc.inotify_rm_watch(self._fd, before)
        self._watches.setdefault(watch, set()).add(directory)
        self._of_directory[directory] = watch, mask

    def _unwatch(self, directory: str) -> int | None:
        """Forgets a directory. Returns its watch if that is of no use any more."""
        watch, _ = self._of_directory.pop(directory, (-1, 0))
        directories = self._watches.get(watch, set())
        directories.discard(directory)
        if directories:
            return None
        return watch if self._watches.pop(watch, None) is not None else None

    def _leave(self, followed: _Path) -> None:
        for directory, name in followed.steps:
            names = self._followed.get(directory, {})
            names.get(name, set()).discard(followed)
            if not names.get(name):
                names.pop(name, None)
            if not names:
                self._followed.pop(directory, None)
                watch = self._unwatch(directory)
                if watch is not None:
                    _libc.inotify_rm_watch(self._fd, watch)
        followed.steps = []

    # -- what has changed

    def _read(self) -> None:
        changed: dict[_Path, bool] = {}  # whether to look immediately
        while self._fd >= 0:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                break
            for watch, mask, name in _events(data):
                self._note(watch, mask, name, changed)
        for followed, at_once in changed.items():
            self._look(followed, at_once)

    def _note(self, watch: int, mask: int, name: str, changed: dict[_Path, bool]) -> None:
        if mask & IN_Q_OVERFLOW:
            # The loss of a directory may be among the lost events: watch every way again.
            for each in self._every:
                self._leave(each)
            changed.update(dict.fromkeys(self._every, True))
            return
        directories = tuple(self._watches.get(watch, ()))
        if not directories:
            return
        concerned = {
            each
            for directory in directories
            for each in self._followed.get(directory, {}).get(name, ())
        }
        if mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED):
            # The directory is another one, or none: the way is watched again.
            concerned = set()
            for directory in directories:
                self._unwatch(directory)
                concerned.update(*self._followed.get(directory, {}).values())
            if not mask & IN_IGNORED:
                _libc.inotify_rm_watch(self._fd, watch)
            for each in concerned:
                self._leave(each)
        for followed in concerned:
            at_once = bool(mask & ~(IN_MODIFY | IN_ATTRIB))
            changed[followed] = changed.get(followed, False) or at_once

    def _look(self, followed: _Path, at_once: bool) -> None:
        if followed not in self._every:
            return
        if at_once:
            self._changed(followed)
        elif followed.timer is None:
            followed.timer = self._loop.call_later(SETTLE_S, self._changed, followed)

    def _changed(self, followed: _Path) -> None:
        if followed.timer is not None:
            followed.timer.cancel()
            followed.timer = None
        self._watch_way(followed)
        followed.on_change()


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    """(watch, mask, name) of each event."""
    at = 0
    while at < len(data):
        watch, mask, _, length = EVENT.unpack_from(data, at)
        name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
        yield watch, mask, os.fsdecode(name)
        at += EVENT.size + length
