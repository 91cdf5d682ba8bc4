"""Processes that others left behind: where the daemon is process 1, it is their parent and reaps.

In a container it may be. A process that a hook left in the background becomes a child of process 1
when the hook ends, and stays a zombie once it has ended, until its parent asks for its exit status.
Must not know hooks: exit statuses of the daemon's own children are left to those who wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

PROC = Path("/proc")
LOOK_EVERY_S = 5.0  # whoever waits for a child of ours takes its exit status sooner


def zombies(parent: int) -> set[int]:
    """The ended children of a process whose exit statuses nobody has taken."""
    found = set()
    for directory in PROC.iterdir():
        if not directory.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has gone meanwhile
            # The name before the last parenthesis may have spaces and parentheses of its own.
            state, owner = (directory / "stat").read_text("latin-1").rpartition(")")[2].split()[:2]
            if state == "Z" and int(owner) == parent:
                found.add(int(directory.name))
    return found


async def reap_orphans(every_s: float = LOOK_EVERY_S) -> None:
    """Reaps, without end, the zombies that one look finds and the next one finds again."""
    before: set[int] = set()
    while True:
        await asyncio.sleep(every_s)
        now = zombies(os.getpid())
        for pid in before & now:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
                logger.debug("reaped process %d, which another one left behind", pid)
        before = now
