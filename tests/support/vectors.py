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
    carp_header,
    ip,
    ipv4_frame,
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
