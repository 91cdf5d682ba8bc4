"""A pump on real sockets that another pump takes over from: no role changes, no frame is missed.

Both run in the namespace of host a; host b sends, and reads what comes.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from carp_fast.engine.reports import AddressesChanged, Stalled, StateChanged
from carp_fast.engine.states import Placed
from carp_fast.lab.lab import Host, Lab
from carp_fast.net import sockets
from tests.support.pump_stage import BOTH, DEADLINE_S, FAST, Stage, frames_of
from tests.support.segment import ADDRESS, ADDRESS6, carp_header, ip, ipv4_frame

pytestmark = pytest.mark.root

WAIT_S = 30.0


@pytest.fixture
def lab(lab_factory: Callable[..., Lab]) -> Lab:
    made = lab_factory(segments=1, ipv6=True)
    for host in made.hosts:
        host.run(f"ip -6 addr add fe80::{host.name}/64 dev s1 nodad".split())
    return made


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def send(host: Host, *frames: bytes) -> None:
    with host.inside():
        sender = sockets.open_sender()
    with sender:
        for frame in frames:
            sender.sendto(frame, ("s1", 0))


def master_frame(counter: int) -> bytes:
    header = carp_header(counter=counter, addresses=(ADDRESS, ADDRESS6))
    return ipv4_frame(header, source=ip("10.1.0.2"))


def memory(size: int, opened: ExitStack) -> mmap.mmap:
    """Memory that two processes could share."""
    fd = os.memfd_create("state")
    try:
        os.ftruncate(fd, size)
        return opened.enter_context(mmap.mmap(fd, size))
    finally:
        os.close(fd)


def started(stage: Stage, opened: ExitStack) -> Stage:
    stage.pump.start("normal")
    opened.callback(stage.pump.stop)
    return stage


def wait_for(stage: Stage, holds: Callable[[], object], what: str) -> None:
    end_at = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end_at, f"not within {DEADLINE_S} s: {what}"
        stage.reports += stage.pump.take_reports()


def addresses_of(host: Host) -> list[tuple[str, int]]:
    (link,) = json.loads(host.run(["ip", "-j", "addr", "show", "s1"]).stdout)
    return sorted((entry["local"], entry["prefixlen"]) for entry in link["addr_info"])


@pytest.mark.parametrize("path", ["packet", "ring", "raw"])
def test_a_master_goes_on_in_another_pump(lab: Lab, opened: ExitStack, path: str) -> None:
    a, b = lab.hosts
    listener = opened.enter_context(frames_of(b))
    first = started(Stage(a, path, opened), opened)
    first.add(**FAST)
    wait_for(first, lambda: AddressesChanged in first.kinds(), "its addresses")
    held = addresses_of(a)
    second = Stage(a, path, opened)
    second.add(**FAST)
    second.pump.carry_out_orders()
    room = memory(second.pump.state_size() + first.pump.state_size(), opened)
    marks = first.pump.freeze(WAIT_S)
    assert [kind for kind, _, _ in marks] == [kind for kind, *_ in second.listen()]
    assert first.pump.export_state(room) <= len(room)
    assert second.pump.assume_state(room) == Placed(1, [], [], [], 0)
    started(second, opened)
    counters: list[int] = []
    while len(counters) < 60:
        frame = listener.recv(200)
        if frame[12:14] == b"\x08\0" and frame[23] == 112:
            counters.append(int.from_bytes(frame[42:50], "big"))
    steps = {later - earlier for earlier, later in itertools.pairwise(counters)}
    assert steps == {2}  # one of each family, none twice and none left out
    second.reports += second.pump.take_reports()
    assert [report for report in second.reports if isinstance(report, StateChanged)] == []
    assert addresses_of(a) == held
    first.pump.stop()


@pytest.mark.parametrize("path", ["packet", "ring", "raw"])
def test_each_frame_is_heard_once(lab: Lab, opened: ExitStack, path: str) -> None:
    a, b = lab.hosts
    first = Stage(a, path, opened)
    first.add(advskew=100, replay="strict")
    first.turn()
    second = Stage(a, path, opened)  # its sockets get all that the first one's get
    second.add(advskew=100, replay="strict")
    second.pump.carry_out_orders()  # a ring's filter lets frames of known virtual hosts through
    send(b, *(master_frame(counter) for counter in range(1, 6)))
    first.run_until(lambda: first.pump.facts.frames == 5, "five frames")
    first.pump.freeze(WAIT_S)
    send(b, *(master_frame(counter) for counter in range(6, 9)))
    room = memory(first.pump.state_size(), opened)
    first.pump.export_state(room)
    second.pump.assume_state(room)
    second.run_until(lambda: second.pump.facts.frames == 5 + 8, "the frames in its sockets")
    counters = {word: count for word, count in second.counters().items() if count}
    assert counters == {"advertisements_heard": 8}
    assert second.host().state == "BACKUP"
    assert second.host().peers[0].counter == 8


@pytest.mark.parametrize("threaded", [False, True])
def test_a_pump_that_resumes_reads_what_waited_first(
    lab: Lab, opened: ExitStack, threaded: bool
) -> None:
    a, b = lab.hosts
    stage = Stage(a, "packet", opened)
    stage.add(advbase=0, advskew=64, dead_ratio=3, preempt=False)  # takes over after 0.75 s
    stage.turn()
    send(b, master_frame(1))
    stage.run_until(lambda: stage.pump.facts.frames == 1, "a frame")
    if threaded:
        started(stage, opened)
    stage.pump.freeze(WAIT_S)
    with pytest.raises(RuntimeError, match="frozen already"):
        stage.pump.freeze(WAIT_S)
    end_at = time.monotonic() + 0.8  # the deadline passes
    number = 2
    while time.monotonic() < end_at:
        send(b, master_frame(number))
        number += 1
        time.sleep(0.1)  # as a master would
    assert stage.pump.facts.frames == 1
    stage.pump.resume()
    wait_for(stage, lambda: stage.pump.facts.frames == number - 1, "the frames that waited")
    wait_for(stage, lambda: any(isinstance(r, Stalled) for r in stage.reports), "the absence")
    assert [r for r in stage.reports if isinstance(r, StateChanged) and r.state == "MASTER"] == []
    with pytest.raises(RuntimeError, match="not frozen"):
        stage.pump.resume()


def test_only_a_frozen_pump_has_a_state_and_only_a_new_one_takes_it(
    lab: Lab, opened: ExitStack
) -> None:
    a, _ = lab.hosts
    stage = Stage(a, "packet", opened)
    stage.add(addresses=BOTH)
    started(stage, opened)
    with pytest.raises(RuntimeError, match="not frozen"):
        stage.pump.export_state(bytearray(stage.pump.state_size()))
    for refused in (lambda: stage.pump.assume_state(b""), stage.pump.carry_out_orders):
        with pytest.raises(RuntimeError, match="is running"):
            refused()
    stage.pump.freeze(WAIT_S)
    room = bytearray(stage.pump.state_size())
    stage.pump.export_state(room)
    stage.pump.resume()
