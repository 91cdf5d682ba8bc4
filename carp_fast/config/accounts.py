"""Users and groups of this host: their names and numbers.

What a running daemon needs is read from the local files: a name service may ask a server that does
not answer. Must not know keys, nor what an account is for.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
from pathlib import Path

from carp_fast.config.model import as_printable

PASSWD, GROUP = Path("/etc/passwd"), Path("/etc/group")
KERNEL = Path("/proc/sys/kernel")
OVERFLOW_USUAL = 65_534


class LocalNames:
    """The names in a file such as /etc/passwd, by number; read again once the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._names: dict[int, str] = {}

    def by_number(self) -> dict[int, str]:
        """The first name of each number; empty if the file cannot be read."""
        try:
            status = self.path.stat()
            stamp = status.st_ino, status.st_size, status.st_mtime_ns
            if stamp != self._stamp:
                self._names = _names(self.path.read_bytes())
                self._stamp = stamp
        except OSError:
            self._names, self._stamp = {}, None
        return self._names


def _names(content: bytes) -> dict[int, str]:
    found: dict[int, str] = {}
    for line in content.decode(errors="replace").splitlines():
        name, *fields = line.split(":")
        if name and len(fields) > 1 and fields[1].isascii() and fields[1].isdecimal():
            found.setdefault(int(fields[1]), as_printable(name))
    return found


_users, _groups = LocalNames(PASSWD), LocalNames(GROUP)


def local_user(uid: int) -> str | None:
    """The name of a user in /etc/passwd; None if it has none."""
    return _users.by_number().get(uid)


def local_user_number(name: str) -> int | None:
    """The number of a user in /etc/passwd; None if there is no such user."""
    return _number(_users, name)


def local_group(name: str) -> int | None:
    """The number of a group in /etc/group; None if there is no such group."""
    return _number(_groups, name)


def _number(names: LocalNames, name: str) -> int | None:
    numbers = {each: number for number, each in reversed(names.by_number().items())}
    return numbers.get(name)


def user_named(name: str) -> pwd.struct_passwd | None:
    """A user, as name services know it; None if there is no such user."""
    with contextlib.suppress(KeyError, ValueError):  # ValueError: a name with a NUL
        return pwd.getpwnam(name)
    return None


def user_numbered(number: int) -> pwd.struct_passwd | None:
    """The user with a number, as name services know it; None if there is no such user."""
    with contextlib.suppress(KeyError, OverflowError):
        return pwd.getpwuid(number)
    return None


def user_names() -> list[str]:
    """The names of all users that name services list."""
    return [each.pw_name for each in pwd.getpwall()]


def groups_of(name: str, gid: int) -> list[int]:
    """The groups that a login of a user would have, `gid` among them, as name services know it."""
    return os.getgrouplist(name, gid)


def group_number(name: str) -> int | None:
    """The number of a group, as name services know it; None if there is no such group."""
    with contextlib.suppress(KeyError, ValueError):  # ValueError: a name with a NUL
        return grp.getgrnam(name).gr_gid
    return None


def group_name(number: int) -> str | None:
    """The name of a group, as name services know it; None if it has none."""
    with contextlib.suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return None


def group_names() -> list[str]:
    """The names of all groups that name services list."""
    return [each.gr_name for each in grp.getgrall()]


@functools.cache
def overflow(kind: str) -> int:
    """The "uid" or "gid" that stands for all that this user namespace does not map."""
    try:
        return int((KERNEL / f"overflow{kind}").read_text())
    except (OSError, ValueError):
        return OVERFLOW_USUAL
