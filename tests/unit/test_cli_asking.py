"""The commands that ask a daemon: tables, JSON, streams, pipes, terminals, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import carp_fast
from carp_fast.cli import main as cli
from carp_fast.cli import status, terminal
from carp_fast.control.protocol import ControlError
from tests.support.answering import DEADLINE_S, FakeDaemon, host

PACKAGE_DIRECTORY = Path(carp_fast.__file__).parent.parent
FAST = [sys.executable, "-m", "carp_fast"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PACKAGE_DIRECTORY), "LC_ALL": "C.UTF-8", **more}


def invoke(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(
        cli.main, [str(a) for a in arguments], input=stdin, prog_name="carp-fast"
    )


def command(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A process of its own, its output in pipes."""
    return subprocess.run(
        [*FAST, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        **options,
    )


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path / "control.sock")
    yield daemon
    daemon.stop()


def event(vhid: int, state: str = "MASTER", previous: str = "BACKUP") -> dict[str, Any]:
    return {
        "at": "2026-01-01T00:00:00.000Z",
        "interface": "eth0",
        "vhid": vhid,
        "state": state,
        "previous": previous,
        "reason": "master_down",
        "peer": None,
    }


# status


def test_status_in_a_pipe_is_plain_and_whole(fake: FakeDaemon) -> None:
    result = command("status", "--control-socket", fake.path)
    assert (result.returncode, result.stderr) == (0, "")
    all_three = "192.0.2.10/24,192.0.2.11/24,192.0.2.12/24"
    assert result.stdout.splitlines() == [
        "alpha: 3 virtual hosts: 1 MASTER, 1 BACKUP, 1 INIT "
        "(carp-fast 0.1.0, pid 4711, running for 1h 5m)",
        "problems: 1 INIT; see status --problems",
        "VIRTUAL HOST  STATE   SINCE   REASON         "
        f"{'ADDRESSES':{len(all_three)}}  ADVSKEW     PEER",
        f"eth0/7        MASTER  3h 12m  master_down    {all_three}  0           -",
        "eth0/8        BACKUP  40d 1h  advertisement  "
        f"{'192.0.2.20/24':{len(all_three)}}  100 -> 240  192.0.2.2",
        f"vlan100/255   INIT    2d 5h   link_down      {all_three}  0           -",
    ]


@pytest.mark.parametrize(
    ("since", "age"),
    [
        ("2026-01-01T00:00:00.900Z", "0s"),
        ("2025-12-31T23:59:59.900Z", "0s"),
        ("2025-12-31T23:59:01Z", "59s"),
        ("2025-12-31T23:59:00Z", "1m 0s"),
        ("2025-12-31T23:00:01.000Z", "59m 59s"),
        ("2025-12-31T23:00:00.000+00:00", "1h 0m"),
        ("2025-12-31T00:00:00Z", "1d 0h"),
        ("2025-01-01T00:30:00Z", "364d 23h"),
    ],
)
def test_ages_have_their_two_largest_units(since: str, age: str) -> None:
    assert status.age(since, datetime(2026, 1, 1, tzinfo=UTC)) == age


def test_status_filters_are_the_daemons(fake: FakeDaemon) -> None:
    result = invoke("status", "--control-socket", fake.path, "--interface", "eth0", "--vhid", "8")
    assert [line.split()[0] for line in result.output.splitlines()[2:]] == ["eth0/8"]
    result = invoke("status", "--control-socket", fake.path, "--state", "init")
    assert [line.split()[0] for line in result.output.splitlines()[3:]] == ["vlan100/255"]
    result = invoke("status", "--control-socket", fake.path, "--interface", "eth9")
    assert result.exit_code == 0
    assert result.output.splitlines()[1:] == ["no virtual host to show"]
    assert fake.requests == [
        {"command": "status", "interface": "eth0", "vhid": 8},
        {"command": "status", "state": "INIT"},
        {"command": "status", "interface": "eth9"},
    ]


