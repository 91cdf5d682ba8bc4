"""A daemon's recording of a take-over, played again: the same decisions, by the same engine."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab, wait_for
from carp_fast.replay import scenario as scenarios
from tests.support.daemons import PASSPHRASE, RunningDaemon, start_daemon, write_configuration

pytestmark = pytest.mark.root

CARP_FAST = [sys.executable, "-m", "carp_fast"]


def carp_fast(*arguments: object) -> subprocess.CompletedProcess[str]:
    argv = [*CARP_FAST, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def record(daemon: RunningDaemon, path: Path, *arguments: object) -> str:
    done = carp_fast("record", path, "--control-socket", daemon.control_socket, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_recorded_take_over_is_decided_again(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    table = {
        "interface": "s1",
        "vhid": "1-3",
        "addresses": ["10.1.1.{vhid}/32"],
        "unsigned_addresses": ["fd00::{vhid}/64"],
    }
    fast = {"advbase": 0, "advskew": 20}
    master = start_daemon(a, write_configuration(tmp_path, "a", [table], defaults=fast))
    backup = start_daemon(
        b, write_configuration(tmp_path, "b", [table], defaults={**fast, "advskew": 40})
    )
    master.wait_state("MASTER", 15)
    wait_for(
        lambda: all(backup.counters("s1", vhid)["advertisements_heard"] for vhid in (1, 2, 3)),
        10,
        "an advertisement of each",
    )
    master.kill()
    backup.wait_state("MASTER", 15)
    wait_for(lambda: backup.counters("s1", 3)["advertisements_sent"] > 2, 10, "advertisements")

    path = tmp_path / "b.scenario"
    assert "3 virtual hosts" in record(backup, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert PASSPHRASE not in text
    done = carp_fast("replay", path)
    assert done.returncode == 0, done.stdout + done.stderr
    for vhid in (1, 2, 3):
        assert f"s1/{vhid}  MASTER master_down" in done.stdout
    lines = scenarios.read(path).lines
    print(f"{len(lines)} lines, {sum(line.output for line in lines)} decisions, all the same")

    # Not overwritten unasked; one host alone; and another decision is a difference that is named.
    done = carp_fast("record", path, "--control-socket", backup.control_socket)
    assert done.returncode == 1
    assert done.stderr == f"carp-fast: {path}: exists already; --force overwrites it\n"
    assert "1 virtual host" in record(backup, path, "--force", "--vhid", 2, "--interface", "s1")
    assert carp_fast("replay", path).returncode == 0
    path.write_text(path.read_text().replace("> MASTER master_down", "> MASTER preempted"))
    done = carp_fast("replay", path)
    assert done.returncode == 1
    assert "MASTER preempted was recorded, now MASTER master_down" in done.stderr


def test_a_split_brain_is_recorded_on_both_sides_and_decided_again(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    a, b = lab.hosts
    table = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"]}
    fast = {"advbase": 0, "advskew": 20}
    master = start_daemon(a, write_configuration(tmp_path, "a", [table], defaults=fast))
    backup = start_daemon(
        b, write_configuration(tmp_path, "b", [table], defaults={**fast, "advskew": 40})
    )
    master.wait_state("MASTER", 15)
    wait_for(
        lambda: all(backup.counters("s1", vhid)["advertisements_heard"] for vhid in (1, 2, 3)),
        10,
        "an advertisement of each",
    )
    lab.partition(1)
    backup.wait_state("MASTER", 15)
    lab.heal(1)
    backup.wait_state("BACKUP", 15)

    # Each side has a file of what it saw; there may be others, of stalls on a busy machine.
    for daemon, name, kind, decided in (
        (master, "a", "second_master", "ADVERTISE 0/20"),
        (backup, "b", "take_over", "MASTER master_down"),
    ):
        (line, *_) = daemon.wait_log(rf"incident: .*{kind}.*\.scenario has", 30)
        (path,) = [path for path in (tmp_path / f"{name}-state").iterdir() if str(path) in line]
        text = path.read_text()
        assert PASSPHRASE not in text
        assert f"{kind}" in text.partition("start_ns")[0]
        done = carp_fast("replay", path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"s1/1  {decided}" in done.stdout
        print(f"{path.name}: {done.stdout.splitlines()[-1]}")
