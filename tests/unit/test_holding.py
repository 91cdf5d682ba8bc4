"""Which virtual hosts hold IPv4 addresses by local routes, and what changes that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from carp_fast.config.model import Settings, VirtualHost
from carp_fast.daemon import holding
from carp_fast.daemon.holding import Facts, against, facts_of, subnet_of, subnets_of
from carp_fast.daemon.surroundings import ADVISED_ABOVE, differences
from carp_fast.daemon.table import Hosts
from carp_fast.inet import address_bytes
from carp_fast.net import addresses
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, InterfaceAddress

Posted = list[tuple[int, bool]]
OWN = ("192.0.2.1", 24)


def interface(
    *own: tuple[str, int], ours: tuple[str, int] | None = None, master: int = 0
) -> Interface:
    every = [
        InterfaceAddress(4, address_bytes(text), prefixlen, 0, 0, 0) for text, prefixlen in own
    ]
    if ours is not None:
        text, prefixlen = ours
        every.append(InterfaceAddress(4, address_bytes(text), prefixlen, 0, 0, OWN_PROTOCOL))
    return Interface("eth0", 2, b"\2\0\0\0\0\1", True, tuple(every), master=master)


def host(vhid: int, *texts: str, hold: str = "auto", **keys: Any) -> VirtualHost:
    settings = Settings(passphrase=b"secret", hold=hold, **keys)
    return VirtualHost("eth0", vhid, texts, (), settings)


def reason(virtual: VirtualHost, there: Interface, arp_ignore: int = 0) -> str | None:
    facts = facts_of(there, set(), lambda name: arp_ignore)
    return against("eth0", subnets_of(virtual), facts)


def test_the_subnet_of_an_address() -> None:
    assert subnet_of(address_bytes("192.0.2.77"), 24) == (address_bytes("192.0.2.0"), 24)
    assert subnet_of(address_bytes("192.0.2.77"), 32) == (address_bytes("192.0.2.77"), 32)
    assert subnet_of(address_bytes("192.0.2.77"), 0) == (bytes(4), 0)


@pytest.mark.parametrize(
    ("texts", "own"),
    [
        (("192.0.2.7/24",), [OWN]),
        (("192.0.2.7/24", "198.51.100.7/25"), [OWN, ("198.51.100.1", 25)]),
        (("192.0.2.7/32", "203.0.113.7/32"), [OWN]),
        (("2001:db8::7/64",), []),
    ],
)
def test_routes_do_where_the_interface_keeps_an_address_of_each_subnet(
    texts: tuple[str, ...], own: list[tuple[str, int]]
) -> None:
    assert reason(host(1, *texts), interface(*own)) is None


@pytest.mark.parametrize(
    ("texts", "there", "arp_ignore", "expected"),
    [
        (("198.51.100.7/24",), interface(OWN), 0, "no address of its own in 198.51.100.0/24"),
        (("192.0.2.7/25",), interface(OWN), 0, "no address of its own in 192.0.2.0/25"),
        (("192.0.2.7/32",), interface(), 0, "eth0 has no IPv4 address of its own"),
        (("192.0.2.7/24",), interface(ours=OWN), 0, "no address of its own in 192.0.2.0/24"),
        (("192.0.2.7/24",), interface(OWN), 1, "arp_ignore of eth0 is 1"),
        (("192.0.2.7/24",), interface(OWN, master=999_999), 0, "belongs to ifindex 999999"),
    ],
)
def test_routes_do_not_do(
    texts: tuple[str, ...], there: Interface, arp_ignore: int, expected: str
) -> None:
    assert expected in str(reason(host(1, *texts), there, arp_ignore))


def test_an_address_of_a_virtual_host_is_none_of_the_interfaces_own() -> None:
    virtual = {address_bytes(OWN[0])}
    assert facts_of(interface(OWN), virtual, lambda name: 0) == Facts(frozenset(), 0, 0)


def test_the_larger_arp_ignore_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name, value in (("all", 1), ("eth0", 0), ("eth1", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arp_ignore").write_text(f"{value}\n")
    monkeypatch.setattr(holding, "CONF4", tmp_path)
    assert [holding.arp_ignore(name) for name in ("eth0", "eth1", "gone")] == [1, 2, 1]


class FakePump:
    def __init__(self) -> None:
        self.posted: Posted = []

    def set_by_route(self, slot: int, by_route: bool) -> None:
        self.posted.append((slot, by_route))


class FakeOrders:
    def __init__(self) -> None:
        self.pump = FakePump()

    def post(self, order: Callable[[], object]) -> None:
        order()


class Scene:
    """Virtual hosts on eth0, what is known of it, and the orders that were given."""

    def __init__(self, *hosts: VirtualHost) -> None:
        self.hosts = Hosts()
        for each in hosts:
            self.hosts.take(each)
        self.orders = FakeOrders()
        self.now: dict[str, Interface] = {}
        self.arp_ignore = 0
        self.holding = holding.Holding(
            self.hosts,
            self.orders,  # type: ignore[arg-type]
            self.now,
            lambda name: self.arp_ignore,
        )

    def becomes(self, there: Interface) -> Posted:
        """The orders that follow from what an interface is now."""
        self.now["eth0"] = there
        self.orders.pump.posted.clear()
        self.holding.on_interface(there)
        return list(self.orders.pump.posted)

    def by_route(self) -> list[bool]:
        return [self.holding.by_route(each) for _, each in self.hosts.used()]


def test_what_is_configured_decides_and_auto_by_the_interface() -> None:
    scene = Scene(
        host(1, "192.0.2.11/24"),
        host(2, "198.51.100.12/24"),
        host(3, "198.51.100.13/24", hold="route"),
        host(4, "192.0.2.14/24", hold="address"),
    )
    assert scene.by_route() == [False, False, True, False]
    assert scene.becomes(interface(OWN)) == [(0, True)]
    assert scene.by_route() == [True, False, True, False]
    assert scene.becomes(interface(OWN)) == [], "nothing has changed"
    assert scene.becomes(interface(OWN, ("198.51.100.1", 24))) == [(1, True)]
    assert scene.becomes(interface(("198.51.100.1", 24))) == [(0, False)]
    assert scene.by_route() == [False, True, True, False]
    absent = Interface("eth0", 0, b"", False, ())
    assert scene.becomes(absent) == [(1, False)]


def test_a_change_of_arp_ignore_is_found_by_reading() -> None:
    scene = Scene(host(1, "192.0.2.11/24"))
    scene.becomes(interface(OWN))
    scene.arp_ignore = 2
    scene.orders.pump.posted.clear()
    scene.holding._names = ["eth0"]
    scene.holding._read_soon = lambda: None  # type: ignore[method-assign]
    scene.holding._read_some()
    assert scene.orders.pump.posted == [(0, False)]
    scene.holding._read_some()
    assert scene.orders.pump.posted == [(0, False)], "once"


def test_an_old_kernel_gets_no_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_kernel_version", lambda: (4, 19))
    scene = Scene(host(1, "192.0.2.11/24"), host(2, "192.0.2.12/24", hold="route"))
    scene.becomes(interface(OWN))
    assert scene.by_route() == [False, False]
    assert scene.holding.against(scene.hosts.hosts[1]) == holding.NO_FILTER  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- what check tells


def told(hosts: list[VirtualHost], there: Interface) -> list[str]:
    lines = differences(hosts, {"eth0": there}, lambda address: False)
    return [line for line in lines if "hold" in line]


def test_check_warns_of_routes_that_do_not_do() -> None:
    hosts = [host(1, "192.0.2.11/24", hold="route"), host(2, "198.51.100.12/24", hold="route")]
    (line,) = told(hosts, interface(OWN))
    assert line == (
        'hold = "route": eth0 has no address of its own in 198.51.100.0/24: eth0/2 may not be'
        ' reachable; allowed: "auto", which sees to that'
    )
    assert told(hosts[:1], interface(OWN)) == []


@pytest.mark.parametrize(("hold", "lines"), [("address", 1), ("auto", 0), ("route", 0)])
def test_check_advises_routes_for_many_addresses(hold: str, lines: int) -> None:
    texts = [f"192.0.{2 + n // 250}.{2 + n % 250}/32" for n in range(ADVISED_ABOVE)]
    hosts = [host(1, *texts, hold=hold)]
    assert told(hosts, interface(OWN)) == []
    hosts.append(host(2, "192.0.2.254/32", hold=hold))
    found = told(hosts, interface(OWN))
    assert len(found) == lines
    if lines:
        assert 'hold = "address": eth0 would have 256 IPv4 addresses' in found[0]
        assert 'advised above 255: "auto"' in found[0]
