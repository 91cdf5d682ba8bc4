"""The histogram of durations against sorting all of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.loadtest._histogram import Durations

durations = st.one_of(st.integers(0, 200), st.integers(0, 2**62))


@given(st.lists(durations, min_size=1, max_size=200), st.floats(0, 1))
def test_percentiles_are_those_of_the_sorted_list(values: list[int], share: float) -> None:
    histogram = Durations()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(math.ceil(share * len(values)), 1) - 1]
    assert exact <= histogram.percentile(share) <= exact + exact / 32
    assert histogram.percentile(1.0) == max(values)
    assert len(histogram) == len(values)


@pytest.mark.parametrize("value", [0, 63, 64, 65, 2**31 - 1, 2**63 - 1])
def test_one_value_is_every_percentile(value: int) -> None:
    histogram = Durations()
    histogram.add(value)
    assert [histogram.percentile(share) for share in (0.0, 0.5, 1.0)] == [value] * 3


def test_none_and_one_below_zero() -> None:
    histogram = Durations()
    assert histogram.percentile(0.5) == 0
    histogram.add(-5)
    assert histogram.percentile(0.5) == 0
    assert len(histogram) == 1
