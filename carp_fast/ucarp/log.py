"""The log as ucarp writes it: to stdout, stderr and syslog, with its words for levels and its
times.

Holds the handlers and their set-up. Must not know what is logged. ucarp's own lines go through
`logger`; warnings and errors of our other modules go to the same places, and their other lines only
with --debug.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import time
from socket import MSG_DONTWAIT, socket

from carp_fast.daemon.outlet import OutletHandler
from carp_fast.standard import STDERR, STDOUT

SYSLOG_SOCKET = "/dev/log"
SYSLOG_NAME = "ucarp"
URGENCY = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "ERROR",
}
PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 3,
}

logger = logging.getLogger("carp_fast.ucarp")


def _line(record: logging.LogRecord) -> str:
    """The message on one line, with its urgency in front."""
    text = record.getMessage()
    if record.exc_info:
        text += f": {record.exc_info[1]!r}"
    return f"[{URGENCY[record.levelno]}] {' '.join(text.splitlines())}"


class Stamped(logging.Formatter):
    """Formats `2026-01-01T00:00:00.000000: [INFO] text`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1_000_000)
        return f"{at}.{micros:06d}: {_line(record)}"


class ForSyslog(logging.Formatter):
    """Formats `Jan  1 00:00:00 ucarp[42]: [INFO] text`, as syslog(3) does, without the priority."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
        return f"{at} {SYSLOG_NAME}[{os.getpid()}]: {_line(record)}"


class Standard(logging.Handler):
    """Writes warnings and errors to stderr, the rest to stdout, each line immediately.

    Neither waits for its reader, see outlet.py.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stdout = OutletHandler(STDOUT)
        self._stderr = OutletHandler(STDERR)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        for each in (self._stdout, self._stderr):
            each.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        (self._stderr if record.levelno >= logging.WARNING else self._stdout).emit(record)

    def flush(self) -> None:
        """Waits for readers, FLUSH_S each at most."""
        for each in (self._stdout, self._stderr):
            each.flush()

    def close(self) -> None:
        for each in (self._stdout, self._stderr):
            each.close()
        super().close()


class Syslog(logging.handlers.SysLogHandler):
    """Sends to the local syslog daemon, without waiting for it.

    Lines are lost while it does not run, as with syslog(3), or does not read. Their number is
    logged there once it takes lines again.
    """

    append_nul = False
    socket: socket  # which the type stubs of the standard library leave out

    def __init__(self, facility: int) -> None:
        super().__init__(SYSLOG_SOCKET, facility)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._lost:
            text = "log lines that syslog did not take: %d"
            args = (self._lost,)
            lost = logging.LogRecord(logger.name, logging.WARNING, "", 0, text, args, None)
            if not self._send(lost):
                self._lost += 1
                return
            self._lost = 0
        if not self._send(record):
            self._lost += 1

    def _send(self, record: logging.LogRecord) -> bool:
        priority = self.encodePriority(self.facility, self.mapPriority(record.levelname))
        message = f"<{priority}>{self.format(record)}".encode("utf-8", "backslashreplace")
        try:
            self.socket.send(message, MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # it was started again: another socket
            try:
                self.socket.close()
                self.createSocket()
                self.socket.send(message, MSG_DONTWAIT)
            except OSError:
                return False
        return True

    def encodePriority(self, facility: int | str, priority: int | str) -> int:
        assert isinstance(facility, int)
        return facility << 3 | int(priority)

    def mapPriority(self, levelName: str) -> str:
        return str(PRIORITY[logging.getLevelName(levelName)])


def _passes(record: logging.LogRecord) -> bool:
    """Whether a record is logged; what is neither ucarp's own nor a warning becomes [DEBUG]."""
    if record.name != logger.name and record.levelno < logging.WARNING:
        record.levelno = logging.DEBUG
        record.levelname = logging.getLevelName(logging.DEBUG)
    return record.levelno >= logging.getLogger().level


def start_logging(*, facility: int | None, debug: bool, standard: bool) -> None:
    """Sends the log to syslog (unless `facility` is None) and, with `standard`, to stdout and
    stderr.

    Replaces what was set up before.
    """
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    handlers: list[tuple[logging.Handler, logging.Formatter]] = []
    if facility is not None:
        handlers.append((Syslog(facility), ForSyslog()))
    if standard:
        handlers.append((Standard(), Stamped()))
    for handler, formatter in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(_passes)
        root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.lastResort = None
