"""The process of a successor: this program again, as it is installed now.

It gets the command line, the directory, the standard descriptors and the environment that this
process was started with. A process that is not root any more has the privileged helper start it.
Must not know what it does then.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from carp_fast.daemon.upgrade_messages import UpgradeError
from carp_fast.daemon.upgrading import Start, Successor
from carp_fast.privileged.start import CHANNEL_VARIABLE, command_line
from carp_fast.programs.spawning import ChildError, ending, spawn_again

if TYPE_CHECKING:
    from carp_fast.daemon.privileges import Privileges
    from carp_fast.privileged.client import PrivilegedHelper


class SuccessorProcess:
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


def starter(
    privileges: Privileges, helper: PrivilegedHelper | None, environment: Mapping[str, str]
) -> Start:
    """How this process starts a successor; `environment`: see start_successor()."""
    if privileges.user is None or helper is None:
        return partial(start_successor, environment=environment)
    return partial(start_by_helper, helper)


async def start_by_helper(helper: PrivilegedHelper, descriptor: int) -> Successor:
    """Has the helper start it, as root, with this descriptor. Raises UpgradeError."""
    try:
        return await helper.succeed(descriptor)
    except ChildError as error:
        raise UpgradeError(f"cannot start a successor: {error.reason}") from error
    except OSError as error:
        raise UpgradeError(f"cannot start a successor: {error.strerror}") from error


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
