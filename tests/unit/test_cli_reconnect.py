"""`events --reconnect`: goes on after restarts and upgrades, and names what it missed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from carp_fast.cli import events
from carp_fast.cli.main import INTERRUPTED
from carp_fast.control.protocol import BEHIND, NOT_PERMITTED, ControlError
from tests.support.answering import DEADLINE_S, FakeDaemon

EVENT = {
    "at": "2026-01-01T00:00:00.000Z",
    "interface": "eth0",
    "vhid": 7,
    "state": "MASTER",
    "previous": "BACKUP",
    "reason": "master_down",
    "peer": None,
}
LINE = "2026-01-01T00:00:00.000Z eth0/7: BACKUP -> MASTER (master_down)\n"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], FakeDaemon]]:
    """Starts a daemon at the same socket, each time that it is called."""
    every: list[FakeDaemon] = []

    def start() -> FakeDaemon:
        every.append(FakeDaemon(tmp_path / "control.sock"))
        return every[-1]

    yield start
    every[-1].stop()


@contextmanager
def reading(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "carp_fast", "events", "--reconnect", *arguments]
    with subprocess.Popen(
        [*command, "--control-socket", str(path)],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_events_go_on_after_a_restart_and_the_gap_is_named(
    started: Callable[[], FakeDaemon],
) -> None:
    daemon = started()
    path = daemon.path
    with reading(path) as process:
        daemon.wait_for_subscribers(1)
        daemon.publish(EVENT)
        assert line(process.stdout) == LINE
        daemon.stop()
        ended = f"the daemon at {path} ended the connection"
        assert line(process.stderr) == f"lost: {ended}; connecting again\n"
        # A client may still meet the former socket's last moments, with another reason.
        while "no carp-fast daemon" not in (waiting := line(process.stderr)):
            assert waiting.startswith("waiting: ")
        again = started()
        gap = line(process.stdout)
        assert line(process.stderr).startswith("connected again after ")
        again.wait_for_subscribers(1)
        again.publish(EVENT)
        assert line(process.stdout) == LINE
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=DEADLINE_S) == ("", "")
        assert process.returncode == INTERRUPTED
    at, word, since, why = _parts(gap)
    assert word == "gap"
    assert since < at
    assert why == f"{ended}\n"


def _parts(gap: str) -> tuple[str, str, str, str]:
    head, _, rest = gap.partition(": events since ")
    since, _, why = rest.partition(" are missing: ")
    at, word = head.split()
    return at, word, since, why


def test_an_upgrade_is_a_gap_in_json(started: Callable[[], FakeDaemon]) -> None:
    daemon = started()
    with reading(daemon.path, "--json") as process:
        daemon.wait_for_subscribers(1)
        daemon.pass_on("the daemon was upgraded: connect again", DEADLINE_S)
        gap = json.loads(line(process.stdout))
        daemon.wait_for_subscribers(1)
        daemon.publish(EVENT)
        assert json.loads(line(process.stdout)) == EVENT
    assert gap["gap"] == "the daemon was upgraded: connect again"
    assert sorted(gap) == ["at", "gap", "since"]
    assert gap["since"] <= gap["at"]


def test_without_a_daemon_at_first_it_fails(tmp_path: Path) -> None:
    with reading(tmp_path / "none") as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (1, "")
    assert err == f"carp-fast: no carp-fast daemon at {tmp_path / 'none'}: is it running?\n"


class Scripted:
    """A client whose streams and refusals are given; ends with KeyboardInterrupt."""

    def __init__(self, *script: list[Any] | ControlError) -> None:
        self.script = list(script)
        self.closed = 0

    def stream(self, *_: str, **__: bool) -> Scripted:
        if not self.script:
            raise KeyboardInterrupt
        first = self.script.pop(0)
        if isinstance(first, ControlError):
            raise first
        self.lines = first
        return self

    def next_event(self) -> dict[str, Any]:
        event = self.lines.pop(0)
        if isinstance(event, ControlError):
            raise event
        assert isinstance(event, dict)
        return event

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the time of day is a second later; no wait takes time."""
    seconds = iter(range(1_767_225_600, 1_767_226_600))
    monkeypatch.setattr(time, "time_ns", lambda: next(seconds) * 1_000_000_000)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def follow(client: Any) -> None:
    events._print_with_gaps(client, as_json=False)


@pytest.mark.usefixtures("clock")
def test_the_gap_of_a_slow_reader_begins_with_its_last_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    behind = ControlError("dropped: 3 are lost", code=BEHIND)
    client = Scripted([EVENT, EVENT, behind], [])
    with pytest.raises(IndexError):
        follow(client)
    *_, gap = capsys.readouterr().out.splitlines()
    assert gap == (
        "2026-01-01T00:00:03.000Z gap: events since 2026-01-01T00:00:02.000Z are missing:"
        " dropped: 3 are lost"
    )
    assert client.closed == 1


@pytest.mark.usefixtures("clock")
def test_a_reason_to_wait_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    none, full = ControlError("no daemon"), ControlError("no place", code="too_many_clients")
    client = Scripted([ControlError("ended")], none, none, none, full, full, none)
    with pytest.raises(KeyboardInterrupt):
        follow(client)
    assert capsys.readouterr().err.splitlines() == [
        "lost: ended; connecting again",
        "waiting: no daemon",
        "waiting: no place",
        "waiting: no daemon",
    ]


@pytest.mark.usefixtures("clock")
def test_a_daemon_that_does_not_permit_it_ends_the_wait() -> None:
    refused = ControlError("alice may not", code=NOT_PERMITTED)
    with pytest.raises(ControlError, match="alice may not"):
        follow(Scripted([ControlError("ended")], refused))
