"""The daemon's receivers in three lanes: opened, and filtered by who was genuine.

A stranger can fill a socket, and what comes next is dropped by the kernel, whoever sent it. So what
can be no advertisement for this host is *stray*: it is read last, and only to be counted. Frames of
sources that were genuine on their interface have the *genuine* lane, where strangers cannot
displace them. All else is *common*. A lane has sockets of its own with buffers of their own. Must
not know the engine, virtual hosts, or a digest: who is genuine, the pump tells.

On the packet path the three sockets are one fanout group: one tap for every packet of the host, a
program that says which of them gets it, and none that gets it twice when that changes. A raw
socket sees all of protocol 112, and its filter takes what is for its lane.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable

from carp_fast.closing import Closing
from carp_fast.engine._lanes import COVERAGE_WORDS, LANE_WORDS
from carp_fast.net import sockets
from carp_fast.net.filters import Instruction, attach_filter, packet_filter
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

logger = logging.getLogger(__name__)

GENUINE, COMMON, STRAY = LANE_WORDS
NOBODY, SOME, ALL = COVERAGE_WORDS

# Buffers hold what a flood brings while the pump does something else; 300,000 frames/s of 70 bytes,
# or 100,000/s of 1,514, take some 230 MB/s. Of the machine's memory they may take a sixteenth each.
BUFFERS = {GENUINE: 64 << 20, COMMON: 16 << 20, STRAY: 1 << 18}
MEMORY_SHARE = 16

SOURCES_AN_INTERFACE = 64
FORGET_AFTER_S = 600.0  # at least, between two times that a full list is begun anew
SORT_DELAY_S = 0.02  # what is learned meanwhile goes into the same program

FANOUT_CBPF, FANOUT_UNIQUE, FANOUT_IGNORE_OUTGOING = 6, 0x2000, 0x4000  # the last: kernel 6.2


def buffer_bytes(lane: str) -> int:
    """The room of a lane's socket, within what this machine's memory allows."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(BUFFERS[lane], memory // MEMORY_SHARE)


class LaneSockets(Closing):
    """The sockets of the three lanes, which the pump reads; they hear nothing before Lanes.use().

    `by_lane`: {lane: {kind: socket}}. Raises OSError.
    """

    def __init__(self, path: str, advertisements_per_s: float) -> None:
        self.by_lane: dict[str, dict[str, socket.socket]] = {}
        try:
            for lane in PLACES:  # the places of a group are given in the order of joining
                self.by_lane[lane] = sockets.open_receivers(path, advertisements_per_s)
                for sock in self.by_lane[lane].values():
                    sockets.enlarge(sock, buffer_bytes(lane))
            if path == "packet":
                self._group()
        except OSError:
            self.close()
            raise

    @property
    def receivers(self) -> list[tuple[str, int, str]]:
        """(kind, file descriptor, lane) of each socket, as a pump wants them."""
        return [
            (kind, sock.fileno(), lane)
            for lane in LANE_WORDS
            for kind, sock in self.by_lane[lane].items()
        ]

    @property
    def joining(self) -> socket.socket | None:
        """The packet socket on which groups are joined by MAC; None on the raw path."""
        return self.by_lane[COMMON].get("packet")

    def divide(self, program: list[Instruction]) -> None:
        """Has this program say which socket of the fanout group gets a packet. Raises OSError."""
        attach_filter(self.by_lane[COMMON]["packet"], program, (SOL_PACKET, PACKET_FANOUT_DATA))

    def close(self) -> None:
        """Closes the sockets."""
        for receivers in self.by_lane.values():
            for sock in receivers.values():
                sock.close()

    def _group(self) -> None:
        """Makes the packet sockets one fanout group, which no other process can join by chance."""
        how = FANOUT_CBPF | FANOUT_IGNORE_OUTGOING
        number = 0
        for place, lane in enumerate(PLACES):
            sock = self.by_lane[lane]["packet"]
            first = FANOUT_UNIQUE if place == 0 else 0
            sock.setsockopt(SOL_PACKET, PACKET_FANOUT, number | (how | first) << 16)
            number = sock.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
        self.divide(fanout_program(Known()))


