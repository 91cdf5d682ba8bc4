"""Whether there is room for a second process beside this one: memory limits, looked at before.

Must not know what an upgrade is.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
# What a process needs besides as much as this one has: what the other one reads to prepare.
SPARE_BYTES = 32 * MIB
CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc/self")


class Limit(NamedTuple):
    """A limit of memory: its name, and what is left of it, in bytes."""

    name: str
    left: int


def shortage(proc: Path = PROC, cgroups: Path = CGROUPS) -> str | None:
    """Why a second process like this one does not fit into memory; None: no limit says so."""
    try:
        size, resident = (int(text) for text in (proc / "statm").read_text().split()[:2])
    except (OSError, ValueError):
        return None
    page = resource.getpagesize()
    needed = resident * page + SPARE_BYTES
    limits = [*_address_space(size * page, resident * page), *_cgroup_limits(proc, cgroups)]
    for limit in limits:
        if limit.left < needed:
            left, wanted = f"{limit.left // MIB:,} MiB", f"{needed / MIB:,.0f} MiB"
            return f"{limit.name} leaves {left}, and a second process needs about {wanted}"
    return None


def _address_space(size: int, resident: int) -> Iterator[Limit]:
    """RLIMIT_AS, which is of each process: the successor also maps what is passed on."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        # As much as this one has, of which the mapped state is a part at most.
        yield Limit(f"RLIMIT_AS = {soft // MIB:,} MiB", soft - size + resident)


def _cgroup_limits(proc: Path, cgroups: Path) -> Iterator[Limit]:
    """memory.max of this process's cgroup and of those above it (version 2)."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return
    paths = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    if not paths:
        return
    group = cgroups / paths[0].lstrip("/")
    while True:
        limit = _limit_of(group)
        if limit is not None:
            yield limit
        if group == cgroups or cgroups not in group.parents:
            return
        group = group.parent


def _limit_of(group: Path) -> Limit | None:
    try:
        most = (group / "memory.max").read_text().strip()
        if most == "max":
            return None
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Pages of files that nothing uses at the moment go first when there is need.
        left = int(most) - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
    return Limit(f"memory.max = {int(most) // MIB:,} MiB of {group}", left)
