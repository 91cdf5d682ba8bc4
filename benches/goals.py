#!/usr/bin/env python3
"""Measurements that `carp-fast bench` does not have: start and reload, loss, bad packets, and
a take-over of all virtual hosts together.

  sudo PYTHONPATH=. .venv/bin/python benches/goals.py start [--instances 65280]
  sudo PYTHONPATH=. .venv/bin/python benches/goals.py loss [--instances 65280] [--seconds 600]
  sudo PYTHONPATH=. .venv/bin/python benches/goals.py noise [--instances 4080] [--rate 300000]
  sudo PYTHONPATH=. .venv/bin/python benches/goals.py takeover [--instances 4080] [--deaf]

start  from the start of the process to READY and to the first advertisement; then a reload with one
       change, and how late any advertisement was meanwhile
loss   one master, one backup: frames sent by one host's interfaces and heard by the other's process
takeover  the backup is stopped while its master is killed, so that afterwards it waits for all
       alike and takes over all of them in one moment: from the first address to the last one that
       exists and is announced. Both hosts share the processors, and the dead one's kernel hears
       the announcements; with --deaf it does not, as after a power failure
noise  a process that is MASTER of as many virtual hosts as it is BACKUP of gets packets with a bad
       digest, with a vhid that it does not have, and of VRRP, all on its first interface
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carp_fast.bench.contenders import DAEMONS
from carp_fast.bench.run import Pair, frames_sent
from carp_fast.bench.usage import memory, usage
from carp_fast.control.client import ControlClient
from carp_fast.control.protocol import ControlError
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.lab.fleet import configuration, keys_of, spread
from carp_fast.lab.lab import Lab, Process, interface_name, wait_for
from carp_fast.lab.witness import Identity, WireWatch

VHIDS = 255
UNKNOWN_VHID = 255  # to a process that gets noise
FLOOD_ENDS_S = 30.0
INTERVAL_S = 1.0
HALTED_S = 1.5  # longer than an interval: silence proves nothing then
STOPPED_S = 0.3  # for frames under way to arrive
MIB = 1 << 20


class Halted(Pair):
    """A pair whose host b is stopped until host a is killed."""

    deaf = False

    def halt(self) -> None:
        (process,) = self.b.processes
        process.signal(signal.SIGSTOP)
        time.sleep(HALTED_S)

    def kill(self, name: str) -> int:
        if name == "a" and self.deaf:
            orders = [f"link set {interface_name(k)} arp off" for k in self.counts]
            with self.a.inside():
                subprocess.run(["ip", "-batch", "-"], input="\n".join(orders).encode(), check=True)
        at_ns = super().kill(name)
        if name == "a":
            for process in self.b.processes:
                if process.alive():
                    process.signal(signal.SIGCONT)
        return at_ns


class Gaps(WireWatch):
    """The longest time between two advertisements of each virtual host of the other host."""

    def __init__(self, *hosts: Any, **options: Any) -> None:
        self.longest_ns: dict[Identity, int] = {}
        self.heard = 0
        super().__init__(*hosts, **options)

    def take(self, frame: bytes, segment: int, at_ns: int) -> None:
        if frame[23] == 112:
            key = (segment, frame[35])
            before = self._last[frame[29]].get(key) if frame[29] in self._last else None
            if before is not None:
                self.longest_ns[key] = max(self.longest_ns.get(key, 0), at_ns - before)
            self.heard += 1
        super().take(frame, segment, at_ns)

    def late_ms(self) -> str:
        """Beyond the interval: p50, p99.9 and max over virtual hosts, in ms."""
        late = sorted(gap / 1e6 - 1e3 * INTERVAL_S for gap in self.longest_ns.values())
        picked = [late[min(len(late) - 1, int(len(late) * q))] for q in (0.5, 0.999, 1.0)]
        p50, p999, most = picked
        return f"p50 {p50:.1f} p99.9 {p999:.1f} max {most:.1f} ms ({len(late)} virtual hosts)"


def segments_of(instances: int) -> int:
    return -(-instances // VHIDS)


def control(lab: Lab, host: str) -> ControlClient:
    return ControlClient(lab.directory / f"{host}.sock")


def counted(lab: Lab, host: str, name: str) -> int:
    # Of one vhid: a host is stopped meanwhile, and the document of all takes seconds.
    status = control(lab, host).request("status", vhid=1)["status"]
    return sum(int(each["counters"].get(name, 0)) for each in status["interfaces"])


@contextmanager
def ready_socket(path: Path) -> Iterator[socket.socket]:
    """The socket that sd_notify writes to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(60)
        yield listener


