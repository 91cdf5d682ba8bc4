"""Other users on the control socket: who may connect, read and change, and how much of it.

Their connections are real ones; only root can make them. The audit log is in test_control_audit.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from carp_fast.config import accounts
from carp_fast.config.model import ControlGroup
from carp_fast.control import connections
from carp_fast.control import server as server_module
from carp_fast.control.access import CHANGES, READS
from carp_fast.control.client import ControlClient
from carp_fast.control.places import CLIENTS_MAX, CLIENTS_OF_A_USER_MAX, CLIENTS_OF_USERS_MAX
from carp_fast.control.protocol import ControlError, Peer
from carp_fast.control.server import ControlServer, Handler
from carp_fast.control.socket_file import SocketFile
from tests.support.served import ServedLoop, echo
from tests.support.users import (
    ALICE,
    BOB,
    DEADLINE_S,
    MALLORY,
    READERS,
    User,
    as_user,
    connected_as,
    public_directory,
)

pytestmark = pytest.mark.root

GROUP = ControlGroup("readers", READERS)
ROOT = User(0, 0)


@pytest.fixture
def served(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedLoop]:
    monkeypatch.setattr(server_module, "FILE_SETTLE_S", 0.01)
    loop = ServedLoop()
    yield loop
    loop.close()


@pytest.fixture
def path() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory / "control.sock"


def serve(served: ServedLoop, path: Path, group: ControlGroup | None = GROUP) -> ControlServer:
    """A server with a command that reads, `status`, and one that changes something, `demote`."""
    handlers = {"status": Handler(dict, echo, READS), "demote": Handler(dict, echo, CHANGES)}
    server = ControlServer(path, handlers, group)
    served.run(server.start())
    served.servers.append(server)
    return server


def asked(user: User | None, path: Path, command: str) -> dict[str, Any]:
    with connected_as(user, path) as connection, connection.makefile("rb") as file:
        connection.sendall(b'{"command":"%s"}\n' % command.encode())
        answer: dict[str, Any] = json.loads(file.readline())
        return answer


def owner(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


# The file


def test_the_socket_belongs_to_the_group(served: ServedLoop, path: Path) -> None:
    serve(served, path)
    assert owner(path) == (os.geteuid(), READERS, 0o660)
    path.unlink()
    served.wait_until(path.exists)
    served.wait_until(lambda: owner(path) == (os.geteuid(), READERS, 0o660))


def test_without_a_group_only_the_daemons_user_and_root_can_connect(
    served: ServedLoop, path: Path
) -> None:
    serve(served, path, group=None)
    assert owner(path) == (os.geteuid(), os.getegid(), 0o600)
    for user in (ALICE, BOB, MALLORY):
        with pytest.raises(PermissionError):
            connected_as(user, path)
    with pytest.raises(ControlError) as refused:
        as_user(ALICE, lambda: ControlClient(path).request("status"))
    allowed = "root, the daemon's user and the members of daemon.control_group"
    assert str(refused.value) == f"no permission for {path}; allowed: {allowed}"
    assert asked(None, path, "status")["ok"]


@pytest.mark.parametrize("member", [True, False])
def test_a_daemon_that_is_not_root_can_give_the_socket_to_a_group_of_its_own_alone(
    path: Path, caplog: pytest.LogCaptureFixture, member: bool
) -> None:
    user = User(50_004, 50_004, [READERS] if member else [])
    os.chown(path.parent, user.uid, user.gid)

    def bound() -> tuple[int, int, int]:
        with closing(asyncio.run(SocketFile(path, GROUP).bind(1))):
            return owner(path)

    found = as_user(user, bound)
    warning = (
        f"control socket {path}: cannot be given to group readers (gid {READERS}),"
        " daemon.control_group: Operation not permitted; it stays with the daemon's user (mode"
        " 0600); allowed: a group that the daemon is a member of, or CAP_CHOWN"
    )
    if member:
        assert found == (user.uid, READERS, 0o660)
        assert not caplog.records
    else:
        assert found == (user.uid, user.gid, 0o600)
        assert [record.getMessage() for record in caplog.records] == [warning]


def test_another_file_at_the_path_is_not_given_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SocketFile(path)
    with closing(asyncio.run(file.bind(1))):
        path.unlink()
        path.touch(mode=0o640)
        monkeypatch.setattr(file, "is_ours", lambda: True)  # it was, a moment before
        file.use_group(GROUP)
        assert owner(path) == (os.geteuid(), os.getegid(), 0o640)


def test_another_group_gets_the_socket_and_ends_what_the_former_one_reads(
    served: ServedLoop, path: Path
) -> None:
    server = serve(served, path)
    with connected_as(ALICE, path) as reading, connected_as(None, path) as of_root:
        for each in (reading, of_root):
            each.sendall(b'{"command":"events"}\n')
            assert each.recv(100) == b'{"ok":true}\n'
        served.call(lambda: server.use_group(ControlGroup("others", 60_000)))
        assert owner(path) == (os.geteuid(), 60_000, 0o660)
        assert reading.recv(100) == b""
        served.call(lambda: server.publish({"n": 1}))
        assert of_root.recv(100) == b'{"n":1}\n'
    with pytest.raises(PermissionError):
        connected_as(ALICE, path)
    served.call(lambda: server.use_group(None))
    assert owner(path) == (os.geteuid(), os.getegid(), 0o600)


# Who may give which command


@pytest.mark.parametrize("user", [ALICE, BOB], ids=["supplementary group", "own group"])
def test_a_member_of_the_group_may_read_and_change_nothing(
    served: ServedLoop, path: Path, user: User
) -> None:
    server = serve(served, path)
    assert asked(user, path, "status")["ok"]
    assert asked(user, path, "events") == {"ok": True}
    assert asked(user, path, "demote") == {
        "ok": False,
        "error": f"uid {user.uid} may not give the command demote: only root may change anything;"
        " allowed: events, status",
        "code": "not_permitted",
    }
    counters = server.counters
    assert (counters.not_permitted, counters.changes, counters.errors) == (1, 0, 1)


def test_a_member_of_very_many_groups_may_read(served: ServedLoop, path: Path) -> None:
    serve(served, path)
    user = User(50_005, 50_005, [*range(100_000, 101_000), READERS])
    assert asked(user, path, "status")["ok"]


@pytest.mark.parametrize("group", [GROUP, None])
def test_a_stranger_may_not_even_read_where_the_socket_is_open_to_all(
    served: ServedLoop, path: Path, group: ControlGroup | None
) -> None:
    serve(served, path, group)
    path.chmod(0o666)
    allowed = "root; daemon.control_group may name a group that may read"
    if group is not None:
        allowed = f"root, and to read members of group readers (gid {READERS}),"
        allowed += " daemon.control_group"
    for command in ("status", "events", "demote"):
        who = f"uid {MALLORY.uid} may not give the command {command}"
        assert asked(MALLORY, path, command) == {
            "ok": False,
            "error": f"{who}: allowed: {allowed}",
            "code": "not_permitted",
        }


def test_root_and_the_daemons_user_may_change_things(
    served: ServedLoop, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(served, path)
    assert asked(None, path, "demote")["ok"]
    monkeypatch.setattr(os, "geteuid", lambda: ALICE.uid)
    assert asked(ALICE, path, "demote")["ok"]
    assert asked(None, path, "demote")["ok"]
    error = asked(BOB, path, "demote")["error"]
    owners = f"root and uid {ALICE.uid}, the daemon's user"
    assert f"only {owners} may change anything" in error


def test_a_client_raises_the_code_of_a_refusal(served: ServedLoop, path: Path) -> None:
    serve(served, path)
    with pytest.raises(ControlError) as refused:
        as_user(ALICE, lambda: ControlClient(path).request("demote"))
    assert refused.value.code == "not_permitted"


# Users that have no number here


def test_the_user_that_stands_for_unknown_ones_may_change_nothing(
    served: ServedLoop, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = accounts.overflow("uid")
    serve(served, path)
    for daemon_uid in (0, unknown):
        monkeypatch.setattr(os, "geteuid", lambda uid=daemon_uid: uid)
        monkeypatch.setattr(connections, "peer_of", lambda _: Peer(1, unknown, READERS))
        assert asked(None, path, "status")["ok"]
        answer = asked(None, path, "demote")
        assert answer["code"] == "not_permitted"
        who = f"uid {unknown} (unknown in this user namespace, or nobody) may not"
        assert answer["error"].startswith(who)


IN_A_NAMESPACE = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from carp_fast.config.model import ControlGroup
from carp_fast.control.access import CHANGES, READS
from carp_fast.control.server import ControlServer, Handler

async def echo(request):
    return {"heard": request}

async def main():
    handlers = {"status": Handler(dict, echo, READS), "demote": Handler(dict, echo, CHANGES)}
    await ControlServer(Path(sys.argv[1]), handlers, ControlGroup("root", 0)).start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


def test_a_user_outside_the_daemons_namespace_may_read_as_a_member_and_change_nothing(
    path: Path,
) -> None:
    here = str(Path(__file__).parent.parent.parent)
    argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", IN_A_NAMESPACE]
    with subprocess.Popen(
        [*argv, str(path), here], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        if not daemon.stdout.readline():
            pytest.skip("needs user namespaces")
        assert asked(None, path, "demote")["ok"], "root of the daemon's namespace"
        outside = User(50_006, 0)  # a member of the group that is mapped
        assert asked(outside, path, "status")["ok"]
        answer = asked(outside, path, "demote")
        assert answer["code"] == "not_permitted"
        assert "unknown in this user namespace" in answer["error"]
        daemon.communicate("", timeout=DEADLINE_S)


# Limits


def fill(
    stack: ExitStack, served: ServedLoop, server: ControlServer, users: Sequence[User], each: int
) -> list[socket.socket]:
    """So many silent connections of each of these users; all have a place."""
    before = len(server._clients)
    silent = [
        stack.enter_context(connected_as(user, server.path)) for user in users for _ in range(each)
    ]
    served.wait_until(lambda: len(server._clients) == before + len(silent))
    return silent


def test_one_user_has_a_limit_and_takes_no_place_from_others(
    served: ServedLoop, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(served, path)
    text = (
        f"too many control clients of uid {ALICE.uid} (limit {CLIENTS_OF_A_USER_MAX},"
        " CLIENTS_OF_A_USER_MAX)"
    )
    with ExitStack() as stack:
        silent = fill(stack, served, server, [ALICE], CLIENTS_OF_A_USER_MAX)
        for _ in range(3):
            with connected_as(ALICE, path) as refused:
                answer = json.loads(refused.recv(1_000))
            assert answer == {"ok": False, "error": text, "code": "user_limit"}
        assert asked(BOB, path, "status")["ok"]
        assert asked(None, path, "demote")["ok"]
        assert caplog.text.count(f"control socket: {text}") == 1
        assert server.status.clients_refused_of_user == 3
        assert server.status.clients_refused == 3
        silent[0].close()
        served.wait_until(lambda: len(server._clients) == CLIENTS_OF_A_USER_MAX - 1)
        assert asked(ALICE, path, "status")["ok"]


def test_many_users_leave_room_for_root(
    served: ServedLoop, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(served, path)
    users = [User(51_000 + number, READERS) for number in range(CLIENTS_OF_USERS_MAX // 16)]
    text = f"too many control clients of users other than root (limit {CLIENTS_OF_USERS_MAX},"
    with ExitStack() as stack:
        fill(stack, served, server, users, 16)
        with connected_as(BOB, path) as refused:
            answer = json.loads(refused.recv(1_000))
        assert answer["error"].startswith(text)
        assert answer["code"] == "too_many_clients"
        fill(stack, served, server, [ROOT], CLIENTS_MAX - CLIENTS_OF_USERS_MAX)
        assert asked(None, path, "status")["ok"], "the last place of root"
        assert server.status.clients_refused_of_user == 0
        assert server.status.clients_refused == 1
    assert caplog.text.count(text) == 1


def test_root_is_not_limited_as_a_user_is(served: ServedLoop, path: Path) -> None:
    server = serve(served, path)
    with ExitStack() as stack:
        fill(stack, served, server, [ROOT], CLIENTS_MAX)
        assert server.status.clients == CLIENTS_MAX
        assert server.status.clients_refused == 0
