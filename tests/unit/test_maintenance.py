"""Maintenance: written down before anything follows, and right after a crash at any point."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from carp_fast.control.documents import PlannedUnit
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import MaintenanceRequest
from carp_fast.daemon.maintenance import MaintenanceMode
from carp_fast.daemon.table import BACKUP, INIT
from tests.support.maintained import DOWN_S, Crash, Machine


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carp_fast.daemon.leaving.PREEMPTED_WITHIN", 0)
    monkeypatch.setattr("carp_fast.daemon.leaving.LOOK_S", 0.01)


@pytest.fixture
def machine(tmp_path: Path, worker: ThreadPoolExecutor) -> Machine:
    return Machine(tmp_path / "maintenance.json", worker)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


def test_peers_that_preempt_take_over_and_nothing_resigns(machine: Machine) -> None:
    machine.preempts = machine.every

    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on", reason="kernel update")
        assert machine.log == [("demote", slot, 240) for slot in range(6)]
        made = mode.progress
        assert made is not None
        assert (made.phase, made.masters, made.given, made.failed) == ("done", 6, 6, False)
        assert mode.state is not None
        assert (mode.state.since, mode.state.reason) == (
            "2027-01-15T08:00:00.000Z",
            "kernel update",
        )

    play(scenario)


def test_what_is_not_preempted_resigns_one_canary_of_each_interface_first(
    machine: Machine,
) -> None:
    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on")
        assert machine.slots("hand_over") == [0, 3, 1, 4, 2, 5]
        assert min(machine.given_s[2:]) - max(machine.given_s[:2]) >= DOWN_S / 2
        assert machine.masters() == set()
        assert mode.progress is not None
        assert (mode.progress.given, mode.progress.failed) == (6, False)

    play(scenario)


def test_backups_are_demoted_first_since_nothing_is_handed_over_by_that(machine: Machine) -> None:
    machine.hosts.states[0] = BACKUP
    machine.hosts.states[4] = INIT

    async def scenario() -> None:
        await machine.ask(machine.mode(), "on")
        assert machine.slots("demote") == [0, 4, 1, 2, 3, 5]

    play(scenario)


def test_a_canary_that_nobody_adopts_is_taken_back_and_the_rest_of_its_interface_not_tried(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.adopts = {3, 4, 5}

    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on")
        assert machine.slots("hand_over") == [0, 3, 4, 5]
        assert machine.masters() == {0, 1, 2}
        made = mode.progress
        assert made is not None
        assert (made.given, made.taken_back, made.taken_back_count) == (3, ["eth0/1"], 1)
        assert (made.not_tried, made.failed) == (2, True)
        assert mode.on

    play(scenario)
    assert "eth0/1: no other host adopted it, taken back" in caplog.text
    assert "in maintenance: 3 of 6 given up" in caplog.text


def test_one_after_the_canary_that_nobody_adopts_is_named_as_well(machine: Machine) -> None:
    machine.adopts = machine.every - {1}

    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on")
        made = mode.progress
        assert made is not None
        assert (machine.masters(), made.taken_back, made.not_tried) == ({1}, ["eth0/2"], 0)

    play(scenario)


def test_a_group_of_which_one_is_not_adopted_is_taken_back_as_a_whole(
    tmp_path: Path, worker: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """The first virtual host of each interface is in group lan."""
    machine = Machine(tmp_path / "maintenance.json", worker, group="lan")
    machine.adopts = machine.every - {0}

    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on")
        assert machine.slots("hand_over") == [0, 1, 3, 4, 2, 5]
        assert machine.masters() == {0, 3}
        assert machine.slots("take_over") == [3]
        lifted = [each[1] for each in machine.log if each[0] == "demote" and each[2] == 0]
        assert lifted == [0, 3]
        made = mode.progress
        assert made is not None
        assert (made.taken_back, made.taken_back_count) == (["eth0/1 (group lan)"], 1)
        assert (made.given, made.not_tried) == (4, 0)

    play(scenario)
    assert "group lan: taken back as a whole, 2 virtual hosts" in caplog.text


def test_the_plan_has_a_canary_for_each_group_of_an_interface(
    tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    machine = Machine(None, worker, group="lan")

    async def scenario() -> None:
        answer = await machine.ask(machine.mode(), "plan")
        assert answer.plan is not None
        assert [(each.interface, each.group, each.canary) for each in answer.plan] == [
            ("eth0", "lan", "eth0/1"),
            ("eth0", "", "eth0/2"),
            ("eth1", "lan", "eth1/1"),
            ("eth1", "", "eth1/2"),
        ]

    play(scenario)


def test_forced_no_virtual_host_takes_part_until_the_end(machine: Machine) -> None:
    machine.adopts = set()

    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on", force=True)
        assert {machine.hosts.states[slot] for slot in machine.every} == {INIT}
        assert mode.withheld
        after = machine.mode()
        after.read()
        assert (after.withheld, after.demotion) == (True, 240)
        await machine.ask(mode, "off")
        assert {machine.hosts.states[slot] for slot in machine.every} == {BACKUP}

    play(scenario)


def test_one_that_follows_a_forced_one_not_yet_undone_leaves_nothing_out(machine: Machine) -> None:
    machine.adopts = set()

    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on", force=True)
        mode.rate = 1  # so slowly that the way back does not end
        await mode.answer(MaintenanceRequest("off"))
        await machine.ask(mode, "on")
        assert INIT not in {machine.hosts.states[slot] for slot in machine.every}
        mode.rate = 10_000
        await machine.ask(mode, "off")
        machine.log.clear()
        await machine.ask(mode, "on")
        await machine.ask(mode, "off")
        assert "withhold" not in machine.words()

    play(scenario)


def test_after_a_restart_a_forced_one_is_undone_as_well(machine: Machine) -> None:
    machine.adopts = set()

    async def scenario() -> None:
        await machine.ask(machine.mode(), "on", force=True)
        after = machine.mode()
        after.read()
        await machine.ask(after, "off")
        assert {machine.hosts.states[slot] for slot in machine.every} == {BACKUP}

    play(scenario)


def test_hand_overs_are_paced(tmp_path: Path, worker: ThreadPoolExecutor) -> None:
    machine = Machine(None, worker, each=50)
    machine.preempts = machine.every

    async def scenario() -> None:
        mode = machine.mode()
        mode.rate = 200
        begin_s = time.monotonic()
        await machine.ask(mode, "on")
        assert time.monotonic() - begin_s >= 0.4
        begin_s = time.monotonic()
        await machine.ask(mode, "off")
        assert time.monotonic() - begin_s >= 0.4

    play(scenario)


def test_the_end_lifts_the_demotion_of_masters_first(machine: Machine) -> None:
    machine.adopts = {3, 4, 5}

    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on")
        machine.log.clear()
        await machine.ask(mode, "off")
        assert [each[2] for each in machine.log] == [0] * 6
        assert set(machine.slots("demote")[:3]) == {0, 1, 2}
        assert not mode.on
        assert (mode.demotion, mode.state) == (0, None)

    play(scenario)


def test_the_end_ends_a_way_there_that_is_not_done(machine: Machine) -> None:
    machine.adopts = set()

    async def scenario() -> None:
        mode = machine.mode()
        await mode.answer(MaintenanceRequest("on"))
        assert mode.progress is not None
        await machine.ask(mode, "off")
        given = machine.slots("hand_over")
        assert (mode.on, mode.progress.phase) == (False, "done")
        assert len(given) <= 2  # the canaries at most
        assert [each for each in machine.log if each[0] == "demote"][-1][2] == 0

    play(scenario)


def test_while_one_is_running_another_is_refused_with_since_and_why(machine: Machine) -> None:
    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on", reason="kernel update", for_s=7200.0)
        why = (
            r"refused: in maintenance since 2027-01-15T08:00:00.000Z \(kernel update\),"
            r" until 2027-01-15T10:00:00.000Z; carp-fast maintenance off ends it"
        )
        with pytest.raises(ControlError, match=why):
            await machine.ask(mode, "on")
        await machine.ask(mode, "off")
        with pytest.raises(ControlError, match="this host is not in maintenance"):
            await machine.ask(mode, "off")

    play(scenario)


@pytest.mark.parametrize("error", [RuntimeError("no slot 3"), RuntimeError()])
def test_a_way_there_or_back_that_fails_is_reported_and_off_tries_again(
    error: Exception,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(slot: int, *how: object) -> None:
        raise error

    async def scenario() -> None:
        mode = machine.mode()
        with monkeypatch.context() as pump:
            pump.setattr(machine, "hand_over", fails)
            await machine.ask(mode, "on")
        made = mode.progress
        assert made is not None
        assert (made.phase, made.reason) == ("failed", str(error) or "RuntimeError")
        assert mode.on
        with monkeypatch.context() as pump:
            pump.setattr(machine, "demote", fails)
            await machine.ask(mode, "off")
        made = mode.progress
        assert made is not None
        assert (made.phase, made.reason) == ("failed", str(error) or "RuntimeError")
        assert not mode.on
        machine.log.clear()
        await machine.ask(mode, "off")
        assert set(machine.slots("demote")) == machine.every
        assert mode.progress is not None
        assert (mode.progress.phase, mode.progress.reason) == ("done", "")
        with pytest.raises(ControlError, match="this host is not in maintenance"):
            await machine.ask(mode, "off")

    play(scenario)
    failures = [record for record in caplog.records if " failed in " in record.message]
    assert [record.message for record in failures] == [
        "maintenance on failed in phase canaries",
        "maintenance off failed in phase returning",
    ]
    assert all(record.exc_info for record in failures)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"reason": "a\nb"}, "maintenance: reason = .*must be 1 to 200 printable characters"),
        ({"reason": "x" * 201}, "must be 1 to 200 printable characters"),
        ({"for_s": 0.5}, "for = 0.5 s: allowed: 1 to 2592000 s"),
        ({"for_s": 2592001.0}, "allowed: 1 to 2592000 s"),
        ({"for_s": float("nan")}, "allowed: 1 to 2592000 s"),
    ],
)
def test_bad_input_changes_nothing(how: dict[str, Any], why: str, machine: Machine) -> None:
    async def scenario() -> None:
        mode = machine.mode()
        with pytest.raises(ControlError, match=why):
            await machine.ask(mode, "on", **how)
        assert (mode.on, machine.log) == (False, [])

    play(scenario)


def test_a_disk_that_takes_nothing_changes_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    async def scenario() -> None:
        mode = machine.mode()
        with monkeypatch.context() as disk:
            disk.setattr("os.fsync", full)
            with pytest.raises(ControlError, match="No space left on device; nothing was changed"):
                await machine.ask(mode, "on")
        assert (mode.on, machine.log) == (False, [])
        await machine.ask(mode, "on")
        machine.log.clear()
        with monkeypatch.context() as disk:
            disk.setattr("os.fsync", full)
            with pytest.raises(ControlError, match="nothing was changed"):
                await machine.ask(mode, "off")
        assert (mode.on, machine.log) == (True, [])

    play(scenario)


def test_it_survives_a_restart_and_ends_by_itself_after_its_time(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        await machine.ask(machine.mode(), "on", reason="kernel update", for_s=7200.0)
        machine.log.clear()
        machine.now += 3600
        again = machine.mode()
        again.read()
        again.begin()
        assert (again.on, again.demotion, machine.log) == (True, 240, [])
        assert "in maintenance since" in caplog.text
        assert "as before the start" in caplog.text
        machine.now += 3601
        last = machine.mode()
        last.read()
        last.begin()
        await asyncio.sleep(0)
        await machine.settled(last)
        assert not last.on
        assert set(machine.slots("demote")) == machine.every
        after = machine.mode()
        after.read()
        assert not after.on

    play(scenario)


def test_the_end_of_its_time_does_not_end_the_next_one(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on", for_s=3600.0)
        machine.now += 3601
        requests = (MaintenanceRequest("off"), MaintenanceRequest("on", "the next"))
        asked = [asyncio.create_task(mode.answer(each)) for each in requests]
        await asyncio.sleep(0)  # the first one has begun to write
        mode.begin()
        await asyncio.gather(*asked)
        await machine.settled(mode)
        assert mode.state is not None
        assert mode.state.reason == "the next"
        assert "tried again" not in caplog.text

    play(scenario)


def test_until_stop_is_not_written_down(machine: Machine) -> None:
    async def scenario() -> None:
        mode = machine.mode()
        await machine.ask(mode, "on", until_stop=True)
        assert mode.state is not None
        assert mode.state.until_stop
        after = machine.mode()
        after.read()
        assert not after.on
        await machine.ask(mode, "off")
        assert not mode.on

    play(scenario)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"since": "x"}', '{"reason": "x"}'])
def test_a_file_that_is_not_usable_keeps_the_host_out(
    content: str, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    assert machine.path is not None
    machine.path.write_text(content)

    async def scenario() -> None:
        mode = machine.mode()
        mode.read()
        assert (mode.on, mode.demotion, mode.withheld) == (True, 240, False)
        assert f"in maintenance: {machine.path} is not usable" in caplog.text
        await machine.ask(mode, "off")
        assert not mode.on

    play(scenario)


def test_a_plan_counts_and_changes_nothing(machine: Machine) -> None:
    machine.hosts.states[0] = BACKUP
    machine.heard = {3}

    async def scenario() -> None:
        answer = await machine.ask(machine.mode(), "plan")
        assert answer.plan == [
            PlannedUnit("eth0", "", 2, 0, "eth0/2"),
            PlannedUnit("eth1", "", 3, 1, "eth1/1"),
        ]
        assert (machine.log, answer.state, answer.progress) == ([], None, None)

    play(scenario)


# -- crashes


class Disk:
    """Makes each step of a write a crash point of a machine."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs_left = 0
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self.before(machine, getattr(owner, name), name))

    def before(self, machine: Machine, step: Callable[..., Any], name: str) -> Callable[..., Any]:
        def crashing(*arguments: Any, **how: Any) -> Any:
            machine.point()
            done = step(*arguments, **how)
            machine.point()  # done, and nothing after it
            self.syncs_left -= name == "fsync"
            return done

        return crashing


