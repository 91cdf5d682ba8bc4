"""What the daemon has measured at one time, as the metrics are made of it.

Plain values: the daemon fills them in, and the collector turns them into metrics. Must not know
where they come from, nor Prometheus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from carp_fast.engine.tallied import Tallied


class Durations(NamedTuple):
    """A histogram: `counts` by the first of the bounds that is not exceeded, the last one of those
    above all.
    """

    bounds_s: Sequence[float]
    counts: Sequence[int]
    sum_s: float


class SegmentMeasured(msgspec.Struct, frozen=True):
    """The virtual hosts of an interface that belong to one segment.

    `states`: their number by state; `second_masters`: MASTERs that hear another one.
    """

    states: Mapping[str, int]
    second_masters: int


class InterfaceMeasured(msgspec.Struct, frozen=True):
    """An interface that has virtual hosts; `segments`: those of each segment.

    `sources`: for each family, "4" or "6", that they advertise over, whether the interface has an
    address to do it from; `counters`: as the status document has them; `foreign`: addresses of
    virtual hosts that are on the interface and not ours.
    """

    name: str
    up: bool
    sources: Mapping[str, bool]
    tallied: Tallied
    counters: Mapping[str, int]
    foreign: int
    segments: Mapping[str, SegmentMeasured]


class TrackMeasured(msgspec.Struct, frozen=True):
    """A track. `durations`: of its checks; None: it is not asked but followed."""

    name: str
    ok: bool
    durations: Durations | None


class HooksMeasured(msgspec.Struct, frozen=True):
    """Hooks by kind, "up" or "down": results by (kind, result), and what runs or waits now."""

    results: Mapping[tuple[str, str], int]
    running: Mapping[str, int]
    waiting: Mapping[str, int]
    durations: Mapping[str, Durations]


class PumpMeasured(msgspec.Struct, frozen=True):
    """The pump since it was made."""

    turns: int
    frames: int
    dropped: int
    reports_lost: int
    lateness: Durations
    takeover: Durations


class ProblemsMeasured(msgspec.Struct, frozen=True):
    """Virtual hosts that are not as configured: (interface, vhid, name, reason), and how many
    more.
    """

    rows: Sequence[tuple[str, int, str, str]]
    truncated: int


class Measured(msgspec.Struct, frozen=True):
    """All of it. Times are seconds since the epoch.

    `build`: the labels of carp_fast_build_info; `demotions`: amounts by (group, reason), group ""
    for every virtual host; `reloaded`: whether the last reload succeeded, and when one last did, or
    the start; `problems`: None unless they are asked for; `refused`: clients of the metrics'
    listener that were refused, by reason.
    """

    build: Mapping[str, str]
    started_at: float
    maintenance: bool
    interfaces: Sequence[InterfaceMeasured]
    demotions: Mapping[tuple[str, str], int]
    tracks: Sequence[TrackMeasured]
    hooks: HooksMeasured
    reloaded: tuple[bool, float]
    configuration_sha256: str
    pump: PumpMeasured
    control_clients: int
    events_dropped: int
    refused: Mapping[str, int]
    problems: ProblemsMeasured | None = None
