"""The kernel's reports of programs that are executed: the process connector (CN_PROC).

Needs CAP_NET_ADMIN, and the initial network, user and pid namespaces. Must not know what is looked
for. Messages: linux/connector.h and linux/cn_proc.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from carp_fast.closing import Closing
from carp_fast.net.filters import attach_filter

NETLINK_CONNECTOR = 11
CN_IDX_PROC = CN_VAL_PROC = 1
PROC_CN_MCAST_LISTEN = 1
PROC_EVENT_NONE, PROC_EVENT_EXEC = 0, 2
NLMSG_DONE = 3

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
CONNECTOR = struct.Struct("=IIIIHH")  # index, value, sequence, acknowledged, length, flags
OPERATION = struct.Struct("=I")
EVENT = struct.Struct("=IIQ")  # what, CPU, time stamp
EXECUTED = struct.Struct("=II")  # thread, process
ACKNOWLEDGED = struct.Struct("=I")  # errno, in an event of PROC_EVENT_NONE
EVENT_AT = HEADER.size + CONNECTOR.size

RECEIVE_BUFFER_BYTES = 1 << 20  # some thousand events
MESSAGE_BYTES = 4096
# The kernel answers while the request is sent, or not at all: in other namespaces. The loop waits.
ANSWER_S = 0.05

# Classic BPF: the whole message of what was executed, and of the answer; nothing of the others,
# which a busy machine has thousands of a second.
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06


def _filter() -> list[tuple[int, int, int, int]]:
    """(code, jump if true, jump if false, value): loads are in network order."""
    wanted = (socket.htonl(PROC_EVENT_EXEC), socket.htonl(PROC_EVENT_NONE))
    return [
        (_LOAD_WORD, 0, 0, EVENT_AT),
        (_JUMP_EQUAL, 2, 0, wanted[0]),
        (_JUMP_EQUAL, 1, 0, wanted[1]),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 0xFFFFFFFF),
    ]


class ProcessEvents(Closing):
    """A socket that gets an event for each program that is executed. Raises OSError."""

    def __init__(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_CONNECTOR)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            attach_filter(self._socket, _filter())
            self._socket.bind((0, CN_IDX_PROC))
            self._listen()
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def executed(self) -> tuple[set[int], bool]:
        """The processes that executed a program since the last call, by pid; and whether the kernel
        dropped some.
        """
        pids: set[int] = set()
        while True:
            try:
                data, sender = self._socket.recvfrom(MESSAGE_BYTES)
            except BlockingIOError:
                return pids, False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return pids, True
            if sender[0] == 0 and len(data) >= EVENT_AT + EVENT.size + EXECUTED.size:
                what, _, _ = EVENT.unpack_from(data, EVENT_AT)
                if what == PROC_EVENT_EXEC:
                    pids.add(EXECUTED.unpack_from(data, EVENT_AT + EVENT.size)[1])

    def _listen(self) -> None:
        """Asks for events. Its answer counts: in other namespaces the kernel sends none."""
        body = CONNECTOR.pack(CN_IDX_PROC, CN_VAL_PROC, 0, 0, OPERATION.size, 0)
        body += OPERATION.pack(PROC_CN_MCAST_LISTEN)
        header = HEADER.pack(HEADER.size + len(body), NLMSG_DONE, 0, 0, os.getpid())
        self._socket.settimeout(ANSWER_S)
        self._socket.send(header + body)
        while True:
            data, sender = self._socket.recvfrom(MESSAGE_BYTES)
            if sender[0] == 0 and len(data) >= EVENT_AT + EVENT.size + ACKNOWLEDGED.size:
                what, _, _ = EVENT.unpack_from(data, EVENT_AT)
                if what == PROC_EVENT_NONE:
                    (code,) = ACKNOWLEDGED.unpack_from(data, EVENT_AT + EVENT.size)
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
