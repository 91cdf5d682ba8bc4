"""Log lines for a descriptor whose reader may stop reading; nothing here ever waits for it.

Holds `Outlet`, which keeps lines for a while, and `OutletHandler`, the log's handler that uses it.
Must not know what a line means, nor its format.
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
# A writable pipe accepts this much at once; a longer piece could block if O_NONBLOCK is not
# available.
PIECE_BYTES = select.PIPE_BUF
FLUSH_S = 1.0  # at the end, for a slow reader; one that reads nothing gets no more


class Outlet:
    """Lines for a descriptor, in order; put() never waits.

    What the descriptor does not accept immediately waits, up to WAITING_BYTES_MAX, and is written
    by a thread that lives as long as anything waits. Further lines are dropped and counted; once
    lines are accepted again, `report` returns the line that gives the number. If the reader is
    gone, lines are dropped silently.
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
        """Prepares for writes that do not block, without changing the shared descriptor."""
        with contextlib.suppress(OSError):
            mode = os.fstat(self._descriptor).st_mode
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(self._descriptor))
            elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._opened = os.open(f"/proc/self/fd/{self._descriptor}", flags)

    def close(self) -> None:
        """Discards what waits, see flush(), and closes what was opened here."""
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
        """The number of bytes that wait for the reader."""
        return self._waiting_bytes

    def put(self, text: str) -> None:
        """Writes a text, queues it, or drops it."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._waiting_bytes + len(data) > WAITING_BYTES_MAX:
                self._dropped += 1
                return
            self._report_dropped()
            self._add(data)
            if not self._write() and self._thread is None:
                self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
                self._thread.start()

    def flush(self, deadline_s: float = FLUSH_S) -> bool:
        """Waits until nothing waits, at most `deadline_s`; returns whether nothing does."""
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

    def _report_dropped(self) -> None:
        if self._dropped:
            self._add(self._report(self._dropped).encode())
            self._dropped = 0

    def _drain(self) -> None:
        """Writes whenever the descriptor accepts data, until nothing waits."""
        while True:
            self._wait(None)
            with self._lock:
                if self._write():
                    self._report_dropped()
                    if self._write():
                        self._thread = None
                        return

    def _wait(self, timeout_s: float | None) -> bool:
        """Waits until the descriptor is writable; returns whether it is."""
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        return bool(ready.poll(None if timeout_s is None else timeout_s * 1e3))

    def _write(self) -> bool:
        """Writes as much as is accepted without waiting; returns False if anything still waits."""
        while self._waiting:
            data = self._waiting[0]
            try:
                count = self._send(data[:PIECE_BYTES])
            except BlockingIOError:
                return False
            except OSError:  # the reader is gone: this cannot be reported anywhere
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
        if not self._wait(0):
            raise BlockingIOError
        return os.write(self._descriptor, piece)


class OutletHandler(logging.Handler):
    """Sends records to a descriptor through an Outlet.

    The number of dropped lines is a warning in the same format, from this module's logger.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._outlet = Outlet(descriptor, self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._outlet.put(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    @property
    def waiting(self) -> int:
        """The number of bytes that wait for the reader."""
        return self._outlet.waiting

    def flush(self) -> None:
        """Waits at most FLUSH_S for a reader."""
        self._outlet.flush()

    def close(self) -> None:
        """Discards what waits."""
        self._outlet.close()
        super().close()

    def _dropped(self, count: int) -> str:
        text = "log lines dropped, since nothing read them: %d"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, (count,), None)
        return self.format(record) + "\n"
