#!/usr/bin/env python3
"""The goals beside the floor: rows of a table, each measured several times, median and range.

  sudo PYTHONPATH=. .venv/bin/python benches/goal_rows.py --rows tax,steady-255 --results FILE
  sudo PYTHONPATH=. .venv/bin/python benches/goal_rows.py --results FILE --rows ""  # the table

Every repeat is a line of FILE, so that rows can be measured one at a time, while the machine is
quiet; the table is made of all lines. Thread CPU has the machine's time that is not idle beside it,
in the same window: what is moved to the kernel's threads shows there. Both hosts, the floor's too,
are of one run.

steady-N     N virtual hosts, 255 on an interface: CPU of both sides over the floor's, ns of CPU for
             an advertisement heard, memory; then the master is killed: lag, last first announcement
one-N        N IPv4 addresses on one interface, 255 virtual hosts: span of the take-over
ipv6-N       N IPv6 addresses on one interface: how long a request about a link waited for RTNL, how
             late advertisements of another interface were meanwhile, the last first announcement
late-N       N virtual hosts: how late advertisements are
tax          of a packet that does not concern the daemon

--daemon: names of carp_fast.bench.contenders, carp-fast unless given.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benches.goals import Gaps, segments_of, settle
from carp_fast.bench import floor, tax
from carp_fast.bench.contenders import DAEMONS, Daemon
from carp_fast.bench.run import Pair
from carp_fast.bench.usage import machine
from carp_fast.lab.fleet import spread
from carp_fast.lab.lab import Host, Lab, interface_name, wait_for
from carp_fast.lab.witness import AddressWatch, Identity, WireWatch
from carp_fast.net.kernel import SO_RCVBUFFORCE, SO_TIMESTAMPNS

LAB = "carp-fast-rows"
VHIDS = 255
WITHIN_S = 60.0
MIB = 1 << 20
ROWS = ("steady-65280", "steady-4080", "steady-255", "one-16320", "ipv6-4080", "late-4080", "tax")
HEADER = ("ROW", "DAEMON", "FIGURE", "REPEATS", "MEDIAN", "LEAST", "MOST")
ETH_P_IPV6, NEXT_ICMPV6, NEIGHBOUR_ADVERTISEMENT = 0x86DD, 58, 136

Figures = dict[str, float]


def measure_steady(daemon: Daemon, instances: int, window_s: float) -> Figures:
    counts = spread(instances, segments_of(instances))
    with Lab(LAB, segments=len(counts)) as lab, Pair(lab, daemon, counts) as pair:
        pair.start()
        begun = machine()
        a, b, elapsed_ns = pair.measure(window_s)
        busy = machine().since(begun).busy_ns / elapsed_ns
        over = pair.fail_over()
        pair.kill_all()
        begun, begun_ns = machine(), time.monotonic_ns()
        price = floor.measure(lab["a"], lab["b"], list(counts), max(a.frames_per_s, 1.0), window_s)
        floor_busy = machine().since(begun).busy_ns / (time.monotonic_ns() - begun_ns)
        notes = "; ".join(pair.notes)
    if notes:
        print(f"  {daemon.name} {instances}: {notes}", file=sys.stderr)
    lag, announced = over.lag_s, over.announced_s
    both = a.cpu_percent + b.cpu_percent
    return {
        "both / floor": both / (price.send_cpu_percent + price.receive_cpu_percent),
        "master, % of a core": a.cpu_percent,
        "backup, % of a core": b.cpu_percent,
        "floor, % of a core": price.send_cpu_percent + price.receive_cpu_percent,
        "machine, % of a core": 100 * busy,
        "machine with the floor, % of a core": 100 * floor_busy,
        "heard and verified, ns": 1e7 * b.cpu_percent / max(a.frames_per_s, 1.0),
        "master RSS, MiB": a.rss_bytes / MIB,
        "backup RSS, MiB": b.rss_bytes / MIB,
        **({"lag median, s": lag.median, "lag max, s": lag.max} if lag else {}),
        **({"last first announcement, s": announced.max} if announced else {}),
    }


def write(directory: Path, host: Host, daemon: Daemon, tables: str) -> list[str]:
    """Writes the configuration of a host, with the daemon's paths and these virtual hosts; returns
    the command line.
    """
    (argv,) = daemon.commands(host, {1: 1}, directory)
    path = Path(argv[-1])
    head, _, _ = path.read_text().partition("[[virtual_host]]")
    path.write_text(f"{head}\n{tables}")
    return argv


def measure_one(daemon: Daemon, addresses: int, window_s: float) -> Figures:
    """From the first address on host b to the last one, by the kernel's notifications."""
    texts = [f"10.1.{8 + n // 250}.{1 + n % 250}" for n in range(addresses)]
    identities: dict[bytes, Identity] = {
        socket.inet_aton(text): (1, number) for number, text in enumerate(texts)
    }
    with Lab(LAB, segments=1) as lab:
        a, b = lab.hosts
        with AddressWatch(lab.hosts, identities) as watch:
            processes = {}
            for host in (a, b):
                argv = write(lab.directory, host, daemon, tables_of(texts, 16))
                processes[host.name] = host.start(argv, log=lab.directory / f"{host.name}.log")
                if host is a:
                    watch.wait_until(
                        lambda: watch.count(a) == addresses, WITHIN_S, "host a holds all"
                    )
            time.sleep(window_s)
            with WireWatch(b, a, identities) as wire:
                begun, killed_ns = machine(), time.time_ns()
                processes["a"].kill()
                watch.wait_until(lambda: watch.count(b) == addresses, WITHIN_S, "host b holds all")
                busy_s = machine().since(begun).busy_ns / 1e9
                watch.wait_until(
                    lambda: len(wire.announced()) == addresses, WITHIN_S, "all announced"
                )
                announced = max(wire.announced().values())
            held = sorted(watch.held(b).values())
    return {
        "span, s": (held[-1] - held[0]) / 1e9,
        "take-over to the last, s": (held[-1] - killed_ns) / 1e9,
        "machine until then, s of a core": busy_s,
        "last first announcement, s": (announced - killed_ns) / 1e9,
    }


