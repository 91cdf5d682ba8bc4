"""Files that a running daemon leaves: its process id, and the addresses that it may have added.

Must not know how others use them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path

from carp_fast.closing import Closing
from carp_fast.daemon.process import StartError
from carp_fast.net.addresses import StateFile

logger = logging.getLogger(__name__)

PID_BYTES_MAX = 20


class PidFile(Closing):
    """The file of `--pid-file`; without a path, none.

    It is locked for as long as the daemon runs, so that another daemon does not overwrite it. One
    that a crash left is not locked, and taken over. Closing removes the file. `comes`: another
    process has it open and locked, and passes it on, see adopt().
    """

    def __init__(self, path: Path | None, *, comes: bool = False) -> None:
        self._path = path
        self._comes = comes
        self._descriptor = -1

    def open(self) -> None:
        """Opens and locks the file. Raises StartError, also if another process holds it."""
        if self._path is None or self._descriptor >= 0 or self._comes:
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartError(f"pid file {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = error.strerror
            if isinstance(error, BlockingIOError):
                other = os.read(descriptor, PID_BYTES_MAX).decode("ascii", "replace").strip()
                text = f"process {other or '(starting)'} is running with it"
            os.close(descriptor)
            raise StartError(f"pid file {self._path}: {text}") from None
        self._descriptor = descriptor

    def write(self) -> None:
        """Writes the process id, after open() if that was not called. Raises StartError."""
        self.open()
        if self._descriptor < 0:
            return
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise StartError(f"pid file {self._path}: {error.strerror}") from error

    def fileno(self) -> int:
        """The locked file's descriptor; -1 without one."""
        return self._descriptor

    def adopt(self, descriptor: int) -> None:
        """Goes on with the file that another process locked and passed on; rewrite() follows."""
        if self._path is None:  # this process was started without one
            os.close(descriptor)
        else:
            self._descriptor = descriptor

    def rewrite(self) -> None:
        """Writes this process's id into an adopted file; an error is logged."""
        if self._descriptor < 0:
            return
        try:
            text = f"{os.getpid()}\n".encode()
            # In one write, and longer ones before are cut off after it: no reader finds nothing.
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))
        except OSError as error:
            logger.error("pid file %s: %s", self._path, error.strerror)

    def leave(self) -> None:
        """Closes the file without removing it: another process has it now."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Removes the file if it was opened here and is still this one; empties it where a former
        right to do so is gone.
        """
        if self._descriptor < 0 or self._path is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            if os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1


class Held:
    """The addresses that may have been added, by interface, for the next run to find.

    `file`: where they are recorded; None: nowhere.
    """

    def __init__(self, file: StateFile | None) -> None:
        self._file = file

    def read(self) -> dict[str, list[str]]:
        """What the last run wrote."""
        return {} if self._file is None else self._file.read()

    def write(self, *held: dict[str, list[str]]) -> None:
        """Records all of these, before the first is added. Raises StartError."""
        if self._file is None:
            return
        every: dict[str, set[str]] = {}
        for part in held:
            for name, texts in part.items():
                every.setdefault(name, set()).update(texts)
        try:
            self._file.record(every)
        except OSError as error:
            raise StartError(f"state file {self._file.path}: {error.strerror}") from error
