"""Signals that come early, and many at once; a configuration that nobody finishes writing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab
from tests.support.daemons import start_daemon, write_configuration

pytestmark = [
    pytest.mark.root,
    pytest.mark.each_path(reason="signals come while each path is opened"),
]

DEADLINE_S = 60.0
TABLE = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"]}
FAILED = "reload: nothing was changed"


def into_pipe(path: Path) -> str:
    """Puts a pipe in place of a file; returns what the file held."""
    text = path.read_text()
    path.unlink()
    os.mkfifo(path, 0o600)
    return text


def test_signals_that_come_while_the_configuration_is_read_are_obeyed_afterwards(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    path = write_configuration(tmp_path, "a", [TABLE], defaults={"dead_ratio": 1})
    daemon = start_daemon(a, path)
    assert daemon.stop() == 0
    text = into_pipe(path)
    daemon.process = a.start(daemon.process.argv, log=path.with_suffix(".log"))
    with open(path, "w") as pipe:  # waits until the daemon reads
        daemon.process.signal(signal.SIGHUP)
        daemon.process.signal(signal.SIGUSR1)
        pipe.write(text)
    daemon.wait_log("3 virtual_hosts, ", DEADLINE_S)
    # Nobody writes the configuration for the reload.
    daemon.wait_log(FAILED, DEADLINE_S)
    assert daemon.stop() == 0


def test_many_signals_for_a_reload_are_one_more_reload(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    path = write_configuration(tmp_path, "a", [TABLE], defaults={"dead_ratio": 1})
    daemon = start_daemon(a, path)
    daemon.wait_state("MASTER", DEADLINE_S)
    text = into_pipe(path)
    daemon.process.signal(signal.SIGHUP)
    with open(path, "w") as pipe:  # the first reload has begun
        for _ in range(50):
            daemon.process.signal(signal.SIGHUP)
        assert daemon.states() == {("s1", vhid): "MASTER" for vhid in (1, 2, 3)}
        pipe.write(f"{text}\nbroken")
    daemon.wait_log(FAILED, DEADLINE_S)
    with open(path, "w") as pipe:  # the second
        pipe.write(f"{text}\nbroken")
    daemon.wait_log(FAILED, DEADLINE_S, 2)
    # The end does not wait for a third, nor for who reads.
    daemon.process.signal(signal.SIGHUP)
    with open(path, "w"):
        assert daemon.stop(DEADLINE_S) == 0
    assert len(daemon.log_lines(FAILED)) == 2
