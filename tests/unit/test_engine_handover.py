"""Hand-overs by order: a MASTER yields, a BACKUP takes over, a host takes no part."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.support.segment import (
    SECOND_NS,
    START_NS,
    Node,
    Segment,
    advertisement,
    prepared,
    risen,
)

MASTER_NS = START_NS + 11 * SECOND_NS
master = partial(risen, MASTER_NS)
OTHER, THIRD = "10.77.0.1", "10.77.0.9"


def backup(now_ns: int = START_NS + SECOND_NS, /, **settings: Any) -> Node:
    """A BACKUP that has just heard OTHER advertise `heard`."""
    heard = settings.pop("heard", {})
    node = Node("10.77.0.2", **settings)
    hear(node, now_ns, **heard)
    assert node.state == "BACKUP"
    node.forget()
    return node


def hear(node: Node, now_ns: int, source: str = OTHER, **carp: Any) -> None:
    frame = advertisement(source=source, counter=now_ns // 1000, **carp)
    assert node.engine.receive(0, frame, now_ns) == "ok"
    node.take(now_ns)


@pytest.mark.parametrize("why", ["yielded", "maintenance"])
def test_a_master_that_yields_resigns_once_its_addresses_are_gone(why: str) -> None:
    node = master()
    node.engine.hand_over(0, MASTER_NS, why)
    node.carry_out(MASTER_NS)
    assert node.changes() == [("MASTER", "BACKUP", why)]
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]


def test_a_master_that_yields_to_nobody_is_master_again_after_its_master_down_time() -> None:
    node = master(advskew=128)
    node.engine.hand_over(0, MASTER_NS)
    down_ns = 3 * SECOND_NS + SECOND_NS // 2
    node.run(MASTER_NS + down_ns - SECOND_NS // 100)
    assert node.state == "BACKUP"
    node.run(MASTER_NS + down_ns + SECOND_NS // 100)
    assert (node.state, node.reason) == ("MASTER", "master_down")


def test_a_peer_that_does_not_preempt_takes_over_within_its_own_skew() -> None:
    one, other = Node("10.77.0.1"), Node("10.77.0.2", advskew=64, preempt=False)
    segment = Segment(one, other)
    segment.run(5)
    assert segment.masters() == [one]
    one.engine.hand_over(0, segment.now_ns)
    segment.run(0.2)
    assert segment.masters() == []
    segment.run(0.1)
    assert segment.masters() == [other]
    segment.run(10)
    assert segment.masters() == [other]


def test_two_hosts_of_which_the_slower_one_does_not_preempt_hand_over_back_and_forth() -> None:
    one = Node("10.77.0.1", preempt=False)
    other = Node("10.77.0.2", advskew=64, preempt=False)
    segment = Segment(one, other)
    segment.run(5)
    one.engine.hand_over(0, segment.now_ns)
    segment.run(5)
    assert segment.masters() == [other]
    one.engine.take_over(0, segment.now_ns)
    segment.run(5)
    assert segment.masters() == [one]
    assert (one.reason, other.reason) == ("taken_over", "faster_master")


@pytest.mark.parametrize("state", ["INIT", "BACKUP"])
def test_only_a_master_yields(state: str) -> None:
    node = backup()
    if state == "INIT":
        node.attach(START_NS + SECOND_NS, up=False)
    before = node.engine.host(0)
    node.engine.hand_over(0, START_NS + SECOND_NS)
    node.carry_out(START_NS + SECOND_NS)
    assert node.engine.host(0) == before
    assert node.words() == []


def test_why_a_master_yields_is_one_of_two_words() -> None:
    with pytest.raises(ValueError, match='tired: must be "yielded" or "maintenance"'):
        master().engine.hand_over(0, MASTER_NS, "tired")


@pytest.mark.parametrize(
    ("dialect", "heard", "takes"),
    [
        ("ucarp", {"advskew": 101}, True),
        ("ucarp", {"advskew": 100}, False),
        ("ucarp", {"advskew": 99}, False),
        ("openbsd", {"advskew": 99, "demote": 1}, True),
        ("openbsd", {"advskew": 101, "demote": 0}, True),
    ],
)
@pytest.mark.parametrize("preempt", [False, True])
def test_a_backup_takes_over_only_from_a_master_that_would_not_take_it_back(
    dialect: str, heard: dict[str, Any], takes: bool, preempt: bool
) -> None:
    settings: dict[str, Any] = {
        "preempt": preempt,
        "preempt_delay_ns": 60 * SECOND_NS,
        "dialect": dialect,
    }
    now_ns = START_NS + SECOND_NS
    if dialect == "openbsd" and heard["demote"]:
        settings["preempt"] = False
        node = Node("10.77.0.2", advskew=100, **settings)
        node.engine.demote(0, 1, START_NS)
        hear(node, now_ns, **heard)
        node.engine.demote(0, 0, now_ns)
        node.forget()
    else:
        node = backup(now_ns, advskew=100, heard=heard, **settings)
    node.engine.take_over(0, now_ns)
    node.carry_out(now_ns)
    assert node.state == ("MASTER" if takes else "BACKUP")
    if takes:
        assert node.reason == "taken_over"
        assert node.words()[:2] == ["ADVERTISE", "ADD_ADDRESSES"]


def test_a_backup_that_has_heard_no_master_does_not_take_over_by_order() -> None:
    node = Node("10.77.0.2")
    node.engine.take_over(0, START_NS + SECOND_NS)
    node.carry_out(START_NS + SECOND_NS)
    assert (node.state, node.words()) == ("BACKUP", [])


@pytest.mark.parametrize("state", ["BACKUP", "MASTER"])
def test_a_withheld_host_takes_no_part_until_the_end(state: str) -> None:
    node = master() if state == "MASTER" else backup()
    now_ns = MASTER_NS if state == "MASTER" else START_NS + SECOND_NS
    node.engine.withhold(0, True, now_ns)
    node.carry_out(now_ns)
    assert node.changes() == [(state, "INIT", "maintenance")]
    assert node.words() == (["REMOVE_ADDRESSES", "RESIGN"] if state == "MASTER" else [])
    node.run(now_ns + 20 * SECOND_NS)
    assert node.state == "INIT"
    node.engine.withhold(0, False, now_ns + 20 * SECOND_NS)
    node.run(now_ns + 21 * SECOND_NS)
    assert (node.state, node.reason) == ("BACKUP", "maintenance_over")


def test_a_host_that_is_added_withheld_waits_for_the_end() -> None:
    node = Node("10.77.0.2", withheld=True)
    node.run(MASTER_NS)
    assert (node.state, node.reason, node.words()) == ("INIT", "maintenance", [])
    state = node.engine.checkpoint(0, MASTER_NS)["state"]
    assert state["flags"] == ["withheld"]


def test_a_host_that_begins_in_maintenance_waits_longer_than_its_peers() -> None:
    node = Node("10.77.0.2")
    node.engine.remove(0, START_NS)
    node.take(START_NS)
    node.engine.add(0, prepared(), START_NS, maintenance=240)
    node.run(START_NS + 3 * SECOND_NS + SECOND_NS * 9 // 10)
    assert node.state == "BACKUP"
    assert node.engine.host(0).demotions == {"maintenance": 240}
    node.run(START_NS + 4 * SECOND_NS)
    assert node.state == "MASTER"  # nobody else is heard


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
def test_a_host_in_maintenance_takes_over_from_no_living_master(dialect: str) -> None:
    """Not even from one that is slower still, or more demoted."""
    node = Node("10.77.0.2", preempt=True, dialect=dialect)
    node.engine.demote(0, 100, START_NS, "maintenance")
    now_ns = START_NS + SECOND_NS
    hear(node, now_ns, advskew=254, demote=200)
    assert node.state == "BACKUP"
    node.engine.take_over(0, now_ns)
    assert node.state == "BACKUP"
    node.engine.demote(0, 0, now_ns, "maintenance")
    hear(node, now_ns + SECOND_NS, advskew=254, demote=200)
    assert node.state == "MASTER"


@pytest.mark.parametrize("preempt", ["demoted", True])
def test_a_demoted_master_is_not_preempted_while_a_faster_one_is_heard(
    preempt: bool | str,
) -> None:
    node = Node("10.77.0.2", advskew=100, preempt=preempt)
    now_ns = START_NS + SECOND_NS
    hear(node, now_ns, OTHER, advskew=50)
    hear(node, now_ns + SECOND_NS // 10, THIRD, advskew=240)
    hear(node, now_ns + 2 * SECOND_NS, THIRD, advskew=240)
    assert node.state == "BACKUP"
    hear(node, now_ns + 3 * SECOND_NS, THIRD, advskew=240)  # after two intervals of the other
    assert (node.state, node.reason) == ("MASTER", "preempted")


def test_a_more_demoted_master_is_not_replaced_while_a_less_demoted_one_is_heard() -> None:
    node = Node("10.77.0.2", advskew=100, dialect="openbsd")
    now_ns = START_NS + SECOND_NS
    hear(node, now_ns, OTHER, advskew=50)
    hear(node, now_ns + SECOND_NS // 10, THIRD, advskew=0, demote=2)
    assert node.state == "BACKUP"
    hear(node, now_ns + 3 * SECOND_NS, THIRD, advskew=0, demote=2)
    assert (node.state, node.reason) == ("MASTER", "master_demoted")


@pytest.mark.parametrize(
    ("heard", "reason"),
    [({"demote": 2}, "master_demoted"), ({"demote": 1, "advskew": 200}, "preempted")],
)
def test_a_less_demoted_host_that_has_resigned_does_not_protect_another_master(
    heard: dict[str, Any], reason: str
) -> None:
    node = Node("10.77.0.2", advskew=100, dialect="openbsd", preempt=True)
    node.engine.demote(0, 1, START_NS)
    now_ns = START_NS + SECOND_NS
    hear(node, now_ns, OTHER, advskew=50)
    hear(node, now_ns + SECOND_NS // 10, OTHER, advbase=255, advskew=255)
    hear(node, now_ns + SECOND_NS // 5, THIRD, **heard)
    assert (node.state, node.reason) == ("MASTER", reason)


def test_a_demoted_backup_takes_over_by_order_from_a_master_that_has_resigned() -> None:
    node = Node("10.77.0.2", advskew=100, dialect="openbsd")
    node.engine.demote(0, 1, START_NS)
    now_ns = START_NS + SECOND_NS
    hear(node, now_ns, advbase=255, advskew=255)
    node.engine.take_over(0, now_ns)
    assert (node.state, node.reason) == ("MASTER", "taken_over")


def test_what_the_same_master_sent_over_the_other_family_does_not_protect_it() -> None:
    node = Node("10.77.0.2", on6="fe80::2", advskew=100, addresses=BOTH)
    now_ns = START_NS + SECOND_NS
    both = {"addresses": [address for address, _ in BOTH]}
    for at_ns, advskew in ((now_ns, 50), (now_ns + SECOND_NS, 240)):
        hear(node, at_ns, OTHER, advskew=advskew, **both)
        if advskew == 50:
            hear(node, at_ns, "fe80::1", advskew=advskew, **both)
    assert (node.state, node.reason) == ("MASTER", "preempted")


BOTH = [(bytes((10, 77, 0, 100)), 24), (bytes.fromhex("20010db8" + "00" * 11 + "01"), 64)]


def test_explain_knows_what_a_peer_would_do_before_the_hand_over() -> None:
    node = master(advskew=100, preempt=True, preempt_delay_ns=60 * SECOND_NS)
    hear(node, MASTER_NS + 1, OTHER, advskew=200)
    (judged,) = node.engine.explained(0, MASTER_NS + 2).heard
    assert (judged.event, judged.as_backup, judged.beaten) == ("slower", "slower_master", True)
    node = master(advskew=100, preempt=False)
    hear(node, MASTER_NS + 1, OTHER, advskew=200)
    (judged,) = node.engine.explained(0, MASTER_NS + 2).heard
    assert (judged.event, judged.as_backup, judged.beaten) == ("slower", "master_heard", True)


REASONS = ("operator", "track", "group", "maintenance")


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
@pytest.mark.parametrize("by", [*REASONS, "address_lost"])
@pytest.mark.parametrize(
    ("preempt", "theirs", "event"),
    [
        (True, 50, "slower_master"),
        (False, 50, "master_heard"),
        ("demoted", 50, "master_heard"),
        ("demoted", 240, "slower_master"),
        (True, 0, "master_heard"),
    ],
)
def test_explain_knows_what_a_demoted_backup_does_once_it_is_not(
    dialect: str, by: str, preempt: bool | str, theirs: int, event: str
) -> None:
    """The event that is foretold is the one that happens when the demotion has ended."""
    node = Node("10.77.0.2", advskew=20, dialect=dialect, preempt=preempt)
    now_ns = START_NS + SECOND_NS
    if by == "address_lost":
        now_ns = MASTER_NS
        node.run(now_ns)
        node.engine.lose_address(0, now_ns)
    else:
        node.engine.demote(0, 240, now_ns, by)
    hear(node, now_ns, OTHER, advskew=theirs)
    assert node.state == "BACKUP"
    (judged,) = node.engine.explained(0, now_ns).heard
    assert judged.undemoted == event
    if by != "address_lost":
        node.engine.demote(0, 0, now_ns, by)
        hear(node, now_ns + SECOND_NS, OTHER, advskew=theirs)
        assert node.state == ("MASTER" if event == "slower_master" else "BACKUP")
