"""Cases about a machine that is short of something: of processors, of a network queue, of the
kernel's locks, or of rights; and about much of what happens seldom.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from carp_fast.lab.lab import LabError, wait_for
from carp_fast.lab.observer import Key
from tests.chaos.case import PROGRAMS, Run, UnableError, case
from tests.chaos.comparisons import figures, lasting_s, settle
from tests.chaos.programs import CarpFast
from tests.chaos.world import World

FAKETIME = Path("/usr/lib") / (os.uname().machine + "-linux-gnu") / "faketime/libfaketimeMT.so.1"
# No real-time priority: as in a container.
PLAIN = ("setpriv", "--bounding-set", "-sys_nice,-sys_resource", "--inh-caps")
WITHOUT_PRIORITY = (*PLAIN, "-sys_nice,-sys_resource")
KILLS = 200
BATCH = 2_000  # IPv6 addresses
BUSY = ("sh", "-c", "while :; do :; done")


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Programs that take all the processor time they get, within the block."""
    running = [subprocess.Popen(BUSY, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for hog in running:
            hog.kill()
            hog.wait()


def lateness_ms(world: World, since_ns: int, host: str) -> list[float]:
    """How late each advertisement of a host came, ascending."""
    evidence = world.evidence(since_ns)
    found = []
    for key in world.keys:
        sent = [each for each in evidence.of(key, host) if not each.resigned]
        for one, next_ in pairwise(sent):
            found.append(max(0.0, (next_.at_ns - one.at_ns) / 1e6 - one.interval_s * 1e3))
    return sorted(found)


def note_lateness(run: Run, world: World, since_ns: int, host: str = "a") -> None:
    late = lateness_ms(world, since_ns, host)
    if late:
        run.figure("late: median", late[len(late) // 2], "ms")
        run.figure("99 %", late[int(len(late) * 0.99)], "ms")
        run.figure("most", late[-1], "ms")


@case(quick=True, programs=PROGRAMS)
def starve(run: Run) -> None:
    """Four busy programs for each processor; then the master is killed."""
    with World(run, count=50) as world:
        world.start_pair()
        world.limits.take_overs = 1
        began_ns = time.time_ns()
        with hogs(4 * (os.cpu_count() or 1)):
            world.sleep(min(lasting_s(run, world), 20))
            note_lateness(run, world, began_ns)
            figures(run, world, began_ns, "take-overs")
            killed_ns = world.kill("a")
            settle(run, world, "b" if run.judged else None)
            figures(run, world, killed_ns, "silence", "unheld")


@case()
def starve_plain(run: Run) -> None:
    """The same without real-time priority, as in a container: two busy programs."""
    with World(run, count=50) as world:
        world.start_pair(before=WITHOUT_PRIORITY)
        world.limits.take_overs = 1
        began_ns = time.time_ns()
        with hogs(2):
            world.sleep(min(lasting_s(run, world), 20))
            note_lateness(run, world, began_ns)
            world.kill("a")
            world.settle("b")
            run.figure("silence", world.silence_s(), "s")


@case()
def shortest_interval(run: Run) -> None:
    """A virtual host at 4 ms beside one of a second, without priority: both become MASTER."""
    fast = {
        "interface": "s1",
        "vhid": 200,
        "addresses": ["10.1.1.200/32"],
        "advbase": 0,
        "advskew": 1,
    }
    with World(run, hosts=("a",), count=1) as world:
        slow = {**world.tables[0], "advbase": 1, "advskew": 0}
        world.addresses[Key(1, 200)] = ["10.1.1.200"]
        world.limits.silence_s = world.limits.nobody_holds_s = None
        began_at = time.monotonic()
        with hogs(1):
            world.start("a", tables=[slow, fast], before=WITHOUT_PRIORITY)
            world.tape.wait_until(lambda: world.master(Key(1, 1)) == "a", 20, "vhid 1 MASTER")
        run.figure("MASTER after", time.monotonic() - began_at, "s")
        world.begin()
        world.sleep(2)


@case()
def clock(run: Run) -> None:
    """The wall clock is set an hour ahead and back, on both hosts."""
    with World(run) as world:
        offset = world.directory / "clock"
        step(offset, 0)
        env = {
            **os.environ,
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        if not FAKETIME.exists():
            raise UnableError(f"{FAKETIME} (Debian package faketime)")
        world.start_pair(env=env)
        for seconds in (3600, -3600, 0):
            world.note(f"clocks at {seconds:+d} s")
            step(offset, seconds)
            world.sleep(world.tempo.master_down_s("b"))
        world.settle("a")


def step(file: Path, offset_s: int) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{offset_s:+d}\n")
    fresh.replace(file)


@case(quick=True, programs=PROGRAMS)
def short_queue(run: Run) -> None:
    """The master's network queue is slow and short: part of each burst is dropped."""
    with World(run, count=100 if run.program == "ucarp" else 255) as world:
        world.start_pair()
        world.limits.late_s = 0.25  # a burst of 255 takes 0.1 s at this rate, and waits for room
        began_ns = time.time_ns()
        burst = "rate 2mbit burst 5kb limit 10kb"
        try:
            world.lab["a"].run(["tc", "qdisc", "add", "dev", "s1", "root", "tbf", *burst.split()])
        except LabError as reason:
            raise UnableError(f"the queueing discipline tbf: {reason}") from None
        world.note("a short queue")
        world.sleep(max(5.0, lasting_s(run, world)))
        figures(run, world, began_ns, "take-overs", "silence", "both hold")
        world.lab["a"].run(["tc", "qdisc", "del", "dev", "s1", "root"])
        settle(run, world, "a" if run.judged else None)


@case(quick=True, programs=PROGRAMS)
def rtnl_held(run: Run) -> None:
    """The kernel's RTNL lock is held by others while a backup takes over."""
    with World(run) as world:
        world.start("a")
        world.settle("a", 15)
        if run.judged:
            start_with_own(world)
        else:
            world.start("b")
            world.sleep(world.tempo.interval_s("a") * 2)
        began_ns = world.begin()
        world.limits.take_overs = 2
        world.freeze("a")
        seconds = world.tempo.master_down_s("b") + (1.0 if run.quick else 4.0)
        with (
            world.excused("not_held", "nobody_holds", after_s=1.0),
            held_rtnl(world, seconds),
        ):
            if run.judged:
                last = world.tape.last
                world.tape.wait_until(lambda: ("b", Key(1, 3)) in last(), seconds, "vhid 3 on b")
        settle(run, world, "b")
        figures(run, world, began_ns, "silence")
        note_lateness(run, world, began_ns, "b")
        world.thaw("a")
        settle(run, world)


def start_with_own(world: World) -> None:
    """Starts b, which is also the master of vhids 4 to 6; they must not suffer, either."""
    own = {"interface": "s1", "vhid": "4-6", "addresses": ["10.1.1.{vhid}/32"]}
    world.start("b", tables=[*world.tables, own])
    world.addresses.update({Key(1, vhid): [f"10.1.1.{vhid}"] for vhid in (4, 5, 6)})
    world.tape.wait_until(lambda: world.master(Key(1, 6)) == "b", 15, "vhid 6 on b")
    world.sleep(1.2)  # an address is looked at a second after its take-over


@case()
def ipv6_batches(run: Run) -> None:
    """Another program adds thousands of IPv6 addresses while those of virtual hosts change."""
    with World(run, hosts=("a",), ipv6=True, count=20) as world:
        world.start_pair()
        lines = [f"addr add fd99::{n:x}/64 dev s1 nodad" for n in range(1, BATCH + 1)]
        batch = world.directory / "batch"
        batch.write_text("\n".join(lines) + "\n")
        program = world.carp_fast("a")
        began_ns = time.time_ns()
        other = world.lab["a"].start(["ip", "-batch", batch])
        world.note("a batch of IPv6 addresses")
        more = [{**world.tables[0], "unsigned_addresses": ["10.1.2.{vhid}/32"]}, world.tables[0]]
        number = 0
        while other.alive() and time.time_ns() - began_ns < 60e9:
            program.write([more[number % 2]])
            program.daemon.reload()
            number += 1
        run.figure("the batch took", (time.time_ns() - began_ns) / 1e9, "s")
        run.figure("reloads", str(number))
        note_lateness(run, world, began_ns)


@contextlib.contextmanager
def held_rtnl(world: World, seconds: float) -> Iterator[None]:
    """The lock is held within the block and until `seconds` are over."""
    host = world.lab["a"]
    log = world.directory / "rtnl.log"
    holder = host.start([sys.executable, "-m", "tests.chaos.rtnl", "s1", str(seconds)], log=log)
    wait_for(lambda: log.read_text() or not holder.alive(), 15, "RTNL held")
    if "held" not in log.read_text():
        raise UnableError(f"userfaultfd, to hold the RTNL lock: {log.read_text().strip()}")
    world.note("RTNL is held")
    yield
    holder.wait(seconds + 15)
    world.note("RTNL is free")


@case(quick=True)
def other_user(run: Run) -> None:
    """It runs as another user with CAP_NET_RAW and CAP_NET_ADMIN, and is killed."""
    nobody, caps = 65534, "+net_raw,+net_admin"
    before = ["setpriv", "--reuid", str(nobody), "--regid", str(nobody), "--clear-groups"]
    before += ["--inh-caps", caps, "--ambient-caps", caps]
    with World(run) as world, readable(world.directory):
        tables = world.tables
        for name in world.players:
            (world.directory / f"{name}.toml").touch(mode=0o600)
            os.chown(world.directory / f"{name}.toml", nobody, nobody)
            own = world.directory / f"own-{name}"
            own.mkdir()
            os.chown(own, nobody, nobody)
            daemon = {"control_socket": str(own / "sock"), "state_directory": str(own / "state")}
            world.start(name, tables=tables, before=before, daemon=daemon)
            world.settle("a")
        world.begin()
        world.limits.take_overs = 1
        world.limits.late_s = 0.5  # it may not run before other programs of a busy machine
        world.kill("a")
        world.settle("b")
        world.start("a")
        world.settle("b")


@contextlib.contextmanager
def readable(directory: Path) -> Iterator[None]:
    """Lets other users through to this directory within the block."""
    modes = {each: each.stat().st_mode for each in (directory, directory.parent)}
    try:
        for each, mode in modes.items():
            each.chmod(mode | 0o111)
        yield
    finally:
        for each, mode in modes.items():
            if each.exists():
                each.chmod(mode)


@case(quick=True)
def kill_often(run: Run) -> None:
    """Both hosts are killed and started again at random moments, up to 200 times."""
    with World(run, count=20) as world:
        world.start_pair(preempt=True)
        limits = world.limits
        limits.take_overs = None
        limits.silence_s = limits.nobody_holds_s = None  # both may be dead
        limits.two_hold_s = limits.held_alone_s = None  # what a killed one leaves, until it is back
        kills = 6 if run.quick else KILLS
        for number in range(1, kills + 1):
            name = run.random.choice("aab")
            time.sleep(run.random.random() * run.random.choice((0.1, 0.6, 1.5)))
            world.kill(name)
            world.start(name, ready=False)
            if run.random.random() < 0.2:
                time.sleep(run.random.random() * 0.5)
                world.kill(name)
                world.start(name, ready=False)
            if number % 10 == 0 or number == kills:
                for each in world.players:
                    world.wait_ready(each)
                world.settle("a")
        run.figure("kills", str(kills))


@case()
def soak(run: Run) -> None:
    """The master's carrier flaps for the whole time; memory and descriptors stay as they were."""
    with World(run, count=100) as world:
        world.start_pair(preempt=True)
        limits = world.limits
        limits.take_overs = None
        limits.two_hold_s = None  # a has no carrier, and may still be removing
        limits.silence_s = limits.nobody_holds_s = None
        limits.held_alone_s = limits.not_held_s = 1.5
        end_at, flaps = time.monotonic() + run.seconds, 0
        before: dict[str, tuple[int, int]] = {}
        while time.monotonic() < end_at or not before:
            world.note("a: carrier lost")
            world.lab.set_carrier("a", 1, up=False)
            world.sleep(world.tempo.master_down_s("b") + 0.5)
            world.note("a: carrier found")
            world.lab.set_carrier("a", 1, up=True)
            world.sleep(1.5)
            flaps += 1
            before = before or {name: size(world.carp_fast(name)) for name in world.players}
        world.settle("a")
        run.figure("flaps", str(flaps))
        for name, (rss, descriptors) in before.items():
            now_rss, now_descriptors = size(world.carp_fast(name))
            run.figure(f"{name}: MiB more", (now_rss - rss) / (1 << 20))
            run.require(now_rss - rss < 4 << 20, f"{name} grew from {rss} to {now_rss} bytes")
            run.require(
                now_descriptors <= descriptors + 1,
                f"{name}: {descriptors} descriptors, then {now_descriptors}",
            )


def size(program: CarpFast) -> tuple[int, int]:
    """Memory in bytes, and open descriptors."""
    process = program.daemon.process
    return process.rss_bytes(), len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
