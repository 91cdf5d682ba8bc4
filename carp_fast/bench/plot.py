"""A figure of lines on logarithmic axes, as SVG: what `carp-fast bench --plot` writes.

Holds scales, ticks, labels and colours. Must not know what the lines mean beyond their names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

PANEL_WIDTH, PANEL_HEIGHT = 430, 330
LEFT, RIGHT, TOP, BOTTOM = 66, 34, 44, 56
LEGEND_HEIGHT, CAPTION_HEIGHT = 40, 26
FONT = "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"
INK, FAINT, GRID, GRID_FINE = "#222222", "#555555", "#cccccc", "#eeeeee"
# The colours of Okabe and Ito, which people with colour blindness can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Line:
    """Points (x, y), all above 0, in ascending x. A dashed line has no markers and is grey.

    `joined` False: markers without a line. Lines of one name may be parts of one, with gaps.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Panel:
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis that maps values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = math.log10(value / self.low) / math.log10(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def decades(self) -> list[float]:
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]

    def between(self) -> list[float]:
        """The multiples 2 to 9 of each decade."""
        return [decade * n for decade in self.decades()[:-1] for n in range(2, 10)]


def scale_over(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale of whole decades around all values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return Scale(10.0**low, 10.0 ** max(high, low + 1), start, end)


def number(value: float) -> str:
    """A tick's label: 0.01, 10, 10,000."""
    return f"{value:,.0f}" if value >= 1 else f"{value:.10f}".rstrip("0")


def draw(panels: Sequence[Panel], caption: str) -> str:
    """The figure, panels side by side under a common legend; lines of one name look alike.

    Raises ValueError if nothing can be drawn: no panel, or no point in a panel.
    """
    names = list(
        dict.fromkeys((line.name, line.dashed) for panel in panels for line in panel.lines)
    )
    if not panels or not all(any(line.points for line in panel.lines) for panel in panels):
        raise ValueError("nothing to draw: a panel without a point")
    solid = [name for name, dashed in names if not dashed]
    width = PANEL_WIDTH * len(panels)
    height = LEGEND_HEIGHT + PANEL_HEIGHT + CAPTION_HEIGHT
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'"
        f" width='{width}' height='{height}' {FONT} role='img'>",
        f"<title>{escape('; '.join(panel.title for panel in panels))}</title>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
        *_legend(names, solid),
    ]
    for index, panel in enumerate(panels):
        parts.append(f"<g transform='translate({index * PANEL_WIDTH} {LEGEND_HEIGHT})'>")
        parts += _panel(panel, solid)
        parts.append("</g>")
    parts.append(_text(caption, LEFT, height - 10, size=10, colour=FAINT))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, solid: Sequence[str]) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    x = scale_over([x for x, _ in points], LEFT, PANEL_WIDTH - RIGHT)
    y = scale_over([y for _, y in points], PANEL_HEIGHT - BOTTOM, TOP)
    middle = (x.start + x.end) / 2
    parts = [_text(panel.title, middle, TOP - 16, anchor="middle", size=13, weight="bold")]
    parts += [_stroke(x.at(v), y.start, x.at(v), y.end, GRID_FINE) for v in x.between()]
    parts += [_stroke(x.start, y.at(v), x.end, y.at(v), GRID_FINE) for v in y.between()]
    for value in x.decades():
        parts.append(_stroke(x.at(value), y.start, x.at(value), y.end, GRID))
        parts.append(_text(number(value), x.at(value), y.start + 16, anchor="middle"))
    for value in y.decades():
        parts.append(_stroke(x.start, y.at(value), x.end, y.at(value), GRID))
        parts.append(_text(number(value), x.start - 7, y.at(value) + 4, anchor="end"))
    parts.append(_text(panel.x_label, middle, y.start + 36, anchor="middle", size=12))
    upright = (y.start + y.end) / 2
    parts.append(_text(panel.y_label, 15, upright, anchor="middle", size=12, turned=True))
    for line in sorted(panel.lines, key=lambda line: not line.dashed):
        parts += _line(line, x, y, solid)
    return parts


def _line(line: Line, x: Scale, y: Scale, solid: Sequence[str]) -> list[str]:
    colour, marker = _look(line.name, line.dashed, solid)
    at = [(x.at(px), y.at(py)) for px, py in line.points]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in at)
    dash = " stroke-dasharray='5 4'" if line.dashed else ""
    drawn = [f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'{dash}/>"]
    if not line.joined:
        drawn = []
    return drawn + [_marker(marker, px, py, colour) for px, py in at if marker]


def _look(name: str, dashed: bool, solid: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a line: the same in every panel."""
    if dashed:
        return FAINT, ""
    index = solid.index(name)
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _legend(names: Sequence[tuple[str, bool]], solid: Sequence[str]) -> list[str]:
    parts, at = [], float(LEFT)
    for name, dashed in names:
        colour, marker = _look(name, dashed, solid)
        dash = " stroke-dasharray='5 4'" if dashed else ""
        parts.append(
            f"<line x1='{at}' y1='24' x2='{at + 28}' y2='24' stroke='{colour}'"
            f" stroke-width='2'{dash}/>"
        )
        if marker:
            parts.append(_marker(marker, at + 14, 24, colour))
        parts.append(_text(name, at + 34, 28, size=12))
        at += 34 + 7.2 * len(name) + 22
    return parts


def _marker(kind: str, x: float, y: float, colour: str) -> str:
    if kind == "circle":
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}'/>"
    around = {
        "square": ((-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)),
        "triangle": ((0, -4.8), (4.4, 3.4), (-4.4, 3.4)),
        "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
    }[kind]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in around)
    return f"<polygon points='{points}' fill='{colour}'/>"


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    ends = f"x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'"
    return f"<line {ends} stroke='{colour}' stroke-width='1'/>"


def _text(
    text: str,
    x: float,
    y: float,
    *,
    anchor: str = "start",
    size: int = 11,
    weight: str = "normal",
    colour: str = INK,
    turned: bool = False,
) -> str:
    turn = f" transform='rotate(-90 {x:.1f} {y:.1f})'" if turned else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}'"
        f" font-weight='{weight}' fill='{colour}'{turn}>{escape(text)}</text>"
    )