def measure_start(instances: int) -> None:
    counts = spread(instances, segments_of(instances))
    with Lab("carp-fast-goals", segments=len(counts)) as lab:
        a, b = lab["a"], lab["b"]
        (argv,) = DAEMONS["carp-fast"].commands(a, counts, lab.directory)
        notify = lab.directory / "notify.sock"
        environment = {**os.environ, "NOTIFY_SOCKET": str(notify)}
        with ready_socket(notify) as listener, Gaps(b, a, {}, incoming_only=True) as wire:
            begun_at_ns = time.time_ns()
            process = a.start(argv, log=lab.directory / "log", env=environment)
            while b"READY=1" not in listener.recv(4096):
                pass
            ready_s = (time.time_ns() - begun_at_ns) / 1e9
            keys = {(key.segment, key.vhid) for key in keys_of(counts)}
            wait_for(lambda: wire.first(a).keys() >= keys, 60, "advertisements of all")
            spoke = sorted((at - begun_at_ns) / 1e9 for at in wire.first(a).values())
            print(
                f"start, {instances} virtual hosts: READY after {ready_s:.2f} s; first"
                f" advertisement {spoke[0]:.2f} s (a master-down time is 3 s), last {spoke[-1]:.2f}"
            )
            reload_with_one_change(lab, process, wire, counts)


def reload_with_one_change(lab: Lab, process: Process, wire: Gaps, counts: dict[int, int]) -> None:
    settle(wire)
    print(f"  undisturbed for 5 s: longest interval beyond 1 s: {wire.late_ms()}")
    path = Path(process.argv[-1])
    text = configuration(counts, lab.directory, "a")
    extra = '\n[[virtual_host]]\ninterface = "s1"\nvhid = 255\naddresses = ["10.1.9.9/32"]\n'
    # One range table is replaced by another and one virtual host has another address.
    first = text.index("[[virtual_host]]")
    rest = text[first:]
    if '"s[1-' in rest and 'vhid = "1-255"' in rest:
        last = max(counts)
        head = rest.replace('"s[1-', '"s[2-', 1)
        own = rest.split("\n\n")[0].replace(f'"s[1-{min(last, 255)}]"', '"s1"')
        own = own.replace('"1-255"', '"1-254"').replace("10.{number}", "10.1")
        text = text[:first] + head.rstrip() + "\n\n" + own.strip() + "\n" + extra
    path.write_text(text)
    wire.longest_ns.clear()
    begun = time.monotonic()
    answer = control(lab, "a").request("reload")
    took_s = time.monotonic() - begun
    time.sleep(2)
    print(
        f"  reload with one change: {took_s:.2f} s, the daemon reports {answer['seconds']:.2f} s,"
        f" {len(answer['changed'])} changed, {answer['kept']} kept; longest interval beyond 1 s:"
        f" {wire.late_ms()}"
    )


def measure_take_over(instances: int, deaf: bool) -> None:
    counts = spread(instances, segments_of(instances))
    with (
        Lab("carp-fast-goals", segments=len(counts)) as lab,
        Halted(lab, DAEMONS["carp-fast"], counts) as pair,
    ):
        pair.deaf = deaf
        pair.start()
        used, backup = usage([lab["b"].processes[0].pid]), lab["b"].processes[0].pid
        pair.halt()
        over = pair.fail_over()
        spent = usage([backup]).since(used)
        span = "-" if over.span_s is None else f"{over.span_s:.3f} s"
        lag = (
            "-" if over.lag_s is None else f"{over.lag_s.median:.3f}, at most {over.lag_s.max:.3f}"
        )
        print(
            f"take-over of {instances} at once: {over.adopted} adopted, {over.announced} announced;"
            f" {span} from the first to the last; from its first advertisement until it is"
            f" announced {lag} s; CPU {spent.cpu_ns / 1e9:.2f} s,"
            f" {spent.system_ns / 1e9:.2f} s of it in the kernel"
        )
        print("  notes:", pair.notes or "none")


def settle(wire: Gaps) -> None:
    """The first intervals after a take-over may be short; the next five seconds count."""
    time.sleep(3)
    wire.longest_ns.clear()
    time.sleep(5)


def measure_loss(instances: int, seconds: float) -> None:
    counts = spread(instances, segments_of(instances))
    with (
        Lab("carp-fast-goals", segments=len(counts)) as lab,
        Pair(lab, DAEMONS["carp-fast"], counts) as pair,
    ):
        pair.start()
        begun = standing_still(lab, pair, counts)
        before = status_of(lab)
        end_at = time.monotonic() + seconds
        while (left_s := end_at - time.monotonic()) > 0:
            time.sleep(min(30.0, left_s))
            pair.measure(0.1)  # raises if a daemon has ended
        ended = standing_still(lab, pair, counts)
        sent, heard = (later - earlier for later, earlier in zip(ended, begun, strict=True))
        print(
            f"loss, {instances} virtual hosts, {seconds:g} s: {sent} advertisements sent,"
            f" {heard} heard, {sent - heard} lost; became master {before} -> {status_of(lab)}"
        )
        print("  notes:", pair.notes or "none")


def status_of(lab: Lab) -> list[int]:
    return [counted(lab, host, "became_master") for host in ("a", "b")]


def standing_still(lab: Lab, pair: Pair, counts: dict[int, int]) -> tuple[int, int]:
    """(frames that host a sent, advertisements that host b heard), with no frames under way."""
    (process,) = lab["a"].processes
    process.signal(signal.SIGSTOP)
    try:
        time.sleep(STOPPED_S)
        return frames_sent(pair.a, counts), counted(lab, "b", "advertisements_heard")
    finally:
        process.signal(signal.SIGCONT)


