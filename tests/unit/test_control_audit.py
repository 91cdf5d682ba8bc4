"""The audit log: who gave which command that changes something, and its outcome, in one line."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from carp_fast.config.model import ControlGroup
from carp_fast.control import audit, connections
from carp_fast.control import server as server_module
from carp_fast.control.access import CHANGES, READS, reads_if
from carp_fast.control.log_limit import PERIOD_S, USERS_REMEMBERED_MAX, LogLimit
from carp_fast.control.protocol import ControlError, Peer
from carp_fast.control.requests import DemoteRequest, MaintenanceRequest, ReloadRequest
from carp_fast.control.server import Answer, ControlServer, Handler
from tests.support.served import DEADLINE_S, ServedLoop, echo

DEMOTE = b'{"command":"demote","amount":20,"reason":"disks"}\n'
STRANGER = Peer(0, 50_001, 50_001)


@pytest.fixture
def served(caplog: pytest.LogCaptureFixture) -> Iterator[ServedLoop]:
    caplog.set_level(logging.INFO)
    loop = ServedLoop()
    yield loop
    loop.close()


async def nothing(request: object) -> dict[str, object]:
    return {}


def serve(
    served: ServedLoop,
    path: Path,
    demote: Callable[[Any], Awaitable[Answer]] = nothing,
) -> ControlServer:
    """A server with `demote`, and with `status`, which reads."""
    handlers = {
        "demote": Handler(DemoteRequest, demote, CHANGES),
        "status": Handler(dict, echo, READS),
    }
    server = ControlServer(path, handlers, ControlGroup("own", os.getegid()))
    served.run(server.start())
    served.servers.append(server)
    return server


@contextmanager
def demoting(served: ServedLoop, server: ControlServer, path: Path) -> Iterator[None]:
    """A client whose change has begun, and which goes without an answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(DEMOTE)
        served.wait_until(lambda: server.counters.changes == 1)
        yield


def asked(path: Path, line: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(path))
        connection.sendall(line)
        with connection.makefile("rb") as file:
            answer: dict[str, Any] = json.loads(file.readline())
            return answer


