"""Loops, duplicate sources and replays: what a counter says, and what it does not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from carp_fast.engine.reports import CounterReset, DuplicateEnded, DuplicateSource
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    SECOND_NS,
    START_NS,
    Node,
    Segment,
    advertisement,
    prepared,
)

DOWN_NS = 3 * SECOND_NS
BASE = 1 << 40


def hear(
    node: Node,
    counter: int,
    now_ns: int,
    source: str = "10.77.0.1",
    mac: bytes = b"\x02\0\0\0\0\x99",
    **carp: Any,
) -> str:
    frame = advertisement(source=source, counter=counter, source_mac=mac, **carp)
    verdict: str = node.engine.receive(0, frame, now_ns)
    node.take(now_ns)
    return verdict


def in_order(theirs: dict[str, Any] | None = None, /, **settings: Any) -> Node:
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
    before = node.engine.host(0).deadline_ns
    assert hear(node, counter, NOW_NS) == verdict
    after = node.engine.host(0)
    assert (after.deadline_ns == before) == (verdict == "replay")
    assert after.counters["replay"] == (verdict == "replay")


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
    settings: dict[str, Any], theirs: dict[str, Any], silence_ns: int
) -> None:
    for replay, verdict in (("learn", "ok"), ("strict", "replay")):
        node = in_order(theirs, replay=replay, **settings)
        at_ns = START_NS + 4 * SECOND_NS + silence_ns
        assert hear(node, 7, at_ns - SECOND_NS // 100, **theirs) == "replay"
        assert hear(node, 7, at_ns, **theirs) == verdict
        assert node.state == "BACKUP"
        assert len(node.reported(CounterReset)) == (replay == "learn")
        assert node.engine.host(0).counters["counter_reset"] == (replay == "learn")


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


def test_resets_of_counters_are_all_counted_and_reported_once_a_minute() -> None:
    node, now_ns = in_order(), NOW_NS
    for begin in (BASE - 1_000_000, BASE - 2_000_000, BASE - 3_000_000):
        for step in range(8):
            hear(node, begin + step, now_ns)
            now_ns += SECOND_NS // 10
    assert node.engine.host(0).counters["counter_reset"] == 3
    assert len(node.reported(CounterReset)) == 1


def test_what_is_known_for_long_is_one_of_three_in_a_row_but_never_the_third() -> None:
    node = Node("10.77.0.2")
    for step in range(30):
        assert hear(node, BASE + step, START_NS + step * SECOND_NS) == "ok"
    now_ns = START_NS + 29 * SECOND_NS
    verdicts = [hear(node, BASE + back, now_ns + back) for back in (2, 3, 4, 5, 27)]
    assert verdicts == ["replay"] * 4 + ["ok"]


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
        hear(node, number, NOW_NS + number, f"10.77.0.{number}")
    sources = [each.source[3] for each in node.engine.host(0).peers]
    assert len(sources) == 4
    assert set(sources) >= {7, 6, 5}


# ----------------------------------------------------------------------- loops, duplicate sources


def sent_by(node: Node) -> list[bytes]:
    return [done.content for done in node.done if done.action == "ADVERTISE"]


def counter_of(frame: bytes) -> int:
    return int.from_bytes(frame[42:50], "big")


def from_mac(frame: bytes, mac: bytes) -> bytes:
    return frame[:6] + mac + frame[12:]


@pytest.mark.parametrize("advertise_mac", ["interface", "ucarp", "bsd"])
def test_a_loop_is_our_source_our_mac_and_a_counter_of_our_last_interval(
    advertise_mac: str,
) -> None:
    node = Node("10.77.0.2", counter=BASE, advertise_mac=advertise_mac)
    node.run(START_NS + 10 * SECOND_NS)
    *_, earlier, last = sent_by(node)
    sent_ns = max(node.times("ADVERTISE"))
    assert node.engine.receive(0, last, sent_ns) == "loop"
    assert node.engine.receive(0, last, sent_ns + SECOND_NS) == "loop"
    assert node.engine.receive(0, earlier, sent_ns + SECOND_NS // 2) == "replay"
    assert node.engine.receive(0, last, sent_ns + SECOND_NS + SECOND_NS // 100) == "replay"
    assert node.engine.host(0).counters["duplicate_source"] == 0
    # The counter alone makes none: two masters adopt each other's and may send the same.
    assert hear(node, counter_of(last), sent_ns, "10.77.0.1") != "loop"


def test_a_raw_socket_tells_no_mac_and_the_counter_alone_makes_a_loop() -> None:
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 10 * SECOND_NS)
    last = from_mac(sent_by(node)[-1], bytes(6))
    assert node.engine.receive(0, last, START_NS + 10 * SECOND_NS) == "loop"


def test_a_loop_is_known_after_our_counter_went_on_above_what_was_heard() -> None:
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 4 * SECOND_NS)
    last = sent_by(node)[-1]
    node.forget()
    now_ns = START_NS + 4 * SECOND_NS + SECOND_NS // 2
    slower = advertisement(source="10.77.0.1", advskew=9, counter=BASE * 2)
    node.engine.receive(0, slower, now_ns)
    frames = [last, *node.take(now_ns)]  # the answer, above what was heard
    assert len(frames) == 2
    assert [node.engine.receive(0, frame, now_ns) for frame in frames] == ["loop"] * 2


@pytest.mark.parametrize("advertise_mac", ["interface", "ucarp"])
@pytest.mark.parametrize("replay", ["off", "learn", "strict"])
def test_all_that_a_new_master_sent_within_an_interval_is_known_as_ours(
    replay: str, advertise_mac: str
) -> None:
    """A last one as the former master; the first one and an answer, sent twice; its phase's."""
    node = Node(
        "10.77.0.2", counter=BASE, replay=replay, advertise_mac=advertise_mac, advskew=128,
        preempt=True,
    )  # fmt: skip
    begin_ns = START_NS + 8 * SECOND_NS
    node.run(begin_ns)
    node.forget()
    for number, advskew in enumerate((0, 254, 254)):
        now_ns = begin_ns + number * SECOND_NS * 3 // 10
        node.run(now_ns)
        assert hear(node, number + 1, now_ns, advskew=advskew) == "ok"
    now_ns = begin_ns + 149 * SECOND_NS // 100
    node.run(now_ns)
    frames = sent_by(node)
    assert node.state == "MASTER"
    assert len(frames) >= 5
    assert {node.engine.receive(0, frame, now_ns) for frame in frames} == {"loop"}
    assert node.state == "MASTER"


