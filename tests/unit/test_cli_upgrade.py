"""The commands around an upgrade: upgrade, reload --or-upgrade, and events, which goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from carp_fast import __version__
from carp_fast.cli import main as cli
from carp_fast.control.protocol import ControlError
from tests.support.answering import DEADLINE_S, FakeDaemon

DONE = {
    "ok": True,
    "pid": 4712,
    "version": "0.2.0",
    "from_version": "0.1.0",
    "seconds": 1.25,
    "still_s": 0.0125,
}
RELOADED = {"changed": ["eth0/1: removed"], "added": 0, "removed": 1, "kept": 2, "seconds": 0.5}


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path / "control.sock")
    yield daemon
    daemon.stop()


def asked(fake: FakeDaemon, *arguments: str) -> Result:
    every = [*arguments, "--control-socket", str(fake.path)]
    return CliRunner().invoke(cli.main, every, prog_name="carp-fast")


def last(reload: str | None, count: int = 1) -> dict[str, Any]:
    at = "2026-01-01T00:00:00.000Z"
    return {"count": count, "at": at, "from_version": "0.1.0", "still_s": 0.0125, "reload": reload}


def test_upgrade_prints_who_goes_on_and_what_the_reload_changed(fake: FakeDaemon) -> None:
    fake.answers["upgrade"] = [DONE]
    fake.upgrades = [last(None), last(None), last("1 added, 0 removed")]
    result = asked(fake, "upgrade")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "carp-fast 0.2.0 (pid 4712) goes on for 0.1.0, after 1.2 s; the virtual hosts stood still"
        " for 12 ms",
        "reload after it: 1 added, 0 removed",
    ]


def test_an_upgrade_with_a_configuration_that_is_not_taken_fails(fake: FakeDaemon) -> None:
    fake.answers["upgrade"] = [DONE]
    fake.upgrades = [last("nothing was changed: refused: 3 of 4 MASTER would be removed")]
    result = asked(fake, "upgrade")
    assert result.exit_code == 1
    assert "reload after it: nothing was changed: refused: 3 of 4" in result.stdout
    assert result.stderr == ("carp-fast: the configuration is not the one that runs: see the log\n")


def test_a_refused_upgrade_prints_every_fault_and_why(fake: FakeDaemon) -> None:
    refusal = ControlError("upgrade: prepare: 2 faults; the daemon goes on", ["a: 1", "b: 2"])
    fake.answers["upgrade"] = [refusal]
    result = asked(fake, "upgrade", "--timeout", "5")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["a: 1", "b: 2", f"carp-fast: {refusal}"]


@pytest.mark.parametrize("timeout", ["0", "x", "-1"])
def test_a_timeout_that_is_none_is_wrong_usage(fake: FakeDaemon, timeout: str) -> None:
    assert asked(fake, "upgrade", "--timeout", timeout).exit_code == 2
    assert not fake.requests


def test_reload_or_upgrade_upgrades_a_daemon_of_another_version(fake: FakeDaemon) -> None:
    fake.version = "0.0.9"
    fake.answers["upgrade"] = [DONE]
    result = asked(fake, "reload", "--or-upgrade")
    assert result.exit_code == 0, result.output
    assert "goes on for 0.1.0" in result.stdout
    assert [each["command"] for each in fake.requests] == ["status", "upgrade", "status"]


def test_reload_or_upgrade_reloads_a_daemon_of_this_version(fake: FakeDaemon) -> None:
    fake.version = __version__
    fake.reload_answer = RELOADED
    result = asked(fake, "reload", "--or-upgrade")
    assert result.exit_code == 0, result.output
    assert "eth0/1: removed" in result.stdout
    assert [each["command"] for each in fake.requests] == ["status", "reload"]
    assert fake.requests[0]["interface"] == "", "tens of thousands of virtual hosts are not sent"


def test_reload_alone_never_upgrades(fake: FakeDaemon) -> None:
    fake.version = "0.0.9"
    fake.reload_answer = RELOADED
    assert asked(fake, "reload").exit_code == 0
    assert [each["command"] for each in fake.requests] == ["reload"]


@pytest.mark.parametrize(("count", "times"), [(1, "once"), (12, "12 times")])
def test_status_shows_that_the_daemon_was_upgraded(
    fake: FakeDaemon, count: int, times: str
) -> None:
    fake.upgrades = [last("", count)]
    result = asked(fake, "status")
    assert f"upgraded {times}, last from carp-fast 0.1.0" in " ".join(result.stdout.split())
    fake.upgrades = [None]
    assert "upgraded" not in asked(fake, "status").stdout


def test_events_goes_on_with_the_successor(fake: FakeDaemon) -> None:
    event = {
        "at": "2026-01-01T00:00:00.000Z",
        "interface": "eth0",
        "vhid": 7,
        "state": "MASTER",
        "previous": "BACKUP",
        "reason": "master_down",
        "peer": None,
    }
    command = [sys.executable, "-m", "carp_fast", "events", "--control-socket", str(fake.path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reading:
        try:
            assert reading.stdout is not None
            assert reading.stderr is not None
            fake.wait_for_subscribers(1)
            fake.publish(event)
            assert "eth0/7: BACKUP -> MASTER" in reading.stdout.readline()
            fake.pass_on("the daemon was upgraded: connect again", DEADLINE_S)
            assert reading.stderr.readline() == "the daemon was upgraded: connect again\n"
            fake.wait_for_subscribers(1)
            fake.publish(event)
            assert "eth0/7: BACKUP -> MASTER" in reading.stdout.readline()
        finally:
            reading.kill()
