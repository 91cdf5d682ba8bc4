"""A pump alone in a namespace, for tests of what netlink's faults do to addresses.

    python -m tests.support.netlink_scene SCENE

Run with netlink_faults.so preloaded. Prints one JSON document: what was reported, what is held and
what is there, at each step. Waits for events with a deadline, and says what did not come.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine.copies import HostCopy
from carp_fast.engine.reports import (
    AddressFailed,
    AddressForeign,
    AddressRestored,
    Done,
    Released,
    Report,
    ResignedHolding,
    SecondariesNotPromoted,
    Stalled,
)
from carp_fast.net import addresses, sockets
from carp_fast.net.interfaces import OWN_PROTOCOL, read_interfaces
from carp_fast.pump._pump import Pump

Kind = TypeVar("Kind", bound=Report)
DEADLINE_S = 60.0
OWN, OURS, OTHER, LATER = "10.9.0.1", "10.9.1.50", "10.9.1.51", "10.9.1.52"


def run(words: str) -> str:
    done = subprocess.run(words.split(), capture_output=True, text=True, check=True)
    return done.stdout


def there() -> dict[str, bool]:
    """The IPv4 addresses of a0, and whether each bears our mark."""
    found = read_interfaces(["a0"])["a0"].addresses
    return {
        socket.inet_ntop(socket.AF_INET, each.address): each.protocol == OWN_PROTOCOL
        for each in found
        if each.family == 4
    }


class Scene:
    """A veth with the host's own address, and a pump."""

    def __init__(self, where: str = "thread") -> None:
        self.netlink = sockets.open_netlink()
        self.sender = sockets.open_sender()
        silent_fd = os.eventfd(0)
        self.pump = Pump(
            [("packet", silent_fd)],
            self.sender.fileno(),
            self.netlink.fileno(),
            addresses.templates(),
        )
        self.reports: list[Report] = []
        self.tell_interface()
        self.in_loop = where == "loop"
        if self.in_loop:
            self.pump.start_netlink()
        else:
            self.pump.start("normal")

    def tell_interface(self) -> None:
        self.pump.set_interface(
            0,
            ifindex=socket.if_nametoindex("a0"),
            up=True,
            mac=b"\2\0\0\0\0\1",
            source=socket.inet_aton("10.9.0.2"),
        )

    def add(self, slot: int, *texts: str, prefixlen: int = 24) -> None:
        """A virtual host that is MASTER in a moment."""
        every = [(socket.inet_aton(text), prefixlen) for text in texts]
        host = PreparedHost(
            interface=0,
            vhid=slot + 1,
            addresses=every[:1],
            unsigned_addresses=every[1:],
            passphrase=b"secret",
            advbase=0,
            advskew=16,
            dead_ratio=1,
        )
        self.pump.add(slot, host)
        self.pump.mark()

    def holds_one(self, slot: int) -> bool:
        return self.held(slot) == 1

    def held(self, slot: int = 0) -> int:
        snapshot = self.pump.snapshot(slot, 1)
        mark = self.pump.mark()
        self.wait(lambda: mark in self.done, "a snapshot")
        hosts = snapshot.hosts()
        return int(hosts[0][1].held) if hosts else -1

    def host(self, slot: int) -> HostCopy:
        snapshot = self.pump.snapshot(slot, 1)
        mark = self.pump.mark()
        self.wait(lambda: mark in self.done, "a snapshot")
        return snapshot.hosts()[0][1]

    @property
    def done(self) -> set[int]:
        return {each.mark for each in self.reported(Done)}

    def reported(self, kind: type[Kind]) -> list[Kind]:
        """The reports of a kind."""
        self.reports += self.pump.take_reports(1000)
        return [each for each in self.reports if isinstance(each, kind)]

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > end_s:
                told = [report for report in self.reports if not isinstance(report, Done)]
                sys.exit(f"{what} did not come: {told} {there()}")
            if self.in_loop:
                self.pump.run_due()
            time.sleep(0.005)

    def end(self) -> None:
        self.pump.resign_all()
        mark = self.pump.mark(True)
        self.wait(lambda: mark in self.done, "the end")
        self.pump.stop()


def prepare() -> None:
    run("ip link set lo up")
    run("ip link add a0 type veth peer name p0")
    run("ip link set p0 up")
    run("ip link set a0 up")
    run(f"ip addr add {OWN}/24 dev a0")


def sent() -> dict[str, Any]:
    """Some advertisements of a MASTER."""
    scene = Scene()
    scene.add(0, OURS)
    scene.wait(lambda: scene.host(0).counters["advertisements_sent"] > 5, "advertisements")
    errors = scene.host(0).counters["send_errors"]
    scene.end()
    return {"send_errors": errors}


def foreign() -> dict[str, Any]:
    """The virtual address is the host's own already."""
    scene = Scene()
    scene.add(0, OWN)
    scene.wait(lambda: scene.reported(AddressForeign), "address_foreign")
    held = scene.held()
    scene.end()
    return {"held": held, "there": there()}


