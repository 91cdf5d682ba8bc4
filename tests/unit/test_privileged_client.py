"""The daemon's side of the helper: programs as a Launcher starts them, reloads, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from carp_fast.config.image import ImageError
from carp_fast.config.load import load_settled
from carp_fast.config.model import Configuration, ConfigurationError
from carp_fast.config.tracks import ScriptTrack
from carp_fast.control.documents import HELPER_RUNS
from carp_fast.daemon.hooks import Hook, HookResult, Hooks
from carp_fast.daemon.notify import Notifier
from carp_fast.privileged import client, messages, outcome, start
from carp_fast.privileged.client import PrivilegedHelper
from carp_fast.privileged.outcome import Line
from carp_fast.privileged.start import HelperError
from carp_fast.programs.launching import reap
from carp_fast.programs.spawning import ChildError, LauncherEnded, Program
from carp_fast.tracking.judging import Result
from carp_fast.tracking.scripts import Scripts
from tests.support.programs import Gate, assert_gone, run, script, until

Scene = Callable[[PrivilegedHelper], Coroutine[Any, Any, None]]


class Stage:
    """A configuration of eth0/1 to 9 with `up`, and a helper that has loaded it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "carp-fast.toml"
        self.path.touch(mode=0o600)
        self.directory = directory

    def write(self, keys: str, vhids: str = "1-9", daemon: str = "", more: str = "") -> None:
        self.path.write_text(
            f'[daemon]\n{daemon}\n[[virtual_host]]\ninterface = "eth0"\nvhid = "{vhids}"\n'
            f'addresses = ["192.0.2.{{vhid}}/24"]\npassphrase = "secret"\n{keys}\n{more}'
        )

    def script(self, body: str) -> str:
        return script(self.directory / "program", body)

    def play(self, scene: Scene) -> None:
        async def play() -> None:
            started = start.start()
            with PrivilegedHelper(started) as helper:
                first = helper.load_first(self.path)
                assert first == load_settled(self.path)
                helper.attach(asyncio.get_running_loop())
                helper.applied()
                assert helper.state == HELPER_RUNS
                await scene(helper)
            assert started.process.returncode is not None

        run(play())


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def hook(target: str, vhid: int = 7, xparam: str | None = None) -> Hook:
    variables = {"CARP_STATE": "MASTER", "CARP_ADDRESSES": f"192.0.2.{vhid}/24"}
    return Hook("up", target, "eth0", f"192.0.2.{vhid}", xparam, variables)


async def result_of(hooks: Hooks, one: Hook, key: object = 7) -> HookResult:
    told: asyncio.Future[HookResult] = asyncio.get_running_loop().create_future()
    hooks.submit(key, "eth0/7", one, told.set_result)
    return await told


def test_hooks_run_with_output_and_exit_status(stage: Stage) -> None:
    path = stage.script('echo "$@" $CARP_STATE; echo error >&2; exit 3')
    stage.write(f'up = "{path}"\nxparam = "x y"')

    async def scene(helper: PrivilegedHelper) -> None:
        hooks = Hooks(asyncio.get_running_loop(), launcher=helper)
        result = await result_of(hooks, hook(path, xparam="x y"))
        assert (result.exit_status, result.error) == (3, None)
        assert result.output == "eth0 192.0.2.7 x y MASTER\nerror\n"
        assert (hooks.started, hooks.failed) == (1, 1)

    stage.play(scene)


def test_many_hooks_run_at_once_and_none_is_lost(stage: Stage) -> None:
    path = stage.script("echo $2")
    stage.write(f'up = "{path}"', "1-200")

    async def scene(helper: PrivilegedHelper) -> None:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        hooks = Hooks(asyncio.get_running_loop(), concurrency=64, launcher=helper)
        every = range(1, 201)
        results = await asyncio.gather(
            *(result_of(hooks, hook(path, vhid), vhid) for vhid in every)
        )
        assert [each.output for each in results] == [f"192.0.2.{vhid}\n" for vhid in every]
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    stage.play(scene)


