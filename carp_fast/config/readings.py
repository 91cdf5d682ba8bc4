"""Files as a configuration was read from them, and whether they stayed as they were meanwhile.

Holds what was read, not what it means. Must not know TOML, tables, or what is a fault of a value.
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

# A file that is younger may be half written: who writes it gets this long to go on.
SETTLE_S = 0.1
# The kernel's clock of files: a change this soon after another may leave no trace.
GRANULE_S = 0.02
READINGS_MAX = 20  # in a row, of files that change each time
PIPE_WAIT_S = 5.0  # for what comes out of a pipe


class _Stamp(NamedTuple):
    device: int
    inode: int
    size: int
    modified_ns: int


class Readings:
    """The files of one run over a configuration.

    Each is expected before it is read, so that one which appears later is a change, too.
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
        """Whether each file ends in a line end, as one that was cut off mostly does not; and how
        many files each pattern of `include` matched.
        """
        return self._ended, {pattern: len(names) for (pattern, _), names in self._globs.items()}

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        """The content of a file of the configuration. Raises OSError."""
        self.expect(path)
        with open(path, "rb", opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            content = file.read() if stat.S_ISREG(status.st_mode) else _drain(file.fileno())
        if stat.S_ISFIFO(status.st_mode) and not content:
            raise OSError(None, "a pipe that gives nothing")
        self.note(path, status, content)
        return content, status

    def expect(self, path: Path) -> None:
        """A file is about to be read, which may fail."""
        self._stamps[path] = None

    def note(self, path: Path, status: os.stat_result, content: bytes) -> None:
        """An expected file was read; `status`: of the open file."""
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
                pass  # not there, or a pattern
        return names

    def settle(self) -> None:
        """Waits for as long as somebody may still be writing."""
        if self._young:
            pause(SETTLE_S)

    def changed(self) -> list[str]:
        """What is not as it was read any more: files, and patterns of `include`."""
        files = [str(path) for path, before in self._stamps.items() if _stamp_of(path) != before]
        patterns = [
            f"include = {pattern}"
            for (pattern, directory), before in self._globs.items()
            if _glob(pattern, directory) != before
        ]
        racy = ["a file that was being written"] if self._racy else []
        return files + patterns or racy


def read_settled(path: Path, read: Callable[[Readings], Result]) -> Result:
    """What `read` makes of the configuration `path`, once its files stayed as they were read.

    Raises ConfigurationError: what `read` raised of such files, or that they change each time.
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
            "%s changed while the configuration was read: read again (%d of %d)",
            ", ".join(changed[:3]),
            count,
            READINGS_MAX,
        )
        known = readings.paths
    text = f"changed each of {READINGS_MAX} times that it was read; allowed: files at rest"
    raise ConfigurationError((Fault(", ".join(changed[:3]), None, None, None, text),))


def pause(seconds: float) -> None:
    """Sleeps as time.sleep does, but not until an absolute time: libfaketime refuses that."""
    select.poll().poll(seconds * 1e3)


def _wait_for(paths: Iterable[Path]) -> None:
    """Waits until none of these files is young, SETTLE_S at most."""
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
    """None: there is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _stamp(status) if stat.S_ISREG(status.st_mode) else None


def open_without_waiting(path: str, flags: int) -> int:
    """An opener for open(): it never waits for the other end of a pipe."""
    # A FIFO in place of the file would otherwise hold the daemon until somebody writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def _drain(descriptor: int) -> bytes:
    """All that a pipe or a device gives. Raises OSError where nothing comes for PIPE_WAIT_S."""
    pieces: list[bytes] = []
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    while True:
        if not ready.poll(PIPE_WAIT_S * 1e3):
            raise TimeoutError(None, f"nothing came out of this pipe for {PIPE_WAIT_S:g} s")
        piece = os.read(descriptor, 1 << 20)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
