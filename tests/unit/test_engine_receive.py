"""What the engine does with a frame: every verdict, loops, duplicate sources, keys, limits."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_fast.engine._engine import HOST_BYTES, MAX_INTERFACES, MAX_VIRTUAL_HOSTS, Engine
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.engine.reports import DemoteHeard, DuplicateSource, OtherMaster, Released
from tests.support.segment import (
    ADDRESS,
    SECOND_NS,
    START_NS,
    Node,
    advertisement,
    carp_header,
    internet_checksum,
    ip,
    ipv4_frame,
    prepared,
    read_advertisement,
)

ADDRESSES = [(ADDRESS, 24)]
OTHER_MAC = b"\x02\0\0\0\0\x66"


def vrrp2(addresses: int) -> bytes:
    """A VRRPv2 advertisement of our vhid's number, without authentication."""
    start = bytes((0x21, 42, 100, addresses, 0, 1))
    rest = b"".join(bytes((192, 0, 2, n + 1)) for n in range(addresses)) + b"\0" * 8
    return start + internet_checksum(start + b"\0\0" + rest).to_bytes(2, "big") + rest


def loop() -> bytes:
    """The first advertisement of a node that becomes MASTER with counter 77 before it."""
    node = Node("10.77.0.2", counter=77)
    node.run(START_NS + 4 * SECOND_NS)
    frame: bytes = node.done[0].content
    return frame


REFUSED = {
    "bad_length": ipv4_frame(carp_header()[:-4]),
    "bad_ttl": ipv4_frame(carp_header(), ttl=64),
    "bad_checksum": ipv4_frame(carp_header(), checksum_error=1),
    "vrrp": ipv4_frame(vrrp2(1)),
    "bad_version": ipv4_frame(carp_header(version=3)),
    "bad_type": ipv4_frame(carp_header(kind=3)),
    "bad_vhid": ipv4_frame(carp_header(vhid=43)),
    "bad_destination": ipv4_frame(carp_header(), destination=ip("224.0.0.19")),
    "bad_auth": ipv4_frame(carp_header(passphrase=b"wrong")),
    "loop": loop(),
}
# Counted for the virtual host too, because it is known by then.
OF_A_HOST = {"bad_version", "bad_destination", "bad_auth", "loop"}


def test_every_verdict_of_this_receive_path_is_among_them() -> None:
    # bad_source belongs to unicast peers and replay to sources in order: test_engine_peers.py,
    # test_engine_replay.py.
    assert set(REFUSED) == set(VERDICT_WORDS) - {"ok", "bad_source", "replay"}


@pytest.mark.parametrize("verdict", REFUSED)
@pytest.mark.parametrize("state", ["BACKUP", "MASTER"])
def test_a_refused_frame_moves_its_counter_and_nothing_else(verdict: str, state: str) -> None:
    node = Node("10.77.0.2", counter=77, preempt=True, advskew=0)
    now_ns = START_NS
    if state == "MASTER" or verdict == "loop":
        now_ns += 4 * SECOND_NS
        node.run(now_ns)
    if verdict == "loop" and state == "BACKUP":
        assert node.engine.receive(0, advertisement(advbase=0, advskew=9), now_ns) == "ok"
        node.take(now_ns)
    before, interface = node.engine.host(0), node.engine.interface_counters(0)
    assert before.state == state
    for _ in range(3):
        assert node.engine.receive(0, REFUSED[verdict], now_ns) == verdict
    after = node.engine.host(0)
    interface[verdict] += 3
    assert node.engine.interface_counters(0) == interface
    before.counters[verdict] += 3 if verdict in OF_A_HOST else 0
    assert after == before
    assert node.take(now_ns) == []


@pytest.mark.parametrize("addresses", range(1, 12))
@pytest.mark.parametrize("vhid", [42, 43])
def test_vrrp_is_known_whatever_its_length(addresses: int, vhid: int) -> None:
    # 20 bytes with one address, 36 (as CARP) with five, 44 (byte 3 is 7 as in CARP) with seven.
    node = Node("10.77.0.2", vhid=vhid)
    payload = vrrp2(addresses)
    assert len(payload) == 16 + 4 * addresses
    assert node.engine.receive(0, ipv4_frame(payload), START_NS) == "vrrp"


