"""Lanes on real sockets: who is known is heard through a flood, and no frame is heard twice.

A pump without a thread, run turn by turn in a host's namespace, on the sockets that the daemon
opens. Where the common lane is to overflow its buffer is the least there is, so that few frames do.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from carp_fast.bpf.programs import Attach, Kind, load
from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine.reports import Done, Report, SocketDropped, SourceProven
from carp_fast.inet import mac_bytes
from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.net import addresses, drivers, sockets
from carp_fast.net.lanes import Lanes, LaneSockets, buffer_bytes
from carp_fast.net.memberships import Joins
from carp_fast.net.rings import ring_program
from carp_fast.net.sockets import FRAME_TRUESIZE
from carp_fast.net.tcx import RINGS, tcx_program
from carp_fast.pump._pump import Pump
from tests.support.daemons import start_daemon, write_configuration
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    GROUP,
    GROUP6,
    PASSPHRASE,
    VHID,
    behind_extension,
    carp_header,
    in_fragments4,
    in_fragments6,
    ip,
    ipv4_frame,
    ipv6_frame,
    with_tag,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths(
        "send", "receive", "hold", reason="each test has its receive path, and nothing is compared"
    ),
]

DEADLINE_S = 60.0
FAST: dict[str, Any] = {"advbase": 0, "advskew": 128, "dead_ratio": 3}  # master-down after 1.5 s
MASTER_DOWN_S = 1.5
SETTLED_NS = 1_000_000_000  # until a source that was told is taken to have its lane
BOTH = ((ADDRESS, 32), (ADDRESS6, 128))
SIGNED: dict[str, Any] = {"addresses": (ADDRESS, ADDRESS6)}
MASTER, MASTER6 = "10.1.0.2", "fe80::b"
STRANGER = "10.1.0.99"
PATHS = pytest.mark.parametrize("path", ["packet", "ring", "raw", "tcx"])


class Stage:
    """A pump on host a, whose interface s1 has number 0, with the daemon's lanes; b sends."""

    def __init__(self, lab: Lab, path: str, opened: ExitStack) -> None:
        a, b = lab.hosts
        for host in (a, b):
            host.run(f"ip -6 addr add fe80::{host.name}/64 dev s1 nodad".split())
        with a.inside():
            self.sockets = LaneSockets(path, 10)
            own, netlink = sockets.open_sender(), sockets.open_netlink()
            joins = Joins(self.sockets.joining)
            self.ifindex = socket.if_nametoindex("s1")
            joins.join("s1", self.ifindex, {GROUP, GROUP6})
        with b.inside():
            self.sender = opened.enter_context(sockets.open_sender())
        self.opened, self.host = opened, a
        for each in (self.sockets, joins):
            opened.callback(each.close)
        for sock in (own, netlink):
            opened.enter_context(sock)
        self.pump = Pump(
            self.sockets.receivers, own.fileno(), netlink.fileno(), addresses.templates()
        )
        self.coverage: list[str] = []
        self.lanes = Lanes(self.sockets, self.cover, self.pump.settle_sources)
        opened.callback(self.lanes.close)
        self.inside(lambda: self.lanes.use([self.ifindex], {GROUP, GROUP6}, set()))
        self.reports: list[Report] = []
        (link,) = json.loads(a.run(["ip", "-j", "link", "show", "s1"]).stdout)
        self.pump.set_interface(
            0,
            ifindex=self.ifindex,
            up=True,
            mac=mac_bytes(link["address"]),
            source=ip(a.address(1)),
            source6=ip("fe80::a"),
        )
        self.pump.add(
            0,
            PreparedHost(interface=0, vhid=VHID, addresses=BOTH, passphrase=PASSPHRASE, **FAST),
        )
        self.pump.mark()
        self.turn()

    def inside(self, act: Callable[[], Any]) -> Any:
        """Acts in the namespace of the host, where the kernel looks for its interfaces."""
        with self.host.inside():
            return act()

    def cover(self, coverage: str) -> None:
        self.coverage.append(coverage)
        self.pump.cover(coverage)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.sender.sendto(frame, ("s1", 0))

    def turn(self) -> None:
        """A turn, and what the daemon does with the reports of it."""
        self.pump.run_due()
        for report in self.pump.take_reports():
            if not isinstance(report, Done):
                self.reports.append(report)
            if isinstance(report, SourceProven):
                self.lanes.learn(report.ifindex, report.source)

    async def until(self, holds: Callable[[], object], what: str) -> None:
        end_at = time.monotonic() + DEADLINE_S
        while not holds():
            late = f"not within {DEADLINE_S} s: {what}; {self.reports[-20:]}"
            assert time.monotonic() < end_at, late
            self.turn()
            await asyncio.sleep(0)

    def narrow(self, lane: str) -> None:
        """The least room there is for a lane; for 20 frames in a ring."""
        rings, tcx = self.sockets.rings, self.sockets.tcx
        if rings is not None and tcx is not None:
            most = {each: 20 if each == lane else 1 << 10 for each in RINGS}
            with load(
                Kind.SCHED_CLS, tcx_program(rings, tcx.sources, tcx.shared, most, tcx.mark)
            ) as narrower:
                tcx.detach(self.ifindex)
                fd = self.inside(lambda: narrower.attach(self.ifindex, Attach.TCX_INGRESS))
                self.opened.callback(os.close, fd)
            return
        if rings is not None:
            program = ring_program(*rings.maps(lane), 20)
            with load(Kind.SOCKET_FILTER, program) as narrow:
                narrow.attach_to_socket(self.sockets.by_lane[lane]["packet"])
            return
        for sock in self.sockets.by_lane[lane].values():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)

    def counters(self) -> dict[str, int]:
        snapshot = self.pump.snapshot_interfaces(1)
        self.pump.mark()
        self.turn()
        return {word: count for word, count in snapshot.counters()[0].items() if count}

    def state(self) -> str:
        snapshot = self.pump.snapshot(0, 1)
        self.pump.mark()
        self.turn()
        ((_, fields),) = snapshot.hosts()
        return str(fields.state)

    def drops(self, counted: bool) -> int:
        """Frames whose drop was told, and that silence proves nothing by, or does all the same."""
        dropped = [each for each in self.reports if isinstance(each, SocketDropped)]
        return sum(each.frames for each in dropped if each.waits_anew == counted)

    def proven(self) -> list[SourceProven]:
        return [each for each in self.reports if isinstance(each, SourceProven)]


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def from_master(counter: int) -> tuple[bytes, bytes]:
    """An advertisement of each family, faster than ours."""
    carp: dict[str, Any] = {**SIGNED, "counter": counter, "advbase": 0, "advskew": 64}
    return (
        ipv4_frame(carp_header(**carp), source=ip(MASTER)),
        ipv6_frame(carp_header(**carp), source=ip(MASTER6)),
    )


