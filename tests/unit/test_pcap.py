"""Capture files: byte orders, units of time, link types, and every kind of damage."""

from __future__ import annotations

import io
import struct

import pytest

from carp_fast.capture import pcap
from carp_fast.capture.pcap import PcapError, Reader, Record, Writer, as_ethernet
from tests.support.segment import advertisement

FRAME = advertisement()
PACKET = FRAME[14:]
MAC = FRAME[6:12]
AT = 1_700_000_000
UNTAGGED = pcap.NO_MAC + MAC + FRAME[12:]


def capture(
    *records: tuple[int, int, bytes], order: str = "<", magic: int = 0xA1B2C3D4, link: int = 1
) -> bytes:
    """A file as the format has it, by `struct` alone: records of (seconds, fraction, frame)."""
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for seconds, fraction, frame in records:
        data += struct.pack(f"{order}IIII", seconds, fraction, len(frame), len(frame)) + frame
    return data


def read(data: bytes) -> list[Record]:
    return list(Reader(io.BytesIO(data), "x.pcap"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit_ns"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_both_byte_orders_and_both_units(order: str, magic: int, unit_ns: int) -> None:
    data = capture((AT, 7, b"one"), (AT + 1, 999_999, b""), order=order, magic=magic)
    assert read(data) == [
        (AT * 10**9 + 7 * unit_ns, b"one", 3),
        ((AT + 1) * 10**9 + 999_999 * unit_ns, b"", 0),
    ]


def test_what_is_written_is_as_the_format_has_it() -> None:
    file = io.BytesIO()
    writer = Writer(file)
    writer.write(AT * 10**9 + 123_456_789, FRAME)
    writer.write(AT * 10**9, FRAME[:20], len(FRAME))
    head = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
    first = struct.pack("=IIII", AT, 123_456_789, 70, 70) + FRAME
    second = struct.pack("=IIII", AT, 0, 20, 70) + FRAME[:20]
    assert file.getvalue() == head + first + second
    assert read(file.getvalue()) == [
        (AT * 10**9 + 123_456_789, FRAME, 70),
        (AT * 10**9, FRAME[:20], 70),
    ]


def test_the_upper_half_of_the_link_type_is_no_part_of_it() -> None:
    assert Reader(io.BytesIO(capture(link=0x14000001)), "x").link == pcap.ETHERNET


SLL = struct.pack(">HHH8sH", 4, 1, 6, MAC, 0x0800)
SLL2 = struct.pack(">HHIHBB8s", 0x0800, 0, 3, 1, 4, 6, MAC)
LINKS = {
    "ethernet": (1, FRAME, FRAME),
    "vlan": (1, FRAME[:12] + b"\x81\x00\x00\x05" + FRAME[12:], FRAME),
    "vlan in vlan": (1, FRAME[:12] + b"\x88\xa8\0\1\x81\x00\0\2" + FRAME[12:], FRAME),
    "cooked": (113, SLL + PACKET, UNTAGGED),
    "cooked vlan": (113, SLL[:14] + b"\x81\x00\0\5\x08\x00" + PACKET, UNTAGGED),
    "cooked without a MAC": (
        113,
        struct.pack(">HHH8sH", 4, 772, 0, bytes(8), 0x0800) + PACKET,
        bytes(12) + FRAME[12:],
    ),
    "cooked v2": (276, SLL2 + PACKET, UNTAGGED),
    "raw IPv4": (101, PACKET, bytes(12) + FRAME[12:]),
    "raw IPv6": (101, b"\x60abc", bytes(12) + b"\x86\xdd\x60abc"),
    "raw neither": (101, b"\x10abc", bytes(12)),
    "raw empty": (101, b"", bytes(12)),
    "cooked cut": (113, SLL[:9], bytes(12)),
    "cooked v2 cut": (276, SLL2[:9], bytes(12) + b"\x08\x00"),
}


@pytest.mark.parametrize("case", LINKS)
def test_every_link_type_becomes_untagged_ethernet(case: str) -> None:
    link, data, frame = LINKS[case]
    reader = Reader(io.BytesIO(capture((AT, 0, data), link=link)), "x")
    assert [as_ethernet(reader.link, record.data) for record in reader] == [frame]


GOOD = capture((AT, 0, FRAME), (AT, 1, FRAME))
DAMAGED = {
    "is empty: not a pcap file": b"",
    "begins with 474946: not a pcap file": b"GIF",
    "begins with 47494638: not a pcap file": b"GIF89a" + bytes(30),
    "is pcapng, not pcap": b"\x0a\x0d\x0d\x0a" + bytes(30),
    "truncated: 20 bytes of a header of 24": GOOD[:20],
    "link type 228 is unknown; known: 1 (Ethernet), 101 (raw IP), 113": capture(link=228),
    "truncated: record 2 has 69 of 70 bytes": GOOD[:-1],
    "truncated: record 2 has 15 bytes of a header of 16": GOOD[: 24 + 86 + 15],
    "damaged: record 3 claims 262,145 bytes": GOOD + struct.pack("<IIII", AT, 0, 262_145, 1),
}


@pytest.mark.parametrize("said", DAMAGED)
def test_damage_is_named(said: str) -> None:
    with pytest.raises(PcapError) as caught:
        read(DAMAGED[said])
    assert str(caught.value).startswith(f"x.pcap: {said}")
    assert "\n" not in str(caught.value)


def test_records_before_the_damage_are_given() -> None:
    records = iter(Reader(io.BytesIO(GOOD[:-1]), "x.pcap"))
    assert next(records).data == FRAME
    with pytest.raises(PcapError, match="record 2"):
        next(records)
