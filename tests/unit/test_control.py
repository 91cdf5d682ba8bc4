"""The control socket: takes its path over safely, answers, streams, keeps its limits."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from carp_fast.control import connections
from carp_fast.control import server as server_module
from carp_fast.control.client import (
    ControlClient,
)
from carp_fast.control.protocol import ControlError, ControlInUse, ControlTimeout
from carp_fast.control.server import ControlServer
from carp_fast.control.slices import SLICE_ITEMS, document_slices, in_slices
from tests.support.served import DEADLINE_S, ServedLoop, echo, server_of


@pytest.fixture
def served() -> Iterator[ServedLoop]:
    loop = ServedLoop()
    yield loop
    loop.close()


def raw(path: Path, data: bytes) -> list[bytes]:
    """Sends bytes, ends the sending side, reads all lines."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            return file.readlines()


# The path


def test_socket_and_directory_have_narrow_modes_whatever_the_umask(
    served: ServedLoop, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "carp-fast" / "control.sock"
    before = os.umask(0)
    try:
        server = served.serve(path, echo=echo)
        assert os.umask(0) == 0, "the umask is put back"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o755
    served.run(server.stop())
    assert not path.exists()
    assert list(path.parent.iterdir()) == []


def test_stale_socket_is_replaced(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    served.serve(path, echo=echo)
    assert ControlClient(path).request("echo")["heard"] == {"command": "echo"}


def test_live_daemon_keeps_its_socket(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    served.serve(path, echo=echo)
    second = ControlServer(path, {})
    with pytest.raises(ControlInUse) as raised:
        served.run(second.start())
    assert str(raised.value) == (
        f"control socket {path} is in use by a running daemon (pid {os.getpid()})"
    )
    served.run(second.stop())
    assert ControlClient(path).request("echo")["ok"] is True


def test_live_daemon_with_a_full_queue_keeps_its_socket(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ControlInUse, match="in use by a running daemon"):
            served.run(ControlServer(path, {}).start())
        with pytest.raises(ControlTimeout, match="accepts no connections now"):
            ControlClient(path, timeout_s=0.05).request("status")
    assert path.exists()


def test_two_starts_at_once_give_one_server(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    servers = [server_of(path, echo=echo) for _ in range(8)]

    async def start_all() -> list[BaseException | None]:
        return await asyncio.gather(*(s.start() for s in servers), return_exceptions=True)

    results = served.run(start_all())
    assert results.count(None) == 1
    assert [type(result) for result in results if result] == [ControlInUse] * 7
    served.servers.append(servers[results.index(None)])


def test_something_else_on_the_path_is_left_alone(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(ControlError, match="not a socket") as raised:
        served.run(ControlServer(path, {}).start())
    assert str(path) in str(raised.value)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a" * 120, "longer than 107 bytes"),
        ("file/control.sock", "File exists"),
    ],
)
def test_unusable_path_is_one_clear_line(
    served: ServedLoop, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ControlError, match=text) as raised:
        served.run(ControlServer(tmp_path / name, {}).start())
    assert "\n" not in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


def test_stop_leaves_a_file_of_another_daemon(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = served.serve(path, echo=echo)
    path.unlink()
    served.serve(path, echo=echo)
    served.run(first.stop())
    assert ControlClient(path).request("echo")["ok"] is True


# Requests and answers


def test_arguments_reach_the_handler_and_none_is_left_out(
    served: ServedLoop, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    answer = ControlClient(path).request("echo", interface="eth0", vhid=7, state=None)
    assert answer == {
        "ok": True,
        "heard": {"command": "echo", "interface": "eth0", "vhid": 7},
    }
    assert server.counters.requests == 1


def test_many_requests_on_one_connection_are_answered_in_order(
    served: ServedLoop, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    served.serve(path, echo=echo)
    requests = b"".join(b'{"command":"echo","n":%d}\n' % n for n in range(500))
    answers = [json.loads(line) for line in raw(path, requests)]
    assert [answer["heard"]["n"] for answer in answers] == list(range(500))


def test_answers_of_each_kind(served: ServedLoop, tmp_path: Path) -> None:
    async def ready_made(request: dict[str, Any]) -> bytes:
        return b'{"ok":true,"kind":"bytes"}'

    async def pieces(request: dict[str, Any]) -> AsyncIterator[bytes]:
        return document_slices("status", {"a": 1}, "hosts", in_slices(range(request["n"])))

    async def bare(request: dict[str, Any]) -> AsyncIterator[bytes]:
        return document_slices("status", {}, "hosts", in_slices(()))

    path = tmp_path / "control.sock"
    served.serve(path, ready_made=ready_made, pieces=pieces, bare=bare)
    client = ControlClient(path)
    assert client.request("ready_made") == {"ok": True, "kind": "bytes"}
    assert client.request_raw("ready_made") == b'{"ok":true,"kind":"bytes"}'
    assert client.request("bare") == {"ok": True, "status": {"hosts": []}}
    for n in (0, 1, SLICE_ITEMS, SLICE_ITEMS + 1):
        expected = {"ok": True, "status": {"a": 1, "hosts": list(range(n))}}
        assert client.request("pieces", n=n) == expected


def test_a_large_answer_leaves_the_loop_to_others(served: ServedLoop, tmp_path: Path) -> None:
    item = {"interface": "eth0", "text": "x" * 400}
    count = 65_280

    async def large(request: dict[str, Any]) -> AsyncIterator[bytes]:
        return document_slices("status", {}, "hosts", in_slices(item for _ in range(count)))

    path = tmp_path / "control.sock"
    served.serve(path, large=large, echo=echo)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ControlClient(path).request_raw, "large")
        asked = 0
        while not answer.done():
            assert ControlClient(path).request("echo")["ok"] is True
            asked += 1
        size = len(answer.result(DEADLINE_S))
    assert size > 25_000_000
    assert asked > 1, "the loop answered others meanwhile"
    assert len(json.loads(answer.result())["status"]["hosts"]) == count


def test_handler_says_no_with_faults(served: ServedLoop, tmp_path: Path) -> None:
    async def refuse(request: dict[str, Any]) -> dict[str, object]:
        raise ControlError("2 faults", ["a.toml: x", "a.toml: y"])

    async def refuse_by_answer(request: dict[str, Any]) -> dict[str, object]:
        return {"ok": False, "error": "no", "faults": ["z"]}

    path = tmp_path / "control.sock"
    server = served.serve(path, reload=refuse, other=refuse_by_answer)
    with pytest.raises(ControlError, match=r"^2 faults$") as raised:
        ControlClient(path).request("reload")
    assert raised.value.faults == ("a.toml: x", "a.toml: y")
    with pytest.raises(ControlError, match=r"^no$") as raised:
        ControlClient(path).request("other")
    assert raised.value.faults == ("z",)
    assert server.counters.errors == 1


def test_a_fault_of_a_handler_is_logged_and_answered(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: dict[str, Any]) -> dict[str, object]:
        raise KeyError("vhid")

    path = tmp_path / "control.sock"
    served.serve(path, broken=broken, echo=echo)
    with pytest.raises(ControlError, match=r"'broken' failed inside the daemon: KeyError\('vhid'"):
        ControlClient(path).request("broken")
    assert "control command 'broken' failed" in caplog.text
    assert ControlClient(path).request("echo")["ok"] is True


def test_an_answer_that_breaks_off_is_never_taken_for_whole(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def slices() -> AsyncIterator[bytes]:
        yield b'{"ok":true,"status":{"hosts":['
        raise OSError("gone")

    async def broken(request: dict[str, Any]) -> AsyncIterator[bytes]:
        return slices()

    path = tmp_path / "control.sock"
    served.serve(path, status=broken)
    with pytest.raises(ControlError, match="in the middle of its answer"):
        ControlClient(path).request("status")
    assert "a control answer failed halfway" in caplog.text


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"status\n", "request is not JSON"),
        (b"[1]\n", 'request must be a JSON object with a string "command"'),
        (b"{}\n", 'request must be a JSON object with a string "command"'),
        (b'{"command":7}\n', 'request must be a JSON object with a string "command"'),
        (b'{"command":"stauts"}\n', "unknown command 'stauts' (known: echo, events)"),
    ],
)
def test_bad_requests_get_an_error_and_the_connection_goes_on(
    served: ServedLoop, tmp_path: Path, line: bytes, error: str
) -> None:
    path = tmp_path / "control.sock"
    served.serve(path, echo=echo)
    bad, good = map(json.loads, raw(path, line + b'{"command":"echo"}\n'))
    assert bad["ok"] is False
    assert bad["error"].startswith(error)
    assert good["ok"] is True


def test_line_length_is_bounded(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    padding = "x" * (server_module.LINE_BYTES_MAX - 1000)
    assert ControlClient(path).request("echo", padding=padding)["ok"] is True
    with pytest.raises(ControlError, match="request line longer than 65536 bytes"):
        ControlClient(path).request("echo", padding="x" * 10 * server_module.LINE_BYTES_MAX)
    assert server.counters.lines_too_long == 1


def test_client_that_takes_no_answer_is_cut_off(
    served: ServedLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connections, "ANSWER_STALL_S", 0.05)

    async def large(request: dict[str, Any]) -> bytes:
        return b'"' + b"x" * 8_000_000 + b'"'

    path = tmp_path / "control.sock"
    server = served.serve(path, large=large)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b'{"command":"large"}\n')
        served.wait_until(lambda: server.counters.clients_stalled == 1)
        served.wait_until(lambda: not server._clients)
    assert "read nothing of its answer" in caplog.text


# Streams


def test_events_reach_every_reader_in_order(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path)
    server.publish({"n": -1})  # nobody reads: costs nothing, is kept for nobody
    with ControlClient(path).stream() as one, ControlClient(path).stream() as two:
        assert server.subscribers == 2
        count = 5_000

        def publish_all() -> None:
            for n in range(count):
                server.publish({"n": n})

        served.call(publish_all)
        for stream in (one, two):
            assert [stream.next_event(DEADLINE_S)["n"] for _ in range(count)] == list(range(count))
        with pytest.raises(ControlTimeout, match="no event within"):
            one.next_event(0.01)
        served.call(lambda: server.publish({"n": "last"}))
        assert one.next_event(DEADLINE_S) == {"n": "last"}
    served.wait_until(lambda: server.subscribers == 0)


def test_a_slow_reader_is_dropped_and_told(
    served: ServedLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connections, "EVENTS_QUEUED_MAX", 1_000)
    path = tmp_path / "control.sock"
    server = served.serve(path)
    published = 0

    async def until_dropped() -> None:
        nonlocal published
        async with asyncio.timeout(DEADLINE_S):
            while not server.counters.readers_dropped:
                server.publish({"n": published, "padding": "x" * 500})
                published += 1
                if published % 100 == 0:
                    await asyncio.sleep(0)

    with ControlClient(path).stream() as slow:
        served.run(until_dropped())
        assert "dropping a reader of events: 1000 events behind" in caplog.text
        received: list[int] = []
        with pytest.raises(ControlError, match="dropped: this reader fell 1000 events") as raised:
            received.extend(event["n"] for event in slow)
    assert received == list(range(len(received))), "what came before is whole and in order"
    assert str(raised.value).endswith(f"behind, {published - len(received)} are lost")
    served.wait_until(lambda: server.subscribers == 0)
    assert server.status.events_dropped == published - len(received)
    with ControlClient(path).stream() as stream:
        served.call(lambda: server.publish({"n": 1}))
        assert stream.next_event(DEADLINE_S) == {"n": 1}


def test_a_reader_that_never_reads_is_cut_off(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "EVENTS_QUEUED_MAX", 100)
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    path = tmp_path / "control.sock"
    server = served.serve(path)
    with ControlClient(path).stream():

        async def flood() -> None:
            async with asyncio.timeout(DEADLINE_S):
                while not server.counters.readers_dropped:
                    server.publish({"padding": "x" * 10_000})
                    await asyncio.sleep(0)

        served.run(flood())
        served.wait_until(lambda: not server._clients)
        assert server.status.events_dropped > 100


def test_stop_writes_out_what_was_published_and_ends_the_streams(
    served: ServedLoop, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    stream = ControlClient(path).stream()
    idle = socket.socket(socket.AF_UNIX)
    idle.connect(str(path))

    async def last_words() -> None:
        for n in range(3_000):
            server.publish({"n": n, "padding": "x" * 100})
        await server.stop()

    with closing(idle), stream, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [stream.next_event(DEADLINE_S)["n"] for _ in range(3_000)])
        served.run(last_words())
        assert reading.result(DEADLINE_S) == list(range(3_000))
        with pytest.raises(ControlError, match="ended the connection"):
            stream.next_event(DEADLINE_S)
    with pytest.raises(ControlError, match="is it running"):
        ControlClient(path).request("echo")


def test_server_can_start_again_after_stop(served: ServedLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    served.run(server.stop())
    served.run(server.start())
    assert ControlClient(path).request("echo")["ok"] is True
