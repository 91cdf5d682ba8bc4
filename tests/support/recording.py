"""What one host's wire and address list went through, in order, for tests of the daemon.

Holds a recording of every advertisement with its kernel time, and a reader of address
notifications.  It must not know the daemon; the parsing is its own few lines.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
from typing import NamedTuple

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host
from carp_fast.net.filters import attach_filter, packet_filter
from carp_fast.net.interfaces import decode_address, decode_route, messages
from carp_fast.net.kernel import (
    ETH_P_ALL,
    NETLINK_ADD_MEMBERSHIP,
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTMGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    SO_RCVBUFFORCE,
    SO_TIMESTAMPNS,
    SOL_NETLINK,
)

BUFFER_BYTES = 64 << 20
_SEGMENT = re.compile(r"s([1-9][0-9]*)")


class Frame(NamedTuple):
    """An advertisement on the wire; `at_ns` is CLOCK_REALTIME, stamped by the kernel."""

    at_ns: int
    segment: int
    vhid: int
    advbase: int
    advskew: int
    source: str

    @property
    def resigned(self) -> bool:
        return self.advbase == 255 and self.advskew == 255


class Recording(Closing):
    """Every advertisement that host hears or sends, until closed; a context manager."""

    def __init__(self, host: Host) -> None:
        self._frames: list[Frame] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        with host.inside():
            self._socket = advertisement_socket()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def frames(self, source: str | None = None) -> list[Frame]:
        """What was recorded so far, in the order of arrival."""
        with self._lock:
            frames = list(self._frames)
        return [frame for frame in frames if source in (None, frame.source)]

    def heard(self, host: Host) -> bool:
        """Whether an advertisement of this host was recorded."""
        return bool(self.frames(host.address(1)))

    def gaps_s(self, host: Host, since_ns: int) -> list[float]:
        """Seconds between advertisements of a virtual host by `host`, all since `since_ns`."""
        last: dict[tuple[int, int], int] = {}
        gaps = []
        for frame in self.frames():
            if frame.at_ns < since_ns or frame.source != host.address(frame.segment):
                continue
            key = frame.segment, frame.vhid
            if key in last:
                gaps.append((frame.at_ns - last[key]) / 1e9)
            last[key] = frame.at_ns
        return gaps

    def _read(self) -> None:
        while not self._stopping.is_set():
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            found = []
            while (frame := read_advertisement(self._socket)) is not None:
                found.append(frame)
            with self._lock:
                self._frames += found


def advertisement_socket() -> socket.socket:
    """A packet socket for CARP in the calling thread's namespace, what is sent included."""
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    attach_filter(listener, packet_filter(None))
    listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listener.setblocking(False)
    return listener


def read_advertisement(listener: socket.socket) -> Frame | None:
    """The next advertisement on a segment's interface; None when none is waiting."""
    while True:
        try:
            data, ancillary, _, origin = listener.recvmsg(128, 64)
        except BlockingIOError:
            return None
        segment = _SEGMENT.fullmatch(origin[0])
        at = 14 + (data[14] & 15) * 4
        if segment is None or not ancillary or len(data) < at + 36 or data[14] >> 4 != 4:
            continue  # a macvlan's parent shows each frame a second time
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
        return Frame(
            seconds * 1_000_000_000 + nanoseconds,
            int(segment[1]),
            vhid=data[at + 1],
            advbase=data[at + 5],
            advskew=data[at + 2],
            source=socket.inet_ntoa(data[26:30]),
        )


class AddressChanges(Closing):
    """Notifications about IPv4 addresses of a host, those that local routes of carp-fast hold among
    them, read when asked; a context manager.
    """

    def __init__(self, host: Host) -> None:
        with host.inside():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            self._socket.bind((0, RTMGRP_IPV4_IFADDR))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV4_ROUTE)
            self._ifindexes = {ifindex for ifindex, _ in socket.if_nameindex()}
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[tuple[bool, str]]:
        """(added, address without prefix length) of all that has happened since the last call."""
        found: list[tuple[bool, str]] = []
        while True:
            try:
                data = self._socket.recv(65_536)
            except BlockingIOError:
                return found
            for kind, _, start, end in messages(data):
                if kind in (RTM_NEWADDR, RTM_DELADDR):
                    decoded = decode_address(data, start, end, self._ifindexes)
                    if decoded is not None:
                        found.append((kind == RTM_NEWADDR, socket.inet_ntoa(decoded[1].address)))
                elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
                    route = decode_route(data, start, end)
                    if route is not None:
                        found.append((kind == RTM_NEWROUTE, socket.inet_ntoa(route[1])))
