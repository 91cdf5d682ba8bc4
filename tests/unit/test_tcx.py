"""The program at the ingress of interfaces, run by the kernel on frames of our own.

What it takes is in a ring as it was, and is certainly ours; all else passes.
"""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Iterator

import pytest

from carp_fast.bpf import programs, system
from carp_fast.bpf.maps import Waker
from carp_fast.bpf.system import Command
from carp_fast.net import tcx as tcx_module
from carp_fast.net.rings import Rings
from carp_fast.net.tcx import BUCKET, Tcx, TcxError
from carp_fast.pump._ring import RingReader
from tests.support.drawn import drawn
from tests.support.rings import Known
from tests.support.segment import (
    GROUP,
    GROUP6,
    VHID,
    Node,
    advertisement,
    carp_header,
    internet_checksum,
    ip,
    ipv4_frame,
    ipv6_frame,
)
from tests.support.vectors import NOBODYS, VARIANTS

pytestmark = pytest.mark.root

LOOPBACK, SLOTS = 1, 256
PASSES, TAKES = 0xFFFFFFFF, 2
LANES = ("genuine", "common")


class Program:
    """The program, the rings that it fills, and what a reader of each finds."""

    def __init__(self, rings: Rings) -> None:
        self.rings = rings
        self.known = Known(rings.known.memory)
        self.known.hear(LOOPBACK, vhids={VHID}, groups=(GROUP, GROUP6))
        self.tcx = Tcx(rings)
        self.readers = {lane: RingReader(*rings.memory(lane)[:3]) for lane in LANES}

    def run(self, frame: bytes) -> int:
        context = bytearray(192)
        struct.pack_into("=I", context, 40, LOOPBACK)
        return self.tcx.program.run(frame, context=bytes(context)).value

    def read(self) -> dict[str, list[bytes]]:
        found = {}
        for lane, reader in self.readers.items():
            found[lane] = [frame[:length] for _, _, length, frame in reader.read()]
            reader.give_back()
        return found

    def takes(self, frame: bytes) -> bool:
        """Whether it takes a frame, which is then in the common ring as it was."""
        outcome = self.run(frame)
        assert outcome in (PASSES, TAKES)
        read = self.read()
        assert read == {"genuine": [], "common": [frame] if outcome == TAKES else []}
        return outcome == TAKES


@pytest.fixture
def program() -> Iterator[Program]:
    with Rings(dict.fromkeys(LANES, SLOTS), wakers=True) as rings:
        made = Program(rings)
        with made.tcx:
            yield made


FOUR, SIX = advertisement(), advertisement(source="fe80::1")


@pytest.mark.parametrize(
    "frame",
    [
        FOUR,
        SIX,
        FOUR + bytes(12),  # a time stamp behind it
        SIX + bytes(20),
        advertisement(passphrase=b"other"),  # a digest is the engine's to judge
        advertisement(checksum_error=1),
        ipv4_frame(carp_header(), checksum_error=1),
        ipv4_frame(carp_header(), tos=0xE0, flags=0),
    ],
)
def test_an_advertisement_for_a_virtual_host_is_taken(program: Program, frame: bytes) -> None:
    assert program.takes(frame)


def vrrp_of_36_bytes(first: int = 0x21, addresses: int = 5) -> bytes:
    whole = bytes((first, VHID, 100, addresses, 0, 1)) + bytes(30)
    return whole[:6] + internet_checksum(whole).to_bytes(2, "big") + whole[8:]


