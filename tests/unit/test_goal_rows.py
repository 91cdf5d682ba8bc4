"""The table of goals: what a row is, and how repeats become a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benches.goal_rows import HEADER, ROWS, measure_of, measure_tax, table


def test_every_row_is_measured_and_an_unknown_one_refused() -> None:
    assert {measure_of(row)[1] for row in ROWS} == {65_280, 16_320, 4_080, 255, 0}
    assert measure_of("tax") == (measure_tax, 0)
    for row in ("steady", "steady-many", "take-10", ""):
        with pytest.raises(ValueError, match="the numbers may differ"):
            measure_of(row)


def test_repeats_of_a_figure_are_one_line_with_median_and_range(tmp_path: Path) -> None:
    path = tmp_path / "results"
    lines = [
        {"row": "tax", "daemon": daemon, "figures": {"tax, ns": value}}
        for daemon, value in (("a", 30.0), ("b", 7.0), ("a", 10.0), ("a", 20.0))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert table(path) == [
        ("tax", "a", "tax, ns", "3", "20.0", "10.0", "30.0"),
        ("tax", "b", "tax, ns", "1", "7.000", "7.000", "7.000"),
    ]
    assert all(len(cells) == len(HEADER) for cells in table(path))
