"""`carp-fast sink` on an interface of a namespace: its document, its tables, its ends."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import carp_fast
from carp_fast.engine._wire import build_announcement
from carp_fast.lab.lab import Host, Lab, Process, wait_for
from carp_fast.net.sockets import open_sender
from tests.support.segment import advertisement, ip

pytestmark = [pytest.mark.root, pytest.mark.alone]

DEADLINE_S = 60.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
ADDRESS = ip("10.1.0.100")
CONFIGURATION = """
[[virtual_host]]
interface = "s1"
vhid = 42
passphrase = "secret"
addresses = "10.1.0.100/16"
"""


def sinking(host: Host, log: Path, *arguments: str | Path) -> Process:
    """Returns when it listens."""
    words = [sys.executable, "-m", "carp_fast", "sink", "-i", "s1", *arguments]
    process = host.start(words, log=log, env=ENVIRONMENT)
    wait_for(lambda: "listening on s1\n" in log.read_text(), DEADLINE_S, "sink listens")
    return process


def right(counter: int, *, stamped: bool = False) -> bytes:
    frame = advertisement(source="10.1.0.2", counter=counter, addresses=[ADDRESS])
    return frame + (b"sent" + struct.pack(">q", time.time_ns()) if stamped else b"")


def test_what_arrives_is_counted(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(segments=1)
    a, b = lab.hosts
    file = tmp_path / "carp-fast.toml"
    file.touch(mode=0o600)
    file.write_text(CONFIGURATION)
    judging = sinking(a, tmp_path / "json", "-c", file, "--announcements", "--json")
    plain = sinking(a, tmp_path / "plain", "--count", "14")
    tagged = sinking(a, tmp_path / "tagged", "--vlan", "5", "--count", "1", "--json")
    going = sinking(a, tmp_path / "going")
    with b.inside():
        sender = open_sender()
    counters = [1, 2, 3, 5, 4, 9, 9, 10]  # 6 to 8 are missing
    frames = [right(counter, stamped=True) for counter in counters]
    frames += [right(counter) for counter in range(2**63, 2**63 - 5, -1)]  # strays
    frames.append(advertisement(source="10.1.0.9", passphrase=b"other", counter=7))
    frames.append(build_announcement(b"\2\0\0\0\0\1", ADDRESS))
    one = right(77)
    frames.append(one[:12] + b"\x81\x00\x00\x05" + one[12:])
    with sender:
        for frame in frames:
            sender.sendto(frame, ("s1", 0))
    assert [plain.wait(DEADLINE_S), tagged.wait(DEADLINE_S)] == [0, 0]
    judging.signal(signal.SIGINT)
    assert judging.wait(DEADLINE_S) == 130
    document = json.loads((tmp_path / "json").read_text().splitlines()[-1])
    assert document["verdicts"] == {"ok": 13, "bad_auth": 1}
    assert (document["gratuitous_arp"], document["kernel_dropped"]) == (1, 0)
    assert 0 < document["latency"]["p50_ns"] <= document["latency"]["max_ns"] < DEADLINE_S * 1e9
    assert document["latency"]["frames"] == len(counters)
    flow = document["by_source"][0]
    assert 0 <= flow.pop("last_at_ns") - flow.pop("first_at_ns") < DEADLINE_S * 1e9
    assert flow == {
        "source": "10.1.0.2",
        "vhid": 42,
        "destination": "224.0.0.18",
        "vlan": None,
        "first": "0000000000000001",
        "last": "000000000000000a",
        "received": 13,
        "lost": 3,
        "duplicates": 1,
        "reordered": 1,
        "strays": 5,
        "restarts": 0,
    }
    assert document["skipped"] == {"5": 1}
    of_five = json.loads((tmp_path / "tagged").read_text().splitlines()[-1])
    assert (of_five["received"], of_five["by_source"][0]["vlan"]) == (1, 5)
    assert of_five["skipped"] == {"0": len(frames) - 2}  # all but the announcement and its own
    lines = (tmp_path / "plain").read_text().splitlines()
    assert ["ok", "14"] in [line.split() for line in lines]
    row = "10.1.0.9 42 224.0.0.18 - 0000000000000007 0000000000000007 1 0 0 0"
    assert row.split() in [line.split() for line in lines]
    assert lines[-1] == "digests were not judged: no configuration was given (-c FILE)"
    lab.delete_interface("a", 1)
    assert going.wait(DEADLINE_S) == 1
    said = "carp-fast: s1: the interface was set down or removed"
    assert (tmp_path / "going").read_text().splitlines()[-1] == said


def test_an_interface_that_is_not_there(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    (a, _) = lab_factory(segments=1).hosts
    words = [sys.executable, "-m", "carp_fast", "sink", "-i", "s9"]
    done = a.run(words, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "carp-fast: s9: no such interface\n"
