"""Interfaces that cannot be used, and who hears of each that is known."""

from __future__ import annotations

import pytest

from carp_fast.net.interfaces import Interface, absent
from tests.support.staged import Stage, interface, run


def test_an_interface_that_is_no_ethernet_is_said_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        for up in (True, False, True):
            stage.network.on_interface(Interface("eth0", 7, b"\1\2\3\4", up, ()))
        assert [keys["ifindex"] for _, _, keys in stage.pump.told] == [0, 0, 0]

    run(scenario)
    assert caplog.messages.count("eth0: not an Ethernet interface, it cannot be used") == 1


def test_what_is_known_of_an_interface_is_passed_on(stage: Stage) -> None:
    async def scenario() -> None:
        stage.network.on_interface(interface())
        stage.network.on_interface(interface(name="eth9"))  # has no virtual host
        stage.network.on_reload()

    run(scenario)
    assert stage.known == [interface()] * 2


@pytest.mark.parametrize(("mac", "kind"), [(b"", 65534), (bytes(6), 772), (bytes(20), 32)])
def test_an_interface_that_is_not_ethernet_is_not_used(
    stage: Stage, caplog: pytest.LogCaptureFixture, mac: bytes, kind: int
) -> None:
    odd = Interface("eth0", 8, mac, True, interface().addresses, kind=kind)

    async def scenario() -> None:
        for before in (absent("eth0"), odd, odd, interface(), odd):
            stage.network.on_interface(before)
        words = [keys["ifindex"] for word, _, keys in stage.pump.told if word == "interface"]
        assert words == [0, 0, 0, 7, 0]

    run(scenario)
    message = "eth0: not an Ethernet interface, it cannot be used"
    assert caplog.messages.count(message) == 2
