"""Lanes for genuine sources: what a drop proves, who is told, and what becomes of the filters."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from carp_fast.engine._lanes import LaneJudge
from carp_fast.net import lanes, sockets
from carp_fast.net.filters import SKF_AD_PROTOCOL, Instruction
from carp_fast.net.kernel import PACKET_FANOUT, SOL_PACKET
from carp_fast.net.lane_filters import PLACES
from carp_fast.net.lanes import (
    FORGET_AFTER_S,
    SOURCES_AN_INTERFACE,
    Lanes,
    LaneSockets,
)
from tests.support.bpf import run
from tests.support.segment import GROUP, SECOND_NS, START_NS, advertisement, ip

MASTER, OTHER = ip("10.77.0.1"), ip("10.77.0.3")

# --------------------------------------------------------------------------------------- a judge


def test_a_drop_proves_nothing_in_the_genuine_lane_and_never_among_strays() -> None:
    for coverage in ("nobody", "some", "all"):
        judge = LaneJudge(coverage)
        assert judge.proves_nothing("genuine", START_NS)
        assert not judge.proves_nothing("stray", START_NS)


def test_a_drop_in_the_common_lane_counts_unless_all_that_are_genuine_have_theirs() -> None:
    assert not LaneJudge("all").proves_nothing("common", START_NS)
    assert LaneJudge("some").proves_nothing("common", START_NS)
    assert LaneJudge("nobody").proves_nothing("common", START_NS)
    alone = LaneJudge("all", sorting=False)  # there is but one socket
    assert alone.proves_nothing("common", START_NS)


def test_a_source_that_was_just_found_may_still_be_beside_its_lane() -> None:
    judge = LaneJudge("all")
    assert judge.finds(advertisement(), START_NS)
    assert judge.proves_nothing("common", START_NS + SECOND_NS - 1)
    assert not judge.proves_nothing("common", START_NS + SECOND_NS)


@pytest.mark.parametrize("coverage", ["nobody", "all"])
def test_a_source_that_python_has_not_sorted_yet_may_be_beside_its_lane_however_long(
    coverage: str,
) -> None:
    """The process was stopped, or Python is busy."""
    judge, minute_ns = LaneJudge(coverage), 60 * SECOND_NS
    assert judge.finds(advertisement(), START_NS)
    judge.tell()
    for after in range(1, 4):
        at = START_NS + after * minute_ns
        assert judge.proves_nothing("common", at)
        assert judge.heard_until(at, START_NS, at) == START_NS
    judge.settle()
    at = START_NS + 5 * minute_ns
    assert judge.proves_nothing("common", at) == (coverage == "nobody")
    if coverage == "all":
        assert judge.heard_until(at, START_NS, at) == at - SECOND_NS // 4


def test_where_nobody_is_known_drops_postpone_for_a_time_and_not_for_ever() -> None:
    judge, at = LaneJudge("nobody"), START_NS
    for _ in range(30):
        assert judge.proves_nothing("common", at)
        at += SECOND_NS
    for _ in range(100):
        assert not judge.proves_nothing("common", at)
        at += SECOND_NS
    # From then on what waits behind strangers is not waited for either.
    assert judge.heard_until(at, START_NS, at) == at - SECOND_NS // 4
    # After as long without a drop it is another flood.
    assert judge.proves_nothing("common", at + 31 * SECOND_NS)
    # Where some have no room in the lane, they may live.
    some = LaneJudge("some")
    assert all(some.proves_nothing("common", START_NS + i * SECOND_NS) for i in range(100))


def test_filters_that_change_while_nobody_is_known_do_not_begin_that_time_again() -> None:
    judge, at = LaneJudge("nobody"), START_NS
    for _ in range(30):
        assert judge.proves_nothing("common", at)
        judge.cover("nobody")  # an interface has come or gone, or a group
        at += SECOND_NS
    assert not judge.proves_nothing("common", at)
    judge.cover("nobody")
    assert judge.heard_until(at, START_NS, at) == at - SECOND_NS // 4
    # Once a source has been known, it is another time without one.
    judge.cover("all")
    judge.cover("nobody")
    assert judge.proves_nothing("common", at)


def test_a_backlog_of_strangers_holds_up_a_take_over_for_a_quarter_second_at_most() -> None:
    now = START_NS + 10 * SECOND_NS
    for genuine, common, until in (
        (now, now - SECOND_NS // 10, now - SECOND_NS // 10),
        (now, START_NS, now - SECOND_NS // 4),
        (START_NS, now, START_NS),
    ):
        assert LaneJudge("all").heard_until(genuine, common, now) == until
        for coverage in ("some", "nobody"):
            assert LaneJudge(coverage).heard_until(genuine, common, now) == min(genuine, common)


def test_a_genuine_source_is_told_once_a_second() -> None:
    judge, frame = LaneJudge("nobody"), advertisement(source="10.77.0.1")
    assert not judge.finds(frame, START_NS, genuine=False)
    assert judge.finds(frame, START_NS)
    assert not judge.finds(frame, START_NS + SECOND_NS - 1)
    assert judge.finds(frame, START_NS + SECOND_NS)
    # Another source, family or interface is another one.
    assert judge.finds(advertisement(source="10.77.0.2"), START_NS + SECOND_NS)
    assert judge.finds(advertisement(source="fe80::1"), START_NS + SECOND_NS)
    assert judge.finds(frame, START_NS + SECOND_NS, interface=1)


def test_a_turn_tells_a_bounded_number_of_sources() -> None:
    judge = LaneJudge("nobody")
    frames = [advertisement(source=f"10.77.{i}.1") for i in range(100)]
    assert sum(judge.finds(frame, START_NS) for frame in frames) == 32
    judge.begin_turn()
    assert sum(judge.finds(frame, START_NS) for frame in frames) == 32


# -------------------------------------------------------------------------------------- the filters


class Recorded:
    """A socket that writes down the programs it is given; `longest` is what its kernel takes."""

    def __init__(self, longest: int = 4096) -> None:
        self.longest = longest
        self.options: list[tuple[int, int]] = []
        self.closed = False

    def fileno(self) -> int:
        return 9

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        if isinstance(value, bytes) and int.from_bytes(value[:2], "little") > self.longest:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        self.options.append((level, name))

    def getsockopt(self, level: int, name: int) -> int:
        return 1 << 30 if level == socket.SOL_SOCKET else 5

    def close(self) -> None:
        self.closed = True


class Bench:
    """Lanes on recorded sockets; `programs` is what each got, oldest first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: str, longest: int = 4096) -> None:
        self.opened: list[dict[str, Recorded]] = []
        self.programs: list[tuple[Recorded, list[Instruction]]] = []
        self.coverage: list[str] = []

        def open_receivers(path: str, rate: float) -> Any:
            kinds = ("packet",) if path == "packet" else ("raw4", "raw6")
            self.opened.append({kind: Recorded(longest) for kind in kinds})
            return self.opened[-1]

        def attach(sock: Any, program: list[Instruction], option: Any = None) -> None:
            sock.setsockopt(
                *(option or (socket.SOL_SOCKET, 26)), len(program).to_bytes(2, "little")
            )
            self.programs.append((sock, program))

        monkeypatch.setattr(sockets, "open_receivers", open_receivers)
        monkeypatch.setattr(sockets, "attach_filter", attach)
        monkeypatch.setattr(lanes, "attach_filter", attach)
        self.settled: list[int] = []
        self.sockets = LaneSockets(path, 10)
        self.lanes = Lanes(self.sockets, self.coverage.append, self.settled.append)
        self.by_lane = dict(zip(PLACES, self.opened, strict=True))

    def use(self, *ifindexes: int) -> None:
        self.lanes.use(list(ifindexes), {GROUP}, set())

    def lane(self, source: bytes, ifindex: int = 7) -> str:
        """Where the newest program of the group sends an advertisement."""
        common = self.by_lane["common"]["packet"]
        program = [
            program
            for sock, program in self.programs
            if sock is common and program[0][3] == SKF_AD_PROTOCOL
        ][-1]
        frame = advertisement(source=socket.inet_ntoa(source))
        place = run(program, frame[14:], ifindex)[0]
        return next(lane for lane, each in PLACES.items() if each == place)


