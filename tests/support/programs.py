"""Programs that the daemon runs, on a loop: scripts, what holds them up, and their end."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop

from carp_fast.programs.children import Child

DEADLINE_S = 60.0


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


class Deaf:
    """Has SIGKILL do nothing to children, as while they wait for a disk; its end kills them.

    `steps`: "kill" and "wait", in their order.
    """

    def __init__(self, reap_s: float) -> None:
        self.steps: list[str] = []
        self._killed: list[Child] = []
        self._reap_s = reap_s

    def __enter__(self) -> Self:
        wait = subprocess.Popen.wait

        def kill(child: Child, number: signal.Signals) -> None:
            self.steps.append("kill")
            self._killed.append(child)

        def waits(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
            self.steps.append("wait")
            return wait(process, timeout)

        self._patched = pytest.MonkeyPatch()
        self._patched.setattr(Child, "kill", kill)
        self._patched.setattr(subprocess.Popen, "wait", waits)
        self._patched.setattr("carp_fast.programs.launching.REAP_S", self._reap_s)
        return self

    def __exit__(self, *raised: object) -> None:
        self._patched.undo()
        for child in self._killed:
            child.kill(signal.SIGKILL)
            child._process.wait(DEADLINE_S)


class Gate:
    """A named pipe: what opens it for reading waits until the test opens it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    async def open(self) -> None:
        """Lets one reader go on; waits until there is one."""
        await asyncio.get_running_loop().run_in_executor(None, self.path.write_text, "go\n")
