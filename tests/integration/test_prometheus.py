"""A real Prometheus that scrapes a pair through a fail-over: alerts fire and end again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = pytest.mark.root

RULES = Path(__file__).parent.parent.parent / "contrib" / "prometheus" / "alerts.yml"
DEADLINE_S = 60.0
TABLE = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"]}
# Of the rules nothing is changed but how long they wait: the gap has to last longer than that.
WAITS = re.compile(r"for: (?:10s|1m)$", re.MULTILINE)
DEAD_RATIO = 8  # of the backup: seconds without a MASTER
CONFIGURATION = """
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [rules.yml]
scrape_configs:
  - job_name: carp-fast
    static_configs: [{targets: [TARGETS]}]
"""


class Prometheus:
    """A Prometheus in the namespace of a host."""

    def __init__(self, program: str, host: Host, directory: Path, targets: list[str]) -> None:
        self.host = host
        rules, changed = WAITS.subn("for: 1s", RULES.read_text())
        assert changed >= 4
        (directory / "rules.yml").write_text(rules)
        text = CONFIGURATION.replace("TARGETS", ", ".join(f'"{each}"' for each in targets))
        (directory / "prometheus.yml").write_text(text)
        options = {
            "config.file": directory / "prometheus.yml",
            "storage.tsdb.path": directory / "data",
            "web.listen-address": "127.0.0.1:9090",
        }
        argv = [program, *(f"--{name}={value}" for name, value in options.items())]
        self.process = host.start(argv, log=directory / "prometheus.log")

    def ask(self, path: str) -> Any:
        """What the API answers; None if it does not answer yet."""
        curl = [
            "curl",
            "--silent",
            "--fail",
            "--max-time",
            "10",
            f"http://127.0.0.1:9090/api/v1/{path}",
        ]
        done = self.host.run(curl, check=False)
        return json.loads(done.stdout)["data"] if done.returncode == 0 else None

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire now: name, and segment or instance."""
        found = self.ask("alerts") or {"alerts": []}
        labels = [each["labels"] for each in found["alerts"] if each["state"] == "firing"]
        return {
            (each["alertname"], each.get("segment") or each.get("instance", "")) for each in labels
        }

    def up(self) -> list[str]:
        """The targets that were scraped successfully the last time."""
        found = self.ask("targets?state=active")
        targets = [] if found is None else found["activeTargets"]
        return sorted(each["labels"]["instance"] for each in targets if each["health"] == "up")


def start(host: Host, directory: Path, **keys: Any) -> tuple[RunningDaemon, str]:
    place = f"{host.address(1)}:9112"
    configuration = write_configuration(
        directory,
        host.name,
        [TABLE],
        defaults={"preempt": True, **keys},
        daemon={"metrics": place, "metrics_public": True},
    )
    return start_daemon(host, configuration), place


@pytest.mark.own_paths("hold", "send", "receive", reason="it is about what Prometheus makes of it")
def test_alerts_fire_and_end_with_a_fail_over(
    lab_factory: Callable[..., Lab], tmp_path: Path, program: Callable[[str], str]
) -> None:
    prometheus_program = program("prometheus")
    program("curl")
    a, b = lab_factory(segments=1).hosts
    first, first_place = start(a, tmp_path)
    first.wait_state("MASTER", DEADLINE_S)
    second, second_place = start(b, tmp_path, dead_ratio=DEAD_RATIO, advskew=100)
    second.wait_state("BACKUP", DEADLINE_S)
    prometheus = Prometheus(prometheus_program, b, tmp_path, [first_place, second_place])
    wait_for(
        lambda: prometheus.up() == sorted([first_place, second_place]), DEADLINE_S, "both scraped"
    )
    no_master, down = ("CarpNoMaster", "s1"), ("CarpDown", first_place)
    wait_for(lambda: not {no_master, down} & prometheus.firing(), DEADLINE_S, "nothing wrong")
    first.kill()
    wait_for(lambda: {no_master, down} <= prometheus.firing(), DEADLINE_S, "both alerts")
    second.wait_state("MASTER", DEADLINE_S)
    wait_for(lambda: no_master not in prometheus.firing(), DEADLINE_S, "the end of CarpNoMaster")
    assert down in prometheus.firing()
    assert not {each for each in prometheus.firing() if each[0] == "CarpTwoMasters"}
    start(a, tmp_path)
    wait_for(lambda: down not in prometheus.firing(), DEADLINE_S, "the end of CarpDown")
