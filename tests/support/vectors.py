"""The vectors of other implementations, and the frame that our engine makes of one; the variants
of a frame that were given to those implementations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carp_fast.engine._engine import Engine
from carp_fast.engine.actions import Advertise, Resign
from tests.support.segment import (
    ADDRESS,
    SECOND_NS,
    START_NS,
    advertisement,
    behind_extension,
    carp_header,
    in_fragments4,
    in_fragments6,
    internet_checksum,
    ip,
    ipv4_frame,
    ipv6_frame,
    prepared,
)

VECTORS = Path(__file__).parent.parent / "vectors"
EL7 = VECTORS / "el7-openbsd-demote-beats-skew.pcap"


def key_of(vector: dict[str, Any]) -> bytes:
    # The kernels take 20 bytes; none at all is as good as a NUL.
    return bytes.fromhex(vector["key"])[:20] or b"\0"


def addresses_of(vector: dict[str, Any]) -> list[tuple[bytes, int]]:
    return [(ip(address), 24) for address in vector["ipv4"]] + [
        (ip(address), 64) for address in vector["ipv6"]
    ]


def dialect_of(vector: dict[str, Any]) -> str:
    return {"FreeBSD": "freebsd", "NetBSD": "freebsd", "OpenBSD": "openbsd"}[
        vector["implementation"].split()[0]
    ]


def settings_of(vector: dict[str, Any]) -> dict[str, Any]:
    """The settings of the host that sent the vector, as it would be configured here."""
    return {
        "vhid": vector["vhid"],
        "passphrase": key_of(vector),
        "addresses": addresses_of(vector),
        "dialect": dialect_of(vector),
    }


def engine_advertisement(vector: dict[str, Any], **settings: Any) -> bytes:
    """The frame that our engine sends with the vector's settings, source, MAC and counter.

    `settings`: in place of settings_of(vector).
    """
    frame = bytes.fromhex(vector["frame"])
    four = vector["ip_version"] == 4
    leaving = vector["advbase"] == vector["advskew"] == 255
    counter = int(vector["counter"], 16)
    sources: dict[str, Any] = {
        "source": frame[26:30] if four else ip("10.77.0.1"),
        "source6": ip("2001:db8::1") if four else frame[22:38],
    }
    # FreeBSD's demotion adds to the advskew, OpenBSD's stands in a byte of its own.
    demotion = vector["demote"] or vector.get("demotion") or 0
    configured = vector.get("advskew_configured", vector["advskew"])
    sent_before = 0
    if vector["ipv4"] and not four:
        sent_before = 1  # both go out together, IPv4 first
    if leaving:
        sent_before += 1 + bool(vector["ipv4"] and vector["ipv6"])
    engine = Engine()
    engine.set_interface(0, START_NS, mac=frame[6:12], **sources)
    host = prepared(
        **(settings or settings_of(vector)),
        advbase=1 if leaving else vector["advbase"],
        advskew=0 if leaving else configured,
        counter=(counter - sent_before - 1) % 2**64,
    )
    engine.add(0, host, START_NS)
    engine.demote(0, demotion, START_NS)
    now_ns = START_NS + 3_000 * SECOND_NS
    engine.expire(now_ns)
    acts: list[Advertise | Resign]
    acts = [act for act in engine.take_actions(now_ns) if isinstance(act, Advertise)]
    if leaving:
        engine.resign_all(now_ns)
        acts = [act for act in engine.take_actions(now_ns) if isinstance(act, Resign)]
    family = b"\x08\0" if four else b"\x86\xdd"
    return next(act.frame for act in acts if act.frame[12:14] == family)


# The 29 variants of receive-rules.json, made again, and our verdict.
OTHER = ip("10.77.0.200")
VARIANTS: dict[str, tuple[str, bytes]] = {
    "valid": ("ok", advertisement(counter=1000)),
    "same counter as the previous packet": ("ok", advertisement(counter=1000, advskew=1)),
    "again the same counter (exact replay)": ("ok", advertisement(counter=1000, advskew=1)),
    "counter goes backwards": ("ok", advertisement(counter=999)),
    "counter 0": ("ok", advertisement(counter=0)),
    "TTL 254": ("bad_ttl", ipv4_frame(carp_header(), ttl=254)),
    "bad CARP checksum": ("bad_checksum", advertisement(checksum_error=1)),
    "bad HMAC": ("bad_auth", advertisement(digest=b"\1" * 20)),
    "other key": ("bad_auth", advertisement(passphrase=b"other")),
    "version 3": ("bad_version", advertisement(version=3)),
    "version 1": ("bad_version", advertisement(version=1)),
    "type 2": ("bad_type", advertisement(kind=2)),
    "type 0": ("bad_type", advertisement(kind=0)),
    "authlen 0": ("ok", advertisement(authlen=0)),
    "authlen 99": ("ok", advertisement(authlen=99)),
    "pad/demote byte 5": ("ok", advertisement(demote=5)),
    "4 trailing bytes": ("ok", ipv4_frame(carp_header() + b"\0" * 4)),
    "20 trailing bytes": ("ok", ipv4_frame(carp_header() + b"\0" * 20)),
    "cut by 4 bytes": ("bad_length", ipv4_frame(carp_header()[:-4])),
    "unknown vhid 43": ("bad_vhid", advertisement(vhid=43)),
    "vhid 0": ("bad_vhid", advertisement(vhid=0)),
    # Counters that nobody else has sent: a known one from a new source is another matter.
    "source in another subnet": ("ok", advertisement(source="192.0.2.1", counter=501)),
    "source = the peer itself": ("ok", advertisement(source="10.77.0.2", counter=502)),
    "source 0.0.0.0": ("ok", advertisement(source="0.0.0.0", counter=503)),
    "wrong address list in HMAC": ("bad_auth", advertisement(addresses=[OTHER])),
    "two addresses in HMAC": ("bad_auth", advertisement(addresses=[ADDRESS, OTHER])),
    "own ethernet source, not 00:00:5e": ("ok", advertisement(source_mac=b"\2\0\0\0\0\1")),
    "TOS 0": ("ok", ipv4_frame(carp_header(), tos=0)),
    "IP options (4 NOPs)": ("ok", ipv4_frame(carp_header(), options=b"\1" * 4)),
}


OTHER_VHID = 43


def vrrp(version: int, addresses: int, *, six: bool = False, router: int = OTHER_VHID) -> bytes:
    """A VRRP advertisement with so many addresses."""
    first = bytes((version << 4 | 1, router, 100, addresses, 0, 1))
    rest = bytes((16 if six else 4) * addresses + (8 if version == 2 else 0))
    checksum = internet_checksum(first + b"\0\0" + rest)
    return first + checksum.to_bytes(2, "big") + rest


# A frame for each word of the protocol that needs no virtual host, for a vhid without one.
NOBODYS: dict[str, tuple[str, bytes]] = {
    "another vhid": ("bad_vhid", advertisement(vhid=OTHER_VHID)),
    "another vhid over IPv6": ("bad_vhid", advertisement(vhid=OTHER_VHID, source="fe80::1")),
    "vhid 255": ("bad_vhid", advertisement(vhid=255)),
    "another group": ("bad_vhid", advertisement(vhid=OTHER_VHID, destination="239.1.2.3")),
    "broadcast": ("bad_vhid", advertisement(vhid=OTHER_VHID, destination="255.255.255.255")),
    "unicast with any TTL": (
        "bad_vhid",
        ipv4_frame(carp_header(vhid=OTHER_VHID), destination=ip("10.77.0.2"), ttl=3),
    ),
    "unicast with any hop limit": (
        "bad_vhid",
        ipv6_frame(carp_header(vhid=OTHER_VHID), destination=ip("fe80::2"), hop_limit=3),
    ),
    "trailing bytes": ("bad_vhid", ipv4_frame(carp_header(vhid=OTHER_VHID)) + bytes(1_000)),
    "authlen 9": ("bad_vhid", advertisement(vhid=OTHER_VHID, authlen=9)),
    "TTL 254": ("bad_ttl", ipv4_frame(carp_header(vhid=OTHER_VHID), ttl=254)),
    "TTL 254, broadcast": (
        "bad_ttl",
        ipv4_frame(carp_header(vhid=OTHER_VHID), destination=b"\xff" * 4, ttl=254),
    ),
    "hop limit 254": ("bad_ttl", ipv6_frame(carp_header(vhid=OTHER_VHID), hop_limit=254)),
    "TTL before checksum": (
        "bad_ttl",
        ipv4_frame(carp_header(vhid=OTHER_VHID, checksum_error=1), ttl=1),
    ),
    "IP checksum": ("bad_checksum", ipv4_frame(carp_header(vhid=OTHER_VHID), checksum_error=2)),
    "CARP checksum": ("bad_checksum", advertisement(vhid=OTHER_VHID, checksum_error=1)),
    "zeros": ("bad_checksum", ipv4_frame(bytes(36))),
    "two errors that cancel": (
        "bad_checksum",
        ipv4_frame(carp_header(vhid=OTHER_VHID, checksum_error=2), checksum_error=2),
    ),
    "version 1": ("bad_version", advertisement(vhid=OTHER_VHID, version=1)),
    "version 1 before type": ("bad_version", advertisement(vhid=OTHER_VHID, version=1, kind=2)),
    "version 3": ("vrrp", advertisement(vhid=OTHER_VHID, version=3)),
    "version 3, wrong checksum": (
        "vrrp",
        advertisement(vhid=OTHER_VHID, version=3, checksum_error=1),
    ),
    "type 2": ("bad_type", advertisement(vhid=OTHER_VHID, kind=2)),
    "VRRPv2, one address": ("vrrp", ipv4_frame(vrrp(2, 1))),
    "VRRPv2, one address, padded": ("vrrp", ipv4_frame(vrrp(2, 1)).ljust(60, b"\0")),
    "VRRPv2, one address, padded more": ("vrrp", ipv4_frame(vrrp(2, 1)).ljust(90, b"\0")),
    "VRRPv2, five addresses": ("vrrp", ipv4_frame(vrrp(2, 5))),
    "VRRPv2, seven addresses": ("vrrp", ipv4_frame(vrrp(2, 7))),
    "VRRPv2, 20 addresses": ("vrrp", ipv4_frame(vrrp(2, 20))),
    "VRRPv2 of the length of CARP, wrong checksum": (
        "vrrp",
        ipv4_frame(vrrp(2, 5)[:-1] + b"\1"),
    ),
    "VRRPv3, one address": ("vrrp", ipv4_frame(vrrp(3, 1))),
    "VRRPv3, one address over IPv6": ("vrrp", ipv6_frame(vrrp(3, 1, six=True))),
    "VRRPv3, four addresses over IPv6": ("vrrp", ipv6_frame(vrrp(3, 4, six=True))),
    "cut by 4 bytes": ("bad_length", ipv4_frame(carp_header()[:-4])),
    "cut by 4 bytes over IPv6": ("bad_length", ipv6_frame(carp_header()[:-4])),
    "no payload": ("bad_length", ipv4_frame(b"")),
    "no payload over IPv6": ("bad_length", ipv6_frame(b"")),
    "longer than the frame": ("bad_length", ipv4_frame(carp_header(), total_length=57)[:70]),
    "longer than the frame over IPv6": ("bad_length", ipv6_frame(carp_header(), payload_length=37)),
    "shorter than its header": ("bad_length", ipv4_frame(carp_header(), total_length=19)),
    "short by its header alone": ("bad_length", ipv4_frame(carp_header(), total_length=30)),
    "a fragment": ("bad_length", in_fragments4(carp_header())[0]),
    "the last fragment": ("bad_length", in_fragments4(carp_header())[1]),
    "a fragment over IPv6": ("bad_length", in_fragments6(carp_header())[0]),
    "behind an extension header": ("bad_length", behind_extension(carp_header(), 60)),
}