def from_stranger(source: str = STRANGER) -> bytes:
    return ipv4_frame(carp_header(**SIGNED, passphrase=b"other"), source=ip(source))


def in_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


async def learned(stage: Stage, counter: int = 1) -> None:
    """The master is known over both families, or the packet that comes next is."""
    stage.send(*from_master(counter))
    told = [ip(MASTER), ip(MASTER6)]
    await stage.until(
        lambda: (
            sorted(each.source for each in stage.proven()) == sorted(told)
            and stage.coverage[-1] == "all"
        ),
        "both sources have their lane",
    )
    settled_ns = max(each.at_ns for each in stage.proven()) + SETTLED_NS
    await stage.until(lambda: time.monotonic_ns() > settled_ns, "the pump counts on it")


@PATHS
def test_a_flood_keeps_no_backup_from_hearing_its_master_nor_from_taking_over(
    lab_factory: Callable[..., Lab], opened: ExitStack, path: str
) -> None:
    stage = Stage(lab_factory(segments=1, ipv6=True), path, opened)

    async def scenario() -> None:
        await learned(stage)
        stage.narrow("common")
        counter, heard_at = 1, 0.0
        alive_until = time.monotonic() + 2 * MASTER_DOWN_S
        # Each turn strangers overflow their lane; the master is heard, and nothing happens.
        while time.monotonic() < alive_until:
            counter += 1
            heard_at = time.monotonic()  # or later, as sending takes a while
            stage.send(*[from_stranger()] * 50, *from_master(counter))
            stage.turn()
            assert stage.state() == "BACKUP"
        assert stage.drops(counted=False) > 0
        assert stage.drops(counted=True) == 0
        assert stage.counters()["advertisements_heard"] == 2 * counter
        # The master is gone, the flood goes on.
        before = stage.pump.facts.dropped

        def risen() -> bool:
            stage.send(*[from_stranger()] * 50)
            return stage.state() == "MASTER"

        await stage.until(risen, "MASTER though strangers' frames are dropped")
        assert time.monotonic() - heard_at >= MASTER_DOWN_S
        assert stage.pump.facts.dropped > before
        assert stage.drops(counted=True) == 0

    in_loop(scenario)


@PATHS
def test_a_drop_counts_while_nobody_is_known(
    lab_factory: Callable[..., Lab], opened: ExitStack, path: str
) -> None:
    stage = Stage(lab_factory(segments=1, ipv6=True), path, opened)

    async def scenario() -> None:
        stage.narrow("common")
        stage.send(*[from_stranger()] * 100)
        await stage.until(lambda: stage.drops(counted=True), "what may have been a master's")
        assert stage.drops(counted=False) == 0

    in_loop(scenario)


