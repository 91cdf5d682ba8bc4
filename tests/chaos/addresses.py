"""Cases about addresses: removed, added and replaced by others, or lost by the kernel's rules."""

from __future__ import annotations

import time

from carp_fast.lab.lab import wait_for
from carp_fast.lab.observer import Key
from tests.chaos.case import Run, case
from tests.chaos.programs import Tempo
from tests.chaos.world import World

SUBNET = {"interface": "s1", "vhid": "1-3", "addresses": ["192.0.2.{vhid}/24"]}
OF_SUBNET = {Key(1, vhid): [f"192.0.2.{vhid}"] for vhid in (1, 2, 3)}
KNOBS = [f"ipv4/conf/{scope}/promote_secondaries" for scope in ("all", "s1")]
# As in a container: /proc/sys cannot be written.
READ_ONLY = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t proc proc /proc; mount -o bind,ro /proc/sys /proc/sys; exec "$@"',
    "sh",
)
CHURN = 4_000  # addresses that come and go while the daemon is stopped


@case(quick=True)
def promote(run: Run) -> None:
    """promote_secondaries is set back to 0, then the primary address of a subnet leaves."""
    with World(run, hosts=("a",), tables=[SUBNET], addresses=OF_SUBNET) as world:
        world.start_pair()
        for knob in KNOBS:
            world.set_knob("a", knob, "0")
        with world.excused("silence", "nobody_holds", after_s=60):
            program = world.carp_fast("a")
            program.write([{**SUBNET, "vhid": "2-3"}])
            world.note("vhid 1 removed by a reload")
            program.daemon.reload(force=True)
            world.sleep(2 * world.tempo.interval_s("a") + 0.5)
        there = world.holdings.there("a")
        run.require({"192.0.2.2", "192.0.2.3"} <= there, f"a has only {there}")
        run.require("192.0.2.1" not in there, "192.0.2.1 is still on a")


@case(quick=True)
def promote_readonly(run: Run) -> None:
    """promote_secondaries is 0 and /proc/sys read-only, then another host takes one of three."""
    with World(run, tables=[SUBNET], addresses=OF_SUBNET) as world:
        for knob in KNOBS:
            world.set_knob("a", knob, "0")
        world.start("a", before=READ_ONLY)
        world.settle("a")
        world.begin()
        world.limits.take_overs = 1
        # b has only vhid 1 and preempts, so that a yields its primary address.
        only = [{**SUBNET, "vhid": 1, "advbase": 0, "advskew": 16, "preempt": True}]
        world.start("b", tables=only)
        world.tape.wait_until(lambda: world.master(Key(1, 1)) == "b", 15, "vhid 1 on b")
        world.sleep(2 * world.tempo.interval_s("a"))
        there = world.holdings.there("a") & {"192.0.2.2", "192.0.2.3"}
        run.require(len(there) == 2, f"a has only {there} of what it is MASTER of")


@case(quick=True)
def address_removed_often(run: Run) -> None:
    """Somebody removes the master's address again and again: another host takes over."""
    with World(run, count=1) as world:
        world.start_pair()
        world.limits.take_overs = 1
        world.limits.silence_s = None  # b takes over from a resignation, or from one demoted
        began_ns = time.time_ns()
        removed = 0
        remove = ["ip", "addr", "del", "10.1.1.1/32", "dev", "s1"]
        with world.excused("not_held", host="a"):
            while world.master(Key(1, 1)) != "b" and time.time_ns() - began_ns < 30e9:
                if "10.1.1.1" in world.holdings.there("a"):
                    world.lab["a"].run(remove, check=False)
                    removed += 1
                time.sleep(0.05)
        world.settle("b")
        run.figure("removed", str(removed))
        lost = world.carp_fast("a").daemon.log_lines("address_lost")
        run.require(lost, "address_lost is not in the log of a")


@case(quick=True)
def foreign_on_backup(run: Run) -> None:
    """The backup host has a virtual address by other hands, before and while it runs."""
    with World(run) as world:
        world.plant("b", "10.1.1.1/24")
        with world.excused("two_hold", "held_alone", "not_held", host="b", after_s=60):
            world.start_pair()
            world.plant("b", "10.1.1.2/32")
            daemon = world.carp_fast("b").daemon
            for address in ("10.1.1.1", "10.1.1.2"):
                pattern = rf"(?=.*{address.replace('.', '[.]')}).*(foreign|another program)"
                wait_for(
                    lambda pattern=pattern: daemon.log_lines(pattern),  # type: ignore[misc]
                    5,
                    f"a warning about {address} in the log of b",
                )
            world.limits.take_overs = 1
            world.stop("a")
            last = world.tape.last
            world.tape.wait_until(lambda: ("b", Key(1, 1)) in last(), 10, "b MASTER of vhid 1")
            world.tape.wait_until(lambda: world.master(Key(1, 3)) == "b", 10, "vhid 3 on b")


