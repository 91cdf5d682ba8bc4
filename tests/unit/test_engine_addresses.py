"""Addresses of a virtual host: added, refused, lost, foreign, announced, and let go."""

from __future__ import annotations

from errno import EADDRNOTAVAIL, EEXIST, ENODEV
from itertools import pairwise

import pytest

from carp_fast.engine._wire import build_announcement
from carp_fast.engine.reports import AddressesChanged, AddressFailed, AddressForeign, Released
from tests.support.addressed import (
    EVERY,
    LATER_NS,
    MASTER_NS,
    SIGNED,
    contents,
    host,
    master,
    step_down,
)
from tests.support.segment import SECOND_NS, START_NS, Node, advertisement, prepared


def test_all_addresses_are_added_announced_and_removed() -> None:
    node = master()
    assert contents(node, "ADD_ADDRESSES") == [EVERY]
    assert contents(node, "ANNOUNCE") == [[build_announcement(node.mac, data) for data in EVERY]]
    assert node.engine.host(0).held == 3
    assert len(node.reported(AddressesChanged)) == 1
    step_down(node, LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY]
    assert node.engine.host(0).held == 0
    assert len(node.reported(AddressesChanged)) == 2


def test_unsigned_addresses_stay_out_of_the_digest() -> None:
    node = Node("10.77.0.2", **host())
    signed = [data for data, _ in SIGNED]
    assert node.engine.receive(0, advertisement(addresses=signed), START_NS) == "ok"
    assert node.engine.receive(0, advertisement(addresses=EVERY), START_NS) == "bad_auth"


