"""Upgrades of running daemons: no role changes, no address is touched, no hook runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from carp_fast.control.protocol import UPGRADED, ControlError
from carp_fast.lab.lab import Lab, wait_for
from tests.support.daemons import start_daemon, write_configuration
from tests.support.recording import AddressChanges, Recording
from tests.support.upgradable import (
    ENDED_S,
    LATE_S,
    MASTER_DOWN,
    Pair,
    apart_s,
    gaps,
    held,
    refused,
    upgrade,
    upgrade_lab,
)

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="each path goes on in its own way")]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with upgrade_lab() as made:
        yield made


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Pair:
    return Pair(lab, tmp_path)


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


def test_a_changed_configuration_is_reloaded_after_the_upgrade(pair: Pair) -> None:
    pair.table = {**pair.table, "vhid": "2-4"}
    pair.write("a", advskew=7)
    status = upgrade(pair.master)
    assert status["daemon"]["upgrades"]["reload"].startswith("1 added, 1 removed, 2 changed")
    assert [each["vhid"] for each in status["virtual_hosts"]] == [4, 2, 3]
    assert {each["advskew"] for each in status["virtual_hosts"]} == {7}
    states = {each["vhid"]: each["state"] for each in status["virtual_hosts"]}
    assert (states[2], states[3]) == ("MASTER", "MASTER")


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


def test_a_successor_that_is_killed_or_hangs_leaves_the_former_one_as_it_was(pair: Pair) -> None:
    with AddressChanges(pair.lab["a"]) as changes:
        for point in OF_SUCCESSOR:
            for number in (signal.SIGKILL, signal.SIGSTOP):
                pair.arm(point, number)
                assert "the successor has" in str(refused(pair.master)), (point, number)
                pair.backup.wait_state("BACKUP", 15)
        assert changes.read() == []
    assert {each["state"] for each in pair.master.status()["virtual_hosts"]} == {"MASTER"}
    assert pair.backup.log_lines("-> MASTER") == []
    pair.disarm()
    upgrade(pair.master)


def test_a_former_one_that_is_killed_before_the_commit_leaves_no_successor(pair: Pair) -> None:
    for point in OF_FORMER:
        pair.arm(point, signal.SIGKILL)
        killed, other = pair.master.host, pair.backup.host
        with Recording(other) as recording:
            with pytest.raises(ControlError):
                pair.master.client.upgrade()
            pair.master.process.wait(ENDED_S)
            pair.backup.wait_state("MASTER", 10)
            wait_for(partial(recording.heard, other), 10, "an advertisement of the other host")
            frames = recording.frames()
            taken_over_ns = min(f.at_ns for f in frames if f.source == other.address(1))
            assert all(f.at_ns < taken_over_ns for f in frames if f.source == killed.address(1))
        pair.start_again()
        pair.backup.wait_state("BACKUP", 30)
        assert not held(killed), "what a crash leaves is removed at the start"


def test_a_successor_that_is_killed_after_the_commit_is_a_crash_and_locks_are_free(
    pair: Pair,
) -> None:
    pair.arm("successor: committed", signal.SIGKILL)
    pair.master.client.upgrade()
    pair.master.process.wait(ENDED_S)
    pair.backup.wait_state("MASTER", 10)
    assert held(pair.lab["a"]), "as after any crash"
    pair.start_again()
    pair.backup.wait_state("BACKUP", 30)
    assert not held(pair.lab["a"])
    assert not pair.backup.log_lines("in_use")


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
