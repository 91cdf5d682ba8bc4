"""What became of hooks and of the checks of tracks, counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from carp_fast.config.tracks import FileTrack, ScriptTrack
from carp_fast.daemon.hooks import Hook, HookResult, Hooks
from carp_fast.metrics.histogram import BOUNDS_S, Histogram
from tests.support.followed import Follower
from tests.support.programs import Gate, run, script, until


def hook(target: str, event: str = "up") -> Hook:
    kind = "up" if event == "up" else "down"
    return Hook(kind, target, "eth0", "192.0.2.1", None, {"CARP_ADDRESSES": "192.0.2.1/24"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (HookResult("up", 0), "ok"),
        (HookResult("up", 1), "failed"),
        (HookResult("up", -9), "failed"),
        (HookResult("up", error="cannot be started"), "failed"),
        (HookResult("up", timed_out=True), "timeout"),
        (HookResult("up", superseded=True), "superseded"),
    ],
)
def test_a_result_in_one_word(result: HookResult, outcome: str) -> None:
    assert result.outcome == outcome


def test_hooks_are_counted_by_kind_and_result_with_their_durations(tmp_path: Path) -> None:
    good, bad = script(tmp_path / "good.sh", "exit 0"), script(tmp_path / "bad.sh", "exit 3")

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        hooks.submit(1, "eth0/1", hook(good))
        await hooks.drain(10)
        hooks.submit(1, "eth0/1", hook(bad, "down"))
        await hooks.drain(10)
        hooks.submit(1, "eth0/1", hook(str(tmp_path / "absent"), "down"))
        await hooks.drain(10)
        figures = hooks.figures
        assert figures.results == {("up", "ok"): 1, ("down", "failed"): 2}
        assert sum(figures.durations["up"].counts) == 1
        assert figures.durations["up"].sum_s > 0

    run(scene())


def test_hooks_that_run_and_wait_are_told_apart_and_superseded_ones_have_no_duration(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        gate = Gate(tmp_path / "gate")
        held = script(tmp_path / "held.sh", f"cat {gate.path}")
        hooks = Hooks(asyncio.get_running_loop())
        hooks.submit(1, "eth0/1", hook(held))
        await until(lambda: hooks.present()[0]["up"] == 1)
        hooks.submit(1, "eth0/1", hook(held, "down"))
        hooks.submit(1, "eth0/1", hook(held, "down"))
        running, waiting = hooks.present()
        assert (running, waiting) == ({"up": 1}, {"down": 1})
        assert hooks.figures.results == {("down", "superseded"): 1}
        assert sum(hooks.figures.durations["down"].counts) == 0
        hooks.close()
        assert hooks.present() == ({}, {})

    run(scene())


def test_checks_of_a_track_are_measured_and_what_is_followed_is_not(tmp_path: Path) -> None:
    target = script(tmp_path / "check.sh", "exit 0")
    (tmp_path / "file").write_text("0")
    asked = ScriptTrack(name="asked", script=(target,), interval_s=0.1, rise=1, fall=1)
    followed = FileTrack(name="followed", path=str(tmp_path / "file"))
    with Follower(asked, followed) as follower:
        follower.wait_state("asked", "ok")
        follower.wait_state("followed", "ok")
        durations = follower.judged("asked").durations
        assert durations is not None
        assert sum(durations.counts) >= 1
        assert follower.judged("followed").durations is None


def test_a_duration_is_counted_by_the_first_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram()
    for seconds in (-1.0, 0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, BOUNDS_S[-1], 1e9):
        histogram.add(seconds)
    copied = histogram.copy()
    assert copied.counts == [3, 1, *[0] * (len(BOUNDS_S) - 3), 1, 1]
    assert copied.sum_s == pytest.approx(1e9 + 30, rel=1e-6)
    histogram.add(1.0)
    assert sum(copied.counts) == 6
