"""Loops, duplicate sources and replays: what a counter says, and what it does not."""

from __future__ import annotations

import random
from typing import Any

import pytest
from unit.segment import SECOND_NS, START_NS, Node, Segment, advertisement, prepared

DOWN_NS = 3 * SECOND_NS
BASE = 1 << 40


def hear(node: Node, counter: int, now_ns: int, source: str = "10.77.0.1", **carp: Any) -> str:
    frame = advertisement(source=source, counter=counter, **carp)
    verdict: str = node.engine.receive(0, frame, now_ns)
    node.take(now_ns)
    return verdict


def in_order(theirs: dict[str, int] | None = None, /, **settings: Any) -> Node:
    """A BACKUP that has heard 10.77.0.1 count up from BASE to BASE + 4 in four seconds."""
    node = Node("10.77.0.2", **settings)
    for step in range(5):
        assert hear(node, BASE + step, START_NS + step * SECOND_NS, **theirs or {}) == "ok"
    return node


NOW_NS = START_NS + 4 * SECOND_NS + SECOND_NS // 2


# --------------------------------------------------------------------------------------- replays


@pytest.mark.parametrize("counter", [BASE + 4, BASE + 3, BASE, 0])
@pytest.mark.parametrize(
    ("replay", "verdict"), [("off", "ok"), ("learn", "replay"), ("strict", "replay")]
)
def test_a_counter_that_is_not_above_the_last_is_a_replay(
    replay: str, verdict: str, counter: int
) -> None:
    node = in_order(replay=replay)
    before = node.engine.host(0)["deadline_ns"]
    assert hear(node, counter, NOW_NS) == verdict
    after = node.engine.host(0)
    assert (after["deadline_ns"] == before) == (verdict == "replay")
    assert after["counters"]["replay"] == (verdict == "replay")


