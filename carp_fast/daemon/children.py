"""A program started by the daemon: without a fork, watched by the loop, its output read as it
comes.

Holds `Child`. Must not know what the program is for: hooks and notify are built on this.

`subprocess.Popen` uses vfork as long as no code has to run in the child (preexec_fn, user, group);
a session of its own needs none. A fork would copy the page tables of the whole daemon and slow the
pump by the page faults after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from carp_fast.errors import CarpFastError

READ_BYTES = 65_536  # the size of a pipe: one read empties it
REAP_S = 1.0  # how long to wait for a killed process; after that it is left to init

# systemd sets these for the daemon only.
SYSTEMD_VARIABLES = (
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


class ChildError(CarpFastError):
    """Raised when a program could not be started; one line says which and why."""


def inherited_environment() -> dict[str, str]:
    """The daemon's environment without the variables that systemd sets for the daemon only."""
    return {key: value for key, value in os.environ.items() if key not in SYSTEMD_VARIABLES}


def printable(output: bytes) -> list[str]:
    """Splits output into log lines; control characters are escaped.

    So a program cannot forge lines or send escape sequences to a terminal.
    """
    lines = output.decode("utf-8", "replace").replace("\t", " ").splitlines()
    return [
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        for line in lines
        if line.strip()
    ]


def ending(exit_status: int) -> str:
    """How a process ended, in words; `exit_status` is that of subprocess."""
    if exit_status >= 0:
        return f"exit status {exit_status}"
    try:
        return f"killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"killed by signal {-exit_status}"


class Child:
    """A running program in a session, and so a process group, of its own.

    `on_output(data)` gets what it writes on stdout and stderr; `on_exit(exit_status)` is called
    once, after all its output, negative for a signal. Processes that it leaves in the background
    are left alone, but can no longer write to our pipe. Everything happens on the loop's thread.

    Raises ChildError.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        on_output: Callable[[bytes], None],
        on_exit: Callable[[int], None],
        *,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self._loop = loop
        self._on_output = on_output
        self._on_exit = on_exit
        try:
            self._process = subprocess.Popen(
                arguments,
                env=environment,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise ChildError(_reason(arguments[0], error)) from None
        self.pid = self._process.pid
        try:
            self._exit_fd = os.pidfd_open(self.pid)
        except OSError as error:  # no descriptor left
            self.kill(signal.SIGKILL)
            self._close_stdout()
            self.close_stdin()
            self._reap()
            raise ChildError(f"cannot watch {arguments[0]}: {error.strerror}") from None
        assert self._process.stdout is not None
        self._output_fd = self._process.stdout.fileno()
        os.set_blocking(self._output_fd, False)
        loop.add_reader(self._output_fd, self._read)
        loop.add_reader(self._exit_fd, self._ended)
        self.running = True
        self._kill_rest = False  # its group, once the program itself has ended

    @property
    def stdin_fd(self) -> int:
        """The non-blocking end of a standard input requested by `stdin=subprocess.PIPE`."""
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        return self._process.stdin.fileno()

    def close_stdin(self) -> None:
        """Closes the program's standard input; a second call does nothing."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self, number: signal.Signals) -> None:
        """Sends the signal to the program and its children, except those that left its group."""
        if self._process.returncode is not None:
            return  # reaped: the number may belong to another process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM, and SIGKILL to the rest of its group once the program has ended."""
        self._kill_rest = True
        self.kill(signal.SIGTERM)

    def abandon(self) -> None:
        """Kills it now and stops watching it; `on_exit` is not called."""
        if self.running:
            self.kill(signal.SIGKILL)
            self._unwatch()
            self.close_stdin()
            self._reap()

    def _read(self) -> None:
        try:
            data = os.read(self._output_fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._on_output(data)
        else:
            self._loop.remove_reader(self._output_fd)

    def _ended(self) -> None:
        self._read()  # its last output
        if self._kill_rest:
            # Before it is reaped: until then the number of its group cannot be reused.
            self.kill(signal.SIGKILL)
        self._unwatch()
        exit_status = self._process.wait()  # immediate: the pidfd is ready
        # A watch on the other end of stdin must end before that is closed.
        self._on_exit(exit_status)
        self.close_stdin()

    def _unwatch(self) -> None:
        self.running = False
        self._loop.remove_reader(self._output_fd)
        self._loop.remove_reader(self._exit_fd)
        os.close(self._exit_fd)
        self._close_stdout()

    def _close_stdout(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _reap(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_S)


def _reason(program: str, error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, FileNotFoundError) and Path(program).exists():
        text = "the interpreter that its first line names does not exist"
    elif isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        text += " (a script needs a first line such as #!/bin/sh)"
    return f"cannot start {program}: {text}"
