"""Time plays tricks on a running daemon: it is stopped for a while, or the wall clock is stepped.

Neither may make a second master.  CARP_FAST_STOP_S says how long the backup is stopped, 5 s unless
set: more than its master-down time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from carp_fast.control.client import ControlStream
from carp_fast.control.protocol import ControlTimeout
from carp_fast.lab.lab import Lab, LabTimeout, wait_for
from carp_fast.lab.observer import Observer
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = pytest.mark.root

STOP_S = float(os.environ.get("CARP_FAST_STOP_S", "5"))
MASTER_DOWN_S = 3 + 100 / 256  # of host b
FAKETIME = Path("/usr/lib") / (os.uname().machine + "-linux-gnu") / "faketime/libfaketimeMT.so.1"


def configuration(directory: Path, name: str, advskew: int, segments: int, vhids: int) -> Path:
    tables = [
        {
            "interface": f"s{segment}",
            "vhid": f"1-{vhids}",
            "addresses": [f"10.{segment}.1.{{vhid}}/32"],
        }
        for segment in range(1, segments + 1)
    ]
    return write_configuration(directory, name, tables, defaults={"advskew": advskew})


def assert_nothing_happens(streams: list[ControlStream[dict[str, Any]]], for_s: float) -> None:
    """No event on any of the streams for this long."""
    end_at = time.monotonic() + for_s
    for stream in streams:
        with pytest.raises(ControlTimeout):
            pytest.fail(str(stream.next_event(max(0.001, end_at - time.monotonic()))))


@pytest.mark.own_paths("send", "hold", reason="what waits was received")
def test_a_backup_of_1000_stopped_and_continued_stays_backup(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=4)
    a, b = lab.hosts
    # One after the other: on a busy machine b could be ready so much earlier that it is MASTER.
    master = start_daemon(a, configuration(tmp_path, "a", 0, 4, 250))
    master.wait_state("MASTER", 15)
    backup = start_daemon(b, configuration(tmp_path, "b", 100, 4, 250))
    backup.wait_state("BACKUP", 15)
    with Observer(a) as observer, backup.events() as from_backup, master.events() as from_master:
        backup.process.signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        with pytest.raises(LabTimeout):
            observer.wait_until(lambda: observer.advertisements(b), STOP_S, "a word from b")
        backup.process.signal(signal.SIGCONT)
        stopped_s = time.monotonic() - stopped_at
        (line,) = backup.wait_log("the pump did not run for", 10)
        # Whoever was going to take over by mistake has done so after one master-down time more.
        assert_nothing_happens([from_backup, from_master], MASTER_DOWN_S + 1)
        assert not observer.advertisements(b)
    document = backup.status()
    assert document["summary"] == {"virtual_hosts": 1000, "master": 0, "backup": 1000, "init": 0}
    assert not sum(host["counters"]["became_master"] for host in document["virtual_hosts"])
    facts = document["daemon"]["pump"]
    print(f"stopped for {stopped_s:.2f} s, 0 of 1,000 became master; {line.partition(' ')[2]}")
    print(f"frames the kernel dropped meanwhile: {facts['dropped']}")


class SteppedClock:
    """The wall clock of a daemon, faked by libfaketime; the monotonic one stays true."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.step(0)
        self.env = {
            **os.environ,
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, offset_s: int) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self._file)  # at once: half a file would be another time


def seen_offset_s(daemon: RunningDaemon) -> float:
    """How far the daemon's wall clock is from ours, by the time stamp of a line it logs now."""
    count = len(daemon.log_lines("virtual_hosts"))
    daemon.process.signal(signal.SIGUSR1)
    line = daemon.wait_log("virtual_hosts", 10, count + 1)[-1]
    return datetime.fromisoformat(line.split()[0]).timestamp() - time.time()


@pytest.mark.each_path(reason="each path has its time stamps")
def test_a_stepped_wall_clock_changes_nothing(
    lab_factory: Callable[..., Lab], tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("faketime")
    lab = lab_factory(segments=1)
    clock = SteppedClock(tmp_path / "clock")
    pair = []
    for host, advskew, state in zip(lab.hosts, (0, 100), ("MASTER", "BACKUP"), strict=True):
        table = {"interface": "s1", "vhid": "1-20", "addresses": ["10.1.1.{vhid}/32"]}
        path = write_configuration(tmp_path, host.name, [table], defaults={"advskew": advskew})
        daemon = start_daemon(host, path, env=clock.env)
        daemon.wait_state(state, 15)
        pair.append(daemon)
    master, backup = pair
    with ExitStack() as stack:
        streams = [stack.enter_context(daemon.events()) for daemon in pair]

        def heard_more_than(count: int) -> bool:
            return backup.counters("s1", 1)["advertisements_heard"] > count

        for offset_s in (3600, -3600):
            heard = backup.counters("s1", 1)["advertisements_heard"]
            clock.step(offset_s)
            seen = [seen_offset_s(daemon) for daemon in pair]
            assert seen == pytest.approx([offset_s, offset_s], abs=5)
            wait_for(
                partial(heard_more_than, heard + 4),
                10,
                "five more advertisements",
            )
            assert_nothing_happens(streams, 0.1)
            told = ", ".join(f"{each:+.2f}" for each in seen)
            print(f"clocks stepped to {offset_s:+d} s (daemons log {told} s): no transition")
    assert set(master.states().values()) == {"MASTER"}
    assert set(backup.states().values()) == {"BACKUP"}
    for daemon in pair:
        assert not daemon.log_lines("the pump did not run|dropped")
