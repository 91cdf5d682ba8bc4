"""The status document: what is made of a snapshot's fields."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.requests import StatusRequest
from carp_fast.daemon.network import Network, Sources
from carp_fast.daemon.orders import Orders
from carp_fast.daemon.reports import Reports, ignore
from carp_fast.daemon.status import SPANS_A_SLICE, Status, demotion, spans
from carp_fast.daemon.table import Hosts
from carp_fast.engine._engine import Engine
from carp_fast.engine.copies import HostCopy
from carp_fast.pump._pump import HOSTS_A_SNAPSHOT
from tests.support.pumped import pump_with_orders
from tests.support.segment import carp_header, ip, ipv4_frame, ipv6_frame

OWN, OWN6 = ip("192.0.2.99"), ip("fe80::99")
ADDRESSES = ("192.0.2.1/24", "2001:db8::1/64")
NO_LANES: Any = SimpleNamespace(joining=None)
NOBODY_ELSE: Any = None


class NoPump:
    """Takes no order: nothing is asked of it here."""

    pump = None

    def post(self, order: Callable[[], object]) -> None:
        raise AssertionError(order)


def document(engine: Engine, host: VirtualHost) -> dict[str, Any]:
    """What status says of the engine's host in slot 0, and of its interface."""
    hosts = Hosts()
    hosts.take(host)
    orders: Any = NoPump()
    hooks: Any = None
    network = Network(hosts, orders, NO_LANES, NOBODY_ELSE, ignore)
    network.sources["eth0"] = Sources(OWN, OWN6, False)
    status = Status(hosts, orders, network, Reports(hosts, orders, hooks))
    (found,) = status.virtual_hosts([(0, engine.host(0))], StatusRequest())
    interface = status._interface(0, "eth0", {})
    return {**msgspec.to_builtins(found), "interface": msgspec.to_builtins(interface)}


def heard_by(engine: Engine, host: VirtualHost, *frames: bytes) -> None:
    hosts = Hosts()
    hosts.take(host)
    now_ns = time.monotonic_ns()
    engine.set_interface(0, now_ns, source=OWN, source6=OWN6)
    engine.add(0, hosts.prepare(host), now_ns)
    for frame in frames:
        assert engine.receive(0, frame, now_ns) == "ok"


def test_problems_can_be_asked_for_alone() -> None:
    host = VirtualHost("eth0", 42, ADDRESSES, (), Settings(passphrase=b"secret"))
    engine = Engine()
    heard_by(engine, host)
    hosts = Hosts()
    hosts.take(host)
    orders: Any = NoPump()
    hooks: Any = None
    reports = Reports(hosts, orders, hooks)
    status = Status(hosts, orders, Network(hosts, orders, NO_LANES, NOBODY_ELSE, ignore), reports)
    copied = [(0, engine.host(0))]
    assert len(list(status.virtual_hosts(copied, StatusRequest()))) == 1
    assert list(status.virtual_hosts(copied, StatusRequest(problems=True))) == []
    reports.on_foreign({0: {ADDRESSES[1]: ADDRESSES[1]}})
    (found,) = status.virtual_hosts(copied, StatusRequest(problems=True))
    assert found.address_problems == {ADDRESSES[1]: "address_foreign"}


def test_both_families_and_who_was_heard() -> None:
    settings = Settings(passphrase=b"secret", advskew=100, dialect="openbsd")
    host = VirtualHost("eth0", 42, ADDRESSES, (), settings)
    signed = tuple(ip(address.partition("/")[0]) for address in ADDRESSES)
    header: dict[str, Any] = {"addresses": signed, "advskew": 5, "demote": 3}
    engine = Engine()
    heard_by(
        engine,
        host,
        ipv4_frame(carp_header(counter=7, **header), source=ip("192.0.2.98")),
        ipv6_frame(carp_header(counter=8, **header), source=ip("fe80::98"), source_mac=bytes(6)),
    )
    found = document(engine, host)
    assert found["families"] == [4, 6]
    assert found["destinations"] == ["224.0.0.18", "ff02::12"]
    assert (found["interface"]["source"], found["interface"]["source6"]) == (
        "192.0.2.99",
        "fe80::99",
    )
    assert found["demotion"] == {"total": 0, "reasons": {}, "demote": 0}
    four, six = sorted(found["peers"], key=lambda peer: ":" in peer["source"])
    ago_s = four.pop("heard_ago_s")
    assert 0 <= ago_s < 10
    assert four == {
        "source": "192.0.2.98",
        "mac": "02:00:00:00:00:99",
        "advbase": 1,
        "advskew": 5,
        "demote": 3,
        "counter": 7,
        "current": True,
    }
    assert (six["source"], six["mac"], six["counter"]) == ("fe80::98", None, 8)
    assert found["peer"]["source"] in ("192.0.2.98", "fe80::98")


def test_unicast_says_its_peers_as_destinations() -> None:
    settings = Settings(passphrase=b"secret", peers=("192.0.2.98", "fe80::98"))
    host = VirtualHost("eth0", 42, ADDRESSES[:1], (), settings)
    engine = Engine()
    heard_by(engine, host)
    found = document(engine, host)
    assert found["destinations"] == ["192.0.2.98", "fe80::98"]
    assert found["families"] == [4, 6]
    assert (found["peer"], found["peers"]) == (None, [])


