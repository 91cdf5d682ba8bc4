"""What the filters of rings refuse, compared with the engine's judgement counter by counter; and
what the pump tells the filters.
"""

from __future__ import annotations

import mmap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from carp_fast.engine._prepared import PreparedHost
from carp_fast.net import ring_filter
from carp_fast.net.filters import packet_filter
from carp_fast.net.ring_filter import FILTER_BYTES, SHOWN_NS
from carp_fast.net.rings import Rings
from carp_fast.pump._ring import RingReader
from tests.support import bpf
from tests.support.drawn import all_vectors, drawn
from tests.support.pump_stage import RingStage
from tests.support.rings import Known, run_filter
from tests.support.segment import (
    ADDRESS,
    GROUP,
    PASSPHRASE,
    START_NS,
    VHID,
    Node,
    advertisement,
    carp_header,
    ip,
    ipv4_frame,
)
from tests.support.vectors import NOBODYS, OTHER_VHID

LOOPBACK = 1
SLOTS = 4096


class Paths:
    """Two engines with one virtual host: one hears all frames, the other those of the ring.

    Neither gets what the filter of a packet socket drops.
    """

    def __init__(self, made: Rings, *, vhids: Iterable[int] = (VHID,)) -> None:
        control, slots, known = made.maps("common")
        self.known = Known(known.memory)
        self.known.hear(LOOPBACK, vhids=vhids)
        self.reader = RingReader(control.address, slots.address, SLOTS)
        self.program = made.loaded("common")
        self.packet, self.ring = Node("10.77.0.2"), Node("10.77.0.2")
        self.judged = 0

    def hear(self, frame: bytes) -> None:
        at_ns = START_NS + self.judged
        if not bpf.run(packet_filter([LOOPBACK]), frame, LOOPBACK)[0]:
            return
        self.judged += 1
        self.packet.engine.receive(0, frame, at_ns)
        run_filter(self.program, frame)
        for _, _, length, kept in self.reader.read():
            assert length == len(frame)
            self.ring.engine.receive(0, kept.ljust(length, b"\0"), at_ns)
        self.reader.give_back()

    def counters(self) -> tuple[dict[str, int], dict[str, int]]:
        """Those of the packet path; those of the ring path, with what its filter refused."""
        merged = Counter(self.ring.engine.interface_counters(0))
        merged.update(self.known.refused())
        return self.packet.engine.interface_counters(0), dict(merged)


@pytest.fixture
def paths() -> Iterator[Paths]:
    with Rings({"common": SLOTS}) as made:
        yield Paths(made)


REFUSED_WORDS = {"bad_length", "bad_ttl", "bad_checksum", "vrrp", "bad_version", "bad_type"}


@pytest.mark.root
@pytest.mark.parametrize("case", NOBODYS)
def test_what_nobody_can_accept_is_refused_with_the_verdict_of_the_engine(
    paths: Paths, case: str
) -> None:
    word, frame = NOBODYS[case]
    paths.known.hear(LOOPBACK, vhids=())
    paths.known.show_none()
    empty = Node("10.77.0.2").engine
    empty.remove(0, START_NS)
    assert empty.receive(0, frame, START_NS) == word
    assert run_filter(paths.program, frame) == 0
    assert (paths.reader.read(), paths.known.refused()) == ([], {word: 1})


def test_every_word_that_needs_no_virtual_host_is_among_the_cases() -> None:
    assert {word for word, _ in NOBODYS.values()} == {*REFUSED_WORDS, "bad_vhid"}


@pytest.mark.root
@pytest.mark.parametrize("samples", [True, False])
def test_every_vector_moves_the_same_counter_on_both_paths(paths: Paths, samples: bool) -> None:
    if not samples:
        paths.known.show_none()
    engine, unknown = paths.ring.engine, set()
    for number, frame in enumerate(all_vectors()):
        before = engine.interface_counters(0)["bad_vhid"]
        paths.hear(frame)
        packet, ring = paths.counters()
        assert packet == ring, (number, frame.hex())
        if engine.interface_counters(0)["bad_vhid"] > before:
            unknown.add(engine.rejections(0)[0].vhid)
    assert paths.judged == len(all_vectors())
    # A vhid in use is left to the engine, over whichever family.
    assert VHID in unknown
    assert bool(unknown - {VHID}) is samples
    assert paths.known.refused()["bad_vhid"] > 0