def in_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


async def sorted_again(bench: Bench, times: int) -> None:
    """Waits until the filters were changed so often."""
    async with asyncio.timeout(10):
        while len(bench.coverage) < times:
            await asyncio.sleep(0.001)


def test_a_source_that_is_learned_gets_its_lane_and_the_pump_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        bench = Bench(monkeypatch, "packet")
        bench.use(7)
        assert bench.lane(MASTER) == "common"
        bench.lanes.learn(7, MASTER)
        bench.lanes.learn(7, OTHER)
        bench.lanes.learn(8, MASTER)  # of an interface that is not ours any more
        await sorted_again(bench, 2)
        assert bench.coverage == ["nobody", "all"]
        assert bench.lane(MASTER) == bench.lane(OTHER) == "genuine"
        assert bench.lane(MASTER, 8) == "common"
        bench.lanes.learn(7, MASTER)  # known
        bench.use(8)  # what was learned of an interface goes with it
        assert bench.lane(MASTER) == "common"
        assert bench.coverage == ["nobody", "all", "nobody"]

    in_loop(scenario)


def test_what_is_learned_is_settled_when_the_filters_know_it_and_at_once_where_they_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        bench = Bench(monkeypatch, "packet")
        bench.use(7)
        bench.settled.clear()
        bench.lanes.learn(7, MASTER)
        bench.lanes.learn(7, MASTER)  # known, but not to the filters yet
        bench.lanes.learn(8, MASTER)
        assert bench.settled == []
        await sorted_again(bench, 2)
        assert bench.settled == [3]
        bench.lanes.learn(7, MASTER)
        bench.lanes.learn(8, MASTER)  # no interface of ours: it never gets a lane
        assert bench.settled == [3, 4, 5]
        bench.lanes.learn(7, OTHER)
        bench.lanes.learn(7, MASTER)
        assert bench.settled == [3, 4, 5]
        await sorted_again(bench, 3)
        assert bench.settled == [3, 4, 5, 7]

    in_loop(scenario)


