"""`daemon.notify`: one long-lived program that gets every change as a line of JSON.

Holds `Notifier`: the program's life, and the queue for its standard input. Must not know what a
change consists of; nothing here waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from carp_fast.programs.children import printable
from carp_fast.programs.launching import DirectLauncher, Launcher, Running, reap
from carp_fast.programs.spawning import ChildError, Program, ending

logger = logging.getLogger(__name__)

NOTIFY_QUEUE = 65_536  # lines: one change of every virtual host of a large installation
LINES_A_WRITE = 256
WRITES_A_TURN = 16
RESTART_S = 1.0  # before the first restart, doubled each time
RESTART_MAX_S = 60.0  # at most; after a program ran for this long, the delay is RESTART_S again
LINE_BYTES_MAX = 1_024  # per line of the program's output
LOG_LINES_A_SECOND = 20
LOG_S = 10.0  # between two log lines about dropped changes
STEP_S = 2.0  # for each step of its end


class Notifier:
    """`daemon.notify`: a program that runs as long as the daemon and reads changes from its stdin.

    A change is one line of JSON. Lines wait while the program is slow or does not run, `queue_max`
    at most; then the oldest are dropped, counted and logged. A program that ends is started again,
    at first after `restart_s`; a line that it got only in part is sent whole to the next one, while
    what its pipe held unread is lost. The program's output goes to the log.

    Counters: `sent` (written to the pipe), `dropped`, `restarts`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        program: str,
        *,
        launcher: Launcher | None = None,
        queue_max: int = NOTIFY_QUEUE,
        restart_s: float = RESTART_S,
    ) -> None:
        self._loop = loop
        self._program = program
        self._queue_max = queue_max
        self._restart_first_s = self._restart_s = restart_s
        self.sent = self.dropped = self.restarts = 0
        self._lines: deque[bytes] = deque()
        self._offset = 0  # bytes of the first line that were written to the pipe
        self._launcher: Launcher = launcher or DirectLauncher(loop)
        self._child: Running | None = None
        self._stdin_fd = -1
        self._blocked = False  # the pipe is full, and the loop watches it
        self._writing = False
        self._stopping = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._restart: asyncio.TimerHandle | None = None
        self._kill_due: asyncio.TimerHandle | None = None
        self._started_at = 0.0
        self._dropped_said_at = -LOG_S
        self._output = b""
        self._log_second = 0
        self._log_lines = 0
        self._log_hidden = 0

    @property
    def waiting(self) -> int:
        """Lines that were not written to the pipe."""
        return len(self._lines)

    @property
    def lines(self) -> list[bytes]:
        """Those lines, also of one that was stopped: whole ones, for another program."""
        return list(self._lines)

    def queue(self, lines: Iterable[bytes]) -> None:
        """Queues lines that were meant for a former program; called before start()."""
        self._lines.extend(lines)

    def start(self) -> None:
        """Starts the program; if that fails, logs it and tries again later."""
        self._restart = None
        self._started_at = self._loop.time()
        try:
            self._child = self._launcher.launch(
                Program(self._program),
                {},
                self._on_output,
                self._on_exit,
                self._on_failed,
                stdin=True,
            )
        except ChildError as error:
            self._start_later(str(error))
            return
        self._stdin_fd = self._child.stdin_fd
        self._ended.clear()
        if self._lines:
            self._flushed.clear()
        self._write_soon()

    def send(self, change: object) -> None:
        """Queues a change, anything that msgspec encodes as JSON; never waits."""
        if self._stopping:
            return
        if len(self._lines) >= self._queue_max:
            self._drop_oldest()
        self._lines.append(msgspec.json.encode(change) + b"\n")
        self._flushed.clear()
        self._write_soon()

    async def stop(self, deadline_s: float = STEP_S, *, logs: bool = True) -> None:
        """Lets the program read what waits and the end of its input; then SIGTERM, then SIGKILL.

        Each of the three has `deadline_s`. `logs`: the number of undelivered changes.
        """
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._child is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    await self._flushed.wait()
            await self._end_child(deadline_s)
        if self._lines and logs:
            logger.warning("notify %s: %d changes not delivered", self._program, len(self._lines))

    async def _end_child(self, deadline_s: float) -> None:
        steps: list[Callable[[Running], None]] = [
            lambda _: self._close_stdin(),
            lambda child: child.kill(signal.SIGTERM),
            lambda child: child.kill(signal.SIGKILL),
        ]
        for step in steps:
            if self._child is None:
                return
            step(self._child)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    await self._ended.wait()
        if self._child is not None:
            logger.error("notify %s: still running after SIGKILL", self._program)
            self._child.abandon()
            reap([self._child])
            self._child = None

    def _drop_oldest(self) -> None:
        del self._lines[1 if self._offset else 0]  # a line that was begun must be completed
        self.dropped += 1
        now = self._loop.time()
        if now - self._dropped_said_at >= LOG_S:
            self._dropped_said_at = now
            logger.error(
                "notify %s: %d changes wait, dropping the oldest (%d so far)",
                self._program,
                self._queue_max,
                self.dropped,
            )

    def _write_soon(self) -> None:
        if self._lines and self._stdin_fd >= 0 and not self._writing and not self._blocked:
            self._writing = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._writing = False
        if self._stdin_fd < 0:
            return
        for _ in range(WRITES_A_TURN):
            if not self._lines:
                break
            first, *others = itertools.islice(self._lines, LINES_A_WRITE)
            try:
                taken = os.writev(self._stdin_fd, [first[self._offset :], *others])
            except BlockingIOError:
                self._watch_stdin(True)
                return
            except BrokenPipeError:
                self._on_deaf()
                return
            self._take(taken)
        self._watch_stdin(False)
        if not self._lines:
            self._flushed.set()
        self._write_soon()

    def _take(self, taken: int) -> None:
        taken += self._offset
        while self._lines and taken >= len(self._lines[0]):
            taken -= len(self._lines.popleft())
            self.sent += 1
        self._offset = taken

    def _watch_stdin(self, blocked: bool) -> None:
        if blocked and not self._blocked:
            self._loop.add_writer(self._stdin_fd, self._write)
        elif self._blocked and not blocked:
            self._loop.remove_writer(self._stdin_fd)
        self._blocked = blocked

    def _close_stdin(self) -> None:
        if self._stdin_fd >= 0 and self._child is not None:
            self._watch_stdin(False)
            self._stdin_fd = -1
            self._child.close_stdin()

    def _on_deaf(self) -> None:
        """Ends a program that closed its standard input: only a restart can help."""
        logger.warning("notify %s: no longer reads its input, sending SIGTERM", self._program)
        assert self._child is not None
        self._close_stdin()
        self._child.kill(signal.SIGTERM)
        self._kill_due = self._loop.call_later(STEP_S, self._kill_deaf)

    def _kill_deaf(self) -> None:
        self._kill_due = None
        if self._child is not None:
            logger.warning("notify %s: ignores SIGTERM, sending SIGKILL", self._program)
            self._child.kill(signal.SIGKILL)

    def _on_exit(self, exit_status: int) -> None:
        self._on_end(f"ended: {ending(exit_status)}")

    def _on_failed(self, error: ChildError) -> None:
        self._on_end(str(error))

    def _on_end(self, reason: str) -> None:
        if self._stdin_fd >= 0:
            self._watch_stdin(False)
        self._stdin_fd = -1
        self._child = None
        if self._kill_due is not None:
            self._kill_due.cancel()
            self._kill_due = None
        self._offset = 0
        self._end_output()
        self._ended.set()
        self._flushed.set()  # no program is left to read anything
        if self._stopping:
            return
        if self._loop.time() - self._started_at >= RESTART_MAX_S:
            self._restart_s = self._restart_first_s
        self._start_later(reason)

    def _start_later(self, reason: str) -> None:
        if self._stopping:
            return
        delay_s = self._restart_s
        self._restart_s = min(delay_s * 2, RESTART_MAX_S)
        self.restarts += 1
        logger.error("notify %s: %s; starting it again in %g s", self._program, reason, delay_s)
        self._restart = self._loop.call_later(delay_s, self.start)

    def _on_output(self, data: bytes) -> None:
        *lines, rest = (self._output + data).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            lines.append(rest)
            rest = b""
        self._output = rest
        for line in lines:
            self._log(line)

    def _end_output(self) -> None:
        if self._output:
            self._log(self._output)
            self._output = b""
        self._log_hidden_lines()

    def _log(self, line: bytes) -> None:
        second = int(self._loop.time())
        if second != self._log_second:
            self._log_hidden_lines()
            self._log_second, self._log_lines = second, 0
        self._log_lines += 1
        if self._log_lines > LOG_LINES_A_SECOND:
            self._log_hidden += 1
            return
        for text in printable(line[:LINE_BYTES_MAX]):
            logger.info("notify %s: %s", self._program, text)

    def _log_hidden_lines(self) -> None:
        if self._log_hidden:
            logger.warning("notify %s: %d more lines not shown", self._program, self._log_hidden)
            self._log_hidden = 0


