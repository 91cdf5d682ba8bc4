"""The kernel answers changes of addresses late: another program holds its lock."""

from __future__ import annotations

from errno import EEXIST, EPERM, ESTALE
from itertools import pairwise
from typing import Any

import pytest

from carp_fast.engine.reports import (
    AddressesChanged,
    AddressFailed,
    Released,
    ResignedHolding,
    StateChanged,
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
from tests.support.segment import SECOND_NS, Node, advertisement, ip, prepared

MS_NS = SECOND_NS // 1000
NEW = ip("10.77.0.200")


def rising(**settings: Any) -> Node:
    """A node that became MASTER while the kernel is busy."""
    node = Node("10.77.0.2", **host(**settings))
    node.busy = True
    node.run(MASTER_NS)
    assert node.state == "MASTER"
    return node


def leaving(**settings: Any) -> Node:
    """A MASTER that is ordered to resign at LATER_NS while the kernel is busy."""
    node = master(**settings)
    node.run(LATER_NS)
    node.forget()
    node.busy = True
    node.engine.resign_all(LATER_NS)
    node.take(LATER_NS)
    return node


def test_advertisements_do_not_wait_for_addresses() -> None:
    node = rising()
    node.run(MASTER_NS + 9 * SECOND_NS)
    words = node.words()
    assert (words[:2], set(words[2:])) == (["ADVERTISE", "ADD_ADDRESSES"], {"ADVERTISE"})
    assert len(words[2:]) >= 9
    assert (node.engine.host(0).held, node.state) == (0, "MASTER")


def test_announcements_follow_the_answer() -> None:
    node = rising()
    node.run(MASTER_NS + 5 * SECOND_NS)
    assert "ANNOUNCE" not in node.words()
    assert not node.reported(AddressesChanged)
    node.answer(MASTER_NS + 5 * SECOND_NS)
    assert node.words()[-1] == "ANNOUNCE"
    assert (node.engine.host(0).held, len(node.reported(AddressesChanged))) == (3, 1)


def test_an_announcement_of_a_former_time_as_master_waits_too() -> None:
    """Nothing is carried out until the host is MASTER again, and an address is to be added then."""
    node = master(errors={EVERY[1]: EEXIST})
    node.run(LATER_NS)
    node.engine.announce(0, LATER_NS)  # queued, and not sent yet
    node.busy = True
    frame = advertisement(advbase=0, advskew=1, addresses=[data for data, _ in SIGNED])
    assert node.engine.receive(0, frame, LATER_NS) == "ok"
    assert node.state == "BACKUP"
    node.forget()
    node.carry_out(LATER_NS + 5 * SECOND_NS)
    assert node.state == "MASTER"
    assert node.words() == ["ADVERTISE", "ADD_ADDRESSES"]


def test_a_repeat_of_a_former_time_as_master_is_not_sent_with_the_first_announcement() -> None:
    """Its second advertisement, when that repeat would be due, and the answers come together."""
    node = master()
    node.engine.add(1, prepared(vhid=43, addresses=[(NEW, 24)]), MASTER_NS)
    node.run(MASTER_NS + SECOND_NS)
    step_down(node, MASTER_NS + SECOND_NS)
    node.run(MASTER_NS + 3 * SECOND_NS)
    assert [node.engine.host(slot).state for slot in (0, 1)] == ["BACKUP", "MASTER"]
    node.busy = True
    node.run(MASTER_NS + 4 * SECOND_NS)
    assert node.state == "MASTER"
    node.forget()
    node.busy = False
    node.engine.remove(1, MASTER_NS + 4 * SECOND_NS)  # its request is answered with all others
    node.carry_out(MASTER_NS + 4 * SECOND_NS + 63 * MS_NS)
    done = [act.action for act in node.done if act.slot == 0]
    assert done == ["ADVERTISE", "ANNOUNCE"]


def test_a_master_whose_addresses_do_not_come_gives_up_after_its_deadline() -> None:
    node = rising(address_deadline_ns=2 * SECOND_NS)
    node.run(MASTER_NS + 2 * SECOND_NS - 2 * MS_NS)
    assert node.state == "MASTER"
    node.run(MASTER_NS + 2 * SECOND_NS + 2 * MS_NS)
    assert (node.state, node.reason) == ("BACKUP", "address_deadline")


def test_a_backup_whose_addresses_are_added_late_removes_them() -> None:
    node = rising()
    node.forget()
    step_down(node, MASTER_NS + SECOND_NS)
    assert "REMOVE_ADDRESSES" not in node.words()
    node.answer(MASTER_NS + 2 * SECOND_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY]
    assert "ANNOUNCE" not in node.words()
    assert node.engine.host(0).held == 0


def test_what_was_not_carried_out_is_asked_for_as_the_host_is_then() -> None:
    node = rising()
    node.forget()
    step_down(node, MASTER_NS + SECOND_NS)
    node.errors = dict.fromkeys(EVERY, ESTALE)
    node.answer(MASTER_NS + 2 * SECOND_NS)
    assert not contents(node, "REMOVE_ADDRESSES")
    assert not node.reported(AddressFailed)
    node.errors = {}
    node.run(MASTER_NS + 6 * SECOND_NS)
    assert node.state == "MASTER"
    assert (contents(node, "ADD_ADDRESSES"), node.engine.host(0).held) == ([EVERY], 3)


def test_a_host_advertises_until_its_removal_is_answered() -> None:
    node = leaving()
    assert (node.state, node.words()) == ("INIT", ["REMOVE_ADDRESSES"])
    node.run(LATER_NS + 500 * MS_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "ADVERTISE"]
    assert node.times("ADVERTISE") == [LATER_NS + 10 * MS_NS]
    node.answer(LATER_NS + 500 * MS_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "ADVERTISE", "RESIGN"]
    assert not node.reported(ResignedHolding)
    node.run(LATER_NS + 9 * SECOND_NS)
    assert node.words()[-1] == "RESIGN"


def test_a_host_with_a_short_interval_does_not_fall_silent_while_it_waits() -> None:
    node = leaving(advbase=0, advskew=64)
    node.run(LATER_NS + SECOND_NS - MS_NS)
    times = [LATER_NS, *node.times("ADVERTISE")]
    assert len(times) == 5
    assert all(b - a <= 251 * MS_NS for a, b in pairwise(times))


def test_a_resignation_waits_for_a_second_at_most_and_is_reported() -> None:
    node = leaving()
    node.run(LATER_NS + 5 * SECOND_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "ADVERTISE", "RESIGN"]
    assert node.times("RESIGN") == [LATER_NS + SECOND_NS]
    assert [report.left for report in node.reported(ResignedHolding)] == [3]
    node.answer(LATER_NS + 5 * SECOND_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "ADVERTISE", "RESIGN"]
    assert node.engine.host(0).held == 0


def test_a_removed_host_keeps_its_slot_until_every_change_is_answered() -> None:
    node = master()
    node.run(LATER_NS)
    node.forget()
    node.busy = True
    node.engine.remove(0, LATER_NS)
    node.run(LATER_NS + 5 * SECOND_NS)
    assert not node.reported(Released)
    node.answer(LATER_NS + 5 * SECOND_NS)
    assert len(node.reported(Released)) == 1


def test_a_host_removed_while_its_addresses_are_added_removes_them_first() -> None:
    node = rising()
    node.forget()
    node.engine.remove(0, MASTER_NS + SECOND_NS)
    node.run(MASTER_NS + 5 * SECOND_NS)
    assert not node.reported(Released)
    node.answer(MASTER_NS + 5 * SECOND_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY]
    assert len(node.reported(Released)) == 1


def test_a_new_configuration_meets_the_answers_to_the_former() -> None:
    node = rising()
    node.forget()
    node.engine.replace(
        0,
        prepared(addresses=[SIGNED[1]], retired_addresses=[SIGNED[0], *UNSIGNED]),
        MASTER_NS + SECOND_NS,
    )
    node.take(MASTER_NS + SECOND_NS)
    assert not contents(node, "REMOVE_ADDRESSES")
    node.answer(MASTER_NS + 2 * SECOND_NS)
    removed = [done.content for done in node.done if done.action == "REMOVE_ADDRESSES"]
    assert [sorted(addresses) for addresses in removed] == [sorted([EVERY[0], EVERY[2]])]
    assert node.engine.host(0).held == 1
    assert contents(node, "ANNOUNCE")


def test_an_answer_counts_for_its_address_wherever_a_new_configuration_has_it() -> None:
    node = rising()
    node.forget()
    turned = prepared(addresses=SIGNED[::-1], unsigned_addresses=UNSIGNED)
    node.engine.replace(0, turned, MASTER_NS + SECOND_NS)
    node.errors = {EVERY[0]: EPERM}
    node.answer(MASTER_NS + SECOND_NS)
    assert [report.address for report in node.reported(AddressFailed)] == [1]
    assert node.engine.host(0).held == 2


def test_answers_to_a_configuration_that_is_gone_do_not_hold_up_the_new_one() -> None:
    node = rising()
    node.forget()
    node.engine.replace(0, prepared(addresses=[(NEW, 24)]), MASTER_NS + SECOND_NS)
    node.run(MASTER_NS + 2 * SECOND_NS)
    node.answer(MASTER_NS + 2 * SECOND_NS)
    assert contents(node, "ADD_ADDRESSES") == [[NEW]]
    assert node.engine.host(0).held == 1
    assert contents(node, "ANNOUNCE")


def test_every_request_has_one_answer_however_often_the_configuration_changes() -> None:
    node = rising()
    for addresses in ([(NEW, 24)], SIGNED, [(NEW, 24)], SIGNED + UNSIGNED):
        node.engine.replace(0, prepared(addresses=addresses), MASTER_NS + SECOND_NS)
        node.run(MASTER_NS + SECOND_NS)
    node.answer(MASTER_NS + 2 * SECOND_NS)
    assert node.engine.host(0).held == 3
    node.engine.remove(0, MASTER_NS + 3 * SECOND_NS)
    node.run(MASTER_NS + 4 * SECOND_NS)
    assert len(node.reported(Released)) == 1


def test_a_new_configuration_while_a_lost_address_is_added_is_no_change_of_addresses() -> None:
    node = master()
    node.run(LATER_NS)
    node.forget()
    node.busy = True
    node.engine.found(0, EVERY[1], "none", LATER_NS)
    node.take(LATER_NS)
    assert contents(node, "ADD_ADDRESSES") == [[EVERY[1]]]
    node.engine.replace(0, prepared(**host(advskew=1)), LATER_NS + SECOND_NS)
    node.answer(LATER_NS + 2 * SECOND_NS)
    assert node.engine.host(0).held == 3
    assert not node.reported(AddressesChanged)


def test_an_answer_after_the_interface_is_gone_changes_nothing() -> None:
    node = rising()
    node.engine.set_interface(0, MASTER_NS + SECOND_NS, ifindex=0, up=False, mac=bytes(6))
    node.take(MASTER_NS + SECOND_NS)
    node.errors = dict.fromkeys(EVERY, ESTALE)  # as the pump passes what it was on another one
    node.answer(MASTER_NS + 2 * SECOND_NS)
    assert (node.state, node.engine.host(0).held) == ("INIT", 0)


def test_an_address_adopted_meanwhile_is_counted_once() -> None:
    node = rising()
    node.engine.adopt(0, EVERY[0], 24, MASTER_NS + SECOND_NS)
    node.answer(MASTER_NS + 2 * SECOND_NS)
    assert node.engine.host(0).held == 3


@pytest.mark.parametrize("there", ["none", "ours", "foreign"])
def test_a_look_from_before_the_answer_is_ignored(there: str) -> None:
    node = rising()
    node.engine.found(0, EVERY[0], there, MASTER_NS + SECOND_NS)
    node.answer(MASTER_NS + 2 * SECOND_NS)
    assert node.engine.host(0).held == 3


def test_a_refused_change_is_tried_again_after_its_answer() -> None:
    node = rising()
    node.errors = {EVERY[1]: EEXIST}
    node.answer(MASTER_NS + SECOND_NS)
    assert node.engine.host(0).held == 2
    assert [change.state for change in node.reported(StateChanged)][-1] == "MASTER"


def test_a_master_that_has_some_of_its_addresses_does_not_give_up() -> None:
    node = rising(address_deadline_ns=2 * SECOND_NS)
    node.errors = dict.fromkeys(EVERY[1:], ESTALE)
    node.engine.answer(MASTER_NS + SECOND_NS, node.errors)
    node.run(MASTER_NS + 9 * SECOND_NS)
    assert (node.state, node.engine.host(0).held) == ("MASTER", 1)


def test_reports_of_addresses_name_the_configuration_that_numbers_them() -> None:
    """Python may read them once it has given the order for the next one."""
    node = master()
    assert [each.configuration for each in node.reported(AddressesChanged)] == [0]
    node.run(LATER_NS)
    node.forget()
    for count in range(1, 258):
        addresses = [(NEW, 24)] if count % 2 else SIGNED[:1]
        node.engine.replace(0, prepared(**host(addresses=addresses)), LATER_NS + count)
        node.take(LATER_NS + count)
    numbers = [each.configuration for each in node.reported(AddressesChanged)]
    assert numbers == [*range(1, 256), 0, 1]
    node.errors = {SIGNED[1][0]: EPERM}
    node.engine.replace(0, prepared(**host(addresses=SIGNED[1:])), LATER_NS + SECOND_NS)
    node.take(LATER_NS + SECOND_NS)
    assert [each.configuration for each in node.reported(AddressFailed)] == [2]


def test_a_slot_that_is_used_again_begins_with_its_first_configuration() -> None:
    node = master()
    node.engine.replace(0, prepared(**host(advskew=1)), LATER_NS)
    node.engine.remove(0, LATER_NS)
    node.run(LATER_NS + SECOND_NS)
    assert len(node.reported(Released)) == 1
    node.forget()
    node.engine.add(0, prepared(**host()), LATER_NS + SECOND_NS)
    node.run(LATER_NS + 9 * SECOND_NS)
    assert [each.configuration for each in node.reported(AddressesChanged)] == [0]
