"""Tracks of a running daemon: what they do to virtual hosts, and that they hold nothing up."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.programs import script

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="tracks decide who is MASTER")]

CARP_FAST = [sys.executable, "-m", "carp_fast"]
TABLE = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"]}
FAST = {"interval_s": 0.2, "timeout_s": 5, "rise": 1, "fall": 1}


def track(daemon: RunningDaemon, name: str) -> dict[str, Any]:
    (found,) = [each for each in daemon.status()["tracks"] if each["name"] == name]
    return dict(found)


def demotions(daemon: RunningDaemon) -> list[dict[str, int]]:
    return [each["demotion"]["reasons"] for each in daemon.status()["virtual_hosts"]]


def wait_demotions(daemon: RunningDaemon, *expected: dict[str, int]) -> None:
    wait_for(lambda: demotions(daemon) == list(expected), 10, f"{expected}")


def left_by(tracks: Sequence[str]) -> list[str]:
    """The command lines of processes that were started for these tracks."""
    wanted = {f"CARP_TRACK={name}".encode() for name in tracks}
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if wanted & set((process / "environ").read_bytes().split(b"\0")):
                    found.append((process / "cmdline").read_bytes().decode())
            except OSError:
                continue  # it has ended
    return found


class Scene:
    """Files that tracks are about, and a configuration with three virtual hosts that name them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number, self.broken = directory / "number", directory / "broken"
        self.number.write_text("0")
        directory.chmod(0o755)
        body = f'test ! -e {self.broken} || {{ echo "no answer"; exit 1; }}'
        check = script(directory / "check", body)
        python = str(Path(sys.executable).resolve())
        self.maintained = {"name": "maintained", "kind": "file", "path": str(self.number)}
        self.web = {"name": "web", "kind": "script", "script": check, **FAST}
        self.peer = {"name": "peer", "kind": "ping", "target": "10.1.0.2", "demotion": 7}
        self.own = {"name": "own", "kind": "process", "executable": python}
        self.named: list[list[str]] = [["web"], ["maintained", "web"], ["own"]]

    def write(self, *tracks: dict[str, Any]) -> Path:
        """Writes the configuration with these tracks."""
        hosts = [
            {**TABLE, "vhid": vhid, "track": names} for vhid, names in enumerate(self.named, 1)
        ]
        return write_configuration(
            self.directory, "a", hosts, defaults={"preempt": True}, tracks=tracks
        )


