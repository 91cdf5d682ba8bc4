"""Spans of time: lists of (start, end) in ns, ascending and apart, and what is done with them."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]


def union(*lists: Iterable[Span]) -> list[Span]:
    """What is in any of the lists, as ascending spans that do not touch."""
    found: list[Span] = []
    for start, end in sorted(span for each in lists for span in each):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif end > start:
            found.append((start, end))
    return found


def common(one: Iterable[Span], other: Iterable[Span]) -> list[Span]:
    """What is in both lists."""
    others = union(other)
    return [
        (max(start, begin), min(end, finish))
        for start, end in union(one)
        for begin, finish in others
        if max(start, begin) < min(end, finish)
    ]


def without(one: Iterable[Span], other: Iterable[Span]) -> list[Span]:
    """What is in the first list and not in the second."""
    found: list[Span] = []
    others = union(other)
    for start, end in union(one):
        at = start
        for begin, finish in others:
            if finish <= at or begin >= end:
                continue
            if begin > at:
                found.append((at, begin))
            at = max(at, finish)
        if at < end:
            found.append((at, end))
    return found


def longest(spans: Iterable[Span]) -> Span:
    """The longest span, (0, 0) where there is none."""
    return max(spans, key=lambda span: span[1] - span[0], default=(0, 0))


def total_s(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans) / 1e9


def length_s(span: Span) -> float:
    return (span[1] - span[0]) / 1e9
