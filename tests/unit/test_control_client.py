"""Clients of the control socket: what they make of answers, of streams, and of none."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carp_fast.control.client import (
    INTERRUPTED_WITHIN_S,
    AsyncControlClient,
    ControlClient,
    ControlStream,
    _Daemon,
    _Lines,
)
from carp_fast.control.documents import StateEvent
from carp_fast.control.protocol import ControlError, ControlTimeout
from carp_fast.control.requests import StatusRequest
from tests.support.scene import Scene, Served, stop_time
from tests.support.served import DEADLINE_S, ServedLoop

DOCUMENTS = Path(__file__).parent / "documents"


@pytest.fixture
def served() -> Iterator[ServedLoop]:
    loop = ServedLoop()
    yield loop
    loop.close()


def test_a_client_says_that_no_daemon_is_there(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    line = f"no carp-fast daemon at {path}: is it running?"
    with pytest.raises(ControlError) as raised:
        ControlClient(path).request("status")
    assert str(raised.value) == line
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(ControlError) as raised:
        ControlClient(path).stream()
    assert str(raised.value) == line


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "ended the connection without an answer"),
        (b'{"ok":tr', "ended the connection in the middle of its answer"),
        (b"SSH-2.0\n", "the answer is not a daemon's"),
        (b'{"a":' + b"[" * 60_000 + b"\n", "the answer is not a daemon's"),
        (b'{"ok":false}\n', "the daemon refused"),
    ],
)
def test_odd_answers_are_one_clear_line(tmp_path: Path, answer: bytes, error: str) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        serving = pool.submit(serve)
        with pytest.raises(ControlError, match=error) as raised:
            ControlClient(path).request("status")
        serving.result(DEADLINE_S)
    assert "\n" not in str(raised.value)


def test_silent_daemon_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(ControlTimeout, match=r"does not answer within 0\.05 s"):
            ControlClient(path, timeout_s=0.05).request("status")


class Slow:
    """A connection on which nothing comes for a while, as recv() tells it."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces = list(pieces)
        self.waited_s: list[float | None] = []

    def settimeout(self, timeout_s: float | None) -> None:
        self.waited_s.append(timeout_s)

    def recv(self, count: int) -> bytes:
        piece = self.pieces.pop(0)
        if piece is None:
            raise TimeoutError
        return piece


def stream_of(connection: Any) -> ControlStream[dict[str, Any]]:
    return ControlStream(_Daemon("control.sock", 5), connection, _Lines(), dict[str, Any])


def test_a_wait_without_a_deadline_is_made_of_short_ones(tmp_path: Path) -> None:
    # A signal that comes when recv() is about to wait is acted upon only when it returns.
    connection: Any = Slow(None, None, b'{"n":1}\n')
    assert stream_of(connection).next_event(None) == {"n": 1}
    assert connection.waited_s == [INTERRUPTED_WITHIN_S] * 3
    connection = Slow(None)
    with pytest.raises(ControlTimeout):
        stream_of(connection).next_event(5)
    assert connection.waited_s == [5]


# Documents


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    stop_time(monkeypatch)
    return Scene()


@pytest.fixture
def path(served: ServedLoop, scene: Scene, tmp_path: Path) -> Path:
    """The socket of a daemon with the scene's virtual hosts."""
    daemon = Served(scene, tmp_path / "control.sock")
    served.run(daemon.server.start())
    served.servers.append(daemon.server)
    return daemon.server.path


def test_a_status_is_what_the_daemon_wrote(path: Path) -> None:
    with ControlClient(path) as client:
        found = client.status()
        assert msgspec.json.encode(found) == client.status_json(StatusRequest())
        assert [each.state for each in found.virtual_hosts] == [
            *("BACKUP", "MASTER", "INIT", "MASTER", "INIT", "MASTER")
        ]
        assert (found.daemon.version, found.daemon.pump.scheduling) == ("1.2.3", "fifo")
        assert found.virtual_hosts[1].demotion.demote == 5
        assert found.virtual_hosts[0].demotion.demote is msgspec.UNSET
        assert [each.vhid for each in client.status(state="master", problems=True).virtual_hosts]
        assert client.status(interface="eth9").virtual_hosts == []
        assert [each.vhid for each in client.status(vhid=44).virtual_hosts] == [44]
        with pytest.raises(ControlError, match=r"^state SLAVE: one of INIT, BACKUP, MASTER$"):
            client.status(state="slave")


def test_an_explanation_is_what_the_daemon_wrote(path: Path) -> None:
    client = ControlClient(path)
    found = client.explain("eth0", 42)
    assert msgspec.json.encode(found) == client.explain_json("eth0", 42)
    [host] = found.virtual_hosts
    assert (host.preempt, host.link, host.timer.event if host.timer else "") == (
        *("demoted", "up", "master_down"),
    )
    with pytest.raises(ControlError, match="eth0 has no virtual host 9"):
        client.explain("eth0", 9)


def test_a_reload_tells_what_it_did_or_its_faults(path: Path) -> None:
    client = ControlClient(path)
    done = client.reload()
    assert (done.added, done.removed, done.kept, done.seconds) == (0, 0, 6, 0.123)
    with pytest.raises(ControlError, match="2 faults") as refused:
        client.reload(force=True)
    assert refused.value.faults == ("a.toml: one", "a.toml: two")


def test_a_request_of_other_arguments_is_refused(path: Path) -> None:
    client = ControlClient(path)
    with pytest.raises(ControlError, match=r"^force must be true or false$"):
        client.request("reload", force="yes")
    with pytest.raises(ControlError, match=r"^status: Expected `int \| null`, got `str`"):
        client.request("status", vhid="7")


