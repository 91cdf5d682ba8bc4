"""Clients of the control socket: query a daemon, follow its events, with asyncio or without.

Each request has its own connection. ControlClient blocks, AsyncControlClient is awaited, and both
return the same documents. Must not know how a daemon answers, nor how an answer is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import msgspec

from carp_fast.closing import Closing
from carp_fast.control.documents import (
    Demoted,
    HandedOver,
    Maintenance,
    Recording,
    Reloaded,
    StateEvent,
    Status,
    Upgraded,
)
from carp_fast.control.explanations import Explanation
from carp_fast.control.overview import Overview
from carp_fast.control.protocol import (
    CHUNK_BYTES,
    ControlError,
    ControlTimeout,
    Verdict,
    peer_of,
)
from carp_fast.control.requests import (
    DemoteRequest,
    ExplainRequest,
    MaintenanceRequest,
    OverviewRequest,
    PreemptRequest,
    RecordRequest,
    ReloadRequest,
    Request,
    StatusRequest,
    UndemoteRequest,
    UpgradeRequest,
    YieldRequest,
)

REQUEST_TIMEOUT_S = 60.0  # for the next piece of an answer
# Ctrl-C just before a wait begins does not end it: Python handles it when the wait is over.
INTERRUPTED_WITHIN_S = 1.0

Document = TypeVar("Document")


class StatusAnswer(msgspec.Struct):
    """The answer to StatusRequest, with the document as JSON."""

    status: msgspec.Raw


class ExplainAnswer(msgspec.Struct):
    """The answer to ExplainRequest, with the document as JSON."""

    explain: msgspec.Raw


class OverviewAnswer(msgspec.Struct):
    """The answer to OverviewRequest."""

    overview: Overview


class RecordAnswer(msgspec.Struct):
    """The answer to RecordRequest."""

    recording: Recording


def daemon_pid(path: Path) -> int | None:
    """The process that listens on a control socket; None if none does that may be queried."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return None
        return peer_of(probe).pid


