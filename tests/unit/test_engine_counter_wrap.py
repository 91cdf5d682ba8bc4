"""Counters past 2^64 - 1: those heard, ours, and what is known of them on both sides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.engine.reports import CounterReset
from tests.support.segment import (
    SECOND_NS,
    START_NS,
    Node,
    Segment,
    advertisement,
    read_advertisement,
)

END = 1 << 64
DOWN_NS = 3 * SECOND_NS


def hear(node: Node, counter: int, now_ns: int, source: str = "10.77.0.1", **carp: Any) -> str:
    frame = advertisement(source=source, counter=counter % END, **carp)
    verdict: str = node.engine.receive(0, frame, now_ns)
    node.take(now_ns)
    return verdict


def past_the_end(**settings: Any) -> tuple[Node, int]:
    """A BACKUP that has heard a master count from END - 4 to END + 4, and when it last did."""
    node = Node("10.77.0.2", **settings)
    for step in range(9):
        assert hear(node, END - 4 + step, START_NS + step * SECOND_NS) == "ok"
    return node, START_NS + 8 * SECOND_NS


@pytest.mark.parametrize("replay", ["off", "learn", "strict"])
def test_a_master_whose_counter_goes_on_from_0_is_heard(replay: str) -> None:
    node, now_ns = past_the_end(replay=replay)
    assert node.state == "BACKUP"
    copy = node.engine.host(0)
    assert copy.counters["replay"] == 0
    assert not node.reported(CounterReset)
    assert copy.deadline_ns >= now_ns + DOWN_NS


@pytest.mark.parametrize("replay", ["learn", "strict"])
@pytest.mark.parametrize("counter", [END - 1, END - 4, END - 100, END, END + 3, END + 4])
def test_what_it_sent_before_is_a_replay_on_both_sides(counter: int, replay: str) -> None:
    node, now_ns = past_the_end(replay=replay)
    assert hear(node, counter, now_ns + SECOND_NS // 2) == "replay"


@pytest.mark.parametrize("counter", [END - 4, END - 1, END, END + 3])
def test_a_stranger_sends_none_of_them_again_after_long(counter: int) -> None:
    node, now_ns = past_the_end()
    for step in range(1, 20):
        now_ns += SECOND_NS
        assert hear(node, END + 4 + step, now_ns) == "ok"
    assert hear(node, counter, now_ns + SECOND_NS // 2, "10.77.0.9") == "replay"


def test_ours_go_on_above_what_was_heard_past_the_end() -> None:
    node, now_ns = past_the_end()
    node.run(now_ns + 2 * DOWN_NS)
    assert node.state == "MASTER"
    sent = [read_advertisement(done.content) for done in node.done if done.action == "ADVERTISE"]
    assert [each.counter for each in sent] == list(range(5, 5 + len(sent)))


def test_ours_do_not_go_back_to_what_was_before_the_end() -> None:
    node = Node("10.77.0.2", counter=END - 3, advskew=1)
    node.run(START_NS + 2 * DOWN_NS)
    assert node.state == "MASTER"
    node.forget()
    # Another master, which heard us long ago: it is slower, and we stay.
    assert hear(node, END - 1, START_NS + 2 * DOWN_NS, advskew=200) == "ok"
    node.run(START_NS + 3 * DOWN_NS)
    sent = [read_advertisement(done.content) for done in node.done if done.action == "ADVERTISE"]
    assert 0 < min(each.counter for each in sent) <= max(each.counter for each in sent) < 20


def test_a_counter_before_the_end_stays_behind_after_a_checkpoint_too() -> None:
    before = Node("10.77.0.2", counter=END - 3)
    before.run(START_NS + 2 * DOWN_NS)
    state = before.engine.checkpoint(0, START_NS + 2 * DOWN_NS)["state"]
    after = Node("10.77.0.2", counter=END - 3)
    after.engine.assume(0, state, START_NS + 2 * DOWN_NS)
    assert hear(after, END - 1, START_NS + 2 * DOWN_NS, advskew=200) == "ok"
    assert after.engine.host(0).counter < 20


def test_a_host_that_begins_past_the_end_does_not_go_back_before_it() -> None:
    node = Node("10.77.0.2", counter=5)
    assert hear(node, END - 1, START_NS, advskew=200) == "ok"
    assert node.engine.host(0).counter == 5


def test_our_own_come_back_as_a_loop_past_the_end() -> None:
    node = Node("10.77.0.2", counter=END - 3)
    looped: list[str] = []
    now_ns = START_NS
    while len(looped) < 8:
        now_ns += SECOND_NS // 100
        for frame in node.carry_out(now_ns):
            looped.append(frame[42:50].hex())
            assert node.engine.receive(0, frame, now_ns) == "loop"
    assert [looped[0], looped[2], looped[7]] == ["f" * 15 + "e", "0" * 16, "0" * 15 + "5"]
    assert node.engine.host(0).counters["duplicate_source"] == 0


@pytest.mark.parametrize("replay", ["learn", "strict"])
def test_an_election_goes_on_past_the_end(replay: str) -> None:
    master = Node("10.77.0.1", counter=END - 10, replay=replay)
    backup = Node("10.77.0.2", counter=5, advskew=100, replay=replay)
    segment = Segment(master, backup)
    segment.run(30)
    assert (master.state, backup.state) == ("MASTER", "BACKUP")
    assert set(segment.verdicts) == {"ok"}
    segment.leave(master)
    segment.run(10)
    assert backup.state == "MASTER"
    assert backup.engine.host(0).counters["replay"] == 0


def test_what_was_sent_in_an_hour_around_the_end_is_one_range() -> None:
    node = Node("10.77.0.2", counter=END - 1800)
    end_ns = START_NS + 3600 * SECOND_NS
    node.run(end_ns)
    known = node.engine.checkpoint(0, end_ns)["state"]["history"]
    ((begin, count, _),) = known["formerly"]
    assert begin == END - 1799
    assert count > 3580


@given(
    st.integers(0, END - 1) | st.integers(-(1 << 33), 1 << 33).map(lambda counter: counter % END),
    st.integers(1, 60_000),
)
def test_three_steps_make_an_order_wherever_they_are(begin: int, step: int) -> None:
    node = Node("10.77.0.2")
    for number in range(5):
        now_ns = START_NS + number * SECOND_NS
        assert hear(node, begin + number * step, now_ns) == "ok"
    now_ns += SECOND_NS // 2
    assert hear(node, begin + 2 * step, now_ns) == "replay"
    assert hear(node, begin + 4 * step, now_ns) == "replay"
    assert hear(node, begin + 5 * step, now_ns) == "ok"
