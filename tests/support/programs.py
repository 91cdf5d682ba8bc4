"""Programs that the daemon runs, on a loop: scripts, what holds them up, and their end."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

DEADLINE_S = 20.0


def run(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await scene

    uvloop.run(bounded())


async def until(holds: Callable[[], bool]) -> None:
    """Turns the loop until it holds; run() bounds it."""
    while not holds():
        await asyncio.sleep(0)


def script(path: Path, body: str, interpreter: str = "/bin/sh") -> str:
    path.write_text(f"#!{interpreter}\n{body}\n")
    path.chmod(0o755)
    return str(path)


def assert_gone(pid: int) -> None:
    """Waits for the end of a process that is no child of ours."""
    try:
        pid_fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(pid_fd)
    assert poll.poll(DEADLINE_S * 1000), f"process {pid} lives"
    os.close(pid_fd)


class Gate:
    """A named pipe: what opens it for reading waits until the test opens it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    async def open(self) -> None:
        """Lets one reader go on; waits until there is one."""
        await asyncio.get_running_loop().run_in_executor(None, self.path.write_text, "go\n")
