"""Makes the advertisements of other hosts in a replay, as Ethernet frames.

Makes valid ones, and ones that are refused for a chosen reason. Must not know the engine, which
builds its own, or scenarios, sockets and files.
"""

from __future__ import annotations

import struct

from carp_fast.engine._auth import Key
from carp_fast.engine._prepared import multicast_mac
from carp_fast.engine._wire import checksum
from carp_fast.net.kernel import PROTOCOL_CARP

HOP_LIMIT = 255
UNICAST_MAC = b"\x02\0\0\0\0\x01"
# Groups that no host is configured with, for frames with a wrong destination.
ELSEWHERE = {4: bytes((224, 0, 0, 254)), 16: b"\xff\x02" + b"\0" * 13 + b"\xfe"}
# Reasons for which a frame can be made to be refused. Others need none of this: a loop or a replay
# is valid but for its counter.
SPOILED = (
    "bad_length",
    "bad_ttl",
    "bad_source",
    "bad_checksum",
    "vrrp",
    "bad_version",
    "bad_type",
    "bad_vhid",
    "bad_destination",
    "bad_auth",
)


def carp_header(
    key: Key, *, vhid: int, advbase: int, advskew: int, demote: int, counter: int, spoil: str = ""
) -> bytes:
    """The 36 bytes of CARP, signed with `key`; `spoil`: a word of SPOILED, or ""."""
    first = {"vrrp": 0x31, "bad_version": 0x11, "bad_type": 0x22}.get(spoil, 0x21)
    number = counter.to_bytes(8)
    digest = key.sign(number)
    if spoil == "bad_auth":
        digest = bytes(byte ^ 0xFF for byte in digest)
    start = bytes((first, vhid, advskew, 7, demote, advbase))
    total = checksum(start + b"\0\0" + number + digest)
    if spoil in ("bad_checksum", "vrrp"):
        total ^= 0x5555
    return start + total.to_bytes(2) + number + digest


def advertisement(
    carp: bytes, *, source: bytes, destination: bytes, mac: bytes, spoil: str
) -> bytes:
    """The frame around a CARP header; IPv4 or IPv6 by the size of the addresses (4 or 16 bytes)."""
    if spoil == "bad_destination":
        destination = ELSEWHERE[len(source)]
    hop_limit = HOP_LIMIT - 1 if spoil == "bad_ttl" else HOP_LIMIT
    group = destination[0] == 0xFF or (len(destination) == 4 and destination[0] >> 4 == 0xE)
    ethernet = (multicast_mac(destination) if group else UNICAST_MAC) + mac
    if len(source) == 4:
        length = 20 + len(carp)
        start = struct.pack(">BBHHHBB", 0x45, 0x10, length, 0, 0x4000, hop_limit, PROTOCOL_CARP)
        total = checksum(start + b"\0\0" + source + destination)
        packet = b"\x08\0" + start + total.to_bytes(2) + source + destination
    else:
        start = struct.pack(">IHBB", 0x6 << 28, len(carp), PROTOCOL_CARP, hop_limit)
        packet = b"\x86\xdd" + start + source + destination
    frame = ethernet + packet + carp
    return frame[:-4] if spoil == "bad_length" else frame