@pytest.mark.root
def test_thousands_of_drawn_frames_move_the_same_counters_on_both_paths(paths: Paths) -> None:
    paths.known.show_none()
    for seed in range(2_500):
        frame = drawn(seed)
        paths.hear(frame)
        packet, ring = paths.counters()
        assert packet == ring, (seed, frame.hex())
    refused = paths.known.refused()
    assert all(refused[word] >= 5 for word in {*REFUSED_WORDS, "bad_vhid"}), refused
    heard = paths.ring.engine.interface_counters(0)
    assert heard["advertisements_heard"] > 20


@pytest.mark.root
def test_a_frame_for_a_vhid_in_use_is_left_to_the_engine_whatever_is_wrong(paths: Paths) -> None:
    frames = [
        ipv4_frame(carp_header(), ttl=254),
        advertisement(checksum_error=1),
        advertisement(version=3),
        advertisement(kind=2, source="fe80::1"),
        ipv4_frame(carp_header(vhid=OTHER_VHID), options=bytes(4)),  # rare: not read by the filter
    ]
    for frame in frames:
        assert run_filter(paths.program, frame) == 0
    assert [kept for *_, kept in paths.reader.read()] == frames
    assert paths.known.refused() == {}


@pytest.mark.root
@pytest.mark.parametrize("vhid", [0, 1, 63, 64, 127, 128, 191, 192, 254, 255])
def test_each_vhid_has_a_bit_of_its_own(paths: Paths, vhid: int) -> None:
    paths.known.show_none()
    frame = advertisement(vhid=vhid)
    for used, read in ({vhid}, 1), (set(range(256)) - {vhid}, 0):
        paths.known.hear(LOOPBACK, vhids=used)
        run_filter(paths.program, frame)
        assert len(paths.reader.read()) == read


@pytest.mark.root
def test_a_sample_of_each_verdict_is_passed_on_and_counted_by_the_engine_alone(
    paths: Paths,
) -> None:
    unknown, short = advertisement(vhid=OTHER_VHID), ipv4_frame(b"")
    begun_ns = time.monotonic_ns()
    for frame in (unknown, unknown, short, short, unknown):
        paths.hear(frame)
    judged = paths.ring.engine.interface_counters(0)
    if time.monotonic_ns() - begun_ns < SHOWN_NS // 2:
        assert (judged["bad_vhid"], judged["bad_length"]) == (1, 1)
        assert paths.known.refused() == {"bad_vhid": 2, "bad_length": 1}
    packet, ring = paths.counters()
    assert packet == ring
    (last, first) = paths.ring.engine.rejections(0)[:2]
    assert {last.verdict, first.verdict} == {"bad_vhid", "bad_length"}
    before = judged["bad_vhid"]
    end_at = time.monotonic() + 10
    while paths.ring.engine.interface_counters(0)["bad_vhid"] == before:
        assert time.monotonic() < end_at, "another sample"
        paths.hear(unknown)
    packet, ring = paths.counters()
    assert packet == ring


