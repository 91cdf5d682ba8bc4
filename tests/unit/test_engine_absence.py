"""What an absence of the pump, or dropped frames, mean to a silence: decided when it would end."""

from __future__ import annotations

from typing import Any

import pytest

from carp_fast.engine.reports import FamilySilent
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    SECOND_NS,
    START_NS,
    Node,
    advertisement,
    next_deadline,
    prepared,
)

DOWN_NS = 3 * SECOND_NS
MS_NS = 1_000_000


def listening(**settings: Any) -> Node:
    """A BACKUP that has just heard its master, at START_NS."""
    node = Node("10.77.0.2", **settings)
    hear(node, START_NS, 1)
    return node


def hear(node: Node, now_ns: int, counter: int, **carp: Any) -> None:
    assert node.engine.receive(0, advertisement(counter=counter, **carp), now_ns) == "ok"


def rises_at(node: Node) -> int:
    """Let time pass, nobody being heard: how long after START_NS it rose."""
    while node.state == "BACKUP":
        node.run(next_deadline(node.engine))
    since_ns: int = node.engine.host(0).since_ns
    return since_ns - START_NS


def test_nothing_missed_nothing_changes() -> None:
    node = listening()
    node.engine.stall(START_NS + SECOND_NS, START_NS)  # as long as its interval, not longer
    assert rises_at(node) == DOWN_NS


