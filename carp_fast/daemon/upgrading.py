"""The phases of an upgrade on the side of the daemon that is succeeded.

prepare: a successor's process reads and checks everything, while this one goes on. freeze: this one
stands still. transfer: it passes on its state. commit: its last message, after which it never sends
again. Until then every failure ends the successor, and this one goes on. Must not know how any step
is carried out: that is the business of a `Predecessor`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

from carp_fast import __version__
from carp_fast.daemon import upgrade_messages as messages
from carp_fast.daemon.upgrade_messages import (
    FROM_NEW,
    PROTOCOL,
    Assumed,
    Commit,
    Failed,
    Prepare,
    Ready,
    Transfer,
    UpgradeError,
)
from carp_fast.programs.channel import (
    Channel,
    ChannelEnded,
    ChannelError,
    ChannelTimeout,
    Message,
    close_all,
    pair,
)

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer", bound=Message)

ENDING_S = 1.0  # for the exit status of a successor that has closed its channel


class Predecessor(ABC):
    """The interface: what the daemon that is succeeded does in each phase."""

    @abstractmethod
    def check(self) -> None:
        """Raises UpgradeError where it is known that an upgrade cannot succeed."""

    @abstractmethod
    def running(self) -> int:
        """A descriptor of sealed memory with what runs, which must not change until the end."""

    @abstractmethod
    async def freeze(self) -> None:
        """Stands still: sends and reads nothing, and nothing is under way. Raises UpgradeError."""

    @abstractmethod
    def state(self) -> list[tuple[str, int]]:
        """(what it is, descriptor) of the whole state; the descriptors are the caller's."""

    @abstractmethod
    async def resume(self) -> None:
        """Goes on, as before freeze(), whatever of that was done."""

    @abstractmethod
    def on_committed(self, successor: int, version: str) -> None:
        """Ends without leaving anything; `successor`: the pid."""


class Successor(Protocol):
    """A successor's process."""

    pid: int

    def kill(self) -> None:
        """Ends it; nothing if it has ended."""

    async def ended(self) -> str:
        """Waits for its end; returns how it ended, in words."""


Start = Callable[[int], Awaitable[Successor]]
"""Starts a successor's process, which inherits a descriptor: its end of the channel. Raises
UpgradeError.
"""


class Done(NamedTuple):
    """What came of an upgrade. `still_s`: how long the pumps stood still, until the commit."""

    pid: int
    version: str
    seconds: float
    still_s: float


class Upgrading:
    """One upgrade, or attempt: run() it once. `phase` is the one that it is in."""

    def __init__(self, daemon: Predecessor, start: Start) -> None:
        self.phase = "check"
        self.committed = False
        self._daemon = daemon
        self._start = start
        self._begun_s = time.monotonic()
        self._still_since_s = 0.0

    async def run(self) -> Done:
        """Carries it out. Raises UpgradeError: nothing has changed.

        If it is cancelled before the commit, nothing has changed either.
        """
        self._daemon.check()
        self._enter("prepare")
        ours, theirs = pair()
        with Channel(ours, FROM_NEW) as channel:
            try:
                successor = await self._start(theirs.fileno())
            finally:
                theirs.close()
            try:
                return await self._succeeded_by(successor, channel)
            except BaseException:
                if not self.committed:
                    successor.kill()
                raise

    async def _succeeded_by(self, successor: Successor, channel: Channel) -> Done:
        try:
            try:
                ready = await self._prepare(channel)
                await self._pass_on(channel)
            except ChannelEnded as error:
                raise UpgradeError(
                    f"the successor has ended: {await _ending(successor)}"
                ) from error
        except (UpgradeError, ChannelError) as error:
            faults = error.faults if isinstance(error, UpgradeError) else ()
            raise UpgradeError(f"{self.phase}: {error}", faults) from error
        except OSError as error:
            raise UpgradeError(f"{self.phase}: {error.strerror or error}") from error
        now_s = time.monotonic()
        done = Done(
            successor.pid, ready.version, now_s - self._begun_s, now_s - self._still_since_s
        )
        self._daemon.on_committed(done.pid, done.version)
        return done

    async def _prepare(self, channel: Channel) -> Ready:
        running = self._daemon.running()
        try:
            prepare = Prepare(PROTOCOL, __version__, os.getpid())
            await channel.send(prepare, (running,), within_s=messages.TRANSFER_S)
        finally:
            close_all((running,))
        return await self._answer(channel, Ready, messages.PREPARE_S)

    async def _pass_on(self, channel: Channel) -> None:
        """Freezes, transfers and commits; or goes on."""
        self._enter("freeze")
        try:
            await self._daemon.freeze()
            self._still_since_s = time.monotonic()
            self._enter("transfer")
            state = self._daemon.state()
            try:
                transfer = Transfer(tuple(name for name, _ in state))
                descriptors = [descriptor for _, descriptor in state]
                logger.debug("upgrade: the state is written")
                await channel.send(transfer, descriptors, within_s=messages.TRANSFER_S)
            finally:
                close_all(descriptor for _, descriptor in state)
            await self._answer(channel, Assumed, messages.TRANSFER_S)
            self._enter("commit")
            channel.send_now(Commit(), within_s=messages.TRANSFER_S)
            self.committed = True
            logger.debug("upgrade: committed")
        finally:
            if not self.committed:
                await self._daemon.resume()

    async def _answer(self, channel: Channel, kind: type[Answer], within_s: float) -> Answer:
        """The successor's answer. Raises UpgradeError if it failed or takes longer."""
        try:
            answer = (await channel.receive(kind, Failed, within_s=within_s)).message
        except ChannelTimeout as error:
            raise UpgradeError(f"the successor has not answered within {within_s:g} s") from error
        if isinstance(answer, Failed):
            faults = tuple(answer.faults)
            if len(faults) == 1:
                raise UpgradeError(faults[0])
            raise UpgradeError(f"{len(faults)} faults, the first: {faults[0]}", faults)
        assert isinstance(answer, kind)
        return answer

    def _enter(self, phase: str) -> None:
        self.phase = phase
        logger.debug("upgrade: phase %s", phase)


async def _ending(successor: Successor) -> str:
    try:
        async with asyncio.timeout(ENDING_S):
            return await successor.ended()
    except TimeoutError:
        return "it has closed its channel, and runs"
