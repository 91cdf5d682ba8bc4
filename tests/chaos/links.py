"""Cases about interfaces: renamed, changed, taken away and given back under a running daemon."""

from __future__ import annotations

import time

from carp_fast.lab.observer import Key
from tests.chaos.case import Run, case
from tests.chaos.programs import SECOND
from tests.chaos.world import World

OTHER_MAC = "02:00:00:00:00:77"
MASS_SEGMENTS, MASS_COUNT = 4, 255


@case(quick=True)
def rename(run: Run) -> None:
    """The master's interface gets another name, and its own name back."""
    with World(run) as world:
        world.start_pair()
        world.limits.take_overs = 2
        world.ip("a", "link set s1 name x1")
        world.settle("b")
        left = world.holdings.there("a") & world.virtual
        run.require(not left, f"a keeps {left} on the renamed interface")
        world.ip("a", "link set x1 name s1")
        world.settle("b")
        began_ns = time.time_ns()
        world.stop("b")
        world.settle("a")
        announced = {each.address for each in world.tape.announcements(began_ns)}
        run.require(announced >= world.virtual, f"a announced only {announced}")


@case(quick=True)
def rename_swap(run: Run) -> None:
    """The master's interface is renamed to another configured name."""
    table = {"vhid": "1", "addresses": ["10.1.1.1/32"], "interface": "s1"}
    other = {"vhid": "2", "addresses": ["10.1.1.2/32"], "interface": "x1"}
    addresses = {Key(1, 1): ["10.1.1.1"], Key(1, 2): ["10.1.1.2"]}
    with World(run, hosts=("a",), tables=[table, other], addresses=addresses) as world:
        world.limits.silence_s = world.limits.nobody_holds_s = None
        world.start("a")
        world.tape.wait_until(lambda: world.master(Key(1, 1)) == "a", 15, "vhid 1 MASTER")
        world.begin()
        world.ip("a", "link set s1 name x1")
        world.tape.wait_until(lambda: world.master(Key(1, 2)) == "a", 15, "vhid 2 MASTER")
        world.tape.wait_until(lambda: world.master(Key(1, 1)) is None, 5, "vhid 1 given up")
        run.require("10.1.1.1" not in world.holdings.there("a"), "10.1.1.1 is still on a")


@case(quick=True)
def mac_change(run: Run) -> None:
    """The MAC of the master's interface changes."""
    with World(run) as world:
        world.start_pair()
        changed_ns = time.time_ns()
        world.ip("a", f"link set s1 address {OTHER_MAC}")

        def announced() -> bool:
            new = [each for each in world.tape.announcements(changed_ns) if each.mac == OTHER_MAC]
            return {each.address for each in new} >= world.virtual

        world.tape.wait_until(announced, 3, "every address announced from the new MAC")
        first = world.tape.announcements(changed_ns)[0]
        run.figure("announced after", (first.at_ns - changed_ns) / 1e9, "s")
        world.settle("a")
        macs = {each.mac for each in world.tape.last().values() if each.host == "a"}
        run.require(macs == {OTHER_MAC}, f"advertised from {macs}")


@case(quick=True)
def mtu6(run: Run) -> None:
    """The MTU falls below 1280, which ends IPv6 on the interface, and is restored."""
    tables = [
        {"interface": "s1", "vhid": 1, "addresses": ["10.1.1.1/32", "fd00:1::1/64"]},
        {"interface": "s1", "vhid": 3, "addresses": ["fd00:1::3/64"]},
    ]
    addresses = {Key(1, 1): ["10.1.1.1", "fd00:1::1"], Key(1, 3): ["fd00:1::3"]}
    world = World(run, hosts=("a",), ipv6=True, tables=tables, addresses=addresses)
    with world:
        world.start_pair()
        every = ("silence", "nobody_holds", "not_held", "held_alone", "late")
        with world.excused(*every):
            world.ip("a", "link set s1 mtu 1200")
            world.tape.wait_until(
                lambda: "fd00:1::1" not in world.holdings.there("a"), 5, "no IPv6 on a"
            )
            world.ip("a", "link set s1 mtu 1500")
            run.figure("whole again after", world.settle("a", 15), "s")


@case(quick=True)
def link_down(run: Run) -> None:
    """The master's interface is set down, and up again."""
    with World(run) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        with world.excused("two_hold", "held_alone", "not_held", host="a"):
            world.ip("a", "link set s1 down")
            world.settle("b")
            left = world.holdings.there("a") & world.virtual
            run.require(not left, f"a keeps {left}")
            world.ip("a", "link set s1 up")
        world.settle("a")


@case()
def backup_link_down(run: Run) -> None:
    """The backup's interface is set down and up, while the master goes on."""
    with World(run) as world:
        world.start_pair()
        world.ip("b", "link set s1 down")
        world.sleep(world.tempo.master_down_s("b"))
        world.ip("b", "link set s1 up")
        world.sleep(world.tempo.master_down_s("b"))
        world.settle("a")


@case(quick=True)
def interface_removed(run: Run) -> None:
    """The master's interface is deleted, and created again."""
    with World(run) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        world.unplant("a", world.lab["a"].address(1))
        world.note("a: s1 deleted")
        world.lab.delete_interface("a", 1)
        world.settle("b")
        world.recreate()
        world.settle("a")