EVENT = StateEvent("2027-01-15T08:00:00.000Z", "eth0", 7, "MASTER", "BACKUP", "master_down", None)


def test_events_are_documents_until_the_block_ends(served: ServedLoop, tmp_path: Path) -> None:
    server = served.serve(tmp_path / "control.sock")
    with ControlClient(server.path) as client:
        stream = client.events()
        served.call(lambda: server.publish(EVENT))
        assert stream.next_event(DEADLINE_S) == EVENT
        served.call(lambda: server.publish(EVENT))
        assert stream.next_line(DEADLINE_S) == msgspec.json.encode(EVENT)
    served.wait_until(lambda: server.subscribers == 0)


def answering(path: Path, *answers: bytes) -> socket.socket:
    """A daemon of another version, for so many connections; it answers when it is asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(len(answers))

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return listener


def test_what_a_newer_daemon_adds_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    lines = (DOCUMENTS / "status.jsonl").read_bytes()
    newer = lines.replace(b'"interface":', b'"new":{"a":[1]},"interface":')
    assert newer.count(b'"new"') == 6
    event = b'{"new":1,' + msgspec.json.encode(EVENT)[1:] + b"\n"
    with answering(path, newer, newer, b'{"ok":true,"new":1}\n' + event):
        client = ControlClient(path)
        found = client.status()
        assert len(found.virtual_hosts) == 6
        assert b'"new":{"a":[1]}' in client.status_json(StatusRequest())
        with client.events() as events:
            assert next(events) == EVENT


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b'{"ok":true}\n', "Object missing required field `status`"),
        (b'{"ok":true,"status":{}}\n', "Object missing required field `daemon`"),
        (b'{"ok":true,"status":[]}\n', "Expected `object`, got `array`"),
    ],
)
def test_a_document_that_is_not_known_is_one_clear_line(
    tmp_path: Path, answer: bytes, why: str
) -> None:
    path = tmp_path / "control.sock"
    text = f"the daemon at {path} sent an answer that this version does not know: {why}"
    with answering(path, answer), pytest.raises(ControlError) as refused:
        ControlClient(path).status()
    assert str(refused.value).partition(" - at ")[0] == text


def test_an_event_that_is_not_known_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with answering(path, b'{"ok":true}\n{"interface":"eth0"}\n'):
        why = "does not know: Object missing required field `at`"
        with ControlClient(path).events() as events, pytest.raises(ControlError, match=why):
            next(events)


# With asyncio


def test_with_asyncio_answers_are_the_same(path: Path) -> None:
    client = ControlClient(path)

    async def asked() -> list[Any]:
        async with AsyncControlClient(path) as other:
            with pytest.raises(ControlError, match=r"^state SLAVE"):
                await other.status(state="slave")
            with pytest.raises(ControlError, match="2 faults"):
                await other.reload(force=True)
            return [
                await other.status(),
                await other.status(problems=True, state="MASTER"),
                await other.explain("eth0", 43),
                await other.reload(),
            ]

    assert asyncio.run(asked()) == [
        client.status(),
        client.status(problems=True, state="MASTER"),
        client.explain("eth0", 43),
        client.reload(),
    ]


def test_with_asyncio_events_are_documents_until_the_block_ends(
    served: ServedLoop, tmp_path: Path
) -> None:
    server = served.serve(tmp_path / "control.sock")

    def publish() -> None:
        served.call(lambda: server.publish(EVENT))

    async def followed() -> None:
        async with AsyncControlClient(server.path) as client:
            events = client.events()
            with pytest.raises(RuntimeError, match="begins with `async with`"):
                await events.next_event()
            async with client.events() as stream:
                with pytest.raises(ControlTimeout, match=r"no event within 0\.01 s"):
                    await stream.next_event(0.01)
                await asyncio.to_thread(publish)
                assert await stream.next_event(DEADLINE_S) == EVENT
                await asyncio.to_thread(publish)
                async for event in stream:
                    assert event == EVENT
                    break
            await asyncio.to_thread(served.wait_until, lambda: server.subscribers == 0)
            await client.events().__aenter__()  # the client's block ends what was left open
        await asyncio.to_thread(served.wait_until, lambda: server.subscribers == 0)

    asyncio.run(followed())


def test_with_asyncio_no_daemon_and_one_that_breaks_off_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def why(timeout_s: float = DEADLINE_S) -> str:
        with pytest.raises(ControlError) as refused:
            await AsyncControlClient(path, timeout_s).status()
        return str(refused.value)

    assert asyncio.run(why()) == f"no carp-fast daemon at {path}: is it running?"
    with answering(path, b'{"ok":tr', b"", b'{"ok":false,"error":"no"}\n'):
        half = "ended the connection in the middle of its answer"
        assert asyncio.run(why()) == f"the daemon at {path} {half}"
        assert asyncio.run(why()).endswith("ended the connection without an answer")
        assert asyncio.run(why()) == "no"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(1)
        assert asyncio.run(why(0.05)).endswith("does not answer within 0.05 s")


def test_with_asyncio_a_stream_ends_with_its_daemon(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def followed() -> list[str]:
        async with AsyncControlClient(path).events() as events:
            assert await events.next_event() == EVENT
            with pytest.raises(ControlError) as ended:
                await events.next_event()
        return [str(ended.value)]

    line = msgspec.json.encode(EVENT) + b"\n"
    with answering(path, b'{"ok":true}\n' + line, b'{"ok":true}\n' + line + b'{"ok":false}\n'):
        assert asyncio.run(followed()) == [f"the daemon at {path} ended the connection"]
        assert asyncio.run(followed()) == ["the daemon ended the stream"]
