"""The daemon's receive sockets in three lanes, filtered by which sources were genuine.

A stranger can fill a socket, and the kernel then drops frames of any source. So a frame that cannot
be an advertisement for this host is *stray*: it is read last, only to be counted. Frames of sources
that were genuine on their interface have the *genuine* lane, where strangers cannot displace them.
All other frames are *common*. Each lane has its own sockets with their own buffers. Must not know
the engine, virtual hosts, or a digest: the pump reports which sources are genuine.

On the packet path the three sockets are one fanout group: the host's packets pass one tap, a
program selects the socket for each, and no packet is delivered twice while the program changes. On
the ring path they are the same, and the filter of each puts its frames into a ring (rings.py). A
raw socket sees all of protocol 112, and its filter accepts what belongs to its lane. On the tcx
path a program puts advertisements into rings before the network stack sees them (tcx.py), and raw
sockets hear the rest; packet sockets stand by for the ring path.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping

from carp_fast.closing import Closing
from carp_fast.engine._lanes import COVERAGE_WORDS, LANE_WORDS
from carp_fast.net import sockets
from carp_fast.net.filters import NOTHING, Instruction, attach_filter, packet_filter
from carp_fast.net.interfaces import name_of
from carp_fast.net.kernel import PACKET_FANOUT, PACKET_FANOUT_DATA, SOL_PACKET
from carp_fast.net.lane_filters import (
    ARRIVING,
    PLACES,
    RAW_INTERFACES_MAX,
    SOURCES_MAX,
    UNTAGGED,
    Known,
    fanout_program,
    raw_program,
)
from carp_fast.net.rings import Memory, RingError, Rings, slots_by_lane
from carp_fast.net.tcx import Tcx, TcxError

logger = logging.getLogger(__name__)

GENUINE, COMMON, STRAY = LANE_WORDS
NOBODY, SOME, ALL = COVERAGE_WORDS

# A buffer holds what a flood brings while the pump does other work; 300,000 frames/s of 70 bytes,
# or 100,000/s of 1,514, take some 230 MB/s. Each may take a sixteenth of the machine's memory.
BUFFERS = {GENUINE: 64 << 20, COMMON: 16 << 20, STRAY: 1 << 18}
MEMORY_SHARE = 16

SOURCES_AN_INTERFACE = 64
FORGET_AFTER_S = 600.0  # minimum time between two restarts of a full list
SORT_DELAY_S = 0.02  # sources learned within this time share one change of the program

NOT_SHARED: Mapping[int, str] = {}

FANOUT_CBPF, FANOUT_UNIQUE, FANOUT_IGNORE_OUTGOING = 6, 0x2000, 0x4000  # the last: kernel 6.2


def buffer_bytes(lane: str) -> int:
    """The receive buffer of a lane's socket in bytes, at most 1/MEMORY_SHARE of all memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(BUFFERS[lane], memory // MEMORY_SHARE)


