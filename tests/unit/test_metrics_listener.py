"""The metrics' listener: its answers, its limits, and the places where it listens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from carp_fast.config.model import MetricsAddress
from carp_fast.metrics import connection, listener
from carp_fast.metrics.exchange import Answer, Refused, Request, line_answer
from carp_fast.metrics.listener import Listener, ListenerError
from tests.support.scraped import ask, connect, free_port, listening, local, unix

Scenario = Callable[[], Coroutine[Any, Any, None]]
LARGE = 16_000_000  # bytes: more than the kernel's buffers of a connection
# The daemon's loop, and the standard library's, which tells a transport's callers other things.
LOOPS = (uvloop.new_event_loop, asyncio.new_event_loop)


@pytest.fixture(params=LOOPS, ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    def run_scenario(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(scenario())

    return run_scenario


async def answer(request: Request) -> Answer:
    return line_answer(200, f"here is {request.path}")


async def large(request: Request) -> Answer:
    return Answer(200, [], bytes(LARGE))


async def in_parts(request: Request) -> Answer:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one\n", b"", b"two\n"):
            yield part

    return Answer(200, [("Content-Type", "text/plain")], parts())


ROUTES = {"/metrics": answer, "/large": large, "/parts": in_parts}


# --- answers --------------------------------------------------------------------------------------


def test_a_request_gets_its_answer_and_its_connection_stays(run: Any) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            client = await connect(served.address)
            for _ in range(3):
                got = await client.ask("/metrics?name=value")
                assert (got.status, got.text) == (200, "here is /metrics\n")
            assert got.headers["content-type"] == "text/plain; charset=utf-8"
            assert got.headers["cache-control"] == "no-store"
            assert got.headers["x-content-type-options"] == "nosniff"
            assert served.clients == 1
            client.close()

    run(scenario)


def test_head_gets_the_headers_alone(run: Any) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            client = await connect(served.address)
            got = await client.ask("/metrics", "HEAD")
            assert (got.status, got.body) == (200, b"")
            assert got.headers["content-length"] == str(len("here is /metrics\n"))
            assert (await client.ask("/parts", "HEAD")).body == b""
            assert (await client.ask("/metrics")).text == "here is /metrics\n"
            client.close()

    run(scenario)


def test_an_answer_in_parts_is_chunked_and_for_http_1_0_ends_with_the_connection(run: Any) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            got = await ask(served.address, "/parts")
            assert (got.body, got.headers["transfer-encoding"]) == (b"one\ntwo\n", "chunked")
            client = await connect(served.address)
            client.send(b"GET /parts HTTP/1.0\r\n\r\n")
            assert (await client.until_closed()).endswith(b"\r\n\r\none\ntwo\n")
            client.close()

    run(scenario)


def test_a_long_answer_is_whole(run: Any) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            assert len((await ask(served.address, "/large")).body) == LARGE

    run(scenario)


@pytest.mark.parametrize(
    ("target", "method", "status", "line"),
    [
        ("/", "GET", 404, "there is no such path; allowed: /metrics, /large, /parts"),
        ("/metrics/", "GET", 404, "there is no such path; allowed: /metrics, /large, /parts"),
        ("/metrics", "POST", 405, "allowed: GET, HEAD"),
        ("/metrics", "DELETE", 405, "allowed: GET, HEAD"),
    ],
)
def test_other_requests_get_one_line(
    run: Any, target: str, method: str, status: int, line: str
) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            got = await ask(served.address, target, method)
            assert (got.status, got.text) == (status, f"{line}\n")
            assert got.headers.get("allow") == ("GET, HEAD" if status == 405 else None)

    run(scenario)


def test_a_handler_may_refuse_and_its_errors_cost_one_connection(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(request: Request) -> Answer:
        raise Refused(406, "allowed: another one")

    async def fail(request: Request) -> Answer:
        raise RuntimeError("a fault in the handler")

    async def scenario() -> None:
        async with listening({"/refuse": refuse, "/fail": fail}) as served:
            got = await ask(served.address, "/refuse")
            assert (got.status, got.text) == (406, "allowed: another one\n")
            client = await connect(served.address)
            client.send(b"GET /fail HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await client.until_closed() == b""
            client.close()
            assert (await ask(served.address, "/refuse")).status == 406

    run(scenario)
    assert "a fault in the handler" in caplog.text


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status", "why"),
    [
        (b"NONSENSE\r\n\r\n", 400, "malformed"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400, "malformed"),  # without Host
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: a\r\n\r\n", 400, "malformed"),
        (
            b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
            400,
            "malformed",
        ),
        (
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz",
            400,
            "malformed",
        ),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400, "malformed"),  # TLS
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n", 431, "too_large"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2_000, 431, "too_large"),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400, "host"),
        (b"GET /metrics HTTP/1.1\r\nHost: 192.0.2.1:9112\r\n\r\n", 400, "host"),
    ],
)
def test_bad_requests_get_one_line_and_the_connection_ends(
    run: Any, sent: bytes, status: int, why: str
) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            client = await connect(served.address)
            client.send(sent)
            got = await client.until_closed()
            assert got.startswith(f"HTTP/1.1 {status} ".encode())
            assert got.count(b"\n") == got.partition(b"\r\n\r\n")[0].count(b"\n") + 3
            assert served.counted()[why] == 1
            client.close()

    run(scenario)


def test_a_request_that_is_not_completed_in_time_is_refused(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.05)

    async def scenario() -> None:
        async with listening(ROUTES) as served:
            client, silent = await connect(served.address), await connect(served.address)
            client.send(b"GET /metrics HTTP/1.1\r\nHost: loc")
            assert (await client.until_closed()).startswith(b"HTTP/1.1 408 ")
            assert await silent.until_closed() == b""
            assert served.counted()["slow"] == 1
            client.close()
            silent.close()

    run(scenario)


def test_a_client_that_sends_byte_by_byte_has_no_more_time(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.1)

    async def scenario() -> None:
        async with listening(ROUTES) as served:
            client = await connect(served.address)

            async def drip() -> None:
                while True:
                    client.send(b"G")
                    await asyncio.sleep(0.01)

            dripping = asyncio.ensure_future(drip())
            assert b" 408 " in await client.until_closed()
            dripping.cancel()
            client.close()

    run(scenario)


def test_a_client_that_never_reads_is_disconnected(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_S", 0.05)

    async def scenario() -> None:
        async with listening(ROUTES) as served:
            assert served.address is not None
            with socket.create_connection((served.address.host, served.address.port)) as deaf:
                deaf.setblocking(False)
                deaf.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while not served.counted()["stalled"] or served.clients:
                    await asyncio.sleep(0.01)

    run(scenario)


def test_requests_that_are_sent_ahead_are_answered_in_order_up_to_a_limit(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUESTS_MAX", 5)

    async def scenario() -> None:
        async with listening(ROUTES) as served:
            client = await connect(served.address)
            client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            got = await client.until_closed()
            assert got.count(b"here is /metrics\n") == 5
            assert got.lower().count(b"connection: close") == 1
            client.close()

    run(scenario)


def test_requests_without_end_are_not_taken_in_while_one_is_answered(run: Any) -> None:
    asked = 0
    waiting: asyncio.Event

    async def wait(request: Request) -> Answer:
        nonlocal asked
        asked += 1
        await waiting.wait()
        return line_answer(200, "at last")

    async def scenario() -> None:
        nonlocal waiting
        waiting = asyncio.Event()
        async with listening({"/metrics": wait}) as served:
            assert served.address is not None
            with socket.create_connection((served.address.host, served.address.port)) as flood:
                flood.setblocking(False)
                loop = asyncio.get_running_loop()
                request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000

                async def send_on() -> None:
                    while True:
                        await loop.sock_sendall(flood, request)

                with pytest.raises(TimeoutError):  # the kernel takes no more
                    await asyncio.wait_for(send_on(), 0.5)
                assert asked == 1

    run(scenario)


def test_an_answer_that_takes_too_long_is_refused(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_S", 0.05)

    async def never(request: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario() -> None:
        async with listening({"/metrics": never}) as served:
            got = await ask(served.address)
            assert (got.status, got.text) == (503, "the daemon is busy: no answer within 0.05 s\n")
            assert served.counted()["busy"] == 1

    run(scenario)


def test_what_is_made_for_a_client_ends_with_the_listener(run: Any) -> None:
    async def scenario() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def wait(request: Request) -> Answer:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        async with listening({"/metrics": wait}) as served:
            client = await connect(served.address)
            client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await begun.wait()
            await served.stop()
            await ended.wait()
            client.close()

    run(scenario)


# --- places for clients ---------------------------------------------------------------------------


def test_a_client_too_many_is_refused_and_an_idle_one_gives_way(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CLIENTS_MAX", 2)

    async def scenario() -> None:
        async with listening(ROUTES) as served:
            busy = [await connect(served.address) for _ in range(2)]
            for each in busy:
                each.send(b"GET /met")
            while served.clients < 2:
                await asyncio.sleep(0.01)
            third = await connect(served.address)
            refused = await third.until_closed()
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert refused.endswith(b"too many clients (limit 2)\n")
            assert served.counted()["clients"] == 1
            third.close()
            first, second = busy
            first.send(b"rics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"here is /metrics" in await first.reader.readuntil(b"here is /metrics\n")
            fourth = await connect(served.address)  # takes the place of the first, which is idle
            assert (await fourth.ask()).status == 200
            assert await first.until_closed() == b""
            for client in (first, second, fourth):
                client.close()

    run(scenario)


def test_refusals_are_logged_now_and_then(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            for _ in range(3):
                await ask(served.address, host="evil.example")

    run(scenario)
    (line,) = [each for each in caplog.messages if "refused" in each]
    assert line == "metrics: a client was refused (host); all so far: 1 host"


# --- where it listens -----------------------------------------------------------------------------


def test_it_listens_at_a_unix_socket_that_has_no_host_names(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"

    async def scenario() -> None:
        async with listening(ROUTES, unix(path)) as served:
            served.loopback_only = False
            assert (await ask(served.address, host="anything")).status == 200
            assert path.stat().st_mode & 0o777 == 0o600
        assert not path.exists()

    run(scenario)


def test_it_moves_to_another_place_and_idle_clients_have_to_follow(
    run: Any, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            before = served.address
            client = await connect(before)
            await client.ask()
            await served.listen(unix(tmp_path / "metrics.sock"), None)
            assert await client.until_closed() == b""
            with pytest.raises(ConnectionRefusedError):
                await connect(before)
            assert (await ask(served.address)).status == 200
            client.close()

    run(scenario)


def test_a_place_that_is_taken_leaves_it_where_it_was(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served, listening(ROUTES) as other:
            before = served.address
            text = f"daemon.metrics: cannot listen at {other.address}: Address already in use"
            assert other.address is not None
            with pytest.raises(ListenerError) as refused:
                await served.listen(other.address, None)
            assert str(refused.value) == text
            (tmp_path / "file").touch()
            with pytest.raises(ListenerError) as refused:
                await served.listen(unix(tmp_path / "file"), None)
            assert "choose another daemon.metrics" in str(refused.value)
            assert served.address == before
            assert (await ask(before)).status == 200

    run(scenario)


def test_an_address_of_another_host_is_refused(run: Any) -> None:
    async def scenario() -> None:
        there = MetricsAddress("192.0.2.1", free_port())
        with pytest.raises(ListenerError, match="Cannot assign requested address"):
            await Listener(ROUTES).listen(there, None)

    run(scenario)


def test_it_moves_between_all_addresses_and_one_of_the_same_port(run: Any) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            assert served.address is not None
            port = served.address.port
            for host in ("0.0.0.0", "127.0.0.1"):
                await served.listen(MetricsAddress(host, port), None)
                assert (await ask(local(port))).status == 200

    run(scenario)


def test_it_listens_again_where_it_did_if_the_way_back_is_all_there_is(run: Any) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            before = served.address
            assert before is not None
            with socket.socket() as other:
                other.bind(("127.0.0.2", before.port))
                other.listen()
                with pytest.raises(ListenerError, match="already in use"):
                    await served.listen(MetricsAddress("0.0.0.0", before.port), None)
            assert served.address == before
            assert (await ask(before)).status == 200

    run(scenario)


def test_an_ipv6_address_leaves_the_port_of_ipv4_free(run: Any) -> None:
    async def scenario() -> None:
        port = free_port("::1")
        async with (
            listening(ROUTES, MetricsAddress("::1", port)) as served,
            listening(ROUTES, local(port)) as other,
        ):
            assert str(served.address) == f"[::1]:{port}"
            assert (await ask(served.address, host=f"[::1]:{port}")).status == 200
            assert (await ask(other.address)).status == 200

    run(scenario)


def test_an_end_of_file_ends_the_connection(run: Any) -> None:
    async def scenario() -> None:
        async with listening(ROUTES) as served:
            client = await connect(served.address)
            client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.writer.write_eof()
            assert b"here is /metrics\n" in await client.until_closed()
            client.close()

    run(scenario)
