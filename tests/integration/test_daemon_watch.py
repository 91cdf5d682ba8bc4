"""`carp-fast watch` with a running daemon, which ends and comes back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import carp_fast
from carp_fast.lab.lab import Lab, wait_for
from tests.support.daemons import start_daemon, write_configuration
from tests.support.emulated import OnTerminal

pytestmark = pytest.mark.root

CARP_FAST = [sys.executable, "-m", "carp_fast"]
TABLES: list[dict[str, Any]] = [
    {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"]},
    {"interface": "s9", "vhid": 7, "addresses": ["10.1.9.7/32"]},  # which does not exist
]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent),
    "LC_ALL": "C.UTF-8",
}


def test_watch_shows_a_daemon_through_a_restart(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    host = lab_factory(segments=1).hosts[0]
    daemon = start_daemon(host, write_configuration(tmp_path, host.name, TABLES))
    every = [("s1", vhid) for vhid in (1, 2, 3)]
    daemon.wait_state("MASTER", 20, every)
    overview = daemon.client.overview()
    status = daemon.client.status()
    assert overview.summary == status.summary
    s1, s9 = overview.interfaces
    assert (s1.name, s1.link, s1.master, s1.problems) == ("s1", "up", 3, 0)
    assert (s9.name, s9.link, s9.master, s9.problems) == ("s9", "missing", 0, 1)
    assert [(each.interface, each.vhid, each.sentences) for each in overview.problems] == [
        ("s9", 7, ["INIT (interface_missing)"])
    ]
    assert overview.changes >= 3
    assert {(each.vhid, each.reason) for each in overview.last} >= {(1, "master_down")}
    argv = [*CARP_FAST, "watch", "--control-socket", str(daemon.control_socket)]
    with OnTerminal(argv, ENVIRONMENT) as shown:
        shown.until_shown("4 virtual hosts: 3 MASTER, 0 BACKUP, 1 INIT")
        assert "s9/7" in "\n".join(shown.screen.text)
        shown.type("e s1/2\r")
        shown.until_shown("MASTER since")
        shown.type("\x1b")
        daemon.client.demote(20, "a reason")
        shown.until_shown("demoted by 20: a reason")
        shown.until_shown("demoted (operator)")
        assert daemon.stop() == 0
        shown.until_shown("no carp-fast daemon at")
        again = start_daemon(host, daemon.configuration)
        shown.until_shown(f"pid {again.process.pid}")
        wait_for(lambda: again.client.overview().summary.master == 3, 20, "three MASTERs")
        shown.until_shown("4 virtual hosts: 3 MASTER, 0 BACKUP, 1 INIT")
        shown.type("q")
        assert shown.ends() == 0
