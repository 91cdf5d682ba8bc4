"""The compiled core beside the standard library and pure Python doing the same work.

Signing and parsing go through Python calls on both sides, and results are compared before they
are timed. `receive` runs inside the engine alone: parse, look up, verify the digest, judge,
re-arm the timer, for every frame of every virtual host in turn; `advertise` likewise: expire,
count, sign, seal. Beside both stands pure Python that does the same with dict, heapq and hmac.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import struct
from typing import Any

import pytest
from comparison import SideBySide
from pytest_benchmark.fixture import BenchmarkFixture

from carp_fast._auth import SHA1_FORM, Key
from carp_fast._engine import Engine
from carp_fast._prepared import PreparedHost
from carp_fast._wheel import TimerWheel
from carp_fast._wire import build_announcement, parse

SECOND_NS = 1_000_000_000
START_NS = 1_000 * SECOND_NS
SECRET = b"secret".ljust(20, b"\0")
MESSAGE = bytes((2, 1, 7, 10, 0, 0, 1))
COUNTERS = [number.to_bytes(8, "big") for number in range(1_000)]
TIMERS = 4_080
TICKS = 2_000
INTERVAL_TICKS = 1_000
VHIDS = 255

Frames = list[tuple[int, bytes]]


def by_hmac(counter: bytes) -> bytes:
    return hmac.new(SECRET, MESSAGE + counter, hashlib.sha1).digest()


def test_sign_beside_hmac_new(benchmark: BenchmarkFixture, side_by_side: SideBySide) -> None:
    key = Key(b"secret", MESSAGE)
    assert [key.sign(counter) for counter in COUNTERS] == [by_hmac(c) for c in COUNTERS]
    benchmark.extra_info["sha1"] = SHA1_FORM
    side_by_side(
        lambda: [key.sign(counter) for counter in COUNTERS],
        "hmac.new",
        lambda: [by_hmac(counter) for counter in COUNTERS],
        len(COUNTERS),
    )


def test_verify_beside_hmac_digest(benchmark: BenchmarkFixture, side_by_side: SideBySide) -> None:
    key = Key(b"secret", MESSAGE)
    digests = [(counter, by_hmac(counter)) for counter in COUNTERS]
    assert all(key.verify(counter, digest) for counter, digest in digests)
    assert not key.verify(COUNTERS[0], digests[1][1])
    benchmark.extra_info["sha1"] = SHA1_FORM
    side_by_side(
        lambda: [key.verify(counter, digest) for counter, digest in digests],
        "hmac.digest",
        lambda: [
            hmac.compare_digest(hmac.digest(SECRET, MESSAGE + counter, "sha1"), digest)
            for counter, digest in digests
        ],
        len(digests),
    )


def folded(data: bytes) -> int:
    """The Internet checksum; 0 over data that holds its right checksum."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def parse_in_python(frame: bytes) -> dict[str, Any]:
    """The checks of _wire.parse in their order, for a frame without IP options."""
    kind, first, length, ttl, protocol = struct.unpack_from(">HBxH4xBB", frame, 12)
    if kind != 0x0800 or protocol != 112:
        return {"verdict": "not_carp"}
    verdict = "ok"
    if first != 0x45 or length != 56 or len(frame) < 14 + length:
        verdict = "bad_length"
    elif ttl != 255:
        verdict = "bad_ttl"
    elif folded(frame[14:34]) or folded(frame[34:70]):
        verdict = "bad_checksum"
    version, vhid, advskew, _, demote, advbase = struct.unpack_from(">BBBBBB", frame, 34)
    if verdict == "ok" and version != 0x21:
        verdict = "bad_version" if version >> 4 != 2 else "bad_type"
    return {
        "verdict": verdict,
        "source": frame[26:30],
        "destination": frame[30:34],
        "source_mac": frame[6:12],
        "version": version >> 4,
        "vhid": vhid,
        "advskew": advskew,
        "demote": demote,
        "advbase": advbase,
        "counter": frame[42:50],
        "digest": frame[50:70],
    }


