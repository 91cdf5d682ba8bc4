"""Tracks by processes, with real ones."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carp_fast.config.tracks import ProcessTrack
from carp_fast.tracking import processes
from carp_fast.tracking.process_events import ProcessEvents
from tests.support.followed import Follower, open_descriptors


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A program that nothing else runs."""
    path = tmp_path / "program"
    shutil.copy("/bin/sleep", path)
    return str(path)


@contextmanager
def running(path: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([path, "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def refuse_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: ProcessEvents) -> None:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monkeypatch.setattr(ProcessEvents, "__init__", refuse)
    monkeypatch.setattr(processes, "POLL_S", 0.05)


@pytest.mark.parametrize("events", [True, False], ids=["events", "polling"])
def test_a_process_by_its_executable(
    program: str,
    events: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if events:
        need_events()
    else:
        refuse_events(monkeypatch)
    with Follower(ProcessTrack(name="p", executable=program)) as follower:
        judged = follower.judged("p")
        assert (judged.state, judged.text) == ("failed", f"no process runs {program}")
        with running(program) as first:
            follower.wait_state("p", "ok")
            assert judged.text == f"pid {first.pid} runs"
            with running(program) as second:
                first.kill()
                first.wait()
                follower.wait(lambda: judged.text == f"pid {second.pid} runs")
                assert (judged.state, judged.flaps) == ("ok", 1)
        follower.wait_state("p", "failed")
    assert ["process" in record.message for record in caplog.records].count(True) >= 1
    polled = [record for record in caplog.records if "the kernel reports none" in record.message]
    assert len(polled) == (not events)


def need_events() -> None:
    try:
        ProcessEvents().close()
    except OSError as error:
        pytest.skip(f"needs process events (CAP_NET_ADMIN, the initial namespaces): {error}")


def test_one_that_runs_already_and_then_becomes_another_program(program: str) -> None:
    need_events()
    command = ["/bin/sh", "-c", f"exec {program} 1000"]
    with Follower(ProcessTrack(name="p", executable=program)) as follower:
        with subprocess.Popen(command) as process:
            follower.wait_state("p", "ok")
            process.kill()
        follower.wait_state("p", "failed")
    shell = shutil.copy("/bin/bash", Path(program).with_name("shell"))
    with subprocess.Popen([shell, "-c", "read x; exec sleep 1000"], stdin=subprocess.PIPE) as other:
        with Follower(ProcessTrack(name="p", executable=str(shell))) as follower:
            assert follower.judged("p").state == "ok"
            assert other.stdin is not None
            other.stdin.write(b"go\n")
            other.stdin.flush()
            follower.wait_state("p", "failed")
        other.kill()


def test_every_track_of_a_process_notices_that_it_is_another_program_now(tmp_path: Path) -> None:
    need_events()
    shell = shutil.copy("/bin/bash", tmp_path / "shell")
    tracks = [ProcessTrack(name=name, executable=str(shell)) for name in "abc"]
    with subprocess.Popen([shell, "-c", "read x; exec sleep 1000"], stdin=subprocess.PIPE) as other:
        try:
            with Follower(*tracks) as follower:
                assert {state for state, _ in follower.states().values()} == {"ok"}
                assert other.stdin is not None
                other.stdin.write(b"go\n")
                other.stdin.flush()
                for name in "abc":
                    follower.wait_state(name, "failed")
        finally:
            other.kill()


def test_an_executable_that_was_replaced_still_runs(program: str) -> None:
    with running(program):
        Path(program).unlink()
        shutil.copy("/bin/sleep", program)
        with Follower(ProcessTrack(name="p", executable=program)) as follower:
            assert follower.judged("p").state == "ok"


def test_a_process_by_its_pid_file(tmp_path: Path, program: str) -> None:
    path = tmp_path / "run" / "pid"
    with Follower(ProcessTrack(name="p", pid_file=str(path))) as follower:
        assert follower.judged("p").text == f"{path}: No such file or directory"
        path.parent.mkdir()
        with running(program) as process:
            path.write_text(f"{process.pid}\n")
            assert follower.wait_state("p", "ok").text == f"pid {process.pid} runs"
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert follower.wait_state("p", "failed").text == f"pid {process.pid} has ended"
        with running(program) as process:
            path.write_text(f"{process.pid}\n")
            follower.wait_state("p", "ok")
            path.write_text("nothing")
            assert follower.wait_state("p", "failed").text == f"{path}: holds no pid"
            path.write_text(str(process.pid))
            follower.wait_state("p", "ok")
            path.unlink()
            follower.wait_state("p", "failed")


@pytest.mark.parametrize("content", ["", "0", "-1", "1.5", "4194305", "4294967296", "9999999999"])
def test_a_file_without_a_possible_pid_is_a_failure(content: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(content)
    with Follower(ProcessTrack(name="p", pid_file=str(path))) as follower:
        judged = follower.judged("p")
        assert (judged.state, judged.text) == ("failed", f"{path}: holds no pid")


def test_a_pid_that_another_program_has_by_now(tmp_path: Path, program: str) -> None:
    path = tmp_path / "pid"
    path.write_text(str(os.getpid()))
    own = str(Path("/proc/self/exe").readlink())
    tracks = [
        ProcessTrack(name="p", pid_file=str(path), executable=program),
        ProcessTrack(name="own", pid_file=str(path), executable=own),
    ]
    with Follower(*tracks) as follower:
        assert follower.judged("p").text == f"{path}: pid {os.getpid()}, which runs {own}"
        assert follower.judged("p").state == "failed"
        assert follower.judged("own").state == "ok"


@pytest.mark.parametrize("events", [True, False], ids=["events", "polling"])
def test_a_process_of_a_pid_file_must_go_on_running_the_executable(
    events: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if events:
        need_events()
    else:
        refuse_events(monkeypatch)
    shell = shutil.copy("/bin/bash", tmp_path / "shell")
    sleep = shutil.copy("/bin/sleep", tmp_path / "sleep")
    path = tmp_path / "pid"
    tracks = [
        ProcessTrack(name="shell", pid_file=str(path), executable=str(shell)),
        ProcessTrack(name="sleep", pid_file=str(path), executable=str(sleep)),
    ]
    command = [shell, "-c", f"read x; exec {sleep} 1000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            path.write_text(str(process.pid))
            with Follower(*tracks) as follower:
                assert {n: s for n, (s, _) in follower.states().items()} == {
                    "shell": "ok",
                    "sleep": "failed",
                }
                assert process.stdin is not None
                process.stdin.write(b"go\n")
                process.stdin.flush()
                text = follower.wait_state("shell", "failed").text
                assert text == f"{path}: pid {process.pid}, which runs {sleep}"
                assert follower.wait_state("sleep", "ok").text == f"pid {process.pid} runs"
        finally:
            process.kill()


def test_a_pid_that_is_in_use_again_is_not_taken_for_the_process_that_had_it(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pid"
    with running(program) as process:
        path.write_text(str(process.pid))

        def read_late(pid: int) -> str:
            """The process has ended, and another one with its pid runs the program."""
            process.kill()
            process.wait()
            return program

        monkeypatch.setattr(processes, "executable_of", read_late)
        track = ProcessTrack(name="p", pid_file=str(path), executable=program)
        with Follower(track) as follower:
            judged = follower.judged("p")
            text = f"{path}: pid {process.pid}, which does not run"
            assert (judged.state, judged.text) == ("failed", text)


def test_nothing_is_left_open(tmp_path: Path, program: str) -> None:
    with Follower() as follower, running(program):
        before = open_descriptors()
        follower.follow(
            ProcessTrack(name="p", executable=program),
            ProcessTrack(name="q", pid_file=str(tmp_path / "pid")),
        )
        assert open_descriptors() > before
        follower.follow()
        assert open_descriptors() == before