def audited(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and text of the audit log's lines."""
    lines = [record for record in caplog.records if record.name == audit.logger.name]
    return [(record.levelname, record.getMessage()) for record in lines]


def own_process() -> str:
    return audit.peer_text(Peer(os.getpid(), os.geteuid(), os.getegid()))


# What a line has


def test_a_change_is_one_line_with_who_what_and_the_outcome(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    server = serve(served, path)
    assert asked(path, b'{"command":"status"}\n')["ok"]
    assert asked(path, DEMOTE) == {"ok": True}
    assert audited(caplog) == [
        ("INFO", f'audit: {own_process()}: demote amount=20 reason="disks": ok')
    ]
    assert server.counters.changes == 1


def test_a_process_is_named_by_its_user_its_program_and_its_own_name() -> None:
    name = Path("/proc/self/comm").read_text().strip()
    program = Path("/proc/self/exe").readlink()
    text = audit.peer_text(Peer(os.getpid(), 0, 0))
    assert text == f"root (uid 0), pid {os.getpid()} ({program}, {name})"
    unseen = audit.peer_text(Peer(0, 50_001, 0))
    assert unseen == "uid 50001, a process that cannot be seen here"


def test_a_change_that_is_refused_or_fails_has_its_reason(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [ControlError("32 reasons\nare enough"), KeyError("a fault")]

    async def failing(request: DemoteRequest) -> dict[str, object]:
        raise errors.pop(0)

    path = tmp_path / "control.sock"
    serve(served, path, failing)
    for _ in range(2):
        assert not asked(path, DEMOTE)["ok"]
    who = own_process()
    what = 'demote amount=20 reason="disks"'
    assert audited(caplog) == [
        ("INFO", f"audit: {who}: {what}: refused: 32 reasons\\u000aare enough"),
        (
            "INFO",
            f"audit: {who}: {what}: failed: command 'demote' failed inside the daemon:"
            " KeyError('a fault') (see its log)",
        ),
    ]


@pytest.mark.parametrize(
    "arguments", [b'"amount":"hunter2"', b'"amount":1e999,"reason":"x"', b'"reason":[[]]']
)
def test_wrong_arguments_of_a_change_are_in_the_log_without_their_values(
    served: ServedLoop,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    arguments: bytes,
) -> None:
    path = tmp_path / "control.sock"
    serve(served, path)
    asked(path, b'{"command":"demote",%s}\n' % arguments)
    ((level, line),) = audited(caplog)
    assert level == "INFO"
    begin = f"audit: {own_process()}: demote (arguments that do not fit): refused:"
    begin += " demote: an amount and a reason are needed"
    assert line.startswith(begin)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (ReloadRequest(), "reload"),
        (ReloadRequest(force=True), "reload force=true"),
        (DemoteRequest(5, "é", "lan"), 'demote amount=5 reason="é" group="lan"'),
        (DemoteRequest(5, 'a": ok\n\x1b[2J\u202e'), None),
        (DemoteRequest(5, "x" * 60_000), None),
        (DemoteRequest(5, "\x00" * 60_000), None),
        (MaintenanceRequest("on", for_s=60), 'maintenance action="on" for_s=60'),
    ],
)
def test_arguments_are_escaped_and_bounded(request_: Any, text: str | None) -> None:
    shown = audit.request_text(type(request_).__struct_config__.tag, request_)
    assert text in (None, shown)
    assert shown.isprintable()
    assert len(shown) <= audit.TEXT_MAX


def test_a_line_of_the_log_cannot_be_forged(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    serve(served, path)
    forged = 'x"\n12:00 audit: root (uid 0), pid 1: reload: ok'
    asked(path, json.dumps({"command": "demote", "amount": 1, "reason": forged}).encode() + b"\n")
    ((_, line),) = audited(caplog)
    assert "\n" not in line
    assert '\\"\\n12:00 audit: root' in line, "inside its quotes"


@pytest.mark.parametrize(("action", "changes"), [("show", 0), ("plan", 0), ("on", 1), ("of", 1)])
def test_a_command_is_audited_only_where_its_argument_changes_something(
    served: ServedLoop,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    action: str,
    changes: int,
) -> None:
    path = tmp_path / "control.sock"
    handler = Handler(MaintenanceRequest, nothing, reads_if("action", "plan", "show"))
    server = ControlServer(path, {"maintenance": handler})
    served.run(server.start())
    served.servers.append(server)
    asked(path, b'{"command":"maintenance","action":"%s"}\n' % action.encode())
    assert len(audited(caplog)) == server.counters.changes == changes


# Those who may not


def test_what_a_user_may_not_change_is_logged_ten_times_a_minute_and_counted(
    served: ServedLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 0.0
    path = tmp_path / "control.sock"
    server = serve(served, path)
    server._audit = audit.Audit(lambda: now_s)
    monkeypatch.setattr(connections, "peer_of", lambda _: STRANGER)
    for _ in range(15):
        assert asked(path, DEMOTE)["code"] == "not_permitted"
    lines = audited(caplog)
    assert len(lines) == audit.REFUSED_A_MINUTE == 10
    begin = (
        "audit: uid 50001, a process that cannot be seen here: demote amount=20"
        ' reason="disks": refused: uid 50001 may not give the command demote: allowed: root'
    )
    for level, line in lines:
        assert level == "WARNING"
        assert line.startswith(begin)
    now_s = 60.0
    asked(path, DEMOTE)
    assert audited(caplog)[-1][1].endswith(" (5 more such lines were left out before)")
    assert server.counters.not_permitted == 16
    assert server.counters.changes == 0


def test_what_a_user_may_not_read_is_not_in_the_audit_log(
    served: ServedLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "control.sock"
    serve(served, path)
    monkeypatch.setattr(connections, "peer_of", lambda _: STRANGER)
    assert asked(path, b'{"command":"status"}\n')["code"] == "not_permitted"
    assert audited(caplog) == []


def test_each_user_has_a_limit_of_lines_of_its_own() -> None:
    limit = LogLimit(2)
    assert [limit.admit(1, 0.0) for _ in range(4)] == ["", "", None, None]
    assert limit.admit(2, 1.0) == ""
    assert limit.admit(1, PERIOD_S - 0.1) is None
    assert limit.admit(1, PERIOD_S) == " (3 more such lines were left out before)"
    assert limit.admit(1, PERIOD_S) == ""


def test_many_users_share_a_limit_of_lines() -> None:
    limit = LogLimit(1)
    for uid in range(USERS_REMEMBERED_MAX):
        assert limit.admit(uid, 0.0) == ""
    admitted = [limit.admit(uid, 1.0) for uid in range(10_000, 12_000)]
    assert admitted == ["", *[None] * 1_999]
    assert limit.admit(20_000, PERIOD_S + 2) == ""
    assert len(limit._periods) <= USERS_REMEMBERED_MAX


# Clients and daemons that are gone


def test_a_client_that_does_not_wait_for_the_answer_is_audited(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = asyncio.Event()

    async def slow(request: DemoteRequest) -> dict[str, object]:
        await goes_on.wait()
        return {}

    path = tmp_path / "control.sock"
    server = serve(served, path, slow)
    with demoting(served, server, path):
        pass
    assert audited(caplog) == []
    served.call(goes_on.set)
    served.wait_until(lambda: not server._clients)
    ((_, line),) = audited(caplog)
    assert line == f'audit: {own_process()}: demote amount=20 reason="disks": ok'


def test_a_process_that_has_ended_is_audited_by_its_number(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    server = serve(served, path)
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    code += "; s.sendall(sys.argv[2].encode() + b'\\n')"
    blocked, ended = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        ended.wait(DEADLINE_S)

    served.loop.call_soon_threadsafe(block)
    assert blocked.wait(DEADLINE_S)
    argv = [sys.executable, "-c", code, str(path), DEMOTE.decode().strip()]
    with subprocess.Popen(argv) as client:
        assert client.wait(DEADLINE_S) == 0
    ended.set()
    served.wait_until(lambda: server.counters.changes == 1 and not server._clients)
    ((_, line),) = audited(caplog)
    who = audit.peer_text(Peer(client.pid, os.geteuid(), 0))
    assert "(/" not in who, "its number is not in use again"
    assert line == f'audit: {who}: demote amount=20 reason="disks": ok'


def test_a_change_that_the_daemons_end_interrupts_is_audited(
    served: ServedLoop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def endless(request: DemoteRequest) -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(server_module, "STOP_FLUSH_S", 0.01)
    path = tmp_path / "control.sock"
    server = serve(served, path, endless)
    with demoting(served, server, path):
        served.run(server.stop())
    ((_, line),) = audited(caplog)
    assert line.endswith('demote amount=20 reason="disks": interrupted')
