"""Which lane the programs send a packet to, as the kernel would run them on each receive path."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest

from carp_fast.net.filters import INSTRUCTIONS_MAX, attach_filter, packet_filter
from carp_fast.net.lane_filters import (
    ARRIVING,
    GROUPS_MAX,
    PEERS_MAX,
    PLACES,
    RAW_INTERFACES_MAX,
    SOURCES_MAX,
    UNTAGGED,
    Known,
    fanout_program,
    raw_program,
    source_key,
)
from tests.support.bpf import run
from tests.support.segment import (
    GROUP,
    GROUP6,
    behind_extension,
    carp_header,
    in_fragments6,
    ip,
    ipv4_frame,
    ipv6_frame,
)

IFINDEX = 7
MASTER, MASTER6 = ip("10.77.0.1"), ip("fe80::1")
STRANGER, STRANGER6 = ip("10.77.0.9"), ip("fe80::9")
US, US6 = ip("10.77.0.2"), ip("fe80::2")
PEER, PEER6 = ip("192.0.2.1"), ip("2001:db8::1")


def known(**given: Any) -> Known:
    """One interface and both groups; the masters are genuine there, unless told."""
    made = Known()
    made.ifindexes = [IFINDEX]
    made.groups = {GROUP, GROUP6}
    made.sources = {IFINDEX: {MASTER, MASTER6}}
    for name, value in given.items():
        setattr(made, name, value)
    return made


def by_fanout(facts: Known, frame: bytes, ifindex: int = IFINDEX) -> str:
    """On a packet socket the program of a fanout group sees the packet from its header on."""
    protocol = int.from_bytes(frame[12:14], "big")
    place = run(fanout_program(facts), frame[14:], ifindex, protocol=protocol)[0]
    return next(lane for lane, each in PLACES.items() if each == place)


def by_raw(facts: Known, frame: bytes, ifindex: int = IFINDEX) -> str:
    """Each raw socket decides for its lane; IPv6 data begins behind the header."""
    kind = "raw4" if frame[12] == 0x08 else "raw6"
    data = frame[14:] if kind == "raw4" else frame[54:]
    lanes = [
        lane
        for lane in PLACES
        if run(raw_program(facts, kind, lane), data, ifindex, header=frame[14:])[0]
    ]
    return " and ".join(lanes) or "none"


def lane(facts: Known, frame: bytes, ifindex: int = IFINDEX) -> str:
    """The lane that both receive paths agree on."""
    one, other = by_fanout(facts, frame, ifindex), by_raw(facts, frame, ifindex)
    assert one == other
    return one


def four(payload: bytes | None = None, **outer: Any) -> bytes:
    return ipv4_frame(carp_header() if payload is None else payload, **outer)


def six(payload: bytes | None = None, **outer: Any) -> bytes:
    return ipv6_frame(carp_header() if payload is None else payload, **outer)


def test_a_source_that_was_genuine_has_its_lane_and_strangers_have_not() -> None:
    facts = known()
    assert lane(facts, four(source=MASTER)) == lane(facts, six(source=MASTER6)) == "genuine"
    assert lane(facts, four(source=STRANGER)) == lane(facts, six(source=STRANGER6)) == "common"
    nobody = known(sources={})
    assert lane(nobody, four(source=MASTER)) == lane(nobody, six(source=MASTER6)) == "common"


def test_a_source_is_genuine_on_its_interface_alone() -> None:
    facts = known(ifindexes=[IFINDEX, 8])
    assert lane(facts, four(source=MASTER), 8) == lane(facts, six(source=MASTER6), 8) == "common"


STRAYS: dict[str, bytes] = {
    "forwarded": four(ttl=254),
    "forwarded, IPv6": six(hop_limit=254),
    "routed unicast": four(ttl=50, destination=US),
    "unicast of nobody's peer": four(destination=US),
    "unicast of nobody's peer, IPv6": six(destination=US6),
    "another group": four(destination=ip("224.0.0.19")),
    "another group, IPv6": six(destination=ip("ff02::13")),
    "limited broadcast": four(destination=ip("255.255.255.255")),
    "short": four(total_length=55),
    "short, IPv6": six(payload_length=35),
    "a fragment": four(flags=0x2000),
    "a later fragment": four(flags=0x0001),
    "version 1": four(carp_header(version=1)),
    "version 3": four(carp_header(version=3)),
    "version 3, IPv6": six(carp_header(version=3)),
    "type 2": four(carp_header(kind=2)),
    "VRRPv2": four(bytes((0x21, 42, 100, 1, 0, 1)) + bytes(14)),
    "version 3 behind options": four(carp_header(version=3), options=bytes(8)),
}


@pytest.mark.parametrize("frame", STRAYS.values(), ids=STRAYS)
def test_what_can_be_no_advertisement_for_us_is_stray_whoever_sent_it(frame: bytes) -> None:
    for sources in ({}, {IFINDEX: {MASTER, MASTER6}}):
        assert lane(known(sources=sources), frame) == "stray"


KEPT: dict[str, bytes] = {
    "options": four(options=bytes(8)),
    "longest options": four(options=bytes(40)),
    "trailing bytes": four(carp_header() + bytes(1400)),
    "VRRPv2 as long as CARP": four(bytes((0x21, 42, 100, 5, 0, 1)) + bytes(30)),
    "any authlen, TOS and MAC": four(carp_header(authlen=0), tos=0xE0, source_mac=bytes(6)),
    "wrong checksum": four(carp_header(checksum_error=1)),
    "unknown vhid": four(carp_header(vhid=255)),
}


@pytest.mark.parametrize("frame", KEPT.values(), ids=KEPT)
def test_what_only_the_engine_can_judge_is_not_stray(frame: bytes) -> None:
    assert lane(known(sources={}), frame) == "common"


def test_a_listed_peer_may_come_from_far_away() -> None:
    facts = known(groups=set(), peers={PEER, PEER6})
    for source, ttl in ((PEER, 50), (PEER, 255)):
        assert lane(facts, four(source=source, destination=US, ttl=ttl)) == "common"
    assert lane(facts, six(source=PEER6, destination=US6, hop_limit=3)) == "common"
    assert lane(facts, four(source=STRANGER, destination=US)) == "stray"
    assert lane(facts, six(source=STRANGER6, destination=US6)) == "stray"
    # To a group a peer's must not have been forwarded, as anybody's.
    assert lane(known(peers={PEER}), four(source=PEER, ttl=50)) == "stray"
    facts.sources = {IFINDEX: {PEER, PEER6}}
    assert lane(facts, four(source=PEER, destination=US, ttl=50)) == "genuine"
    assert lane(facts, six(source=PEER6, destination=US6, hop_limit=3)) == "genuine"


def test_groups_and_peers_beyond_what_a_program_tells_apart_are_all_taken() -> None:
    groups = {bytes((239, 1, i >> 8, i & 255)) for i in range(GROUPS_MAX)}
    facts = known(groups=groups, sources={})
    for group in sorted(groups)[:3] + sorted(groups)[-3:]:
        assert lane(facts, four(destination=group)) == "common"
    assert lane(facts, four(destination=GROUP)) == "stray"
    facts.groups = groups | {GROUP}
    assert lane(facts, four(destination=ip("239.255.0.1"))) == "common"
    peers = {bytes((192, 0, 2, i)) for i in range(PEERS_MAX + 1)}
    assert lane(known(peers=peers), four(source=STRANGER, destination=US)) == "common"


def test_a_packet_that_is_cut_short_is_stray() -> None:
    facts = known()
    for frame, header in ((four(), 20), (six(), 40)):
        # From the first byte of CARP on the engine finds out by the length that it has.
        for length in range(14, 14 + header):
            assert by_fanout(facts, frame[:length]) == "stray"
        assert by_fanout(facts, frame[: 14 + header + 1]) == "genuine"


def test_what_is_not_protocol_112_costs_a_few_instructions() -> None:
    program = fanout_program(known())
    for frame, protocol in ((four(protocol=6), 0x0800), (six(next_header=17), 0x86DD)):
        place, count = run(program, frame[14:], protocol=protocol)
        assert place == PLACES["stray"]
        assert count <= 6
    assert run(program, bytes(60), protocol=0x0806)[1] <= 4


def test_what_goes_out_is_dropped() -> None:
    # Before Linux 6.2 a fanout group is shown it, whatever its sockets ask for.
    for program in ([*ARRIVING, *packet_filter(None)], UNTAGGED):
        assert run(program, four())[0] > 1514
        assert run(program, four(), kind=4)[0] == 0


def test_what_is_of_a_vlan_is_dropped_in_every_lane_and_a_mere_priority_is_not() -> None:
    for program in ([*ARRIVING, *packet_filter(None)], UNTAGGED):
        for tag in (1, 0xE001, 0xFFF):
            assert run(program, four(), tagged=True, tag=tag)[0] == 0
        assert run(program, four(), tagged=True, tag=0xE000)[0] > 1514


def removed(frame: bytes, facts: Known) -> list[str]:
    """The lanes of raw sockets that get an IPv6 packet without its extension header of 8 bytes."""
    return [
        lane
        for lane in PLACES
        if run(raw_program(facts, "raw6", lane), frame[62:], IFINDEX, header=frame[14:])[0]
    ]


@pytest.mark.parametrize("kind", [0, 43, 60])
def test_what_is_behind_an_extension_header_is_stray_whoever_sent_it(kind: int) -> None:
    facts = known()
    frame = behind_extension(carp_header(), kind, source=MASTER6)
    assert by_fanout(facts, frame) == "stray"
    assert removed(frame, facts) == ["stray"]
    # Behind two it is not heard: neither path looks for it there.
    twice = behind_extension(bytes((112, 0)) + bytes(6) + carp_header(), kind, following=60)
    assert run(packet_filter(None), twice)[0] == 0
    assert removed(twice[:54] + twice[54:62] + twice[70:], facts) == []


def test_fragments_of_ipv6_are_stray_on_a_packet_socket() -> None:
    for frame in in_fragments6(carp_header(), source=MASTER6):
        assert by_fanout(known(), frame) == "stray"
        assert run(packet_filter(None), frame)[0] > 1514


def test_what_tcx_has_taken_and_let_pass_is_not_heard_again() -> None:
    mark = 0x89ABCDEF
    facts = known(mark=mark)
    for kind, frame in (("raw4", four()[14:]), ("raw6", six()[54:])):
        for ifindex, rxhash, heard in (
            (IFINDEX, mark ^ IFINDEX, False),
            (IFINDEX, mark, True),
            (IFINDEX + 1, mark ^ IFINDEX, True),  # taken at another interface, below this one
            (IFINDEX, 0, True),
        ):
            facts.ifindexes = [ifindex]
            accepted = [
                run(
                    raw_program(facts, kind, each),
                    frame,
                    ifindex,
                    header=six()[14:],
                    rxhash=rxhash,
                )[0]
                for each in PLACES
            ]
            assert any(accepted) is heard


def test_the_filter_of_the_genuine_lane_is_short() -> None:
    # Each advertisement heard runs it, after the program of the group.
    assert run(UNTAGGED, four())[1] <= 6


def test_raw_sockets_hear_the_interfaces_that_are_used() -> None:
    facts = known(ifindexes=[3, IFINDEX, 900])
    assert by_raw(facts, four(), 8) == by_raw(facts, six(), 8) == "none"
    facts.ifindexes = list(range(1, RAW_INTERFACES_MAX + 2))
    assert by_raw(facts, four(source=STRANGER), 5000) == "common"


@pytest.mark.parametrize("count", [1, 15, 17, 33, 1_000, 1_025, 1_999, SOURCES_MAX])
def test_every_source_is_found_and_no_other_by_a_search(count: int) -> None:
    draw = random.Random(count)
    sources: dict[int, set[bytes]] = {}
    keys: set[int] = set()
    for i in range(count):
        ifindex = draw.randrange(1, 3_000)
        source = draw.randbytes(4) if i % 2 else ip("fe80::")[:8] + draw.randbytes(8)
        sources.setdefault(ifindex, set()).add(source)
        keys.add(source_key(ifindex, source))
    facts = known(
        ifindexes=list(range(1, 200)),
        sources=sources,
        groups={bytes((239, 1, 1, i)) for i in range(GROUPS_MAX)}
        | {GROUP6[:15] + bytes((i,)) for i in range(GROUPS_MAX)},
        peers={bytes((192, 0, 2, i)) for i in range(PEERS_MAX)}
        | {PEER6[:15] + bytes((i,)) for i in range(PEERS_MAX)},
    )
    program = fanout_program(facts)
    assert len(program) <= INSTRUCTIONS_MAX
    assert all(len(raw_program(facts, kind, "genuine")) <= 4096 for kind in ("raw4", "raw6"))
    group, group6 = ip("239.1.1.249"), GROUP6[:15] + b"\xf9"
    for ifindex, here in list(sources.items())[:40]:
        for source in here:
            if len(source) == 4:
                frame, protocol = four(source=source, destination=group), 0x0800
            else:
                frame, protocol = six(source=source, destination=group6), 0x86DD
            place, steps = run(program, frame[14:], ifindex, protocol=protocol)
            assert place == PLACES["genuine"]
            assert steps < 320, "a search, not a walk"
    for _ in range(100):
        source = draw.randbytes(4)
        if source_key(5, source) not in keys:
            frame = four(source=source, destination=group)
            assert run(program, frame[14:], 5)[0] == PLACES["common"]


@pytest.mark.parametrize("count", [0, 2, 300])
def test_the_kernel_takes_the_programs(count: int) -> None:
    # It checks every jump; any socket will do for that, and none of this needs root.
    facts = known(sources={1: {bytes((10, 0, i >> 8, i & 255)) for i in range(count)}})
    facts.mark = 0xFFFFFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        attach_filter(sock, fanout_program(facts))
        for kind in ("raw4", "raw6"):
            for each in PLACES:
                attach_filter(sock, raw_program(facts, kind, each))
