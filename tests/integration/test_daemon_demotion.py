"""The commands demote and undemote: a hand-over, status and explain, a crash in between."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Lab
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="an order decides who is MASTER")]

CARP_FAST = [sys.executable, "-m", "carp_fast"]
TABLE = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"]}


def demotions(daemon: RunningDaemon) -> list[dict[str, Any]]:
    return [each["demotion"] for each in daemon.status()["virtual_hosts"]]


def test_an_operators_demotion_hands_over_and_survives_a_crash(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    one, other = lab_factory(segments=1).hosts

    path = write_configuration(tmp_path, "a", [TABLE], defaults={"preempt": True})
    slower = {"preempt": True, "advskew": 50}
    a = start_daemon(one, path)
    a.wait_state("MASTER", 10)
    b = start_daemon(other, write_configuration(tmp_path, "b", [TABLE], defaults=slower))
    b.wait_state("BACKUP", 10)

    def command(*words: str) -> str:
        return one.run([*CARP_FAST, words[0], "-c", str(path), *words[1:]]).stdout

    printed = command("demote", "100", "--reason", "new switch")
    assert printed == "virtual hosts: 3, demoted by 100 (new switch: 100)\n"
    b.wait_state("MASTER", 10)
    a.wait_state("BACKUP", 10)
    assert demotions(a) == 3 * [{"total": 100, "reasons": {"operator": 100}}]
    a.kill()
    a = start_daemon(one, path)
    a.wait_state("BACKUP", 10)
    assert a.log_lines(r"WARNING demoted by 100 \(new switch\), as before the start")
    command("demote", "10", "--reason", "kernel update")
    status = a.status()
    assert status["daemon"]["demotions"] == {"new switch": 100, "kernel update": 10}
    assert {each["effective_advskew"] for each in status["virtual_hosts"]} == {110}
    explained = a.client.explain("s1", 1).virtual_hosts[0]
    assert explained.operator_demotions == {"new switch": 100, "kernel update": 10}
    assert b.summary()["master"] == 3
    command("undemote", "--reason", "new switch")
    a.wait_state("MASTER", 10)
    assert demotions(a) == 3 * [{"total": 10, "reasons": {"operator": 10}}]
    b.wait_state("BACKUP", 10)
    b.stop()
    command("demote", "240", "--reason", "new switch")
    a.wait_state("MASTER", 10)  # demotion never stops a host that hears nobody
    assert a.stop() == 0
