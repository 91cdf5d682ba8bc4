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
import sys
import time
from typing import TextIO

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
    """Writes warnings and errors to stderr, the rest to stdout, each line immediately."""

    def emit(self, record: logging.LogRecord) -> None:
        stream: TextIO = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        try:
            stream.write(self.format(record) + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # closed by its reader, which must not end the daemon


class Syslog(logging.handlers.SysLogHandler):
    """Sends to the local syslog daemon; lines are lost while it does not run, as with syslog(3)."""

    append_nul = False

    def __init__(self, facility: int) -> None:
        super().__init__(SYSLOG_SOCKET, facility)

    def encodePriority(self, facility: int | str, priority: int | str) -> int:
        assert isinstance(facility, int)
        return facility << 3 | int(priority)

    def mapPriority(self, levelName: str) -> str:
        return str(PRIORITY[logging.getLevelName(levelName)])

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignores the error: the line is lost, and the next one opens the socket again."""


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
