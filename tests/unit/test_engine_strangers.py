"""Somebody without the key sends again what he captured: from new sources, for as long as he likes.

The digest covers neither the source nor the priority, so each frame here is as genuine as any.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from carp_fast.engine.reports import StateChanged
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    SECOND_NS,
    START_NS,
    Node,
    Segment,
    advertisement,
    ip,
)

DOWN_NS = 3 * SECOND_NS
MASTER, STRANGER, OTHER = "10.77.0.1", "10.77.0.66", "10.77.0.3"
FIRST = 1 << 40
FASTER = {"advbase": 0, "advskew": 1}


def hear(node: Node, counter: int, now_ns: int, source: str, **carp: Any) -> str:
    frame = advertisement(source=source, counter=counter, **carp)
    verdict: str = node.engine.receive(0, frame, now_ns)
    node.take(now_ns)
    return verdict


def master(**settings: Any) -> tuple[Node, list[int], int]:
    """A MASTER for a minute, the counters that it sent, and the time."""
    node = Node("10.77.0.2", **settings)
    now_ns = START_NS + 60 * SECOND_NS
    node.run(now_ns)
    sent = [done.content for done in node.done if done.action == "ADVERTISE"]
    return node, [int.from_bytes(frame[42:50], "big") for frame in sent], now_ns


def backup(**settings: Any) -> tuple[Node, list[int], int]:
    """A BACKUP that has heard its master for a minute, the counters, and the time."""
    node = Node("10.77.0.2", **settings)
    counters = list(range(FIRST, FIRST + 60))
    for number, counter in enumerate(counters):
        assert hear(node, counter, START_NS + number * SECOND_NS, MASTER) == "ok"
    return node, counters, START_NS + 59 * SECOND_NS + SECOND_NS // 2


@pytest.mark.parametrize("replay", ["learn", "strict"])
@pytest.mark.parametrize("start", [master, backup])
def test_what_is_known_for_two_master_downs_is_refused_from_new_sources(
    start: Any, replay: str
) -> None:
    node, counters, now_ns = start(replay=replay)
    deadline_ns = node.engine.host(0).deadline_ns
    draw = random.Random(6)
    for number in range(200):
        counter = draw.choice(counters[:-10])
        source = f"10.77.{draw.randrange(1, 250)}.{draw.randrange(1, 250)}"
        verdict = hear(node, counter, now_ns + number, source, **FASTER)
        assert verdict == "replay", counter
    assert node.state == ("MASTER" if start is master else "BACKUP")
    assert node.engine.host(0).deadline_ns == deadline_ns
    assert node.engine.host(0).counters["replay"] == 200


@pytest.mark.parametrize("replay", ["learn", "strict"])
@pytest.mark.parametrize("rotating", [False, True])
def test_a_fresh_capture_stops_a_master_once_for_a_master_down_time(
    replay: str, rotating: bool
) -> None:
    node, counters, now_ns = master(replay=replay)
    verdicts = []
    for number in range(200):
        at_ns = now_ns + number * 9 * SECOND_NS // 10
        node.run(at_ns)
        source = f"10.77.9.{number + 1}" if rotating else STRANGER
        verdicts.append(hear(node, counters[-1], at_ns, source, **FASTER))
    assert verdicts == ["ok"] + ["replay"] * 199
    [(fell_ns, *_), (rose_ns, *_)] = [
        (report.at_ns, report.state, report.previous) for report in node.reported(StateChanged)
    ][-2:]
    assert rose_ns - fell_ns <= DOWN_NS + SECOND_NS // 100
    assert node.state == "MASTER"


def test_a_stranger_that_is_read_late_makes_no_room_for_more() -> None:
    """It arrived before another one with a later counter, which was read first."""
    node, counters, now_ns = backup()
    assert hear(node, counters[-2], now_ns, STRANGER, advskew=9) == "ok"
    hear(node, counters[-4], now_ns - SECOND_NS // 5, "10.77.9.1", advskew=9)
    again_ns = now_ns + 9 * SECOND_NS // 10
    assert hear(node, counters[-3], again_ns, "10.77.9.2", advskew=9) == "replay"


def test_a_stranger_displaces_no_host_that_is_known() -> None:
    node, counters, now_ns = backup()
    assert hear(node, 2 * FIRST, now_ns, OTHER, advskew=9) == "ok"
    taken = 0
    for number in range(50):
        at_ns = now_ns + number * SECOND_NS // 100
        source = f"10.77.7.{number + 1}"
        taken += hear(node, counters[-6] + number // 10, at_ns, source, advskew=9) == "ok"
    assert taken > 3
    known = {bytes(each.source) for each in node.engine.host(0).peers if each.genuine}
    assert known == {ip(MASTER), ip(OTHER)}


@pytest.mark.parametrize(
    ("of_master", "of_others"), [(MASTER, "10.77.7.{}"), ("fe80::1", "fe80::7:{}")]
)
def test_a_master_keeps_its_place_though_all_others_were_heard_later(
    of_master: str, of_others: str
) -> None:
    """They advertise so seldom that none of them counts as the master, nor as leaving."""
    node = Node("10.77.0.2", on6="fe80::2", addresses=[(ADDRESS, 24), (ADDRESS6, 64)])
    signed: dict[str, Any] = {"addresses": [ADDRESS, ADDRESS6]}
    assert hear(node, FIRST, START_NS, of_master, **signed) == "ok"
    for number in range(1, 9):
        source = of_others.format(number)
        assert hear(node, FIRST + number, START_NS + number, source, advbase=200, **signed) == "ok"
        assert node.engine.host(0).peer == ip(of_master)
    leaving = hear(node, FIRST + 9, START_NS + 9, of_master, advbase=255, advskew=255, **signed)
    assert leaving == "ok"
    node.run(START_NS + SECOND_NS)
    assert (node.state, node.reason) == ("MASTER", "master_resigned")


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd"])
def test_a_host_that_is_not_heard_and_rises_is_believed(dialect: str) -> None:
    """One way alone gets through: it goes on from the last counter that it heard of us, and has
    never advertised. All of its counters are among those that we sent."""
    node, counters, now_ns = master(dialect=dialect)
    counter = counters[-4]
    assert hear(node, counter, now_ns, OTHER, **FASTER) == "ok"
    assert (node.state, node.reason) == ("BACKUP", "faster_master")
    for number in range(1, 30):
        at_ns = now_ns + number * SECOND_NS
        node.run(at_ns)
        assert hear(node, counter + number, at_ns, OTHER, **FASTER) == "ok"
        assert node.state == "BACKUP"


def test_a_known_host_goes_on_from_what_it_last_heard_however_long_ago() -> None:
    """It was genuine once: its counters lag behind ours more and more, and it must be heard."""
    node = Node("10.77.0.2", replay="learn")
    assert hear(node, FIRST, START_NS, OTHER, advskew=1) == "ok"
    now_ns = START_NS + 400 * SECOND_NS
    node.run(now_ns)
    sent = [done.content for done in node.done if done.action == "ADVERTISE"]
    counter = int.from_bytes(sent[100][42:50], "big")
    verdicts = [hear(node, counter + n, now_ns + n, OTHER, **FASTER) for n in range(5)]
    assert verdicts == ["ok"] * 5
    assert node.state == "BACKUP"


@pytest.mark.parametrize("replay", ["learn", "strict"])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_master_whose_counters_trail_ours_keeps_its_mastership(replay: str, lost: int) -> None:
    """Unheard by it, a faster one ran ahead: all that it sends is known, for longer and longer."""
    node, now_ns = Node("10.77.0.2", replay=replay), START_NS
    for number in range(60):
        now_ns += SECOND_NS // 2
        assert hear(node, FIRST + number, now_ns, MASTER, advbase=0, advskew=128) == "ok"
    for number in range(50, 70):
        now_ns += SECOND_NS
        node.run(now_ns)
        if number % 3 < 3 - lost or number == 50:
            assert hear(node, FIRST + number, now_ns, OTHER) == "ok", number
        assert node.state == "BACKUP", number
    assert hear(node, FIRST + 45, now_ns, OTHER) == "replay"
    assert hear(node, FIRST + 46, now_ns, STRANGER) == "replay"


@pytest.mark.parametrize(("third", "verdict"), [(FIRST + 22, "replay"), (FIRST + 1_000, "ok")])
def test_known_counters_that_go_back_are_learned_only_with_a_new_one(
    third: int, verdict: str
) -> None:
    """A host that was paused answers what it missed, out of order; so does who sends a capture."""
    node, now_ns = Node("10.77.0.2"), START_NS
    for counter in (*range(FIRST, FIRST + 30), *range(2 * FIRST, 2 * FIRST + 10)):
        now_ns += SECOND_NS // 10
        assert hear(node, counter, now_ns, MASTER) == "ok"
    sent = [2 * FIRST + 5, 2 * FIRST + 6, 2 * FIRST + 7, 2 * FIRST + 8]
    sent += [FIRST + 20, FIRST + 21, third]
    verdicts = [
        hear(node, counter, now_ns + number * SECOND_NS // 100, OTHER)
        for number, counter in enumerate(sent, start=1)
    ]
    assert verdicts == ["ok"] * 4 + ["replay"] * 2 + [verdict]


def test_strict_refuses_what_is_known_for_long_from_a_known_host_too() -> None:
    node = Node("10.77.0.2", replay="strict")
    assert hear(node, FIRST, START_NS, OTHER, advskew=1) == "ok"
    now_ns = START_NS + 400 * SECOND_NS
    node.run(now_ns)
    sent = [done.content for done in node.done if done.action == "ADVERTISE"]
    counter = int.from_bytes(sent[100][42:50], "big")
    assert hear(node, counter, now_ns, OTHER, **FASTER) == "replay"


def test_the_recording_of_a_dead_master_does_not_keep_it_alive() -> None:
    """From its own address, in order, again and again."""
    node, counters, now_ns = backup()
    last_ns = START_NS + 59 * SECOND_NS
    for number in range(600):
        at_ns = now_ns + number * SECOND_NS // 10
        node.run(at_ns)
        hear(node, counters[number % 50], at_ns, MASTER)
        assert node.state == ("BACKUP" if at_ns < last_ns + DOWN_NS else "MASTER"), number


def test_the_recording_of_a_former_master_does_not_stop_the_present_one() -> None:
    node, counters, now_ns = backup()
    node.run(now_ns + 10 * SECOND_NS)
    assert node.state == "MASTER"
    for number in range(600):
        at_ns = now_ns + 10 * SECOND_NS + number * SECOND_NS // 10
        node.run(at_ns)
        assert hear(node, counters[number % 60], at_ns, MASTER, **FASTER) == "replay"
        assert node.state == "MASTER"


def test_an_openbsd_keeps_its_constant_in_both_families() -> None:
    signed = [(ADDRESS, 24), (ADDRESS6, 64)]
    node = Node("10.77.0.2", on6="fe80::2", addresses=signed, dialect="openbsd")
    for number in range(60):
        for source in (MASTER, "fe80::1"):
            at_ns = START_NS + number * SECOND_NS
            frame = advertisement(source=source, counter=FIRST, addresses=[ADDRESS, ADDRESS6])
            assert node.engine.receive(0, frame, at_ns) == "ok"
    assert all(each.genuine for each in node.engine.host(0).peers)


def test_the_constant_of_an_openbsd_is_its_own_until_it_is_silent() -> None:
    node = Node("10.77.0.2", dialect="openbsd", preempt=False)
    verdicts = []
    for number in range(60):
        at_ns = START_NS + number * SECOND_NS
        assert hear(node, FIRST, at_ns, MASTER) == "ok"
        verdicts.append(hear(node, FIRST, at_ns + SECOND_NS // 2, STRANGER, advskew=1))
    assert verdicts.count("ok") <= 60 * SECOND_NS // (2 * DOWN_NS)
    # It has another address now.
    at_ns = START_NS + 59 * SECOND_NS + 3 * DOWN_NS
    assert [hear(node, FIRST, at_ns + n * SECOND_NS, OTHER) for n in range(20)] == ["ok"] * 20


def test_a_master_answers_whom_it_does_not_believe_once_an_interval() -> None:
    """It may be a host that was apart for long: it adopts the counter, and its next one is new."""
    node, counters, now_ns = master()
    node.forget()
    for number in range(100):
        assert hear(node, counters[5], now_ns + number, STRANGER, advskew=9) == "replay"
    assert node.words().count("ADVERTISE") == 1


@pytest.mark.parametrize("dialect", ["ucarp", "freebsd", "openbsd"])
@pytest.mark.parametrize("hosts", [2, 3])
def test_a_split_of_a_minute_ends_at_once(dialect: str, hosts: int) -> None:
    nodes = [
        Node(f"10.77.0.{n + 1}", advskew=50 * n, dialect=dialect, preempt=True)
        for n in range(hosts)
    ]
    segment = Segment(*nodes)
    segment.run(10)
    assert segment.masters() == nodes[:1]
    apart = nodes[-1]
    segment.passes = lambda one, other, _: (one is apart) == (other is apart)
    segment.run(60)
    assert segment.masters() == [nodes[0], apart]
    segment.passes = lambda *_: True
    segment.run(1.2)
    assert segment.masters() == nodes[:1]
