"""Hosts of equal priority on a wire that takes time: our engine, and BSDs that wait no longer.

A frame takes from one host to another as long as `delays` has it, each direction for itself. A
BSD here is what was recorded of NetBSD, FreeBSD and OpenBSD: MASTER after its master-down time,
an advertisement at once and each interval, BACKUP when it hears one, whoever sent it. A *round*
is a tie after which no host is MASTER: all of them wait for silence once more.
"""

from __future__ import annotations

import heapq
from random import Random
from typing import Any

from tests.support.segment import SECOND_NS, START_NS, Node, advertisement

SETTLED_NS = 9 * SECOND_NS  # without a change: nobody rises any more
ROUNDS_MAX = 60  # of hosts that do not part


def master_down_ns(advbase: int, advskew: int, dialect: str) -> int:
    """With a dead_ratio of 3."""
    if dialect == "openbsd":
        return 3 * (advbase * 256 + advskew) * SECOND_NS // 256
    return 3 * advbase * SECOND_NS + advskew * SECOND_NS // 256


class Bsd:
    """A host that yields to whoever it hears, and waits its master-down time to the tick."""

    def __init__(self, source: str, dialect: str, now_ns: int, tick_ns: int, advskew: int) -> None:
        self.source, self.advskew, self.tick_ns = source, advskew, tick_ns
        self.down_ns = master_down_ns(1, advskew, dialect)
        self.interval_ns = SECOND_NS + advskew * SECOND_NS // 256
        self.state, self.counter = "BACKUP", 0
        self.due_ns = now_ns + self.down_ns

    def hear(self, frame: bytes, now_ns: int) -> None:
        self.state, self.due_ns = "BACKUP", now_ns + self.down_ns

    def next_ns(self) -> int:
        return -(-self.due_ns // self.tick_ns) * self.tick_ns

    def act(self, now_ns: int) -> list[bytes]:
        if self.next_ns() > now_ns:
            return []
        self.state, self.due_ns = "MASTER", now_ns + self.interval_ns
        self.counter += 1
        return [advertisement(source=self.source, counter=self.counter << 32, advskew=self.advskew)]


class Ours:
    """Our engine, which looks at its deadlines at the ticks of its own clock."""

    def __init__(self, source: str, now_ns: int, tick_ns: int, seed: int, **settings: Any) -> None:
        self.node = Node(source, now_ns=now_ns, seed=seed, replay="off", **settings)
        self.phase_ns, self.tick_ns = seed % tick_ns, tick_ns

    @property
    def state(self) -> str:
        return self.node.state

    def hear(self, frame: bytes, now_ns: int) -> None:
        assert self.node.engine.receive(0, frame, now_ns) == "ok"

    def next_ns(self) -> int:
        due_ns = self.node.engine.next_deadline_ns()
        assert due_ns is not None
        at_ns: int = -(-(due_ns - self.phase_ns) // self.tick_ns) * self.tick_ns + self.phase_ns
        return at_ns

    def act(self, now_ns: int) -> list[bytes]:
        return self.node.carry_out(now_ns)


class Crossing:
    """Equal hosts that rise together: "o" in `kinds` is ours, "b" a BSD. Sources in that order.

    `starts_ns`: when each begins to wait. `delays`: ns from one host to another.
    """

    def __init__(
        self,
        kinds: str,
        delays: list[list[int]],
        *,
        seed: int,
        dialect: str = "freebsd",
        advskew: int = 0,
        starts_ns: list[int] | None = None,
        sources: list[str] | None = None,
    ) -> None:
        random = Random(seed)
        starts_ns = starts_ns or [0] * len(kinds)
        sources = sources or [f"10.77.0.{number}" for number in range(1, len(kinds) + 1)]
        self.delays, self.now_ns, self.rounds = delays, START_NS, 0
        self.hosts: list[Ours | Bsd] = [
            Ours(
                source,
                START_NS + start_ns,
                10_000_000,
                random.randrange(1 << 60),
                dialect=dialect,
                advskew=advskew,
            )
            if kind == "o"
            else Bsd(source, dialect, START_NS + start_ns, 1_000_000, advskew)
            for kind, source, start_ns in zip(kinds, sources, starts_ns, strict=True)
        ]
        self.flying: list[tuple[int, int, int, bytes]] = []  # when, number, to whom, what
        self.changed_ns, self.sent = START_NS, 0

    def states(self) -> list[str]:
        return [host.state for host in self.hosts]

    def send(self, sender: int, frames: list[bytes]) -> None:
        for frame in frames:
            for receiver in range(len(self.hosts)):
                if receiver != sender:
                    self.sent += 1
                    at_ns = self.now_ns + self.delays[sender][receiver]
                    heapq.heappush(self.flying, (at_ns, self.sent, receiver, frame))

    def step(self) -> None:
        """Let the next thing happen: a frame arrives, or a host looks at its deadline."""
        due = min((host.next_ns(), number) for number, host in enumerate(self.hosts))
        before = self.states()
        if self.flying and self.flying[0][0] <= due[0]:
            self.now_ns, _, number, frame = heapq.heappop(self.flying)
            self.hosts[number].hear(frame, self.now_ns)
        else:
            self.now_ns, number = max(due[0], self.now_ns), due[1]
        self.send(number, self.hosts[number].act(self.now_ns))
        after = self.states()
        if after != before:
            self.changed_ns = self.now_ns
            self.rounds += "MASTER" in before and "MASTER" not in after

    def settle(self) -> int:
        """Run until nothing changes any more: how many rounds it took, at most ROUNDS_MAX."""
        while self.rounds < ROUNDS_MAX and self.now_ns - self.changed_ns < SETTLED_NS:
            self.step()
        return self.rounds