def ours() -> dict[str, Any]:
    """Three addresses, added and removed."""
    scene = Scene()
    scene.add(0, OURS, OTHER, LATER)
    scene.wait(lambda: scene.held() == 3, "all addresses")
    during = there()
    scene.end()
    scene.wait(lambda: len(there()) == 1, "the removal")
    foreign = len(scene.reported(AddressForeign))
    return {"during": during, "there": there(), "foreign": foreign}


def secondaries() -> dict[str, Any]:
    """Three virtual hosts of a subnet; that of the primary address leaves."""
    scene = Scene()
    for name in ("all", "a0"):
        with open(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries", "w") as file:
            file.write("0")
    for slot, text in enumerate((OURS, OTHER, LATER)):
        scene.add(slot, text)
        scene.wait(partial(scene.holds_one, slot), "an address")
    began_s = time.monotonic()
    scene.pump.remove(0)
    scene.pump.mark()
    scene.wait(lambda: scene.reported(Released), "released")
    scene.wait(lambda: {OTHER, LATER} <= there().keys(), "the secondaries")
    seconds = time.monotonic() - began_s
    scene.wait(lambda: scene.held(1) + scene.held(2) == 2, "the addresses")
    found = {
        "there": there(),
        "seconds": seconds,
        "restored": [each.why for each in scene.reported(AddressRestored)],
        "secondaries": [each.error for each in scene.reported(SecondariesNotPromoted)],
    }
    scene.end()
    return found


def many() -> dict[str, Any]:
    """More addresses on an interface than one look holds; some are removed by hand."""
    scene = Scene()
    texts = [f"10.10.{n // 250}.{n % 250 + 1}" for n in range(9000)]
    scene.add(0, *texts, prefixlen=32)
    scene.wait(lambda: scene.held() == len(texts), "all addresses")
    gone = texts[::1000]
    for text in gone:
        run(f"ip addr del {text}/32 dev a0")
    run(f"ip addr del {texts[5]}/32 dev a0")
    run(f"ip addr add {texts[5]}/32 dev a0")
    scene.pump.verify(0)
    scene.pump.mark()
    scene.wait(lambda: len(scene.reported(AddressRestored)) == len(gone), "the lost ones")
    scene.wait(lambda: scene.reported(AddressForeign), "address_foreign")
    held = scene.held()
    scene.end()
    scene.wait(lambda: len(there()) == 2, "the removal")
    return {"held": held, "there": there()}


def blind() -> dict[str, Any]:
    """Nobody can say what became of a change: it is not guessed, but tried until it is known."""
    scene = Scene()
    scene.add(0, OWN)
    scene.wait(lambda: scene.reported(AddressFailed), "address_failed")
    scene.wait(lambda: scene.reported(AddressForeign), "address_foreign")
    held = scene.held()
    scene.end()
    return {"held": held, "there": there()}


def backup() -> dict[str, Any]:
    """An address with our mark on a BACKUP, and one without."""
    crashed = Scene()
    crashed.add(0, OURS)
    crashed.wait(lambda: crashed.held() == 1, "the address")
    crashed.pump.stop()
    run(f"ip addr add {OTHER}/24 dev a0")
    scene = Scene()
    host = PreparedHost(
        interface=0,
        vhid=1,
        addresses=[(socket.inet_aton(text), 24) for text in (OURS, OTHER)],
        passphrase=b"secret",
        advbase=200,
    )
    scene.pump.add(0, host)
    scene.pump.mark()
    scene.wait(lambda: OURS not in there(), "the removal")
    scene.end()
    return {"there": there()}


def busy(where: str = "thread") -> dict[str, Any]:
    """The kernel is busy while a second host's address is added, and when both resign.

    A MASTER with an interval of 62.5 ms goes on advertising: `late` are its advertisements, of 30,
    that came in more than twice the time that they should take.
    """
    scene = Scene(where)
    scene.add(0, OURS)
    scene.wait(lambda: scene.holds_one(0), "the first address")
    os.environ["BUSY"] = "1"
    scene.add(1, OTHER)
    scene.wait(lambda: scene.host(1).state == "MASTER", "the second host")
    before, since_s = scene.host(0).counters["advertisements_sent"], time.monotonic()
    scene.wait(
        lambda: scene.host(0).counters["advertisements_sent"] >= before + 30, "advertisements"
    )
    took_s, held = time.monotonic() - since_s, scene.held(1)
    scene.wait(lambda: scene.holds_one(1), "the second address")
    announced = scene.host(1).counters["announcements_sent"]
    os.environ["BUSY"] = "1"
    scene.pump.resign_all()
    mark = scene.pump.mark(True)
    scene.wait(lambda: len(scene.reported(ResignedHolding)) == 2, "the resignations")
    left = there()
    scene.wait(lambda: mark in scene.done, "the end")
    scene.pump.stop()
    return {
        "held_meanwhile": held,
        "took_s": took_s,
        "announced": announced > 0,
        "stalled_s": sum(report.away_ns for report in scene.reported(Stalled)) / 1e9,
        "left": sorted(left),
        "there": there(),
    }


def busy_loop() -> dict[str, Any]:
    """The same where the pump has no thread of its own."""
    return busy("loop")


if __name__ == "__main__":
    prepare()
    print(json.dumps(globals()[sys.argv[1]]()))
