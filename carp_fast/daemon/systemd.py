"""Messages to the service manager: sd_notify and log lines on stderr.

Implements the notification protocol of systemd (sd_notify(3), without its library) and two of the
three forms of a log line; journal.py has the third. Must not know what the daemon does, nor when a
message is due.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import socket
import time
from array import array
from collections.abc import MutableMapping
from typing import TextIO

import msgspec

from carp_fast.daemon.journal import JournalFormatter, JournalHandler
from carp_fast.daemon.outlet import OutletHandler
from carp_fast.standard import STDERR

logger = logging.getLogger(__name__)

NOTIFY_WAIT_S = 1.0
"""How long a message that must arrive (READY, RELOADING, STOPPING) may wait for a full socket."""

LOG_FORMATS = ("text", "json", "journal")


class Systemd:
    """Sends messages to the service manager over the datagram socket named by NOTIFY_SOCKET.

    Without one, every method does nothing: the daemon need not know whether it runs under systemd.
    A message that is lost is logged and counted in `lost`, never raised.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self.lost = 0
        self._watchdog_s = watchdog_s
        self._address = address
        self._socket: socket.socket | None = None
        if address is None:
            return
        if address[:1] not in ("/", "@") or len(address) == 1:
            logger.warning("NOTIFY_SOCKET=%s is neither a path nor abstract: ignored", address)
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] | None = None) -> Systemd:
        """Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment.

        They are removed because hooks inherit the environment and must not notify for the daemon.
        """
        variables = os.environ if environment is None else environment
        address = variables.pop("NOTIFY_SOCKET", None)
        watchdog_usec = variables.pop("WATCHDOG_USEC", None)
        watchdog_pid = variables.pop("WATCHDOG_PID", None)
        return cls(address or None, _watchdog_s(watchdog_usec, watchdog_pid))

    @property
    def present(self) -> bool:
        """Whether there is a service manager."""
        return self._socket is not None

    def ready(self, status: str = "") -> None:
        """Reports the start or the end of a reload: what begins with RELOADING ends with READY."""
        self._send("READY=1", *_status_field(status), wait_s=NOTIFY_WAIT_S)

    def reloading(self) -> None:
        """Reports that a reload begins. Type=notify-reload requires its time on the monotonic
        clock.
        """
        at_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={at_usec}", wait_s=NOTIFY_WAIT_S)

    def stopping(self, status: str = "") -> None:
        """Reports that the daemon begins to end."""
        self._send("STOPPING=1", *_status_field(status), wait_s=NOTIFY_WAIT_S)

    def succeeded_by(self, pid: int) -> None:
        """Reports that another process of the unit is the main one from now on.

        Waits until the service manager has read that, since this process ends soon: otherwise its
        end would be taken for that of the unit.
        """
        self._send(f"MAINPID={pid}", wait_s=NOTIFY_WAIT_S)
        if self._socket is None or self._address is None:
            return
        read, write = os.pipe()
        try:
            # Once systemd has come to this message, it closes what came with it.
            with contextlib.suppress(OSError):
                self._socket.settimeout(NOTIFY_WAIT_S)
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [write]))
                self._socket.sendmsg([b"BARRIER=1"], [rights], 0, _binary(self._address))
        finally:
            os.close(write)
        ended = select.poll()
        ended.register(read, 0)  # reports only that the other end is closed
        if not ended.poll(NOTIFY_WAIT_S * 1000):
            logger.warning("the service manager has not read the new process's id in time")
        os.close(read)

    @property
    def environment(self) -> dict[str, str]:
        """What from_environment() has taken, for a process that succeeds this one."""
        if self._address is None:
            return {}
        found = {"NOTIFY_SOCKET": self._address}
        if self._watchdog_s is not None:
            found["WATCHDOG_USEC"] = str(round(self._watchdog_s * 1_000_000))
        return found

    def status(self, text: str) -> None:
        """Sets the line that ``systemctl status`` shows. Lost if the socket is full."""
        self._send(*_status_field(text))

    def watchdog(self) -> None:
        """Reports that the daemon is alive; due every watchdog_interval_s()."""
        self._send("WATCHDOG=1")

    def watchdog_interval_s(self) -> float | None:
        """Seconds between two calls of watchdog(): half the manager's limit; None without one."""
        if self._watchdog_s is None or self._socket is None:
            return None
        return self._watchdog_s / 2

    def close(self) -> None:
        """Closes the socket; nothing is sent afterwards."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *fields: str, wait_s: float = 0.0) -> None:
        if self._socket is None or self._address is None or not fields:
            return
        self._socket.settimeout(wait_s)
        try:
            self._socket.sendto("\n".join(fields).encode(), _binary(self._address))
        except OSError as error:
            self.lost += 1
            # Only the first is logged: a manager that is gone would otherwise fill the log.
            if self.lost == 1:
                text = error.strerror or "its queue is full"
                logger.warning(
                    "service manager at %s did not accept a message: %s", self._address, text
                )


def _binary(address: str) -> str:
    """An address as sockets take it: an abstract one begins with NUL."""
    return "\0" + address[1:] if address[0] == "@" else address


def _status_field(text: str) -> tuple[str, ...]:
    # A line end would begin another field.
    return (f"STATUS={' '.join(text.splitlines())}",) if text else ()


def _watchdog_s(usec: str | None, pid: str | None) -> float | None:
    if usec is None:
        return None
    if not usec.isdecimal() or int(usec) == 0:
        logger.warning("WATCHDOG_USEC=%s is not a number of microseconds: ignored", usec)
        return None
    # WATCHDOG_PID names the process that is watched; a wrapper's child is not watched.
    if pid is not None and pid != str(os.getpid()):
        return None
    return int(usec) / 1_000_000


@functools.lru_cache(maxsize=2)
def _rfc3339_second(at_s: int) -> str:
    # Cached: a take-over of 65,280 virtual hosts makes as many lines within two seconds.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))


def rfc3339(at_ms: int) -> str:
    """A wall-clock time as RFC 3339 in UTC, with milliseconds."""
    return f"{_rfc3339_second(at_ms // 1000)}.{at_ms % 1000:03d}Z"


class TextFormatter(logging.Formatter):
    """Formats ``2026-01-01T00:00:00.000Z WARNING eth0/7: text``, in UTC."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The record's time, RFC 3339 in UTC."""
        return rfc3339(int(record.created * 1000))


