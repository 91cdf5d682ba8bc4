"""The client of the control socket: asks a daemon and follows its events.

Must not know what a command means.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from carp_fast.closing import Closing
from carp_fast.control.protocol import CHUNK_BYTES, ControlError, ControlTimeout, peer_pid

REQUEST_TIMEOUT_S = 60.0
# Ctrl-C just before a wait begins does not end it: Python acts on it when the wait is over.
INTERRUPTED_WITHIN_S = 1.0


def daemon_pid(path: Path) -> int | None:
    """The process that listens on a control socket; None: nobody who could be asked does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return None
        return peer_pid(probe)


class _Verdict(msgspec.Struct):
    """What every answer begins with."""

    ok: bool = True
    error: str = ""
    faults: list[str] = []


class ControlStream(Closing):
    """Lines of a streaming command, decoded: iterate, or next_event() with a deadline.

    A context manager. Raises ControlError when the daemon ends the stream.
    """

    def __init__(self, path: Path, connection: socket.socket, buffered: bytes) -> None:
        self._path = path
        self._connection = connection
        self._rest = buffered
        self._lines: deque[bytes] = deque()
        self._split()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return self.next_event(None)

    def close(self) -> None:
        """Ends the stream."""
        self._connection.close()

    def next_event(self, timeout_s: float | None) -> dict[str, Any]:
        """The next event. Raises ControlTimeout if none comes within timeout_s (None: waits)."""
        while not self._lines:
            self._connection.settimeout(INTERRUPTED_WITHIN_S if timeout_s is None else timeout_s)
            try:
                data = self._connection.recv(CHUNK_BYTES)
            except TimeoutError:
                if timeout_s is None:
                    continue
                raise ControlTimeout(f"no event within {timeout_s:g} s") from None
            except ConnectionError:
                data = b""
            if not data:
                raise ControlError(f"the daemon at {self._path} ended the connection")
            self._rest += data
            self._split()
        line = self._lines.popleft()
        event: dict[str, Any] = msgspec.json.decode(line)
        if event.get("ok") is False:
            raise ControlError(str(event.get("error", "the daemon ended the stream")))
        return event

    def _split(self) -> None:
        *lines, self._rest = self._rest.split(b"\n")
        self._lines.extend(lines)


class ControlClient:
    """Asks a daemon, synchronously; one connection a request.

    `timeout_s` bounds the wait for the next piece of an answer, not the whole answer.
    """

    def __init__(self, path: Path | str, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.path = Path(path)
        self.timeout_s = timeout_s

    def request(self, command: str, **arguments: object) -> dict[str, Any]:
        """The decoded answer. Raises ControlError when there is none, or one that says no."""
        answer: dict[str, Any] = msgspec.json.decode(self.request_raw(command, **arguments))
        return answer

    def request_raw(self, command: str, **arguments: object) -> bytes:
        """The answer as JSON text, known to be whole and to say yes. Raises as request()."""
        with self._send(command, arguments) as connection:
            line, _ = self._read_line(connection)
        return line

    def stream(self, command: str = "events", **arguments: object) -> ControlStream:
        """A stream, once the daemon has confirmed it. Raises as request()."""
        connection = self._send(command, arguments)
        try:
            _, rest = self._read_line(connection)
        except BaseException:
            connection.close()
            raise
        return ControlStream(self.path, connection, rest)

    def _send(self, command: str, arguments: Mapping[str, object]) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(self.timeout_s)
        given = {name: value for name, value in arguments.items() if value is not None}
        request = msgspec.json.encode({"command": command, **given}) + b"\n"
        try:
            connection.connect(os.fspath(self.path))
            # A server that refuses closes without reading; its answer is still to be read.
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
        except OSError as error:
            connection.close()
            raise self._connection_error(error) from error
        return connection

    def _connection_error(self, error: OSError) -> ControlError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return ControlError(f"no carp-fast daemon at {self.path}: is it running?")
        if isinstance(error, PermissionError):
            return ControlError(f"no permission for {self.path}: it belongs to the daemon's user")
        if isinstance(error, BlockingIOError | TimeoutError):
            return ControlTimeout(f"the daemon at {self.path} takes no connections now")
        return ControlError(f"{self.path}: {error.strerror or error}")

    def _read_line(self, connection: socket.socket) -> tuple[bytes, bytes]:
        """The answer's line, which says yes, and what came after it."""
        pieces: list[bytes] = []
        while True:
            try:
                data = connection.recv(CHUNK_BYTES)
            except TimeoutError:
                text = f"does not answer within {self.timeout_s:g} s"
                raise ControlTimeout(f"the daemon at {self.path} {text}") from None
            except ConnectionError:
                data = b""
            if not data:
                how = "in the middle of its answer" if pieces else "without an answer"
                raise ControlError(f"the daemon at {self.path} ended the connection {how}")
            end = data.find(b"\n")
            if end >= 0:
                line = b"".join([*pieces, data[:end]])
                self._check(line)
                return line, data[end + 1 :]
            pieces.append(data)

    def _check(self, line: bytes) -> None:
        try:
            verdict = msgspec.json.decode(line, type=_Verdict)
        except msgspec.DecodeError as error:
            raise ControlError(f"{self.path}: the answer is not a daemon's: {error}") from error
        if not verdict.ok:
            raise ControlError(verdict.error or "the daemon refused", verdict.faults)