def test_a_hook_that_takes_too_long_is_ended_with_its_group(stage: Stage) -> None:
    path = stage.script(f"sleep 1000 & echo $! > {stage.directory}/pid; wait")
    stage.write(f'up = "{path}"')

    async def scene(helper: PrivilegedHelper) -> None:
        hooks = Hooks(asyncio.get_running_loop(), timeout_s=1.0, launcher=helper)
        result = await result_of(hooks, hook(path))
        assert result.timed_out
        assert await hooks.drain(10) == ()
        assert_gone(int((stage.directory / "pid").read_text()))

    stage.play(scene)


def test_what_runs_at_the_end_is_killed_and_awaited(stage: Stage) -> None:
    pid_file = stage.directory / "pid"
    path = stage.script(f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; sleep 1000")
    stage.write(f'up = "{path}"')

    async def scene(helper: PrivilegedHelper) -> None:
        hooks = Hooks(asyncio.get_running_loop(), launcher=helper)
        hooks.submit(7, "eth0/7", hook(path))
        await until(pid_file.exists)
        hooks.close()
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)

    stage.play(scene)


def test_other_programs_that_end_while_one_is_awaited_are_reported_afterwards(stage: Stage) -> None:
    gate = Gate(stage.directory / "gate")
    path = stage.script(
        f"test $2 = 192.0.2.1 && {{ read line < {gate.path}; exit 4; }}; sleep 1000"
    )
    stage.write(f'up = "{path}"')

    async def scene(helper: PrivilegedHelper) -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        reaping = False

        def on_exit(status: int) -> None:
            assert not reaping
            ended.set_result(status)

        def launch(vhid: int, on_exit: Callable[[int], None]) -> Any:
            program = Program(path, ("eth0", f"192.0.2.{vhid}"))
            return helper.launch(program, {}, lambda data: None, on_exit, unwanted)

        launch(1, on_exit)
        other = launch(2, unwanted)
        await gate.open()
        other.abandon()
        reaping = True
        reap([other])
        reaping = False
        assert await ended == 4

    stage.play(scene)


def unwanted(what: object) -> None:
    raise AssertionError(what)


def test_notify_gets_lines_on_its_standard_input(stage: Stage) -> None:
    path = stage.script(f"cat > {stage.directory}/lines")
    stage.write("", daemon=f'notify = "{path}"')

    async def scene(helper: PrivilegedHelper) -> None:
        notifier = Notifier(asyncio.get_running_loop(), path, launcher=helper)
        notifier.start()
        for number in range(3000):
            notifier.send({"number": number})
        await notifier.stop()
        assert (notifier.sent, notifier.dropped, notifier.restarts) == (3000, 0, 0)

    stage.play(scene)
    lines = (stage.directory / "lines").read_text().splitlines()
    assert lines == [f'{{"number":{number}}}' for number in range(3000)]


def test_track_scripts_run_and_leave_nothing(stage: Stage) -> None:
    path = stage.script('sleep 1000 & echo "$CARP_TRACK $1 $!"')
    stage.write(
        'track = ["t"]', more=f'[[track]]\nname="t"\nkind="script"\nscript=["{path}", "a b"]'
    )
    results: list[Result] = []

    async def scene(helper: PrivilegedHelper) -> None:
        scripts = Scripts(asyncio.get_running_loop(), launcher=helper)
        stop = scripts.watch(
            ScriptTrack(name="t", script=(path, "a b"), interval_s=60), results.append
        )
        await until(lambda: bool(results))
        stop()
        scripts.close()

    stage.play(scene)
    [result] = results
    assert result.ok
    words = result.output[0].split()
    assert words[:3] == ["t", "a", "b"]
    assert_gone(int(words[3]))


def test_a_program_that_is_not_configured_is_refused_here_already(stage: Stage) -> None:
    stage.write('up = "/bin/true"')

    async def scene(helper: PrivilegedHelper) -> None:
        program = Program("/bin/false", ("eth0", "192.0.2.7"))
        with pytest.raises(ChildError, match="no configuration that was read has it"):
            helper.launch(program, {}, unwanted, unwanted, unwanted)
        hooks = Hooks(asyncio.get_running_loop(), launcher=helper)
        result = await result_of(hooks, hook("/bin/true", vhid=10))  # not of this host
        assert result.error is not None
        assert "with these arguments" in result.error
        assert hooks.failed == 1

    stage.play(scene)


