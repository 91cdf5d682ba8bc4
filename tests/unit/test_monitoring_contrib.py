"""The files in contrib/prometheus: alerts tested by promtool, names held to what is exported."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from carp_fast.metrics.families import FAMILIES, PREFIX, Family

ROOT = Path(__file__).parent.parent.parent
DIRECTORY = ROOT / "contrib" / "prometheus"
RULES = (DIRECTORY / "alerts.yml").read_text()
TESTS = sorted(DIRECTORY.glob("*_test.yml"))
RUNBOOK = (ROOT / "docs" / "monitoring.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((DIRECTORY / "dashboard.json").read_text())
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)
# Labels that Prometheus itself adds, and one that docs/monitoring.md tells people to add.
ADDED = {"job", "instance", "cluster", "le"}
OF_HISTOGRAMS = ("_bucket", "_count", "_sum")
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def exported(name: str) -> Family | None:
    """The family that has samples of this name."""
    for family in FAMILIES:
        names = [family.exported]
        if family.kind == "histogram":
            names = [family.exported + suffix for suffix in OF_HISTOGRAMS]
        if name in names:
            return family
    return None


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression, and the labels that it is selected by."""
    for name, labels in re.findall(rf"\b({PREFIX}\w+)(?:{{([^}}]*)}})?", expression):
        yield name, set(re.findall(r"(\w+) *(?:=~|!~|!=|=)", labels or ""))


def grouped_by(expression: str) -> set[str]:
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    return {label.strip() for group in groups for label in group.split(",")}


def wrong(expression: str) -> list[str]:
    """What an expression names and no exported metric has."""
    found, labels = [], set(ADDED)
    for name, selected in selectors(expression):
        family = exported(name)
        if family is None:
            found.append(name)
            continue
        found += [f"{name}{{{label}}}" for label in selected - set(family.labels) - ADDED]
        labels |= set(family.labels)
    return found + [f"by ({label})" for label in sorted(grouped_by(expression) - labels)]


def promtool(program: Callable[[str], str], *arguments: str) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments],
        cwd=DIRECTORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions() -> list[str]:
    """The expressions of the rules: what follows `expr:`, also over several lines."""
    found = []
    for block in re.findall(r"expr: (>-\n(?: {10,}.*\n)+|.*\n)", RULES):
        found.append(" ".join(block.removeprefix(">-").split()))
    return found


def test_the_alerts_are_well_formed(program: Callable[[str], str]) -> None:
    assert f"{len(expressions())} rules found" in promtool(program, "check", "rules", "alerts.yml")


def test_the_alerts_fire_when_they_should_and_at_no_other_time(
    program: Callable[[str], str],
) -> None:
    promtool(program, "test", "rules", *(path.name for path in TESTS))


def test_every_alert_is_tested_in_both_directions() -> None:
    text = "".join(path.read_text() for path in TESTS)
    for alert in ALERTS:
        silent = re.search(rf"\{{eval_time: \S+, alertname: {alert}\}}", text)
        assert silent, alert
        assert re.search(rf"alertname: {alert}\n +exp_alerts:", text), alert


def test_the_alerts_name_only_what_is_exported() -> None:
    found = {line: wrong(line.replace("carp_fast:", "recorded:")) for line in expressions()}
    assert {line: names for line, names in found.items() if names} == {}


def test_every_alert_has_its_section_in_the_runbook() -> None:
    for alert in ALERTS:
        assert f"\n### {alert}\n" in RUNBOOK, alert
        assert f"runbook: docs/monitoring.md#{alert.lower()}\n" in RULES
    sections = re.findall(r"^### (Carp\w+)$", RUNBOOK, re.MULTILINE)
    assert sections == ALERTS, "in the order of the rules"


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_dashboard_names_only_what_is_exported() -> None:
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            assert wrong(expression) == [], panel["title"]
            ours = [name for name, _ in selectors(expression)]
            assert ours or PROCESS & set(re.findall(r"\bprocess_\w+", expression))
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            families = [exported(name) for name in ours]
            labels = {label for each in families if each is not None for label in each.labels}
            assert shown <= labels | ADDED, panel["title"]


def test_the_dashboard_lies_as_it_should() -> None:
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_checks_find_names_that_are_not_exported() -> None:
    assert wrong('sum by (kind) (carp_fast_nothing{x="y"})') == ["carp_fast_nothing", "by (kind)"]
    assert wrong('carp_fast_maintenance{interface="eth0"}') == ["carp_fast_maintenance{interface}"]
    assert wrong("rate(carp_fast_pump_lateness_seconds[1m])") == ["carp_fast_pump_lateness_seconds"]
