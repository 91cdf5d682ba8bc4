"""What a receiver counted and what a trial found, made up; a wire that passes only so much."""

from __future__ import annotations

from typing import Any

from carp_fast.loadtest.receiver import Flow, Received
from carp_fast.loadtest.trial import Key, Sent, Trial, compare

WHERE = ("224.0.0.18", None)  # destination and VLAN
A, B = (Key(source, 1, *WHERE) for source in ("10.1.0.1", "10.1.0.2"))


def flow(
    source: str, vhid: int, destination: str, vlan: int | None, count: int, **fields: Any
) -> Flow:
    rest: dict[str, Any] = {"first": "0" * 16, "last": "0" * 16, "received": count}
    rest |= dict.fromkeys(("lost", "duplicates", "reordered", "strays", "restarts"), 0)
    rest |= {"first_at_ns": 0, "last_at_ns": 0}
    return Flow(source, vhid, destination, vlan, **{**rest, **fields})


def received(**fields: Any) -> Received:
    given: dict[str, Any] = {
        "interface": "s1",
        "namespace": None,
        "seconds": 2.0,
        "frames": 1_234,
        "frames_per_s": 617.4,
        "judged": True,
        "verdicts": {"bad_auth": 34, "ok": 1_200},
        "latency": None,
        "cpu_seconds": 0.1,
        "by_source": [flow("10.1.0.2", 42, *WHERE, 1_234, last="f" * 16, lost=7)],
        "flows": 1,
        "skipped": {},
        "uncounted": [],
    }
    rest = {name: 0 for name in Received.__struct_fields__ if name not in given}
    return Received(**{**rest, "flows_max": 131_072, "counter_window": 1_024, **given, **fields})


class Wire:
    """Passes up to `capacity` frames/s of a sender that reaches `most`."""

    def __init__(self, capacity: float, most: float = 1e9) -> None:
        self.capacity, self.most = capacity, most
        self.asked: list[float] = []

    def attempt(self, rate: float, seconds: float = 1.0) -> Trial:
        self.asked.append(rate)
        sent = round(min(rate, self.most) * seconds)
        arrived = min(sent, int(self.capacity * seconds))
        flows = [flow(*A, arrived)]
        return compare(Sent(sent, seconds, {A: sent}, asked_per_s=rate), received(by_source=flows))
