"""The programs that put frames into rings, run by the kernel on frames of our own, and what they
accept compared with the filter of the packet path.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from carp_fast.bpf import maps, programs, system
from carp_fast.bpf.programs import Kind, Loaded
from carp_fast.bpf.system import Command
from carp_fast.net import rings
from carp_fast.net.filters import packet_filter
from carp_fast.net.rings import (
    SLOT_BYTES,
    SLOTS_MAX,
    RingError,
    Rings,
    may_reserve,
    ring_bytes,
    ring_program,
    ring_slots,
)
from carp_fast.pump._ring import RingReader
from tests.support.bpf import run
from tests.support.rings import Known, run_filter
from tests.support.segment import (
    behind_extension,
    carp_header,
    in_fragments4,
    in_fragments6,
    ipv4_frame,
    ipv6_frame,
)

root = pytest.mark.root
LOOPBACK = 1
SLOTS = 256
GIB = 1 << 30


class Program:
    """The program of a ring, and the reader of what it writes."""

    def __init__(self, made: Rings) -> None:
        self.rings = made
        self.control, self.slots, known = made.maps("common")
        self.known = Known(known.memory)
        self.reader = RingReader(*made.memory("common")[:3])
        self.loaded = self.load(may_reserve(SLOTS))

    def load(self, most: int) -> Loaded:
        program = ring_program(self.control, self.slots, self.rings.known, most)
        return programs.load(Kind.SOCKET_FILTER, program)

    def run(self, frame: bytes, repeat: int = 1) -> int:
        return run_filter(self.loaded, frame, repeat)


@pytest.fixture
def program() -> Iterator[Program]:
    with Rings({"common": SLOTS}) as made:
        program = Program(made)
        program.known.hear(LOOPBACK)
        with program.loaded:
            yield program


def four(**keys: Any) -> bytes:
    return ipv4_frame(carp_header(), **keys)


@root
def test_a_frame_is_in_the_ring_with_its_interface_and_its_time(program: Program) -> None:
    frames = [four(), ipv6_frame(carp_header())]
    for frame in frames:
        assert program.run(frame) == 0
    read = program.reader.read()
    assert [frame for *_, frame in read] == frames
    assert [(ifindex, length) for ifindex, _, length, _ in read] == [(1, 70), (1, 90)]
    assert 0 < read[0][1] <= read[1][1]


@root
@pytest.mark.parametrize("length", [70, 109, 110, 111, 128, 1514, 3000])
def test_the_headers_of_a_long_frame_are_kept_with_its_length(
    program: Program, length: int
) -> None:
    frame = four().ljust(length, b"x")
    assert program.run(frame) == 0
    ((_, _, told, kept),) = program.reader.read()
    assert (told, kept) == (length, frame[:110])


def drawn(seed: int) -> bytes:
    """A frame of protocol 112, or one that differs from it in what a filter reads."""
    rng = random.Random(seed)
    payload = carp_header()
    frame = bytearray(
        rng.choice(
            [
                ipv4_frame(payload),
                ipv6_frame(payload),
                *in_fragments4(payload),
                *in_fragments6(payload),
                *(behind_extension(payload, kind) for kind in (0, 43, 60, 50)),
                ipv4_frame(payload, options=bytes(40)),
            ]
        )
    )
    for _ in range(rng.choice((0, 0, 1, 2))):
        at = min(rng.choice((12, 13, 14, 20, 23, 54)), len(frame) - 1)
        frame[at] = rng.choice((0, 6, 8, 43, 44, 112, 0x86, 0xDD))
    return bytes(frame)[: rng.choice((20, 40, 54, 55, len(frame), len(frame)))]


@root
def test_what_is_accepted_is_what_the_filter_of_the_packet_path_accepts(program: Program) -> None:
    accepted = 0
    for seed in range(2_000):
        frame = drawn(seed)
        wanted = run(packet_filter([LOOPBACK]), frame, LOOPBACK)[0] > 0
        assert program.run(frame) == 0
        got = len(program.reader.read()) + sum(program.known.refused().values())
        program.known.forget()
        assert got == wanted, (seed, frame.hex())
        accepted += wanted
    assert 500 < accepted < 1_900
    assert program.reader.drops() == 0


@root
def test_what_this_machine_sends_is_ignored(program: Program) -> None:
    """A packet on the loopback interface passes every tap twice: it is sent, then it arrives."""
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap,
    ):
        tap.settimeout(10)
        program.loaded.attach_to_socket(tap)
        program.reader.watch()
        marked = four(ttl=77)
        sender.sendto(marked, ("lo", 0))
        assert tap.recv(100) == marked[:1], "it wakes the reader"
        frames = [frame for *_, frame in program.reader.read()]
        assert frames.count(marked) == 1


@root
@pytest.mark.parametrize(
    ("ifindexes", "accepted"),
    [
        ([], False),
        ([2], False),
        ([65], False),
        ([1, 2, 65], True),
        ([65_537], True),  # it has the same place: the pump knows that this interface is not ours
        ([*range(1, 4_000)], True),
        ([*range(2, 4_000)], False),
    ],
)
def test_only_interfaces_in_use_are_heard(ifindexes: list[int], accepted: bool) -> None:
    with Rings({"common": SLOTS}) as made:
        program = Program(made)
        with program.loaded:
            for number, ifindex in enumerate(ifindexes):
                program.known.hear(ifindex, number)
            program.run(four())
            assert bool(program.reader.read()) is accepted


@root
def test_a_full_ring_drops_and_counts_the_newest(program: Program) -> None:
    most = may_reserve(SLOTS)
    assert 0 < most <= SLOTS - 64
    for number in range(most + 5):
        assert program.run(four(ttl=number % 256)) == 0
    frames = program.reader.read()
    assert [frame[22] for *_, frame in frames] == [number % 256 for number in range(most)]
    assert [program.reader.drops(), program.reader.drops()] == [5, 0]
    program.reader.give_back()
    program.run(four())
    assert len(program.reader.read()) == 1


@root
def test_the_ring_goes_round_without_a_loss(program: Program) -> None:
    read = 0
    for _ in range(20):
        program.run(four(), repeat=100)
        read += len(program.reader.read())
        program.reader.give_back()
    assert read == 2_000
    assert program.reader.drops() == 0


@root
def test_one_frame_is_queued_to_wake_a_reader_that_watches(program: Program) -> None:
    other = four().replace(b"\x08\x00", b"\x08\x06", 1)
    program.reader.watch()
    assert program.run(other) == 0, "a frame that is not accepted wakes none"
    assert [program.run(four()) for _ in range(3)] == [1, 0, 0]
    assert len(program.reader.read()) == 3, "all three are in the ring"
    program.reader.watch()
    program.reader.ignore()
    assert program.run(four()) == 0


@root
def test_the_verifier_accepts_it_for_a_process_with_cap_bpf_alone() -> None:
    """Without CAP_PERFMON it checks more: for example that no address leaves a map's value."""
    text = "from carp_fast.net.rings import Rings; Rings({'common': 1024}).close()"
    drop = ("setpriv", "--bounding-set", "-all,+bpf", "--inh-caps", "-all")
    done = subprocess.run(
        [*drop, sys.executable, "-c", text], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------------- refused, and sizes


@pytest.mark.parametrize("command", [Command.MAP_CREATE, Command.PROG_LOAD])
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.ENOMEM, errno.EINVAL])
def test_each_refused_command_is_a_reason_in_one_line(
    monkeypatch: pytest.MonkeyPatch, command: Command, number: int
) -> None:
    asked: list[Command] = []

    def refuse(given: Command, attributes: bytearray) -> int:
        asked.append(given)
        if given == command:
            raise OSError(number, "refused")
        return system.bpf(given, attributes)

    monkeypatch.setattr(maps, "bpf", refuse)
    monkeypatch.setattr(programs, "bpf", refuse)
    if command == Command.PROG_LOAD and not system.may_use_bpf():
        pytest.skip("maps cannot be made")
    with pytest.raises(RingError) as refused:
        Rings({"common": SLOTS})
    assert "\n" not in str(refused.value)
    assert command in asked


