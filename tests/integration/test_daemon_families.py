"""IPv6 beside IPv4 in the daemon: raw sockets, announcements of a router, addresses that go."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.net.kernel import ETH_P_IPV6
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = pytest.mark.root

BOTH = {"interface": "s1", "vhid": 1, "addresses": ["10.1.1.1/32", "2001:db8:1::100/64"]}
# Where nobody else advertises: MASTER after 1 s.
ALONE = {"dead_ratio": 1}
STATE_S = 10


def start(
    host: Host, directory: Path, *tables: dict[str, Any], daemon: Any = None, **defaults: Any
) -> RunningDaemon:
    path = write_configuration(
        directory, host.name, tables, defaults={**ALONE, **defaults}, daemon=daemon
    )
    return start_daemon(host, path)


def held(host: Host) -> set[str]:
    links = json.loads(host.run(["ip", "-j", "-6", "addr", "show", "dev", "s1"]).stdout)
    by_ipv4 = {address for name, address in host.addresses() if name == "s1"}
    return {entry["local"] for link in links for entry in link["addr_info"]} | by_ipv4


def wait_for_source6(host: Host) -> None:
    """A link-local address is usable once nobody has objected to it for a second or two."""

    def usable() -> bool:
        shown = host.run(
            ["ip", "-6", "addr", "show", "dev", "s1", "scope", "link", "-tentative"]
        ).stdout
        return "fe80::" in shown

    wait_for(usable, 10, f"a link-local address of host {host.name}")


@pytest.mark.own_paths("receive", reason="raw sockets are what it is about")
def test_a_pair_on_raw_sockets_hears_every_group_also_on_an_interface_made_anew(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(hosts=("a", "b"), segments=1, medium="macvlan", ipv6=True)
    a, b = lab.hosts
    other = {"interface": "s1", "vhid": 2, "addresses": "10.1.1.2/32", "destination": "239.1.2.3"}
    for host in (a, b):
        wait_for_source6(host)
    raw = {"receive": "raw"}
    master = start(a, tmp_path, BOTH, other, daemon=raw)
    master.wait_state("MASTER", STATE_S)
    backup = start(b, tmp_path, BOTH, other, daemon=raw, advskew=100)
    assert backup.status()["daemon"]["receive"] == "raw"
    assert backup.log_lines(r'receive path: raw \(daemon.receive = "raw"\)')

    def heard_by_both_families() -> bool:
        families = {":" in peer["source"] for peer in backup.virtual_host("s1", 1)["peers"]}
        return len(families) == 2 and backup.counters("s1", 2)["advertisements_heard"] > 0

    wait_for(heard_by_both_families, 10, "all groups heard")
    lab.delete_interface("b", 1)
    backup.wait_state("INIT", STATE_S)
    lab.recreate_interface(1)
    backup.wait_state("BACKUP", STATE_S)
    before = {vhid: backup.counters("s1", vhid)["advertisements_heard"] for vhid in (1, 2)}
    wait_for(
        lambda: all(
            backup.counters("s1", vhid)["advertisements_heard"] >= count + 2
            for vhid, count in before.items()
        ),
        10,
        "heard again",
    )
    assert set(backup.states().values()) == {"BACKUP"}
    assert not backup.log_lines("family_silent")
    master.kill()
    backup.wait_state("MASTER", STATE_S)
    wait_for(lambda: {"10.1.1.1", "10.1.1.2", "2001:db8:1::100"} <= held(b), 10, "all addresses")


@pytest.mark.own_paths("receive", "hold", reason="it is about what is sent, of IPv6")
def test_neighbours_are_told_that_a_router_holds_the_address_as_soon_as_one_does(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1, ipv6=True).hosts
    with b.inside():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IPV6))
    with listener:
        start(a, tmp_path, BOTH, announce={"refresh_s": 1})
        wanted = socket.inet_pton(socket.AF_INET6, "2001:db8:1::100")

        def wait_for_flags(flags: int) -> bytes:
            end_at = time.monotonic() + 15
            while True:
                listener.settimeout(max(0.001, end_at - time.monotonic()))
                frame = listener.recv(200)
                # Neighbour advertisement, for the address.
                told = frame[20] == 58 and frame[54] == 136 and frame[62:78] == wanted
                if told and frame[58] == flags:
                    return frame

        frame = wait_for_flags(0x20)
        assert (frame[21], frame[22:38]) == (255, wanted)
        with a.inside():
            Path("/proc/sys/net/ipv6/conf/s1/forwarding").write_text("1")
        wait_for_flags(0xA0)


def test_our_own_removals_are_nobody_elses(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(segments=1, ipv6=True)
    a, b = lab.hosts
    slower = start(a, tmp_path, BOTH, advskew=50)
    slower.wait_state("MASTER", STATE_S)
    faster = start(b, tmp_path, BOTH, preempt=True)
    slower.wait_state("BACKUP", STATE_S)
    wait_for(lambda: "2001:db8:1::100" not in held(a), 10, "the address of host a gone")
    faster.kill()
    slower.wait_state("MASTER", STATE_S)
    # What is told of links comes in order: after this, of the removal before it.
    lab.set_link("b", 1, up=False)
    slower.wait_log("s1: link down", 10)
    assert not slower.log_lines("removed by another program")
    assert slower.counters("s1", 1)["addresses_restored"] == 0
    lab.set_link("b", 1, up=True)
    slower.wait_state("MASTER", STATE_S)
    wait_for(lambda: "2001:db8:1::100" in held(a), 10, "the address")
    a.run(["ip", "-6", "addr", "del", "2001:db8:1::100/64", "dev", "s1"])
    (line,) = slower.wait_log("removed by another program", 10)
    text = "address 2001:db8:1::100/64 was removed by another program, added again"
    assert line.endswith(f"s1/1: {text}")
    assert slower.counters("s1", 1)["addresses_restored"] == 1


def test_what_a_crash_left_of_both_families_goes(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1, ipv6=True).hosts
    ours = {"10.1.1.1", "2001:db8:1::100"}
    a.run(["ip", "-6", "addr", "add", "2001:db8:1::99/64", "dev", "s1"])
    dying = start(a, tmp_path, BOTH)
    dying.wait_state("MASTER", STATE_S)
    wait_for(lambda: held(a) >= ours, 10, "both addresses")
    dying.kill()
    again = start_daemon(a, dying.configuration)
    assert again.log_lines("removed 2 addresses left by the last run")
    assert "2001:db8:1::99" in held(a)
    assert not held(a) & ours or again.states()["s1", 1] == "MASTER"


@pytest.mark.each_path(reason="each path takes up peers")
def test_peers_that_a_reload_brings_are_sent_to(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    a, b = lab.hosts
    table = {"interface": "s1", "vhid": 1, "addresses": "10.1.1.1/32"}
    other = start(b, tmp_path, table, peers=[a.address(1)], advskew=100)
    first = start(a, tmp_path, table)
    first.wait_state("MASTER", STATE_S)
    write_configuration(tmp_path, "a", [table], defaults={**ALONE, "peers": [b.address(1)]})
    first.reload()
    first.wait_state("MASTER", STATE_S)
    other.wait_state("BACKUP", STATE_S)
    heard = other.counters("s1", 1)["advertisements_heard"]
    wait_for(lambda: other.counters("s1", 1)["advertisements_heard"] > heard, 10, "heard by b")
    assert first.counters("s1", 1)["send_errors"] == 0
    assert first.virtual_host("s1", 1)["destinations"] == [b.address(1)]


@pytest.mark.own_paths("hold", reason="a local route has no prefix length")
def test_a_prefix_length_that_a_reload_changes_costs_no_address(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1, ipv6=True).hosts
    first = {"interface": "s1", "vhid": 1, "addresses": ["10.1.1.1/32", "2001:db8:1::100/64"]}
    second = {"interface": "s1", "vhid": 2, "addresses": ["10.1.1.2/32", "2001:db8:1::200/64"]}
    daemon = start(a, tmp_path, first, second)
    daemon.wait_state("MASTER", STATE_S)
    # The kernel knows an IPv6 address once, whatever its prefix length: of the same virtual host,
    # and of one that comes before the one that gives it up.
    moved = [
        first | {"addresses": ["10.1.1.1/24", "2001:db8:1::100/128", "2001:db8:1::200/128"]},
        second | {"addresses": ["10.1.1.2/32"]},
    ]
    write_configuration(tmp_path, "a", moved, defaults=ALONE)
    daemon.reload()

    def held_without_problems() -> bool:
        host = daemon.virtual_host("s1", 1)
        return host["addresses_held"] == 3 and not host["address_problems"]

    wait_for(held_without_problems, 10, "three addresses held")
    shown = a.run(["ip", "-o", "addr", "show", "dev", "s1"]).stdout.split()
    assert {"10.1.1.1/24", "2001:db8:1::100/128", "2001:db8:1::200/128"} <= set(shown)
    assert not daemon.log_lines("2001:db8:1::100/128 is on the interface")