@pytest.mark.parametrize(
    "frame",
    [
        advertisement(vhid=VHID + 1),
        advertisement(destination="224.0.0.19"),
        advertisement(source="fe80::1", destination="ff02::13"),
        advertisement(source="fe80::1", destination="ff05::12"),
        advertisement(destination="10.77.0.2"),
        advertisement(destination="0.0.0.0"),
        advertisement(authlen=5),
        ipv4_frame(vrrp_of_36_bytes()),
        ipv6_frame(vrrp_of_36_bytes()),
        ipv4_frame(vrrp_of_36_bytes(addresses=7) + bytes(8)),  # VRRPv2 with seven addresses
        ipv4_frame(vrrp_of_36_bytes(0x31)),
        advertisement(version=3),
        advertisement(kind=2),
        ipv4_frame(carp_header(), ttl=254),
        ipv6_frame(carp_header(), hop_limit=254),
        ipv4_frame(carp_header(), options=b"\x01" * 4),
        ipv4_frame(carp_header(), flags=0x2000),
        ipv4_frame(carp_header(), flags=1),
        ipv4_frame(carp_header() + b"\0"),
        ipv6_frame(carp_header() + b"\0"),
        ipv4_frame(carp_header(), protocol=6),
        ipv6_frame(carp_header(), next_header=6),
        ipv4_frame(carp_header(), ethertype=0x0806),
        ipv4_frame(carp_header())[:69],
        ipv6_frame(carp_header())[:89],
        ipv4_frame(carp_header())[:34],
        FOUR.ljust(111, b"\0"),  # longer than a slot
        b"\x02" + FOUR[1:],  # to the MAC of another host
    ],
)
def test_what_is_not_certainly_ours_passes(program: Program, frame: bytes) -> None:
    assert not program.takes(frame)


@pytest.mark.parametrize("ifindexes", [(), (2,), (65_537,)])
def test_frames_of_an_interface_that_is_not_in_use_pass(ifindexes: tuple[int, ...]) -> None:
    with Rings(dict.fromkeys(LANES, SLOTS), wakers=True) as rings, Tcx(rings):
        program = Program(rings)
        with program.tcx:
            program.known.unhear(LOOPBACK)
            for ifindex in ifindexes:
                program.known.hear(ifindex, vhids={VHID}, groups=(GROUP, GROUP6))
            assert not program.takes(FOUR)
            assert not program.takes(SIX)


def test_of_all_vectors_and_drawn_frames_only_what_the_engine_may_accept_is_taken(
    program: Program,
) -> None:
    """For what is taken, too, the engine alone decides: no verdict is lost by taking it."""
    made = [frame for _, frame in (*VARIANTS.values(), *NOBODYS.values())]
    node = Node("10.77.0.2")
    program.known.hear(LOOPBACK, vhids={VHID}, groups=(GROUP,))  # as its host has
    taken = 0
    for number, frame in enumerate([*made, *map(drawn, range(2_000))]):
        if len(frame) < 54:  # the kernel runs it on whole headers alone
            continue
        if program.takes(frame):
            taken += 1
            verdict = node.engine.receive(0, frame, number)
            assert verdict in ("ok", "bad_auth", "replay", "bad_checksum", "vrrp"), frame.hex()
            payload = frame[34:70] if frame[12] == 8 else frame[54:90]
            assert (payload[0], payload[1], payload[3]) == (0x21, VHID, 7)
    assert taken > 50


@pytest.mark.parametrize("frame", [FOUR, SIX])
def test_on_an_interface_that_others_share_what_is_taken_passes_too(
    program: Program, frame: bytes
) -> None:
    program.tcx.share([LOOPBACK, 7])
    assert program.run(frame) == PASSES
    assert program.read() == {"genuine": [], "common": [frame]}
    assert not program.takes(advertisement(vhid=VHID + 1))
    program.tcx.share([7])
    assert program.takes(frame)


def test_what_finds_a_full_ring_on_a_shared_interface_passes(program: Program) -> None:
    program.tcx.share([LOOPBACK])
    for _ in range(SLOTS):
        assert program.run(FOUR) == PASSES
    read = len(program.read()["common"])
    assert read < SLOTS
    assert program.readers["common"].drops() == SLOTS - read


