"""The dialects: ties, master-down times and demotion as each implementation has them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from carp_fast.engine.reports import DemoteHeard
from tests.support.segment import (
    SECOND_NS,
    START_NS,
    TICK_NS,
    Node,
    Segment,
    advertisement,
    prepared,
    read_advertisement,
    risen,
)

LATER_NS = START_NS + 11 * SECOND_NS  # MASTER by then
master = partial(risen, LATER_NS)


def hear(node: Node, now_ns: int, source: str = "10.77.0.1", **carp: Any) -> None:
    assert node.engine.receive(0, advertisement(source=source, **carp), now_ns) == "ok"
    node.take(now_ns)


@pytest.mark.parametrize(
    ("dialect", "advbase", "advskew", "units"),
    [
        ("ucarp", 1, 100, 3 * 256 + 100),
        ("freebsd", 1, 100, 3 * 256 + 100),
        ("openbsd", 1, 100, 3 * 356),
        ("ucarp", 0, 8, 24),
        ("freebsd", 0, 8, 24),
        ("openbsd", 0, 8, 24),
        ("openbsd", 0, 0, 3),  # 0/0 is 1/256 s there
    ],
)
def test_master_down_times(dialect: str, advbase: int, advskew: int, units: int) -> None:
    node = Node("10.77.0.2", dialect=dialect, advbase=advbase, advskew=advskew)
    down_ns = units * SECOND_NS // 256
    assert node.engine.host(0).deadline_ns == START_NS + down_ns
    node.run(START_NS + down_ns - TICK_NS)
    assert node.state == "BACKUP"
    node.run(START_NS + down_ns + 2 * TICK_NS)
    assert node.state == "MASTER"


@pytest.mark.parametrize("source", ["10.77.0.1", "10.77.0.9"])
@pytest.mark.parametrize("dialect", ["freebsd", "openbsd"])
def test_who_hears_a_tie_yields_in_the_bsds_without_a_word(dialect: str, source: str) -> None:
    node = master(dialect=dialect)
    hear(node, LATER_NS, source)
    assert (node.state, node.reason) == ("BACKUP", "tie_lost")
    assert node.words() == ["REMOVE_ADDRESSES"]


def test_a_tie_with_our_own_source_address_is_no_reason_to_yield() -> None:
    node = master(dialect="freebsd")
    hear(node, LATER_NS, "10.77.0.2", counter=1 << 40)
    assert node.state == "MASTER"


@pytest.mark.parametrize("dialect", ["freebsd", "openbsd"])
def test_two_that_yield_to_each_other_do_not_rise_together_for_ever(dialect: str) -> None:
    one, other = (Node(f"10.77.0.{n}", dialect=dialect) for n in (1, 2))
    segment = Segment(one, other)
    segment.passes = lambda *_: segment.now_ns > LATER_NS
    segment.run(10)
    assert len(segment.masters()) == 2
    segment.run(10)
    assert len(segment.masters()) == 1
    assert one.engine.host(0).deadline_ns != other.engine.host(0).deadline_ns


@pytest.mark.parametrize(
    ("dialect", "advskew", "demotion", "sent"),
    [
        ("ucarp", 100, 50, (150, 0)),
        ("ucarp", 100, 240, (240, 0)),
        ("ucarp", 254, 0, (254, 0)),
        ("ucarp", 254, 240, (254, 0)),  # never less than configured
        ("freebsd", 100, 50, (150, 0)),
        ("freebsd", 254, 0, (240, 0)),
        ("freebsd", 100, 300, (240, 0)),
        ("openbsd", 100, 50, (100, 50)),
        ("openbsd", 254, 300, (254, 255)),
    ],
)
def test_demotion_on_the_wire(
    dialect: str, advskew: int, demotion: int, sent: tuple[int, int]
) -> None:
    node = Node("10.77.0.2", dialect=dialect, advskew=advskew)
    node.engine.demote(0, demotion, START_NS)
    node.run(LATER_NS)
    heard = read_advertisement(next(d.content for d in node.done if d.action == "ADVERTISE"))
    assert (heard.advskew, heard.demote) == sent
    host = node.engine.host(0)
    assert (host.effective_advskew, host.demote) == sent


@pytest.mark.parametrize(
    ("own", "theirs", "advskew", "state"),
    [
        (2, 1, 254, "BACKUP"),  # a lower demote wins over any interval
        (1, 2, 0, "MASTER"),  # and a higher one loses, however fast
        (1, 1, 200, "MASTER"),
        (1, 1, 0, "BACKUP"),
        (1, 1, 100, "BACKUP"),  # a tie
        (0, 0, 0, "BACKUP"),
    ],
)
def test_openbsd_as_master_compares_demote_before_intervals(
    own: int, theirs: int, advskew: int, state: str
) -> None:
    node = master(dialect="openbsd", advskew=100)
    node.engine.demote(0, own, LATER_NS)
    node.forget()
    hear(node, LATER_NS, advskew=advskew, demote=theirs)
    assert node.state == state
    if theirs < own:
        assert node.reason == "less_demoted_master"
        assert "ADVERTISE" not in node.words()  # its interval says nothing about who yields


@pytest.mark.parametrize("preempt", [False, True, "demoted"])
@pytest.mark.parametrize(
    ("own", "theirs", "advskew", "when"),
    [
        (1, 2, 0, {False, True, "demoted"}),
        (2, 1, 254, set()),
        (1, 1, 200, {True}),
        (1, 1, 100, set()),
        (1, 1, 0, set()),
    ],
)
def test_openbsd_as_backup(
    preempt: bool | str, own: int, theirs: int, advskew: int, when: set[bool | str]
) -> None:
    node = Node("10.77.0.2", dialect="openbsd", advskew=100, preempt=preempt)
    node.engine.demote(0, own, START_NS)
    hear(node, START_NS + SECOND_NS, advskew=advskew, demote=theirs)
    takes_over = preempt in when
    assert node.state == ("MASTER" if takes_over else "BACKUP")
    if takes_over:
        assert node.reason == ("master_demoted" if theirs > own else "preempted")


def test_a_demote_byte_heard_in_another_dialect_is_said_once() -> None:
    node = Node("10.77.0.2")
    for counter in (1, 2, 3):
        hear(node, START_NS + counter, counter=counter, demote=5)
    assert [report.demote for report in node.reported(DemoteHeard)] == [5]
    openbsd = Node("10.77.0.2", dialect="openbsd")
    hear(openbsd, START_NS + 1, demote=5)
    assert openbsd.reported(DemoteHeard) == []


@pytest.mark.parametrize("own", [0, 3])
def test_openbsd_does_not_yield_to_who_resigns(own: int) -> None:
    node = master(dialect="openbsd")
    node.engine.demote(0, own, LATER_NS)
    hear(node, LATER_NS, advbase=255, advskew=255, demote=0)
    assert node.state == "MASTER"


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
def test_a_resignation_is_followed_in_every_dialect(dialect: str) -> None:
    node = Node("10.77.0.2", dialect=dialect, advskew=10)
    hear(node, START_NS, counter=1)
    hear(node, START_NS + SECOND_NS, counter=2, advbase=255, advskew=255)
    node.run(START_NS + SECOND_NS + 10 * SECOND_NS // 256 + 2 * TICK_NS)
    assert (node.state, node.reason) == ("MASTER", "master_resigned")


def test_openbsd_with_advbase_0_does_not_look_for_who_will_time_out() -> None:
    for dialect, state in (("openbsd", "BACKUP"), ("ucarp", "MASTER")):
        node = Node("10.77.0.2", dialect=dialect, advbase=0, advskew=10, preempt=False)
        now_ns = START_NS + 30 * SECOND_NS // 256 - TICK_NS
        hear(node, now_ns, advbase=1, advskew=0)
        node.run(now_ns + 20 * SECOND_NS // 256)
        assert node.state == state, dialect


def test_failing_sends_demote_openbsd_by_one() -> None:
    for dialect, sent in (("openbsd", (0, 1)), ("freebsd", (240, 0)), ("ucarp", (240, 0))):
        node = master(dialect=dialect)
        node.engine.fail_sends(0, 3, LATER_NS)
        host = node.engine.host(0)
        assert (host.effective_advskew, host.demote) == sent


def test_the_wake_tick_follows_the_shortest_interval_in_use() -> None:
    node = Node("10.77.0.2", advbase=1)
    slow_ns = node.engine.wake_tick_ns
    node.engine.add(1, prepared(vhid=7, advbase=0, advskew=8), START_NS)
    assert node.engine.wake_tick_ns * 16 <= 8 * SECOND_NS // 256
    node.engine.remove(1, START_NS + 1)
    node.engine.mark(START_NS + 1)
    assert node.engine.wake_tick_ns == slow_ns


def test_a_demotion_does_not_make_the_wake_tick_longer() -> None:
    # It may end without an order, and then the tick must be short enough already.
    node = Node("10.77.0.2")
    node.engine.add(1, prepared(vhid=7, advbase=0, advskew=8), START_NS)
    fast_ns = node.engine.wake_tick_ns
    node.engine.add(2, prepared(vhid=8, advbase=0, advskew=8), START_NS)
    node.engine.fail_sends(1, 3, START_NS)
    node.engine.remove(2, START_NS + 1)
    node.engine.mark(START_NS + 1)
    assert node.engine.wake_tick_ns == fast_ns
    node.engine.remove(1, START_NS + 2)  # demoted as it is
    node.engine.mark(START_NS + 2)
    assert node.engine.wake_tick_ns > fast_ns


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
def test_a_live_master_that_is_too_slow_has_not_resigned(dialect: str) -> None:
    node = Node("10.77.0.2", advskew=10, dialect=dialect, preempt=False)
    slow: dict[str, Any] = {"source": "10.77.0.9", "advbase": 20}
    assert node.engine.receive(0, advertisement(counter=1, **slow), START_NS) == "ok"
    assert node.engine.receive(0, advertisement(counter=2, **slow), START_NS + TICK_NS) == "ok"
    node.run(START_NS + SECOND_NS)
    assert (node.state, node.reason) == ("MASTER", "master_too_slow")


def test_a_slow_master_that_resigns_has_resigned() -> None:
    node = Node("10.77.0.2", advskew=200)
    slow = advertisement(source="10.77.0.9", advbase=20, counter=1)
    leaving = advertisement(source="10.77.0.9", advbase=255, advskew=255, counter=2)
    assert node.engine.receive(0, slow, START_NS) == "ok"
    assert node.engine.receive(0, leaving, START_NS + SECOND_NS // 2) == "ok"
    node.run(START_NS + SECOND_NS)
    assert (node.state, node.reason) == ("MASTER", "master_resigned")
