"""Server-sent events: streams of messages to a bounded number of clients, each message made once.

A client whose queue is full has lost messages: its stream ends, and it has to begin again. Must not
know what the messages are about, nor connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from carp_fast.metrics.exchange import Answer, Refused

STREAMS_MAX = 8
QUEUED_MAX = 32  # messages that wait for one client: eight seconds of them, if all are busy
RETRY_MS = 2_000  # after which a browser connects again

HEADERS = [("Content-Type", "text/event-stream; charset=utf-8")]
BEGIN = b"retry: %d\n\n" % RETRY_MS


def message(event: str, data: bytes) -> bytes:
    """A message; `data` is one line."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


class Stream:
    """The messages for one client, in order: an asynchronous iterator that has to be closed."""

    def __init__(self, close: Callable[[Stream], None], *first: bytes) -> None:
        self._close = close
        self._queue = deque((BEGIN, *first))
        self._wake = asyncio.Event()
        self._ended = False

    def offer(self, data: bytes) -> bool:
        """Queues a message; returns whether this one found no room, and the stream ends."""
        if self._ended:
            return False
        self._wake.set()
        if len(self._queue) < QUEUED_MAX:
            self._queue.append(data)
            return False
        self._queue.clear()
        self._ended = True
        return True

    def end(self) -> None:
        """Ends the stream after what is queued."""
        self._ended = True
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._queue.popleft()

    async def aclose(self) -> None:
        """Ends the stream."""
        self._close(self)


class Streams:
    """All of them. `on_refused` and `on_dropped` count clients that were one too many or slow."""

    def __init__(self, on_refused: Callable[[], None], on_dropped: Callable[[], None]) -> None:
        self._on_refused = on_refused
        self._on_dropped = on_dropped
        self._streams: set[Stream] = set()

    def __len__(self) -> int:
        return len(self._streams)

    def check_room(self) -> None:
        """Raises Refused if there are as many streams as there may be."""
        if len(self._streams) >= STREAMS_MAX:
            self._on_refused()
            raise Refused(503, f"too many pages are open (limit {STREAMS_MAX})")

    def answer(self, *first: bytes) -> Answer:
        """The answer with a new stream, which begins with these messages. Raises Refused."""
        self.check_room()
        stream = Stream(self._streams.discard, *first)
        self._streams.add(stream)
        return Answer(200, list(HEADERS), stream, endless=True)

    def send(self, data: bytes) -> None:
        """Queues a message for every client."""
        for stream in list(self._streams):
            if stream.offer(data):
                self._on_dropped()

    def end(self) -> None:
        """Ends every stream."""
        for stream in self._streams:
            stream.end()
