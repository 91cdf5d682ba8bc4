"""Landlock: the directories that this process may still write to; it executes nothing any more.

What was open before stays open, and everything may still be read that file modes permit. Holds for
this thread and those that it starts, for good. Must not know what is written where. Constants:
linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # on every architecture of ours
VERSION_FLAG, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = (1 << bit for bit in range(6, 12))
MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(12, 16))
SCOPE_SIGNAL = 1 << 1

FIRST_VERSION = (
    EXECUTE
    | WRITE_FILE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_SYM
    | (MAKE_CHAR | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK)
)
SINCE = {2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}  # rights that later versions of the interface added
SCOPES_SINCE = 6
KEEP_FILES = WRITE_FILE | TRUNCATE | MAKE_REG | MAKE_SOCK | REMOVE_FILE
"""To create, replace and remove files and sockets in a directory."""
_RULE = struct.Struct("=Qi")

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The version of the kernel's interface, from 1. Raises OSError where it has none."""
    return _call(CREATE_RULESET, None, 0, VERSION_FLAG)


def restrict(allowed: Mapping[Path, int]) -> int:
    """Forbids to execute, and to write anywhere but in these directories, with these rights.

    From version 6 on also to send signals to processes other than ours and their children. Returns
    the version. Raises OSError; then nothing is restricted. Needs PR_SET_NO_NEW_PRIVS.
    """
    known = version()
    handled = FIRST_VERSION | sum(right for since, right in SINCE.items() if known >= since)
    attributes = struct.pack("=Q", handled)
    if known >= SCOPES_SINCE:
        attributes = struct.pack("=QQQ", handled, 0, SCOPE_SIGNAL)
    rules = _call(CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in allowed.items():
            _allow(rules, path, rights & handled)
        _call(RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
    return known


def refusal(error: OSError) -> str:
    """Why there is no Landlock, as far as its errno shows it."""
    if error.errno == errno.ENOSYS:
        return "the kernel has no Landlock (before Linux 5.13, or built without it)"
    if error.errno == errno.EOPNOTSUPP:
        return "Landlock is not among the kernel's security modules (lsm= at boot)"
    return error.strerror or str(error)


def _allow(rules: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _call(ADD_RULE, rules, PATH_BENEATH, _RULE.pack(rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: bytes | int | None) -> int:
    result: int = _libc.syscall(number, *_words(arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _words(arguments: Iterable[bytes | int | None]) -> list[object]:
    """The arguments of a system call, each in a whole register."""
    return [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
