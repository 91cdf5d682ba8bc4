"""What virtual hosts track: orders for each that differs, the newest effect, in a real pump."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from carp_fast.config.load import Configuration, Daemon, Settings, VirtualHost
from carp_fast.config.tracks import FileTrack, ScriptTrack, Track
from carp_fast.control.documents import TrackEvent
from carp_fast.daemon.background import Background
from carp_fast.daemon.orders import Order, Orders
from carp_fast.daemon.table import Hosts
from carp_fast.daemon.tracked import Tracked
from tests.support.pumped import pump_with_orders

MANY = 2000  # virtual hosts: four batches of orders


class CountedOrders:
    """Counts the orders that are given, and passes them on."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.pump = orders.pump
        self.given: list[int] = []

    async def give(self, orders: Iterable[Order]) -> int:
        count = await self.orders.give(orders)
        self.given.append(count)
        return count


class Run:
    """A daemon's tracks and virtual hosts; track "a" is the file `a` and so on."""

    def __init__(self, directory: Path, orders: Orders) -> None:
        loop = asyncio.get_running_loop()
        self.directory = directory
        self.orders = CountedOrders(orders)
        self.hosts = Hosts()
        self.events: list[TrackEvent] = []
        self.background = Background(loop)
        orders_given: Any = self.orders
        self.tracked = Tracked(loop, self.hosts, orders_given, self.background, self.events.append)

    def configured(self, *tracks: Track) -> Configuration:
        return Configuration(Path("/x"), (), Daemon(), [], (), tracks=tracks)

    def file(self, name: str, number: int | str, **keys: Any) -> FileTrack:
        (self.directory / name).write_text(str(number))
        return FileTrack(name=name, path=str(self.directory / name), **keys)

    async def add(self, count: int, *names: str) -> None:
        settings = Settings(passphrase=b"secret", track=names)
        orders = []
        for _ in range(count):
            number = sum(host is not None for host in self.hosts.hosts)
            interface, vhid = f"eth{number // 255}", number % 255 + 1
            host = VirtualHost(interface, vhid, ("192.0.2.1/32",), (), settings)
            slot, prepared = self.hosts.take(host), self.hosts.prepare(host)
            effect = self.tracked.effect_on_new(slot)
            add = self.orders.pump.add
            orders.append(partial(add, slot, prepared, 0, effect.demotion, effect.hard))
        await self.orders.orders.give(orders)

    async def demotions(self) -> set[tuple[tuple[str, int], ...]]:
        found = set()
        for first in range(0, len(self.hosts.hosts), 64):
            snapshot = self.orders.pump.snapshot(first, min(64, len(self.hosts.hosts) - first))
            await self.orders.orders.done()
            for _, fields in snapshot.hosts():
                found.add(tuple(each for each in fields.demotions.items() if each[0] != "link"))
        return found

    async def becomes(self, *demotions: tuple[tuple[str, int], ...]) -> None:
        async with asyncio.timeout(9):
            while await self.demotions() != {*demotions}:
                await asyncio.sleep(0.01)


def run(directory: Path, scenario: Callable[[Run], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with pump_with_orders() as orders:
            this = Run(directory, orders)
            try:
                await scenario(this)
            finally:
                this.tracked.close()
                this.background.close()

    uvloop.run(whole())


def test_a_new_virtual_host_has_the_effect_of_its_tracks_from_the_beginning(tmp_path: Path) -> None:
    async def scenario(this: Run) -> None:
        tracks = this.file("a", 10), this.file("b", "x"), this.file("c", 0)
        this.tracked.start(this.configured(*tracks), {})
        await this.add(1, "a")
        await this.add(1, "a", "b")
        await this.add(1, "c")
        await this.add(1)
        assert await this.demotions() == {(("track", 10),), (("track", 250),), ()}
        await this.tracked.apply()
        assert this.orders.given == [0]
        assert this.events == []

    run(tmp_path, scenario)


def test_a_change_is_ordered_for_those_that_it_concerns_and_once(tmp_path: Path) -> None:
    async def scenario(this: Run) -> None:
        a, b = this.file("a", 0), this.file("b", 0)
        this.tracked.start(this.configured(a, b), {})
        await this.add(3, "a")
        await this.add(2, "a", "b")
        await this.add(1)
        this.file("b", 7)
        await this.becomes((("track", 7),), ())
        assert sum(this.orders.given) == 2
        this.file("a", 20)
        await this.becomes((("track", 20),), (("track", 27),), ())
        assert sum(this.orders.given) == 2 + 5
        assert [(e.track, e.state, e.demotion) for e in this.events] == [
            ("b", "ok", 7),
            ("a", "ok", 20),
        ]

    run(tmp_path, scenario)


def test_many_virtual_hosts_get_the_newest_effect_while_orders_are_given(tmp_path: Path) -> None:
    async def scenario(this: Run) -> None:
        track = this.file("a", 0)
        this.tracked.start(this.configured(track), {})
        await this.add(MANY, "a")
        for number in range(1, 30):
            this.file("a", number)
            await asyncio.sleep(0.001)
        await this.becomes((("track", 29),))
        assert sum(this.orders.given) <= 29 * MANY

    run(tmp_path, scenario)


def test_a_reload_changes_what_differs(tmp_path: Path) -> None:
    async def scenario(this: Run) -> None:
        failing = tmp_path / "check"
        failing.write_text("#!/bin/sh\nexit 1\n")
        failing.chmod(0o755)
        a = this.file("a", 3)
        this.tracked.start(this.configured(a), {})
        await this.add(1, "a", "s")
        await this.becomes((("track", 3),))
        script = ScriptTrack(name="s", script=(str(failing),), fall=1)
        lines = this.tracked.reload(this.configured(a, script))
        assert lines == ["track s: added"]
        await this.tracked.apply()
        # Nobody was demoted by it so far: that begins with its first result.
        assert await this.demotions() == {(("track", 3),)}
        await this.becomes((("track", 243),))
        # One that differs counts as it did before, until it has a result of its own.
        slower = ScriptTrack(name="s", script=(str(failing),), fall=1, demotion=5)
        assert this.tracked.reload(this.configured(a, slower)) == ["track s: changed"]
        await this.tracked.apply()
        assert await this.demotions() == {(("track", 8),)}
        this.tracked.reload(this.configured())
        await this.tracked.apply()
        assert await this.demotions() == {()}

    run(tmp_path, scenario)


def test_the_status_counts_the_virtual_hosts_of_a_track(tmp_path: Path) -> None:
    async def scenario(this: Run) -> None:
        a, b = this.file("a", 3), this.file("b", "")
        this.tracked.start(this.configured(a, b), {})
        await this.add(3, "a")
        await this.add(2, "a", "b")
        first, second = this.tracked.status()
        assert (first.name, first.kind, first.state, first.virtual_hosts) == ("a", "file", "ok", 5)
        assert (second.state, second.demotion, second.hard) == ("failed", 240, True)
        assert second.virtual_hosts == 2
        host = this.hosts.hosts[4]
        assert host is not None
        assert [each.name for each in this.tracked.status_for(host)] == ["a", "b"]

    run(tmp_path, scenario)
