"""A run fails if a ratio fell further than allowed, and only then."""

from __future__ import annotations

from benches.comparison import compared, repeat_ns


def test_only_a_ratio_that_fell_too_far_fails() -> None:
    stored = {"steady": 10.0, "slower": 10.0, "fallen": 10.0, "gone": 5.0}
    ratios = {"steady": 11.0, "slower": 5.0, "fallen": 4.9, "added": 3.0}
    lines, fallen = compared(ratios, stored, allowed=2.0)
    assert lines[0] == "steady: 11.0 times, was 10.0"
    assert lines[3] == "added: 3.0 times, new"
    assert fallen == ["fallen: 4.9 times is less than 10.0 / 2"]


def test_setting_up_is_not_timed() -> None:
    calls: list[str] = []
    took_ns = repeat_ns(lambda: calls.append("work"), lambda: calls.extend(["setup"] * 10_000))
    assert calls[0] == "setup"
    assert calls[-1] == "work"
    assert took_ns < 10_000_000
