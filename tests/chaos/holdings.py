"""Which addresses each host of a lab has, and when they came and went.

Reads the kernel's notifications in each host, and asks the kernel itself when created and when
checked. Must not know the daemons. Times are CLOCK_REALTIME in ns, of the moment of reading.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from carp_fast.closing import Closing
from carp_fast.inet import address_text
from carp_fast.lab.lab import Host, LabError
from carp_fast.net.kernel import (
    IFA_ADDRESS,
    IFA_LOCAL,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    SO_RCVBUFFORCE,
)
from tests.chaos.spans import Span

BUFFER_BYTES = 64 << 20
NLMSG_DONE = 3

Place = tuple[int, str, int]  # ifindex, address, prefix length: each can be there by itself


class Change(NamedTuple):
    """An address that came to a host or went."""

    at_ns: int
    host: str
    ifindex: int
    address: str
    prefixlen: int
    there: bool


class Holdings(Closing):
    """The addresses of these hosts until closed; a context manager. Results are copies.

    Every method raises LabError if the reading thread failed, or the kernel dropped notifications.
    """

    def __init__(self, hosts: Iterable[Host]) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._changes: list[Change] = []
        self._there: dict[str, set[Place]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._sockets: dict[int, tuple[socket.socket, str]] = {}
        for name, host in self._hosts.items():
            with host.inside():
                sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            sock.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
            sock.setblocking(False)
            self._sockets[sock.fileno()] = (sock, name)
            self._there[name] = dump(host)
            now_ns = time.time_ns()
            self._changes += [Change(now_ns, name, *place, True) for place in self._there[name]]
        self._thread = threading.Thread(target=self._run, name="holdings", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        for sock, _ in self._sockets.values():
            sock.close()

    def there(self, host: str) -> set[str]:
        """The addresses that the host has now."""
        with self._lock:
            self._require()
            return {address for _, address, _ in self._there[host]}

    def changes(self) -> list[Change]:
        with self._lock:
            self._require()
            return list(self._changes)

    def spans(self, until_ns: int) -> dict[tuple[str, str], list[Span]]:
        """When each host had each address, by (host, address), up to `until_ns`."""
        since: dict[tuple[str, str], int] = {}
        count: dict[tuple[str, str], int] = {}
        found: dict[tuple[str, str], list[Span]] = {}
        for change in self.changes():
            key = (change.host, change.address)
            found.setdefault(key, [])
            count[key] = count.get(key, 0) + (1 if change.there else -1)
            if change.there and count[key] == 1:
                since[key] = change.at_ns
            elif not change.there and count[key] == 0:
                found[key].append((since.pop(key), change.at_ns))
        for key, start_ns in since.items():
            found[key].append((start_ns, max(start_ns, until_ns)))
        return found

    def check(self) -> None:
        """Compares what was read with what the kernel has. Raises LabError if they differ."""
        for name, host in self._hosts.items():
            known: set[Place] = set()
            there: set[Place] = set()
            for _ in range(100):  # a notification may be under way
                there = dump(host)
                with self._lock:
                    self._require()
                    known = set(self._there[name])
                if known == there:
                    break
                time.sleep(0.02)
            else:
                raise LabError(f"host {name}: notified of {known}, the kernel has {there}")

    def _require(self) -> None:
        if self._failure is not None:
            raise LabError(f"the record of addresses failed: {self._failure!r}")

    def _run(self) -> None:
        try:
            poller = select.epoll()
            for number in self._sockets:
                poller.register(number, select.EPOLLIN)
            while not self._stopping.is_set():
                for number, _ in poller.poll(0.1):
                    self._read(*self._sockets[number])
        except Exception as reason:
            self._failure = reason

    def _read(self, sock: socket.socket, name: str) -> None:
        while True:
            try:
                data = sock.recv(1 << 16)
            except BlockingIOError:
                return
            now_ns = time.time_ns()
            with self._lock:
                for kind, place in messages(data):
                    if (kind == RTM_NEWADDR) == (place in self._there[name]):
                        continue  # a change of its flags
                    there = kind == RTM_NEWADDR
                    (self._there[name].add if there else self._there[name].discard)(place)
                    self._changes.append(Change(now_ns, name, *place, there))


def messages(data: bytes) -> Iterator[tuple[int, Place]]:
    """(kind, place) of each address message of a netlink datagram."""
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if size < 16:
            return
        if kind in (RTM_NEWADDR, RTM_DELADDR):
            prefixlen, index = struct.unpack_from("=xBxxI", data, at + 16)
            attributes = dict(_attributes(data[at + 24 : at + size]))
            address = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS, b"")
            if len(address) in (4, 16):
                yield kind, (index, address_text(address), prefixlen)
        at += (size + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, name = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield name, data[at + 4 : at + length]
        at += (length + 3) & ~3


def dump(host: Host) -> set[Place]:
    """Every address of a host, asked of the kernel."""
    found: set[Place] = set()
    with host.inside(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(10)
        request = struct.pack("=IHHIIB3x", 20, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, 0)
        sock.send(request)
        while True:
            data = sock.recv(1 << 17)
            found |= {place for _, place in messages(data)}
            at = 0
            while at + 16 <= len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                if kind == NLMSG_DONE or size < 16:
                    return found
                at += (size + 3) & ~3
