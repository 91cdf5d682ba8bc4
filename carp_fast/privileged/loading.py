"""A loader as the helper sees it: started ahead of time, asked once, and its outcome taken.

Must not know messages, nor what an outcome says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess

from carp_fast.errors import CarpFastError
from carp_fast.privileged.start import LOADER, command
from carp_fast.programs.memory import SEALS, created
from carp_fast.programs.spawning import ending


class LoadingError(CarpFastError):
    """Raised when a loader gave nothing that can be used; the text says why."""


class Loader:
    """A loader's process; `pidfd` is readable once it has ended. Raises OSError."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:
            found = []
            for name in ("outcome", "table"):
                found.append(created(name))
                opened.callback(os.close, found[-1])
            words = [*command(LOADER), *map(str, found)]
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, bufsize=0, pass_fds=found
            )
            opened.callback(self._kill)
            self.pidfd = os.pidfd_open(self._process.pid)
            opened.callback(os.close, self.pidfd)
            self._outcome_fd, self._table_fd = found
            self._opened = opened.pop_all()

    def ask(self, path: bytes) -> None:
        """Has it read this configuration; only once."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which pidfd tells
            self._process.stdin.write(path)
        self._process.stdin.close()

    def take(self) -> tuple[int, bytes]:
        """(sealed outcome, table) of one that has ended; the table is empty if there were faults.

        The caller has to close the outcome. Raises LoadingError and OSError.
        """
        status = self._process.wait()
        if status or not os.fstat(self._outcome_fd).st_size:
            raise LoadingError(f"what reads it gave no result: {ending(status)}")
        table = content(self._table_fd)
        fcntl.fcntl(self._outcome_fd, fcntl.F_ADD_SEALS, SEALS)
        return os.dup(self._outcome_fd), table

    def close(self) -> None:
        """Kills it if it still runs, and forgets what it found."""
        self._opened.close()

    def _kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def content(descriptor: int) -> bytes:
    """All that a memory file holds."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
