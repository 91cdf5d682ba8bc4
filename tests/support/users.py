"""Other users, as a test plays them: sockets and calls with their credentials. Needs root.

The kernel keeps credentials for each thread; only the C library gives all threads the same ones. So
a thread that makes the system calls itself is another user, while the test stays root.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

DEADLINE_S = 60.0
# setgroups, setresgid, setresuid
NUMBERS = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}

Result = TypeVar("Result")


class User(NamedTuple):
    """The credentials of a process."""

    uid: int
    gid: int
    groups: Sequence[int] = ()


READERS = 54_321  # a group that no host has
ALICE, BOB = User(50_001, 50_001, [READERS]), User(50_002, READERS)  # its members
MALLORY = User(50_003, 50_003)


def as_user(user: User, function: Callable[[], Result]) -> Result:
    """Calls a function in a thread that has these credentials, and no capability."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _become(user)
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(DEADLINE_S)
    if errors:
        raise errors[0]
    return results[0]


def _become(user: User) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    setgroups, setresgid, setresuid = NUMBERS[platform.machine()]
    groups = (ctypes.c_uint32 * len(user.groups))(*user.groups)
    calls = (
        (setgroups, len(user.groups), groups),
        (setresgid, user.gid, user.gid, user.gid),
        (setresuid, user.uid, user.uid, user.uid),
    )
    for number, *arguments in calls:
        if libc.syscall(number, *arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def connected_as(user: User | None, path: Path) -> socket.socket:
    """A connection of this user to a Unix socket; None: of the test's own."""

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE_S)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        return connection

    return connect() if user is None else as_user(user, connect)


def program_as(user: User, argv: Sequence[str]) -> list[str]:
    """The command line with which a program has these credentials.

    It may read every file, as Python may be where only root can look, but not write to any, as to
    a socket.
    """
    return [
        *("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}"),
        f"--groups={','.join(map(str, user.groups))}" if user.groups else "--clear-groups",
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
        *argv,
    ]


@contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that every user may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="carp-users-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
