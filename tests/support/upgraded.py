"""An upgrade between two stand-ins on one loop: the phases are real, what they do is noted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from carp_fast.daemon.process import StartError
from carp_fast.daemon.succeeding import Heir, Succession
from carp_fast.daemon.upgrade_messages import HEAD, HOSTS, UpgradeError
from carp_fast.daemon.upgrading import Predecessor, Successor
from carp_fast.privileged.start import CHANNEL_VARIABLE
from carp_fast.programs.channel import close_all
from carp_fast.programs.memory import Sealed, sealed

MOST = 1 << 20


class Former(Predecessor):
    """Notes what it is asked to do in `did`; `fails` maps one of these words to an exception."""

    def __init__(self, fails: Mapping[str, Exception] | None = None) -> None:
        self.did: list[str] = []
        self.successor: tuple[int, str] | None = None
        self._fails = fails or {}

    def note(self, word: str) -> None:
        self.did.append(word)
        if word in self._fails:
            raise self._fails[word]

    def check(self) -> None:
        self.note("check")

    def running(self) -> int:
        self.note("running")
        return sealed("running", [b"what runs"])

    async def freeze(self) -> None:
        self.note("freeze")

    def state(self) -> list[tuple[str, int]]:
        self.note("state")
        return [(HEAD, sealed("head", [b"head"])), (HOSTS, sealed("hosts", [b"hosts"]))]

    async def resume(self) -> None:
        self.note("resume")

    def on_committed(self, successor: int, version: str) -> None:
        self.did.append("committed")
        self.successor = successor, version


class Latter(Heir):
    """A successor's part: notes what it has assumed."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.assumed: dict[str, bytes] = {}
        self._fails = fails

    async def assume(self, state: Mapping[str, int]) -> None:
        if self._fails is not None:
            close_all(state.values())
            raise self._fails
        for name, descriptor in state.items():
            with Sealed(descriptor, MOST) as memory:
                self.assumed[name] = bytes(memory.view)


class Task(Successor):
    """A successor that is a task of this loop: `live` gets its end of the channel."""

    def __init__(self, live: Callable[[Succession], Any]) -> None:
        self.pid = 4711
        self.killed = False
        self.error: BaseException | None = None
        self._live = live
        self.task: asyncio.Task[None] | None = None

    async def start(self, descriptor: int) -> Successor:
        succession = Succession.from_environment({CHANNEL_VARIABLE: str(os.dup(descriptor))})
        assert succession is not None
        self.task = asyncio.create_task(self._run(succession))
        self.task.add_done_callback(lambda _: succession.close())  # also if it never began
        return self

    async def _run(self, succession: Succession) -> None:
        try:
            await self._live(succession)
        except (StartError, UpgradeError) as error:
            self.error = error
        finally:
            succession.close()

    def kill(self) -> None:
        self.killed = True
        if self.task is not None:
            self.task.cancel()

    async def ended(self) -> str:
        assert self.task is not None
        await asyncio.wait([self.task])
        return "exit status 1"


def living(heir: Heir, running: list[bytes] | None = None) -> Callable[[Succession], Any]:
    """The life of a successor that does everything in order."""

    async def live(succession: Succession) -> None:
        with succession.running() as memory:
            if running is not None:
                running.append(bytes(memory.view))
        await succession.succeed(heir)

    return live