@root
def test_the_words_of_the_verifier_are_in_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "FRAME_BYTES", 200)
    with pytest.raises(RingError, match=r"after kept.*outside of the allowed memory range"):
        Rings({"common": SLOTS})


@pytest.mark.parametrize(
    ("lane", "rate", "slots"),
    [
        ("genuine", 10, 4_096),
        ("genuine", 4_080, 8_192),
        ("genuine", 16_320, 32_768),
        ("genuine", 65_280, 131_072),
        ("genuine", 1_000_000, SLOTS_MAX),
        ("common", 10, 16_384),
        ("common", 65_280, 32_768),
        ("stray", 65_280, 1_024),
    ],
)
def test_rings_have_room_by_rate(
    monkeypatch: pytest.MonkeyPatch, lane: str, rate: float, slots: int
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": GIB, "SC_PAGE_SIZE": 4096}.get)
    assert ring_slots(lane, rate) == slots


@pytest.mark.parametrize(("cpus", "most"), [(1, 192), (64, 192), (100, 156), (4_096, 128)])
def test_each_cpu_may_find_the_last_free_slot(
    monkeypatch: pytest.MonkeyPatch, cpus: int, most: int
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_NPROCESSORS_CONF": cpus}.get)
    assert may_reserve(256) == most


def test_rings_take_a_share_of_a_small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"SC_PHYS_PAGES": 16_000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", small.get)
    slots = ring_slots("genuine", 65_280)
    assert slots * SLOT_BYTES * 16 <= 16_000 * 4096 < slots * SLOT_BYTES * 32
    shared = 2 * 65_536 + 256 * 4_096  # by the filters
    assert ring_bytes(65_280) == shared + SLOT_BYTES * sum(
        ring_slots(lane, 65_280) for lane in ("genuine", "common", "stray")
    )