class Notify:
    """The configured `daemon.notify` program, which may change, or None."""

    def __init__(self, loop: asyncio.AbstractEventLoop, launcher: Launcher | None = None) -> None:
        self._loop = loop
        self._launcher = launcher
        self._notifier: Notifier | None = None
        self._program: str | None = None
        self._paused: list[bytes] | None = None  # lines for the program that comes next

    def start(self, program: str | None) -> None:
        """Starts the program; with None, or after a stop, changes go nowhere."""
        self._program = program
        lines, self._paused = self._paused, None
        if program is not None:
            self._notifier = Notifier(self._loop, program, launcher=self._launcher)
            self._notifier.queue(lines or ())
            self._notifier.start()

    def send(self, change: object) -> None:
        """Queues a change if there is a program; never waits."""
        if self._notifier is not None:
            self._notifier.send(change)
        elif self._paused is not None:
            self._paused.append(msgspec.json.encode(change) + b"\n")

    @property
    def waiting(self) -> list[bytes]:
        """Lines for the program that comes next, after pause()."""
        return self._paused or []

    async def pause(self) -> None:
        """Ends the program in order; what it did not read, and what comes, waits for the next."""
        notifier, self._notifier = self._notifier, None
        if notifier is None:
            return
        self._paused = []
        await notifier.stop(logs=False)
        self._paused = [*notifier.lines, *self._paused]

    def resume(self) -> None:
        """Starts the program again after pause()."""
        if self._paused is not None:
            self.start(self._program)

    def go_on(self, program: str | None, waiting: Iterable[bytes]) -> None:
        """Starts the program with what waits for it in another process, see `waiting`."""
        self._paused = list(waiting)
        self.start(program)

    async def stop(self) -> None:
        """Ends the program in order, see Notifier.stop()."""
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            await notifier.stop()
