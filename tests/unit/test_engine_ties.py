"""Ties that all lose: in the BSDs the hearer yields, and only jitter parts the hosts then."""

from __future__ import annotations

from typing import Any

import pytest

from carp_fast.engine.reports import StateChanged
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    SECOND_NS,
    START_NS,
    Node,
    Segment,
    advertisement,
    next_deadline,
)

SIGNED: dict[str, Any] = {"addresses": [ADDRESS, ADDRESS6]}
BOTH: dict[str, Any] = {"addresses": [(ADDRESS, 24), (ADDRESS6, 64)]}
JITTER_NS = SECOND_NS // 4  # at most, after the first tie
DOWN_NS = 3 * SECOND_NS
LATER_NS = START_NS + 11 * SECOND_NS  # MASTER by then


def crossing(count: int, **settings: Any) -> Segment:
    """Hosts of equal priority, all of them MASTER, that hear each other from 11 s on."""
    nodes = [
        Node(f"10.77.0.{n}", on6=f"fe80::{n}", dialect="freebsd", **settings)
        for n in range(1, count + 1)
    ]
    segment = Segment(*nodes)
    segment.passes = lambda *_: segment.now_ns > LATER_NS
    segment.run(10)
    assert len(segment.masters()) == count
    return segment


def hear_both(node: Node, now_ns: int, counter: int) -> None:
    for source in ("10.77.0.1", "fe80::1"):
        frame = advertisement(source=source, counter=counter, **SIGNED)
        assert node.engine.receive(0, frame, now_ns) == "ok"
        counter += 1
    node.take(now_ns)


def test_the_second_family_of_an_advertisement_does_not_undo_the_jitter() -> None:
    waits = set()
    for n in range(2, 12):
        node = Node(f"10.77.0.{n}", on6=f"fe80::{n}", dialect="freebsd", **BOTH)
        node.run(LATER_NS)
        hear_both(node, LATER_NS, counter=10)
        assert node.reason == "tie_lost"
        waits.add(node.engine.host(0).deadline_ns - LATER_NS - DOWN_NS)
    assert len(waits) > 5
    assert all(0 <= wait < JITTER_NS for wait in waits)


@pytest.mark.parametrize("settings", [{}, BOTH], ids=["one family", "both"])
@pytest.mark.parametrize("count", [2, 4])
def test_of_hosts_that_yield_to_each_other_one_is_left(
    count: int, settings: dict[str, Any]
) -> None:
    """Four: two may rise together and yield again, and the other two with the same deadline."""
    segment = crossing(count, **settings)
    segment.run(20)
    assert len(segment.masters()) == 1


def test_those_who_wait_keep_their_jitter_when_others_tie() -> None:
    """Until the tie is settled, each silence begins with the host's own part of it."""
    node = Node("10.77.0.2", on6="fe80::2", dialect="freebsd", **BOTH)
    node.run(LATER_NS)
    hear_both(node, LATER_NS, counter=10)
    wait_ns = node.engine.host(0).deadline_ns - LATER_NS - DOWN_NS
    assert wait_ns > 0
    hear_both(node, LATER_NS + DOWN_NS, counter=20)
    assert node.engine.host(0).deadline_ns == LATER_NS + 2 * DOWN_NS + wait_ns
    # One master has advertised for two master-down times: the next one waits as configured.
    now_ns = LATER_NS
    for counter in range(30, 40):
        now_ns += SECOND_NS
        hear_both(node, now_ns, counter=2 * counter)
    assert node.engine.host(0).deadline_ns == now_ns + DOWN_NS