def test_carp_as_long_as_vrrp_is_carp_when_its_digest_fits() -> None:
    node = Node("10.77.0.2")
    # Eight trailing bytes: 44, and byte 3 is 7.
    assert node.engine.receive(0, ipv4_frame(carp_header() + b"\0" * 8), START_NS) == "ok"
    five = ipv4_frame(carp_header(authlen=5))
    assert node.engine.receive(0, five, START_NS) == "ok"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 65_535))
def test_no_frame_of_random_bytes_is_ok(frame: bytes, interface: int) -> None:
    node = Node("10.77.0.2")
    assert node.engine.receive(interface, frame, START_NS) != "ok"
    assert node.state == "BACKUP"


@settings(max_examples=300, deadline=None)
@given(st.integers(34, 69), st.integers(1, 255))
def test_the_priority_alone_is_not_authenticated(at: int, flip: int) -> None:
    # Every byte of the header changed, and the checksum made to fit again: only advskew,
    # authlen, demote and advbase may differ and still pass.
    carp = bytearray(carp_header())
    carp[at - 34] ^= flip
    carp[6:8] = b"\0\0"
    carp[6:8] = internet_checksum(bytes(carp)).to_bytes(2, "big")
    verdict = Node("10.77.0.2").engine.receive(0, ipv4_frame(bytes(carp)), START_NS)
    assert (verdict == "ok") == (at - 34 in (2, 3, 4, 5, 6, 7))


# ------------------------------------------------------------------ loops and duplicate sources


def master() -> tuple[Node, int]:
    node = Node("10.77.0.2")
    now_ns = START_NS + 10 * SECOND_NS
    node.run(now_ns)
    node.take(now_ns)
    return node, now_ns


def test_our_own_frames_are_a_loop_for_an_interval_and_replays_after_it() -> None:
    node, now_ns = master()
    sent = [done.content for done in node.done if done.action == "ADVERTISE"]
    assert len(sent) >= 6
    assert node.engine.receive(0, sent[-1], now_ns) == "loop"
    for frame in sent[-3:-6:-1]:
        assert node.engine.receive(0, frame, now_ns) == "replay"
    assert node.state == "MASTER"
    assert node.reported(DuplicateSource) == []


def test_our_own_counter_from_another_source_is_no_loop() -> None:
    node, now_ns = master()
    counter = read_advertisement(node.done[-1].content).counter
    frame = advertisement(source="10.77.0.3", counter=counter, advskew=200)
    assert node.engine.receive(0, frame, now_ns) == "ok"


def test_duplicate_source_is_told_once_a_minute_with_its_mac() -> None:
    node, now_ns = master()
    told = []
    for second in range(130):
        at_ns = now_ns + second * SECOND_NS
        slower: dict[str, Any] = {"counter": 10**9 - second, "advskew": 1}
        frame = advertisement(source="10.77.0.2", source_mac=OTHER_MAC, **slower)
        assert node.engine.receive(0, frame, at_ns) == "ok"
        node.carry_out(at_ns)
        assert node.state == "MASTER"
        assert node.engine.host(0).duplicate_source == OTHER_MAC
        told = node.reported(DuplicateSource)
        assert len(told) == 1 + second // 60
    assert [report.mac for report in told] == [OTHER_MAC] * 3
    assert node.engine.host(0).counters["duplicate_source"] == 130


def test_duplicate_source_that_is_faster_is_obeyed_and_slower_is_answered() -> None:
    node, now_ns = master()
    node.forget()
    slower = advertisement(source="10.77.0.2", counter=10**9, advskew=1)
    assert node.engine.receive(0, slower, now_ns) == "ok"
    node.take(now_ns)
    assert node.words() == ["ADVERTISE", "ANNOUNCE"]
    faster = advertisement(source="10.77.0.2", counter=10**9, advbase=0, advskew=255)
    assert node.engine.receive(0, faster, now_ns) == "ok"
    assert (node.state, node.reason) == ("BACKUP", "faster_master")


def test_other_master_is_told_once_a_minute_and_only_while_master() -> None:
    wrong = advertisement(passphrase=b"wrong")
    node = Node("10.77.0.2")
    assert node.engine.receive(0, wrong, START_NS) == "bad_auth"
    node.take(START_NS)
    assert node.reported(OtherMaster) == []
    node, now_ns = master()
    for second in range(61):
        node.engine.receive(0, wrong, now_ns + second * SECOND_NS)
    node.take(now_ns)
    assert [report.at_ns for report in node.reported(OtherMaster)] == [
        now_ns,
        now_ns + 60 * SECOND_NS,
    ]