@PATHS
def test_a_drop_counts_where_a_stranger_forges_the_masters_source(
    lab_factory: Callable[..., Lab], opened: ExitStack, path: str
) -> None:
    stage = Stage(lab_factory(segments=1, ipv6=True), path, opened)

    async def scenario() -> None:
        await learned(stage)
        stage.narrow("genuine")
        stage.send(*[from_stranger(MASTER)] * 100)
        await stage.until(lambda: stage.drops(counted=True), "it shares the master's lane")
        assert stage.drops(counted=False) == 0

    in_loop(scenario)


@PATHS
def test_while_a_source_is_learned_each_of_its_frames_comes_in_once(
    lab_factory: Callable[..., Lab], opened: ExitStack, path: str
) -> None:
    stage = Stage(lab_factory(segments=1, ipv6=True), path, opened)

    async def scenario() -> None:
        counter, after = 0, 0

        def sorted_and_some() -> bool:
            nonlocal counter, after
            counter += 1
            stage.send(*from_master(counter))
            after += stage.coverage[-1] == "all"
            return after == 20

        await stage.until(sorted_and_some, "advertisements before and after the master is known")
        await stage.until(
            lambda: stage.counters().get("advertisements_heard") == 2 * counter, "all are heard"
        )
        # Neither a replay nor anything else.
        assert stage.counters() == {"advertisements_heard": 2 * counter}

    in_loop(scenario)


@PATHS
def test_what_is_astray_is_counted_by_its_word(
    lab_factory: Callable[..., Lab], opened: ExitStack, path: str
) -> None:
    stage = Stage(lab_factory(segments=1, ipv6=True), path, opened)
    here: dict[str, Any] = {"source": ip(STRANGER)}
    stage.send(
        *from_master(1),
        ipv4_frame(carp_header(**SIGNED), **here, ttl=254),
        ipv6_frame(carp_header(**SIGNED), hop_limit=254),
        ipv4_frame(carp_header(**SIGNED, version=3), **here),
        ipv4_frame(carp_header(**SIGNED, version=1), **here),
        ipv4_frame(carp_header(**SIGNED, kind=2), **here),
        ipv4_frame(bytes((0x21, VHID, 100, 1, 0, 1)) + bytes(14), **here),
        from_stranger(),
    )
    wanted = {
        "advertisements_heard": 2,
        "bad_ttl": 2,
        "bad_version": 2,
        "bad_type": 1,
        "vrrp": 1,
        "bad_auth": 1,
    }

    async def scenario() -> None:
        await stage.until(lambda: stage.counters() == wanted, f"{wanted}, not {stage.counters()}")

    in_loop(scenario)


