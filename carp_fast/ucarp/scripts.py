"""Runs the up and down script as ucarp does: one after the other, logged in ucarp's words.

Differs from daemon/hooks.py in what scripts written for ucarp rely on: stdin, stdout and stderr are
the daemon's own, so that a service started by a script may keep them, as are environment, priority
and umask, and no script is killed for taking long. The daemon does not wait for them. Must not know
CARP or the engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial

from carp_fast.daemon.hooks import Done, Hook, HookResult, program_of
from carp_fast.programs.launching import DirectLauncher, Launcher
from carp_fast.programs.spawning import ChildError, ending
from carp_fast.ucarp.log import logger

SLOW_S = 10.0  # a script that still runs then is logged, and again whenever the time has doubled


class Scripts:
    """Runs the scripts of one virtual host. All methods must be called on the loop's thread.

    `launcher`: starts them; without one they are children of this process.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, launcher: Launcher | None = None) -> None:
        self._loop = loop
        self._launcher: Launcher = launcher or DirectLauncher(loop)
        self._run: _Run | None = None
        self._next: tuple[Hook, Done | None] | None = None
        self._afterwards: deque[Callable[[], None]] = deque()

    def prepare(self, target: str) -> None:
        """Does nothing: a script is looked up when it is run."""

    def submit(self, key: Hashable, name: str, hook: Hook, done: Done | None = None) -> None:
        """Runs the script immediately, or after the running one; of several waiting only the last
        is run.
        """
        if self._next is not None:
            superseded, waiting_done = self._next
            logger.warning("Not spawning [%s]: no longer wanted", words(superseded))
            _report(waiting_done, HookResult(superseded.event, superseded=True))
        self._next = hook, done
        if self._run is None:
            self._spawn()

    def when_idle(self, then: Callable[[], None]) -> None:
        """Calls `then` when no script runs or waits: immediately, or later."""
        if self._run is None:
            then()
        else:
            self._afterwards.append(then)

    async def drain(self, deadline_s: float) -> tuple[str, ...]:
        """Waits at most `deadline_s` until no script runs or waits; returns those that still do."""
        idle = asyncio.Event()
        self.when_idle(idle.set)
        try:
            async with asyncio.timeout(deadline_s):
                await idle.wait()
        except TimeoutError:
            running = [] if self._run is None else [self._run.hook]
            waiting = [] if self._next is None else [self._next[0]]
            return tuple(map(words, running + waiting))
        return ()

    def close(self) -> None:
        """Stops waiting because the daemon ends; a running script is left alone, as ucarp leaves
        it.
        """
        self._next = None
        self._afterwards.clear()
        if self._run is not None:
            self._run.leave()
            self._run = None

    def _spawn(self) -> None:
        assert self._next is not None
        (hook, done), self._next = self._next, None
        logger.warning("Spawning [%s]", words(hook))
        try:
            self._run = _Run(
                self._loop,
                self._launcher,
                hook,
                partial(self._on_exit, done),
                partial(self._on_failed, hook, done),
            )
        except ChildError as error:
            self._on_failed(hook, done, error)

    def _on_failed(self, hook: Hook, done: Done | None, error: ChildError) -> None:
        logger.error("Unable to exec %s: %s", words(hook), error.reason)
        self._on_exit(done, HookResult(hook.event, error=str(error)))

    def _on_exit(self, done: Done | None, result: HookResult) -> None:
        self._run = None
        _report(done, result)
        self._go_on()

    def _go_on(self) -> None:
        if self._next is not None:
            self._spawn()
            return
        while self._run is None and self._afterwards:
            self._afterwards.popleft()()


class _Run:
    """A running script. Raises ChildError if it cannot be started."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        launcher: Launcher,
        hook: Hook,
        on_exit: Callable[[HookResult], None],
        on_failed: Callable[[ChildError], None],
    ) -> None:
        self.hook = hook
        self._on_exit, self._on_failed = on_exit, on_failed
        self._loop = loop
        self._begun_at = loop.time()
        self._running = launcher.launch(
            program_of(hook, inherits=True), hook.environment, _ignore, self._ended, self._failed
        )
        self._timer = loop.call_later(SLOW_S, self._on_slow, SLOW_S)

    def leave(self) -> None:
        """Stops waiting; the script continues."""
        self._timer.cancel()
        self._running.leave()

    def _on_slow(self, seconds: float) -> None:
        logger.warning("[%s] is still running after %g s", words(self.hook), seconds)
        self._timer = self._loop.call_later(seconds, self._on_slow, 2 * seconds)

    def _ended(self, status: int) -> None:
        self._timer.cancel()
        taken_s = self._loop.time() - self._begun_at
        logger.debug("[%s]: %s after %.3f s", words(self.hook), ending(status), taken_s)
        self._on_exit(HookResult(self.hook.event, status, taken_s))

    def _failed(self, error: ChildError) -> None:
        self._timer.cancel()
        self._on_failed(error)


def _ignore(output: bytes) -> None:
    """Nothing is read from a script: it writes where the daemon does."""


def _report(done: Done | None, result: HookResult) -> None:
    if done is not None:
        done(result)


def words(hook: Hook) -> str:
    """The script and its arguments as they are logged."""
    extra = "" if hook.xparam is None else f" {hook.xparam}"
    return f"{hook.target} {hook.interface} {hook.address}{extra}"
