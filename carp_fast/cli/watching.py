"""Follows a daemon for `carp-fast watch`: an overview each second, to lines or to a whole terminal.

The cost of an overview (control/overview.py) does not grow with the virtual hosts. Must not know
what is shown (watch_view, watch_lines), nor how (watch_screen, fullscreen).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn

from carp_fast.cli.fullscreen import FullScreen, Keys
from carp_fast.cli.terminal import marks_of_output, print_text, report
from carp_fast.cli.watch_lines import Lines
from carp_fast.cli.watch_screen import screen
from carp_fast.cli.watch_view import Explain, View
from carp_fast.control.client import AsyncControlClient
from carp_fast.control.overview import Overview
from carp_fast.control.protocol import ControlError
from carp_fast.daemon.explain_text import text as explanation

EVERY_S = 1.0  # between two overviews
ANSWER_S = 10.0  # that a daemon has for a piece of an answer
ESCAPE_S = 0.05  # after which an escape is the key, and not the beginning of a sequence
STYLES = {
    **{"bold": "1", "dim": "2", "selected": "7", "title": "2", "active": "1"},
    **{"MASTER": "32", "BACKUP": "36", "INIT": "33", "bad": "31"},
}
COLOURLESS = {name: code for name, code in STYLES.items() if len(code) == 1}


class Following:
    """The overviews of a daemon, each with the changes since the one before."""

    def __init__(self, client: AsyncControlClient) -> None:
        self._client = client
        self._pid: int | None = None
        self._changes = 0

    async def next(self) -> Overview:
        """The next one, now. Raises ControlError."""
        found = await self._client.overview(self._changes)
        if found.pid != self._pid and self._changes:
            found = await self._client.overview()  # another process, which counts from 0
        self._pid, self._changes = found.pid, found.changes
        return found


async def print_lines(path: Path, words: str) -> NoReturn:
    """Prints lines until Ctrl-C. Raises ControlError for the first request."""
    client = AsyncControlClient(path, ANSWER_S)
    following, lines, lost = Following(client), Lines(words), ""
    overview = await following.next()
    while True:
        for line in lines.of(overview):
            print_text(line)
        print_text("", end="", flush=True)
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                overview = await following.next()
                lost = ""
                break
            except ControlError as error:
                if str(error) != lost:
                    lost = str(error)
                    report(f"carp-fast: {lost}; tried again every {EVERY_S:g} s")


async def show(path: Path, words: str, sort: str) -> int:
    """Shows it on the whole terminal; returns the exit code.

    Raises ControlError for the first request, and OSError if the terminal is gone.
    """
    client, view = AsyncControlClient(path, ANSWER_S), View(words=words, sort=sort)
    following = Following(client)
    view.take(await following.next())
    styles = COLOURLESS if os.environ.get("NO_COLOR") else STYLES
    with FullScreen(sys.stdout.fileno(), _keyboard(), styles, sys.stdout.encoding) as terminal:
        return await Watching(client, following, view, terminal).run()


def _keyboard() -> int | None:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):  # it is closed, or no file
        return None


class Watching:
    """Shows a view until a key or a signal ends that."""

    def __init__(
        self, client: AsyncControlClient, following: Following, view: View, terminal: FullScreen
    ) -> None:
        self._client = client
        self._following = following
        self._view = view
        self._terminal = terminal
        self._marks = marks_of_output()
        self._keys = Keys()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._explaining: asyncio.Task[None] | None = None
        self._escape: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        """Returns the exit code. Raises OSError if the terminal is gone."""
        signals = {signal.SIGWINCH: self._on_resized, signal.SIGTSTP: self._on_stop}
        for number, act in signals.items():
            self._loop.add_signal_handler(number, act)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._end, 128 + number)
        keyboard = self._terminal.keyboard
        if keyboard is not None:
            self._loop.add_reader(keyboard, self._on_typed, keyboard)
        self._start(self._follow())
        try:
            self._on_resized()
            return await self._ended
        finally:
            if keyboard is not None:
                self._loop.remove_reader(keyboard)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._ended.done():
            self._ended.set_exception(error)

    # -- the daemon

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                self._view.take(await self._following.next())
            except ControlError as error:
                self._view.lost = str(error)
            page = self._view.page
            if page is not None and page.host is not None and not self._asking:
                self._explain(page.host)
            self._draw()

    @property
    def _asking(self) -> bool:
        return self._explaining is not None and not self._explaining.done()

    def _explain(self, host: Explain) -> None:
        """Asks for an explanation, and no longer for one that was asked for before."""
        if self._explaining is not None:
            self._explaining.cancel()
        self._explaining = self._start(self._ask_for(host))

    async def _ask_for(self, host: Explain) -> None:
        try:
            found = explanation(await self._client.explain(host.interface, host.vhid))
        except ControlError as error:
            found = str(error)
        self._view.explained(host, found)
        self._draw()

    # -- the terminal

    def _draw(self, *, whole: bool = False) -> None:
        try:
            if whole:
                self._terminal.clear()
            self._terminal.paint(screen(self._view, self._marks))
        except OSError as error:
            if not self._ended.done():
                self._ended.set_exception(error)

    def _on_resized(self) -> None:
        self._view.width, self._view.height = self._terminal.size()
        self._draw(whole=True)

    def _on_stop(self) -> None:
        """Gives the terminal back to the shell until this process continues."""
        self._terminal.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._terminal.enter()
        self._on_resized()  # it may have been, and the shell has written to it

    def _on_typed(self, keyboard: int) -> None:
        data = self._terminal.read()
        if not data:  # the terminal is gone
            self._end(128 + signal.SIGHUP)
            return
        if self._escape is not None:
            self._escape.cancel()
        self._press(self._keys.feed(data))
        if self._keys.begun:
            self._escape = self._loop.call_later(ESCAPE_S, lambda: self._press(self._keys.flush()))

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            wanted = self._view.press(key)
            if wanted == "quit":
                self._end(0)
                return
            if wanted is not None:
                self._explain(wanted)
        if keys:
            self._draw()