def test_what_is_told_once_a_minute_is_so_where_time_goes_back_or_its_milliseconds_wrap() -> None:
    wrong = advertisement(passphrase=b"wrong")
    wrap_ns = 2**32 * 1_000_000  # after 49 days
    node = Node("10.77.0.2", now_ns=wrap_ns - 40 * SECOND_NS)
    node.run(wrap_ns - 20 * SECOND_NS)
    assert node.state == "MASTER"
    first_ns = wrap_ns - 10 * SECOND_NS
    for at_ns in (first_ns, first_ns - 7_000_000, wrap_ns, wrap_ns + 49 * SECOND_NS):
        node.engine.receive(0, wrong, at_ns)
    node.engine.receive(0, wrong, wrap_ns + 50 * SECOND_NS)
    node.take(wrap_ns + 50 * SECOND_NS)
    assert [report.at_ns for report in node.reported(OtherMaster)] == [
        first_ns,
        wrap_ns + 50 * SECOND_NS,
    ]


def test_a_demote_byte_is_told_once() -> None:
    node = Node("10.77.0.2")
    for counter in range(3):
        frame = advertisement(counter=counter, demote=counter + 7)
        assert node.engine.receive(0, frame, START_NS) == "ok"
    node.take(START_NS)
    assert [report.demote for report in node.reported(DemoteHeard)] == [7]


@pytest.mark.parametrize("heard", [0, 5, 2**40, 2**63, 2**64 - 2**50])
def test_our_counter_goes_on_above_what_was_heard(heard: int) -> None:
    node = Node("10.77.0.2", counter=1_000)
    assert node.engine.receive(0, advertisement(counter=heard), START_NS) == "ok"
    node.run(START_NS + 5 * SECOND_NS)
    counters = [
        read_advertisement(done.content).counter for done in node.done if done.action == "ADVERTISE"
    ]
    first = max(heard, 1_000) + 1
    assert counters == [(first + n) % 2**64 for n in range(len(counters))]


# --------------------------------------------------------- who is meant, on which interface


def test_the_same_vhid_on_another_interface_hears_nothing() -> None:
    node = Node("10.77.0.2")
    node.engine.set_interface(1, START_NS, source=ip("10.78.0.2"))
    node.engine.add(1, prepared(interface=1), START_NS)
    assert node.engine.receive(1, advertisement(), START_NS) == "ok"
    assert node.engine.host(0).counters["advertisements_heard"] == 0
    assert node.engine.host(1).counters["advertisements_heard"] == 1
    assert node.engine.receive(2, advertisement(), START_NS) == "bad_vhid"


@pytest.mark.parametrize("removed", range(3))
def test_one_vhid_in_several_groups_of_one_interface(removed: int) -> None:
    groups = [ip(f"224.0.0.{n}") for n in (18, 30, 31)]
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"))
    for slot, group in enumerate(groups):
        host = prepared(destination=group, passphrase=b"key %d" % slot)
        engine.add(slot, host, START_NS)

    def hear(slot: int) -> str:
        carp = carp_header(passphrase=b"key %d" % slot)
        word: str = engine.receive(0, ipv4_frame(carp, destination=groups[slot]), START_NS)
        return word

    assert [hear(slot) for slot in range(3)] == ["ok"] * 3
    engine.remove(removed, START_NS)
    assert [hear(slot) for slot in range(3)] == [
        "bad_destination" if slot == removed else "ok" for slot in range(3)
    ]
    for slot in range(3):
        engine.remove(slot, START_NS)
    assert [hear(slot) for slot in range(3)] == ["bad_vhid"] * 3


def test_own_source_is_used_and_never_replaced_by_the_interface() -> None:
    node = Node("10.77.0.2", source=ip("10.77.0.77"))
    node.attach(START_NS, source=None)
    node.run(START_NS + 4 * SECOND_NS)
    frame = node.done[0].content
    assert read_advertisement(frame).source == ip("10.77.0.77")
    assert internet_checksum(frame[14:34]) == 0


