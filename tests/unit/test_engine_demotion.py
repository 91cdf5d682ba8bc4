"""Demotion by reasons, and hard conditions, by orders to the engine."""

from __future__ import annotations

from functools import partial

import pytest

from carp_fast.engine.reports import StateChanged
from tests.support.segment import (
    SECOND_NS,
    START_NS,
    TICK_NS,
    Node,
    Segment,
    advertisement,
    last_frame,
    prepared,
    read_advertisement,
    risen,
)

MASTER_NS = START_NS + 10 * SECOND_NS
master = partial(risen, MASTER_NS)


@pytest.mark.parametrize(
    ("advskew", "demotion", "goes_out"),
    [
        *((advskew, 0, advskew) for advskew in (0, 100, 254)),
        *((0, demotion, demotion) for demotion in (1, 50, 239, 240)),
        *((100, demotion, 100 + demotion) for demotion in (1, 139, 140)),
        *((advskew, demotion, 240) for advskew in (0, 100, 200) for demotion in (300, 65_535)),
    ],
)
def test_demotion_is_clamped(advskew: int, demotion: int, goes_out: int) -> None:
    node = master(advskew=advskew)
    node.engine.demote(0, demotion, MASTER_NS)
    node.run(MASTER_NS + 3 * SECOND_NS)
    assert read_advertisement(last_frame(node)).advskew == goes_out
    assert node.engine.host(0).effective_advskew == goes_out
    node.engine.demote(0, 0, MASTER_NS + 3 * SECOND_NS)
    node.run(MASTER_NS + 6 * SECOND_NS)
    assert read_advertisement(last_frame(node)).advskew == advskew


ORDERED = ("operator", "track", "group", "maintenance")


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
def test_each_reason_of_a_demotion_is_added_and_removed_on_its_own(dialect: str) -> None:
    node, wanted, at_ns = master(dialect=dialect), {}, MASTER_NS
    changes = [(by, amount) for amount, by in enumerate(ORDERED, 10)]
    changes += [("track", 30), ("operator", 0), ("group", 0), ("track", 0), ("maintenance", 0)]
    for by, amount in changes:
        node.engine.demote(0, amount, at_ns, by)
        wanted[by] = amount
        at_ns += 6 * SECOND_NS  # by its group it resigns, and nobody else takes over
        node.run(at_ns)
        host = node.engine.host(0)
        assert host.demotions == {by: amount for by, amount in wanted.items() if amount}
        sent = read_advertisement(last_frame(node))
        total = sum(wanted.values())
        assert (sent.advskew, sent.demote) == ((0, total) if dialect == "openbsd" else (total, 0))


@pytest.mark.parametrize(("demotion", "by"), [(-1, "operator"), (1, "link"), (1, "anything")])
def test_a_demotion_has_an_amount_and_a_reason_that_can_be_ordered(demotion: int, by: str) -> None:
    with pytest.raises(ValueError, match=r"not negative|must be one of operator, track, group"):
        master().engine.demote(0, demotion, MASTER_NS, by)


def test_a_host_that_is_added_demoted_does_not_preempt_before_it_is() -> None:
    node = Node("10.77.0.2", preempt=True)
    engine = node.engine
    engine.add(1, prepared(vhid=43, preempt=True), START_NS, 100)
    assert engine.host(1).demotions == {"operator": 100}
    engine.receive(0, advertisement(vhid=43, advskew=50), START_NS + 1)
    assert engine.host(1).state == "BACKUP"


