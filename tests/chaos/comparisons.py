"""Cases that measure carp-fast, ucarp and keepalived alike, from outside: what a network or a
machine does to a master and its backup.

Figures are of the worst virtual host of a run: `silence`, no host advertises; `unheld`, no host
has the address; `both advertise` and `both hold`, two do.
"""

from __future__ import annotations

import time

from carp_fast.lab.lab import LabTimeout
from tests.chaos.case import PROGRAMS, Run, case
from tests.chaos.world import World


def settle(run: Run, world: World, host: str | None = None) -> None:
    """Waits for one master of each; where another program never gets there, that is a figure."""
    if run.judged:
        world.settle(host)
        return
    try:
        world.settle(host, 20)
    except AssertionError:
        run.figure("settled", "not within 20 s")


def figures(run: Run, world: World, since_ns: int, *names: str) -> None:
    """Notes these figures of what happened since `since_ns`."""
    measured = {
        "silence": lambda _: world.silence_s(),
        "unheld": world.unheld_s,
        "both advertise": world.advertised_by_both_s,
        "both hold": world.held_by_both_s,
    }
    for name in names:
        if name == "take-overs":
            run.figure(name, world.count_take_overs())
        else:
            run.figure(name, measured[name](since_ns), "s")


def lasting_s(run: Run, world: World) -> float:
    """How long a condition lasts: what was asked for, or two of the slowest master-down times."""
    return 2.5 * world.tempo.master_down_s("b") if run.quick else run.seconds


@case(quick=True, programs=PROGRAMS)
def kill(run: Run) -> None:
    """The master is killed with SIGKILL, and started again."""
    with World(run) as world:
        world.start_pair()
        world.limits.take_overs = 1
        killed_ns = world.kill("a")
        settle(run, world, "b")
        figures(run, world, killed_ns, "silence")
        evidence = world.evidence(killed_ns)
        held = [evidence.holds(key, "b")[0][0] for key in world.keys]
        run.figure("b holds after", (max(held) - killed_ns) / 1e9, "s")
        back_ns = time.time_ns()
        if not run.judged:
            world.limits.take_overs = 2
        world.start("a")
        settle(run, world)
        run.figure("from a's start both hold", world.held_by_both_s(back_ns), "s")


@case(quick=True, programs=PROGRAMS)
def terminate(run: Run) -> None:
    """The master is ended with SIGTERM."""
    with World(run) as world:
        world.start_pair()
        world.limits.take_overs = 1
        began_ns = time.time_ns()
        # A resignation hands over within the backup's advskew.
        world.limits.silence_s = world.tempo.interval_s("a") + world.tempo.advskew["b"] / 256 + 0.2
        world.stop("a")
        settle(run, world, "b")
        figures(run, world, began_ns, "silence", "unheld", "both hold")


@case(quick=True, programs=PROGRAMS)
def freeze_master(run: Run) -> None:
    """The master is stopped for longer than the master-down time, and goes on."""
    with World(run) as world:
        world.start_pair()
        world.limits.take_overs = 2  # to b, and back to the faster a
        world.freeze("a")
        world.sleep(world.tempo.master_down_s("b") * 2)
        thawed_ns = world.thaw("a")
        settle(run, world)
        figures(run, world, thawed_ns, "both advertise", "both hold", "take-overs")


@case(quick=True, programs=PROGRAMS)
def freeze_backup(run: Run) -> None:
    """The backup is stopped for longer than its master-down time, and goes on."""
    with World(run) as world:
        world.start_pair()
        frozen_ns = time.time_ns()
        world.freeze("b")
        world.sleep(world.tempo.master_down_s("b") * 2)
        world.thaw("b")
        world.sleep(world.tempo.master_down_s("b") * 1.5)
        settle(run, world)
        figures(run, world, frozen_ns, "take-overs", "both hold")


@case(quick=True, programs=PROGRAMS)
def freeze_both(run: Run) -> None:
    """Master and backup are stopped, as by a suspended machine, and go on together."""
    with World(run) as world:
        world.start_pair()
        world.limits.silence_s = world.limits.nobody_holds_s = None
        world.limits.take_overs = 2
        for name in world.players:
            world.freeze(name)
        world.sleep(world.tempo.master_down_s("b") * 2)
        thawed_ns = [world.thaw(name) for name in reversed(world.players)][-1]
        settle(run, world)
        figures(run, world, thawed_ns, "take-overs", "both advertise", "both hold")


def lossy(run: Run, percent: float, most_s: float) -> None:
    with World(run, impaired=True, count=20 if not run.quick else 3) as world:
        world.start_pair(preempt=True)
        limits = world.limits
        # A take-over from a live master ends when one of its answers arrives.
        limits.take_overs = None
        limits.two_advertise_s = limits.two_hold_s = most_s
        limits.held_alone_s = limits.not_held_s = most_s
        began_ns = time.time_ns()
        world.impair("loss", percent)
        seconds = lasting_s(run, world)
        world.sleep(seconds)
        world.impair("loss", 0)
        figures(run, world, began_ns, "silence", "both advertise", "both hold")
        hours = seconds / 3600 * len(world.keys)
        run.figure("take-overs by b", by_backup(world, began_ns))
        run.figure("an hour of one", by_backup(world, began_ns) / hours)
        settle(run, world)


def by_backup(world: World, since_ns: int) -> int:
    """How often b took over."""
    evidence = world.evidence(since_ns)
    return sum(len(evidence.runs(key, "b")) for key in world.keys)


@case(programs=PROGRAMS)
def loss_1(run: Run) -> None:
    """The network loses 1 % of all frames, both ways."""
    lossy(run, 1, 2.5)


@case(programs=PROGRAMS)
def loss_10(run: Run) -> None:
    """The network loses 10 % of all frames, both ways."""
    lossy(run, 10, 3.5)


