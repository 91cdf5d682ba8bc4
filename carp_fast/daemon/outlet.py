"""Log lines on a descriptor that may stop taking them: nothing here ever waits for its reader.

Holds `Outlet`, which keeps what does not fit for a while, and `OutletHandler`, the log's handler on
it. Must not know what a line says, nor its format.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

WAITING_BYTES_MAX = 16 << 20  # lines that wait for a reader: two transitions of 65,280 hosts
# What a pipe that can be written takes whole; a longer piece could block where O_NONBLOCK is not to
# be had.
PIECE_BYTES = select.PIPE_BUF
FLUSH_S = 1.0  # at the end, for a reader that is slow; one that reads nothing gets no more


class Outlet:
    """Lines for a descriptor, in order; put() never waits.

    What the descriptor does not take at once waits, up to WAITING_BYTES_MAX, and is written by a
    thread that lives as long as something waits. What is beyond that is dropped and counted; once
    lines are taken again, `report` makes the line that gives the number. Where the reader has gone
    lines are dropped silently.
    """

    def __init__(self, descriptor: int, report: Callable[[int], str]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._opened = -1
        self._descriptor = descriptor
        self._open()

    def _open(self) -> None:
        """Prepares for writes that do not block, leaving the descriptor that others share alone."""
        with contextlib.suppress(OSError):
            mode = os.fstat(self._descriptor).st_mode
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(self._descriptor))
            elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._opened = os.open(f"/proc/self/fd/{self._descriptor}", flags)

    def close(self) -> None:
        """Gives up what waits, see flush(), and closes what was opened here."""
        with self._lock:
            self._clear()
            if self._opened >= 0:
                os.close(self._opened)
                self._opened = -1
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    @property
    def waiting(self) -> int:
        """Bytes that wait for the reader."""
        return self._waiting_bytes

    def put(self, text: str) -> None:
        """Writes a text, or has it wait, or drops it."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._waiting_bytes + len(data) > WAITING_BYTES_MAX:
                self._dropped += 1
                return
            self._tell_dropped()
            self._add(data)
            if not self._write() and self._thread is None:
                self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
                self._thread.start()

    def flush(self, deadline_s: float = FLUSH_S) -> bool:
        """Waits until nothing waits, `deadline_s` at most; returns whether that is so."""
        end_at = time.monotonic() + deadline_s
        while self._waiting_bytes:
            left_s = end_at - time.monotonic()
            if left_s <= 0:
                return False
            self._wait(left_s)
            with self._lock:
                self._write()
        return True

    def _add(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def _clear(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._add(self._report(self._dropped).encode())
            self._dropped = 0

    def _drain(self) -> None:
        """Writes whenever the descriptor takes something, until nothing waits."""
        while True:
            self._wait(None)
            with self._lock:
                if self._write():
                    self._tell_dropped()
                    if self._write():
                        self._thread = None
                        return

    def _wait(self, timeout_s: float | None) -> None:
        """Waits until the descriptor can be written."""
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        ready.poll(None if timeout_s is None else timeout_s * 1e3)

    def _write(self) -> bool:
        """Writes as much as is taken without waiting; False: something waits."""
        while self._waiting:
            data = self._waiting[0]
            try:
                count = self._send(data[:PIECE_BYTES])
            except BlockingIOError:
                return False
            except OSError:  # nobody reads it any more: it cannot be reported anywhere
                self._clear()
                return True
            self._waiting_bytes -= count
            if count < len(data):
                self._waiting[0] = data[count:]
            else:
                self._waiting.popleft()
        return True

    def _send(self, piece: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(piece, socket.MSG_DONTWAIT)
        if self._opened >= 0:
            return os.write(self._opened, piece)
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        if not ready.poll(0):
            raise BlockingIOError
        return os.write(self._descriptor, piece)


class OutletHandler(logging.Handler):
    """Sends records to a descriptor by an Outlet.

    Number of dropped lines: a warning in the same format, from this module's logger.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._outlet = Outlet(descriptor, self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._outlet.put(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Waits FLUSH_S at most for a reader."""
        self._outlet.flush()

    def close(self) -> None:
        """Gives up what waits."""
        self._outlet.close()
        super().close()

    def _dropped(self, count: int) -> str:
        text = "log lines dropped, since nothing read them: %d"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, (count,), None)
        return self.format(record) + "\n"