@case()
def macvlan(run: Run) -> None:
    """Interfaces that filter multicast: the master's is deleted and created, then it is killed."""
    with World(run, hosts=("a", "b", "o"), medium="macvlan") as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 4
        world.unplant("a", world.lab["a"].address(1))
        world.note("a: s1 deleted")
        world.lab.delete_interface("a", 1)
        world.settle("b")
        world.recreate()
        world.settle("a")
        world.kill("a")
        world.settle("b")
        world.start("a")
        world.settle("a")


@case(quick=True)
def ipv6(run: Run) -> None:
    """Virtual hosts with addresses of both families: the master is killed, and started again."""
    with World(run, ipv6=True) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        world.kill("a")
        run.figure("b has all after", world.settle("b"), "s")
        world.start("a")
        world.settle("a")


@case()
def three_hosts(run: Run) -> None:
    """Of three hosts the master is killed, then its successor; both come back."""
    with World(run, hosts=("a", "b", "c")) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 4
        world.kill("a")
        world.settle("b")
        world.kill("b")
        world.settle("c")
        world.start("b")
        world.settle("b")
        world.start("a")
        world.settle("a")


@case(quick=True)
def three_hosts_resigned(run: Run) -> None:
    """Of three hosts the master resigns: one of the others takes over, not both."""
    with World(run, hosts=("a", "b", "c")) as world:
        world.start_pair()
        world.limits.take_overs = 1
        world.stop("a")
        world.settle("b")


def taken_over_and_given_back(run: Run, world: World) -> None:
    """The master is killed, its backup takes every virtual host over, and it comes back."""
    killed_ns = world.kill("a")
    world.settle("b")
    run.figure("silence", world.silence_s(), "s")
    evidence = world.evidence(killed_ns)
    held = [evidence.holds(key, "b")[0][0] for key in world.keys]
    run.figure("b holds all after", (max(held) - killed_ns) / 1e9, "s")
    world.start("a")
    world.settle("a")


@case()
def mass(run: Run) -> None:
    """1,020 virtual hosts on four segments: the master is killed, and started again."""
    with World(run, segments=MASS_SEGMENTS, count=MASS_COUNT) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        taken_over_and_given_back(run, world)


@case()
def mass_ipv6(run: Run) -> None:
    """255 virtual hosts with addresses of both families: the master is killed, and comes back."""
    with World(run, count=MASS_COUNT, ipv6=True) as world:
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        # The kernel takes milliseconds for each IPv6 address.
        world.limits.not_held_s = world.limits.held_alone_s = 3.0
        world.limits.two_hold_s = 3.0
        world.limits.nobody_holds_s = world.tempo.master_down_s("b") + 3.5
        taken_over_and_given_back(run, world)


@case()
def mass_beside_fast(run: Run) -> None:
    """1,016 virtual hosts and one at 31 ms: the master is stopped, its backup rises punctually."""
    fast = {"interface": "s1", "vhid": 255, "addresses": ["10.1.1.255/32"], "advbase": 0}
    addresses = {
        Key(k, vhid): [f"10.{k}.1.{vhid}"]
        for k in range(1, MASS_SEGMENTS + 1)
        for vhid in range(1, MASS_COUNT)
    }
    addresses[Key(1, 255)] = ["10.1.1.255"]
    table = {"interface": f"s[1-{MASS_SEGMENTS}]", "vhid": f"1-{MASS_COUNT - 1}"}
    table["addresses"] = ["10.{number}.1.{vhid}/32"]  # type: ignore[assignment]
    with World(run, segments=MASS_SEGMENTS, tables=[table], addresses=addresses) as world:
        for name, advskew in (("a", 8), ("b", 12)):
            world.start(name, tables=[table, {**fast, "advskew": advskew}])
        world.settle("a", 30)
        world.begin()
        world.limits.take_overs = 2
        world.freeze("a")
        world.settle("b")
        run.figure("silence", world.silence_s(), "s")
        world.thaw("a")
        world.settle()


@case()
def unicast_source(run: Run) -> None:
    """Peers by unicast; the configured source of the backup is not on its host, and then is."""
    # The kernel asks for the MAC of a missing neighbour once a second: no shorter intervals.
    with World(run, count=2, tempo=SECOND) as world:
        (a, b) = (world.lab[name].address(1) for name in "ab")
        missing = "10.1.0.22"
        world.start("a", defaults={"peers": [b, missing]})
        world.start("b", defaults={"peers": [a], "source": missing})
        world.settle("a")
        world.begin()
        states = {each["reason"] for each in world.carp_fast("b").daemon.status()["virtual_hosts"]}
        run.require(states == {"no_source"}, f"b is in {states}")
        world.ip("b", f"addr add {missing}/16 dev s1")
        world.carp_fast("b").daemon.wait_state("BACKUP", 10)
        world.sleep(world.tempo.master_down_s("b") * 1.3)
        world.settle("a")
        world.limits.take_overs = 1
        world.kill("a")
        world.settle("b")
        sources = {each.source for each in world.tape.last().values() if each.host == "b"}
        run.require(sources == {missing}, f"b advertises from {sources}")