def test_parse_beside_struct(side_by_side: SideBySide) -> None:
    frames = [frame for _, frame in advertisements(VHIDS)]
    assert [parse(frame) for frame in frames] == [parse_in_python(frame) for frame in frames]
    side_by_side(
        lambda: [parse(frame) for frame in frames],
        "struct",
        lambda: [parse_in_python(frame) for frame in frames],
        len(frames),
    )


class Heap:
    """A wheel's calls on a heap: what is moved or disarmed stays in it until it is popped."""

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


def turn(timers: TimerWheel | Heap) -> int:
    """Every timer goes off when it is due and is armed anew; how often."""
    for timer in range(TIMERS):
        timers.arm(timer, 1 + timer % INTERVAL_TICKS)
    popped = 0
    for tick in range(1, TICKS + 1):
        while (due := timers.pop(tick)) is not None:
            timers.arm(due, tick + INTERVAL_TICKS)
            popped += 1
    return popped


def test_wheel_beside_heapq(side_by_side: SideBySide) -> None:
    popped = turn(TimerWheel(TIMERS))
    assert popped == turn(Heap()) == TIMERS * TICKS // INTERVAL_TICKS
    side_by_side(lambda: turn(TimerWheel(TIMERS)), "heapq", lambda: turn(Heap()), TIMERS + popped)


def engine(hosts: int, source: bytes) -> Engine:
    """An engine with `hosts` virtual hosts, 255 on each interface, all of them BACKUP."""
    made = Engine()
    for slot in range(hosts):
        interface, vhid = divmod(slot, VHIDS)
        if vhid == 0:
            made.set_interface(interface, START_NS, mac=b"\x02\0" + source, source=source)
        address = (0x0A40_0001 + slot).to_bytes(4, "big")
        host = PreparedHost(
            interface=interface, vhid=vhid + 1, addresses=[(address, 32)], passphrase=b"secret"
        )
        made.add(slot, host, START_NS)
    return made


