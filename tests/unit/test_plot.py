"""Scales and ticks of the figure, and that what is drawn lies where its value is."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from carp_fast.bench.plot import Line, Panel, draw, number, scale_over

SPACE = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([2, 900], 1, 1_000), ([1, 10], 1, 10), ([5], 1, 10), ([10], 10, 100), ([0.03, 3], 0.01, 10)],
)
def test_a_scale_covers_whole_decades(values: list[float], low: float, high: float) -> None:
    scale = scale_over(values, 0, 100)
    assert (scale.low, scale.high) == pytest.approx((low, high))
    assert scale.at(low) == pytest.approx(0)
    assert scale.at(high) == pytest.approx(100)
    assert scale.at((low * high) ** 0.5) == pytest.approx(50)
    assert scale.decades()[0] == pytest.approx(low)
    assert scale.decades()[-1] == pytest.approx(high)
    assert len(scale.between()) == 8 * (len(scale.decades()) - 1)


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, "0.01"), (0.1, "0.1"), (1, "1"), (10_000, "10,000")]
)
def test_labels_of_ticks(value: float, text: str) -> None:
    assert number(value) == text


def test_points_climb_where_values_do() -> None:
    line = Line("<one> & only", [(1, 1), (10, 10), (100, 100)])
    root = ET.fromstring(draw([Panel("t", "x", "y", [line])], "caption"))
    (drawn,) = root.iter(f"{SPACE}polyline")
    points = [tuple(map(float, pair.split(","))) for pair in drawn.attrib["points"].split()]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x1 < x2 < x3
    assert y1 > y2 > y3  # SVG counts downwards
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert "<one> & only" in {text.text for text in root.iter(f"{SPACE}text")}


def test_a_line_looks_the_same_in_every_panel() -> None:
    lines = [Line("a", [(1, 1)]), Line("b", [(1, 2)]), Line("f", [(1, 1), (2, 2)], dashed=True)]
    panels = [Panel("1", "x", "y", lines), Panel("2", "x", "y", lines[1:2])]
    root = ET.fromstring(draw(panels, ""))
    one, two = root.findall(f"{SPACE}g")
    dashed, a, b = (line.attrib["stroke"] for line in one.findall(f"{SPACE}polyline"))
    (again,) = (line.attrib["stroke"] for line in two.findall(f"{SPACE}polyline"))
    assert again == b
    assert len({a, b, dashed}) == 3


def test_an_empty_panel_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([Panel("t", "x", "y", [Line("a", [])])], "")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([], "")
