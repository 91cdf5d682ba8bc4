"""Configured sources on real hosts: waited for, lost while MASTER, on another interface, checked.

Every wait has a deadline.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.lab.namespaces import ip_batch
from carp_fast.lab.observer import Observer
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="each path follows the sources")]

SOON_S = 10.0
SOURCE, VIRTUAL = "10.1.0.99", "10.1.1.1"


def configuration(directory: Path, **defaults: Any) -> Path:
    table = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/16"]}
    return write_configuration(
        directory, "a", [table], defaults={"dead_ratio": 1, "source": SOURCE, **defaults}
    )


def await_reason(daemon: RunningDaemon, state: str, reason: str) -> None:
    wait_for(
        lambda: (
            {(each["state"], each["reason"]) for each in daemon.status()["virtual_hosts"]}
            == {(state, reason)}
        ),
        SOON_S,
        f"{state} {reason}",
    )


def add(host: Host, *lines: str) -> None:
    ip_batch(lines, host.namespace)


def test_a_source_that_is_not_there_is_waited_for_and_missed(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    host = lab["a"]
    daemon = start_daemon(host, configuration(tmp_path))
    await_reason(daemon, "INIT", "no_source")
    assert daemon.log_lines(f"s1: source {SOURCE} is not an address of this host")
    with Observer(lab["b"]) as observer:
        add(host, f"addr add {SOURCE}/16 dev s1")
        await_reason(daemon, "BACKUP", "source_found")
        daemon.wait_state("MASTER", 15)
        observer.wait_until(lambda: observer.advertisements(SOURCE), SOON_S, "that source")
        # A secondary that is not in use is no matter; the source itself is.
        add(host, "addr add 10.1.0.98/16 dev s1", "addr del 10.1.0.98/16 dev s1")
        add(host, f"addr del {SOURCE}/16 dev s1")
        await_reason(daemon, "INIT", "no_source")
        wait_for(lambda: ("s1", VIRTUAL) not in host.addresses(), SOON_S, "no address left")
    add(host, f"addr add {SOURCE}/16 dev s1")
    daemon.wait_state("MASTER", 15)
    assert daemon.stop() == 0


def test_a_source_of_another_interface_is_used_and_followed(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    """As on an unnumbered link: the interface that advertises has another address, or none."""
    lab = lab_factory(segments=1)
    host = lab["a"]
    add(host, f"addr add {SOURCE}/32 dev lo")
    daemon = start_daemon(host, configuration(tmp_path))
    assert daemon.log_lines(f"s1: source {SOURCE} is an address of another interface")
    with Observer(lab["b"]) as observer:
        daemon.wait_state("MASTER", 15)
        observer.wait_until(lambda: observer.advertisements(SOURCE), SOON_S, "that source")
    # The daemon has no virtual host on lo, and hears of it all the same.
    add(host, f"addr del {SOURCE}/32 dev lo")
    await_reason(daemon, "INIT", "no_source")
    add(host, f"addr add {SOURCE}/32 dev lo")
    daemon.wait_state("MASTER", 15)
    assert daemon.stop() == 0


def test_an_ipv6_source_counts_once_it_is_no_longer_tentative(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1, ipv6=True)
    host = lab["a"]
    table = {"interface": "s1", "vhid": 1, "addresses": ["fd00::1/64"]}
    defaults = {"dead_ratio": 1, "source": "fd00::99"}
    daemon = start_daemon(host, write_configuration(tmp_path, "a", [table], defaults=defaults))
    await_reason(daemon, "INIT", "no_source")
    add(host, "addr add fd00::99/64 dev s1")  # without nodad: some 2 s of finding out
    daemon.wait_log("s1: source fd00::99 is tentative", SOON_S)
    await_reason(daemon, "INIT", "no_source")
    daemon.wait_log("s1: source fd00::99 is present", 10)
    daemon.wait_state("MASTER", 15)
    # The same address on the other host first: duplicate address detection fails.
    add(host, "addr del fd00::99/64 dev s1")
    await_reason(daemon, "INIT", "no_source")
    add(lab["b"], "addr add fd00::99/64 dev s1 nodad")
    add(host, "addr add fd00::99/64 dev s1")
    daemon.wait_log("s1: source fd00::99 is not used by the kernel", 10)
    await_reason(daemon, "INIT", "no_source")
    assert daemon.stop() == 0


def test_a_reload_brings_and_takes_away_sources(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    host = lab["a"]
    daemon = start_daemon(host, configuration(tmp_path, source=host.address(1)))
    daemon.wait_state("MASTER", 15)
    configuration(tmp_path)
    daemon.reload()
    await_reason(daemon, "INIT", "no_source")
    # It is followed from the reload on, on whichever interface.
    add(host, f"addr add {SOURCE}/32 dev lo")
    daemon.wait_state("MASTER", 15)
    configuration(tmp_path, source=host.address(1))
    daemon.reload()
    add(host, f"addr del {SOURCE}/32 dev lo")
    daemon.wait_state("MASTER", SOON_S)
    assert daemon.stop() == 0


def test_check_compares_sources_peers_and_names_with_the_host(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    host = lab["a"]
    add(host, "link property add dev s1 altname other0")
    tables: list[dict[str, Any]] = [
        {"interface": "s1", "vhid": 1, "addresses": ["10.1.1.1/16"], "source": SOURCE},
        {
            "interface": "s1",
            "vhid": 2,
            "addresses": ["10.1.1.2/16"],
            "peers": [host.address(1), lab["b"].address(1)],
        },
        {"interface": "other0", "vhid": 3, "addresses": ["10.1.1.3/16"]},
    ]
    path = write_configuration(tmp_path, "a", tables)
    checked = host.run([sys.executable, "-m", "carp_fast", "check", "-c", path])
    told = [line.partition("]: ")[2] for line in checked.stderr.splitlines()]
    peer = f'peers = "{host.address(1)}": is an address of this host, which does not hear itself'
    assert told == [
        f"{peer}; allowed: other hosts",
        f'source = "{SOURCE}": is not an address of this host; the virtual hosts on s1 wait for it',
        'interface = "other0": is an alternative name of s1, and does not count as its name;'
        ' allowed: "s1"',
    ]
    daemon = start_daemon(host, path)
    assert daemon.log_lines("other0: is an alternative name of s1")
    assert daemon.log_lines(f'peers = "{host.address(1)}": is an address of this host')
    daemon.wait_state("MASTER", 10, [("s1", 2)])
    assert daemon.virtual_host("other0", 3)["reason"] == "interface_missing"
    assert daemon.stop() == 0