@pytest.mark.root
def test_a_filter_of_a_wrong_order_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vectors distinguish the order of the checks: without that of the TTL they differ."""
    monkeypatch.setattr(ring_filter, "HOP_LIMIT", 254)
    with Rings({"common": SLOTS}) as made:
        paths = Paths(made)
        paths.known.show_none()
        for frame in all_vectors():
            paths.hear(frame)
        packet, ring = paths.counters()
        assert packet != ring


# ------------------------------------------------------------------------ what the pump tells it


class Shared(RingStage):
    """A pump with a ring and the memory that filters share, in plain memory."""

    def __init__(self) -> None:
        self.room = mmap.mmap(-1, FILTER_BYTES)
        self.known = Known(self.room)
        super().__init__(shared=self.known.address)

    def add_host(self, slot: int = 0, vhid: int = VHID, interface: int = 0, **keys: Any) -> None:
        self.pump.add(
            slot,
            PreparedHost(
                interface=interface,
                vhid=vhid,
                addresses=[(ADDRESS, 32)],
                passphrase=PASSPHRASE,
                manage_addresses=False,
                **keys,
            ),
        )
        self.settle()

    def remove(self, slot: int) -> None:
        self.pump.remove(slot)
        self.settle()

    def settle(self) -> None:
        self.pump.mark()
        self.turn()


@pytest.fixture
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.close()


def test_the_pump_tells_which_interfaces_and_vhids_are_in_use(shared: Shared) -> None:
    shared.settle()
    assert (shared.known.number(1), shared.known.ifindex(0), shared.known.vhids()) == (0, 1, set())
    for slot, vhid in enumerate((1, 63, 64, 255)):
        shared.add_host(slot, vhid)
    assert shared.known.vhids() == {1, 63, 64, 255}
    assert shared.known.vhids(1) == set()


def test_a_vhid_stays_in_use_until_its_last_host_has_left(shared: Shared) -> None:
    shared.add_host(0)
    shared.add_host(1)
    shared.add_host(2, OTHER_VHID)
    shared.remove(0)
    shared.run_until(lambda: shared.known.vhids() == {VHID, OTHER_VHID}, "the other host stays")
    shared.remove(1)
    shared.run_until(lambda: shared.known.vhids() == {OTHER_VHID}, "nobody has it")
    shared.add_host(0)
    assert shared.known.vhids() == {VHID, OTHER_VHID}


def test_the_pump_tells_which_groups_are_in_use(shared: Shared) -> None:
    shared.add_host(0)
    assert shared.known.groups() == {GROUP}
    shared.add_host(1, OTHER_VHID, destination=ip("239.1.2.3"))
    shared.add_host(2, 44, destination=ip("239.1.2.4"))
    assert shared.known.groups() == {GROUP, ip("239.1.2.3")}, "there is room for two"
    shared.remove(0)
    wanted = {ip("239.1.2.3"), ip("239.1.2.4")}
    shared.run_until(lambda: shared.known.groups() == wanted, "those of the hosts that are left")


def test_a_host_that_leaves_while_another_comes_is_noticed(shared: Shared) -> None:
    """The number of hosts is the same before and after."""
    shared.add_host(0)
    for vhid in range(100, 110):
        shared.pump.remove(vhid % 2)
        shared.add_host((vhid + 1) % 2, vhid)
        shared.run_until(lambda: shared.known.vhids() == {vhid}, "the former one left")  # noqa: B023


def test_an_interface_that_is_made_anew_or_vanishes_is_mapped_anew(shared: Shared) -> None:
    shared.settle()
    for ifindex in (7, 65_543, 65_544, 0):
        shared.set_ifindex(0, ifindex)
        shared.settle()
        assert shared.known.ifindex(0) == ifindex
        mapped = {place: shared.known.number(place) for place in (1, 7, 8)}
        assert mapped == {1: None, 7: None, 8: None} | ({ifindex % 65_536: 0} if ifindex else {})


def test_of_two_interfaces_with_one_place_the_one_that_is_left_keeps_it(shared: Shared) -> None:
    shared.set_ifindex(1, 65_537)
    shared.settle()
    assert shared.known.number(1) == 1
    shared.set_ifindex(1, 0)
    shared.settle()
    assert shared.known.number(1) == 0
    assert (shared.known.ifindex(0), shared.known.ifindex(1)) == (1, 0)


def test_what_filters_refused_is_in_every_copy_of_counters_once(shared: Shared) -> None:
    shared.add_host(0)
    shared.ring.put(advertisement(vhid=OTHER_VHID))
    shared.run_until(lambda: shared.pump.facts.frames == 1, "the sample is read")
    shared.known.refuse("bad_vhid", 5)
    shared.known.refuse("vrrp", 7)
    wanted = {"bad_vhid": 6, "vrrp": 7}
    assert [shared.counters(), shared.counters()] == [wanted, wanted]
    assert (shared.pump.facts.refused_by_filter, shared.pump.facts.frames) == (12, 1)
    shared.known.refuse("bad_ttl", 3, number=1)
    assert shared.counters() == wanted, "of another interface"
