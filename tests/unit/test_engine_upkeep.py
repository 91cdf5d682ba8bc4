"""Addresses that are not as they should be: tried again, found otherwise, missed for too long."""

from __future__ import annotations

from errno import EACCES, EAGAIN, EBUSY, EEXIST, ENOBUFS, ENODEV, ENXIO, EPERM
from itertools import pairwise
from typing import Any

import pytest

from carp_fast.engine.reports import (
    AddressFailed,
    AddressForeign,
    AddressGone,
    AddressRestored,
    Released,
    StateChanged,
    Undemoted,
)
from tests.support.addressed import (
    EVERY,
    LATER_NS,
    MASTER_NS,
    SIGNED,
    UNSIGNED,
    contents,
    host,
    master,
    step_down,
)
from tests.support.segment import SECOND_NS, START_NS, Node, advertisement, ip, prepared

REFUSED, REMOVED, WITH_OURS = "refused", "removed", "with_ours"  # why it was added again


def keep_backup(node: Node, now_ns: int) -> None:
    """A faster master goes on, and what is due happens."""
    frame = advertisement(
        advbase=0, advskew=1, counter=now_ns, addresses=[data for data, _ in SIGNED]
    )
    assert node.engine.receive(0, frame, now_ns) == "ok"
    node.run(now_ns)
    assert node.state == "BACKUP"


