"""Hooks that are functions of a module, called in the daemon, under uvloop.

Must not know the engine.  Each test writes a module of its own to import.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from carp_fast.daemon import hooks as hooks_module
from carp_fast.daemon.hooks import Hook, HookError, HookResult, Hooks, load_function
from tests.support.programs import DEADLINE_S, run, until


def hook(target: str, event: Any = "up", xparam: str | None = None, vhid: int = 7) -> Hook:
    return Hook(
        event=event,
        target=target,
        interface="eth0",
        address="192.0.2.1",
        xparam=xparam,
        environment={
            "CARP_INTERFACE": "eth0",
            "CARP_VHID": str(vhid),
            "CARP_STATE": "MASTER" if event == "up" else "BACKUP",
            "CARP_PREVIOUS": "BACKUP" if event == "up" else "MASTER",
            "CARP_REASON": "master_down",
            "CARP_ADDRESSES": "192.0.2.1/24 2001:db8::1/64",
        },
    )


async def result_of(hooks: Hooks, one: Hook, key: object = 7) -> HookResult:
    told: asyncio.Future[HookResult] = asyncio.get_running_loop().create_future()
    hooks.submit(key, "eth0/7", one, told.set_result)
    return await told


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "carp_fast")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module that can be imported, under a name of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(source: str) -> str:
        name = f"hooks_of_a_site_{len(made)}"
        (tmp_path / f"{name}.py").write_text(source)
        made.append(name)
        return name

    yield make
    for name in made:
        sys.modules.pop(name, None)


FUNCTIONS = """
import asyncio, threading
seen = []
release = threading.Event()

def plain(fields):
    seen.append((fields, threading.current_thread() is threading.main_thread()))

async def coroutine(fields):
    await asyncio.sleep(0)
    seen.append((fields, threading.current_thread() is threading.main_thread()))

class Site:
    async def __call__(self, fields):
        seen.append((fields, threading.current_thread() is threading.main_thread()))
site = Site()

def failing(fields):
    raise ValueError("no such route")

def leaving(fields):
    raise SystemExit(4)

async def leaving_too(fields):
    raise SystemExit(4)

def waiting(fields):
    release.wait()

async def sleeping(fields):
    await asyncio.sleep(1000)

async def stubborn(fields):
    while not release.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            seen.append("cancelled")

number = 5
"""


@pytest.mark.parametrize(
    ("function", "in_main"), [("plain", False), ("coroutine", True), ("site", True)]
)
def test_a_function_gets_the_fields(
    module: Callable[[str], str], function: str, in_main: bool
) -> None:
    name = module(FUNCTIONS)

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        hooks.prepare(f"{name}:{function}")
        assert (await result_of(hooks, hook(f"{name}:{function}"))).ok

    run(scene())
    fields = {
        "interface": "eth0",
        "vhid": "7",
        "state": "MASTER",
        "previous": "BACKUP",
        "reason": "master_down",
        "addresses": "192.0.2.1/24 2001:db8::1/64",
    }
    assert sys.modules[name].seen == [(fields, in_main)]


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("failing", "ValueError: no such route"),
        ("leaving", "SystemExit: 4"),
        ("leaving_too", "SystemExit: 4"),
    ],
)
def test_a_function_that_raises_has_failed(
    module: Callable[[str], str], caplog: pytest.LogCaptureFixture, function: str, error: str
) -> None:
    name = module(FUNCTIONS)

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        result = await result_of(hooks, hook(f"{name}:{function}"))
        assert result.error == error
        assert not result.ok
        assert hooks.failed == 1

    run(scene())
    assert f"eth0/7: up {name}:{function}: {error}" in caplog.text
    assert "Traceback" in caplog.text


def test_a_coroutine_is_cancelled_at_its_timeout(module: Callable[[str], str]) -> None:
    name = module(FUNCTIONS)

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop(), timeout_s=0.05)
        assert (await result_of(hooks, hook(f"{name}:sleeping"))).timed_out
        assert await hooks.drain(DEADLINE_S) == ()
        assert (hooks.timed_out, hooks.failed, hooks.abandoned) == (1, 0, 0)

    run(scene())


@pytest.mark.parametrize("function", ["waiting", "stubborn"])
def test_functions_that_cannot_be_ended_are_few(
    module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setattr(hooks_module, "KILL_AFTER_S", 0.05)
    monkeypatch.setattr(hooks_module, "ABANDONED_MAX", 2)
    name = module(FUNCTIONS)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        hooks = Hooks(loop, timeout_s=0.05)
        for count in (1, 2):
            assert (await result_of(hooks, hook(f"{name}:{function}"))).timed_out
            assert await hooks.drain(DEADLINE_S) == ()  # its place is free again
            assert hooks.abandoned == count
        refused = await result_of(hooks, hook(f"{name}:{function}"))
        assert refused.error == "2 functions still run after their timeout"
        sys.modules[name].release.set()
        await until(lambda: hooks.abandoned == 0)
        hooks.timeout_s = DEADLINE_S
        assert (await result_of(hooks, hook(f"{name}:plain"))).ok

    run(scene())


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module_here:up", "ModuleNotFoundError"),
        ("{name}:nothing", "AttributeError"),
        ("{name}:number", "is not a function but int"),
        ("{broken}:up", "SystemExit: 1"),
    ],
)
def test_a_function_that_cannot_be_used_says_why(
    module: Callable[[str], str], target: str, reason: str
) -> None:
    target = target.format(name=module(FUNCTIONS), broken=module("raise SystemExit(1)"))
    with pytest.raises(HookError, match=reason):
        load_function(target)

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        with pytest.raises(HookError, match=reason):
            hooks.prepare(target)
        hooks.prepare("/etc/carp-fast/up.sh")  # a path is nothing to import
        result = await result_of(hooks, hook(target))
        assert result.error is not None
        assert reason in result.error

    run(scene())


def test_threads_of_functions_do_not_hold_up_the_end(module: Callable[[str], str]) -> None:
    name = module(FUNCTIONS)

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop(), timeout_s=0.02)
        assert (await result_of(hooks, hook(f"{name}:waiting"))).timed_out
        hooks.close()
        assert all(t.daemon for t in threading.enumerate() if t.name.startswith("eth0/7"))

    run(scene())
    sys.modules[name].release.set()
