"""The bench on a small scale: real daemons in namespaces, every figure there and plausible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

import carp_fast
from carp_fast.bench import floor
from carp_fast.bench.measurements import COST_HEADER, TAKE_OVER_HEADER, Report
from carp_fast.bench.run import LAB
from carp_fast.lab.lab import Lab, Medium
from carp_fast.lab.namespaces import NAMESPACES
from tests.support.punctual import Delays, before_others

DEADLINE_S = 120.0
TIMEOUT_S = 3 + 100 / 256
GAP_MAX_S = TIMEOUT_S + 1
PLOT = "figure.svg"
PEERS = ("ucarp", "keepalived")

pytestmark = [pytest.mark.root, pytest.mark.alone]


@dataclass
class Done:
    """A run of the command that has ended."""

    pid: int
    returncode: int
    stdout: str
    stderr: str
    late_s: float = 0.0  # how long a process had to wait in all, in any GAP_MAX_S


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Done]]:
    """carp-fast as JSON with a figure, the peers as tables: side by side, for they mostly wait."""
    directory = tmp_path_factory.mktemp("bench")
    ten = ["--instances", "10", "--window", "2"]
    words = {
        "one": [
            "--daemon",
            "carp-fast-route",
            "--instances",
            "1",
            "--window",
            "2",
            "--quick",
            "--json",
        ],
        "ten": [
            "--daemon",
            "carp-fast",
            *ten,
            "--repeats",
            "1",
            "--json",
            "--plot",
            str(directory / PLOT),
        ],
        **{peer: ["--daemon", peer, *ten, "--quick"] for peer in PEERS},
    }
    environment = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", "carp_fast", "bench", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name, options in words.items()
    }
    try:
        ended = {}
        with Delays() as delays:
            for name, process in started.items():
                out, err = process.communicate(timeout=DEADLINE_S)
                late_s = delays.most_within(GAP_MAX_S)
                ended[name] = Done(process.pid, process.returncode, out, err, late_s)
        figure = directory / PLOT
        ended["figure"] = Done(0, 0, figure.read_text() if figure.exists() else "", "")
        yield ended
    finally:
        for process in started.values():
            process.terminate()  # removes its namespaces on the way out
            process.wait(DEADLINE_S)


def report_of(done: Done) -> Report:
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Report)


def test_carp_fast_is_measured(runs: dict[str, Done]) -> None:
    reports = [report_of(runs[name]) for name in ("one", "ten")]
    rows = [row for report in reports for row in report.rows]
    assert [row.virtual_hosts for row in rows] == [1, 10]
    notes = [note for row in rows for note in row.notes]
    assert [
        note for note in notes if not note.startswith(("the machine was busy", "the hyp"))
    ] == []
    for row in rows:
        assert row.master is not None
        assert row.backup is not None
        assert row.floor is not None
        assert (row.master.processes, row.backup.processes) == (2, 2), "with the helper"
        assert 0 < row.master.cpu_percent < 50
        assert 10 << 20 < row.master.pss_bytes <= row.master.rss_bytes < 200 << 20
        assert row.master.frames_per_s == pytest.approx(row.virtual_hosts, rel=0.5)
        assert row.backup.frames_per_s == 0
        assert row.floor.sent_per_s == pytest.approx(row.master.frames_per_s, rel=0.6)
        assert row.floor.send_cpu_percent > 0


def test_the_take_over_is_seen(runs: dict[str, Done]) -> None:
    report = report_of(runs["ten"])
    for row in [*report_of(runs["one"]).rows, *report.rows]:  # by a route, and by addresses
        (over,) = row.take_overs
        assert over.phase_s is not None
        assert -0.1 < over.phase_s.first <= over.phase_s.max < 1.5  # an interval, on a busy machine
        assert over.adopted == over.announced == row.virtual_hosts
        assert over.address_s is not None
        assert over.silence_s is not None
        assert TIMEOUT_S - 0.05 < over.silence_s.first <= over.silence_s.max < TIMEOUT_S + 0.25
        assert over.address_s.max < TIMEOUT_S + 0.5
        assert over.announced_s is not None
        assert over.span_s is not None
        assert over.announced_s.max >= over.address_s.first + over.span_s - 0.01
    (pings,) = report.pings
    assert (pings.daemon, pings.virtual_hosts) == ("carp-fast", 10)
    late_s = runs["ten"].late_s
    assert 1.5 < pings.gap_max_s < GAP_MAX_S + late_s
    # Pings that could not be sent in time were not sent at all.
    lost_s = pings.lost_max * pings.every_s
    assert pings.gap_max_s - 0.6 - late_s < lost_s < pings.gap_max_s + 0.6


def test_the_tax_on_other_packets_is_reported(runs: dict[str, Done]) -> None:
    assert report_of(runs["one"]).taxes == []
    (tax,) = report_of(runs["ten"]).taxes
    assert (tax.daemon, tax.virtual_hosts) == ("carp-fast", 10)
    assert tax.packets > 1_000
    assert tax.low_ns <= tax.tax_ns <= tax.high_ns
    # Every packet passes the filters of the daemon's sockets, which costs less than the packet.
    assert -tax.still_ns < tax.tax_ns < tax.free_ns


def test_the_figure_is_drawn(runs: dict[str, Done]) -> None:
    root = ET.fromstring(runs["figure"].stdout)
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 4


def test_the_peers_are_measured(runs: dict[str, Done], program: Callable[[str], str]) -> None:
    for name in PEERS:
        program(name)
    for name, processes in zip(PEERS, ("10 + 10", "2 + 2"), strict=True):
        done = runs[name]
        assert done.returncode == 0, done.stderr
        rows = [re.split(r" {2,}", line) for line in done.stdout.splitlines()]
        cost, over = (rows[rows.index(list(each)) + 1] for each in (COST_HEADER, TAKE_OVER_HEADER))
        assert cost[:4] == [name, "10", "1", processes]
        figures = dict(zip(TAKE_OVER_HEADER, over, strict=True))
        assert (figures["DAEMON"], figures["KILLS"], figures["ADOPTED"]) == (name, "1", "10")
        assert "not settled" not in done.stdout
        assert f"s  {name} 10: starting" in done.stderr
    assert "ucarp 1." in runs["ucarp"].stdout


def test_nothing_is_left(runs: dict[str, Done]) -> None:
    of_ours = {f"{LAB}-{kind}{done.pid}-" for done in runs.values() for kind in ("", "pings-")}
    names = [path.name for path in NAMESPACES.iterdir()]
    assert [name for name in names if any(map(name.startswith, of_ours))] == []


@pytest.mark.parametrize("medium", ["veth", "macvlan", "bridge"])
def test_the_floor_moves_every_frame(lab_factory: Callable[..., Lab], medium: Medium) -> None:
    lab = lab_factory("carp-fast-floor", segments=2, medium=medium)
    with before_others():
        price = floor.measure(lab["a"], lab["b"], [1, 2], 2_000, 1.0)
    assert price.sent_per_s == pytest.approx(2_000, rel=0.1)
    assert price.received_per_s == pytest.approx(price.sent_per_s, rel=0.1)
    assert 0 < price.receive_cpu_percent < 100
