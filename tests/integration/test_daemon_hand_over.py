"""The commands yield and preempt between two hosts: hand-overs that stay, and refused ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab, wait_for
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = pytest.mark.root

CARP_FAST = [sys.executable, "-m", "carp_fast"]
TABLE = {"interface": "s1", "vhid": "1-2", "addresses": ["10.1.1.{vhid}/32"]}
FIRST = [("s1", 1)]


def command(daemon: RunningDaemon, word: str, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [*CARP_FAST, word, "s1", "1", "-c", str(daemon.configuration), *options]
    return daemon.host.run(argv, check=False, deadline_s=60)


def test_one_virtual_host_is_handed_over_and_back_by_hand(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    one, other = lab_factory(segments=1).hosts
    path = write_configuration(tmp_path, "a", [TABLE])
    a = start_daemon(one, path)
    a.wait_state("MASTER", 10)
    slower = {"advskew": 50, "preempt": False}
    b = start_daemon(other, write_configuration(tmp_path, "b", [TABLE], defaults=slower))
    b.wait_state("BACKUP", 10)
    wait_for(lambda: b.virtual_host("s1", 1)["peer"] is not None, 10, "an advertisement of a")

    refused = command(a, "yield")
    assert refused.returncode == 1
    assert "s1/1: no other host has been heard: if none is there" in refused.stderr
    assert "only a MASTER can hand over" in command(b, "yield").stderr
    assert "its master would take it back" in command(b, "preempt").stderr

    held = command(a, "yield", "--demote")
    assert held.returncode == 0, held.stderr
    assert held.stdout.splitlines() == [
        "s1/1: BACKUP, handed over to 10.1.0.2",
        'demoted until: carp-fast undemote --reason "yield s1/1"',
    ]
    assert (a.virtual_host("s1", 1)["reason"], b.virtual_host("s1", 1)["reason"]) == (
        "yielded",
        "master_resigned",
    )
    # Only this one, and after a crash as well.
    assert a.states() == {("s1", 1): "BACKUP", ("s1", 2): "MASTER"}
    a.kill()
    a = start_daemon(one, path)
    a.wait_state("BACKUP", 10, FIRST)
    skews = {each["vhid"]: each["effective_advskew"] for each in a.status()["virtual_hosts"]}
    assert skews == {1: 240, 2: 0}
    wait_for(lambda: a.virtual_host("s1", 1)["peer"] is not None, 10, "an advertisement of b")
    assert "is faster than our 1/240, demoted by 240" in command(a, "preempt").stderr

    undemote = [*CARP_FAST, "undemote", "--reason", "yield s1/1", "-c", str(path)]
    one.run(undemote)
    taken = command(a, "preempt")
    assert taken.stdout == "s1/1: MASTER, taken over from 10.1.0.2\n", taken.stderr
    b.wait_state("BACKUP", 10, FIRST)
    assert a.virtual_host("s1", 1)["reason"] == "taken_over"

    # Now that b has been heard as slower, and a does not preempt it, a yield stays.
    given = command(a, "yield")
    assert given.stdout == "s1/1: BACKUP, handed over to 10.1.0.2\n", given.stderr
    b.wait_state("MASTER", 10, FIRST)


def test_a_group_is_handed_over_together_and_taken_back_if_one_is_not_adopted(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    """Host b lacks the third virtual host, which is in the second group."""
    one, other = lab_factory(segments=2).hosts
    tables = [
        {"interface": f"s{segment}", "vhid": vhid, "addresses": [f"10.{segment}.1.{vhid}/32"]}
        | {"group": group}
        for segment, vhid, group in ((1, 1, "lan"), (2, 2, "lan"), (1, 3, "dmz"), (2, 4, "dmz"))
    ]
    written = {}
    for name, used in (("a", tables), ("b", [each for each in tables if each["vhid"] != 3])):
        defaults = {"preempt": name == "a", "advskew": 0 if name == "a" else 20}
        written[name] = write_configuration(tmp_path, name, used, defaults=defaults)
        with written[name].open("a") as file:
            file.write('[[group]]\nname = "lan"\n[[group]]\nname = "dmz"\n')
    a = start_daemon(one, written["a"])
    a.wait_state("MASTER", 10)
    b = start_daemon(other, written["b"])
    b.wait_state("BACKUP", 10)

    given = command(a, "yield", "--group", "--demote")
    assert given.returncode == 0, given.stderr
    assert given.stdout.splitlines()[-1] == (
        'demoted until: carp-fast undemote --group lan --reason "yield"'
    )
    masters = {which for which, state in a.states().items() if state == "MASTER"}
    assert masters == {("s1", 3), ("s2", 4)}
    one.run([*CARP_FAST, "undemote", "--group", "lan", "--reason", "yield", "-c", written["a"]])
    a.wait_state("MASTER", 10)

    argv = [*CARP_FAST, "yield", "s1", "3", "--group", "--demote", "-c", str(written["a"])]
    failed = one.run(argv, check=False, deadline_s=60)
    assert failed.returncode == 1
    assert "s1/3: no other host took it over" in failed.stderr
    a.wait_state("MASTER", 10)
    assert a.virtual_host("s2", 4)["reason"] in ("taken_over", "preempted")
    assert a.status()["daemon"]["demotions"] == {}


def test_what_nobody_takes_over_is_master_again_and_the_command_fails(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    one, _ = lab_factory(segments=1).hosts
    a = start_daemon(one, write_configuration(tmp_path, "a", [TABLE]))
    a.wait_state("MASTER", 10)
    failed = command(a, "yield", "--demote")
    assert failed.returncode == 1
    assert "no other host took it over within its master-down time (3.938 s)" in failed.stderr
    a.wait_state("MASTER", 15)
    assert a.virtual_host("s1", 1)["demotion"]["total"] == 0
    assert a.status()["daemon"]["demotions"] == {}
