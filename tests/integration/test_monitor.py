"""Interfaces read and followed in a network namespace of their own, against the real kernel.

Must not know virtual hosts.  Every wait is for a report with a deadline; where nothing must come, a
change of another interface is made afterwards, and its report shows that all before it was read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvloop

from carp_fast.lab.namespaces import claim, inside, ip_batch, new_identity, release
from carp_fast.net import kernel
from carp_fast.net import monitor as links
from carp_fast.net.interfaces import HEADER, decode_address, messages
from carp_fast.net.kernel import RTM_DELADDR, RTM_NEWADDR
from carp_fast.net.monitor import Interface, LinkMonitor, read_interfaces

pytestmark = pytest.mark.root

DEADLINE_S = 60.0
OURS = 112


class Requester:
    """A netlink socket that adds and removes addresses as the daemon would."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.socket.bind((0, 0))
        self.socket.settimeout(DEADLINE_S)
        self.port: int = self.socket.getsockname()[0]

    def request(self, kind: int, ifindex: int, addresses: list[str], protocol: int) -> None:
        """One message an address, in batches of 100 with an acknowledgement for the last."""
        for batch in _batches(addresses, 100):
            data = b""
            for address in batch:
                packed = ip_address(address).packed
                family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
                body = struct.pack("=BBBBI", family, len(packed) * 8, 0x02, 0, ifindex)
                for attribute in (1, 2):
                    body += struct.pack("=HH", 4 + len(packed), attribute) + packed
                if protocol:
                    body += struct.pack("=HHBxxx", 5, 11, protocol)
                flags = kernel.NLM_F_REQUEST | (kernel.NLM_F_ACK if address == batch[-1] else 0)
                if kind == RTM_NEWADDR:
                    flags |= kernel.NLM_F_CREATE | kernel.NLM_F_EXCL
                data += HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body
            self.socket.send(data)
            code = struct.unpack_from("=i", self.socket.recv(65536), HEADER.size)[0]
            if code:
                raise OSError(-code, os.strerror(-code))


def _batches(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@pytest.fixture
def namespace() -> Iterator[str]:
    """The calling thread is in a fresh namespace with the veth pairs v0-w0 and v1-w1, all up."""
    identity = new_identity("links")
    record = claim(identity, [identity])
    try:
        ip_batch([f"netns add {identity}"])
        lines = [f"link add v{i} type veth peer name w{i}" for i in (0, 1)]
        lines += [f"link set {side}{i} up" for i in (0, 1) for side in "vw"]
        ip_batch(lines, identity)
        with inside(identity):
            yield identity
    finally:
        release(record, identity, [identity])


@pytest.fixture
def requester() -> Iterator[Callable[[], Requester]]:
    made: list[Requester] = []

    def make() -> Requester:
        made.append(Requester())
        return made[-1]

    yield make
    for one in made:
        one.socket.close()


class Watch:
    """A monitor and what it reported, to be awaited."""

    def __init__(self, names: list[str], ignore_port: int | None = None, **options: Any) -> None:
        self.reports: list[Interface] = []
        self.removed: list[tuple[str, str, int]] = []
        self.order: list[str] = []
        self.readings: list[dict[str, Interface]] = []
        self._news = asyncio.Event()
        self.monitor = LinkMonitor(
            asyncio.get_running_loop(),
            names,
            self._on_interface,
            self._on_address_removed,
            ignore_port,
            on_overrun=self._on_overrun,
            **options,
        )

    def _on_interface(self, interface: Interface) -> None:
        self.reports.append(interface)
        self.order.append("interface")
        self._news.set()

    def _on_address_removed(self, name: str, address: bytes, prefixlen: int) -> None:
        self.removed.append((name, str(ip_address(address)), prefixlen))
        self.order.append("removed")
        self._news.set()

    def _on_overrun(self, reading: dict[str, Interface]) -> None:
        self.readings.append(reading)
        self._news.set()

    def last(self, name: str) -> Interface | None:
        return next((r for r in reversed(self.reports) if r.name == name), None)

    def of(self, name: str) -> list[Interface]:
        return [report for report in self.reports if report.name == name]

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"not reported within {DEADLINE_S} s: {what}; reports: {self.reports}")

    async def until_up(self, name: str, up: bool) -> None:
        def holds() -> bool:
            last = self.last(name)
            return last is not None and last.up is up

        await self.until(holds, f"{name} {'up' if up else 'down'}")

    async def until_addresses(self, name: str, *expected: str) -> None:
        """IPv4 addresses, in order."""

        def holds() -> bool:
            last = self.last(name)
            return last is not None and ipv4(last) == list(expected)

        await self.until(holds, f"{name} has {expected}")

    def clear(self) -> None:
        self.reports.clear()
        self.removed.clear()
        self.order.clear()