def test_status_of_problems_says_what_is_wrong(fake: FakeDaemon) -> None:
    _, foreign, down = fake.hosts
    for each in fake.hosts:
        each["demotion"] = {"total": 0, "reasons": {}}
        each["address_problems"] = {}
    foreign["address_problems"] = {"192.0.2.20/24": "address_foreign as 192.0.2.20/32"}
    foreign["demotion"] = {"total": 240, "reasons": {"send_errors": 240}}
    fake.hosts = [foreign, down]
    result = command("status", "--control-socket", fake.path, "--problems")
    assert result.returncode == 0
    assert fake.requests == [{"command": "status", "problems": True}]
    counts, header, first, second = result.stdout.splitlines()[1:]
    assert counts == "problems: 1 demoted, 1 addresses, 1 INIT"
    assert header.split()[-1] == "PROBLEMS"
    assert first.endswith("demoted (send_errors), 192.0.2.20/24: address_foreign as 192.0.2.20/32")
    assert second.endswith("INIT (link_down)")
    fake.hosts = []
    result = command("status", "--control-socket", fake.path, "--problems")
    assert result.stdout.splitlines()[1] == "no virtual host to show"


def test_status_shows_wrong_digests_and_other_masters_where_they_are(fake: FakeDaemon) -> None:
    master, backup, _ = fake.hosts
    result = command("status", "--control-socket", fake.path)
    assert "PROBLEMS" not in result.stdout
    master["warnings"] = {
        "other_master": "12 advertisements with another passphrase or address list",
        "second_master": "192.0.2.3 (02:00:00:00:00:03) is MASTER, too, heard 0.4 s ago",
    }
    backup["warnings"] = {"bad_auth": "7 advertisements with another passphrase or address list"}
    result = command("status", "--control-socket", fake.path)
    counts, header, first, second, third = result.stdout.splitlines()[1:]
    assert counts == (
        "problems: 1 other_master, 1 second_master, 1 bad_auth, 1 INIT; see status --problems"
    )
    assert header.split()[-1] == "PROBLEMS"
    assert first.endswith(", ".join(f"{word}: {why}" for word, why in master["warnings"].items()))
    assert second.endswith("bad_auth: 7 advertisements with another passphrase or address list")
    assert third.endswith("INIT (link_down)")


