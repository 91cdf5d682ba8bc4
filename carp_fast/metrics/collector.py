"""The metrics of /metrics: what was measured becomes families of prometheus_client, and text.

prometheus_client costs memory: this module is imported only when metrics are on. Must not know how
a client asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest as text_of
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_of
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from carp_fast.metrics.families import BY_NAME, OF_ALL, OF_PROBLEMS, PREFIX
from carp_fast.metrics.measured import Durations, InterfaceMeasured, Measured
from carp_fast.metrics.negotiation import Format

Sample = tuple[tuple[str, ...], float]
STATES = ("INIT", "BACKUP", "MASTER")
KINDS = ("up", "down")
RESULTS = ("ok", "failed", "timeout", "superseded")
# Counters of an interface that are no verdict on a rejected packet.
NO_VERDICTS = frozenset(
    {
        "advertisements_sent",
        "advertisements_heard",
        "announcements_sent",
        "announcements_paced",
        "announcement_errors",
        "send_errors",
        "became_master",
    }
)
Samples = Callable[[Measured], Iterable[Sample]]


def _one(value: Callable[[Measured], float]) -> Samples:
    """The sample of a family without labels."""
    return lambda measured: [((), float(value(measured)))]


def _each(value: Callable[[InterfaceMeasured], float]) -> Samples:
    """A sample for each interface."""
    return lambda measured: [((each.name,), float(value(each))) for each in measured.interfaces]


def _counter(name: str) -> Samples:
    return _each(lambda each: each.counters.get(name, 0))


def _info(labels: Callable[[Measured], tuple[str, ...]]) -> Samples:
    return lambda measured: [(labels(measured), 1.0)]


def _states(measured: Measured) -> Iterator[Sample]:
    for each in measured.interfaces:
        for segment, found in each.segments.items():
            for state in STATES:
                yield (each.name, segment, state), found.states.get(state, 0)


def _second_masters(measured: Measured) -> Iterator[Sample]:
    for each in measured.interfaces:
        for segment, found in each.segments.items():
            yield (each.name, segment), found.second_masters


def _transitions(measured: Measured) -> Iterator[Sample]:
    for each in measured.interfaces:
        for (state, reason), count in each.tallied.transitions.items():
            yield (each.name, state, reason), count


def _sources(measured: Measured) -> Iterator[Sample]:
    for each in measured.interfaces:
        for family, there in each.sources.items():
            yield (each.name, family), there


def _rejected(measured: Measured) -> Iterator[Sample]:
    for each in measured.interfaces:
        for word, count in each.counters.items():
            if word not in NO_VERDICTS:
                yield (each.name, word), count


def _hook_results(measured: Measured) -> Iterator[Sample]:
    for kind, result in itertools.product(KINDS, RESULTS):
        yield (kind, result), measured.hooks.results.get((kind, result), 0)


def _by_kind(counts: Callable[[Measured], Mapping[str, int]]) -> Samples:
    return lambda measured: [((kind,), counts(measured).get(kind, 0)) for kind in KINDS]


def _problem_rows(measured: Measured) -> Iterator[Sample]:
    if measured.problems is not None:
        for interface, vhid, name, reason in measured.problems.rows:
            yield (interface, str(vhid), name, reason), 1.0


SAMPLES: dict[str, Samples] = {
    "build_info": _info(lambda m: tuple(m.build[label] for label in BY_NAME["build_info"].labels)),
    "start_time_seconds": _one(lambda m: m.started_at),
    "maintenance": _one(lambda m: m.maintenance),
    "virtual_hosts": _states,
    "transitions": _transitions,
    "interface_up": _each(lambda each: each.up),
    "interface_has_source": _sources,
    "advertisements_sent": _counter("advertisements_sent"),
    "advertisements_heard": _counter("advertisements_heard"),
    "advertisements_rejected": _rejected,
    "send_errors": _counter("send_errors"),
    "announcements_sent": _counter("announcements_sent"),
    "announcements_paced": _counter("announcements_paced"),
    "addresses_held": _each(lambda each: each.tallied.held),
    "addresses_wanted": _each(lambda each: each.tallied.wanted),
    "addresses_foreign": _each(lambda each: each.foreign),
    "addresses_restored": _each(lambda each: each.tallied.addresses_restored),
    "duplicate_source": _each(lambda each: each.tallied.duplicate_source),
    "counters_reset": _each(lambda each: each.tallied.counter_reset),
    "family_silent": _each(lambda each: each.tallied.family_silent),
    "second_masters": _second_masters,
    "demotion": lambda m: m.demotions.items(),
    "track_ok": lambda m: [((track.name,), track.ok) for track in m.tracks],
    "hooks": _hook_results,
    "hooks_running": _by_kind(lambda m: m.hooks.running),
    "hooks_waiting": _by_kind(lambda m: m.hooks.waiting),
    "config_last_reload_successful": _one(lambda m: m.reloaded[0]),
    "config_last_reload_success_timestamp_seconds": _one(lambda m: m.reloaded[1]),
    "config_info": _info(lambda m: (m.configuration_sha256,)),
    "pump_turns": _one(lambda m: m.pump.turns),
    "pump_frames": _one(lambda m: m.pump.frames),
    "pump_dropped": _one(lambda m: m.pump.dropped),
    "pump_reports_lost": _one(lambda m: m.pump.reports_lost),
    "control_clients": _one(lambda m: m.control_clients),
    "events_dropped": _one(lambda m: m.events_dropped),
    "metrics_refused": lambda m: [((reason,), count) for reason, count in m.refused.items()],
    "virtual_host_problem": _problem_rows,
    "virtual_host_problems_truncated": _one(lambda m: m.problems.truncated if m.problems else 0),
}
HISTOGRAMS: dict[str, Callable[[Measured], Iterable[tuple[tuple[str, ...], Durations]]]] = {
    "track_duration_seconds": lambda m: [
        ((track.name,), track.durations) for track in m.tracks if track.durations is not None
    ],
    "hook_duration_seconds": lambda m: [
        ((kind,), m.hooks.durations[kind]) for kind in KINDS if kind in m.hooks.durations
    ],
    "pump_lateness_seconds": lambda m: [((), m.pump.lateness)],
    "takeover_duration_seconds": lambda m: [((), m.pump.takeover)],
}


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    """(bound, number of durations up to it), as Prometheus has them."""
    ends = (*map(floatToGoString, durations.bounds_s), "+Inf")
    return list(zip(ends, itertools.accumulate(durations.counts), strict=True))


def _metric(name: str, measured: Measured) -> Metric:
    family = BY_NAME[name]
    full, labels = PREFIX + name, family.labels
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(full, family.help, labels=labels)
        for values, durations in HISTOGRAMS[name](measured):
            histogram.add_metric(values, _buckets(durations), durations.sum_s)
        return histogram
    metric = (CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily)(
        full, family.help, labels=labels
    )
    for values, value in SAMPLES[name](measured):
        metric.add_metric(values, value)
    return metric


class Documents(Collector):
    """Makes the text of /metrics. One at a time: it is called in the worker's thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._measured: Measured | None = None
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def describe(self) -> Sequence[Metric]:
        """Nothing: no other collector has these names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families of what was measured last."""
        measured = self._measured
        if measured is not None:
            for family in (*OF_ALL, *(OF_PROBLEMS if measured.problems is not None else ())):
                yield _metric(family.name, measured)

    def document(self, measured: Measured, form: Format) -> bytes:
        """The text in this format."""
        self._measured = measured
        try:
            return (openmetrics_of if form == "openmetrics" else text_of)(self._registry)
        finally:
            self._measured = None