def ipv4(interface: Interface) -> list[str]:
    return [str(ip_address(a.address)) for a in interface.addresses if a.family == 4]


def watched(
    scene: Callable[[Watch], Coroutine[Any, Any, None]],
    names: list[str],
    ignore_port: int | None = None,
    **options: Any,
) -> None:
    """Runs the scene under uvloop with a started monitor whose first reports have come."""

    async def run() -> None:
        watch = Watch(names, ignore_port, **options)
        watch.monitor.start()
        try:
            await watch.until(
                lambda: {r.name for r in watch.reports} == set(names), "first reports"
            )
            await scene(watch)
        finally:
            watch.monitor.stop()

    uvloop.run(run())


def ip(*lines: str) -> None:
    ip_batch(lines)


def test_a_read_gives_links_and_addresses_in_kernel_order(namespace: str) -> None:
    ip(
        "addr add 192.0.2.1/24 dev v0",
        "addr add 192.0.2.2/24 dev v0",
        "addr add 198.51.100.1/25 dev v0",
        "addr add 2001:db8::1/64 dev v0 nodad",
        "link set v0 address 02:00:00:00:00:07",
        "link set v1 down",
    )
    found = read_interfaces(["v1", "v0", "gone0"])
    assert list(found) == ["v1", "v0", "gone0"]
    assert found["gone0"] == Interface("gone0", 0, b"", False, ())
    assert not found["v1"].up
    v0 = found["v0"]
    assert v0.ifindex == socket.if_nametoindex("v0")
    assert v0.mac == bytes.fromhex("020000000007")
    assert v0.up
    # The second address of a network is a secondary, and stands behind all primaries.
    assert ipv4(v0) == ["192.0.2.1", "198.51.100.1", "192.0.2.2"]
    assert [a.flags & 1 for a in v0.addresses[:3]] == [0, 0, 1]
    assert [a.prefixlen for a in v0.addresses[:3]] == [24, 25, 24]
    six = [a for a in v0.addresses if a.family == 6]
    assert [(len(a.address), a.prefixlen, a.scope) for a in six if a.scope == 0] == [(16, 64, 0)]
    assert any(a.scope == 253 and a.address[:2] == b"\xfe\x80" for a in six)


def test_of_a_point_to_point_address_the_local_one_is_read(namespace: str) -> None:
    ip("addr add 192.0.2.1 peer 192.0.2.9 dev v0")
    assert ipv4(read_interfaces(["v0"])["v0"]) == ["192.0.2.1"]


def test_a_read_knows_our_mark(namespace: str, requester: Callable[[], Requester]) -> None:
    ifindex = socket.if_nametoindex("v0")
    requester().request(RTM_NEWADDR, ifindex, ["10.0.0.1", "2001:db8::5"], OURS)
    requester().request(RTM_NEWADDR, ifindex, ["10.0.0.2"], 0)
    marks = {
        str(ip_address(a.address)): a.protocol
        for a in read_interfaces(["v0"])["v0"].addresses
        if a.scope == 0
    }
    assert marks == {"10.0.0.1": OURS, "2001:db8::5": OURS, "10.0.0.2": 0}


def test_down_and_up_and_loss_of_carrier(namespace: str) -> None:
    async def scene(watch: Watch) -> None:
        await watch.until_up("v0", True)
        ip("link set v0 down")
        await watch.until_up("v0", False)
        ip("link set v0 up")
        await watch.until_up("v0", True)
        ip("link set w0 down")
        await watch.until_up("v0", False)
        ip("link set w0 up")
        await watch.until_up("v0", True)
        last = watch.last("v1")
        assert last is not None
        assert last.up

    watched(scene, ["v0", "v1"])


def test_what_was_known_before_the_start_is_reported_only_if_it_changed(namespace: str) -> None:
    known = read_interfaces(["v0", "v1"])
    ip("addr add 192.0.2.1/24 dev v1")

    async def run() -> None:
        watch = Watch(["v0", "v1", "gone0"])
        watch.monitor.start(known)
        try:
            await watch.until_addresses("v1", "192.0.2.1")
            await watch.until(lambda: bool(watch.of("gone0")), "gone0, which was not known")
            # Carrier and a link-local address may come meanwhile: each is a change.
            assert all(a != b for a, b in pairwise([known["v0"], *watch.of("v0")]))
        finally:
            watch.monitor.stop()

    uvloop.run(run())


