"""Interfaces that go away and come back under a running daemon, on media that filter and switch.

Every wait has the deadline that the daemon has to keep: 2 s for the right state, and master-down
and a second more where the other host has to adopt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.lab.observer import Observer
from tests.support.daemons import (
    RunningDaemon,
    reasons,
    start_daemon,
    start_preempting_pair,
    write_configuration,
)

pytestmark = pytest.mark.root

VHIDS = range(1, 51)
EVERY = [("s1", vhid) for vhid in VHIDS]
ADVSKEW = {"a": 0, "b": 100}
STATE_S = 10.0
ADOPTED_S = 15.0  # a master-down time, on a busy machine
VIRTUAL = {("s1", f"10.1.1.{vhid}") for vhid in VHIDS}


def virtual(host: Host) -> set[tuple[str, str]]:
    return {(name, address) for name, address in host.addresses() if address.startswith("10.1.1.")}


@contextmanager
def timed(what: str) -> Iterator[None]:
    began_at = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began_at:.3f} s")


def await_adoption(a: RunningDaemon, b: RunningDaemon, what: str, reason: str) -> None:
    """Host a has lost its interface: INIT there, MASTER on host b."""
    with timed(f"{what}: host a INIT ({reason})"):
        a.wait_state("INIT", STATE_S)
    assert reasons(a) == {("INIT", reason)}
    wait_for(lambda: not virtual(a.host), STATE_S, "no address on host a")
    with timed(f"{what}: host b MASTER"):
        b.wait_state("MASTER", ADOPTED_S)
    wait_for(lambda: virtual(b.host) == VIRTUAL, STATE_S, "all addresses on host b")


def await_return(a: RunningDaemon, b: RunningDaemon, what: str) -> None:
    """Host a has its interface again: BACKUP at once, and MASTER when it has heard host b."""
    with timed(f"{what}: host a takes part"):
        wait_for(
            lambda: "INIT" not in {state for state, _ in reasons(a)}, STATE_S, "no INIT on host a"
        )
    # With the group not joined again nothing would be heard, and the reason be master_down.
    with timed(f"{what}: host a MASTER"):
        a.wait_state("MASTER", STATE_S)
    assert reasons(a) == {("MASTER", "preempted")}
    b.wait_state("BACKUP", STATE_S)
    wait_for(lambda: virtual(a.host) == VIRTUAL, STATE_S, "all addresses on host a")
    wait_for(lambda: not virtual(b.host), STATE_S, "no address on host b")


def test_an_interface_deleted_and_created_again_on_a_medium_that_filters(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1, medium="macvlan")
    a, b = start_preempting_pair(lab, tmp_path, len(VHIDS))
    ifindex = a.interface("s1")["ifindex"]
    lab.delete_interface("a", 1)
    await_adoption(a, b, "interface deleted", "interface_missing")
    assert a.interface("s1")["link"] == "missing"
    with Observer(lab["b"]) as observer:
        lab.recreate_interface(1)
        await_return(a, b, "interface created again")
        observer.wait_until(
            lambda: len(observer.announced()) == len(VHIDS), 10, "an announcement of each address"
        )
    assert a.interface("s1")["ifindex"] not in (0, ifindex)
    assert len(a.log_lines("s1: interface disappeared")) == 1
    assert len(a.log_lines("s1: interface appeared")) == 1
    # As a backup it must hear its master through the filter, too: the other way round.
    lab.delete_interface("b", 1)
    b.wait_state("INIT", STATE_S)
    lab.recreate_interface(1)
    b.wait_state("BACKUP", STATE_S)
    heard = b.counters("s1", 50)["advertisements_heard"]
    wait_for(
        lambda: b.counters("s1", 50)["advertisements_heard"] >= heard + 4, ADOPTED_S + 1, "a master"
    )
    assert reasons(b) == {("BACKUP", "interface_found")}
    assert a.stop() == 0
    assert b.stop() == 0


def test_link_down_and_up(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(segments=1, medium="macvlan")
    a, b = start_preempting_pair(lab, tmp_path, len(VHIDS))
    lab.set_link("a", 1, up=False)
    await_adoption(a, b, "link down", "link_down")
    assert a.interface("s1")["link"] == "down"
    lab.set_link("a", 1, up=True)
    await_return(a, b, "link up")


def test_carrier_lost_and_found(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(segments=1, medium="bridge")
    a, b = start_preempting_pair(lab, tmp_path, len(VHIDS))
    lab.set_carrier("a", 1, up=False)
    await_adoption(a, b, "carrier lost", "link_down")
    lab.set_carrier("a", 1, up=True)
    await_return(a, b, "carrier found")


@pytest.mark.each_path(reason="each path waits for its interface")
def test_an_interface_that_does_not_exist_yet_is_waited_for_and_said_once(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    tables: list[dict[str, Any]] = [
        {"interface": "s1", "vhid": 1, "addresses": ["10.1.1.1/32"]},
        {"interface": "late0", "vhid": "1-3", "addresses": ["10.9.1.{vhid}/32"]},
    ]
    path = write_configuration(tmp_path, "a", tables, defaults={"dead_ratio": 2})
    daemon = start_daemon(a, path)
    late = [("late0", vhid) for vhid in (1, 2, 3)]
    daemon.wait_state("MASTER", 10, [("s1", 1)])
    hosts = daemon.status(interface="late0")["virtual_hosts"]
    assert [(each["state"], each["reason"]) for each in hosts] == [
        ("INIT", "interface_missing")
    ] * 3
    a.run(["ip", "link", "add", "late0", "type", "veth", "peer", "late1", "netns", b.namespace])
    b.run(["ip", "link", "set", "late1", "up"])
    with timed("interface that came late: BACKUP after it was set up"):
        a.run(["ip", "addr", "add", "10.9.0.1/16", "dev", "late0"])
        a.run(["ip", "link", "set", "late0", "up"])
        daemon.wait_state("BACKUP", STATE_S, late)
    daemon.wait_state("MASTER", 10, late)
    wait_for(
        lambda: {("late0", f"10.9.1.{vhid}") for vhid in (1, 2, 3)} <= a.addresses(),
        STATE_S,
        "its addresses",
    )
    assert len(daemon.log_lines("late0: no such interface yet, waiting for it")) == 1
    assert len(daemon.log_lines("late0: interface appeared")) == 1


@pytest.mark.each_path(reason="each path follows the source")
def test_the_source_follows_the_interface(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    a, b = lab_factory(segments=1).hosts
    a.run(["ip", "addr", "flush", "dev", "s1"])
    table = {"interface": "s1", "vhid": 1, "addresses": ["10.1.1.1/16"]}
    path = write_configuration(tmp_path, "a", [table], defaults={"dead_ratio": 2})
    daemon = start_daemon(a, path)
    assert reasons(daemon) == {("INIT", "no_source")}
    assert daemon.interface("s1")["source"] is None
    assert daemon.log_lines("s1: no IPv4 address to advertise from")
    with Observer(b) as observer:
        a.run(["ip", "addr", "add", "10.1.0.1/16", "dev", "s1"])
        daemon.wait_state("BACKUP", STATE_S)
        assert reasons(daemon) == {("BACKUP", "source_found")}
        daemon.wait_state("MASTER", 10)
        observer.wait_until(lambda: observer.advertisements("10.1.0.1"), 10, "the first source")
        # The virtual address never becomes the source, though it is the primary one then.
        wait_for(lambda: ("s1", "10.1.1.1") in a.addresses(), STATE_S, "the virtual address")
        a.run(["ip", "addr", "add", "10.1.0.9/16", "dev", "s1"])
        a.run(["ip", "addr", "del", "10.1.0.1/16", "dev", "s1"])
        observer.wait_until(lambda: observer.advertisements("10.1.0.9"), 10, "the second source")
        assert daemon.interface("s1")["source"] == "10.1.0.9"
        a.run(["ip", "addr", "del", "10.1.0.9/16", "dev", "s1"])
        daemon.wait_state("INIT", STATE_S)
    assert reasons(daemon) == {("INIT", "no_source")}
    wait_for(lambda: a.addresses() == set(), STATE_S, "no address left")
