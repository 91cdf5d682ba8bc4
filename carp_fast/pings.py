"""A third host that pings the virtual addresses: what a fail-over is to those who use them.

Holds one raw ICMP socket and the thread that sends on it. Must not know the daemons, nor who
answers.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from carp_fast.lab import Host, LabError

ECHO_REQUEST, ECHO_REPLY = 8, 0
LAST_ANSWERS_S = 0.5  # waited for after the last ping


class Pinger:
    """Pings each address every `every_s` from its making until `close()`; a context manager."""

    def __init__(self, host: Host, addresses: Iterable[str], every_s: float = 0.01) -> None:
        self.every_s = every_s
        self.sent = dict.fromkeys(addresses, 0)
        self.answered_at_ns: dict[str, list[int]] = {address: [] for address in self.sent}
        self._identifier = os.getpid() & 0xFFFF
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        with host.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="pinger", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def answered_since(self, at_ns: int) -> bool:
        """Whether every address has answered after `at_ns` (CLOCK_MONOTONIC).

        LabError if the thread failed.
        """
        if self._failure is not None:
            raise LabError(f"the pinging host failed: {self._failure!r}")
        return all(times and times[-1] > at_ns for times in self.answered_at_ns.values())

    def close(self) -> None:
        """Returns when the last answers have had their time."""
        self._stopping.set()
        self._thread.join()
        self._socket.close()

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
        try:
            request = echo_request(self._identifier, self.sent[address] & 0xFFFF)
            self._socket.sendto(request, (address, 0))
        except OSError:
            pass  # no neighbour answers: a ping that is lost, like any other
        self.sent[address] += 1

    def _receive_until(self, end_at: float) -> None:
        while (left_s := end_at - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left_s)[0]:
                return
            data, (address, _) = self._socket.recvfrom(256)
            if is_reply(data, self._identifier) and address in self.sent:
                self.answered_at_ns[address].append(time.monotonic_ns())


def echo_request(identifier: int, number: int) -> bytes:
    """An ICMP echo request without data."""
    total = (ECHO_REQUEST << 8) + identifier + number
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">BBHHH", ECHO_REQUEST, 0, ~total & 0xFFFF, identifier, number)


def is_reply(packet: bytes, identifier: int) -> bool:
    """Whether an IPv4 packet answers an echo request of this identifier."""
    at = (packet[0] & 15) * 4
    if len(packet) < at + 8:
        return False
    kind, _, _, of = struct.unpack_from(">BBHH", packet, at)
    return bool(kind == ECHO_REPLY and of == identifier)