def test_what_was_missed_comes_on_top_and_two_intervals_of_the_master() -> None:
    """Away from 1.0 to 2.5 s: silence until 3 s proves half as much, and it listens until 5 s."""
    node = listening()
    node.engine.stall(START_NS + 5 * SECOND_NS // 2, START_NS + SECOND_NS)
    assert rises_at(node) == 5 * SECOND_NS
    # A master that advertises every second is heard by then.
    node = listening()
    node.engine.stall(START_NS + 5 * SECOND_NS // 2, START_NS + SECOND_NS)
    node.run(START_NS + 4 * SECOND_NS)
    assert node.state == "BACKUP"
    hear(node, START_NS + 4 * SECOND_NS, 2)
    assert rises_at(node) == 7 * SECOND_NS


def test_two_intervals_are_those_of_the_master_that_was_heard() -> None:
    fast = Node("10.77.0.2", advskew=128)
    hear(fast, START_NS, 1, advskew=0)
    slow = Node("10.77.0.2", advskew=0, preempt=False)
    hear(slow, START_NS, 1, advskew=128)
    down_ns = DOWN_NS + SECOND_NS // 2
    for node, ours_ns, theirs_ns in (
        (fast, down_ns, SECOND_NS),
        (slow, DOWN_NS, 3 * SECOND_NS // 2),
    ):
        node.engine.stall(START_NS + 2 * SECOND_NS, START_NS + SECOND_NS // 4)
        assert rises_at(node) == ours_ns + 2 * theirs_ns


def test_who_has_heard_no_master_listens_for_a_whole_master_down_time() -> None:
    node = Node("10.77.0.2")
    node.engine.stall(START_NS + 2 * SECOND_NS, START_NS + SECOND_NS // 2)
    assert rises_at(node) == 2 * DOWN_NS


@pytest.mark.parametrize("asleep_s", [0, 7])
def test_an_absence_of_a_master_down_is_followed_by_a_whole_one(asleep_s: int) -> None:
    """Also where the clock did not show all of it."""
    node = listening()
    back_ns = START_NS + (10 - asleep_s) * SECOND_NS
    node.engine.stall(back_ns, START_NS + SECOND_NS // 10, asleep_s * SECOND_NS)
    assert rises_at(node) == max(back_ns - START_NS, DOWN_NS) + DOWN_NS


def test_sleep_does_not_shift_a_deadline_that_the_clock_has_shifted() -> None:
    node = listening()
    node.engine.stall(START_NS + SECOND_NS, START_NS + SECOND_NS - MS_NS, 2 * SECOND_NS)
    assert rises_at(node) == 5 * SECOND_NS


def test_absences_add_up_and_what_two_have_in_common_counts_once() -> None:
    node = listening(dead_ratio=9)
    node.engine.stall(START_NS + 3 * SECOND_NS, START_NS + 1 * SECOND_NS)
    node.engine.drop(START_NS + 3 * SECOND_NS, START_NS + 2 * SECOND_NS)
    node.engine.stall(START_NS + 6 * SECOND_NS, START_NS + 4 * SECOND_NS)
    assert rises_at(node) == 13 * SECOND_NS


def test_an_absence_while_it_waits_on_counts_again() -> None:
    node = listening()
    node.engine.stall(START_NS + 5 * SECOND_NS // 2, START_NS + SECOND_NS)
    node.run(START_NS + 4 * SECOND_NS)
    node.engine.stall(START_NS + 9 * SECOND_NS // 2, START_NS + 5 * SECOND_NS // 2 + MS_NS)
    assert rises_at(node) == 7 * SECOND_NS
    # And once it was heard, what was before counts no more.
    node = listening()
    node.engine.stall(START_NS + 5 * SECOND_NS // 2, START_NS + SECOND_NS)
    hear(node, START_NS + 5 * SECOND_NS // 2, 2)
    assert rises_at(node) == 11 * SECOND_NS // 2


def test_a_frame_from_before_the_end_of_an_absence_does_not_shorten_the_wait() -> None:
    """A backlog is read slice by slice: what is read last may be older than what was decided."""
    node = listening()
    back_ns = START_NS + 10 * SECOND_NS
    node.engine.stall(back_ns, START_NS + SECOND_NS)
    node.carry_out(back_ns)
    hear(node, START_NS + 5 * SECOND_NS, 2)
    assert rises_at(node) == 13 * SECOND_NS


def test_any_drop_counts_however_short() -> None:
    node = listening()
    node.engine.drop(START_NS + 5 * SECOND_NS // 2, START_NS + 5 * SECOND_NS // 2 - MS_NS)
    assert rises_at(node) == 5 * SECOND_NS
    node = listening()
    for step in range(1000):  # one after the other: all of it was missed
        at_ns = START_NS + SECOND_NS + 9 * step * MS_NS
        node.engine.drop(at_ns + 9 * MS_NS, at_ns)
    assert rises_at(node) == 10 * SECOND_NS + DOWN_NS


def test_each_host_goes_by_its_own_interval() -> None:
    """What is long for a host that advertises 32 times a second is nothing to the one beside it."""
    node = Node("10.77.0.2")
    node.engine.add(1, prepared(vhid=43, advbase=0, advskew=8), START_NS)
    fast_ns = 3 * 8 * SECOND_NS // 256
    end_ns = START_NS + 4 * SECOND_NS
    now_ns = START_NS
    while now_ns < end_ns:
        now_ns += 40 * MS_NS
        node.engine.stall(now_ns, now_ns - 40 * MS_NS)
        node.run(now_ns)
        slow, fast = (node.engine.host(slot).state for slot in (0, 1))
        assert slow == ("MASTER" if now_ns >= START_NS + DOWN_NS else "BACKUP")
        assert fast == "BACKUP"
    node.run(end_ns + 2 * fast_ns)
    assert node.engine.host(1).state == "MASTER"


def test_many_short_absences_do_not_make_a_long_one_forgotten() -> None:
    """As many are kept as fit: first those go that a later, longer one covers."""
    for lengths_ms in ([5] * 200, list(range(200, 5, -1)), list(range(5, 200))):
        node = listening()
        node.engine.stall(START_NS + 3 * SECOND_NS // 2, START_NS + SECOND_NS // 4)
        at_ns = START_NS + 3 * SECOND_NS // 2
        for length_ms in lengths_ms:
            at_ns += 5 * MS_NS
            node.engine.stall(at_ns, at_ns - length_ms * MS_NS)
        assert DOWN_NS + 2 * SECOND_NS <= rises_at(node) <= DOWN_NS + 5 * SECOND_NS // 2


def test_the_short_wait_after_a_resignation_goes_on_as_well() -> None:
    """Another host may have risen meanwhile, unheard."""
    node = listening(advskew=128)
    hear(node, START_NS + MS_NS, 2, advbase=255, advskew=255)
    node.engine.stall(START_NS + 2 * SECOND_NS, START_NS + 2 * MS_NS)
    assert rises_at(node) == 2 * SECOND_NS + DOWN_NS + SECOND_NS // 2
    assert node.reason == "master_resigned"


def test_absences_survive_in_a_checkpoint() -> None:
    for extended in (False, True):
        node = listening()
        node.engine.stall(START_NS + 5 * SECOND_NS // 2, START_NS + SECOND_NS)
        at_ns = START_NS + (7 * SECOND_NS // 2 if extended else 5 * SECOND_NS // 2)
        node.run(at_ns)
        other = Node("10.77.0.2", now_ns=at_ns)
        other.engine.assume(0, node.engine.checkpoint(0, at_ns)["state"], at_ns)
        assert rises_at(other) == 5 * SECOND_NS


def test_absences_that_end_at_the_same_time_are_noted_once_each() -> None:
    """Each virtual host of a recording brings those that count for it."""
    node = listening()
    node.engine.stall(START_NS + SECOND_NS, START_NS, 3 * SECOND_NS // 2)
    node.engine.drop(START_NS + SECOND_NS, START_NS)
    state = node.engine.checkpoint(0, START_NS + SECOND_NS)["state"]
    assert len(state["absences"]) == 2
    other = Node("10.77.0.2", now_ns=START_NS + SECOND_NS)
    for _ in range(2):
        other.engine.assume(0, state, START_NS + SECOND_NS)
    assert rises_at(other) == rises_at(node)


def test_the_silence_of_a_family_goes_by_the_hosts_own_interval() -> None:
    both = {"addresses": [ADDRESS, ADDRESS6]}
    for length_ns, said in ((SECOND_NS // 2, True), (3 * SECOND_NS // 2, False)):
        node = Node("10.77.0.2", on6="fe80::2", addresses=[(ADDRESS, 24), (ADDRESS6, 64)])
        hear(node, START_NS, 1, **both)
        hear(node, START_NS, 2, source="fe80::1", **both)
        node.engine.stall(START_NS + 2 * SECOND_NS, START_NS + 2 * SECOND_NS - length_ns)
        for second in (1, 2, 3, 4):
            hear(node, START_NS + second * SECOND_NS, 2 + second, **both)
        node.take(START_NS)
        assert bool(node.reported(FamilySilent)) == said
