"""The server of the control socket: reads requests, writes answers and streams of events.

Holds the limits and the rules for taking over a socket file. Must not know what a command means:
the daemon passes one handler for each command.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from carp_fast.control.protocol import CHUNK_BYTES, ControlError, ControlInUse, Verdict, peer_pid

logger = logging.getLogger(__name__)

Answer = bytes | msgspec.Struct | Mapping[str, object] | AsyncIterator[bytes]

LINE_BYTES_MAX = 65_536  # a request line; the largest in use is below 1 KiB
CLIENTS_MAX = 64  # so that a runaway script cannot take every file descriptor
# Events queued for one reader: one transition of every virtual host of a large installation. All
# queues share the same bytes objects, so each line is in memory once.
EVENTS_QUEUED_MAX = 65_536
EVENTS_PER_WRITE = 256
ANSWER_STALL_S = 60.0  # a client that reads no chunk of its answer for this long is disconnected
LINGER_S = 5.0  # a client that is dropped has this long to read the line that tells why
STOP_FLUSH_S = 1.0  # stop() waits this long for pending answers and events
START_LOCK_S = 2.0  # start() waits this long for another start in the same directory
SOCKET_PATH_BYTES_MAX = 107  # the kernel's limit of sun_path, without its NUL


class Handler(NamedTuple):
    """The handler of a command: `answer` is called with the request as a `request`.

    A request that does not fit that class is refused with its `needs`, if it has one.
    """

    request: Any
    answer: Callable[[Any], Awaitable[Answer]]


class ControlCounters(msgspec.Struct):
    """What the server did, and how often it hit its limits, since it was created."""

    requests: int = 0
    errors: int = 0
    clients_refused: int = 0
    clients_stalled: int = 0
    lines_too_long: int = 0
    readers_dropped: int = 0


class _Subscription:
    """The bounded queue of one reader of events."""

    def __init__(self, abort: Callable[[], None]) -> None:
        self.abort = abort
        self.lines: deque[bytes] = deque()
        self.lost = 0
        self.gone = False
        self.finishing = False
        self.wake = asyncio.Event()

    def offer(self, line: bytes) -> bool:
        """Queues a line; returns True if this line made the queue overflow."""
        self.wake.set()
        if not self.lost and len(self.lines) < EVENTS_QUEUED_MAX:
            self.lines.append(line)
            return False
        first = not self.lost
        self.lost += len(self.lines) + 1
        self.lines.clear()
        return first

    def take(self) -> bytes:
        count = min(len(self.lines), EVENTS_PER_WRITE)
        return b"".join([self.lines.popleft() for _ in range(count)])


class _Client:
    """One connection: its streams, and whether a request is being answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.busy = False

    async def write(self, data: bytes) -> None:
        """Writes in chunks. Raises TimeoutError for a client that does not read them."""
        view = memoryview(data)
        for offset in range(0, len(view), CHUNK_BYTES):
            self.writer.write(view[offset : offset + CHUNK_BYTES])
            async with asyncio.timeout(ANSWER_STALL_S):
                await self.writer.drain()

    async def write_object(self, answer: object) -> None:
        await self.write(msgspec.json.encode(answer) + b"\n")

    async def refuse(self, why: str, faults: Iterable[str] = ()) -> None:
        await self.write_object(Verdict(False, why, list(faults)))

    async def close(self) -> None:
        """Closes once everything is written, or LINGER_S later."""
        self.writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self.writer.wait_closed()
        self.writer.transport.abort()


