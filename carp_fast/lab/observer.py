"""Observes a lab's wire in the namespace of one host: advertisements and announcements.

Holds a packet socket with its own reading thread, and its records. Must not know the daemons: it
parses frames itself, so that a fault in our parser cannot hide itself, and takes every time from
the kernel's receive timestamp.

Instants are CLOCK_REALTIME in ns, as the kernel stamps frames. A sender that bypasses the queueing
discipline is invisible in its own namespace; observe it from another host.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from carp_fast.closing import Closing
from carp_fast.inet import address_text, mac_text
from carp_fast.lab.lab import Host, LabError, LabTimeout
from carp_fast.net.filters import attach_filter, observer_filter
from carp_fast.net.kernel import (
    ETH_P_ALL,
    ETH_P_ARP,
    ETH_P_IP,
    PACKET_FANOUT,
    PACKET_FANOUT_LB,
    PROTOCOL_CARP,
    SO_RCVBUFFORCE,
    SO_TIMESTAMPNS,
    SOL_PACKET,
)
from carp_fast.net.sockets import dropped_since

RECEIVE_BUFFER_BYTES = 64 << 20
SHARING_SOCKETS = 32  # used if one cannot have the buffer
SNAP_BYTES = 128
MAX_RECORDS = 1 << 18  # keys kept of each kind; more are counted in `unrecorded`
BATCH_INTERVAL_S = 0.005  # read in batches: a wake-up for each frame costs the hosts CPU
PREDICATE_INTERVAL_S = 0.02

_K = TypeVar("_K")
_V = TypeVar("_V")
_fanout_groups = itertools.count(os.getpid())
_SEGMENT = re.compile(r"s([1-9][0-9]*)")


class Key(NamedTuple):
    """A virtual host on the wire."""

    segment: int
    vhid: int


class Heard(NamedTuple):
    """The advertisements of one source for one virtual host since the observer was created."""

    frames: int
    first_at_ns: int
    last_at_ns: int
    advbase: int  # of the last one, like those below
    advskew: int
    source: str
    mac: str

    @property
    def resigned(self) -> bool:
        return self.advbase == 255 and self.advskew == 255


class Announced(NamedTuple):
    """The gratuitous ARPs by one MAC for one address, since the last mark."""

    frames: int
    first_at_ns: int
    last_at_ns: int


class Observer(Closing):
    """Listens on every segment of `host` until closed; a context manager.

    All results are copies, of what has arrived when the method is called. Every method raises
    LabError if the reading thread failed.
    """

    def __init__(self, host: Host):
        self.host = host
        self.unrecorded = 0
        self._heard: dict[tuple[int, int, str], Heard] = {}
        self._since_mark: dict[tuple[int, int, str], int] = {}
        self._announced: dict[tuple[int, str, str], Announced] = {}
        self._mark_at_ns = 0
        self._dropped = 0
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        with host.inside():
            self._sockets = _packet_sockets()
        self._thread = threading.Thread(
            target=self._read, name=f"observer-{host.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        for listener in self._sockets:
            listener.close()

    def mark(self) -> int:
        """Starts a new period "since the mark", without announcements. Returns the time, ns."""
        with self._changed:
            self._mark_at_ns = time.time_ns()
            self._since_mark.clear()
            self._announced.clear()
            return self._mark_at_ns

    def advertisements(self, source: Host | str | None = None) -> dict[Key, Heard]:
        """What `source` (host or address; None: the latest of any) advertised, by virtual host."""
        found: dict[Key, Heard] = {}
        for (segment, vhid, address), heard in self._copy(self._heard).items():
            key = Key(segment, vhid)
            if _is_from(source, segment, address) and (
                key not in found or found[key].last_at_ns < heard.last_at_ns
            ):
                found[key] = heard
        return found

    def resigned(self, source: Host | str, key: Key) -> bool:
        """Whether the latest advertisement of `source` for a virtual host is a resignation."""
        heard = self.advertisements(source).get(key)
        return heard is not None and heard.resigned

    def first_since_mark(self, source: Host | str | None = None) -> dict[Key, int]:
        """When `source` (default: any) first advertised since the mark, by virtual host."""
        found: dict[Key, int] = {}
        for (segment, vhid, address), at_ns in self._copy(self._since_mark).items():
            if _is_from(source, segment, address):
                key = Key(segment, vhid)
                found[key] = min(at_ns, found.get(key, at_ns))
        return found

    def masters(self, within_s: float) -> dict[Key, frozenset[str]]:
        """The sources that advertised within the last `within_s` seconds, by virtual host.

        A source whose last advertisement was a resignation is not a master.
        """
        since_ns = time.time_ns() - int(within_s * 1e9)
        found: dict[Key, frozenset[str]] = {}
        for (segment, vhid, address), heard in self._copy(self._heard).items():
            if heard.last_at_ns >= since_ns and not heard.resigned:
                key = Key(segment, vhid)
                found[key] = found.get(key, frozenset()) | {address}
        return found

    def silences_s(self, dead: Host | str, successor: Host | str) -> dict[Key, float]:
        """Seconds from the last frame of `dead` to the successor's first since the mark, by virtual
        host.

        Virtual hosts that the successor has not advertised, or `dead` never did, are left out.
        """
        last = self.advertisements(dead)
        first = self.first_since_mark(successor)
        return {
            key: (at_ns - last[key].last_at_ns) / 1e9 for key, at_ns in first.items() if key in last
        }

    def announcements(self) -> dict[tuple[int, str, str], Announced]:
        """Gratuitous ARPs since the mark, by (segment, address, MAC)."""
        return self._copy(self._announced)

    def announced(self) -> set[tuple[int, str]]:
        """(segment, address) of every gratuitous ARP since the mark."""
        return {(segment, address) for segment, address, _ in self.announcements()}

    def wait_until(self, predicate: Callable[[], object], deadline_s: float, what: str) -> None:
        """Returns as soon as `predicate()` is true; raises LabTimeout naming `what` after
        `deadline_s`.

        The predicate is called when frames have arrived, at most every PREDICATE_INTERVAL_S, and at
        least every 0.1 s, for conditions that are met when something is *not* heard.
        """
        end_at = time.monotonic() + deadline_s
        while not predicate():
            left_s = end_at - time.monotonic()
            if left_s <= 0:
                raise LabTimeout(f"host {self.host.name}: not within {deadline_s:g} s: {what}")
            self._stopping.wait(min(PREDICATE_INTERVAL_S, left_s))
            with self._changed:
                self._require_reader()
                self._changed.wait(min(0.1, left_s))

    def dropped(self) -> int:
        """The number of frames that the kernel dropped since the observer was created."""
        with self._changed:
            for listener in self._sockets:
                self._dropped += dropped_since(listener)
            return self._dropped

    def _copy(self, records: Mapping[_K, _V]) -> dict[_K, _V]:
        """The records, of all frames that have arrived: also of those in the sockets' queues."""
        with self._changed:
            self._require_reader()
            self._drain()
            return dict(records)

    def _require_reader(self) -> None:
        if self._failure is not None:
            raise LabError(f"observer of host {self.host.name} failed: {self._failure!r}")

    # The reading thread.

    def _read(self) -> None:
        try:
            poller = select.poll()
            for listener in self._sockets:
                poller.register(listener, select.POLLIN)
            while not self._stopping.is_set():
                if not poller.poll(100):
                    continue
                with self._changed:
                    self._drain()
                    self._changed.notify_all()
                self._stopping.wait(BATCH_INTERVAL_S)
        except Exception as reason:
            with self._changed:
                self._failure = reason
                self._changed.notify_all()

    def _drain(self) -> None:
        arrived: list[tuple[int, int, bytes]] = []
        for listener in self._sockets:
            arrived += waiting(listener)
        # Several sockets share the frames, so only their times give the order.
        for at_ns, segment, frame in sorted(arrived):
            self._take(frame, segment, at_ns)

    def _take(self, frame: bytes, segment: int, at_ns: int) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == ETH_P_IP and len(frame) >= 34 and frame[23] == PROTOCOL_CARP:
            self._take_advertisement(frame, segment, at_ns)
        elif kind == ETH_P_ARP and len(frame) >= 42 and frame[28:32] == frame[38:42]:
            self._take_announcement(frame, segment, at_ns)

    def _take_advertisement(self, frame: bytes, segment: int, at_ns: int) -> None:
        at = 14 + (frame[14] & 15) * 4
        if len(frame) < at + 36:
            return
        vhid, advskew, advbase = frame[at + 1], frame[at + 2], frame[at + 5]
        source = address_text(frame[26:30])
        key = (segment, vhid, source)
        before = self._heard.get(key)
        if before is None and len(self._heard) >= MAX_RECORDS:
            self.unrecorded += 1
            return
        self._heard[key] = Heard(
            before.frames + 1 if before else 1,
            before.first_at_ns if before else at_ns,
            at_ns,
            advbase,
            advskew,
            source,
            mac_text(frame[6:12]),
        )
        if at_ns >= self._mark_at_ns:
            self._since_mark.setdefault(key, at_ns)

    def _take_announcement(self, frame: bytes, segment: int, at_ns: int) -> None:
        if at_ns < self._mark_at_ns:
            return
        key = (segment, address_text(frame[28:32]), mac_text(frame[22:28]))
        before = self._announced.get(key)
        if before is None:
            if len(self._announced) >= MAX_RECORDS:
                self.unrecorded += 1
                return
            before = Announced(0, at_ns, at_ns)
        self._announced[key] = Announced(before.frames + 1, before.first_at_ns, at_ns)