def decoded(line: bytes | msgspec.Raw, kind: type[Document], path: Path) -> Document:
    """A document as its class. Raises ControlError if it does not fit."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        text = f"the daemon at {path} sent an answer that this version does not know: {error}"
        raise ControlError(text) from error


def encoded(command: str, arguments: dict[str, object]) -> bytes:
    """A request for any command, without the arguments that are None."""
    given = {name: value for name, value in arguments.items() if value is not None}
    return msgspec.json.encode({"command": command, **given})


class _Lines:
    """Splits received pieces into whole lines."""

    def __init__(self) -> None:
        self._whole: deque[bytes] = deque()
        self._begun: list[bytes] = []

    def feed(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._begun, whole[0]])
            self._begun.clear()
            self._whole.extend(whole)
        if rest:
            self._begun.append(rest)

    def take(self) -> bytes | None:
        """The next line, without its end; None if it is not complete."""
        return self._whole.popleft() if self._whole else None

    @property
    def begun(self) -> bool:
        """Whether part of a line was received."""
        return bool(self._begun)


class _Daemon:
    """The queried daemon: its path, the timeout, and the errors that it may cause."""

    def __init__(self, path: Path | str, timeout_s: float) -> None:
        self.path = Path(path)
        self.timeout_s = timeout_s

    def unreachable(self, error: OSError) -> ControlError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return ControlError(f"no carp-fast daemon at {self.path}: is it running?")
        if isinstance(error, PermissionError):
            allowed = "root, the daemon's user and the members of daemon.control_group"
            return ControlError(f"no permission for {self.path}; allowed: {allowed}")
        if isinstance(error, BlockingIOError | TimeoutError):
            return ControlTimeout(f"the daemon at {self.path} accepts no connections now")
        return ControlError(f"{self.path}: {error.strerror or error}")

    def silent(self) -> ControlTimeout:
        text = f"does not answer within {self.timeout_s:g} s"
        return ControlTimeout(f"the daemon at {self.path} {text}")

    def ended(self, how: str = "") -> ControlError:
        return ControlError(f"the daemon at {self.path} ended the connection{how}")

    def broke_off(self, lines: _Lines) -> ControlError:
        return self.ended(" in the middle of its answer" if lines.begun else " without an answer")

    def checked(self, line: bytes, otherwise: str = "the daemon refused") -> bytes:
        """Returns a line unless it is a refusal. Raises ControlError."""
        try:
            verdict = msgspec.json.decode(line, type=Verdict)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ControlError(f"{self.path}: the answer is not a daemon's: {error}") from error
        if not verdict.ok:
            raise ControlError(verdict.error or otherwise, verdict.faults, code=verdict.code)
        return line

    def event(self, line: bytes) -> bytes:
        return self.checked(line, "the daemon ended the stream")


# --------------------------------------------------------------------------------- without asyncio


class ControlStream(Closing, Generic[Document]):
    """Documents of a stream: iterate, or next_event() with a deadline. A context manager.

    Raises ControlError when the daemon ends the stream.
    """

    def __init__(
        self, daemon: _Daemon, connection: socket.socket, lines: _Lines, kind: type[Document]
    ) -> None:
        self._daemon = daemon
        self._connection = connection
        self._lines = lines
        self._kind = kind

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        return self.next_event()

    def close(self) -> None:
        """Ends the stream."""
        self._connection.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._connection.fileno() < 0

    def next_event(self, timeout_s: float | None = None) -> Document:
        """The next event. Raises ControlTimeout if none comes within timeout_s (None: waits)."""
        return decoded(self.next_line(timeout_s), self._kind, self._daemon.path)

    def next_line(self, timeout_s: float | None = None) -> bytes:
        """The next event as JSON text. Raises as next_event()."""
        while (line := self._lines.take()) is None:
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
                raise self._daemon.ended()
            self._lines.feed(data)
        return self._daemon.event(line)


class ControlClient(Closing):
    """Queries the daemon that listens at `path`, and waits for its answers.

    `timeout_s` limits the wait for the next piece of an answer, not the whole answer. Every method
    raises ControlError: no daemon, no permission, a refusal, an answer that this version does not
    know; or its subclass ControlTimeout. A context manager: leaving the block ends its streams.
    """

    def __init__(self, path: Path | str, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._daemon = _Daemon(path, timeout_s)
        self._streams: list[ControlStream[Any]] = []

    @property
    def path(self) -> Path:
        """The control socket."""
        return self._daemon.path

    def close(self) -> None:
        """Ends every stream of this client."""
        for stream in self._streams:
            stream.close()

    def status(
        self,
        *,
        interface: str | None = None,
        vhid: int | None = None,
        state: str | None = None,
        problems: bool = False,
    ) -> Status:
        """The virtual hosts that match, and totals of all; `problems`: only those with problems.

        `state`: "INIT", "BACKUP" or "MASTER".
        """
        request = StatusRequest(interface, vhid, state, problems or None)
        return decoded(self._ask(request, StatusAnswer).status, Status, self.path)

    def status_json(self, request: StatusRequest) -> bytes:
        """The status document as the daemon wrote it, including keys that this version does not
        know.
        """
        return bytes(self._ask(request, StatusAnswer).status)

    def overview(self, since: int = 0) -> Overview:
        """Totals, problems, and the changes of state after the first `since`."""
        return self._ask(OverviewRequest(since), OverviewAnswer).overview

    def explain(self, interface: str, vhid: int) -> Explanation:
        """Why each virtual host of an interface with this vhid is in its state."""
        return decoded(self.explain_json(interface, vhid), Explanation, self.path)

    def explain_json(self, interface: str, vhid: int) -> bytes:
        """The explanation as the daemon wrote it, with keys that this version does not know."""
        return bytes(self._ask(ExplainRequest(interface, vhid), ExplainAnswer).explain)

    def reload(self, *, force: bool = False) -> Reloaded:
        """Reads the configuration again; `force`: also if the change looks like an accident.

        Raises ControlError, with its `faults`, if nothing was changed.
        """
        return self._ask(ReloadRequest(force), Reloaded)

    def demote(self, amount: int, reason: str, group: str | None = None) -> Demoted:
        """Demotes every virtual host, or those of a group, across restarts; the same reason
        replaces its amount.
        """
        return self._ask(DemoteRequest(amount, reason, group), Demoted)

    def undemote(self, reason: str, group: str | None = None) -> Demoted:
        """Ends the demotion by this reason, of every virtual host or of a group."""
        return self._ask(UndemoteRequest(reason, group), Demoted)

    def hand_over(
        self, interface: str, vhid: int, *, demote: bool = False, group: bool = False
    ) -> HandedOver:
        """Hands a MASTER over to another host, once; `demote`: and demotes it until undemote();
        `group`: with all masters of its group.
        """
        return self._ask(YieldRequest(interface, vhid, demote, group), HandedOver)

    def take_over(self, interface: str, vhid: int) -> HandedOver:
        """Takes a virtual host over from a slower master, once, whatever `preempt` is."""
        return self._ask(PreemptRequest(interface, vhid), HandedOver)

    def maintenance(self, request: MaintenanceRequest) -> Maintenance:
        """Begins, ends, plans or shows maintenance; does not wait until the masters are given up:
        `progress` of "show" tells how far that is.
        """
        return self._ask(request, Maintenance)

    def upgrade(self) -> Upgraded:
        """Has the installed version take over from the running process; no role changes."""
        return self._ask(UpgradeRequest(), Upgraded)

    def record(self, *, interface: str | None = None, vhid: int | None = None) -> Recording:
        """What the virtual hosts that match heard and decided lately."""
        return self._ask(RecordRequest(interface, vhid), RecordAnswer).recording

    def events(self) -> ControlStream[StateEvent]:
        """A stream of every change of state from now on: the daemon has confirmed it."""
        return self._stream(encoded("events", {}), StateEvent)

    # -- any command, as JSON

    def request(self, command: str, **arguments: object) -> dict[str, Any]:
        """The answer to any command, as a dict."""
        answer: dict[str, Any] = msgspec.json.decode(self.request_raw(command, **arguments))
        return answer

    def request_raw(self, command: str, **arguments: object) -> bytes:
        """The answer to any command as JSON text; it is complete and not a refusal."""
        return self._line(encoded(command, arguments))

    def stream(self, command: str = "events", **arguments: object) -> ControlStream[dict[str, Any]]:
        """A stream of events as dicts, after the daemon has confirmed it."""
        return self._stream(encoded(command, arguments), dict[str, Any])

    # -- connections

    def _ask(self, request: Request, kind: type[Document]) -> Document:
        return decoded(self._line(msgspec.json.encode(request)), kind, self.path)

    def _line(self, request: bytes) -> bytes:
        with self._send(request) as connection:
            return self._read_line(connection, _Lines())

    def _stream(self, request: bytes, kind: type[Document]) -> ControlStream[Document]:
        connection, lines = self._send(request), _Lines()
        try:
            self._read_line(connection, lines)
        except BaseException:
            connection.close()
            raise
        stream = ControlStream(self._daemon, connection, lines, kind)
        self._streams = [each for each in self._streams if not each.closed] + [stream]
        return stream

    def _send(self, request: bytes) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(self._daemon.timeout_s)
        try:
            connection.connect(os.fspath(self.path))
            # A server that refuses closes without reading; its answer can still be read.
            with contextlib.suppress(ConnectionError):
                connection.sendall(request + b"\n")
        except OSError as error:
            connection.close()
            raise self._daemon.unreachable(error) from error
        return connection

    def _read_line(self, connection: socket.socket, lines: _Lines) -> bytes:
        """The answer's line, unless it is a refusal. Raises ControlError."""
        while (line := lines.take()) is None:
            try:
                data = connection.recv(CHUNK_BYTES)
            except TimeoutError:
                raise self._daemon.silent() from None
            except ConnectionError:
                data = b""
            if not data:
                raise self._daemon.broke_off(lines)
            lines.feed(data)
        return self._daemon.checked(line)


