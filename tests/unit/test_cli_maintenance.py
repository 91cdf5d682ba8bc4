"""The command maintenance: what it asks a daemon, prints, and exits with."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import carp_fast
from carp_fast.cli import main as cli
from carp_fast.control.protocol import ControlError
from tests.support.answering import DEADLINE_S, FakeDaemon

PACKAGE_DIRECTORY = Path(carp_fast.__file__).parent.parent
STATE = {
    "since": "2027-01-15T08:00:00.000Z",
    "reason": "kernel update",
    "until": None,
    "until_stop": False,
    "force": False,
}


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="carp-fast")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setattr("carp_fast.cli.maintenance.ASKED_EVERY_S", 0.001)
    daemon = FakeDaemon(tmp_path / "control.sock")
    yield daemon
    daemon.stop()


def standing(state: dict[str, Any] | None, **progress: Any) -> dict[str, Any]:
    made = {
        "phase": "done",
        "masters": 1020,
        "given": 1020,
        "taken_back": [],
        "taken_back_count": 0,
        "not_tried": 0,
        "seconds": 9.1,
    }
    return {"state": state, "progress": made | progress}


def test_maintenance_waits_until_all_is_given_up(fake: FakeDaemon) -> None:
    fake.answers["maintenance"] = [
        standing(STATE, phase="demoting", given=0),
        standing(STATE, phase="canaries", given=1000),
        standing(STATE),
    ]
    result = invoke(
        *("maintenance", "on", "--reason", "kernel update", "--for", "1h30m"),
        *("--control-socket", fake.path),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "in maintenance: 1,020 of 1,020 MASTER given up (9.1 s)\n"
    first, *others = fake.requests
    asked = {"command": "maintenance", "action": "on", "reason": "kernel update", "for_s": 5400.0}
    assert first == asked
    assert others == [{"command": "maintenance", "action": "show"}] * 2


def test_what_nobody_adopted_is_named_and_the_exit_code_is_1(fake: FakeDaemon) -> None:
    made = {"given": 1000, "taken_back": ["eth0/1", "eth1/1"], "taken_back_count": 3}
    fake.answers["maintenance"] = [standing(STATE, **made, not_tried=17)]
    result = invoke("maintenance", "on", "--control-socket", fake.path)
    assert result.exit_code == 1
    assert result.stdout == "in maintenance: 1,000 of 1,020 MASTER given up (9.1 s)\n"
    assert result.stderr == (
        "carp-fast: maintenance: taken back, no other host adopted eth0/1, eth1/1 and 1 more;"
        " 17 more of their interfaces not tried (--force gives them up)\n"
    )


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("on", "--force"), {"action": "on", "force": True}),
        (("on", "--until-stop"), {"action": "on", "until_stop": True}),
        (("off",), {"action": "off"}),
    ],
)
def test_options_of_maintenance(
    words: tuple[str, ...], asked: dict[str, Any], fake: FakeDaemon
) -> None:
    fake.answers["maintenance"] = [standing(None if words == ("off",) else STATE)]
    result = invoke("maintenance", *words, "--control-socket", fake.path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert fake.requests[0] == {"command": "maintenance"} | asked
    if words == ("off",):
        assert result.stdout == "no longer in maintenance (9.1 s)\n"


def test_a_dry_run_prints_a_plan(fake: FakeDaemon) -> None:
    unit = {"interface": "eth0", "group": "", "masters": 255, "heard": 3, "canary": "eth0/1"}
    fake.answers["maintenance"] = [{"state": None, "progress": None, "plan": [unit]}]
    result = invoke("maintenance", "on", "--dry-run", "--control-socket", fake.path)
    assert (result.exit_code, result.stderr) == (0, "")
    first, header, row = result.stdout.splitlines()
    assert first.startswith("255 MASTER would be given up; another host has been heard for 3 of")
    assert header.split() == ["INTERFACE", "GROUP", "MASTER", "HEARD", "CANARY"]
    assert row.split() == ["eth0", "-", "255", "3", "eth0/1"]
    assert fake.requests == [{"command": "maintenance", "action": "plan"}]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("maybe",),
        ("on", "--for", "2"),
        ("on", "--for", "2 h"),
        ("on", "--for", "h"),
        ("off", "--force"),
        ("off", "--dry-run"),
        ("off", "--reason", "a"),
    ],
)
def test_wrong_usage_of_maintenance(words: tuple[str, ...]) -> None:
    assert invoke("maintenance", *words).exit_code == 2


def test_maintenance_that_somebody_else_ends_meanwhile_fails(fake: FakeDaemon) -> None:
    fake.answers["maintenance"] = [
        standing(STATE, phase="demoting"),
        standing(None, phase="returning"),
    ]
    result = invoke("maintenance", "on", "--control-socket", fake.path)
    assert result.exit_code == 1
    assert "maintenance: on was undone by someone else meanwhile" in result.stderr


@pytest.mark.parametrize(
    ("what", "state", "remedy"),
    [
        ("on", STATE, "the host is in maintenance all the same; carp-fast maintenance off ends it"),
        ("off", None, "some virtual hosts may still be demoted; another off tries again"),
    ],
)
def test_a_failure_of_the_daemon_is_reported_and_the_exit_code_is_1(
    what: str, state: dict[str, Any] | None, remedy: str, fake: FakeDaemon
) -> None:
    fake.answers["maintenance"] = [
        standing(state, phase="waiting"),
        standing(state, phase="failed", reason="no slot 3"),
    ]
    result = invoke("maintenance", what, "--control-socket", fake.path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"carp-fast: maintenance: {what} failed: no slot 3; {remedy}\n"


def test_a_refusal_is_one_line(fake: FakeDaemon) -> None:
    fake.answers["maintenance"] = [ControlError("maintenance: refused: in maintenance since T")]
    result = invoke("maintenance", "on", "--control-socket", fake.path)
    assert result.exit_code == 1
    assert result.stderr == "carp-fast: maintenance: refused: in maintenance since T\n"


def test_ctrl_c_ends_the_waiting_and_tells_what_stays(fake: FakeDaemon) -> None:
    fake.answers["maintenance"] = [standing(STATE, phase="demoting", given=0)]
    argv = [sys.executable, "-m", "carp_fast", "maintenance", "on", "--control-socket"]
    with subprocess.Popen(
        [*argv, str(fake.path)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_DIRECTORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:

        async def asked() -> None:
            async with asyncio.timeout(DEADLINE_S):
                while len(fake.requests) < 3:
                    await asyncio.sleep(0.005)

        fake.run(asked())
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "maintenance on: the daemon goes on with it" in error
    assert "carp-fast maintenance off ends it" in error