def tables_of(texts: list[str], prefix: int) -> str:
    """One table a virtual host of s1, 255 of them at most: the first address signed, the others
    not.
    """
    share = -(-len(texts) // VHIDS)
    lines = []
    for vhid, at in enumerate(range(0, len(texts), share), 1):
        mine = [f"{text}/{prefix}" for text in texts[at : at + share]]
        lines += [
            "[[virtual_host]]", 'interface = "s1"', f"vhid = {vhid}",
            f"addresses = {json.dumps(mine[:1])}", f"unsigned_addresses = {json.dumps(mine[1:])}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def measure_ipv6(daemon: Daemon, addresses: int, window_s: float) -> Figures:
    """A take-over while RTNL is waited for, and one that nothing else disturbs: what waits for the
    lock takes processor time from the pump.
    """
    waited = take_over6(daemon, addresses, window_s, waiting=True)
    return take_over6(daemon, addresses, window_s, waiting=False) | waited


def take_over6(daemon: Daemon, addresses: int, window_s: float, *, waiting: bool) -> Figures:
    """Host b takes over s1 while it is MASTER of s2, whose advertisements host a's kernel gets."""
    texts = [f"2001:db8:1::{1 + n:x}" for n in range(addresses)]
    other = '[[virtual_host]]\ninterface = "s2"\nvhid = "1-255"\naddresses = ["10.2.1.{vhid}/16"]\n'
    other += "advskew = 0\n"
    waits_s: list[float] = []
    with Lab(LAB, segments=2, ipv6=True) as lab:
        a, b = lab.hosts
        tables = {"a": tables_of(texts, 64), "b": tables_of(texts, 64) + other}
        processes = {}
        for host in (a, b):
            argv = write(lab.directory, host, daemon, tables[host.name])
            processes[host.name] = host.start(argv, log=lab.directory / f"{host.name}.log")
            if host is a:
                wait_for(lambda: held6(a) == addresses, WITHIN_S, "host a holds all")
        with Gaps(a, b, {}, incoming_only=True) as wire, announcements6(a) as heard:
            wait_for(lambda: len(wire.last(b)) == VHIDS, WITHIN_S, "host b MASTER of s2")
            settle(wire)
            before = late_ms(wire)
            wire.longest_ns.clear()
            with waiting_for_rtnl(lab, b, waits_s) if waiting else nullcontext():
                begun, killed_ns = machine(), time.time_ns()
                processes["a"].kill()
                first_ns: dict[bytes, int] = {}
                wait_for(
                    lambda: len(take_announcements(heard, first_ns)) >= addresses,
                    WITHIN_S,
                    "all announced",
                )
                busy_s = machine().since(begun).busy_ns / 1e9
            time.sleep(window_s)
            after = late_ms(wire)
    if waiting:
        return {"RTNL waited for at most, ms": waits_s[0] * 1e3}
    return {
        "late before p99.9, ms": before[0],
        "late p99.9, ms": after[0],
        "late max, ms": after[1],
        "machine until then, s of a core": busy_s,
        "last first announcement, s": (max(first_ns.values()) - killed_ns) / 1e9,
    }


def held6(host: Host) -> int:
    """How many virtual IPv6 addresses the interfaces of a host have."""
    return host.run(["ip", "-6", "-o", "addr", "show", "dev", "s1"]).stdout.count("2001:db8:1::")


def late_ms(wire: Gaps) -> tuple[float, float]:
    """(p99.9, max) over virtual hosts of the longest interval beyond a second."""
    late = sorted(gap / 1e6 - 1e3 for gap in wire.longest_ns.values())
    return late[min(len(late) - 1, int(len(late) * 0.999))], late[-1]


@contextmanager
def announcements6(host: Host) -> Iterator[socket.socket]:
    """A packet socket for IPv6 that reaches s1 of a host."""
    with host.inside():
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        listener = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_IPV6))
    with listener:
        listener.bind((interface_name(1), ETH_P_IPV6))
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        listener.setblocking(False)
        yield listener


