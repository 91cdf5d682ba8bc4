"""The command `watch` on a terminal and in a pipe, with a daemon that goes away and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import carp_fast
from carp_fast.control.overview import Overview
from carp_fast.control.protocol import ControlError
from tests.support.answering import DEADLINE_S, FakeDaemon
from tests.support.asked import Asked
from tests.support.emulated import OnTerminal
from tests.support.overviews import change, interface, overview, problem

FAST = [sys.executable, "-m", "carp_fast", "watch", "--control-socket"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent),
    "LC_ALL": "C.UTF-8",
}
ETH = [interface("eth0", 255), interface("eth1", 0, 252, 3)]
PROBLEMS = [problem("eth1/7", "INIT (link_down)")]


def answer(found: Overview) -> dict[str, Any]:
    return {"ok": True, "overview": msgspec.to_builtins(found)}


def explanation() -> dict[str, Any]:
    asked = Asked()
    asked.hear("10.77.0.3", advskew=150)
    return {"ok": True, "explain": msgspec.to_builtins(asked.document())}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def serve(path: Path, *found: Overview) -> FakeDaemon:
    fake = FakeDaemon(path)
    fake.answers = {
        "overview": [answer(each) for each in found],
        "explain": [explanation()],
    }
    return fake


@pytest.fixture
def fake(path: Path) -> Iterator[FakeDaemon]:
    daemon = serve(path, overview(ETH, PROBLEMS, [change("eth0/9", 1)]))
    yield daemon
    daemon.stop()


def on_terminal(path: Path, *options: str, **size: int) -> OnTerminal:
    return OnTerminal([*FAST, str(path), *options], ENVIRONMENT, **size)


def test_it_fills_a_terminal_follows_keys_and_sizes_and_restores_it(fake: FakeDaemon) -> None:
    with on_terminal(fake.path) as shown:
        lines = shown.until_shown("q quit")
        assert lines[0].startswith("alpha  12:00:31 UTC  carp-fast 0.1.0, pid 4711")
        assert lines[1] == "510 virtual hosts: 255 MASTER, 252 BACKUP, 3 INIT"
        assert lines[2].startswith("── problems: 1 (1 INIT) ─")
        assert "eth1/7  INIT" in lines[3]
        assert lines[4].startswith("── interfaces: 2, by problems ─")
        assert lines[6].startswith("eth1 ")
        assert shown.screen.alternate
        shown.type("sss")
        shown.until_shown("by backup")
        shown.type("/eth0")
        shown.until_shown("interfaces: 1 of 2")
        shown.type("\x1b")
        shown.until_shown("interfaces: 2, by backup")
        shown.resize(200, 50)
        wide = shown.until(lambda lines: lines[-1].endswith("e explain IF/VHID"))
        assert len(wide[2]) == 200
        shown.resize(60, 12)
        shown.until(lambda lines: lines[-1].startswith("q quit") and len(lines[2]) == 60)
        shown.type("e10.77/42\r")  # the answer is about another one
        shown.until_shown("virtual host eth0/42")
        shown.type("\x1b[6~")
        shown.until(lambda lines: "virtual host eth0/42" not in lines)
        shown.type("\x1b")
        shown.until_shown("by backup")
        shown.type("q")
        assert shown.ends() == 0
        assert not shown.screen.alternate
        assert termios.tcgetattr(shown.follower) == shown.before


def test_it_waits_for_a_daemon_that_goes_away(path: Path) -> None:
    fake = serve(path, overview(ETH, changes=7))
    with on_terminal(path) as shown:
        shown.until_shown("255 MASTER")
        fake.stop()
        lines = shown.until_shown("no carp-fast daemon at")
        assert "255 MASTER" in "\n".join(lines)
        fake = serve(path, overview(pid=4712, changes=1, last=[change("eth7/1", 5)]))
        try:
            shown.until_shown("eth7/1")
            assert "no carp-fast daemon" not in "\n".join(shown.screen.text)
            assert {"command": "overview", "since": 7} in fake.requests
            assert {"command": "overview"} in fake.requests
            shown.type("e eth0 1\r")
            shown.until_shown("virtual host eth0/42")
            fake.answers["explain"] = [ControlError("eth0 has no virtual host 1")]
            shown.until_shown("eth0 has no virtual host 1")
        finally:
            fake.stop()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_restore_the_terminal(fake: FakeDaemon, number: signal.Signals, code: int) -> None:
    with on_terminal(fake.path) as shown:
        shown.until_shown("q quit")
        shown.process.send_signal(number)
        assert shown.ends() == code
        assert not shown.screen.alternate
        assert termios.tcgetattr(shown.follower) == shown.before


def test_it_gives_the_terminal_back_while_it_is_stopped(fake: FakeDaemon) -> None:
    with on_terminal(fake.path) as shown:
        shown.until_shown("q quit")
        shown.process.send_signal(signal.SIGTSTP)
        shown.until(lambda lines: not shown.screen.alternate)
        stopped = os.waitid(os.P_PID, shown.process.pid, os.WSTOPPED)
        assert stopped is not None
        assert termios.tcgetattr(shown.follower) == shown.before
        shown.screen.resize(80, 24)
        shown.process.send_signal(signal.SIGCONT)
        shown.until_shown("q quit")
        assert shown.screen.alternate
        shown.type("q")
        assert shown.ends() == 0


def test_without_colours_nothing_but_bold_dim_and_reverse_is_used(fake: FakeDaemon) -> None:
    codes: set[str] = set()
    environment = {**ENVIRONMENT, "NO_COLOR": "1"}
    with OnTerminal([*FAST, str(fake.path)], environment) as shown:
        obey = shown.screen._obey

        def note(given: str, final: str) -> None:
            if final == "m":
                codes.add(given)
            obey(given, final)

        shown.screen._obey = note  # type: ignore[method-assign]
        shown.until_shown("q quit")
    assert codes <= {"0", "1", "2", "7"}


def test_no_daemon_at_the_beginning_is_a_failure_and_leaves_the_terminal_alone(path: Path) -> None:
    with on_terminal(path) as shown:
        shown.until_shown("no carp-fast daemon at")
        assert shown.ends() == 1
        assert not shown.screen.alternate


def test_a_pipe_gets_lines_and_errors_are_on_stderr(path: Path) -> None:
    later = overview(ETH, last=[change("eth0/8", 5)], changes=2)
    fake = serve(path, overview(ETH, PROBLEMS, changes=1), later)
    process = subprocess.Popen(
        [*FAST, str(path), "--filter", "eth0"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        at = later.at
        assert process.stdout.readline() == (
            f"{at} eth0: 255 virtual hosts: 255 MASTER, 0 BACKUP, 0 INIT\n"
        )
        assert process.stdout.readline() == (
            "2027-01-15T12:00:05.123Z eth0/8: BACKUP -> MASTER (master_down)\n"
        )
        fake.stop()
        assert process.stderr.readline() == (
            f"carp-fast: no carp-fast daemon at {path}: is it running?; tried again every 1 s\n"
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert process.stdout.read() == process.stderr.read() == ""
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        process.stdout.close()
        process.stderr.close()


def test_lines_can_be_had_on_a_terminal(fake: FakeDaemon) -> None:
    with on_terminal(fake.path, "--lines", columns=200) as shown:
        lines = shown.until_shown("problem of eth1/7: INIT (link_down)")
        assert not shown.screen.alternate
        assert lines[0].endswith(
            "alpha: 510 virtual hosts: 255 MASTER, 252 BACKUP, 3 INIT; problems: 1 INIT"
        )
