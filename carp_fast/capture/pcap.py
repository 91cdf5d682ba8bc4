"""Reads and writes capture files (pcap), and extracts Ethernet frames from records.

Holds only the file format: records are bytes with a time. Must not know CARP, sockets, or the
purpose of a capture. Format: draft-ietf-opsawg-pcap; cooked captures: tcpdump.org,
LINKTYPE_LINUX_SLL and _SLL2. pcapng is refused by name.

All times are ns since 1970-01-01 UTC.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from carp_fast.errors import CarpFastError

MAGIC_MICROSECONDS, MAGIC_NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
PCAPNG = b"\x0a\x0d\x0d\x0a"
ETHERNET, RAW_IP, LINUX_SLL, LINUX_SLL2 = 1, 101, 113, 276
LINK_TYPES = {
    ETHERNET: "Ethernet",
    RAW_IP: "raw IP",
    LINUX_SLL: "Linux cooked",
    LINUX_SLL2: "Linux cooked v2",
}
RECORD_BYTES_MAX = 262_144
"""The longest record that capture programs write; a longer one means a damaged file."""

HEADER_BYTES, RECORD_HEADER_BYTES = 24, 16
SECOND_NS = 1_000_000_000
VLAN_TAGS = {b"\x81\x00", b"\x88\xa8", b"\x91\x00"}
ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
NO_MAC = bytes(6)


class PcapError(CarpFastError):
    """Raised when a file is not a capture or is incomplete; the text is one line."""


class Record(NamedTuple):
    """One captured frame. `length`: that on the wire; `data` may have fewer bytes."""

    at_ns: int
    data: bytes
    length: int


class Reader:
    """Iterates over the records of a capture; `link` is their link type, one of LINK_TYPES.

    `file` may be a pipe; errors call it `name`. Raises PcapError, also while iterating, after the
    records before the damage.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        header = file.read(HEADER_BYTES)
        if header[:4] == PCAPNG:
            raise PcapError(
                f"{name}: is pcapng, not pcap; convert it with `tcpdump -r FILE -w NEW`"
            )
        for order in "<>":
            magic = struct.unpack(f"{order}I", header[:4].ljust(4, b"\0"))[0]
            if magic in (MAGIC_MICROSECONDS, MAGIC_NANOSECONDS):
                break
        else:
            found = f"begins with {header[:4].hex()}" if header else "is empty"
            raise PcapError(f"{name}: {found}: not a pcap file")
        if len(header) < HEADER_BYTES:
            raise PcapError(f"{name}: truncated: {len(header)} bytes of a header of {HEADER_BYTES}")
        self._header = struct.Struct(f"{order}IIII")
        self._unit_ns = 1 if magic == MAGIC_NANOSECONDS else 1_000
        # The upper half tells whether frames end with a checksum; IP headers have a length.
        self.link: int = struct.unpack_from(f"{order}I", header, 20)[0] & 0xFFFF
        if self.link not in LINK_TYPES:
            known = ", ".join(f"{number} ({word})" for number, word in LINK_TYPES.items())
            raise PcapError(f"{name}: link type {self.link} is unknown; known: {known}")

    def __iter__(self) -> Iterator[Record]:
        number = 0
        while header := self._file.read(RECORD_HEADER_BYTES):
            number += 1
            if len(header) < RECORD_HEADER_BYTES:
                raise PcapError(
                    f"{self._name}: truncated: record {number} has {len(header)} bytes of a header"
                    f" of {RECORD_HEADER_BYTES}"
                )
            seconds, fraction, captured, length = self._header.unpack(header)
            if captured > RECORD_BYTES_MAX:
                raise PcapError(
                    f"{self._name}: damaged: record {number} claims {captured:,} bytes, more than"
                    f" {RECORD_BYTES_MAX:,} (RECORD_BYTES_MAX)"
                )
            data = self._file.read(captured)
            if len(data) < captured:
                raise PcapError(
                    f"{self._name}: truncated: record {number} has {len(data)} of {captured} bytes"
                )
            yield Record(seconds * SECOND_NS + fraction * self._unit_ns, data, length)


class Writer:
    """Writes a capture with nanoseconds, in the byte order of this machine."""

    def __init__(self, file: BinaryIO, link: int = ETHERNET) -> None:
        self._file = file
        header = (MAGIC_NANOSECONDS, 2, 4, 0, 0, RECORD_BYTES_MAX, link)
        file.write(struct.pack("=IHHiIII", *header))

    def write(self, at_ns: int, data: bytes, length: int | None = None) -> None:
        """Adds a frame; `length`: its length on the wire if `data` is only a part of it."""
        seconds, fraction = divmod(at_ns, SECOND_NS)
        whole = len(data) if length is None else length
        self._file.write(struct.pack("=IIII", seconds, fraction, len(data), whole) + data)


def as_ethernet(link: int, data: bytes) -> bytes:
    """The frame of a record as untagged Ethernet: VLAN tags are removed.

    NO_MAC stands for a MAC that the link type lacks. A record that is too short for its link
    header, or raw and neither IPv4 nor IPv6, becomes an Ethernet header without a payload.
    """
    if link == LINUX_SLL:
        frame = NO_MAC + _cooked_mac(data[4:6], data[6:12]) + data[14:]
    elif link == LINUX_SLL2:
        frame = NO_MAC + _cooked_mac(b"\0" + data[11:12], data[12:18]) + data[0:2] + data[20:]
    elif link == RAW_IP:
        version = data[0] >> 4 if data else 0
        frame = NO_MAC + NO_MAC + (ETHERTYPES[version] + data if version in ETHERTYPES else b"")
    else:
        frame = data
    while frame[12:14] in VLAN_TAGS:
        frame = frame[:12] + frame[16:]
    return frame


def _cooked_mac(length: bytes, address: bytes) -> bytes:
    return address if length == b"\0\6" and len(address) == 6 else NO_MAC
