"""The one way in which hooks, scripts and `daemon.notify` start: a `Launcher`.

Holds the interface and `DirectLauncher`, whose programs are children of this process. Must not
know what a program is for, or what is configured.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from carp_fast.programs.children import Child, InheritingChild
from carp_fast.programs.spawning import (
    ChildError,
    Program,
    clean_environment,
    inherited_environment,
)

REAP_S = 1.0  # how long to wait for killed processes; after that they are left to later starts


class Running(Protocol):
    """A program that was launched, until its `on_exit` or `on_failed` has been called."""

    @property
    def stdin_fd(self) -> int:
        """The non-blocking end of its standard input; only if that was requested."""

    def close_stdin(self) -> None:
        """Closes its standard input; a second call does nothing."""

    def kill(self, number: signal.Signals) -> None:
        """Sends the signal to the program and its children, except those that left its group."""

    def terminate(self) -> None:
        """Sends SIGTERM, and SIGKILL to the rest of its group once the program has ended."""

    def abandon(self) -> None:
        """Kills it now and stops watching it: no callback is called. reap() has to follow."""

    def leave(self) -> None:
        """Stops watching it; it continues, and no callback is called."""

    def reap(self, timeout_s: float) -> None:
        """Waits for the end of an abandoned program, at most for so long."""


class Launcher(Protocol):
    """Starts programs. All methods must be called on the loop's thread."""

    def launch(
        self,
        program: Program,
        variables: Mapping[str, str],
        on_output: Callable[[bytes], None],
        on_exit: Callable[[int], None],
        on_failed: Callable[[ChildError], None],
        *,
        stdin: bool = False,
        leaves_nothing: bool = False,
    ) -> Running:
        """Starts a program; `variables`, of names CARP_*, are added to its environment.

        `on_output(data)` gets what it writes on stdout and stderr; `on_exit(exit_status)` is called
        once, after all its output, negative for a signal. `on_failed` is called in its place where
        only later it turns out that the program could not be started, or that its end will not be
        known. `stdin`: its standard input is a pipe, otherwise /dev/null. Processes that it leaves
        in the background are left alone; with `leaves_nothing` they are killed. Raises ChildError.
        """
        ...


class DirectLauncher:
    """Starts programs as children of this process; see Launcher. Never calls `on_failed`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._clean, self._inherited = clean_environment(), inherited_environment()

    def launch(
        self,
        program: Program,
        variables: Mapping[str, str],
        on_output: Callable[[bytes], None],
        on_exit: Callable[[int], None],
        on_failed: Callable[[ChildError], None],
        *,
        stdin: bool = False,
        leaves_nothing: bool = False,
    ) -> Running:
        """See Launcher."""
        if program.inherits:
            return InheritingChild(
                self._loop, program.arguments, {**self._inherited, **variables}, on_exit
            )
        return Child(
            self._loop,
            program.arguments,
            {**self._clean, **variables},
            on_output,
            on_exit,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            leaves_nothing=leaves_nothing,
        )


def reap(killed: Iterable[Running]) -> None:
    """Waits for the end of killed programs: for all together at most REAP_S.

    One that waits for a disk does not end before that answers.
    """
    end_s = time.monotonic() + REAP_S
    for each in killed:
        each.reap(max(0.0, end_s - time.monotonic()))
