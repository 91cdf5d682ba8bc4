"""Starts a program without a fork, in surroundings that do not depend on who starts it.

Must not know a loop, pipes that are watched, or what the program is for. Imports little: the
privileged helper is small.

`subprocess.Popen` uses vfork as long as no code has to run in the child (preexec_fn, user, group);
a session of its own needs none. A fork would copy the page tables of the whole daemon and slow the
pump by the page faults after it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from carp_fast.errors import CarpFastError

# What a program gets in place of the daemon's own.
USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USUAL_LANG = "C.UTF-8"
USUAL_UMASK = 0o022
# Limits as this process was started with: the daemon changes its own.
STARTED_WITH = {
    limit: resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_RTTIME)
}
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
    """Raised when a program could not be started; one line says which and why.

    `reason`: only why.
    """

    def __init__(self, text: str, reason: str | None = None) -> None:
        super().__init__(text)
        self.reason = text if reason is None else reason


class LauncherEnded(ChildError):
    """Raised when what starts programs has ended: the program itself is not to blame."""


class Program(msgspec.Struct, frozen=True):
    """A program as it is configured: `path`, the interface and address of `place` if it is a hook,
    and `more`.

    `inherits`: it gets our environment and standard descriptors, and runs in our session, as
    scripts written for ucarp expect; nothing is read from it or written to it.
    """

    path: str
    place: tuple[str, str] | None = None
    more: tuple[str, ...] = ()
    inherits: bool = False

    @property
    def arguments(self) -> list[str]:
        """Its command line."""
        return [self.path, *(self.place or ()), *self.more]


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


def inherited_environment() -> dict[str, str]:
    """The daemon's environment without the variables that systemd sets for the daemon only."""
    return {key: value for key, value in os.environ.items() if key not in SYSTEMD_VARIABLES}


def spawn(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Starts a program in a session, and so a process group, of its own.

    It runs at normal priority with the usual umask, and with the limits of this process's start,
    except that it makes no core file where this process makes none. `stdout` is its standard
    error, too. Raises ChildError.
    """
    _keep_priority_to_ourselves()
    try:
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
            umask=USUAL_UMASK,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise _refused(arguments[0], error) from None
    _make_ordinary(process.pid)
    _restore_limits(process.pid)
    return process


def spawn_inheriting(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Starts a program as scripts written for ucarp expect it: with our standard descriptors,
    session, priority and umask. Raises ChildError.
    """
    # A name without a slash is not searched on the PATH.
    executable = arguments[0] if "/" in arguments[0] else f"./{arguments[0]}"
    try:
        process = subprocess.Popen(arguments, executable=executable, env=environment)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise _refused(arguments[0], error) from None
    _restore_limits(process.pid)
    return process


def spawn_again(
    arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Starts a program in place of this one: with our standard descriptors, session and umask, and
    with these descriptors, but with the priority and limits that this process began with.

    Raises ChildError.
    """
    _keep_priority_to_ourselves()
    try:
        process = subprocess.Popen(arguments, env=environment, pass_fds=descriptors)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise _refused(arguments[0], error) from None
    _make_ordinary(process.pid)
    _restore_limits(process.pid)
    return process


def kill_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a program of spawn() and its children, except those that left its group.

    Does nothing once it was waited for: its number may belong to another process. What this
    process may not send a signal, since it has become another user, gets none.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def ending(exit_status: int) -> str:
    """How a process ended, in words; `exit_status` is that of subprocess."""
    if exit_status >= 0:
        return f"exit status {exit_status}"
    try:
        return f"killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"killed by signal {-exit_status}"


def _restore_limits(pid: int) -> None:
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


def _refused(program: str, error: Exception) -> ChildError:
    text = reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, FileNotFoundError) and Path(program).exists():
        text = "the interpreter that its first line names does not exist"
    elif isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        text += " (a script needs a first line such as #!/bin/sh)"
    return ChildError(f"cannot start {program}: {text}", reason)
