"""Hooks of a running daemon: told what they should know, and never in anybody's way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Lab, wait_for
from carp_fast.lab.observer import Observer
from tests.support.daemons import start_daemon, write_configuration
from tests.support.recording import Recording

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="hooks follow the state")]

TRACER = "tests.support.birth_tracer"
# Nobody else advertises: MASTER after 1 s.
ALONE = {"dead_ratio": 1}
# Of an advertisement behind its interval, on a machine that does a thousand other things.
LATE_S = 0.05

# Lines about virtual hosts of which more than 20 come in a second are logged at level debug.
EVERY_LINE = ("--log-level", "debug")


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return str(path)


def recorder(directory: Path, name: str) -> str:
    """A hook that writes down, by vhid, what it was told and which addresses were there."""
    return script(
        directory / name,
        f"""{{
printf 'argument=%s\\n' "$@"
env | grep '^CARP_[A-Z_]*=' | sort
ip -4 -o addr show dev "$1" | while read -r _ _ _ address _; do echo "there=$address"; done
echo end={name}
}} >> {directory}/record-$CARP_VHID
""",
    )


def records(directory: Path, vhid: int) -> list[dict[str, list[str]]]:
    """What the recorders of a virtual host wrote, a dict of lists for each that has ended."""
    path = directory / f"record-{vhid}"
    found: list[dict[str, list[str]]] = []
    record: dict[str, list[str]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        key, _, value = line.partition("=")
        record.setdefault(key, []).append(value)
        if key == "end":
            found.append(record)
            record = {}
    return found


def table(vhids: str = "1-3", **keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": vhids, "addresses": ["10.1.1.{vhid}/32"], **keys}


@pytest.mark.own_paths("hold", reason="the script lists addresses of the interface")
def test_up_and_down_are_told_what_they_should_know(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    keys = {
        "unsigned_addresses": ["10.1.2.{vhid}/24"],
        "up": recorder(tmp_path, "up"),
        "down": recorder(tmp_path, "down"),
        "name": "vip {vhid}",
        "segment": "office",
    }
    tables = [table("1-2", xparam="of mine", **keys), table("3", **keys)]
    daemon = start_daemon(a, write_configuration(tmp_path, "a", tables, defaults=ALONE))
    daemon.wait_state("MASTER", 15)
    wait_for(lambda: all(records(tmp_path, vhid) for vhid in (1, 2, 3)), 10, "three hooks")
    (up,) = records(tmp_path, 2)  # none at the first BACKUP
    assert up == {
        "argument": ["s1", "10.1.1.2", "of mine"],
        "CARP_ADDRESSES": ["10.1.1.2/32 10.1.2.2/24"],
        "CARP_DEMOTION": ["0"],
        "CARP_DEMOTION_REASONS": [""],
        "CARP_DESCRIPTION": [""],
        "CARP_GROUP": [""],
        "CARP_GROUP_DEMOTED_BY": [""],
        "CARP_INTERFACE": ["s1"],
        "CARP_NAME": ["vip 2"],
        "CARP_PREVIOUS": ["BACKUP"],
        "CARP_REASON": ["master_down"],
        "CARP_SEGMENT": ["office"],
        "CARP_STATE": ["MASTER"],
        "CARP_VHID": ["2"],
        "there": up["there"],
        "end": ["up"],
    }
    assert {"10.1.1.2/32", "10.1.2.2/24"} <= set(up["there"])
    assert records(tmp_path, 3)[0]["argument"] == ["s1", "10.1.1.3"]
    assert daemon.stop() == 0
    _, down = records(tmp_path, 2)  # it has run when the daemon has ended
    assert down == up | {
        "CARP_PREVIOUS": ["MASTER"],
        "CARP_REASON": ["resigned"],
        "CARP_STATE": ["INIT"],
        "there": ["10.1.0.1/16"],
        "end": ["down"],
    }
    assert daemon.log_lines(r"INFO s1/2: up \S+/up: exit status 0 after")


def test_unmanaged_addresses_are_announced_when_up_has_run(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    up = script(tmp_path / "up", f'read -r go < {fifo}\nip addr add "$2/32" dev "$1"\n')
    down = script(tmp_path / "down", 'ip addr del "$2/32" dev "$1"\n')
    tables = [table("1", manage_addresses=False, up=up, down=down)]
    daemon = start_daemon(a, write_configuration(tmp_path, "a", tables, defaults=ALONE))
    with Observer(b) as observer:
        daemon.wait_state("MASTER", 15)
        observer.wait_until(lambda: observer.advertisements(a), 10, "an advertisement")
        assert ("s1", "10.1.1.1") not in a.addresses()
        assert not observer.announced()
        fifo.write_text("go\n")
        observer.wait_until(observer.announced, 10, "the announcement")
        assert ("s1", "10.1.1.1") in a.addresses()
    assert daemon.stop() == 0
    assert a.addresses() == {("s1", "10.1.0.1")}


def test_1000_hooks_delay_no_advertisement(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    a, b = lab_factory(segments=4).hosts
    up = script(tmp_path / "up", "exit 0\n")
    tables = [
        {
            "interface": f"s{segment}",
            "vhid": "1-250",
            "addresses": [f"10.{segment}.1.{{vhid}}/32"],
            "up": up,
        }
        for segment in (1, 2, 3, 4)
    ]
    path = write_configuration(tmp_path, "a", tables, defaults=ALONE)
    with Recording(b) as recording:
        daemon = start_daemon(a, path, arguments=EVERY_LINE)
        daemon.wait_state("MASTER", 10)
        began_ns = time.time_ns()
        daemon.wait_log("up .*: exit status 0 after", 30, count=1000)
        hooks_s = (time.time_ns() - began_ns) / 1e9
        # One more advertisement of each, so that the last gap is seen as well.
        wait_for(lambda: len(recording.gaps_s(a, 0)) >= 2000, 10, "three advertisements of each")
        assert min(each["counters"]["advertisements_sent"] for each in hosts(daemon)) >= 3
        gaps_s = recording.gaps_s(a, 0)
    late_s = max(gaps_s) - 1
    assert late_s <= LATE_S
    print(f"1,000 up hooks in {hooks_s:.1f} s after the last MASTER; {len(gaps_s)} gaps between")
    print(f"advertisements, the longest {late_s * 1e3:.1f} ms beyond the interval of 1 s")


def hosts(daemon: Any) -> list[dict[str, Any]]:
    return list(daemon.status()["virtual_hosts"])


def test_a_hook_that_hangs_stops_nothing(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    a, b = lab_factory(segments=1).hosts
    up = script(
        tmp_path / "up",
        """case "$CARP_VHID" in 1|2)
  trap '' TERM
  while :; do sleep 60; done
