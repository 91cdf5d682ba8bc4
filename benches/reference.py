"""The engine's work in pure Python: dict, heapq, struct and hmac instead of the compiled core.

The benchmarks compare the engine with it, after checking that both have the same results.
"""

from __future__ import annotations

import heapq
import hmac
import struct
from typing import Any

SECOND_NS = 1_000_000_000
START_NS = 1_000 * SECOND_NS
SECRET = b"secret".ljust(20, b"\0")
VHIDS = 255
SOURCES = {4: bytes((10, 0, 0, 1)), 6: b"\xfe\x80" + bytes(13) + b"\x01"}
GROUPS = {4: bytes((224, 0, 0, 18)), 6: b"\xff\x02" + bytes(13) + b"\x12"}
ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"

Frames = list[tuple[int, bytes]]


def virtual_address(family: int, slot: int) -> bytes:
    """10.64.0.1 or fd00::1, plus `slot`."""
    if family == 4:
        return (0x0A40_0001 + slot).to_bytes(4, "big")
    return b"\xfd" + (1 + slot).to_bytes(15, "big")


def folded(data: bytes) -> int:
    """The Internet checksum; 0 over data that contains its own right checksum."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def parse(frame: bytes) -> dict[str, Any]:
    """The checks of _wire.parse in their order, for a frame without IP options."""
    kind: int = frame[12] << 8 | frame[13]
    verdict = "ok"
    if kind == 0x86DD:
        first, length, protocol, hop_limit = struct.unpack_from(">BxxxHBB", frame, 14)
        carp, family = 54, 6
        source, destination = frame[22:38], frame[38:54]
        if first >> 4 != 6 or length != 36 or len(frame) < carp + length:
            verdict = "bad_length"
    else:
        first, length, hop_limit, protocol = struct.unpack_from(">BxH4xBB", frame, 14)
        carp, family = 34, 4
        source, destination = frame[26:30], frame[30:34]
        if first != 0x45 or length != 56 or len(frame) < 14 + length:
            verdict = "bad_length"
    if kind not in (0x0800, 0x86DD) or protocol != 112:
        return {"verdict": "not_carp"}
    if verdict == "ok" and hop_limit != 255:
        verdict = "bad_ttl"
    elif verdict == "ok" and ((family == 4 and folded(frame[14:34])) or folded(frame[carp:])):
        verdict = "bad_checksum"
    version, vhid, advskew, _, demote, advbase = struct.unpack_from(">BBBBBB", frame, carp)
    if verdict == "ok" and version != 0x21:
        verdict = "bad_version" if version >> 4 != 2 else "bad_type"
    return {
        "verdict": verdict,
        "family": family,
        "source": source,
        "destination": destination,
        "source_mac": frame[6:12],
        "version": version >> 4,
        "vhid": vhid,
        "advskew": advskew,
        "demote": demote,
        "advbase": advbase,
        "counter": frame[carp + 8 : carp + 16],
        "digest": frame[carp + 16 : carp + 36],
    }


def build(family: int, vhid: int, message: bytes, count: int) -> bytes:
    """An advertisement's frame, its digest over `message` and the counter."""
    counter = count.to_bytes(8, "big")
    digest = hmac.digest(SECRET, message + counter, "sha1")
    source, destination = SOURCES[family], GROUPS[family]
    body = struct.pack(">BBBBBBH", 0x21, vhid, 0, 7, 0, 1, 0) + counter + digest
    body = body[:6] + folded(body).to_bytes(2, "big") + body[8:]
    if family == 6:
        head = struct.pack(">IHBB", 0x6000_0000, 36, 112, 255) + source + destination
        return b"\x33\x33\0\0\0\x12\x02\0" + source[-4:] + b"\x86\xdd" + head + body
    head = struct.pack(">BBHHHBBH", 0x45, 0x10, 56, 0, 0x4000, 255, 112, 0) + source + destination
    head = head[:10] + folded(head).to_bytes(2, "big") + head[12:]
    return b"\x01\0\x5e\0\0\x12\x02\0" + source[-4:] + b"\x08\0" + head + body


