"""A third host that pings the virtual addresses, to show a fail-over as their users see it.

Holds a raw ICMP socket of each family in use and the thread that sends on them. Must not know the
daemons, nor which host answers.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host, LabError

ECHO_REQUEST, ECHO_REPLY = 8, 0
ECHO_REQUEST6, ECHO_REPLY6 = 128, 129  # ICMPv6; the kernel fills in the checksum
LAST_ANSWERS_S = 0.5  # how long to wait after the last ping


class Pinger(Closing):
    """Pings each address every `every_s` until `close()`; a context manager.

    Addresses of either family, in the kernel's notation.
    """

    def __init__(self, host: Host, addresses: Iterable[str], every_s: float = 0.01) -> None:
        self.every_s = every_s
        self.sent = dict.fromkeys(addresses, 0)
        self.answered_at_ns: dict[str, list[int]] = {address: [] for address in self.sent}
        self._identifier = os.getpid() & 0xFFFF
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._sockets: dict[bool, socket.socket] = {}  # by whether it is for IPv6
        with host.inside():
            for six in {":" in address for address in self.sent}:
                family = socket.AF_INET6 if six else socket.AF_INET
                protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
                self._sockets[six] = socket.socket(family, socket.SOCK_RAW, protocol)
                self._sockets[six].setblocking(False)
        self._thread = threading.Thread(target=self._run, name="pinger", daemon=True)
        self._thread.start()

    def answered_since(self, at_ns: int) -> bool:
        """Whether every address has answered after `at_ns` (CLOCK_MONOTONIC).

        Raises LabError if the thread failed.
        """
        if self._failure is not None:
            raise LabError(f"the pinging host failed: {self._failure!r}")
        return all(times and times[-1] > at_ns for times in self.answered_at_ns.values())

    def close(self) -> None:
        """Stops pinging, and waits for the last answers."""
        self._stopping.set()
        self._thread.join()
        for each in self._sockets.values():
            each.close()

    def lost(self, address: str) -> int:
        """The number of pings of an address that were not answered."""
        return self.sent[address] - len(self.answered_at_ns[address])

    def _run(self) -> None:
        try:
            next_at = time.monotonic()
            while not self._stopping.is_set():
                for address in self.sent:
                    self._send(address)
                next_at = max(next_at + self.every_s, time.monotonic())
                self._receive_until(next_at)
            self._receive_until(time.monotonic() + LAST_ANSWERS_S)
        except Exception as reason:
            self._failure = reason

    def _send(self, address: str) -> None:
        six = ":" in address
        try:
            request = echo_request(self._identifier, self.sent[address] & 0xFFFF, six=six)
            self._sockets[six].sendto(request, (address, 0))
        except OSError:
            pass  # no neighbour answers: counts as a lost ping
        self.sent[address] += 1

    def _receive_until(self, end_at: float) -> None:
        while (left_s := end_at - time.monotonic()) > 0:
            readable = select.select(list(self._sockets.values()), [], [], left_s)[0]
            if not readable:
                return
            for each in readable:
                data, (address, *_) = each.recvfrom(256)
                six = each.family == socket.AF_INET6
                if is_reply(data, self._identifier, six=six) and address in self.sent:
                    self.answered_at_ns[address].append(time.monotonic_ns())


def echo_request(identifier: int, number: int, *, six: bool = False) -> bytes:
    """An ICMP or ICMPv6 echo request without data."""
    if six:
        return struct.pack(">BBHHH", ECHO_REQUEST6, 0, 0, identifier, number)
    total = (ECHO_REQUEST << 8) + identifier + number
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">BBHHH", ECHO_REQUEST, 0, ~total & 0xFFFF, identifier, number)


def is_reply(packet: bytes, identifier: int, *, six: bool = False) -> bool:
    """Whether an IPv4 packet, or a payload of IPv6, answers an echo request of this identifier."""
    at = 0 if six else (packet[0] & 15) * 4
    if len(packet) < at + 8:
        return False
    kind, _, _, of = struct.unpack_from(">BBHH", packet, at)
    return bool(kind == (ECHO_REPLY6 if six else ECHO_REPLY) and of == identifier)
