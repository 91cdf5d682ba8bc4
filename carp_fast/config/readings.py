"""Reads the files of a configuration and detects that they change while they are read.

Must not know TOML, tables, or what is a fault of a value.
"""

from __future__ import annotations

import glob
import logging
import os
import select
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from carp_fast.config.model import ConfigurationError, Fault

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# A file changed less than this ago may be half written: its writer gets this long to continue.
SETTLE_S = 0.1
# Resolution of file times: a change this soon after another may leave the time as it is.
GRANULE_S = 0.02
READINGS_MAX = 20  # attempts while files change during each of them
PIPE_WAIT_S = 5.0  # for data from a pipe


class _Stamp(NamedTuple):
    device: int
    inode: int
    size: int
    modified_ns: int


class Readings:
    """The files of one run over a configuration.

    Each is expected before it is read, so that a file that appears later counts as a change.
    """

    def __init__(self) -> None:
        self._ended: dict[Path, bool] = {}
        self._stamps: dict[Path, _Stamp | None] = {}
        self._globs: dict[tuple[str, Path], list[str]] = {}
        self._young = False
        self._racy = False

    @property
    def paths(self) -> list[Path]:
        """Every file that was read, or should have been."""
        return list(self._stamps)

    def found(self) -> tuple[dict[Path, bool], dict[str, int]]:
        """`ended` and `patterns` of a Configuration.

        A truncated file mostly does not end with a newline.
        """
        return self._ended, {pattern: len(names) for (pattern, _), names in self._globs.items()}

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        """The content of a file of the configuration. Raises OSError."""
        self.expect(path)
        with open(path, "rb", opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            content = file.read() if stat.S_ISREG(status.st_mode) else _drain(file.fileno())
        if stat.S_ISFIFO(status.st_mode) and not content:
            raise OSError(None, "a pipe that gives no data")
        self.note(path, status, content)
        return content, status

    def expect(self, path: Path) -> None:
        """Notes that a file is about to be read, which may fail."""
        self._stamps[path] = None

    def note(self, path: Path, status: os.stat_result, content: bytes | bytearray) -> None:
        """Notes that an expected file was read; `status`: of the open file."""
        if not stat.S_ISREG(status.st_mode):
            return  # a pipe gives its content once
        self._stamps[path] = _stamp(status)
        age_s = time.time() - status.st_mtime
        self._young |= 0 <= age_s < SETTLE_S
        self._racy |= 0 <= age_s < GRANULE_S
        self._ended[path] = content.endswith(b"\n")

    def match(self, pattern: str, directory: Path) -> list[str]:
        """The names that a pattern of `include` matches, sorted."""
        names = _glob(pattern, directory)
        self._globs[pattern, directory] = names
        # An editor may have renamed a file, and not yet have written the new one.
        for folder in {(directory / name).parent for name in [pattern, *names]}:
            try:
                self._young |= 0 <= time.time() - folder.stat().st_mtime < SETTLE_S
            except OSError:
                pass  # does not exist, or is a pattern
        return names

    def settle(self) -> None:
        """Waits SETTLE_S if a file is so young that it may still be written."""
        if self._young:
            pause(SETTLE_S)

    def changed(self) -> list[str]:
        """Names of files and patterns of `include` that have changed since they were read."""
        files = [str(path) for path, before in self._stamps.items() if _stamp_of(path) != before]
        patterns = [
            f"include = {pattern}"
            for (pattern, directory), before in self._globs.items()
            if _glob(pattern, directory) != before
        ]
        racy = ["a file that was being written"] if self._racy else []
        return files + patterns or racy


def read_settled(path: Path, read: Callable[[Readings], Result]) -> Result:
    """Calls `read` until the files of the configuration `path` do not change during the call.

    Returns its result. Raises ConfigurationError: that of `read`, or when the files changed during
    each of READINGS_MAX calls.
    """
    known: Iterable[Path] = [path]
    changed: list[str] = []
    for count in range(1, READINGS_MAX + 1):
        _wait_for(known)
        readings = Readings()
        result: Result | ConfigurationError
        try:
            result = read(readings)
        except ConfigurationError as faults:
            result = faults
        readings.settle()
        changed = readings.changed()
        if not changed:
            if isinstance(result, ConfigurationError):
                raise result
            return result
        logger.info(
            "%s changed while the configuration was read: reading it again (%d of %d)",
            ", ".join(changed[:3]),
            count,
            READINGS_MAX,
        )
        known = readings.paths
    text = f"changed during each of {READINGS_MAX} attempts to read it; allowed: files at rest"
    raise ConfigurationError((Fault(", ".join(changed[:3]), None, None, None, text),))


def pause(seconds: float) -> None:
    """Sleeps. time.sleep() uses an absolute time, which libfaketime does not support."""
    select.poll().poll(seconds * 1e3)


def _wait_for(paths: Iterable[Path]) -> None:
    """Waits until none of these files is younger than SETTLE_S; SETTLE_S at most."""
    ages_s = [time.time() - stamp.modified_ns / 1e9 for path in paths if (stamp := _stamp_of(path))]
    young = [age_s for age_s in ages_s if 0 <= age_s < SETTLE_S]
    if young:
        pause(SETTLE_S - min(young))


def _glob(pattern: str, directory: Path) -> list[str]:
    # Path.glob refuses absolute patterns.
    return sorted(glob.glob(pattern, root_dir=directory))  # noqa: PTH207


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _stamp_of(path: Path) -> _Stamp | None:
    """The stamp of a file; None if there is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _stamp(status) if stat.S_ISREG(status.st_mode) else None


def open_without_waiting(path: str, flags: int) -> int:
    """An opener for open() that never waits for the other end of a pipe."""
    # A FIFO in place of the file would otherwise block the daemon until something writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def _drain(descriptor: int) -> bytes:
    """Reads a pipe or a device to its end. Raises OSError when no data comes for PIPE_WAIT_S."""
    pieces: list[bytes] = []
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    while True:
        if not ready.poll(PIPE_WAIT_S * 1e3):
            raise TimeoutError(None, f"no data came from this pipe for {PIPE_WAIT_S:g} s")
        piece = os.read(descriptor, 1 << 20)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
