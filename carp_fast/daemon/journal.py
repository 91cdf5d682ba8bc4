"""Log records as journald takes them: entries with fields, or lines with priorities on stderr.

Holds `JournalHandler`, which speaks the native protocol of journald
(systemd.io/JOURNAL_NATIVE_PROTOCOL), and `JournalFormatter`, for the stream on stderr that
sd-daemon(3) describes. Must not know what a record means.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
import struct
from collections.abc import Iterable, Mapping

from carp_fast.daemon.outlet import OutletHandler
from carp_fast.programs.memory import sealed

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "carp-fast"  # SYSLOG_IDENTIFIER, as journald calls what the service writes on stderr
SEND_BUFFER_BYTES = 8 << 20  # as systemd's own clients: entries that journald has not read yet
_SO_SNDBUFFORCE = 32  # not in the module socket; needs CAP_NET_ADMIN

ENDS = {"ends": True}
"""`extra` of the last records of a process that ends immediately.

journald looks up the unit of an entry's process, which it could not do any more; that of a stream
it knows.
"""

# The priorities of syslog(3).
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)


def _priority(record: logging.LogRecord) -> int:
    return next(number for level, number in _PRIORITIES if record.levelno >= level)


class JournalFormatter(logging.Formatter):
    """Formats ``<4>eth0/7: text``: a priority before each line; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as lines of sd-daemon(3)."""
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{_priority(record)}>{line}" for line in lines)


def entry(fields: Iterable[tuple[str, str]]) -> bytes:
    """An entry of the native protocol: names are of A-Z, 0-9 and _; texts may have any characters.

    A text with a line end has its length in front, as 64 bits, little endian.
    """
    encoded = bytearray()
    for name, text in fields:
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            encoded += b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(value)), value)
        else:
            encoded += b"%b=%b\n" % (name.encode(), value)
    return bytes(encoded)


class JournalHandler(logging.Handler):
    """Sends records to journald, one entry each; stderr gets what journald does not take.

    Never waits. What a record has in its attribute `carp`, a mapping, becomes fields CARP_NAME.
    While lines wait for the reader of stderr, later ones go there, too, so that they stay in order.
    How many had to is logged, once journald takes entries again.

    `ends_on_stderr`: records with ENDS go to stderr, which is the journal's as well.
    """

    def __init__(self, stderr: OutletHandler, *, ends_on_stderr: bool) -> None:
        super().__init__()
        self._stderr = stderr
        self._ends_on_stderr = ends_on_stderr
        self._text = logging.Formatter()
        self._without_fields = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, SEND_BUFFER_BYTES)
                break
            except PermissionError:
                continue

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._ends_on_stderr and getattr(record, "ends", False):
                self._stderr.emit(record)
            elif self._stderr.waiting or not self._send_after_notice(record):
                self._without_fields += 1
                self._stderr.emit(record)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Waits at most outlet.FLUSH_S for a reader of stderr; journald has all the rest."""
        self._stderr.flush()

    def close(self) -> None:
        """Discards what waits for a reader of stderr."""
        self._socket.close()
        self._stderr.close()
        super().close()

    def _send_after_notice(self, record: logging.LogRecord) -> bool:
        if self._without_fields:
            text = "log lines on stderr, without fields, since journald did not take them: %d"
            args = (self._without_fields,)
            notice = logging.LogRecord(__name__, logging.WARNING, "", 0, text, args, None)
            if not self._send(notice):
                return False
            self._without_fields = 0
        return self._send(record)

    def _send(self, record: logging.LogRecord) -> bool:
        """Sends an entry; returns False if it was not taken."""
        data = entry(self._fields(record))
        try:
            self._socket.sendto(data, SOCKET)
        except OSError as error:
            # Nobody listens, it does not read, or the entry is too long for a datagram.
            return error.errno in (errno.EMSGSIZE, errno.ENOBUFS) and self._send_memory(data)
        return True

    def _send_memory(self, data: bytes) -> bool:
        try:
            memory = sealed("journal-entry", [data], exactly=True)
            try:
                passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))]
                self._socket.sendmsg([], passed, 0, SOCKET)
            finally:
                os.close(memory)
        except OSError:
            return False
        return True

    def _fields(self, record: logging.LogRecord) -> Iterable[tuple[str, str]]:
        yield "MESSAGE", self._text.format(record)
        yield "PRIORITY", str(_priority(record))
        yield "SYSLOG_IDENTIFIER", IDENTIFIER
        carp: Mapping[str, object] = getattr(record, "carp", {})
        for name, value in carp.items():
            yield f"CARP_{name.upper()}", str(value)
