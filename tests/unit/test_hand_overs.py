"""Hand-overs by hand: refused where the election would undo them, and what came of the others."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from carp_fast.config.model import Group
from carp_fast.control.documents import HandedOver
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import PreemptRequest, YieldRequest
from carp_fast.daemon.demotions import Demotions
from carp_fast.daemon.hand_overs import HandOvers
from carp_fast.daemon.table import MASTER
from carp_fast.engine.copies import HostCopy
from tests.support.asked import OTHER, Asked, EngineOrders, EnginePump
from tests.support.maintained import DOWN_S, Machine
from tests.support.segment import SECOND_NS

SLOWER, FASTER = {"advskew": 200}, {"advskew": 50}


class OrderedPump(EnginePump):
    """An engine that takes orders; `then` happens after a hand-over."""

    def __init__(self, asked: Asked, then: Callable[[Asked], object]) -> None:
        super().__init__(asked.engine)
        self.asked = asked
        self.then = then
        self.orders: list[str] = []

    def demote(self, slot: int, amount: int) -> None:
        self.orders.append(f"demote {amount}")
        self.engine.demote(slot, amount, self.asked.now_ns)

    def hand_over(self, slot: int) -> None:
        self.orders.append("hand_over")
        self.engine.hand_over(slot, self.asked.now_ns)
        self.asked.node.take(self.asked.now_ns)
        self.then(self.asked)

    def take_over(self, slot: int) -> None:
        self.orders.append("take_over")
        self.engine.take_over(slot, self.asked.now_ns)


class GivenOrders(EngineOrders):
    def __init__(self, pump: OrderedPump) -> None:
        self.pump = pump

    async def give(self, orders: Iterable[Callable[[], object]]) -> int:
        return len([order() for order in orders])


def nobody(asked: Asked) -> None:
    """Its master-down time passes."""
    asked.now_ns += 10 * SECOND_NS
    asked.node.run(asked.now_ns)


def adopted(asked: Asked) -> None:
    asked.hear(OTHER, **SLOWER, counter=99)


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Desk:
    """Hand-overs of one engine's virtual host, eth0/42."""

    def __init__(
        self,
        asked: Asked,
        worker: ThreadPoolExecutor,
        path: Path,
        then: Callable[[Asked], object] = adopted,
    ) -> None:
        self.pump = OrderedPump(asked, then)
        orders: Any = GivenOrders(self.pump)
        self.demotions = Demotions(path / "demotions.json", worker)
        self.asked = asked
        self.hand_overs = HandOvers(
            asked.hosts,
            orders,
            asked.explanations,
            self.demotions,
            snapshots=self.snapshots,
            rate=lambda: 200,
            now_ns=lambda: asked.now_ns,
        )

    async def snapshots(
        self, slots: Iterable[int]
    ) -> AsyncIterator[Iterable[tuple[int, HostCopy]]]:
        yield [(slot, self.asked.engine.host(slot)) for slot in slots]

    def yields(self, **how: Any) -> HandedOver:
        return asyncio.run(self.hand_overs.yields(YieldRequest("eth0", 42, **how)))

    def preempts(self) -> HandedOver:
        return asyncio.run(self.hand_overs.preempts(PreemptRequest("eth0", 42)))


def master(preempt: Any, **settings: Any) -> Asked:
    return Asked({}, preempt=preempt, **settings).become("MASTER")


