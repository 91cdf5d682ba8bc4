"""A switch that impairs: loses, delays, reorders, duplicates or cuts frames, each way by itself.

    python -m tests.chaos.switch SEED PORT...

A process with a packet socket for each port. It forwards every frame to all other ports. Lines on
standard input change a path, "*" stands for every port:

    loss FROM TO PERCENT
    duplicate FROM TO PERCENT
    delay FROM TO LEAST_MS MOST_MS     drawn for each frame, so that frames overtake each other
    cut FROM TO 0|1

It prints "ready", and then "done" for each line. It ends with its input. It must not know what the
frames are. For the traffic of a lab: some thousand frames a second.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import socket
import sys
import time
from random import Random

from carp_fast.net.kernel import (
    ETH_P_ALL,
    PACKET_IGNORE_OUTGOING,
    SO_RCVBUFFORCE,
    SOL_PACKET,
)

BUFFER_BYTES = 16 << 20
BATCH = 64
DELAYED_MAX = 65_536  # frames under way; more are lost, as in a full queue
PRIORITY = 10  # SCHED_FIFO: a busy machine must not delay frames that the case does not delay


class Path:
    """What happens to frames on the way from one port to another."""

    def __init__(self) -> None:
        self.loss = self.duplicate = 0.0  # shares of 1
        self.delay_s = (0.0, 0.0)
        self.cut = False

    def set(self, what: str, values: list[float]) -> None:
        if what == "loss":
            self.loss = values[0] / 100
        elif what == "duplicate":
            self.duplicate = values[0] / 100
        elif what == "delay":
            self.delay_s = (values[0] / 1e3, values[1] / 1e3)
        elif what == "cut":
            self.cut = bool(values[0])
        else:
            raise ValueError(f"{what}: loss, duplicate, delay or cut")


class Switch:
    """Ports by name, the paths between them, and the frames under way."""

    def __init__(self, names: list[str], seed: int) -> None:
        self._random = Random(seed)
        self._paths = {(a, b): Path() for a in names for b in names if a != b}
        self._under_way: list[tuple[float, int, str, bytes]] = []
        self._number = 0
        self._ports = {name: _port(name) for name in names}
        self._poll = select.epoll()
        self._names = {port.fileno(): name for name, port in self._ports.items()}
        for number in self._names:
            self._poll.register(number, select.EPOLLIN)

    def run(self) -> None:
        """Forwards until standard input ends."""
        commands = 0
        self._poll.register(commands, select.EPOLLIN)
        rest = b""
        while True:
            for number, _ in self._poll.poll(self._wait_s()):
                if number != commands:
                    self._receive(number)
                    continue
                data = os.read(commands, 4096)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._obey(line.decode())
            self._deliver()

    def _wait_s(self) -> float:
        if not self._under_way:
            return -1
        return max(0.0, self._under_way[0][0] - time.monotonic())

    def _obey(self, line: str) -> None:
        what, sender, receiver, *values = line.split()
        for (a, b), path in self._paths.items():
            if sender in ("*", a) and receiver in ("*", b):
                path.set(what, [float(value) for value in values])
        print("done", flush=True)

    def _receive(self, number: int) -> None:
        name = self._names[number]
        for _ in range(BATCH):
            try:
                frame = self._ports[name].recv(65_536)
            except OSError:  # none is left, or the port has just gone down
                return
            for other in self._ports:
                if other != name:
                    self._forward(name, other, frame)

    def _forward(self, name: str, other: str, frame: bytes) -> None:
        path = self._paths[name, other]
        if path.cut or self._random.random() < path.loss:
            return
        for _ in range(2 if self._random.random() < path.duplicate else 1):
            delay_s = self._random.uniform(*path.delay_s)
            if delay_s <= 0:
                self._send(other, frame)
            elif len(self._under_way) < DELAYED_MAX:
                self._number += 1
                item = (time.monotonic() + delay_s, self._number, other, frame)
                heapq.heappush(self._under_way, item)

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            _, _, name, frame = heapq.heappop(self._under_way)
            self._send(name, frame)

    def _send(self, name: str, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # the port is down: a lost frame
            self._ports[name].send(frame)


def _port(name: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    with contextlib.suppress(PermissionError):  # root of a user namespace only
        port.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    port.setblocking(False)
    port.bind((name, ETH_P_ALL))
    return port


def main() -> None:
    seed, *names = sys.argv[1:]
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    switch = Switch(names, int(seed))
    print("ready", flush=True)
    switch.run()


if __name__ == "__main__":
    main()