@pytest.mark.parametrize("error", [EPERM, ENOBUFS, EBUSY, EAGAIN, ENXIO])
def test_an_address_that_cannot_be_removed_is_told_once_and_tried_until_it_is_gone(
    error: int,
) -> None:
    node = master()
    node.run(LATER_NS)
    node.forget()
    node.errors = {EVERY[2]: error}
    step_down(node, LATER_NS)
    for tenths in range(1, 20):
        keep_backup(node, LATER_NS + tenths * SECOND_NS // 10)
    assert [(r.error, r.address) for r in node.reported(AddressFailed)] == [(error, 2)]
    assert node.engine.host(0).held == 1
    assert contents(node, "REMOVE_ADDRESSES")[0] == EVERY
    tried = contents(node, "REMOVE_ADDRESSES")[1:]
    assert 5 <= len(tried) <= 10
    assert all(batch == [EVERY[2]] for batch in tried)
    node.errors = {}
    for tenths in range(20, 60):
        keep_backup(node, LATER_NS + tenths * SECOND_NS // 10)
    assert node.engine.host(0).held == 0
    assert [report.address for report in node.reported(AddressGone)] == [2]


def test_what_fails_is_tried_later_and_later_and_every_ten_seconds_at_last() -> None:
    node = master({EVERY[0]: EPERM})
    node.run(MASTER_NS + 60 * SECOND_NS)
    at_ns = node.times("ADD_ADDRESSES")
    waits_ms = [(later - earlier) // 1_000_000 for earlier, later in pairwise(at_ns)]
    assert waits_ms[:4] == [10, 20, 40, 80]
    assert waits_ms[-1] == 10_240
    assert waits_ms == sorted(waits_ms)
    assert len(node.reported(AddressFailed)) == 1


def test_another_error_of_the_same_address_is_told() -> None:
    node = master({EVERY[0]: EPERM})
    node.errors = {EVERY[0]: ENOBUFS}
    node.run(LATER_NS)
    assert [report.error for report in node.reported(AddressFailed)] == [EPERM, ENOBUFS]


@pytest.mark.parametrize("error", [ENODEV, ENOBUFS, EPERM, ENXIO, EACCES])
def test_an_address_that_cannot_be_added_is_told_and_tried_again(error: int) -> None:
    node = master({EVERY[0]: error})
    assert [(r.error, r.address) for r in node.reported(AddressFailed)] == [(error, 0)]
    assert node.engine.host(0).held == 2
    node.errors = {}
    node.run(LATER_NS)
    assert node.engine.host(0).held == 3
    assert [(r.why, r.address) for r in node.reported(AddressRestored)] == [(REFUSED, 0)]
    assert len(contents(node, "ANNOUNCE")) >= 2
    step_down(node, LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY]


def test_an_event_of_its_interface_has_what_failed_tried_at_once() -> None:
    node = master({EVERY[0]: EPERM})
    node.run(LATER_NS)
    node.errors = {}
    node.attach(LATER_NS, source6=ip("fe80::7"))
    node.take(LATER_NS)
    assert node.engine.host(0).held == 3


def test_what_failed_is_no_problem_any_more_when_it_is_not_wanted() -> None:
    node = master({EVERY[0]: EPERM})
    step_down(node, LATER_NS)
    assert [report.address for report in node.reported(AddressGone)] == [0]
    assert node.engine.host(0).retry_at_ns == 0


def test_one_of_many_that_fails_keeps_none_of_the_others() -> None:
    many = [(ip(f"10.78.{n // 200}.{n % 200 + 1}"), 32) for n in range(600)]
    node = Node("10.77.0.2", unsigned_addresses=many)
    node.errors = {many[300][0]: ENOBUFS}
    node.run(MASTER_NS)
    assert node.engine.host(0).held == 600
    node.errors = {}
    node.run(LATER_NS)
    assert node.engine.host(0).held == 601


def test_a_virtual_host_counts_and_names_more_addresses_than_16_bits_do() -> None:
    many = [(bytes((11, n >> 16, n >> 8 & 255, n & 255)), 32) for n in range(66_000)]
    node = Node("10.77.0.2", unsigned_addresses=many)
    node.errors = {many[65_990][0]: ENOBUFS}
    node.run(MASTER_NS)
    assert [report.address for report in node.reported(AddressFailed)] == [65_991]
    assert node.engine.host(0).held == 66_000
    kept = node.engine.checkpoint(0, MASTER_NS)["state"]["held"]
    assert kept == 66_000
    node.errors = {}
    node.run(LATER_NS)
    assert node.engine.host(0).held == 66_001


# ------------------------------------------------------------------------------- what is there


def test_a_lost_address_is_restored_announced_and_counted() -> None:
    node = master()
    node.run(LATER_NS)
    node.forget()
    node.engine.found(0, EVERY[1], "none", LATER_NS)
    node.take(LATER_NS)
    assert [(r.why, r.address) for r in node.reported(AddressRestored)] == [(REMOVED, 1)]
    assert node.reported(AddressForeign) == []
    assert node.words() == ["ADD_ADDRESSES", "ANNOUNCE"]
    assert contents(node, "ADD_ADDRESSES") == [[EVERY[1]]]
    status = node.engine.host(0)
    assert (status.held, status.counters["addresses_restored"]) == (3, 1)


def test_an_address_lost_after_one_of_ours_was_removed_went_with_that() -> None:
    node = master()
    node.run(LATER_NS)
    node.engine.add(1, prepared(vhid=43, addresses=[(ip("10.77.0.103"), 24)]), LATER_NS)
    node.run(LATER_NS + 4 * SECOND_NS)
    node.forget()
    now_ns = LATER_NS + 4 * SECOND_NS
    node.engine.remove(1, now_ns)
    node.take(now_ns)
    node.engine.found(0, EVERY[0], "none", now_ns + SECOND_NS // 50)
    node.take(now_ns + SECOND_NS // 50)
    assert [(r.why, r.address) for r in node.reported(AddressRestored)] == [(WITH_OURS, 0)]


IPV6 = ip("2001:db8::100")


@pytest.mark.parametrize(
    ("removed", "lost"),
    [
        (32, EVERY[0]),  # neither a /32 nor IPv6 has secondaries,
        (24, UNSIGNED[0][0]),  # nor is one of them a secondary
        (24, IPV6),
    ],
)
def test_what_cannot_have_gone_with_ours_was_removed_by_somebody(removed: int, lost: bytes) -> None:
    node = Node("10.77.0.2", **host(unsigned_addresses=[*UNSIGNED, (IPV6, 64)]))
    node.run(LATER_NS)
    other = ip("10.77.0.103"), ip("2001:db8::101")
    node.engine.add(
        1,
        prepared(vhid=43, addresses=[(other[0], removed)], unsigned_addresses=[(other[1], 64)]),
        LATER_NS,
    )
    now_ns = LATER_NS + 4 * SECOND_NS
    node.run(now_ns)
    node.forget()
    node.engine.remove(1, now_ns)
    node.take(now_ns)
    assert contents(node, "REMOVE_ADDRESSES") == [[*other]]
    now_ns += SECOND_NS // 50
    node.engine.found(0, lost, "none", now_ns)
    node.take(now_ns)
    assert [report.why for report in node.reported(AddressRestored)] == [REMOVED]


def test_what_came_after_ours_had_been_removed_did_not_go_with_that() -> None:
    node = Node("10.77.0.2", **host(dead_ratio=1))
    node.run(LATER_NS)
    node.forget()
    node.attach(LATER_NS, up=False)
    node.take(LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY]
    node.attach(LATER_NS, up=True)
    node.run(LATER_NS + 3 * SECOND_NS // 2)
    assert node.state == "MASTER"
    node.forget()
    now_ns = LATER_NS + 3 * SECOND_NS // 2
    node.engine.found(0, EVERY[0], "none", now_ns)
    node.take(now_ns)
    assert [(r.why, r.address) for r in node.reported(AddressRestored)] == [(REMOVED, 0)]


@pytest.mark.parametrize("there", ["ours", "somebodys", "unknown"])
def test_addresses_that_are_as_they_should_be_change_nothing(there: str) -> None:
    node = master()
    node.engine.record(1024)
    node.run(LATER_NS)
    node.forget()
    before, records = node.engine.host(0), len(node.engine.records())
    for address in EVERY:
        node.engine.found(0, address, there, LATER_NS)
    node.take(LATER_NS)
    assert (node.words(), node.reports) == ([], [])
    assert node.engine.host(0) == before
    assert len(node.engine.records()) == records


def test_an_address_of_ours_on_a_backup_is_removed() -> None:
    node = Node("10.77.0.2", **host())
    node.engine.found(0, EVERY[0], "ours", START_NS)
    node.take(START_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [[EVERY[0]]]
    assert node.engine.host(0).held == 0


@pytest.mark.parametrize("there", ["foreign", "somebodys", "unknown", "none"])
def test_what_is_not_ours_on_a_backup_is_left_alone(there: str) -> None:
    node = Node("10.77.0.2", **host())
    node.engine.found(0, EVERY[0], there, START_NS)
    node.take(START_NS)
    assert node.words() == []


def test_an_address_of_ours_on_a_host_that_takes_no_part_is_left_for_later() -> None:
    node = Node("10.77.0.2", **host())
    node.attach(START_NS, up=False)
    node.engine.found(0, EVERY[0], "ours", START_NS)
    node.take(START_NS)
    assert node.words() == []


def test_another_virtual_host_keeps_the_address_that_both_have() -> None:
    node = master()
    node.engine.add(1, prepared(vhid=43, addresses=SIGNED[:1]), LATER_NS)
    node.engine.found(1, EVERY[0], "ours", LATER_NS)
    node.take(LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == []
    assert node.engine.host(1).held == 0


def test_an_address_in_whose_place_another_hand_put_its_own_is_not_ours_any_more() -> None:
    node = master()
    node.engine.found(0, EVERY[0], "foreign", LATER_NS)
    node.take(LATER_NS)
    assert [report.address for report in node.reported(AddressForeign)] == [0]
    assert node.engine.host(0).held == 2
    step_down(node, LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY[1:]]


def test_a_foreign_address_that_has_gone_is_added() -> None:
    node = master({EVERY[1]: EEXIST})
    node.errors = {}
    node.engine.found(0, EVERY[1], "none", LATER_NS)
    node.take(LATER_NS)
    assert [(r.why, r.address) for r in node.reported(AddressRestored)] == [(REFUSED, 1)]
    status = node.engine.host(0)
    assert (status.held, status.counters["addresses_restored"]) == (3, 0)


def test_a_lost_address_of_a_host_that_stepped_down_meanwhile_is_not_missed() -> None:
    node = Node("10.77.0.2", **host())
    node.engine.expire(MASTER_NS)
    node.engine.found(0, EVERY[0], "none", MASTER_NS)
    node.take(MASTER_NS)
    assert node.words() == ["ADVERTISE", "ADD_ADDRESSES", "ANNOUNCE"]
    assert node.reported(AddressRestored) == []


def test_only_addresses_of_the_host_are_found() -> None:
    node = master()
    with pytest.raises(ValueError, match="the host has no such address"):
        node.engine.found(0, ip("10.77.0.9"), "none", LATER_NS)
    with pytest.raises(ValueError, match="theirs"):
        node.engine.found(0, EVERY[0], "theirs", LATER_NS)


# ----------------------------------------------------------------------- without any for too long


def nothing_goes(error: int = EPERM, **settings: Any) -> Node:
    """A node that becomes MASTER, and gets none of its addresses."""
    return master(dict.fromkeys(EVERY, error), **settings)


def test_a_master_without_any_address_gives_up_after_its_deadline() -> None:
    node = nothing_goes()
    node.run(MASTER_NS + 9 * SECOND_NS)
    assert node.state == "MASTER"
    node.forget()
    node.run(MASTER_NS + 11 * SECOND_NS)
    assert node.changes() == [("MASTER", "BACKUP", "address_deadline")]
    assert "RESIGN" in node.words()
    status = node.engine.host(0)
    assert status.effective_advskew == 240
    assert status.address_demotion == "address_deadline"


def test_one_address_is_enough() -> None:
    node = master(dict.fromkeys(EVERY[1:], EPERM))
    node.run(MASTER_NS + 60 * SECOND_NS)
    assert node.state == "MASTER"
    assert len(node.changes()) == 2


def test_an_address_that_is_there_and_foreign_counts_as_there() -> None:
    node = nothing_goes(EEXIST)
    node.run(MASTER_NS + 60 * SECOND_NS)
    assert node.state == "MASTER"


def test_addresses_that_come_in_time_end_the_wait() -> None:
    node = nothing_goes()
    node.run(MASTER_NS + 5 * SECOND_NS)
    node.errors = {}
    node.run(MASTER_NS + 60 * SECOND_NS)
    assert node.state == "MASTER"
    assert node.engine.host(0).held == 3
    assert node.engine.host(0).without_ns == 0


@pytest.mark.parametrize("seconds", [1, 30])
def test_the_deadline_is_configured(seconds: int) -> None:
    node = nothing_goes(address_deadline_ns=seconds * SECOND_NS)
    node.run(MASTER_NS + seconds * SECOND_NS - SECOND_NS // 10)
    assert node.state == "MASTER"
    node.run(MASTER_NS + seconds * SECOND_NS + SECOND_NS // 10)
    assert node.state == "BACKUP"


@pytest.mark.parametrize("settings", [{"address_deadline_ns": 0}, {"manage_addresses": False}])
def test_where_there_is_no_deadline_it_stays(settings: dict[str, Any]) -> None:
    node = nothing_goes(**settings)
    node.run(MASTER_NS + 300 * SECOND_NS)
    assert node.state == "MASTER"


def test_addresses_that_are_all_lost_and_cannot_be_had_again_count_from_then() -> None:
    node = master()
    node.run(LATER_NS)
    node.errors = dict.fromkeys(EVERY, ENXIO)
    for address in EVERY:
        node.engine.found(0, address, "none", LATER_NS)
    node.take(LATER_NS)
    node.run(LATER_NS + 9 * SECOND_NS)
    assert node.state == "MASTER"
    node.run(LATER_NS + 11 * SECOND_NS)
    assert (node.state, node.reason) == ("BACKUP", "address_deadline")


def test_alone_it_is_master_again_demoted_and_does_not_give_up_before_that_is_over() -> None:
    node = nothing_goes()
    node.run(MASTER_NS + 69 * SECOND_NS)
    states = [change[1] for change in node.changes()]
    assert states == ["BACKUP", "MASTER", "BACKUP", "MASTER"]
    node.forget()
    node.run(MASTER_NS + 75 * SECOND_NS)
    assert node.changes()[0] == ("MASTER", "BACKUP", "address_deadline")


def test_each_time_in_a_row_it_is_demoted_for_longer() -> None:
    node = nothing_goes()
    node.run(MASTER_NS + 3000 * SECOND_NS)
    gave_up = [r.at_ns for r in node.reported(StateChanged) if r.reason == "address_deadline"]
    gave_up = [at for at, previous in zip(gave_up, [0, *gave_up], strict=False) if at != previous]
    waits = [(later - earlier) // SECOND_NS for earlier, later in pairwise(gave_up)]
    assert waits == [60, 120, 240, 480, 960, 960]
    assert node.reported(Undemoted) == []


def test_the_demotion_ends_after_a_minute() -> None:
    node = master()
    node.run(LATER_NS)
    node.engine.lose_address(0, LATER_NS)
    node.run(LATER_NS + 59 * SECOND_NS)
    assert node.engine.host(0).effective_advskew == 240
    node.run(LATER_NS + 61 * SECOND_NS)
    assert node.engine.host(0).effective_advskew == 0
    assert node.engine.host(0).address_demotion is None
    assert len(node.reported(Undemoted)) == 1


@pytest.mark.parametrize(("dialect", "skew", "demote"), [("openbsd", 0, 240), ("freebsd", 240, 0)])
def test_each_dialect_says_the_demotion_in_its_way(dialect: str, skew: int, demote: int) -> None:
    node = master(dialect=dialect)
    node.run(LATER_NS)
    node.engine.lose_address(0, LATER_NS)
    status = node.engine.host(0)
    assert (status.effective_advskew, status.demote) == (skew, demote)


# ------------------------------------------------------------------------------- removed hosts


def test_a_removed_host_stays_until_its_addresses_are_gone() -> None:
    node = master()
    node.forget()
    node.errors = {EVERY[0]: EPERM}
    node.engine.remove(0, LATER_NS)
    node.take(LATER_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    node.run(LATER_NS + 30 * SECOND_NS)
    assert node.reported(Released) == []
    assert node.words().count("RESIGN") == 1
    node.errors = {}
    node.run(LATER_NS + 60 * SECOND_NS)
    assert len(node.reported(Released)) == 1
    assert [report.address for report in node.reported(AddressGone)] == [0]


def test_a_removed_host_goes_with_its_interface_whatever_could_not_be_removed() -> None:
    node = master()
    node.errors = {EVERY[0]: EPERM}
    node.engine.remove(0, LATER_NS)
    node.take(LATER_NS)
    node.attach(LATER_NS, ifindex=0)
    node.take(LATER_NS)
    assert len(node.reported(Released)) == 1
    node.run(LATER_NS + 60 * SECOND_NS)
    assert len(contents(node, "REMOVE_ADDRESSES")) == 1


def test_a_backup_that_could_not_remove_an_address_tries_once_more_when_it_is_removed() -> None:
    node = master()
    node.errors = {EVERY[0]: EPERM}
    step_down(node, LATER_NS)
    node.errors = {}
    node.engine.remove(0, LATER_NS)
    node.take(LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY, EVERY[:1]]
    assert len(node.reported(Released)) == 1