def test_what_has_no_room_for_a_lane_is_settled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bench = Bench(monkeypatch, "packet")
        bench.use(7)
        for i in range(2 * SOURCES_AN_INTERFACE + 1):
            bench.lanes.learn(7, bytes((10, 0, 0, i)))
        async with asyncio.timeout(10):
            while bench.settled[-1] != 2 * SOURCES_AN_INTERFACE + 1:
                await asyncio.sleep(0.001)
        assert bench.coverage[-1] == "some"

    in_loop(scenario)


def test_the_packet_sockets_are_one_group_in_the_order_of_their_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, "packet")
    for lane in PLACES:
        assert (SOL_PACKET, PACKET_FANOUT) in bench.by_lane[lane]["packet"].options
    assert [each[2] for each in bench.sockets.receivers] == ["genuine", "common", "stray"]
    assert bench.lanes.joining is not None
    bench.sockets.close()
    assert all(each["packet"].closed for each in bench.opened)


def test_raw_sockets_take_more_before_others_take_less(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bench = Bench(monkeypatch, "raw")
        assert bench.lanes.joining is None

        def order() -> list[str]:
            names = {id(sock): lane for lane in PLACES for sock in bench.by_lane[lane].values()}
            return [names[id(sock)] for sock, _ in bench.programs[-6:]]

        bench.use(7)
        bench.lanes.learn(7, MASTER)
        await sorted_again(bench, 2)
        assert order() == ["genuine"] * 2 + ["common"] * 2 + ["stray"] * 2
        for i in range(SOURCES_AN_INTERFACE):
            bench.lanes.learn(7, bytes((10, 0, 0, i)))
        # Full: begun anew, and taken back from the genuine lane last.
        assert order() == ["stray"] * 2 + ["common"] * 2 + ["genuine"] * 2

    in_loop(scenario)


def test_where_more_are_genuine_than_have_room_the_first_keep_their_lane(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        bench = Bench(monkeypatch, "packet")
        bench.use(7, 8)
        bench.lanes.learn(8, OTHER)
        many = [bytes((10, 0, i >> 8, i & 255)) for i in range(2 * SOURCES_AN_INTERFACE + 2)]
        for source in many:
            bench.lanes.learn(7, source)
        await sorted_again(bench, 4)
        # Once all of the interface are forgotten; then there is no room, which is said once.
        assert bench.coverage == ["nobody", "all", "some", "some"]
        assert bench.lane(OTHER, 8) == "genuine"
        assert bench.lane(many[0]) == "common"
        assert bench.lane(many[SOURCES_AN_INTERFACE]) == "genuine"
        assert bench.lane(many[-1]) == "common"
        assert len(caplog.messages) == 1
        assert f"{SOURCES_AN_INTERFACE} per interface" in caplog.text
        # Later they are learned anew: those that are gone make room.
        loop = asyncio.get_running_loop()
        later = loop.time() + FORGET_AFTER_S
        monkeypatch.setattr(loop, "time", lambda: later)
        bench.lanes.learn(7, many[-1])
        assert bench.coverage[-1] == "all"

    in_loop(scenario)


@pytest.mark.parametrize(("path", "longest"), [("packet", 90), ("raw", 70)])
def test_without_room_for_a_program_all_are_heard_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str, longest: int
) -> None:
    async def scenario() -> None:
        bench = Bench(monkeypatch, path, longest)
        bench.use(7)
        for i in range(40):
            bench.lanes.learn(7, bytes((10, 0, 0, i)))
        await sorted_again(bench, 2)
        assert bench.coverage == ["nobody", "some"]
        assert "no genuine lane for 40 genuine sources" in caplog.text
        assert "Cannot allocate memory, see net.core.optmem_max" in caplog.text
        if path == "packet":
            assert bench.lane(bytes((10, 0, 0, 1))) == "common"

    with caplog.at_level(logging.WARNING, "carp_fast.net.lanes"):
        in_loop(scenario)


def test_what_another_process_has_learned_has_its_lane_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        former, bench = Bench(monkeypatch, "packet"), Bench(monkeypatch, "packet")
        former.use(7)
        former.lanes.learn(7, MASTER)
        former.lanes.learn(7, OTHER)
        assert former.lanes.sources == {7: sorted([MASTER, OTHER])}
        bench.use(7)
        bench.lanes.go_on({**former.lanes.sources, 9: [MASTER]})  # one is not in use here
        assert bench.coverage == ["nobody", "all"]
        assert bench.settled[-1] == 0, "this process has learned none"
        assert bench.lanes.sources == former.lanes.sources
        assert bench.lane(OTHER) == "genuine"
        former.lanes.close()

    in_loop(scenario)


def test_a_successor_gets_what_tcx_takes_on_every_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Taker:
        mark = 1
        ifindexes: frozenset[int] = frozenset()

        def __init__(self) -> None:
            self.shared: list[set[int]] = []

        def share(self, ifindexes: dict[int, str]) -> None:
            self.shared.append(set(ifindexes))

        def attach(self, ifindex: int) -> None:
            """Does nothing."""

        def know(self, sources: object) -> bool:
            return True

    async def scenario() -> None:
        bench = Bench(monkeypatch, "raw")
        taker: Any = Taker()
        bench.sockets.tcx = taker
        bench.lanes.use([7, 8], {GROUP}, set(), shared={8: "a VLAN"})
        bench.lanes.share_all("a successor listens, too")
        bench.lanes.use([7, 8, 9], {GROUP}, set(), shared={8: "a VLAN"})
        bench.lanes.share_all(None)
        assert taker.shared == [{8}, {7, 8}, {7, 8, 9}, {8}]

    in_loop(scenario)
