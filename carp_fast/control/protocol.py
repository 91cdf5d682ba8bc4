"""What both ends of the control socket know: its errors, its framing, who listens.

A request is one JSON object a line, ``{"command": "status", ...arguments}``; its answer is one
line, ``{"ok": true, ...}`` or ``{"ok": false, "error": "..."}``. ``events`` answers
``{"ok": true}`` and then writes one line an event until its client goes. Must not know what a
command means.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

import msgspec

from carp_fast.errors import CarpFastError

CHUNK_BYTES = 262_144  # one write, and the unit in which a slow reader has to make progress


class ControlError(CarpFastError):
    """Raised when a control command did not succeed: one line, and a line for each fault if any."""

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class Verdict(msgspec.Struct, omit_defaults=True):
    """What every answer begins with: a refusal has `ok` false, and says why."""

    ok: bool = True
    error: str = ""
    faults: list[str] = []


class ControlInUse(ControlError):
    """Raised when a live daemon listens on the path already."""


class ControlTimeout(ControlError):
    """Raised when nothing came within the time given."""


def peer_pid(connection: socket.socket) -> int:
    """The process at the other end of a Unix socket."""
    pid: int = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    )[0]
    return pid
