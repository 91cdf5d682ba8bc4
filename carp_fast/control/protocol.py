"""What both ends of the control socket share: errors, framing, the peer's process.

A request is one JSON object per line, ``{"command": "status", ...arguments}``; its answer is one
line, ``{"ok": true, ...}`` or ``{"ok": false, "error": "..."}``, where some refusals also have a
stable word as "code". ``events`` answers ``{"ok": true}`` and then writes one line per event until
its client disconnects. Must not know what a command means.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from carp_fast.errors import CarpFastError

CHUNK_BYTES = 262_144  # size of one write; a slow reader must read this much within ANSWER_STALL_S
_SO_PEERGROUPS = 59  # not in the module socket
_GROUPS_MAX = 65_536  # of one process: the kernel's NGROUPS_MAX
_UCRED = struct.Struct("iII")  # pid, uid, gid

# The codes of refusals.
NOT_PERMITTED = "not_permitted"  # the user may not give this command
USER_LIMIT = "user_limit"  # the user has as many connections as one user may have
TOO_MANY_CLIENTS = "too_many_clients"  # all places are taken
UPGRADED = "upgraded"  # another process serves the socket from now on: connect again
BEHIND = "behind"  # a reader of events was too slow, and lost some: connect again
INTERNAL = "internal"  # a fault of the daemon; its log has more


class ControlError(CarpFastError):
    """Raised when a control command failed: one line, and `faults` with a line for each fault.

    `code`: a stable word for programs, such as NOT_PERMITTED; "" for most refusals.
    """

    def __init__(self, message: str, faults: Iterable[str] = (), *, code: str = "") -> None:
        super().__init__(message)
        self.faults = tuple(faults)
        self.code = code


class Verdict(msgspec.Struct, omit_defaults=True):
    """The first fields of every answer: a refusal has `ok` false, `error` tells why, and `code` is
    that of its ControlError.
    """

    ok: bool = True
    error: str = ""
    faults: list[str] = []
    code: str = ""


class ControlInUse(ControlError):
    """Raised when a running daemon already listens on the path."""


class ControlTimeout(ControlError):
    """Raised when nothing was received within the given time."""


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, when it connected or began to listen.

    `pid`: 0 if this process cannot see it; `uid` and `gid` are the effective ones.
    """

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """The process at the other end, as the kernel knows it (SO_PEERCRED)."""
    return Peer(
        *_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    )


def peer_groups(connection: socket.socket) -> frozenset[int]:
    """The supplementary groups of the process at the other end (SO_PEERGROUPS). Raises OSError."""
    # Python's getsockopt() has room for 256 groups only.
    found = (ctypes.c_uint32 * _GROUPS_MAX)()
    size = ctypes.c_uint32(ctypes.sizeof(found))
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.getsockopt(
        connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, found, ctypes.byref(size)
    )
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return frozenset(found[: size.value // ctypes.sizeof(ctypes.c_uint32)])
