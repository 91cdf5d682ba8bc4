"""The order of hooks of different virtual hosts that have an address in common.

Must not know the engine. The hooks are coroutines that the test ends one by one.
"""

from __future__ import annotations

import asyncio
import random
from typing import Literal

import pytest

from carp_fast.daemon import hooks as hooks_module
from carp_fast.daemon.hooks import Hook, HookResult, Hooks
from tests.support.programs import DEADLINE_S, run


class Stage:
    """Hooks that run until they are ended by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, concurrency: int = 16) -> None:
        self.running: dict[str, asyncio.Event] = {}
        self.started: list[str] = []
        self.results: dict[str, HookResult] = {}
        self.hooks = Hooks(asyncio.get_running_loop(), concurrency)

        async def function(fields: dict[str, str]) -> None:
            name = fields["reason"]
            self.started.append(name)
            self.running[name] = asyncio.Event()
            await self.running[name].wait()
            del self.running[name]

        monkeypatch.setattr(hooks_module, "load_function", lambda _: function)

    def submit(
        self,
        key: int,
        name: str,
        *addresses: str,
        interface: str = "eth0",
        event: Literal["up", "down"] = "up",
    ) -> None:
        environment = {"CARP_REASON": name, "CARP_ADDRESSES": " ".join(addresses)}
        address = addresses[0].partition("/")[0]
        hook = Hook(event, "site:function", interface, address, None, environment)
        self.hooks.submit(key, f"eth0/{key}", hook, lambda r: self.results.__setitem__(name, r))

    async def settled(self) -> set[str]:
        """What runs once everything that may start has started."""
        for _ in range(5):
            await asyncio.sleep(0)
        return set(self.running)

    async def end(self, name: str) -> set[str]:
        self.running[name].set()
        while name not in self.results:
            await asyncio.sleep(0)
        return await self.settled()


def test_the_down_of_a_removed_host_comes_before_the_up_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        stage = Stage(monkeypatch)
        stage.submit(1, "up", "192.0.2.1/24")
        assert await stage.settled() == {"up"}
        stage.submit(1, "down", "192.0.2.1/24", event="down")
        stage.submit(2, "next up", "192.0.2.1/24")
        stage.submit(3, "other", "192.0.2.3/24")
        assert await stage.settled() == {"up", "other"}
        assert await stage.end("up") == {"down", "other"}
        assert await stage.end("down") == {"next up", "other"}
        assert not any(result.superseded for result in stage.results.values())
        await stage.end("next up")
        await stage.end("other")
        assert await stage.hooks.drain(DEADLINE_S) == ()
        assert not stage.hooks._places

    run(scene())


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (("192.0.2.1/24",), ("192.0.2.1/32",), False),
        (("192.0.2.1/24", "2001:db8::1/64"), ("192.0.2.9/24", "2001:db8::1/64"), False),
        (("192.0.2.1/24", "192.0.2.2/24"), ("192.0.2.2/24", "192.0.2.1/24"), False),
        (("192.0.2.1/24",), ("192.0.2.11/24",), True),
    ],
)
def test_hosts_with_an_address_in_common_run_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
    first: tuple[str, ...],
    second: tuple[str, ...],
    together: bool,
) -> None:
    async def scene() -> None:
        stage = Stage(monkeypatch)
        stage.submit(1, "first", *first)
        stage.submit(2, "second", *second)
        stage.submit(3, "elsewhere", *first, interface="eth1")
        assert ("second" in await stage.settled()) is together
        assert "elsewhere" in stage.running
        assert "second" in await stage.end("first")
        for name in list(stage.running):
            await stage.end(name)

    run(scene())


def test_a_superseded_hook_keeps_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        stage = Stage(monkeypatch)
        stage.submit(1, "a", "192.0.2.1/24")
        await stage.settled()
        stage.submit(1, "b", "192.0.2.2/24")  # the host has other addresses now
        stage.submit(2, "c", "192.0.2.2/24")
        assert await stage.settled() == {"a"}
        stage.submit(1, "d", "192.0.2.3/24")
        assert stage.results["b"].superseded
        assert await stage.settled() == {"a", "c"}
        assert await stage.end("a") == {"c", "d"}
        for name in ("c", "d"):
            await stage.end(name)

    run(scene())


def test_close_refuses_what_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        stage = Stage(monkeypatch)
        stage.submit(1, "a", "192.0.2.1/24")
        stage.submit(2, "b", "192.0.2.1/24")
        await stage.settled()
        stage.hooks.close()
        assert stage.results["b"].error == "not run, the daemon ends"
        assert stage.results["a"].error == "killed, the daemon ends"
        assert await stage.hooks.drain(0) == ()
        await stage.settled()
        assert stage.started == ["a"]

    run(scene())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_submitted_ends_in_order(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """What waits or runs is compared with a list in order of submission, after every step."""
    choose = random.Random(seed)

    async def scene() -> None:
        stage = Stage(monkeypatch, concurrency=choose.choice([1, 3, 100]))
        model: list[tuple[str, int, frozenset[str]]] = []  # not ended and not superseded
        for number in range(150):
            if choose.random() < 0.6:
                key, name = choose.randrange(6), str(number)
                addresses = choose.sample("abcdefgh", choose.randint(1, 3))
                running = set(stage.running)
                model = [each for each in model if each[1] != key or each[0] in running]
                model.append((name, key, frozenset(addresses)))
                stage.submit(key, name, *addresses)
            elif stage.running:
                ended = choose.choice(sorted(stage.running))
                await stage.end(ended)
                model = [each for each in model if each[0] != ended]
            may_run: list[str] = []
            for at, (name, key, places) in enumerate(model):
                before = model[:at]
                if not any(key == other or places & theirs for _, other, theirs in before):
                    may_run.append(name)
            running = await stage.settled()
            assert running <= set(may_run)
            assert len(running) == min(len(may_run), stage.hooks.concurrency)
        while stage.running:
            await stage.end(next(iter(stage.running)))
        assert await stage.hooks.drain(0) == ()
        assert not stage.hooks._places
        assert not stage.hooks._ready

    run(scene())
