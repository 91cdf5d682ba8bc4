"""Histograms of durations with fixed bounds."""

LATENESS_BOUNDS_NS: tuple[int, ...]
TAKEOVER_BOUNDS_NS: tuple[int, ...]