def test_tracks_demote_and_hand_over_and_are_explained(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    one, other = lab_factory(segments=1).hosts
    scene = Scene(tmp_path)
    number, broken = scene.number, scene.broken
    path = scene.write(scene.maintained, scene.web, scene.own)
    a = start_daemon(one, path)
    a.wait_state("MASTER", 10)
    slower = {"preempt": True, "advskew": 50}
    b = start_daemon(other, write_configuration(tmp_path, "b", [TABLE], defaults=slower))
    b.wait_state("BACKUP", 10)
    wait_demotions(a, {}, {}, {})
    assert {each["state"] for each in a.status()["tracks"]} == {"ok"}

    with a.client.stream("events", tracks=True) as stream:
        number.write_text("100")
        b.wait_state("MASTER", 10, [("s1", 2)])
        seen = [stream.next_event(10)]
        assert (seen[0]["track"], seen[0]["state"], seen[0]["demotion"]) == (
            "maintained",
            "ok",
            100,
        )
        number.write_text("0")
        a.wait_state("MASTER", 10)
        broken.touch()
        resigned = time.monotonic()
        b.wait_state("MASTER", 10, [("s1", 1), ("s1", 2)])
        assert time.monotonic() - resigned < 2.5  # not a master-down time, 3.6 s
        while seen[-1].get("track") != "web":
            seen.append(stream.next_event(10))
    assert (seen[-1]["previous"], seen[-1]["state"], seen[-1]["hard"]) == ("ok", "failed", True)
    assert a.virtual_host("s1", 1)["reason"] == "track_failed"
    wait_demotions(a, {"track": 240}, {"track": 240}, {})
    found = track(a, "web")
    assert (found["state"], found["demotion"], found["hard"]) == ("failed", 240, True)
    assert (found["virtual_hosts"], found["flaps"]) == (2, 1)
    assert found["last"].endswith(": no answer")
    assert a.log_lines(r"WARNING track web: ok -> failed: exit status 1 .*: no answer")

    def command(*words: str) -> str:
        return one.run([*CARP_FAST, words[0], "-c", str(path), *words[1:]]).stdout

    explained = command("explain", "s1", "2")
    assert (
        "  track web (script): it cannot be MASTER here, and is demoted by 240: failed since "
        in (explained)
    )
    assert "track maintained (file): demotes it by nothing: ok since " in explained
    printed = command("status")
    assert "3 tracks: 2 ok, 1 failed, 0 unknown\n" in printed
    assert "  web: 2 virtual hosts cannot be MASTER: failed for " in printed


def test_tracks_follow_a_reload_and_hold_nobody_back_who_is_alone(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    one, other = lab_factory(segments=1).hosts
    scene = Scene(tmp_path)
    scene.broken.touch()
    a = start_daemon(one, scene.write(scene.maintained, scene.web, scene.own))
    wait_demotions(a, {"track": 240}, {"track": 240}, {})
    a.wait_state("MASTER", 10)  # nobody else is there
    scene.broken.unlink()
    wait_demotions(a, {}, {}, {})

    # A reload: what is as before keeps its state, what is new counts from its first result on.
    before = track(a, "maintained")["since"]
    scene.named = [["web", "peer"], ["maintained", "web"], []]
    scene.write(scene.maintained, scene.web, scene.peer)
    changed = a.reload()["changed"]
    assert {"track peer: added", "track own: removed"} <= set(changed)
    wait_for(lambda: track(a, "peer")["state"] == "ok", 10, "an answer to pings")
    assert track(a, "maintained")["since"] == before
    assert [each["name"] for each in a.status()["tracks"]] == ["maintained", "web", "peer"]
    other.run(["ip", "address", "flush", "dev", "s1"])
    wait_demotions(a, {"track": 7}, {}, {})
    scene.named[0] = []
    scene.write(scene.maintained, scene.web)
    a.reload()
    wait_demotions(a, {}, {}, {})
    a.wait_state("MASTER", 10)
    assert a.stop() == 0
    assert left_by(["web"]) == []


def test_an_interface_is_tracked_and_a_start_knows_what_has_failed(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    one, other = lab_factory(segments=2).hosts
    tracks: list[dict[str, Any]] = [
        {"name": "uplink", "kind": "interface", "interface": "s2"},
        {"name": "there", "kind": "interface", "interface": "s2", "needs": "address"},
    ]
    one.run(["ip", "link", "set", "s2", "down"])
    table = {**TABLE, "vhid": 1, "track": ["uplink"]}
    also = {**TABLE, "vhid": 2, "track": ["there"]}
    path = write_configuration(
        tmp_path, "a", [table, also], defaults={"preempt": True}, tracks=tracks
    )
    slower = {"preempt": True, "advskew": 50}
    both = {**TABLE, "vhid": "1-2"}
    b = start_daemon(other, write_configuration(tmp_path, "b", [both], defaults=slower))
    b.wait_state("MASTER", 10)
    a = start_daemon(one, path)
    wait_demotions(a, {"track": 240}, {"track": 240})
    # It was faster, but for its uplink, and knew that from the beginning.
    a.wait_state("BACKUP", 10)
    one.run(["ip", "link", "set", "s2", "up"])
    one.run(["ip", "address", "replace", "10.2.0.99/24", "dev", "s2"])
    a.wait_state("MASTER", 10)
    assert not a.log_lines("track_failed")
    one.run(["ip", "address", "flush", "dev", "s2"])
    b.wait_state("MASTER", 10, [("s1", 2)])
    assert a.virtual_host("s1", 2)["reason"] == "track_failed"
    assert track(a, "there")["last"] == "s2 has no address"
    other.run(["ip", "link", "set", "s2", "down"])
    b.wait_state("MASTER", 10)
    assert track(a, "uplink")["last"] == "s2 has no carrier"


# ------------------------------------------------------------------------- nothing is held up


class Gaps(Closing):
    """The longest time between two advertisements of each virtual host, by the kernel's clock."""

    def __init__(self, host: Host, interfaces: Sequence[str]) -> None:
        self._last: dict[tuple[str, int], int] = {}
        self._most: dict[tuple[str, int], int] = {}
        self._stopping = threading.Event()
        with host.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        self._socket.settimeout(0.2)
        self._interfaces = set(interfaces)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def most_ms(self) -> dict[tuple[str, int], float]:
        return {key: gap_ns / 1e6 for key, gap_ns in dict(self._most).items()}

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                data, ancillary, _, sender = self._socket.recvmsg(256, 64)
            except TimeoutError:
                continue
            if sender[0] not in self._interfaces or data[23] != 112 or sender[2] == 4:
                continue
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2][:16])
            key, at_ns = (sender[0], data[35]), seconds * 10**9 + nanoseconds
            if key in self._last:
                self._most[key] = max(self._most.get(key, 0), at_ns - self._last[key])
            self._last[key] = at_ns


def test_500_scripts_make_no_advertisement_late_and_leave_nothing(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=4)
    one, other = lab.hosts
    tmp_path.chmod(0o755)
    usual = script(tmp_path / "usual", "exit 0")
    scripts = {
        "hangs": script(tmp_path / "hangs", "trap '' TERM; sleep 1000; sleep 1000"),
        "forks": script(
            tmp_path / "forks",
            "for i in 1 2 3 4 5; do (trap '' TERM; sleep 1000) & done; sleep 1000",
        ),
        "leaves": script(tmp_path / "leaves", "for i in 1 2 3; do sleep 1000 & done"),
        "prints": script(tmp_path / "prints", "head -c 1000000000 /dev/zero; sleep 1000"),
    }
    names = [f"t{number}" for number in range(496)]
    paths = dict.fromkeys(names, usual) | scripts
    settings = {"interval_s": 5, "timeout_s": 3, "demotion": 1, "initial": "ok"}
    tracks = [
        {"name": name, "kind": "script", "script": path, **settings} for name, path in paths.items()
    ]
    interfaces = [f"s{number}" for number in range(1, 5)]
    hosts = [
        {
            "interface": name,
            "vhid": "1-255",
            "addresses": [f"10.{number}.1.{{vhid}}/32"],
            "track": [*names[number::4], *scripts],
        }
        for number, name in enumerate(interfaces, 1)
    ]
    a = start_daemon(one, write_configuration(tmp_path, "a", hosts, tracks=tracks))
    a.wait_state("MASTER", 30)

    def judged() -> bool:
        return all(each["state"] != "unknown" for each in a.status()["tracks"])

    wait_for(judged, 60, "a result of every track")
    failed = {each["name"] for each in a.status()["tracks"] if each["state"] == "failed"}
    assert failed == {"hangs", "forks", "prints"}
    assert {frozenset(each.items()) for each in demotions(a)} == {frozenset({("track", 3)})}
    pid = a.status()["daemon"]["pid"]
    time_before, resident_before = a.status()["daemon"]["pump"]["latest_ns"], resident_kib(pid)
    with Gaps(other, interfaces) as gaps:
        end_at = time.monotonic() + 20
        wait_for(lambda: time.monotonic() > end_at, 25, "twenty seconds")
        most = gaps.most_ms()
    assert len(most) == 1020
    interval_ms = 1000 + 3 / 256 * 1000
    late = {key: gap - interval_ms for key, gap in most.items()}
    print(f"latest {max(late.values()):.1f} ms, the pump {time_before / 1e6:.1f} ms before")
    print(f"resident {resident_before} KiB before, {resident_kib(pid)} after")
    assert max(late.values()) < 50
    assert resident_kib(pid) - resident_before < 4096
    running = left_by([*names, *scripts])
    assert len(running) <= 16 * 8  # track_concurrency, with children
    assert a.stop() == 0
    assert left_by([*names, *scripts]) == []


def resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("\nVmRSS:")[2].split()[0])
