"""The plan that `check` prints: counts, rates, groups, links and limits of each interface."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carp_fast.config.load import Configuration, Settings, VirtualHost, load
from carp_fast.daemon import plan as plan_module
from carp_fast.daemon.limits import Kernel
from carp_fast.daemon.plan import (
    InterfaceFacts,
    advertisements_per_s,
    interface_facts,
    plan,
    receive_path,
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
QUIET = "no interface with virtual hosts forwards"
KERNEL = Kernel()
FACTS = {"eth0": InterfaceFacts(ifindex=3, up=True, mac="02:00:00:00:00:03")}


@pytest.fixture(autouse=True)
def sysctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel whose interfaces do not forward, unless a test says otherwise."""
    root = tmp_path / "sys"
    monkeypatch.setattr(plan_module, "SYSCTL", root)
    # BPF is permitted.
    monkeypatch.setattr(plan_module, "planned_receive", lambda wanted, rate: wanted)
    return root


def forward(root: Path, family: str, interface: str, value: str = "1") -> None:
    folder = root / "net" / family / "conf" / interface
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "forwarding").write_text(f"{value}\n")


def read(tmp_path: Path, text: str) -> Configuration:
    path = tmp_path / "carp.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load(path)


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return read(tmp_path, TEXT)


def test_each_interface_has_its_counts_and_rates(configuration: Configuration) -> None:
    made = plan(configuration, FACTS.get, KERNEL)
    first, second = made.interfaces
    assert (first.name, first.virtual_hosts, second.name, second.virtual_hosts) == (
        "eth0",
        257,
        "eth1",
        255,
    )
    assert first.advertisements_per_s == pytest.approx(255 + 2 * 4)
    assert first.groups == ("224.0.0.18", "239.0.0.1")
    assert (first.families, first.peers) == ((4,), ())
    assert (first.facts, second.facts) == (FACTS["eth0"], None)
    assert (first.receive, second.receive) == ("ring", "ring")
    assert made.virtual_hosts == 512
    assert made.advertisements_per_s == pytest.approx(255 * 2 + 8)
    assert made.limits == ()


def test_rows_have_an_interface_each_and_a_total(configuration: Configuration) -> None:
    header = ("interface", "link", "virtual hosts", "adverts/s", "families", "groups", "peers")
    groups = "224.0.0.18 239.0.0.1"
    mac = "1 (02:00:00:00:00:03)"
    assert plan(configuration, FACTS.get, KERNEL).rows() == [
        (*header, "MACs", "receive", "why"),
        ("eth0", "up", "257", "263.0", "IPv4", groups, "", mac, "ring", QUIET),
        ("eth1", "missing", "255", "255.0", "IPv4", "224.0.0.18", "", "1", "ring", QUIET),
        ("total", "", "512", "518.0", "", "", "", "", "", ""),
    ]


BOTH = """
[defaults]
passphrase = "abc"
[[virtual_host]]
interface = "eth0"
vhid = "1-2"
addresses = ["10.1.0.{vhid}", "{2001:db8::+vhid}/64"]
[[virtual_host]]
interface = "eth0"
vhid = "3-4"
addresses = ["10.1.0.{vhid}", "{2001:db8::+vhid}/64"]
peers = ["fe80::a", "192.0.2.10", "192.0.2.9", "192.0.2.200", "192.0.2.201"]
[[virtual_host]]
interface = "eth1"
vhid = "1-3"
addresses = "{2001:db8::+vhid}/64"
destination6 = "ff05::12"
"""


def test_families_and_peers(tmp_path: Path) -> None:
    first, second = plan(read(tmp_path, BOTH), FACTS.get, KERNEL).interfaces
    assert (first.families, second.families) == ((4, 6), (6,))
    # A frame to each destination: two groups, five peers.
    assert first.advertisements_per_s == pytest.approx(2 * 2 + 2 * 5)
    assert second.advertisements_per_s == pytest.approx(3)
    assert (first.groups, second.groups) == (("224.0.0.18", "ff02::12"), ("ff05::12",))
    peers = ("192.0.2.9", "192.0.2.10", "192.0.2.200", "192.0.2.201", "fe80::a")
    assert (first.peers, second.peers) == (peers, ())
    _, row, other, _ = plan(read(tmp_path, BOTH), FACTS.get, KERNEL).rows()
    assert row[4:7] == ("IPv4 IPv6", "224.0.0.18 ff02::12", " ".join(peers[:4]) + " and 1 more")
    assert other[4:7] == ("IPv6", "ff05::12", "")


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
    assert [item.macs for item in plan(load(path), FACTS.get, KERNEL).interfaces] == [256, 257]


def test_a_link_that_is_down(configuration: Configuration) -> None:
    down = InterfaceFacts(ifindex=3, up=False, mac="02:00:00:00:00:03")
    rows = plan(configuration, lambda _: down, KERNEL).rows()
    assert [row[1] for row in rows[1:3]] == ["down", "down"]


def test_a_link_that_is_not_ethernet(configuration: Configuration) -> None:
    tunnel = InterfaceFacts(ifindex=3, up=True, mac="00:00:00:00:00:00", kind=65534)
    rows = plan(configuration, lambda _: tunnel, KERNEL).rows()
    assert [row[1] for row in rows[1:3]] == ["not Ethernet", "not Ethernet"]