@case(quick=True, programs=PROGRAMS)
def loss_30(run: Run) -> None:
    """The network loses 30 % of all frames, both ways."""
    lossy(run, 30, 4.5)


def impaired(run: Run, what: str, *values: float, lag_s: float = 0.0, steady: bool = True) -> None:
    with World(run, impaired=True, count=5) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 0 if steady else None
        world.limits.two_advertise_s = world.limits.two_hold_s = 0.2 + lag_s
        world.limits.held_alone_s = world.limits.not_held_s = 0.5 + lag_s
        began_ns = time.time_ns()
        world.impair(what, *values)
        world.sleep(lasting_s(run, world))
        world.impair(what, *[0.0] * len(values))
        world.sleep(min(2.0, lag_s))
        figures(run, world, began_ns, "silence", "both advertise", "both hold", "take-overs")
        settle(run, world)


@case(programs=PROGRAMS)
def jitter(run: Run) -> None:
    """Frames take 0 to 100 ms, so that few of them overtake others."""
    impaired(run, "delay", 0, 100)


@case(quick=True, programs=PROGRAMS)
def reorder(run: Run) -> None:
    """Frames take up to one and a half intervals of the master, in any order."""
    most_ms = 1500 * run.tempo.interval_s("a")
    impaired(run, "delay", 0, most_ms, lag_s=2 * most_ms / 1e3, steady=False)


@case(programs=PROGRAMS)
def duplicates(run: Run) -> None:
    """Half of the frames arrive twice."""
    impaired(run, "duplicate", 50)


@case(quick=True, programs=PROGRAMS)
def backup_deaf(run: Run) -> None:
    """The backup does not hear the master, the master hears the backup."""
    with World(run, impaired=True) as world:
        world.start_pair(preempt=True)
        limits = world.limits
        limits.take_overs = None
        limits.two_advertise_s = limits.two_hold_s = None  # while the cut lasts, nothing avoids it
        limits.held_alone_s = limits.not_held_s = 1.0
        began_ns = time.time_ns()
        world.impair("cut", 1, sender="a", receiver="b")
        world.sleep(lasting_s(run, world))
        figures(run, world, began_ns, "both advertise", "both hold")
        world.impair("cut", 0, sender="a", receiver="b")
        healed_ns = time.time_ns()
        settle(run, world, "a")
        healed(run, world, healed_ns)


def healed(run: Run, world: World, since_ns: int) -> None:
    """Notes, and requires, that two masters end with the cut: by the next advertisement."""
    both_s = world.held_by_both_s(since_ns)
    run.figure("healed, both hold", both_s, "s")
    most_s = world.tempo.interval_s("b") + 0.2 + world.delay_s
    run.require(not run.judged or both_s <= most_s, f"healed, both hold for {both_s:.3f} s")


@case(programs=PROGRAMS)
def master_deaf(run: Run) -> None:
    """The master does not hear the backup, the backup hears the master."""
    with World(run, impaired=True) as world:
        world.start_pair(preempt=True)
        began_ns = time.time_ns()
        world.impair("cut", 1, sender="b", receiver="a")
        world.sleep(lasting_s(run, world))
        world.impair("cut", 0, sender="b", receiver="a")
        settle(run, world, "a")
        figures(run, world, began_ns, "take-overs", "both advertise", "both hold")


@case(quick=True, programs=PROGRAMS)
def partition(run: Run) -> None:
    """The network falls into two halves, and is joined again."""
    with World(run, impaired=True) as world:
        world.start_pair(preempt=True)
        limits = world.limits
        limits.take_overs = 1  # by b; a never stops
        limits.two_advertise_s = limits.two_hold_s = None
        world.impair("cut", 1)
        world.sleep(2 * world.tempo.master_down_s("b"))
        world.impair("cut", 0)
        healed_ns = time.time_ns()
        settle(run, world, "a")
        figures(run, world, healed_ns, "both advertise")
        healed(run, world, healed_ns)


@case(quick=True, programs=PROGRAMS)
def address_removed(run: Run) -> None:
    """Somebody removes the address of the master by hand."""
    with World(run) as world:
        world.start_pair()
        removed_ns = time.time_ns()
        (address,) = world.addresses[world.keys[0]]
        world.ip("a", f"addr del {address}/32 dev s1")
        try:
            world.tape.wait_until(
                lambda: (
                    world.holdings.spans(time.time_ns())["a", address][-1][0] > removed_ns
                    and address in world.holdings.there("a")
                ),
                10,
                f"{address} back on a",
            )
            figures(run, world, removed_ns, "unheld")
        except LabTimeout:
            run.figure("unheld", "for good")
            run.require(not run.judged, f"{address} is not back on a")
        world.sleep(1.2 * world.tempo.interval_s("a"))
        announced = [
            each for each in world.tape.announcements(removed_ns) if each.address == address
        ]
        run.figure("announced", str(len(announced)))
        run.require(not run.judged or announced, f"{address} was not announced again")


@case(quick=True, programs=PROGRAMS)
def link_flap(run: Run) -> None:
    """The master's cable is pulled, and plugged in again."""
    with World(run) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        pulled_ns = time.time_ns()
        with world.excused("two_hold", "held_alone", "not_held", host="a"):
            world.note("a: carrier lost")
            world.lab.set_carrier("a", 1, up=False)
            settle(run, world, "b" if run.judged else None)
            figures(run, world, pulled_ns, "silence", "unheld", "both hold")
            back_ns = time.time_ns()
            world.note("a: carrier found")
            world.lab.set_carrier("a", 1, up=True)
        settle(run, world, "a" if run.judged else None)
        run.figure("back, both hold", world.held_by_both_s(back_ns), "s")
