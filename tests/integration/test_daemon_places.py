"""An interface whose MAC, bridge or carrier changes under a MASTER: neighbours learn it anew.

What is looked at is the wire, and what a neighbour's kernel has in its table. Every wait has a
deadline.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.lab.namespaces import ip_batch
from carp_fast.lab.observer import Observer
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = pytest.mark.root

VHIDS = range(1, 21)
NEW_MAC = "02:00:00:00:00:77"
SOON_S = 10.0


def start_master(lab: Lab, directory: Path, **defaults: object) -> RunningDaemon:
    table = {"interface": "s1", "vhid": "1-20", "addresses": ["10.1.1.{vhid}/16"]}
    path = write_configuration(directory, "a", [table], defaults={"dead_ratio": 1, **defaults})
    daemon = start_daemon(lab["a"], path)
    daemon.wait_state("MASTER", 15)
    # With the repeats that follow every take-over behind us, what is announced is news.
    wait_for(
        lambda: all(
            each["counters"]["announcements_sent"] == 2 for each in daemon.status()["virtual_hosts"]
        ),
        10,
        "both announcements of the take-over",
    )
    return daemon


def mac_known(host: Host, address: str) -> str:
    """What a host's table of neighbours says of an address, once it has asked for it."""
    with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(b"", (address, 9))

    def entry() -> str:
        return host.run(["ip", "neigh", "show", address]).stdout

    wait_for(lambda: "lladdr" in entry(), SOON_S, f"a neighbour for {address}")
    return entry()


@pytest.mark.parametrize("medium", ["bridge", "macvlan"])
def test_a_new_mac_is_announced_at_once_and_the_group_is_heard_still(
    lab_factory: Callable[..., Lab], tmp_path: Path, medium: str
) -> None:
    lab = lab_factory(segments=1, medium=medium)
    daemon = start_master(lab, tmp_path)
    assert NEW_MAC not in mac_known(lab["b"], "10.1.1.1")
    with Observer(lab["b"]) as observer:
        ip_batch([f"link set s1 address {NEW_MAC}"], lab["a"].namespace)
        observer.wait_until(
            lambda: len(observer.announced()) == len(VHIDS), SOON_S, "announcements"
        )
    neighbour = lab["b"].run(["ip", "neigh", "show", "10.1.1.1"]).stdout
    assert NEW_MAC in neighbour, "the neighbour's kernel has learned it"
    assert daemon.log_lines(f"s1: MAC {NEW_MAC} instead of")
    assert {each["state"] for each in daemon.status()["virtual_hosts"]} == {"MASTER"}
    # A faster host is heard through the filter of the new MAC, too.
    table = {"interface": "s1", "vhid": "1-20", "addresses": ["10.1.1.{vhid}/16"]}
    path = write_configuration(tmp_path, "b", [table], defaults={"preempt": True})
    daemon.stop()
    path_a = write_configuration(tmp_path, "a", [table], defaults={"advskew": 100})
    slower = start_daemon(lab["a"], path_a)
    slower.wait_state("MASTER", 10)
    ip_batch(["link set s1 address 02:00:00:00:00:78"], lab["a"].namespace)
    slower.wait_log("s1: MAC 02:00:00:00:00:78 instead of", SOON_S)
    faster = start_daemon(lab["b"], path)
    faster.wait_state("MASTER", 10)
    slower.wait_state("BACKUP", SOON_S)


def test_a_port_of_a_bridge_and_back(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(segments=1, medium="bridge")
    daemon = start_master(lab, tmp_path)
    ip_batch(["link add br9 type bridge", "link set br9 up"], lab["a"].namespace)
    for command in ("link set s1 master br9", "link set s1 nomaster"):
        with Observer(lab["b"]) as observer:
            ip_batch([command], lab["a"].namespace)
            observer.wait_until(
                lambda observer=observer: len(observer.announced()) == len(VHIDS),  # type: ignore[misc]
                SOON_S,
                f"announcements after {command}",
            )
    assert daemon.log_lines("s1: is now a port of br9")
    assert {each["state"] for each in daemon.status()["virtual_hosts"]} == {"MASTER"}


def test_carrier_that_flaps_is_announced_once_a_second_and_promiscuity_never(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1, medium="bridge")
    daemon = start_master(lab, tmp_path, ignore_link_state=True)
    before = daemon.counters("s1", 1)["announcements_sent"]
    ip_batch(["link set s1 promisc on", "link set s1 promisc off"], lab["a"].namespace)
    with Observer(lab["b"]) as observer:
        for _ in range(20):
            lab.set_carrier("a", 1, up=False)
            lab.set_carrier("a", 1, up=True)
        # The last one is seen: of those that follow each other at once the monitor may see none.
        lab.set_carrier("a", 1, up=False)
        wait_for(lambda: daemon.status()["interfaces"][0]["link"] == "down", 10, "no carrier")
        lab.set_carrier("a", 1, up=True)
        observer.wait_until(
            lambda: len(observer.announced()) == len(VHIDS), SOON_S, "announcements"
        )
    assert len(daemon.log_lines("s1: link up")) >= 1
    # At the first change, a second later at most, and the repeat of the last.
    wait_for(lambda: daemon.counters("s1", 1)["announcements_sent"] >= before + 2, 10, "the repeat")
    assert daemon.counters("s1", 1)["announcements_sent"] <= before + 2 * 5
    assert {each["state"] for each in daemon.status()["virtual_hosts"]} == {"MASTER"}