@pytest.mark.parametrize("signed", [[ADDRESS], [ADDRESS, ADDRESS6]])
@pytest.mark.parametrize("step", [1, 30])
@pytest.mark.parametrize("advertise_mac", ["interface", "ucarp", "bsd"])
@pytest.mark.parametrize("replay", ["off", "learn", "strict"])
def test_however_often_the_role_changes_all_of_an_interval_is_known_as_ours(
    replay: str, advertise_mac: str, step: int, signed: list[bytes]
) -> None:
    """Between two other hosts that do not hear each other; ours go on above each of theirs."""
    node = Node(
        "10.77.0.2", on6="fe80::2", counter=BASE, replay=replay, advertise_mac=advertise_mac,
        advskew=128, preempt=True, addresses=[(address, 24) for address in signed],
    )  # fmt: skip
    begin_ns = START_NS + 8 * SECOND_NS
    node.run(begin_ns)
    node.forget()
    for number in range(12):
        now_ns = begin_ns + number * SECOND_NS // 10
        source, advskew, state = (
            ("10.77.0.3", 254, "MASTER") if number % 2 else ("10.77.0.1", 0, "BACKUP")
        )
        counter = node.engine.host(0).counter + step
        assert hear(node, counter, now_ns, source, advskew=advskew, addresses=signed) == "ok"
        if state == "MASTER":  # which it would not be by itself: the faster one is still heard
            node.engine.take_over(0, now_ns)
            node.take(now_ns)
        assert node.state == state
    frames = sent_by(node)
    assert len(frames) == 12 * len(signed)
    until_ns = now_ns + 39 * SECOND_NS // 100  # an interval of 1.5 s after the first
    assert {node.engine.receive(0, frame, until_ns) for frame in frames} == {"loop"}
    before = node.engine.host(0)
    changed = [from_mac(frame, b"\x06\0\0\0\0\x99") for frame in frames]
    assert {node.engine.receive(0, frame, until_ns) for frame in changed} == {"ok"}
    assert node.engine.host(0).since_ns == before.since_ns


def test_every_output_of_an_advertisement_is_known_as_ours() -> None:
    signed = [(ADDRESS, 24), (ADDRESS6, 64)]
    node = Node("10.77.0.2", on6="fe80::2", counter=BASE, addresses=signed)
    node.run(START_NS + 4 * SECOND_NS)
    both = sent_by(node)[-2:]
    assert {frame[12] for frame in both} == {0x08, 0x86}
    now_ns = max(node.times("ADVERTISE"))
    assert [node.engine.receive(0, frame, now_ns) for frame in both] == ["loop"] * 2


