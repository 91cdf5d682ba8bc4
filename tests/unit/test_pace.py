"""When frames are due: rates, ramps, bursts, recordings; and what is said of the gaps."""

from __future__ import annotations

from typing import Any

import pytest

from carp_fast.loadtest._frames import Recording
from carp_fast.loadtest._pace import Pace, judge_gaps

MS = 1_000_000


def dues(pace: Pace, count: int) -> list[int]:
    return [pace.take() for _ in range(count)]


def test_a_rate_is_even_and_does_not_drift() -> None:
    assert dues(Pace(rate=1000), 4) == [0, MS, 2 * MS, 3 * MS]
    assert dues(Pace(rate=3), 3_000_001)[-1] == 10**15


def test_without_anything_all_is_due_at_once() -> None:
    pace = Pace()
    assert pace.unpaced
    assert dues(pace, 3) == [0, 0, 0]


def test_a_ramp_ends_at_its_rate() -> None:
    taken = dues(Pace(rate=100, rate_end=1_000, ramp_s=10), 8_000)
    within = [due for due in taken if due < 10_000 * MS]
    assert len(within) == 5_500  # the mean rate, for 10 s
    assert taken[1] - taken[0] == pytest.approx(10 * MS, rel=0.01)
    assert taken[-1] - taken[-2] == pytest.approx(MS, abs=1)


@pytest.mark.parametrize(
    ("first", "last", "seconds", "frames"),
    [
        (0.1, 1_000, 5, 2_501),
        (1_000, 0.1, 5, 2_501),
        (1_000, 1_000, 5, 5_000),
        (1, 1e6, 0.1, 50_001),
    ],
)
def test_a_ramp_has_as_many_frames_as_its_mean_rate(
    first: float, last: float, seconds: float, frames: int
) -> None:
    pace = Pace(rate=first, rate_end=last, ramp_s=seconds)
    taken = dues(pace, frames + 10)
    assert sum(due < seconds * 1e9 for due in taken) == frames
    assert taken == sorted(taken)
    # Half the time has as much as the rates until then.
    half = (first + (first + last) / 2) / 2 * seconds / 2
    assert sum(due < seconds * 1e9 / 2 for due in taken) == pytest.approx(half, abs=1)


def test_bursts_leave_together_or_at_their_rate() -> None:
    assert dues(Pace(burst=3, burst_gap_s=0.01), 7) == [0, 0, 0, *[10 * MS] * 3, 20 * MS]
    assert dues(Pace(rate=1000, burst=2, burst_gap_s=0.1), 4) == [0, MS, 100 * MS, 101 * MS]


def test_a_recording_goes_as_it_came_again_and_again() -> None:
    recording = Recording([(7 * MS, bytes(60)), (8 * MS, bytes(61)), (11 * MS, bytes(62))], 2)
    # The mean gap, 2 ms, lies between two times.
    expected = [0, 1, 4, 6, 7, 10]
    assert dues(Pace(recorded=recording), 6) == [due * MS for due in expected]
    assert dues(Pace(recorded=recording, speed=2), 3) == [0, MS // 2, 2 * MS]
    taken = [recording.take() for _ in range(7)]
    assert [len(each[1]) for each in taken if each] == [60, 61, 62] * 2
    assert taken[6] is None
    assert (recording.longest, recording.frames, recording.kinds) == (62, 3, ("recorded",))


def test_a_clock_set_back_while_recording_changes_no_order() -> None:
    recording = Recording([(5 * MS, bytes(60)), (3 * MS, bytes(60)), (6 * MS, bytes(60))])
    assert dues(Pace(recorded=recording), 3) == [0, 0, MS]


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "a recording of 0 frames"),
        ([(0, bytes(13))], "from 14 to"),
        ([(0, bytes(1519))], "from 14 to 1,518 bytes"),
    ],
)
def test_recordings_that_cannot_be_sent(frames: list[tuple[int, bytes]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recording(frames)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": 0}, "a rate of 0 frames/s: above 0"),
        ({"rate": 2e9}, "at most 1,000,000,000"),
        ({"rate_end": 5.0}, "a ramp needs a rate"),
        ({"rate": 1.0, "rate_end": 5.0}, "a ramp needs a rate, an end and a time"),
        ({"burst": 5}, "a size and a gap"),
        ({"burst_gap_s": 1.0}, "a size and a gap"),
        ({"rate": 10.0, "burst": 20, "burst_gap_s": 1.0}, "takes longer than the 1 s"),
        ({"recorded": Recording([(0, bytes(60))]), "rate": 5.0}, "no rate or bursts"),
        ({"recorded": Recording([(0, bytes(60))]), "speed": 0.0}, "a speed above 0"),
    ],
)
def test_paces_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pace(**options)


def test_gaps_and_micro_bursts() -> None:
    due = [number * 1_000 for number in range(1, 9)]
    # On time, then 3 late ones at once, then on time again; 30 and 10 ns are bursts, 600 is not.
    sent = [1_000, 2_000, 5_000, 5_030, 5_040, 6_000, 7_000, 7_600]
    said = judge_gaps(zip(sent, due, strict=True))
    assert (said["bursts"], said["longest_burst"], said["latest_ns"]) == (1, 3, 2_000)
    assert said["max_ns"] == 3_000
    assert 960 <= said["p50_ns"] <= 1_000


def test_frames_that_are_asked_for_together_are_no_micro_burst() -> None:
    said = judge_gaps([(1_000, 1_000), (1_001, 1_000), (1_002, 1_000)])
    assert (said["bursts"], said["longest_burst"]) == (0, 0)
