"""The counters that a host remembers: what is known, and in how little."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from tests.support.segment import (
    OUR_COUNTER,
    SECOND_NS,
    START_NS,
    Node,
    advertisement,
    read_advertisement,
)

MASTER = "10.77.0.1"
FIRST = 1 << 40
NEAR = 64  # counters no further apart are of one range
INTERVAL_MS = 1000 + 50 * 1000 // 256
SPAN_MS = 3000 + 50 * 1000 // 256  # the master-down time with advskew 50


def hear(node: Node, counter: int, now_ns: int, source: str = MASTER, **carp: Any) -> str:
    frame = advertisement(source=source, counter=counter, **carp)
    verdict: str = node.engine.receive(0, frame, now_ns)
    node.take(now_ns)
    return verdict


def history(node: Node, now_ns: int) -> dict[str, list[list[int]]]:
    state: dict[str, Any] = node.engine.checkpoint(0, now_ns)["state"]
    found: dict[str, list[list[int]]] = state.get("history", {})
    return found


def test_what_we_send_in_a_day_is_one_range() -> None:
    node = Node("10.77.0.2")
    end_ns = START_NS + 3600 * SECOND_NS
    node.run(end_ns)
    known = history(node, end_ns)
    assert [each[0] for each in known["formerly"]] == [OUR_COUNTER + 1]
    assert known["formerly"][0][1] > 3580
    assert len(known["sent"]) == 4
    assert len(known["lately"]) <= 5
    ends = [begin + count for begin, count, _ in known["lately"] + known["formerly"]]
    assert max(ends) == min(begin for begin, _, _ in known["sent"])


@pytest.mark.parametrize("advskew", [1, 2, 9])
def test_what_was_sent_long_ago_has_no_later_time_however_short_the_interval(advskew: int) -> None:
    """A master-down time of 11 ms is no multiple of two: its halves must cover all of it."""
    node = Node("10.77.0.2", advbase=0, advskew=advskew)
    end_ns = START_NS + 2 * SECOND_NS
    node.run(end_ns)
    sent = len([done for done in node.done if done.action == "ADVERTISE"])
    known = history(node, end_ns)
    down_ns = node.engine.host(0).master_down_ns
    # Two master-down times and a half, at three advertisements each, and those not noted yet.
    assert sum(count for _, count, _ in known["lately"]) <= 9
    assert sum(count for _, count, _ in known["formerly"]) >= sent - 15
    counter = OUR_COUNTER + sent - 4 - int(3 * down_ns // (down_ns // 3))
    assert hear(node, counter, end_ns, "10.77.0.7") == "replay"
    assert hear(node, OUR_COUNTER + sent - 30, end_ns, "10.77.0.7") == "replay"


@pytest.mark.parametrize("step", [1, 2, 17, 64])
def test_what_a_master_sends_is_one_range_though_some_of_it_is_lost(step: int) -> None:
    node = Node("10.77.0.2")
    now_ns = START_NS
    for number in range(300):
        now_ns = START_NS + number * SECOND_NS
        assert hear(node, FIRST + number * step, now_ns) == "ok"
    known = history(node, now_ns)
    assert [each[0] for each in known["formerly"]] == [FIRST]
    last = max(begin + count for begin, count, _ in known["lately"]) - 1
    assert last >= FIRST + 297 * step


def test_counters_that_nobody_sent_are_not_known() -> None:
    """Passed over by more than what may have been lost: another host may well go on from there."""
    node = Node("10.77.0.2")
    for number in range(30):
        assert hear(node, FIRST + number * 1000, START_NS + number * SECOND_NS) == "ok"
    now_ns = START_NS + 30 * SECOND_NS
    assert hear(node, FIRST + 500, now_ns, "10.77.0.7", advskew=9) == "ok"
    assert node.engine.host(0).peers[1].genuine


def test_random_counters_displace_no_sequence() -> None:
    """A ucarp that hears nobody draws each anew."""
    node = Node("10.77.0.2")
    for number in range(30):
        assert hear(node, FIRST + number, START_NS + number * SECOND_NS) == "ok"
    for number in range(300):
        now_ns = START_NS + (30 + number) * SECOND_NS
        assert hear(node, (number * 0x9E3779B97F4A7C15) % (1 << 64), now_ns, "10.77.0.3") == "ok"
    known = history(node, START_NS + 330 * SECOND_NS)
    assert any(begin == FIRST for begin, _, _ in known["formerly"] + known["lately"])
    assert hear(node, FIRST + 3, START_NS + 330 * SECOND_NS, "10.77.0.7") == "replay"


def test_four_sequences_leave_the_longest_three() -> None:
    node = Node("10.77.0.2")
    now_ns = START_NS
    for sequence, length in enumerate((40, 12, 30, 20, 25)):
        for number in range(length):
            now_ns += SECOND_NS
            source = f"10.77.0.{10 + sequence}"
            assert hear(node, (sequence + 1) * FIRST + number, now_ns, source) == "ok"
    for _ in range(20):
        now_ns += SECOND_NS
        assert hear(node, 9 * FIRST + now_ns // SECOND_NS, now_ns, "10.77.0.30") == "ok"
    known = sorted(begin // FIRST for begin, _, _ in history(node, now_ns)["formerly"])
    assert len(known) == 3
    assert 1 in known
    assert 2 not in known


def test_parts_of_a_sequence_are_one_when_what_lies_between_is_heard() -> None:
    """Each takes a place of its own until then, and two other sequences have theirs."""
    node = Node("10.77.0.2")
    now_ns = START_NS
    parts = [("10.77.0.1", FIRST + each) for each in range(10)]
    parts += [("10.77.0.3", FIRST + 80 + each) for each in range(10)]
    parts += [("10.77.0.1", FIRST + 10 + each * 20) for each in range(4)]
    parts += [("10.77.0.4", 2 * FIRST + each) for each in range(30)]
    parts += [("10.77.0.5", 3 * FIRST + each) for each in range(50)]
    for source, counter in parts:
        now_ns += SECOND_NS
        assert hear(node, counter, now_ns, source) == "ok"
    begins = [begin for begin, _, _ in history(node, now_ns)["formerly"]]
    assert sorted(begins) == [FIRST, 2 * FIRST, 3 * FIRST]
    for each in range(10):
        assert hear(node, FIRST + 80 + each, now_ns, "10.77.0.9", advskew=9) == "replay"


def test_a_source_that_comes_back_after_hours_makes_nothing_older() -> None:
    """What it sent in order is noted then, as of long ago; what we sent since is no older by it."""
    node = Node("10.77.0.2")
    for number in range(4):
        assert hear(node, FIRST + number, START_NS + number * SECOND_NS) == "ok"
    now_ns = START_NS + 2 * 3600 * SECOND_NS
    node.run(now_ns)
    sent = [done.content for done in node.done if done.action == "ADVERTISE"]
    assert hear(node, 1 << 50, now_ns, advskew=9) == "ok"
    counter = int.from_bytes(sent[-6][42:50], "big")
    assert hear(node, counter, now_ns, "10.77.0.7", advskew=9) == "ok"


@pytest.mark.parametrize("seed", range(12))
def test_no_range_is_older_than_a_counter_in_it(seed: int) -> None:
    """Whoever is MASTER by turns: what we sent last is filed when we advertise again."""
    draw = random.Random(seed)
    node = Node("10.77.0.2", advskew=50)
    used: dict[int, int] = {}
    now_ns, next_of = START_NS, {"10.77.0.1": 2 * OUR_COUNTER, "10.77.0.3": 3 * OUR_COUNTER}
    for _ in range(40):
        source, advskew = draw.choice([("10.77.0.1", 0), ("10.77.0.3", 90)])
        for _ in range(draw.randrange(1, 30)):
            now_ns += draw.randrange(1, 1200) * 1_000_000
            node.run(now_ns)
            if hear(node, next_of[source], now_ns, source, advskew=advskew) == "ok":
                used[next_of[source]] = now_ns // 1_000_000
            next_of[source] += 1
        for done in node.done:
            if done.action == "ADVERTISE":
                used[read_advertisement(done.content).counter] = done.at_ns // 1_000_000
        node.forget()
        known = history(node, now_ns)
        for begin, count, at_ms in known.get("lately", []):
            assert max(used.get(begin + i, 0) for i in range(count)) <= at_ms
        for begin, count, at_ms in known.get("formerly", []):
            last_ms = max(used.get(begin + i, 0) for i in range(count))
            assert last_ms <= min(at_ms, now_ns // 1_000_000 - 2 * SPAN_MS)


def test_what_a_source_sent_before_a_silence_is_no_younger_by_what_follows() -> None:
    """The last few had not been noted when it fell silent: they are, as of then."""
    node = Node("10.77.0.2")
    for number in range(6):
        assert hear(node, FIRST + number, START_NS + number * SECOND_NS) == "ok"
    node.run(START_NS + 60 * SECOND_NS)
    for number in range(6, 9):
        now_ns = START_NS + (60 + number) * SECOND_NS
        assert hear(node, FIRST + number, now_ns) == "ok"
        for old in range(6):
            assert hear(node, FIRST + old, now_ns, "10.77.0.9", advskew=9) == "replay"


def known_ms(state: dict[str, Any], counter: int, now_ms: int) -> list[int]:
    """All ages that a host's state has for a counter, but of what was in use long ago."""
    known = state.get("history", {})
    ranges = known.get("sent", []) + known.get("lately", [])
    return [
        now_ms - at_ms for begin, count, at_ms in ranges if begin <= counter < begin + count
    ] + [
        now_ms - source["heard_ns"] // 1_000_000
        for source in state["sources"]
        if 0 <= source["counter"] - counter <= source["run"]
    ]