@pytest.mark.parametrize(
    ("preempt", "peer"), [(False, SLOWER), ("demoted", SLOWER), (True, FASTER), (False, FASTER)]
)
def test_a_master_hands_over_to_a_peer_that_keeps_it(
    preempt: Any, peer: dict[str, Any], worker: ThreadPoolExecutor, tmp_path: Path
) -> None:
    asked = master(preempt).hear(OTHER, **peer)
    if peer is FASTER:  # it preempts: MASTER again only once it has resigned
        asked.node.run(asked.now_ns + 10 * SECOND_NS)
        asked.now_ns += 10 * SECOND_NS
    desk = Desk(asked, worker, tmp_path, lambda asked: asked.hear(OTHER, **peer, counter=99))
    done = desk.yields()
    assert done == HandedOver(True, [HandedOver.Host("eth0", 42, "BACKUP", OTHER)])
    assert desk.pump.orders == ["hand_over"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (lambda: Asked().hear(OTHER, **FASTER), r"it is BACKUP \(started\): only a MASTER can"),
        (lambda: Asked().become("INIT"), r"it is INIT \(link_down\): only a MASTER can"),
        (lambda: master(True), r"no other host has been heard: .* master-down time of 3\.391 s"),
        (
            lambda: master(True).hear(OTHER, **SLOWER),
            r"it would be taken back: preempt = true, and 10\.77\.0\.3 at 1/200 is slower than our"
            r" 1/100; --demote keeps",
        ),
        (
            lambda: master("demoted").hear(OTHER, advskew=240),
            r'it would be taken back: preempt = "demoted", and 10\.77\.0\.3 at 1/240 is slower',
        ),
        (
            lambda: master(True, dialect="openbsd").hear(OTHER, advskew=0, demote=3),
            r"it would be taken back: .* 10\.77\.0\.3 at 1/0 with demote byte 3 is slower",
        ),
    ],
)
def test_a_yield_that_the_election_would_undo_is_refused_with_the_reason(
    asked: Callable[[], Asked], why: str, worker: ThreadPoolExecutor, tmp_path: Path
) -> None:
    desk = Desk(asked(), worker, tmp_path)
    with pytest.raises(ControlError, match=f"yield: eth0/42: {why}"):
        desk.yields()
    assert desk.pump.orders == []


def test_a_preempt_delay_does_not_hide_that_it_would_be_taken_back(
    worker: ThreadPoolExecutor, tmp_path: Path
) -> None:
    asked = Asked({"preempt_delay_s": 60.0}, preempt=True, preempt_delay_ns=60 * SECOND_NS)
    asked.become("MASTER").hear(OTHER, **SLOWER)
    with pytest.raises(ControlError, match="taken back after preempt_delay_s = 60: preempt = true"):
        Desk(asked, worker, tmp_path).yields()