@pytest.mark.parametrize("address", ["0.0.0.0", "255.255.255.255"])
def test_addresses_that_never_enter_the_digest(address: str) -> None:
    try:
        node = Node("10.77.0.2", addresses=[*ADDRESSES, (ip(address), 32)])
    except ValueError:
        return  # refused: then it does not enter either
    assert node.engine.receive(0, advertisement(), START_NS) == "ok"


# ------------------------------------------------------------------------- limits and bad calls


def test_a_virtual_host_stays_small() -> None:
    # At most 1 KiB a virtual host all told: the struct leaves room for its four sources (64 bytes
    # each), its block, its places in two wheels (16 each) and in the queues (16). Whole lines.
    assert HOST_BYTES <= 768
    assert HOST_BYTES % 64 == 0


def test_reports_beyond_the_ring_are_counted() -> None:
    engine = Engine(report_capacity=4096)
    for number in range(20):
        engine.set_interface(number, START_NS, source=ip("10.77.0.2"))
    for slot in range(4_000):
        host = prepared(interface=slot // 255, vhid=slot % 255 + 1)
        engine.add(slot, host, START_NS)
    reports = engine.take_reports
    assert engine.reports_lost == 4_000 - (4_096 - 1_024)
    assert len(reports()) == 4_096 - 1_024
    for slot in range(4_000):
        engine.remove(slot, START_NS)
    # What somebody waits for keeps its room.
    assert len([report for report in reports() if isinstance(report, Released)]) >= 1_024


BAD_CALLS: dict[str, str] = {
    "interface number": f"engine.set_interface({MAX_INTERFACES}, 1, source=bytes(4))",
    "highest interface number": "engine.set_interface(65535, 1, source=bytes(4))",
    "short MAC": "engine.set_interface(0, 1, mac=b'ab')",
    "short interface source": "engine.set_interface(0, 1, source=b'a')",
    "slot to add in": f"engine.add({MAX_VIRTUAL_HOSTS}, host(), 1)",
    "slot in use": "engine.add(0, host(), 1); engine.add(0, host(), 1)",
    "slot to replace": "engine.replace(5, host(), 1)",
    "slot to look at": "engine.host(2**32 - 1)",
    "slot never used": "engine.host(5)",
    "frames that are not bytes": "engine.receive_many([(0, 'text')], 1)",
    "interface to look at": "engine.interface_counters(65535)",
    "short source": "host(source=b'a')",
    "long source": "host(source=bytes(16))",
    "no tick": "engine.wake_tick_ns = 0; engine.add(0, host(), 1); engine.expire(2**42)",
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_is_refused(case: str) -> None:
    # In a process of its own: what is not refused may write outside of the tables.
    program = (
        "from tests.support.segment import prepared as host\n"
        "from carp_fast.engine._engine import Engine\n"
        "engine = Engine()\n"
        "engine.set_interface(0, 1, source=bytes(4))\n"
        f"try:\n    {BAD_CALLS[case].replace('; ', chr(10) + '    ')}\n"
        "except (ValueError, IndexError, OverflowError, TypeError) as error:\n"
        "    assert str(error)\n"
        "    print('refused')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    assert (result.returncode, result.stdout) == (0, "refused\n"), result.stderr


def test_a_prepared_host_is_given_away_once() -> None:
    engine, host = Engine(), prepared()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"))
    engine.add(0, host, START_NS)
    calls: list[Any] = [
        lambda: engine.add(1, host, START_NS),
        lambda: engine.replace(0, host, START_NS),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="given away"):
            call()


@pytest.mark.parametrize(
    "settings",
    [
        {"vhid": 0},
        {"addresses": []},
        {"passphrase": b""},
        {"passphrase": b"x" * 21},
        {"destination": b"\xe0\0\0"},
        {"interface": MAX_INTERFACES},
        {"addresses": [(b"\1" * 15, 64)]},
        {"destination6": b"\xff\2"},
        {"peers": [b"\1" * 4] * 17},
        {"source6": b"\1" * 4},
        {"lladdr": b"\1" * 5},
        {"unsigned_addresses": [(b"\1", 24)]},
    ],
    ids=str,
)
def test_a_host_that_does_not_fit_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"host|range|bytes|peers"):
        prepared(**settings)


LONG = [(ip(f"10.77.1.{n}"), 32) for n in range(1, 14)]  # its counter begins another block
LINKED = [(ip("2001:db8::47"), 64), (ip("fe80::47"), 64)]  # OpenBSD does not sign the second
PEER, NO_PEER = "10.77.0.8", "10.77.0.9"
SIGNED_LONG = tuple(address for address, _ in LONG)


def several_hosts() -> Engine:
    """BACKUPs of every sort that a digest is made for: short, long, over IPv6, strict, unicast.

    Several keys fit the first, the former one for ten seconds, and two forms the last.
    """
    engine = Node("10.77.0.2", on6="fe80::2", counter=77).engine
    engine.add(1, prepared(vhid=43, passphrase=b"other", replay="strict"), START_NS)
    engine.add(2, prepared(vhid=44, addresses=LONG), START_NS)
    engine.add(3, prepared(vhid=45, addresses=[(ip("2001:db8::45"), 64)]), START_NS)
    engine.add(4, prepared(vhid=46, peers=[ip(PEER)]), START_NS)
    engine.add(5, prepared(vhid=42, destination=ip("239.0.0.42"), counter=77), START_NS)
    engine.add(6, prepared(vhid=47, addresses=LINKED), START_NS)
    changed = prepared(passphrase=b"new", counter=77, alternates=True)
    engine.replace(0, changed, START_NS, grace_ns=10 * SECOND_NS)
    engine.take_reports()
    engine.record(1024)
    return engine


HEARD = {
    **REFUSED,
    **{f"former key {n}": advertisement(counter=n) for n in (1, 2, 2**40)},
    **{f"new key {n}": advertisement(counter=n, passphrase=b"new") for n in (3, 4)},
    **{f"strict {n}": advertisement(vhid=43, counter=n, passphrase=b"other") for n in (5, 6)},
    "strict, leaving": advertisement(vhid=43, counter=8, passphrase=b"other", advbase=255),
    "strict, faster": advertisement(vhid=43, counter=2**40, passphrase=b"other"),
    "strict, our source": advertisement(
        source="10.77.0.2", vhid=43, counter=9, passphrase=b"other", advskew=9
    ),
    "wrong key": advertisement(vhid=43, counter=7),
    **{
        f"form {n}": advertisement(
            source="fe80::9", vhid=47, counter=n, addresses=[ip("2001:db8::47"), *link_local]
        )
        for n, link_local in ((1, [ip("fe80::47")]), (2, []), (3, [ip("fe80::47")]))
    },
    "long": advertisement(vhid=44, addresses=SIGNED_LONG),
    "over IPv6": advertisement(source="fe80::9", vhid=45, addresses=[ip("2001:db8::45")]),
    "unicast": advertisement(source=PEER, destination="10.77.0.2", vhid=46),
    "unlisted": advertisement(source=NO_PEER, destination="10.77.0.2", vhid=46),
    "other group": advertisement(destination="239.0.0.42"),
    "slow": advertisement(counter=9, advskew=200, passphrase=b"new"),
    "other protocol": ipv4_frame(carp_header(), protocol=17),
    "short": advertisement()[:60],
    "nothing": b"",
}


def same(single: Engine, many: Engine, now_ns: int) -> None:
    """Both have decided the same: state, counters, records, reports."""
    assert many.records() == single.records()
    assert many.take_reports() == single.take_reports()
    for number in (0, 1):
        assert many.interface_counters(number) == single.interface_counters(number)
        assert many.rejections(number) == single.rejections(number)
    for slot in range(7):
        assert many.checkpoint(slot, now_ns) == single.checkpoint(slot, now_ns)


# Any frames, or those of one virtual host.
BATCHES = st.one_of(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 0, 1, 65_535]), st.sampled_from(sorted(HEARD)))),
    *(
        st.lists(st.tuples(st.just(0), st.sampled_from(names)), max_size=12)
        for names in (
            [name for name in HEARD if name.startswith(("former", "new", "bad_auth", "slow"))],
            [name for name in HEARD if name.startswith("strict")] + ["wrong key"],
            [name for name in HEARD if name.startswith("form ")] + ["over IPv6"],
        )
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), BATCHES), max_size=4))
def test_many_frames_at_once_are_as_one_after_the_other(
    batches: list[tuple[int, list[tuple[int, str]]]],
) -> None:
    single, many, now_ns = several_hosts(), several_hosts(), START_NS + SECOND_NS
    for seconds, names in batches:
        frames = [(interface, HEARD[name]) for interface, name in names]
        good = sum(single.receive(interface, frame, now_ns) == "ok" for interface, frame in frames)
        assert many.receive_many(frames, now_ns) == good
        same(single, many, now_ns)
        now_ns += seconds * SECOND_NS
        for engine in (single, many):  # some take over, and the former key ends
            engine.expire(now_ns)
        assert many.take_actions(now_ns) == single.take_actions(now_ns)


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize(
    ("names", "verdicts"),
    [
        (["strict 5"] * 4, ["ok", "replay", "replay", "replay"]),
        (["strict 6", "strict 5", "strict 6", "strict 5"], ["ok", "replay", "replay", "replay"]),
        (["strict 5", "strict 6", "strict 5", "strict 6"], ["ok", "ok", "replay", "replay"]),
        (["strict 5", "wrong key", "strict 5", "strict 6"], ["ok", "bad_auth", "replay", "ok"]),
        (["former key 1", "former key 2", "new key 3", "new key 4"], ["ok"] * 4),
        (["former key 1", "bad_auth", "new key 3", "bad_auth"], ["ok", "bad_auth"] * 2),
        (["new key 3", "former key 1", "new key 4", "former key 2"], ["ok"] * 4),
        (["form 1", "form 2", "form 3", "form 3"], ["ok"] * 4),
    ],
)
def test_a_frame_is_judged_after_those_before_it_in_its_batch(
    names: list[str], verdicts: list[str], before: int
) -> None:
    # The others place the four frames at every distance from the first of those heard together.
    frames = [(0, HEARD[name]) for name in ["long", "unicast", "over IPv6"][:before] + names]
    single, many, now_ns = several_hosts(), several_hosts(), START_NS + SECOND_NS
    words = [single.receive(interface, frame, now_ns) for interface, frame in frames]
    assert words == ["ok"] * before + verdicts
    assert many.receive_many(frames, now_ns) == words.count("ok")
    same(single, many, now_ns)