def test_a_replay_does_not_keep_a_dead_master_alive() -> None:
    node = in_order()
    last_ns = START_NS + 4 * SECOND_NS
    for step in range(30):
        hear(node, BASE + 2, last_ns + step * SECOND_NS // 10)
    node.run(last_ns + DOWN_NS + SECOND_NS // 100)
    assert (node.state, node.reason) == ("MASTER", "master_down")


def test_each_source_has_its_own_counters() -> None:
    node = in_order()
    assert hear(node, 5, NOW_NS, "10.77.0.9") == "ok"
    assert hear(node, BASE + 5, NOW_NS) == "ok"


@pytest.mark.parametrize(
    ("settings", "theirs", "silence_ns"),
    [
        # Two of its own intervals.
        ({}, {}, 2 * SECOND_NS),
        ({"advskew": 200}, {}, 2 * SECOND_NS),
        ({"dead_ratio": 10}, {"advskew": 128}, 3 * SECOND_NS),
        ({"advbase": 3}, {}, 2 * SECOND_NS),
        # Our master-down less one of its intervals: it advertises once more before that is over.
        ({}, {"advskew": 128}, 3 * SECOND_NS // 2),
        ({"advskew": 128}, {"advbase": 2}, 3 * SECOND_NS // 2),
        ({"dead_ratio": 2}, {}, SECOND_NS),
        ({"dialect": "openbsd", "advskew": 128}, {"advbase": 2}, 2 * SECOND_NS + SECOND_NS // 2),
    ],
)
def test_a_silent_source_is_learned_anew_before_our_master_down_passes(
    settings: dict[str, Any], theirs: dict[str, int], silence_ns: int
) -> None:
    for replay, verdict in (("learn", "ok"), ("strict", "replay")):
        node = in_order(theirs, replay=replay, **settings)
        at_ns = START_NS + 4 * SECOND_NS + silence_ns
        assert hear(node, 7, at_ns - SECOND_NS // 100, **theirs) == "replay"
        assert hear(node, 7, at_ns, **theirs) == verdict
        assert node.state == "BACKUP"
        assert len(node.reported("counter_reset")) == (replay == "learn")
        assert node.engine.host(0)["counters"]["counter_reset"] == (replay == "learn")


@pytest.mark.parametrize("silent_ns", range(SECOND_NS // 10, DOWN_NS, SECOND_NS // 10))
@pytest.mark.parametrize("advskew", [0, 100, 254])
def test_a_master_made_anew_is_heard_before_we_take_over(silent_ns: int, advskew: int) -> None:
    """However soon it is back, with counters below its last ones that it draws at random."""
    node = in_order(dialect="freebsd", advskew=advskew)
    draw = random.Random(silent_ns + advskew)
    at_ns = START_NS + 4 * SECOND_NS + silent_ns
    for step in range(6):
        node.run(at_ns + step * SECOND_NS)
        assert node.state == "BACKUP"
        hear(node, draw.randrange(BASE), at_ns + step * SECOND_NS)


def test_who_says_that_it_leaves_is_learned_anew_at_once() -> None:
    node = in_order()
    leaving = advertisement(advbase=255, advskew=255, counter=BASE + 5)
    assert node.engine.receive(0, leaving, NOW_NS) == "ok"
    assert hear(node, 7, NOW_NS + 1) == "ok"


@pytest.mark.parametrize("counter", [BASE, BASE + 2, BASE + 4])
def test_what_a_source_has_sent_in_order_is_not_news_after_a_silence(counter: int) -> None:
    node = in_order()
    last_ns = START_NS + 4 * SECOND_NS
    for step in range(1, 30):
        assert hear(node, counter, last_ns + step * SECOND_NS // 10) == "replay"
    node.run(last_ns + DOWN_NS)
    assert (node.state, node.reason) == ("MASTER", "master_down")


def test_a_constant_counter_heard_while_replays_are_let_through_shows_no_order() -> None:
    """Else an OpenBSD would be refused once a reload asks for order."""
    node = Node("10.77.0.2", replay="off")
    for step in range(5):
        assert hear(node, BASE, START_NS + step * SECOND_NS) == "ok"
    node.engine.replace(0, prepared(replay="learn"), NOW_NS)
    for step in range(5, 10):
        assert hear(node, BASE, START_NS + step * SECOND_NS) == "ok"


def test_three_in_a_row_that_ascend_are_learned_anew() -> None:
    for replay, last in (("learn", "ok"), ("strict", "replay")):
        node = in_order(replay=replay)
        verdicts = [hear(node, counter, NOW_NS + counter) for counter in (10, 11, 12)]
        assert verdicts == ["replay", "replay", last]
    node = in_order()
    assert [hear(node, c, NOW_NS + c) for c in (10, 9, 11, 11, 12)] == ["replay"] * 5


def test_a_source_whose_counter_never_changes_is_accepted_as_such() -> None:
    # OpenBSD: one random number for life.
    for replay, verdict in (("learn", "ok"), ("strict", "replay")):
        node = Node("10.77.0.2", replay=replay)
        assert hear(node, BASE, START_NS) == "ok"
        for step in range(1, 10):
            assert hear(node, BASE, START_NS + step * SECOND_NS // 4) == verdict


def test_a_lone_ucarp_whose_counters_are_random_is_accepted_for_ever() -> None:
    # It has heard nobody and draws each anew; to refuse them would be to take over from it.
    node = Node("10.77.0.2")
    draw = random.Random(112)
    for step in range(500):
        counter = draw.getrandbits(64)
        assert hear(node, counter, START_NS + step * SECOND_NS) == "ok", counter
    # From then on it counts up, and replays are known.
    start = draw.getrandbits(63)
    now_ns = START_NS + 500 * SECOND_NS
    verdicts = [hear(node, start + n, now_ns + n * SECOND_NS) for n in range(6)]
    assert verdicts == ["ok"] * 6
    assert hear(node, start + 2, now_ns + 6 * SECOND_NS) == "replay"


def test_our_own_counters_go_on_above_what_was_heard() -> None:
    nodes = [Node("10.77.0.1", preempt=True, replay="strict")]
    nodes.append(Node("10.77.0.2", advskew=100, replay="strict"))
    segment = Segment(*nodes)
    segment.run(10)
    segment.leave(nodes[0])
    segment.run(10)
    assert segment.masters() == [nodes[1]]
    assert set(segment.verdicts) == {"ok"}


def test_a_fifth_source_takes_the_place_of_the_one_heard_longest_ago() -> None:
    node = in_order()  # 10.77.0.1 is the master
    for number in range(3, 8):
        hear(node, 1, NOW_NS + number, f"10.77.0.{number}")
    sources = [each["source"][3] for each in node.engine.host(0)["peers"]]
    assert len(sources) == 4
    assert set(sources) >= {7, 6, 5}


# ----------------------------------------------------------------------- loops, duplicate sources


def test_a_loop_is_our_own_source_and_a_counter_that_we_sent_lately() -> None:
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 10 * SECOND_NS)
    sent = [done.content for done in node.done if done.action == "ADVERTISE"]
    now_ns = START_NS + 10 * SECOND_NS
    assert [node.engine.receive(0, frame, now_ns) for frame in sent] == ["loop"] * len(sent)
    assert node.engine.host(0)["counters"]["duplicate_source"] == 0
    # The counter alone makes none: two masters adopt each other's and may send the same.
    counter = int.from_bytes(sent[-1][42:50], "big")
    assert hear(node, counter, now_ns, "10.77.0.1") != "loop"


def test_a_loop_is_known_after_our_counter_went_on_above_what_was_heard() -> None:
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 4 * SECOND_NS)
    frames = [done.content for done in node.done if done.action == "ADVERTISE"]
    node.forget()
    now_ns = START_NS + 4 * SECOND_NS + SECOND_NS // 2
    slower = advertisement(source="10.77.0.1", advskew=9, counter=BASE * 2)
    node.engine.receive(0, slower, now_ns)
    frames += node.take(now_ns)  # the answer, above what was heard
    assert [node.engine.receive(0, frame, now_ns) for frame in frames] == ["loop"] * len(frames)


@pytest.mark.parametrize("counter", [0, 1, BASE - 1, BASE, BASE * 2])
def test_our_own_source_with_another_counter_is_another_host(counter: int) -> None:
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 4 * SECOND_NS)
    frame = advertisement(source="10.77.0.2", counter=counter, source_mac=b"\2\0\0\0\0\7")
    assert node.engine.receive(0, frame, START_NS + 4 * SECOND_NS) == "ok"
    node.take(START_NS + 4 * SECOND_NS)
    [report] = node.reported("duplicate_source")
    assert report[9] == b"\2\0\0\0\0\7"
    assert node.state == "MASTER"  # a tie: we stay
    assert node.engine.host(0)["counters"]["duplicate_source"] == 1
