"""Frames for the wire fuzzer: right ones of every kind, and what becomes of them on a bad day.

Must not know the engine, nor how a frame is judged.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

from tests.fuzz.wire_rules import CARP_BYTES, ETHERNET_BYTES, Key, Known, family_of
from tests.support.segment import carp_header, internet_checksum, ipv4_frame, ipv6_frame

INTERESTING = (0, 1, 2, 7, 0x11, 0x21, 0x31, 0x45, 0x7F, 0x80, 0xF0, 112, 254, 255)
LONG = (1, 12, 40, 1_500, 9_000)
OURS, OTHER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x99"
NO_MAC = bytes(6)


def number(random: Random, used: Sequence[int]) -> int:
    """A counter: one in use, one near it, one of the ends, or any."""
    if used and random.random() < 0.6:
        return (random.choice(used) + random.choice((-70, -1, 0, 0, 1, 1, 2, 64, 65))) % 2**64
    return random.choice((0, 1, 2**63, 2**64 - 1, random.randrange(2**64)))


def source(random: Random, host: Known, family: int) -> bytes:
    """A source address: another host's, or the host's own."""
    own = host.sources.get(family)
    listed = [peer for peer in host.peers if family_of(peer) == family]
    if own and random.random() < 0.2:
        return own
    if listed and random.random() < 0.8:
        return random.choice(listed)
    last = random.randrange(1, 6)
    return bytes((10, 77, 0, last)) if family == 4 else b"\xfe\x80" + bytes(13) + bytes((last,))


def signed_header(random: Random, vhid: int, key: Key, used: Sequence[int]) -> bytes:
    """36 bytes of CARP with a right digest."""
    counter = number(random, used)
    advbase, advskew = random.choice((0, 1, 1, 1, 2, 255)), random.choice((0, 1, 100, 240, 254))
    if random.random() < 0.1:
        advbase = advskew = 255
    return carp_header(
        vhid=vhid,
        advbase=advbase,
        advskew=advskew,
        counter=counter,
        authlen=random.choice((7, 7, 7, 0, 5, 255)),
        demote=random.choice((0, 0, 1, 255)),
        version=random.choice((2, 2, 2, 2, 3)),
        digest=key.digest(counter.to_bytes(8, "big")),
    )


def packed(random: Random, host: Known, payload: bytes) -> bytes:
    """A frame to the host's group, or to its address from a peer."""
    family = random.choice(sorted(host.families))
    groups = [each for each in host.groups if family_of(each) == family]
    to = groups[0] if groups else host.sources.get(family, bytes(4 if family == 4 else 16))
    sender = source(random, host, family)
    mac = random.choice((OTHER, OTHER, OTHER, OURS, NO_MAC))
    if family == 6:
        frame = ipv6_frame(payload, source=sender, destination=to, source_mac=mac)
    else:
        options = bytes([1]) * random.choice((0, 0, 0, 4, 40))
        frame = ipv4_frame(payload, source=sender, destination=to, source_mac=mac, options=options)
    return frame + bytes(random.choice((0, 0, 6, 12, 46)))


def advertisement(random: Random, host: Known, used: Sequence[int]) -> bytes:
    """A right advertisement for the host, by one of its keys."""
    header = signed_header(random, host.vhid, random.choice(host.keys), used)
    return packed(random, host, header + bytes(random.choice((0, 0, 0, 1, 8))))


def vrrp(random: Random, host: Known) -> bytes:
    """An advertisement of VRRP, version 2 or 3, with so many addresses."""
    count = random.choice((0, 1, 2, 3, 5, 7, 8))
    version = random.choice((2, 3))
    size = random.choice((4, 16)) if version == 3 else 4
    payload = bytes((version << 4 | 1, host.vhid, 100, count, 0, 1, 0, 0)) + bytes(size * count)
    payload += bytes(8) if version == 2 else b""
    checksum = internet_checksum(payload).to_bytes(2, "big")
    return packed(random, host, payload[:6] + checksum + payload[8:])