class LaneSockets(Closing):
    """The sockets of the three lanes, which the pump reads.

    They receive nothing before Lanes.use(). `path`: "packet", "ring", "raw" or "tcx"; `by_lane`:
    {lane: {kind: socket}}; `rings`: those of the ring and tcx paths; `tcx`: the program of the tcx
    path, until fall_back(). Raises OSError, RingError, TcxError.
    """

    def __init__(self, path: str, advertisements_per_s: float) -> None:
        self.by_lane: dict[str, dict[str, socket.socket]] = {}
        self.rings: Rings | None = None
        self.tcx: Tcx | None = None
        self._standby: dict[str, dict[str, socket.socket]] = {}
        self._former: dict[str, dict[str, socket.socket]] = {}  # the pump still reads them
        self._joins_by_ip = path in ("raw", "tcx")
        try:
            if path in ("ring", "tcx"):
                slots = slots_by_lane(advertisements_per_s)
                self.rings = Rings(slots, wakers=path == "tcx")
            for lane in PLACES:  # the order of joining determines the places in the group
                kind = "raw" if path == "tcx" else path
                self.by_lane[lane] = sockets.open_receivers(kind, advertisements_per_s)
                if path == "tcx":  # a ring has the time itself
                    standby = sockets.open_receiver(advertisements_per_s, 0, stamped=False)
                    self._standby[lane] = {"packet": standby}
                for sock in self.by_lane[lane].values():
                    sockets.enlarge(sock, buffer_bytes(lane))
            if path in ("packet", "ring"):
                self._group(self.by_lane)
            if self.rings is not None:
                packet = self._standby or self.by_lane
                for lane, receivers in packet.items():
                    self.rings.attach(lane, receivers["packet"])
                if path == "tcx":
                    self.tcx = Tcx(self.rings)
                    for receivers in self._standby.values():
                        attach_filter(receivers["packet"], NOTHING)
        except (OSError, RingError):
            self.close()
            raise

    @property
    def receivers(self) -> list[tuple[str, int, str] | tuple[str, int, str, Memory]]:
        """(kind, file descriptor, lane) of each socket, and the memory of a ring, in the form that
        the pump takes.
        """
        every = [
            (kind, sock.fileno(), lane)
            for lane in LANE_WORDS
            for kind, sock in self.by_lane[lane].items()
        ]
        rings = self.rings
        if rings is None:
            return [*every]
        if not rings.wakers:
            return [("ring", fd, lane, rings.memory(lane)) for _, fd, lane in every]
        woken = [("ring", rings.wakers[lane].fd, lane, rings.memory(lane)) for lane in LANE_WORDS]
        return [*every, *woken]

    @property
    def joining(self) -> socket.socket | None:
        """The packet socket that joins groups by MAC; None on the raw and tcx paths."""
        return None if self._joins_by_ip else self.by_lane[COMMON].get("packet")

    def fall_back(self) -> None:
        """Turns the tcx path into the ring path: frames in the rings stay there.

        A frame that arrives in between may be lost, none comes in twice. Raises OSError, RingError.
        """
        rings, tcx = self.rings, self.tcx
        if rings is None or tcx is None:
            return
        for receivers in self._standby.values():
            sockets.bind_receiver(receivers["packet"])
        self._group(self._standby)
        # Up to here nothing has changed if something fails.
        for receivers in self.by_lane.values():
            for sock in receivers.values():
                attach_filter(sock, NOTHING)
        tcx.close()
        self._former, self.by_lane, self._standby = self.by_lane, self._standby, {}
        self.tcx = None
        for lane, receivers in self.by_lane.items():
            rings.attach(lane, receivers["packet"])

    def divide(self, program: list[Instruction]) -> None:
        """Sets the program that selects the socket of the fanout group for a packet. Raises
        OSError.
        """
        divide(self.by_lane, program)

    def close(self) -> None:
        """Closes the sockets and their rings; the pump must have stopped."""
        if self.tcx is not None:
            self.tcx.close()
        for each in (self.by_lane, self._standby, self._former):
            for receivers in each.values():
                for sock in receivers.values():
                    sock.close()
        if self.rings is not None:
            self.rings.close()

    def _group(self, by_lane: dict[str, dict[str, socket.socket]]) -> None:
        """Makes the packet sockets one fanout group that no other process can join by accident."""
        how = FANOUT_CBPF | FANOUT_IGNORE_OUTGOING
        number = 0
        for place, lane in enumerate(PLACES):
            sock = by_lane[lane]["packet"]
            first = FANOUT_UNIQUE if place == 0 else 0
            sock.setsockopt(SOL_PACKET, PACKET_FANOUT, number | (how | first) << 16)
            number = sock.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
        divide(by_lane, fanout_program(Known()))


def divide(by_lane: dict[str, dict[str, socket.socket]], program: list[Instruction]) -> None:
    """Sets the program that selects the socket of a fanout group for a packet. Raises OSError."""
    attach_filter(by_lane[COMMON]["packet"], program, (SOL_PACKET, PACKET_FANOUT_DATA))