def crashed(machine: Machine, mode: MaintenanceMode, action: Any, **how: Any) -> bool:
    """Whether the request, or what follows from it, came to the crash point."""

    machine.tasks.clear()

    async def until() -> None:
        await machine.ask(mode, action, **how)

    try:
        asyncio.run(until())
    except Crash:
        return True
    return False


@pytest.mark.parametrize("force", [False, True])
def test_a_crash_anywhere_on_the_way_there_leaves_maintenance_or_nothing(
    force: bool, tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    ended = on = off = 0
    while not ended:
        machine = Machine(tmp_path / f"{on + off}" / "maintenance.json", worker, each=2)
        machine.adopts = {0, 1, 2}
        machine.crash_at = on + off + 1
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(machine, monkeypatch)
            disk.syncs_left = 2  # the file, its directory
            ended = not crashed(machine, machine.mode(), "on", reason="why", force=force)
        after = machine.mode()
        after.read()
        assert not machine.log or disk.syncs_left == 0, "ordered before the disk had it"
        assert not machine.log or after.on
        on, off = on + after.on, off + (not after.on)
        assert after.demotion == (240 if after.on else 0)
        assert after.withheld == (after.on and force)
        if after.on:
            assert after.state is not None
            assert (after.state.reason, after.state.force) == ("why", force)
            machine.crash_at = 0
            assert not crashed(machine, after, "off")
            assert not after.on
    assert off == 3, "before the file was replaced"
    assert on >= 8


def test_a_crash_anywhere_on_the_way_back_leaves_maintenance_or_nothing(
    tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    ended = on = off = 0
    while not ended:
        machine = Machine(tmp_path / f"{on + off}" / "maintenance.json", worker, each=2)
        mode = machine.mode()
        assert not crashed(machine, mode, "on")
        machine.log.clear()
        machine.points, machine.crash_at = 0, on + off + 1
        mode = machine.mode()
        mode.read()
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(machine, monkeypatch)
            disk.syncs_left = 1  # the directory
            ended = not crashed(machine, mode, "off")
        after = machine.mode()
        after.read()
        assert not machine.log or disk.syncs_left == 0, "lifted before the disk had it"
        assert not (machine.log and after.on)
        on, off = on + after.on, off + (not after.on)
    assert on >= 1, "before the file was removed"
    assert off >= 5
