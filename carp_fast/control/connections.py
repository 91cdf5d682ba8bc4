"""The clients of the control socket, as its server has them: their streams, and their events.

Holds what limits each of them. Must not know requests, nor who may give which.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable

from carp_fast.control.encoding import encoded_line
from carp_fast.control.protocol import CHUNK_BYTES, Peer, Verdict, peer_of
from carp_fast.errors import CarpFastError

# A client that does not complete a request within this time is disconnected: it has a place.
REQUEST_IDLE_S = 30.0
# One more place is kept for root, for a request and not for a stream. Its client has to be quick.
RESERVED_IDLE_S = 1.0
# Events queued for one reader: one transition of every virtual host of a large installation. All
# queues share the same bytes objects, so each line is in memory once.
EVENTS_QUEUED_MAX = 65_536
EVENTS_PER_WRITE = 256
ANSWER_STALL_S = 60.0  # a client that reads no chunk of its answer for this long is disconnected
LINGER_S = 5.0  # a client that is dropped has this long to read the line that tells why


class Subscription:
    """The bounded queue of one reader of events."""

    def __init__(self, abort: Callable[[], None], *, tracks: bool = False) -> None:
        self.abort = abort
        self.tracks = tracks  # it wants the changes of tracks as well
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


class Gone(CarpFastError):
    """Raised when the client has disconnected."""


class Stalled(Gone):
    """Raised when a client reads nothing of its answer."""


class Client:
    """One connection: its streams, its process, and whether a request is being answered.

    `reserved`: it has the place that is kept for root.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.socket: socket.socket = writer.get_extra_info("socket")
        self.peer: Peer = peer_of(self.socket)
        self.busy = False
        self.reserved = False

    @property
    def idle_s(self) -> float:
        """How long it may take to send a request."""
        return RESERVED_IDLE_S if self.reserved else REQUEST_IDLE_S

    async def read_line(self) -> bytes:
        """The next line; empty at the end of file. Raises TimeoutError after `idle_s`,
        ValueError for a line that is too long, and Gone.
        """
        try:
            async with asyncio.timeout(self.idle_s):
                return await self.reader.readline()
        except ConnectionError as error:
            raise Gone from error

    async def send(self, data: bytes | memoryview, within_s: float | None = None) -> None:
        """Writes, and waits until there is room for more. Raises Gone, and Stalled if there is
        none in that time (None: waits).
        """
        # After a client has disconnected, the transport raises RuntimeError for a write.
        if self.writer.transport.is_closing():
            raise Gone
        try:
            self.writer.write(data)
            async with asyncio.timeout(within_s):
                await self.writer.drain()
        except TimeoutError as error:
            raise Stalled from error
        except ConnectionError as error:
            raise Gone from error

    async def write(self, data: bytes) -> None:
        """Writes in chunks. Raises Gone, and Stalled for a client that does not read them."""
        view = memoryview(data)
        for offset in range(0, len(view), CHUNK_BYTES):
            await self.send(view[offset : offset + CHUNK_BYTES], ANSWER_STALL_S)

    async def refuse(self, why: str, faults: Iterable[str] = (), code: str = "") -> None:
        await self.write(encoded_line(Verdict(False, why, list(faults), code)))

    async def close(self) -> None:
        """Closes once everything is written, or LINGER_S later."""
        try:
            self.writer.close()
            with contextlib.suppress(OSError):  # TimeoutError is one
                async with asyncio.timeout(LINGER_S):
                    await self.writer.wait_closed()
        finally:
            self.writer.transport.abort()


async def until_gone(reader: asyncio.StreamReader, subscription: Subscription) -> None:
    """Reads and ignores what the client sends; its end of file ends the stream."""
    try:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
    finally:
        subscription.gone = True
        subscription.wake.set()
