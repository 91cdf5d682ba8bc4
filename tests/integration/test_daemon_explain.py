"""`carp-fast explain` asks a daemon that runs, as an administrator would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Lab, wait_for
from tests.support.daemons import start_daemon, write_configuration

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="each path tells what it heard")]


def table(vhid: int, **keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": vhid, "addresses": [f"10.1.1.{vhid}/32"], **keys}


def test_a_master_heard_and_one_with_another_passphrase(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    fast = {"dead_ratio": 1}  # where nobody else advertises: MASTER after 1 s
    of_a = write_configuration(tmp_path, "a", [table(1), table(2)], defaults=fast)
    start_daemon(a, of_a).wait_state("MASTER", 15)
    of_b = write_configuration(
        tmp_path,
        "b",
        [table(1), table(2, passphrase="another"), table(3, destination="224.0.0.99")],
        defaults={"advskew": 100},
    )
    daemon = start_daemon(b, of_b)

    def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "carp_fast", "explain", "-c", str(of_b), *arguments]
        return b.run(argv, check=False, deadline_s=10)

    def bad_auth() -> int:
        return daemon.counters("s1", 2)["bad_auth"]

    wait_for(bad_auth, 10, "an advertisement with another passphrase")
    wait_for(lambda: daemon.virtual_host("s1", 1)["peer"], 10, "a master that is heard")

    done = explain("s1", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "virtual host s1/1\n" in done.stdout
    assert "10.1.0.1 (" in done.stdout
    assert "faster than our 1/100 (1.391 s): it keeps us BACKUP" in done.stdout
    assert " unless a master is heard\n" in done.stdout

    done = explain("s1", "2", "--json")
    [told] = json.loads(done.stdout)["virtual_hosts"]
    assert (told["interface"], told["vhid"], told["heard"]) == ("s1", 2, [])
    assert {"bad_auth"} == {each["verdict"] for each in told["rejections"]}
    assert told["interface_rejected"]["bad_auth"] == told["counters"]["bad_auth"]
    assert told["timer"]["event"] == "master_down" or told["state"] == "MASTER"

    done = explain("s1", "9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "carp-fast: s1 has no virtual host 9: the nearest is 3 (of 1-3)\n"
    done = explain("s2", "1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