def test_deleted_and_created_again(namespace: str) -> None:
    async def scene(watch: Watch) -> None:
        first = socket.if_nametoindex("v0")
        ip("addr add 192.0.2.1/24 dev v0")
        await watch.until_addresses("v0", "192.0.2.1")
        watch.clear()
        ip("link del v0")
        await watch.until(lambda: watch.last("v0") == Interface("v0", 0, b"", False, ()), "absent")
        # What went with the interface was not removed by somebody.
        assert all(name != "v0" or ":" in address for name, address, _ in watch.removed)
        ip(
            "link add v0 type veth peer name w0",
            "link set w0 up",
            "link set v0 up",
            "addr add 192.0.2.7/24 dev v0",
        )
        await watch.until_addresses("v0", "192.0.2.7")
        await watch.until_up("v0", True)
        last = watch.last("v0")
        assert last is not None
        assert last.ifindex == socket.if_nametoindex("v0") != first

    watched(scene, ["v0"])


def test_the_same_ifindex_again_within_one_burst_is_reported_absent_first(namespace: str) -> None:
    ip("link add x0 index 777 type veth peer name y0")

    async def scene(watch: Watch) -> None:
        watch.clear()
        ip("link del x0", "link add x0 index 777 type veth peer name y0")
        await watch.until(lambda: bool(watch.of("x0")) and watch.of("x0")[-1].ifindex == 777, "x0")
        assert watch.of("x0")[0].ifindex == 0

    watched(scene, ["x0"])


def test_waited_for_and_renamed(namespace: str, requester: Callable[[], Requester]) -> None:
    requester().request(RTM_NEWADDR, socket.if_nametoindex("v0"), ["192.0.2.77"], OURS)

    async def scene(watch: Watch) -> None:
        last = watch.last("late0")
        assert last is not None
        assert last.ifindex == 0
        ip("addr add 192.0.2.1/24 dev v0", "link set v0 down", "link set v0 name late0")
        # With those of our mark where it appears, and not afterwards.
        await watch.until_addresses("late0", "192.0.2.77", "192.0.2.1")
        ip("addr add 192.0.2.2/24 dev late0")
        await watch.until_addresses("late0", "192.0.2.1", "192.0.2.2")
        await watch.until(lambda: watch.of("v0")[-1].ifindex == 0, "v0 renamed away")
        ip("link set late0 name v0")
        await watch.until_addresses("v0", "192.0.2.77", "192.0.2.1", "192.0.2.2")
        await watch.until(lambda: watch.of("late0")[-1].ifindex == 0, "late0 renamed back")

    watched(scene, ["v0", "late0"])


def test_a_port_that_leaves_its_bridge_has_not_gone(namespace: str) -> None:
    ip("link add br0 type bridge", "link set v0 master br0")

    async def scene(watch: Watch) -> None:
        watch.clear()
        ip("link set v0 nomaster", "addr add 192.0.2.1/24 dev v0")
        await watch.until_addresses("v0", "192.0.2.1")
        assert all(report.ifindex for report in watch.of("v0"))

    watched(scene, ["v0"])


def test_a_new_mac(namespace: str) -> None:
    async def scene(watch: Watch) -> None:
        ip("link set v0 address 02:00:00:00:00:42")
        mac = bytes.fromhex("020000000042")
        await watch.until(lambda: watch.of("v0")[-1].mac == mac, "the new MAC")

    watched(scene, ["v0"])


def test_forwarding_of_ipv6_is_followed(namespace: str) -> None:
    async def scene(watch: Watch) -> None:
        for which, value in (("v0", "1"), ("v0", "0"), ("all", "1"), ("all", "0")):
            watch.clear()
            Path(f"/proc/sys/net/ipv6/conf/{which}/forwarding").write_text(value)

            def follows(wanted: bool = value == "1") -> bool:
                # Another report may be under way: duplicate address detection has ended.
                last = watch.last("v0")
                return last is not None and last.forwards6 is wanted

            await watch.until(follows, f"{which}: {value}")

    watched(scene, ["v0"])


def test_addresses_come_and_go(namespace: str) -> None:
    async def scene(watch: Watch) -> None:
        ip("addr add 192.0.2.1/24 dev v0", "addr add 192.0.2.2/24 dev v0")
        await watch.until_addresses("v0", "192.0.2.1", "192.0.2.2")
        ip("addr add 198.51.100.1/24 dev v0")
        await watch.until_addresses("v0", "192.0.2.1", "198.51.100.1", "192.0.2.2")
        watch.clear()
        ip("addr del 198.51.100.1/24 dev v0")
        await watch.until_addresses("v0", "192.0.2.1", "192.0.2.2")
        await watch.until(lambda: bool(watch.removed), "the removal")
        assert watch.removed == [("v0", "198.51.100.1", 24)]
        assert watch.order == ["interface", "removed"]

    watched(scene, ["v0"])


