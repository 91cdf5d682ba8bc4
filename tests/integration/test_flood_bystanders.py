"""`flood --sink` on a segment that others use: switches that snoop, other hosts.

Each side of the comparison is checked against frames that a third host sent, counted by it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import carp_fast
from carp_fast.engine._wire import build_announcement
from carp_fast.lab.lab import Host, Lab, LabTimeout, wait_for
from carp_fast.loadtest.receiver import DRAIN_MAX_S, Members, Receiver, SinkError
from carp_fast.net.sockets import open_sender
from tests.support.ports import dropped, slow_port
from tests.support.segment import advertisement, ip

pytestmark = [pytest.mark.root, pytest.mark.alone]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
DEADLINE_S = 60.0
TRICKLE_S = 0.05
FOREIGN = b"\x02\0\0\0\0\x77"
GROUPS = ("239.1.1.1", "239.1.1.2", "239.1.1.3")


def flood(host: Host, b: Host, *arguments: str) -> Any:
    words = [sys.executable, "-m", "carp_fast", "flood", "-i", "s1", "--sink", "s1", "--json"]
    words += ["--sink-netns", b.namespace, *arguments]
    return json.loads(host.run(words, env=ENVIRONMENT).stdout)


@contextmanager
def trickle(host: Host, frame: bytes) -> Iterator[Callable[[], int]]:
    """Sends a frame every TRICKLE_S; yields how many it has sent."""
    stopping, count = threading.Event(), 0
    with host.inside():
        sender = open_sender()

    def run() -> None:
        nonlocal count
        while not stopping.wait(TRICKLE_S):
            sender.sendto(frame, ("s1", 0))
            count += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: count
    finally:
        stopping.set()
        thread.join()
        sender.close()


def test_the_groups_of_the_frames_are_joined(lab_factory: Callable[..., Lab]) -> None:
    lab = lab_factory(hosts=("a", "b", "c"), segments=1, medium="bridge", snooping=True)
    a, b, c = lab.hosts
    wait_for(lambda: prunes(a, c), DEADLINE_S, "the bridge prunes groups that no host joined")
    found = flood(a, b, "--destination", "239.1.1.1-239.1.1.3", "--rate", "2000", "--count", "600")
    assert {row["destination"]: row["arrived"] for row in found["by_source"]} == dict.fromkeys(
        GROUPS, 200
    )
    assert (found["sent"], found["lost"]) == (600, 0)


def prunes(a: Host, c: Host) -> bool:
    """The third host does not hear what is sent to a group that it did not join."""
    with Receiver("s1", namespace=c.namespace) as receiver:
        receiver.start()
        frame = advertisement(destination="239.1.9.9", counter=1)
        with a.inside(), open_sender() as sender:
            sender.sendto(frame, ("s1", 0))
        try:
            wait_for(lambda: receiver.tally.frames, 0.2, "a frame")
        except LabTimeout:
            return True
    return False


def test_groups_on_an_interface_that_is_not_there(lab_factory: Callable[..., Lab]) -> None:
    (a, _) = lab_factory(segments=1).hosts
    with pytest.raises(SinkError, match="s9: no such interface"):
        Members("s9", [ip("239.1.1.1")], a.namespace)
    with pytest.raises(SinkError, match="no network namespace nosuch"):
        Members("s1", [ip("239.1.1.1")], "nosuch")


def test_announcements_of_others_hide_no_loss(lab_factory: Callable[..., Lab]) -> None:
    lab = lab_factory(hosts=("a", "b", "c"), segments=1, medium="bridge")
    a, b, c = lab.hosts
    slow_port(lab)
    foreign = build_announcement(FOREIGN, ip("198.51.100.1"))
    with trickle(c, foreign) as others:
        found = flood(a, b, "--mix", "arp", "--rate", "100000", "--count", "20000")
        sent = others()
    (row,) = found["by_source"]
    assert (found["sent"], row["arrived"] + row["lost"]) == (20_000, 20_000)
    # The port may have dropped some of the others, too.
    assert found["lost"] <= dropped(lab) <= found["lost"] + sent
    assert found["lost"] > 0
    assert 0 < found["foreign"] <= sent + 1


def test_frames_of_others_do_not_keep_it_waiting(lab_factory: Callable[..., Lab]) -> None:
    a, b = lab_factory(segments=1).hosts
    foreign = advertisement(source="10.1.0.9", counter=7)
    with Receiver("s1", namespace=b.namespace) as receiver, trickle(a, foreign):
        receiver.start()
        wait_for(lambda: receiver.tally.frames, DEADLINE_S, "frames of others arrive")
        begun_at = time.monotonic()
        receiver.drain(lambda: 0)
        assert time.monotonic() - begun_at < DRAIN_MAX_S - 1
        assert receiver.stop().received > 0
