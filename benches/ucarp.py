#!/usr/bin/env python3
"""CPU and memory of `carp-fast ucarp` and of ucarp, one of each and a hundred.

Two hosts on one segment. For each program the first host is master, the second is backup, with the
same command lines; then `carp-fast run` does the work of the hundred. CPU is that of a host's
processes in the time measured, memory theirs at its end: RSS counts shared pages in each process,
PSS divides them by the number of processes.

  sudo PYTHONPATH=. .venv/bin/python benches/ucarp.py [--seconds 20] [--count 100]
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from carp_fast.lab.lab import Host, Lab, Process, virtual_address, wait_for

ADVSKEW = {"a": 0, "b": 100}
START_S = 90.0
COMMAND = [sys.executable, "-m", "carp_fast"]


def arguments(host: Host, vhid: int) -> list[str]:
    return [
        *("-z", "-n", "-i", "s1", "-s", host.address(1), "-v", str(vhid), "-p", "bench"),
        *("-a", virtual_address(1, vhid), "-k", str(ADVSKEW[host.name]), "-f", "none"),
        *("-u", "/bin/true", "-d", "/bin/true"),
    ]


def start(program: Sequence[str], host: Host, vhids: range, directory: Path) -> list[Process]:
    return [
        host.start(
            [*program, *arguments(host, vhid)],
            log=directory / f"{Path(program[0]).name}-{host.name}-{vhid}",
        )
        for vhid in vhids
    ]


def start_run(host: Host, vhids: range, directory: Path) -> list[Process]:
    """One `carp-fast run` for all, with the configuration that import writes."""
    lines = directory / f"lines-{host.name}"
    lines.write_text("\n".join(f"ucarp {' '.join(arguments(host, vhid))}" for vhid in vhids))
    path = directory / f"{host.name}.toml"
    host.run([*COMMAND, "import", lines, "-o", path])
    daemon = f'[daemon]\ncontrol_socket = "{path}.sock"\nstate_directory = "{path}.state"\n'
    path.write_text(daemon + path.read_text())
    return [host.start([*COMMAND, "run", "-c", path], log=directory / f"run-{host.name}")]


def pss_bytes(process: Process) -> int:
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {process.pid} has no memory")


def measure(name: str, count: int, begin: Callable[[Host], list[Process]], seconds: float) -> None:
    """Starts host a, then b, waits until both are settled, and prints a line for each."""
    with Lab("carp-fast-bench-ucarp", segments=1) as lab:
        sides: dict[str, list[Process]] = {}
        for host in lab.hosts:
            begun = time.monotonic()
            sides[host.name] = begin(host)
            started = (sides[host.name], host.name, count)
            wait_for(partial(settled, *started), START_S, f"{name}: host {host.name} started")
            took_s = time.monotonic() - begun
            print(f"{name:28} host {host.name} started in {took_s:.2f} s")
        before = {side: sum(p.cpu_ns() for p in each) for side, each in sides.items()}
        time.sleep(seconds)
        for side, processes in sides.items():
            used_ns = sum(process.cpu_ns() for process in processes) - before[side]
            rss = sum(process.rss_bytes() for process in processes) / 2**20
            pss = sum(map(pss_bytes, processes)) / 2**20
            role = "master" if side == "a" else "backup"
            print(
                f"{name:28} {role}: CPU {used_ns / seconds / 1e7:6.2f} %  RSS {rss:7.1f} MiB  "
                f"PSS {pss:7.1f} MiB  {len(processes)} processes"
            )


def settled(processes: Sequence[Process], name: str, count: int) -> bool:
    """Every virtual host is reported to take part, on the first host as master."""
    state = "MASTER" if name == "a" else "BACKUP"
    said = re.compile(rf"(Switching to state: |-> ){state}")
    return sum(len(said.findall(process.output())) for process in processes) >= count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    unbuffered, ours = ["stdbuf", "-oL", "ucarp"], [*COMMAND, "ucarp"]
    with Lab("carp-fast-bench-files", segments=1) as files:
        for count in (1, options.count):
            vhids = range(1, count + 1)
            for name, program in (("ucarp", unbuffered), ("carp-fast ucarp", ours)):
                where = files.directory / f"{name}-{count}"
                where.mkdir()
                measure(
                    f"{count} x {name}",
                    count,
                    partial(start, program, vhids=vhids, directory=where),
                    options.seconds,
                )
            where = files.directory / f"run-{count}"
            where.mkdir()
            measure(
                f"carp-fast run of {count}",
                count,
                partial(start_run, vhids=vhids, directory=where),
                options.seconds,
            )


if __name__ == "__main__":
    main()
