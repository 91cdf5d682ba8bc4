"""The commands that need no running daemon: usage, run, check, secret, demo; exit codes."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import carp_fast.daemon
from carp_fast.cli import main as cli
from carp_fast.cli import terminal
from carp_fast.daemon import journal

DEADLINE_S = 60.0
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


# The group


def test_version_is_that_of_the_package() -> None:
    result = command("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"carp-fast {carp_fast.__version__}\n"


def test_help_names_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for name in ("run", "check", "status", "watch", "events", "reload", "secret", "dump"):
        assert re.search(rf"^  {name} +\w", result.output, re.MULTILINE), name
        assert invoke(name, "-h").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["stauts"],
        ["status", "--vhid", "256"],
        ["status", "--state", "LEADER"],
        ["status", "eth0"],
        ["run", "--log-format", "xml"],
        ["demo", "--instances", "1021"],
        ["demo", "--segments", "0"],
        ["secret", "key"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


def test_the_group_starts_without_what_only_commands_need() -> None:
    heavy = ("rich", "uvloop", "pyroute2", "cryptography", "msgspec", "asyncio", "carp_fast.config")
    code = f"import sys, carp_fast.cli.main; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


# check


def configuration(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "carp-fast.toml"
    file.write_text(text)
    file.chmod(0o600)
    return file


def test_check_prints_the_plan_and_touches_nothing(tmp_path: Path) -> None:
    file = configuration(
        tmp_path,
        f'[daemon]\ncontrol_socket = "{tmp_path / "made" / "control.sock"}"\n'
        'send = "packet"\nreceive = "packet"\n'
        '[defaults]\npassphrase = "k3Jx9QpL2mZt"\n'
        '[[virtual_host]]\ninterface = "carpless[1-2]"\nvhid = "1-200"\n'
        'addresses = "{10.0.0.1+index}"\n',
    )
    result = command("check", "-c", file)
    assert result.returncode == 0
    assert result.stderr == (
        f'warning: {file}:8: virtual_host[1]: interface = "carpless1": does not exist (nor do 1'
        " more of this table); its virtual hosts wait for it\n"
    )
    header, *rows = (re.split(r"  +", line) for line in result.stdout.splitlines())
    assert header[:4] == ["INTERFACE", "LINK", "VIRTUAL HOSTS", "ADVERTS/S"]
    assert [row[:4] for row in rows[:2]] == [
        ["carpless1", "missing", "200", "200.0"],
        ["carpless2", "missing", "200", "200.0"],
    ]
    assert rows[2] == ["total", "400", "400.0"]
    assert rows[3][0].startswith("recording: 4.0 MiB for the last 65,536 records")
    assert rows[4] == ['sent by: packet: daemon.send = "packet"']
    assert rows[5][0].startswith("not counted: protocol 112 of a VLAN or on another interface")
    assert "bad_ttl" in result.stdout
    assert list(tmp_path.iterdir()) == [file]
    assert "secret" not in result.stdout


def test_check_names_limits_and_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from carp_fast.daemon import limits, plan

    kernel = limits.Kernel(igmp_max_memberships=1)
    monkeypatch.setattr(plan, "read_kernel", lambda: kernel)
    file = configuration(
        tmp_path,
        '[defaults]\npassphrase = "k3Jx9QpL2mZt"\ndestination = "239.1.1.1"\n'
        '[[virtual_host]]\ninterface = ["carpless1", "carpless2"]\nvhid = 1\n'
        'addresses = "10.0.0.1/24"\n',
    )
    file.chmod(0o644)
    result = invoke("check", "-c", file)
    assert result.exit_code == 0
    last = result.stdout.splitlines()[-1]
    assert last.startswith("limit: net.ipv4.igmp_max_memberships: 2 IGMP memberships")
    assert result.stderr.startswith(f"warning: {file}:2: defaults: passphrase")
    assert result.stderr.count("\n") == 2
    quiet = invoke("check", "--quiet", "-c", file)
    assert (quiet.exit_code, quiet.stdout) == (0, "")
    assert quiet.stderr == f"{result.stderr}warning: {last}\n"


def test_check_names_every_fault_a_line_each(tmp_path: Path) -> None:
    file = configuration(
        tmp_path,
        '[defaults]\npassphrase = "k3Jx9QpL2mZt"\nadvskew = 255\n'
        '[[virtual_host]]\ninterface = "eth0"\nvhid = 0\naddresses = "10.0.0.1/24"\n',
    )
    result = command("check", "-c", file)
    assert (result.returncode, result.stdout) == (1, "")
    first, second = sorted(result.stderr.splitlines())
    assert re.match(rf"{re.escape(str(file))}:3: defaults: advskew = 255: .*254", first)
    assert re.match(rf"{re.escape(str(file))}:6: virtual_host\[1\]: vhid = 0: .*255", second)
    missing = tmp_path / "missing.toml"
    result = command("check", "-c", missing)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"{re.escape(str(missing))}: .*\n", result.stderr)


# secret


def test_secret_round_trip(tmp_path: Path) -> None:
    from carp_fast.config.secrets import decrypt, read_key

    key = tmp_path / "key"
    assert command("secret", "key", key).returncode == 0
    assert key.stat().st_mode & 0o777 == 0o600
    result = command("secret", "encrypt", "--key", key, input="pass phrase\n")
    assert (result.returncode, result.stderr) == (0, "")
    token, end = result.stdout[:-1], result.stdout[-1]
    assert end == "\n"
    assert decrypt(token, read_key(key)) == b"pass phrase"

    config = tmp_path / "carp-fast.toml"
    config.write_text(f'[daemon]\nsecret_key_file = "{key}"\n')
    result = command("secret", "encrypt", "-c", config, input="other")
    assert decrypt(result.stdout.strip(), read_key(key)) == b"other"


def test_secret_key_never_overwrites(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("precious")
    result = invoke("secret", "key", key)
    assert result.exit_code == 1
    assert result.stderr == f"carp-fast: {key}: exists already and is not overwritten\n"
    assert key.read_text() == "precious"


def test_secret_encrypt_says_why_not(tmp_path: Path) -> None:
    key = tmp_path / "key"
    result = invoke("secret", "encrypt", "--key", key, stdin="x\n")
    assert result.exit_code == 1
    assert result.stderr == f"carp-fast: {key}: cannot be read: No such file or directory\n"
    assert invoke("secret", "key", key).exit_code == 0
    result = invoke("secret", "encrypt", "--key", key, stdin="x" * 20 + "\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "20 bytes" in result.stderr
    assert "x" * 20 not in result.stderr
    config = tmp_path / "carp-fast.toml"
    config.write_text("[daemon]\n")
    result = invoke("secret", "encrypt", "-c", config, stdin="x\n")
    assert result.exit_code == 1
    assert f"give --key FILE, or set daemon.secret_key_file in {config}" in result.stderr


# run


class StartError(Exception):
    pass


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[types.SimpleNamespace]:
    """Stands in for carp_fast.daemon.run; what `run` changes in logging is put back.

    There is no journald.
    """
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "no-journal"))
    root = logging.getLogger()
    handlers, level, last_resort = root.handlers[:], root.level, logging.lastResort
    stand_in = types.SimpleNamespace(StartError=StartError, calls=[], result=0)

    def run(path: Path, pid_file: Path | None) -> int:
        stand_in.calls.append((path, pid_file))
        logging.getLogger("carp_fast.daemon.daemon").info("eth0/7: started")
        if isinstance(stand_in.result, Exception):
            raise stand_in.result
        return int(stand_in.result)

    stand_in.run = run
    monkeypatch.setattr(carp_fast.daemon, "run", stand_in, raising=False)
    yield stand_in
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.lastResort = last_resort


def test_run_hands_over(
    daemon: types.SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = invoke("run", "--log-format", "journal")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert capfd.readouterr().err == "<6>eth0/7: started\n"  # the log has the descriptor itself
    file, pid_file = tmp_path / "a.toml", tmp_path / "pid"
    daemon.result = 1
    result = invoke("run", "-c", file, "--pid-file", pid_file, "--log-level", "WARNING")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")
    assert capfd.readouterr().err == ""
    assert daemon.calls == [(terminal.DEFAULT_CONFIGURATION, None), (file, pid_file)]


def test_run_says_why_it_did_not_start(
    daemon: types.SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    from carp_fast.config.load import ConfigurationError, Fault

    quiet = ("run", "--log-level", "error", "--log-format")
    daemon.result = StartError("CAP_NET_RAW is missing")
    result = invoke(*quiet, "text")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "carp-fast: CAP_NET_RAW is missing\n"
    invoke(*quiet, "journal")
    assert capfd.readouterr().err == "<3>CAP_NET_RAW is missing\n"

    faults = (Fault("a.toml", "defaults", "x", "1", "no"), Fault("a.toml", None, None, None, "y"))
    daemon.result = ConfigurationError(faults)
    result = invoke(*quiet, "text")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "a.toml: defaults: x = 1: no\na.toml: y\n"
    result = invoke(*quiet, "json")
    assert [json.loads(line)["message"] for line in capfd.readouterr().err.splitlines()] == [
        "a.toml: defaults: x = 1: no",
        "a.toml: y",
    ]
    assert result.exit_code == 1


def test_run_leaves_rich_out_of_the_daemon() -> None:
    code = (
        "import sys, types, carp_fast.daemon\n"
        "stand_in = types.SimpleNamespace(StartError=OSError)\n"
        "stand_in.run = lambda path, pid_file: print([m for m in ('rich', 'pyroute2') "
        "if m in sys.modules]) or 0\n"
        "carp_fast.daemon.run = stand_in\n"
        "from carp_fast.cli.main import main\n"
        "main(['run'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


# demo


def test_demo_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run_demo(console: Any, instances: int, segments: int) -> int:
        calls.append((type(console).__name__, instances, segments))
        return 1

    monkeypatch.setitem(sys.modules, "carp_fast.lab.demo", types.SimpleNamespace(run_demo=run_demo))
    assert invoke("demo").exit_code == 1
    assert invoke("demo", "--instances", "10", "--segments", "1").exit_code == 1
    assert calls == [("Console", 1000, 4), ("Console", 10, 1)]
