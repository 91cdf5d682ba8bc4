"""What processes and the machine use, as the kernel counts it in /proc.

CPU is the run time of every thread from schedstat, in ns; its split into user and system, and the
softirq time of the machine, are in the clock ticks of stat. Must not know what the processes are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Totals of a group of processes since each began, or the difference of two such totals."""

    cpu_ns: int
    user_ns: int
    system_ns: int
    switches: int  # context switches, voluntary or not

    def since(self, earlier: Usage) -> Usage:
        """What was used between two readings."""
        return Usage(*(now - then for now, then in zip(self, earlier, strict=True)))


class Memory(NamedTuple):
    """Memory of a group of processes. RSS counts shared pages for each, PSS their parts."""

    rss_bytes: int
    pss_bytes: int


class Machine(NamedTuple):
    """CPU time of the whole machine since it started, ns over all cores."""

    busy_ns: int
    softirq_ns: int
    stolen_ns: int  # what the hypervisor gave to others; not busy

    def since(self, earlier: Machine) -> Machine:
        """What passed between two readings."""
        return Machine(*(now - then for now, then in zip(self, earlier, strict=True)))


def descendants(roots: Iterable[int], proc: Path = PROC) -> list[int]:
    """`roots` and all their descendants, parents before children, from one reading."""
    children: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat_fields(entry)[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = list(roots)
    for pid in found:  # grows meanwhile
        found += children.get(pid, [])
    return found


def usage(pids: Iterable[int], proc: Path = PROC) -> Usage:
    """What these processes have used; one that has ended counts nothing."""
    total = Usage(0, 0, 0, 0)
    for pid in pids:
        try:
            one = _usage_of(proc / str(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
        total = Usage(*(a + b for a, b in zip(total, one, strict=True)))
    return total


def memory(pids: Iterable[int], proc: Path = PROC) -> Memory:
    """What these processes hold; one that has ended holds nothing."""
    total = {"Rss": 0, "Pss": 0}
    for pid in pids:
        try:
            rollup = (proc / str(pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in rollup.splitlines():
            name, _, rest = line.partition(":")
            if name in total:
                total[name] += int(rest.split()[0]) * 1024
    return Memory(total["Rss"], total["Pss"])


def machine(proc: Path = PROC) -> Machine:
    """The CPU time of the machine. Busy means neither idle nor waiting for a disk.

    Busy is what is left of the time that passed: the kernel measures how long it is idle, but
    samples at its ticks what else it does, which misses work that begins just after each tick.
    """
    with open(proc / "stat") as lines:
        fields = [line.split() for line in lines if line.startswith("cpu")]
    ticks = [int(field) for field in fields[0][1:9]]
    idle, stolen = ticks[3] + ticks[4], ticks[7]
    passed_ns = time.monotonic_ns() * (len(fields) - 1)
    return Machine(passed_ns - _ticks_ns(idle + stolen), _ticks_ns(ticks[6]), _ticks_ns(stolen))


def processor(proc: Path = PROC) -> str:
    """The name of the CPU, or "unknown"."""
    for line in (proc / "cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def _usage_of(process: Path) -> Usage:
    fields = _stat_fields(process)
    cpu_ns = switches = 0
    for task in (process / "task").iterdir():
        try:
            cpu_ns += int((task / "schedstat").read_text().split()[0])
            for line in (task / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    switches += int(line.split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has ended
    return Usage(cpu_ns, _ticks_ns(int(fields[11])), _ticks_ns(int(fields[12])), switches)


def _stat_fields(process: Path) -> list[str]:
    """The fields after the name, which may contain blanks and brackets: state is 0, parent 1."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def _ticks_ns(ticks: int) -> int:
    return ticks * 1_000_000_000 // TICKS_A_SECOND