class JsonFormatter(logging.Formatter):
    """Formats one JSON object per line: time, level, logger, message, and more if known."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, object] = {
            "time": rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "carp", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def stderr_is_journal() -> bool:
    """Whether stderr is the stream that systemd named in JOURNAL_STREAM (device:inode)."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


def start_logging(
    log_format: str | None = None, level: int = logging.INFO, stream: TextIO | None = None
) -> str:
    """Sends every log record to stderr (or `stream`) in one of LOG_FORMATS; returns which.

    Nothing waits for whoever reads stderr, see outlet.py. With "journal" records go to journald
    itself, and to stderr what it does not take, see journal.py; to `stream` all do.

    None: "journal" if stderr is the journal, otherwise "text". Replaces what was set up before.
    """
    in_journal = stderr_is_journal()
    if log_format is None:
        log_format = "journal" if in_journal else "text"
    formatters = {"text": TextFormatter, "json": JsonFormatter, "journal": JournalFormatter}
    handler: logging.Handler
    if stream is not None:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatters[log_format]())
    else:
        handler = outlet = OutletHandler(STDERR)
        outlet.setFormatter(formatters[log_format]())
        if log_format == "journal":
            handler = JournalHandler(outlet, ends_on_stderr=in_journal)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, OutletHandler | JournalHandler):
            old.close()
    root.addHandler(handler)
    root.setLevel(level)
    # Without the last resort no record can appear in another form.
    logging.lastResort = None
    # Do not collect what no form shows: it is a third of the cost of a line.
    logging._srcfile = None  # noqa: SLF001 (as logging's own documentation does)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    return log_format