class Lanes:
    """Sorts what comes in into the lanes, by who was genuine.

    `on_sorted` is told whose frames the genuine lane gets, a word of COVERAGE_WORDS, whenever the
    filters have changed; `on_settled` how many sources were learned so far, once they know all.
    """

    def __init__(
        self,
        opened: LaneSockets,
        on_sorted: Callable[[str], None],
        on_settled: Callable[[int], None],
    ) -> None:
        self._opened = opened
        self._lanes = opened.by_lane
        self._on_sorted = on_sorted
        self._on_settled = on_settled
        self._known = Known()
        self._full = False
        self._learned = 0  # ever, known ones too
        self._forgotten_at: dict[int | None, float] = {}  # by ifindex; None: all of them
        self._timer: asyncio.TimerHandle | None = None

    @property
    def joining(self) -> socket.socket | None:
        """The packet socket on which groups are joined by MAC; None on the raw path."""
        return self._opened.joining

    def use(self, ifindexes: list[int], groups: Iterable[bytes], peers: Iterable[bytes]) -> None:
        """Receives on these interfaces, for these groups and from these unicast peers.

        Groups and peers have 4 or 16 bytes.
        """
        known, gone = self._known, set(self._known.sources).difference(ifindexes)
        known.ifindexes = ifindexes
        known.groups, known.peers = set(groups), set(peers)
        for ifindex in gone:
            del known.sources[ifindex]
        packet = self._lanes[COMMON].get("packet")
        if packet is not None:
            sockets.filter_interfaces({"packet": packet}, ifindexes)
            program = [*ARRIVING, *packet_filter(ifindexes)]
            for lane in (COMMON, STRAY):
                self._attach(
                    self._lanes[lane]["packet"], program, [*ARRIVING, *packet_filter(None)]
                )
            attach_filter(self._lanes[GENUINE]["packet"], UNTAGGED)
        elif len(ifindexes) > RAW_INTERFACES_MAX:
            logger.info(
                "no filter by interface: %d, more than %d", len(ifindexes), RAW_INTERFACES_MAX
            )
        self._sort()

    def learn(self, ifindex: int, source: bytes) -> None:
        """A genuine frame of this source, 4 or 16 bytes, came in on the common lane."""
        self._learned += 1
        if self._takes_in(ifindex, source) and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(SORT_DELAY_S, self._sort)
        elif self._timer is None:
            self._on_settled(self._learned)

    def _takes_in(self, ifindex: int, source: bytes) -> bool:
        """Whether the source is new, of an interface in use, and has room."""
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
        """Sorts no more; the sockets stay open."""
        if self._timer is not None:
            self._timer.cancel()

    def _forget(self, ifindex: int | None) -> bool:
        """There is no room for one more: those that are heard still are learned anew.

        Not too often: where more than there is room for are heard, the first ones keep their lane.
        """
        now = asyncio.get_running_loop().time()
        since = self._forgotten_at.get(ifindex)
        if since is not None and now - since < FORGET_AFTER_S:
            if not self._full:
                self._full = True
                self._on_sorted(self._coverage())
                logger.warning(
                    "more genuine sources than have a lane of their own (%d, %d an interface):"
                    " what is dropped of the others' makes every BACKUP wait",
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
        """Says anew which frame comes in on which lane.

        Of raw sockets, first those that take more: then a frame may come in twice, but none is
        missed.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        coverage = self._coverage()
        if self.joining is not None:
            try:
                self._opened.divide(fanout_program(self._known))
            except OSError as error:
                coverage = self._undivided(error)
                self._opened.divide(fanout_program(self._without_sources()))
        else:
            coverage = self._sort_raw(coverage, forgetting)
        self._on_sorted(coverage)
        if not forgetting:  # else what makes room for it is not done yet
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
        known.ifindexes, known.groups, known.peers = (
            self._known.ifindexes,
            self._known.groups,
            self._known.peers,
        )
        return known

    def _undivided(self, error: OSError) -> str:
        """ENOMEM: a program is longer than net.core.optmem_max allows."""
        logger.warning(
            "no lane of their own for %d genuine sources (%s, see net.core.optmem_max):"
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
        except OSError:  # filter_interfaces() has said so
            attach_filter(sock, shorter)
