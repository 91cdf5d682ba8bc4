"""An engine with virtual hosts in every state, at times that stand still; its control socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.access import CHANGES, READS
from carp_fast.control.documents import Reloaded
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import ExplainRequest, ReloadRequest, StatusRequest
from carp_fast.control.server import ControlServer, Handler
from carp_fast.daemon.explain import Explanations
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.manner import Own
from carp_fast.daemon.network import Sources
from carp_fast.daemon.reload import Difference, report
from carp_fast.daemon.reports import Reports
from carp_fast.daemon.status import Status
from carp_fast.daemon.table import Hosts
from carp_fast.engine._engine import Engine
from carp_fast.engine._tallies import Tallies
from carp_fast.pump.facts import PumpFacts
from tests.support.asked import EngineOrders, KnownNetwork, KnownProblems
from tests.support.segment import (
    SECOND_NS,
    START_NS,
    Node,
    advertisement,
    ip,
    prepared,
)

NOW_NS = START_NS + 20 * SECOND_NS
EPOCH_NS = 1_800_000_000 * SECOND_NS
ADDRESSES = ("10.77.0.100/24",)
BOTH = ("10.77.0.100/24", "2001:db8::100/64", "fe80::100/64")
PEER = "10.77.0.3"


class SceneSnapshot:
    """Slots, or the interface, of an engine as the pump copies them."""

    def __init__(self, engine: Engine, first: int, count: int) -> None:
        self.engine = engine
        self.slots = range(first, first + count)

    def hosts(self) -> list[Any]:
        return [(slot, self.engine.host(slot)) for slot in self.slots]

    def explained(self, now_ns: int) -> list[Any]:
        return [(slot, self.engine.explained(slot, now_ns)) for slot in self.slots]

    def counters(self) -> list[Any]:
        return [self.engine.interface_counters(0)]

    def rejections(self) -> list[Any]:
        return [self.engine.rejections(0)]


class ScenePump:
    """An engine for what the pump copies; what it counts does not move."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.facts = PumpFacts(1_234, 56, 7, 890, 0, 10_000_000, "fifo")

    def snapshot(self, first: int, count: int) -> SceneSnapshot:
        return SceneSnapshot(self.engine, first, count)

    def snapshot_interfaces(self, count: int, first: int = 0) -> SceneSnapshot:
        return SceneSnapshot(self.engine, 0, 1)

    def tally(self, tallies: Tallies, first: int = 0, count: int = 0) -> None:
        if count:  # with the figures
            self.engine.tally(tallies, NOW_NS, first, count)


