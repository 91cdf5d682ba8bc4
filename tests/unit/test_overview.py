"""The overview: totals that follow every change, problems of a pass, the last changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from carp_fast.control.documents import MaintenanceState, StateEvent
from carp_fast.control.requests import OverviewRequest, StatusRequest
from carp_fast.daemon import feed as feeds
from carp_fast.daemon import overview
from carp_fast.daemon.explain_text import problem_kinds, problems
from carp_fast.daemon.feed import Feed
from carp_fast.daemon.overview import Overviews
from carp_fast.daemon.table import BACKUP, INIT, MASTER
from tests.support.measured import Staged
from tests.support.scene import NOW_NS, Scene, stop_time
from tests.support.segment import SECOND_NS


class Stage:
    """The scene, its feed, and overviews of it."""

    def __init__(self) -> None:
        self.staged = Staged({}, [])
        self.scene: Scene = self.staged.scene
        self.scene.problems.wrong_digest_ns = {0: NOW_NS - SECOND_NS}
        self.feed = Feed()
        self.overviews = Overviews(self.staged.opened, self.staged.measuring, self.feed)

    @property
    def passes(self) -> int:
        return self.staged.passes


Scenario = Callable[[Stage], Coroutine[Any, Any, None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    stop_time(monkeypatch)

    def run_scenario(scenario: Scenario) -> None:
        async def staged() -> None:
            async with asyncio.timeout(20):
                await scenario(Stage())

        asyncio.run(staged())

    return run_scenario


def change(number: int) -> StateEvent:
    return StateEvent(f"at {number}", "eth0", 42, "MASTER", "BACKUP", "master_down", None)


# --- totals ---------------------------------------------------------------------------------------


def test_totals_are_those_of_the_states_now(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        states = stage.scene.hosts.states
        found = await stage.overviews.overview(0)
        (eth0,) = found.interfaces
        before = eth0
        assert (eth0.name, eth0.link, eth0.virtual_hosts) == ("eth0", "up", 6)
        assert eth0.master == states.count(MASTER)
        assert eth0.backup == states.count(BACKUP)
        assert eth0.init == states.count(INIT)
        assert msgspec.structs.astuple(found.summary) == (6, eth0.master, eth0.backup, eth0.init)
        slot = states.index(BACKUP)
        states[slot] = MASTER
        found = await stage.overviews.overview(0)
        (eth0,) = found.interfaces
        assert (eth0.master, eth0.backup) == (before.master + 1, before.backup - 1)
        assert found.summary.master == eth0.master

    run(scenario)


def test_totals_follow_virtual_hosts_that_leave(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.overviews.overview(0)
        stage.scene.hosts.give_back(5)
        found = await stage.overviews.overview(0)
        assert found.interfaces[0].virtual_hosts == 5
        for slot in range(5):
            stage.scene.hosts.give_back(slot)
        found = await stage.overviews.overview(0)
        assert found.interfaces == []
        assert found.summary.virtual_hosts == 0

    run(scenario)


def test_totals_are_counted_again_only_after_a_change(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = 0
    states_of = overview._states

    def counting(*given: Any) -> tuple[int, int, int]:
        nonlocal counts
        counts += 1
        return states_of(*given)

    monkeypatch.setattr(overview, "_states", counting)

    async def scenario(stage: Stage) -> None:
        for _ in range(3):
            await stage.overviews.overview(0)
        assert counts == 1
        stage.scene.hosts.states[0] ^= 1
        await stage.overviews.overview(0)
        assert counts == 2

    run(scenario)


# --- problems -------------------------------------------------------------------------------------


def test_problems_are_those_of_the_status_the_worst_first(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        found = await stage.overviews.overview(0)
        scene = stage.scene
        entries = [
            entry
            async for copied in scene.status.snapshots(range(6))
            for _, entry in scene.status.matching(copied, StatusRequest(problems=True))
        ]
        assert {each.vhid: each.sentences for each in found.problems} == {
            entry.vhid: problems(entry) for entry in entries
        }
        assert found.problem_hosts == len(entries) == found.interfaces[0].problems > 1
        kinds: dict[str, int] = {}
        for entry in entries:
            for kind in problem_kinds(entry):
                kinds[kind] = kinds.get(kind, 0) + 1
        assert found.problem_kinds == kinds
        assert (*found.problem_kinds,)[:2] == ("second_master", "bad_auth")
        assert (*found.problem_kinds,)[-1] == "demoted"
        assert "second_master" in "".join(found.problems[0].sentences)

    run(scenario)


def test_problems_beyond_the_limit_are_counted(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "PROBLEMS_SHOWN", 2)

    async def scenario(stage: Stage) -> None:
        found = await stage.overviews.overview(0)
        assert len(found.problems) == 2 < found.problem_hosts
        assert sum(found.problem_kinds.values()) >= found.problem_hosts

    run(scenario)


def test_those_who_ask_share_a_pass_for_a_while(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "PASS_AT_MOST_EVERY_S", 3600.0)

    async def scenario(stage: Stage) -> None:
        await asyncio.gather(*(stage.overviews.overview(0) for _ in range(5)))
        passes = stage.passes
        await stage.overviews.overview(0)
        assert stage.passes == passes
        stage.overviews._fresh_until_s = 0.0
        await stage.overviews.overview(0)
        assert stage.passes == 2 * passes

    run(scenario)


def test_a_pass_that_takes_long_keeps_nobody_waiting_who_can_have_the_last_one(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "PASS_AT_MOST_EVERY_S", 0.0)
    monkeypatch.setattr(overview, "PASS_AWAITED_S", 0.01)

    async def scenario(stage: Stage) -> None:
        first = await stage.overviews.found()
        blocked, going_on = asyncio.Event(), asyncio.Event()

        async def wait(count: int) -> None:
            blocked.set()
            await going_on.wait()

        stage.scene.orders.room_for = wait
        stage.overviews._fresh_until_s = 0.0
        assert await stage.overviews.found() is first
        assert blocked.is_set()
        going_on.set()
        while stage.overviews._looking is not None:
            await asyncio.sleep(0)
        assert stage.overviews._found is not first
        stage.overviews.close()

    run(scenario)


def test_a_pass_that_is_ended_ends_with_the_daemon(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        async def never(count: int) -> None:
            await asyncio.Event().wait()

        stage.scene.orders.room_for = never
        asking = asyncio.ensure_future(stage.overviews.overview(0))
        await asyncio.sleep(0.01)
        stage.overviews.close()
        stage.staged.measuring.close()
        with pytest.raises(asyncio.CancelledError):
            await asking

    run(scenario)


# --- the last changes -----------------------------------------------------------------------------


def test_an_asker_gets_the_changes_that_it_has_not_seen(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        every = [change(number) for number in range(feeds.KEPT_MAX + 10)]
        for each in every[:5]:
            stage.feed.publish(each)
        found = (await stage.overviews.answer(OverviewRequest())).overview
        assert (found.changes, found.last) == (5, every[:5])
        for each in every[5:7]:
            stage.feed.publish(each)
        found = (await stage.overviews.answer(OverviewRequest(since=5))).overview
        assert (found.changes, found.last) == (7, every[5:7])
        found = (await stage.overviews.answer(OverviewRequest(since=900))).overview
        assert found.last == [], "of a daemon before this one"
        for each in every[7:]:
            stage.feed.publish(each)
        found = (await stage.overviews.answer(OverviewRequest(since=0))).overview
        assert found.changes == len(every)
        assert found.last == every[10:]

    run(scenario)


# --- what concerns the host -----------------------------------------------------------------------


def test_notices_are_about_the_host_as_a_whole(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        assert (await stage.overviews.overview(0)).notices == []
        scene, opened = stage.scene, stage.staged.opened
        state = MaintenanceState("2027-01-15T08:00:00.000Z", "new disks", None, False, False)
        scene.status.maintenance = lambda: (state, None)
        scene.status.helper = lambda: "killed by SIGKILL"
        scene.status.demotions = lambda: {"slow uplink": 20}
        scene.hosts.demotion_groups = SimpleNamespace(demoted=lambda: list("abcde"))  # type: ignore
        tracks = [
            SimpleNamespace(track=SimpleNamespace(name=name), counts_as_ok=name == "web")
            for name in ("web", "disk", "uplink")
        ]
        opened.tracked = SimpleNamespace(judged=lambda: tracks)
        assert (await stage.overviews.overview(0)).notices == [
            "this host is in maintenance since 2027-01-15T08:00:00.000Z (new disks)",
            "the privileged helper has ended (killed by SIGKILL): no hook can be run",
            "demoted by 20: slow uplink",
            "demoted groups: a, b, c and 2 more",
            "failed tracks: disk, uplink",
        ]

    run(scenario)