def advertisements(hosts: int) -> Frames:
    """(interface, frame) of the first advertisement of each virtual host of another engine."""
    now_ns = START_NS + 10 * SECOND_NS
    master = engine(hosts, bytes((10, 0, 0, 1)))
    master.expire(now_ns)
    frames = {
        slot: frame for action, slot, frame in master.take_actions(now_ns) if action == "ADVERTISE"
    }
    assert len(frames) == hosts
    return [(slot // VHIDS, frame) for slot, frame in sorted(frames.items())]


class PythonEngine:
    """What an engine does with advertisements heard or due, in Python, for the hosts of one."""

    def __init__(self, hosts: int) -> None:
        self.messages: dict[tuple[int, int], bytes] = {}
        self.counters: dict[tuple[int, int], int] = {}
        self.down_at_ns: dict[tuple[int, int], int] = {}
        self.due: list[tuple[int, tuple[int, int]]] = []
        for slot in range(hosts):
            interface, vhid = slot // VHIDS, slot % VHIDS + 1
            address = (0x0A40_0001 + slot).to_bytes(4, "big")
            self.messages[interface, vhid] = bytes((2, 1, vhid)) + address
            self.counters[interface, vhid] = 0
            at_ns = START_NS + slot * SECOND_NS // hosts
            heapq.heappush(self.due, (at_ns, (interface, vhid)))

    def receive(self, frames: Frames, now_ns: int) -> int:
        """How many were good; of each of those master-down is put off."""
        good = 0
        for interface, frame in frames:
            found = parse_in_python(frame)
            key = (interface, found["vhid"])
            if found["verdict"] != "ok" or key not in self.messages:
                continue
            digest = hmac.digest(SECRET, self.messages[key] + found["counter"], "sha1")
            if hmac.compare_digest(digest, found["digest"]):
                self.down_at_ns[key] = now_ns + 3 * SECOND_NS + found["advskew"] * SECOND_NS // 256
                good += 1
        return good

    def advertise(self, until_ns: int) -> list[bytes]:
        """The frames that are due, each armed anew a second later."""
        frames = []
        while self.due[0][0] <= until_ns:
            at_ns, key = self.due[0]
            heapq.heapreplace(self.due, (at_ns + SECOND_NS, key))
            self.counters[key] += 1
            frames.append(build_in_python(key[1], self.messages[key], self.counters[key]))
        return frames


def build_in_python(vhid: int, message: bytes, count: int) -> bytes:
    counter = count.to_bytes(8, "big")
    digest = hmac.digest(SECRET, message + counter, "sha1")
    source, destination = bytes((10, 0, 0, 1)), bytes((224, 0, 0, 18))
    body = struct.pack(">BBBBBBH", 0x21, vhid, 0, 7, 0, 1, 0) + counter + digest
    body = body[:6] + folded(body).to_bytes(2, "big") + body[8:]
    head = struct.pack(">BBHHHBBH", 0x45, 0x10, 56, 0, 0x4000, 255, 112, 0) + source + destination
    head = head[:10] + folded(head).to_bytes(2, "big") + head[12:]
    return b"\x01\0\x5e\0\0\x12\x02\0" + source + b"\x08\0" + head + body


def test_build_arp_beside_struct(side_by_side: SideBySide) -> None:
    mac = bytes((2, 0, 0, 0, 0, 1))
    addresses = [(0x0A40_0001 + number).to_bytes(4, "big") for number in range(VHIDS)]

    def in_python(address: bytes) -> bytes:
        ethernet = bytes((255,) * 6) + mac + b"\x08\x06"
        return ethernet + struct.pack(
            ">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, address, mac, address
        )

    built = [build_announcement(mac, address) for address in addresses]
    assert [frame[:42] for frame in built] == [in_python(address) for address in addresses]
    side_by_side(
        lambda: [build_announcement(mac, address) for address in addresses],
        "struct",
        lambda: [in_python(address) for address in addresses],
        VHIDS,
    )


@pytest.mark.parametrize("hosts", [255, 4_080, 65_280])
def test_engine_receive(benchmark: BenchmarkFixture, side_by_side: SideBySide, hosts: int) -> None:
    frames = advertisements(hosts)
    backup, reference = engine(hosts, bytes((10, 0, 0, 2))), PythonEngine(hosts)
    rounds = max(1, 65_280 // hosts)
    now_ns = START_NS + SECOND_NS
    assert backup.receive_rounds(frames, now_ns, 1) == reference.receive(frames, now_ns) == hosts
    benchmark.extra_info.update(hosts=hosts, sha1=SHA1_FORM)
    side_by_side(
        lambda: backup.receive_rounds(frames, now_ns, rounds),
        "Python with hmac",
        lambda: [reference.receive(frames, now_ns) for _ in range(rounds)],
        rounds * hosts,
    )


@pytest.mark.parametrize("hosts", [255, 4_080, 65_280])
def test_engine_advertise(
    benchmark: BenchmarkFixture, side_by_side: SideBySide, hosts: int
) -> None:
    """A second of a master: what is due in each of its ticks, expired, counted, signed."""
    master, reference = engine(hosts, bytes((10, 0, 0, 1))), PythonEngine(hosts)
    now_ns = START_NS + 10 * SECOND_NS
    master.expire(now_ns)
    master.take_actions(now_ns)
    ticks = SECOND_NS // master.wake_tick_ns
    clock = {"ours": now_ns, "theirs": START_NS}

    def ours() -> int:
        clock["ours"] += SECOND_NS
        return master.advertise_rounds(clock["ours"] - SECOND_NS, ticks)

    def theirs() -> int:
        clock["theirs"] += SECOND_NS
        begun_ns = clock["theirs"] - SECOND_NS
        return sum(
            len(reference.advertise(begun_ns + (tick + 1) * master.wake_tick_ns))
            for tick in range(ticks)
        )

    for settling in (ours, ours, ours, theirs, theirs):
        settling()
    assert ours() == theirs() == hosts
    benchmark.extra_info.update(hosts=hosts, sha1=SHA1_FORM)
    side_by_side(ours, "Python with heapq and hmac", theirs, hosts)
