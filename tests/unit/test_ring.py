"""Rings that a test writes as the kernel's program does: the reader alone, and a pump that has one.

No kernel program, namespace or packet: memory, and a pair of sockets in place of what wakes.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

import pytest

from carp_fast.engine.reports import SocketDropped
from carp_fast.net import addresses
from carp_fast.pump._pump import Pump
from carp_fast.pump._ring import RingReader
from tests.support.pump_stage import RingStage
from tests.support.rings import PlainRing
from tests.support.segment import ADDRESS, advertisement, carp_header, ip
from tests.support.segment import ipv4_frame as four

DEADLINE_S = 60.0
MASTER = ip("10.77.0.1")


def reader_of(ring: PlainRing, first: int = 0) -> RingReader:
    """A reader that has read `first` slots."""
    reader = RingReader(*ring.memory)
    for number in range(first):
        ring.put(b"%d" % number)
        assert len(reader.read()) == 1
    reader.give_back()
    return reader


def words(frames: list[tuple[int, int, int, bytes]]) -> list[bytes]:
    return [frame for *_, frame in frames]


# ------------------------------------------------------------------------------------ the reader


def test_frames_are_read_in_order_with_interface_time_and_whole_length() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring)
    assert reader.read() == []
    ring.put(b"one", ifindex=3, arrived_ns=1_000)
    number = ring.reserve()
    ring.publish(number, bytes(range(110)), ifindex=4, arrived_ns=2_000, length=9_000)
    assert reader.read() == [(3, 1_000, 3, b"one"), (4, 2_000, 9_000, bytes(range(110)))]
    assert reader.read() == []
    assert not reader.blocked


@pytest.mark.parametrize("first", [0, 5, 8, 13])
def test_the_ring_goes_on_at_its_beginning(first: int) -> None:
    ring = PlainRing(8)
    reader = reader_of(ring, first)
    for lap in range(3):
        frames = [b"%d %d" % (lap, i) for i in range(8)]
        for frame in frames:
            ring.put(frame)
        assert words(reader.read()) == frames
    assert reader.drops() == 0


def test_slots_are_given_back_when_the_next_reading_begins_or_by_request() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring)
    for i in range(5):
        ring.put(b"%d" % i)
    assert words(reader.read(limit=3)) == [b"0", b"1", b"2"]
    assert ring.tail == 0
    assert words(reader.read(limit=1)) == [b"3"]
    assert ring.tail == 3
    reader.give_back()
    assert ring.tail == 4


def test_a_frame_that_is_not_published_keeps_those_behind_it_back() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring, 8)  # the slots have sequences of the last lap
    ring.put(b"before")
    late = ring.reserve()
    ring.put(b"behind")
    assert words(reader.read()) == [b"before"]
    assert reader.blocked
    assert reader.read() == []
    assert reader.blocked
    ring.publish(late, b"late")
    assert words(reader.read()) == [b"late", b"behind"]
    assert not reader.blocked
    assert reader.drops() == 0


def test_what_was_reserved_after_reading_began_does_not_block() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring)
    ring.put(b"one")
    assert len(reader.read()) == 1
    ring.reserve()
    assert not reader.blocked, "it came later than all that was read"


def test_a_limit_of_frames_is_kept_and_the_rest_is_read_next() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring)
    for i in range(6):
        ring.put(b"%d" % i)
    assert words(reader.read(limit=4)) == [b"0", b"1", b"2", b"3"]
    assert words(reader.read(limit=4)) == [b"4", b"5"]


def test_frames_that_found_no_slot_are_counted_once() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring)
    ring.drop(3)
    assert [reader.drops(), reader.drops()] == [3, 0]
    ring.drop(2)
    assert [reader.drops(), reader.drops()] == [2, 0]


def test_frames_that_were_overwritten_or_could_not_be_read_are_dropped() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring)
    ring.put(b"overwritten")
    unread = ring.reserve()
    ring.publish(unread, b"", length=0)
    ring.put(b"last")
    ring.publish(8, b"of the next lap")
    assert words(reader.read()) == [b"last"]
    assert not reader.blocked
    assert reader.drops() == 2


def test_a_frame_that_came_before_the_reader_watched_is_noticed() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring)
    ring.put(b"read")
    reader.read()
    ring.put(b"unread")
    assert reader.watch()
    reader.read()
    assert not reader.watch()


def test_a_reader_watches_until_it_ignores_frames() -> None:
    ring = PlainRing(8)
    reader = reader_of(ring)
    assert not reader.watch()
    assert ring.watching == 1
    ring.watching = 0  # as the program, when a frame has come
    reader.watch()
    assert ring.watching == 1
    reader.ignore()
    assert ring.watching == 0


# ------------------------------------------------------------------------------------- in a pump


@pytest.fixture
def stage() -> Iterator[RingStage]:
    made = RingStage()
    yield made
    made.close()


def refused(source: bytes = MASTER) -> bytes:
    """A frame whose digest is wrong."""
    return four(carp_header(addresses=(ADDRESS,), passphrase=b"other"), source=source)


def test_a_pump_judges_the_frames_of_a_ring_at_the_time_of_their_arrival(stage: RingStage) -> None:
    stage.add(advskew=100)
    at_ns = time.monotonic_ns()
    stage.ring.put(advertisement(source="10.77.0.1", counter=1), arrived_ns=at_ns)
    stage.ring.put(refused(), arrived_ns=at_ns)
    stage.ring.put(advertisement(source="10.77.0.1", counter=2), ifindex=2)  # not ours
    stage.run_until(lambda: stage.pump.facts.frames == 3, "all are read")
    assert stage.counters() == {"advertisements_heard": 1, "bad_auth": 1}
    (peer,) = stage.host().peers
    assert (peer.source, peer.heard_ns) == (MASTER, at_ns)


def test_more_frames_than_a_batch_are_all_read(stage: RingStage) -> None:
    stage.add(advskew=100)
    for _ in range(900):
        stage.ring.put(refused())
    stage.run_until(lambda: stage.pump.facts.frames == 900, "all are read")
    assert stage.ring.tail == 900, "all slots are given back after a turn"
    assert stage.counters() == {"bad_auth": 900}


def test_silence_proves_nothing_while_a_frame_is_being_written(stage: RingStage) -> None:
    """It may be the master's: nobody takes over before it is read."""
    stage.add(advbase=0, advskew=8, dead_ratio=1)  # MASTER after 31 ms and more
    late = stage.ring.reserve()
    end_at = time.monotonic() + 0.5
    while time.monotonic() < end_at:
        select.select([stage.pump.epoll_fd], [], [], 0.5)
        stage.turn()
    assert stage.host().state == "BACKUP"
    stage.ring.publish(late, refused())
    stage.run_until(lambda: stage.host().state == "MASTER", "it takes over when all are read")


