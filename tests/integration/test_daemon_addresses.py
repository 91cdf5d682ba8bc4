"""Addresses that the daemon holds: none left behind, none taken that is not its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, virtual_address, wait_for
from carp_fast.lab.observer import Key, Observer
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths("send", "receive", "hold", reason="addresses are removed, and compared"),
]

SEGMENTS, VHIDS = 4, 255
# Where nobody else advertises: MASTER after 1 s.
ALONE = {"dead_ratio": 1}


def table(segment: int, vhids: str, **keys: Any) -> dict[str, Any]:
    address = virtual_address(segment, 0).removesuffix(".0")
    return {
        "interface": f"s{segment}",
        "vhid": vhids,
        "addresses": [f"{address}.{{vhid}}/32"],
        **keys,
    }


def ip(host: Host, words: str) -> None:
    host.run(["ip", *words.split()])


def entries(host: Host, interface: str) -> list[dict[str, Any]]:
    """The IPv4 addresses of an interface as `ip -j` tells them."""
    links = json.loads(host.run(["ip", "-j", "-4", "addr", "show", "dev", interface]).stdout)
    return [entry for link in links for entry in link["addr_info"]]


def held(host: Host, interface: str) -> list[str]:
    return [f"{entry['local']}/{entry['prefixlen']}" for entry in entries(host, interface)]


def start_alone(
    host: Host, directory: Path, tables: Sequence[dict[str, Any]], **defaults: Any
) -> RunningDaemon:
    """A daemon that nobody answers, when it is MASTER of all."""
    path = write_configuration(directory, host.name, tables, defaults={**ALONE, **defaults})
    daemon = start_daemon(host, path)
    daemon.wait_state("MASTER", 10)
    return daemon


def test_after_a_kill_none_of_1020_addresses_remains_when_it_runs_again(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=SEGMENTS)
    a, b = lab.hosts
    segments = range(1, SEGMENTS + 1)
    tables = [table(segment, f"1-{VHIDS}") for segment in segments]
    ours = {
        (f"s{segment}", virtual_address(segment, vhid))
        for segment in segments
        for vhid in range(1, VHIDS + 1)
    }
    own = a.addresses()
    # One of the addresses is there before us, and two more are nobody's of ours.
    foreign = ("s1", virtual_address(1, 7))
    others = {foreign, ("s2", "10.2.1.254"), ("s3", "172.16.0.1")} - ours | {foreign}
    for interface, address in others:
        ip(a, f"addr add {address}/32 dev {interface}")
    paths = [
        write_configuration(
            tmp_path, host.name, tables, defaults={"advskew": advskew, "dead_ratio": 2}
        )
        for host, advskew in ((a, 0), (b, 100))
    ]
    dying = start_daemon(a, paths[0])
    dying.wait_state("MASTER", 10)
    wait_for(lambda: a.addresses() >= ours, 10, "1,020 addresses on host a")
    survivor = start_daemon(b, paths[1])
    survivor.wait_state("BACKUP", 15)
    dying.kill()
    survivor.wait_state("MASTER", 10)
    assert a.addresses() == own | others | ours, "a crash leaves everything"
    wait_for(lambda: b.addresses() >= ours, 10, "1,020 addresses on host b")
    started_at = time.monotonic()
    again = start_daemon(a, paths[0], ready=False)
    wait_for(lambda: not a.addresses() & (ours - {foreign}), 10, "no address of ours on host a")
    gone_s = time.monotonic() - started_at
    again.wait_ready()
    assert a.addresses() == own | others
    assert set(again.states().values()) == {"BACKUP"}
    assert set(survivor.states().values()) == {"MASTER"}
    assert again.log_lines("removed 1019 addresses left by the last run")
    print(
        f"1,019 addresses left by SIGKILL gone {gone_s:.2f} s after the start; 3 foreign ones stay"
    )


def test_what_a_crash_left_of_a_former_configuration_goes_too(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    dying = start_alone(a, tmp_path, [table(1, "1-2")])
    wait_for(lambda: "10.1.1.2/32" in held(a, "s1"), 10, "the address")
    dying.kill()
    path = write_configuration(tmp_path, "a", [table(1, "1")], defaults=ALONE)
    again = start_daemon(a, path)
    assert held(a, "s1") == ["10.1.0.1/16"]
    again.wait_state("MASTER", 10)
    wait_for(lambda: held(a, "s1") == ["10.1.0.1/16", "10.1.1.1/32"], 10, "one address")
    assert again.stop() == 0
    assert held(a, "s1") == ["10.1.0.1/16"]


def test_another_daemon_on_the_same_host_keeps_its_addresses(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    first = start_alone(a, tmp_path, [table(1, "1")])
    state = str(tmp_path / "a-state")  # even with one state directory for both
    path = write_configuration(
        tmp_path, "other", [table(1, "2")], defaults=ALONE, daemon={"state_directory": state}
    )
    other = start_daemon(a, path)
    other.wait_state("MASTER", 10)
    both = ["10.1.0.1/16", "10.1.1.1/32", "10.1.1.2/32"]
    wait_for(lambda: held(a, "s1") == both, 10, "both addresses")
    other.kill()
    again = start_daemon(a, path)
    assert held(a, "s1") == both[:2]
    assert not again.log_lines("removed 2 addresses")
    assert set(first.states().values()) == {"MASTER"}


def test_when_one_of_two_in_a_subnet_steps_down_the_other_keeps_its_address(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    own = "10.1.0.1/16"  # no primary of a /24
    assert held(a, "s1") == [own]
    tables = [
        {"interface": "s1", "vhid": vhid, "addresses": [f"10.1.1.{vhid}/24"], "source": "10.1.0.1"}
        for vhid in (1, 2)
    ]
    staying = start_alone(a, tmp_path, tables, advskew=100)
    wait_for(lambda: len(held(a, "s1")) == 3, 10, "both addresses")
    virtual = [entry for entry in entries(a, "s1") if entry["prefixlen"] == 24]
    primary = next(entry for entry in virtual if not entry.get("secondary"))
    assert any(entry.get("secondary") for entry in virtual), "else nothing is shown"
    vhid = int(primary["local"].rpartition(".")[2])
    kept = next(vhid for vhid in (1, 2) if f".{vhid}" != primary["local"][-2:])
    # Host b takes over the virtual host whose address is the primary of the subnet.
    path = write_configuration(
        tmp_path, "b", [tables[vhid - 1] | {"source": "10.1.0.2"}], defaults={"preempt": True}
    )
    start_daemon(b, path).wait_state("MASTER", 10)
    staying.wait_state("BACKUP", 10, [("s1", vhid)])
    wait_for(lambda: held(a, "s1") == [own, f"10.1.1.{kept}/24"], 10, "the other address")
    assert staying.virtual_host("s1", kept)["state"] == "MASTER"
    assert staying.log_lines("s1: promote_secondaries set to 1")
    print(f"vhid {vhid} (primary of the /24) stepped down; vhid {kept} keeps 10.1.1.{kept}/24")


def test_the_hosts_own_address_that_came_after_a_virtual_one_stays(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    source = "10.1.0.1/16"  # no primary of a /24
    assert held(a, "s1") == [source]
    keys = {"addresses": ["10.1.1.1/24"], "source": "10.1.0.1"}
    daemon = start_alone(a, tmp_path, [{"interface": "s1", "vhid": 1, **keys}])
    wait_for(lambda: held(a, "s1") == [source, "10.1.1.1/24"], 10, "the virtual address")
    ip(a, "addr add 10.1.1.200/24 dev s1")
    own = next(entry for entry in entries(a, "s1") if entry["local"] == "10.1.1.200")
    assert own.get("secondary"), "the virtual address is the primary"
    assert daemon.stop() == 0
    assert held(a, "s1") == [source, "10.1.1.200/24"]
    print("virtual address first, own address second, virtual one removed: own address stays")


def test_an_address_of_a_master_that_somebody_removes_is_back_within_1_s(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    daemon = start_alone(a, tmp_path, [table(1, "1-3", unsigned_addresses=["10.1.2.{vhid}/32"])])
    wait_for(lambda: len(held(a, "s1")) == 7, 10, "six virtual addresses")
    assert daemon.counters("s1", 2)["addresses_restored"] == 0
    times_s = []
    with Observer(b) as observer, daemon.events() as events:
        for count in range(1, 5):
            observer.mark()
            ip(a, "addr del 10.1.1.2/32 dev s1")
            began_at = time.monotonic()
            wait_for(lambda: "10.1.1.2/32" in held(a, "s1"), 10, "the address again")
            times_s.append(time.monotonic() - began_at)
            observer.wait_until(
                lambda: (1, "10.1.1.2") in observer.announced(), 10, "a gratuitous ARP for it"
            )
            assert daemon.counters("s1", 2)["addresses_restored"] == count
        ip(a, "addr del 10.1.2.2/32 dev s1")  # another one: counted on its own
        wait_for(lambda: "10.1.2.2/32" in held(a, "s1"), 10, "the unsigned address again")
        assert daemon.counters("s1", 2)["addresses_restored"] == 5
        assert set(daemon.states().values()) == {"MASTER"}
        observer.mark()
        ip(a, "addr del 10.1.1.2/32 dev s1")
        event = events.next_event(10)
        assert (event["vhid"], event["state"], event["reason"]) == (2, "BACKUP", "address_lost")
        observer.wait_until(lambda: observer.resigned(a, Key(1, 2)), 10, "its resignation")
        gone = {"10.1.1.2/32", "10.1.2.2/32"}
        wait_for(lambda: not gone & set(held(a, "s1")), 10, "its addresses gone")
        host = daemon.virtual_host("s1", 2)
        assert host["demotion"] == {"total": 240, "reasons": {"address_lost": 240}}
        assert host["effective_advskew"] == 240
        assert {key for key, state in daemon.states().items() if state != "MASTER"} == {("s1", 2)}
        # Demotion never stops a host that hears nobody.
        daemon.wait_state("MASTER", 15)
    assert daemon.log_lines("WARNING s1/2: address 10.1.1.2/32 was removed by another program")
    assert daemon.log_lines("ERROR s1/2: address_lost: 10.1.1.2/32 was removed 5 times within 60 s")
    print(
        f"removed by hand, back after {max(times_s) * 1e3:.0f} ms at most; the fifth time resigned"
    )


def test_a_foreign_address_is_left_alone_and_taken_when_it_is_free(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    ip(a, "addr add 10.1.1.1/32 dev s1 label s1:theirs")
    daemon = start_alone(a, tmp_path, [table(1, "1-2")])
    daemon.wait_log("WARNING s1/1: address_foreign: 10.1.1.1/32", 10)
    assert daemon.virtual_host("s1", 1)["address_problems"] == {"10.1.1.1/32": "address_foreign"}
    assert daemon.virtual_host("s1", 2)["address_problems"] == {}
    assert daemon.stop() == 0
    assert held(a, "s1") == ["10.1.0.1/16", "10.1.1.1/32"]
    daemon = start_alone(a, tmp_path, [table(1, "1-2")])
    with Observer(b) as observer:
        ip(a, "addr del 10.1.1.1/32 dev s1")
        wait_for(lambda: "10.1.1.1/32" in held(a, "s1"), 10, "the address, now ours")
        observer.wait_until(
            lambda: (1, "10.1.1.1") in observer.announced(), 10, "a gratuitous ARP for it"
        )
    wait_for(lambda: not daemon.virtual_host("s1", 1)["address_problems"], 10, "no problem left")
    assert daemon.stop() == 0
    assert held(a, "s1") == ["10.1.0.1/16"]
