"""The operator's demotions: written down before they are applied, added up, kept for the next."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.config.model import Group
from carp_fast.control.documents import Demoted
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import DemoteRequest, UndemoteRequest
from carp_fast.daemon.demotions import Demotions, Limited
from carp_fast.daemon.orders import Orders
from carp_fast.daemon.table import Hosts
from tests.support.pumped import pump_with_orders

ADVSKEW = 10


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Run:
    """One run of a daemon with three virtual hosts, which are in a real pump."""

    def __init__(
        self, path: Path, worker: ThreadPoolExecutor, orders: Orders, dialect: str
    ) -> None:
        self.group: Group | None = None  # of virtual hosts that are added
        self.orders = orders
        self.hosts = Hosts()
        self.demotions = Demotions(path, worker)
        self.dialect: Any = dialect

    async def begin(self) -> Run:
        self.demotions.read()
        for vhid in (1, 2, 3):
            await self.add(vhid)
        return self

    async def add(self, vhid: int) -> None:
        settings = Settings(
            passphrase=b"secret", advskew=ADVSKEW, dialect=self.dialect, group=self.group
        )
        host = VirtualHost("eth0", vhid, (f"192.0.2.{vhid}/24",), (), settings)
        slot, prepared = self.hosts.take(host), self.hosts.prepare(host)
        add = self.orders.pump.add
        await self.orders.give([lambda: add(slot, prepared, self.demotions.of(host))])

    async def demote(self, amount: int, reason: str, group: str | None = None) -> Demoted:
        request = DemoteRequest(amount, reason, group)
        return await self.demotions.demote(request, self.hosts, self.orders)

    async def undemote(self, reason: str, group: str | None = None) -> Demoted:
        request = UndemoteRequest(reason, group)
        return await self.demotions.undemote(request, self.hosts, self.orders)

    async def advskews(self) -> list[int]:
        """The advskew that each virtual host sends."""
        snapshot = self.orders.pump.snapshot(0, len(self.hosts.hosts))
        await self.orders.done()
        return [fields.effective_advskew for _, fields in snapshot.hosts()]

    async def sent(self) -> set[tuple[int, int]]:
        """The advskew and the demote byte of the virtual hosts."""
        snapshot = self.orders.pump.snapshot(0, len(self.hosts.hosts))
        await self.orders.done()
        return {(fields.effective_advskew, fields.demote) for _, fields in snapshot.hosts()}


Scenario = Callable[[Run], Awaitable[None]]


def run(path: Path, worker: ThreadPoolExecutor, scenario: Scenario, dialect: str = "ucarp") -> None:
    async def whole() -> None:
        async with pump_with_orders() as orders:
            await scenario(await Run(path, worker, orders, dialect).begin())

    asyncio.run(whole())


def test_reasons_add_up_replace_their_own_amount_and_end_one_by_one(
    tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    async def scenario(this: Run) -> None:
        assert await this.sent() == {(ADVSKEW, 0)}
        assert await this.demote(100, "new switch") == Demoted(True, 100, {"new switch": 100}, 3)
        assert await this.sent() == {(ADVSKEW + 100, 0)}
        await this.demote(20, "kernel update")
        assert await this.sent() == {(ADVSKEW + 120, 0)}
        done = await this.demote(30, "new switch")
        assert done.reasons == {"new switch": 30, "kernel update": 20}
        assert await this.sent() == {(ADVSKEW + 50, 0)}
        assert (await this.undemote("new switch")).reasons == {"kernel update": 20}
        assert await this.sent() == {(ADVSKEW + 20, 0)}
        assert await this.undemote("kernel update") == Demoted(True, 0, {}, 3)
        assert await this.sent() == {(ADVSKEW, 0)}

    run(tmp_path / "state" / "demotions.json", worker, scenario)


def test_the_next_run_is_demoted_from_the_beginning_and_so_is_a_new_virtual_host(
    tmp_path: Path, worker: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "demotions.json"

    async def first(this: Run) -> None:
        await this.demote(100, "new switch")
        await this.demote(200, "kernel update")
        await this.add(4)
        assert await this.sent() == {(240, 0)}

    async def second(this: Run) -> None:
        assert await this.sent() == {(240, 0)}
        await this.undemote("kernel update")
        assert await this.sent() == {(ADVSKEW + 100, 0)}

    run(path, worker, first)
    run(path, worker, second)
    assert "demoted by 200 (kernel update), as before the start" in caplog.text


def test_a_demotion_is_on_the_disk_before_it_is_ordered(
    tmp_path: Path, worker: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "demotions.json", []

    async def scenario(this: Run) -> None:
        demote, sync = this.orders.pump.demote, os.fsync

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(pump, name)

            def demote(self, slot: int, amount: int) -> None:
                seen.append(("ordered", path.read_text()))
                demote(slot, amount)

        def synced(descriptor: int) -> None:
            sync(descriptor)
            seen.append(("synced", ""))

        pump, this.orders.pump = this.orders.pump, Watched()  # type: ignore[assignment]
        monkeypatch.setattr("os.fsync", synced)
        await this.demote(7, "new switch")

    run(path, worker, scenario)
    written = ("ordered", '{"new switch":7}')
    assert seen == [("synced", ""), ("synced", ""), *3 * (written,)]  # the file, its directory


def test_a_demotion_that_cannot_be_written_down_changes_nothing(
    tmp_path: Path, worker: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "demotions.json"

    async def scenario(this: Run) -> None:
        await this.demote(7, "new switch")
        with monkeypatch.context() as full:
            full.setattr("os.fsync", full_disk)
            for change in (this.demote(8, "new switch"), this.undemote("new switch")):
                with pytest.raises(ControlError, match="No space left on device; nothing was"):
                    await change
        assert this.demotions.by_reason == {"new switch": 7}
        assert await this.sent() == {(ADVSKEW + 7, 0)}

    def full_disk(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    run(path, worker, scenario)
    assert path.read_text() == '{"new switch":7}'
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "b"}', '{"a": 0}', '{"a": 256}'])
def test_a_file_that_is_not_usable_is_logged_and_does_not_keep_the_daemon_from_starting(
    content: str, tmp_path: Path, worker: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "demotions.json"
    path.write_text(content)
    demotions = Demotions(path, worker)
    demotions.read()
    assert dict(demotions.by_reason) == {}
    assert f"demotions are lost: {path} is not usable" in caplog.text


@pytest.mark.parametrize(
    ("dialect", "amount", "allowed"),
    [
        *(("ucarp", amount, 1 <= amount <= 240) for amount in (-1, 0, 1, 240, 241, 255)),
        *(("openbsd", amount, 1 <= amount <= 255) for amount in (0, 1, 241, 255, 256)),
    ],
)
def test_amounts_are_what_the_dialect_can_send(
    dialect: str, amount: int, allowed: bool, tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    async def scenario(this: Run) -> None:
        if allowed:
            await this.demote(amount, "new switch")
            sent = (ADVSKEW, amount) if dialect == "openbsd" else (min(ADVSKEW + amount, 240), 0)
            assert await this.sent() == {sent}
        else:
            with pytest.raises(ControlError, match=f"N = {amount}: allowed: 1 to 240, or 1 to 255"):
                await this.demote(amount, "new switch")
            assert await this.sent() == {(ADVSKEW, 0)}

    run(tmp_path / "demotions.json", worker, scenario, dialect)


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "\x1b[31m", "x" * 201])
def test_a_reason_is_one_line_of_printable_characters(
    reason: str, tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    async def scenario(this: Run) -> None:
        with pytest.raises(ControlError, match="must be 1 to 200 printable characters"):
            await this.demote(1, reason)
        assert not (tmp_path / "demotions.json").exists()

    run(tmp_path / "demotions.json", worker, scenario)


def test_the_number_of_reasons_is_limited(tmp_path: Path, worker: ThreadPoolExecutor) -> None:
    async def scenario(this: Run) -> None:
        for number in range(32):
            await this.demote(1, f"reason {number}")
        with pytest.raises(
            ControlError, match=r"^demote: there are 32 reasons of demotions already"
        ):
            await this.demote(1, "one more")
        limited = Limited(240, interface="eth0", vhid=1)
        with pytest.raises(ControlError, match=r"^yield: there are 32 reasons of demotions"):
            await this.demotions.hold("yield", "yield eth0/1", limited, this.hosts, this.orders)
        await this.demote(2, "reason 0")  # in place of itself

    run(tmp_path / "demotions.json", worker, scenario)


def test_to_end_a_demotion_that_is_not_there_names_those_that_are(
    tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    async def scenario(this: Run) -> None:
        with pytest.raises(ControlError, match="not demoted by this reason; allowed: none"):
            await this.undemote("new switch")
        await this.demote(1, "kernel update")
        with pytest.raises(ControlError, match='allowed: "kernel update"'):
            await this.undemote("new switch")

    run(tmp_path / "demotions.json", worker, scenario)


# ------------------------------------------------------------------------------------------- groups


async def add_groups(this: Run) -> None:
    """Adds two virtual hosts of lan and one of wan."""
    for vhid, name in ((4, "lan"), (5, "lan"), (6, "wan")):
        this.group = Group(name)
        await this.add(vhid)


def test_a_group_is_demoted_alone_and_its_reasons_are_its_own(
    tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    async def scenario(this: Run) -> None:
        await add_groups(this)
        assert await this.demote(50, "disks", "lan") == Demoted(True, 50, {"disks": 50}, 2)
        assert await this.demote(20, "disks", "wan") == Demoted(True, 20, {"disks": 20}, 1)
        assert await this.demote(5, "disks") == Demoted(True, 5, {"disks": 5}, 6)
        assert await this.advskews() == [15, 15, 15, 65, 65, 35]
        assert dict(this.demotions.by_reason) == {
            "disks (group lan)": 50,
            "disks (group wan)": 20,
            "disks": 5,
        }
        assert (await this.undemote("disks", "lan")).total == 0
        await this.undemote("disks")
        assert await this.advskews() == [10, 10, 10, 10, 10, 30]

    run(tmp_path / "demotions.json", worker, scenario)


def test_the_next_run_has_the_demotions_of_groups(
    tmp_path: Path, worker: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    async def first(this: Run) -> None:
        await add_groups(this)
        await this.demote(50, "disks", "lan")

    async def second(this: Run) -> None:
        await add_groups(this)
        assert await this.advskews() == [10, 10, 10, 60, 60, 10]

    run(tmp_path / "demotions.json", worker, first)
    run(tmp_path / "demotions.json", worker, second)
    assert "demoted by 50 (disks (group lan)), as before the start" in caplog.text


def test_a_virtual_host_that_changes_its_group_changes_its_demotion(
    tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    async def scenario(this: Run) -> None:
        await add_groups(this)
        await this.demote(50, "disks", "wan")
        host = this.hosts.hosts[3]
        assert host is not None
        settings = msgspec.structs.replace(host.settings, group=Group("wan"))
        this.hosts.replace(3, msgspec.structs.replace(host, settings=settings))
        await this.demotions.order_all(this.hosts, this.orders)
        assert await this.advskews() == [10, 10, 10, 60, 10, 60]

    run(tmp_path / "demotions.json", worker, scenario)


def test_an_unknown_group_is_refused_with_the_nearest_name(
    tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    async def scenario(this: Run) -> None:
        with pytest.raises(ControlError, match='group = "lab": no such group; no virtual host is'):
            await this.demote(5, "disks", "lab")
        await add_groups(this)
        with pytest.raises(
            ControlError, match='group = "lab": no such group; the nearest is "lan"'
        ):
            await this.demote(5, "disks", "lab")
        with pytest.raises(
            ControlError, match='group = "lab": no such group; the nearest is "lan"'
        ):
            await this.undemote("disks", "lab")
        await this.demote(5, "disks", "lan")
        with pytest.raises(ControlError, match="by this reason in group wan; allowed: none"):
            await this.undemote("disks", "wan")
        with pytest.raises(ControlError, match="this reason; allowed: none; with --group: lan"):
            await this.undemote("disks")
        assert await this.advskews() == [10, 10, 10, 15, 15, 10]

    run(tmp_path / "demotions.json", worker, scenario)


def test_the_dialects_of_a_group_decide_which_amounts_it_may_have(
    tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    async def scenario(this: Run) -> None:
        this.dialect, this.group = "openbsd", Group("lan")
        await this.add(4)
        assert (await this.demote(255, "disks", "lan")).total == 255
        with pytest.raises(ControlError, match="N = 255: allowed: 1 to 240"):
            await this.demote(255, "disks")

    run(tmp_path / "demotions.json", worker, scenario)