def take_announcements(listener: socket.socket, first_ns: dict[bytes, int]) -> dict[bytes, int]:
    """Reads what has come; adds when each target was first advertised, and returns that."""
    while True:
        try:
            frame, ancillary, _, _ = listener.recvmsg(128, 64)
        except BlockingIOError:
            return first_ns
        if len(frame) >= 78 and frame[20] == NEXT_ICMPV6 and frame[54] == NEIGHBOUR_ADVERTISEMENT:
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            first_ns.setdefault(frame[62:78], seconds * 1_000_000_000 + nanoseconds)


@contextmanager
def waiting_for_rtnl(lab: Lab, host: Host, waits_s: list[float]) -> Iterator[None]:
    """Appends the longest wait of a request about a link of the host meanwhile."""
    log = lab.directory / f"rtnl-{len(waits_s)}.log"
    script = Path(__file__).with_name("rtnl.py")
    probe = host.start([sys.executable, script], log=log, stdin=subprocess.PIPE)
    yield
    assert probe.stdin is not None
    probe.stdin.close()
    probe.wait(WITHIN_S)
    waits_s.append(float(log.read_text().split()[0]))


def measure_late(daemon: Daemon, instances: int, window_s: float) -> Figures:
    counts = spread(instances, segments_of(instances))
    with Lab(LAB, segments=len(counts)) as lab, Pair(lab, daemon, counts) as pair:
        pair.start()
        with Gaps(pair.b, pair.a, {}, incoming_only=True) as wire:
            settle(wire)
            wire.longest_ns.clear()
            time.sleep(window_s)
            p999, most = late_ms(wire)
    return {"late p99.9, ms": p999, "late max, ms": most}


def measure_tax(daemon: Daemon, _: int, window_s: float) -> Figures:
    found = tax.measure(LAB, daemon, lambda phase: None)
    return {
        "tax, ns": found.tax_ns,
        "noise, ns": found.still_ns,
        "a packet without it, ns": found.free_ns,
    }


MEASURES: dict[str, Callable[[Daemon, int, float], Figures]] = {
    "steady": measure_steady,
    "one": measure_one,
    "ipv6": measure_ipv6,
    "late": measure_late,
    "tax": measure_tax,
}


def table(path: Path) -> list[tuple[str, ...]]:
    """The rows of the table, in the order of the file: median and range of each figure."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        for figure, value in entry["figures"].items():
            found.setdefault((entry["row"], entry["daemon"], figure), []).append(value)
    return [
        (*key, str(len(values)), *map(shown, (statistics.median(values), min(values), max(values))))
        for key, values in found.items()
    ]


def shown(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    for cells in (HEADER, *rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)))


def measure_of(row: str) -> tuple[Callable[[Daemon, int, float], Figures], int]:
    """The measurement of a row and its number. Raises ValueError for an unknown row."""
    name, _, number = row.partition("-")
    if name not in MEASURES or not (number.isdecimal() or (name == "tax" and not number)):
        raise ValueError(f"row {row!r}: as {', '.join(ROWS)}; the numbers may differ")
    return MEASURES[name], int(number or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--daemon", default="carp-fast")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--window", type=float, default=10.0)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    try:
        wanted = [(row, *measure_of(row)) for row in options.rows.split(",") if row]
    except ValueError as reason:
        parser.error(str(reason))
    for _ in range(options.repeats):
        for row, measure, number in wanted:
            for name in options.daemon.split(","):
                load = f"{os.getloadavg()[0]:.2f}"
                print(f"{row}, {name}; load average {load}", file=sys.stderr)
                figures = measure(DAEMONS[name], number, options.window)
                entry = {"row": row, "daemon": name, "load": load, "figures": figures}
                with options.results.open("a") as results:
                    results.write(json.dumps(entry) + "\n")
    print_table(table(options.results))


if __name__ == "__main__":
    main()
