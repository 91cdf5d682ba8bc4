"""A host that pings many addresses without pause, and tells how long each did not answer.

What counts is the requests that were sent and got no answer: if the pinger itself is held up, it
sends nothing and claims nothing, but tells for how long. Must not know what answers.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterable

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host
from tests.support.segment import internet_checksum

EVERY_S = 0.010
ANSWERED_WITHIN_S = 0.5  # a later answer is none
IDENTIFIER = 0x4321
BUFFER_BYTES = 8 << 20
ROUNDS_MAX = 65_536  # a sequence number has 16 bits


class Pinger(Closing):
    """Sends an echo request to each address every EVERY_S, from `host`; a context manager."""

    def __init__(self, host: Host, addresses: Iterable[str]) -> None:
        self.addresses = list(addresses)
        with host.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.setblocking(False)
        self._numbers = {socket.inet_aton(each): n for n, each in enumerate(self.addresses)}
        # By round: when it was sent, ns, and by address and round: whether it was answered.
        self._sent_ns = array.array("q")
        self._answered = [bytearray(ROUNDS_MAX) for _ in self.addresses]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops once the last requests had the time to be answered."""
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def unanswered_s(self, since_ns: int = 0) -> dict[str, float]:
        """The longest time that each address did not answer, among requests sent since then
        (CLOCK_MONOTONIC), and before those that may still be answered.
        """
        last_ns = time.monotonic_ns() - int(ANSWERED_WITHIN_S * 1e9)
        rounds = [
            number
            for number, at_ns in enumerate(self._sent_ns)
            if since_ns <= at_ns and (at_ns < last_ns or self._stopping.is_set())
        ]
        found = {}
        for address, answered in zip(self.addresses, self._answered, strict=True):
            longest = run = 0
            for number in rounds:
                run = 0 if answered[number] else run + 1
                longest = max(longest, run)
            found[address] = longest * EVERY_S
        return found

    def held_up_s(self, since_ns: int = 0) -> float:
        """The longest time between two rounds since then, beyond EVERY_S: a busy machine."""
        sent = [at_ns for at_ns in self._sent_ns if at_ns >= since_ns]
        apart = [(after - before) / 1e9 for before, after in itertools.pairwise(sent)]
        return max(0.0, max(apart, default=0.0) - EVERY_S)

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopping.is_set() and len(self._sent_ns) < ROUNDS_MAX:
            number = len(self._sent_ns)
            head = struct.pack(">BBHHH", 8, 0, 0, IDENTIFIER, number)
            request = head[:2] + struct.pack(">H", internet_checksum(head)) + head[4:]
            self._sent_ns.append(time.monotonic_ns())
            for address in self.addresses:
                with contextlib.suppress(OSError):  # nobody answers its ARP: unanswered
                    self._socket.sendto(request, (address, 0))
            self._read()
            due_s = max(due_s + EVERY_S, time.monotonic())
            self._stopping.wait(due_s - time.monotonic())
        end_s = time.monotonic() + ANSWERED_WITHIN_S
        while time.monotonic() < end_s:
            self._read()
            time.sleep(EVERY_S)

    def _read(self) -> None:
        while True:
            try:
                packet = self._socket.recv(128)
            except BlockingIOError:
                return
            which = self._numbers.get(packet[12:16])
            kind, _, _, identifier, number = struct.unpack_from(">BBHHH", packet, 20)
            if kind == 0 and identifier == IDENTIFIER and which is not None:
                self._answered[which][number] = 1
