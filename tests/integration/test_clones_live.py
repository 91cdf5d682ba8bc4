"""Large batches sent as clones: what is on the wire, the errors of frames, and every way in which
an interface, or the whole path, falls back to the packet socket.

A pump without a thread and without a daemon, in a host's namespace. Must not know configuration.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from errno import EINVAL, ENETDOWN, ENOBUFS, ENOENT, ENXIO
from functools import partial
from pathlib import Path

import pytest

from carp_fast.bpf import programs
from carp_fast.bpf.assembly import R0, R1, WORD, Line, jump_if, label, leave, load, move
from carp_fast.bpf.programs import Attach, Kind
from carp_fast.engine.reports import ClonesGivenUp, SendsFailing
from carp_fast.lab.lab import Host, Lab
from carp_fast.net.kernel import (
    ETH_P_ALL,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    PACKET_ADD_MEMBERSHIP,
    PACKET_MR_PROMISC,
    PACKET_OUTGOING,
    SO_RCVBUFFORCE,
    SOL_PACKET,
)
from tests.support.pump_stage import FAST, Stage
from tests.support.segment import ip

pytestmark = pytest.mark.root

HOSTS = 40
TCX_NEXT, TCX_DROP = -1, 2  # linux/bpf.h
# By ethertype: where the frame of a virtual host names it, and what changes from one to the next.
VHID_AT = {ETH_P_IP: 35, ETH_P_IPV6: 55}
COUNTER_AT = {ETH_P_IP: slice(40, None), ETH_P_IPV6: slice(56, None)}
BUFFER_BYTES = 8 << 20


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def lab_of(lab_factory: Callable[..., Lab], medium: str = "veth") -> Lab:
    made = lab_factory(hosts=("a", "b"), segments=1, medium=medium, ipv6=True)
    for host in made.hosts:
        host.run(f"ip -6 addr add fe80::{host.name}/64 dev s1 nodad".split())
    return made


def bridged(host: Host) -> str:
    """Puts s1 into a bridge, which sends in its place: the bridge's name."""
    for line in (
        "link add br1 type bridge",
        "link set s1 master br1",
        "link set br1 up",
        "-6 addr add fe80::c/64 dev br1 nodad",
    ):
        host.run(["ip", *line.split()])
    return "br1"


def add_hosts(stage: Stage, count: int = HOSTS) -> None:
    """Adds virtual hosts of both families, which become MASTER in 31 ms and advertise as often."""
    for slot in range(count):
        addresses = ((ip(f"10.200.1.{slot + 1}"), 32), (ip(f"2001:db8:1::{slot + 1:x}"), 128))
        stage.add(slot, vhid=slot + 1, addresses=addresses, **FAST)


@contextmanager
def every_frame(host: Host, interface: str = "s1") -> Iterator[socket.socket]:
    """All frames of an interface, to and from."""
    with host.inside():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        listener.bind((interface, ETH_P_ALL))
        # A macvlan passes only groups that somebody joined.
        everything = struct.pack(
            "IHH8s", socket.if_nametoindex(interface), PACKET_MR_PROMISC, 0, b""
        )
        listener.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, everything)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        listener.settimeout(0)
        yield listener


def read_all(listener: socket.socket, outgoing: bool | None = None) -> Iterator[tuple[int, bytes]]:
    """(ethertype, frame) of what waits; `outgoing`: of what was sent here, or came from outside."""
    try:
        while True:
            frame, where = listener.recvfrom(200)
            if outgoing is None or (where[2] == PACKET_OUTGOING) == outgoing:
                yield int.from_bytes(frame[12:14], "big"), frame
    except BlockingIOError:
        return


def given_up(stage: Stage) -> list[ClonesGivenUp]:
    return [report for report in stage.reports if isinstance(report, ClonesGivenUp)]


def sent(stage: Stage) -> int:
    return stage.counters()["advertisements_sent"]


def advertised(stage: Stage, count: int) -> bool:
    return sent(stage) >= count


def shape(host: Host, words: str) -> None:
    """Sets what s1 does with frames: `tc qdisc ... dev s1 ...`."""
    host.run(["tc", "qdisc", *words.split()])


# --------------------------------------------------------------------------------------- the wire


