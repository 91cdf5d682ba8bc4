"""What the daemon's phases stand on: requests, background work, changes of state, traces."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from carp_fast.control.documents import StateEvent
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import Request, StatusRequest
from carp_fast.daemon.background import Background
from carp_fast.daemon.feed import Feed
from carp_fast.daemon.process import StartError
from carp_fast.daemon.requests import COMMANDS, Requests
from carp_fast.daemon.traces import Held, PidFile
from carp_fast.net.addresses import StateFile


def test_requests_are_refused_before_the_daemon_serves_and_after() -> None:
    async def scenario() -> None:
        asked: list[Request] = []

        async def answer(request: Request) -> dict[str, object]:
            asked.append(request)
            return {"answered": True}

        requests = Requests()
        status = requests.handlers["status"].answer
        assert set(requests.handlers) == set(COMMANDS)
        with pytest.raises(ControlError, match="starting or ending"):
            await status(StatusRequest())
        waiting = asyncio.create_task(requests.served())
        with requests:
            requests.serve(dict.fromkeys(COMMANDS, answer))
            async with asyncio.timeout(5):
                await waiting
            assert await status(StatusRequest(vhid=7)) == {"answered": True}
        with pytest.raises(ControlError, match="starting or ending"):
            await status(StatusRequest())
        assert asked == [StatusRequest(vhid=7)]

    asyncio.run(scenario())


def test_requests_wait_where_another_process_served_before() -> None:
    async def scenario() -> None:
        async def answer(request: Request) -> dict[str, object]:
            return {"answered": True}

        with Requests(wait=True) as requests:
            status = requests.handlers["status"].answer
            waiting = asyncio.create_task(asyncio.wait_for(status(StatusRequest()), 5))
            await asyncio.sleep(0)
            requests.serve(dict.fromkeys(COMMANDS, answer))
            assert await waiting == {"answered": True}
        with pytest.raises(ControlError, match="starting or ending"):
            await status(StatusRequest())

    asyncio.run(scenario())


def test_background_work_that_fails_is_logged_and_the_rest_ends_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        ended, failed = asyncio.Event(), asyncio.Event()

        async def fail() -> None:
            failed.set()
            raise ValueError("broken")

        async def go_on() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        with Background(asyncio.get_running_loop()) as background:
            background.run(go_on())
            background.run(fail())
            async with asyncio.timeout(5):
                await failed.wait()
            assert not ended.is_set()
        async with asyncio.timeout(5):
            await ended.wait()

    asyncio.run(scenario())
    assert caplog.messages == ["a background task failed"]
    assert "ValueError: broken" in caplog.text


def test_a_change_reaches_subscribers_in_their_order() -> None:
    feed = Feed()
    taken: list[tuple[str, StateEvent]] = []
    for name in ("first", "second"):
        feed.subscribe(lambda change, name=name: taken.append((name, change)))  # type: ignore[misc]
    change = StateEvent("2026-11-29T12:00:00Z", "eth0", 7, "MASTER", "BACKUP", "master_down", None)
    feed.publish(change)
    assert taken == [("first", change), ("second", change)]


def test_a_pid_file_holds_the_process_id_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("a longer line, left by a crash\n")
    with PidFile(path) as file:
        file.write()
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_pid_file_of_a_running_daemon_is_neither_overwritten_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path) as file:
        file.write()
        with (
            PidFile(path) as other,
            pytest.raises(StartError, match=rf"pid: process {os.getpid()} is running with it$"),
        ):
            other.write()
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_pid_file_that_was_replaced_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path) as file:
        file.write()
        path.unlink()
        path.write_text("of another\n")
    assert path.read_text() == "of another\n"


def test_a_pid_file_that_was_not_written_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("of another\n")
    with PidFile(path):
        pass
    assert path.read_text() == "of another\n"
    with PidFile(path) as pid:
        pid.write()
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_pid_file_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    with PidFile(tmp_path / "missing" / "pid") as pid, pytest.raises(StartError, match="pid file"):
        pid.write()


def test_all_addresses_that_may_come_are_written_down_together(tmp_path: Path) -> None:
    path = tmp_path / "carp.toml"
    Held(StateFile(tmp_path, path)).write(
        {"eth0": ["192.0.2.1/24"]}, {"eth0": ["192.0.2.2/24"], "eth1": ["192.0.2.3/24"]}
    )
    found = Held(StateFile(tmp_path, path)).read()
    assert {name: set(texts) for name, texts in found.items()} == {
        "eth0": {"192.0.2.1/24", "192.0.2.2/24"},
        "eth1": {"192.0.2.3/24"},
    }


def test_who_leaves_no_traces_writes_down_nothing_and_finds_nothing(tmp_path: Path) -> None:
    held = Held(None)
    held.write({"eth0": ["192.0.2.1/24"]})
    assert held.read() == {}