def test_known_sources_have_the_genuine_ring(program: Program) -> None:
    other = advertisement(source="10.77.0.9")
    sources = [(LOOPBACK, ip("10.77.0.1")), (LOOPBACK, ip("fe80::1")), (2, ip("10.77.0.9"))]
    assert program.tcx.know(sources)
    for frame in (FOUR, SIX, other):
        assert program.run(frame) == TAKES
    assert program.read() == {"genuine": [FOUR, SIX], "common": [other]}
    assert program.tcx.know([(LOOPBACK, ip("fe80::1"))])
    for frame in (FOUR, SIX, other):
        assert program.run(frame) == TAKES
    assert program.read() == {"genuine": [SIX], "common": [FOUR, other]}


def test_as_many_sources_as_the_filters_know_have_room(program: Program) -> None:
    rng = random.Random(1)
    every = [(LOOPBACK, rng.randbytes(4)) for _ in range(2_000)]
    assert program.tcx.know(every)
    for _, source in every[:200]:
        assert program.run(ipv4_frame(carp_header(), source=source)) == TAKES
        assert [len(frames) for frames in program.read().values()] == [1, 0]


def test_sources_that_find_no_room_are_told(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcx_module, "source_key", lambda _, source: source[-1] + 1)
    assert program.tcx.know([(1, bytes((0, 0, 0, i))) for i in range(BUCKET)])
    monkeypatch.setattr(tcx_module, "SPREAD", 0)  # all in one bucket
    assert not program.tcx.know([(1, bytes((0, 0, 0, i))) for i in range(BUCKET + 1)])


def test_a_reader_that_watches_is_woken_once(program: Program) -> None:
    waker, reader = program.rings.wakers["common"], program.readers["common"]
    assert program.run(FOUR) == TAKES
    assert not waker.take()
    reader.read()
    assert not reader.watch()
    assert program.run(advertisement(vhid=VHID + 1)) == PASSES
    assert not waker.take(), "what passes wakes nobody"
    for _ in range(3):
        assert program.run(FOUR) == TAKES
    assert waker.take()
    assert not waker.take()
    assert len(reader.read()) == 3
    reader.watch()
    reader.ignore()
    assert program.run(FOUR) == TAKES
    assert not waker.take()


def test_a_full_ring_drops_and_counts_the_newest(program: Program) -> None:
    for _ in range(SLOTS):
        assert program.run(FOUR) == TAKES
    read = len(program.read()["common"])
    assert read < SLOTS
    assert program.readers["common"].drops() == SLOTS - read


# ------------------------------------------------------------------------------ refused, and left


@pytest.mark.parametrize("command", [Command.MAP_CREATE, Command.PROG_LOAD, Command.LINK_CREATE])
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EINVAL])
def test_each_refused_command_is_a_reason_in_one_line(
    monkeypatch: pytest.MonkeyPatch, command: Command, number: int
) -> None:
    def refuse(given: Command, attributes: bytearray) -> int:
        if given == command:
            raise OSError(number, "refused")
        return system.bpf(given, attributes)

    with Rings(dict.fromkeys(LANES, SLOTS), wakers=True) as rings:
        monkeypatch.setattr("carp_fast.bpf.maps.bpf", refuse)
        monkeypatch.setattr(programs, "bpf", refuse)
        with pytest.raises(TcxError) as refused:
            Tcx(rings)
        assert "\n" not in str(refused.value)


def test_an_interface_that_does_not_exist_cannot_have_it(program: Program) -> None:
    with pytest.raises(TcxError, match=r"No such device|Invalid argument"):
        program.tcx.attach(1 << 30)
    program.tcx.detach(1 << 30)
    assert program.tcx.ifindexes == set()


def test_a_waker_that_is_closed_leaves_nothing() -> None:
    for _ in range(200):
        with Waker() as waker:
            assert not waker.take()


def test_it_attaches_to_an_interface_once(program: Program) -> None:
    for _ in range(2):
        program.tcx.attach(LOOPBACK)
        assert program.tcx.ifindexes == {LOOPBACK}
    program.tcx.detach(LOOPBACK)
    assert program.tcx.ifindexes == set()
