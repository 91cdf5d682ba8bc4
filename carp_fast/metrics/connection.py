"""One HTTP connection of the metrics' listener: requests in, answers out, within limits.

Parses with h11 and waits for nobody: a client that is slow, that never reads or that sends too much
is disconnected. Must not know what an answer holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Literal, Protocol, cast

import h11

from carp_fast.errors import CarpFastError
from carp_fast.metrics.exchange import Answer, Handler, Refused, Request, line_answer
from carp_fast.metrics.negotiation import is_loopback_host

logger = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 8_192  # of a request line with its headers
REQUEST_S = 5.0  # for a whole request, from its first byte, or from the connection, on
IDLE_S = 300.0  # between two requests: Prometheus keeps connections
ANSWER_S = 10.0  # until an answer begins: Prometheus gives up then, unless told otherwise
STALL_S = 10.0  # for a client to take a part of an answer
REQUESTS_MAX = 1_000  # of one connection
METHODS = (b"GET", b"HEAD")
WRITE_BYTES = 65_536  # of an answer in the transport's buffer at a time

# Why a client was refused or disconnected: labels of a counter.
Refusal = Literal["clients", "streams", "slow", "too_large", "stalled", "host", "malformed", "busy"]
REFUSALS: tuple[Refusal, ...] = (
    "clients",
    "streams",
    "slow",
    "too_large",
    "stalled",
    "host",
    "malformed",
    "busy",
)


class Owner(Protocol):
    """What a connection needs of its listener.

    `loopback_only`: the Host header must name a loopback address.
    """

    loopback_only: bool
    routes: Mapping[str, Handler]

    def refused(self, why: Refusal) -> None:
        """Counts a refusal."""

    def ended(self, connection: Connection) -> None:
        """Forgets a connection."""


class _Gone(CarpFastError):
    """Raised where the client has disconnected, or was."""


class Connection(asyncio.Protocol):
    """A client. All methods are called on the loop's thread."""

    def __init__(self, owner: Owner, *, full: str | None = None) -> None:
        """`full`: why there is no place for it, which it is told without a request."""
        self._owner = owner
        self._full = full
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._requests = 0
        self._received = 0  # bytes of the request that is awaited
        self._endless = False  # the answer under way is
        self.idle_since: float | None = None  # between two requests

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for the first request."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        transport.set_write_buffer_limits(high=WRITE_BYTES)
        if self._full is not None:
            transport.pause_reading()
            self._start(self._refuse(503, self._full))
            return
        self._within(REQUEST_S, self._on_slow)

    def connection_lost(self, error: Exception | None) -> None:
        """Stops what was being done for the client."""
        self._cancel_timer()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        self._owner.ended(self)

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a request; more are read only when it is answered."""
        if self._endless:
            self._refuse_more()
            return
        if self.idle_since is not None:
            self.idle_since = None
            self._within(REQUEST_S, self._on_slow)
        self._received += len(data)
        try:
            self._http.receive_data(data)
        except RuntimeError:  # after the end of the connection as HTTP sees it
            self.abort()
            return
        self._read_on()

    def eof_received(self) -> bool:
        """Closes, or does so after the answer that is under way."""
        if self._task is not None and not self._endless:
            return True
        self.close()
        return False

    def pause_writing(self) -> None:
        """The client does not read as fast as the answer is written."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has read."""
        self._writable.set()

    # -- limits

    def leave(self) -> None:
        """Ends the connection: now, or after the answer that is under way and has an end."""
        self._requests = REQUESTS_MAX
        if self.idle_since is not None or self._endless:
            self.close()

    def close(self) -> None:
        """Closes when what was written is sent; a client that does not read it is cut off."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            self._within(STALL_S, self.abort)

    def abort(self) -> None:
        """Disconnects now."""
        if self._transport is not None:
            self._transport.abort()

    def _within(self, seconds: float, otherwise: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(seconds, otherwise)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_slow(self) -> None:
        if self._received:  # a connection that has sent nothing is closed without a word
            self._owner.refused("slow")
            line = f"no whole request within {REQUEST_S:g} s"
            self._start(self._refuse(408, line))
        else:
            self.close()

    # -- requests

    def _read_on(self) -> None:
        """Takes the next request out of what was received, if it is complete."""
        assert self._transport is not None
        if self._task is not None:
            return
        try:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._transport.resume_reading()
                return
            if isinstance(event, h11.Request):
                self._transport.pause_reading()
                self._cancel_timer()
                self._start(self._serve(event))
            else:
                self.close()
        except h11.RemoteProtocolError as error:
            self._transport.pause_reading()
            self._start(self._refuse_malformed(error))

    def _start(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            again = False
            try:
                await work
                again = self._may_go_on()
            except (_Gone, asyncio.CancelledError):
                pass
            except Exception:
                logger.exception("a client of the metrics was not answered")
                self.abort()
            self._task = None
            if again:
                self._go_on()
            else:
                self.close()

        if self._task is None:
            self._cancel_timer()
            self._task = self._loop.create_task(run())

    def _may_go_on(self) -> bool:
        assert self._transport is not None
        return (
            self._http.our_state is h11.DONE
            and self._http.their_state is h11.DONE
            and not self._transport.is_closing()
        )

    def _go_on(self) -> None:
        """Waits for the next request of the connection, which may have come already."""
        assert self._transport is not None
        self._http.start_next_cycle()
        self._received = len(self._http.trailing_data[0])
        if self._received:
            self._within(REQUEST_S, self._on_slow)
        else:
            self.idle_since = self._loop.time()
            self._within(IDLE_S, self.close)
        self._read_on()

    async def _refuse_malformed(self, error: h11.RemoteProtocolError) -> None:
        if error.error_status_hint == 431:
            self._owner.refused("too_large")
            await self._refuse(431, f"a request has at most {REQUEST_BYTES_MAX} bytes")
        else:
            self._owner.refused("malformed")
            await self._refuse(400, f"not a request of HTTP/1.1: {error}")

    async def _refuse(self, status: int, line: str) -> None:
        """Answers with one line, and ends the connection."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(line_answer(status, line), last=True, head=False)

    async def _serve(self, request: h11.Request) -> None:
        if not isinstance(self._http.next_event(), h11.EndOfMessage):
            self._owner.refused("malformed")
            await self._refuse(400, "a request has no body here")
            return
        self._requests += 1
        head = request.method == b"HEAD"
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
        last = self._requests >= REQUESTS_MAX
        refusal = self._refusal(request, headers)
        if refusal is not None:
            await self._send(refusal, last=True, head=head)
            return
        path, _, query = request.target.decode("ascii", "replace").partition("?")
        handler = self._owner.routes.get(path)
        if handler is None:
            known = ", ".join(self._owner.routes)
            answer = line_answer(404, f"there is no such path; allowed: {known}")
        elif request.method not in METHODS:
            answer = line_answer(405, "allowed: GET, HEAD")
            answer.headers.append(("Allow", "GET, HEAD"))
        else:
            answer = await self._answer(handler, Request(path, headers, query))
        await self._send(answer, last=last, head=head)

    def _refusal(self, request: h11.Request, headers: Mapping[str, str]) -> Answer | None:
        host = headers.get("host")
        if self._owner.loopback_only and host is not None and not is_loopback_host(host):
            self._owner.refused("host")
            return line_answer(
                400, "the Host header is not of this listener; allowed: localhost, 127.0.0.1, [::1]"
            )
        return None

    async def _answer(self, handler: Handler, request: Request) -> Answer:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await handler(request)
        except Refused as refused:
            return line_answer(refused.status, str(refused))
        except TimeoutError:
            self._owner.refused("busy")
            return line_answer(503, f"the daemon is busy: no answer within {ANSWER_S:g} s")

    # -- answers

    async def _send(self, answer: Answer, *, last: bool, head: bool) -> None:
        headers = [*answer.headers, ("Cache-Control", "no-store")]
        headers.append(("X-Content-Type-Options", "nosniff"))
        body = answer.body
        if isinstance(body, bytes):
            headers.append(("Content-Length", str(len(body))))
        if last:
            headers.append(("Connection", "close"))
        try:
            await self._write(h11.Response(status_code=answer.status, headers=headers))
            if head:
                pass
            elif answer.endless and not isinstance(body, bytes):
                await self._send_endless(body)
            elif isinstance(body, bytes):
                for offset in range(0, len(body), WRITE_BYTES):
                    await self._write(h11.Data(data=body[offset : offset + WRITE_BYTES]))
            else:
                async for part in body:
                    if part:
                        await self._write(h11.Data(data=part))
            await self._write(h11.EndOfMessage())
        finally:
            if not isinstance(body, bytes) and (close := getattr(body, "aclose", None)) is not None:
                await close()

    async def _send_endless(self, body: AsyncIterator[bytes]) -> None:
        """Sends parts until the client is gone, which only shows while something is read."""
        assert self._transport is not None
        self._endless = True
        if self._http.trailing_data[0]:  # requests that were sent ahead
            self._refuse_more()
        self._transport.resume_reading()
        async for part in body:
            await self._write(h11.Data(data=part))

    def _refuse_more(self) -> None:
        """Disconnects a client that asks for more during an answer without an end."""
        self._owner.refused("malformed")
        self.abort()

    async def _write(self, event: h11.Event) -> None:
        """Writes, and waits until the client has taken most of it. Raises _Gone."""
        assert self._transport is not None
        if self._transport.is_closing():
            raise _Gone
        data = self._http.send(event)
        if data:
            self._transport.write(data)
        if self._writable.is_set():
            return
        try:
            async with asyncio.timeout(STALL_S):
                await self._writable.wait()
        except TimeoutError:
            self._owner.refused("stalled")
            self.abort()
            raise _Gone from None
