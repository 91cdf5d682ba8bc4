"""ucarp and keepalived beside carp-fast on one machine, which does not hear what it sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Lab, wait_for
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import start_keepalived, start_ucarp

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="each path hears others of its host")]

GONE_WITHIN_S = 30.0


def table(vhid: int, **keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": vhid, "addresses": [f"10.1.1.{vhid}/32"], **keys}


def told(daemon: RunningDaemon, vhid: int) -> tuple[str, str]:
    found: Mapping[str, Any] = daemon.virtual_host("s1", vhid)
    return found["state"], found["reason"]


def test_a_ucarp_is_heard_before_anything_is_taken_from_it(
    lab_factory: Callable[..., Lab], tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("ucarp")
    a, _ = lab_factory(segments=1).hosts
    ucarp = start_ucarp(a, tmp_path, 1, 1, address="10.1.1.1")
    wait_for(lambda: ucarp.scripts == [ucarp.down, ucarp.up], 10, "ucarp MASTER")
    held = a.addresses()
    daemon = start_daemon(a, write_configuration(tmp_path, "carp", [table(1), table(2)]))
    daemon.wait_state("MASTER", 10, [("s1", 2)])
    assert told(daemon, 1) == ("INIT", "in_use")
    assert daemon.virtual_host("s1", 1)["in_use_by"] == f"pid {ucarp.process.pid} (ucarp)"
    assert daemon.virtual_host("s1", 1)["counters"]["became_master"] == 0
    assert held <= a.addresses()
    ucarp.process.kill()
    daemon.wait_log("s1/1: no longer in_use, takes part", GONE_WITHIN_S)
    daemon.wait_state("MASTER", 10)


def test_a_master_gives_way_to_a_faster_ucarp(
    lab_factory: Callable[..., Lab], tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("ucarp")
    a, _ = lab_factory(segments=1).hosts
    daemon = start_daemon(a, write_configuration(tmp_path, "carp", [table(1, advskew=100)]))
    daemon.wait_state("MASTER", 10)
    ucarp = start_ucarp(a, tmp_path, 1, 1, address="10.1.1.1", preempt=True)
    wait_for(lambda: ucarp.state == "MASTER", 10, "ucarp MASTER beside us")
    # When another virtual host rises it listens, not only each minute.
    write_configuration(tmp_path, "carp", [table(1, advskew=100), table(2)])
    daemon.reload()
    daemon.wait_log(rf"s1/1: in_use: pid {ucarp.process.pid} \(ucarp\) on this machine", 30)
    daemon.wait_state("INIT", 10, [("s1", 1)])
    assert daemon.states()["s1", 2] == "MASTER"


KEEPALIVED = """
vrrp_instance one {
    interface s1
    virtual_router_id 1
    priority 100
    state MASTER
    version 2
    virtual_ipaddress { 10.1.2.1/32 }
}
"""


def test_keepalived_with_the_same_number_is_another_matter(
    lab_factory: Callable[..., Lab], tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("keepalived")
    a, _ = lab_factory(segments=1).hosts
    start_keepalived(a, tmp_path, KEEPALIVED)
    wait_for(lambda: ("s1", "10.1.2.1") in a.addresses(), 15, "keepalived MASTER")
    log = ["--log-level", "debug"]
    configuration = write_configuration(tmp_path, "carp", [table(1)])
    daemon = start_daemon(a, configuration, arguments=log)
    daemon.wait_state("MASTER", 10)
    daemon.wait_log("listened to what this machine sends", 15, count=2)  # at the start, and now
    assert not daemon.log_lines("in_use")
    assert set(daemon.states().values()) == {"MASTER"}
