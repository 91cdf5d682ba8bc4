"""Tracks by ping: hosts that answer ICMP echo requests, all through one socket for each family.

Raw sockets: those for pings without privileges are closed to root as well where
net.ipv4.ping_group_range is what the kernel sets. Must not know what becomes of a result.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
from collections.abc import Callable

from carp_fast.config.tracks import PingTrack, Track
from carp_fast.inet import address_bytes
from carp_fast.tracking.judging import Result
from carp_fast.tracking.rounds import Rounds

ECHO, ECHO_REPLY, ECHO6, ECHO_REPLY6 = 8, 0, 128, 129
ICMP = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
PAYLOAD = struct.Struct("!8sQ")  # a token of this process, the number of the request
SOL_RAW, ICMP_FILTER, ICMP6_FILTER = 255, 1, 1
IP_PKTINFO = 8
READ_BYTES = 2048
READS_MAX = 256  # in one turn of the loop
RECEIVE_BUFFER_BYTES = 1 << 20

Take = Callable[[Result], None]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def open_socket(family: int) -> socket.socket:
    """A raw socket that gets echo replies of this family, 4 or 6. Raises OSError."""
    if family == 4:
        kind = (socket.AF_INET, socket.IPPROTO_ICMP)
        passing = (SOL_RAW, ICMP_FILTER, struct.pack("=I", ~(1 << ECHO_REPLY) & 0xFFFFFFFF))
    else:
        words = [0xFFFFFFFF] * 8
        words[ECHO_REPLY6 // 32] &= ~(1 << ECHO_REPLY6 % 32)
        kind = (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        passing = (socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *words))
    flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(kind[0], flags, kind[1])
    try:
        opened.setsockopt(*passing)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    except BaseException:
        opened.close()
        raise
    return opened


def way(track: PingTrack) -> list[tuple[int, int, bytes]]:
    """The ancillary data that selects source and interface. Raises OSError."""
    if track.source is None and track.interface is None:
        return []
    ifindex = 0 if track.interface is None else socket.if_nametoindex(track.interface)
    six = ":" in track.target
    source = bytes(16 if six else 4) if track.source is None else address_bytes(track.source)
    if six:
        packed = source + struct.pack("=I", ifindex)
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed)]
    return [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i", ifindex) + source + bytes(4))]


class _Asked:
    """A request that waits for its answer, or for the end of its time."""

    def __init__(self, track: PingTrack, target: bytes, done: Take) -> None:
        self.track = track
        self.target = target
        self.done = done
        self.sent_at = 0.0
        self.timer: asyncio.Handle | None = None


class Pings:
    """Asks the hosts of tracks. All methods must be called on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sockets: dict[int, socket.socket] = {}  # by family
        self._users = {4: 0, 6: 0}
        self._token = os.urandom(8)
        self._identifier = int.from_bytes(self._token[:2])
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}  # by the number of the request

    def watch(self, track: Track, take: Take) -> Callable[[], None]:
        """Asks a track's host in rounds; `take` gets each result. Returns what ends that."""
        assert isinstance(track, PingTrack)
        family = 6 if ":" in track.target else 4
        target = address_bytes(track.target)
        self._users[family] += 1
        current = 0

        def begin(end: Callable[[], None]) -> None:
            nonlocal current

            def done(result: Result) -> None:
                take(result)
                end()

            current = self._ask(family, _Asked(track, target, done))

        rounds = Rounds(self._loop, track.interval_s, begin)

        def stop() -> None:
            rounds.stop()
            asked = self._asked.pop(current, None)
            if asked is not None and asked.timer is not None:
                asked.timer.cancel()
            self._users[family] -= 1
            if not self._users[family]:
                self._close(family)

        return stop

    def close(self) -> None:
        """Asks nothing from now on."""
        for asked in self._asked.values():
            if asked.timer is not None:
                asked.timer.cancel()
        self._asked.clear()
        for family in list(self._sockets):
            self._close(family)

    def _close(self, family: int) -> None:
        if family in self._sockets:
            opened = self._sockets.pop(family)
            self._loop.remove_reader(opened.fileno())
            opened.close()

    def _open(self, family: int) -> socket.socket:
        if family not in self._sockets:
            opened = open_socket(family)
            self._loop.add_reader(opened.fileno(), self._read, family)
            self._sockets[family] = opened
        return self._sockets[family]

    def _ask(self, family: int, asked: _Asked) -> int:
        """Sends a request; returns its number."""
        number = next(self._numbers)
        payload = PAYLOAD.pack(self._token, number)
        kind = ECHO if family == 4 else ECHO6
        fields = (self._identifier, number & 0xFFFF)
        request = ICMP.pack(kind, 0, 0, *fields) + payload
        if family == 4:  # of IPv6 the kernel computes it
            request = ICMP.pack(kind, 0, checksum(request), *fields) + payload
        track = asked.track
        try:
            destination: tuple[str, int] | tuple[str, int, int, int] = (track.target, 0)
            if family == 6:
                scope = 0 if track.interface is None else socket.if_nametoindex(track.interface)
                destination = (track.target, 0, 0, scope if track.target[:4] == "fe80" else 0)
            asked.sent_at = self._loop.time()
            self._open(family).sendmsg([request], way(track), 0, destination)
        except OSError as error:
            asked.timer = self._loop.call_soon(self._not_sent, number, error.strerror or str(error))
            self._asked[number] = asked
            return number
        self._asked[number] = asked
        asked.timer = self._loop.call_later(track.timeout_s, self._on_timeout, family, number)
        return number

    def _not_sent(self, number: int, why: str) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked.done(Result(False, f"{asked.track.target}: cannot be asked: {why}"))

    def _on_timeout(self, family: int, number: int) -> None:
        self._read(family)  # an answer may have come in time, and wait to be read
        asked = self._asked.pop(number, None)
        if asked is not None:
            track = asked.track
            text = f"{track.target}: no answer within {track.timeout_s:g} s"
            asked.done(Result(False, text, took_s=track.timeout_s))

    def _read(self, family: int) -> None:
        for _ in range(READS_MAX):
            if family not in self._sockets:
                return
            try:
                data, sender = self._sockets[family].recvfrom(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:  # an error of an earlier request: its time ends
                continue
            if family == 4:
                data = data[(data[0] & 15) * 4 :]
            if len(data) >= ICMP.size + PAYLOAD.size:
                self._on_answer(data, address_bytes(sender[0].partition("%")[0]))

    def _on_answer(self, data: bytes, sender: bytes) -> None:
        kind = data[0]
        token, number = PAYLOAD.unpack_from(data, ICMP.size)
        asked = self._asked.get(number)
        if kind not in (ECHO_REPLY, ECHO_REPLY6) or token != self._token or asked is None:
            return
        if sender != asked.target:
            return
        del self._asked[number]
        assert asked.timer is not None
        asked.timer.cancel()
        took_s = self._loop.time() - asked.sent_at
        text = f"{asked.track.target}: answered in {took_s * 1e3:.1f} ms"
        asked.done(Result(True, text, took_s=took_s))
