"""A control socket that another process goes on with: no client finds it closed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from carp_fast.control.access import CHANGES
from carp_fast.control.client import ControlClient
from carp_fast.control.protocol import UPGRADED, ControlError
from carp_fast.control.server import ControlServer, Handler
from tests.support.served import DEADLINE_S, ServedLoop, echo, server_of

WHY = "the daemon was upgraded"


@pytest.fixture
def served() -> Iterator[ServedLoop]:
    loop = ServedLoop()
    yield loop
    loop.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as workers:
        yield workers


async def pass_on(former: ControlServer, successor: ControlServer) -> None:
    passed_on = former.passed_on()
    assert passed_on is not None
    document, descriptor = passed_on
    await successor.adopt(document, socket.socket(fileno=os.dup(descriptor)))


def asked(pool: ThreadPoolExecutor, path: Path, **arguments: object) -> Future[dict[str, Any]]:
    return pool.submit(lambda: ControlClient(path).request("echo", **arguments))


def test_a_client_that_connects_meanwhile_is_answered_by_the_successor(
    served: ServedLoop, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    async def other(request: dict[str, Any]) -> dict[str, object]:
        return {"successor": True}

    path = tmp_path / "control.sock"
    former, successor = served.serve(path, echo=echo), server_of(path, echo=other)
    served.servers.append(successor)
    inode = path.stat().st_ino
    assert ControlClient(path).request("echo")["heard"]
    served.run(former.pause(DEADLINE_S))
    waiting = asked(pool, path)
    served.run(pass_on(former, successor))
    assert waiting.result(DEADLINE_S)["successor"]
    served.run(former.leave(WHY))
    assert ControlClient(path).request("echo")["successor"]
    assert path.stat().st_ino == inode
    assert successor.counters.requests == 3, "counted on"


def test_the_successor_recognises_the_file_and_removes_it_at_its_end(
    served: ServedLoop, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    former, successor = served.serve(path, echo=echo), server_of(path, echo=echo)
    served.run(former.pause(DEADLINE_S))
    served.run(pass_on(former, successor))
    served.run(former.leave(WHY))
    assert path.exists()
    served.run(successor.stop())
    assert not path.exists()


def test_a_server_goes_on_after_a_pause(
    served: ServedLoop, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    with ControlClient(path) as client, client.stream() as events:
        served.run(server.pause(DEADLINE_S))
        waiting = asked(pool, path, number=1)
        served.call(lambda: server.publish({"number": 2}))
        assert events.next_event(DEADLINE_S) == {"number": 2}
        assert not waiting.done()
        served.run(server.resume())
        assert waiting.result(DEADLINE_S)["heard"]["number"] == 1
        assert ControlClient(path).request("echo")["heard"]
    for _ in range(3):  # as often as needed
        served.run(server.pause(DEADLINE_S))
        served.run(server.resume())
    assert ControlClient(path).request("echo")["heard"]


def test_a_request_on_an_open_connection_waits_for_the_end_of_a_pause(
    served: ServedLoop, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(os.fspath(path))
        served.run(server.pause(DEADLINE_S))
        connection.sendall(b'{"command": "echo"}\n')
        served.run(server.resume())
        assert b'"ok":true' in connection.recv(4096)


def test_readers_of_events_get_what_waits_and_are_told_to_connect_again(
    served: ServedLoop, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    former, successor = served.serve(path, echo=echo), server_of(path, echo=echo)
    served.servers.append(successor)
    with ControlClient(path) as client, client.stream() as events:
        served.call(lambda: former.publish({"number": 1}))
        served.run(former.pause(DEADLINE_S))
        served.run(pass_on(former, successor))
        served.run(former.leave(WHY))
        assert events.next_event(DEADLINE_S) == {"number": 1}
        with pytest.raises(ControlError, match=WHY) as caught:
            events.next_event(DEADLINE_S)
        assert caught.value.code == UPGRADED
        with client.stream() as again:
            served.call(lambda: successor.publish({"number": 2}))
            assert again.next_event(DEADLINE_S) == {"number": 2}


def changing(
    served: ServedLoop, path: Path, answer: Callable[[dict[str, Any]], Any]
) -> ControlServer:
    server = ControlServer(path, {"echo": Handler(dict, answer, CHANGES)})
    served.run(server.start())
    served.servers.append(server)
    return server


def test_a_pause_waits_for_commands_that_change_something(
    served: ServedLoop, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def answer(request: dict[str, Any]) -> dict[str, object]:
        begun.set()
        await may_end.wait()
        return {}

    path = tmp_path / "control.sock"
    server = changing(served, path, answer)
    waiting = asked(pool, path)
    served.run(begun.wait())
    with pytest.raises(
        ControlError, match=r"the command echo is still being carried out after 0\."
    ):
        served.run(server.pause(0.01))
    assert server.passed_on() is None, "it goes on"
    pausing = pool.submit(lambda: served.run(server.pause(DEADLINE_S)))
    served.call(may_end.set)
    pausing.result(DEADLINE_S)
    assert waiting.result(DEADLINE_S)["ok"]
    assert server.passed_on() is not None
    served.run(server.resume())


def test_a_command_may_pause_the_server_that_calls_it_and_is_answered_at_its_end(
    served: ServedLoop, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    successor = server_of(path, echo=echo)
    served.servers.append(successor)
    leaving: list[asyncio.Task[None]] = []

    async def answer(request: dict[str, Any]) -> dict[str, object]:
        await former.pause(DEADLINE_S)
        await pass_on(former, successor)
        leaving.append(asyncio.create_task(former.leave(WHY)))
        return {"passed_on": True}

    former = changing(served, path, answer)
    assert ControlClient(path).request("echo")["passed_on"]
    served.wait_until(leaving[0].done)
    assert ControlClient(path).request("echo")["heard"]


def test_only_a_socket_that_listens_at_the_path_is_adopted(
    served: ServedLoop, tmp_path: Path
) -> None:
    former = served.serve(tmp_path / "other.sock", echo=echo)
    served.run(former.pause(DEADLINE_S))
    passed_on = former.passed_on()
    assert passed_on is not None
    document, descriptor = passed_on
    server = server_of(tmp_path / "control.sock", echo=echo)
    refused = "what was passed on does not listen there"
    for sock in (
        socket.socket(fileno=os.dup(descriptor)),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    ):
        with sock, pytest.raises(ControlError, match=refused):
            served.run(server.adopt(document, sock))
    served.run(former.resume())
