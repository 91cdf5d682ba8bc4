"""Upgrades of daemons that are not root any more: their helpers start the successors."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from carp_fast.control.protocol import ControlError
from carp_fast.lab.lab import wait_for
from tests.support.dropped import EVERYTHING, USER, assert_dropped, public_python, with_usual_user
from tests.support.processes import children, helper_of, wait_stopped
from tests.support.programs import assert_gone
from tests.support.recording import AddressChanges, Recording
from tests.support.upgradable import (
    ENDED_S,
    LATE_S,
    Pair,
    gaps,
    held,
    pid_of,
    processes_of,
    refused,
    reloaded,
    upgrade,
    upgrade_lab,
)
from tests.support.upgrade_points import PATIENT
from tests.support.users import public_directory

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="each path goes on in its own way")]

OTHER = "bin"  # another user of every distribution
WITHOUT_KILL = ("setpriv", "--bounding-set=-kill")  # as in the unit
WITHOUT_HELPER = "cannot start a successor: the privileged helper has ended; the daemon goes on"
# In their order, once the helper has started the successor.
OF_BOTH = [
    "successor: ready",
    "upgrade: phase freeze",
    "upgrade: phase transfer",
    "upgrade: the state is written",
    "successor: has the state",
    "successor: has assumed it",
    "upgrade: phase commit",
    "upgrade: committed",
    "successor: committed",
]


@pytest.fixture
def made() -> Iterator[Callable[..., Pair]]:
    """Makes a pair of daemons that have become USER."""
    with public_directory() as directory, upgrade_lab() as lab:

        def make(
            before: tuple[str, ...] = (), user: str | None = USER.pw_name, **keys: Any
        ) -> Pair:
            usual = with_usual_user(directory) if user is None else ()
            words = (*public_python(), *usual, *before)
            return Pair(lab, directory, user=user, before=words, **keys)

        yield make


def test_successors_become_the_user_and_their_programs_run_as_root(
    made: Callable[..., Pair],
) -> None:
    pair = made()
    a = pair.lab["a"]
    hooks = pair.hooks.read_text()
    assert all(line.endswith(" 0") for line in hooks.splitlines()), "root's"
    with Recording(pair.lab["b"]) as recording, AddressChanges(a) as changes:
        former = [pid_of(pair.master), helper_of(pid_of(pair.master))]
        for number in range(1, 4):  # each right after the one before
            done = pair.master.client.upgrade()
            for pid in former:
                assert_gone(pid)
            former = [done.pid, helper_of(done.pid)]
            status = reloaded(pair.master, done.pid)
            assert status["daemon"]["upgrades"]["count"] == number
            assert status["daemon"]["helper"] == "running"
            assert {each["state"] for each in status["virtual_hosts"]} == {"MASTER"}
            assert_dropped(done.pid, EVERYTHING, [USER.pw_gid])
        assert changes.read() == []
        frames = recording.frames()
    assert {frame.source for frame in frames} == {a.address(1)}
    assert not any(frame.resigned for frame in frames)
    assert gaps(frames, a.address(1)) < LATE_S
    assert pair.hooks.read_text() == hooks
    assert pair.master.process.wait(ENDED_S) == 0
    confined = [len(pair.master.log_lines(each)) for each in ("confined by Landlock", "became ")]
    assert confined[0] in (0, confined[1])

    # Its hooks are in the helper's table, and so are those that a reload brings.
    pair.table = {**pair.table, "vhid": "1-4"}
    pair.write("a", advskew=0)
    assert pair.master.reload()["added"] == 1
    pair.master.wait_state("MASTER", 15, [("s1", 4)])
    wait_for(lambda: "4 MASTER 0" in pair.hooks.read_text(), ENDED_S, "the up hook")
    os.kill(done.pid, signal.SIGTERM)
    for pid in former:
        assert_gone(pid)
    pair.backup.wait_state("MASTER", 15)
    assert not held(a)
    assert not pair.master.control_socket.exists()
    downs = {line for line in pair.hooks.read_text().splitlines() if "INIT" in line}
    assert downs == {f"{vhid} INIT 0" for vhid in range(1, 5)}
    assert not pair.master.log_lines("Traceback|CRITICAL|ERROR")


def test_the_files_decide_what_a_successor_becomes_and_an_upgrade_does_not_change_it(
    made: Callable[..., Pair],
) -> None:
    """Here of a daemon that became the usual user by default."""
    pair = made(user=None)
    hooks = pair.hooks.read_text()
    hosts, functions = pair.table, {**pair.table, "up": "json:loads"}
    other = f"the daemon is uid {USER.pw_uid}, and with the configuration as it is now it would be"
    with AddressChanges(pair.lab["a"]) as changes:
        for table, user, why in (
            (hosts, "root", f"{other} root"),
            (hosts, OTHER, f"{other} {OTHER}"),
            (functions, None, "with the configuration as it is now a daemon stays root"),
            (hosts, "no-such-user", 'user = "no-such-user"'),
        ):
            pair.table = table
            pair.write("a", daemon={"user": user}, advskew=0)
            error = str(refused(pair.master))
            assert error.startswith("upgrade: prepare: ")
            assert why in error
        assert pair.master.control_socket.parent.stat().st_uid == USER.pw_uid, "not given away"
        pair.table = hosts
        moved = str(pair.directory / "other-state")
        pair.write("a", daemon={"state_directory": moved}, advskew=0)
        error = str(refused(pair.master))
        assert "prepare: daemon.state_directory: not as they were applied" in error
        pair.master.reload()
        upgrade(pair.master)
        assert changes.read() == []
    assert pair.hooks.read_text() == hooks


def test_a_successor_that_fails_is_ended_without_cap_kill(made: Callable[..., Pair]) -> None:
    pair = made(WITHOUT_KILL)
    helper = helper_of(pid_of(pair.master))
    with AddressChanges(pair.lab["a"]) as changes:
        for number, why in (
            (signal.SIGSTOP, "the successor has not answered within 1 s"),
            (signal.SIGKILL, "the successor has ended: killed by SIGKILL"),
        ):
            pair.arm("successor: has assumed it", number)
            assert why in str(refused(pair.master))
            wait_for(lambda: children(helper) == [], ENDED_S, "the end of the successor")
        assert changes.read() == []
    assert pair.backup.log_lines("-> MASTER") == []
    pair.disarm()
    status = upgrade(pair.master)
    assert {each["state"] for each in status["virtual_hosts"]} == {"MASTER"}


class Stopping:
    """Upgrades of a master during which a helper is killed while one of the processes stands still.

    The backup waits for long enough.
    """

    def __init__(self, made: Callable[..., Pair]) -> None:
        self.pair = made(environment={PATIENT: "1"}, backup={"dead_ratio": 100})

    def upgraded(self, point: str, *, of_successor: bool = False) -> int:
        """Kills the old or the new helper at this point of an upgrade; returns the new pid."""
        pair, pid = self.pair, pid_of(self.pair.master)
        helper = helper_of(pid)
        pair.arm(point, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(pair.master.client.upgrade)
            wait_for(lambda: bool(children(helper)), ENDED_S, "a successor")
            (successor,) = children(helper)
            stopped = successor if point.startswith("successor") else pid
            wait_stopped(stopped)
            pair.disarm()
            with contextlib.suppress(ProcessLookupError):  # one has ended with the commit
                os.kill(helper_of(successor) if of_successor else helper, signal.SIGKILL)
            os.kill(stopped, signal.SIGCONT)
            assert done.result(ENDED_S).pid == successor
        return successor


def test_an_upgrade_goes_on_if_a_helper_is_killed_and_fails_without_one(
    made: Callable[..., Pair],
) -> None:
    stopping = Stopping(made)
    pair = stopping.pair
    hooks = pair.hooks.read_text()
    with AddressChanges(pair.lab["a"]) as changes:
        for point in OF_BOTH:
            status = reloaded(pair.master, stopping.upgraded(point))
            assert status["daemon"]["helper"] == "running", point
            assert {each["state"] for each in status["virtual_hosts"]} == {"MASTER"}
        pid = stopping.upgraded("successor: has assumed it", of_successor=True)
        pair.master.wait_log("the privileged helper has ended .killed by SIGKILL", ENDED_S)
        assert WITHOUT_HELPER in str(refused(pair.master))
        assert pid_of(pair.master) == pid
        assert changes.read() == []
    assert pair.hooks.read_text() == hooks
    assert pair.backup.log_lines("-> MASTER") == []

    # And one that is killed with the request for a successor unread.
    helper = helper_of(pid_of(pair.backup))
    os.kill(helper, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(refused, pair.backup)
        pair.backup.wait_log("upgrade: phase prepare", ENDED_S)
        os.kill(helper, signal.SIGKILL)
        assert WITHOUT_HELPER in str(done.result(ENDED_S))
    assert {each["state"] for each in pair.backup.status()["virtual_hosts"]} == {"BACKUP"}


def test_both_processes_of_a_former_one_that_is_killed_leave_no_successor(
    made: Callable[..., Pair],
) -> None:
    pair = made()
    helper = helper_of(pid_of(pair.master))
    pair.arm("upgrade: phase commit", signal.SIGKILL)
    with pytest.raises(ControlError):
        pair.master.client.upgrade()
    pair.backup.wait_state("MASTER", 15)
    assert_gone(helper)
    wait_for(lambda: not processes_of(pair.lab["a"]), ENDED_S, "the end of the successor")
    pair.start_again()
    pair.backup.wait_state("BACKUP", 30)
    assert not held(pair.lab["a"])
