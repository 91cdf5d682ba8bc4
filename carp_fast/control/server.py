"""The server of the control socket: reads requests, writes answers and streams of events.

Holds the limits of requests and answers. Must not know what a command means: the daemon passes one
handler for each command, with what it does to the daemon: reads or changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from carp_fast.config.model import ControlGroup
from carp_fast.control import connections
from carp_fast.control.access import READS, ROOT, Access, Permissions
from carp_fast.control.audit import INTERRUPTED, OK, Audit, log_change, peer_text, request_text
from carp_fast.control.connections import Client, Gone, Stalled, Subscription, until_gone
from carp_fast.control.documents import ControlStatus
from carp_fast.control.encoding import command_of, decoded, encoded_line
from carp_fast.control.places import CLIENTS_MAX, Places
from carp_fast.control.protocol import (
    BEHIND,
    INTERNAL,
    UPGRADED,
    USER_LIMIT,
    ControlError,
)
from carp_fast.control.requests import EventsRequest
from carp_fast.control.socket_file import SocketFile
from carp_fast.inotify import Paths

logger = logging.getLogger(__name__)

Answer = bytes | msgspec.Struct | Mapping[str, object] | AsyncIterator[bytes]

LINE_BYTES_MAX = 65_536  # a request line; the largest in use is below 1 KiB
STOP_FLUSH_S = 1.0  # stop() waits this long for pending answers and events
LISTEN_RETRY_S = 2.0  # until the next attempt to create a socket file that was removed
FILE_SETTLE_S = 1.0  # what removes it may remove its directory, or put another file there
FILE_CHECKED_S = 30.0  # it is looked at without a report, too: a mount over it has none
EVENTS = "events"  # the command that the server answers itself
EVENTS_ACCESS = READS


class Handler(NamedTuple):
    """The handler of a command: `answer` is called with the request as a `request`.

    A request that does not fit that class is refused with its `needs`, if it has one. `access`:
    whether it reads or changes something.
    """

    request: Any
    answer: Callable[[Any], Awaitable[Answer]]
    access: Access


class ControlCounters(msgspec.Struct, forbid_unknown_fields=True):
    """What the server did, and how often it hit its limits, since it was created."""

    requests: int = 0
    changes: int = 0
    errors: int = 0
    not_permitted: int = 0
    clients_refused: int = 0
    clients_refused_of_user: int = 0
    clients_stalled: int = 0
    clients_idle: int = 0
    lines_too_long: int = 0
    readers_dropped: int = 0
    events_dropped: int = 0


class PassedOn(msgspec.Struct, forbid_unknown_fields=True):
    """What a server that another process goes on with has besides its socket.

    `identity`: device and inode of the socket's file, None: it is not there any more.
    """

    identity: tuple[int, int] | None = None
    counters: ControlCounters = msgspec.field(default_factory=ControlCounters)


class ControlServer:
    """Serves the control socket on the running loop.

    `handlers` maps a command to its request class and function. An answer is a struct that begins
    with ``ok``; a mapping, to which ``"ok": true`` is added unless it has "ok"; one encoded line as
    bytes; or an asynchronous iterator of the slices of one line (without line ends), between which
    the loop runs. A handler refuses by raising ControlError. ``events`` is the server's own
    command, fed by publish().

    The members of `group` may connect and give commands that read. Those that change something are
    for root and this process's user, and each is in the audit log.
    """

    def __init__(
        self,
        path: Path | str,
        handlers: Mapping[str, Handler],
        group: ControlGroup | None = None,
    ) -> None:
        self.path = Path(path)
        self.counters = ControlCounters()
        self._handlers = dict(handlers)
        access = {command: handler.access for command, handler in handlers.items()}
        self._permissions = Permissions(group, {**access, EVENTS: EVENTS_ACCESS})
        self._audit = Audit(time.monotonic)
        self._places = Places(time.monotonic)
        self._clients: dict[asyncio.Task[None], Client] = {}
        self._subscriptions: set[Subscription] = set()
        self._server: asyncio.AbstractServer | None = None
        self._listener: socket.socket | None = None
        self._paused: socket.socket | None = None  # the listener between pause() and resume()
        self._serving = asyncio.Event()
        self._serving.set()
        # By task: commands that change something and are being carried out.
        self._changing: dict[asyncio.Task[None] | None, str] = {}
        self._change_ended = asyncio.Event()
        self._farewell = ""  # for readers of events when the server ends
        self._file = SocketFile(self.path, group)
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def subscribers(self) -> int:
        """The number of readers of events: without any, publish() costs nothing."""
        return len(self._subscriptions)

    @property
    def status(self) -> ControlStatus:
        """The group, the number of clients and the counters, as the status document has them."""
        group = self._permissions.group
        return ControlStatus(
            group=None if group is None else group.name,
            clients=len(self._clients),
            **msgspec.structs.asdict(self.counters),
        )

    def use_group(self, group: ControlGroup | None) -> None:
        """Lets the members of this group read from now on, those of another one no longer."""
        if group == self._permissions.group:
            return
        self._permissions.group = group
        self._file.use_group(group)
        for client in self._clients.values():  # streams of events included
            try:
                self._permissions.check(client.peer, client.socket, EVENTS, changes=False)
            except ControlError:
                client.writer.transport.abort()

    async def start(self) -> None:
        """Binds and serves; if the socket file is removed later, it is created again.

        A stale socket file is replaced and a missing directory is created (0755). Raises
        ControlInUse if a daemon listens there, ControlError if the path cannot be used.
        """
        self._stopping = False
        await self._listen()
        self._watcher = asyncio.create_task(self._watch_file())

    async def stop(self) -> None:
        """Removes the socket, writes pending events and answers, ends every connection."""
        if self._server is None:
            return
        await self._stop_watching()
        self._file.remove()
        await self._end()

    # -- one process after the other on one socket

    async def adopt(self, passed_on: PassedOn, listener: socket.socket) -> None:
        """Serves on the socket of another process, instead of start(). Raises ControlError."""
        self._stopping = False
        self._file.adopt(listener, passed_on.identity)
        self.counters = passed_on.counters
        await self._serve_on(listener)
        self._watcher = asyncio.create_task(self._watch_file())

    async def pause(self, within_s: float) -> None:
        """Accepts no client and begins no request until resume(): they wait.

        Returns once no command that changes something is being carried out, but one that calls
        this. Raises ControlError if that takes longer, and goes on.
        """
        self._serving.clear()
        caller = asyncio.current_task()
        try:
            async with asyncio.timeout(within_s):
                while others := self._changing.keys() - {caller}:
                    self._change_ended.clear()
                    await self._change_ended.wait()
        except TimeoutError:
            self._serving.set()
            command = self._changing[next(iter(others))]
            text = f"the command {command} is still being carried out after {within_s:g} s"
            raise ControlError(text) from None
        except BaseException:
            self._serving.set()
            raise
        if self._listener is not None and self._server is not None:
            await self._stop_watching()
            self._paused = self._listener.dup()
            self._server.close()  # connections stay, as does the socket

    async def resume(self) -> None:
        """Goes on after pause()."""
        if self._paused is not None:
            listener, self._paused = self._paused, None
            await self._serve_on(listener)
            self._watcher = asyncio.create_task(self._watch_file())
        self._serving.set()

    def passed_on(self) -> tuple[PassedOn, int] | None:
        """What another process needs for adopt(), and the paused socket's descriptor, which stays
        open here; None if there is no socket.
        """
        if self._paused is None:
            return None
        return PassedOn(self._file.identity, self.counters), self._paused.fileno()

    async def leave(self, why: str) -> None:
        """Ends every connection after pause(); another process serves the socket from now on.

        `why`: for the readers of events, who get it as a refusal with the code UPGRADED.
        """
        if self._server is None:
            return
        self._farewell = why
        if self._paused is not None:
            self._paused.close()
            self._paused = None
        self._serving.set()
        await self._end()

    async def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None

    async def _end(self) -> None:
        """Writes pending events and answers, and ends every connection."""
        assert self._server is not None
        self._stopping = True
        self._server.close()
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
        self._server = self._listener = None

    def publish(self, event: object) -> None:
        """Sends an event, which is encoded as a JSON object, to every reader of ``events``.

        Never waits; encodes it once.
        """
        self._send(event, self._subscriptions)

    def publish_track(self, event: object) -> None:
        """Does so for the readers that asked for the changes of tracks."""
        self._send(event, [each for each in self._subscriptions if each.tracks])

    def _send(self, event: object, subscriptions: Collection[Subscription]) -> None:
        if not subscriptions:
            return
        line = msgspec.json.encode(event) + b"\n"
        for subscription in subscriptions:
            if subscription.offer(line):
                self._on_overflow(subscription)

    async def _listen(self) -> None:
        """Binds, and serves there from now on. Raises ControlError, ControlInUse."""
        listener = await self._file.bind(CLIENTS_MAX)
        try:
            await self._serve_on(listener)
        except BaseException:
            self._file.remove()
            listener.close()
            raise

    async def _serve_on(self, listener: socket.socket) -> None:
        server = await asyncio.start_unix_server(
            self._on_connection, sock=listener, limit=LINE_BYTES_MAX
        )
        if self._server is not None:
            self._server.close()
        self._server, self._listener = server, listener

    async def _watch_file(self) -> None:
        """Creates the socket file again when another program has removed or replaced it."""
        changed = asyncio.Event()
        paths = Paths(asyncio.get_running_loop())
        path = os.fspath(self.path.absolute())
        with contextlib.ExitStack() as following:
            following.callback(paths.follow(path, changed.set, content=False))
            while True:
                if not self._file.is_ours():
                    await self._listen_again()
                changed.clear()
                with contextlib.suppress(TimeoutError):
                    # wait_for() ignores a cancellation at the moment of a change (CPython 3.11).
                    async with asyncio.timeout(FILE_CHECKED_S):
                        await changed.wait()
                    await asyncio.sleep(FILE_SETTLE_S)

    async def _listen_again(self) -> None:
        """Creates the file; returns when that has succeeded, or it is there again."""
        reported = ""
        while not self._file.is_ours():
            try:
                await self._listen()
            except (ControlError, OSError) as error:
                if str(error) != reported:
                    reported = str(error)
                    logger.error("the control socket is gone and cannot be created: %s", reported)
                await asyncio.sleep(LISTEN_RETRY_S)
            else:
                logger.warning("control socket %s: the file was gone, created again", self.path)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        client = Client(reader, writer)
        try:
            refusal = self._admit(client)
            if refusal is None:
                self._clients[task] = client
            if not self._stopping:
                await (self._serve(client) if refusal is None else self._refuse(client, refusal))
        except Stalled:
            self.counters.clients_stalled += 1
            logger.warning(
                "a control client read nothing of its answer for %g s", connections.ANSWER_STALL_S
            )
            writer.transport.abort()
        except (Gone, asyncio.CancelledError):
            pass
        except Exception:
            logger.exception("a control connection failed and is closed")
        finally:  # however it ended: the place is free again
            try:
                await client.close()
            finally:
                self._clients.pop(task, None)

    def _admit(self, client: Client) -> ControlError | None:
        """None if there is a place for a client, else why it is refused."""
        clients = self._clients.values()
        try:
            self._places.check(
                client.peer.uid, [each.peer.uid for each in clients if not each.reserved]
            )
        except ControlError as refusal:
            free = not any(each.reserved for each in clients)
            client.reserved = free and client.peer.uid == ROOT
            return None if client.reserved else refusal
        return None

    async def _refuse(self, client: Client, refusal: ControlError) -> None:
        self.counters.clients_refused += 1
        if refusal.code == USER_LIMIT:
            self.counters.clients_refused_of_user += 1
        await client.refuse(str(refusal), code=refusal.code)

    async def _serve(self, client: Client) -> None:
        while True:
            try:
                line = await client.read_line()
            except TimeoutError:
                self.counters.clients_idle += 1
                logger.info(
                    "a control client sent no request for %g s, disconnected", client.idle_s
                )
                await client.refuse(f"no request within {client.idle_s:g} s")
                return
            except ValueError:
                self.counters.lines_too_long += 1
                await client.refuse(f"request line longer than {LINE_BYTES_MAX} bytes")
                return
            if not line:
                return
            await self._serving.wait()
            client.busy = True
            self.counters.requests += 1
            if not await self._answer(client, line) or client.reserved:
                return
            client.busy = False

    async def _answer(self, client: Client, line: bytes) -> bool:
        """Answers one request; returns whether the connection stays open."""
        try:
            command = command_of(line)
            if command == EVENTS:
                await self._serve_events(client, self._checked_events(client, line))
                return False
            handler = self._handlers.get(command)
            if handler is None:
                known = ", ".join(sorted({*self._handlers, EVENTS}))
                raise ControlError(f"unknown command {command!r} (known: {known})")
            request = fault = None
            try:
                request = decoded(line, handler.request)
            except msgspec.ValidationError as error:
                needs = getattr(handler.request, "needs", "")
                fault = ControlError(needs or f"{command}: {error}")
            act = self._change if handler.access.changes(request) else self._read
            answer = await act(client, command, request, fault)
        except ControlError as error:
            self.counters.errors += 1
            await client.refuse(str(error), error.faults, error.code)
            return True
        return await self._write_answer(client, answer)

    def _checked_events(self, client: Client, line: bytes) -> bool:
        """Whether a request for events, which may be given, is for those of tracks as well."""
        self._check(client, EVENTS, changes=EVENTS_ACCESS.changes(None))
        if client.reserved:
            only = "the place left is kept for requests of root"
            raise ControlError(f"too many control clients (limit {CLIENTS_MAX}): {only}")
        return _wants_tracks(line)

    def _check(self, client: Client, command: str, *, changes: bool) -> None:
        """Raises ControlError where the user of a client may not give a command."""
        try:
            self._permissions.check(client.peer, client.socket, command, changes=changes)
        except ControlError:
            self.counters.not_permitted += 1
            raise

    async def _read(
        self, client: Client, command: str, request: Any, fault: ControlError | None
    ) -> bytes | AsyncIterator[bytes]:
        """The answer to a request that changes nothing; `fault`: of its arguments."""
        self._check(client, command, changes=False)
        if fault is not None:
            raise fault
        return await self._call(command, request)

    async def _change(
        self, client: Client, command: str, request: Any, fault: ControlError | None
    ) -> bytes | AsyncIterator[bytes]:
        """The answer to a request that changes something, which is in the audit log."""
        what = request_text(command, request)
        try:
            self._check(client, command, changes=True)
        except ControlError as refusal:
            self._audit.refused(client.peer, what, str(refusal))
            raise
        self.counters.changes += 1
        who = peer_text(client.peer)  # before it may have ended
        outcome = INTERRUPTED
        self._changing[asyncio.current_task()] = command
        try:
            if fault is not None:
                raise fault
            answer = await self._call(command, request)
            outcome = OK
        except ControlError as error:
            outcome = f"{'failed' if error.code == INTERNAL else 'refused'}: {error}"
            raise
        finally:
            del self._changing[asyncio.current_task()]
            self._change_ended.set()
            log_change(who, what, outcome)
        return answer

    async def _call(self, command: str, request: Any) -> bytes | AsyncIterator[bytes]:
        """The answer: a whole line, or the slices of one."""
        try:
            answer = await self._handlers[command].answer(request)
            if isinstance(answer, bytes):
                return answer.removesuffix(b"\n") + b"\n"
            if isinstance(answer, AsyncIterator):
                return answer
            whole = answer if isinstance(answer, msgspec.Struct) else {"ok": True, **answer}
            return encoded_line(whole)
        except ControlError:
            raise
        except Exception as error:
            logger.exception("control command %r failed", command)
            text = f"command {command!r} failed inside the daemon: {error!r} (see its log)"
            raise ControlError(text, code=INTERNAL) from error

    async def _write_answer(self, client: Client, answer: bytes | AsyncIterator[bytes]) -> bool:
        if isinstance(answer, bytes):
            await client.write(answer)
            return True
        try:
            async for piece in answer:
                await client.write(piece)
                # drain() returns immediately if the client keeps up; the loop has other work.
                await asyncio.sleep(0)
        except Gone:
            raise
        except Exception:
            # Half a line is sent: only the end of the connection can show that it is incomplete.
            self.counters.errors += 1
            logger.exception("a control answer failed halfway")
            return False
        await client.write(b"\n")
        return True

    async def _serve_events(self, client: Client, tracks: bool) -> None:
        """Writes events until the client disconnects, falls too far behind, or the server stops."""
        subscription = Subscription(client.writer.transport.abort, tracks=tracks)
        watcher = asyncio.create_task(until_gone(client.reader, subscription))
        self._subscriptions.add(subscription)
        try:
            await client.send(b'{"ok":true}\n')
            while not subscription.gone:
                if subscription.lost:
                    limit = (
                        f"dropped: this reader fell {connections.EVENTS_QUEUED_MAX} events behind"
                    )
                    await client.refuse(f"{limit}, {subscription.lost} are lost", code=BEHIND)
                    return
                if subscription.lines:
                    await client.send(subscription.take())
                elif subscription.finishing:
                    if self._farewell:
                        await client.refuse(self._farewell, code=UPGRADED)
                    return
                else:
                    subscription.wake.clear()
                    await subscription.wake.wait()
        finally:
            self._subscriptions.discard(subscription)
            self.counters.events_dropped += subscription.lost
            watcher.cancel()

    def _on_overflow(self, subscription: Subscription) -> None:
        self.counters.readers_dropped += 1
        logger.warning(
            "dropping a reader of events: %d events behind", connections.EVENTS_QUEUED_MAX
        )
        asyncio.get_running_loop().call_later(connections.LINGER_S, subscription.abort)


def _wants_tracks(line: bytes) -> bool:
    """Whether a request for events is for those of tracks as well."""
    try:
        request: EventsRequest = decoded(line, EventsRequest)
    except msgspec.ValidationError as error:
        raise ControlError(EventsRequest.needs) from error
    return request.tracks