@case(quick=True)
def foreign_on_master(run: Run) -> None:
    """The address is on the master by other hands; it yields, and takes over again."""
    with World(run) as world:
        world.plant("a", "10.1.1.1/32")
        with world.excused("two_hold", "held_alone", "nobody_holds", host="a", after_s=60):
            world.start("a")
            world.tape.wait_until(lambda: world.master(Key(1, 3)) == "a", 15, "vhid 3 on a")
            world.tape.wait_until(lambda: ("a", Key(1, 1)) in world.tape.last(), 5, "vhid 1 on a")
            world.begin()
            world.start("b")
            world.limits.take_overs = 1
            world.limits.nobody_holds_s = None
            world.limits.not_held_s = None
            world.stop("a")
            world.settle("b")


@case(quick=True)
def source_replaced(run: Run) -> None:
    """The master's own address is replaced by another, as DHCP does."""
    with World(run) as world:
        world.start_pair()
        world.ip("a", "addr add 10.1.0.9/16 dev s1")
        old = world.lab["a"].address(1)
        world.unplant("a", old)
        world.ip("a", f"addr del {old}/16 dev s1")
        world.sleep(3 * world.tempo.interval_s("a"))
        world.settle("a")
        sources = {each.source for each in world.tape.last().values() if each.host == "a"}
        run.require(sources == {"10.1.0.9"}, f"a advertises from {sources}")


@case(quick=True)
def source_lost(run: Run) -> None:
    """The master loses its own address, and gets another one later."""
    with World(run) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        old = world.lab["a"].address(1)
        world.unplant("a", old)
        # It resigns from no address, or b waits for its master-down time.
        world.ip("a", f"addr del {old}/16 dev s1")
        world.settle("b")
        run.figure("silence", world.silence_s(), "s")
        run.require(not world.holdings.there("a") & world.virtual, "a keeps virtual addresses")
        world.ip("a", "addr add 10.1.0.9/16 dev s1")
        world.settle("a")


@case(quick=True)
def cloned_host(run: Run) -> None:
    """Both hosts have the same own address and interval; the network splits and heals."""
    base = run.tempo
    tempo = Tempo(base.advbase, dict.fromkeys(base.advskew, base.advskew["a"]), base.dead_ratio)
    with World(run, impaired=True, tempo=tempo) as world:
        world.unplant("b", world.lab["b"].address(1))
        world.lab["b"].set_address(1, world.lab["a"].address(1))
        world.start_pair()
        limits = world.limits
        limits.take_overs = None
        limits.two_advertise_s = limits.two_hold_s = None
        world.impair("cut", 1)
        world.sleep(2 * tempo.master_down_s("b"))
        world.impair("cut", 0)
        healed_ns = time.time_ns()
        world.settle(None, 20)
        run.figure("healed, both hold", world.held_by_both_s(healed_ns), "s")
        warned = {
            name: len(world.carp_fast(name).daemon.log_lines("uses our|same source|duplicate"))
            for name in world.players
        }
        run.require(any(warned.values()), "no log warns of the second host with that address")


@case()
def overrun(run: Run) -> None:
    """While the master is stopped its addresses go, and thousands of others come and go."""
    with World(run, count=100) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        world.limits.two_hold_s = None  # what a stopped process holds, it holds
        numbers = [
            f"10.{100 + n // 62_500}.{n // 250 % 250}.{n % 250 + 1}/32" for n in range(CHURN)
        ]
        world.freeze("a")
        for verb in ("add", "del") * 3:
            lines = "\n".join(f"addr {verb} {number} dev lo" for number in numbers)
            batch = world.directory / "batch"
            batch.write_text(lines + "\n")
            world.lab["a"].run(["ip", "-batch", batch])
        world.note(f"{6 * CHURN} changes of addresses")
        world.lab["a"].run(["ip", "addr", "flush", "dev", "s1", "to", "10.1.1.0/24"])
        world.settle("b")
        world.thaw("a")
        run.figure("a has all again after", world.settle("a"), "s")