def test_a_hook_with_too_long_an_environment_fails_with_its_reason(stage: Stage) -> None:
    stage.write('up = "/bin/true"')

    async def scene(helper: PrivilegedHelper) -> None:
        program = Program("/bin/true", ("eth0", "192.0.2.7"))
        variables = {"CARP_ADDRESSES": "x" * 200_000}
        with pytest.raises(ChildError, match="its environment is too long"):
            helper.launch(program, variables, unwanted, unwanted, unwanted)

    stage.play(scene)


# ---------------------------------------------------------------------------------------- reloads


def test_a_reload_gives_the_new_configuration_and_hooks_of_both(stage: Stage) -> None:
    stage.write('up = "/bin/true"')

    async def scene(helper: PrivilegedHelper) -> None:
        hooks = Hooks(asyncio.get_running_loop(), launcher=helper)
        stage.write('up = "/bin/echo"', "1-3")
        new: Configuration = await helper.load()
        assert len(new.virtual_hosts) == 3
        for _ in range(2):  # before and after it was applied
            assert (await result_of(hooks, hook("/bin/echo", 2))).output == "eth0 192.0.2.2\n"
            assert (await result_of(hooks, hook("/bin/true", 9))).ok
            helper.applied()

    stage.play(scene)


def test_a_faulty_reload_raises_and_changes_nothing(stage: Stage) -> None:
    stage.write('up = "/bin/true"')

    async def scene(helper: PrivilegedHelper) -> None:
        hooks = Hooks(asyncio.get_running_loop(), launcher=helper)
        for _ in range(5):
            stage.write("advbase = 1000")
            with pytest.raises(ConfigurationError, match="advbase = 1000"):
                await helper.load()
        assert (await result_of(hooks, hook("/bin/true"))).ok

    stage.play(scene)


def test_a_reload_that_takes_too_long_is_given_up(stage: Stage) -> None:
    stage.write('up = "/bin/true"')

    async def scene(helper: PrivilegedHelper) -> None:
        text = stage.path.read_text()
        stage.path.unlink()
        os.mkfifo(stage.path)
        held = os.open(stage.path, os.O_RDWR)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(helper.load(), 0.01)
        os.close(held)
        stage.path.unlink()
        stage.path.touch(mode=0o600)
        stage.path.write_text(text)
        assert len((await helper.load()).virtual_hosts) == 9

    stage.play(scene)


def test_lines_of_the_loader_are_logged_here(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "carp_fast")
    stage.write("")
    configuration, name = load_settled(stage.path), "carp_fast.config.readings"
    lines = [Line(name, logging.INFO, b"100% %s changed"), Line(name, logging.DEBUG, b"hidden")]
    assert outcome.take(outcome.encode(configuration, lines)) == configuration
    found = [(r.name, r.levelno, r.getMessage()) for r in caplog.records if r.name == name]
    assert found == [(name, logging.INFO, "100% %s changed")]


