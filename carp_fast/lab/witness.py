"""Observes two hosts of a lab from outside: addresses that come and go, and frames on the wire.

Holds two watches with a reading thread each: one reads the kernel's notifications about addresses
and about local routes in their place, the other a packet socket with advertisements of CARP and of
VRRP, of which it reads only the vhid, the second byte of both. Must not know the daemons.

Instants are CLOCK_REALTIME in ns: for a frame the kernel's receive timestamp, for an address the
moment its notification is read, at most READ_EVERY_S late. Watching costs: each watched frame is
charged to its sender. So a watch is opened when it is needed and closed before CPU is measured.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host, LabError, LabTimeout
from carp_fast.lab.observer import waiting
from carp_fast.net.filters import attach_filter, holding_filter, observer_filter
from carp_fast.net.interfaces import decode_route
from carp_fast.net.kernel import (
    ETH_P_ALL,
    ETH_P_ARP,
    ETH_P_IP,
    IFA_LOCAL,
    NETLINK_ADD_MEMBERSHIP,
    PACKET_IGNORE_OUTGOING,
    PROTOCOL_CARP,
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTMGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    SO_RCVBUFFORCE,
    SO_TIMESTAMPNS,
    SOL_NETLINK,
    SOL_PACKET,
)
from carp_fast.net.sockets import dropped_since

READ_EVERY_S = 0.002  # a thread that woke up for each message would cost the daemons more
BUFFER_BYTES = 64 << 20
POLL_MS = 100
SNAP_BYTES = 64

ADDED = RTM_NEWADDR, RTM_NEWROUTE
ROUTES = RTM_NEWROUTE, RTM_DELROUTE

Identity = tuple[int, int]
"""(segment, vhid)."""


class _Watch(Closing):
    """A thread that reads sockets in batches until closed; a context manager."""

    def __init__(self, readers: Mapping[socket.socket, Callable[[], None]]) -> None:
        self._readers = {sock.fileno(): reader for sock, reader in readers.items()}
        self._sockets = list(readers)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def require(self) -> None:
        """Raises LabError if the reading thread failed."""
        if self._failure is not None:
            raise LabError(f"{type(self).__name__} failed: {self._failure!r}")

    def _run(self) -> None:
        try:
            poller = select.poll()
            for number in self._readers:
                poller.register(number, select.POLLIN)
            while not self._stopping.is_set():
                for number, _ in poller.poll(POLL_MS):
                    self._readers[number]()
                self._stopping.wait(READ_EVERY_S)
        except Exception as reason:
            self._failure = reason


class Holdings:
    """What one host holds, and since when: an address, a local route of carp-fast, or both while
    one replaces the other.
    """

    def __init__(self) -> None:
        self.since_ns: dict[Identity, int] = {}
        self._ways: dict[Identity, set[bool]] = {}

    def take(self, kind: int, identity: Identity, at_ns: int) -> None:
        """Records a message about an address or a route."""
        ways, by_route = self._ways.setdefault(identity, set()), kind in ROUTES
        if kind in ADDED:
            ways.add(by_route)
            self.since_ns.setdefault(identity, at_ns)
            return
        ways.discard(by_route)
        if not ways:
            self.since_ns.pop(identity, None)


class AddressWatch(_Watch):
    """Which of the addresses (4 bytes each) the hosts hold, and since when: as addresses of an
    interface, or by local routes of carp-fast.

    Knows what happened since it was created; hosts begin without any of the addresses.
    """

    def __init__(self, hosts: Iterable[Host], identities: Mapping[bytes, Identity]) -> None:
        self.overruns = 0  # times that the kernel dropped notifications
        self.changes = 0
        self.changed_at_ns = 0
        self._identities = identities
        self._held: dict[str, Holdings] = {}
        readers: dict[socket.socket, Callable[[], None]] = {}
        for host in hosts:
            held = self._held[host.name] = Holdings()
            with host.inside():
                sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            sock.setblocking(False)
            attach_filter(sock, holding_filter())
            sock.bind((0, RTMGRP_IPV4_IFADDR))
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV4_ROUTE)
            readers[sock] = partial(self._read, sock, held)
        super().__init__(readers)

    def held(self, host: Host) -> dict[Identity, int]:
        """When the address of each virtual host was added; only of those that the host holds."""
        self.require()
        with self._lock:
            return dict(self._held[host.name].since_ns)

    def count(self, host: Host) -> int:
        self.require()
        return len(self._held[host.name].since_ns)

    def wait_until(
        self, predicate: Callable[[], object], deadline_s: float, what: str, every_s: float = 0.02
    ) -> None:
        """Returns as soon as `predicate()` is true; raises LabTimeout naming `what` after
        `deadline_s`.
        """
        end_at = time.monotonic() + deadline_s
        while not predicate():
            if time.monotonic() > end_at:
                raise LabTimeout(f"not within {deadline_s:g} s: {what}")
            self._stopping.wait(every_s)

    def _read(self, sock: socket.socket, held: Holdings) -> None:
        with self._lock:
            while True:
                try:
                    data = sock.recv(1 << 16)
                except BlockingIOError:
                    return
                except OSError:  # ENOBUFS
                    self.overruns += 1
                    continue
                self._take(data, held, time.time_ns())

    def _take(self, data: bytes, held: Holdings, at_ns: int) -> None:
        for kind, address in address_changes(data):
            identity = self._identities.get(address)
            if identity is None:
                continue
            held.take(kind, identity, at_ns)
            self.changes += 1
            self.changed_at_ns = at_ns


def address_changes(data: bytes) -> list[tuple[int, bytes]]:
    """(kind, address) of each message of a netlink datagram about an address or one of carp-fast's
    local routes: RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE or RTM_DELROUTE.
    """
    found = []
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if size < 16:
            break
        end = min(at + size, len(data))
        if kind in ROUTES and at + 28 <= end:
            route = decode_route(data, at + 16, end)
            if route is not None:
                found.append((kind, route[1]))
        elif kind in (RTM_NEWADDR, RTM_DELADDR):
            attribute = at + 24
            while attribute + 4 <= end:
                length, name = struct.unpack_from("=HH", data, attribute)
                if length < 4:
                    break
                if name == IFA_LOCAL:
                    found.append((kind, data[attribute + 4 : attribute + length]))
                attribute += (length + 3) & ~3
        at += (size + 3) & ~3
    return found


class WireWatch(_Watch):
    """Advertisements of two hosts, and announcements of any host, as they reach one of the two.

    `mine` is the host that listens, where its own frames are heard, too, unless `incoming_only`;
    senders are distinguished by the last byte of their source.
    """

    def __init__(
        self,
        mine: Host,
        other: Host,
        identities: Mapping[bytes, Identity],
        *,
        incoming_only: bool = False,
    ) -> None:
        self.dropped = 0
        self._identities = identities
        self._last: dict[int, dict[Identity, int]] = {mine.number: {}, other.number: {}}
        self._first: dict[int, dict[Identity, int]] = {mine.number: {}, other.number: {}}
        self._announced: dict[Identity, int] = {}
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with mine.inside():
            self._listener = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
        attach_filter(self._listener, observer_filter(SNAP_BYTES))
        self._listener.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, int(incoming_only))
        self._listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._listener.setblocking(False)
        super().__init__({self._listener: self._read})

    def last(self, host: Host) -> dict[Identity, int]:
        """When the host last advertised each virtual host."""
        return self._copy(self._last[host.number])

    def first(self, host: Host) -> dict[Identity, int]:
        """When the host first advertised each virtual host since the mark."""
        return self._copy(self._first[host.number])

    def announced(self) -> dict[Identity, int]:
        """When the address of each virtual host was first announced since the mark."""
        return self._copy(self._announced)

    def mark(self) -> None:
        """Starts the first() and announced() times again."""
        with self._lock:
            for first in self._first.values():
                first.clear()
            self._announced.clear()

    def close(self) -> None:
        self.dropped = dropped_since(self._listener)
        super().close()

    def _copy(self, records: dict[Identity, int]) -> dict[Identity, int]:
        self.require()
        with self._lock:
            return dict(records)

    def _read(self) -> None:
        with self._lock:
            for at_ns, segment, frame in waiting(self._listener):
                self.take(frame, segment, at_ns)

    def take(self, frame: bytes, segment: int, at_ns: int) -> None:
        """Records one Ethernet frame; frames of other kinds are ignored."""
        if len(frame) < 42:
            return
        kind = int.from_bytes(frame[12:14], "big")
        if kind == ETH_P_IP and frame[23] == PROTOCOL_CARP:
            last = self._last.get(frame[29])
            if last is not None:
                key = (segment, frame[14 + (frame[14] & 15) * 4 + 1])
                last[key] = at_ns
                self._first[frame[29]].setdefault(key, at_ns)
        elif kind == ETH_P_ARP and frame[28:32] == frame[38:42]:
            identity = self._identities.get(frame[28:32])
            if identity is not None:
                self._announced.setdefault(identity, at_ns)
