"""A pump on real sockets in a lab, run turn by turn by a test.

It must not know configuration or the daemon.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine.copies import HostCopy
from carp_fast.engine.reports import Report
from carp_fast.inet import mac_bytes
from carp_fast.lab.lab import Host
from carp_fast.net import addresses, sockets
from carp_fast.net.clones import Clones
from carp_fast.net.memberships import Joins
from carp_fast.net.rings import Rings
from carp_fast.pump._pump import Pump
from tests.support.rings import PlainRing
from tests.support.segment import ADDRESS, ADDRESS6, GROUP, GROUP6, PASSPHRASE, VHID, ip

DEADLINE_S = 60.0
FAST: dict[str, Any] = {"advbase": 0, "advskew": 8, "dead_ratio": 1}  # MASTER after 31 ms
SOURCE6 = ip("fe80::a")
BOTH = ((ADDRESS, 32), (ADDRESS6, 128))


class Turns:
    """A pump without a thread, run turn by turn; `reports`: what it has reported."""

    pump: Pump
    reports: list[Report]

    def turn(self) -> None:
        self.pump.run_due()
        self.reports += self.pump.take_reports()

    def run_until(self, holds: Callable[[], object], what: str) -> None:
        """Runs a turn whenever there is something to do, until it holds after one."""
        end_at = time.monotonic() + DEADLINE_S
        while True:
            self.turn()
            if holds():
                return
            left_s = end_at - time.monotonic()
            assert left_s > 0, f"not within {DEADLINE_S} s: {what}; {self.reports}"
            select.select([self.pump.epoll_fd], [], [], left_s)

    def host(self, slot: int = 0) -> HostCopy:
        snapshot = self.pump.snapshot(slot, 1)
        self.pump.mark()
        self.turn()
        ((_, fields),) = snapshot.hosts()
        return fields

    def counters(self) -> dict[str, int]:
        snapshot = self.pump.snapshot_interfaces(1)
        self.pump.mark()
        self.turn()
        return snapshot.counters()[0]


class Stage(Turns):
    """A pump on host a, whose interface s1 has number 0; the far end is host b.

    `clones`: large batches are sent as clones; the calling thread is then in the host's namespace
    until `opened` is closed.
    """

    def __init__(
        self,
        host: Host,
        path: str,
        opened: ExitStack,
        *,
        interface: str = "s1",
        clones: bool = False,
    ) -> None:
        with host.inside():
            self.clones = opened.enter_context(Clones()) if clones else None
            self.rings = opened.enter_context(Rings({"common": 4096})) if path == "ring" else None
            self.receivers = sockets.open_receivers(path, 10)
            self.sender, self.netlink = sockets.open_sender(), sockets.open_netlink()
            self.joins = Joins(self.receivers.get("packet"))
            self.ifindex = socket.if_nametoindex(interface)
            self.joins.join(interface, self.ifindex, {GROUP, GROUP6})
        if clones:  # the kernel finds their interfaces in the namespace of the calling thread
            opened.enter_context(host.inside())
        for sock in (*self.receivers.values(), self.sender, self.netlink):
            opened.enter_context(sock)
        opened.callback(self.joins.close)
        self.pump = Pump(
            self.listen(),
            self.sender.fileno(),
            self.netlink.fileno(),
            addresses.templates(),
        )
        if self.clones is not None:
            self.pump.send_clones(
                self.clones.program_fd, self.clones.address, self.clones.directory_fd
            )
        self.mac = mac_of(host, interface)
        self.source = ip(host.address(1))
        self.reports = []
        self.set_interface(self.ifindex)

    def listen(self) -> Iterable[Any]:
        """Accepts frames from now on; the receivers in the form that a pump takes."""
        if self.rings is None:
            sockets.filter_interfaces(self.receivers, [self.ifindex])
            return [(kind, sock.fileno()) for kind, sock in self.receivers.items()]
        self.rings.attach("common", self.receivers["packet"])
        fd = self.receivers["packet"].fileno()
        return [("ring", fd, "common", self.rings.memory("common"))]

    def set_interface(self, ifindex: int, *, up: bool = True) -> None:
        self.pump.set_interface(
            0, ifindex=ifindex, up=up, mac=self.mac, source=self.source, source6=SOURCE6
        )

    def add(self, slot: int = 0, **keys: Any) -> None:
        settings = {"interface": 0, "vhid": VHID, "addresses": BOTH, "passphrase": PASSPHRASE}
        self.pump.add(slot, PreparedHost(**{**settings, **keys}))
        self.pump.mark()

    def kinds(self) -> list[type[Report]]:
        return [type(report) for report in self.reports]


def mac_of(host: Host, interface: str = "s1") -> bytes:
    (link,) = json.loads(host.run(["ip", "-j", "link", "show", interface]).stdout)
    return mac_bytes(link["address"])


@contextmanager
def frames_of(host: Host) -> Iterator[socket.socket]:
    """What arrives at host b's interface of protocol 112."""
    with host.inside():
        listener = sockets.open_receiver(10_000)
        sockets.filter_interfaces({"packet": listener}, [socket.if_nametoindex("s1")])
    with listener:
        listener.settimeout(DEADLINE_S)
        yield listener


class RingStage(Turns):
    """A pump with a ring for the common lane, and a pair of sockets in place of a packet socket.

    `shared`: the address of what filters share with the pump, if there are any.
    """

    def __init__(self, count: int = 1024, shared: int | None = None) -> None:
        self.ring = PlainRing(count)
        self.waker, self.socket = socket.socketpair(type=socket.SOCK_DGRAM)
        self.waker.setblocking(False)
        self.netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.netlink.bind((0, 0))
        self.silent_fd = os.eventfd(0)
        memory = self.ring.memory if shared is None else (*self.ring.memory, shared)
        self.pump = Pump(
            [("ring", self.socket.fileno(), "common", memory)],
            self.silent_fd,
            self.netlink.fileno(),
            addresses.templates(),
        )
        self.reports = []
        self.set_ifindex(0, 1)

    def set_ifindex(self, number: int, ifindex: int) -> None:
        self.pump.set_interface(
            number, ifindex=ifindex, up=ifindex != 0, mac=bytes(6), source=ip("10.77.0.2")
        )

    def add(self, **keys: Any) -> None:
        self.pump.add(
            0,
            PreparedHost(
                interface=0,
                vhid=VHID,
                addresses=[(ADDRESS, 32)],
                passphrase=PASSPHRASE,
                manage_addresses=False,
                **keys,
            ),
        )
        self.pump.mark()
        self.turn()

    def counters(self) -> dict[str, int]:
        return {word: count for word, count in super().counters().items() if count}

    def close(self) -> None:
        for each in (self.waker, self.socket, self.netlink):
            each.close()
        os.close(self.silent_fd)
