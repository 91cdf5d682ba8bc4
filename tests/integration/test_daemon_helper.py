"""The privileged helper beside a running daemon: who starts what, and who outlives whom."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.config.secrets import create_key, encrypt, read_key
from carp_fast.control.protocol import ControlError
from carp_fast.lab.lab import Lab, wait_for
from tests.support.daemons import start_daemon, write_configuration
from tests.support.memory import found_in, traces_of
from tests.support.processes import children, helper_of
from tests.support.programs import assert_gone, script

pytestmark = pytest.mark.root

DEADLINE_S = 60.0
CARP_FAST = [sys.executable, "-m", "carp_fast"]
ALONE = {"dead_ratio": 1}
# Parts are joined when the test runs: no file of Python's has one of them whole.
FIRST, SECOND = (
    f"{word}-{'5nV8q' * 2}-{number}".encode() for word, number in (("Hp3", 1), ("Ks", 2))
)


def table(**keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"], **keys}


def test_hooks_are_children_of_the_helper_which_is_the_daemons_only_child(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    up = script(tmp_path / "up", f"echo $PPID > {tmp_path}/$2")
    notify = script(tmp_path / "notify", "exec cat > /dev/null")
    path = write_configuration(
        tmp_path, "a", [table(up=up)], defaults=ALONE, daemon={"notify": notify}
    )
    daemon = start_daemon(a, path)
    daemon.wait_log("up .*: exit status 0 after", DEADLINE_S, count=3)
    helper = helper_of(daemon.process.pid)
    assert int((tmp_path / "10.1.1.1").read_text()) == helper
    assert len(children(helper)) == 1, "notify"
    # It opens nothing but its standard descriptors, the daemon's socket and what it waits for.
    links = [os.readlink(each) for each in Path(f"/proc/{helper}/fd").iterdir()]  # noqa: PTH115
    assert sum(link.startswith("socket:") for link in links) == 1
    assert daemon.status()["daemon"]["helper"] == "running"
    assert daemon.stop() == 0
    assert_gone(helper)


def test_the_daemon_goes_on_when_its_helper_is_killed(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    done = script(tmp_path / "done", "exit 0")
    tracks = [{"name": "t", "kind": "script", "script": [done], "interval_s": 0.2}]
    keys = {"down": done, "track": ["t"]}
    path = write_configuration(tmp_path, "a", [table(**keys)], defaults=ALONE, tracks=tracks)
    daemon = start_daemon(a, path)
    daemon.wait_state("MASTER", DEADLINE_S)
    os.kill(helper_of(daemon.process.pid), signal.SIGKILL)
    daemon.wait_log(r"WARNING.*the privileged helper has ended \(killed by SIGKILL\)", DEADLINE_S)
    sent = daemon.counters("s1", 1)["advertisements_sent"]
    wait_for(
        lambda: daemon.counters("s1", 1)["advertisements_sent"] > sent + 2,
        DEADLINE_S,
        "more advertisements",
    )
    status = daemon.status()
    assert status["daemon"]["helper"] == "killed by SIGKILL"
    assert {host["state"] for host in status["virtual_hosts"]} == {"MASTER"}
    assert {host["demotion"]["total"] for host in status["virtual_hosts"]} == {0}
    for host in status["virtual_hosts"]:
        assert list(host["warnings"]) == ["hooks_fail"]
    shown = a.run([*CARP_FAST, "status", "-c", path]).stdout
    assert "the privileged helper has ended (killed by SIGKILL): no hook can be run" in shown
    explained = a.run([*CARP_FAST, "explain", "-c", path, "s1", "1"]).stdout
    assert "hooks_fail: its hooks cannot be run" in " ".join(explained.split())
    with pytest.raises(ControlError, match="the privileged helper has ended"):
        daemon.client.reload()
    assert daemon.stop() == 0
    assert len(daemon.log_lines(r"ERROR.*down .*cannot start .*: the privileged helper")) == 3
    assert len(daemon.log_lines("the privileged helper has ended .killed")) == 1


def test_a_helper_and_its_hooks_do_not_outlive_a_killed_daemon(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    pid_file = tmp_path / "pid"
    up = script(
        tmp_path / "up", f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; sleep 1000"
    )
    path = write_configuration(tmp_path, "a", [table(vhid=1, up=up)], defaults=ALONE)
    daemon = start_daemon(a, path)
    wait_for(pid_file.exists, DEADLINE_S, "the hook")
    helper = helper_of(daemon.process.pid)
    daemon.process.signal(signal.SIGKILL)
    daemon.process.wait(DEADLINE_S)
    assert_gone(helper)
    assert_gone(int(pid_file.read_text()))


def test_down_of_a_removed_virtual_host_runs_after_the_reload_that_removes_it(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    down = script(tmp_path / "down", f"echo $2 >> {tmp_path}/downs")
    path = write_configuration(tmp_path, "a", [table(down=down)], defaults=ALONE)
    daemon = start_daemon(a, path)
    daemon.wait_state("MASTER", DEADLINE_S)
    write_configuration(tmp_path, "a", [table(vhid="1-2")], defaults=ALONE)  # without its hook
    daemon.client.reload()
    daemon.wait_log("down .*: exit status 0 after", DEADLINE_S)
    assert (tmp_path / "downs").read_text() == "10.1.1.3\n"
    assert daemon.stop() == 0


@pytest.mark.parametrize("how", ["inline", "encrypted"])
def test_a_passphrase_is_nowhere_in_the_daemons_memory(
    how: str, lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    """Not even one that Python's strings had: the loader read it, and is gone."""
    a, _ = lab_factory(segments=1).hosts
    key = tmp_path / "key"
    create_key(key)

    def write(passphrase: bytes) -> Path:
        shown = passphrase.decode()
        if how == "encrypted":
            shown = encrypt(passphrase, read_key(key))
        daemon = {"secret_key_file": str(key)}
        keys = table(passphrase=shown)
        return write_configuration(tmp_path, "a", [keys], defaults=ALONE, daemon=daemon)

    path = write(FIRST)
    daemon = start_daemon(a, path)
    daemon.wait_state("MASTER", DEADLINE_S)
    secrets = traces_of(FIRST) | {"the key of keys": key.read_bytes().strip()}
    both = (daemon.process.pid, helper_of(daemon.process.pid))
    assert found_in(both[0], {"control": str(path).encode()})  # the search finds things
    assert [found_in(pid, secrets) for pid in both] == [{}, {}]
    write(SECOND)
    assert "passphrase" in str(daemon.client.reload().changed)
    a.run([*CARP_FAST, "explain", "-c", path, "s1", "1"])
    daemon.status()
    assert [found_in(pid, secrets | traces_of(SECOND)) for pid in both] == [{}, {}]
    assert daemon.stop() == 0
