"""Cases about a stranger on the segment, without the passphrase: floods, and replays of what it
captured, with a forged advskew, which no digest covers.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable

from tests.chaos.case import Run, case
from tests.chaos.comparisons import figures, settle
from tests.chaos.tape import Advertisement
from tests.chaos.world import STRANGER, World
from tests.support.daemons import PASSPHRASE
from tests.support.pairs import Wire
from tests.support.segment import internet_checksum

OWN_MAC = bytes.fromhex("020000000066")
RATES = {True: 5_000, False: 40_000}  # frames a second, by whether the run is quick
Attack = Callable[[list[Advertisement], int], bytes]


def flooded(run: Run, *options: str) -> None:
    """A flood hits both hosts; the master stays punctual, then it is killed and taken over."""
    with World(run, hosts=("a", "b", STRANGER), count=5) as world:
        world.start_pair()
        world.limits.take_overs = 1
        began_ns = time.time_ns()
        argv = [sys.executable, "-m", "carp_fast", "flood", "-i", "s1", "--rate"]
        argv += [str(RATES[run.quick]), "--duration", "600", "--vhid", "1-5", *options]
        stranger = world.lab[STRANGER]
        log = world.directory / "flood.log"
        flood = stranger.start(argv, log=log)
        world.note("flood")
        world.sleep(1.0 if run.quick else 5.0)
        assert flood.alive(), flood.output()
        world.kill("a")
        world.settle("b")
        assert flood.alive(), flood.output()
        run.figure("silence", world.silence_s(), "s")
        flood.kill()
        seconds = (time.time_ns() - began_ns) / 1e9
        heard = world.carp_fast("b").daemon.interface("s1")["counters"]
        run.figure("rejected a second", sum(heard.values()) / seconds)
        world.start("a")
        world.settle("b")


@case(quick=True)
def flood_bad_auth(run: Run) -> None:
    """A flood of advertisements with wrong digests; the master dies under it."""
    flooded(run, "--mix", "bad_auth=1")


@case(quick=True)
def flood_forged(run: Run) -> None:
    """The same with the source address of the master."""
    flooded(run, "--mix", "bad_auth=1", "--source", "10.1.0.1")


@case()
def flood_stray(run: Run) -> None:
    """A flood of frames that cannot be advertisements: TTL, version, length."""
    flooded(run, "--mix", "bad_ttl=1,bad_version=1,bad_length=1")


@case()
def flood_elsewhere(run: Run) -> None:
    """The flood is on another interface than the virtual host whose master dies."""
    with World(run, hosts=("a", "b", STRANGER), segments=2, count=5) as world:
        world.start_pair()
        world.limits.take_overs = 1
        options = ["--rate", str(RATES[run.quick]), "--duration", "600", "--mix", "bad_ttl=1"]
        argv = [sys.executable, "-m", "carp_fast", "flood", "-i", "s2", *options]
        flood = world.lab[STRANGER].start(argv, log=world.directory / "flood.log")
        world.note("flood on segment 2")
        world.sleep(2.0)
        world.kill("a")
        world.settle("b")
        assert flood.alive(), flood.output()
        run.figure("silence", world.silence_s(), "s")
        flood.kill()
        world.start("a")
        world.settle("b")


@case()
def flood_valid(run: Run) -> None:
    """A host that knows the passphrase floods with valid advertisements of a lower priority."""
    with World(run, hosts=("a", "b", STRANGER), count=1) as world:
        world.start_pair()
        secret = world.directory / "secret"
        secret.touch(mode=0o600)
        secret.write_text(PASSPHRASE + "\n")
        argv = [sys.executable, "-m", "carp_fast", "flood", "-i", "s1", "--vhid", "1"]
        argv += ["--address", "10.1.1.1", "--passphrase-file", str(secret), "--advskew", "200"]
        argv += ["--rate", str(RATES[run.quick]), "--duration", "600"]
        began_ns = time.time_ns()
        flood = world.lab[STRANGER].start(argv, log=world.directory / "flood.log")
        world.sleep(3.0)
        assert flood.alive(), flood.output()
        flood.kill()
        seconds = (time.time_ns() - began_ns) / 1e9
        sent = len(world.evidence(began_ns).of(world.keys[0], "a"))
        run.figure("advertisements of a a second", sent / seconds)
        # It answers a slower master at most once an interval, by two advertisements.
        most = 3 * seconds / world.tempo.interval_s("a") + 4
        run.require(sent <= most, f"a sent {sent} in {seconds:.1f} s, at most {most:.0f} expected")
        world.settle("a")


def forge(
    frame: bytes,
    *,
    source: str | None = None,
    advskew: int | None = None,
    advbase: int | None = None,
    mac: bytes | None = None,
) -> bytes:
    """A captured frame with other fields that no digest covers, and right checksums."""
    header, carp = bytearray(frame[14:34]), bytearray(frame[34:70])
    if source is not None:
        header[12:16] = socket.inet_aton(source)
    header[10:12] = bytes(2)
    header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
    if advskew is not None:
        carp[2] = advskew
    if advbase is not None:
        carp[5] = advbase
    carp[6:8] = bytes(2)
    carp[6:8] = internet_checksum(bytes(carp)).to_bytes(2, "big")
    return bytes(frame[:6] + (mac or frame[6:12]) + frame[12:14] + header + carp)


def attacked(
    run: Run, attack: Attack, *, capture: int = 8, lasting: int = 24, yields: bool = False
) -> None:
    """`attack` makes a frame of what was captured and its number, a little faster than the
    interval of the master, `lasting` times. `yields`: the master gives way once, for the time that
    it waits for a master (docs/security.md says why).
    """
    with World(run, hosts=("a", "b", STRANGER), count=1) as world:
        world.start_pair()
        if yields:
            world.limits.late_s = None
            world.limits.silence_s = world.tempo.master_down_s("a") + 0.3
        (key,) = world.keys
        world.tape.wait_until(
            lambda: len(world.evidence().of(key, "a")) >= capture,
            capture * world.tempo.interval_s("a") + 10,
            f"{capture} advertisements to capture",
        )
        captured = world.evidence().of(key, "a")
        began_ns = time.time_ns()
        with Wire(world.lab[STRANGER], 1) as wire:
            for number in range(lasting):
                wire.send(attack(captured, number))
                time.sleep(0.9 * world.tempo.interval_s("a"))
        world.note("the attack is over")
        figures(run, world, began_ns, "silence", "take-overs")
        settle(run, world, "a" if run.judged else None)


REPLAYED = ("carp-fast", "ucarp")


@case(quick=True, programs=REPLAYED)
def replay_new_source(run: Run) -> None:
    """One captured frame again and again, from the stranger's own address, at the best priority."""
    attacked(
        run,
        lambda frames, _: forge(
            frames[-1].frame, source="10.1.0.3", advskew=0, advbase=0, mac=OWN_MAC
        ),
        yields=True,
    )