def test_an_address_of_ours_that_somebody_else_removes_is_told(
    namespace: str, requester: Callable[[], Requester]
) -> None:
    ours = requester()
    ifindex = socket.if_nametoindex("v0")

    async def scene(watch: Watch) -> None:
        ours.request(RTM_NEWADDR, ifindex, ["10.0.0.1"], OURS)
        ip("addr del 10.0.0.1/32 dev v0")
        await watch.until(lambda: watch.removed == [("v0", "10.0.0.1", 32)], "the removal")

    watched(scene, ["v0"], ours.port)


def test_what_this_daemon_does_is_not_told(
    namespace: str, requester: Callable[[], Requester]
) -> None:
    ours = requester()
    ifindex = socket.if_nametoindex("v0")
    addresses = [f"10.0.{i}.{j}" for i in range(4) for j in range(1, 255)]

    async def scene(watch: Watch) -> None:
        watch.clear()
        # Without the mark only the port tells them apart, as on a kernel that knows no mark.
        ours.request(RTM_NEWADDR, ifindex, addresses, 0)
        ours.request(RTM_DELADDR, ifindex, addresses, 0)
        ours.request(RTM_NEWADDR, ifindex, addresses, OURS)
        ip("addr add 192.0.2.1/24 dev v1")
        await watch.until_addresses("v1", "192.0.2.1")
        assert not [report for report in watch.of("v0") if ipv4(report)]
        assert watch.removed == []
        # A re-read of the interface finds ours in the kernel, and leaves them out.
        ip("addr add 192.0.2.2/24 dev v0")
        await watch.until_addresses("v0", "192.0.2.2")
        assert watch.monitor.overruns == 0

    watched(scene, ["v0", "v1"], ours.port)


@pytest.mark.parametrize("with_port", [True, False])
def test_the_filter_drops_in_the_kernel(
    namespace: str, requester: Callable[[], Requester], with_port: bool
) -> None:
    ours, other = requester(), requester()
    ifindex = socket.if_nametoindex("v0")
    loop = asyncio.new_event_loop()
    monitor = LinkMonitor(
        loop, [], lambda _: None, lambda *_: None, ours.port if with_port else None
    )
    loop.close()
    four, six = "10.0.0.{}", "2001:db8::{}"
    askers = [(ours, OURS), (ours, 0), (other, OURS), (other, 0)]
    # IPv6 notifications name no port, so that there the mark alone counts.
    added = {four.format(4), six.format(4), six.format(2)}
    removed = {six.format(host) for host in (1, 2, 3, 4)} | {four.format(host) for host in (3, 4)}
    if not with_port:
        added.add(four.format(2))
        removed |= {four.format(host) for host in (1, 2)}
    seen: set[tuple[int, str]] = set()

    def read_until(expected: set[tuple[int, str]]) -> None:
        while not expected <= seen:
            data = subscribed.recv(65536)
            for kind, _, start, end in messages(data):
                decoded = decode_address(data, start, end, {ifindex})
                if kind in (RTM_NEWADDR, RTM_DELADDR) and decoded and decoded[1].scope == 0:
                    seen.add((kind, str(ip_address(decoded[1].address))))

    with monitor._subscribe() as subscribed:
        subscribed.settimeout(DEADLINE_S)
        for kind in (RTM_NEWADDR, RTM_DELADDR):
            for host, (asker, protocol) in enumerate(askers, start=1):
                asker.request(kind, ifindex, [four.format(host), six.format(host)], protocol)
            # The kernel tells a new IPv6 address later, once it is usable.
            read_until({(RTM_NEWADDR, address) for address in added})
        ip("addr add 192.0.2.1/24 dev v0")  # the last thing to be told
        read_until({(RTM_NEWADDR, "192.0.2.1")})
    assert seen == {
        (RTM_NEWADDR, "192.0.2.1"),
        *((RTM_NEWADDR, address) for address in added),
        *((RTM_DELADDR, address) for address in removed),
    }


