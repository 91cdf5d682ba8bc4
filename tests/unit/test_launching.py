"""Launchers: programs that fail only after their launch, and what inherits our surroundings."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from carp_fast.config.tracks import ScriptTrack
from carp_fast.daemon.hooks import Hook, HookResult, Hooks
from carp_fast.daemon.notify import Notifier
from carp_fast.programs.launching import DirectLauncher, Running, reap
from carp_fast.programs.spawning import ChildError, Program
from carp_fast.tracking.judging import Result
from carp_fast.tracking.scripts import Scripts
from carp_fast.ucarp.log import logger as ucarp_logger
from carp_fast.ucarp.scripts import Scripts as UcarpScripts
from tests.support.programs import Gate, run, script, until

HOOK = Hook("up", "/bin/up", "eth0", "192.0.2.1", None, {"CARP_STATE": "MASTER"})
TEXT = "cannot start /bin/up: the helper ended"


class FailsLater:
    """A launcher whose programs fail a turn of the loop after they were launched."""

    stdin_fd = -1

    def __init__(self) -> None:
        self.launched: list[Program] = []

    def launch(
        self,
        program: Program,
        variables: Mapping[str, str],
        on_output: Callable[[bytes], None],
        on_exit: Callable[[int], None],
        on_failed: Callable[[ChildError], None],
        *,
        stdin: bool = False,
        leaves_nothing: bool = False,
    ) -> Running:
        self.launched.append(program)
        error = ChildError(TEXT, "the helper ended")
        asyncio.get_running_loop().call_soon(on_failed, error)
        return self

    def close_stdin(self) -> None:
        pass

    def kill(self, number: signal.Signals) -> None:
        pass

    def terminate(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def leave(self) -> None:
        pass

    def reap(self, timeout_s: float) -> None:
        pass


def test_a_hook_that_fails_after_its_launch_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    launcher = FailsLater()

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop(), launcher=launcher)
        told: asyncio.Future[HookResult] = asyncio.get_running_loop().create_future()
        hooks.submit(7, "eth0/7", HOOK, told.set_result)
        result = await told
        assert (result.exit_status, result.error) == (None, TEXT)
        assert (hooks.started, hooks.failed) == (1, 1)
        assert await hooks.drain(0) == ()

    run(scene())
    assert launcher.launched == [Program("/bin/up", ("eth0", "192.0.2.1"))]
    assert TEXT in caplog.text


def test_notify_that_fails_after_its_launch_is_started_again_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    launcher = FailsLater()

    async def scene() -> None:
        notifier = Notifier(
            asyncio.get_running_loop(), "/bin/up", launcher=launcher, restart_s=0.01
        )
        notifier.start()
        await until(lambda: len(launcher.launched) == 2)
        await notifier.stop()

    run(scene())
    assert f"notify /bin/up: {TEXT}; starting it again in 0.01 s" in caplog.text


def test_a_track_whose_script_fails_after_its_launch_has_failed() -> None:
    results: list[Result] = []

    async def scene() -> None:
        scripts = Scripts(asyncio.get_running_loop(), launcher=FailsLater())
        track = ScriptTrack(name="s", script=("/bin/up",), interval_s=60)
        stop = scripts.watch(track, results.append)
        await until(lambda: bool(results))
        stop()
        scripts.close()

    run(scene())
    assert [(each.ok, each.text) for each in results] == [(False, TEXT)]


def test_a_script_of_ucarp_that_fails_after_its_launch_is_logged_in_its_words(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ucarp_logger, "propagate", True)
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        scripts = UcarpScripts(asyncio.get_running_loop(), FailsLater())
        told: asyncio.Future[HookResult] = asyncio.get_running_loop().create_future()
        scripts.submit(0, "eth0/7", HOOK, told.set_result)
        assert (await told).error == TEXT
        assert await scripts.drain(0) == ()

    run(scene())
    assert "Unable to exec /bin/up eth0 192.0.2.1: the helper ended" in caplog.text


def unwanted(what: object) -> None:
    raise AssertionError(what)


def test_a_program_that_inherits_gets_our_session_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "kept")
    monkeypatch.setenv("NOTIFY_SOCKET", "@gone")
    monkeypatch.chdir(tmp_path)
    script(tmp_path / "up", f'echo "$0 $* $OURS ${{NOTIFY_SOCKET-}} $CARP_STATE" > {tmp_path}/out')

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        program = Program("up", ("eth0", "192.0.2.1"), ("x y",), inherits=True)
        DirectLauncher(loop).launch(
            program, {"CARP_STATE": "MASTER"}, unwanted, ended.set_result, unwanted
        )
        assert await ended == 0

    run(scene())
    assert (tmp_path / "out").read_text() == "./up eth0 192.0.2.1 x y kept  MASTER\n"


def test_a_program_that_inherits_is_killed_when_it_is_abandoned(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    path = script(tmp_path / "up", f"read line < {gate.path}; touch {tmp_path}/done")

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        program = Program(path, inherits=True)
        running = DirectLauncher(loop).launch(program, {}, unwanted, unwanted, unwanted)
        running.close_stdin()
        running.abandon()
        reap([running])
        running.leave()  # a second end does nothing

    run(scene())
    assert not (tmp_path / "done").exists()
