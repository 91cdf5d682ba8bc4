"""Virtual hosts that another process of this machine has, as interfaces and reloads change them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.daemon import in_use
from carp_fast.daemon.in_use import InUse
from carp_fast.daemon.locks import Locks, open_locks
from carp_fast.daemon.table import Hosts

GROUP = "224.0.0.18"
LOGGER = "carp_fast.daemon.in_use"


class RecordedPump:
    def __init__(self) -> None:
        self.told: list[tuple[int, bool]] = []

    def bar(self, slot: int, barred: bool) -> None:
        self.told.append((slot, barred))


class DirectOrders:
    """Carries out at once what is posted."""

    def __init__(self) -> None:
        self.pump = RecordedPump()

    def post(self, order: Callable[[], object]) -> None:
        order()


def host(vhid: int, **settings: Any) -> VirtualHost:
    addresses = settings.pop("addresses", (f"192.0.2.{vhid}/24",))
    return VirtualHost("eth0", vhid, addresses, (), Settings(passphrase=b"s", **settings))


class Stage:
    """A daemon with eth0/1 to eth0/3, and the locks of another one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hosts = Hosts()
        for vhid in (1, 2, 3):
            self.hosts.take(host(vhid))
        self.orders: Any = DirectOrders()
        self.other = Locks(path)
        self.worker = concurrent.futures.ThreadPoolExecutor(1)
        self.locks: Locks | None = None
        self.in_use = self.made(path)

    def made(self, path: Path) -> InUse:
        if self.locks is not None:
            self.locks.close()
        self.locks = open_locks(path)
        return InUse(self.hosts, self.orders, self.worker, self.locks)

    def attach(self, ifindex: int) -> None:
        self.in_use.on_ifindex(0, ifindex)

    def told(self) -> list[tuple[int, bool]]:
        told, self.orders.pump.told = self.orders.pump.told, []
        return list(told)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[Stage], Coroutine[Any, Any, None]]], None]]:
    monkeypatch.setattr(in_use, "RETRY_S", 0.01)
    stage = Stage(tmp_path / "lock")

    def run(part: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        asyncio.run(part(stage))

    yield run
    stage.in_use.close()
    for locks in (stage.locks, stage.other):
        if locks is not None:
            locks.close()
    stage.worker.shutdown()


Play = Callable[[Callable[[Stage], Coroutine[Any, Any, None]]], None]


def test_what_is_free_is_taken_and_nothing_is_told(play: Play) -> None:
    async def part(stage: Stage) -> None:
        stage.attach(7)
        assert (stage.told(), stage.in_use.barred) == ([], {})
        assert stage.other.conflict(7, GROUP, 1, 255) == range(1, 4)

    play(part)


def test_what_another_process_has_is_barred_until_it_is_free(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def part(stage: Stage) -> None:
        stage.other.take(7, 2, (GROUP,))
        stage.other.take(7, 3, (GROUP,))
        stage.attach(7)
        assert (stage.told(), set(stage.in_use.barred)) == ([(1, True), (2, True)], {1, 2})
        found = {"eth0": ["192.0.2.1/24", "192.0.2.2/24", "192.0.2.9/24"], "eth1": ["192.0.2.3/24"]}
        ours = {"eth0": ["192.0.2.1/24", "192.0.2.9/24"], "eth1": ["192.0.2.3/24"]}
        assert stage.in_use.ours(found) == ours
        stage.attach(7)
        assert stage.told() == [], "told again, nothing has changed"
        await stage.until(lambda: "in_use" in caplog.text)
        stage.other.give_back(7, 3, (GROUP,))
        await stage.until(lambda: 2 not in stage.in_use.barred)
        assert (stage.told(), set(stage.in_use.barred)) == ([(2, False)], {1})
        stage.other.give_back(7, 2, (GROUP,))
        await stage.until(lambda: not stage.in_use.barred)
        assert stage.told() == [(1, False)]

    with caplog.at_level(logging.INFO, LOGGER):
        play(part)
    assert "eth0/2 and 1 more: in_use: a process that cannot be seen from here" in caplog.text
    assert "eth0/3: no longer in_use, takes part" in caplog.text


def test_an_interface_that_is_recreated_is_taken_anew(play: Play) -> None:
    async def part(stage: Stage) -> None:
        stage.other.take(7, 1, (GROUP,))
        stage.other.take(8, 2, (GROUP,))
        stage.attach(7)
        assert stage.told() == [(0, True)]
        stage.attach(0)
        assert not stage.other.conflict(7, GROUP, 2, 255), "nothing is held where nothing is"
        assert stage.told() == []
        stage.attach(8)
        assert sorted(stage.told()) == [(0, False), (1, True)]
        assert set(stage.in_use.barred) == {1}

    play(part)


def test_a_reload_takes_and_gives_back(play: Play) -> None:
    async def part(stage: Stage) -> None:
        stage.other.take(7, 9, (GROUP,))
        stage.other.take(7, 1, ("ff02::12",))
        stage.attach(7)
        slot = stage.hosts.take(host(9))
        assert not stage.in_use.take_new(slot)
        assert stage.told() == [(slot, True)]
        stage.in_use.on_released(slot)
        stage.hosts.give_back(slot)
        stage.in_use.on_released(2)
        stage.hosts.give_back(2)
        assert stage.other.take(7, 3, (GROUP,)) is None
        # A family that comes has a destination of its own, which may not be free.
        both = host(1, addresses=("192.0.2.1/24", "2001:db8::1/64"))
        stage.in_use.on_replace(0, both)
        stage.hosts.replace(0, both)
        assert (stage.told(), set(stage.in_use.barred)) == ([(0, True)], {0})
        stage.in_use.on_replace(0, host(1))
        stage.hosts.replace(0, host(1))
        assert (stage.told(), stage.in_use.barred) == ([(0, False)], {})
        # Another advskew is nothing new.
        stage.in_use.on_replace(0, host(1, advskew=7))
        assert stage.told() == []

    play(part)


def test_without_a_lock_file_a_daemon_goes_on_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, play: Play
) -> None:
    async def part(stage: Stage) -> None:
        path = tmp_path / "missing" / "lock"
        stage.in_use = stage.made(path)
        stage.attach(7)
        stage.in_use.on_released(1)
        assert (stage.told(), stage.in_use.barred) == ([], {})
        assert f"lock file {path}: No such file or directory: other processes" in caplog.text

    play(part)


def test_an_order_that_waits_for_room_does_not_let_the_next_virtual_host_take_part(
    play: Play,
) -> None:
    async def part(stage: Stage) -> None:
        posted: list[Callable[[], object]] = []
        stage.orders.post = posted.append
        stage.in_use.overhear(0, "pid 1")
        stage.in_use.free(0)
        stage.in_use.on_released(0)
        stage.hosts.give_back(0)
        assert stage.hosts.take(host(9)) == 0
        assert len(posted) == 2
        for order in posted:
            order()
        assert stage.told() == []

    play(part)


def test_a_process_found_late_is_not_taken_for_that_of_the_next_virtual_host(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def part(stage: Stage) -> None:
        found = threading.Event()
        stage.worker.submit(found.wait)  # the search for the process comes after this
        stage.other.take(7, 2, (GROUP,))
        stage.attach(7)
        await stage.until(stage.worker._work_queue.qsize)
        stage.in_use.on_released(1)
        stage.hosts.give_back(1)
        assert stage.hosts.take(host(9)) == 1
        stage.in_use.locked_out.add(1)
        found.set()
        await stage.until(lambda: not stage.in_use._tasks)
        assert stage.in_use.barred == {}
        assert not caplog.records

    play(part)