# ------------------------------------------------------------------------------------ with asyncio


class _Connection:
    """A connection on which a request was sent."""

    def __init__(
        self, daemon: _Daemon, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._daemon = daemon
        self._reader = reader
        self._writer = writer
        self._lines = _Lines()

    @classmethod
    async def opened(cls, daemon: _Daemon, request: bytes) -> Self:
        try:
            async with asyncio.timeout(daemon.timeout_s):
                reader, writer = await asyncio.open_unix_connection(daemon.path)
        except OSError as error:
            raise daemon.unreachable(error) from error
        writer.write(request + b"\n")
        return cls(daemon, reader, writer)

    def close(self) -> None:
        self._writer.close()

    async def _more(self, timeout_s: float | None) -> bool:
        """Reads some data; returns False at the end. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            try:
                data = await self._reader.read(CHUNK_BYTES)
            except ConnectionError:
                data = b""
        self._lines.feed(data)
        return bool(data)

    async def answer(self) -> bytes:
        """The answer's line, unless it is a refusal. Raises ControlError."""
        while (line := self._lines.take()) is None:
            try:
                comes = await self._more(self._daemon.timeout_s)
            except TimeoutError:
                raise self._daemon.silent() from None
            if not comes:
                raise self._daemon.broke_off(self._lines)
        return self._daemon.checked(line)

    async def event(self, timeout_s: float | None) -> bytes:
        """The next line of a stream."""
        while (line := self._lines.take()) is None:
            try:
                comes = await self._more(timeout_s)
            except TimeoutError:
                raise ControlTimeout(f"no event within {timeout_s:g} s") from None
            if not comes:
                raise self._daemon.ended()
        return self._daemon.event(line)


class AsyncControlStream(Generic[Document]):
    """Documents of a stream: `async with` begins it, `async for` or next_event() returns them.

    Raises ControlError when there is no daemon, or when it ends the stream.
    """

    def __init__(self, daemon: _Daemon, request: bytes, kind: type[Document]) -> None:
        self._daemon = daemon
        self._request = request
        self._kind = kind
        self._connection: _Connection | None = None
        self.closed = False  # whether close() was called

    async def __aenter__(self) -> Self:
        """Returns once the daemon has confirmed the stream."""
        self._connection = await _Connection.opened(self._daemon, self._request)
        try:
            await self._connection.answer()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream."""
        self.closed = True
        if self._connection is not None:
            self._connection.close()

    def __aiter__(self) -> AsyncIterator[Document]:
        return self

    async def __anext__(self) -> Document:
        return await self.next_event()

    async def next_event(self, timeout_s: float | None = None) -> Document:
        """The next event. Raises ControlTimeout if none comes within timeout_s (None: waits)."""
        if self._connection is None:
            raise RuntimeError("a stream begins with `async with`")
        return decoded(await self._connection.event(timeout_s), self._kind, self._daemon.path)


class AsyncControlClient:
    """ControlClient for asyncio: the same requests, answers and errors, awaited.

    A context manager: leaving the block ends its streams.
    """

    def __init__(self, path: Path | str, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._daemon = _Daemon(path, timeout_s)
        self._streams: list[AsyncControlStream[Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()

    @property
    def path(self) -> Path:
        """The control socket."""
        return self._daemon.path

    async def status(
        self,
        *,
        interface: str | None = None,
        vhid: int | None = None,
        state: str | None = None,
        problems: bool = False,
    ) -> Status:
        """See ControlClient.status."""
        request = StatusRequest(interface, vhid, state, problems or None)
        return decoded((await self._ask(request, StatusAnswer)).status, Status, self.path)

    async def overview(self, since: int = 0) -> Overview:
        """See ControlClient.overview."""
        return (await self._ask(OverviewRequest(since), OverviewAnswer)).overview

    async def explain(self, interface: str, vhid: int) -> Explanation:
        """See ControlClient.explain."""
        answer = await self._ask(ExplainRequest(interface, vhid), ExplainAnswer)
        return decoded(answer.explain, Explanation, self.path)

    async def reload(self, *, force: bool = False) -> Reloaded:
        """See ControlClient.reload."""
        return await self._ask(ReloadRequest(force), Reloaded)

    async def demote(self, amount: int, reason: str, group: str | None = None) -> Demoted:
        """See ControlClient.demote."""
        return await self._ask(DemoteRequest(amount, reason, group), Demoted)

    async def undemote(self, reason: str, group: str | None = None) -> Demoted:
        """See ControlClient.undemote."""
        return await self._ask(UndemoteRequest(reason, group), Demoted)

    async def hand_over(
        self, interface: str, vhid: int, *, demote: bool = False, group: bool = False
    ) -> HandedOver:
        """See ControlClient.hand_over."""
        return await self._ask(YieldRequest(interface, vhid, demote, group), HandedOver)

    async def take_over(self, interface: str, vhid: int) -> HandedOver:
        """See ControlClient.take_over."""
        return await self._ask(PreemptRequest(interface, vhid), HandedOver)

    async def maintenance(self, request: MaintenanceRequest) -> Maintenance:
        """See ControlClient.maintenance."""
        return await self._ask(request, Maintenance)

    async def upgrade(self) -> Upgraded:
        """See ControlClient.upgrade."""
        return await self._ask(UpgradeRequest(), Upgraded)

    async def record(self, *, interface: str | None = None, vhid: int | None = None) -> Recording:
        """See ControlClient.record."""
        return (await self._ask(RecordRequest(interface, vhid), RecordAnswer)).recording

    def events(self) -> AsyncControlStream[StateEvent]:
        """Every change of a state from when its `async with` block begins."""
        stream = AsyncControlStream(self._daemon, encoded("events", {}), StateEvent)
        self._streams = [each for each in self._streams if not each.closed] + [stream]
        return stream

    async def _ask(self, request: Request, kind: type[Document]) -> Document:
        connection = await _Connection.opened(self._daemon, msgspec.json.encode(request))
        try:
            return decoded(await connection.answer(), kind, self.path)
        finally:
            connection.close()
