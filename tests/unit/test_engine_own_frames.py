"""Frames of our own that come back: known as ours, however much was heard since."""

from __future__ import annotations

from typing import Any

import pytest

from carp_fast.engine.reports import DuplicateSource
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    OUR_COUNTER,
    SECOND_NS,
    START_NS,
    Node,
    advertisement,
    prepared,
    read_advertisement,
)

MS_NS = SECOND_NS // 1000
BOTH = [(ADDRESS, 24), (ADDRESS6, 64)]
SIGNED = [ADDRESS, ADDRESS6]
OTHER_MAC = b"\2\0\0\0\0\7"
VIRTUAL_MAC = b"\0\0\x5e\0\0\x2a"  # of ucarp
NO_MAC = bytes(6)  # as on a raw socket


def hear(node: Node, counter: int, now_ns: int, source: str, **carp: Any) -> str:
    frame = advertisement(source=source, counter=counter, addresses=SIGNED, **carp)
    verdict: str = node.engine.receive(0, frame, now_ns)
    node.take(now_ns)
    return verdict


def sent_by(node: Node) -> list[bytes]:
    return [done.content for done in node.done if done.action == "ADVERTISE"]


def counters_of(frames: list[bytes]) -> list[int]:
    return [read_advertisement(frame).counter for frame in frames]


def from_mac(frame: bytes, mac: bytes) -> bytes:
    return frame[:6] + mac + frame[12:]


def former_master(**settings: Any) -> tuple[Node, list[bytes]]:
    """A MASTER over both families that sends every 8 ms, and its first advertisements."""
    wanted: dict[str, Any] = {"advbase": 0, "advskew": 2, "addresses": BOTH}
    node = Node("10.77.0.2", on6="fe80::2", **(wanted | settings))
    deadline_ns = node.engine.next_deadline_ns()
    assert deadline_ns is not None
    node.run(deadline_ns + 40 * MS_NS)
    assert node.state == "MASTER"
    return node, sent_by(node)


def follow_others(node: Node, sequences: int = 5) -> int:
    """Let it hear as many masters after each other, each with a longer sequence; returns when."""
    now_ns: int = max(node.times("ADVERTISE"))
    for sequence in range(sequences):
        first = node.engine.host(0).counter + (1 << 40)
        for number in range(30 + sequence):
            now_ns += 2 * MS_NS
            source = f"10.77.0.{10 + sequence}"
            verdict = hear(node, first + number, now_ns, source, advbase=0, advskew=1)
            assert verdict == "ok"
    assert node.state == "BACKUP"
    return now_ns


@pytest.mark.parametrize("replay", ["off", "learn", "strict"])
def test_what_we_sent_is_known_however_many_sequences_were_heard_since(replay: str) -> None:
    node, sent = former_master(replay=replay)
    now_ns = follow_others(node)
    before = node.engine.host(0)
    verdicts = {node.engine.receive(0, frame, now_ns) for frame in sent}
    assert {frame[12] for frame in sent} == {0x08, 0x86}
    assert verdicts == ({"loop"} if replay == "off" else {"replay"})
    after = node.engine.host(0)
    assert after.deadline_ns == before.deadline_ns
    assert after.counters["duplicate_source"] == 0


@pytest.mark.parametrize("replay", ["learn", "strict"])
@pytest.mark.parametrize("mac", [VIRTUAL_MAC, NO_MAC])
def test_what_we_sent_is_no_news_from_a_mac_that_others_may_have(replay: str, mac: bytes) -> None:
    node, sent = former_master(
        replay=replay, advertise_mac="ucarp" if mac == VIRTUAL_MAC else "interface"
    )
    now_ns = follow_others(node)
    for frame in reversed(sent):
        assert node.engine.receive(0, from_mac(frame, mac), now_ns) == "replay"
    assert node.engine.host(0).counters["duplicate_source"] == 0


@pytest.mark.parametrize(
    ("mac", "verdicts"),
    [
        (VIRTUAL_MAC, ["replay", "replay", "ok", "ok", "ok"]),
        (NO_MAC, ["replay", "replay", "ok", "ok", "ok"]),
        (OTHER_MAC, ["ok"] * 5),
    ],
)
def test_another_host_with_our_source_is_heard_among_counters_that_we_went_past(
    mac: bytes, verdicts: list[str]
) -> None:
    """By its third, unless its MAC shows at once that none of them is ours."""
    node, sent = former_master(
        preempt=True, advertise_mac="ucarp" if mac == VIRTUAL_MAC else "interface"
    )
    carp: dict[str, Any] = {"source_mac": mac, "advbase": 0}
    now_ns = follow_others(node) + 2 * SECOND_NS
    node.run(now_ns)
    among = max(counters_of(sent)) + (1 << 20)
    assert node.state == "MASTER"
    assert verdicts == [
        hear(node, among + step, now_ns, "10.77.0.2", advskew=3, **carp) for step in range(5)
    ]
    assert node.reported(DuplicateSource)
    beyond = node.engine.host(0).counter + 1
    assert hear(node, beyond, now_ns, "10.77.0.2", advskew=1, **carp) == "ok"
    assert (node.state, node.reason) == ("BACKUP", "faster_master")


