"""Tracks by scripts, with real little scripts under uvloop."""

from __future__ import annotations

import logging
import resource
import time
from pathlib import Path

import pytest

from carp_fast.config.tracks import ScriptTrack
from tests.support.followed import Follower
from tests.support.programs import Deaf, assert_gone, script


def track(path: str, name: str = "s", **keys: float | int | str) -> ScriptTrack:
    settings = {"interval_s": 0.1, "timeout_s": 10.0, "rise": 1, "fall": 1} | keys
    return ScriptTrack(name=name, script=(path, "an argument"), **settings)  # type: ignore[arg-type]


def pids_in(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def test_the_exit_status_decides_and_the_last_line_is_shown(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    path = script(
        tmp_path / "check",
        f'echo "$CARP_TRACK: $1"; test ! -e {flag} || {{ echo "no answer"; exit 3; }}',
    )
    with Follower(track(path)) as follower:
        judged = follower.wait_state("s", "ok")
        assert judged.text.startswith("exit status 0 after ")
        assert judged.text.endswith(": s: an argument")
        flag.touch()
        follower.wait_state("s", "failed")
        assert judged.text.startswith("exit status 3 after ")
        assert judged.text.endswith(": no answer")
        flag.unlink()
        follower.wait_state("s", "ok")
        assert judged.flaps == 2
    assert follower.changes == [
        ("s", "unknown", "ok"),
        ("s", "ok", "failed"),
        ("s", "failed", "ok"),
    ]


def test_output_is_logged_when_the_state_changes_and_only_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runs = tmp_path / "runs"
    path = script(tmp_path / "check", f"echo . >> {runs}; seq 1 100; exit 1")
    with Follower(track(path)) as follower:
        follower.wait(lambda: runs.exists() and len(runs.read_text()) >= 2 * 5)
    lines = [record.message for record in caplog.records if "its output" in record.message]
    assert lines == [f"track s: its output: {number}" for number in range(91, 101)]


def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    path = script(
        tmp_path / "check",
        f"trap '' TERM; (trap '' TERM; sleep 1000) & echo $$ $! >> {pids}; sleep 1000; sleep 1000",
    )
    with Follower(track(path, timeout_s=0.3, interval_s=60)) as follower:
        assert follower.wait_state("s", "failed").text == "not finished within 0.3 s"
        (first, second) = pids_in(pids)
        follower.wait(lambda: not Path(f"/proc/{first}").exists(), "the script's end")
    assert_gone(first)
    assert_gone(second)


def test_what_a_script_leaves_in_the_background_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    path = script(tmp_path / "check", f"sleep 1000 & echo $! >> {pids}")
    with Follower(track(path, interval_s=60)) as follower:
        follower.wait_state("s", "ok")
        (left,) = pids_in(pids)
        assert_gone(left)


def test_output_without_end_takes_no_memory(tmp_path: Path) -> None:
    path = script(tmp_path / "check", "head -c 300000000 /dev/zero; echo; echo done")
    with Follower(track(path, timeout_s=60, interval_s=60)) as follower:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        judged = follower.wait_state("s", "ok")
        assert judged.text.endswith("done")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 8192


def test_one_that_cannot_be_started_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    with Follower(track(str(path))) as follower:
        text = follower.wait_state("s", "failed").text
        assert text == f"cannot start {path}: No such file or directory"
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        follower.wait_state("s", "ok")


def test_no_more_run_at_once_than_allowed_and_all_get_their_turn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = tmp_path / "running"
    running.mkdir()
    most = tmp_path / "most"
    path = script(
        tmp_path / "check",
        f"touch {running}/$$; ls {running} | wc -l >> {most}; sleep 0.02; rm {running}/$$",
    )
    tracks = [track(path, f"s{number}") for number in range(40)]
    with Follower(*tracks, concurrency=3) as follower:
        follower.wait(lambda: all(judged.state == "ok" for judged in follower.tracks))
        follower.run(0.5)
    assert 1 < max(pids_in(most)) <= 3
    waits = [
        record.message for record in caplog.records if "track_concurrency = 3" in record.message
    ]
    assert len(waits) == 1  # a line a minute


def test_nothing_runs_once_it_is_followed_no_longer(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    path = script(tmp_path / "check", f"echo $$ >> {pids}; exec sleep 1000")
    with Follower(track(path, "a"), track(path, "b", interval_s=61)) as follower:
        follower.wait(lambda: len(pids_in(pids)) == 2)
        follower.follow(track(path, "b", interval_s=61))
        gone = [pid for pid in pids_in(pids) if not Path(f"/proc/{pid}").exists()]
        assert len(gone) == 1
    for pid in pids_in(pids):
        assert_gone(pid)


def test_scripts_that_sigkill_does_not_end_are_waited_for_together(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    path = script(tmp_path / "check", f"echo $$ >> {pids}; exec sleep 1000")
    names = [f"s{number}" for number in range(8)]
    with Follower(*(track(path, name) for name in names)) as follower:
        follower.wait(lambda: len(pids_in(pids)) == len(names))
        with Deaf(reap_s=0.3) as deaf:
            begun_s = time.monotonic()
            follower.follow()
            took_s = time.monotonic() - begun_s
        assert 0.3 <= took_s < 0.3 * len(names) * 0.75
        assert deaf.steps == ["kill"] * len(names) + ["wait"] * len(names)