class Scene:
    """Virtual hosts of eth0, one a vhid: 42 to 47."""

    def __init__(self) -> None:
        self.node = Node("10.77.0.2", on6="fe80::2", advskew=100)
        self.engine = self.node.engine
        self.hosts = Hosts()
        self.add(42, ADDRESSES, {"advskew": 100, "preempt": "demoted"})
        self.add(43, ADDRESSES, {"dialect": "openbsd", "preempt": True}, dialect="openbsd")
        self.add(44, BOTH, {"startup_delay_s": 60.0}, startup_delay_ns=60 * SECOND_NS)
        self.add(45, BOTH, {"replay": "off"}, replay="off")
        self.add(46, ADDRESSES, {"source": "10.77.0.9"}, source=ip("10.77.0.9"))
        self.add(47, ADDRESSES, {"peers": ("10.77.0.5",)}, peers=[ip("10.77.0.5")])
        self.orders: Any = cast("Any", EngineOrders(self.engine))
        self.orders.pump = ScenePump(self.engine)
        self.network: Any = cast("Any", KnownNetwork(self.hosts, self.orders))
        self.network.sources = {"eth0": Sources(ip("10.77.0.2"), ip("fe80::2"), False)}
        self.problems: Any = cast("Any", KnownProblems())
        self.problems.address_problems = {
            3: {"fe80::100/64": "address_foreign", "10.77.0.200/24": "Permission denied"}
        }
        self.status = Status(
            self.hosts,
            self.orders,
            self.network,
            self.problems,
            in_use={4: "pid 4711 (ucarp)"},
        )
        self.explanations = Explanations(
            self.hosts, self.orders, self.network, self.status, lambda: NOW_NS
        )
        self.live()

    def add(
        self, vhid: int, addresses: tuple[str, ...], configured: dict[str, Any], /, **given: Any
    ) -> None:
        settings = Settings(passphrase=b"secret", **configured)
        slot = self.hosts.take(VirtualHost("eth0", vhid, addresses, (), settings))
        if slot:
            every = [
                (ip(each.partition("/")[0]), int(each.partition("/")[2])) for each in addresses
            ]
            self.engine.add(slot, prepared(vhid=vhid, addresses=every, **given), START_NS)

    def live(self) -> None:
        """Twenty seconds: one host hears a master, one another's demotion, one is barred."""
        engine, mac = self.engine, b"\x02\0\0\0\0\x99"
        for second in range(20):
            at_ns = START_NS + second * SECOND_NS
            frame = advertisement(source=PEER, source_mac=mac, counter=second + 1, advskew=150)
            assert engine.receive(0, frame, at_ns) == "ok"
            frame = advertisement(source=PEER, vhid=43, counter=second + 1, demote=second // 10)
            assert engine.receive(0, frame, at_ns + 1_000_000) == "ok"
            self.node.run(at_ns + SECOND_NS // 2)
        engine.demote(1, 5, NOW_NS)
        engine.demote(3, 20, NOW_NS)
        engine.bar(4, True, NOW_NS)
        twin = advertisement(source="10.77.0.2", counter=77, advskew=100, source_mac=mac)
        engine.receive(0, twin, NOW_NS)
        for bad in ({"passphrase": b"another"}, {"vhid": 99}, {"checksum_error": 1}):
            engine.receive(0, advertisement(source=PEER, **bad), NOW_NS)
        engine.receive(0, advertisement(source=PEER)[:40], NOW_NS)
        self.hosts.states[:] = bytes(
            ("INIT", "BACKUP", "MASTER").index(engine.host(slot).state) for slot in range(6)
        )


class Served:
    """The scene behind a control socket."""

    def __init__(self, scene: Scene, path: Path) -> None:
        self.scene = scene
        self.path = path
        handlers = {
            "status": Handler(StatusRequest, scene.status.answer, READS),
            "explain": Handler(ExplainRequest, scene.explanations.answer, READS),
            "reload": Handler(ReloadRequest, self.reload, CHANGES),
        }
        self.server = ControlServer(path, handlers)

    async def reload(self, request: ReloadRequest) -> Reloaded:
        if request.force:
            raise ControlError("2 faults in the configuration", ["a.toml: one", "a.toml: two"])
        kept = dict(self.scene.hosts.used())
        changes = {"advskew 1 -> 100": ["eth0/42"]}
        difference = Difference([], [], [], [], changes, {"advskew": None}, kept)
        return report(difference, ["daemon.record 0 -> 1"], 0.12345)

    async def ask(self, *requests: dict[str, Any]) -> list[bytes]:
        """The lines that these requests are answered with."""
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 20)
        for request in requests:
            writer.write(msgspec.json.encode(request) + b"\n")
        lines = [await reader.readline() for _ in requests]
        writer.close()
        return lines

    async def events(self) -> list[bytes]:
        """The lines of a stream of events, its first included."""
        hosts, orders = self.scene.hosts, self.scene.orders
        hooks: Any = None  # no virtual host has one
        manner = Own(hooks, HostLog(asyncio.get_running_loop().call_later))
        reports = Reports(hosts, orders, manner, publish=self.server.publish)
        hosts.states[:] = bytes(6)
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(b'{"command":"events"}\n')
        lines = [await reader.readline()]
        reports.on_state(0, "BACKUP", "started", NOW_NS, None)
        reports.on_state(0, "MASTER", "preempted", NOW_NS + 1_234_567, PEER)
        reports.on_state(4, "INIT", "in_use", NOW_NS, None)
        lines += [await reader.readline() for _ in range(3)]
        writer.close()
        return lines


def stop_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene's times, process, machine and version do not change."""
    monkeypatch.setattr(time, "monotonic_ns", lambda: NOW_NS)
    monkeypatch.setattr(time, "time_ns", lambda: EPOCH_NS)
    monkeypatch.setattr(os, "getpid", lambda: 4_242)
    monkeypatch.setattr(socket, "gethostname", lambda: "alpha")
    monkeypatch.setattr("carp_fast.daemon.status.__version__", "1.2.3")
