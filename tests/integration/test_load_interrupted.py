"""Ctrl-C and SIGTERM during a load test: what was counted so far is whole, marked as partial."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import carp_fast
from carp_fast.bpf.assembly import R0, leave, move
from carp_fast.bpf.programs import Attach, Kind, load
from carp_fast.lab.lab import Host, Lab, Process, wait_for
from tests.support.ports import slow_port

pytestmark = [pytest.mark.root, pytest.mark.alone]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
DEADLINE_S = 60.0
INTERRUPTED = 130
SIGNALS = [signal.SIGINT, signal.SIGTERM]
XDP_PASS = 2


def start(host: Host, log: Path, command: str, *arguments: str) -> Process:
    words = [sys.executable, "-m", "carp_fast", command, "-i", "s1", *arguments]
    return host.start(words, log=log, env=ENVIRONMENT)


def frames_at(host: Host) -> int:
    """Frames that arrived at its s1, as the kernel counts them."""
    shown = host.run(["ip", "-s", "-j", "link", "show", "s1"]).stdout
    return int(json.loads(shown)[0]["stats64"]["rx"]["packets"])


def document(log: Path) -> Any:
    """The last line of its output, which has to be a JSON document."""
    return json.loads(log.read_text().splitlines()[-1])


@contextmanager
def takes_redirected(host: Host) -> Iterator[None]:
    with host.inside():
        program = load(Kind.XDP, [move(R0, XDP_PASS), leave()])
        link = program.attach(socket.if_nametoindex("s1"), Attach.XDP)
    try:
        yield
    finally:
        os.close(link)
        program.close()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_sink_counts_to_its_end(
    lab_factory: Callable[..., Lab], tmp_path: Path, number: signal.Signals
) -> None:
    a, b = lab_factory(segments=1).hosts
    sink = start(b, tmp_path / "sink", "sink", "--json")
    wait_for(lambda: "listening" in (tmp_path / "sink").read_text(), DEADLINE_S, "sink listens")
    flood = start(a, tmp_path / "flood", "flood", "--rate", "5000", "--count", "2000", "--json")
    assert flood.wait(DEADLINE_S) == 0
    sink.signal(number)
    assert sink.wait(DEADLINE_S) == INTERRUPTED
    received = document(tmp_path / "sink")
    assert (received["received"], received["lost"], received["interrupted"]) == (2_000, 0, True)
    assert 2_000 / 5_000 <= received["seconds"] < DEADLINE_S
    assert received["cpu_seconds"] > 0


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("backend", ["sendmmsg", "live"])
def test_a_flood_counts_all_that_it_sent(
    lab_factory: Callable[..., Lab], tmp_path: Path, number: signal.Signals, backend: str
) -> None:
    a, b = lab_factory(segments=1).hosts
    with takes_redirected(b):
        before = frames_at(b)
        options = ("--rate", "max", "--duration", "1000", "--backend", backend, "--json")
        flood = start(a, tmp_path / "flood", "flood", *options)
        wait_for(lambda: frames_at(b) > before + 10_000, DEADLINE_S, "frames arrive")
        flood.signal(number)
        assert flood.wait(DEADLINE_S) == INTERRUPTED
        sent = document(tmp_path / "flood")
        assert sent["interrupted"]
        assert sent["interface_packets"] == sent["sent"] == sent["by_source"][0]["sent"]
        assert 0 < sent["seconds"] < DEADLINE_S


@pytest.mark.parametrize("number", SIGNALS)
def test_a_trial_compares_what_was_sent_so_far(
    lab_factory: Callable[..., Lab], tmp_path: Path, number: signal.Signals
) -> None:
    a, b = lab_factory(segments=1).hosts
    before = frames_at(b)
    ends = ("--sink", "s1", "--sink-netns", b.namespace, "--rate", "5000", "--duration", "1000")
    trial = start(a, tmp_path / "trial", "flood", *ends, "--json")
    wait_for(lambda: frames_at(b) > before + 1_000, DEADLINE_S, "frames arrive")
    trial.signal(number)
    assert trial.wait(DEADLINE_S) == INTERRUPTED
    found = document(tmp_path / "trial")
    assert found["sent"] == found["arrived"] > 1_000
    assert (found["lost"], found["interrupted"]) == (0, True)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_search_keeps_its_steps_and_its_figure(
    lab_factory: Callable[..., Lab], tmp_path: Path, number: signal.Signals
) -> None:
    lab = lab_factory(segments=1, medium="bridge")
    a, b = lab.hosts
    slow_port(lab)
    log, plot = tmp_path / "search", tmp_path / "search.svg"
    ends = ("--sink", "s1", "--sink-netns", b.namespace, "--find-rate", "--step-duration", "0.5")
    rates = ("--from-rate", "1000", "--to-rate", "40000", "--plot", str(plot))
    search = start(a, log, "flood", *ends, *rates)
    wait_for(lambda: "step  1" in log.read_text(), DEADLINE_S, "the first step is over")
    search.signal(number)
    assert search.wait(DEADLINE_S) == INTERRUPTED
    lines = log.read_text().splitlines()
    assert sum(line.startswith("step") for line in lines) >= 1
    assert lines[-1].startswith("interrupted after ")
    assert ET.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.parametrize("number", SIGNALS)
def test_virtual_hosts_resign_and_are_counted(
    lab_factory: Callable[..., Lab], tmp_path: Path, number: signal.Signals
) -> None:
    a, b = lab_factory(segments=1).hosts
    before = frames_at(b)
    hosts = start(a, tmp_path / "hosts", "flood", "--hosts", "4", "--duration", "1000", "--json")
    wait_for(lambda: frames_at(b) > before + 8, DEADLINE_S, "they are masters")
    hosts.signal(number)
    assert hosts.wait(DEADLINE_S) == INTERRUPTED
    held = document(tmp_path / "hosts")
    assert (held["master"], held["interrupted"]) == (4, True)


def test_further_signals_do_not_cost_the_result(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    _, b = lab_factory(segments=1).hosts
    sink = start(b, tmp_path / "sink", "sink", "--json")
    wait_for(lambda: "listening" in (tmp_path / "sink").read_text(), DEADLINE_S, "sink listens")
    sink.signal(signal.SIGINT)
    sink.signal(signal.SIGTERM)
    assert sink.wait(DEADLINE_S) == INTERRUPTED
    assert document(tmp_path / "sink")["received"] == 0
