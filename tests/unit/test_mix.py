"""Frames of a load test beside frames written by hand: every kind, digests, counters, walks."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest

from carp_fast.engine._wire import VERDICT_WORDS, parse
from carp_fast.loadtest._mix import KIND_WORDS, Mix
from carp_fast.loadtest.streams import Stream
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    GROUP,
    GROUP6,
    PASSPHRASE,
    carp_digest,
    carp_header,
    internet_checksum,
    ip,
    ipv4_frame,
    ipv6_frame,
)

SOURCE, SOURCE6, MAC = ip("10.77.0.1"), ip("fe80::1"), b"\x02\0\0\0\0\x99"
MAC4, MAC6 = bytes.fromhex("01005e000012"), bytes.fromhex("333300000012")


def message(vhid: int, addresses: Sequence[bytes] = (ADDRESS,)) -> bytes:
    return bytes((2, 1, vhid)) + b"".join(addresses)


def stream(vhid: int = 42, family: int = 4, **changed: Any) -> Stream:
    four = family == 4
    usual = Stream(
        vhid, PASSPHRASE, message(vhid, [ADDRESS if four else ADDRESS6]),
        SOURCE if four else SOURCE6, GROUP if four else GROUP6, MAC, MAC4 if four else MAC6, 1, 100,
    )  # fmt: skip
    return usual._replace(**changed)


def frames(mix: Mix, count: int) -> list[tuple[str, bytes]]:
    made = [mix.take() for _ in range(count)]
    return [each for each in made if each is not None]


def one(kind: str, family: int = 4, **options: Any) -> bytes:
    """The second frame of its kind: its counter is 2 where counters are counted."""
    mix = Mix([stream(family=family)], {kind: 1}, **options)
    return frames(mix, 2)[1][1]


def advertisement(family: int = 4, *, wrong: Mapping[str, Any] | None = None, **carp: Any) -> bytes:
    """By segment.py: what a frame is but for what is `wrong` around CARP."""
    fields = {"advskew": 100, "counter": 2, **carp}
    payload = carp_header(addresses=[ADDRESS if family == 4 else ADDRESS6], **fields)
    options = dict(wrong or {})
    payload = payload[: options.pop("cut", 36)]
    if family == 4:
        return ipv4_frame(payload, source=SOURCE, source_mac=MAC, **options)
    options = {name.replace("ttl", "hop_limit"): value for name, value in options.items()}
    return ipv6_frame(payload, source=SOURCE6, source_mac=MAC, **options)


def flipped(family: int) -> bytes:
    addresses = [ADDRESS if family == 4 else ADDRESS6]
    digest = bytearray(carp_digest(PASSPHRASE, 42, addresses, (2).to_bytes(8, "big")))
    digest[2] ^= 1
    return bytes(digest)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("kind", "expected", "verdict"),
    [
        ("ok", {}, "ok"),
        ("bad_auth", {"digest": flipped}, "ok"),  # without a key it is well formed
        ("bad_checksum", {"checksum_error": 0x0100}, "bad_checksum"),
        ("bad_ttl", {"wrong": {"ttl": 254}}, "bad_ttl"),
        ("bad_version", {"version": 4}, "bad_version"),
        ("bad_length", {"wrong": {"cut": 20}}, "bad_length"),
        ("replay", {"counter": 0}, "ok"),
        ("resignation", {"advbase": 255, "advskew": 255}, "ok"),
        ("changed_skew", {"advskew": 0}, "ok"),
    ],
)
def test_each_kind_is_what_is_written_by_hand(
    family: int, kind: str, expected: dict[str, Any], verdict: str
) -> None:
    written = {
        name: value(family) if callable(value) else value for name, value in expected.items()
    }
    frame = one(kind, family)
    assert frame == advertisement(family, **written)
    assert parse(frame)["verdict"] == verdict


def test_a_skew_of_0_is_changed_to_254() -> None:
    mix = Mix([stream(advskew=0)], {"changed_skew": 1})
    assert parse(frames(mix, 1)[0][1])["advskew"] == 254


def test_a_vrrp_of_each_family_is_a_whole_one() -> None:
    first, second = (frame for _, frame in frames(Mix([stream()], {"vrrp": 1}), 2))
    assert first != second
    assert parse(first)["verdict"] == "vrrp"
    payload = first[34:]
    assert payload[:6] == bytes((0x21, 42, 155, 1, 0, 1))
    assert (payload[8:12], len(payload), internet_checksum(payload)) == (SOURCE, 20, 0)
    assert internet_checksum(first[14:34]) == 0
    frame = one("vrrp", 6)
    assert parse(frame)["verdict"] == "vrrp"
    payload = frame[54:]
    assert payload[:4] == bytes((0x31, 42, 155, 1))
    pseudo = frame[22:54] + struct.pack(">II", len(payload), 112)
    assert (len(payload), internet_checksum(pseudo + payload)) == (24, 0)


def test_announcements_are_what_the_daemon_sends() -> None:
    announced = [(MAC, ADDRESS, False), (MAC, ADDRESS6, True), (MAC, ip("10.77.0.101"), False)]
    mix = Mix([stream()], {"arp": 2, "na": 1}, announcements=announced)
    made = frames(mix, 6)
    arps = [frame for kind, frame in made if kind == "arp"]
    assert [frame[28:32] for frame in arps] == [ADDRESS, ip("10.77.0.101")] * 2
    assert all(frame[:6] == b"\xff" * 6 and frame[38:42] == frame[28:32] for frame in arps)
    nas = [frame for kind, frame in made if kind == "na"]
    assert {(frame[:6], frame[62:78], frame[58] >> 5) for frame in nas} == {
        (bytes.fromhex("333300000001"), ADDRESS6, 0b101)
    }


def test_the_digest_is_right_for_every_counter() -> None:
    key = PASSPHRASE.ljust(20, b"\0")
    mix = Mix([stream(vhid) for vhid in (1, 2, 255)], {"ok": 1})
    seen = set()
    for _, frame in frames(mix, 3_000):
        carp = frame[34:]
        expected = hmac.new(key, message(carp[1]) + carp[8:16], hashlib.sha1).digest()
        assert carp[16:36] == expected
        assert internet_checksum(carp) == internet_checksum(frame[14:34]) == 0
        seen.add(frame)
    assert len(seen) == 3_000


def test_counters_ascend_by_one_for_each_source_and_vhid_whatever_the_kind() -> None:
    counting = ("ok", "bad_auth", "bad_checksum", "bad_ttl", "bad_version", "resignation")
    weights = dict.fromkeys((*counting, "changed_skew", "replay", "vrrp", "bad_length"), 1)
    walks = {"source": ("increment", range(0x0A000001, 0x0A000004)), "counter": COUNTER_500}
    mix = Mix([stream(1), stream(2), stream(3, 6)], weights, walks=walks)
    heard: dict[tuple[bytes, int], list[int]] = {}
    replayed: Counter[tuple[bytes, int]] = Counter()
    for kind, frame in frames(mix, 2_000):
        said = parse(frame)
        if kind in ("vrrp", "bad_length"):
            continue
        flow = (said["source"], said["vhid"])
        counter = int.from_bytes(said["counter"], "big")
        if kind == "replay":
            assert counter == heard.get(flow, [499])[-1]
            replayed[flow] += 1
        else:
            heard.setdefault(flow, []).append(counter)
    for counters in heard.values():
        assert counters == list(range(500, 500 + len(counters)))
    assert {source for source, vhid in heard if vhid == 3} == {SOURCE6}
    sent = {(source, vhid): (sent, again) for vhid, source, _, _, sent, again, *_ in mix.sent_by()}
    assert sent == {flow: (len(heard.get(flow, ())), replayed[flow]) for flow in sent}
    assert set(sent) >= set(heard)


def test_streams_that_look_alike_share_their_counters() -> None:
    # As those of one vhid on several interfaces of a configuration, sent on one.
    alike = [stream(passphrase=secret) for secret in (b"one", b"two", b"three")]
    apart = [stream(destination=ip("10.77.0.7")), stream(family=6), stream(vhid=7)]
    mix = Mix([*alike, *apart], {"ok": 1}, walks={"counter": COUNTER_500})
    counters: dict[tuple[bytes, bytes, int], list[int]] = {}
    for _, frame in frames(mix, 60):
        said = parse(frame)
        flow = (said["source"], said["destination"], said["vhid"])
        counters.setdefault(flow, []).append(int.from_bytes(said["counter"], "big"))
    assert sorted(map(len, counters.values())) == [10, 10, 10, 30]
    assert all(each == list(range(500, 500 + len(each))) for each in counters.values())
    assert {(source, to, vhid): sent for vhid, source, to, _, sent, *_ in mix.sent_by()} == {
        flow: len(each) for flow, each in counters.items()
    }


def test_frames_without_a_counter_are_counted_by_flow() -> None:
    mix = Mix([stream(1), stream(2)], {"ok": 1, "vrrp": 2, "bad_length": 3})
    frames(mix, 120)
    assert [(row[0], *row[4:]) for row in mix.sent_by()] == [(1, 10, 0, 30, 20), (2, 10, 0, 30, 20)]


def test_it_knows_its_own_announcements() -> None:
    announced = [(MAC, ADDRESS, False), (MAC, ADDRESS6, False)]
    mix = Mix([stream()], {"arp": 1}, announcements=announced)
    other = b"\x02\0\0\0\0\x98"
    assert mix.announces(MAC, ADDRESS)
    assert mix.announces(MAC, ADDRESS6)
    assert not mix.announces(other, ADDRESS)
    assert not mix.announces(MAC, ip("10.77.0.9"))
    assert not mix.announces(MAC, ADDRESS, 5)
    walks = {"source_mac": ("increment", range(7, 9)), "vlan": ("increment", [5])}
    mix = Mix([stream()], {"arp": 1}, announcements=announced, walks=walks)
    assert mix.announces(bytes(5) + b"\7", ADDRESS, 5)
    assert not mix.announces(MAC, ADDRESS, 5)
    assert not mix.announces(bytes(5) + b"\7", ADDRESS, 6)


def test_each_destination_and_vlan_has_counters_of_its_own() -> None:
    walks = {
        "source": ("increment", range(0x0A000001, 0x0A000003)),
        "destination": ("increment", [0xEF000001, 0xEF000007, 0xEF000009]),
        "vlan": ("increment", range(5, 9)),
        "counter": COUNTER_500,
    }
    mix = Mix([stream()], {"ok": 3, "bad_auth": 1}, walks=walks)
    counters: dict[tuple[int, bytes, bytes, int], list[int]] = {}
    for _, tagged in frames(mix, 500):
        said = parse(tagged[:12] + tagged[16:])
        vlan = int.from_bytes(tagged[14:16], "big")
        flow = (said["vhid"], said["source"], said["destination"], vlan)
        counters.setdefault(flow, []).append(int.from_bytes(said["counter"], "big"))
    assert len(counters) == 2 * 3 * 4
    assert all(each == list(range(500, 500 + len(each))) for each in counters.values())
    assert {row[:4]: row[4] for row in mix.sent_by()} == {
        flow: len(each) for flow, each in counters.items()
    }


COUNTER_500 = ("increment", range(500, 501))


def test_weights_hold_at_any_time() -> None:
    mix = Mix([stream()], {"ok": 700, "bad_auth": 200, "vrrp": 100})
    made = Counter[str]()
    for number, (kind, _) in enumerate(frames(mix, 1_000), 1):
        made[kind] += 1
        assert abs(made["ok"] - 0.7 * number) < 1
        assert abs(made["bad_auth"] - 0.2 * number) < 1
    assert made == {"ok": 700, "bad_auth": 200, "vrrp": 100}
    assert mix.made() == made


def test_every_kind_is_sent_for_every_virtual_host() -> None:
    mix = Mix([stream(1), stream(2)], {"ok": 1, "bad_ttl": 1})
    pairs = {(kind, parse(frame)["vhid"]) for kind, frame in frames(mix, 8)}
    assert pairs == set(product(("ok", "bad_ttl"), (1, 2)))


def test_each_field_walks() -> None:
    walks = {
        "advbase": ("increment", range(1, 10, 4)),
        "advskew": ("increment", [7, 3, 200]),
        "demote": ("increment", range(5, 6)),
        "source": ("increment", range(0xC0000201, 0xC0000203)),
        "source_mac": ("increment", range(0x020000000001, 0x020000000004)),
        "destination": ("increment", range(0xEF010101, 0xEF010102)),
    }
    made = [frame for _, frame in frames(Mix([stream()], {"ok": 1}, walks=walks), 6)]
    said = [parse(frame) for frame in made]
    assert [each["advbase"] for each in said[:3]] == [1, 5, 9]
    assert [each["advskew"] for each in said[:3]] == [7, 3, 200]
    assert {each["demote"] for each in said} == {5}
    assert [each["source"][-1] for each in said[:2]] == [1, 2]
    assert {frame[11] for frame in made} == {1, 2, 3}
    assert {frame[:6] + frame[30:34] for frame in made} == {
        bytes.fromhex("01005e010101") + ip("239.1.1.1")
    }
    assert all(internet_checksum(frame[14:34]) == 0 for frame in made)


def test_an_address_of_ipv6_walks_in_its_lower_half() -> None:
    first = int.from_bytes(ip("2001:db8::fffe"), "big")
    walks = {"source6": ("increment", range(first, first + 3))}
    made = frames(Mix([stream(family=6)], {"ok": 1}, walks=walks), 3)
    expected = [ip("2001:db8::fffe"), ip("2001:db8::ffff"), ip("2001:db8::1:0")]
    assert [parse(frame)["source"] for _, frame in made] == expected


def test_walks_of_lengths_with_a_common_divisor_meet_in_every_pair() -> None:
    walks = {"source": ("increment", range(1, 5)), "advskew": ("increment", range(6))}
    mix = Mix([stream(1), stream(2)], {"ok": 1}, walks=walks)
    said = [parse(frame) for _, frame in frames(mix, 48)]
    assert {(each["vhid"], each["source"][-1]) for each in said} == set(
        product((1, 2), range(1, 5))
    )


def test_several_walks_with_a_common_divisor_meet_in_every_combination() -> None:
    walks = {
        "source": ("increment", range(1, 4)),
        "destination": ("increment", range(0xEF000001, 0xEF000003)),
        "advskew": ("increment", range(2)),
    }
    mix = Mix([stream(1), stream(2)], {"ok": 1}, walks=walks)
    said = [parse(frame) for _, frame in frames(mix, 24)]
    assert {
        (each["vhid"], each["source"][-1], each["destination"][-1], each["advskew"])
        for each in said
    } == set(product((1, 2), range(1, 4), (1, 2), range(2)))


def test_what_is_random_comes_from_the_seed() -> None:
    walks = {"advskew": ("random", range(255)), "counter": ("random", range(1 << 32)[:-1])}

    def drawn(seed: int) -> list[bytes]:
        return [
            frame for _, frame in frames(Mix([stream()], {"ok": 1}, walks=walks, seed=seed), 500)
        ]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len({parse(frame)["advskew"] for frame in drawn(1)}) > 200


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7], [7, 7, 7, 7]),
        ([9, 3], [9, 3, 9, 3]),
        (range(10, 16, 5), [10, 15, 10, 15]),
        (range((1 << 64) - 1, 1 << 64), [(1 << 64) - 1, 0, 1, 2]),
    ],
)
def test_counters_as_they_are_asked_for(values: Sequence[int], expected: list[int]) -> None:
    mix = Mix([stream()], {"ok": 1}, walks={"counter": ("increment", values)})
    counters = [int.from_bytes(parse(frame)["counter"], "big") for _, frame in frames(mix, 4)]
    assert counters == expected


def test_a_tag_stands_behind_the_macs_and_a_stamp_has_room_behind_the_packet() -> None:
    plain = one("ok")
    tagged = one("ok", walks={"vlan": ("increment", [0x2005])})
    assert tagged == plain[:12] + bytes.fromhex("81002005") + plain[12:]
    assert one("ok", stamped=True) == plain + bytes(12)
    assert Mix([stream()], {"ok": 1}, stamped=True).longest == 82


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ({}, {}, "one above it"),
        ({"ok": 0}, {}, "one above it"),
        ({"ok": -1}, {}, "none below 0"),
        ({"nice": 1}, {}, "'nice' is not a kind of frame"),
        ({"ok": 65_537, "vrrp": 2}, {}, "add up to 65,539, at most 65,536"),
        ({"arp": 1}, {}, "no virtual host has an IPv4 address"),
        ({"na": 1}, {"announcements": [(MAC, ADDRESS, False)]}, "IPv6 address"),
        ({"ok": 1}, {"walks": {"colour": ("increment", range(1))}}, "'colour' cannot walk"),
        ({"ok": 1}, {"walks": {"advskew": ("backwards", range(1))}}, "increment or random"),
        ({"ok": 1}, {"walks": {"advskew": ("random", range(0))}}, "over 1 to"),
        ({"ok": 1}, {"walks": {"source": ("random", range(1 << 21))}}, "more than 1,048,576"),
    ],
)
def test_what_cannot_be_is_refused(
    weights: dict[str, int], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Mix([stream()], weights, **options)


def test_streams_that_cannot_be_are_refused() -> None:
    every: list[dict[str, Any]] = [{"passphrase": b""}, {"source": SOURCE6}, {"source_mac": b"\2"}]
    for wrong in every:
        with pytest.raises(ValueError, match="a stream has"):
            Mix([stream(**wrong)], {"ok": 1})
    with pytest.raises(ValueError, match="needs at least one virtual host"):
        Mix([], {"ok": 1})


def test_kinds_that_a_receiver_rejects_have_its_word() -> None:
    rejected = {word for word in KIND_WORDS if word.startswith("bad_")} | {"replay", "vrrp"}
    assert rejected <= set(VERDICT_WORDS)