def test_bytes_that_are_no_outcome_are_an_error(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not an outcome"):
        outcome.take(b"no outcome")


# ------------------------------------------------------------------------------------- its end


def test_a_helper_that_is_killed_is_noticed_once_and_hooks_fail_from_then_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    path = stage.script(f"touch {stage.directory}/runs; sleep 1000")
    stage.write(f'up = "{path}"')

    async def scene(helper: PrivilegedHelper) -> None:
        hooks = Hooks(asyncio.get_running_loop(), launcher=helper)
        running = asyncio.ensure_future(result_of(hooks, hook(path)))
        await until((stage.directory / "runs").exists)
        loading = asyncio.ensure_future(helper.load())
        await asyncio.sleep(0)
        helper._process.kill()
        result = await running
        assert result.error == "the privileged helper has ended: how a program ends is not known"
        with pytest.raises(HelperError, match="the privileged helper has ended"):
            await loading
        assert helper.state == "killed by SIGKILL"
        later = await result_of(hooks, hook(path, 8), 8)
        assert later.error == f"cannot start {path}: the privileged helper has ended"
        assert hooks.failed == 2
        with pytest.raises(HelperError, match="the privileged helper has ended"):
            await helper.load()
        helper.applied()

    stage.play(scene)
    lines = [r for r in caplog.records if r.name == client.logger.name]
    assert [(r.levelname, r.getMessage()) for r in lines] == [
        (
            "WARNING",
            "the privileged helper has ended (killed by SIGKILL): until a restart no hook and no"
            " script can be started, and the configuration cannot be read again; everything else"
            " goes on",
        )
    ]


def test_a_track_keeps_its_state_when_its_script_cannot_be_run_any_more(stage: Stage) -> None:
    more = '[[track]]\nname="t"\nkind="script"\nscript=["/bin/true"]'
    stage.write('track = ["t"]', more=more)
    results: list[Result] = []

    async def scene(helper: PrivilegedHelper) -> None:
        scripts = Scripts(asyncio.get_running_loop(), launcher=helper)
        track = ScriptTrack(name="t", script=("/bin/true",), interval_s=0.05)
        stop = scripts.watch(track, results.append)
        await until(lambda: bool(results))
        helper._process.kill()
        await until(lambda: helper.state != HELPER_RUNS)
        count = len(results)
        with pytest.raises(LauncherEnded):
            helper.launch(Program("/bin/true"), {}, unwanted, unwanted, unwanted)
        await asyncio.sleep(0.2)  # some more rounds
        assert len(results) == count
        stop()
        scripts.close()

    stage.play(scene)
    assert all(each.ok for each in results)


def test_a_helper_that_sends_what_is_no_message_is_killed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.write('up = "/bin/true"')

    async def scene(helper: PrivilegedHelper) -> None:
        monkeypatch.setattr(client, "REPLIES", messages.REQUESTS)
        hooks = Hooks(asyncio.get_running_loop(), launcher=helper)
        assert (await result_of(hooks, hook("/bin/true"))).error is not None
        assert helper.state.startswith("given up, as it sent what is no message")

    stage.play(scene)


def test_a_helper_that_a_daemon_without_root_cannot_kill_ends_by_itself(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.write('up = "/bin/true"')

    def refuse(process: object) -> None:
        raise PermissionError

    async def scene(helper: PrivilegedHelper) -> None:
        monkeypatch.setattr(client, "REPLIES", messages.REQUESTS)
        monkeypatch.setattr("subprocess.Popen.kill", refuse)
        hooks = Hooks(asyncio.get_running_loop(), launcher=helper)
        assert (await result_of(hooks, hook("/bin/true"))).error is not None
        assert helper.state.startswith("given up, as it sent what is no message")
        assert helper._process.returncode == 0

    stage.play(scene)


def test_a_helper_that_does_not_read_does_not_hold_up_the_daemon(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.write('up = "/bin/true"')
    monkeypatch.setattr(client, "UNSENT_MAX", 8)

    async def scene(helper: PrivilegedHelper) -> None:
        helper._process.send_signal(signal.SIGSTOP)
        results: list[int] = []
        program, long = (
            Program("/bin/true", ("eth0", "192.0.2.7")),
            {"CARP_ADDRESSES": "x" * 100_000},
        )
        refusals: list[str] = []
        launched = 0
        while not refusals:
            try:
                helper.launch(program, long, unwanted, results.append, unwanted)
                launched += 1
            except ChildError as error:
                refusals.append(error.reason)
        assert refusals == ["the privileged helper does not answer"]
        helper._process.send_signal(signal.SIGCONT)
        await until(lambda: len(results) == launched)  # none of the others is lost
        assert set(results) == {0}

    stage.play(scene)


def test_a_first_configuration_that_cannot_be_given_is_an_error_in_one_line(
    stage: Stage, tmp_path: Path
) -> None:
    with PrivilegedHelper(start.start()) as helper:
        helper._process.kill()
        with pytest.raises(HelperError, match="privileged helper"):
            helper.load_first(stage.path)
    with (
        PrivilegedHelper(start.start()) as helper,
        pytest.raises(ConfigurationError, match="No such file"),
    ):
        helper.load_first(tmp_path / "missing.toml")


def test_a_helper_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent")
    with pytest.raises(HelperError, match="cannot start the privileged helper: No such file"):
        start.start()
    monkeypatch.setattr(start, "wanted", lambda: True)
    start.begin()  # left to take()
    with pytest.raises(HelperError):
        start.take()
    monkeypatch.setattr(start, "wanted", lambda: False)
    start.begin()
    assert start.take() is None