@pytest.mark.parametrize("burst_s", [links.BURST_S, 0.0])
def test_after_an_overrun_everything_is_read_again(
    namespace: str,
    requester: Callable[[], Requester],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    burst_s: float,
) -> None:
    """With a burst of no length, it is read and reported while notifications are still dropped."""
    monkeypatch.setattr(links, "BURST_S", burst_s)
    # The kernel lets the reader run when its queue fills up: unless held up, it may lose nothing.
    reads = threading.Event()
    reads.set()
    drain = LinkMonitor._drain

    def held_drain(monitor: LinkMonitor) -> None:
        assert reads.wait(DEADLINE_S)
        drain(monitor)

    monkeypatch.setattr(LinkMonitor, "_drain", held_drain)
    ours, other = requester(), requester()
    v0, v1 = (socket.if_nametoindex(name) for name in ("v0", "v1"))
    many = [f"10.0.{i}.{j}" for i in range(4) for j in range(1, 251)]

    async def scene(watch: Watch) -> None:
        other.request(RTM_NEWADDR, v1, ["198.51.100.1", "198.51.100.2"], 0)
        await watch.until_addresses("v1", "198.51.100.1", "198.51.100.2")
        # The buffer holds a few messages; the rest is dropped.
        reads.clear()
        other.request(RTM_NEWADDR, v0, many, 0)
        reads.set()
        other.request(RTM_DELADDR, v1, ["198.51.100.1"], 0)
        other.request(RTM_DELADDR, v0, many[1:], 0)
        await watch.until_addresses("v0", many[0])
        await watch.until_addresses("v1", "198.51.100.2")
        gone = ("v1", "198.51.100.1", 32)
        await watch.until(lambda: gone in watch.removed, "the removal that was dropped")
        await watch.until(lambda: bool(watch.readings), "a full reading")
        assert all("203.0.113.1" in ipv4(reading["v0"]) for reading in watch.readings)
        assert watch.monitor.overruns >= 1

    # Every reading has it, also after an early overrun.
    ours.request(RTM_NEWADDR, v0, ["203.0.113.1"], OURS)
    with caplog.at_level(logging.WARNING, "carp_fast.net.monitor"):
        watched(scene, ["v0", "v1"], ours.port, receive_buffer_bytes=1)
    said = [record for record in caplog.records if "dropped notifications" in record.message]
    assert len(said) == 1  # however many there were within the interval


def test_other_names_after_a_reload(namespace: str) -> None:
    async def scene(watch: Watch) -> None:
        watch.clear()
        watch.monitor.set_names(["v1"])
        await watch.until(lambda: bool(watch.of("v1")), "the name that is new")
        watch.clear()
        ip("addr add 192.0.2.1/24 dev v0", "addr add 192.0.2.2/24 dev v1")
        await watch.until_addresses("v1", "192.0.2.2")
        assert watch.of("v0") == []
        watch.monitor.set_names(["v0", "v1"])
        await watch.until_addresses("v0", "192.0.2.1")

    watched(scene, ["v0"])


def test_more_interfaces_than_are_read_one_by_one(namespace: str) -> None:
    names = [f"m{i}" for i in range(12)]
    ip(*(f"link add {name} type veth peer name p{name}" for name in names))

    async def scene(watch: Watch) -> None:
        ip(*(f"addr add 192.0.2.{i}/24 dev {name}" for i, name in enumerate(names)))
        for i, name in enumerate(names):
            await watch.until_addresses(name, f"192.0.2.{i}")

    watched(scene, names)


def test_a_report_that_is_not_taken_does_not_end_the_others(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        news = asyncio.Event()
        taken: list[str] = []

        def on_interface(interface: Interface) -> None:
            taken.append(interface.name)
            news.set()
            if interface.name == "v0":
                raise ValueError("refused")

        monitor = LinkMonitor(
            asyncio.get_running_loop(), ["v0", "v1"], on_interface, lambda *_: None
        )
        monitor.start()
        try:
            async with asyncio.timeout(DEADLINE_S):
                while {"v0", "v1"} - set(taken):
                    news.clear()
                    await news.wait()
        finally:
            monitor.stop()

    uvloop.run(run())
    assert "handling a report about a link failed" in caplog.text


def test_stopped_it_tells_nothing_and_leaves_nothing_open(namespace: str) -> None:
    async def run() -> None:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        watch = Watch(["v0"])
        watch.monitor.start()
        await watch.until(lambda: bool(watch.reports), "the first report")
        with pytest.raises(RuntimeError):
            watch.monitor.start()
        thread = watch.monitor._thread
        watch.monitor.stop()
        watch.monitor.stop()
        assert thread is not None
        assert not thread.is_alive()
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
        watch.monitor.set_names(["v1"])
        watch.clear()
        ip("link set v0 down")
        await asyncio.get_running_loop().run_in_executor(None, read_interfaces, ["v0"])
        assert watch.reports == []

    uvloop.run(run())