def measure_noise(instances: int, rate: float, seconds: float) -> None:
    """Host a prefers one half of the segments, host b the other."""
    half = -(-instances // (UNKNOWN_VHID - 1))
    counts = spread(2 * instances, 2 * half)
    with Lab("carp-fast-goals", segments=len(counts)) as lab:
        a, b = lab["a"], lab["b"]
        processes = {}
        for host in (a, b):
            (argv,) = DAEMONS["carp-fast"].commands(host, counts, lab.directory)
            path = Path(argv[-1])
            swapped = {True: "b", False: "a"}[host.name == "a"]
            path.write_text(split_configuration(counts, half, lab.directory, host.name, swapped))
            processes[host.name] = host.start(argv, log=lab.directory / f"{host.name}.log")
        wanted = {"virtual_hosts": 2 * instances, "master": instances, "backup": instances}
        wait_for(lambda: both_are(lab, wanted), 60, "each host master of one half")
        time.sleep(3)
        with Gaps(b, a, {}, incoming_only=True) as wire:
            print(f"noise, a process with {instances} masters and {instances} backups:")
            describe(lab, processes["a"], wire, 5.0, "quiet")
            noise = noise_from(lab, rate, seconds + 3)
            time.sleep(1.5)
            describe(lab, processes["a"], wire, seconds, f"{rate:g} bad packets/s")
            code, said = noise.wait(FLOOD_ENDS_S), (lab.directory / "noise.json").read_text()
            if code:
                sys.exit(f"the flood ended with exit code {code}: {said}")
            sent = json.loads(said[said.index("{") :])
            print(f"  {sent['sent']} bad packets, {sent['rate']:.0f} /s really sent")


def both_are(lab: Lab, wanted: dict[str, int]) -> bool:
    try:
        found = [control(lab, host).request("status")["status"]["summary"] for host in ("a", "b")]
    except ControlError:  # it has not opened its socket yet
        return False
    return all(wanted.items() <= summary.items() for summary in found)


def split_configuration(
    counts: dict[int, int], half: int, directory: Path, mine: str, other: str
) -> str:
    first = {k: count for k, count in counts.items() if k <= half}
    second = {k: count for k, count in counts.items() if k > half}
    text = configuration(first, directory, mine)
    rest = configuration(second, directory, other)
    skew = next(line for line in rest.splitlines() if line.startswith("advskew"))
    tables = rest[rest.index("[[virtual_host]]") :]
    return text + "\n" + tables.replace("addresses", skew + "\naddresses")


def describe(lab: Lab, process: Process, wire: Gaps, seconds: float, what: str) -> None:
    masters, before = status_of(lab), rejected(lab)
    held = memory([process.pid]).rss_bytes
    used, begun = usage([process.pid]), time.monotonic()
    wire.longest_ns.clear()
    time.sleep(seconds)
    spent, elapsed_s = usage([process.pid]).since(used), time.monotonic() - begun
    late = wire.late_ms()
    grown = memory([process.pid]).rss_bytes - held
    print(
        f"  {what}: CPU {spent.cpu_ns / elapsed_s / 1e7:.1f} % of a core, RSS"
        f" {held / MIB:.1f} {grown / MIB:+.2f} MiB, became master {masters} -> {status_of(lab)};"
        f" longest interval beyond 1 s: {late}"
    )
    counts = {word: count - before[word] for word, count in rejected(lab).items()}
    if any(counts.values()):
        print("    rejected:", ", ".join(f"{n} {word}" for word, n in counts.items() if n))


def rejected(lab: Lab) -> dict[str, int]:
    """By verdict, over all interfaces of host a."""
    return {word: counted(lab, "a", word) for word in VERDICT_WORDS if word != "ok"}


def noise_from(lab: Lab, rate: float, seconds: float) -> Process:
    """A flood from host b of bad digests and VRRP, half of each with an unknown vhid."""
    argv = [sys.executable, "-m", "carp_fast", "flood", "-i", interface_name(1)]
    argv += ["--vhid", f"1,{UNKNOWN_VHID}", "--address", "10.9.9.9", "--mix", "bad_auth=1,vrrp=1"]
    argv += ["--rate", f"{rate:g}", "--duration", f"{seconds:g}", "--json"]
    return lab["b"].start(argv, log=lab.directory / "noise.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("start", "loss", "noise", "takeover"))
    parser.add_argument("--instances", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rate", type=float, default=300_000)
    parser.add_argument("--deaf", action="store_true")
    options = parser.parse_args()
    print(f"load average {' '.join(f'{value:.2f}' for value in os.getloadavg())}", file=sys.stderr)
    if options.what == "start":
        measure_start(options.instances or 65_280)
    elif options.what == "loss":
        measure_loss(options.instances or 65_280, options.seconds or 600)
    elif options.what == "takeover":
        measure_take_over(options.instances or 4_080, options.deaf)
    else:
        measure_noise(options.instances or 4_080, options.rate, options.seconds or 20)


if __name__ == "__main__":
    main()
