"""A tape of what each host of a lab sends: every advertisement and announcement, with its time.

Listens in the switch, at the end of each host's cable, so that the sender of a frame is known by
its port whatever its addresses pretend, and before the switch loses or delays it. It parses frames
itself, CARP and VRRP, and takes times from the kernel's receive timestamp (CLOCK_REALTIME, ns).
Must not know the daemons.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from carp_fast.closing import Closing
from carp_fast.inet import address_text, mac_text
from carp_fast.lab.lab import Lab, LabError, LabTimeout
from carp_fast.lab.observer import Key
from carp_fast.net.kernel import (
    ETH_P_ALL,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    NEIGHBOUR_ADVERTISEMENT,
    PACKET_IGNORE_OUTGOING,
    PROTOCOL_CARP,
    PROTOCOL_ICMPV6,
    SO_RCVBUFFORCE,
    SO_TIMESTAMPNS,
    SOL_PACKET,
)
from carp_fast.net.sockets import dropped_since

BUFFER_BYTES = 16 << 20
SNAP_BYTES = 256
BATCH_S = 0.004


class Advertisement(NamedTuple):
    """One advertisement as a host sent it."""

    at_ns: int
    host: str  # whose cable it came from
    key: Key
    source: str
    mac: str
    interval_s: float
    resigned: bool
    counter: int
    frame: bytes


class Announcement(NamedTuple):
    """One gratuitous ARP or unsolicited neighbour advertisement."""

    at_ns: int
    host: str
    address: str
    mac: str


class Tape(Closing):
    """Listens to these hosts on every segment until closed; a context manager.

    Results are copies, ascending in time. Every method raises LabError if the reading thread
    failed, or if the kernel dropped frames, which would make any verdict worthless.
    """

    def __init__(self, lab: Lab, hosts: Iterable[str], *, vrrp: bool = False) -> None:
        self._read_header = read_vrrp if vrrp else read_carp
        self._advertisements: list[Advertisement] = []
        self._announcements: list[Announcement] = []
        self._last: dict[tuple[str, Key], Advertisement] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._ports: dict[int, tuple[socket.socket, str, int]] = {}
        self._poll = select.epoll()
        self._lab = lab
        for host in hosts:
            for segment in range(1, lab.segments + 1):
                self.listen(host, segment)
        self._thread = threading.Thread(target=self._run, name="tape", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        for listener, _, _ in self._ports.values():
            listener.close()
        self._poll.close()

    def listen(self, host: str, segment: int) -> None:
        """Listens to a host's cable, in addition to what it listened to: it may be a new cable."""
        with self._lab.switch.inside():
            listener = _listener(f"{host}-{segment}")
        with self._lock:
            self._ports[listener.fileno()] = (listener, host, segment)
            self._poll.register(listener, select.EPOLLIN)

    def advertisements(self, since_ns: int = 0) -> list[Advertisement]:
        with self._lock:
            self._require()
            return sorted(each for each in self._advertisements if each.at_ns >= since_ns)

    def announcements(self, since_ns: int = 0) -> list[Announcement]:
        with self._lock:
            self._require()
            return sorted(each for each in self._announcements if each.at_ns >= since_ns)

    def last(self) -> dict[tuple[str, Key], Advertisement]:
        """The latest advertisement of each host for each virtual host."""
        with self._lock:
            self._require()
            return dict(self._last)

    def wait_until(self, predicate: Callable[[], object], deadline_s: float, what: str) -> None:
        """Returns as soon as `predicate()` is true; raises LabTimeout naming `what`."""
        end_at = time.monotonic() + deadline_s
        while not predicate():
            if time.monotonic() > end_at:
                raise LabTimeout(f"not within {deadline_s:g} s: {what}")
            self._stopping.wait(0.01)

    def _require(self) -> None:
        if self._failure is not None:
            raise LabError(f"the tape failed: {self._failure!r}")
        for listener, host, segment in self._ports.values():
            if dropped := dropped_since(listener):
                raise LabError(f"the tape lost {dropped} frames of host {host}, segment {segment}")

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                for number, _ in self._poll.poll(0.1):
                    self._read(*self._ports[number])
                self._stopping.wait(BATCH_S)
        except Exception as reason:
            self._failure = reason

    def _read(self, listener: socket.socket, host: str, segment: int) -> None:
        while True:
            try:
                frame, ancillary, _, _ = listener.recvmsg(SNAP_BYTES, 64)
            except BlockingIOError:
                return
            except OSError:  # ENETDOWN, once for each time that the host's interface goes
                continue
            if not ancillary:
                continue
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            self._take(frame, host, segment, seconds * 1_000_000_000 + nanoseconds)

    def _take(self, frame: bytes, host: str, segment: int, at_ns: int) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == ETH_P_ARP and len(frame) >= 42 and frame[28:32] == frame[38:42]:
            self._announce(at_ns, host, frame[28:32], frame[22:28])
        elif kind == ETH_P_IP and len(frame) >= 34 and frame[23] == PROTOCOL_CARP:
            at = 14 + (frame[14] & 15) * 4
            self._advertise(at_ns, (host, segment), frame, at, frame[26:30])
        elif kind == ETH_P_IPV6 and len(frame) >= 54 and frame[20] == PROTOCOL_CARP:
            self._advertise(at_ns, (host, segment), frame, 54, frame[22:38])
        elif kind == ETH_P_IPV6 and len(frame) >= 78 and frame[20] == PROTOCOL_ICMPV6:
            solicited = frame[58] & 0x40
            if frame[54] == NEIGHBOUR_ADVERTISEMENT and not solicited:
                self._announce(at_ns, host, frame[62:78], frame[6:12])

    def _announce(self, at_ns: int, host: str, address: bytes, mac: bytes) -> None:
        announcement = Announcement(at_ns, host, address_text(address), mac_text(mac))
        with self._lock:
            self._announcements.append(announcement)

    def _advertise(
        self, at_ns: int, place: tuple[str, int], frame: bytes, at: int, source: bytes
    ) -> None:
        host, segment = place
        read = self._read_header(frame[at:])
        if read is None:
            return
        vhid, interval_s, resigned, counter = read
        found = Advertisement(
            at_ns,
            host,
            Key(segment, vhid),
            address_text(source),
            mac_text(frame[6:12]),
            interval_s,
            resigned,
            counter,
            frame,
        )
        with self._lock:
            self._advertisements.append(found)
            self._last[host, found.key] = found


Read = tuple[int, float, bool, int]  # vhid, interval in s, resigned, counter


def read_carp(payload: bytes) -> Read | None:
    if len(payload) < 36 or payload[0] != 0x21:
        return None
    vhid, advskew, advbase = payload[1], payload[2], payload[5]
    interval_s = advbase + advskew / 256
    resigned = (advbase, advskew) == (255, 255)
    return vhid, interval_s, resigned, int.from_bytes(payload[8:16], "big")


def read_vrrp(payload: bytes) -> Read | None:
    """VRRP 2 and 3: vhid is the virtual router's number, priority 0 resigns."""
    if len(payload) < 8 or payload[0] not in (0x21, 0x31):
        return None
    if payload[0] >> 4 == 2:
        interval_s = float(payload[5])
    else:
        interval_s = (int.from_bytes(payload[4:6], "big") & 0xFFF) / 100
    return payload[1], interval_s, payload[2] == 0, 0


def _listener(port: str) -> socket.socket:
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    listener.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listener.setblocking(False)
    listener.bind((port, ETH_P_ALL))
    return listener
