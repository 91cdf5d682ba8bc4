"""The file of the control socket: who can lock it, and that it is created again if removed.

How a path is taken over from another daemon is in test_control.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from carp_fast.control import server as server_module
from carp_fast.control import socket_file as file_module
from carp_fast.control.client import ControlClient
from carp_fast.control.protocol import ControlError
from carp_fast.control.server import ControlServer
from carp_fast.control.socket_file import SocketFile
from carp_fast.inotify import Paths
from tests.support.served import ServedLoop, echo, server_of


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedLoop]:
    monkeypatch.setattr(server_module, "LISTEN_RETRY_S", 0.01)
    monkeypatch.setattr(server_module, "FILE_SETTLE_S", 0.1)
    loop = ServedLoop()
    yield loop
    loop.close()


# The lock


def test_a_lock_of_the_directory_keeps_no_daemon_from_starting(
    served: ServedLoop, tmp_path: Path
) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)  # as any user may
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        served.serve(tmp_path / "control.sock", echo=echo)
    finally:
        os.close(directory)
    assert ControlClient(tmp_path / "control.sock").request("echo")["ok"] is True


def test_another_start_with_the_path_is_waited_for_and_named(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "START_LOCK_S", 0.05)
    path = tmp_path / "control.sock"
    lock = tmp_path / "control.sock.lock"
    with lock.open("w") as other:
        lock.chmod(0o600)
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ControlError) as raised:
            served.run(ControlServer(path, {}).start())
        assert str(raised.value) == (
            f"control socket {path}: {lock} stays locked by another process"
        )
        monkeypatch.setattr(file_module, "START_LOCK_S", 5.0)
        server = server_of(path, echo=echo)
        started = asyncio.run_coroutine_threadsafe(server.start(), served.loop)
        served.servers.append(server)
        assert not started.done()
    started.result(5)
    assert not lock.exists()


def test_only_the_owner_can_open_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control.sock"
    modes: list[int] = []

    def looked(*_: object) -> None:
        modes.append(stat.S_IMODE((tmp_path / "control.sock.lock").stat().st_mode))

    monkeypatch.setattr(file_module, "_remove_stale", looked)
    before = os.umask(0)
    try:
        with closing(asyncio.run(SocketFile(path).bind(1))):
            assert modes == [0o600]
            assert [each.name for each in tmp_path.iterdir()] == ["control.sock"]
    finally:
        os.umask(before)


def test_a_lock_file_that_others_can_lock_is_refused_by_name(
    served: ServedLoop, tmp_path: Path
) -> None:
    path, lock = tmp_path / "control.sock", tmp_path / "control.sock.lock"
    lock.touch()
    lock.chmod(0o644)
    with pytest.raises(ControlError) as raised:
        served.run(ControlServer(path, {}).start())
    assert str(raised.value) == (
        f"control socket {path}: {lock}: other users can lock this file"
        f" (uid {os.geteuid()}, mode 0644); remove it"
    )
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ControlError, match="symbolic links") as raised:
        served.run(ControlServer(path, {}).start())
    assert str(lock) in str(raised.value)
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_file_left_by_a_crash_is_taken_over(served: ServedLoop, tmp_path: Path) -> None:
    lock = tmp_path / "control.sock.lock"
    lock.touch(mode=0o600)
    served.serve(tmp_path / "control.sock", echo=echo)
    assert not lock.exists()


# The file


@pytest.mark.parametrize("removed", ["file", "directory"])
def test_a_removed_socket_file_is_made_again(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture, removed: str
) -> None:
    path = tmp_path / "run" / "control.sock"
    server = served.serve(path, echo=echo)
    again = f"control socket {path}: the file was gone, created again"
    with ControlClient(path).stream() as stream:
        for count in (1, 2):
            if removed == "file":
                path.unlink()
            else:
                shutil.rmtree(path.parent)
            served.wait_until(lambda n=count: caplog.text.count(again) == n)  # type: ignore[misc]
            assert ControlClient(path).request("echo")["ok"] is True
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            served.call(lambda n=count: server.publish({"n": n}))  # type: ignore[misc]
            assert stream.next_event(5) == {"n": count}, "streams go on"
    served.run(server.stop())
    assert not path.exists()


def test_where_the_kernel_reports_nothing_the_file_is_looked_at(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FILE_CHECKED_S", 0.01)
    monkeypatch.setattr(Paths, "follow", lambda *_, content: lambda: None)
    path = tmp_path / "control.sock"
    served.serve(path, echo=echo)
    path.unlink()
    served.wait_until(path.exists)
    assert ControlClient(path).request("echo")["ok"] is True


def test_a_server_stops_although_its_file_changes_at_that_moment(
    served: ServedLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[Callable[[], None]] = []

    def follow(
        paths: Paths, path: str, on_change: Callable[[], None], **_: object
    ) -> Callable[[], None]:
        changed.append(on_change)
        return lambda: None

    monkeypatch.setattr(Paths, "follow", follow)
    server = served.serve(tmp_path / "control.sock", echo=echo)
    served.wait_until(lambda: bool(changed))

    async def stopped() -> None:
        changed[0]()
        await server.stop()

    served.run(stopped())
    assert not (tmp_path / "control.sock").exists()


def test_a_path_that_another_daemon_took_is_left_to_it_until_it_ends(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    served.serve(path, echo=echo)

    async def other(request: dict[str, object]) -> dict[str, object]:
        return {"other": True}

    async def swapped() -> ControlServer:
        path.unlink()
        server = server_of(path, echo=other)
        await server.start()
        return server

    second = served.run(swapped())
    in_use = "the control socket is gone and cannot be created: control socket"
    served.wait_until(lambda: in_use in caplog.text)
    assert ControlClient(path).request("echo")["other"] is True
    served.run(second.stop())
    served.wait_until(lambda: "created again" in caplog.text)
    assert "heard" in ControlClient(path).request("echo")
    assert caplog.text.count(in_use) == 1


def test_something_else_at_the_path_is_left_alone_and_reported_once(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    server = served.serve(path, echo=echo)
    path.unlink()
    path.write_text("precious")
    served.wait_until(lambda: "there is a file that is not a socket" in caplog.text)
    path.unlink()
    served.wait_until(lambda: "created again" in caplog.text)
    assert caplog.text.count("cannot be created") == 1
    path.unlink()
    path.write_text("precious")
    served.wait_until(lambda: caplog.text.count("cannot be created") == 2)
    served.run(server.stop())
    assert path.read_text() == "precious"


def test_a_stale_socket_in_place_of_the_file_is_replaced(
    served: ServedLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    served.serve(path, echo=echo)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
        (tmp_path / "dead").rename(path)
    served.wait_until(lambda: "created again" in caplog.text)
    assert ControlClient(path).request("echo")["ok"] is True