@pytest.mark.parametrize("seed", range(48))
def test_a_counter_of_one_sequence_is_too_young_by_halves_of_a_span_at_most(seed: int) -> None:
    """Whoever is MASTER by turns, each above what it heard, with silences between."""
    draw = random.Random(seed)
    node = Node("10.77.0.2", advskew=50, preempt=seed % 2 == 0)
    used: dict[int, int] = {}
    ours: set[int] = set()
    last: dict[str, int] = {}
    now_ns = START_NS
    sources = [("10.77.0.1", 0), ("10.77.0.3", 90)]
    turns = [(*source, 5) for source in sources]  # each is known to keep an order
    turns += [(*draw.choice(sources), draw.randrange(1, 30)) for _ in range(40)]
    for source, advskew, count in turns:
        most_ms = draw.choice([100, 400, 1200])
        for _ in range(count):
            now_ns += draw.randrange(50, most_ms + 1) * 1_000_000
            node.run(now_ns)
            counter = node.engine.host(0).counter + 1
            assert hear(node, counter, now_ns, source, advskew=advskew) == "ok"
            if counter - last.get(source, 0) <= NEAR:  # else it is the first of a run, or alone
                used[counter] = now_ns // 1_000_000
            last[source] = counter
        if draw.randrange(2):
            now_ns += draw.randrange(1, 12000) * 1_000_000
            node.run(now_ns)
        for done in node.done:
            if done.action == "ADVERTISE":
                counter = read_advertisement(done.content).counter
                used[counter] = done.at_ns // 1_000_000
                ours.add(counter)
        node.forget()
        state: dict[str, Any] = node.engine.checkpoint(0, now_ns)["state"]
        now_ms = now_ns // 1_000_000
        formerly = sorted(history(node, now_ns).get("formerly", []))
        for (begin, length, _), (after, _, _) in itertools.pairwise(formerly):
            assert after - (begin + length) > NEAR  # each place is of another sequence
        for counter, at_ms in used.items():
            if any(begin <= counter < begin + length for begin, length, _ in formerly):
                continue
            ages_ms = known_ms(state, counter, now_ms)
            # A range has the time of its last one, a run of a source that of the last heard of it,
            # and two of ours that follow each other at once that of the second.
            halves = 1 if counter in ours else 2
            inexact_ms = halves * (SPAN_MS + 1) // 2 + 1 + INTERVAL_MS // 8
            if ages_ms and max(ages_ms) <= 2 * SPAN_MS:
                assert now_ms - at_ms - max(ages_ms) <= inexact_ms


@pytest.mark.parametrize("replay", ["learn", "strict"])
def test_what_is_read_late_is_judged_by_when_it_arrived(replay: str) -> None:
    """Another lane was read first: its frames are younger by more than what is remembered."""
    node = Node("10.77.0.2", replay=replay)
    for number in range(40):
        first = FIRST if number < 10 else 2 * FIRST
        assert hear(node, first + number, START_NS + number * SECOND_NS) == "ok"
    arrived_ns = START_NS + 28 * SECOND_NS
    assert hear(node, FIRST + 9, arrived_ns, "10.77.0.3", advskew=9) == "replay"
    assert hear(node, 2 * FIRST + 25, arrived_ns, "10.77.0.3", advskew=9) == "ok"
    assert hear(node, 2 * FIRST + 26, START_NS + 39 * SECOND_NS, "10.77.0.4", advskew=9) == "replay"
