"""Configured sources compared with the host: where each is, and what the engine hears of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.config.model import Origin
from carp_fast.daemon.own_sources import whereabouts
from carp_fast.daemon.present import own_peers
from carp_fast.daemon.surroundings import differences
from carp_fast.inet import address_bytes
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, InterfaceAddress, absent
from tests.support.staged import MAC, Stage, run

FOUR, SIX = "192.0.2.98", "2001:db8::98"
LINK_LOCAL = "fe80::98"
TENTATIVE, DADFAILED = 0x40, 0x08


def address(text: str, flags: int = 0, protocol: int = 0) -> InterfaceAddress:
    family, scope = (6, 253 if text.startswith("fe80") else 0) if ":" in text else (4, 0)
    return InterfaceAddress(family, address_bytes(text), 24, scope, flags, protocol)


def having(*there: InterfaceAddress, ifindex: int = 7, master: int = 0) -> Interface:
    return Interface("eth0", ifindex, MAC, True, there, False, master)


@pytest.mark.parametrize(
    ("source", "there", "on_host", "where"),
    [
        (FOUR, [address(FOUR)], True, "here"),
        (FOUR, [address("192.0.2.97")], True, "elsewhere"),
        (FOUR, [address("192.0.2.97")], False, "missing"),
        (FOUR, [address(FOUR, protocol=OWN_PROTOCOL)], True, "missing"),
        (FOUR, [address(FOUR, flags=TENTATIVE)], True, "here"),
        (SIX, [address(SIX)], True, "here"),
        (SIX, [address(SIX, flags=TENTATIVE)], True, "tentative"),
        (SIX, [address(SIX, flags=TENTATIVE | DADFAILED)], True, "duplicate"),
        (SIX, [], True, "elsewhere"),
        (LINK_LOCAL, [address(LINK_LOCAL)], True, "here"),
        (LINK_LOCAL, [], True, "missing"),
    ],
)
def test_where_a_configured_source_is(
    source: str, there: list[InterfaceAddress], on_host: bool, where: str
) -> None:
    assert whereabouts(source, having(*there), lambda _: on_host) == where


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Stage:
    caplog.set_level(logging.INFO)
    return Stage(monkeypatch, (4, 6), source=FOUR, source6=SIX)


def told(stage: Stage) -> list[tuple[Any, ...]]:
    """What the engine was told of sources since the last time."""
    found = [each[1:] for each in stage.pump.told if each[0] == "own_source"]
    stage.pump.told.clear()
    return found


def both(missing: bool, missing6: bool) -> list[tuple[int, bool, bool]]:
    return [(slot, missing, missing6) for slot in (0, 1)]


def test_the_engine_hears_which_sources_are_missing_as_they_come_and_go(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    follow = stage.network.on_interface
    host = stage.hosts.hosts[0]
    assert host is not None

    async def scenario() -> None:
        assert stage.network.own_sources.missing(host) == (True, True)
        follow(absent("eth0"))
        assert told(stage) == []
        follow(having(address(FOUR), address(SIX, flags=TENTATIVE)))
        # Before the interface, so that nobody takes part without the source or lacks it for once.
        assert [each[0] for each in stage.pump.told[-3:]] == [
            "own_source",
            "own_source",
            "interface",
        ]
        assert told(stage) == both(False, True)
        follow(having(address(FOUR), address(SIX)))
        assert told(stage) == both(False, False)
        assert stage.network.own_sources.missing(host) == (False, False)
        follow(having(address(SIX)))
        assert told(stage) == both(True, False)
        # It comes to another interface of the host, of which only the monitor knows, and goes.
        for on_host, answer in ((True, both(False, False)), (False, both(True, False))):
            stage.local.clear()
            if on_host:
                stage.local.add(address_bytes(FOUR))
            stage.network.own_sources.on_address(address_bytes(FOUR))
            assert told(stage) == answer
            stage.network.own_sources.on_address(address_bytes("192.0.2.97"))
            assert told(stage) == []
        # What the interface is like while it is not there is not known; then nothing has changed.
        follow(absent("eth0"))
        follow(having(address(SIX)))
        assert told(stage) == []

    run(scenario)
    assert [each for each in caplog.messages if "source 2001" in each or "source 192" in each] == [
        "eth0: source 2001:db8::98 is tentative: the kernel checks for duplicates; "
        "its virtual hosts wait for it",
        "eth0: source 2001:db8::98 is present",
        "eth0: source 192.0.2.98 is not an address of this host; its virtual hosts wait for it",
        "eth0: source 192.0.2.98 is an address of another interface of this host",
        "eth0: source 192.0.2.98 is not an address of this host; its virtual hosts wait for it",
    ]
    assert stage.network.own_sources.addresses() == {address_bytes(FOUR), address_bytes(SIX)}


def test_a_source_of_a_family_that_is_not_advertised_over_is_not_missed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(monkeypatch, source=FOUR, source6=SIX)  # IPv4 alone

    async def scenario() -> None:
        stage.network.on_interface(having(address(FOUR)))
        assert stage.network.own_sources.where("eth0", FOUR) == "here"

    run(scenario)
    assert not [each for each in caplog.messages if SIX in each]


def test_virtual_hosts_that_a_reload_adds_know_their_sources_at_once(stage: Stage) -> None:
    async def scenario() -> None:
        stage.network.on_interface(having(address(FOUR), address(SIX)))
        told(stage)
        for source, missing in (("192.0.2.97", True), (FOUR, False)):
            settings = Settings(passphrase=b"secret", source=source)
            host = VirtualHost("eth0", 3, ("192.0.2.3/24",), (), settings)
            assert stage.network.own_sources.missing(host) == (missing, False)
        elsewhere = VirtualHost(
            "eth5", 3, ("192.0.2.3/24",), (), Settings(passphrase=b"x", source=FOUR)
        )
        assert stage.network.own_sources.missing(elsewhere) == (True, False), "until it is known"

    run(scenario)


def lines(interfaces: dict[str, Interface], *local: str, **settings: Any) -> list[str]:
    wanted = ("192.0.2.1/24", "2001:db8::1/64")
    given = Settings(passphrase=b"secret", origin=Origin("FILE", "virtual_host[1]"), **settings)
    hosts = [VirtualHost(name, vhid, wanted, (), given) for name in interfaces for vhid in (1, 2)]
    on_host = {address_bytes(text) for text in local}
    there = {name: each for name, each in interfaces.items() if each.ifindex}
    return list(differences(hosts, there, on_host.__contains__))


def test_check_names_what_the_interfaces_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    eth0 = having(address("192.0.2.9"), address("fe80::9"))
    assert lines({"eth0": eth0}) == []
    assert lines({"eth0": eth0}, SIX, source=FOUR, source6=SIX) == [
        'FILE: virtual_host[1]: source = "192.0.2.98": is not an address of this host; the virtual '
        "hosts on eth0 wait for it",
        'FILE: virtual_host[1]: source = "2001:db8::98": is an address of another interface of '
        "this host",
    ]
    assert lines({"eth0": having(address("192.0.2.1"))}) == [
        f'FILE: virtual_host[1]: interface = "eth0": has no IPv{family} address to advertise from, '
        "and its virtual hosts wait for one; allowed: one that is not virtual, or a source"
        for family in (4, 6)
    ]
    # Of what is not there nothing else is compared, but its name may be another one's.
    monkeypatch.setattr("carp_fast.daemon.surroundings.real_name", {"lan0": "eth0"}.get)
    assert lines({"eth9": absent("eth9"), "lan0": absent("lan0")}, source=FOUR) == [
        'FILE: virtual_host[1]: interface = "lan0": is an alternative name of eth0, and does '
        'not count as its name; allowed: "eth0"',
        'FILE: virtual_host[1]: interface = "eth9": does not exist; its virtual hosts wait for it',
    ]
    assert lines({f"eth{n}": absent(f"eth{n}") for n in range(9, 15)}) == [
        'FILE: virtual_host[1]: interface = "eth9": does not exist (nor do 5 more of this table);'
        " its virtual hosts wait for it"
    ]
    monkeypatch.setattr("carp_fast.daemon.surroundings.name_of", {3: "br0"}.get)
    assert lines({"eth0": having(*eth0.addresses, master=3)}) == [
        'FILE: virtual_host[1]: interface = "eth0": is a port of br0; the kernel does not '
        "answer for addresses of a port"
    ]


def test_peers_that_are_this_host_are_named_once_a_table() -> None:
    peers = ("192.0.2.8", "192.0.2.9", "fe80::9")
    origin = Origin("FILE", "virtual_host[1]")
    settings = Settings(passphrase=b"secret", peers=peers, origin=origin)
    hosts = [VirtualHost("eth0", vhid, ("192.0.2.1/24",), (), settings) for vhid in (1, 2)]
    local = {address_bytes("192.0.2.9"), address_bytes("fe80::9")}
    assert list(map(str, own_peers(hosts, local.__contains__))) == [
        'FILE: virtual_host[1]: peers = "192.0.2.9": is an address of this host, which does not '
        "hear itself; allowed: other hosts"
    ]


def test_each_table_without_a_source_is_named_where_several_share_an_interface() -> None:
    origins = [Origin("FILE", f"virtual_host[{number}]") for number in (1, 2)]
    hosts = [
        VirtualHost(
            "eth0",
            vhid,
            ("192.0.2.1/24", "2001:db8::1/64"),
            (),
            Settings(passphrase=b"secret", origin=origin),
        )
        for vhid, origin in enumerate(origins, 1)
    ]
    missing = "has no IPv{} address to advertise from"
    found = list(differences(hosts, {"eth0": having()}, lambda _: False))
    expected = [(table, family) for family in (4, 6) for table in (1, 2)]
    assert len(found) == len(expected)
    for line, (table, family) in zip(found, expected, strict=True):
        assert line.startswith(f"FILE: virtual_host[{table}]: ")
        assert missing.format(family) in line
    there = having(address(FOUR), address(LINK_LOCAL))
    assert list(differences(hosts, {"eth0": there}, lambda _: False)) == []