@pytest.mark.parametrize("medium", ["veth", "macvlan", "bridge port", "bridge"])
def test_clones_are_on_the_wire_what_the_packet_socket_sends(
    lab_factory: Callable[..., Lab], opened: ExitStack, medium: str
) -> None:
    """Advertisements and announcements of both families, seen at both ends."""
    a, b = lab_of(
        lab_factory, {"bridge port": "bridge", "bridge": "veth"}.get(medium, medium)
    ).hosts
    interface = bridged(a) if medium == "bridge" else "s1"
    seen: dict[bool, dict[str, set[bytes]]] = {}
    for clones in (False, True):
        with (
            every_frame(b) as far,
            every_frame(a, interface) as near,
            ExitStack() as resources,
        ):
            stage = Stage(a, "packet", resources, interface=interface, clones=clones)
            add_hosts(stage)
            stage.run_until(partial(advertised, stage, 6 * HOSTS), "all advertised often")
            assert bool(stage.pump.facts.clones) == clones
            assert stage.counters()["send_errors"] == 0
            both = {"near": near, "far": far}
            seen[clones] = {}
            for where, listener in both.items():
                frames = list(read_all(listener, outgoing=where == "near"))
                seen[clones][where] = {
                    frame[: COUNTER_AT[kind].start] if kind in VHID_AT and is_carp(frame) else frame
                    for kind, frame in frames
                    if is_ours(kind, frame)
                }
            assert (
                stage.pump.remove_addresses(
                    [(stage.ifindex, ip(f"10.200.1.{slot + 1}"), 32) for slot in range(HOSTS)]
                    + [
                        (stage.ifindex, ip(f"2001:db8:1::{slot + 1:x}"), 128)
                        for slot in range(HOSTS)
                    ]
                )
                == [0] * 2 * HOSTS
            )
    assert len(seen[True]["far"]) == 4 * HOSTS  # of each: two advertisements, an ARP, an NA
    assert seen[True] == seen[False]
    assert seen[True]["near"] == seen[True]["far"]


def is_carp(frame: bytes) -> bool:
    return (frame[23] if frame[12:14] == b"\x08\x00" else frame[20]) == 112


def is_ours(kind: int, frame: bytes) -> bool:
    """Advertisements and announcements, nothing that the kernel sends by itself."""
    if kind == ETH_P_ARP:
        return frame[:6] == b"\xff" * 6
    if kind == ETH_P_IPV6 and frame[20] == 58:
        return frame[54] == 136 and frame[38:40] == b"\xff\x02"
    return kind in VHID_AT and is_carp(frame)


def test_every_frame_of_a_large_batch_leaves_once(
    lab_factory: Callable[..., Lab], opened: ExitStack
) -> None:
    a, b = lab_of(lab_factory).hosts
    stage = Stage(a, "packet", opened, clones=True)
    with every_frame(b) as far:
        for slot in range(250):
            address = ((ip(f"10.200.1.{slot + 1}"), 32),)
            stage.add(slot, vhid=slot + 1, addresses=address, advbase=1, dead_ratio=1)
        stage.run_until(lambda: sent(stage) >= 250, "all advertised")
        frames = [(kind, frame) for kind, frame in read_all(far) if is_ours(kind, frame)]
    # Those of the interface's trial, and of the same batch after it, included: all fit in one.
    assert len(frames) == stage.pump.facts.clones
    # An advertisement that ends an election is sent twice.
    seen = Counter(frame[35] for kind, frame in frames if kind == ETH_P_IP)
    assert set(seen) == set(range(1, 251))
    assert sum(seen.values()) == sent(stage)


def test_small_batches_take_the_packet_socket(
    lab_factory: Callable[..., Lab], opened: ExitStack
) -> None:
    a, _ = lab_of(lab_factory).hosts
    stage = Stage(a, "packet", opened, clones=True)
    add_hosts(stage, 7)  # 14 frames at most
    stage.run_until(lambda: sent(stage) >= 70, "some advertised")
    assert stage.pump.facts.clones == 0
    assert not given_up(stage)


# ------------------------------------------------------------------------------------- the errors


@pytest.mark.parametrize("clones", [False, True], ids=["packet", "clones"])
@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        ("ip link set s1 down", ENETDOWN),
        ("ip link del s1", ENXIO),
        ("tc qdisc replace dev s1 root tbf rate 8bit burst 200b limit 400b", ENOBUFS),
    ],
    ids=["down", "gone", "full queue"],
)
def test_a_frame_that_is_not_sent_has_the_error_that_the_packet_socket_gives(
    lab_factory: Callable[..., Lab], opened: ExitStack, break_it: str, error: int, clones: bool
) -> None:
    a, _ = lab_of(lab_factory).hosts
    stage = Stage(a, "packet", opened, clones=clones)
    add_hosts(stage)
    stage.run_until(lambda: sent(stage) >= 4 * HOSTS, "all advertised")
    assert bool(stage.pump.facts.clones) == clones
    a.run(break_it.split())
    stage.run_until(lambda: stage.kinds().count(SendsFailing) >= HOSTS - 4, "sends fail")
    errors = {report.error for report in stage.reports if isinstance(report, SendsFailing)}
    assert errors == {error}
    assert stage.counters()["send_errors"] >= 2 * (HOSTS - 4)
    assert stage.pump.facts.clone_runs_failed == 0


# ------------------------------------------------------------------------------------- the trial


