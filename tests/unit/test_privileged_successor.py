"""Successors that the privileged helper starts: what they are told, what is refused, their end."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from carp_fast.daemon.upgrade_messages import FROM_NEW, Ready, UpgradeError
from carp_fast.daemon.upgrade_process import start_by_helper
from carp_fast.privileged import messages, start
from carp_fast.privileged.client import PrivilegedHelper
from carp_fast.privileged.messages import Begun, Exited, Failed, Kill, Succeed
from carp_fast.privileged.server import SUCCESSORS_MAX
from carp_fast.privileged.start import AS_USER_VARIABLE, CHANNEL_VARIABLE
from carp_fast.programs import channel as channels
from carp_fast.programs.channel import Channel
from carp_fast.programs.packets import close_all
from tests.support.followed import open_descriptors
from tests.support.privileged import DEADLINE_S, Asked
from tests.support.programs import assert_gone, run, until

ROOT = Path(__file__).parent.parent.parent
# Tells through its channel what it was started with, and waits.
TELLING = """
import json, os, signal, sys
from carp_fast.daemon.upgrade_messages import FROM_OLD, Ready
from carp_fast.programs.channel import Channel
channel = Channel.from_descriptor(int(os.environ["CARP_FAST_SUCCEEDS"]), FROM_OLD)
opened = sorted(os.listdir("/proc/self/fd"))
told = dict(os.environ), sys.argv[1:], os.getcwd(), os.getsid(0), opened
channel.send_now(Ready(json.dumps(told)), within_s=30)
signal.pause()
"""
WAITING = [sys.executable, "-c", "import signal; signal.pause()"]


def begun(helper: Asked, handle: int) -> tuple[int, int]:
    """The pid and the pidfd of a successor that has begun."""
    received = helper.reply()
    assert received is not None
    reply, (pidfd,) = received
    assert isinstance(reply, Begun)
    assert reply.handle == handle
    return reply.pid, pidfd


def ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(DEADLINE_S * 1000))


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ours, theirs = channels.pair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("watched", [True, False])
def test_a_successor_is_the_daemons_own_command_line_again(
    watched: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: Any
) -> None:
    ours, theirs = ends
    watchdog = {"WATCHDOG_USEC": "7", "WATCHDOG_PID": str(os.getpid() if watched else 1)}
    for name, value in {"OWN": "2", CHANNEL_VARIABLE: "99", **watchdog}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with Asked(again=[sys.executable, "-c", TELLING, "run", "-c", "\udcff"]) as helper:
        monkeypatch.setenv("OWN", "of later")
        helper.ask(Succeed(1), theirs.fileno())
        pid, pidfd = begun(helper, 1)
        with Channel(ours, FROM_NEW) as channel:
            ready = channel.receive_now(Ready, within_s=DEADLINE_S).message
        variables, arguments, directory, session, descriptors = json.loads(ready.version)
        assert (arguments, directory) == (["run", "-c", "\udcff"], str(tmp_path))
        assert session == os.getsid(0)
        assert variables["OWN"] == "2"
        assert variables[AS_USER_VARIABLE] == "1"
        assert "WATCHDOG_PID" not in variables
        assert ("WATCHDOG_USEC" in variables) is watched
        assert set(descriptors) <= {"0", "1", "2", "3", variables[CHANNEL_VARIABLE]}
        helper.ask(Kill(1, signal.SIGKILL))
        assert helper.only() == Exited(1, -signal.SIGKILL)
        assert ended(pidfd)
        close_all([pidfd])
        assert_gone(pid)


def test_what_cannot_be_a_successor_is_refused_with_its_reason(ends: Any, tmp_path: Path) -> None:
    _, theirs = ends
    with Asked(again=WAITING) as helper, open(tmp_path / "file", "wb") as file:
        given: Sequence[Sequence[int]] = ([], [file.fileno()], [theirs.fileno()] * 2)
        for handle, descriptors in enumerate(given):
            helper.ask(Succeed(handle), *descriptors)
            reason = "its channel is not a socket"
            assert helper.only() == Failed(handle, f"cannot start a successor: {reason}", reason)
    for again, reason in (((), "this daemon cannot have one"), (("/gone",), "No such file")):
        with Asked(again=again) as helper:
            helper.ask(Succeed(1), theirs.fileno())
            reply = helper.only()
            assert isinstance(reply, Failed)
            assert reason in reply.reason


def test_there_are_few_at_once_and_they_outlive_the_helper(ends: Any) -> None:
    _, theirs = ends
    with Asked(again=WAITING) as helper:
        found = []
        for handle in range(SUCCESSORS_MAX):
            helper.ask(Succeed(handle), theirs.fileno())
            found.append(begun(helper, handle))
        helper.ask(Succeed(SUCCESSORS_MAX), theirs.fileno())
        reply = helper.only()
        assert isinstance(reply, Failed)
        assert "SUCCESSORS_MAX" in reply.reason
        helper.ask(Kill(0, signal.SIGKILL))
        assert helper.only() == Exited(0, -signal.SIGKILL)
        helper.ask(Succeed(9), theirs.fileno())
        found.append(begun(helper, 9))
        helper.end.close()
        assert helper.process.wait(DEADLINE_S) == 0
        for _, pidfd in found[1:]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # it still runs
        assert all(ended(pidfd) for _, pidfd in found)
        close_all(pidfd for _, pidfd in found)


def test_a_handle_that_was_used_before_ends_the_helper(ends: Any) -> None:
    _, theirs = ends
    with Asked(again=["/gone"]) as helper:
        for _ in range(2):
            helper.ask(Succeed(1), theirs.fileno())
        assert isinstance(helper.only(), Failed)
        helper.assert_ended()


# -------------------------------------------------------------------------------- the daemon's side

Scene = Callable[[PrivilegedHelper, int], Coroutine[Any, Any, None]]


def play(scene: Scene, again: Sequence[str] = WAITING) -> None:
    async def play() -> None:
        before = open_descriptors()
        ours, theirs = channels.pair()
        with PrivilegedHelper(start.start(again=again)) as helper, ours, theirs:
            helper.attach(asyncio.get_running_loop())
            await scene(helper, theirs.fileno())
        assert open_descriptors() == before

    run(play())


def test_it_is_killed_and_how_it_ends_is_told() -> None:
    async def scene(helper: PrivilegedHelper, channel: int) -> None:
        successor = await start_by_helper(helper, channel)
        os.kill(successor.pid, 0)
        successor.kill()
        assert await successor.ended() == "killed by SIGKILL"
        assert await successor.ended() == "killed by SIGKILL", "asked again"
        successor.kill()
        other = await start_by_helper(helper, channel)
        assert other.pid != successor.pid
        other.kill()
        await other.ended()

    play(scene)


def test_one_that_ends_by_itself_is_told() -> None:
    async def scene(helper: PrivilegedHelper, channel: int) -> None:
        assert await (await helper.succeed(channel)).ended() == "exit status 3"

    play(scene, [sys.executable, "-c", "raise SystemExit(3)"])


def test_one_that_cannot_be_started_is_an_error_of_the_upgrade() -> None:
    async def scene(helper: PrivilegedHelper, channel: int) -> None:
        with pytest.raises(UpgradeError, match=r"^cannot start a successor: No such file"):
            await start_by_helper(helper, channel)
        with pytest.raises(UpgradeError, match=r"^cannot start a successor: Bad file"):
            await start_by_helper(helper, 9999)

    play(scene, ["/gone"])


def test_without_the_helper_none_is_started_and_one_that_runs_can_be_killed() -> None:
    async def scene(helper: PrivilegedHelper, channel: int) -> None:
        successor = await helper.succeed(channel)
        helper._process.kill()
        await until(lambda: helper.ended is not None)
        os.kill(successor.pid, 0)  # it goes on
        with pytest.raises(UpgradeError, match="the privileged helper has ended"):
            await start_by_helper(helper, channel)
        successor.kill()
        how = await successor.ended()
        assert how == "how is not known: the privileged helper has ended"

    play(scene)


def test_a_helper_that_is_killed_before_it_answers_is_an_error() -> None:
    async def scene(helper: PrivilegedHelper, channel: int) -> None:
        helper._process.send_signal(signal.SIGSTOP)
        asked = asyncio.ensure_future(start_by_helper(helper, channel))
        await asyncio.sleep(0)
        helper._process.kill()
        with pytest.raises(UpgradeError, match="the privileged helper has ended"):
            await asked

    play(scene)


def test_one_that_is_not_wanted_any_more_is_killed_as_soon_as_it_begins() -> None:
    async def scene(helper: PrivilegedHelper, channel: int) -> None:
        helper._process.send_signal(signal.SIGSTOP)
        asked = asyncio.ensure_future(helper.succeed(channel))
        await asyncio.sleep(0)
        successor = helper._successor
        assert successor is not None
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        helper._process.send_signal(signal.SIGCONT)
        assert await successor.ended() == "killed by SIGKILL"

    play(scene)


def test_a_successor_that_was_not_asked_for_ends_the_helper() -> None:
    async def scene(helper: PrivilegedHelper, channel: int) -> None:
        ours, theirs = messages.pair()
        with theirs:
            before, helper._end = helper._end, ours
            helper.attach(asyncio.get_running_loop())
            messages.send(theirs, messages.packed(Begun(7, 1)), [0])
            await until(lambda: helper.ended is not None)
            assert helper.ended == "given up, as it began what it was not asked for"
            asyncio.get_running_loop().remove_reader(before.fileno())
            before.close()

    play(scene)