@case(programs=REPLAYED)
def replay_rotating(run: Run) -> None:
    """The same from another address each time."""
    attacked(
        run,
        lambda frames, number: forge(
            frames[-1].frame, source=f"10.1.2.{number + 1}", advskew=0, advbase=0, mac=OWN_MAC
        ),
        yields=True,
    )


@case(quick=True, programs=REPLAYED)
def replay_masters(run: Run) -> None:
    """The master's last frame again and again, from its own address, at the best priority."""
    attacked(run, lambda frames, _: forge(frames[-1].frame, advskew=0, advbase=0))


@case(quick=True, programs=REPLAYED)
def replay_ascending(run: Run) -> None:
    """The master's old frames in their order, from its own address, at the best priority."""
    attacked(
        run,
        lambda frames, number: forge(frames[number % len(frames)].frame, advskew=0, advbase=0),
        capture=24,
    )


@case(quick=True, programs=REPLAYED)
def replay_resigned(run: Run) -> None:
    """A forged resignation with a digest of the master."""
    attacked(run, lambda frames, _: forge(frames[-1].frame, advskew=255, advbase=255))


@case(programs=REPLAYED)
def replay_slower(run: Run) -> None:
    """A captured frame from the stranger at a worse priority, which asks for an answer."""
    attacked(
        run,
        lambda frames, _: forge(
            frames[-1].frame, source="10.1.0.3", advskew=200, advbase=1, mac=OWN_MAC
        ),
    )