def test_an_interface_that_does_not_count_the_first_clones_falls_back(
    lab_factory: Callable[..., Lab], opened: ExitStack
) -> None:
    """A queue that takes frames and does not send them stands for a driver that loses clones."""
    a, _ = lab_of(lab_factory).hosts
    shape(a, "add dev s1 root tbf rate 8bit burst 95b limit 100m")
    stage = Stage(a, "packet", opened, clones=True)
    few = 20  # or the send buffer of the packet socket would be full by then
    add_hosts(stage, few)
    stage.run_until(lambda: given_up(stage), "clones are given up")
    (report,) = given_up(stage)
    assert (report.interface, report.why, report.error) == (0, "uncounted", 0)
    tried = stage.pump.facts.clones
    assert 0 < tried <= 16
    assert stage.pump.sends_clones()
    assert not stage.pump.sends_clones(0)
    shape(a, "del dev s1 root")
    before = sent(stage)
    stage.run_until(lambda: sent(stage) >= before + 4 * few, "all advertise on")
    assert stage.pump.facts.clones == tried
    assert stage.counters()["send_errors"] == 0
    # Another interface, or this one after it was down, gets another trial.
    stage.set_interface(stage.ifindex, up=False)
    stage.set_interface(stage.ifindex)
    stage.pump.mark()
    stage.run_until(lambda: stage.pump.facts.clones >= tried + 4 * few, "clones again")
    assert len(given_up(stage)) == 1
    assert stage.pump.sends_clones(0)


def test_a_counter_that_is_late_is_looked_at_again(
    lab_factory: Callable[..., Lab], opened: ExitStack
) -> None:
    a, _ = lab_of(lab_factory).hosts
    # A trial's 16 frames leave in a tenth of a second, and then all others as they come.
    shape(a, "add dev s1 root tbf rate 2mbit burst 200b limit 100m")
    stage = Stage(a, "packet", opened, clones=True)
    add_hosts(stage)
    stage.run_until(lambda: stage.pump.facts.clones > 0, "the trial")
    shape(a, "replace dev s1 root tbf rate 1gbit burst 100k limit 100m")
    stage.run_until(lambda: stage.pump.facts.clones >= 4 * HOSTS, "clones are trusted")
    assert not given_up(stage)


def test_an_interface_whose_counter_cannot_be_read_falls_back(
    lab_factory: Callable[..., Lab], opened: ExitStack, tmp_path: Path
) -> None:
    a, _ = lab_of(lab_factory).hosts
    stage = Stage(a, "packet", opened, clones=True)
    assert stage.clones is not None
    nothing_fd = os.open(tmp_path, os.O_RDONLY)
    os.dup2(nothing_fd, stage.clones.directory_fd)
    os.close(nothing_fd)
    add_hosts(stage)
    stage.run_until(lambda: sent(stage) >= 4 * HOSTS, "all advertised")
    (report,) = given_up(stage)
    assert (report.interface, report.why, report.error) == (0, "unread", ENOENT)
    assert stage.pump.facts.clones == 0
    assert stage.counters()["send_errors"] == 0


def test_an_interface_that_refuses_only_clones_falls_back(
    lab_factory: Callable[..., Lab], opened: ExitStack
) -> None:
    """A filter that drops what has not the mark of the packet socket."""
    a, _ = lab_of(lab_factory).hosts
    stage = Stage(a, "packet", opened, clones=True)
    add_hosts(stage)
    stage.run_until(lambda: stage.pump.facts.clones >= 4 * HOSTS, "clones are trusted")
    stage.sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
    opened.callback(os.close, drops_without_mark(stage.ifindex, 7))
    stage.run_until(lambda: given_up(stage), "clones are given up")
    (report,) = given_up(stage)
    assert (report.interface, report.why, report.error) == (0, "refused", ENOBUFS)
    assert stage.counters()["send_errors"] == 0


def drops_without_mark(ifindex: int, mark: int) -> int:
    """Drops what leaves the interface without a mark, until the returned descriptor is closed."""
    program: list[Line] = [
        load(R1, R1, 8, WORD),  # mark of struct __sk_buff
        move(R0, TCX_NEXT),
        jump_if(R1, "==", mark, "out"),
        move(R0, TCX_DROP),
        label("out"),
        leave(),
    ]
    with programs.load(Kind.SCHED_CLS, program) as loaded:
        return loaded.attach(ifindex, Attach.TCX_EGRESS)


# -------------------------------------------------------------------------------------- the whole


def test_a_program_that_cannot_be_run_any_more_costs_no_frame(
    lab_factory: Callable[..., Lab], opened: ExitStack
) -> None:
    a, b = lab_of(lab_factory).hosts
    stage = Stage(a, "packet", opened, clones=True)
    assert stage.clones is not None
    add_hosts(stage)
    stage.run_until(lambda: stage.pump.facts.clones >= 4 * HOSTS, "clones are trusted")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), stage.clones.program_fd)
    before = stage.pump.facts
    with every_frame(b) as far:
        list(read_all(far))
        counted = sent(stage)
        stage.run_until(lambda: sent(stage) >= counted + 8 * HOSTS, "all advertise on")
        heard = sum(is_carp(frame) for kind, frame in read_all(far) if kind in VHID_AT)
    assert heard >= sent(stage) - counted
    (report,) = given_up(stage)
    assert (report.interface, report.why, report.error) == (None, "run", EINVAL)
    facts = stage.pump.facts
    assert facts.clone_runs_failed == 3
    assert not stage.pump.sends_clones()
    assert not stage.pump.sends_clones(0)
    assert facts.clones == before.clones
    assert stage.counters()["send_errors"] == 0