def neighbours(random: Random) -> bytes:
    """What else is on a segment: ARP, a neighbour advertisement, another protocol of IP."""
    address = bytes((10, 77, 0, random.randrange(256)))
    if random.random() < 0.4:
        arp = struct.pack(">HHBBH", 1, 0x0800, 6, 4, random.choice((1, 2)))
        return b"\xff" * 6 + OTHER + b"\x08\x06" + arp + OTHER + address + bytes(6) + address
    if random.random() < 0.5:
        target = b"\xfe\x80" + bytes(14)
        icmp = bytes((136, 0, 0, 0, 0x20, 0, 0, 0)) + target + b"\x02\x01" + OTHER
        return ipv6_frame(icmp, next_header=58)
    return ipv4_frame(bytes(36), protocol=random.choice((6, 17, 89, 111, 113)))


def drawn(
    random: Random, hosts: Sequence[Known], sent: Sequence[bytes], used: Sequence[int]
) -> bytes:
    """A frame before anything happens to it."""
    if sent and random.random() < 0.15:
        return random.choice(sent)
    pick = random.random()
    if not hosts or pick < 0.04:
        return neighbours(random)
    host = random.choice(hosts)
    return vrrp(random, host) if pick < 0.1 else advertisement(random, host, used)


def damaged(random: Random, frame: bytes) -> bytes:
    """The frame with one thing changed."""
    data, kind = bytearray(frame), random.random()
    if not data:
        return random.randbytes(random.randrange(120))
    if kind < 0.3:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif kind < 0.6:
        data[random.randrange(min(len(data), 70))] = random.choice(INTERESTING)
    elif kind < 0.75:
        del data[random.randrange(len(data)) :]
    elif kind < 0.85:
        data += random.randbytes(random.choice(LONG))
    elif kind < 0.95:
        at = random.randrange(len(data))
        data[at : at + random.randrange(9)] = random.randbytes(random.randrange(9))
    else:
        return random.randbytes(random.randrange(200))
    return bytes(data)


def fragmented(random: Random, frame: bytes) -> bytes:
    """The frame with the IPv4 fields of fragments, its header's checksum right."""
    if frame[12:14] != b"\x08\0" or len(frame) < 34:
        return frame
    flags = random.choice((0x2000, 1, 0x1FFF, 0x4000, 0x8000, 0x6001))
    return summed(frame[:20] + flags.to_bytes(2, "big") + frame[22:])


def payload_at(frame: bytes) -> int:
    """Where CARP begins in a frame, as far as it has an IP header."""
    if frame[12:14] == b"\x08\0" and len(frame) > ETHERNET_BYTES:
        return ETHERNET_BYTES + (frame[ETHERNET_BYTES] & 15) * 4
    return ETHERNET_BYTES + 40


def summed(frame: bytes) -> bytes:
    """The frame with right checksums, as far as it has headers for them."""
    at = payload_at(frame)
    if frame[12:14] == b"\x08\0" and ETHERNET_BYTES + 20 <= at <= len(frame):
        header = frame[14:24] + b"\0\0" + frame[26:at]
        frame = frame[:24] + internet_checksum(header).to_bytes(2, "big") + frame[26:]
    if len(frame) >= at + CARP_BYTES:
        carp = frame[at : at + 6] + b"\0\0" + frame[at + 8 : at + CARP_BYTES]
        checksum = internet_checksum(carp).to_bytes(2, "big")
        frame = frame[: at + 6] + checksum + frame[at + 8 :]
    return frame


def resigned(frame: bytes, key: Key) -> bytes:
    """The frame with a right digest, and right checksums."""
    at = payload_at(frame)
    if len(frame) < at + CARP_BYTES:
        return frame
    digest = key.digest(frame[at + 8 : at + 16])
    return summed(frame[: at + 16] + digest + frame[at + CARP_BYTES :])


def frame(
    random: Random, hosts: Sequence[Known], sent: Sequence[bytes], used: Sequence[int]
) -> bytes:
    """A frame as it may arrive: whole, changed, or changed and made right again."""
    data = drawn(random, hosts, sent, used)
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        data = fragmented(random, data) if random.random() < 0.08 else damaged(random, data)
    pick = random.random()
    if pick < 0.2:
        return summed(data)
    if pick < 0.35 and hosts:
        return resigned(data, random.choice(random.choice(hosts).keys))
    return data
