"""Upgrades of running daemons: no role changes, no address is touched, no hook runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from carp_fast import __version__
from carp_fast.control.protocol import UPGRADED, ControlError
from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.programs import script
from tests.support.recording import AddressChanges, Recording
from tests.support.upgrade_points import POINT, SIGNAL

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="each path goes on in its own way")]

POINTS = ("-m", "tests.support.upgrade_points")
ENDED_S = 20.0
# Of what the two processes do one after the other on a machine that is busy with other tests.
LATE_S = 3.0
MASTER_DOWN = {"advbase": 1, "dead_ratio": 3}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("carp-fast-upgrade", segments=1) as made:
        yield made
        for host in made.hosts:  # successors are not children of this process
            listed = subprocess.run(
                ["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True
            )
            for pid in listed.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


class Pair:
    """A master on host a and a backup on host b; hooks write lines into `hooks`.

    `armed`: a point of an upgrade, and the signal that the master, or its successor, gets there.
    """

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        vhids: str = "1-3",
        armed: tuple[str, signal.Signals] | None = None,
    ) -> None:
        self.lab = lab
        self.directory = directory
        self.hooks = directory / "hooks"
        self.hooks.touch()
        body = f'echo "$CARP_VHID $CARP_STATE" >> {self.hooks}'
        hook = script(directory / "hook", body)
        self.vhids = vhids
        self.table: dict[str, Any] = {
            "interface": "s1",
            "vhid": vhids,
            "addresses": ["10.1.1.{vhid}/32"],
            "up": hook,
            "down": hook,
        }
        for name, advskew in (("a", 0), ("b", 100)):
            self.write(name, advskew=advskew)
        environment = {} if armed is None else {POINT: armed[0], SIGNAL: str(int(armed[1]))}
        self.master = self.started("a", **environment)
        self.master.wait_state("MASTER", 30)
        self.backup = self.started("b")
        self.backup.wait_state("BACKUP", 30)
        wait_for(lambda: self.hooks.read_text().count("MASTER") == self.count, 30, "the up hooks")

    @property
    def count(self) -> int:
        return int(self.vhids.partition("-")[2])

    def write(self, name: str, **defaults: Any) -> Path:
        keys = {**MASTER_DOWN, **defaults}
        return write_configuration(self.directory, name, [self.table], defaults=keys)

    def started(self, name: str, **environment: str) -> RunningDaemon:
        return start_daemon(
            self.lab[name],
            self.directory / f"{name}.toml",
            program=(sys.executable, *POINTS),
            env={"PYTHONPATH": str(Path(__file__).parent.parent.parent), **environment},
        )


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Pair:
    return Pair(lab, tmp_path)


def upgrade(daemon: RunningDaemon) -> dict[str, Any]:
    """Upgrades, and returns the status of the successor once it has reloaded."""
    done = daemon.client.upgrade()
    assert (done.version, done.from_version) == (__version__, __version__)
    found: list[dict[str, Any]] = []

    def reloaded() -> bool:
        status = daemon.status()
        found[:] = [status]
        upgrades = status["daemon"]["upgrades"]
        return upgrades is not None and upgrades["reload"] is not None

    wait_for(reloaded, ENDED_S, "the reload after the upgrade")
    assert found[0]["daemon"]["pid"] == done.pid
    return found[0]


def apart_s(one: str, other: str) -> float:
    """How far two times of a status are apart."""
    first, second = (datetime.fromisoformat(each) for each in (one, other))
    return abs((first - second).total_seconds())


def gaps(frames: list[Any], source: str) -> float:
    """The longest time between two advertisements of a virtual host, in s."""
    last: dict[int, int] = {}
    longest = 0
    for frame in frames:
        if frame.source == source:
            longest = max(longest, frame.at_ns - last.get(frame.vhid, frame.at_ns))
            last[frame.vhid] = frame.at_ns
    return longest / 1e9


@pytest.mark.parametrize("vhids", ["1-1", "1-255"])
def test_upgrades_of_master_and_backup_in_a_row_change_nothing(
    lab: Lab, tmp_path: Path, vhids: str, record_property: Any
) -> None:
    pair = Pair(lab, tmp_path, vhids)
    hooks = pair.hooks.read_text()
    with (
        Recording(lab["b"]) as recording,
        AddressChanges(lab["a"]) as of_master,
        AddressChanges(lab["b"]) as of_backup,
        contextlib.ExitStack() as opened,
    ):
        streams = [opened.enter_context(each.events()) for each in (pair.master, pair.backup)]
        before = [pair.master.status(), pair.backup.status()]
        for number in range(1, 4):
            for place, daemon in enumerate((pair.master, pair.backup)):
                after = upgrade(daemon)
                with pytest.raises(ControlError) as ended:  # and no event before
                    streams[place].next_event(ENDED_S)
                assert ended.value.code == UPGRADED
                streams[place] = opened.enter_context(daemon.events())
                role = ("MASTER", "BACKUP")[place]
                assert {each["state"] for each in after["virtual_hosts"]} == {role}
                assert after["daemon"]["upgrades"]["count"] == number
                started = [each["daemon"]["started_at"] for each in (after, before[place])]
                assert apart_s(*started) < 1
                for was, now in zip(
                    before[place]["virtual_hosts"], after["virtual_hosts"], strict=True
                ):
                    assert apart_s(now["since"], was["since"]) < 1, "the wall clock is adjusted"
                    assert now["addresses_held"] == was["addresses_held"]
                    for word, count in was["counters"].items():
                        assert now["counters"][word] >= count, word
                before[place] = after
                record_property("still_s", after["daemon"]["upgrades"]["still_s"])
        assert of_master.read() == []
        assert of_backup.read() == []
        frames = recording.frames()
    assert {frame.source for frame in frames} == {lab["a"].address(1)}
    assert not any(frame.resigned for frame in frames)
    longest = gaps(frames, lab["a"].address(1))
    record_property("longest_gap_s", longest)
    assert longest < LATE_S
    assert pair.hooks.read_text() == hooks
    for daemon in (pair.master, pair.backup):
        assert not daemon.log_lines("Traceback|CRITICAL")
        os.kill(daemon.status()["daemon"]["pid"], signal.SIGTERM)


def test_the_successor_resigns_when_it_is_stopped(pair: Pair) -> None:
    upgrade(pair.master)
    assert pair.master.process.wait(ENDED_S) == 0, "the former process has ended"
    os.kill(pair.master.status()["daemon"]["pid"], signal.SIGTERM)
    pair.backup.wait_state("MASTER", 10)
    wait_for(lambda: not held(pair.lab["a"]), 10, "no address is left on host a")
    assert not pair.master.control_socket.exists()


def held(host: Host) -> set[tuple[str, str]]:
    return {each for each in host.addresses() if each[1].startswith("10.1.1.")}


def test_a_changed_configuration_is_reloaded_after_the_upgrade(pair: Pair) -> None:
    pair.table = {**pair.table, "vhid": "2-4"}
    pair.write("a", advskew=7)
    status = upgrade(pair.master)
    assert status["daemon"]["upgrades"]["reload"].startswith("1 added, 1 removed, 2 changed")
    assert [each["vhid"] for each in status["virtual_hosts"]] == [4, 2, 3]
    assert {each["advskew"] for each in status["virtual_hosts"]} == {7}
    states = {each["vhid"]: each["state"] for each in status["virtual_hosts"]}
    assert (states[2], states[3]) == ("MASTER", "MASTER")


def refused(daemon: RunningDaemon) -> ControlError:
    before = daemon.status()
    with pytest.raises(ControlError) as caught:
        daemon.client.upgrade()
    after = daemon.status()
    assert after["daemon"]["pid"] == before["daemon"]["pid"]
    states = [each["state"] for each in after["virtual_hosts"]]
    assert states == [each["state"] for each in before["virtual_hosts"]]
    return caught.value


def test_a_configuration_that_is_faulty_now_is_shown_and_nothing_changes(pair: Pair) -> None:
    path = pair.directory / "a.toml"
    text = path.read_text()
    path.write_text(text.replace("advbase = 1", "advbase = 0").replace("dead_ratio", "dead_ration"))
    error = refused(pair.master)
    assert str(error).startswith("upgrade: prepare: ")
    assert str(error).endswith("; the daemon goes on")
    assert len(error.faults) == 2
    path.write_text(text)
    upgrade(pair.master)


def test_a_second_upgrade_during_one_is_refused(lab: Lab, tmp_path: Path) -> None:
    pair = Pair(lab, tmp_path)
    path = pair.directory / "a.toml"
    waiting = tmp_path / "fifo.toml"
    os.mkfifo(waiting, 0o600)
    path.write_text('include = ["fifo.toml"]\n' + path.read_text())  # its reader waits
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pair.master.client.upgrade)
        pair.master.wait_log("upgrade: a successor is started", ENDED_S)
        assert "upgrade: one is under way already, in prepare" in str(refused(pair.master))
        with pytest.raises(ControlError, match="an upgrade is under way"):
            pair.master.reload()
        os.kill(pair.master.process.pid, signal.SIGTERM)
        with pytest.raises(ControlError):
            first.result(ENDED_S)
    assert pair.master.process.wait(ENDED_S) == 0
    pair.backup.wait_state("MASTER", 10)


# The points at which either process may be killed, and whether the former one then goes on.
OF_SUCCESSOR = ["successor: ready", "successor: has the state", "successor: has assumed it"]
OF_FORMER = [
    "upgrade: phase prepare",
    "upgrade: phase freeze",
    "upgrade: phase transfer",
    "upgrade: the state is written",
    "upgrade: phase commit",
]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("point", OF_SUCCESSOR)
def test_a_successor_that_is_killed_or_hangs_leaves_the_former_one_as_it_was(
    lab: Lab, tmp_path: Path, point: str, number: signal.Signals
) -> None:
    pair = Pair(lab, tmp_path, armed=(point, number))
    with AddressChanges(lab["a"]) as changes:
        error = refused(pair.master)
        assert "the successor has" in str(error)
        assert changes.read() == []
    assert {each["state"] for each in pair.master.status()["virtual_hosts"]} == {"MASTER"}
    pair.backup.wait_state("BACKUP", 15)
    assert pair.backup.log_lines("-> MASTER") == []


@pytest.mark.parametrize("point", OF_FORMER)
def test_a_former_one_that_is_killed_before_the_commit_leaves_no_successor(
    lab: Lab, tmp_path: Path, point: str
) -> None:
    pair = Pair(lab, tmp_path, armed=(point, signal.SIGKILL))
    with Recording(lab["b"]) as recording:
        with pytest.raises(ControlError):
            pair.master.client.upgrade()
        pair.master.process.wait(ENDED_S)
        pair.backup.wait_state("MASTER", 10)
        wait_for(lambda: recording.frames(lab["b"].address(1)), 10, "an advertisement of host b")
        frames = recording.frames()
        taken_over_ns = min(f.at_ns for f in frames if f.source == lab["b"].address(1))
        assert all(f.at_ns < taken_over_ns for f in frames if f.source == lab["a"].address(1))
    again = pair.started("a")
    again.wait_state("BACKUP", 30)
    assert not held(lab["a"]), "what a crash leaves is removed at the start"


def test_a_successor_that_is_killed_after_the_commit_is_a_crash_and_locks_are_free(
    lab: Lab, tmp_path: Path
) -> None:
    pair = Pair(lab, tmp_path, armed=("successor: committed", signal.SIGKILL))
    pair.master.client.upgrade()
    pair.master.process.wait(ENDED_S)
    pair.backup.wait_state("MASTER", 10)
    assert held(lab["a"]), "as after any crash"
    again = pair.started("a")
    again.wait_state("BACKUP", 30)
    assert not held(lab["a"])
    assert not again.log_lines("in_use")


def test_a_second_daemon_finds_every_virtual_host_in_use_during_upgrades(
    lab: Lab, tmp_path: Path
) -> None:
    pair = Pair(lab, tmp_path)
    other = write_configuration(tmp_path, "other", [pair.table], defaults=MASTER_DOWN)
    second = start_daemon(lab["a"], other)
    for _ in range(2):
        upgrade(pair.master)
        states = {(each["state"], each["reason"]) for each in second.status()["virtual_hosts"]}
        assert states == {("INIT", "in_use")}
    assert not second.log_lines("no longer in_use")
