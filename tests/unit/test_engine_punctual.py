"""An order never puts off what is due: not the next advertisement, and not a take-over."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from carp_fast.engine._engine import Engine
from carp_fast.engine.reports import Undemoted
from tests.support.segment import (
    ADDRESS,
    SECOND_NS,
    START_NS,
    Node,
    advertisement,
    ip,
    prepared,
    read_advertisement,
)

MASTER_NS = START_NS + 10 * SECOND_NS
TURN_NS = 10_000_000
Order = Callable[[Engine, int, int], object]


def demoted_again(engine: Engine, now_ns: int, turn: int) -> None:
    engine.demote(0, 7, now_ns)


def demoted_more_and_less(engine: Engine, now_ns: int, turn: int) -> None:
    engine.demote(0, turn % 2, now_ns)


def demoted_most_and_not(engine: Engine, now_ns: int, turn: int) -> None:
    engine.demote(0, turn % 2 * 240, now_ns)


def replaced_by_the_same(engine: Engine, now_ns: int, turn: int) -> None:
    engine.replace(0, prepared(), now_ns)


def replaced_by_another_interval(engine: Engine, now_ns: int, turn: int) -> None:
    engine.replace(0, prepared(advskew=turn % 2), now_ns)


def replaced_by_longer_and_shorter(engine: Engine, now_ns: int, turn: int) -> None:
    engine.replace(0, prepared(advbase=1 + turn % 3), now_ns)


def interface_as_it_was(engine: Engine, now_ns: int, turn: int) -> None:
    engine.set_interface(0, now_ns, source=ip("10.77.0.2"), mac=b"\x02\0" + ip("10.77.0.2"))


def another_source(engine: Engine, now_ns: int, turn: int) -> None:
    engine.set_interface(0, now_ns, source=ip(f"10.77.0.{2 + turn % 2}"), announce=True)


def announced(engine: Engine, now_ns: int, turn: int) -> None:
    engine.announce(0, now_ns)


def free_for_us(engine: Engine, now_ns: int, turn: int) -> None:
    engine.bar(0, False, now_ns)


def source_is_there(engine: Engine, now_ns: int, turn: int) -> None:
    engine.set_own_source(0, now_ns)


def address_adopted(engine: Engine, now_ns: int, turn: int) -> None:
    engine.adopt(0, ADDRESS, 24, now_ns)


def batch_ends(engine: Engine, now_ns: int, turn: int) -> None:
    engine.mark(now_ns)


ORDERS: list[Order] = [
    demoted_again,
    demoted_more_and_less,
    demoted_most_and_not,
    replaced_by_the_same,
    replaced_by_another_interval,
    replaced_by_longer_and_shorter,
    interface_as_it_was,
    another_source,
    announced,
    free_for_us,
    source_is_there,
    address_adopted,
    batch_ends,
]


def promised_ns(frame: bytes) -> int:
    """The interval that an advertisement promises."""
    said = read_advertisement(frame)
    return (said.advbase * 256 + said.advskew) * SECOND_NS // 256


def check_punctual(node: Node, until_ns: int) -> None:
    """Every advertisement came within the interval that the one before it promised."""
    sent = [(done.at_ns, done.content) for done in node.done if done.action == "ADVERTISE"]
    assert sent
    for (before_ns, frame), (at_ns, _) in pairwise(sent):
        assert at_ns - before_ns <= promised_ns(frame)
    assert until_ns - sent[-1][0] <= promised_ns(sent[-1][1])


def master() -> Node:
    node = Node("10.77.0.2")
    node.run(MASTER_NS)
    assert node.state == "MASTER"
    return node


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_in_every_turn_puts_off_no_advertisement(order: Order) -> None:
    node, now_ns = master(), MASTER_NS
    for turn in range(2_000):
        now_ns += TURN_NS
        order(node.engine, now_ns, turn)
        node.carry_out(now_ns)
    assert node.state == "MASTER"
    check_punctual(node, now_ns)


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_in_the_turn_of_a_due_advertisement_does_not_skip_it(order: Order) -> None:
    node, now_ns, orders = master(), MASTER_NS, 0
    for turn in range(2_000):
        now_ns += TURN_NS
        if node.engine.host(0).deadline_ns <= now_ns:
            order(node.engine, now_ns, turn)
            orders += 1
        node.carry_out(now_ns)
    assert orders >= 6
    check_punctual(node, now_ns)


@pytest.mark.parametrize("tenths", range(0, 20, 3))
def test_the_end_of_a_demotion_for_addresses_puts_off_no_advertisement(tenths: int) -> None:
    node = master()
    lost_ns = MASTER_NS + tenths * SECOND_NS // 10
    node.run(lost_ns)
    node.engine.lose_address(0, lost_ns)
    node.run(lost_ns + 5 * SECOND_NS)
    assert node.state == "MASTER"  # nobody else is there
    node.forget()
    node.run(lost_ns + 70 * SECOND_NS)
    assert node.reported(Undemoted)
    check_punctual(node, lost_ns + 70 * SECOND_NS)


# ------------------------------------------------------------------------------------ a take-over


@pytest.mark.parametrize(
    ("one", "other", "longest_s"),
    [({}, {"advskew": 1}, 3.01), ({}, {"dead_ratio": 4}, 4.0), ({}, {"advbase": 2}, 6.0)],
    ids=["advskew", "dead_ratio", "advbase"],
)
def test_changes_in_every_turn_put_off_no_take_over(
    one: dict[str, Any], other: dict[str, Any], longest_s: float
) -> None:
    node = Node("10.77.0.2", **one)
    assert node.engine.receive(0, advertisement(advskew=0), START_NS) == "ok"
    now_ns, turn = START_NS, 0
    while node.state == "BACKUP" and now_ns < START_NS + 20 * SECOND_NS:
        now_ns += TURN_NS
        turn += 1
        node.engine.replace(0, prepared(**(one, other)[turn % 2]), now_ns)
        node.carry_out(now_ns)
    assert START_NS + 3 * SECOND_NS <= now_ns <= START_NS + longest_s * SECOND_NS + 2 * TURN_NS
    assert node.changes()[-1] == ("BACKUP", "MASTER", "master_down")


def test_a_shorter_wait_counts_from_its_order_at_most() -> None:
    node = Node("10.77.0.2", dead_ratio=10)
    changed_ns = START_NS + 8 * SECOND_NS
    node.run(changed_ns)
    node.engine.replace(0, prepared(dead_ratio=1), changed_ns)
    node.run(changed_ns + SECOND_NS - 1)
    assert node.state == "BACKUP"  # its master may advertise less often than that so far
    node.run(changed_ns + SECOND_NS)
    assert node.state == "MASTER"


def test_a_wait_that_was_longer_for_an_absence_is_judged_anew_after_a_change() -> None:
    node = Node("10.77.0.2")
    node.engine.stall(START_NS + 5 * SECOND_NS, START_NS + SECOND_NS)
    node.carry_out(START_NS + 5 * SECOND_NS)
    assert node.state == "BACKUP"  # it listens for another master-down time
    node.engine.replace(0, prepared(dead_ratio=2), START_NS + 6 * SECOND_NS)
    node.run(START_NS + 7 * SECOND_NS - 1)
    assert node.state == "BACKUP"  # two seconds after the absence
    node.run(START_NS + 15 * SECOND_NS)
    assert node.state == "MASTER"


def test_the_short_wait_after_a_resignation_outlives_a_change() -> None:
    node = Node("10.77.0.2", advskew=100)
    assert node.engine.receive(0, advertisement(), START_NS) == "ok"
    resigned_ns = START_NS + SECOND_NS
    leaving = advertisement(advbase=255, advskew=255, counter=2)
    assert node.engine.receive(0, leaving, resigned_ns) == "ok"
    node.engine.replace(0, prepared(advskew=101), resigned_ns + TURN_NS)
    node.run(resigned_ns + SECOND_NS // 2)
    assert (node.state, node.reason) == ("MASTER", "master_resigned")