def stable_master(segment: Segment) -> Node:
    """Who is MASTER after 30 s, for 10 s more, and nobody besides."""
    segment.run(30)
    (master,) = segment.masters()
    for node in segment.nodes:
        node.forget()
    segment.run(10)
    assert [node.changes() for node in segment.nodes] == [[]] * len(segment.nodes)
    return master


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equal_hosts_that_take_over_from_the_same_demoted_master_part_in_the_end(
    count: int,
) -> None:
    """At first all of them rise at its advertisement, tie and yield. It is the next to rise, being
    the fastest; this time each of them waits its jitter and hears whose was the shortest."""
    demoted = Node("10.77.0.9", dialect="openbsd", advskew=0)
    others = [Node(f"10.77.0.{n}", dialect="openbsd", advskew=50) for n in range(1, count + 1)]
    segment = Segment(demoted, *others)
    segment.run(10)
    assert segment.masters() == [demoted]
    demoted.engine.demote(0, 2, segment.now_ns)
    master = stable_master(segment)
    assert master in others
    assert master.reason == "master_demoted"


def test_equal_hosts_that_preempt_the_same_slower_master_part_in_the_end() -> None:
    slow = Node("10.77.0.9", dialect="freebsd", advskew=1, preempt=False)
    fast = [Node(f"10.77.0.{n}", dialect="freebsd", preempt=True) for n in (1, 2, 3)]
    segment = Segment(slow, *fast)
    segment.apart = set(fast)
    segment.run(2)
    for node in fast:
        node.attach(segment.now_ns, up=False)
        node.take(segment.now_ns)
    segment.run(5)
    assert segment.masters() == [slow]
    segment.apart = set()
    for node in fast:
        node.attach(segment.now_ns, up=True)
    master = stable_master(segment)
    assert master in fast


def test_a_contested_take_over_waits_no_longer_than_the_jitter() -> None:
    node = Node("10.77.0.2", dialect="freebsd", preempt=True)
    node.run(LATER_NS)
    assert node.engine.receive(0, advertisement(counter=1), LATER_NS) == "ok"
    assert node.reason == "tie_lost"
    heard_ns = LATER_NS + SECOND_NS
    for counter in (2, 3):  # the second one does not let it wait anew
        assert node.engine.receive(0, advertisement(counter=counter, advskew=9), heard_ns) == "ok"
        heard_ns += SECOND_NS // 1000
    node.run(heard_ns + JITTER_NS)
    assert (node.state, node.reason) == ("MASTER", "preempted")


def test_maintenance_ends_a_contested_take_over_that_has_begun() -> None:
    node = Node("10.77.0.2", dialect="freebsd", preempt=True)
    node.run(LATER_NS)
    assert node.engine.receive(0, advertisement(counter=1), LATER_NS) == "ok"
    slower = advertisement(counter=2, advskew=9)
    assert node.engine.receive(0, slower, LATER_NS + SECOND_NS) == "ok"
    node.engine.demote(0, 240, LATER_NS + SECOND_NS, "maintenance")
    node.run(LATER_NS + SECOND_NS + DOWN_NS)
    assert node.state == "BACKUP"
    node.run(LATER_NS + SECOND_NS + 2 * DOWN_NS)
    assert (node.state, node.reason) == ("MASTER", "master_down")


def test_a_contested_take_over_is_left_to_who_was_faster() -> None:
    node = Node("10.77.0.2", dialect="freebsd", preempt=True)
    node.run(LATER_NS)
    for counter, advskew in ((1, 0), (2, 9), (3, 0)):
        frame = advertisement(counter=counter, advskew=advskew)
        assert node.engine.receive(0, frame, LATER_NS) == "ok"
    wait_ns = node.engine.host(0).deadline_ns - LATER_NS
    assert DOWN_NS < wait_ns < DOWN_NS + JITTER_NS


def test_who_was_out_of_the_election_has_lost_no_tie() -> None:
    node = Node("10.77.0.2", dialect="freebsd", preempt=True)
    node.run(LATER_NS)
    assert node.engine.receive(0, advertisement(counter=1), LATER_NS) == "ok"
    assert node.engine.host(0).deadline_ns > LATER_NS + DOWN_NS
    node.attach(LATER_NS, up=False)
    node.attach(LATER_NS, up=True)
    assert node.engine.host(0).deadline_ns == LATER_NS + DOWN_NS
    assert node.engine.receive(0, advertisement(counter=2, advskew=9), LATER_NS) == "ok"
    assert (node.state, node.reason) == ("MASTER", "preempted")


