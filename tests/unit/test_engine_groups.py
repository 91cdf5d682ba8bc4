"""Groups of virtual hosts: when they are demoted, what their members do, how they are recorded."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.engine._engine import Engine
from carp_fast.engine.actions import Advertise, Resign
from carp_fast.engine.reports import GroupChanged, StateChanged
from carp_fast.replay import scenario as scenarios
from carp_fast.replay.comparison import compare
from carp_fast.replay.player import play
from carp_fast.replay.recording import Copy, Recorded, as_scenario
from tests.support.segment import (
    SECOND_NS,
    START_NS,
    VHID,
    ip,
    prepared,
    read_advertisement,
)

A_TURN = 4096  # VISITS_A_TURN


class Grouped:
    """An engine with one virtual host on each of its interfaces, in groups by number."""

    def __init__(self, *groups: int, up: bool = True, all_of: frozenset[int] = frozenset()) -> None:
        self.engine = Engine(seed=1)
        self.engine.record(4096)
        self.all_of = all_of
        self.now_ns = START_NS
        self.errors: dict[Any, int] = {}  # of sends, as take_actions() has them
        self.slots: list[int] = []
        self.reports: list[Any] = []
        self.sent: list[tuple[int, bytes]] = []
        for number, group in enumerate(groups):
            if up:
                self.link(number, at_ns=START_NS)
            self.add(number, group)

    def prepared(self, slot: int, group: int, **settings: Any) -> Any:
        return prepared(interface=slot, group=group, group_all=group in self.all_of, **settings)

    def add(self, slot: int, group: int, **settings: Any) -> None:
        self.engine.add(slot, self.prepared(slot, group, **settings), self.now_ns)
        self.slots.append(slot)

    def link(self, number: int, *, at_ns: int | None = None, **how: Any) -> None:
        wanted: dict[str, Any] = {"source": ip("10.77.0.2"), "ifindex": number + 1} | how
        self.engine.set_interface(number, self.now_ns if at_ns is None else at_ns, **wanted)

    def run(self, seconds: float) -> None:
        until_ns = self.now_ns + int(seconds * SECOND_NS)
        while (at_ns := self.engine.next_deadline_ns()) is not None and at_ns <= until_ns:
            self.turn(at_ns)
        self.turn(until_ns)

    def turn(self, at_ns: int) -> None:
        assert at_ns >= self.now_ns
        self.now_ns = at_ns
        self.engine.expire(at_ns)
        for action in self.engine.take_actions(at_ns, self.errors):
            if isinstance(action, Advertise | Resign):
                self.sent.append((action.slot, action.frame))
        self.reports += self.engine.take_reports()

    def masters(self) -> Grouped:
        self.run(10)
        assert set(self.states) == {"MASTER"}
        self.reports.clear()
        self.sent.clear()
        return self

    @property
    def states(self) -> list[str]:
        return [self.engine.host(slot).state for slot in self.slots]

    @property
    def by_group(self) -> list[int]:
        return [self.engine.host(slot).demotions.get("group", 0) for slot in self.slots]

    def changes(self, slot: int) -> list[tuple[str, str]]:
        mine = (r for r in self.reports if isinstance(r, StateChanged) and r.slot == slot)
        return [(r.state, r.reason) for r in mine]

    @property
    def groups(self) -> list[Any]:
        """(number, demoted, members, impeded, because) of each report of a group."""
        return [
            (r.group, r.demoted, r.members, r.impeded, r.because)
            for r in self.reports
            if isinstance(r, GroupChanged)
        ]


def test_one_member_without_a_link_demotes_all_and_each_master_resigns_once() -> None:
    node = Grouped(1, 1, 1, 2, 0).masters()
    node.link(1, up=False)
    node.run(0.1)
    assert node.states == ["BACKUP", "INIT", "BACKUP", "MASTER", "MASTER"]
    assert node.by_group == [240, 240, 240, 0, 0]
    assert node.changes(0) == [("BACKUP", "group_demoted")]
    assert node.groups == [(1, True, 3, 1, (1,))]
    resigned = [slot for slot, frame in node.sent if read_advertisement(frame).advbase == 255]
    assert sorted(resigned) == [0, 2]
    node.run(30)  # nobody else is there: they hold what they can
    assert node.states == ["MASTER", "INIT", "MASTER", "MASTER", "MASTER"]
    assert [reason for _, reason in node.changes(0)] == ["group_demoted", "master_down"]
    last = [frame for slot, frame in node.sent if slot == 0][-1]
    assert read_advertisement(last).advskew == 240


def test_a_group_is_no_longer_demoted_once_every_member_can_be_master_again() -> None:
    node = Grouped(1, 1, 1).masters()
    node.link(0, up=False)
    node.link(1, ifindex=0)
    node.run(0.1)
    assert node.groups[-1] == (1, True, 3, 2, (1, 0))
    node.link(0)
    node.run(0.1)
    assert node.by_group == [240, 240, 240]
    assert node.groups[-1] == (1, True, 3, 1, (1,))
    node.link(1)
    node.run(0.1)
    assert node.by_group == [0, 0, 0]
    assert node.groups[-1] == (1, False, 3, 0, ())
    assert "resigned" not in {reason for slot in range(3) for _, reason in node.changes(slot)}


def test_a_group_that_demands_all_is_demoted_by_the_last_member_that_could() -> None:
    node = Grouped(1, 1, 1, all_of=frozenset({1})).masters()
    node.link(0, up=False)
    node.link(1, up=False)
    node.run(0.1)
    assert node.states == ["INIT", "INIT", "MASTER"]
    assert node.by_group == [0, 0, 0]
    assert node.groups == [(1, False, 3, 2, (1, 0))]
    node.link(2, up=False)
    node.run(0.1)
    assert node.by_group == [240, 240, 240]
    assert node.groups[1:] == [(1, True, 3, 3, (2, 1, 0))]
    node.link(1)
    node.run(0.1)
    assert node.by_group == [0, 0, 0]


LACKING: dict[str, dict[str, Any]] = {
    "link": {"up": False},
    "interface": {"ifindex": 0},
    "source": {"source": None},
}


@pytest.mark.parametrize("lacking", LACKING)
def test_what_a_member_may_lack(lacking: str) -> None:
    node = Grouped(1, 1).masters()
    node.link(0, **LACKING[lacking])
    node.run(1.1)  # a source is looked for until the next advertisement
    assert node.states == ["INIT", "BACKUP"]
    assert node.by_group == [240, 240]


def test_a_member_that_cannot_send_demotes_its_group_until_it_can() -> None:
    node = Grouped(1, 1).masters()
    node.errors = {(0, None): errno.ENETDOWN}
    node.run(4)
    assert node.by_group == [240, 240]
    assert [node.changes(slot)[0] for slot in (0, 1)] == [("BACKUP", "group_demoted")] * 2
    node.errors = {}
    node.run(12)
    assert node.by_group == [0, 0]
    assert node.states == ["MASTER", "MASTER"]


def test_a_member_that_cannot_hold_its_addresses_demotes_its_group_for_a_while() -> None:
    node = Grouped(1, 1).masters()
    node.engine.lose_address(0, node.now_ns)
    node.run(0.1)
    assert node.by_group == [240, 240]
    assert node.changes(0) == [("BACKUP", "address_lost")]
    assert node.changes(1) == [("BACKUP", "group_demoted")]
    node.run(61)
    assert node.by_group == [0, 0]


def test_a_hard_condition_of_a_member_demotes_its_group() -> None:
    node = Grouped(1, 1).masters()
    node.engine.demote(0, 240, node.now_ns, "track", hard=True)
    node.run(0.1)
    assert node.by_group == [240, 240]
    assert node.changes(0) == [("BACKUP", "track_failed")]
    assert node.changes(1) == [("BACKUP", "group_demoted")]
    node.engine.demote(0, 0, node.now_ns, "track")
    node.run(0.1)
    assert node.by_group == [0, 0]


def test_another_process_and_the_operator_do_not_demote_a_group() -> None:
    node = Grouped(1, 1).masters()
    node.engine.bar(0, True, node.now_ns)
    node.engine.demote(1, 100, node.now_ns)
    node.run(0.1)
    assert node.by_group == [0, 0]
    assert node.groups == []


def test_an_interface_that_was_not_reported_yet_demotes_nobody() -> None:
    node = Grouped(1, 1, up=False)
    node.link(0)
    node.run(10)
    assert node.states == ["MASTER", "INIT"]
    assert node.by_group == [0, 0]
    node.link(1, up=False)  # now it is known to have no link
    node.run(0.1)
    assert node.by_group == [240, 240]


def test_a_startup_delay_after_a_link_failure_keeps_the_group_demoted() -> None:
    node = Grouped(1)
    node.link(1)
    node.add(1, 1, startup_delay_ns=20 * SECOND_NS)
    node.run(10)
    assert node.by_group == [0, 0]  # the first start is not a failure
    node.run(20)
    node.link(1, up=False)
    node.run(1)
    node.link(1)
    node.run(19)
    assert node.by_group == [240, 240]
    node.run(2)
    assert node.by_group == [0, 0]


def test_members_that_join_and_leave_take_and_lose_the_demotion() -> None:
    node = Grouped(1, 1, 0).masters()
    node.link(0, up=False)
    node.run(0.1)
    node.engine.replace(2, node.prepared(2, 1), node.now_ns)
    assert node.by_group == [240, 240, 240]
    assert node.engine.host(2).reason == "group_demoted"
    node.link(3)
    node.add(3, 1)
    assert node.by_group == [240, 240, 240, 240]
    node.engine.replace(2, node.prepared(2, 2), node.now_ns)
    assert node.by_group == [240, 240, 0, 240]
    node.engine.replace(0, node.prepared(0, 0), node.now_ns)
    node.run(0.1)
    assert node.by_group == [0, 0, 0, 0]


def test_a_removed_member_is_counted_no_more() -> None:
    node = Grouped(1, 1, 1).masters()
    node.link(0, up=False)
    node.run(0.1)
    node.engine.remove(0, node.now_ns)
    node.slots.remove(0)
    node.run(0.1)
    assert node.by_group == [0, 0]
    assert node.groups[-1] == (1, False, 2, 0, ())
    node.add(0, 1)  # its link is still down
    node.run(0.1)
    assert node.by_group == [240, 240, 240]


def test_the_rule_of_a_group_changes_in_place() -> None:
    node = Grouped(1, 1).masters()
    node.link(0, up=False)
    node.run(0.1)
    node.all_of = frozenset({1})
    for slot in range(2):
        node.engine.replace(slot, node.prepared(slot, 1), node.now_ns)
    node.run(0.1)
    assert node.by_group == [0, 0]


def test_a_shutdown_resigns_every_master_and_demotes_nobody() -> None:
    node = Grouped(1, 1, 1).masters()
    node.link(0, up=False)
    node.engine.resign_all(node.now_ns)
    node.run(0.1)
    assert node.states == ["INIT", "INIT", "INIT"]
    assert node.groups == []


def large(members: int, *, down: frozenset[int] = frozenset()) -> Grouped:
    """A group of so many members, 255 on an interface, some of which have no link."""
    node = Grouped()
    for number in range(members // 255 + 1):
        node.link(number, up=number not in down)
    for slot in range(members):
        settings = {"interface": slot // 255, "vhid": slot % 255 + 1, "group": 1}
        node.engine.add(slot, prepared(**settings), START_NS)
        node.slots.append(slot)
    return node


def test_a_large_group_is_demoted_in_slices_between_which_advertisements_are_sent() -> None:
    node = large(3 * A_TURN)
    node.link(5, up=False)
    demoted = []
    for _ in range(5):
        node.turn(node.now_ns)
        demoted.append(sum(map(bool, node.by_group)))
    assert demoted == [A_TURN, 2 * A_TURN, 3 * A_TURN, 3 * A_TURN, 3 * A_TURN]


def test_a_group_that_changes_half_way_leaves_no_member_behind() -> None:
    node = large(2 * A_TURN)
    node.link(5, up=False)
    node.turn(node.now_ns)
    assert set(node.by_group) == {0, 240}
    for number in (20, 30, 0):  # their members are put in another place, before and behind the walk
        node.link(number, up=False)
    for _ in range(3):
        node.turn(node.now_ns)
    assert set(node.by_group) == {240}
    for number in (5, 20, 30, 0):
        node.link(number)
    node.turn(node.now_ns)
    node.link(7, up=False)
    node.turn(node.now_ns)
    node.link(7)
    for _ in range(4):
        node.turn(node.now_ns)
    assert set(node.by_group) == {0}


def test_two_hosts_that_are_both_half_broken_hold_what_they_can_and_resign_once() -> None:
    nodes = [Grouped(1, 1), Grouped(1, 1)]
    for number, source in enumerate(("10.77.0.2", "10.77.0.3")):
        for link in (0, 1):
            nodes[number].link(link, source=ip(source))
    changed = [0]
    for step in range(900):
        if step == 200:
            nodes[0].link(0, up=False)
            nodes[1].link(1, up=False)
        for node, other in (nodes, reversed(nodes)):
            node.turn(node.now_ns + SECOND_NS // 10)
            sent, node.sent = node.sent, []
            for slot, frame in sent:
                if "INIT" not in (node.states[slot], other.states[slot]):
                    other.engine.receive(slot, frame, other.now_ns)
        changed.append(sum(len(node.changes(slot)) for node in nodes for slot in (0, 1)))
    here, there = nodes
    assert (here.states, there.states) == (["INIT", "MASTER"], ["MASTER", "INIT"])
    assert [here.by_group, there.by_group] == [[240, 240], [240, 240]]
    assert changed[300] == changed[-1] > changed[199]


def test_groups_that_are_told_again_are_those_with_members() -> None:
    node = Grouped(1, 2, 0).masters()
    node.engine.tell_groups(node.now_ns)
    node.run(0.1)
    assert node.groups == [(1, False, 1, 0, ()), (2, False, 1, 0, ())]


@pytest.mark.parametrize("slots", [(0, 1, 2), (1,)])
def test_a_recording_of_some_members_decides_the_same_again(slots: tuple[int, ...]) -> None:
    node = Grouped(1, 1, 1)
    node.run(10)
    node.link(0, up=False)
    node.run(20)
    node.link(0)
    node.run(20)
    settings = Settings(passphrase=b"not to be written")
    hosts = {
        slot: Recorded(VirtualHost(f"eth{slot}", VHID, ("10.77.0.100/24",), (), settings))
        for slot in slots
    }
    copy = Copy(node.engine.records(), 0, 0)
    text = "\n".join(as_scenario(copy, hosts, ["eth0", "eth1", "eth2"], ["A group."]))
    assert "eth1/42 demote 240 group" in text
    scenario = scenarios.parse(text)
    rows = list(compare(scenario, play(scenario)))
    assert [row for row in rows if not row.same] == []
    assert "BACKUP group_demoted" in {row.recorded for row in rows}
    assert "eth1/42 demote 0 group" in text
