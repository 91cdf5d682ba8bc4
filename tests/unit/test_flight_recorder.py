"""The flight recorder: the file and log line of an incident, and what prevents them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carp_fast.daemon import flight_recorder
from carp_fast.daemon.flight_recorder import RECORDS_MAX, FlightRecorder, newest
from carp_fast.daemon.incident_files import IncidentFiles
from carp_fast.engine import reports
from carp_fast.replay import scenario as scenarios
from carp_fast.replay.comparison import compare
from carp_fast.replay.player import play
from carp_fast.replay.recording import Copy
from tests.support.recorded import configured, played

SECOND_NS = 1_000_000_000
TEXT = """
transcript = '''
0.25 eth0/42 hear 10.77.0.1 1/0
1.25 eth0/42 hear 10.77.0.1 1/0
90 end
'''
[[host]]
source = "10.77.0.2"
"""


class Stage:
    """A flight recorder whose ring is that of a played scenario."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, size: int = 1 << 20):
        player = played(scenarios.parse(TEXT), 8192)
        self.copy = Copy(player.engine.records(), 0, 0)
        host = configured(player.hosts["eth0/42"])
        hosts: Any = SimpleNamespace(
            hosts=[host],
            names=["eth0"],
            retired=lambda slot: (),
            used=lambda: iter([(0, host)]),
            name=lambda slot: host.name,
        )

        async def copied(orders: object, wanted: bytes) -> list[object]:
            assert wanted == b"\1"
            return [SimpleNamespace(count=1)]

        monkeypatch.setattr(flight_recorder, "copy_slices", copied)
        monkeypatch.setattr(flight_recorder, "joined", lambda slices: self.copy)
        self.at_ns = next(
            at_ns
            for kind, at_ns, _, _, fields in self.copy.records
            if kind == "state" and fields[0] == "MASTER"
        )
        self.tasks: list[asyncio.Task[None]] = []
        self.recorder = FlightRecorder(
            IncidentFiles(directory, Path("/etc/carp-fast.toml"), size=size),
            hosts,
            SimpleNamespace(),  # type: ignore[arg-type]
            ThreadPoolExecutor(1),
            self._run,
            settle_s=0,
        )

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def meet(self, *of: reports.Report) -> None:
        async def main() -> None:
            for report in of:
                self.recorder.on_report(report)
            await asyncio.gather(*self.tasks)

        asyncio.run(main())

    def take_over(self) -> reports.Report:
        return reports.StateChanged(self.at_ns, 0, "MASTER", "BACKUP", "master_down", b"\n\0\0\1")


def test_an_incident_becomes_a_file_that_is_decided_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, monkeypatch)
    with caplog.at_level(logging.INFO):
        stage.meet(stage.take_over(), reports.Stalled(stage.at_ns + 5, 1000))
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("Z-take_over.scenario")
    assert f"{path} has 1 virtual hosts" in caplog.text
    assert "incident: take_over of eth0/42 (1 take_over, 1 stall): " in caplog.text
    scenario = scenarios.read(path)
    rows = list(compare(scenario, play(scenario)))
    assert all(row.same for row in rows)
    assert "MASTER master_down" in [row.recorded for row in rows]
    text = path.read_text()
    assert "Incident: take_over of eth0/42 (1 take_over, 1 stall)." in text
    assert "not to be written" not in text  # the passphrase


def test_a_stall_is_recorded_of_the_first_virtual_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, monkeypatch)
    stage.meet(reports.Stalled(stage.at_ns, 1000))
    assert "incident: stall of this host (1 stall): " in caplog.text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_state_directory_that_is_none_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "file"
    place.touch()
    stage = Stage(place, monkeypatch)
    stage.meet(stage.take_over())
    assert "it could not be recorded: File exists" in caplog.text


def test_one_that_is_larger_than_all_may_be_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, monkeypatch, size=100)
    stage.meet(stage.take_over())
    assert "bytes are more than 100" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_an_incident_of_which_the_ring_has_nothing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, monkeypatch)
    stage.copy = Copy([], 0, 0)
    stage.meet(stage.take_over())
    assert "nothing of it is in the recording any more" in caplog.text


def test_the_newest_records_are_converted() -> None:
    slices: list[Any] = [SimpleNamespace(count=count) for count in (9, RECORDS_MAX, 0, 1)]
    assert newest(slices) == slices[2:]
    assert newest(slices[:2]) == slices[1:2]
    assert newest(slices[:1]) == slices[:1]