esac
""",
    )
    path = write_configuration(
        tmp_path,
        "a",
        [table("1-20", up=up, down=recorder(tmp_path, "down"))],
        defaults=ALONE,
        daemon={"hook_concurrency": 2, "hook_timeout_s": 0.5},
    )
    with Recording(b) as recording:
        daemon = start_daemon(a, path, arguments=EVERY_LINE)
        daemon.wait_state("MASTER", 15)
        daemon.wait_log(r"ERROR s1/[12]: up \S+: not finished within 0.5 s", 10, count=2)
        daemon.wait_log(
            r"ERROR s1/[12]: up \S+: ignored SIGTERM for 2 s, sending SIGKILL", 10, count=2
        )
        daemon.wait_log(r"s1/\d+: up \S+: exit status 0", 10, count=18)
        assert set(daemon.states().values()) == {"MASTER"}
        assert max(recording.gaps_s(a, 0)) <= 1 + LATE_S
    assert daemon.stop() == 0
    assert [record["end"] for record in records(tmp_path, 1)] == [["down"]]


def test_notify_is_told_every_change(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    a, _ = lab_factory(segments=1).hosts
    told = tmp_path / "told"
    program = script(tmp_path / "notify", f"exec cat >> {told}\n")
    path = write_configuration(
        tmp_path, "a", [table("1-3")], defaults=ALONE, daemon={"notify": program}
    )
    daemon = start_daemon(a, path)
    daemon.wait_state("MASTER", 15)
    assert daemon.stop() == 0
    changes = [json.loads(line) for line in told.read_text().splitlines()]
    assert all(change.keys() == EVENT_KEYS for change in changes)
    of_two = [
        (change["previous"], change["state"], change["reason"])
        for change in changes
        if change["vhid"] == 2
    ]
    assert of_two == [
        ("INIT", "BACKUP", "started"),
        ("BACKUP", "MASTER", "master_down"),
        ("MASTER", "INIT", "resigned"),
    ]


EVENT_KEYS = {
    *("at", "interface", "vhid", "state", "previous", "reason", "peer", "demotion", "group"),
    "name",
    "description",
    "segment",
}


def test_the_daemon_never_forks(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    a, _ = lab_factory(segments=1).hosts
    (tmp_path / "told_function.py").write_text("def told(fields):\n    assert fields['vhid']\n")
    keys = {"up": script(tmp_path / "up", "exit 0\n"), "down": "told_function:told"}
    program = script(tmp_path / "notify", "exec cat > /dev/null\n")
    path = write_configuration(
        tmp_path, "a", [table("1-20", **keys)], defaults=ALONE, daemon={"notify": program}
    )
    env = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{tmp_path}"}
    # The process waits until it is traced, and becomes the daemon then.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    waiting = [
        "sh",
        "-c",
        'read go < "$0"; exec "$@"',
        str(gate),
        sys.executable,
        "-m",
        "carp_fast",
    ]
    daemon = start_daemon(a, path, ready=False, arguments=EVERY_LINE, env=env, program=waiting)
    with subprocess.Popen(
        [sys.executable, "-m", TRACER, str(daemon.process.pid)], stdout=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "tracing\n"
        gate.write_text("go\n")
        daemon.wait_ready()
        daemon.wait_state("MASTER", 15)
        daemon.wait_log("up .*: exit status 0 after", 10, count=20)
        daemon.reload()
        daemon.process.signal(signal.SIGHUP)
        daemon.wait_log("reloaded in", 10, count=2)
        assert daemon.stop() == 0
        births = json.loads(tracer.stdout.read())
    assert len(daemon.log_lines(r"s1/\d+: down told_function:told: done")) == 20
    assert births["fork"] == 0
    assert births["clone"] == 0
    assert births["vfork"] == 1  # the helper, which starts 20 hooks and notify
    print(f"births of the daemon, from its start to its end: {births}")