def test_a_foreign_address_is_told_once_and_left_alone() -> None:
    node = master({EVERY[1]: EEXIST})
    assert [report.address for report in node.reported(AddressForeign)] == [1]
    assert node.engine.host(0).held == 2
    node.engine.found(0, EVERY[1], "foreign", LATER_NS)
    node.take(LATER_NS)
    assert len(node.reported(AddressForeign)) == 1
    step_down(node, LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [[EVERY[0], EVERY[2]]]


def test_a_foreign_address_is_looked_at_again_the_next_time() -> None:
    node = master({EVERY[1]: EEXIST})
    step_down(node, LATER_NS)
    node.errors = {}
    node.run(LATER_NS + 10 * SECOND_NS)
    assert node.state == "MASTER"
    assert contents(node, "ADD_ADDRESSES")[-1] == EVERY
    assert node.engine.host(0).held == 3


@pytest.mark.parametrize("error", [EADDRNOTAVAIL, ENODEV])
def test_an_address_that_is_gone_when_we_remove_it_is_removed(error: int) -> None:
    node = master()
    node.errors = {EVERY[0]: error}
    step_down(node, LATER_NS)
    assert node.reported(AddressFailed) == []
    assert node.engine.host(0).held == 0


def test_address_lost_too_often_resigns_after_the_removal() -> None:
    node = master()
    node.forget()
    node.engine.lose_address(0, LATER_NS)
    node.take(LATER_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    assert node.changes() == [("MASTER", "BACKUP", "address_lost")]
    # Where nobody else is, it takes over again: demotion never stops a host that hears nobody.
    node.run(LATER_NS + 4 * SECOND_NS)
    assert node.state == "MASTER"


def test_who_gives_up_undemoted_rises_after_the_time_of_its_own_priority() -> None:
    node = master()
    node.forget()
    node.engine.lose_address(0, LATER_NS, demoted=False)
    node.take(LATER_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    assert node.changes() == [("MASTER", "BACKUP", "address_lost")]
    status = node.engine.host(0)
    assert (status.effective_advskew, status.demoted_until_ns) == (status.advskew, 0)
    node.run(LATER_NS + 3 * SECOND_NS - 1)
    assert node.state == "BACKUP"
    node.run(LATER_NS + 3 * SECOND_NS + SECOND_NS // 100)
    assert node.state == "MASTER"


def test_a_take_over_before_the_removal_was_carried_out_cancels_it() -> None:
    node = master()
    node.forget()
    node.engine.lose_address(0, LATER_NS)
    node.engine.expire(LATER_NS + 4 * SECOND_NS)
    node.take(LATER_NS + 4 * SECOND_NS)
    assert "RESIGN" not in node.words()
    assert "REMOVE_ADDRESSES" not in node.words()
    assert node.state == "MASTER"
    assert node.engine.host(0).held == 3


def test_stepping_down_before_the_addition_was_carried_out_adds_nothing() -> None:
    node = Node("10.77.0.2", **host())
    node.engine.expire(MASTER_NS)
    frame = advertisement(advbase=0, advskew=1, addresses=[data for data, _ in SIGNED])
    assert node.engine.receive(0, frame, MASTER_NS) == "ok"
    node.take(MASTER_NS)
    # The last advertisement of who yields to a faster master, and nothing else.
    assert node.words() == ["ADVERTISE"]
    assert node.engine.host(0).held == 0


# --------------------------------------------------------------------------- who announces, when


def test_the_up_script_adds_the_addresses_and_orders_the_announcement() -> None:
    node = master(manage_addresses=False, announce_on_order=True)
    assert node.words() == ["ADVERTISE"]
    assert len(node.reported(AddressesChanged)) == 1
    node.run(MASTER_NS + 3 * SECOND_NS)
    assert contents(node, "ANNOUNCE") == []
    node.engine.announce(0, MASTER_NS + 3 * SECOND_NS)
    node.take(MASTER_NS + 3 * SECOND_NS)
    node.run(LATER_NS)
    assert len(contents(node, "ANNOUNCE")) == 2
    assert contents(node, "ADD_ADDRESSES") == []


def test_nothing_is_announced_before_the_up_script_has_run() -> None:
    node = master(manage_addresses=False, announce_on_order=True)
    slower = advertisement(advskew=200, addresses=[data for data, _ in SIGNED])
    assert node.engine.receive(0, slower, MASTER_NS) == "ok"
    node.take(MASTER_NS)
    assert contents(node, "ANNOUNCE") == []
    assert len(contents(node, "ADVERTISE")) == 2


def test_announcements_are_repeated_every_refresh_interval() -> None:
    node = master(announce_refresh_ns=5 * SECOND_NS)
    node.run(MASTER_NS + 30 * SECOND_NS)
    times = node.times("ANNOUNCE")
    assert times[0] == MASTER_NS
    assert times[-1] >= MASTER_NS + 25 * SECOND_NS
    assert max(later - earlier for earlier, later in pairwise(times)) <= 6 * SECOND_NS


def test_announce_count_by_interval() -> None:
    node = master(announce_count=4, announce_interval_ns=3 * SECOND_NS)
    node.run(MASTER_NS + 60 * SECOND_NS)
    # Four by the interval and the repeat two advertisements after the first.
    assert len(node.times("ANNOUNCE")) == 5


def test_a_time_below_a_millisecond_is_one() -> None:
    # None at all would be all at once, and no refresh.
    node = master(announce_count=4, announce_interval_ns=500_000, announce_refresh_ns=1)
    node.run(MASTER_NS + 20 * SECOND_NS)
    assert all(len(batch) == len(EVERY) for batch in contents(node, "ANNOUNCE"))  # type: ignore[arg-type]
    assert node.times("ANNOUNCE")[-1] >= MASTER_NS + 18 * SECOND_NS


def test_announcements_by_time_end_with_their_time_as_master() -> None:
    node = master(announce_count=2, announce_interval_ns=2 * SECOND_NS)
    node.run(MASTER_NS + SECOND_NS)
    step_down(node, MASTER_NS + SECOND_NS)
    node.forget()
    node.run(MASTER_NS + 4 * SECOND_NS)
    assert node.words() == ["ADVERTISE", "ADD_ADDRESSES", "ANNOUNCE"]


def test_announce_count_in_a_row() -> None:
    node = master(announce_count=3)
    node.run(MASTER_NS + 60 * SECOND_NS)
    frames = [frame for batch in contents(node, "ANNOUNCE") for frame in batch]  # type: ignore[attr-defined]
    for data in EVERY:
        # Three at once and the repeat two advertisements later, which is one or three.
        assert frames.count(build_announcement(node.mac, data)) >= 4


def test_no_announcement_is_no_two_hundred() -> None:
    try:
        node = master(announce_count=0, announce_interval_ns=SECOND_NS)
    except ValueError:
        return  # refused is as good
    node.run(MASTER_NS + 30 * SECOND_NS)
    assert len(node.times("ANNOUNCE")) <= 2


# ----------------------------------------------------------------------------------------- removal


def released(node: Node) -> list[Released]:
    return node.reported(Released)


def test_a_removed_master_removes_its_addresses_resigns_and_is_released_last() -> None:
    node = master()
    node.forget()
    node.engine.remove(0, LATER_NS)
    node.engine.remove(0, LATER_NS)
    node.reports += node.engine.take_reports()
    assert released(node) == []
    node.take(LATER_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    assert len(released(node)) == 1
    assert node.engine.receive(0, advertisement(), LATER_NS) == "bad_vhid"
    assert node.engine.next_deadline_ns() is None


@pytest.mark.parametrize("state", ["BACKUP", "INIT"])
def test_a_removed_host_that_is_not_master_is_released_at_once(state: str) -> None:
    node = Node("10.77.0.2")
    if state == "INIT":
        node.attach(START_NS, up=False)
    node.engine.remove(0, START_NS)
    node.take(START_NS)
    assert node.words() == []
    assert len(released(node)) == 1


def test_a_host_removed_while_it_steps_down_is_released_after_its_last_advertisement() -> None:
    node = master()
    node.forget()
    frame = advertisement(advbase=0, advskew=1, addresses=[data for data, _ in SIGNED])
    assert node.engine.receive(0, frame, LATER_NS) == "ok"
    node.engine.remove(0, LATER_NS)
    node.take(LATER_NS)
    assert node.words() == ["ADVERTISE", "REMOVE_ADDRESSES"]
    assert len(released(node)) == 1


@pytest.mark.parametrize("gone_at", ["queued", "never"])
def test_a_slot_is_used_again(gone_at: str) -> None:
    node = master()
    if gone_at == "queued":
        # An advertisement and its announcements wait in the queues when the host is removed.
        node.engine.expire(MASTER_NS + SECOND_NS)
        node.attach(MASTER_NS + SECOND_NS, ifindex=0)
        node.attach(MASTER_NS + SECOND_NS, ifindex=2)
    now_ns = MASTER_NS + SECOND_NS
    node.engine.remove(0, now_ns)
    node.take(now_ns)
    assert len(released(node)) == 1
    node.forget()
    node.engine.add(0, prepared(vhid=77), now_ns)
    node.run(now_ns + 10 * SECOND_NS)
    assert node.state == "MASTER"
    assert node.words()[:3] == ["ADVERTISE", "ADD_ADDRESSES", "ANNOUNCE"]
    gaps = node.times("ADVERTISE")
    assert len(gaps) == len(set(gaps))
    assert {done.content[35] for done in node.done if done.action == "ADVERTISE"} == {77}
    assert node.engine.host(0).counters["became_master"] == 1


def test_a_slot_that_is_used_again_remembers_nobody() -> None:
    node = Node("10.77.0.2")
    for n in range(2, 5):
        frame = advertisement(source=f"10.77.0.{n + 8}", counter=2**40 + n)
        assert node.engine.receive(0, frame, START_NS) == "ok"
    assert len(node.engine.host(0).peers) == 3
    node.engine.remove(0, START_NS)
    node.engine.add(0, prepared(replay="strict"), START_NS)
    assert node.engine.host(0).peers == []
    # A counter far below what was heard before: nobody has heard it here.
    frame = advertisement(source="10.77.0.10", counter=1)
    assert node.engine.receive(0, frame, START_NS + SECOND_NS) == "ok"


def test_a_new_host_of_the_same_vhid_while_the_old_one_leaves() -> None:
    node = master()
    node.engine.remove(0, LATER_NS)
    node.engine.add(1, prepared(), LATER_NS)
    assert node.engine.receive(0, advertisement(), LATER_NS) == "ok"
    node.take(LATER_NS)
    assert node.engine.receive(0, advertisement(), LATER_NS) == "ok"
    assert node.engine.host(1).counters["advertisements_heard"] == 2
    assert node.engine.host(1).state == "BACKUP"
