"""Advertisements that are read in another order than they arrived in, from several sockets.

What decides is when each arrived. One that arrived before what the host has heard already does
not shorten its wait, and begins no take-over.
"""

from __future__ import annotations

from typing import Any

import pytest

from carp_fast.engine.reports import FamilySilent
from tests.support.segment import ADDRESS, ADDRESS6, SECOND_NS, START_NS, Node, advertisement

BOTH: dict[str, Any] = {"addresses": [(ADDRESS, 24), (ADDRESS6, 64)]}
SIGNED: dict[str, Any] = {"addresses": [ADDRESS, ADDRESS6]}
LATER_NS = START_NS + 2 * SECOND_NS
EARLIER_NS = LATER_NS - SECOND_NS // 4
DOWN_NS = 3 * SECOND_NS + 100 * SECOND_NS // 256


def backup(**settings: Any) -> Node:
    """A BACKUP with advskew 100, of both families; master-down DOWN_NS."""
    wanted: dict[str, Any] = {"on6": "fe80::2", "advskew": 100, **BOTH}
    return Node("10.77.0.2", **(wanted | settings))


def hear(node: Node, at_ns: int, source: str = "10.77.0.1", **carp: Any) -> None:
    """Give the node an advertisement that arrived at `at_ns`."""
    frame = advertisement(source=source, **(SIGNED | carp))
    assert node.engine.receive(0, frame, at_ns) == "ok"


@pytest.mark.parametrize("source", ["10.77.0.3", "fe80::1", "10.77.0.1"])
def test_the_wait_runs_from_what_arrived_last_not_from_what_was_read_last(source: str) -> None:
    node = backup(replay="off")
    hear(node, LATER_NS, counter=10)
    hear(node, EARLIER_NS, source, counter=9)
    assert node.engine.host(0).deadline_ns == LATER_NS + DOWN_NS
    node.run(EARLIER_NS + DOWN_NS + SECOND_NS // 100)
    assert node.state == "BACKUP"
    node.run(LATER_NS + DOWN_NS + SECOND_NS // 100)
    assert (node.state, node.reason) == ("MASTER", "master_down")


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
def test_who_took_over_and_then_reads_of_a_faster_master_waits_from_what_arrived_last(
    dialect: str,
) -> None:
    node = backup(preempt=True, dialect=dialect)
    down_ns = 3 * (SECOND_NS + 100 * SECOND_NS // 256) if dialect == "openbsd" else DOWN_NS
    hear(node, LATER_NS, advskew=200, counter=10)
    assert (node.state, node.reason) == ("MASTER", "preempted")
    hear(node, EARLIER_NS, "10.77.0.3", advskew=50, counter=20)
    assert (node.state, node.reason) == ("BACKUP", "faster_master")
    assert node.engine.host(0).deadline_ns - LATER_NS == pytest.approx(down_ns, abs=2)


def test_a_resignation_from_before_its_master_was_heard_again_changes_nothing() -> None:
    node = backup(replay="off")
    hear(node, START_NS, counter=9)
    hear(node, LATER_NS, counter=11)
    hear(node, EARLIER_NS, advbase=255, advskew=255, counter=10)
    assert node.engine.host(0).deadline_ns == LATER_NS + DOWN_NS
    # In their order it is one.
    hear(node, LATER_NS + 1, advbase=255, advskew=255, counter=12)
    assert node.engine.host(0).deadline_ns == LATER_NS + 1 + 100 * SECOND_NS // 256


@pytest.mark.parametrize("source", ["10.77.0.1", "fe80::1", "10.77.0.3"])
def test_a_resignation_counts_though_an_earlier_advertisement_is_read_after_it(source: str) -> None:
    node = backup(replay="off")
    hear(node, START_NS, counter=9)
    hear(node, LATER_NS, advbase=255, advskew=255, counter=11)
    hear(node, EARLIER_NS, source, counter=10)
    assert node.engine.host(0).deadline_ns == LATER_NS + 100 * SECOND_NS // 256
    node.run(LATER_NS + SECOND_NS // 2)
    assert (node.state, node.reason) == ("MASTER", "master_resigned")


@pytest.mark.parametrize(
    ("dialect", "slower", "reason"),
    [
        ("ucarp", {"advskew": 200}, "preempted"),
        ("freebsd", {"advskew": 200}, "preempted"),
        ("openbsd", {"advskew": 200}, "preempted"),
        ("openbsd", {"demote": 1}, "master_demoted"),
    ],
)
def test_no_master_from_before_a_faster_one_was_heard_is_taken_over_from(
    dialect: str, slower: dict[str, Any], reason: str
) -> None:
    node = backup(preempt=True, dialect=dialect)
    hear(node, LATER_NS, "10.77.0.3", advskew=50, counter=20)
    hear(node, EARLIER_NS, **slower, counter=10)
    assert node.state == "BACKUP"
    assert node.engine.host(0).deadline_ns >= LATER_NS + DOWN_NS
    hear(node, LATER_NS + 1, **slower, counter=11)
    assert node.state == "BACKUP"
    # Until the faster one, which is the next MASTER, is silent for two of its intervals.
    hear(node, LATER_NS + 5 * SECOND_NS // 2, **slower, counter=12)
    assert (node.state, node.reason) == ("MASTER", reason)


def test_the_silence_of_a_family_runs_from_what_arrived_last() -> None:
    """A second source of IPv4 is read late; IPv6 is then heard within the master-down time."""
    node = backup()
    hear(node, LATER_NS, counter=10)
    hear(node, EARLIER_NS, "10.77.0.3", counter=9)
    hear(node, EARLIER_NS + DOWN_NS + 1, "fe80::1", counter=11)
    hear(node, LATER_NS + DOWN_NS, "fe80::1", counter=12)
    node.take(LATER_NS + DOWN_NS)
    assert node.reported(FamilySilent) == []
    hear(node, LATER_NS + DOWN_NS + 1, "fe80::1", counter=13)
    node.take(LATER_NS + DOWN_NS + 1)
    assert len(node.reported(FamilySilent)) == 1


def test_a_source_was_heard_when_its_last_advertisement_arrived() -> None:
    node = backup(replay="off")
    hear(node, LATER_NS, counter=10)
    hear(node, EARLIER_NS, counter=9)
    assert node.engine.host(0).heard_ns == LATER_NS


def test_the_master_is_whose_advertisement_arrived_last() -> None:
    """So that it is believed when it resigns."""
    node = backup()
    hear(node, LATER_NS, counter=10)
    hear(node, EARLIER_NS, "10.77.0.3", counter=20)
    hear(node, LATER_NS + 1, "10.77.0.3", advbase=255, advskew=255, counter=21)
    assert node.engine.host(0).deadline_ns == LATER_NS + DOWN_NS
    hear(node, LATER_NS + 2, advbase=255, advskew=255, counter=11)
    assert node.engine.host(0).deadline_ns == LATER_NS + 2 + 100 * SECOND_NS // 256