def _is_from(source: Host | str | None, segment: int, address: str) -> bool:
    if source is None:
        return True
    return address == (source if isinstance(source, str) else source.address(segment))


def waiting(listener: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """(at_ns, segment, frame) for each frame in the queue of a packet socket with stamps."""
    while True:
        try:
            frame, ancillary, _, origin = listener.recvmsg(SNAP_BYTES, 64)
        except BlockingIOError:
            return
        segment = _SEGMENT.fullmatch(origin[0])
        if segment is None or not ancillary:
            continue  # a macvlan's parent shows each frame a second time
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
        yield seconds * 1_000_000_000 + nanoseconds, int(segment[1]), frame


def _packet_sockets() -> list[socket.socket]:
    """One socket with a large buffer; or, if the kernel refuses that, many that share."""
    sockets = [_packet_socket()]
    try:
        sockets[0].setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:  # root of a user namespace only
        sockets += [_packet_socket() for _ in range(SHARING_SOCKETS - 1)]
        group = next(_fanout_groups) & 0xFFFF
        for listener in sockets:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            listener.setsockopt(SOL_PACKET, PACKET_FANOUT, group | PACKET_FANOUT_LB << 16)
    return sockets


def _packet_socket() -> socket.socket:
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    try:
        # Frames that arrived before the filter was attached are sorted out when read.
        attach_filter(listener, observer_filter(SNAP_BYTES))
        listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
