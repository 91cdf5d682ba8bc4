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
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from carp_fast.errors import CarpFastError

READ_BYTES = 65_536  # the size of a pipe: one read empties it
REAP_S = 1.0  # how long to wait for killed processes; after that they are left to later starts

# What a program gets in place of the daemon's own.
USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USUAL_LANG = "C.UTF-8"
USUAL_UMASK = 0o022
# Limits as this process was started with: the daemon changes its own.
STARTED_WITH = {
    limit: resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_RTTIME)
}


class ChildError(CarpFastError):
    """Raised when a program could not be started; one line says which and why."""


def clean_environment() -> dict[str, str]:
    """PATH and LANG, and nothing else of the daemon's environment.

    So a hook runs alike under systemd and from a shell, and gets no secret, socket or library of
    the daemon. A directory in PATH that depends on where the daemon was started is left out.
    """
    absolute = [each for each in os.environ.get("PATH", "").split(":") if each.startswith("/")]
    return {
        "PATH": ":".join(absolute) or USUAL_PATH,
        "LANG": os.environ.get("LANG") or USUAL_LANG,
    }


def restore_limits(pid: int) -> None:
    """Gives a program that was started just now the limits with which the daemon was started."""
    for limit, values in STARTED_WITH.items():
        if resource.getrlimit(limit) != values:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(pid, limit, values)


def _keep_priority_to_ourselves() -> None:
    """Has the kernel start programs at normal priority, whatever that of this thread is."""
    policy = os.sched_getscheduler(0)
    if policy & os.SCHED_RESET_ON_FORK:
        return
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_getparam(0))


def _make_ordinary(pid: int) -> None:
    """Takes from a program what the kernel does not reset: a low priority, an idle policy."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        if os.getpriority(os.PRIO_PROCESS, pid):
            os.setpriority(os.PRIO_PROCESS, pid, 0)


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

    It runs at normal priority with the usual umask, and with the limits of the daemon's start,
    except that it makes no core file where the daemon makes none.
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
        _keep_priority_to_ourselves()
        try:
            self._process = subprocess.Popen(
                arguments,
                env=environment,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
                umask=USUAL_UMASK,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise ChildError(_reason(arguments[0], error)) from None
        self.pid = self._process.pid
        _make_ordinary(self.pid)
        restore_limits(self.pid)
        try:
            self._exit_fd = os.pidfd_open(self.pid)
        except OSError as error:  # no descriptor left
            self.kill(signal.SIGKILL)
            self._close_stdout()
            self.close_stdin()
            reap([self])
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
        if self._process.returncode is not None:
            return  # reaped: the number may belong to another process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM, and SIGKILL to the rest of its group once the program has ended."""
        self._kill_rest = True
        self.kill(signal.SIGTERM)

    def abandon(self) -> None:
        """Kills it now and stops watching it; `on_exit` is not called. reap() has to follow."""
        if self.running:
            self.kill(signal.SIGKILL)
            self._unwatch()
            self.close_stdin()

    def reap(self, timeout_s: float) -> None:
        """Waits for the end of a killed process, at most for so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

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


def reap(killed: Iterable[Child]) -> None:
    """Waits for the end of killed programs: for all together at most REAP_S.

    One that waits for a disk does not end before that answers.
    """
    end_s = time.monotonic() + REAP_S
    for child in killed:
        child.reap(max(0.0, end_s - time.monotonic()))


def _reason(program: str, error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, FileNotFoundError) and Path(program).exists():
        text = "the interpreter that its first line names does not exist"
    elif isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        text += " (a script needs a first line such as #!/bin/sh)"
    return f"cannot start {program}: {text}"