class ControlServer:
    """Serves the control socket on the running loop.

    `handlers` maps a command to its request class and function. An answer is a struct that begins
    with ``ok``; a mapping, to which ``"ok": true`` is added unless it has "ok"; one encoded line as
    bytes; or an asynchronous iterator of the slices of one line (without line ends), between which
    the loop runs. A handler refuses by raising ControlError. ``events`` is the server's own
    command, fed by publish().
    """

    def __init__(self, path: Path | str, handlers: Mapping[str, Handler]) -> None:
        self.path = Path(path)
        self.counters = ControlCounters()
        self._handlers = dict(handlers)
        self._clients: dict[asyncio.Task[None], _Client] = {}
        self._subscriptions: set[_Subscription] = set()
        self._server: asyncio.AbstractServer | None = None
        self._file_identity: tuple[int, int] | None = None
        self._full = False
        self._stopping = False

    @property
    def subscribers(self) -> int:
        """The number of readers of events: without any, publish() costs nothing."""
        return len(self._subscriptions)

    async def start(self) -> None:
        """Binds and serves.

        A stale socket file is replaced and a missing directory is created (0755). Raises
        ControlInUse if a daemon listens there, ControlError if the path cannot be used.
        """
        if len(os.fsencode(self.path)) > SOCKET_PATH_BYTES_MAX:
            limit = f"longer than {SOCKET_PATH_BYTES_MAX} bytes, the kernel's limit"
            raise ControlError(f"control socket {self.path}: the path is {limit}")
        try:
            with _umask(0o022):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            # Another start must not do the same between the probe and the bind, so both are done
            # under a lock on the directory, which leaves no lock file behind.
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                await _lock(directory, self.path)
                _remove_stale(self.path)
                listener = self._bind()
            finally:
                os.close(directory)
        except OSError as error:
            raise ControlError(f"control socket {self.path}: {error.strerror}") from error
        self._stopping = False
        self._server = await asyncio.start_unix_server(
            self._on_connection, sock=listener, limit=LINE_BYTES_MAX
        )

    async def stop(self) -> None:
        """Removes the socket, writes pending events and answers, ends every connection."""
        if self._server is None:
            return
        self._stopping = True
        self._server.close()
        self._unlink()
        for subscription in self._subscriptions:
            subscription.finishing = True
            subscription.wake.set()
        for task, client in list(self._clients.items()):
            if not client.busy:
                task.cancel()
        if self._clients:
            await asyncio.wait(list(self._clients), timeout=STOP_FLUSH_S)
        for task, client in list(self._clients.items()):
            client.writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def publish(self, event: object) -> None:
        """Sends an event, which is encoded as a JSON object, to every reader of ``events``.

        Never waits; encodes it once.
        """
        if not self._subscriptions:
            return
        line = msgspec.json.encode(event) + b"\n"
        for subscription in self._subscriptions:
            if subscription.offer(line):
                self._on_overflow(subscription)

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # The file is created with its final mode: a chmod afterwards would leave a gap.
            with _umask(0o177):
                listener.bind(os.fspath(self.path))
            listener.listen(CLIENTS_MAX)
            listener.setblocking(False)
            status = os.lstat(self.path)
        except OSError:
            listener.close()
            raise
        self._file_identity = (status.st_dev, status.st_ino)
        return listener

    def _unlink(self) -> None:
        # If another daemon has created a file there meanwhile, it is not ours to remove.
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._file_identity:
                self.path.unlink()

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        client = _Client(reader, writer)
        full = len(self._clients) >= CLIENTS_MAX
        if not full:
            self._clients[task] = client
            self._full = False
        try:
            if not self._stopping:
                await (self._refuse(client) if full else self._serve(client))
        except TimeoutError:
            self.counters.clients_stalled += 1
            logger.warning("a control client read nothing of its answer for %g s", ANSWER_STALL_S)
            writer.transport.abort()
        except (ConnectionError, asyncio.CancelledError):
            pass
        try:
            await client.close()
        finally:
            self._clients.pop(task, None)

    async def _refuse(self, client: _Client) -> None:
        self.counters.clients_refused += 1
        if not self._full:
            self._full = True
            logger.warning("control socket full: %d clients, refusing more", CLIENTS_MAX)
        await client.refuse(f"too many control clients (limit {CLIENTS_MAX})")

    async def _serve(self, client: _Client) -> None:
        while True:
            try:
                line = await client.reader.readline()
            except ValueError:
                self.counters.lines_too_long += 1
                await client.refuse(f"request line longer than {LINE_BYTES_MAX} bytes")
                return
            if not line:
                return
            client.busy = True
            self.counters.requests += 1
            if not await self._answer(client, line):
                return
            client.busy = False

    async def _answer(self, client: _Client, line: bytes) -> bool:
        """Answers one request; returns whether the connection stays open."""
        try:
            command = _command(line)
            if command == "events":
                await self._serve_events(client)
                return False
            handler = self._handlers.get(command)
            if handler is None:
                known = ", ".join(sorted({*self._handlers, "events"}))
                raise ControlError(f"unknown command {command!r} (known: {known})")
            answer = await self._call(handler, command, line)
        except ControlError as error:
            self.counters.errors += 1
            answer = Verdict(False, str(error), list(error.faults))
        return await self._write_answer(client, answer)

    async def _call(self, handler: Handler, command: str, line: bytes) -> Answer:
        try:
            request = msgspec.json.decode(line, type=handler.request)
        except msgspec.ValidationError as error:
            needs = getattr(handler.request, "needs", "")
            raise ControlError(needs or f"{command}: {error}") from error
        try:
            return await handler.answer(request)
        except ControlError:
            raise
        except Exception as error:
            logger.exception("control command %r failed", command)
            text = f"command {command!r} failed inside the daemon: {error!r} (see its log)"
            raise ControlError(text) from error

    async def _write_answer(self, client: _Client, answer: Answer) -> bool:
        if isinstance(answer, msgspec.Struct):
            await client.write_object(answer)
            return True
        if isinstance(answer, Mapping):
            await client.write_object({"ok": True, **answer})
            return True
        if isinstance(answer, bytes):
            await client.write(answer.removesuffix(b"\n") + b"\n")
            return True
        try:
            async for piece in answer:
                await client.write(piece)
                # drain() returns immediately if the client keeps up; the loop has other work.
                await asyncio.sleep(0)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            # Half a line is sent: only the end of the connection can show that it is incomplete.
            self.counters.errors += 1
            logger.exception("a control answer failed halfway")
            return False
        await client.write(b"\n")
        return True

    async def _serve_events(self, client: _Client) -> None:
        """Writes events until the client disconnects, falls too far behind, or the server stops."""
        subscription = _Subscription(client.writer.transport.abort)
        watcher = asyncio.create_task(_until_gone(client.reader, subscription))
        self._subscriptions.add(subscription)
        try:
            client.writer.write(b'{"ok":true}\n')
            while not subscription.gone:
                if subscription.lost:
                    limit = f"dropped: this reader fell {EVENTS_QUEUED_MAX} events behind"
                    await client.refuse(f"{limit}, {subscription.lost} are lost")
                    return
                if subscription.lines:
                    client.writer.write(subscription.take())
                    await client.writer.drain()
                elif subscription.finishing:
                    return
                else:
                    subscription.wake.clear()
                    await subscription.wake.wait()
        finally:
            self._subscriptions.discard(subscription)
            watcher.cancel()

    def _on_overflow(self, subscription: _Subscription) -> None:
        self.counters.readers_dropped += 1
        logger.warning("dropping a reader of events: %d events behind", EVENTS_QUEUED_MAX)
        asyncio.get_running_loop().call_later(LINGER_S, subscription.abort)