def test_status_json_is_one_document_and_nothing_else(fake: FakeDaemon) -> None:
    result = command("status", "--json", "--control-socket", fake.path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    document = json.loads(result.stdout)
    assert sorted(document) == ["daemon", "interfaces", "summary", "virtual_hosts"]
    assert document["virtual_hosts"] == fake.hosts


def on_terminal(*arguments: str | Path, columns: int) -> str:
    """What the command writes to a terminal that is `columns` wide."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*FAST, *map(str, arguments)],
        env=environment(TERM="xterm-256color", COLUMNS=str(columns), NO_COLOR=""),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    pieces = []
    with open(leader, "rb", buffering=0) as terminal:
        # Linux ends a terminal whose other side has gone with EIO.
        try:
            while piece := terminal.read(65_536):
                pieces.append(piece)
        except OSError:
            pass
    assert process.wait(DEADLINE_S) == 0
    return b"".join(pieces).decode().replace("\r\n", "\n")


def test_status_on_a_terminal_adapts_to_it(fake: FakeDaemon) -> None:
    wide = on_terminal("status", "--control-socket", fake.path, columns=140)
    assert "\x1b[" in wide
    plain = re.sub(r"\x1b\[[0-9;]*m", "", wide)
    assert "─" in plain
    assert "192.0.2.10/24,192.0.2.11/24 +1" in plain
    assert "192.0.2.12/24" not in plain
    narrow = re.sub(
        r"\x1b\[[0-9;]*m", "", on_terminal("status", "--control-socket", fake.path, columns=70)
    )
    assert max(len(line) for line in narrow.splitlines()[1:]) <= 70
    assert "MASTER" in narrow


def test_status_json_on_a_terminal_is_indented(fake: FakeDaemon) -> None:
    text = on_terminal("status", "--json", "--control-socket", fake.path, columns=80)
    assert "\x1b[" not in text
    assert '\n  "summary": {\n' in text
    assert json.loads(text)["virtual_hosts"] == fake.hosts


def test_a_long_table_fits_a_terminal_as_a_short_one(fake: FakeDaemon) -> None:
    fake.hosts = [host(f"v{n}", 1, "BACKUP") for n in range(5_000)]
    text = on_terminal("status", "--control-socket", fake.path, columns=80)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert len(lines) == 5_000 + 4
    assert max(map(len, lines)) <= 80
    assert all("192.0.2.10/24 +2" in line for line in lines[4:])


def test_no_daemon_is_1_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    for name in ("status", "events", "reload"):
        result = command(name, "--control-socket", path)
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr == f"carp-fast: no carp-fast daemon at {path}: is it running?\n"


# Which control socket


@pytest.mark.parametrize(
    "text",
    [
        '[daemon]\ncontrol_socket = "SOCKET"\n',
        'include = [\n  "a.toml",\n]\n[ daemon ]  # here\npump = "loop"\ncontrol_socket="SOCKET"\n'
        "[[virtual_host]]\nvhid = 999\n[defaults]\n",
        'daemon.control_socket = "SOCKET"\n[defaults]\nadvbase = 1\n',
        'daemon = {control_socket = "SOCKET"}\n',
        '[defaults]\nxparam = """\n[x\n"""\n[daemon]\nodd = [\n[1]\n]\ncontrol_socket = "SOCKET"\n',
        '[daemon]\ncontrol_socket = "SOCKET"\n[[virtual_host]]\nthis is not TOML\n',
    ],
)
def test_control_socket_from_the_configuration(fake: FakeDaemon, tmp_path: Path, text: str) -> None:
    file = tmp_path / "carp-fast.toml"
    file.write_text(text.replace("SOCKET", str(fake.path)))
    result = invoke("status", "-c", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "eth0/7" in result.stdout


def test_control_socket_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    monkeypatch.setattr(terminal, "DEFAULT_CONFIGURATION", missing)
    monkeypatch.setattr(terminal, "DEFAULT_CONTROL_SOCKET", tmp_path / "default.sock")
    line = f"carp-fast: no carp-fast daemon at {tmp_path / 'default.sock'}: is it running?\n"
    assert invoke("status").stderr == line
    missing.write_text("this is not TOML")
    assert invoke("status").stderr == line
    missing.write_text("[daemon]\n")
    assert invoke("status", "-c", missing).stderr == line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file or directory"),
        ("this is not TOML", "Expected '=' after a key"),
        ("[daemon]\ncontrol_socket = 7\n", "daemon: control_socket = 7: not a path"),
        (b"\xff\xfe", "codec can't decode"),
    ],
)
def test_a_configuration_that_was_named_must_be_readable(
    tmp_path: Path, text: str | bytes | None, reason: str
) -> None:
    file = tmp_path / "carp-fast.toml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = invoke("status", "-c", file)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"carp-fast: {file}: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


# events


@contextmanager
def start(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command under way. What has not ended by itself is ended: its end would be waited for."""
    with subprocess.Popen(
        [*FAST, *map(str, arguments)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("as_json", [False, True])
def test_events_come_as_they_happen_and_ctrl_c_is_quiet(fake: FakeDaemon, as_json: bool) -> None:
    with start("events", "--control-socket", fake.path, *["--json"] * as_json) as process:
        assert process.stdout is not None
        fake.wait_for_subscribers(1)
        for published in (event(7), event(8, "INIT", "MASTER")):
            fake.publish(published)
            line = process.stdout.readline()
            if as_json:
                assert json.loads(line) == published
            else:
                assert line == (
                    f"2026-01-01T00:00:00.000Z eth0/{published['vhid']}: "
                    f"{published['previous']} -> {published['state']} (master_down)\n"
                )
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=DEADLINE_S) == ("", "")
        assert process.returncode == cli.INTERRUPTED


def test_events_end_with_the_daemon(fake: FakeDaemon) -> None:
    with start("events", "--control-socket", fake.path) as process:
        fake.wait_for_subscribers(1)
        fake.run(fake.server.stop())
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (1, "")
    assert err == f"carp-fast: the daemon at {fake.path} ended the connection\n"


def test_a_reader_that_leaves_is_no_failure(fake: FakeDaemon) -> None:
    with start("events", "--control-socket", fake.path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        fake.wait_for_subscribers(1)
        process.stdout.close()
        fake.publish(event(7))
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == ""
    fake.hosts = [host(f"v{n}", 1, "BACKUP") for n in range(5_000)]
    with start("status", "--control-socket", fake.path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == ""


def test_output_that_cannot_be_written_is_said(fake: FakeDaemon) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*FAST, "status", "--control-socket", str(fake.path)],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "carp-fast: standard output: No space left on device\n"


# reload


def test_reload_says_what_changed(fake: FakeDaemon) -> None:
    fake.reload_answer = {
        "changed": ["eth0/7: advskew 0 -> 100", "eth1/9: removed"],
        "added": 0,
        "removed": 1,
        "altered": 1,
        "keys": ["advskew"],
        "kept": 1019,
        "seconds": 0.1234,
    }
    result = invoke("reload", "--control-socket", fake.path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "eth0/7: advskew 0 -> 100",
        "eth1/9: removed",
        "virtual hosts: 0 added, 1 removed, 1 changed (advskew), 1,019 kept (0.12 s)",
    ]


def test_reload_by_a_daemon_that_does_not_count_changes_claims_none(fake: FakeDaemon) -> None:
    fake.reload_answer = {"changed": [], "added": 0, "removed": 1, "kept": 9, "seconds": 0.5}
    result = invoke("reload", "--control-socket", fake.path)
    assert result.stdout == "virtual hosts: 0 added, 1 removed, 9 kept (0.50 s)\n"


def test_reload_asks_for_force_only_where_it_is_given(fake: FakeDaemon) -> None:
    fake.reload_answer = {"changed": [], "added": 0, "removed": 0, "kept": 2, "seconds": 0}
    for options in ((), ("--force",)):
        assert invoke("reload", *options, "--control-socket", fake.path).exit_code == 0
    assert fake.requests == [{"command": "reload"}, {"command": "reload", "force": True}]


def test_reload_with_faults_is_a_line_each(fake: FakeDaemon) -> None:
    faults = ["a.toml: virtual_host[1]: vhid = 0: allowed: 1 to 255", "a.toml: defaults: x: y"]
    fake.reload_answer = ControlError("2 faults", faults)
    result = invoke("reload", "--control-socket", fake.path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == faults
    fake.reload_answer = ControlError("a reload is under way")
    result = invoke("reload", "--control-socket", fake.path)
    assert result.exit_code == 1
    assert result.stderr == "carp-fast: a reload is under way\n"


# demote and undemote


def test_demote_and_undemote_say_what_is_in_force(fake: FakeDaemon) -> None:
    given = ("--reason", "new switch", "--control-socket", fake.path)
    reasons = {"kernel update": 20, "new switch": 100}
    fake.demote_answer = {"total": 120, "reasons": reasons, "virtual_hosts": 1020}
    result = invoke("demote", "100", *given)
    assert (result.exit_code, result.stderr) == (0, "")
    how = "demoted by 120 (kernel update: 20; new switch: 100)"
    assert result.stdout == f"virtual hosts: 1,020, {how}\n"
    fake.demote_answer = {"total": 0, "reasons": {}, "virtual_hosts": 1}
    result = invoke("undemote", *given)
    assert result.stdout == "virtual hosts: 1, not demoted by the operator\n"
    assert fake.requests == [
        {"command": "demote", "amount": 100, "reason": "new switch"},
        {"command": "undemote", "reason": "new switch"},
    ]


def test_demote_and_undemote_of_a_group_name_it(fake: FakeDaemon) -> None:
    given = ("--reason", "disks", "--group", "lan", "--control-socket", fake.path)
    fake.demote_answer = {"total": 100, "reasons": {"disks": 100}, "virtual_hosts": 4}
    result = invoke("demote", "100", *given)
    assert result.stdout == "virtual hosts of group lan: 4, demoted by 100 (disks: 100)\n"
    fake.demote_answer = {"total": 0, "reasons": {}, "virtual_hosts": 4}
    assert invoke("undemote", *given).exit_code == 0
    assert fake.requests == [
        {"command": "demote", "amount": 100, "reason": "disks", "group": "lan"},
        {"command": "undemote", "reason": "disks", "group": "lan"},
    ]


@pytest.mark.parametrize(
    "words", [("demote", "100"), ("demote", "0", "--reason", "a"), ("demote", "256"), ("undemote",)]
)
def test_demote_without_an_amount_or_reason_is_wrong_usage(words: tuple[str, ...]) -> None:
    assert invoke(*words).exit_code == 2


def test_a_demotion_that_is_refused_is_one_line(fake: FakeDaemon) -> None:
    fake.demote_answer = ControlError("demote: N = 250: allowed: 1 to 240")
    result = invoke("demote", "250", "--reason", "a", "--control-socket", fake.path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "carp-fast: demote: N = 250: allowed: 1 to 240\n"
