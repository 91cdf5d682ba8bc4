"""Addresses of a MASTER that the kernel takes away, or does not give: they come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.lab.namespaces import ip_batch
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths("send", "receive", reason="addresses are kept up"),
]

IPV4, IPV6 = "10.1.1.1", "2001:db8::1"
DEADLINE_S = 60.0
ALONE = {"dead_ratio": 1, "source": "10.1.0.1"}  # MASTER after 1 s


def ip(host: Host, words: str) -> None:
    host.run(["ip", *words.split()])


def held(host: Host, *texts: str) -> set[str]:
    """Of these addresses those that s1 has."""
    links = json.loads(host.run(["ip", "-j", "-6", "addr", "show", "dev", "s1"]).stdout)
    by_ipv4 = {address for name, address in host.addresses() if name == "s1"}
    return ({entry["local"] for link in links for entry in link["addr_info"]} | by_ipv4) & set(
        texts
    )


def sysctl(host: Host, key: str, value: str) -> None:
    host.run(["sysctl", "-qw", f"{key}={value}"])


def start(host: Host, directory: Path, **keys: Any) -> RunningDaemon:
    """A daemon with an IPv4 and an IPv6 address, MASTER of both."""
    table = {"interface": "s1", "vhid": 1, "addresses": [f"{IPV4}/24"], **ALONE, **keys}
    table.setdefault("unsigned_addresses", [f"{IPV6}/64"])
    daemon = start_daemon(host, write_configuration(directory, host.name, [table]))
    daemon.wait_state("MASTER", 10)
    return daemon


@pytest.fixture
def a(lab_factory: Callable[..., Lab]) -> Host:
    host = lab_factory(segments=1).hosts[0]
    for name in ("all", "default", "s1"):
        sysctl(host, f"net.ipv6.conf.{name}.disable_ipv6", "0")
    return host


def wait_for_both(host: Host) -> None:
    wait_for(lambda: held(host, IPV4, IPV6) == {IPV4, IPV6}, DEADLINE_S, "both addresses")


def mtu(host: Host, there: bool) -> None:
    ip(host, f"link set s1 mtu {1500 if there else 1200}")


def disabled(host: Host, there: bool) -> None:
    sysctl(host, "net.ipv6.conf.s1.disable_ipv6", "0" if there else "1")


@pytest.mark.parametrize("change", [mtu, disabled])
def test_ipv6_goes_away_and_comes_back(
    a: Host, tmp_path: Path, change: Callable[[Host, bool], None]
) -> None:
    daemon = start(a, tmp_path)
    wait_for_both(a)
    change(a, False)
    wait_for(lambda: held(a, IPV6) == set(), DEADLINE_S, "IPv6 gone")
    daemon.wait_log(f"ERROR s1/1: adding address {IPV6}/64 failed", DEADLINE_S)
    assert IPV6 + "/64" in daemon.virtual_host("s1", 1)["address_problems"]
    change(a, True)
    wait_for_both(a)
    wait_for(lambda: not daemon.virtual_host("s1", 1)["address_problems"], 10, "no problem left")
    assert daemon.states() == {("s1", 1): "MASTER"}
    assert daemon.stop() == 0
    assert held(a, IPV4, IPV6) == set()


def test_stepping_down_while_ipv6_is_away_leaves_nothing_behind(a: Host, tmp_path: Path) -> None:
    daemon = start(a, tmp_path)
    wait_for_both(a)
    ip(a, "link set s1 mtu 1200")
    ip(a, "link set s1 down")
    daemon.wait_state("INIT", 10)
    ip(a, "link set s1 mtu 1500 up")
    daemon.wait_state("MASTER", 10)
    wait_for_both(a)
    assert not daemon.log_lines("failed: No such device or address")


@pytest.mark.own_paths("send", "receive", "hold", reason="addresses of the interface are removed")
def test_every_address_is_removed_at_once_and_all_come_back(a: Host, tmp_path: Path) -> None:
    many = [f"10.3.{n // 250}.{n % 250 + 1}" for n in range(300)]
    daemon = start(a, tmp_path, unsigned_addresses=[f"{text}/32" for text in many])
    wait_for(lambda: len(held(a, *many)) == len(many), DEADLINE_S, "all addresses")
    # Each once: a flush goes on until nothing is left, and takes what has come back as well.
    with a.inside():
        ip_batch([f"addr del {IPV4}/24 dev s1", *(f"addr del {text}/32 dev s1" for text in many)])
    wait_for(lambda: len(held(a, IPV4, *many)) == len(many) + 1, 10, "all addresses again")
    assert daemon.counters("s1", 1)["addresses_restored"] == len(many) + 1
    assert daemon.states() == {("s1", 1): "MASTER"}


def test_a_link_that_was_down_has_its_ipv6_address_again(a: Host, tmp_path: Path) -> None:
    daemon = start(a, tmp_path, ignore_link_state=True)
    wait_for_both(a)
    ip(a, "link set s1 down")  # the kernel removes IPv6 addresses, and lets them be added again
    wait_for(
        lambda: daemon.counters("s1", 1)["addresses_restored"] == 1, DEADLINE_S, "the address again"
    )
    ip(a, "link set s1 up")
    wait_for_both(a)
    assert a.run(["ip", "-6", "route", "get", IPV6]).stdout.startswith(f"local {IPV6}")
    assert daemon.states() == {("s1", 1): "MASTER"}


@pytest.mark.own_paths("send", "receive", "hold", reason="a local route has no prefix length")
@pytest.mark.parametrize("address", [f"{IPV4}/32", f"{IPV6}/128"])
def test_another_prefix_length_by_reload(a: Host, tmp_path: Path, address: str) -> None:
    both = {"addresses": [f"{IPV4}/24"], "unsigned_addresses": [f"{IPV6}/64"]}
    daemon = start(a, tmp_path, **both)
    wait_for_both(a)
    both["unsigned_addresses" if ":" in address else "addresses"] = [address]
    write_configuration(tmp_path, a.name, [{"interface": "s1", "vhid": 1, **ALONE, **both}])
    daemon.reload()
    wait_for_both(a)
    wanted = (address.partition("/")[0], int(address.partition("/")[2]))

    def lengths() -> set[tuple[str, int]]:
        links = json.loads(a.run(["ip", "-j", "addr", "show", "dev", "s1"]).stdout)
        return {(e["local"], e["prefixlen"]) for link in links for e in link["addr_info"]}

    wait_for(lambda: wanted in lengths(), 10, "the new prefix length")
    assert len([each for each in lengths() if each[0] == wanted[0]]) == 1
    assert daemon.stop() == 0
    assert held(a, IPV4, IPV6) == set()


@pytest.mark.own_paths("send", "receive", "hold", reason="local routes have no secondaries")
def test_secondaries_stay_where_somebody_reset_promote_secondaries(a: Host, tmp_path: Path) -> None:
    tables = [
        {"interface": "s1", "vhid": vhid, "addresses": [f"192.0.2.{vhid}/24"], **ALONE}
        for vhid in (1, 2, 3)
    ]
    daemon = start_daemon(a, write_configuration(tmp_path, a.name, tables))
    daemon.wait_state("MASTER", 10)
    ours = [f"192.0.2.{vhid}" for vhid in (1, 2, 3)]
    wait_for(lambda: len(held(a, *ours)) == 3, 10, "three addresses")
    ip(a, "addr add 192.0.2.200/24 dev s1")  # the host's own, a secondary too
    for name in ("all", "s1"):
        sysctl(a, f"net.ipv4.conf.{name}.promote_secondaries", "0")
    write_configuration(tmp_path, a.name, tables[1:])
    daemon.reload()
    wait_for(lambda: held(a, *ours) == set(ours[1:]), 10, "the first gone, the others there")
    assert held(a, "192.0.2.200") == {"192.0.2.200"}
    daemon.wait_log("WARNING s1: promote_secondaries was no longer 1, set again", 10)
    assert daemon.counters("s1", 2)["addresses_restored"] == 0


def test_what_a_crash_left_goes_without_its_secondaries_going_too(a: Host, tmp_path: Path) -> None:
    # The clean-up at the start comes before anything is added.
    daemon = start(a, tmp_path, unsigned_addresses=[])
    wait_for(lambda: held(a, IPV4) == {IPV4}, 10, "the address")
    daemon.kill()
    ip(a, "addr add 10.1.1.200/24 dev s1")
    for name in ("all", "s1"):
        sysctl(a, f"net.ipv4.conf.{name}.promote_secondaries", "0")
    daemon = start(a, tmp_path, unsigned_addresses=[])
    assert daemon.log_lines("removed 1 addresses left by the last run")
    assert held(a, "10.1.1.200") == {"10.1.1.200"}


def test_a_master_that_gets_no_address_resigns_and_says_why(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    for host in (a, b):
        sysctl(host, "net.ipv6.conf.s1.disable_ipv6", "1" if host is a else "0")
    keys = {"addresses": [f"{IPV4}/32"], "preempt": True, "address_deadline_s": 1}
    table = {"interface": "s1", "vhid": 1, **keys}
    # Only IPv6 addresses are held: IPv4 ones are those of the peers that it advertises to.
    table |= {"addresses": [f"{IPV6}/128"], "peers": ["10.1.0.2"], "source": "10.1.0.1"}
    daemon = start_daemon(a, write_configuration(tmp_path, "a", [table]))
    failed = "address_deadline: none of its addresses could be added for 1 s"
    daemon.wait_log(f"ERROR s1/1: {failed}", 20)
    found = daemon.virtual_host("s1", 1)
    assert found["demotion"]["reasons"] == {"address_deadline": 240}
    other = {**table, "peers": ["10.1.0.1"], "source": "10.1.0.2", "advskew": 100}
    taking = start_daemon(b, write_configuration(tmp_path, "b", [other]))
    taking.wait_state("MASTER", 20)
    wait_for(lambda: held(b, IPV6) == {IPV6}, 10, "the address on the other host")
    daemon.wait_state("BACKUP", 20)
