"""The commands yield and preempt: what they ask a daemon, print, and exit with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from carp_fast.cli import main as cli
from carp_fast.control.protocol import ControlError
from tests.support.answering import FakeDaemon


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="carp-fast")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path / "control.sock")
    yield daemon
    daemon.stop()


def handed_over(state: str, peer: str | None, reason: str = "") -> dict[str, Any]:
    host = {"interface": "eth0", "vhid": 7, "state": state, "peer": peer}
    return {"virtual_hosts": [host], "reason": reason}


@pytest.mark.parametrize(
    ("words", "answer", "printed"),
    [
        (
            ("yield",),
            handed_over("BACKUP", "10.0.0.2"),
            "eth0/7: BACKUP, handed over to 10.0.0.2\n",
        ),
        (
            ("yield",),
            handed_over("BACKUP", None),
            "eth0/7: handed over; no other host has been heard yet\n",
        ),
        (
            ("yield", "--demote"),
            handed_over("BACKUP", "10.0.0.2", "yield eth0/7"),
            "eth0/7: BACKUP, handed over to 10.0.0.2\n"
            'demoted until: carp-fast undemote --reason "yield eth0/7"\n',
        ),
        (
            ("yield", "--demote", "--group"),
            handed_over("BACKUP", "10.0.0.2", "yield") | {"group": "lan"},
            "eth0/7: BACKUP, handed over to 10.0.0.2\n"
            'demoted until: carp-fast undemote --group lan --reason "yield"\n',
        ),
        (
            ("preempt",),
            handed_over("MASTER", "10.0.0.2"),
            "eth0/7: MASTER, taken over from 10.0.0.2\n",
        ),
    ],
)
def test_a_hand_over_tells_who_has_it(
    words: tuple[str, ...], answer: dict[str, Any], printed: str, fake: FakeDaemon
) -> None:
    command, *options = words
    fake.answers[command] = [answer]
    result = invoke(command, "eth0", "7", *options, "--control-socket", fake.path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, printed, "")
    wanted = {"command": command, "interface": "eth0", "vhid": 7}
    given = {option.removeprefix("--"): True for option in options}
    assert fake.requests == [wanted | given]


@pytest.mark.parametrize("command", ["yield", "preempt"])
def test_a_hand_over_that_is_refused_is_one_line(command: str, fake: FakeDaemon) -> None:
    fake.answers[command] = [ControlError(f"{command}: eth0/7: it would be undone")]
    result = invoke(command, "eth0", "7", "--control-socket", fake.path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"carp-fast: {command}: eth0/7: it would be undone\n"
