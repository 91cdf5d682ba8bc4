"""An engine with one virtual host, driven into a situation, and what `explain` says of it.

Stands in for the pump, its orders and the network. Must not know a socket or a real clock.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.explanations import Explanation, VirtualHostExplanation
from carp_fast.control.requests import ExplainRequest
from carp_fast.daemon import explain_text
from carp_fast.daemon.explain import Explanations
from carp_fast.daemon.own_sources import OwnSources
from carp_fast.daemon.status import Status
from carp_fast.daemon.table import Hosts
from carp_fast.engine._engine import Engine
from carp_fast.engine.copies import ExplainedHost, HostCopy, RejectedFrame
from carp_fast.net.interfaces import Interface
from tests.support.segment import SECOND_NS, START_NS, Node, advertisement

ADVSKEW = 100
MASTER_NS = START_NS + 11 * SECOND_NS
OTHER = "10.77.0.3"  # above our source, so that a tie is ours
OURS = "10.77.0.2"
ETH0 = Interface("eth0", 7, b"\x02\0\0\0\0\x01", True, ())


class EngineSnapshot:
    """A slot, or the interface, of an engine as the pump copies it."""

    def __init__(self, engine: Engine, first: int) -> None:
        self.engine = engine
        self.first = first

    def hosts(self) -> list[tuple[int, HostCopy]]:
        # The peer is not looked at, and the status document may not know its family.
        return [(self.first, msgspec.structs.replace(self.engine.host(self.first), peer=None))]

    def explained(self, now_ns: int) -> list[tuple[int, ExplainedHost]]:
        return [(self.first, self.engine.explained(self.first, now_ns))]

    def counters(self) -> list[dict[str, int]]:
        return [self.engine.interface_counters(self.first)]

    def rejections(self) -> list[list[RejectedFrame]]:
        return [self.engine.rejections(self.first)]


class EnginePump:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def snapshot(self, first: int, count: int) -> EngineSnapshot:
        assert count == 1
        return EngineSnapshot(self.engine, first)

    def snapshot_interfaces(self, count: int, first: int = 0) -> EngineSnapshot:
        assert count == 1
        return EngineSnapshot(self.engine, first)


class EngineOrders:
    def __init__(self, engine: Engine) -> None:
        self.pump = EnginePump(engine)

    async def room_for(self, count: int) -> None:
        """There always is."""

    async def done(self) -> None:
        """Every order of an engine is carried out at once."""


class KnownNetwork:
    """`local`: addresses of the host that are not eth0's."""

    def __init__(self, hosts: Hosts, orders: Any) -> None:
        self.now = {"eth0": ETH0}
        self.local: set[bytes] = set()
        self.own_sources = OwnSources(hosts, orders, self.now, self.local.__contains__)


class KnownProblems:
    def __init__(self) -> None:
        self.address_problems: dict[int, dict[str, str]] = {}
        self.wrong_digest_ns: dict[int, int] = {}


class Asked:
    """An engine with the virtual host eth0/42 in slot 0, and what `explain` says of it.

    `configured`: settings that the engine does not tell; `settings`: of the prepared host.
    """

    def __init__(self, configured: dict[str, Any] | None = None, /, **settings: Any) -> None:
        self.node = Node(OURS, **({"advskew": ADVSKEW} | settings))
        self.engine = self.node.engine
        self.now_ns = START_NS
        self.hosts = Hosts()
        given: dict[str, Any] = {"preempt": settings.get("preempt", "demoted")}
        self.settings = Settings(passphrase=b"secret", **(given | (configured or {})))
        self.take(42)
        self.orders: Any = cast("Any", EngineOrders(self.engine))
        self.network: Any = cast("Any", KnownNetwork(self.hosts, self.orders))
        self.problems: Any = cast("Any", KnownProblems())
        self.in_use: dict[int, str] = {}
        self.status = Status(
            self.hosts, self.orders, self.network, self.problems, in_use=self.in_use
        )
        self.explanations = Explanations(
            self.hosts, self.orders, self.network, self.status, lambda: self.now_ns
        )

    def take(self, vhid: int, interface: str = "eth0") -> int:
        host = VirtualHost(interface, vhid, ("10.77.0.100/24",), (), self.settings)
        return self.hosts.take(host)

    def become(self, state: str) -> Asked:
        """Brings it there, with nobody heard."""
        if state == "INIT":
            self.node.attach(START_NS, up=False)
        elif state == "MASTER":
            self.now_ns = MASTER_NS
            self.node.run(MASTER_NS)
        assert self.node.state == state
        return self

    def hear(self, source: str = OTHER, /, **carp: Any) -> Asked:
        self.now_ns += SECOND_NS // 2
        assert self.engine.receive(0, advertisement(source=source, **carp), self.now_ns) == "ok"
        return self

    def document(self, interface: str = "eth0", vhid: int = 42) -> Explanation:
        return asyncio.run(self.explanations.answer(ExplainRequest(interface, vhid))).explain

    def facts(self) -> dict[str, Any]:
        """What `explain --json` says of the only one."""
        [found] = self.document().virtual_hosts
        return dict(msgspec.to_builtins(found))

    def heard(self) -> dict[str, Any]:
        [found] = self.facts()["heard"]
        return dict(found)

    def sections(self) -> dict[str, list[str]]:
        return sections(explain_text.text(self.document()))


def explained(facts: dict[str, Any]) -> VirtualHostExplanation:
    """What a client makes of `facts`."""
    return msgspec.convert(facts, VirtualHostExplanation)


def sections(text: str) -> dict[str, list[str]]:
    """The lines below each heading."""
    found: dict[str, list[str]] = {}
    below: list[str] = []
    for line in text.splitlines():
        if line.startswith("  "):
            below.append(line[2:])
        else:
            below = found[line] = []
    return found
