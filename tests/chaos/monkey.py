"""A case that puts random faults on both hosts, several at a time, heals all of them, and looks
whether one master of each virtual host is left; again and again, by seed.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable

from carp_fast.control.protocol import ControlError
from tests.chaos.case import Run, case
from tests.chaos.world import World

ROUND_FAULTS = 6
COUNT = 10


class Monkey:
    """The faults, and what is broken now."""

    def __init__(self, run: Run, world: World) -> None:
        self.run, self.world, self.random = run, world, run.random
        self.renamed: set[str] = set()
        self.frozen: set[str] = set()
        self.down: set[str] = set()
        self.faults: list[Callable[[str], None]] = [
            self.kill,
            self.freeze,
            self.link,
            self.rename,
            self.remove_address,
            self.reload,
            self.carrier,
            self.network,
            self.network,
        ]

    def one(self) -> None:
        """One fault on one host; then a moment, or longer than a master-down time."""
        name = self.random.choice(self.world.players)
        self.random.choice(self.faults)(name)
        waits = (0.0, 0.05, 0.4, 1.5)
        time.sleep(self.random.choice(waits) * self.world.tempo.master_down_s("b"))

    def heal(self) -> None:
        world = self.world
        for what, values in (("loss", [0]), ("delay", [0, 0]), ("duplicate", [0]), ("cut", [0])):
            world.impair(what, *values)
        for name in world.players:
            if name in self.frozen:
                self.freeze(name)
            if name in self.renamed:
                self.rename(name)
            world.lab.set_carrier(name, 1, up=True)
            world.ip(name, "link set s1 up")
            self.down.discard(name)

    def interface(self, name: str) -> str:
        return "x1" if name in self.renamed else "s1"

    def kill(self, name: str) -> None:
        self.frozen.discard(name)
        self.world.kill(name)
        self.world.start(name)

    def freeze(self, name: str) -> None:
        if name in self.frozen:
            self.frozen.discard(name)
            self.world.thaw(name)
        else:
            self.frozen.add(name)
            self.world.freeze(name)

    def link(self, name: str) -> None:
        up = name in self.down
        (self.down.discard if up else self.down.add)(name)
        self.world.ip(name, f"link set {self.interface(name)} {'up' if up else 'down'}")

    def rename(self, name: str) -> None:
        old, new = ("x1", "s1") if name in self.renamed else ("s1", "x1")
        (self.renamed.discard if old == "x1" else self.renamed.add)(name)
        self.world.ip(name, f"link set {old} name {new}")

    def remove_address(self, name: str) -> None:
        there = sorted(self.world.holdings.there(name) & self.world.virtual)
        if there:
            words = f"addr del {self.random.choice(there)}/32 dev {self.interface(name)}"
            self.world.note(f"{name}: ip {words}")
            self.world.lab[name].run(["ip", *words.split()], check=False)  # it may just have gone

    def reload(self, name: str) -> None:
        self.world.note(f"{name}: SIGHUP")
        self.world.carp_fast(name).daemon.process.signal(signal.SIGHUP)

    def carrier(self, name: str) -> None:
        self.world.note(f"{name}: carrier lost and found")
        self.world.lab.set_carrier(name, 1, up=False)
        time.sleep(self.random.random() * 0.5)
        self.world.lab.set_carrier(name, 1, up=True)

    def network(self, name: str) -> None:
        what, values = self.random.choice(
            [("loss", [40]), ("delay", [0, 300]), ("duplicate", [50]), ("cut", [1]), ("cut", [0])]
        )
        self.world.impair(what, *values, sender=name)


@case()
def monkey(run: Run) -> None:
    """Random faults on both hosts, several at a time, then all are healed; until time is over."""
    with World(run, impaired=True, count=COUNT) as world:
        world.start_pair(preempt=True)
        limits = world.limits
        limits.take_overs = limits.silence_s = limits.nobody_holds_s = limits.late_s = None
        limits.two_advertise_s = limits.two_hold_s = None
        # A renamed interface, a cable without carrier: the addresses go, nothing is advertised.
        limits.held_alone_s = limits.not_held_s = 1.0
        monkey_ = Monkey(run, world)
        end_at, rounds = time.monotonic() + run.seconds, 0
        while time.monotonic() < end_at or not rounds:
            for _ in range(ROUND_FAULTS):
                monkey_.one()
            world.note("all is healed")
            monkey_.heal()
            # An address that was lost five times in a minute demotes: then b is the master.
            run.figure("settled after", world.settle(None, 30), "s")
            for name in world.players:
                with contextlib.suppress(ControlError):
                    world.carp_fast(name).daemon.reload()
            rounds += 1
        run.figure("rounds", rounds)
