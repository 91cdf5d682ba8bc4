"""Interfaces that lose their name, change places or leave the namespace under a running daemon.

What is looked at is the kernel's: which host holds the addresses, on whichever interface, and
which groups are joined. Every wait has a deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.lab.namespaces import ip_batch
from carp_fast.lab.observer import Observer
from tests.support.daemons import (
    RunningDaemon,
    reasons,
    start_daemon,
    start_preempting_pair,
    write_configuration,
)

pytestmark = pytest.mark.root

VHIDS = range(1, 21)
VIRTUAL = {f"10.1.1.{vhid}" for vhid in VHIDS}
STATE_S = 10.0
GROUP_MAC = "01:00:5e:00:00:12"
# Host b would wait this long for a master that is gone without a word.
MASTER_DOWN_S = 3 + 100 / 256


def virtual(host: Host, name: str | None = None) -> set[str]:
    """The virtual addresses that a host has, on whichever interface or on this one."""
    return {
        address
        for on, address in host.addresses()
        if name in (None, on) and address.startswith("10.1.1.")
    }


def rename(host: Host, name: str, to: str) -> None:
    host.run(["ip", "link", "set", name, "name", to])


def has_joined(host: Host, name: str) -> bool:
    return GROUP_MAC in host.run(["ip", "maddr", "show", "dev", name]).stdout


def has_link_local(host: Host, name: str) -> bool:
    return "fe80::77/64" in host.run(["ip", "-6", "addr", "show", "dev", name]).stdout


def await_adoption(a: RunningDaemon, b: RunningDaemon) -> None:
    """Host a has left its interface: its addresses are gone, and b was told so."""
    a.wait_state("INIT", STATE_S)
    assert reasons(a) == {("INIT", "interface_missing")}
    wait_for(lambda: not virtual(a.host), STATE_S, "no address on host a")
    # 100/256 s after the resignation; had it waited for silence, it would say master_down.
    b.wait_state("MASTER", STATE_S)
    assert reasons(b) == {("MASTER", "master_resigned")}


def await_return(a: RunningDaemon, b: RunningDaemon) -> None:
    a.wait_state("MASTER", MASTER_DOWN_S + STATE_S)
    assert reasons(a) == {("MASTER", "preempted")}, "host b was not heard"
    wait_for(lambda: virtual(a.host, "s1") == VIRTUAL, STATE_S, "all addresses on host a")
    b.wait_state("BACKUP", STATE_S)
    wait_for(lambda: not virtual(b.host), STATE_S, "no address on host b")


@pytest.mark.parametrize("medium", ["bridge", "macvlan"])
def test_renamed_while_master_and_back(
    lab_factory: Callable[..., Lab], tmp_path: Path, medium: str
) -> None:
    lab = lab_factory(segments=1, medium=medium)
    a, b = start_preempting_pair(lab, tmp_path, len(VHIDS))
    rename(lab["a"], "s1", "x1")
    await_adoption(a, b)
    assert a.log_lines("s1: interface was renamed to x1, waiting for it")
    rename(lab["a"], "x1", "s1")
    await_return(a, b)
    assert not a.log_lines("address_foreign")
    assert not a.log_lines("was removed by another program")
    assert a.stop() == 0
    assert virtual(lab["a"]) == set()
    assert b.stop() == 0


def test_set_down_renamed_and_set_up_under_the_other_name(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1, medium="bridge")
    a, b = start_preempting_pair(lab, tmp_path, len(VHIDS))
    for command in ("set s1 down", "set s1 name x1", "set x1 up"):
        lab["a"].run(["ip", "link", *command.split()])
    a.wait_state("INIT", STATE_S)
    wait_for(lambda: not virtual(lab["a"]), STATE_S, "no address on host a")
    b.wait_state("MASTER", MASTER_DOWN_S + STATE_S)
    for command in ("set x1 down", "set x1 name s1", "set s1 up"):
        lab["a"].run(["ip", "link", *command.split()])
    await_return(a, b)


@pytest.mark.each_path(reason="each path follows its interface")
def test_renamed_many_times_in_quick_succession(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    a, b = start_preempting_pair(lab, tmp_path, len(VHIDS))
    rename(lab["a"], "s1", "x0")
    for number in range(30):
        rename(lab["a"], f"x{number}", "s1")
        rename(lab["a"], "s1", f"x{number + 1}")
    a.wait_state("INIT", STATE_S)
    wait_for(lambda: not virtual(lab["a"]), STATE_S, "no address on host a")
    b.wait_state("MASTER", MASTER_DOWN_S + STATE_S)
    rename(lab["a"], "x30", "s1")
    await_return(a, b)
    assert has_joined(lab["a"], "s1")
    assert not a.log_lines("address_foreign")


def pair_of_names(
    host: Host, directory: Path, names: tuple[str, str]
) -> tuple[RunningDaemon, list[dict[str, Any]]]:
    """A daemon of its own with 10.1.1.1 on the first name and 10.1.1.2 on the second."""
    tables: list[dict[str, Any]] = [
        {"interface": name, "vhid": number, "addresses": [f"10.1.1.{number}/32"]}
        for number, name in enumerate(names, 1)
    ]
    path = write_configuration(directory, "pair", tables, defaults={"dead_ratio": 1})
    return start_daemon(host, path), tables


@pytest.mark.parametrize("names", [("s1", "t1"), ("t1", "s1")])
@pytest.mark.each_path(reason="each path follows its interface")
def test_renamed_to_another_configured_name(
    lab_factory: Callable[..., Lab], tmp_path: Path, names: tuple[str, str]
) -> None:
    """In whichever order the two are configured, and so told."""
    lab = lab_factory(segments=1)
    host = lab["a"]
    daemon, _ = pair_of_names(host, tmp_path, names)
    old, new = (f"10.1.1.{names.index(name) + 1}" for name in ("s1", "t1"))
    daemon.wait_state("MASTER", 10, [("s1", names.index("s1") + 1)])
    wait_for(lambda: virtual(host) == {old}, STATE_S, "the address of s1")
    rename(host, "s1", "t1")
    daemon.wait_state("MASTER", 10, [("t1", names.index("t1") + 1)])
    daemon.wait_state("INIT", 10, [("s1", names.index("s1") + 1)])
    wait_for(lambda: virtual(host) == {new}, STATE_S, "the address of t1 alone")
    assert has_joined(host, "t1")
    assert daemon.stop() == 0
    assert virtual(host) == set()


def test_two_interfaces_swap_their_names(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(segments=2)
    host = lab["a"]
    daemon, _ = pair_of_names(host, tmp_path, ("s1", "s2"))
    daemon.wait_state("MASTER", 15)
    wait_for(
        lambda: {("s1", "10.1.1.1"), ("s2", "10.1.1.2")} <= host.addresses(), STATE_S, "addresses"
    )
    indexes = [daemon.interface(name)["ifindex"] for name in ("s1", "s2")]
    with Observer(lab["b"]) as observer:
        swap = ["link set s1 name x", "link set s2 name s1", "link set x name s2"]
        ip_batch(swap, host.namespace)
        wait_for(
            lambda: [daemon.interface(name)["ifindex"] for name in ("s1", "s2")] == indexes[::-1],
            STATE_S,
            "the other interface under each name",
        )
        daemon.wait_state("MASTER", 15)
        wait_for(
            lambda: (
                {each for each in host.addresses() if each[1].startswith("10.1.1.")}
                == {("s1", "10.1.1.1"), ("s2", "10.1.1.2")}
            ),
            STATE_S,
            "each address under its name, and nowhere else",
        )
        observer.wait_until(lambda: len(observer.announced()) >= 2, STATE_S, "announcements")
    assert has_joined(host, "s1")
    assert has_joined(host, "s2")
    assert daemon.stop() == 0
    assert virtual(host) == set()


def test_moved_to_another_namespace_and_back(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1, medium="bridge")
    a, b = start_preempting_pair(lab, tmp_path, len(VHIDS))
    lab["a"].run(["ip", "link", "set", "s1", "netns", lab["b"].namespace, "name", "guest"])
    a.wait_state("INIT", STATE_S)
    b.wait_state("MASTER", MASTER_DOWN_S + STATE_S)
    lab["b"].run(["ip", "link", "set", "guest", "netns", lab["a"].namespace, "name", "s1"])
    lab["a"].run(["ip", "link", "set", "s1", "up"])
    lab["a"].run(["ip", "addr", "add", f"{lab['a'].address(1)}/16", "dev", "s1"])
    await_return(a, b)
    assert has_joined(lab["a"], "s1")


@pytest.mark.own_paths("send", "receive", reason="what was held is removed")
def test_after_a_crash_and_a_renaming_the_next_start_removes_what_was_left(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    host = lab["a"]
    a, b = start_preempting_pair(lab, tmp_path, len(VHIDS))
    b.stop()
    a.kill()
    assert virtual(host) == VIRTUAL
    rename(host, "s1", "x1")
    again = start_daemon(host, a.configuration)
    assert virtual(host) == set()
    assert again.log_lines(f"removed {len(VHIDS)} addresses left by the last run")
    assert again.stop() == 0


@pytest.mark.own_paths("send", "receive", reason="what was held is removed")
def test_what_has_our_mark_is_ours_when_its_interface_appears(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    """A link-local address is not looked for under another name: it waits for its own."""
    lab = lab_factory(segments=1, ipv6=True)
    host = lab["a"]
    table = {
        "interface": "s1",
        "vhid": 1,
        "addresses": ["10.1.1.1/32"],
        "unsigned_addresses": ["fe80::77/64"],
    }
    defaults = {"dead_ratio": 1}
    path = write_configuration(tmp_path, "a", [table], defaults=defaults)
    daemon = start_daemon(host, path)
    daemon.wait_state("MASTER", 15)
    wait_for(lambda: has_link_local(host, "s1"), STATE_S, "the address")
    daemon.kill()
    rename(host, "s1", "x1")
    again = start_daemon(host, path)
    assert has_link_local(host, "x1")
    rename(host, "x1", "s1")
    again.wait_log("s1: 1 addresses there have our mark and are ours", STATE_S)
    wait_for(lambda: not has_link_local(host, "s1"), 10, "removed while BACKUP")
    again.wait_state("MASTER", 15)
    wait_for(lambda: has_link_local(host, "s1"), STATE_S, "there as MASTER")
    assert not again.log_lines("address_foreign")
    assert again.stop() == 0
    assert not has_link_local(host, "s1")
