"""What _wire makes of frames, right and wrong, judged by frames written by hand."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carp_fast.engine import _wire
from tests.support.segment import (
    advertisement,
    carp_header,
    internet_checksum,
    ip,
    ipv4_frame,
)


def verdict(frame: bytes) -> str:
    word: str = _wire.parse(frame)["verdict"]
    return word


def vrrp2(addresses: int, authentication: bytes = b"\0" * 8) -> bytes:
    """A VRRPv2 advertisement (RFC 3768): 8 bytes, the addresses, 8 bytes of authentication."""
    start = bytes((0x21, 42, 100, addresses, 0, 1))
    rest = b"".join(bytes((192, 0, 2, n + 1)) for n in range(addresses)) + authentication
    return start + internet_checksum(start + b"\0\0" + rest).to_bytes(2, "big") + rest


def vrrp3(addresses: int) -> bytes:
    """A VRRPv3 advertisement (RFC 5798): its checksum covers a pseudo-header too."""
    start = struct.pack(">BBBBH", 0x31, 42, 100, addresses, 100)
    rest = b"".join(bytes((192, 0, 2, n + 1)) for n in range(addresses))
    length = 8 + len(rest)
    pseudo = ip("10.77.0.1") + ip("224.0.0.18") + bytes((0, 112)) + length.to_bytes(2, "big")
    checksum = internet_checksum(pseudo + start + b"\0\0" + rest)
    return start + checksum.to_bytes(2, "big") + rest


GOOD = carp_header()

# One frame for each verdict that needs no configuration, and each way to it.
FRAMES = {
    "plain": ("ok", ipv4_frame(GOOD)),
    "TOS 0": ("ok", ipv4_frame(GOOD, tos=0)),
    "TOS of FreeBSD": ("ok", ipv4_frame(GOOD, tos=0xE0)),
    "no DF": ("ok", ipv4_frame(GOOD, flags=0)),
    "IP options": ("ok", ipv4_frame(GOOD, options=b"\1" * 4)),
    "forty bytes of IP options": ("ok", ipv4_frame(GOOD, options=b"\1" * 40)),
    "4 trailing bytes in the packet": ("ok", ipv4_frame(GOOD + b"\0" * 4)),
    "20 trailing bytes in the packet": ("ok", ipv4_frame(GOOD + b"\0" * 20)),
    "padding behind the packet": ("ok", ipv4_frame(GOOD) + b"\xaa" * 10),
    "authlen 0": ("ok", ipv4_frame(carp_header(authlen=0))),
    "authlen 99": ("ok", ipv4_frame(carp_header(authlen=99))),
    "demote 5": ("ok", ipv4_frame(carp_header(demote=5))),
    "vhid 0 is for the configuration": ("ok", ipv4_frame(carp_header(vhid=0))),
    "wrong digest is for the configuration": ("ok", ipv4_frame(carp_header(digest=b"\0" * 20))),
    "version 3 needs the digest": ("ok", ipv4_frame(carp_header(version=3))),
    "packet cut by 4": ("bad_length", ipv4_frame(GOOD[:-4])),
    "packet cut by 1": ("bad_length", ipv4_frame(GOOD[:-1])),
    "empty packet": ("bad_length", ipv4_frame(b"")),
    "frame shorter than its packet": ("bad_length", ipv4_frame(GOOD)[:-1]),
    "total length below the header": ("bad_length", ipv4_frame(GOOD, total_length=19)),
    "total length short, frame long": ("bad_length", ipv4_frame(GOOD, total_length=55)),
    "total length beyond the frame": ("bad_length", ipv4_frame(GOOD, total_length=57)),
    "header of four words": (
        "bad_length",
        ipv4_frame(GOOD)[:14] + b"\x44" + ipv4_frame(GOOD)[15:],
    ),
    "first fragment": ("bad_length", ipv4_frame(GOOD, flags=0x2000)),
    "later fragment": ("bad_length", ipv4_frame(GOOD, flags=0x0005)),
    "TTL 254": ("bad_ttl", ipv4_frame(GOOD, ttl=254)),
    "TTL 0": ("bad_ttl", ipv4_frame(GOOD, ttl=0)),
    "TTL before checksum": ("bad_ttl", ipv4_frame(GOOD, ttl=1, checksum_error=1)),
    "IP checksum": ("bad_checksum", ipv4_frame(GOOD, checksum_error=0x0100)),
    "CARP checksum": ("bad_checksum", ipv4_frame(carp_header(checksum_error=1))),
    "two errors that cancel": (
        "bad_checksum",
        ipv4_frame(carp_header(checksum_error=0x8000), checksum_error=0x8000),
    ),
    "checksum before version": (
        "bad_checksum",
        ipv4_frame(carp_header(version=1, checksum_error=1)),
    ),
    "version 3, checksum of a pseudo-header": ("vrrp", ipv4_frame(vrrp3(7))),
    "VRRPv3, one address": ("vrrp", ipv4_frame(vrrp3(1))),
    "VRRPv2, one address, 20 bytes": ("vrrp", ipv4_frame(vrrp2(1))),
    "VRRPv2, four addresses, 32 bytes": ("vrrp", ipv4_frame(vrrp2(4))),
    "VRRPv2, seven addresses, password": ("vrrp", ipv4_frame(vrrp2(7, b"password"))),
    "VRRPv2, nine addresses, 52 bytes": ("vrrp", ipv4_frame(vrrp2(9))),
    "version 1": ("bad_version", ipv4_frame(carp_header(version=1))),
    "version 0": ("bad_version", ipv4_frame(carp_header(version=0))),
    "version 15": ("bad_version", ipv4_frame(carp_header(version=15))),
    "version before type": ("bad_version", ipv4_frame(carp_header(version=1, kind=2))),
    "type 0": ("bad_type", ipv4_frame(carp_header(kind=0))),
    "type 2": ("bad_type", ipv4_frame(carp_header(kind=2))),
    "TCP": ("not_carp", ipv4_frame(GOOD, protocol=6)),
    "IPv6 by its Ethernet type": ("not_carp", ipv4_frame(GOOD, ethertype=0x86DD)),
    "VLAN tag": ("not_carp", ipv4_frame(GOOD, ethertype=0x8100)),
    "another IP version": (
        "not_carp",
        ipv4_frame(GOOD)[:14] + b"\x65" + ipv4_frame(GOOD)[15:],
    ),
    "shorter than any IPv4 packet": ("not_carp", ipv4_frame(GOOD)[:33]),
    "nothing": ("not_carp", b""),
}


@pytest.mark.parametrize("case", FRAMES)
def test_each_frame_gets_its_verdict(case: str) -> None:
    wanted, frame = FRAMES[case]
    assert verdict(frame) == wanted


def test_every_verdict_that_needs_no_configuration_is_among_them() -> None:
    by_configuration = {"bad_source", "bad_vhid", "bad_destination", "bad_auth", "loop", "replay"}
    assert {wanted for wanted, _ in FRAMES.values()} == (
        set(_wire.VERDICT_WORDS) - by_configuration | {"not_carp"}
    )


@pytest.mark.parametrize(("addresses", "length"), [(5, 36), (6, 40), (7, 44)])
def test_vrrp_whose_checksum_fits_carp_is_left_to_the_digest(addresses: int, length: int) -> None:
    # As long as CARP or longer, and nothing but zeros behind the 36 bytes: test_engine has the
    # verdict, which is vrrp.
    payload = vrrp2(addresses)
    assert len(payload) == length
    assert verdict(ipv4_frame(payload)) == "ok"


def test_every_field_of_an_advertisement_is_parsed() -> None:
    digest = bytes(range(20))
    frame = ipv4_frame(
        carp_header(
            vhid=7, advbase=3, advskew=200, demote=9, counter=0x0102030405060708, digest=digest
        ),
        source=ip("10.1.2.3"),
        destination=ip("224.0.0.99"),
        source_mac=b"\0\0\x5e\0\1\7",
        options=b"\1" * 8,
    )
    assert _wire.parse(frame) == {
        "verdict": "ok",
        "family": 4,
        "source": ip("10.1.2.3"),
        "destination": ip("224.0.0.99"),
        "source_mac": b"\0\0\x5e\0\1\7",
        "version": 2,
        "vhid": 7,
        "advskew": 200,
        "demote": 9,
        "advbase": 3,
        "counter": bytes(range(1, 9)),
        "digest": digest,
    }


def fits(frame: bytes) -> bool:
    """Whether a frame is, byte for byte, what may pass: by the naive checksum.

    A unicast may have any TTL here: its source is judged with the list of peers.
    """
    if len(frame) < 70 or frame[12:14] != b"\x08\0" or frame[14] >> 4 != 4 or frame[23] != 112:
        return False
    header = (frame[14] & 15) * 4
    total = int.from_bytes(frame[16:18], "big")
    if header < 20 or header + 36 > total or total > len(frame) - 14:
        return False
    group = frame[30] >> 4 == 14 or frame[30:34] == b"\xff" * 4
    if frame[22] != 255 and group:
        return False
    carp = frame[14 + header : 50 + header]
    return (
        int.from_bytes(frame[20:22], "big") & 0x3FFF == 0
        and internet_checksum(frame[14 : 14 + header]) == 0
        and internet_checksum(carp) == 0
        and (carp[0] == 0x21 or carp[0] >> 4 == 3)
    )


@given(st.binary(max_size=120))
def test_random_bytes_pass_only_when_all_fits(frame: bytes) -> None:
    assert (verdict(frame) == "ok") == fits(frame)


VALID = [
    advertisement(),
    ipv4_frame(GOOD, options=b"\1" * 12),
    ipv4_frame(GOOD + b"\0" * 8),
    ipv4_frame(vrrp2(5)),
    ipv4_frame(vrrp2(7)),
    ipv4_frame(vrrp3(7)),
]


@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 89), st.integers(0, 255)), max_size=4),
    st.integers(0, 90),
    st.binary(max_size=20),
)
@example(VALID[0], [], 90, b"")
def test_mutated_frames_pass_only_when_all_fits(
    frame: bytes, changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    mutated = bytearray(frame)
    for at, value in changes:
        if at < len(mutated):
            mutated[at] = value
    whole = bytes(mutated)[:cut] + tail
    assert (verdict(whole) == "ok") == fits(whole)


@given(st.sampled_from(VALID), st.integers(0, 69), st.integers(1, 255))
def test_one_changed_byte_of_either_header_is_noticed(frame: bytes, at: int, flip: int) -> None:
    mutated = bytearray(frame)
    mutated[at] ^= flip
    # An Ethernet address, 12 bytes, is nobody's business; a checksum notices any other byte.
    if at >= 12 and verdict(frame) == "ok" and at < 50 + (frame[14] & 15) * 4:
        assert verdict(bytes(mutated)) != "ok"
    elif at < 12:
        assert verdict(bytes(mutated)) == verdict(frame)


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff" * 200)
@example(b"\xff\xff\xff\xff\x00\x01")
def test_checksum_against_a_naive_one(data: bytes) -> None:
    assert _wire.checksum(data) == internet_checksum(data)


@given(st.binary(min_size=2, max_size=200).filter(lambda data: len(data) % 2 == 0))
def test_checksum_of_data_with_its_checksum_is_zero(data: bytes) -> None:
    assert _wire.checksum(data + _wire.checksum(data).to_bytes(2, "big")) == 0


def test_a_gratuitous_arp_is_built_byte_for_byte() -> None:
    mac, address = b"\x02\0\0\0\0\7", ip("10.77.0.100")
    assert (
        _wire.build_announcement(mac, address)
        == (
            b"\xff" * 6 + mac + b"\x08\x06"  # broadcast
            b"\0\1\x08\0\6\4\0\1" + mac + address + mac + address  # a request, all ours
        )
    )


@pytest.mark.parametrize(("mac", "address"), [(b"\2" * 5, b"\1" * 4), (b"\2" * 6, b"\1" * 15)])
def test_an_announcement_of_other_lengths_is_refused(mac: bytes, address: bytes) -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        _wire.build_announcement(mac, address)
