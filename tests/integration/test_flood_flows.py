"""`flood --sink` over a cable without loss: whatever the frames have in common, none is missing.

The other end is also read by a packet socket, which counts frames by the bytes that differ.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import carp_fast
from carp_fast.lab.lab import Lab
from carp_fast.net.kernel import ETH_P_ALL

pytestmark = [pytest.mark.root, pytest.mark.alone]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
COUNT = 2_000
SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES = 33, 16 << 20
SOL_PACKET, PACKET_AUXDATA, AUXDATA_TAG_AT = 263, 8, 16

INTERFACES = """
[[virtual_host]]
interface = "vlan[100-103]"
vhid = 1
passphrase = "secret"
addresses = "10.64.{number}.1/32"
"""
PEERS = """
[[virtual_host]]
interface = "s1"
vhid = 1
passphrase = "secret"
addresses = "10.1.0.100/16"
peers = ["10.1.0.2", "10.1.0.3"]
"""
FLOODS = {
    "several interfaces of a configuration": (INTERFACES, (), 1),
    "two peers": (PEERS, ("--destination-mac", "02:00:00:00:00:07"), 2),
    "a walk over groups": ("", ("--destination", "239.1.1.1-239.1.1.5"), 5),
    "a walk over VLANs": ("", ("--vlan", "5-7"), 3),
    "walks over all of it": (
        "",
        ("--vhid", "1-2", "--source", "10.1.9.1-10.1.9.3", "--vlan", "5,9", "--destination",
         "239.1.1.1-239.1.1.2"),
        24,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_a_cable_without_loss_has_none(
    lab_factory: Callable[..., Lab], tmp_path: Path, name: str
) -> None:
    text, options, flows = FLOODS[name]
    a, b = lab_factory(segments=1).hosts
    file = tmp_path / "carp-fast.toml"
    file.touch(mode=0o600)
    file.write_text(text)
    words = [sys.executable, "-m", "carp_fast", "flood", "-i", "s1", "--sink", "s1", "--json"]
    words += ["--sink-netns", b.namespace, "--rate", "5000", "--count", str(COUNT), *options]
    words += ["-c", str(file)] if text else []
    with b.inside():
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        heard.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        heard.bind(("s1", 0))
    with heard:
        trial = json.loads(a.run(words, env=ENVIRONMENT).stdout)
        seen = counted(heard)
    assert (trial["sent"], trial["arrived"], trial["lost"], trial["loss"]) == (COUNT, COUNT, 0, 0)
    assert (trial["duplicates"], trial["foreign"]) == (0, 0)
    rows = {
        (row["source"], row["destination"], row["vhid"], row["vlan"] or 0): row["arrived"]
        for row in trial["by_source"]
    }
    assert len(rows) == len(trial["by_source"]) == flows
    assert rows == seen


def counted(heard: socket.socket) -> Counter[tuple[str, str, int, int]]:
    """The advertisements that wait in the socket, by source, destination, vhid and VLAN."""
    found: Counter[tuple[str, str, int, int]] = Counter()
    heard.setblocking(False)
    while True:
        try:
            frame, beside, _, _ = heard.recvmsg(2048, 256)
        except BlockingIOError:
            return found
        if frame[12:14] != b"\x08\x00" or frame[23] != 112:
            continue
        ((_, _, tag),) = beside
        vlan = int.from_bytes(tag[AUXDATA_TAG_AT : AUXDATA_TAG_AT + 2], sys.byteorder) & 0xFFF
        source, destination = (socket.inet_ntoa(frame[at : at + 4]) for at in (26, 30))
        found[source, destination, frame[35], vlan] += 1