@pytest.mark.parametrize("path", ["packet", "ring", "raw"])
def test_the_configured_receive_path_is_the_reason(tmp_path: Path, path: str, sysctl: Path) -> None:
    forward(sysctl, "ipv4", "eth1")
    configuration = read(tmp_path, f'[daemon]\nreceive = "{path}"\n{TEXT}')
    for item in plan(configuration, FACTS.get, KERNEL).interfaces:
        assert (item.receive, item.receive_reason) == (path, f'daemon.receive = "{path}"')


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_where_an_interface_forwards_raw_sockets_cost_less(
    family: str, configuration: Configuration, sysctl: Path
) -> None:
    forward(sysctl, "ipv4", "eth0", "0")
    forward(sysctl, family, "eth2")  # without virtual hosts
    assert receive_path(configuration) == ("ring", QUIET)
    forward(sysctl, family, "eth1")
    why = f"net.{family}.conf.eth1.forwarding is 1"
    few = "there are fewer than 1,000 virtual hosts"
    raw = ("raw", f"{why}, and {few}; heard behind the firewall and rp_filter")
    assert receive_path(configuration) == raw
    first, second = plan(configuration, FACTS.get, KERNEL).interfaces
    assert (first.receive, first.receive_reason) == raw
    assert (second.receive, second.receive_reason) == raw


def test_many_virtual_hosts_want_rings(tmp_path: Path, sysctl: Path) -> None:
    forward(sysctl, "ipv4", "eth1")
    text = '[defaults]\npassphrase = "abc"\n[[virtual_host]]\ninterface = "eth[1-4]"\n'
    tables = text + 'vhid = "1-249"\naddresses = "{10.0.0.1+index}"\n'
    assert receive_path(read(tmp_path, tables))[0] == "raw"
    assert receive_path(read(tmp_path, tables.replace("249", "250"))) == (
        "ring",
        "net.ipv4.conf.eth1.forwarding is 1, but there are 1,000 virtual hosts or more",
    )


def test_what_all_interfaces_need_together(tmp_path: Path, sysctl: Path) -> None:
    # 224.0.0.18 needs no membership; 239.0.0.1 is used on one interface.
    configuration = read(tmp_path, TEXT)
    none = Kernel(igmp_max_memberships=0)
    (line,) = plan(configuration, FACTS.get, none).limits
    assert line.startswith("net.ipv4.igmp_max_memberships: 1 IGMP memberships would be needed, one")
    assert "outside 224.0.0.0/24" in line
    # A raw socket hears nothing that the host has not joined, 224.0.0.18 included.
    forward(sysctl, "ipv4", "eth0")
    (line,) = plan(configuration, FACTS.get, none).limits
    assert line.startswith("net.ipv4.igmp_max_memberships: 3 IGMP memberships")
    # ff02::12 on one interface, ff05::12 on the other.
    (line,) = plan(read(tmp_path, BOTH), FACTS.get, Kernel(optmem_max=2 * 56)).limits
    assert line.startswith("net.core.optmem_max: 2 MLD memberships")


def test_peers_and_macs_are_counted(tmp_path: Path) -> None:
    text = TEXT.replace('passphrase = "abc"', 'passphrase = "abc"\nadvertise_mac = "ucarp"')
    made = plan(read(tmp_path, text), FACTS.get, KERNEL)
    assert [item.macs - 1 for item in made.interfaces] == [255, 255]
    peers = '[[virtual_host]]\ninterface = "eth2"\nvhid = 1\naddresses = "10.2.0.1"\n'
    text = TEXT + peers + 'peers = ["10.3.0.1", "10.3.0.2", "fe80::1"]\n'
    few = Kernel(neighbours=1, neighbours6=0)
    assert [line.partition(",")[0] for line in plan(read(tmp_path, text), None, few).limits] == [
        "net.ipv4.neigh.default.gc_thresh3: 2 unicast peers",
        "net.ipv6.neigh.default.gc_thresh3: 1 unicast peers",
    ]


@given(st.integers(0, 255), st.integers(0, 254))
def test_the_rate_is_one_over_the_interval(advbase: int, advskew: int) -> None:
    assume(advbase or advskew)
    settings = Settings(passphrase=b"x", advbase=advbase, advskew=advskew)
    host = VirtualHost("eth0", 1, ("192.0.2.1/32",), (), settings)
    assert advertisements_per_s(host) == pytest.approx(1 / (advbase + advskew / 256))


def test_the_rate_at_openbsds_interval_of_0() -> None:
    settings = Settings(passphrase=b"x", advbase=0, advskew=0, dialect="openbsd")
    host = VirtualHost("eth0", 1, ("192.0.2.1/32", "2001:db8::1/64"), (), settings)
    assert advertisements_per_s(host) == 2 * 256


def test_no_virtual_host(tmp_path: Path) -> None:
    path = tmp_path / "carp.toml"
    path.write_text("")
    path.chmod(0o600)
    made = plan(load(path), FACTS.get, KERNEL)
    assert made.interfaces == ()
    assert made.rows()[1:] == [("total", "", "0", "0.0", *[""] * 6)]


def test_facts_come_from_the_kernel(configuration: Configuration) -> None:
    loopback = interface_facts("lo")
    assert loopback is not None
    assert (loopback.ifindex, loopback.mac) == (1, "00:00:00:00:00:00")
    assert loopback.kind == 772  # ARPHRD_LOOPBACK
    flags = int(Path("/sys/class/net/lo/flags").read_text(), 16)
    assert loopback.up is bool(flags & 1)
    assert interface_facts("no-such-if") is None
    assert interface_facts("x" * 40) is None
    assert plan(configuration).virtual_hosts == 512