class _Commanded(msgspec.Struct):
    """The field that every request has."""

    command: str


def _command(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=_Commanded).command
    except msgspec.ValidationError as error:
        text = 'request must be a JSON object with a string "command"'
        raise ControlError(text) from error
    except msgspec.DecodeError as error:
        raise ControlError(f"request is not JSON: {error}") from error


async def _until_gone(reader: asyncio.StreamReader, subscription: _Subscription) -> None:
    """Reads and ignores what the client sends; its end of file ends the stream."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(4096):
            pass
    subscription.gone = True
    subscription.wake.set()


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


async def _lock(directory: int, path: Path) -> None:
    deadline_at = asyncio.get_running_loop().time() + START_LOCK_S
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline_at:
                text = f"control socket {path}: {path.parent} stays locked by another process"
                raise ControlError(text) from None
            await asyncio.sleep(0.02)


def _remove_stale(path: Path) -> None:
    """Removes a socket file that no process listens on; raises if it is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        what = "not a socket; remove it or choose another daemon.control_socket"
        raise ControlError(f"control socket {path}: there is a file that is {what}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            logger.info("control socket %s: stale, replaced", path)
            return
        except BlockingIOError:
            # A full queue of connections: a process listens, though slowly.
            raise ControlInUse(f"control socket {path} is in use by a running daemon") from None
        pid = peer_pid(probe)
    raise ControlInUse(f"control socket {path} is in use by a running daemon (pid {pid})")
