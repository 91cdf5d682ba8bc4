"""The compiled core against the standard library and pure Python doing the same work.

Signing and parsing go through Python calls on both sides, and results are compared before they
are timed. `receive` runs inside the engine alone: parse, look up, verify the digest, judge,
re-arm the timer, for every frame of every virtual host in turn; `advertise` likewise: expire,
count, sign, seal; `take_over`: the same for hosts whose master is silent. They are compared with
pure Python that does the same with dict, heapq and hmac (reference.py).
"""

from __future__ import annotations

import hashlib
import hmac

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.comparison import SideBySide
from benches.reference import (
    GROUPS,
    SECOND_NS,
    SECRET,
    SOURCES,
    START_NS,
    VHIDS,
    Frames,
    Heap,
    PythonEngine,
    build,
    virtual_address,
)
from benches.reference import build_announcement as announcement_in_python
from benches.reference import parse as parse_in_python
from carp_fast.engine._auth import SHA1_FORM, Key
from carp_fast.engine._engine import Engine, FramesHeard
from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine._wheel import TimerWheel
from carp_fast.engine._wire import build_announcement, parse
from carp_fast.engine.actions import Advertise

MESSAGE = bytes((2, 1, 7, 10, 0, 0, 1))
COUNTERS = [number.to_bytes(8, "big") for number in range(1_000)]
TIMERS = 4_080
TICKS = 2_000
INTERVAL_TICKS = 1_000
BACKUP_SOURCES = {4: bytes((10, 0, 0, 2)), 6: b"\xfe\x80" + bytes(13) + b"\x02"}
LEAST_HEARD = 4_080  # frames in one measurement
SIZES = [255, 4_080, 65_280]
FAMILIES = [4, 6]


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


@pytest.mark.parametrize("family", FAMILIES)
def test_parse_beside_struct(side_by_side: SideBySide, family: int) -> None:
    frames = [frame for _, frame in advertisements(VHIDS, family)]
    assert [parse(frame) for frame in frames] == [parse_in_python(frame) for frame in frames]
    side_by_side(
        lambda: [parse(frame) for frame in frames],
        "struct",
        lambda: [parse_in_python(frame) for frame in frames],
        len(frames),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_build_announcement_beside_struct(side_by_side: SideBySide, family: int) -> None:
    mac = bytes((2, 0, 0, 0, 0, 1))
    addresses = [virtual_address(family, number) for number in range(VHIDS)]
    wanted = [announcement_in_python(mac, address) for address in addresses]
    built = [build_announcement(mac, address) for address in addresses]
    assert [frame[: len(wanted[0])] for frame in built] == wanted
    side_by_side(
        lambda: [build_announcement(mac, address) for address in addresses],
        "struct",
        lambda: [announcement_in_python(mac, address) for address in addresses],
        VHIDS,
    )


def turn(timers: TimerWheel | Heap) -> int:
    """Every timer expires when it is due and is armed again; how often."""
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


def engine(hosts: int, family: int, sources: dict[int, bytes] = SOURCES) -> Engine:
    """An engine with `hosts` virtual hosts, 255 on each interface, all of them BACKUP."""
    made = Engine()
    for slot in range(hosts):
        interface, vhid = divmod(slot, VHIDS)
        if vhid == 0:
            mac = b"\x02\0" + sources[family][-4:]
            source, source6 = (sources[family], None) if family == 4 else (None, sources[family])
            made.set_interface(interface, START_NS, mac=mac, source=source, source6=source6)
        address = (virtual_address(family, slot), 32 if family == 4 else 128)
        host = PreparedHost(
            interface=interface, vhid=vhid + 1, addresses=[address], passphrase=b"secret"
        )
        made.add(slot, host, START_NS)
    return made


def advertisements(hosts: int, family: int) -> Frames:
    """(interface, frame) of the first advertisement of each virtual host of another engine."""
    now_ns = START_NS + 10 * SECOND_NS
    master = engine(hosts, family)
    master.expire(now_ns)
    frames = {
        action.slot: action.frame
        for action in master.take_actions(now_ns)
        if isinstance(action, Advertise)
    }
    assert len(frames) == hosts
    return [(slot // VHIDS, frame) for slot, frame in sorted(frames.items())]


@pytest.mark.parametrize("family", FAMILIES)
def test_python_builds_the_same_advertisement(family: int) -> None:
    ((_, frame),) = advertisements(1, family)
    assert frame == build(family, 1, bytes((2, 1, 1)) + virtual_address(family, 0), 1)
    assert parse_in_python(frame)["destination"] == GROUPS[family]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hosts", SIZES)
def test_engine_receive(
    benchmark: BenchmarkFixture, side_by_side: SideBySide, hosts: int, family: int
) -> None:
    """The advertisements of one master after another, each with a new counter, by the second."""
    backup, master = engine(hosts, family, BACKUP_SOURCES), PythonEngine(hosts, family)
    reference = PythonEngine(hosts, family)
    seconds = max(1, LEAST_HEARD // hosts)
    now_ns = START_NS
    heard: list[tuple[int, Frames, FramesHeard]] = []

    def prepare() -> None:
        nonlocal now_ns
        heard.clear()
        for _ in range(seconds):
            now_ns += SECOND_NS
            frames = master.advertise_all()
            heard.append((now_ns, frames, FramesHeard(frames)))

    def ours() -> int:
        return sum(backup.receive_many(frames, at_ns) for at_ns, _, frames in heard)

    def theirs() -> int:
        return sum(reference.receive(frames, at_ns) for at_ns, frames, _ in heard)

    for _ in range(3):
        prepare()
        assert ours() == theirs() == seconds * hosts
    benchmark.extra_info.update(hosts=hosts, family=family, sha1=SHA1_FORM)
    benchmark.pedantic(ours, setup=prepare, rounds=20)
    side_by_side(None, "Python with hmac", theirs, seconds * hosts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hosts", SIZES)
def test_engine_advertise(
    benchmark: BenchmarkFixture, side_by_side: SideBySide, hosts: int, family: int
) -> None:
    """A second of a master: advertisements due in each of its ticks, expired, counted, signed."""
    master, reference = engine(hosts, family), PythonEngine(hosts, family)
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
    benchmark.extra_info.update(hosts=hosts, family=family, sha1=SHA1_FORM)
    side_by_side(ours, "Python with heapq and hmac", theirs, hosts)


@pytest.mark.parametrize("hosts", SIZES)
def test_engine_take_over(
    benchmark: BenchmarkFixture, side_by_side: SideBySide, hosts: int
) -> None:
    """Silence is over for all in one tick: expire, change state, seal the first advertisement."""
    now_ns = START_NS + 10 * SECOND_NS
    ready: list[Engine] = []

    def prepare() -> None:
        ready[:] = [engine(hosts, 4)]

    def ours() -> int:
        return ready[0].advertise_rounds(now_ns, 1)

    prepare()
    assert ours() == len(PythonEngine(hosts).take_over(now_ns)) == hosts
    benchmark.extra_info.update(hosts=hosts, sha1=SHA1_FORM)
    benchmark.pedantic(ours, setup=prepare, rounds=5)
    reference = PythonEngine(hosts)
    side_by_side(None, "Python with hmac", lambda: reference.take_over(now_ns), hosts)
