"""The text of the metrics: what was measured, in both formats, as a parser of others reads it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_of
from prometheus_client.parser import text_string_to_metric_families as text_of

from carp_fast.engine._engine import Engine
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.engine.tallied import Tallied
from carp_fast.metrics.collector import HISTOGRAMS, NO_VERDICTS, SAMPLES, Documents
from carp_fast.metrics.families import BY_NAME, FAMILIES, OF_ALL, OF_VIRTUAL_HOSTS, PREFIX
from carp_fast.metrics.measured import (
    Durations,
    HooksMeasured,
    InterfaceMeasured,
    Measured,
    ProblemsMeasured,
    PumpMeasured,
    SegmentMeasured,
    TrackMeasured,
)
from carp_fast.metrics.negotiation import Format
from carp_fast.metrics.virtual_hosts import Row, parts

FORMATS: tuple[Format, ...] = ("text", "openmetrics")
PARSERS: dict[str, Any] = {"text": text_of, "openmetrics": openmetrics_of}
LATENESS = Durations((0.001, 0.1), (5, 2, 1), 1.5)
STRANGE = 'a"b\\c'  # of an interface: the kernel allows it


def interface(name: str = "eth0") -> InterfaceMeasured:
    tallied = Tallied(
        states={"INIT": 1, "BACKUP": 2, "MASTER": 3},
        held=7,
        wanted=8,
        second_masters=1,
        families=[4],
        transitions={("MASTER", "master_down"): 9},
        addresses_restored=10,
        duplicate_source=11,
        counter_reset=12,
        family_silent=13,
    )
    counters = dict(Engine().interface_counters(0)) | {"advertisements_sent": 14, "bad_auth": 15}
    segments = {name: SegmentMeasured(tallied.states, tallied.second_masters)}
    return InterfaceMeasured(name, True, {"4": False}, tallied, counters, 16, segments)


def measured(**changed: Any) -> Measured:
    everything = Measured(
        build=dict.fromkeys(BY_NAME["build_info"].labels, "x"),
        started_at=1_800_000_000.5,
        maintenance=True,
        interfaces=[interface(), interface(STRANGE)],
        demotions={("", "operator"): 17},
        tracks=[TrackMeasured("asked", True, LATENESS), TrackMeasured("followed", False, None)],
        hooks=HooksMeasured({("up", "ok"): 18}, {"up": 1}, {"down": 2}, {"up": LATENESS}),
        reloaded=(False, 1_800_000_001.25),
        configuration_sha256="0" * 64,
        pump=PumpMeasured(19, 20, 21, 22, LATENESS, LATENESS),
        control_clients=23,
        events_dropped=24,
        refused={"slow": 25},
    )
    return msgspec.structs.replace(everything, **changed)


def read(document: bytes, form: Format) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in PARSERS[form](document.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_measured_is_in_the_document(form: Format) -> None:
    found = read(Documents().document(measured(), form), form)

    def sample(name: str, **labels: str) -> float | None:
        return found.get((PREFIX + name, tuple(sorted(labels.items()))))

    assert sample("virtual_hosts", interface="eth0", segment="eth0", state="BACKUP") == 2
    assert sample("second_masters", interface=STRANGE, segment=STRANGE) == 1
    assert sample("addresses_held", interface=STRANGE) == 7
    assert sample("addresses_foreign", interface="eth0") == 16
    assert sample("transitions_total", interface="eth0", to="MASTER", reason="master_down") == 9
    assert sample("advertisements_sent_total", interface="eth0") == 14
    assert sample("advertisements_rejected_total", interface="eth0", verdict="bad_auth") == 15
    assert sample("advertisements_rejected_total", interface="eth0", verdict="replay") == 0
    assert sample("interface_has_source", interface="eth0", family="4") == 0
    assert sample("demotion", group="", reason="operator") == 17
    assert sample("track_ok", track="followed") == 0
    assert sample("track_duration_seconds_count", track="followed") is None
    assert sample("hooks_total", kind="up", result="ok") == 18
    assert sample("hooks_total", kind="down", result="timeout") == 0
    assert sample("hooks_waiting", kind="down") == 2
    assert sample("config_last_reload_successful") == 0
    assert sample("config_last_reload_success_timestamp_seconds") == 1_800_000_001.25
    assert sample("pump_lateness_seconds_bucket", le="0.1") == 7
    assert sample("pump_lateness_seconds_bucket", le="+Inf") == 8
    assert sample("pump_lateness_seconds_count") == 8
    assert sample("pump_lateness_seconds_sum") == 1.5
    assert sample("metrics_refused_total", reason="slow") == 25
    assert sample("virtual_host_problems_truncated") is None


@pytest.mark.parametrize("form", FORMATS)
def test_problems_are_there_where_they_are_asked_for(form: Format) -> None:
    problems = ProblemsMeasured([("eth0", 7, "web", "init"), ("eth0", 8, "", "init")], 3)
    found = read(Documents().document(measured(problems=problems), form), form)
    for vhid, name in (("7", "web"), ("8", "")):
        labels = (("interface", "eth0"), ("name", name), ("reason", "init"), ("vhid", vhid))
        assert found[f"{PREFIX}virtual_host_problem", labels] == 1
    assert found[f"{PREFIX}virtual_host_problems_truncated", ()] == 3


def test_the_process_is_measured_by_the_library_and_nothing_has_a_time_of_its_creation() -> None:
    for form in FORMATS:
        document = Documents().document(measured(), form)
        assert b"process_resident_memory_bytes" in document
        assert b"_created" not in document
        assert b"python_gc" not in document


def test_every_family_has_its_samples() -> None:
    assert {*SAMPLES, *HISTOGRAMS} == {
        family.name for family in FAMILIES if family not in OF_VIRTUAL_HOSTS
    }
    assert len(BY_NAME) == len(FAMILIES)


def test_every_counter_of_an_interface_is_a_verdict_or_has_a_family() -> None:
    verdicts = set(VERDICT_WORDS[1:])
    assert set(Engine().interface_counters(0)) - NO_VERDICTS == verdicts


def test_the_number_of_series_of_an_interface() -> None:
    # What docs/monitoring.md says: 256 interfaces, each with six kinds of transitions so far.
    tallied = interface().tallied
    six = {("MASTER", str(number)): 1 for number in range(6)}
    one = msgspec.structs.replace(
        interface(), tallied=msgspec.structs.replace(tallied, transitions=six)
    )
    counts = []
    for number in (1, 2):
        each = [msgspec.structs.replace(one, name=f"eth{i}") for i in range(number)]
        document = Documents().document(measured(interfaces=each), "text").decode()
        counts.append(sum(not line.startswith("#") for line in document.splitlines()))
    assert counts[1] - counts[0] == 30 + 6
    segments = {name: SegmentMeasured(tallied.states, 0) for name in ("office", "lab")}
    split = [msgspec.structs.replace(one, segments=segments)]
    document = Documents().document(measured(interfaces=split), "text").decode()
    further = sum(not line.startswith("#") for line in document.splitlines()) - counts[0]
    assert further == 4, "of a second segment"


# --- a line for each virtual host -----------------------------------------------------------------


ROWS: list[list[Row]] = [
    [("eth0", 1, "", "eth0", 2, 10), ("eth0", 2, STRANGE, "eth0", 1, 0)],
    [],
    [("eth0", 3, "web", "office", 1, 1), (STRANGE, 255, "", STRANGE, 0, 3)],
]


@pytest.mark.parametrize("form", FORMATS)
def test_virtual_hosts_have_their_state_and_number_of_transitions(form: Format) -> None:
    found = read(b"".join(parts(ROWS, form)), form)
    expected = {}
    for interface, vhid, name, segment, state, transitions in (r for rows in ROWS for r in rows):
        labels = [("interface", interface), ("segment", segment), ("vhid", str(vhid))]
        key = tuple(sorted([*labels, *([("name", name)] if name else [])]))
        expected[f"{PREFIX}virtual_host_state", key] = float(state)
        expected[f"{PREFIX}virtual_host_transitions_total", key] = float(transitions)
    assert found == expected


@pytest.mark.parametrize("form", FORMATS)
def test_without_virtual_hosts_the_document_has_its_families(form: Format) -> None:
    document = b"".join(parts([], form))
    assert read(document, form) == {}
    for family in OF_VIRTUAL_HOSTS:
        name = family.exported if form == "text" else PREFIX + family.name
        assert f"# TYPE {name} {family.kind}\n".encode() in document


def test_families_are_named_as_prometheus_wants_them() -> None:
    for family in OF_ALL:
        assert not family.name.endswith("_total"), "it follows from the kind"
        assert family.help.endswith(".")
        assert not {"state", "peer"} & set(family.labels) or family.kind == "gauge"