@pytest.mark.parametrize("peer", [SLOWER, None])
def test_with_a_demotion_it_is_held_there_until_undemoted(
    peer: dict[str, Any] | None,
    worker: ThreadPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("carp_fast.daemon.hand_overs.PREEMPTED_WITHIN", 0)
    asked = master(True)
    if peer:
        asked.hear(OTHER, **peer)
    desk = Desk(asked, worker, tmp_path)
    done = desk.yields(demote=True)
    assert done.reason == "yield eth0/42"
    assert desk.pump.orders == ["demote 240", "hand_over"]
    again = Demotions(tmp_path / "demotions.json", worker)
    again.read()
    host = asked.hosts.hosts[0]
    assert host is not None
    assert (again.of(host), dict(again.by_reason)) == (240, {done.reason: 240})
    asked.take(43)
    other = asked.hosts.hosts[1]
    assert other is not None
    assert (again.of(other), again.reasons_of(other)) == (0, {})


def test_what_nobody_takes_over_is_taken_back_and_no_longer_demoted(
    worker: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carp_fast.daemon.hand_overs.PREEMPTED_WITHIN", 0)
    asked = master(True)
    desk = Desk(asked, worker, tmp_path, nobody)
    with pytest.raises(
        ControlError, match=r"no other host took it over .* \(3\.938 s\): it is MASTER"
    ):
        desk.yields(demote=True)
    assert desk.pump.orders == ["demote 240", "hand_over", "demote 0"]
    assert desk.demotions.by_reason == {}
    assert asked.node.state == "MASTER"


def test_a_demotion_that_was_held_before_stays_when_another_yield_fails(
    worker: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carp_fast.daemon.hand_overs.PREEMPTED_WITHIN", 0)
    (tmp_path / "demotions.json").write_text(
        '{"yield eth0/42":{"amount":50,"interface":"eth0","vhid":42}}'
    )
    desk = Desk(master(True), worker, tmp_path, nobody)
    desk.demotions.read()
    with pytest.raises(ControlError, match="no other host took it over"):
        desk.yields(demote=True)
    assert desk.pump.orders == ["demote 240", "hand_over", "demote 50"]
    assert desk.demotions.by_reason == {"yield eth0/42": 50}


def test_a_demotion_that_was_ended_meanwhile_does_not_hide_why_a_yield_failed(
    worker: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carp_fast.daemon.hand_overs.PREEMPTED_WITHIN", 0)

    def ended(asked: Asked) -> None:
        desk.demotions._by_reason = {}
        nobody(asked)

    desk = Desk(master(True), worker, tmp_path, ended)
    with pytest.raises(ControlError, match=r"no other host took it over .* again$"):
        desk.yields(demote=True)
    assert desk.demotions.by_reason == {}


def test_a_full_disk_does_not_hide_why_a_yield_failed_nor_keep_its_group_from_being_taken_back(
    worker: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carp_fast.daemon.hand_overs.PREEMPTED_WITHIN", 0)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    def fills_the_disk(asked: Asked) -> None:
        monkeypatch.setattr("os.fsync", full)
        nobody(asked)

    asked = Asked({"group": Group("lan")}, preempt=True).become("MASTER")
    asked.hosts.states[0] = MASTER
    desk = Desk(asked, worker, tmp_path, fills_the_disk)
    why = (
        r"no other host took it over .*; it stays demoted \(yield \(group lan\)\): .*No space left"
    )
    with pytest.raises(ControlError, match=why):
        desk.yields(group=True, demote=True)
    assert desk.pump.orders == ["demote 240", "hand_over", "take_over"]
    assert desk.demotions.by_reason == {"yield (group lan)": 240}


def test_a_backup_takes_over_from_a_slower_master(
    worker: ThreadPoolExecutor, tmp_path: Path
) -> None:
    asked = Asked(preempt=False).hear(OTHER, **SLOWER)
    done = Desk(asked, worker, tmp_path).preempts()
    assert done == HandedOver(True, [HandedOver.Host("eth0", 42, "MASTER", OTHER)])
    assert asked.node.reason == "taken_over"


def in_maintenance() -> Asked:
    asked = Asked(preempt=False).hear(OTHER, advskew=254)
    asked.engine.demote(0, 10, asked.now_ns, "maintenance")
    return asked


def demoted() -> Asked:
    asked = Asked(preempt=False).hear(OTHER, advskew=200)
    asked.engine.demote(0, 120, asked.now_ns)
    return asked


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (lambda: master(True), "it is MASTER already"),
        (lambda: Asked().become("INIT"), r"it is INIT \(link_down\): only a BACKUP can take over"),
        (Asked, "no master has been heard: it becomes MASTER by itself"),
        (
            lambda: Asked().hear(OTHER, **FASTER),
            r"its master would take it back: 10\.77\.0\.3 at 1/50 is faster than our 1/100",
        ),
        (
            lambda: Asked().hear(OTHER, advskew=100),
            r"its master would take it back: 10\.77\.0\.3 at 1/100 is as fast as our 1/100",
        ),
        (
            lambda: Asked(preempt=False).hear("10.77.0.4", **FASTER).hear(OTHER, **SLOWER),
            r"its master would take it back: 10\.77\.0\.4 at 1/50 is faster than our 1/100",
        ),
        (demoted, r"10\.77\.0\.3 at 1/200 is faster than our 1/220, demoted by 120"),
        (in_maintenance, "this host is in maintenance"),
        (
            lambda: Asked(dialect="openbsd", preempt=False).hear(OTHER, advskew=50, demote=0),
            r"10\.77\.0\.3 at 1/50 is faster than our 1/100",
        ),
    ],
)
def test_a_take_over_that_the_election_would_undo_is_refused_with_the_reason(
    asked: Callable[[], Asked], why: str, worker: ThreadPoolExecutor, tmp_path: Path
) -> None:
    desk = Desk(asked(), worker, tmp_path)
    with pytest.raises(ControlError, match=f"preempt: eth0/42: .*{why}"):
        desk.preempts()
    assert desk.pump.orders == []


class Crowd(Machine):
    """Two interfaces with virtual hosts of group lan, all MASTER; `rate` hand-overs a second.

    `looks`: snapshots of many; `judged`: of one.
    """

    def __init__(self, worker: ThreadPoolExecutor, each: int, rate: int) -> None:
        super().__init__(None, worker, each)
        for slot, host in list(self.hosts.used()):
            settings = msgspec.structs.replace(host.settings, group=Group("lan"))
            self.hosts.replace(slot, msgspec.structs.replace(host, settings=settings))
        self.looks = self.judgements = 0
        parts: Any = self
        self.hand_overs = HandOvers(
            self.hosts,
            parts,
            parts,
            Demotions(None, worker),
            snapshots=self.snapshots,
            rate=lambda: rate,
        )

    def find(self, interface: str, vhid: int) -> list[int]:
        return [slot for slot, _ in self.hosts.matching(interface, vhid)]

    async def judged(self, slot: int) -> Any:
        self.judgements += 1
        return SimpleNamespace(host=self.copy(slot), heard=[])

    async def snapshots(self, slots: Iterable[int]) -> AsyncIterator[Iterable[tuple[int, Any]]]:
        self.looks += 1
        yield [(slot, self.copy(slot)) for slot in slots]

    def copy(self, slot: int) -> Any:
        copy = super().copy(slot)
        copy.interval_ns, copy.master_down_ns, copy.reason = 0, int(DOWN_S * 1e9), "a test"
        return copy

    def demote(self, slot: int, amount: int, by: str = "maintenance") -> None:
        super().demote(slot, amount, by)

    def hand_over(self, slot: int, why: str = "maintenance") -> None:
        super().hand_over(slot, why)

    async def yields(self) -> HandedOver:
        request = YieldRequest("eth0", 1, group=True, demote=True)
        return await self.hand_overs.yields(request)


def test_a_group_is_handed_over_at_the_pace_and_looked_at_as_a_whole(
    worker: ThreadPoolExecutor,
) -> None:
    crowd = Crowd(worker, each=20, rate=100)
    begun_s = time.monotonic()
    done = asyncio.run(crowd.yields())
    took_s = time.monotonic() - begun_s
    assert [host.peer for host in done.virtual_hosts] == ["192.0.2.9"] * 40
    assert crowd.masters() == set()
    assert crowd.given_s[-1] - crowd.given_s[0] >= 0.35
    assert crowd.judgements == 40  # before the hand-over
    assert crowd.looks <= took_s / 0.05 + 3


def test_the_first_of_a_group_that_nobody_takes_over_ends_the_hand_overs(
    worker: ThreadPoolExecutor,
) -> None:
    crowd = Crowd(worker, each=50, rate=50)
    crowd.adopts -= {0}
    with pytest.raises(ControlError, match="yield: eth0/1: no other host took it over"):
        asyncio.run(crowd.yields())
    assert 1 <= len(crowd.slots("hand_over")) < 100
    assert set(crowd.slots("take_over")) == crowd.every
    assert crowd.masters() == crowd.every


def test_a_group_that_takes_too_long_at_the_pace_is_refused(worker: ThreadPoolExecutor) -> None:
    crowd = Crowd(worker, each=10, rate=1)
    why = "group lan has 20 MASTER: allowed: 10, what daemon.maintenance_rate = 1 hands over in"
    with pytest.raises(ControlError, match=why):
        asyncio.run(crowd.yields())
    assert crowd.log == []


def test_an_unknown_virtual_host_is_named_with_the_nearest(
    worker: ThreadPoolExecutor, tmp_path: Path
) -> None:
    desk = Desk(master(True), worker, tmp_path)
    with pytest.raises(ControlError, match="eth0 has no virtual host 41: the nearest is 42"):
        asyncio.run(desk.hand_overs.yields(YieldRequest("eth0", 41)))
