"""A pair of gateways whose sides are a group: a cut link, both hosts half broken, a split segment.

Host c pings host d through the gateways a and b, from segment 1 to segment 2; segment 3 is a third
side, which both gateways keep. Beside it, on segments 4 and 5, keepalived does the same with a
vrrp_sync_group where it is installed.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.daemon import explain_text
from carp_fast.lab.lab import Lab, wait_for
from carp_fast.lab.pings import Pinger
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import start_keepalived

pytestmark = pytest.mark.root

SIDES = (1, 2, 3)
EVERY = [(f"s{segment}", 1) for segment in SIDES]
ADVSKEW = {"a": 0, "b": 100}
INTERVAL_S = 1 + ADVSKEW["b"] / 256
MASTER_DOWN_S = 3 + ADVSKEW["b"] / 256
BOUND_S = MASTER_DOWN_S + 2 * INTERVAL_S
DEMOTED_BOUND_S = 3 + 240 / 256 + 2 * (1 + 240 / 256)
GAP_SLACK_S = 1.0
SLACK_S = 10.0  # a busy machine
PING_S = 0.01
KEEPALIVED = """
vrrp_sync_group GATEWAY {{
  group {{
    INSIDE
    OUTSIDE
  }}
}}
"""
INSTANCE = """
vrrp_instance {name} {{
  state BACKUP
  interface s{segment}
  virtual_router_id {segment}
  priority {priority}
  advert_int 1
  virtual_ipaddress {{
    10.{segment}.1.1/32
  }}
}}
"""
GROUP = '[[group]]\nname = "gateway"\n'


def gateway(lab: Lab, name: str, directory: Path) -> RunningDaemon:
    tables = [
        {"interface": f"s{segment}", "vhid": 1, "addresses": [f"10.{segment}.1.1/32"]}
        for segment in SIDES
    ]
    defaults = {"advskew": ADVSKEW[name], "preempt": True, "group": "gateway"}
    path = write_configuration(directory, name, tables, defaults=defaults)
    path.write_text(path.read_text() + GROUP)
    return start_daemon(lab[name], path)


def start_rival(lab: Lab, directory: Path) -> None:
    """Starts keepalived on both gateways, with a sync group of segments 4 and 5."""
    for name, priority in (("a", 150), ("b", 100)):
        instances = [
            INSTANCE.format(name=side, segment=segment, priority=priority)
            for side, segment in (("INSIDE", 4), ("OUTSIDE", 5))
        ]
        start_keepalived(lab[name], directory, KEEPALIVED.format() + "".join(instances))


def route_through(lab: Lab, inside: int, outside: int) -> str:
    """Has c and d talk through the gateways' virtual addresses; returns d's address."""
    c, d = lab["c"], lab["d"]
    lab.delete_interface("c", outside)
    lab.delete_interface("d", inside)
    there, back = d.address(outside), c.address(inside)
    c.run(f"ip route add {there}/32 via 10.{inside}.1.1".split())
    d.run(f"ip route add {back}/32 via 10.{outside}.1.1".split())
    return there


def transitions(*daemons: RunningDaemon) -> int:
    """How often virtual hosts have become MASTER so far."""
    every = (host for daemon in daemons for host in daemon.status()["virtual_hosts"])
    return sum(host["counters"]["became_master"] for host in every)


def sent(daemon: RunningDaemon) -> int:
    every = daemon.status()["virtual_hosts"]
    return sum(host["counters"]["advertisements_sent"] for host in every)


def assert_no_loop(a: RunningDaemon, b: RunningDaemon) -> None:
    """Nothing changes while both advertise ten times more."""
    before, states = transitions(a, b), (a.states(), b.states())
    wanted = {daemon: sent(daemon) + 10 for daemon in (a, b)}
    wait_for(lambda: all(sent(each) >= n for each, n in wanted.items()), 60, "advertisements")
    assert transitions(a, b) == before
    assert (a.states(), b.states()) == states


def assert_no_loop_of_one(master: RunningDaemon, backup: RunningDaemon) -> None:
    """Nothing changes while the master of all advertises ten times more."""
    before, wanted = transitions(master, backup), sent(master) + 10
    wait_for(lambda: sent(master) >= wanted, 60, "advertisements")
    assert transitions(master, backup) == before


def group_of(daemon: RunningDaemon) -> tuple[bool, list[str]]:
    (group,) = daemon.status()["groups"]
    assert (group["name"], group["demote_when"], group["members"]) == ("gateway", "any", 3)
    return group["demoted"], group["because"]


def gateways(lab: Lab, tmp_path: Path) -> tuple[RunningDaemon, RunningDaemon]:
    """Both gateways, once a is MASTER and b BACKUP of all sides."""
    a, b = gateway(lab, "a", tmp_path), gateway(lab, "b", tmp_path)
    a.wait_state("MASTER", 15)
    b.wait_state("BACKUP", 15)
    return a, b


def test_both_sides_of_a_gateway_move_when_one_link_is_cut_and_come_back(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(hosts=("a", "b", "c", "d"), segments=5, medium="bridge")
    for name in ("a", "b"):
        lab[name].run(["sysctl", "-w", "net.ipv4.ip_forward=1"])
    targets = [route_through(lab, 1, 2)]
    a, b = gateways(lab, tmp_path)
    if shutil.which("keepalived"):
        targets.append(route_through(lab, 4, 5))
        start_rival(lab, tmp_path)
    with Pinger(lab["c"], targets, PING_S) as pinger:
        wait_for(lambda: pinger.answered_since(0), 30, "answers through the gateways")
        before = transitions(a, b)
        cut_at = time.monotonic_ns()
        lab.set_carrier("a", 2, up=False)
        lab.set_carrier("a", 5, up=False)
        b.wait_state("MASTER", BOUND_S + SLACK_S)
        a.wait_state("BACKUP", SLACK_S, [("s1", 1), ("s3", 1)])
        assert group_of(a) == (True, ["s2/1"])
        wait_for(lambda: pinger.answered_since(cut_at + 1_000_000_000), 30, "answers through b")
        assert transitions(a, b) == before + 3
    gaps = {
        target: max(
            (later - earlier) / 1e9
            for earlier, later in itertools.pairwise(times)
            if later > cut_at
        )
        for target, times in pinger.answered_at_ns.items()
    }
    for target, gap_s in gaps.items():
        print(f"{target}: {gap_s:.3f} s without an answer, {gap_s / PING_S - 1:.0f} pings lost")
    assert gaps[targets[0]] < BOUND_S + GAP_SLACK_S
    reason = {host["interface"]: host["reason"] for host in a.status()["virtual_hosts"]}
    assert reason == {"s1": "group_demoted", "s2": "link_down", "s3": "group_demoted"}

    lab.set_carrier("a", 2, up=True)
    a.wait_state("MASTER", BOUND_S + SLACK_S)
    b.wait_state("BACKUP", BOUND_S + SLACK_S)
    assert group_of(a) == (False, [])
    assert_no_loop_of_one(a, b)


def test_two_half_broken_gateways_hold_what_they_can_without_a_loop(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(hosts=("a", "b", "c"), segments=3, medium="bridge")
    a, b = gateways(lab, tmp_path)
    lab.set_carrier("b", 1, up=False)
    b.wait_state("INIT", 10, [("s1", 1)])
    lab.set_carrier("a", 2, up=False)
    b.wait_state("MASTER", DEMOTED_BOUND_S + SLACK_S, [("s2", 1)])
    a.wait_state("MASTER", DEMOTED_BOUND_S + SLACK_S, [("s1", 1)])
    third = {daemon: daemon.states()["s3", 1] for daemon in (a, b)}
    wait_for(
        lambda: sorted(each.states()["s3", 1] for each in (a, b)) == ["BACKUP", "MASTER"],
        2 * DEMOTED_BOUND_S,
        f"one master of segment 3, not {third}",
    )
    assert_no_loop(a, b)
    assert (group_of(a), group_of(b)) == ((True, ["s2/1"]), (True, ["s1/1"]))
    backup = a if a.states()["s3", 1] == "BACKUP" else b
    text = explain_text.text(backup.client.explain("s3", 1))
    print(text)
    assert "both hosts are half broken, each holds what it can" in text

    lab.set_carrier("b", 1, up=True)
    b.wait_state("MASTER", DEMOTED_BOUND_S + SLACK_S)  # not demoted any more
    lab.set_carrier("a", 2, up=True)
    a.wait_state("MASTER", BOUND_S + SLACK_S)
    b.wait_state("BACKUP", BOUND_S + SLACK_S)


def test_a_split_segment_demotes_nobody_and_makes_no_loop(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(hosts=("a", "b", "c"), segments=3, medium="bridge")
    a, b = gateways(lab, tmp_path)
    lab.partition(1, ["a"])
    b.wait_state("MASTER", BOUND_S + SLACK_S, [("s1", 1)])
    assert_no_loop(a, b)
    assert a.states() == dict.fromkeys(EVERY, "MASTER")
    assert b.states() == dict.fromkeys(EVERY, "BACKUP") | {("s1", 1): "MASTER"}
    assert (group_of(a), group_of(b)) == ((False, []), (False, []))
    lab.heal(1, ["a"])
    b.wait_state("BACKUP", BOUND_S + SLACK_S)
    assert_no_loop_of_one(a, b)
