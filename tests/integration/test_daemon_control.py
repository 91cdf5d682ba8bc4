"""The control socket of a daemon that runs, as root, members of its group and others use it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from carp_fast.control.places import CLIENTS_OF_A_USER_MAX
from carp_fast.control.protocol import ControlError
from carp_fast.lab.lab import Lab
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.users import (
    ALICE,
    MALLORY,
    READERS,
    User,
    connected_as,
    program_as,
    public_directory,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths(
        "send", "receive", "hold", reason="who may use the control socket, and what it logs"
    ),
]

CARP_FAST = [sys.executable, "-m", "carp_fast"]
TABLE = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"]}
AUDIT = r"audit: "


@pytest.fixture
def directory() -> Iterator[Path]:
    with public_directory() as path:
        yield path


def configuration(directory: Path, **daemon: Any) -> Path:
    return write_configuration(directory, "a", [TABLE], daemon=daemon)


def carp_fast(
    daemon: RunningDaemon, command: str, *arguments: str, user: User | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command as this user, None: as root, that asks the daemon."""
    argv = [*CARP_FAST, command, *arguments, "--control-socket", str(daemon.control_socket)]
    if user is not None:
        argv = program_as(user, argv)
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)


def test_commands_of_members_of_the_group_read_and_those_of_root_change(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    daemon = start_daemon(a, configuration(directory, control_group=READERS))
    status = carp_fast(daemon, "status", "--json", user=ALICE)
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["daemon"]["control"]["group"] == str(READERS)
    assert carp_fast(daemon, "explain", "s1", "1", user=ALICE).returncode == 0
    refused = carp_fast(daemon, "demote", "20", "--reason", "test", user=ALICE)
    text = f"uid {ALICE.uid} may not give the command demote: only root may change anything;"
    text += (
        " allowed: events, explain, maintenance plan, maintenance show, overview, record, status"
    )
    assert (refused.returncode, refused.stderr) == (1, f"carp-fast: {text}\n")
    assert carp_fast(daemon, "maintenance", "on", "--dry-run", user=ALICE).returncode == 0
    assert carp_fast(daemon, "maintenance", "on", user=ALICE).returncode == 1
    stranger = carp_fast(daemon, "status", user=MALLORY)
    assert stranger.returncode == 1
    assert stranger.stderr.startswith(f"carp-fast: no permission for {daemon.control_socket};")
    assert carp_fast(daemon, "demote", "20", "--reason", "test").returncode == 0
    control = daemon.status()["daemon"]["control"]
    assert (control["not_permitted"], control["changes"]) == (2, 1)
    assert set(daemon.status()["daemon"]["demotions"]) == {"test"}
    first, second, third = daemon.log_lines(AUDIT)
    who = rf"audit: uid {ALICE.uid}, pid \d+ \(.+\): "
    assert re.search(rf'{who}demote amount=20 reason="test": refused: uid {ALICE.uid} may', first)
    assert re.search(rf'{who}maintenance action="on": refused: uid {ALICE.uid} may', second)
    assert re.search(
        r'audit: root \(uid 0\), pid \d+ \(/.+, .+\): demote amount=20 reason="test": ok$', third
    )


def test_reloads_are_audited_whether_by_the_socket_or_by_a_signal(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    daemon = start_daemon(a, configuration(directory))
    daemon.reload()
    daemon.wait_log(r"audit: root \(uid 0\), pid .*: reload: ok$", 10)
    daemon.process.signal(signal.SIGHUP)
    daemon.wait_log(r"audit: SIGHUP, its sender is not known: reload: ok$", 10)
    daemon.configuration.write_text("[daemon]\nodd = 1\n")
    with pytest.raises(ControlError):
        daemon.reload()
    faults = "refused: 1 faults in the configuration$"
    daemon.wait_log(rf"audit: root \(uid 0\), pid .*: reload: {faults}", 10)
    daemon.process.signal(signal.SIGHUP)
    daemon.wait_log(rf"audit: SIGHUP, its sender is not known: reload: {faults}", 10)
    assert len(daemon.log_lines(AUDIT)) == 4


def test_a_reload_changes_the_group_of_the_socket(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    daemon = start_daemon(a, configuration(directory))
    assert carp_fast(daemon, "status", user=ALICE).returncode == 1
    configuration(directory, control_group=READERS)
    changed = f"daemon.control_group none -> {{name = {READERS}, gid = {READERS}}}"
    assert daemon.reload()["changed"] == [changed]
    assert carp_fast(daemon, "status", user=ALICE).returncode == 0
    configuration(directory, control_group="")
    daemon.reload()
    assert carp_fast(daemon, "status", user=ALICE).returncode == 1
    assert carp_fast(daemon, "status").returncode == 0


def test_one_user_keeps_neither_root_nor_others_from_the_daemon(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    daemon = start_daemon(a, configuration(directory, control_group=READERS))
    silent = [connected_as(ALICE, daemon.control_socket) for _ in range(CLIENTS_OF_A_USER_MAX + 20)]
    refused = carp_fast(daemon, "status", user=ALICE)
    limit = f"too many control clients of uid {ALICE.uid} (limit {CLIENTS_OF_A_USER_MAX},"
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"carp-fast: {limit}")
    other = User(50_010, 50_010, [READERS])
    assert carp_fast(daemon, "status", user=other).returncode == 0
    assert carp_fast(daemon, "reload").returncode == 0
    assert daemon.status()["daemon"]["control"]["clients_refused_of_user"] == 21
    assert len(daemon.log_lines("too many control clients of uid")) == 1
    for each in silent:
        each.close()


def test_check_and_run_refuse_a_group_that_does_not_exist(directory: Path) -> None:
    path = configuration(directory, control_group="no-such-group-here")
    line = path.read_text().partition("control_group")[0].count("\n") + 1
    for command in ("check", "run"):
        argv = [*CARP_FAST, command, "-c", str(path)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        fault = 'daemon: control_group = "no-such-group-here": is not a group of this host;'
        assert f"{path}:{line}: {fault} the nearest one is " in done.stderr


def test_root_without_cap_chown_keeps_the_socket_to_itself_and_check_warns(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    path = configuration(directory, control_group=READERS)
    without = ["setpriv", "--bounding-set=-chown", "--inh-caps=-chown"]
    done = a.run([*without, *CARP_FAST, "check", "-c", str(path)])
    assert f"warning: {path}: daemon: control_group: without CAP_CHOWN" in done.stderr
    daemon = start_daemon(a, path, program=[*without, *CARP_FAST])
    assert daemon.control_socket.stat().st_mode & 0o777 == 0o600
    (warning,) = daemon.log_lines("daemon.control_group")
    assert "cannot be given to group" in warning
    assert daemon.stop() == 0
    member = [*without, f"--groups={READERS}"]
    done = a.run([*member, *CARP_FAST, "check", "-c", str(path)])
    assert "CAP_CHOWN" not in done.stderr
    daemon = start_daemon(a, path, program=[*member, *CARP_FAST])
    assert daemon.control_socket.stat().st_mode & 0o777 == 0o660
    assert carp_fast(daemon, "status", user=ALICE).returncode == 0
