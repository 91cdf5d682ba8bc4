"""What the engine is told of interfaces and addresses as they change."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import msgspec
import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.daemon.lost import LOST_TIMES, LOST_WITHIN_S
from carp_fast.daemon.network import Sources
from carp_fast.daemon.table import MASTER
from carp_fast.net.interfaces import Interface, InterfaceAddress, absent
from tests.support.staged import LOST, MAC, OWN, OWN6, Stage, interface, link_local, run, turn


def test_an_interface_comes_goes_and_comes_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        for each in (
            absent("eth0"),
            interface(7, False),
            interface(7),
            absent("eth0"),
            interface(8),
        ):
            stage.network.on_interface(each)
            await turn()
        assert stage.joined == {8: {bytes((224, 0, 0, 18))}}
        assert stage.filters == [[], [7], [], [8]]
        assert stage.heard_of == ({bytes((224, 0, 0, 18))}, set())
        assert stage.promoted == ["eth0", "eth0"]
        told = [(keys["ifindex"], keys["up"], keys["source"]) for _, _, keys in stage.pump.told]
        assert told == [
            (0, False, None),
            (7, False, OWN),
            (7, True, OWN),
            (0, False, None),
            (8, True, OWN),
        ]

    run(scenario)
    assert caplog.messages == [
        "eth0: no such interface yet, waiting for it",
        "eth0: interface appeared (ifindex 7)",
        "eth0: link down",
        "eth0: advertising from 192.0.2.99",
        "eth0: link up",
        "eth0: interface disappeared, waiting for it",
        "eth0: interface appeared (ifindex 8)",
        "eth0: advertising from 192.0.2.99",
    ]


def test_both_sources_and_forwarding_are_followed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "carp_fast.daemon")
    stage = Stage(monkeypatch, (4, 6))
    four = interface().addresses[0]
    tentative, failed = 0x40, 0x08

    async def scenario() -> None:
        for six in ((), (link_local(tentative),), (link_local(failed),), (link_local(),)):
            stage.network.on_interface(Interface("eth0", 7, MAC, True, (four, *six)))
        stage.network.on_interface(Interface("eth0", 7, MAC, True, (link_local(),), True))
        assert stage.joined[7] == {bytes((224, 0, 0, 18)), b"\xff\x02" + bytes(13) + b"\x12"}

    run(scenario)
    told = [(keys["source"], keys["source6"], keys["forwards6"]) for _, _, keys in stage.pump.told]
    assert told == [(OWN, None, False)] * 3 + [(OWN, OWN6, False), (None, OWN6, True)]
    assert caplog.messages == [
        "eth0: advertising from 192.0.2.99",
        "eth0: no IPv6 address to advertise from",
        "eth0: advertising from fe80::99",
        "eth0: no IPv4 address to advertise from",
    ]


def test_a_family_that_a_reload_brings_is_missed_where_it_has_no_source(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        stage.network.on_interface(interface())
        settings = Settings(passphrase=b"secret")
        stage.hosts.take(VirtualHost("eth0", 3, ("2001:db8::3/64",), (), settings))
        caplog.clear()
        stage.network.on_reload()
        stage.network.on_reload()

    run(scenario)
    assert caplog.messages == ["eth0: no IPv6 address to advertise from"]


def test_devices_above_an_interface_share_its_advertisements_and_a_port_ends_tcx(
    stage: Stage,
) -> None:
    async def scenario() -> None:
        plain = interface(7)
        changes: list[tuple[dict[str, Any], str | None, dict[int, str]]] = [
            ({}, None, {}),
            ({"uppers": ("m1", "m2")}, None, {7: "eth0 has upper devices: m1, m2"}),
            ({"uppers": ("m2",)}, None, {7: "eth0 has upper devices: m2"}),
            ({}, None, {}),
            ({"master": 1 << 30}, "eth0 is a port of another device", {}),
        ]
        for change, unfit, shared in changes:
            stage.network.on_interface(msgspec.structs.replace(plain, **change))
            await turn()
            assert (stage.unfit, stage.shared) == (unfit, shared)
        assert stage.filters == [[7]] * 5

    run(scenario)


def test_many_interfaces_at_once_make_one_filter(stage: Stage) -> None:
    async def scenario() -> None:
        settings = Settings(passphrase=b"secret")
        for number in range(1, 101):
            stage.hosts.take(VirtualHost(f"eth{number}", 1, ("192.0.2.1/24",), (), settings))
        for number in range(101):
            stage.network.on_interface(interface(10 + number, name=f"eth{number}"))
        await turn()
        assert stage.filters == [list(range(10, 111))]

    run(scenario)


def test_what_nobody_needs_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(monkeypatch, source="192.0.2.98", manage_addresses=False)
    there = InterfaceAddress(4, socket.inet_aton("192.0.2.98"), 24, 253, 0, 0)

    async def scenario() -> None:
        stage.network.on_interface(Interface("eth0", 7, MAC, True, (there,)))
        stage.network.on_interface(interface(9, name="eth9"))  # no virtual host of ours
        stage.hosts.states[0] = MASTER
        stage.lose()  # a script adds and removes them

    run(scenario)
    assert stage.promoted == []
    assert [told[0] for told in stage.pump.told] == ["own_source", "own_source", "interface"]
    assert caplog.messages == []


def test_a_reload_changes_groups_sources_and_interfaces(stage: Stage) -> None:
    async def scenario() -> None:
        other = socket.inet_aton("192.0.2.98")
        stage.network.on_interface(interface(7, True, OWN, other))
        assert stage.network.sources == {"eth0": Sources(OWN, None, False)}
        stage.pump.told.clear()
        # The address that was the source becomes a virtual one, in another group.
        settings = Settings(passphrase=b"secret", destination="239.0.0.1")
        stage.hosts.take(VirtualHost("eth0", 3, ("192.0.2.99/24",), (), settings))
        stage.network.on_reload()
        await turn()
        assert stage.network.sources == {"eth0": Sources(other, None, False)}
        assert stage.joined == {7: {bytes((224, 0, 0, 18)), bytes((239, 0, 0, 1))}}
        ((_, number, keys),) = stage.pump.told
        assert (number, keys["source"]) == (0, other)
        # Nothing of it changes by another one.
        stage.network.on_reload()
        assert len(stage.pump.told) == 1
        # And all of it goes with the last virtual host.
        for slot in (0, 1, 2):
            stage.hosts.give_back(slot)
        stage.network.on_reload()
        await turn()
        assert (stage.network.now, stage.network.sources, stage.joined) == ({}, {}, {})
        assert stage.filters[-1] == []
        assert stage.pump.told[-1][2]["ifindex"] == 0

    run(scenario)


def test_an_address_of_a_master_that_is_removed_comes_back(stage: Stage) -> None:
    async def scenario() -> None:
        stage.lose()
        assert stage.pump.told == [], "not MASTER"
        stage.hosts.states[0] = stage.hosts.states[1] = MASTER
        stage.network.on_address_removed("eth0", LOST, 32)  # another one than 192.0.2.1/24
        stage.network.on_address_removed("eth1", LOST, 24)
        stage.network.on_address_removed("eth0", bytes(16), 64)
        assert stage.pump.told == []
        stage.lose()
        stage.lose(socket.inet_aton("192.0.2.52"))
        assert stage.pump.told == [("verify", 0), ("verify", 1)]

    run(scenario)


def test_the_engine_says_whether_an_address_was_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Our own removals are notified, too, and may come when it is MASTER again.
    stage = Stage(monkeypatch, (4, 6))
    lost = socket.inet_pton(socket.AF_INET6, "2001:db8::1")

    async def scenario() -> None:
        told = stage.pump.told
        stage.network.on_address_removed("eth0", lost, 64)
        assert told == []
        stage.hosts.states[0] = MASTER
        for _ in range(2 * LOST_TIMES):
            stage.network.on_address_removed("eth0", lost, 64)
        assert told == [("verify", 0)] * 2 * LOST_TIMES
        assert caplog.messages == []
        told.clear()
        stage.restore("2001:db8::1/64", LOST_TIMES)
        assert told == [("lose_address", 0)]
        stage.network.close()

    run(scenario)
    message = "eth0/1: address 2001:db8::1/64 was removed by another program, added again"
    assert caplog.messages[:-1] == [message] * (LOST_TIMES - 1)
    assert "address_lost: 2001:db8::1/64" in caplog.messages[-1]


def test_an_address_removed_five_times_within_a_minute_is_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        now = [1000.0]
        monkeypatch.setattr(loop, "time", lambda: now[0])
        told = stage.pump.told
        # Each of the two addresses is counted on its own, and only for a minute.
        stage.restore(times=LOST_TIMES - 1)
        stage.restore("192.0.2.51/24", times=LOST_TIMES - 1)
        now[0] += LOST_WITHIN_S + 1
        stage.restore()
        assert told == []
        stage.restore(times=LOST_TIMES - 1)
        assert told == [("lose_address", 0)]
        # Given up, it is counted anew.
        stage.restore(times=LOST_TIMES - 1)
        assert told == [("lose_address", 0)]
        stage.restore()
        assert told == [("lose_address", 0)] * 2
        # And so is the next virtual host of the slot.
        stage.restore(times=LOST_TIMES - 1)
        stage.lost.on_released(0)
        stage.restore(times=LOST_TIMES - 1)
        assert told == [("lose_address", 0)] * 2

    run(scenario)


def test_after_lost_notifications_every_interface_is_looked_at(stage: Stage) -> None:
    async def scenario() -> None:
        stage.network.on_overrun({})
        assert stage.pump.told == [("verify", 0)]

    run(scenario)
