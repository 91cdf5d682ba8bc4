"""Interfaces that lose their name or change their place: what the engine is told, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.daemon import network
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, InterfaceAddress, absent
from tests.support.staged import LOST, MAC, OWN, Stage, interface, run, turn


def told_of_interfaces(stage: Stage) -> list[tuple[int, int, bool]]:
    """(number, ifindex, renamed) in order."""
    return [
        (told[1], told[2]["ifindex"], told[2]["renamed"])
        for told in stage.pump.told
        if told[0] == "interface"
    ]


def test_an_interface_that_lost_its_name_is_left_in_order_first(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        stage.network.on_interface(interface(7))
        stage.names[7] = "lan0"
        stage.network.on_interface(absent("eth0"))
        await turn()
        assert told_of_interfaces(stage) == [(0, 7, False), (0, 7, True)]
        assert stage.pump.told[-1][2]["source"] == OWN, "it resigns from there"
        assert stage.joined == {}
        # What has the name next is told when nothing is left to carry out there, and only that.
        stage.network.on_interface(interface(9, False))
        stage.network.on_interface(interface(9))
        stage.network.on_reload()
        assert len(stage.pump.told) == 2
        stage.idle.set()
        await turn()
        assert told_of_interfaces(stage)[2:] == [(0, 9, False)]
        assert stage.pump.told[-1][2]["up"]
        assert stage.joined == {9: {bytes((224, 0, 0, 18))}}

    run(scenario)
    assert "eth0: interface was renamed to lan0, waiting for it" in caplog.messages


def test_a_name_whose_virtual_hosts_go_meanwhile_is_absent_in_the_end(stage: Stage) -> None:
    async def scenario() -> None:
        stage.network.on_interface(interface(7))
        stage.names[7] = "lan0"
        stage.network.on_interface(interface(9))
        for slot in (0, 1):
            stage.hosts.give_back(slot)
        stage.network.on_reload()
        stage.idle.set()
        await turn()
        assert told_of_interfaces(stage) == [(0, 7, False), (0, 7, True), (0, 0, False)]
        stage.network.close()

    run(scenario)


@pytest.mark.parametrize("order", [("eth0", "eth1"), ("eth1", "eth0")])
def test_groups_follow_an_interface_to_another_configured_name(
    stage: Stage, order: tuple[str, str]
) -> None:
    settings = Settings(passphrase=b"secret", destination="239.0.0.1")
    stage.hosts.take(VirtualHost("eth1", 1, ("192.0.2.9/24",), (), settings))
    group = bytes((239, 0, 0, 1))

    async def scenario() -> None:
        stage.network.on_interface(interface(7))
        stage.network.on_interface(absent("eth1"))
        stage.names[7] = "eth1"
        reports = {"eth0": absent("eth0"), "eth1": interface(7, name="eth1")}
        for name in order:
            stage.network.on_interface(reports[name])
        stage.idle.set()
        await turn()
        assert stage.joined == {7: {group}}
        # Two that swap their names swap their groups.
        stage.network.on_interface(interface(8))
        assert stage.joined == {7: {group}, 8: {bytes((224, 0, 0, 18))}}
        stage.names |= {7: "eth0", 8: "eth1"}
        reports = {"eth0": interface(7), "eth1": interface(8, name="eth1")}
        for name in order:
            stage.network.on_interface(reports[name])
        await turn()
        assert stage.joined == {8: {group}, 7: {bytes((224, 0, 0, 18))}}
        assert {told[2]["ifindex"] for told in stage.pump.told[-2:]} == {7, 8}
        assert stage.filters[-1] in ([7, 8], [8, 7])

    run(scenario)


def test_what_has_our_mark_where_an_interface_appears_is_ours(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def marked(last: int, prefixlen: int = 24, protocol: int = OWN_PROTOCOL) -> InterfaceAddress:
        return InterfaceAddress(4, bytes((192, 0, 2, last)), prefixlen, 0, 0, protocol)

    own = interface().addresses
    there = (*own, marked(1), marked(52), marked(2, 32), marked(51, 24, 0), marked(77))
    ours = [("adopt", 0, LOST, 24), ("adopt", 1, bytes((192, 0, 2, 52)), 24)]

    async def scenario() -> None:
        stage.network.on_interface(absent("eth0"))
        stage.network.on_interface(Interface("eth0", 7, MAC, True, there))
        assert stage.pump.told[2:] == ours
        # Not before the interface that had the name is left; and then of what is there now.
        stage.names[7] = "lan0"
        stage.network.on_interface(Interface("eth0", 8, MAC, False, there))
        stage.network.on_interface(interface(8))
        stage.idle.set()
        await turn()
        assert [told[0] for told in stage.pump.told[4:]] == [
            "interface",
            "interface",
            *["adopt"] * 2,
        ]

    run(scenario)
    assert caplog.messages.count("eth0: 2 addresses there have our mark and are ours") == 2


def test_who_is_found_elsewhere_is_announced_at_once_and_then_once_a_second(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def there(mac: int = 1, master: int = 0, *, up: bool = True) -> Interface:
        return Interface(
            "eth0", 7, MAC[:5] + bytes([mac]), up, interface().addresses, False, master
        )

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        timers: list[Callable[[], None]] = []

        class Timer:
            def cancel(self) -> None: ...

        def call_later(delay_s: float, callback: Callable[..., None], *args: Any) -> Timer:
            assert delay_s == network.ANNOUNCE_APART_S
            timers.append(partial(callback, *args))
            return Timer()

        monkeypatch.setattr(loop, "call_later", call_later)

        def announced() -> list[bool]:
            told = [told[2]["announce"] for told in stage.pump.told]
            stage.pump.told.clear()
            return told

        stage.network.on_interface(there())
        assert announced() == [False], "nobody is MASTER there yet"
        stage.network.on_interface(there(up=False))
        assert announced() == [False]
        stage.network.on_interface(there())
        stage.network.on_interface(there(2))
        for flap in range(20):
            stage.network.on_interface(there(2, up=flap % 2 == 1))
        stage.names[99] = "br0"
        stage.network.on_interface(there(2, 99))
        assert announced() == [True] + [False] * 22
        # All of that makes one more, with the last of it, when a second is over.
        timers.pop()()
        ((_, _, keys),) = stage.pump.told
        assert (keys["announce"], keys["mac"][5]) == (True, 2)
        assert announced() == [True]
        timers.pop()()
        assert (announced(), timers) == ([], [])
        stage.network.on_interface(there(2))
        assert announced() == [True]
        # An interface that is another one, or has no virtual hosts any more, is no news.
        stage.network.on_interface(there(3))
        stage.network.on_interface(interface(8))
        assert announced() == [False, False]
        for slot in (0, 1):
            stage.hosts.give_back(slot)
        stage.network.on_reload()
        assert announced() == [False]
        timers.pop()()
        assert (announced(), timers) == ([], [])

    run(scenario)
    assert "eth0: MAC 02:00:00:00:00:02 instead of 02:00:00:00:00:01" in caplog.messages
    assert "eth0: is now a port of br0, and its addresses may not answer" in caplog.messages
    assert "eth0: is no longer a port of another interface" in caplog.messages


def test_what_scripts_add_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, manage_addresses=False)
    marked = InterfaceAddress(4, LOST, 24, 0, 0, OWN_PROTOCOL)

    async def scenario() -> None:
        stage.network.on_interface(Interface("eth0", 7, MAC, True, (marked,)))
        assert [told[0] for told in stage.pump.told] == ["interface"]

    run(scenario)
