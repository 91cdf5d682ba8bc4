"""Both families in one virtual host: what is sent, what is heard, whose silence counts."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from carp_fast.engine import _wire
from carp_fast.engine.reports import FamilyHeard, FamilySilent
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    SECOND_NS,
    START_NS,
    Node,
    Segment,
    advertisement,
    carp_digest,
    internet_checksum,
    ip,
    ipv6_frame,
    prepared,
    read_advertisement,
)

BOTH: dict[str, Any] = {"addresses": [(ADDRESS, 24), (ADDRESS6, 64)]}
ONLY6: dict[str, Any] = {"addresses": [(ADDRESS6, 64)]}
DOWN_NS = 3 * SECOND_NS
SIGNED: dict[str, Any] = {"addresses": [ADDRESS, ADDRESS6]}


def of_family(frame: bytes) -> int:
    return 4 if frame[12:14] == b"\x08\0" else 6


def both(*, first: str = "10.77.0.1", second: str = "fe80::1", **carp: Any) -> list[bytes]:
    """The two advertisements of one host, in its order."""
    return [advertisement(source=source, **SIGNED, **carp) for source in (first, second)]


# --------------------------------------------------------------------------------------- sending


def test_both_advertisements_go_out_together_with_counters_of_their_own() -> None:
    node = Node("10.77.0.2", on6="fe80::2", counter=10, **BOTH)
    node.run(START_NS + DOWN_NS)
    frames = [done.content for done in node.done if done.action == "ADVERTISE"]
    assert [of_family(frame) for frame in frames] == [4, 6]
    assert [read_advertisement(frame).counter for frame in frames] == [11, 12]
    assert [read_advertisement(frame).source for frame in frames] == [
        ip("10.77.0.2"),
        ip("fe80::2"),
    ]
    for frame in frames:
        carp = frame[-36:]
        assert internet_checksum(carp) == 0
        assert carp[16:] == carp_digest(b"secret", 42, [ADDRESS, ADDRESS6], carp[8:16])


def test_a_host_without_ipv4_sends_ipv6_as_it_must_be() -> None:
    node = Node("10.77.0.2", on6="fe80::2", **ONLY6)
    node.run(START_NS + DOWN_NS)
    frame = next(done.content for done in node.done if done.action == "ADVERTISE")
    assert frame == ipv6_frame(frame[54:], source=ip("fe80::2"), source_mac=node.mac)
    assert len(frame) == 90


def test_unsigned_ipv6_addresses_leave_a_host_to_ipv4() -> None:
    node = Node("10.77.0.2", unsigned_addresses=[(ADDRESS6, 64)])
    node.run(START_NS + DOWN_NS)
    frames = [done.content for done in node.done if done.action == "ADVERTISE"]
    assert {of_family(frame) for frame in frames} == {4}
    assert node.engine.host(0).families == [4]


@pytest.mark.parametrize("forwards", [False, True])
def test_addresses_are_announced_in_their_family(forwards: bool) -> None:
    node = Node("10.77.0.2", on6="fe80::2", **BOTH)
    node.attach(START_NS, forwards6=forwards)
    node.run(START_NS + DOWN_NS)
    [frames] = [done.content for done in node.done if done.action == "ANNOUNCE"]
    arp, na = frames
    assert arp == _wire.build_announcement(node.mac, ADDRESS)
    assert na == _wire.build_announcement(node.mac, ADDRESS6, router=forwards)
    assert na[58] == (0xA0 if forwards else 0x20)  # Router, Override; Solicited clear


def test_a_host_waits_for_a_source_of_each_family() -> None:
    node = Node("10.77.0.2", **BOTH)
    assert (node.state, node.reason) == ("INIT", "no_source")
    node.source6 = "fe80::2"
    node.attach(START_NS + SECOND_NS)
    assert (node.state, node.reason) == ("BACKUP", "source_found")
    node.source6 = None
    node.attach(START_NS + 2 * SECOND_NS)
    assert (node.state, node.reason) == ("INIT", "no_source")


def test_a_configured_source_of_ipv6_needs_none_of_the_interface() -> None:
    node = Node("10.77.0.2", source6=ip("2001:db8::2"), **ONLY6)
    node.run(START_NS + DOWN_NS)
    frame = next(done.content for done in node.done if done.action == "ADVERTISE")
    assert read_advertisement(frame).source == ip("2001:db8::2")


# --------------------------------------------------------------------------------------- hearing


@pytest.mark.parametrize("which", [0, 1])
def test_one_family_is_enough_to_stay_backup_and_the_silence_of_the_other_is_told_once(
    which: int,
) -> None:
    node = Node("10.77.0.2", on6="fe80::2", advskew=0, **BOTH)
    for second in range(20):
        now_ns = START_NS + second * SECOND_NS
        frame = both(counter=second + 1)[which]
        assert node.engine.receive(0, frame, now_ns) == "ok"
        node.carry_out(now_ns)
    assert node.state == "BACKUP"
    silent = node.reported(FamilySilent)
    assert [report.family for report in silent] == [6 if which == 0 else 4]
    assert silent[0].at_ns == START_NS + 4 * SECOND_NS  # the first after a master-down time
    assert node.engine.host(0).counters["family_silent"] == 1
    # Heard again, it is said, and its next silence is news.
    now_ns = START_NS + 20 * SECOND_NS
    for frame in both(counter=30):
        assert node.engine.receive(0, frame, now_ns) == "ok"
    node.take(now_ns)
    assert [report.family for report in node.reported(FamilyHeard)] == [6 if which == 0 else 4]
    for second in range(21, 26):
        node.engine.receive(0, both(counter=second + 30)[which], START_NS + second * SECOND_NS)
    node.take(START_NS + 26 * SECOND_NS)
    assert node.engine.host(0).counters["family_silent"] == 2


@pytest.mark.parametrize("last", [0, 1])
def test_it_takes_the_silence_of_both_families_to_take_over(last: int) -> None:
    node = Node("10.77.0.2", on6="fe80::2", **BOTH)
    for frame in both(counter=1):
        node.engine.receive(0, frame, START_NS)
    heard_ns = START_NS + 2 * SECOND_NS + SECOND_NS // 2
    node.engine.receive(0, both(counter=3)[last], heard_ns)
    node.run(heard_ns + DOWN_NS - SECOND_NS // 100)
    assert node.state == "BACKUP"
    node.run(heard_ns + DOWN_NS + SECOND_NS // 100)
    assert (node.state, node.reason) == ("MASTER", "master_down")


def test_a_host_of_one_family_expects_no_other() -> None:
    node = Node("10.77.0.2")
    for second in range(10):
        node.engine.receive(0, advertisement(counter=second + 1), START_NS + second * SECOND_NS)
    node.take(START_NS)
    assert node.reported(FamilySilent) == []
    frame = advertisement(source="fe80::1", counter=20)
    assert node.engine.receive(0, frame, START_NS + 10 * SECOND_NS) == "bad_vhid"


@pytest.mark.parametrize("replay", ["off", "learn"])
def test_a_vhid_of_the_other_family_alone_is_unknown(replay: str) -> None:
    """Its digest, which does not tell families apart, may be right: bad_vhid comes before it."""
    four, six = Node("10.77.0.2", replay=replay), Node("10.77.0.2", on6="fe80::2", **ONLY6)
    assert four.engine.receive(0, advertisement(source="fe80::1"), START_NS) == "bad_vhid"
    assert six.engine.receive(0, advertisement(addresses=[ADDRESS6]), START_NS) == "bad_vhid"
    for node in (four, six):
        assert node.engine.interface_counters(0)["bad_vhid"] == 1
        assert "bad_vhid" not in {w for w, n in node.engine.host(0).counters.items() if n}
        [rejected] = node.engine.rejections(0)
        assert rejected.verdict == "bad_vhid"


def test_of_two_hosts_with_a_vhid_the_one_of_the_family_is_sent_to_another_group() -> None:
    node = Node("10.77.0.2", on6="fe80::2", **ONLY6)
    node.engine.add(1, prepared(addresses=[(ADDRESS, 24)]), START_NS)
    four = advertisement(destination="239.1.1.1")
    six = advertisement(source="fe80::1", destination="ff02::13", addresses=[ADDRESS6])
    assert node.engine.receive(0, four, START_NS) == "bad_destination"
    assert node.engine.receive(0, six, START_NS) == "bad_destination"
    assert [node.engine.host(slot).counters["bad_destination"] for slot in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    "group", ["ff02::13", "ff02::", "ff05::12", "ff02::1:12", "ff02:0:0:1::12"]
)
def test_another_group_of_ipv6_is_not_ours(group: str) -> None:
    node = Node("10.77.0.2", on6="fe80::2", **ONLY6)
    signed: dict[str, Any] = {"addresses": [ADDRESS6]}
    wrong = advertisement(source="fe80::1", destination=group, **signed)
    assert node.engine.receive(0, wrong, START_NS) == "bad_destination"
    right = advertisement(source="fe80::1", **signed)
    assert node.engine.receive(0, right, START_NS) == "ok"
    other = Node("10.77.0.2", on6="fe80::2", destination6=ip(group), **ONLY6)
    assert other.engine.receive(0, wrong, START_NS) == "ok"
    assert other.engine.receive(0, right, START_NS) == "bad_destination"


@pytest.mark.parametrize("over", [0, 1])
def test_a_resignation_over_either_family_is_followed_once(over: int) -> None:
    node = Node("10.77.0.2", on6="fe80::2", advskew=100, **BOTH)
    for frame in both(counter=1):
        node.engine.receive(0, frame, START_NS)
    now_ns = START_NS + SECOND_NS // 2
    leaving = both(counter=2, advbase=255, advskew=255)
    node.engine.receive(0, leaving[over], now_ns)
    node.run(now_ns + 100 * SECOND_NS // 256 + SECOND_NS // 500)
    assert (node.state, node.reason) == ("MASTER", "master_resigned")


def test_nobody_else_resigns_over_ipv6() -> None:
    node = Node("10.77.0.2", on6="fe80::2", **BOTH)
    for frame in both(counter=1):
        node.engine.receive(0, frame, START_NS)
    others = both(first="10.77.0.9", second="fe80::9", counter=2, advbase=255, advskew=255)
    for frame in others:
        assert node.engine.receive(0, frame, START_NS + SECOND_NS // 2) == "ok"
    node.run(START_NS + 2 * SECOND_NS)
    assert node.state == "BACKUP"


# ------------------------------------------------------------------------------------------ ties


@pytest.mark.parametrize(
    ("one", "other"),
    # IPv6: 16 bytes, big-endian, the lower stays: fe80::1:0 is above fe80::2.
    [("fe80::2", "fe80::1:0"), ("fe80::1", "fe80::2")],
)
def test_a_tie_over_ipv6_goes_to_the_lower_source(one: str, other: str) -> None:
    stays = Node("10.77.0.1", on6=one, **ONLY6)
    yields = Node("10.77.0.2", on6=other, **ONLY6)
    segment = Segment(stays, yields)
    segment.run(10)
    assert segment.masters() == [stays]


def test_where_both_families_are_in_use_ipv4_decides_a_tie() -> None:
    # Each would win in another family: without the rule both might yield, or neither.
    four = Node("10.77.0.1", on6="fe80::9", **BOTH)
    six = Node("10.77.0.2", on6="fe80::1", **BOTH)
    segment = Segment(four, six)
    segment.run(10)
    assert segment.masters() == [four]
    assert len(segment.masters()) == 1
    assert [change[2] for change in six.changes()].count("tie_lost") <= 1


def test_where_ipv4_does_not_pass_a_tie_is_decided_by_ipv6() -> None:
    high = Node("10.77.0.1", on6="fe80::9", **BOTH)
    low = Node("10.77.0.2", on6="fe80::1", **BOTH)
    segment = Segment(high, low)
    segment.passes = lambda sender, receiver, frame: of_family(frame) == 6
    segment.run(12)
    assert segment.masters() == [low]


def test_where_ipv4_passes_one_way_only_a_tie_is_decided_all_the_same() -> None:
    # The one that hears IPv4 would win there, and is not heard: over IPv6 it loses, and yields.
    high = Node("10.77.0.1", on6="fe80::9", **BOTH)
    low = Node("10.77.0.2", on6="fe80::1", **BOTH)
    segment = Segment(high, low)
    segment.passes = lambda sender, receiver, frame: of_family(frame) == 6 or sender is low
    segment.run(12)
    assert segment.masters() == [low]


# --------------------------------------------------------------------------------------- digests


def test_link_local_addresses_are_signed_without_their_interface_and_need_not_be() -> None:
    # OpenBSD sends without them and takes both forms; FreeBSD and NetBSD take only theirs.
    local = ip("fe80:7::5e:1")
    zeroed = ip("fe80::5e:1")
    node = Node("10.77.0.2", on6="fe80::2", addresses=[(ADDRESS, 24), (local, 64)])
    every: list[tuple[list[bytes], str]] = [
        ([ADDRESS, zeroed], "ok"),
        ([ADDRESS], "ok"),
        ([ADDRESS, local], "bad_auth"),
        ([zeroed], "bad_auth"),
    ]
    for counter, (addresses, verdict) in enumerate(every, 1):
        frame = advertisement(addresses=addresses, counter=counter)
        assert node.engine.receive(0, frame, START_NS) == verdict
    node.run(START_NS + 10 * SECOND_NS)
    sent = next(done.content for done in node.done if done.action == "ADVERTISE")
    assert sent[-20:] == carp_digest(b"secret", 42, [ADDRESS, zeroed], sent[-28:-20])


def test_the_other_form_of_a_former_key_is_accepted_for_the_grace_time_too() -> None:
    local = ip("fe80::5e:1")
    settings: dict[str, Any] = {"addresses": [(ADDRESS, 24), (local, 64)], "alternates": True}
    node = Node("10.77.0.2", on6="fe80::2", **settings)
    change = prepared(passphrase=b"new", **settings)
    node.engine.replace(0, change, START_NS, grace_ns=10 * SECOND_NS)
    verdicts = {}
    for when in (START_NS + SECOND_NS, START_NS + 11 * SECOND_NS):
        for passphrase in (b"secret", b"new"):
            for addresses in ((ADDRESS,), (ADDRESS, local)):
                frame = advertisement(passphrase=passphrase, addresses=addresses, counter=when)
                verdicts[when, passphrase, addresses] = node.engine.receive(0, frame, when)
    refused = {key for key, verdict in verdicts.items() if verdict == "bad_auth"}
    assert refused == {
        key for key in verdicts if key[0] > START_NS + 10 * SECOND_NS and key[1] == b"secret"
    }


def test_openbsds_lladdr_is_hashed_between_type_and_vhid() -> None:
    lladdr = bytes.fromhex("02bd00000007")
    node = Node("10.77.0.2", dialect="openbsd", lladdr=lladdr)
    counter = (5).to_bytes(8, "big")
    message = b"\2\1" + lladdr + b"\x2a" + ADDRESS + counter
    digest = hmac.new(b"secret".ljust(20, b"\0"), message, hashlib.sha1).digest()
    frame = advertisement(counter=5, digest=digest)
    assert node.engine.receive(0, frame, START_NS) == "ok"
    assert node.engine.receive(0, advertisement(counter=6), START_NS) == "bad_auth"


def test_a_family_that_goes_takes_its_masters_and_its_silence_with_it() -> None:
    node = Node("10.77.0.2", on6="fe80::2", **BOTH)
    for second in range(6):
        node.engine.receive(0, both(counter=second + 1)[1], START_NS + second * SECOND_NS)
    node.take(START_NS)
    assert [report.family for report in node.reported(FamilySilent)] == [4]
    now_ns = START_NS + 6 * SECOND_NS
    node.engine.replace(0, prepared(), now_ns)
    host = node.engine.host(0)
    assert (host.families, host.peer) == ([4], None)
    # Who is heard now over IPv4 is the first, and nothing was silent.
    assert node.engine.receive(0, advertisement(counter=1), now_ns) == "ok"
    node.take(now_ns)
    assert node.reported(FamilyHeard) == []
    assert node.engine.host(0).peer == ip("10.77.0.1")
    node.engine.replace(0, prepared(**BOTH), now_ns)
    assert node.engine.host(0).families == [4, 6]
    node.run(now_ns + DOWN_NS + SECOND_NS // 100)
    frames = [done.content for done in node.done if done.action == "ADVERTISE"]
    assert [of_family(frame) for frame in frames] == [4, 6]