def test_a_full_ring_is_reported_and_every_backup_waits_again(stage: RingStage) -> None:
    stage.add(advskew=100)
    before_ns = stage.host().deadline_ns
    stage.ring.drop(7)
    stage.ring.put(refused())
    stage.run_until(lambda: stage.pump.facts.frames == 1, "what had room is read")
    (told,) = [report for report in stage.reports if isinstance(report, SocketDropped)]
    assert (told.frames, stage.pump.facts.dropped) == (7, 7)
    assert stage.host().deadline_ns > before_ns


def test_a_frame_that_could_not_be_read_is_reported_though_no_other_came(stage: RingStage) -> None:
    stage.add(advskew=100)
    stage.ring.publish(stage.ring.reserve(), b"", length=0)
    stage.run_until(lambda: stage.pump.facts.dropped == 1, "it is counted")
    assert SocketDropped in {type(report) for report in stage.reports}


def test_a_pump_sleeps_until_a_frame_wakes_it_and_then_reads_every_tick(stage: RingStage) -> None:
    stage.turn()  # without virtual hosts no timer is set
    stage.run_until(lambda: stage.ring.watching == 1, "it watches")
    assert select.select([stage.pump.epoll_fd], [], [], 0)[0] == []
    stage.ring.put(refused())
    stage.ring.watching = 0
    stage.waker.send(b"x")
    stage.waker.send(b"y")  # of a frame that came when it watched before
    assert select.select([stage.pump.epoll_fd], [], [], DEADLINE_S)[0]
    stage.turn()
    assert stage.pump.facts.frames == 1
    assert stage.ring.watching == 0, "frames come: they are read every tick"
    with pytest.raises(BlockingIOError):
        stage.socket.recv(1, socket.MSG_DONTWAIT)
    stage.run_until(lambda: stage.ring.watching == 1, "no more come")
    assert select.select([stage.pump.epoll_fd], [], [], 0)[0] == []


@pytest.mark.parametrize("count", [0, 3, 100])
def test_a_ring_has_a_power_of_two_of_slots(stage: RingStage, count: int) -> None:
    with pytest.raises(ValueError, match=f"a ring of {count} slots: must be a power of two"):
        Pump([("ring", 0, "common", (0, 0, count))], 0, 0, addresses.templates())
