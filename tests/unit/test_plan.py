"""The plan that `check` prints: counts, rates, groups, links and limits of each interface."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carp_fast.config import Configuration, Settings, VirtualHost, load
from carp_fast.plan import (
    InterfaceFacts,
    advertisements_per_s,
    interface_facts,
    plan,
    read_igmp_limit,
)

TEXT = """
[defaults]
passphrase = "abc"
[[virtual_host]]
interface = "eth[0-1]"
vhid = "1-255"
addresses = "{10.0.0.1+index}"
[[virtual_host]]
interface = "eth0"
vhid = "1-2"
addresses = "10.1.0.{vhid}"
destination = "239.0.0.1"
advbase = 0
advskew = 64
"""
FACTS = {"eth0": InterfaceFacts(ifindex=3, up=True, mac="02:00:00:00:00:03")}


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    path = tmp_path / "carp.toml"
    path.write_text(TEXT)
    path.chmod(0o600)
    return load(path)


def test_each_interface(configuration: Configuration) -> None:
    made = plan(configuration, FACTS.get, 20)
    first, second = made.interfaces
    assert (first.name, first.virtual_hosts, second.name, second.virtual_hosts) == (
        "eth0",
        257,
        "eth1",
        255,
    )
    assert first.advertisements_per_s == pytest.approx(255 + 2 * 4)
    assert first.groups == ("224.0.0.18", "239.0.0.1")
    assert (first.facts, second.facts) == (FACTS["eth0"], None)
    assert (first.receive, second.receive) == ("packet", "packet")
    assert made.virtual_hosts == 512
    assert made.advertisements_per_s == pytest.approx(255 * 2 + 8)
    assert made.limits == ()


def test_rows(configuration: Configuration) -> None:
    why = 'daemon.receive = "auto": the only path in this version'
    assert plan(configuration, FACTS.get, 20).rows() == [
        ("interface", "link", "virtual hosts", "adverts/s", "groups", "MACs", "receive", "why"),
        (
            "eth0",
            "up",
            "257",
            "263.0",
            "224.0.0.18 239.0.0.1",
            "1 (02:00:00:00:00:03)",
            "packet",
            why,
        ),
        ("eth1", "missing", "255", "255.0", "224.0.0.18", "1", "packet", why),
        ("total", "", "512", "518.0", "", "", "", ""),
    ]


def test_virtual_macs_come_on_top_of_the_interface_s_own(tmp_path: Path) -> None:
    path = tmp_path / "carp.toml"
    # Two groups with the same vhid advertise from one MAC; a form of its own is another.
    path.write_text(
        TEXT.replace("[defaults]", '[defaults]\nadvertise_mac = "ucarp"')
        + (
            '[[virtual_host]]\ninterface = "eth1"\nvhid = 7\naddresses = "10.9.0.1"\n'
            'destination = "239.0.0.2"\nadvertise_mac = "bsd"\n'
        )
    )
    path.chmod(0o600)
    assert [item.macs for item in plan(load(path), FACTS.get, 20).interfaces] == [256, 257]


def test_a_link_that_is_down(configuration: Configuration) -> None:
    down = InterfaceFacts(ifindex=3, up=False, mac="02:00:00:00:00:03")
    rows = plan(configuration, lambda _: down, 20).rows()
    assert [row[1] for row in rows[1:3]] == ["down", "down"]


def test_the_configured_receive_path_is_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "carp.toml"
    path.write_text('[daemon]\nreceive = "packet"\n' + TEXT)
    path.chmod(0o600)
    first, _ = plan(load(path), FACTS.get, 20).interfaces
    assert (first.receive, first.receive_reason) == ("packet", 'daemon.receive = "packet"')


def test_the_limit_of_igmp_memberships(configuration: Configuration) -> None:
    # 224.0.0.18 needs none; 239.0.0.1 is used on one interface.
    assert plan(configuration, FACTS.get, 1).limits == ()
    assert plan(configuration, FACTS.get, 0).limits == (
        "net.ipv4.igmp_max_memberships: 1 IGMP memberships would be needed, one for each interface"
        " and group outside 224.0.0.0/24, and a socket may hold 0",
    )


@given(st.integers(0, 255), st.integers(0, 254))
def test_the_rate_is_one_over_the_interval(advbase: int, advskew: int) -> None:
    assume(advbase or advskew)
    settings = Settings(passphrase=b"x", advbase=advbase, advskew=advskew)
    host = VirtualHost("eth0", 1, ("192.0.2.1/32",), (), settings)
    assert advertisements_per_s(host) == pytest.approx(1 / (advbase + advskew / 256))


def test_no_virtual_host(tmp_path: Path) -> None:
    path = tmp_path / "carp.toml"
    path.write_text("")
    path.chmod(0o600)
    made = plan(load(path), FACTS.get, 20)
    assert made.interfaces == ()
    assert made.rows()[1:] == [("total", "", "0", "0.0", "", "", "", "")]


def test_facts_come_from_the_kernel(configuration: Configuration) -> None:
    loopback = interface_facts("lo")
    assert loopback is not None
    assert (loopback.ifindex, loopback.mac) == (1, "00:00:00:00:00:00")
    flags = int(Path("/sys/class/net/lo/flags").read_text(), 16)
    assert loopback.up is bool(flags & 1)
    assert interface_facts("no-such-if") is None
    assert interface_facts("x" * 40) is None
    assert read_igmp_limit() > 0
    assert plan(configuration).virtual_hosts == 512