class Lanes:
    """Sorts received frames into the lanes by whether their source was genuine.

    `on_sorted` gets a word of COVERAGE_WORDS whenever the filters have changed: whose frames have
    the genuine lane. `on_settled` gets the number of sources learned so far once the filters know
    them all. `on_fallen_back` gets the reason why the tcx path became the ring path.
    """

    def __init__(
        self,
        opened: LaneSockets,
        on_sorted: Callable[[str], None],
        on_settled: Callable[[int], None],
        on_fallen_back: Callable[[str], None] = logger.warning,
    ) -> None:
        self._opened = opened
        self._on_sorted = on_sorted
        self._on_settled = on_settled
        self._on_fallen_back = on_fallen_back
        self._known = Known()
        self._known.mark = opened.tcx.mark if opened.tcx is not None else None
        self._shared: dict[int, str] = {}
        self._wanted_shared: Mapping[int, str] = NOT_SHARED
        self._share_why: str | None = None  # every interface
        self._full = False
        self._learned = 0  # in total, including sources that were known already
        self._forgotten_at: dict[int | None, float] = {}  # by ifindex; None: all interfaces
        self._timer: asyncio.TimerHandle | None = None

    @property
    def joining(self) -> socket.socket | None:
        """The packet socket that joins groups by MAC; None on the raw path."""
        return self._opened.joining

    @property
    def _lanes(self) -> dict[str, dict[str, socket.socket]]:
        return self._opened.by_lane

    def use(
        self,
        ifindexes: list[int],
        groups: Iterable[bytes],
        peers: Iterable[bytes],
        unfit: str | None = None,
        shared: Mapping[int, str] = NOT_SHARED,
    ) -> None:
        """Receives on these interfaces, for these groups and from these unicast peers.

        Groups and peers have 4 or 16 bytes. `unfit`: why the tcx path must not be used on one of
        the interfaces; `shared`: why others want what it takes on an interface, by ifindex.
        """
        self._wanted_shared = shared
        known = self._known
        known.ifindexes = ifindexes
        self._share(shared)
        self._attach_tcx(ifindexes, unfit)
        gone = set(known.sources).difference(ifindexes)
        known.groups, known.peers = set(groups), set(peers)
        for ifindex in gone:
            del known.sources[ifindex]
        packet = self._lanes[COMMON].get("packet")
        if packet is not None and self._opened.rings is None:
            sockets.filter_interfaces({"packet": packet}, ifindexes)
            program = [*ARRIVING, *packet_filter(ifindexes)]
            for lane in (COMMON, STRAY):
                self._attach(
                    self._lanes[lane]["packet"], program, [*ARRIVING, *packet_filter(None)]
                )
            attach_filter(self._lanes[GENUINE]["packet"], UNTAGGED)
        elif packet is None and len(ifindexes) > RAW_INTERFACES_MAX:
            logger.info(
                "not filtering by interface: %d interfaces, at most %d",
                len(ifindexes),
                RAW_INTERFACES_MAX,
            )
        self._sort()

    def _share(self, shared: Mapping[int, str]) -> None:
        """Lets advertisements pass on the tcx path where others want them, too, and logs it."""
        tcx, before = self._opened.tcx, self._shared
        if self._share_why is not None:
            shared = dict.fromkeys(self._known.ifindexes, self._share_why)
        if tcx is None or shared == before:
            return
        tcx.share(shared)
        self._shared = dict(shared)
        for ifindex, why in shared.items():
            if before.get(ifindex) != why:
                logger.info("tcx copies advertisements instead of taking them: %s", why)
        for ifindex, why in before.items():
            if ifindex not in shared:
                logger.info("tcx takes advertisements again, it no longer applies: %s", why)

    def _attach_tcx(self, ifindexes: list[int], unfit: str | None) -> None:
        """Puts the program at the ingress of these interfaces alone, or falls back for good."""
        tcx = self._opened.tcx
        if tcx is None:
            return
        try:
            for ifindex in tcx.ifindexes.difference(ifindexes):
                tcx.detach(ifindex)
            for ifindex in ifindexes if unfit is None else ():
                if name_of(ifindex) is not None:  # it may be gone by now
                    tcx.attach(ifindex)
        except TcxError as error:
            unfit = str(error)
        if unfit is not None:
            self._opened.fall_back()
            self._on_fallen_back(unfit)

    @property
    def sources(self) -> dict[int, list[bytes]]:
        """The sources that were genuine, by ifindex, 4 or 16 bytes each."""
        return {ifindex: sorted(here) for ifindex, here in self._known.sources.items()}

    def go_on(self, sources: Mapping[int, Iterable[bytes]]) -> None:
        """Sorts by the `sources` of another process, those of interfaces in use, from now on."""
        for ifindex in set(sources) & set(self._known.ifindexes):
            self._known.sources[ifindex] = set(sources[ifindex])
        self._sort()

    def share_all(self, why: str | None) -> None:
        """Lets others of this host have the advertisements that tcx takes, on every interface, as
        long as there is a reason why; None: as use() said last.
        """
        self._share_why = why
        self._share(self._wanted_shared)

    def learn(self, ifindex: int, source: bytes) -> None:
        """Adds a source, 4 or 16 bytes, of which a genuine frame came in on the common lane."""
        self._learned += 1
        if self._takes_in(ifindex, source) and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(SORT_DELAY_S, self._sort)
        elif self._timer is None:
            self._on_settled(self._learned)

    def _takes_in(self, ifindex: int, source: bytes) -> bool:
        """Adds a source if it is new, its interface is in use, and there is room; returns whether
        it did.
        """
        sources = self._known.sources
        here = sources.get(ifindex, set())
        if ifindex not in self._known.ifindexes or source in here:
            return False
        if len(here) >= SOURCES_AN_INTERFACE and not self._forget(ifindex):
            return False
        if sum(map(len, sources.values())) >= SOURCES_MAX and not self._forget(None):
            return False
        sources.setdefault(ifindex, set()).add(source)
        return True

    def close(self) -> None:
        """Stops sorting; the sockets stay open."""
        if self._timer is not None:
            self._timer.cancel()

    def _forget(self, ifindex: int | None) -> bool:
        """Clears the list of an interface, or all lists, so that sources still heard are learned
        again.

        Not more often than FORGET_AFTER_S: where more sources are heard than there is room for, the
        first ones keep their lane. Returns whether there is room now.
        """
        now = asyncio.get_running_loop().time()
        since = self._forgotten_at.get(ifindex)
        if since is not None and now - since < FORGET_AFTER_S:
            if not self._full:
                self._full = True
                self._on_sorted(self._coverage())
                logger.warning(
                    "more genuine sources than fit into the genuine lane (%d, %d per interface):"
                    " dropped frames of the others make every BACKUP wait",
                    SOURCES_MAX,
                    SOURCES_AN_INTERFACE,
                )
            return False
        self._forgotten_at[ifindex] = now
        self._full = False
        if ifindex is None:
            self._known.sources.clear()
        else:
            self._known.sources.pop(ifindex, None)
        self._sort(forgetting=True)
        return True

    def _coverage(self) -> str:
        return SOME if self._full else ALL if self._known.sources else NOBODY

    def _sort(self, forgetting: bool = False) -> None:
        """Attaches the programs for the sources that are known now.

        With raw sockets the lanes that accept more are changed first: a frame may then come in
        twice, but none is missed.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        coverage = self._coverage()
        if "packet" in self._lanes[COMMON]:
            try:
                self._opened.divide(fanout_program(self._known))
            except OSError as error:
                coverage = self._undivided(error)
                self._opened.divide(fanout_program(self._without_sources()))
        else:
            coverage = self._sort_raw(coverage, forgetting)
            if self._opened.tcx is not None and not self._opened.tcx.know(
                (ifindex, source)
                for ifindex, sources in self._known.sources.items()
                for source in sources
            ):
                coverage = SOME
        self._on_sorted(coverage)
        if not forgetting:  # otherwise the source that needed the room is not added yet
            self._on_settled(self._learned)

    def _sort_raw(self, coverage: str, forgetting: bool) -> str:
        order = (GENUINE, COMMON, STRAY)
        known = self._known
        try:
            for lane in reversed(order) if forgetting else order:
                for kind, sock in self._lanes[lane].items():
                    attach_filter(sock, raw_program(known, kind, lane))
        except OSError as error:
            coverage = self._undivided(error)
            known = self._without_sources()
            for lane in reversed(order):
                for kind, sock in self._lanes[lane].items():
                    attach_filter(sock, raw_program(known, kind, lane))
        return coverage

    def _without_sources(self) -> Known:
        known = Known()
        known.ifindexes, known.groups, known.peers, known.mark = (
            self._known.ifindexes,
            self._known.groups,
            self._known.peers,
            self._known.mark,
        )
        return known

    def _undivided(self, error: OSError) -> str:
        """Logs that a program is longer than net.core.optmem_max allows (ENOMEM); returns the
        coverage.
        """
        logger.warning(
            "no genuine lane for %d genuine sources (%s, see net.core.optmem_max):"
            " a flood can make every BACKUP wait",
            sum(map(len, self._known.sources.values())),
            error.strerror,
        )
        return SOME

    @staticmethod
    def _attach(
        sock: socket.socket, program: list[Instruction], shorter: list[Instruction]
    ) -> None:
        try:
            attach_filter(sock, program)
        except OSError:  # filter_interfaces() has logged it
            attach_filter(sock, shorter)
