"""`carp-fast flood --sink` through a bridge with a small queue: losses, and the rate without."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import carp_fast
from carp_fast.lab.lab import Host, Lab, LabError
from tests.support.ports import (
    FRAME_BYTES,
    RATE_BYTES_PER_S,
    dropped,
    slow_port,
)
from tests.support.punctual import before_others

pytestmark = [pytest.mark.root, pytest.mark.alone]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
DEADLINE_S = 60.0
SEARCH_S = 400.0  # on a busy machine steps are repeated
VHIDS, COUNT = 20, 20_000


def flood(host: Host, *arguments: str, deadline_s: float = DEADLINE_S) -> Any:
    words = [sys.executable, "-m", "carp_fast", "flood", "-i", "s1", "--vhid", f"1-{VHIDS}"]
    words += [*arguments, "--json"]
    # One that waits for a processor would be the limit; a search has to manage by itself.
    first = contextlib.nullcontext() if "--find-rate" in arguments else before_others()
    with first:
        return json.loads(host.run(words, env=ENVIRONMENT, deadline_s=deadline_s).stdout)


def test_losses_by_vhid_are_what_the_queue_dropped(lab_factory: Callable[..., Lab]) -> None:
    lab = lab_factory(segments=1, medium="bridge")
    a, b = lab.hosts
    slow_port(lab)
    ends = ("--sink", "s1", "--sink-netns", b.namespace)
    trial = flood(a, *ends, "--rate", "40000", "--count", str(COUNT))
    rows = trial["by_source"]
    assert [row["vhid"] for row in rows] == list(range(1, VHIDS + 1))
    assert {row["sent"] for row in rows} == {COUNT // VHIDS}
    assert (trial["sent"], trial["kernel_dropped"], trial["foreign"]) == (COUNT, 0, 0)
    assert all(row["arrived"] + row["lost"] == row["sent"] for row in rows)
    assert sum(row["lost"] for row in rows) == trial["lost"] == dropped(lab) > COUNT // 10


def test_the_rate_without_loss_is_found(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(segments=1, medium="bridge")
    a, b = lab.hosts
    slow_port(lab)
    plot = tmp_path / "loss.svg"
    search = ["--find-rate", "--from-rate", "1000", "--to-rate", "40000", "--step-duration", "0.5"]
    ends = ("--sink", "s1", "--sink-netns", b.namespace)
    found = flood(a, *ends, *search, "--plot", str(plot), deadline_s=SEARCH_S)
    assert (found["converged"], found["limited_by"]) == (True, "network")
    # What the port passes, without what fits into its burst and its queue.
    assert found["rate_per_s"] * FRAME_BYTES == pytest.approx(RATE_BYTES_PER_S, rel=0.01)
    texts = [each.text for each in ET.parse(plot).iter() if each.text]
    assert "lost on the way, % of frames" in texts


def test_latency_and_every_kind_over_a_cable(lab_factory: Callable[..., Lab]) -> None:
    a, b = lab_factory(segments=1).hosts
    kinds = "ok=4,bad_auth,bad_checksum,bad_ttl,bad_version,bad_length,replay=2,vrrp,arp"
    ends = ("--sink", "s1", "--sink-netns", b.namespace, "--stamp")
    trial = flood(a, *ends, "--mix", kinds, "--rate", "20000", "--count", "4000")
    assert (trial["sent"], trial["lost"], trial["arrived"]) == (4_000, 0, 4_000)
    assert trial["by_source"][-1]["vhid"] is None  # those without a counter
    assert {row["duplicates"] for row in trial["by_source"]} == {0}
    assert 0 < trial["latency"]["p50_ns"] <= trial["latency"]["max_ns"] < DEADLINE_S * 1e9


def test_an_end_that_is_not_there(lab_factory: Callable[..., Lab]) -> None:
    a, b = lab_factory(segments=1).hosts
    for ends, said in (
        (("--sink", "s9", "--sink-netns", b.namespace), "s9: no such interface"),
        (("--sink", "s1", "--sink-netns", "nosuch"), "there is no network namespace nosuch"),
    ):
        with pytest.raises(LabError, match=f"exit code 1: carp-fast: {said}"):
            flood(a, *ends)


def test_hosts_of_a_short_flood_are_all_backup(lab_factory: Callable[..., Lab]) -> None:
    (a, _) = lab_factory(segments=1).hosts
    words = [sys.executable, "-m", "carp_fast", "flood", "-i", "s1", "--hosts", "4", "--json"]
    done = a.run([*words, "--duration", "0.5"], env=ENVIRONMENT)
    held = json.loads(done.stdout)
    assert (held["backup"], held["master"], held["send_errors"]) == (4, 0, 0)
