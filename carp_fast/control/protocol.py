"""What both ends of the control socket share: errors, framing, the peer's process.

A request is one JSON object per line, ``{"command": "status", ...arguments}``; its answer is one
line, ``{"ok": true, ...}`` or ``{"ok": false, "error": "..."}``. ``events`` answers ``{"ok":
true}`` and then writes one line per event until its client disconnects. Must not know what a
command means.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from carp_fast.errors import CarpFastError

CHUNK_BYTES = 262_144  # size of one write; a slow reader must read this much within ANSWER_STALL_S
_UCRED = struct.Struct("3i")  # pid, uid, gid


class ControlError(CarpFastError):
    """Raised when a control command failed: one line, and `faults` with a line for each fault."""

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class Verdict(msgspec.Struct, omit_defaults=True):
    """The first fields of every answer: a refusal has `ok` false, and `error` tells why."""

    ok: bool = True
    error: str = ""
    faults: list[str] = []


class ControlInUse(ControlError):
    """Raised when a running daemon already listens on the path."""


class ControlTimeout(ControlError):
    """Raised when nothing was received within the given time."""


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, when it connected or began to listen."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """The process at the other end, as the kernel knows it (SO_PEERCRED)."""
    pid, uid, _ = _UCRED.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return Peer(pid, uid)
