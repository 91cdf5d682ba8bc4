"""Metrics of a running daemon: scraped, moved by reloads, checked by promtool."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.metrics.families import FAMILIES, OF_ALL, OF_VIRTUAL_HOSTS, PREFIX
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.scraped import get

pytestmark = pytest.mark.root

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
TABLE = {
    "interface": "s1",
    "vhid": "1-3",
    "addresses": ["10.1.1.{vhid}/32"],
    "name": "vip-{vhid}",
    "segment": "office",
}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def lab(lab_factory: Callable[..., Lab]) -> Lab:
    return lab_factory(segments=1)


def samples(body: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def scraped(path: Path) -> Callable[..., float | None]:
    """A function that returns a sample of a scrape that is made now, by its name and labels."""
    found = samples(get(path)[2])

    def sample(metric: str, **labels: str) -> float | None:
        return found.get((PREFIX + metric, tuple(sorted(labels.items()))))

    return sample


def start(
    host: Host, directory: Path, *tables: Mapping[str, Any], **daemon: Any
) -> tuple[RunningDaemon, Path]:
    path = directory / f"{host.name}-metrics.sock"
    given = {"metrics": str(path), **daemon}
    configuration = write_configuration(directory, host.name, tables, daemon=given)
    return start_daemon(host, configuration), path


def complaints(promtool: str, document: bytes) -> str:
    """What promtool has to say about a document; nothing if it is well-formed."""
    done = subprocess.run(
        [promtool, "check", "metrics"], input=document, capture_output=True, check=False
    )
    return (done.stdout + done.stderr).decode()


def test_a_master_is_measured(lab: Lab, tmp_path: Path) -> None:
    daemon, path = start(lab.hosts[0], tmp_path, TABLE)
    daemon.wait_state("MASTER", 10)
    wait_for(lambda: scraped(path)("addresses_held", interface="s1") == 3, 10, "three addresses")
    sample = scraped(path)
    assert sample("virtual_hosts", interface="s1", segment="office", state="MASTER") == 3
    assert sample("virtual_hosts", interface="s1", segment="office", state="BACKUP") == 0
    assert sample("addresses_wanted", interface="s1") == 3
    assert sample("interface_up", interface="s1") == 1
    assert sample("interface_has_source", interface="s1", family="4") == 1
    assert sample("interface_has_source", interface="s1", family="6") is None
    assert sample("transitions_total", interface="s1", to="MASTER", reason="master_down") == 3
    assert sample("config_last_reload_successful") == 1
    assert sample("takeover_duration_seconds_count") == 0
    assert (sample("pump_lateness_seconds_count") or 0) > 0
    assert (sample("advertisements_sent_total", interface="s1") or 0) >= 3
    assert sample("control_clients") is not None


def test_every_family_is_exported_in_both_formats_and_promtool_agrees(
    lab: Lab, tmp_path: Path, program: Callable[[str], str]
) -> None:
    promtool = program("promtool")
    daemon, path = start(lab.hosts[0], tmp_path, TABLE, metrics_detail="full")
    daemon.wait_state("MASTER", 10)
    status, headers, text = get(path)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert complaints(promtool, text) == ""
    status, headers, hosts = get(path, "/metrics/virtual_hosts")
    assert status == 200
    assert complaints(promtool, hosts) == ""
    typed = dict(
        line.split()[2:4] for line in (text + hosts).decode().splitlines() if "# TYPE" in line
    )
    assert {name: kind for name, kind in typed.items() if name.startswith(PREFIX)} == {
        family.exported: family.kind for family in FAMILIES
    }
    status, headers, openmetrics = get(path, Accept=OPENMETRICS)
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.endswith(b"# EOF\n")
    assert b"_created" not in text + openmetrics
    for family in (*OF_ALL, *OF_VIRTUAL_HOSTS):
        document = (
            openmetrics
            if family in OF_ALL
            else get(path, "/metrics/virtual_hosts", Accept=OPENMETRICS)[2]
        )
        assert f"# TYPE {PREFIX}{family.name} {family.kind}\n".encode() in document


def test_documents_are_the_same_compressed(lab: Lab, tmp_path: Path) -> None:
    daemon, path = start(lab.hosts[0], tmp_path, TABLE, metrics_detail="full")
    daemon.wait_state("MASTER", 10)
    for target in ("/metrics", "/metrics/virtual_hosts"):
        plain = get(path, target)
        packed = get(path, target, Accept_Encoding="gzip")
        assert "Content-Encoding" not in plain[1]
        assert packed[1]["Content-Encoding"] == "gzip"
        assert samples(gzip.decompress(packed[2])).keys() == samples(plain[2]).keys()
    expected = {
        (
            f"{PREFIX}virtual_host_state",
            (
                ("interface", "s1"),
                ("name", f"vip-{vhid}"),
                ("segment", "office"),
                ("vhid", str(vhid)),
            ),
        ): 2.0
        for vhid in (1, 2, 3)
    }
    found = samples(get(path, "/metrics/virtual_hosts")[2])
    assert expected.items() <= found.items()


def test_virtual_hosts_are_shown_only_where_that_is_configured(lab: Lab, tmp_path: Path) -> None:
    _, path = start(lab.hosts[0], tmp_path, TABLE)
    status, _, body = get(path, "/metrics/virtual_hosts")
    assert (status, body) == (404, b'only with daemon.metrics_detail = "full"\n')
    assert get(path, Accept="application/json")[0] == 406
    assert get(path, "/nothing")[0] == 404


def test_problems_are_shown_with_more_detail(lab: Lab, tmp_path: Path) -> None:
    absent = {"interface": "s9", "vhid": 7, "addresses": ["10.1.9.7/32"]}
    daemon, path = start(lab.hosts[0], tmp_path, TABLE, absent, metrics_detail="exceptional")
    daemon.wait_state("MASTER", 10, [("s1", vhid) for vhid in (1, 2, 3)])
    sample = scraped(path)
    first = {"interface": "s1", "vhid": "1", "name": "vip-1"}
    assert sample("virtual_host_problem", interface="s9", vhid="7", name="", reason="init") == 1
    assert sample("virtual_host_problem", **first, reason="init") is None
    assert sample("virtual_host_problems_truncated") == 0
    assert sample("interface_up", interface="s9") == 0
    daemon.client.demote(7, "a reason that nobody else may read")
    wait_for(
        lambda: scraped(path)("virtual_host_problem", **first, reason="demoted") == 1,
        10,
        "a demotion",
    )
    sample = scraped(path)
    assert sample("demotion", group="", reason="operator") == 7
    assert b"nobody" not in get(path)[2]


def test_counts_are_right_after_a_take_over(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.hosts
    first, _ = start(a, tmp_path, TABLE)
    first.wait_state("MASTER", 10)
    second, path = start(b, tmp_path, TABLE)
    second.wait_state("BACKUP", 15)
    wait_for(
        lambda: all(each["peer"] for each in second.status()["virtual_hosts"]), 10, "the master"
    )
    assert scraped(path)("takeover_duration_seconds_count") == 0
    first.kill()
    second.wait_state("MASTER", 10)
    wait_for(lambda: scraped(path)("takeover_duration_seconds_count") == 3, 10, "the addresses")
    sample = scraped(path)
    assert sample("virtual_hosts", interface="s1", segment="office", state="MASTER") == 3
    assert sample("transitions_total", interface="s1", to="MASTER", reason="master_down") == 3
    assert sample("addresses_held", interface="s1") == 3
    took_s = (sample("takeover_duration_seconds_sum") or 0) / 3
    assert 2 < took_s < 6  # three intervals of silence, and what the kernel takes


def test_a_reload_moves_the_listener_and_one_that_fails_leaves_it(lab: Lab, tmp_path: Path) -> None:
    daemon, path = start(lab.hosts[0], tmp_path, TABLE)
    daemon.wait_state("MASTER", 10)
    other = tmp_path / "other.sock"

    def write(**settings: Any) -> None:
        write_configuration(tmp_path, daemon.host.name, [TABLE], daemon=settings)

    write(metrics=str(other), metrics_detail="full")
    changed = daemon.reload()["changed"]
    assert any("daemon.metrics " in line and "next start" not in line for line in changed)
    assert get(other, "/metrics/virtual_hosts")[0] == 200
    assert not path.exists()
    (tmp_path / "file").touch()
    write(metrics=str(tmp_path / "file"))
    (line,) = [each for each in daemon.reload()["changed"] if "not a socket" in each]
    assert line.endswith(f"; still at {other}")
    assert daemon.log_lines("not a socket")
    assert get(other)[0] == 200
    write()
    daemon.reload()
    assert not other.exists()
    assert scraped_again(daemon, tmp_path)("config_last_reload_successful") == 1


def scraped_again(daemon: RunningDaemon, directory: Path) -> Callable[..., float | None]:
    """Metrics, switched on by a reload."""
    path = directory / "again.sock"
    write_configuration(directory, daemon.host.name, [TABLE], daemon={"metrics": str(path)})
    daemon.reload()
    return scraped(path)


def test_a_reload_that_is_refused_shows(lab: Lab, tmp_path: Path) -> None:
    daemon, path = start(lab.hosts[0], tmp_path, TABLE)
    before = scraped(path)("config_last_reload_success_timestamp_seconds")
    daemon.configuration.write_text("nonsense")
    with pytest.raises(Exception, match="fault"):
        daemon.reload()
    sample = scraped(path)
    assert sample("config_last_reload_successful") == 0
    assert sample("config_last_reload_success_timestamp_seconds") == before


def test_a_place_that_is_taken_at_the_start_stops_nothing_and_is_tried_again(
    lab: Lab, tmp_path: Path
) -> None:
    host = lab.hosts[0]
    path = tmp_path / f"{host.name}-metrics.sock"
    path.touch()
    daemon, _ = start(host, tmp_path, TABLE)
    daemon.wait_state("MASTER", 10)
    daemon.wait_log("not a socket.*; tried again every 10 s", 10)
    path.unlink()
    wait_for(path.is_socket, 15, "the metrics' socket")
    assert scraped(path)("virtual_hosts", interface="s1", segment="office", state="MASTER") == 3
    assert daemon.stop() == 0
    assert not path.exists()


def test_a_tcp_listener_answers_curl_in_its_namespace(lab: Lab, tmp_path: Path) -> None:
    host = lab.hosts[0]
    daemon, _ = start(host, tmp_path, TABLE, metrics="127.0.0.1:9112")
    daemon.wait_log("metrics: at 127.0.0.1:9112", 10)
    curl = ["curl", "--silent", "--show-error", "--max-time", "10", "--write-out", "%{json}"]
    body = tmp_path / "body"
    done = host.run([*curl, "--output", str(body), "http://127.0.0.1:9112/metrics"]).stdout
    assert json.loads(done)["http_code"] == 200
    assert samples(body.read_bytes())[f"{PREFIX}maintenance", ()] == 0
    elsewhere = ["--header", "Host: evil.example", "--output", str(body)]
    done = host.run([*curl, *elsewhere, "http://127.0.0.1:9112/metrics"]).stdout
    assert json.loads(done)["http_code"] == 400
