"""Programs that are children of this process: watched by the loop, their output read as it comes.

Holds `Child` and `InheritingChild`. Must not know what the program is for, or who may start one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from carp_fast.programs.spawning import ChildError, kill_group, spawn, spawn_inheriting

READ_BYTES = 65_536  # the size of a pipe: one read empties it
REAP_S = 1.0  # for one that cannot be watched


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


class _Watched(ABC):
    """A child that is watched by the loop, until it ends or is left."""

    running = False
    _process: subprocess.Popen[bytes]

    @abstractmethod
    def kill(self, number: signal.Signals) -> None: ...

    @abstractmethod
    def leave(self) -> None: ...

    def abandon(self) -> None:
        """Kills it now and stops watching it; `on_exit` is not called. reap() has to follow."""
        if self.running:
            self.kill(signal.SIGKILL)
            self.leave()

    def reap(self, timeout_s: float) -> None:
        """Waits for the end of a killed process, at most for so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)


class Child(_Watched):
    """A running program of spawn(); see there for its surroundings.

    `on_output(data)` gets what it writes on stdout and stderr; `on_exit(exit_status)` is called
    once, after all its output, negative for a signal. Processes that it leaves in the background
    are left alone, but can no longer write to our pipe; with `leaves_nothing` they are killed.
    Everything happens on the loop's thread.

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
        leaves_nothing: bool = False,
    ) -> None:
        self._loop = loop
        self._on_output = on_output
        self._on_exit = on_exit
        self._process = spawn(arguments, environment, stdin=stdin)
        self.pid = self._process.pid
        try:
            self._exit_fd = os.pidfd_open(self.pid)
        except OSError as error:  # no descriptor left
            self.kill(signal.SIGKILL)
            self._close_stdout()
            self.close_stdin()
            self.reap(REAP_S)
            raise ChildError(f"cannot watch {arguments[0]}: {error.strerror}") from None
        assert self._process.stdout is not None
        self._output_fd = self._process.stdout.fileno()
        os.set_blocking(self._output_fd, False)
        loop.add_reader(self._output_fd, self._read)
        loop.add_reader(self._exit_fd, self._ended)
        self.running = True
        self._kill_rest = leaves_nothing  # its group, once the program itself has ended

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
        kill_group(self._process, number)

    def terminate(self) -> None:
        """Sends SIGTERM, and SIGKILL to the rest of its group once the program has ended."""
        self._kill_rest = True
        self.kill(signal.SIGTERM)

    def leave(self) -> None:
        """Stops watching it; it continues, without its pipes, and `on_exit` is not called."""
        if self.running:
            self._unwatch()
            self.close_stdin()

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


class InheritingChild(_Watched):
    """A running program of spawn_inheriting(): nothing is read from it or written to it.

    `on_exit(exit_status)` is called once. Its process group is ours, so signals go to it alone.
    Raises ChildError.
    """

    stdin_fd = -1

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        on_exit: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._on_exit = on_exit
        self._process = spawn_inheriting(arguments, environment)
        try:
            self._exit_fd = os.pidfd_open(self._process.pid)
        except OSError as error:  # no descriptor left
            raise ChildError(f"cannot watch {arguments[0]}: {error.strerror}") from None
        loop.add_reader(self._exit_fd, self._ended)
        self.running = True

    def close_stdin(self) -> None:
        """Does nothing: its standard input is ours."""

    def kill(self, number: signal.Signals) -> None:
        """Sends the signal to the program."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.kill(signal.SIGTERM)

    def leave(self) -> None:
        """Stops watching it; it continues, and `on_exit` is not called."""
        if self.running:
            self.running = False
            self._loop.remove_reader(self._exit_fd)
            os.close(self._exit_fd)

    def _ended(self) -> None:
        self.leave()
        self._on_exit(self._process.wait())  # immediate: the pidfd is ready
