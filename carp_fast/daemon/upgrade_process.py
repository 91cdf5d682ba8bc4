"""The process of a successor: this program again, as it is installed now.

It gets the command line, the directory, the standard descriptors and the environment that this
process was started with. Must not know what it does then.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from carp_fast.daemon.upgrade_messages import CHANNEL_VARIABLE, UpgradeError
from carp_fast.daemon.upgrading import Successor
from carp_fast.programs.spawning import ChildError, ending, spawn_again


def command_line() -> list[str]:
    """The command line that starts this program."""
    return [sys.executable or sys.orig_argv[0], *sys.orig_argv[1:]]


class SuccessorProcess(Successor):
    """A successor that is a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def kill(self) -> None:
        """Sends SIGKILL: it has changed nothing, so there is nothing to undo."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    async def ended(self) -> str:
        """Waits for its end; returns how it ended, in words."""
        if self._process.poll() is None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            watched = os.pidfd_open(self.pid)
            loop.add_reader(watched, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(watched)
                os.close(watched)
        return ending(self._process.wait())


async def start_successor(
    descriptor: int,
    environment: Mapping[str, str],
    arguments: Sequence[str] | None = None,
) -> SuccessorProcess:
    """Starts it with this descriptor, its end of the channel. Raises UpgradeError.

    `environment`: besides this process's own; `arguments`: None: command_line().
    """
    variables = {**os.environ, **environment, CHANNEL_VARIABLE: str(descriptor)}
    try:
        process = spawn_again(arguments or command_line(), variables, (descriptor,))
    except ChildError as error:
        raise UpgradeError(str(error)) from error
    return SuccessorProcess(process)
