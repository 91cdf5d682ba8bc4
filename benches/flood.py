#!/usr/bin/env python3
"""The cost of a frame of `carp-fast flood`, and how evenly frames are sent, against other programs.

Two hosts on one segment. First, as fast as possible into a namespace that drops the frames, by its
IP stack or by an XDP program: CPU time per frame, so that others may share the machine, and the
rate that one core could send. trafgen and tcpreplay send the same 255 frames repeatedly, the floors
one frame, `flood` a different, signed one each time. Then, at given rates, the gaps that tcpdump
sees at the other end.

  sudo .venv/bin/python benches/flood.py [--frames 500000] [--rounds 3] [--floor PROGRAM]

Needs trafgen (netsniff-ng), tcpreplay and tcpdump. --floor: a program that only sends one frame
repeatedly, called as `PROGRAM send INTERFACE RATE SECONDS`, printing "... N ns a packet".
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from carp_fast.bench._floor import Mover
from carp_fast.bench.floor import TICK_NS, frame
from carp_fast.bpf.assembly import R0, leave, move
from carp_fast.bpf.programs import Attach, Kind, load
from carp_fast.capture.pcap import Reader, Writer
from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.loadtest._mix import Mix
from carp_fast.loadtest._pace import Pace
from carp_fast.loadtest.sender import Sender, Sent
from carp_fast.loadtest.streams import made_up, place_of

INTERFACE = "s1"
VHIDS = range(1, 256)
FLOOR_RATE = 100_000.0  # a rate that every floor can keep; its cost is in CPU time
RATES = (1_000, 50_000, 500_000)
XDP_DROP, XDP_PASS = 1, 2
DEADLINE_S = 60.0


class Cost(NamedTuple):
    frames: int
    cpu_s: float  # of all threads and processes
    sender_cpu_s: float  # of the thread in the kernel, if that is another one

    @property
    def ns(self) -> float:
        return self.cpu_s * 1e9 / self.frames


@contextlib.contextmanager
def answering(host: Host, verdict: int | None) -> Iterator[None]:
    """An XDP program on the host's interface that returns this verdict; None: no program."""
    if verdict is None:
        yield
        return
    with host.inside():
        program = load(Kind.XDP, [move(R0, verdict), leave()])
        link = program.attach(socket.if_nametoindex(INTERFACE), Attach.XDP)
    try:
        yield
    finally:
        os.close(link)
        program.close()


def mix(host: Host) -> Mix:
    with host.inside():
        streams = made_up(list(VHIDS), [], b"secret", place_of(INTERFACE))
    now_ns = time.time_ns()
    return Mix(
        streams.streams, {"ok": 1}, walks={"counter": ("increment", range(now_ns, now_ns + 1))}
    )


# --- the senders ----------------------------------------------------------------------------------


def flood(host: Host, backend: str, frames: int, pace: Pace | None = None) -> Sent:
    with (
        host.inside(),
        Sender(
            mix(host),
            pace or Pace(),
            interface=INTERFACE,
            backend=backend,
            duration_s=DEADLINE_S,
            count=frames,
        ) as sender,
    ):
        sender.start()
        while not sender.wait(1.0):
            pass
        sent = sender.sent()
        if sender.trouble or sent.interface_packets != frames:
            print(f"{backend}: {sender.trouble or sent}", file=sys.stderr)
    return sent


def cost_of(sent: Sent) -> Cost:
    cpu_s = sent.cpu_seconds + sent.sender_cpu_seconds
    return Cost(sent.sent, cpu_s, sent.sender_cpu_seconds or cpu_s)


def own_floor(host: Host, frames: int) -> Cost:
    with host.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
        ifindex = socket.if_nametoindex(INTERFACE)
        seconds = frames / FLOOR_RATE
        sent = Mover(out.fileno(), TICK_NS).send([ifindex], [frame()], FLOOR_RATE, seconds)
    return Cost(sent[0], sent[1] / 1e9, sent[1] / 1e9)


def floor_program(host: Host, program: str, frames: int) -> Cost:
    seconds = str(frames / FLOOR_RATE)
    said = host.run(
        ["timeout", str(DEADLINE_S), program, "send", INTERFACE, str(FLOOR_RATE), seconds]
    ).stdout
    found = re.search(r"(\d+) packets.* (\d+) ns a packet", said)
    if found is None:
        raise SystemExit(f"{program}: {said}")
    cpu_s = int(found[1]) * int(found[2]) / 1e9
    return Cost(int(found[1]), cpu_s, cpu_s)


def other(host: Host, argv: list[str], frames: int) -> Cost:
    """A program's CPU time, its children's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with host.inside():
        done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(f"{argv[0]}: exit code {done.returncode}: {done.stderr!r}", file=sys.stderr)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(frames, cpu_s, cpu_s)


def same_frames(host: Host, directory: Path) -> tuple[Path, Path]:
    """255 frames, as a pcap and as trafgen's configuration."""
    source, pcap, config = mix(host), directory / "same.pcap", directory / "same.cfg"
    frames = [each[1] for each in (source.take() for _ in VHIDS) if each]
    with open(pcap, "wb") as file:
        writer = Writer(file)
        for number, data in enumerate(frames):
            writer.write(number * 1000, data)
    lines = ("{ " + ", ".join(f"0x{byte:02x}" for byte in data) + " }\n" for data in frames)
    config.write_text("".join(lines))
    return pcap, config


