"""Frames of IPv6: to which verdict they are parsed; the neighbour advertisement, byte by byte."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carp_fast.engine import _wire
from tests.support.segment import (
    GROUP6,
    advertisement,
    behind_extension,
    carp_header,
    in_fragments6,
    internet_checksum,
    ip,
    ipv6_frame,
)

GOOD = carp_header()


def verdict(frame: bytes) -> Any:
    return _wire.parse(frame)["verdict"]


def vrrp3(addresses: int) -> bytes:
    """A VRRPv3 advertisement over IPv6 (RFC 5798): its checksum covers a pseudo-header."""
    return struct.pack(">BBBBHH", 0x31, 42, 100, addresses, 100, 0x1234) + bytes(range(16)) * (
        addresses
    )


@pytest.mark.parametrize(
    ("wanted", "frame"),
    [
        ("ok", ipv6_frame(GOOD)),
        ("ok", ipv6_frame(GOOD + b"\0" * 20)),
        ("ok", ipv6_frame(GOOD) + b"\0" * 4),  # Ethernet padding
        ("ok", ipv6_frame(GOOD, hop_limit=7, destination=ip("2001:db8::1"))),  # sources are listed
        ("bad_ttl", ipv6_frame(GOOD, hop_limit=254)),
        ("bad_length", ipv6_frame(GOOD[:-1])),
        ("bad_length", ipv6_frame(GOOD, payload_length=35)),
        ("bad_length", ipv6_frame(GOOD, payload_length=37)),  # more than there is
        ("bad_checksum", ipv6_frame(carp_header(checksum_error=1))),
        ("bad_version", ipv6_frame(carp_header(version=1))),
        ("bad_type", ipv6_frame(carp_header(kind=2))),
        ("vrrp", ipv6_frame(vrrp3(1))),
        ("vrrp", ipv6_frame(vrrp3(2))),
        ("vrrp", ipv6_frame(vrrp3(7))),
        ("bad_length", behind_extension(GOOD, 0)),
        ("bad_length", behind_extension(GOOD, 43)),
        ("bad_length", behind_extension(GOOD, 60)),
        ("bad_length", in_fragments6(GOOD)[0]),
        ("bad_length", in_fragments6(GOOD)[1]),
        ("not_carp", behind_extension(GOOD, 0, following=60)),  # behind two, perhaps
        ("not_carp", behind_extension(GOOD, 51)),
        ("not_carp", in_fragments6(GOOD)[0][:54]),
        ("not_carp", ipv6_frame(GOOD, next_header=58)),
        ("not_carp", ipv6_frame(GOOD, ethertype=0x0800)),
        ("not_carp", ipv6_frame(GOOD, ethertype=0x8100)),
        ("not_carp", ipv6_frame(GOOD)[:53]),
    ],
)
def test_each_frame_over_ipv6_gets_its_verdict(wanted: str, frame: bytes) -> None:
    assert verdict(frame) == wanted


def test_every_field_of_an_advertisement_over_ipv6_is_parsed() -> None:
    frame = advertisement(source="fe80::7", vhid=9, advbase=2, advskew=3, demote=4, counter=5)
    assert _wire.parse(frame) == {
        "verdict": "ok",
        "family": 6,
        "source": ip("fe80::7"),
        "destination": GROUP6,
        "source_mac": b"\x02\0\0\0\0\x99",
        "version": 2,
        "vhid": 9,
        "advskew": 3,
        "demote": 4,
        "advbase": 2,
        "counter": (5).to_bytes(8, "big"),
        "digest": frame[-20:],
    }


def fits(frame: bytes) -> bool:
    """Whether a frame is, byte for byte, what may pass: by the naive checksum."""
    if len(frame) < 54 or frame[12:14] != b"\x86\xdd" or frame[14] >> 4 != 6 or frame[20] != 112:
        return False
    length = int.from_bytes(frame[18:20], "big")
    if length < 36 or length > len(frame) - 54 or (frame[38] == 0xFF and frame[21] != 255):
        return False
    carp = frame[54:90]
    return internet_checksum(carp) == 0 and (carp[0] == 0x21 or carp[0] >> 4 == 3)


@given(
    st.lists(st.tuples(st.integers(0, 89), st.integers(0, 255)), max_size=4),
    st.integers(0, 90),
    st.binary(max_size=20),
)
@example([], 90, b"")
def test_mutated_frames_pass_only_when_all_fits(
    changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    mutated = bytearray(ipv6_frame(GOOD))
    for at, value in changes:
        mutated[at] = value
    whole = bytes(mutated)[:cut] + tail
    if whole[12:14] != b"\x08\0":
        assert (verdict(whole) == "ok") == fits(whole)


@pytest.mark.parametrize("router", [False, True])
def test_a_neighbour_advertisement_is_built_byte_for_byte(router: bool) -> None:
    mac, address = b"\x02\0\0\0\0\7", ip("2001:db8::100")
    frame = _wire.build_announcement(mac, address, router=router)
    all_nodes = ip("ff02::1")
    flags = 0xA0 if router else 0x20
    icmp = bytes((136, 0, 0, 0, flags, 0, 0, 0)) + address + b"\2\1" + mac
    pseudo = address + all_nodes + struct.pack(">II", len(icmp), 58)
    checksum = internet_checksum(pseudo + icmp).to_bytes(2, "big")
    assert frame == (
        b"\x33\x33\0\0\0\1" + mac + b"\x86\xdd"
        b"\x60\0\0\0" + bytes((0, 32, 58, 255)) + address + all_nodes
        + icmp[:2] + checksum + icmp[4:]
    )  # fmt: skip
