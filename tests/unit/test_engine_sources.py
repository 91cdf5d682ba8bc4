"""A source that goes, and one that takes its place: replaced at once, or the MASTER resigns."""

from __future__ import annotations

from functools import partial

import pytest

from carp_fast.engine.actions import Action, Resign
from carp_fast.engine.reports import DuplicateSource
from tests.support.segment import (
    ADDRESS,
    SECOND_NS,
    START_NS,
    TICK_NS,
    Node,
    Segment,
    advertisement,
    ip,
    prepared,
    read_advertisement,
    risen,
)

MASTER_NS = START_NS + 10 * SECOND_NS
master = partial(risen, MASTER_NS)
LEAST_NS = 1_000_000
TWO_FAMILIES = [(ADDRESS, 24), (ip("2001:db8::100"), 64)]


def sources(node: Node) -> list[bytes]:
    """The source of each advertisement since forget()."""
    return [
        read_advertisement(done.content).source
        for done in node.done
        if done.action in ("ADVERTISE", "RESIGN")
    ]


def test_a_replaced_source_keeps_the_role_and_is_advertised_at_once() -> None:
    node = master()
    node.attach(MASTER_NS, source=None)
    node.take(MASTER_NS)
    node.attach(MASTER_NS + 30 * LEAST_NS, source=ip("10.77.0.9"))
    node.take(MASTER_NS + 30 * LEAST_NS)
    assert sources(node) == [ip("10.77.0.9")]
    node.run(MASTER_NS + 5 * SECOND_NS)
    assert set(sources(node)) == {ip("10.77.0.9")}
    assert node.changes() == []


def test_a_source_that_does_not_come_back_before_the_next_advertisement_means_resigning() -> None:
    node = master()
    node.attach(MASTER_NS, source=None)
    node.run(MASTER_NS + SECOND_NS)
    assert node.changes() == [("MASTER", "INIT", "no_source")]
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    assert sources(node) == [ip("10.77.0.2")], "from the source that others know as the master's"
    node.attach(MASTER_NS + 2 * SECOND_NS)
    assert (node.state, node.reason) == ("BACKUP", "source_found")


def test_a_master_without_a_source_hands_over_within_an_interval() -> None:
    first, second = Node("10.77.0.1"), Node("10.77.0.2", advskew=100)
    segment = Segment(first, second)
    segment.run(10)
    assert segment.masters() == [first]
    first.attach(segment.now_ns, source=None)
    lost_ns = segment.now_ns
    segment.run(10)
    assert segment.masters() == [second]
    assert second.reason == "master_resigned"
    rose_ns = second.engine.host(0).since_ns
    assert rose_ns - lost_ns <= SECOND_NS + 100 * SECOND_NS // 256 + TICK_NS


def test_a_replaced_source_does_not_change_the_master_for_others() -> None:
    first, second = Node("10.77.0.1"), Node("10.77.0.2", advskew=100, preempt=True)
    segment = Segment(first, second)
    segment.run(10)
    for last in (7, 8, 9):
        first.attach(segment.now_ns, source=None)
        segment.run(0.05)
        first.attach(segment.now_ns, source=ip(f"10.77.0.{last}"))
        segment.run(3.3)
    assert segment.masters() == [first]
    assert [changes for node in segment.nodes for changes in node.changes()[2:]] == []


@pytest.mark.parametrize("gone", ["source", "source6"])
def test_one_of_two_families_without_a_source_resigns_over_both(gone: str) -> None:
    node = master(on6="fe80::2", addresses=TWO_FAMILIES)
    node.attach(MASTER_NS, **{gone: None})
    node.run(MASTER_NS + SECOND_NS)
    assert (node.state, node.reason) == ("INIT", "no_source")
    assert sources(node) == [ip("10.77.0.2"), ip("fe80::2")]


def test_a_configured_source_that_goes_and_comes_back_keeps_the_role() -> None:
    node = master(source=ip("10.77.0.9"))
    node.engine.set_own_source(0, MASTER_NS, missing=True)
    node.take(MASTER_NS)
    node.engine.set_own_source(0, MASTER_NS + LEAST_NS)
    node.take(MASTER_NS + LEAST_NS)
    assert sources(node) == [ip("10.77.0.9")]
    assert node.changes() == []


def test_a_link_that_goes_down_as_well_ends_it_at_once() -> None:
    node = master()
    node.attach(MASTER_NS, source=None)
    node.take(MASTER_NS)
    node.attach(MASTER_NS + LEAST_NS, source=None, up=False)
    node.take(MASTER_NS + LEAST_NS)
    assert node.changes() == [("MASTER", "INIT", "link_down")]
    assert node.words() == ["REMOVE_ADDRESSES"]


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd"])
@pytest.mark.parametrize("advskew", [0, 100])
def test_who_yields_without_a_source_takes_no_part(dialect: str, advskew: int) -> None:
    node = master(advskew=100, dialect=dialect)
    node.attach(MASTER_NS, source=None)
    other = advertisement(source="10.77.0.1", advskew=advskew)
    assert node.engine.receive(0, other, MASTER_NS + LEAST_NS) == "ok"
    node.take(MASTER_NS + LEAST_NS)
    assert (node.state, node.reason) == ("INIT", "no_source")
    node.run(MASTER_NS + 10 * SECOND_NS)
    assert node.state == "INIT"
    node.attach(MASTER_NS + 10 * SECOND_NS)
    assert node.state == "BACKUP"


def test_another_host_with_the_source_that_is_gone_is_no_duplicate() -> None:
    node = master()
    node.attach(MASTER_NS, source=None)
    node.run(MASTER_NS + 2 * SECOND_NS)
    assert node.state == "INIT"
    frame = advertisement(source="10.77.0.2", counter=5, source_mac=b"\x02\0\0\0\0\x99")
    assert node.engine.receive(0, frame, MASTER_NS + 3 * SECOND_NS) == "ok"
    node.take(MASTER_NS + 3 * SECOND_NS)
    assert not node.reported(DuplicateSource)


def test_a_shutdown_without_a_source_resigns_from_the_last_one() -> None:
    node = master()
    node.attach(MASTER_NS, source=None)
    node.engine.resign_all(MASTER_NS)
    taken: list[Action] = node.engine.take_actions(MASTER_NS)
    (resignation,) = [each for each in taken if isinstance(each, Resign)]
    assert read_advertisement(resignation.frame).source == ip("10.77.0.2")


def test_a_master_without_a_source_outlives_a_checkpoint() -> None:
    node = master()
    node.attach(MASTER_NS, source=None)
    node.take(MASTER_NS)
    state = node.engine.checkpoint(0, MASTER_NS)["state"]
    assert "unsourced" in state["flags"]
    other = Node("10.77.0.2")
    other.attach(MASTER_NS, source=None)
    other.engine.assume(0, state, MASTER_NS)
    other.run(MASTER_NS + SECOND_NS)
    assert (other.state, other.reason) == ("INIT", "no_source")


def test_a_change_in_place_keeps_the_source_for_the_resignation() -> None:
    node = master()
    node.attach(MASTER_NS, source=None)
    node.engine.replace(0, prepared(advskew=1), MASTER_NS)
    node.run(MASTER_NS + SECOND_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    assert sources(node) == [ip("10.77.0.2")]