# ------------------------------------------------------------------------- how long the jitter is


def jitters(node: Node, source: str, times: int) -> list[int]:
    """How much longer the node waits after each of so many ties with `source`, without an end."""
    waits = []
    counter = 1 << 40
    for _ in range(times):
        while node.state != "MASTER":
            node.run(next_deadline(node.engine))
        now_ns = node.times("ADVERTISE")[-1]
        counter += 1 << 20
        assert node.engine.receive(0, advertisement(source=source, counter=counter), now_ns) == "ok"
        assert (node.state, node.reason) == ("BACKUP", "tie_lost")
        waits.append(node.engine.host(0).deadline_ns - now_ns - DOWN_NS)
    return waits


@pytest.mark.parametrize("dialect", ["freebsd", "openbsd", "ucarp"])
def test_the_range_of_the_jitter_doubles_up_to_an_interval(dialect: str) -> None:
    """The lower source is heard: behind it in the last quarter of each range, a BSD's being 0."""
    seen = set()
    for seed in range(20):
        node = Node("10.77.0.2", dialect=dialect, replay="off", seed=seed)
        waits = jitters(node, "10.77.0.1", 6)
        for number, wait_ns in enumerate(waits):
            range_ns = min(SECOND_NS, (SECOND_NS // 4) << number)
            assert 3 * range_ns // 4 - 1000 <= wait_ns < range_ns, number
        seen.update(waits)
    assert len(seen) > 100


def test_by_turns_the_lowest_source_is_before_the_others_and_behind_who_waits_no_longer() -> None:
    for seed in range(20):
        node = Node("10.77.0.2", dialect="freebsd", replay="off", seed=seed)
        for number, wait_ns in enumerate(jitters(node, "10.77.0.3", 6)):
            range_ns = min(SECOND_NS, (SECOND_NS // 4) << number)
            if number % 2 == 0:
                assert 0 <= wait_ns < range_ns // 4
            else:
                assert 3 * range_ns // 4 - 1000 <= wait_ns < range_ns


def test_a_lower_source_that_is_heard_after_the_tie_goes_first() -> None:
    """Of three hosts that tied, the middle one may hear the highest first."""
    node = Node("10.77.0.2", dialect="freebsd", replay="off")
    (first_ns,) = jitters(node, "10.77.0.3", 1)
    assert first_ns < JITTER_NS // 4
    now_ns = node.engine.host(0).since_ns + SECOND_NS // 10
    for counter in (1, 2):
        assert node.engine.receive(0, advertisement(counter=counter), now_ns) == "ok"
        wait_ns = node.engine.host(0).deadline_ns - now_ns - DOWN_NS
        assert wait_ns == pytest.approx(first_ns + 3 * JITTER_NS // 4, abs=2000)
    # A slower master is none of those who tied.
    other = Node("10.77.0.2", dialect="freebsd", replay="off")
    (first_ns,) = jitters(other, "10.77.0.3", 1)
    assert other.engine.receive(0, advertisement(counter=1, advskew=9), now_ns) == "ok"
    assert other.engine.host(0).deadline_ns - now_ns - DOWN_NS == first_ns


def test_a_lower_source_that_is_heard_after_each_rise_makes_the_wait_no_longer() -> None:
    node = Node("10.77.0.2", dialect="freebsd")
    now_ns = LATER_NS
    node.run(now_ns)
    tie = advertisement(source="10.77.0.9", counter=10)
    assert node.engine.receive(0, tie, now_ns) == "ok"
    assert node.reason == "tie_lost"
    for rise in range(4):
        lower = advertisement(source="10.77.0.1", counter=100 + 10 * rise)
        assert node.engine.receive(0, lower, now_ns + SECOND_NS // 10) == "ok"
        node.run(now_ns + SECOND_NS // 10)
        wait_ns = node.engine.host(0).deadline_ns - now_ns - SECOND_NS // 10 - DOWN_NS
        assert 0 <= wait_ns <= JITTER_NS
        now_ns += 4 * SECOND_NS
        node.run(now_ns)
        assert node.state == "MASTER"
        # It steps down without a tie, and keeps the jitter of the one before.
        faster = advertisement(source="10.77.0.1", advbase=0, advskew=200, counter=105 + 10 * rise)
        assert node.engine.receive(0, faster, now_ns) == "ok"
        assert node.reason == "faster_master"


def test_the_range_begins_anew_once_one_master_alone_was_heard() -> None:
    """Not before: as long as others tie, whoever is heard changes."""
    node = Node("10.77.0.2", dialect="freebsd", replay="off")
    jitters(node, "10.77.0.1", 2)
    now_ns = node.engine.host(0).since_ns
    waits = []
    for number in range(16):
        now_ns += SECOND_NS
        source = "10.77.0.1" if number > 7 or number % 2 else "10.77.0.3"
        frame = advertisement(source=source, counter=number)
        assert node.engine.receive(0, frame, now_ns) == "ok"
        waits.append(node.engine.host(0).deadline_ns - now_ns - DOWN_NS)
    # The eighth is the first of the one that goes on; six seconds after it are not yet over six.
    assert all(3 * JITTER_NS // 2 - 1000 <= wait_ns < 2 * JITTER_NS for wait_ns in waits[:14])
    assert waits[14:] == [0, 0]


def test_the_range_begins_anew_for_who_was_master_alone() -> None:
    node = Node("10.77.0.2", dialect="freebsd", replay="off")
    jitters(node, "10.77.0.1", 3)
    node.run(node.engine.host(0).since_ns + 4 * DOWN_NS)
    (wait_ns,) = jitters(node, "10.77.0.1", 1)
    assert wait_ns < JITTER_NS
    soon = Node("10.77.0.2", dialect="freebsd", replay="off")
    jitters(soon, "10.77.0.1", 3)
    (wait_ns,) = jitters(soon, "10.77.0.1", 1)
    assert wait_ns > 2 * JITTER_NS


def test_who_was_master_alone_waits_without_jitter_when_it_yields_to_a_faster_one() -> None:
    node = Node("10.77.0.2", dialect="freebsd", advskew=50, replay="off")
    down_ns = DOWN_NS + 50 * SECOND_NS // 256
    node.run(LATER_NS)
    assert node.engine.receive(0, advertisement(counter=1, advskew=50), LATER_NS) == "ok"
    node.run(LATER_NS + 20 * SECOND_NS)
    now_ns = LATER_NS + 20 * SECOND_NS
    assert node.state == "MASTER"
    assert node.engine.receive(0, advertisement(counter=9, advskew=0), now_ns) == "ok"
    assert (node.state, node.reason) == ("BACKUP", "faster_master")
    assert node.engine.host(0).deadline_ns == now_ns + down_ns


def rises(node: Node) -> list[int]:
    return [report.at_ns for report in node.reported(StateChanged) if report.state == "MASTER"]


def test_a_hand_over_has_no_jitter_and_the_rise_after_its_tie_has() -> None:
    """Equal hosts rise together when their master resigns, yield to each other, and part then."""
    segment = Segment(
        Node("10.77.0.9", dialect="freebsd", advskew=0),
        *(Node(f"10.77.0.{n}", dialect="freebsd", advskew=100) for n in (1, 2)),
    )
    segment.run(10)
    master, *backups = segment.nodes
    assert segment.masters() == [master]
    master.engine.resign_all(segment.now_ns)
    left_ns = segment.now_ns
    segment.run(1)
    interval_ns = 356 * SECOND_NS // 256
    skew_ns = 100 * SECOND_NS // 256
    for node in backups:
        (rise_ns,) = rises(node)
        assert left_ns + skew_ns <= rise_ns <= left_ns + skew_ns + 2_000_000
    assert segment.masters() == []
    segment.run(10)
    assert len(segment.masters()) == 1
    (winner,) = segment.masters()
    first_ns, second_ns = rises(winner)
    assert 0 < second_ns - first_ns - DOWN_NS - skew_ns <= interval_ns // 16 + 2_000_000