@pytest.mark.parametrize("counter", [0, 1, BASE - 1, BASE, BASE * 2])
def test_our_own_source_with_another_counter_is_another_host(counter: int) -> None:
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 4 * SECOND_NS)
    frame = advertisement(source="10.77.0.2", counter=counter, source_mac=b"\2\0\0\0\0\7")
    assert node.engine.receive(0, frame, START_NS + 4 * SECOND_NS) == "ok"
    node.take(START_NS + 4 * SECOND_NS)
    [report] = node.reported(DuplicateSource)
    assert report.mac == b"\2\0\0\0\0\7"
    assert node.state == "MASTER"  # a tie, and our MAC is the higher one
    assert node.engine.host(0).counters["duplicate_source"] == 1


# --------------------------------------------------------------------- two hosts with one source


def twins(count: int, same_mac: bool, **settings: Any) -> Segment:
    """Hosts with one source address, all of them MASTER: they hear each other from 11 s on."""
    nodes = []
    for number in range(count):
        node = Node("10.77.0.2", counter=BASE * (number + 1), seed=number, **settings)
        if not same_mac:
            node.mac = b"\2\0\0\0\0" + bytes((number + 1,))
            node.attach(START_NS)
        nodes.append(node)
    segment = Segment(*nodes)
    segment.passes = lambda *_: segment.now_ns > START_NS + 11 * SECOND_NS
    segment.run(10)
    assert len(segment.masters()) == count
    return segment


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
@pytest.mark.parametrize("count", [2, 3])
def test_of_hosts_with_one_source_the_highest_mac_stays(dialect: str, count: int) -> None:
    segment = twins(count, False, dialect=dialect)
    segment.run(4)
    assert segment.masters() == segment.nodes[-1:]
    for node in segment.nodes:
        assert node.reported(DuplicateSource)
    segment.run(10)
    assert segment.masters() == segment.nodes[-1:]
    # The master does not hear the others any more; they hear it.
    *others, master = segment.nodes
    assert master.engine.host(0).duplicate_source is None
    [ended] = master.reported(DuplicateEnded)
    assert ended.mac in [other.mac for other in others]
    for other in others:
        assert other.engine.host(0).duplicate_source == master.mac
        assert not other.reported(DuplicateEnded)


def test_a_duplicate_source_ends_for_a_backup_when_only_others_are_heard() -> None:
    segment = twins(2, False)
    segment.run(4)
    backup, master = segment.nodes
    segment.leave(master)
    for step in range(1, 8):
        at_ns = segment.now_ns + step * SECOND_NS
        backup.run(at_ns)
        hear(backup, BASE * 100 + step, at_ns)
        assert backup.state == "BACKUP"
        ended = len(backup.reported(DuplicateEnded))
        assert (backup.engine.host(0).duplicate_source is None) == (ended == 1) == (step > 6)


def test_a_duplicate_source_ends_where_nobody_is_listened_to() -> None:
    node = Node("10.77.0.2", counter=BASE)
    frame = advertisement(source="10.77.0.2", counter=7)
    assert node.engine.receive(0, frame, START_NS) == "ok"
    node.attach(START_NS + 1, up=False)
    node.take(START_NS + 1)
    assert node.engine.host(0).duplicate_source is None
    assert len(node.reported(DuplicateEnded)) == 1


@pytest.mark.parametrize("advertise_mac", ["ucarp", "bsd"])
@pytest.mark.parametrize("count", [2, 3])
def test_hosts_with_one_source_and_one_mac_end_with_one_master(
    advertise_mac: str, count: int
) -> None:
    segment = twins(count, True, advertise_mac=advertise_mac)
    segment.run(30)
    assert len(segment.masters()) == 1
    segment.run(30)
    assert len(segment.masters()) == 1
    assert all(node.engine.host(0).counters["became_master"] < 8 for node in segment.nodes)


