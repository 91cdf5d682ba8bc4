"""Packets with file descriptors beside them, over SOCK_SEQPACKET sockets. Imports little.

Must not know what is in a packet.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable

_INT = struct.Struct("i")


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, neither of which a program inherits."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def receive(
    end: socket.socket, bytes_max: int, descriptors_max: int
) -> tuple[bytes, tuple[int, ...], int]:
    """The next packet, its descriptors, and the flags that tell whether either was cut.

    Both are empty at the end. Raises OSError.
    """
    # recv_fds() leaves the descriptors inheritable, and open if there are too many.
    room = socket.CMSG_SPACE(descriptors_max * _INT.size)
    data, ancillary, flags, _ = end.recvmsg(bytes_max, room, socket.MSG_CMSG_CLOEXEC)
    found: list[int] = []
    for level, kind, given in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(given) - len(given) % _INT.size
            found += [number for (number,) in _INT.iter_unpack(given[:whole])]
    return data, tuple(found), flags


def close_all(descriptors: Iterable[int]) -> None:
    """Closes these file descriptors."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
