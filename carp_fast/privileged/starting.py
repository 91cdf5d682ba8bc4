"""How the helper starts what it was asked for: a configured program, or a successor of the daemon.

Must not know what is configured, nor what runs already.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from carp_fast.privileged.messages import Start
from carp_fast.privileged.rows import Row
from carp_fast.privileged.start import AS_USER_VARIABLE, CHANNEL_VARIABLE
from carp_fast.programs.spawning import (
    ChildError,
    Program,
    clean_environment,
    inherited_environment,
    spawn,
    spawn_again,
    spawn_inheriting,
)

PR_SET_DUMPABLE = 4


class Starter:
    """Starts processes; everything raises ChildError. `again`: the daemon's own command line, none
    for a daemon that has no successors.
    """

    def __init__(self, again: Sequence[bytes] = ()) -> None:
        self._clean, self._inherited = clean_environment(), inherited_environment()
        self._again = [os.fsdecode(word) for word in again]
        self._daemons = _environment_of_successors()

    def program(self, row: Row, request: Start, descriptors: list[int]) -> subprocess.Popen[bytes]:
        """Starts a program, with its arguments and standard descriptors as the request has them."""
        arguments = Program(row.path, request.place, row.more).arguments
        if row.inherits:
            return spawn_inheriting(arguments, {**self._inherited, **request.variables})
        modes = [fcntl.fcntl(each, fcntl.F_GETFL) & os.O_ACCMODE for each in descriptors]
        pipes = all(stat.S_ISFIFO(os.fstat(each).st_mode) for each in descriptors)
        if not pipes or modes != [os.O_WRONLY, os.O_RDONLY][: 1 + request.stdin]:
            raise refused(row.path, "its standard descriptors are not pipes")
        stdin = descriptors[1] if request.stdin else subprocess.DEVNULL
        environment = {**self._clean, **request.variables}
        return spawn(arguments, environment, stdin=stdin, stdout=descriptors[0])

    def successor(self, descriptors: list[int]) -> subprocess.Popen[bytes]:
        """Starts the daemon's program again, with this descriptor as its end of the channel.

        It is told that the other end is not root's, and has to become the user before it reads.
        """
        if not self._again:
            raise refused("a successor", "this daemon cannot have one")
        if [stat.S_ISSOCK(os.fstat(each).st_mode) for each in descriptors] != [True]:
            raise refused("a successor", "its channel is not a socket")
        variables = {CHANNEL_VARIABLE: str(descriptors[0]), AS_USER_VARIABLE: "1"}
        return spawn_again(self._again, {**self._daemons, **variables}, descriptors)


def _environment_of_successors() -> dict[str, str]:
    """The environment that the daemon was started with, for another process in its place."""
    found = dict(os.environ)
    daemon = str(os.getppid())
    # As in daemon.systemd, which takes the variables of a process that is not watched for none.
    if found.pop("WATCHDOG_PID", daemon) != daemon:
        found.pop("WATCHDOG_USEC", None)
    return found


def kill_successor(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a successor, be it root or its user already; nothing if it has ended."""
    try:
        process.send_signal(number)
    except PermissionError:  # without CAP_KILL root may not; with CAP_SETUID it may as that user
        with contextlib.suppress(OSError, StopIteration, ValueError):
            _send_as(_user_of(process.pid), process, number)


def _user_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])


def _send_as(uid: int, process: subprocess.Popen[bytes], number: int) -> None:
    os.seteuid(uid)
    try:
        process.send_signal(number)
    finally:
        os.seteuid(0)
        forbid_tracing()  # the kernel has forgotten it


def forbid_tracing() -> None:
    """Lets no other process of this user look into this one."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def refused(what: str, reason: str) -> ChildError:
    """The error about something that is not started."""
    return ChildError(f"cannot start {what}: {reason}", reason)
