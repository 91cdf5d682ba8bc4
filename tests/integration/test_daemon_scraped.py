"""Metrics and the page's map, asked for without a pause during a take-over of thousands."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from carp_fast.lab.fleet import VHIDS_PER_SEGMENT, run_command
from carp_fast.lab.lab import Lab, wait_for
from tests.support.daemons import start_daemon
from tests.support.scraped import UnixConnection

pytestmark = pytest.mark.root

SEGMENTS = 8
INSTANCES = SEGMENTS * VHIDS_PER_SEGMENT
DEADLINE_S = 120.0
STATES = re.compile(rb'^carp_fast_virtual_hosts\{interface="(\w+)".*state="(\w+)"\} (\d+)', re.M)
LINES = re.compile(rb"^carp_fast_virtual_host_state\{", re.M)


class Asking(threading.Thread):
    """Asks for one thing after the other over a connection, until it is told to stop."""

    def __init__(self, path: Path, target: str, check: Callable[[bytes], object]) -> None:
        super().__init__(daemon=True)
        self._path, self._target, self._check = path, target, check
        self._ended = threading.Event()
        self.answers: Counter[int] = Counter()  # by status
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            connection = UnixConnection(self._path, DEADLINE_S)
            while not self._ended.is_set():
                connection.request("GET", self._target)
                answer = connection.getresponse()
                body = answer.read()
                self.answers[answer.status] += 1
                if answer.status == 200:
                    self._check(body)
            connection.close()
        except BaseException as error:
            self.error = error

    def end(self) -> Counter[int]:
        """Stops; returns the answers by status."""
        self._ended.set()
        self.join(DEADLINE_S)
        if self.error is not None:
            raise self.error
        assert not self.is_alive()
        return self.answers


def whole(body: bytes) -> None:
    """Every virtual host is counted once, in whichever state."""
    found: Counter[bytes] = Counter()
    for interface, _, count in STATES.findall(body):
        found[interface] += int(count)
    assert len(found) == SEGMENTS
    assert set(found.values()) == {VHIDS_PER_SEGMENT}


def every_line(body: bytes) -> None:
    assert len(LINES.findall(body)) == INSTANCES


def every_cell(body: bytes) -> None:
    head, _, cells = body.partition(b"\n")
    runs = msgspec.json.decode(head)["runs"]
    assert sum(length for _, _, length in runs) == len(cells) == INSTANCES


def test_every_scrape_of_a_take_over_of_thousands_is_whole_and_none_disturbs_it(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=SEGMENTS)
    a, b = lab.hosts
    counts = dict.fromkeys(range(1, SEGMENTS + 1), VHIDS_PER_SEGMENT)
    path = tmp_path / "metrics.sock"
    run_command(counts, tmp_path, a.name)
    first = start_daemon(a, tmp_path / f"carp-fast-{a.name}.toml")
    wait_for(lambda: first.client.overview().summary.master == INSTANCES, 60, "MASTERs")
    run_command(counts, tmp_path, b.name, {"metrics": str(path), "metrics_detail": "full"})
    second = start_daemon(b, tmp_path / f"carp-fast-{b.name}.toml")
    wait_for(lambda: second.client.overview().summary.backup == INSTANCES, 60, "BACKUPs")
    before = second.client.overview().changes
    asking = [
        Asking(path, "/metrics", whole),
        Asking(path, "/metrics/virtual_hosts", every_line),
        Asking(path, "/map", every_cell),
    ]
    for each in asking:
        each.start()
    first.kill()
    wait_for(lambda: second.client.overview().summary.master == INSTANCES, 60, "a take-over")
    for each in asking:
        answers = each.end()
        assert answers[200] > 0
        assert answers.keys() <= {200, 503}, "busy at most"
    after = second.client.overview()
    assert after.changes - before == INSTANCES, "one change each"
    assert second.client.status(state="INIT").daemon.pump.reports_lost == 0
