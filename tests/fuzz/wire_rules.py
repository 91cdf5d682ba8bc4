"""The verdict on a frame, by the rules of CARP on the wire: a second, slow and plain reading.

Every check comes in the order in which receivers make them, each with the word of its counter. What
follows from a right digest (a loop, a counter sent before) needs a host's past and is not known
here. It must not use the engine. Source: carp_proto_input_c in the BSDs' ip_carp.c, RFC 791, RFC
8200, RFC 3768 and RFC 5798.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.support.segment import internet_checksum

CARP_BYTES = 36
NEVER_SIGNED = (b"\0\0\0\0", b"\xff\xff\xff\xff")
LINK_LOCAL = b"\xfe\x80"
ETHERNET_BYTES = 14
NOT_CARP = "not_carp"
DIGEST_FITS = frozenset(("ok", "loop", "replay"))


class Key(NamedTuple):
    """What a digest is made with; until when it is accepted, None for ever."""

    passphrase: bytes
    message: bytes
    until_ns: int | None = None

    def digest(self, counter: bytes) -> bytes:
        padded = self.passphrase.ljust(20, b"\0")
        return hmac.new(padded, self.message + counter, hashlib.sha1).digest()


class Known(NamedTuple):
    """A virtual host as far as frames are judged by it. `sources`: its own, by family."""

    interface: int
    vhid: int
    keys: tuple[Key, ...]
    groups: tuple[bytes, ...]
    peers: tuple[bytes, ...]
    sources: dict[int, bytes]

    @property
    def former(self) -> int:
        """How many of its keys it does not sign with any more."""
        return sum(key.until_ns is not None for key in self.keys)

    @property
    def families(self) -> set[int]:
        return {family_of(each) for each in self.groups or self.peers}


class Packet(NamedTuple):
    """What a frame carries, where it is protocol 112 with a whole payload."""

    family: int
    source: bytes
    destination: bytes
    hop_limit: int
    header: bytes
    payload: bytes
    mac: bytes

    @property
    def carp(self) -> bytes:
        return self.payload[:CARP_BYTES]

    @property
    def counter(self) -> bytes:
        return self.payload[8:16]

    @property
    def unicast(self) -> bool:
        if self.family == 6:
            return self.destination[0] != 0xFF
        return self.destination[0] >> 4 != 0xE and self.destination != b"\xff\xff\xff\xff"


def family_of(address: bytes) -> int:
    return 4 if len(address) == 4 else 6


def message(vhid: int, addresses: Iterable[bytes], lladdr: bytes | None = None) -> bytes:
    """What is signed before the counter: IPv4 first, each family ascending, no scope in it."""
    four = {each for each in addresses if len(each) == 4 and each not in NEVER_SIGNED}
    six = {
        each[:2] + b"\0\0" + each[4:] if each[:2] == LINK_LOCAL else each
        for each in addresses
        if len(each) == 16
    }
    start = b"\x02\x01" + (lladdr or b"") + bytes((vhid,))
    return start + b"".join(sorted(four)) + b"".join(sorted(six))


def automatic(mac: bytes) -> bytes:
    """The link-local address that a BSD derives from a MAC."""
    return LINK_LOCAL + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def accepted(
    vhid: int, addresses: Sequence[bytes], dialect: str, lladdr: bytes | None = None
) -> list[bytes]:
    """Every message whose digest is right, first the one that is sent.

    OpenBSD signs without link-local addresses, or with the configured ones and those that its
    interface has by itself; the others sign all that are configured.
    """
    virtual = automatic(b"\0\0\x5e\0\1" + bytes((vhid,)))
    automatics = [[virtual]]
    if lladdr is not None:
        automatics += [[automatic(lladdr)], [automatic(lladdr), virtual]]
    plain = message(vhid, addresses, lladdr)
    others = [each for each in addresses if each[:2] != LINK_LOCAL or len(each) == 4]
    without = message(vhid, others, lladdr)
    with_automatic = [message(vhid, [*addresses, *more], lladdr) for more in automatics]
    if plain == without:
        return [plain, *(with_automatic if dialect == "openbsd" else ())]
    if dialect != "openbsd":
        return [plain, without, *with_automatic]
    only_local = without == message(vhid, (), lladdr)
    if only_local and lladdr is None:
        return [*with_automatic, plain, without]
    return [without, plain, *with_automatic]


def opened(frame: bytes) -> Packet | str:
    """The packet of a frame, or the verdict on one that has none."""
    ip = frame[ETHERNET_BYTES:]
    kind = frame[12:14]
    if len(ip) < 20:
        return NOT_CARP
    if kind == b"\x08\0" and ip[0] >> 4 == 4 and ip[9] == 112:
        return opened_ipv4(frame, ip)
    if kind == b"\x86\xdd" and len(ip) >= 40 and ip[0] >> 4 == 6 and ip[6] == 112:
        length = int.from_bytes(ip[4:6], "big")
        if length > len(ip) - 40:
            return "bad_length"
        return whole(Packet(6, ip[8:24], ip[24:40], ip[7], b"", ip[40 : 40 + length], frame[6:12]))
    return NOT_CARP


def opened_ipv4(frame: bytes, ip: bytes) -> Packet | str:
    header, total = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big")
    fragment = int.from_bytes(ip[6:8], "big") & 0x3FFF
    if header < 20 or total > len(ip) or total < header or fragment:
        return "bad_length"
    packet = Packet(4, ip[12:16], ip[16:20], ip[8], ip[:header], ip[header:total], frame[6:12])
    return whole(packet)


def whole(packet: Packet) -> Packet | str:
    """The packet, or the verdict on one that is too short to be CARP."""
    payload = packet.payload
    if len(payload) >= CARP_BYTES:
        return packet
    if len(payload) >= 8 and payload[0] == 0x21 and len(payload) == 16 + 4 * payload[3]:
        return "vrrp"
    lengths = (8 + 4 * payload[3], 8 + 16 * payload[3]) if len(payload) >= 8 else ()
    return "vrrp" if lengths and payload[0] == 0x31 and len(payload) in lengths else "bad_length"


def judged(packet: Packet, interface: int, hosts: Iterable[Known], now_ns: int) -> str:
    """The verdict on a packet: "ok" stands for each of DIGEST_FITS."""
    carp = packet.carp
    version, vrrp_length = carp[0] >> 4, len(packet.payload) == 16 + 4 * carp[3]
    vrrp = version == 3 or vrrp_length
    same = [each for each in hosts if (each.interface, each.vhid) == (interface, carp[1])]
    if packet.unicast:
        listing = [each.peers for each in same if each.peers]
        if listing and not any(packet.source in peers for peers in listing):
            return "bad_source"
    elif packet.hop_limit != 255:
        return "bad_ttl"
    if packet.family == 4 and internet_checksum(packet.header):
        return "bad_checksum"
    if internet_checksum(carp):
        return "vrrp" if vrrp else "bad_checksum"
    if version not in (2, 3):
        return "bad_version"
    if version == 2 and carp[0] & 15 != 1:
        return "bad_type"
    if not any(packet.family in each.families for each in same):
        return "vrrp" if vrrp else "bad_vhid"
    meant = [each for each in same if is_for(packet, each)]
    if not meant:
        return "vrrp" if vrrp else "bad_destination"
    if not digest_fits(packet, meant[0], now_ns):
        return "vrrp" if vrrp else "bad_auth"
    return "bad_version" if version == 3 else "ok"


def is_for(packet: Packet, host: Known) -> bool:
    if packet.unicast:
        return (
            any(packet.destination)
            and packet.destination == host.sources.get(packet.family)
            and packet.source in host.peers
        )
    return packet.destination in host.groups


def digest_fits(packet: Packet, host: Known, now_ns: int) -> bool:
    return any(
        hmac.compare_digest(key.digest(packet.counter), packet.payload[16:36])
        for key in host.keys
        if key.until_ns is None or key.until_ns > now_ns
    )


def verdict(frame: bytes, interface: int, hosts: Iterable[Known], now_ns: int) -> str:
    packet = opened(frame)
    return packet if isinstance(packet, str) else judged(packet, interface, hosts, now_ns)
