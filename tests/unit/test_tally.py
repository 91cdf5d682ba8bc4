"""What the receiving end counts: made frames in, the expected table out; a model beside it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.engine._prepared import signed_message
from carp_fast.engine._wire import build_announcement
from carp_fast.loadtest._tally import COUNTER_WINDOW, FLOW_LIMIT, OTHER_LIMIT, Tally
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    GROUP,
    GROUP6,
    PASSPHRASE,
    VHID,
    advertisement,
    carp_header,
    ip,
    ipv4_frame,
    ipv6_frame,
)

SIGNER = (VHID, PASSPHRASE, signed_message(VHID, [ADDRESS]), GROUP, False)
JUMP_MAX = 2**24
RESTART_AFTER = 8
LAST = 2**64 - 1


def heard(*counters: int, **fields: Any) -> dict[str, Any]:
    """The row of one flow that sent these counters in this order."""
    tally = Tally()
    for at_ns, counter in enumerate(counters, 7):
        tally.receive(advertisement(counter=counter, **fields), at_ns)
    (row,) = tally.flow_list()
    names = "source vhid destination vlan first last received lost duplicates reordered strays"
    names += " restarts first_at_ns last_at_ns"
    found: dict[str, Any] = dict(zip(names.split(), row, strict=True))
    assert (found.pop("first_at_ns"), found.pop("last_at_ns")) == (7, 7 + len(counters) - 1)
    return found


def stamped(at_ns: int, frame: bytes) -> bytes:
    return frame + b"sent" + at_ns.to_bytes(8, "big")


# ---------------------------------------------------------------------------------------- counters


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ([5], (5, 5, 0, 0, 0)),
        ([5, 6, 7], (5, 7, 0, 0, 0)),
        ([5, 8, 9], (5, 9, 2, 0, 0)),
        ([5, 8, 6, 9], (5, 9, 1, 0, 1)),
        ([5, 6, 6, 7, 5], (5, 7, 0, 2, 0)),
        ([5, 3, 4, 6], (3, 6, 0, 0, 2)),  # the first that came was not the first that was sent
        ([LAST, 0, 2, 1], (LAST, 2, 0, 0, 1)),  # 64 bits are over
        ([1, 1 + JUMP_MAX], (1, 1 + JUMP_MAX, JUMP_MAX - 1, 0, 0)),
        ([1, COUNTER_WINDOW, 2], (1, COUNTER_WINDOW, COUNTER_WINDOW - 3, 0, 1)),
        ([1, 2, 3 * COUNTER_WINDOW, 3 * COUNTER_WINDOW - 5], (1, 3 * COUNTER_WINDOW, 3068, 0, 1)),
    ],
)
def test_counters_of_a_flow(counters: list[int], expected: tuple[int, ...]) -> None:
    first, last, lost, duplicates, reordered = expected
    assert heard(*counters) == {
        "source": ip("10.77.0.1"),
        "vhid": VHID,
        "destination": GROUP,
        "vlan": None,
        "first": first,
        "last": last,
        "received": len(counters),
        "lost": lost,
        "duplicates": duplicates,
        "reordered": reordered,
        "strays": 0,
        "restarts": 0,
    }


@pytest.mark.parametrize("stray", [2000 - COUNTER_WINDOW, 2000 + JUMP_MAX + 1, LAST])
def test_a_counter_too_far_off_disturbs_nothing(stray: int) -> None:
    row = heard(1999, 2000, stray, 2001, 2002)
    assert (row["first"], row["last"], row["lost"]) == (1999, 2002, 0)
    assert (row["received"], row["strays"], row["restarts"]) == (5, 1, 0)


def test_a_sender_that_begins_anew_is_followed() -> None:
    before, after = [10**6, 10**6 + 2], list(range(7, 7 + RESTART_AFTER + 3))
    row = heard(*before, *after)
    assert (row["first"], row["last"]) == (after[RESTART_AFTER - 1], after[-1])
    assert (row["lost"], row["restarts"], row["strays"]) == (1, 1, RESTART_AFTER - 1)
    assert row["received"] == len(before) + len(after)


def test_strays_that_do_not_ascend_are_no_restart() -> None:
    row = heard(10**6, *([5, 4] * RESTART_AFTER))
    assert (row["restarts"], row["strays"], row["first"]) == (0, 2 * RESTART_AFTER, 10**6)


class Model:
    """Counters by the definition: a set of all that came, no bits, no window that moves."""

    def __init__(self, first: int) -> None:
        self.placed = {first}
        self.received, self.duplicates, self.reordered, self.strays = 1, 0, 0, 0

    def take(self, counter: int) -> None:
        highest = max(self.placed)
        self.received += 1
        if counter <= highest - COUNTER_WINDOW:
            self.strays += 1
        elif counter in self.placed:
            self.duplicates += 1
        else:
            self.reordered += counter < highest
            self.placed.add(counter)

    @property
    def lost(self) -> int:
        return max(self.placed) - min(self.placed) + 1 - len(self.placed)


# Never so many strays in a row that ascend as are taken for a restart: some always go back.
steps = st.one_of(
    st.integers(-3, 4),
    st.integers(-2 * COUNTER_WINDOW, 2 * COUNTER_WINDOW),
    st.sampled_from([COUNTER_WINDOW - 1, COUNTER_WINDOW, 1 - COUNTER_WINDOW, -COUNTER_WINDOW]),
)


@given(st.lists(steps, max_size=60))
def test_counters_against_the_model(offsets: list[int]) -> None:
    start = 10**9
    tally, model, straying = Tally(flows_max=1), Model(start), 0
    tally.receive(advertisement(counter=start, digest=bytes(20)))
    for offset in offsets:
        counter = max(model.placed) + offset
        straying = straying + 1 if offset <= -COUNTER_WINDOW else 0
        if straying == RESTART_AFTER:
            return
        model.take(counter)
        tally.receive(advertisement(counter=counter, digest=bytes(20)))
    ((_, _, _, _, first, last, *row, _, _),) = tally.flow_list()
    assert (first, last) == (min(model.placed), max(model.placed))
    assert row == [model.received, model.lost, model.duplicates, model.reordered, model.strays, 0]


# ------------------------------------------------------------------------------- flows and verdicts


def test_flows_are_apart_by_source_family_and_vhid() -> None:
    tally = Tally()
    for counter in (1, 2, 4):
        for source in ("10.77.0.1", "10.77.0.2", "fe80::1"):
            tally.receive(advertisement(source=source, counter=counter))
            tally.receive(advertisement(source=source, counter=counter + 9, vhid=7))
    rows = {row[:2]: row[4:8] for row in tally.flow_list()}
    assert len(rows) == 6
    for (_, vhid), (first, last, received, lost) in rows.items():
        assert (first, last) == ((1, 4) if vhid == VHID else (10, 13))
        assert (received, lost) == (3, 1)
    facts = tally.facts()
    assert (facts["frames"], facts["flows"], facts["received"], facts["lost"]) == (18, 6, 18, 6)


def test_flows_are_apart_by_destination_and_vlan() -> None:
    tally = Tally(vlan=0)
    for counter in (1, 2, 4):
        for destination, vlan in (("224.0.0.18", 0), ("10.77.0.9", 0), ("224.0.0.18", 5)):
            tally.receive(advertisement(destination=destination, counter=counter), vlan=vlan)
    rows = {row[2:4]: row[6:9] for row in tally.flow_list()}
    keys = [(GROUP, None), (ip("10.77.0.9"), None), (GROUP, 5)]
    assert rows == dict.fromkeys(keys, (3, 1, 0))


@pytest.mark.parametrize(
    ("vlan", "counted", "skipped"),
    [(None, 1, {5: 2, 6: 3}), (0, 6, {}), (5, 2, {0: 1, 6: 3}), (4094, 0, {0: 1, 5: 2, 6: 3})],
)
def test_frames_of_other_vlans_are_skipped_and_named(
    vlan: int | None, counted: int, skipped: dict[int, int]
) -> None:
    tally = Tally(vlan=vlan)
    for number, tag in enumerate((0, 5, 5, 6, 6, 6)):
        tally.receive(advertisement(counter=number), vlan=tag)
    facts = tally.facts()
    assert (facts["frames"], facts["received"], facts["skipped"]) == (counted, counted, skipped)


def test_a_full_table_says_what_it_left_out() -> None:
    tally = Tally(flows_max=2)
    for last in (1, 2, 3, 1, 3):
        tally.receive(advertisement(source=f"10.77.0.{last}", counter=last))
    assert [(row[0][3], row[6]) for row in tally.flow_list()] == [(1, 2), (2, 1)]
    assert tally.facts()["left_out"] == 2
    with pytest.raises(ValueError, match=f"1 to {FLOW_LIMIT}"):
        Tally(flows_max=FLOW_LIMIT + 1)


def test_many_flows_each_keep_their_own() -> None:
    tally = Tally(flows_max=4096)
    frames = [
        advertisement(source=f"10.{n % 7}.{n >> 8}.{n & 255}", vhid=1 + n % 255, digest=bytes(20))
        for n in range(4096)
    ]
    for frame in [*frames, *frames]:
        tally.receive(frame)
    assert {row[6] for row in tally.flow_list()} == {2}
    assert tally.facts()["duplicates"] == 4096


VRRP2 = bytes((0x21, 7, 100, 7)) + bytes(40)
JUDGED = [
    ("ok", advertisement()),
    ("bad_auth", advertisement(passphrase=b"other")),
    ("bad_vhid", advertisement(vhid=7)),
    ("bad_destination", advertisement(destination="239.1.1.1")),
    ("bad_vhid", advertisement(source="fe80::1")),
    ("bad_checksum", advertisement(checksum_error=1)),
    ("bad_version", advertisement(version=1)),
    ("bad_version", advertisement(version=3)),
    ("vrrp", advertisement(version=3, passphrase=b"other")),
    ("bad_type", advertisement(kind=2)),
    ("bad_ttl", ipv4_frame(carp_header(), ttl=254)),
    ("bad_length", ipv4_frame(carp_header()[:20])),
    ("vrrp", ipv4_frame(VRRP2)),
]


@pytest.mark.parametrize(("word", "frame"), JUDGED, ids=[word for word, _ in JUDGED])
def test_verdicts_with_keys(word: str, frame: bytes) -> None:
    tally = Tally([SIGNER])
    tally.receive(frame)
    assert tally.facts()["verdicts"] == {word: 1}
    # What carries a counter of CARP is in the table, whatever is wrong with it.
    assert len(tally.flow_list()) == (word not in {"vrrp", "bad_length"})


def test_verdicts_without_keys() -> None:
    tally = Tally()
    for frame in (advertisement(), advertisement(passphrase=b"other"), advertisement(vhid=7)):
        tally.receive(frame)
    tally.receive(ipv4_frame(carp_header(), ttl=1))
    assert tally.facts()["verdicts"] == {"ok": 3, "bad_ttl": 1}


def test_peers_and_further_ways_to_be_right() -> None:
    message = signed_message(VHID, [ADDRESS6])
    peer = (VHID, PASSPHRASE, signed_message(VHID, [ADDRESS]), ip("10.77.0.1"), True)
    tally = Tally([SIGNER, (VHID, b"second", message, GROUP6, False), peer])
    for frame in (
        advertisement(),
        ipv6_frame(carp_header(passphrase=b"second", addresses=[ADDRESS6])),
        advertisement(destination="10.77.0.9"),
    ):
        tally.receive(frame)
    assert tally.facts()["verdicts"] == {"ok": 3}
    tally.receive(advertisement(source="10.77.0.2", destination="10.77.0.9"))
    assert tally.facts()["verdicts"] == {"ok": 3, "bad_source": 1}


def test_announcements_and_the_rest() -> None:
    tally = Tally()
    mac = bytes.fromhex("00005e00012a")
    for address in (ADDRESS, ADDRESS6, ADDRESS6):
        tally.receive(build_announcement(mac, address))
    asking = bytearray(build_announcement(mac, ADDRESS))
    asking[41] ^= 1  # for another address than the sender's
    solicited = bytearray(build_announcement(mac, ADDRESS6))
    solicited[58] |= 0x40
    for frame in (bytes(asking), bytes(solicited), b"\xff" * 20, b""):
        tally.receive(frame)
    facts = tally.facts()
    assert (facts["gratuitous_arp"], facts["unsolicited_na"], facts["other"]) == (1, 2, 4)
    assert (facts["verdicts"], facts["frames"], facts["latency"]) == ({}, 7, None)


# ------------------------------------------------------------------------------------------ latency


def test_frames_without_counters_are_apart_by_sender_and_content() -> None:
    tally = Tally(vlan=0)
    mac, other = b"\2\0\0\0\0\7", b"\2\0\0\0\0\x08"
    short = ipv4_frame(carp_header()[:20], source=ip("10.77.0.1"))
    vrrp = bytes((0x21, 7, 100, 1)) + bytes(16)
    for frame, vlan in [
        (build_announcement(mac, ADDRESS), 0),
        (build_announcement(mac, ADDRESS), 0),
        (build_announcement(other, ADDRESS), 0),
        (build_announcement(mac, ADDRESS), 5),
        (build_announcement(mac, ADDRESS6), 0),
        (short, 0),
        (short, 0),
        (ipv6_frame(carp_header()[:20], source=ip("fe80::1")), 0),
        (ipv4_frame(vrrp, source=ip("10.77.0.1")), 0),
    ]:
        tally.receive(frame, vlan=vlan)
    assert tally.other_list() == [
        ("arp", mac, ADDRESS, None, None, 2),
        ("arp", other, ADDRESS, None, None, 1),
        ("arp", mac, ADDRESS, None, 5, 1),
        ("na", mac, ADDRESS6, None, None, 1),
        ("bad_length", ip("10.77.0.1"), GROUP, VHID, None, 2),
        ("bad_length", ip("fe80::1"), GROUP6, VHID, None, 1),
        ("vrrp", ip("10.77.0.1"), GROUP, 7, None, 1),
    ]


def test_senders_beyond_the_table_of_frames_without_counters_are_left_out() -> None:
    tally = Tally()
    for number in range(OTHER_LIMIT + 3):
        tally.receive(build_announcement(b"\2" + number.to_bytes(5), ADDRESS))
    assert len(tally.other_list()) == OTHER_LIMIT
    assert tally.facts()["left_out"] == 3
    assert tally.facts()["gratuitous_arp"] == OTHER_LIMIT + 3


def test_latency_from_stamps_behind_the_packet() -> None:
    tally = Tally([SIGNER])
    at_ns = 1_700_000_000 * 10**9
    for microseconds in (*[10] * 98, 50, 1_000):
        tally.receive(stamped(at_ns, advertisement()), at_ns + microseconds * 1_000)
    tally.receive(stamped(at_ns, advertisement(source="fe80::1")), at_ns + 10_000)
    tally.receive(advertisement(), at_ns)  # without
    tally.receive(advertisement() + bytes(12), at_ns)  # padded
    facts = tally.facts()
    assert facts["verdicts"]["ok"] == 102  # nothing that is checked covers the stamp
    latency = facts["latency"]
    assert latency["frames"] == 101
    assert 10_000 <= latency["p50_ns"] <= 10_400
    assert 50_000 <= latency["p99_ns"] <= 52_000
    assert latency["max_ns"] == 1_000_000
    assert (facts["first_at_ns"], facts["last_at_ns"]) == (at_ns + 10_000, at_ns)


def test_a_stamp_from_the_future_means_two_clocks() -> None:
    tally = Tally()
    tally.receive(stamped(100, advertisement()), 99)
    facts = tally.facts()
    assert (facts["before_sent"], facts["latency"]) == (1, None)