@PATHS
def test_what_is_for_no_virtual_host_of_ours_is_counted_by_its_word(
    lab_factory: Callable[..., Lab], opened: ExitStack, path: str
) -> None:
    stage = Stage(lab_factory(segments=1, ipv6=True), path, opened)
    other: dict[str, Any] = {**SIGNED, "vhid": VHID + 1}
    here: dict[str, Any] = {"source": ip(STRANGER)}
    frames = [
        ipv4_frame(carp_header(**other), **here),
        ipv6_frame(carp_header(**other)),
        ipv4_frame(carp_header(**other), **here, destination=ip("10.1.0.1"), ttl=3),
        ipv4_frame(carp_header(**other), **here, ttl=254),
        ipv6_frame(carp_header(**other), hop_limit=254),
        ipv4_frame(carp_header(**other, version=3), **here),
        ipv4_frame(carp_header(**other, version=1), **here),
        ipv4_frame(carp_header(**other, kind=2), **here),
        ipv4_frame(carp_header(**other, checksum_error=1), **here),
        ipv4_frame(bytes((0x21, VHID + 1, 100, 1, 0, 1)) + bytes(14), **here),
        ipv4_frame(carp_header(**other)[:20], **here),
    ]
    stage.send(*frames * 20, *from_master(1))
    wanted = {
        "advertisements_heard": 2,
        "bad_vhid": 60,
        "bad_ttl": 40,
        "vrrp": 40,
        "bad_version": 20,
        "bad_type": 20,
        "bad_checksum": 20,
        "bad_length": 20,
    }

    async def scenario() -> None:
        await stage.until(lambda: stage.counters() == wanted, f"{wanted}, not {stage.counters()}")
        in_all = sum(wanted.values())
        facts = stage.pump.facts
        assert facts.frames + facts.refused_by_filter == in_all
        assert (facts.refused_by_filter > in_all // 2) is (path == "ring")
        snapshot = stage.pump.snapshot_interfaces(1)
        stage.pump.mark()
        stage.turn()
        shown = {each.verdict for each in snapshot.rejections()[0]}
        if path == "ring":  # of the others it is the last ones
            assert shown == wanted.keys() - {"advertisements_heard"}, "each word with a source"

    in_loop(scenario)


@PATHS
def test_what_is_judged_does_not_depend_on_the_path(
    lab_factory: Callable[..., Lab], opened: ExitStack, path: str
) -> None:
    stage = Stage(lab_factory(segments=1, ipv6=True), path, opened)

    def carp(counter: int) -> bytes:
        return carp_header(**SIGNED, counter=counter, advbase=0, advskew=64)

    four: dict[str, Any] = {"source": ip(MASTER)}
    six: dict[str, Any] = {"source": ip(MASTER6)}
    heard = [
        with_tag(ipv4_frame(carp(1), **four), 0xA000),  # a priority, of no VLAN
        with_tag(ipv6_frame(carp(2), **six), 0x0000),
        ipv4_frame(carp(3), **four, options=b"\x01" * 4),
    ]
    of_a_vlan = [
        with_tag(ipv4_frame(carp(4), **four), 0xA005),
        with_tag(ipv6_frame(carp(5), **six), 5),
    ]
    whole_by_raw = [in_fragments4(carp(6), **four), in_fragments6(carp(7), **six)]
    extended = [behind_extension(carp(8), kind, **six) for kind in (0, 60)]
    too_far = behind_extension(bytes((112, 0, 1, 4)) + bytes(4) + carp(9), 60, following=60, **six)
    fragments = [each for pair in whole_by_raw for each in pair]
    stage.send(*heard, *of_a_vlan, *fragments, *extended, too_far, *from_master(10))
    # A raw socket gets a packet of two fragments as one.
    refused = len(whole_by_raw if path in ("raw", "tcx") else fragments) + len(extended)
    wanted = {"advertisements_heard": 5, "bad_length": refused}

    async def scenario() -> None:
        await stage.until(lambda: stage.counters() == wanted, f"{wanted}, not {stage.counters()}")
        # Of sources that have the genuine lane by now, too.
        await learned(stage, 11)
        tagged = [with_tag(each, 0xE000) for each in from_master(12)]
        stage.send(*tagged, *of_a_vlan, *fragments, *extended, too_far, *from_master(13))
        more = {"advertisements_heard": 11, "bad_length": 2 * refused}
        await stage.until(lambda: stage.counters() == more, f"{more}, not {stage.counters()}")

    in_loop(scenario)


def arrived(host: Host) -> int:
    """Frames that have come to the host's first segment."""
    with host.inside():
        return drivers.counters()["s1"].received


@pytest.mark.alone
@PATHS
def test_a_daemon_takes_over_while_strangers_flood_it(
    lab_factory: Callable[..., Lab], path: str
) -> None:
    lab = lab_factory(hosts=("a", "b", "c"), segments=1, medium="bridge")
    a, b, c = lab.hosts
    table = {"interface": "s1", "vhid": 1, "addresses": ["10.1.1.1/32"]}
    master = start_daemon(a, write_configuration(lab.directory, "a", [{**table, "advskew": 0}]))
    master.wait_state("MASTER", DEADLINE_S)
    file = write_configuration(
        lab.directory, "b", [{**table, "advskew": 100}], daemon={"receive": path}
    )
    backup = start_daemon(b, file)
    wait_for(
        lambda: backup.counters("s1", 1)["advertisements_heard"] >= 3, DEADLINE_S, "heard thrice"
    )
    command = "-m carp_fast flood -i s1 --vhid 1 --address 10.1.1.1 --mix bad_auth=1 --rate max"
    arguments = f"{command} --duration 60 --backend sendmmsg".split()
    flood = c.start([sys.executable, *arguments])
    wait_for(
        lambda: backup.counters("s1", 1)["bad_auth"] > 10_000, DEADLINE_S, "the flood is heard"
    )
    assert backup.states() == {("s1", 1): "BACKUP"}
    heard = backup.counters("s1", 1)["advertisements_heard"]
    wait_for(
        lambda: backup.counters("s1", 1)["advertisements_heard"] > heard + 2,
        DEADLINE_S,
        "the master is heard through the flood",
    )
    # What does not fit is dropped while it does not read, and is known to be strangers'.
    more_than_fit = 2 * buffer_bytes("common") // FRAME_TRUESIZE
    full_at = arrived(b) + more_than_fit
    backup.process.signal(signal.SIGSTOP)
    wait_for(lambda: arrived(b) > full_at, DEADLINE_S, "strangers fill their lane")
    backup.process.signal(signal.SIGCONT)
    backup.wait_log("frames of unknown sources", DEADLINE_S)
    master.process.kill()
    backup.wait_state("MASTER", DEADLINE_S)
    assert flood.alive()
    assert not backup.log_lines("frames: every BACKUP waits")
    # Twice at most within ten seconds of its beginning, and each ten seconds.
    assert len(backup.log_lines("frames of unknown sources")) <= 5
    assert backup.counters("s1", 1)["became_master"] == 1