def test_a_counter_of_ours_is_news_from_others_unless_it_was_sent() -> None:
    node, sent = former_master()
    now_ns = follow_others(node)
    node.run(now_ns + SECOND_NS)
    counter = max(counters_of(sent)) + (1 << 20)
    assert node.state == "MASTER"
    assert hear(node, counter, now_ns + SECOND_NS, "10.77.0.40", advbase=0, advskew=1) == "ok"


@pytest.mark.parametrize("grace_ns", [0, 100 * SECOND_NS])
def test_what_we_sent_with_a_former_passphrase_is_known_while_that_is_accepted(
    grace_ns: int,
) -> None:
    node, sent = former_master()
    at_ns: int = max(node.times("ADVERTISE"))
    new = prepared(
        advbase=0, advskew=2, addresses=BOTH, passphrase=b"another", alternates=True, counter=1
    )
    node.engine.replace(0, new, at_ns, grace_ns=grace_ns)
    node.forget()
    node.run(at_ns + 40 * MS_NS)
    since = sent_by(node)
    assert min(counters_of(since)) > max(counters_of(sent))
    now_ns = at_ns + 40 * MS_NS
    for sequence in range(5):
        first = node.engine.host(0).counter + (1 << 40)
        for number in range(30 + sequence):
            now_ns += 2 * MS_NS
            carp: dict[str, Any] = {"passphrase": b"another", "advbase": 0, "advskew": 1}
            assert hear(node, first + number, now_ns, f"10.77.0.{10 + sequence}", **carp) == "ok"
    verdict = "replay" if grace_ns else "bad_auth"
    assert {node.engine.receive(0, frame, now_ns) for frame in sent} == {verdict}
    assert {node.engine.receive(0, frame, now_ns) for frame in since} == {"replay"}


def test_what_we_sent_before_our_counters_went_past_2_to_64_is_known() -> None:
    node, sent = former_master(counter=(1 << 64) - 5)
    assert min(counters_of(sent)) < 10 < max(counters_of(sent))
    now_ns = follow_others(node)
    assert {node.engine.receive(0, frame, now_ns) for frame in sent} == {"replay"}


def test_what_we_sent_is_known_after_the_counters_of_others_were_reset() -> None:
    node, sent = former_master()
    now_ns = follow_others(node)
    for number in range(40):
        now_ns += 2 * MS_NS
        hear(node, 1000 + number, now_ns, "10.77.0.14", advbase=0, advskew=1)
    assert node.engine.host(0).counters["counter_reset"] == 1
    assert {node.engine.receive(0, frame, now_ns) for frame in sent} == {"replay"}


def test_what_a_recorded_host_sent_is_known_to_the_one_that_continues_from_it() -> None:
    node, sent = former_master()
    now_ns = follow_others(node)
    state = node.engine.checkpoint(0, now_ns)["state"]
    assert state["first_sent"] == OUR_COUNTER + 1
    heir = Node("10.77.0.2", on6="fe80::2", addresses=BOTH, advbase=0, advskew=2, now_ns=now_ns)
    heir.engine.assume(0, state, now_ns)
    assert heir.engine.checkpoint(0, now_ns)["state"]["first_sent"] == OUR_COUNTER + 1
    assert {heir.engine.receive(0, frame, now_ns) for frame in sent} == {"replay"}


def test_a_recording_without_our_first_counter_knows_what_its_ranges_have() -> None:
    node, sent = former_master()
    now_ns = max(node.times("ADVERTISE")) + 40 * MS_NS
    state = node.engine.checkpoint(0, now_ns)["state"]
    del state["first_sent"]
    heir = Node("10.77.0.2", on6="fe80::2", addresses=BOTH, advbase=0, advskew=2, now_ns=now_ns)
    heir.engine.assume(0, state, now_ns)
    assert {heir.engine.receive(0, frame, now_ns) for frame in sent} == {"replay"}
    assert hear(heir, OUR_COUNTER - 9, now_ns, "10.77.0.2", source_mac=OTHER_MAC) == "ok"


def test_a_host_that_has_sent_nothing_takes_no_counter_of_its_source_for_its_own() -> None:
    node = Node("10.77.0.2", addresses=BOTH, on6="fe80::2", counter=0)
    for step, counter in enumerate((0, 1, OUR_COUNTER)):
        verdict = hear(node, counter, START_NS + step, "10.77.0.2", source_mac=OTHER_MAC)
        assert verdict == "ok"


def test_what_we_sent_before_a_restart_ends_no_mastership() -> None:
    """Killed, and started again with the clock's counters: those of its last life are lower."""
    _, sent = former_master()
    node, _ = former_master(counter=OUR_COUNTER + SECOND_NS)
    now_ns: int = max(node.times("ADVERTISE"))
    for frame in sent:
        node.engine.receive(0, frame, now_ns)
        node.take(now_ns)
        assert node.state == "MASTER"
    assert node.reported(DuplicateSource)
