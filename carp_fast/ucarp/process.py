"""The process as ucarp's users know it: its name and arguments in ps, and running in the
background.

Must not know options, logging or the daemon. Everything here happens before the first thread: the
two forks of `detach` are the only ones in carp-fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Sequence

PR_SET_NAME = 15
ARG_START_FIELD, ARG_END_FIELD = 48, 49  # of /proc/PID/stat, counted from 1
STARTED, FAILED = b"+", b"-"
MESSAGE_BYTES_MAX = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def rename(name: str, arguments: Sequence[str]) -> None:
    """Sets the process's name, of which the kernel keeps 15 bytes, and its arguments.

    `arguments` begins with the program's name. They overwrite those that the kernel put on the
    stack, which ps, pidof and /proc/PID/cmdline show; longer ones are cut, shorter ones filled up
    with NULs. The library setproctitle would leave one text without NULs between the arguments,
    which pidof, `carp-fast import` and the search for other ucarps could not split, and it would
    overwrite the environment, too.
    """
    _libc.prctl(PR_SET_NAME, os.fsencode(name), 0, 0, 0)
    start, end = _arguments_at()
    if end <= start:
        return  # the kernel does not report where they are, so they cannot be hidden
    text = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    text = text[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))


def _arguments_at() -> tuple[int, int]:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # The name in parentheses was field 2, so the first of these is field 3.
    return int(fields[ARG_START_FIELD - 3]), int(fields[ARG_END_FIELD - 3])


class Waiting:
    """The process in the foreground that waits until the daemon has started or failed."""

    def __init__(self, write_fd: int | None = None) -> None:
        self._write_fd = write_fd

    def started(self) -> None:
        self._send(STARTED)

    def failed(self, text: str) -> None:
        self._send(FAILED + text.encode("utf-8", "replace")[:MESSAGE_BYTES_MAX])

    def _send(self, message: bytes) -> None:
        if self._write_fd is not None:
            with contextlib.suppress(BrokenPipeError):  # the waiting process was killed
                os.write(self._write_fd, message)
            os.close(self._write_fd)
            self._write_fd = None


def detach(report: Callable[[str], None]) -> Waiting:
    """Continues in the background: another session, `/`, /dev/null for stdin, stdout and stderr.

    Returns only there. The process in the foreground waits until `started` or `failed` is called on
    the result, and exits: with 0 after `started`, otherwise with 2 after passing the reason to
    `report`.
    """
    read_fd, write_fd = os.pipe()
    if os.fork():
        os.close(write_fd)
        _await_result(read_fd, report)
    os.close(read_fd)
    os.setsid()
    if os.fork():
        os._exit(0)  # a session leader could acquire a terminal again
    os.chdir("/")
    null_fd = os.open(os.devnull, os.O_RDWR)
    for standard_fd in (0, 1, 2):
        os.dup2(null_fd, standard_fd)
    if null_fd > 2:
        os.close(null_fd)
    return Waiting(write_fd)


def _await_result(read_fd: int, report: Callable[[str], None]) -> None:
    """Waits for the result and exits; never returns."""
    word = b""
    while not word.startswith(STARTED) and (part := os.read(read_fd, MESSAGE_BYTES_MAX)):
        word += part
    if not word.startswith(STARTED):
        report(word[1:].decode("utf-8", "replace") or "exited before it had started")
        sys.stderr.flush()
    os._exit(0 if word.startswith(STARTED) else 2)