def trafgen(config: Path, frames: int, *more: str) -> list[str]:
    return ["trafgen", "-o", INTERFACE, "-i", str(config), "-n", str(frames), "-P", "1", *more]


# --- the cost of a frame --------------------------------------------------------------------------


def costs(lab: Lab, frames: int, rounds: int, floor: str | None) -> None:
    a, b = lab.hosts
    pcap, config = same_frames(a, lab.directory)
    replay = ["tcpreplay", "-q", "-i", INTERFACE, "-K", "-t", "-l", str(frames // 255), str(pcap)]
    ways: dict[str, Callable[[], Cost]] = {}
    if floor:
        ways["floor program"] = lambda: floor_program(a, floor, frames)
    ways |= {
        "_floor": lambda: own_floor(a, frames),
        "flood, sendmmsg": lambda: cost_of(flood(a, "sendmmsg", frames)),
        "trafgen": lambda: other(a, trafgen(config, frames), frames),
        "tcpreplay": lambda: other(a, replay, frames // 255 * 255),
    }
    live = {"flood, live": lambda: cost_of(flood(a, "live", 4 * frames))}
    for verdict, what, chosen in (
        (None, "dropped by the IP stack", ways),
        (XDP_DROP, "dropped by XDP", ways | live),
    ):
        print(f"\n{what}: CPU per frame, median of {rounds} rounds")
        header = ("ns", "M/s a core", "of the floor", "rounds, ns")
        print(f"{'':18}{header[0]:>8}{header[1]:>12}{header[2]:>14}   {header[3]}")
        found: dict[str, list[Cost]] = {name: [] for name in chosen}
        with answering(b, verdict):
            for _ in range(rounds):
                for name, way in chosen.items():
                    found[name].append(way())
        first = statistics.median(cost.ns for cost in next(iter(found.values())))
        for name, each in found.items():
            ns = statistics.median(cost.ns for cost in each)
            of_sender = statistics.median(cost.sender_cpu_s * 1e9 / cost.frames for cost in each)
            rate, ratio = 1e3 / of_sender, first / of_sender
            every = " ".join(f"{cost.ns:.0f}" for cost in each)
            note = f"  ({of_sender:.0f} of it in the kernel's thread)" if of_sender < ns else ""
            print(f"{name:18}{ns:8.0f}{rate:12.2f}{ratio:14.2f}   {every}{note}")


# --- how evenly frames are sent -------------------------------------------------------------------


def gaps(
    b: Host, directory: Path, frames: int, send: Callable[[], Sent | Cost]
) -> tuple[float, list[int]]:
    """The rate that the sender reports, and the gaps between frames, ns, where they arrive.

    For another program it is the rate of the frames that arrived.
    """
    file, log = directory / "gaps.pcap", directory / "tcpdump.log"
    argv = ["tcpdump", "-i", INTERFACE, "-B", "262144", "-s", "64", "-w", str(file)]
    heard = b.start([*argv, "--time-stamp-precision=nano", "-Z", "root", "proto", "112"], log=log)
    wait_for(lambda: "listening on" in heard.output(), DEADLINE_S, "tcpdump listens")
    sent = send()
    time.sleep(1.0)  # its buffer is written by then
    heard.signal(signal.SIGINT)
    heard.wait(DEADLINE_S)
    with open(file, "rb") as recorded:
        at_ns = [record.at_ns for record in Reader(recorded, file.name)]
    if len(at_ns) != frames:
        print(f"({frames:,} frames sent, {len(at_ns):,} seen)", file=sys.stderr)
    between = [later - earlier for earlier, later in pairwise(at_ns)]
    return sent.rate if isinstance(sent, Sent) else 1e9 * len(between) / sum(between), between


def evenness(lab: Lab) -> None:
    (a, b), directory = lab.hosts, lab.directory
    _, config = same_frames(a, directory)
    print("\ngaps at the other end, us")
    print(f"{'':18}{'asked':>9}{'achieved':>10}{'p1':>9}{'p50':>9}{'p99':>9}{'max':>10}")
    with answering(b, XDP_PASS):
        for rate in RATES:
            frames = rate * 2
            ways: dict[str, Callable[[], Sent | Cost]] = {
                f"flood, {name}": partial(flood, a, name, frames, Pace(rate=rate))
                for name in ("sendmmsg", "live")
            }
            argv = trafgen(config, frames, "-b", f"{rate}pps")
            ways["trafgen"] = lambda argv=argv: other(a, argv, frames)  # type: ignore[misc] # noqa: B023
            for name, way in ways.items():
                achieved, between = gaps(b, directory, frames, way)
                between.sort()
                places = (len(between) * share // 100 for share in (1, 50, 99))
                shown = [between[place] / 1e3 for place in places] + [between[-1] / 1e3]
                text = "".join(
                    f"{us:{width}.1f}" for us, width in zip(shown, (9, 9, 9, 10), strict=True)
                )
                print(f"{name:18}{rate:9,}{achieved:10,.0f}{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3, help="0: only the gaps")
    parser.add_argument("--floor")
    options = parser.parse_args()
    packages = {"trafgen": "netsniff-ng", "tcpreplay": "tcpreplay", "tcpdump": "tcpdump"}
    for program, package in packages.items():
        if shutil.which(program) is None:
            raise SystemExit(f"needs {program} (Debian package {package})")
    with Lab("carp-fast-flood", segments=1, medium="veth") as lab:
        if options.rounds:
            costs(lab, options.frames, options.rounds, options.floor)
        evenness(lab)


if __name__ == "__main__":
    main()
