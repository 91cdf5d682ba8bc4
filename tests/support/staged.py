"""A network whose pump, orders and sockets only write down what they are told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.daemon import interface_log, network
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.lost import LostAddresses
from carp_fast.daemon.network import Network
from carp_fast.daemon.own_sources import OwnSources
from carp_fast.daemon.table import Hosts
from carp_fast.net import promotion
from carp_fast.net.interfaces import Interface, InterfaceAddress

MAC = b"\x02\0\0\0\0\x01"
OWN = socket.inet_aton("192.0.2.99")
OWN6 = socket.inet_pton(socket.AF_INET6, "fe80::99")
LOST = socket.inet_aton("192.0.2.1")


class RecordedPump:
    """Writes down what it is told, as (word, slot or interface number, rest)."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def set_interface(self, number: int, **keys: Any) -> None:
        self.told.append(("interface", number, keys))

    def set_own_source(self, slot: int, *, missing: bool, missing6: bool) -> None:
        self.told.append(("own_source", slot, missing, missing6))

    def adopt(self, slot: int, address: bytes, prefixlen: int) -> None:
        self.told.append(("adopt", slot, address, prefixlen))

    def verify(self, slot: int) -> None:
        self.told.append(("verify", slot))

    def lose_address(self, slot: int) -> None:
        self.told.append(("lose_address", slot))


class DirectOrders:
    """Carries out at once what is posted; is idle when a test says so."""

    def __init__(self) -> None:
        self.pump = RecordedPump()
        self.idle = asyncio.Event()

    async def done(self, *, when_settled: bool = False) -> None:
        assert when_settled
        await self.idle.wait()

    def post(self, order: Callable[[], object]) -> None:
        order()


class Stage:
    """A network with eth0/1 in slot 0 and eth0/2 in slot 1, whose clock a test moves."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        families: tuple[int, ...] = (4,),
        **settings: Any,
    ) -> None:
        given = Settings(passphrase=b"secret", **settings)
        self.hosts = Hosts()
        for vhid in (1, 2):
            signed: tuple[str, ...] = (f"192.0.2.{vhid}/24",)
            if families == (4, 6):
                signed += (f"2001:db8::{vhid}/64",)
            unsigned = (f"192.0.2.{vhid + 50}/24",)
            self.hosts.take(VirtualHost("eth0", vhid, signed, unsigned, given))
        orders: Any = DirectOrders()
        self.idle: asyncio.Event = orders.idle
        self.names: dict[int, str] = {}  # of interfaces that exist under another name
        self.pump: RecordedPump = orders.pump
        self.joined: dict[int, set[bytes]] = {}
        self.filters: list[list[int]] = []
        self.promoted: list[str] = []
        monkeypatch.setattr(network, "Joins", lambda receiver: self)
        monkeypatch.setattr(
            promotion, "promote_secondaries", lambda name, ifindex: self.promoted.append(name)
        )
        for module in (network, interface_log):
            monkeypatch.setattr(module, "name_of", self.names.get)
        self.local: set[bytes] = set()  # addresses of the host, on whichever interface
        own_sources = partial(OwnSources, is_on_host=self.local.__contains__)
        monkeypatch.setattr(network, "OwnSources", own_sources)
        lanes: Any = self
        nobody_else: Any = SimpleNamespace(barred=set(), on_ifindex=lambda number, ifindex: None)
        self.known: list[Interface] = []
        self.network = Network(self.hosts, orders, lanes, nobody_else, self.known.append)
        # Few lines are logged: nothing is summed up later.
        self.lost = LostAddresses(self.hosts, orders, HostLog(lambda delay_s, call: None))

    joining = None

    def use(
        self,
        ifindexes: list[int],
        groups: set[bytes],
        peers: set[bytes],
        unfit: str | None,
        shared: dict[int, str],
    ) -> None:
        self.filters.append(ifindexes)
        self.heard_of = groups, peers
        self.unfit, self.shared = unfit, shared

    def join(self, name: str, ifindex: int, groups: set[bytes]) -> None:
        self.joined[ifindex] = groups

    def leave(self, ifindex: int) -> None:
        self.joined.pop(ifindex, None)

    def close(self) -> None:
        self.joined.clear()

    def lose(self, address: bytes = LOST, times: int = 1) -> None:
        for _ in range(times):
            self.network.on_address_removed("eth0", address, 24)

    def restore(self, text: str = "192.0.2.1/24", times: int = 1) -> None:
        for _ in range(times):
            self.lost.on_restored(0, text)


def interface(ifindex: int = 7, up: bool = True, *sources: bytes, name: str = "eth0") -> Interface:
    there = tuple(InterfaceAddress(4, source, 24, 0, 0, 0) for source in sources or (OWN,))
    return Interface(name, ifindex, MAC, up, there)


def link_local(flags: int = 0, address: bytes = OWN6) -> InterfaceAddress:
    return InterfaceAddress(6, address, 64, 253, flags, 0)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


async def turn() -> None:
    """What is called soon has been called."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