def build_announcement(mac: bytes, address: bytes) -> bytes:
    """A gratuitous ARP without the padding, or an unsolicited NA of a host."""
    if len(address) == 4:
        ethernet = bytes((255,) * 6) + mac + b"\x08\x06"
        return ethernet + struct.pack(
            ">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, address, mac, address
        )
    icmp = struct.pack(">BBHI", 136, 0, 0, 0x2000_0000) + address + b"\x02\x01" + mac
    pseudo = address + ALL_NODES + struct.pack(">II", 32, 58)
    icmp = icmp[:2] + folded(pseudo + icmp).to_bytes(2, "big") + icmp[4:]
    head = struct.pack(">IHBB", 0x6000_0000, 32, 58, 255) + address + ALL_NODES
    return b"\x33\x33\0\0\0\x01" + mac + b"\x86\xdd" + head + icmp


class Heap:
    """A wheel's calls on a heap: timers moved or disarmed stay in it until they are popped."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int]] = []
        self.at: dict[int, int] = {}

    def arm(self, timer: int, tick: int) -> None:
        self.at[timer] = tick
        heapq.heappush(self.entries, (tick, timer))

    def pop(self, tick: int) -> int | None:
        while self.entries and self.entries[0][0] <= tick:
            at, timer = heapq.heappop(self.entries)
            if self.at.get(timer) == at:
                del self.at[timer]
                return timer
        return None


class PythonEngine:
    """An engine's work for advertisements heard or due and for silence, for its hosts."""

    def __init__(self, hosts: int, family: int = 4) -> None:
        self.family = family
        self.messages: dict[tuple[int, int], bytes] = {}
        self.counters: dict[tuple[int, int], int] = {}
        self.down_at_ns: dict[tuple[int, int], int] = {}
        self.due: list[tuple[int, tuple[int, int]]] = []
        self.masters: dict[tuple[int, int], str] = {}
        for slot in range(hosts):
            interface, vhid = slot // VHIDS, slot % VHIDS + 1
            self.messages[interface, vhid] = bytes((2, 1, vhid)) + virtual_address(family, slot)
            self.counters[interface, vhid] = 0
            at_ns = START_NS + slot * SECOND_NS // hosts
            heapq.heappush(self.due, (at_ns, (interface, vhid)))

    def receive(self, frames: Frames, now_ns: int) -> int:
        """How many were good; each of those postpones its host's master-down."""
        good = 0
        for interface, frame in frames:
            found = parse(frame)
            key = (interface, found["vhid"])
            if found["verdict"] != "ok" or key not in self.messages:
                continue
            digest = hmac.digest(SECRET, self.messages[key] + found["counter"], "sha1")
            if hmac.compare_digest(digest, found["digest"]):
                self.down_at_ns[key] = now_ns + 3 * SECOND_NS + found["advskew"] * SECOND_NS // 256
                good += 1
        return good

    def advertise(self, until_ns: int) -> list[bytes]:
        """The frames that are due, each armed again for a second later."""
        frames = []
        while self.due[0][0] <= until_ns:
            at_ns, key = self.due[0]
            heapq.heapreplace(self.due, (at_ns + SECOND_NS, key))
            frames.append(self.advertisement(key))
        return frames

    def advertise_all(self) -> Frames:
        """(interface, frame) of the next advertisement of each virtual host."""
        return [(key[0], self.advertisement(key)) for key in self.messages]

    def take_over(self, now_ns: int) -> list[bytes]:
        """All masters have been silent: the first frame of each host, armed for the next one."""
        frames = []
        for _, key in self.due:
            self.masters[key] = "master_down"
            frames.append(self.advertisement(key))
        self.due = [(now_ns + SECOND_NS, key) for _, key in self.due]
        heapq.heapify(self.due)
        return frames

    def advertisement(self, key: tuple[int, int]) -> bytes:
        self.counters[key] += 1
        return build(self.family, key[1], self.messages[key], self.counters[key])
