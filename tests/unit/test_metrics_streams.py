"""Server-sent events of the metrics' listener: bounded streams that wait for no client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from carp_fast.metrics import connection, streams
from carp_fast.metrics.exchange import Answer, Refused, Request
from carp_fast.metrics.listener import Listener
from carp_fast.metrics.streams import BEGIN, Streams, message
from tests.support.scraped import ask, connect, listening, unix

GET = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
DEADLINE_S = 20.0
FIRST = message("first", b"1")


class Stage:
    """A listener whose one path is a stream."""

    def __init__(self) -> None:
        self.dropped = 0
        self.listener: Listener | None = None
        self.streams = Streams(lambda: self.refused("streams"), self.drop)

    def refused(self, why: Any) -> None:
        assert self.listener is not None
        self.listener.refused(why)

    def drop(self) -> None:
        self.dropped += 1

    async def answer(self, request: Request) -> Answer:
        return self.streams.answer(FIRST)

    async def until(self, wanted: Callable[[], object]) -> None:
        while not wanted():
            await asyncio.sleep(0.005)


Scenario = Callable[[Stage, Listener], Coroutine[Any, Any, None]]


@pytest.fixture(params=(uvloop.new_event_loop, asyncio.new_event_loop), ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    async def staged(scenario: Scenario) -> None:
        stage = Stage()
        async with (
            asyncio.timeout(DEADLINE_S),
            listening({"/events": stage.answer}) as stage.listener,
        ):
            await scenario(stage, stage.listener)

    def run_scenario(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(staged(scenario))

    return run_scenario


def test_a_client_gets_what_is_sent_from_its_beginning_on(run: Any) -> None:
    async def scenario(stage: Stage, served: Listener) -> None:
        client = await connect(served.address)
        client.send(GET)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream; charset=utf-8" in head
        assert b"transfer-encoding: chunked" in head.lower()
        await client.reader.readuntil(b"event: first\ndata: 1\n\n")
        for number in range(3):
            stage.streams.send(message("next", b"%d" % number))
            await client.reader.readuntil(b"event: next\ndata: %d\n\n" % number)
        assert len(stage.streams) == 1
        client.close()
        await stage.until(lambda: not len(stage.streams) and not served.clients)

    run(scenario)


@pytest.mark.parametrize("half", [False, True], ids=["closed", "shut down for writing"])
def test_a_client_that_is_gone_gives_its_place_back_although_nothing_is_sent(
    run: Any, half: bool
) -> None:
    async def scenario(stage: Stage, served: Listener) -> None:
        client = await connect(served.address)
        client.send(GET)
        await client.reader.readuntil(FIRST)
        if half:
            client.writer.write_eof()
            await client.until_closed()
        client.close()
        await stage.until(lambda: not len(stage.streams) and not served.clients)

    run(scenario)


@pytest.mark.parametrize("ahead", [False, True], ids=["later", "ahead"])
def test_a_client_that_asks_for_more_meanwhile_is_disconnected(run: Any, ahead: bool) -> None:
    async def scenario(stage: Stage, served: Listener) -> None:
        client = await connect(served.address)
        client.send(GET * (1 + ahead))
        if not ahead:
            await client.reader.readuntil(FIRST)
            client.send(GET)
        await client.until_closed()
        assert served.counted()["malformed"] == 1
        await stage.until(lambda: not len(stage.streams))
        client.close()

    run(scenario)


def test_head_begins_no_stream(run: Any) -> None:
    async def scenario(stage: Stage, served: Listener) -> None:
        client = await connect(served.address)
        got = await client.ask("/events", "HEAD")
        assert (got.status, got.body, len(stage.streams)) == (200, b"", 0)
        client.close()

    run(scenario)


def test_streams_beyond_the_limit_are_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS_MAX", 2)

    async def scenario(stage: Stage, served: Listener) -> None:
        clients = [await connect(served.address) for _ in range(2)]
        for client in clients:
            client.send(GET)
            await client.reader.readuntil(FIRST)
        got = await ask(served.address, "/events")
        assert (got.status, got.text) == (503, "too many pages are open (limit 2)\n")
        assert served.counted()["streams"] == 1
        for client in clients:
            client.close()

    run(scenario)


def test_a_client_that_never_reads_is_disconnected_and_others_are_not_held_up(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_S", 0.2)

    async def scenario(stage: Stage, served: Listener) -> None:
        assert served.address is not None
        reading = await connect(served.address)
        reading.send(GET)
        await reading.reader.readuntil(FIRST)
        with socket.create_connection((served.address.host, served.address.port)) as deaf:
            deaf.sendall(GET)
            await stage.until(lambda: len(stage.streams) == 2)
            large = message("large", b"0" * 1_000_000)
            while len(stage.streams) == 2:
                stage.streams.send(large)
                await reading.reader.readexactly(len(large))
            stage.streams.send(message("last", b"1"))
            while b"event: last" not in await reading.reader.read(1 << 20):
                pass
        reading.close()
        # What ends it first: what waits for it, or the time; its connection may stall afterwards.
        assert {served.counted()["stalled"], stage.dropped} in ({0, 1}, {1})

    run(scenario)


def test_a_move_of_the_listener_ends_streams(run: Any, tmp_path: Any) -> None:
    async def scenario(stage: Stage, served: Listener) -> None:
        client = await connect(served.address)
        client.send(GET)
        await client.reader.readuntil(FIRST)
        await served.listen(unix(tmp_path / "other"), None)
        await client.until_closed()
        await stage.until(lambda: not len(stage.streams))
        client.close()

    run(scenario)


# --- without a connection -------------------------------------------------------------------------


def test_a_stream_whose_queue_is_full_ends_and_is_counted_once() -> None:
    async def scenario() -> None:
        dropped = 0

        def drop() -> None:
            nonlocal dropped
            dropped += 1

        every = Streams(lambda: None, drop)
        body = every.answer().body
        assert not isinstance(body, bytes)
        for number in range(streams.QUEUED_MAX + 5):
            every.send(b"%d" % number)
        assert dropped == 1
        assert [part async for part in body] == [], "it would have a gap"
        await body.aclose()  # type: ignore[attr-defined]
        assert len(every) == 0

    asyncio.run(scenario())


def test_messages_come_in_order_and_wake_who_waits() -> None:
    async def scenario() -> None:
        every = Streams(lambda: None, lambda: None)
        body = every.answer(b"one").body
        assert not isinstance(body, bytes)
        assert [await anext(body), await anext(body)] == [BEGIN, b"one"]
        waiting = asyncio.ensure_future(anext(body))
        await asyncio.sleep(0)
        every.send(b"two")
        assert await waiting == b"two"

    asyncio.run(scenario())


def test_room_is_checked_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[int] = []
    every = Streams(lambda: refused.append(1), lambda: None)
    monkeypatch.setattr(streams, "STREAMS_MAX", 0)
    with pytest.raises(Refused):
        every.check_room()
    assert refused == [1]
