"""The places of control clients: every one is given back, and silent clients keep none."""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from carp_fast.config.model import ControlGroup
from carp_fast.control import connections
from carp_fast.control import places as places_module
from carp_fast.control import server as server_module
from carp_fast.control.client import ControlClient
from carp_fast.control.protocol import ControlError, Peer, peer_of
from carp_fast.control.server import ControlServer
from tests.support.served import DEADLINE_S, ServedLoop, echo

DEEP = b"[" * 60_000


@pytest.fixture
def served() -> Iterator[ServedLoop]:
    loop = ServedLoop()
    yield loop
    loop.close()


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(path))
    return connection


def asked(path: Path, data: bytes) -> dict[str, Any]:
    """The first line that answers these bytes."""
    with connected(path) as connection, connection.makefile("rb") as file:
        connection.sendall(data)
        answer: dict[str, Any] = json.loads(file.readline())
        return answer


def clients_are(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """New clients have this user, and the group of the servers' (see to_own_group)."""
    monkeypatch.setattr(connections, "peer_of", lambda _: Peer(1, uid, os.getegid()))


def to_own_group(served: ServedLoop, server: ControlServer) -> ControlServer:
    """Lets the members of this process's group read."""
    served.call(lambda: server.use_group(ControlGroup("own", os.getegid())))
    return server


# Every place is given back


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"a":' + DEEP, "request is nested too deeply"),
        (b'{"command":"echo","a":' + DEEP, "request is nested too deeply"),
        (b'{"a":' * 10_000, "request is nested too deeply"),
        (b'{"command":"echo","a":"\xff"}', "request is not JSON"),
        (b'{"command":"echo","a":"\\ud800"}', "request is not JSON"),
        (b'{"command":"echo","a":1e999}', "echo: Number out of range"),
        (b"\0", "request is not JSON"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_and_costs_no_place(
    served: ServedLoop,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    data: bytes,
    error: str,
) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    for _ in range(places_module.CLIENTS_MAX + 2):
        answer = asked(path, data + b"\n")
        assert not answer["ok"]
        assert answer["error"].startswith(error)
    served.wait_until(lambda: not server._clients)
    assert ControlClient(path).request("echo")["ok"] is True
    assert not caplog.records


async def slow(request: dict[str, Any]) -> dict[str, object]:
    await asyncio.sleep(0.001)
    return {"heard": request}


async def large(request: dict[str, Any]) -> bytes:
    await asyncio.sleep(0)
    return b'"' + b"x" * 3_000_000 + b'"'


async def sliced(request: dict[str, Any]) -> AsyncIterator[bytes]:
    async def slices() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    await asyncio.sleep(0)
    return slices()


def test_a_client_that_leaves_at_any_moment_costs_no_place(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, slow=slow, large=large, sliced=sliced)
    choose = random.Random(13)
    requests = [b'{"command":"%s"}\n' % name for name in (b"slow", b"large", b"sliced", b"events")]
    requests += [b"", b"x" * 70_000, b'{"command":"slow"', b"null\n", requests[0] * 3]
    for _ in range(300):
        with connected(path) as connection:
            try:
                connection.sendall(choose.choice(requests))
                if choose.random() < 0.2:
                    connection.shutdown(choose.choice([socket.SHUT_RD, socket.SHUT_WR]))
                elif choose.random() < 0.2:
                    connection.settimeout(0.002)
                    connection.recv(choose.choice([1, 1_000]))
            except OSError:
                pass  # the server has refused it, or has nothing to send
        if choose.random() < 0.2:
            served.call(lambda: server.publish({"a": 1}))
    served.wait_until(lambda: not server._clients and not server.subscribers)
    assert [record.getMessage() for record in caplog.records] == []


def test_a_fault_in_the_server_is_logged_and_costs_no_place(
    served: ServedLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(line: bytes) -> str:
        raise KeyError("a fault")

    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    with monkeypatch.context() as patched:
        patched.setattr(server_module, "command_of", broken)
        with pytest.raises(ControlError, match="ended the connection"):
            ControlClient(path).request("echo")
    assert caplog.text.count("a control connection failed and is closed") == 1
    served.wait_until(lambda: not server._clients)
    assert ControlClient(path).request("echo")["ok"] is True


@pytest.mark.parametrize("fault", [TimeoutError("disk"), ConnectionResetError("upstream")])
def test_a_fault_of_an_answer_is_not_taken_for_one_of_the_client(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: OSError
) -> None:
    async def slices() -> AsyncIterator[bytes]:
        yield b'{"ok":true,"status":{"hosts":['
        raise fault

    async def broken(request: dict[str, Any]) -> AsyncIterator[bytes]:
        return slices()

    path = tmp_path / "control.sock"
    server = served.serve(path, status=broken)
    with pytest.raises(ControlError, match="in the middle of its answer"):
        ControlClient(path).request("status")
    assert "a control answer failed halfway" in caplog.text
    assert (server.counters.clients_stalled, server.counters.errors) == (0, 1)


def test_an_answer_that_is_no_json_is_a_refusal(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: dict[str, Any]) -> dict[str, object]:
        return {"x": object()}

    path = tmp_path / "control.sock"
    served.serve(path, broken=broken)
    with pytest.raises(ControlError, match="'broken' failed inside the daemon: TypeError"):
        ControlClient(path).request("broken")
    assert "control command 'broken' failed" in caplog.text


def test_a_refusal_that_names_a_path_of_odd_bytes_is_readable(
    served: ServedLoop, tmp_path: Path
) -> None:
    async def refusing(request: dict[str, Any]) -> dict[str, object]:
        raise ControlError("1 fault", ["/etc/caf\udce9.toml: é is wrong"])

    path = tmp_path / "control.sock"
    served.serve(path, reload=refusing)
    with pytest.raises(ControlError, match="1 fault") as raised:
        ControlClient(path).request("reload")
    assert raised.value.faults == ("/etc/caf?.toml: é is wrong",)


# Silent clients


@pytest.mark.parametrize("sent", [b"", b'{"comm', b'{"command":"echo"}\n'])
def test_a_client_that_completes_no_request_is_cut_off(
    served: ServedLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(connections, "REQUEST_IDLE_S", 0.05)
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    with connected(path) as connection, connection.makefile("rb") as file:
        connection.sendall(sent)
        *answers, last = [json.loads(line) for line in file]
    assert last == {"ok": False, "error": "no request within 0.05 s"}
    assert len(answers) == sent.count(b"\n")
    served.wait_until(lambda: not server._clients)
    assert server.counters.clients_idle == 1
    assert "a control client sent no request for 0.05 s" in caplog.text


def test_a_client_that_sends_a_request_byte_by_byte_is_cut_off(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_IDLE_S", 0.1)
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    with connected(path) as connection:
        deadline_at = time.monotonic() + DEADLINE_S
        while not select.select([connection], [], [], 0.005)[0]:
            assert time.monotonic() < deadline_at
            connection.sendall(b" ")
        assert b"no request within" in connection.recv(1_000)
    assert server.counters.clients_idle == 1


def test_a_reader_of_events_may_be_silent(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_IDLE_S", 0.05)
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    with connected(path) as silent, ControlClient(path).stream() as stream:
        assert silent.recv(1_000), "the silent client is cut off"
        served.call(lambda: server.publish({"n": 1}))
        assert stream.next_event(DEADLINE_S) == {"n": 1}


def test_a_request_may_take_longer_to_answer_than_to_send(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_IDLE_S", 0.05)
    path = tmp_path / "control.sock"
    cut_off = asyncio.Event()

    async def long(request: dict[str, Any]) -> dict[str, object]:
        await cut_off.wait()
        return {}

    server = served.serve(path, long=long)
    with connected(path) as asking, connected(path) as silent:
        asking.sendall(b'{"command":"long"}\n')
        served.wait_until(lambda: server.counters.requests == 1)
        assert b"no request within" in silent.recv(1_000)
        served.call(cut_off.set)
        assert asking.recv(1_000) == b'{"ok":true}\n'


# All places taken


def test_the_kernel_names_the_process_at_the_other_end() -> None:
    one, two = socket.socketpair(socket.AF_UNIX)
    with one, two:
        assert peer_of(one) == Peer(os.getpid(), os.geteuid(), os.getegid())


def filled(stack: ExitStack, server: ControlServer, served: ServedLoop) -> list[socket.socket]:
    """Silent clients in every place."""
    silent = [stack.enter_context(connected(server.path)) for _ in range(places_module.CLIENTS_MAX)]
    served.wait_until(lambda: len(server._clients) == places_module.CLIENTS_MAX)
    return silent


def test_clients_are_bounded_and_it_is_logged_once(
    served: ServedLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(places_module, "CLIENTS_MAX", 3)
    clients_are(monkeypatch, 1000)
    path = tmp_path / "control.sock"
    server = to_own_group(served, served.serve(path, echo=echo))
    client = ControlClient(path)
    streams = [client.stream() for _ in range(3)]
    for _ in range(2):
        with pytest.raises(ControlError, match=r"too many control clients \(limit 3\)"):
            client.request("echo")
    assert server.counters.clients_refused == 2
    assert caplog.text.count("control socket: too many control clients (limit 3)") == 1
    streams[0].close()
    served.wait_until(lambda: server.subscribers == 2)
    served.wait_until(lambda: len(server._clients) == 2)
    assert client.request("echo")["ok"] is True
    for stream in streams[1:]:
        stream.close()


def test_root_is_answered_where_silent_clients_have_every_place(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, status=echo)
    with ExitStack() as stack:
        filled(stack, server, served)
        clients_are(monkeypatch, 1000)
        with pytest.raises(ControlError, match="too many control clients"):
            ControlClient(path).request("status")
        clients_are(monkeypatch, 0)
        for _ in range(3):
            assert ControlClient(path).request("status")["ok"] is True
            served.wait_until(lambda: len(server._clients) == places_module.CLIENTS_MAX)


def test_the_place_for_root_is_for_one_request_and_no_stream(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_module, "CLIENTS_MAX", 2)
    monkeypatch.setattr(connections, "RESERVED_IDLE_S", 0.05)
    clients_are(monkeypatch, 0)
    path = tmp_path / "control.sock"
    server = served.serve(path, status=echo)
    with ExitStack() as stack:
        filled(stack, server, served)
        with pytest.raises(ControlError, match="kept for requests of root"):
            ControlClient(path).stream()
        served.wait_until(lambda: len(server._clients) == 2)
        with connected(path) as two, two.makefile("rb") as file:
            two.sendall(b'{"command":"status"}\n' * 2)
            assert len(file.readlines()) == 1
        served.wait_until(lambda: len(server._clients) == 2)
        with connected(path) as silent:
            assert json.loads(silent.recv(1_000))["error"] == "no request within 0.05 s"
        served.wait_until(lambda: len(server._clients) == 2)
        assert ControlClient(path).request("status")["ok"] is True


def test_a_client_in_the_place_for_root_takes_none_of_the_others(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_module, "CLIENTS_MAX", 2)
    clients_are(monkeypatch, 0)
    path = tmp_path / "control.sock"
    answers = asyncio.Event()

    async def waiting(request: dict[str, Any]) -> dict[str, object]:
        await answers.wait()
        return {}

    server = to_own_group(served, served.serve(path, wait=waiting, echo=echo))
    with ExitStack() as stack:
        silent = filled(stack, server, served)
        kept = stack.enter_context(connected(path))
        kept.sendall(b'{"command":"wait"}\n')
        served.wait_until(lambda: server.counters.requests == 1)
        clients_are(monkeypatch, 1000)
        silent[0].close()
        served.wait_until(lambda: len(server._clients) == 2)
        assert ControlClient(path).request("echo")["ok"] is True
        served.call(answers.set)
        assert kept.recv(1_000) == b'{"ok":true}\n'