def test_a_hard_condition_lets_a_master_resign_once_when_it_begins() -> None:
    node = master()
    node.engine.demote(0, 240, MASTER_NS, "track", hard=True)
    node.run(MASTER_NS + TICK_NS)
    assert (node.state, node.engine.host(0).reason) == ("BACKUP", "track_failed")
    assert node.engine.host(0).demotions == {"track": 240}
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    # Nobody else rises, so it does, and stays: what was ordered once does not act again.
    node.run(MASTER_NS + 10 * SECOND_NS)
    assert (node.state, node.engine.host(0).reason) == ("MASTER", "master_down")
    node.engine.demote(0, 250, MASTER_NS + 10 * SECOND_NS, "track", hard=True)
    node.engine.demote(0, 5, MASTER_NS + 10 * SECOND_NS, "operator")
    node.run(MASTER_NS + 20 * SECOND_NS)
    assert node.state == "MASTER"
    assert read_advertisement(last_frame(node)).advskew == 240
    node.engine.demote(0, 0, MASTER_NS + 20 * SECOND_NS, "track")
    node.engine.demote(0, 240, MASTER_NS + 20 * SECOND_NS, "track", hard=True)
    node.run(MASTER_NS + 20 * SECOND_NS + TICK_NS)
    assert node.state == "BACKUP"


def test_a_demotion_by_a_track_alone_lets_nobody_resign() -> None:
    node = master()
    node.engine.demote(0, 240, MASTER_NS, "track")
    node.run(MASTER_NS + 3 * SECOND_NS)
    assert node.state == "MASTER"
    assert read_advertisement(last_frame(node)).advskew == 240


def test_a_host_may_be_added_with_a_hard_condition_that_has_failed() -> None:
    node = Node("10.77.0.2", preempt=True)
    engine = node.engine
    engine.add(1, prepared(vhid=43, preempt=True), START_NS, 7, 240, True)
    assert engine.host(1).demotions == {"operator": 7, "track": 240}
    engine.receive(0, advertisement(vhid=43, advskew=200), START_NS + 1)
    assert engine.host(1).state == "BACKUP"
    # It had failed before: there is nothing to resign from when it is told again.
    node.run(START_NS + 20 * SECOND_NS)
    assert engine.host(1).state == "MASTER"
    engine.demote(1, 240, START_NS + 20 * SECOND_NS, "track", hard=True)
    assert engine.host(1).state == "MASTER"


def test_only_a_track_is_a_hard_condition() -> None:
    with pytest.raises(ValueError, match="only a track is a hard condition"):
        master().engine.demote(0, 240, MASTER_NS, "group", hard=True)


def test_a_host_without_a_link_shows_it_as_a_demotion_until_it_is_back() -> None:
    node = master(advskew=100)
    node.engine.demote(0, 5, MASTER_NS)
    node.attach(MASTER_NS, up=False)
    host = node.engine.host(0)
    assert host.state == "INIT"
    assert host.demotions == {"operator": 5, "link": 240}
    assert host.effective_advskew == 105  # nothing is sent, so the link changes nothing there
    node.attach(MASTER_NS + SECOND_NS)
    host = node.engine.host(0)
    assert (host.state, host.demotions) == ("BACKUP", {"operator": 5})


def test_a_change_of_state_says_how_the_host_was_demoted() -> None:
    node = Node("10.77.0.1")
    node.engine.demote(0, 5, START_NS)
    node.engine.demote(0, 7, START_NS, "track")
    node.run(MASTER_NS)
    rose = [report for report in node.reported(StateChanged) if report.state == "MASTER"]
    assert [report.demotions for report in rose] == [(("operator", 5), ("track", 7))]


def test_a_demoted_master_is_preempted_by_default_and_takes_over_again_if_alone() -> None:
    first, second = Node("10.77.0.1"), Node("10.77.0.2", advskew=100)
    segment = Segment(first, second)
    segment.run(10)
    assert segment.masters() == [first]
    first.engine.demote(0, 239, segment.now_ns)
    segment.run(10)
    assert segment.masters() == [first]
    first.engine.demote(0, 240, segment.now_ns)
    segment.run(10)
    assert segment.masters() == [second]
    assert (second.reason, first.reason) == ("preempted", "faster_master")
    segment.leave(second)
    segment.run(10)
    assert segment.masters() == [first]