def test_a_tie_that_goes_on_is_left_to_the_other_host_with_our_source() -> None:
    """A ucarp stays on a tie with its own source address, for ever."""
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 4 * SECOND_NS)
    mac = b"\2\0\0\0\0\7"
    for second in range(4, 8):
        at_ns = START_NS + second * SECOND_NS + 1
        node.run(at_ns)
        hear(node, BASE * 2 + 1000 * second, at_ns, "10.77.0.2", mac=mac)
        assert node.state == ("MASTER" if second < 7 else "BACKUP"), second
    assert node.reason == "tie_lost"


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
def test_what_we_sent_in_a_former_life_ends_no_mastership(dialect: str) -> None:
    """Somebody captured it: our source, our MAC, and counters that this life never sent."""
    node = Node("10.77.0.2", counter=BASE, dialect=dialect)
    node.run(START_NS + 4 * SECOND_NS)
    for number in range(400):
        at_ns = START_NS + 4 * SECOND_NS + number * SECOND_NS // 20
        node.run(at_ns)
        hear(node, BASE // 2 + number, at_ns, "10.77.0.2", mac=node.mac)
        assert node.state == "MASTER", number
    assert node.engine.host(0).counters["became_master"] == 1


def test_a_lower_mac_yields_at_once_and_waits_for_the_higher_one() -> None:
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 4 * SECOND_NS)
    now_ns = START_NS + 4 * SECOND_NS
    assert hear(node, BASE * 2, now_ns, "10.77.0.2", mac=b"\xfe" * 6) == "ok"
    assert (node.state, node.reason) == ("BACKUP", "tie_lost")


def test_our_own_frame_under_another_mac_is_reported_and_changes_nothing() -> None:
    """Something on the way may change MACs; it must not make us yield to ourselves."""
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 4 * SECOND_NS)
    for second in range(4, 20):
        at_ns = START_NS + second * SECOND_NS + SECOND_NS // 2
        node.run(at_ns)
        for mac in (b"\xfe" * 6, b"\2\0\0\0\0\7"):
            assert node.engine.receive(0, from_mac(sent_by(node)[-1], mac), at_ns) == "ok"
        assert node.state == "MASTER"
    assert node.engine.host(0).duplicate_source is not None
    assert node.reported(DuplicateSource)
    counters = [counter_of(frame) for frame in sent_by(node)]
    assert counters == sorted(set(counters))


def test_hosts_with_one_source_that_are_in_step_part() -> None:
    """Both send the same counter at the same instant: neither could tell, were it to go on."""
    nodes = [Node("10.77.0.2", counter=BASE) for _ in range(2)]
    for number, node in enumerate(nodes):
        node.mac = b"\2\0\0\0\0" + bytes((number + 1,))
        node.attach(START_NS)
        node.run(START_NS + 4 * SECOND_NS)
        node.forget()
    at_ns = START_NS + 4 * SECOND_NS
    for step in range(1, 8):
        at_ns = START_NS + (4 + step) * SECOND_NS
        frames = [node.carry_out(at_ns) for node in nodes]
        for node, heard in zip(nodes, reversed(frames), strict=True):
            for frame in heard:
                node.engine.receive(0, frame, at_ns + 1)
    assert [node.state for node in nodes] == ["BACKUP", "MASTER"]


@pytest.mark.parametrize("others", [0, 2])
def test_a_host_with_our_source_that_does_not_hear_us_is_known_by_its_third(others: int) -> None:
    """It goes on from the last counter that it heard of us: all of its are among those we sent.

    That it was refused is remembered beside other sources that are heard meanwhile.
    """
    node = Node("10.77.0.2", counter=BASE)
    node.run(START_NS + 10 * SECOND_NS)
    node.run(START_NS + 11 * SECOND_NS)
    mac = b"\xfe" * 6
    counter = counter_of(sent_by(node)[-1]) - 4
    verdicts = []
    for second in range(11, 16):
        at_ns = START_NS + second * SECOND_NS + SECOND_NS // 2
        node.run(at_ns)
        counter += 1
        verdicts.append(hear(node, counter, at_ns, "10.77.0.2", mac=mac))
        if second < 11 + others:
            assert hear(node, second, at_ns + 1, f"10.77.0.{second}", advskew=9) == "ok"
    assert verdicts == ["replay", "replay", "ok", "ok", "ok"]
    assert (node.state, node.reason) == ("BACKUP", "tie_lost")


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("replay", ["learn", "strict"])
def test_what_we_sent_long_ago_is_refused_from_our_own_source(replay: str, ascending: bool) -> None:
    """However many advertisements of ours came since: ranges are remembered, not numbers."""
    node = Node("10.77.0.2", counter=BASE, replay=replay)
    node.run(START_NS + 400 * SECOND_NS)
    sent = sent_by(node)[:-7]
    assert len(sent) > 380
    now_ns = START_NS + 400 * SECOND_NS
    for number, frame in enumerate(sent if ascending else reversed(sent)):
        counter = counter_of(frame)
        assert hear(node, counter, now_ns + number, "10.77.0.2", mac=node.mac) == "replay"
        forged: dict[str, Any] = {"mac": b"\xfe" * 6, "advbase": 0, "advskew": 1}
        assert hear(node, counter, now_ns + number, "10.77.0.2", **forged) == "replay"
    assert node.state == "MASTER"