def copied(**fields: Any) -> HostCopy:
    """A virtual host as the engine copies it, but for `fields`."""
    engine = Engine()
    heard_by(engine, VirtualHost("eth0", 42, ADDRESSES, (), Settings(passphrase=b"secret")))
    return msgspec.structs.replace(engine.host(0), **fields)


@pytest.mark.parametrize(
    ("dialect", "wanted"),
    [
        ("ucarp", {"total": 250, "reasons": {"operator": 10, "send_errors": 240}}),
        (
            "openbsd",
            {"total": 250, "reasons": {"operator": 10, "send_errors": 240}, "demote": 11},
        ),
    ],
)
def test_demotion_is_what_each_dialect_makes_of_it(dialect: str, wanted: dict[str, Any]) -> None:
    copy = copied(demotions={"operator": 10, "send_errors": 240}, dialect=dialect, demote=11)
    assert msgspec.to_builtins(demotion(copy)) == wanted


@pytest.mark.parametrize("reason", ["address_lost", "address_deadline"])
def test_who_gave_up_for_its_addresses_is_demoted_for_that_reason(reason: str) -> None:
    found = demotion(copied(demotions={reason: 240}))
    assert msgspec.to_builtins(found) == {"total": 240, "reasons": {reason: 240}}


@pytest.mark.parametrize(
    ("slots", "wanted"),
    [
        ([], []),
        ([7], [[(7, 1)]]),
        ([0, 1, 2, 5, 6, 9], [[(0, 3), (5, 2), (9, 1)]]),
        (range(2 * HOSTS_A_SNAPSHOT), [[(0, HOSTS_A_SNAPSHOT)], [(HOSTS_A_SNAPSHOT,) * 2]]),
        (
            range(0, 255 * (SPANS_A_SLICE + 1), 255),
            [[(255 * k, 1) for k in range(SPANS_A_SLICE)], [(255 * SPANS_A_SLICE, 1)]],
        ),
    ],
)
def test_slots_are_copied_in_slices(
    slots: Iterable[int], wanted: list[list[tuple[int, int]]]
) -> None:
    assert list(spans(slots)) == wanted


def slots_in_use(*vhids: int | None) -> Hosts:
    """Virtual hosts of eth0 by slot; None leaves a hole."""
    hosts = Hosts()
    settings = Settings(passphrase=b"secret")
    for slot, vhid in enumerate(vhids):
        address = f"10.{vhid or 0}.{slot // 250}.{slot % 250 + 1}/32"
        hosts.take(VirtualHost("eth0", vhid or 1, (address,), (), settings))
    for slot, vhid in enumerate(vhids):
        if vhid is None:
            hosts.give_back(slot)
    return hosts


async def told(hosts: Hosts, orders: Orders, **request: Any) -> list[dict[str, Any]]:
    """The virtual hosts that a status request is answered with."""
    hooks: Any = None
    status = Status(
        hosts,
        orders,
        Network(hosts, orders, NO_LANES, NOBODY_ELSE, ignore),
        Reports(hosts, orders, hooks),
    )
    answer = b"".join([piece async for piece in await status.answer(StatusRequest(**request))])
    found: list[dict[str, Any]] = msgspec.json.decode(answer)["status"]["virtual_hosts"]
    return found


def test_a_status_has_every_virtual_host_that_was_asked_for_once() -> None:
    async def scenario() -> None:
        hosts = slots_in_use(*[None if slot % 7 == 3 else 1 + slot % 2 for slot in range(2_500)])
        async with pump_with_orders() as orders:
            await orders.give(
                partial(orders.pump.add, slot, hosts.prepare(host)) for slot, host in hosts.used()
            )
            for request in ({}, {"vhid": 2}, {"vhid": 3}):
                wanted = [
                    list(host.addresses)
                    for _, host in hosts.used()
                    if request.get("vhid") in (None, host.vhid)
                ]
                found = await told(hosts, orders, **request)
                assert [each["addresses"] for each in found] == wanted

    asyncio.run(scenario())


def test_many_who_ask_at_once_find_room_for_their_orders() -> None:
    async def scenario() -> None:
        hosts = slots_in_use(*[1 + slot % 2 for slot in range(128)])
        async with pump_with_orders() as orders:
            await orders.give(
                partial(orders.pump.add, slot, hosts.prepare(host)) for slot, host in hosts.used()
            )
            answers = await asyncio.gather(*(told(hosts, orders, vhid=2) for _ in range(150)))
            assert [len(answer) for answer in answers] == [64] * 150

    asyncio.run(scenario())


def test_a_slot_that_became_anothers_meanwhile_tells_nothing() -> None:
    async def scenario() -> None:
        hosts = slots_in_use(1, 2)
        async with pump_with_orders() as orders:
            await orders.give(
                partial(orders.pump.add, slot, hosts.prepare(host)) for slot, host in hosts.used()
            )
            # The pump does not know of it yet.
            hosts.give_back(1)
            hosts.take(VirtualHost("eth0", 9, ("10.0.0.9/32",), (), Settings(passphrase=b"x")))
            assert [each["vhid"] for each in await told(hosts, orders)] == [1]

    asyncio.run(scenario())
