"""`carp-fast dump` on an interface of a namespace: both families, each line at once, its ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import carp_fast
from carp_fast.lab.lab import Host, Lab, Process, wait_for
from carp_fast.net.sockets import open_sender
from tests.support.segment import advertisement, carp_header, ip, ipv4_frame

pytestmark = pytest.mark.root

DEADLINE_S = 60.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
RIGHT = advertisement(source="10.1.0.2", addresses=[ip("10.1.0.100")])
TAGGED = RIGHT[:12] + b"\x81\x00\x00\x05" + RIGHT[12:]
OTHER_GROUP = ipv4_frame(carp_header(), source=ip("10.1.0.2"), destination=ip("239.1.1.1"))
GOLDEN = json.loads((Path(__file__).parent.parent / "vectors" / "golden.json").read_text())
OVER_IPV6 = bytes.fromhex(next(v["frame"] for v in GOLDEN if v["ip_version"] == 6))
CONFIGURATION = """
[[virtual_host]]
interface = "s1"
vhid = 42
passphrase = "secret"
addresses = "10.1.0.100/16"
"""


def dumping(host: Host, log: Path, *arguments: str | Path) -> Process:
    words = [sys.executable, "-m", "carp_fast", "dump", *arguments]
    return host.start(words, log=log, env=ENVIRONMENT)


def send_until(host: Host, frames: list[bytes], shown: Callable[[], bool]) -> None:
    """Sends again and again: when the other side begins to listen it does not say."""
    with host.inside():
        sender = open_sender()
    with sender:

        def sent() -> bool:
            for frame in frames:
                sender.sendto(frame, ("s1", 0))
            return shown()

        wait_for(sent, DEADLINE_S, "advertisements are shown")


def test_what_travels_is_shown_as_it_comes(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    # A macvlan filters by MAC, as network cards do and a veth does not.
    a, b = lab_factory(segments=1, medium="macvlan").hosts
    file = tmp_path / "carp-fast.toml"
    file.touch(mode=0o600)
    file.write_text(CONFIGURATION)
    one, every = tmp_path / "one", tmp_path / "every"
    judging = dumping(a, one, "-i", "s1", "-c", file, "--json")
    # On all interfaces, what this host sends included; in another namespace than the tests'.
    watching = dumping(b, every, "--count", "4")
    send_until(
        b,
        [RIGHT, TAGGED, OVER_IPV6, OTHER_GROUP],
        lambda: one.read_text().count("\n") >= 9 and every.read_text().count("\n") >= 4,
    )
    assert watching.wait(DEADLINE_S) == 0
    judging.signal(signal.SIGINT)
    assert judging.wait(DEADLINE_S) == 130
    heard = [json.loads(line) for line in one.read_text().splitlines()]
    assert {(h["interface"], h["source"], h["family"], h["verdict"]) for h in heard} == {
        ("s1", "10.1.0.2", 4, "ok"),
        ("s1", "10.1.0.2", 4, "bad_destination"),
        ("s1", socket.inet_ntop(socket.AF_INET6, OVER_IPV6[22:38]), 6, "bad_vhid"),
    }
    lines = every.read_text().splitlines()
    assert re.fullmatch(
        r"[-0-9]{10}T[:0-9]{8}\.\d{6}Z  s1  10\.1\.0\.2 > 224\.0\.0\.18  IPv4  vhid 42  1/0"
        r"  0000000000000001  ok",
        lines[0],
    )
    assert lines[4:] == [
        "4 advertisements: 4 ok",
        "digests were not judged: no configuration was given (-c FILE)",
    ]


def test_an_interface_that_is_not_there_or_down_or_goes(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    a, b = lab.hosts
    log = tmp_path / "log"
    missing = dumping(a, log, "-i", "s9")
    assert missing.wait(DEADLINE_S) == 1
    assert log.read_text() == "carp-fast: s9: no such interface\n"
    log.unlink()
    lab.set_link("a", 1, up=False)
    going = dumping(a, log, "-i", "s1", "--json")
    down = "s1 is down: nothing is heard until it is up\n"
    wait_for(lambda: log.exists() and log.read_text() == down, DEADLINE_S, down)
    lab.set_link("a", 1, up=True)
    send_until(b, [RIGHT], lambda: log.read_text() != down)
    lab.delete_interface("a", 1)
    assert going.wait(DEADLINE_S) == 1
    assert log.read_text().splitlines()[-1] == "carp-fast: s1: the interface was removed"
