"""ucarp's manner alone: which signals it hears, which scripts run, and what is logged when."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.documents import NOT_DEMOTED
from carp_fast.daemon.hooks import Done, Hook
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.manner import Controls
from carp_fast.ucarp.manner import Ucarp

FASTER = {
    "state": "BACKUP",
    "previous": "MASTER",
    "reason": "faster_master",
    "demotion": NOT_DEMOTED,
}


class RecordedScripts:
    """Keeps what is submitted; everything has run when a test says so."""

    def __init__(self) -> None:
        self.submitted: list[Hook] = []
        self.afterwards: list[Callable[[], None]] = []

    def submit(self, key: object, name: str, hook: Hook, done: Done | None = None) -> None:
        self.submitted.append(hook)

    def when_idle(self, then: Callable[[], None]) -> None:
        self.afterwards.append(then)

    async def drain(self, deadline_s: float) -> tuple[str, ...]:
        return ()

    def run(self) -> None:
        while self.afterwards:
            self.afterwards.pop(0)()


class CountingPump:
    """Orders and pump in one: has heard so many advertisements with a bad digest."""

    def __init__(self) -> None:
        self.bad_auth = 3
        self.looked = asyncio.Event()

    @property
    def pump(self) -> CountingPump:
        return self

    def snapshot(self, first: int, count: int) -> CountingPump:
        return self

    def snapshot_interfaces(self, count: int) -> CountingPump:
        return self

    def hosts(self) -> list[tuple[int, SimpleNamespace]]:
        return [(0, SimpleNamespace(counters={"bad_auth": self.bad_auth}))]

    def counters(self) -> list[dict[str, int]]:
        return [{"bad_ttl": 0, "bad_version": 0, "bad_checksum": 0, "bad_auth": 0}]

    async def done(self) -> None:
        self.looked.set()


class Stage:
    """eth0/7 under the alias eth0:1; `stopped`: how often the daemon was told to end."""

    def __init__(self, *, shutdown: bool = True) -> None:
        self.scripts = RecordedScripts()
        self.orders = CountingPump()
        scripts: Any = self.scripts
        orders: Any = self.orders
        self.stopped = 0
        self.works: list[Coroutine[Any, Any, None]] = []
        settings = Settings(passphrase=b"secret", up="/bin/up", down="/bin/down")
        self.host = VirtualHost("eth0", 7, ("192.0.2.1/32",), (), settings)
        self.manner = Ucarp(
            scripts,
            HostLog(lambda delay_s, call: None),
            self.host,
            named="eth0:1",
            neutral=False,
            shutdown=shutdown,
            started=lambda: None,
        )
        self.controls = Controls(
            stop=self.stop,
            reload=self.never,
            log_summary=self.never,
            in_background=self.works.append,
            orders=orders,
            prepare=self.never,
        )

    def stop(self) -> None:
        self.stopped += 1

    def never(self, *_: object, **__: object) -> Any:
        raise AssertionError("ucarp has no use for it here")


def test_with_shutdown_four_signals_end_it_and_none_reloads() -> None:
    stage = Stage()
    signals = stage.manner.signals(stage.controls)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signals[number]()
    assert stage.stopped == 4


def test_without_shutdown_the_signals_that_end_it_are_not_heard() -> None:
    stage = Stage(shutdown=False)
    assert set(stage.manner.signals(stage.controls)) == {signal.SIGUSR1, signal.SIGUSR2}


def test_a_script_gets_the_alias_and_its_words_follow_when_it_has_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.manner.on_state("MASTER")
    caplog.clear()
    stage.manner.on_state("BACKUP")
    stage.manner.run_hook(1, stage.host, "down", FASTER, None)
    assert [(hook.interface, hook.target) for hook in stage.scripts.submitted] == [
        ("eth0:1", "/bin/down")
    ]
    assert caplog.messages == ["Switching to state: BACKUP"]
    stage.scripts.run()
    assert caplog.messages[1:] == ["Preferred master advertised: going back to BACKUP state"]


def test_a_state_that_ucarp_does_not_have_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    for state in ("INIT", "BACKUP", "INIT", "MASTER", "MASTER"):
        stage.manner.on_state(state)
    assert caplog.messages == ["Switching to state: MASTER"]


def test_a_master_that_leaves_runs_its_down_script_once() -> None:
    stage = Stage()
    stage.manner.on_state("MASTER")
    asyncio.run(stage.manner.on_leaving(stage.controls))
    stage.manner.run_hook(1, stage.host, "down", FASTER | {"reason": "resigned"}, None)
    assert [hook.environment["CARP_REASON"] for hook in stage.scripts.submitted] == ["resigned"]


def test_a_backup_that_leaves_runs_no_script() -> None:
    stage = Stage()
    asyncio.run(stage.manner.on_leaving(stage.controls))
    assert stage.scripts.submitted == []


def test_a_wrong_digest_has_rejections_counted_at_once_and_each_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        stage = Stage()
        stage.manner.on_started(stage.controls)
        task = asyncio.create_task(stage.works.pop())
        for _ in range(2):
            stage.orders.looked.clear()
            stage.manner.on_wrong_digest("eth0/7", "bad_auth", "BACKUP")
            async with asyncio.timeout(5):  # less than REJECTIONS_EVERY_S
                await stage.orders.looked.wait()
        task.cancel()

    asyncio.run(scenario())
    assert caplog.messages == [
        "Bad digest - 3 advertisements - Check vhid, password and virtual IP address"
    ]
