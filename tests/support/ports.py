"""A port of the lab's bridge that passes only so much and holds only so many frames.

Must not know who sends or counts.
"""

from __future__ import annotations

import json

import pytest

from carp_fast.lab.lab import Lab, LabError

FRAME_BYTES, RATE_BYTES_PER_S = 70, 1_250_000
BURST_BYTES, QUEUE_BYTES = 2_000, 30_000  # 24 ms: a sender that is held up may catch up
PORT = "b-1"  # the bridge's towards host b


def slow_port(lab: Lab, *, burst_bytes: int = BURST_BYTES, queue_bytes: int = QUEUE_BYTES) -> None:
    """Host b's port passes 10 Mbit/s and holds some frames; what comes on top is dropped."""
    rate = f"rate {RATE_BYTES_PER_S}bps burst {burst_bytes} limit {queue_bytes}"
    try:
        lab.switch.run(f"tc qdisc add dev {PORT} root tbf {rate}".split())
    except LabError as error:
        pytest.skip(f"needs the queueing discipline tbf: {error}")


def dropped(lab: Lab) -> int:
    """Frames that the port dropped since, by the kernel's count."""
    shown = lab.switch.run(f"tc -s -j qdisc show dev {PORT}".split()).stdout
    return int(json.loads(shown)[0]["drops"])