@pytest.mark.parametrize("state", ["BACKUP", "MASTER"])
@pytest.mark.parametrize("first", ["strict, leaving", "strict, faster"])
def test_the_next_frame_of_a_host_finds_the_state_that_the_last_one_left(
    first: str, state: str
) -> None:
    single, many, now_ns = several_hosts(), several_hosts(), START_NS + SECOND_NS
    for engine in (single, many) if state == "MASTER" else ():
        now_ns = START_NS + 4 * SECOND_NS
        engine.expire(now_ns)
        engine.take_actions(now_ns)
        assert engine.host(1).state == state
    names = [first, "strict 5", first, "strict, faster", "strict, our source", "strict 6"]
    frames = [(0, HEARD[name]) for name in names]
    words = [single.receive(interface, frame, now_ns) for interface, frame in frames]
    assert {"ok", "replay"} <= set(words)
    assert many.receive_many(frames, now_ns) == words.count("ok")
    same(single, many, now_ns)


@pytest.mark.parametrize("bad", range(10))
@pytest.mark.parametrize("count", range(10))
def test_one_bad_digest_leaves_the_others_right_however_many_come(count: int, bad: int) -> None:
    names = ["former key 1", "new key 3", "strict 5", "long", "over IPv6", "unicast"]
    frames = [(0, HEARD[names[n % len(names)]]) for n in range(count)]
    if bad < count:
        frames[bad] = (0, HEARD["wrong key"])
    single, many, now_ns = several_hosts(), several_hosts(), START_NS + SECOND_NS
    words = [single.receive(interface, frame, now_ns) for interface, frame in frames]
    assert words.count("bad_auth") == (bad < count)
    assert many.receive_many(frames, now_ns) == words.count("ok")
    same(single, many, now_ns)


@pytest.mark.parametrize("name", ["former key 1", "new key 3", "strict 5", "long", "over IPv6"])
def test_what_is_right_is_taken_beside_any_other(name: str) -> None:
    frames = [(0, HEARD["wrong key"]), (0, HEARD[name]), (0, HEARD["long"])]
    assert several_hosts().receive_many(frames[:2], START_NS + SECOND_NS) == 1
    assert several_hosts().receive_many(frames[1:2], START_NS + SECOND_NS) == 1
    assert several_hosts().receive_many(frames[1:], START_NS + SECOND_NS) == 2
