"""The privileged helper as the daemon sees it: what reads the configuration, and a Launcher.

A helper that has ended is noticed, and never started again: everything that needs it then fails,
with its reason. Must not know the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from carp_fast.closing import Closing
from carp_fast.config.image import ImageError
from carp_fast.config.model import Configuration
from carp_fast.control.documents import HELPER_RUNS
from carp_fast.privileged import outcome, table
from carp_fast.privileged.messages import (
    REPLIES,
    Applied,
    Begun,
    Exited,
    Failed,
    Kill,
    Load,
    Loaded,
    MessageError,
    NotLoaded,
    Reply,
    Request,
    Start,
    StopLoading,
    Succeed,
    packed,
    receive,
    send,
)
from carp_fast.privileged.rows import FORMER_MAX
from carp_fast.privileged.start import HelperError, Started
from carp_fast.privileged.successor import RemoteSuccessor
from carp_fast.programs.launching import Running
from carp_fast.programs.memory import Sealed, SealError
from carp_fast.programs.packets import close_all
from carp_fast.programs.spawning import ChildError, LauncherEnded, Program, ending

logger = logging.getLogger(__name__)

READ_BYTES = 65_536  # the size of a pipe: one read empties it
UNSENT_MAX = 1024  # requests that wait for a helper that does not read
END_S = 2.0  # for the helper to end by itself
OUTCOME_BYTES_MAX = 1 << 28  # of the largest configuration: a tenth
ENDED = "the privileged helper has ended"


class _Numbered(NamedTuple):
    """The programs of a configuration, by the number of the table that the helper has of it."""

    table: int
    programs: dict[table.Key, int]


class PrivilegedHelper(Closing):
    """A helper. `ended`: how it ended, None while it runs.

    load_first() is called before attach(), everything else afterwards on the loop's thread.
    """

    def __init__(self, started: Started) -> None:
        self.ended: str | None = None
        self._process, self._end = started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loads = 0
        self._loading: asyncio.Future[bytes] | None = None
        self._read: _Numbered | None = None  # not applied yet
        self._applied: list[_Numbered] = []  # the last one first
        self._programs: dict[int, _Remote | RemoteSuccessor] = {}
        self._successor: RemoteSuccessor | None = None  # the last one
        self._handles = 0
        self._unsent: deque[tuple[bytes, list[int]]] = deque()

    # -- configurations

    def load_first(self, path: Path) -> Configuration:
        """Has the configuration read, and waits for it.

        Raises ConfigurationError, and HelperError if the helper could not give it.
        """
        self._loads += 1
        try:
            send(self._end, packed(Load(self._loads, os.fsencode(path))))
            received = receive(self._end, REPLIES)
            if received is None:
                raise HelperError(f"{ENDED}: {ending(self._process.wait())}")
            reply, descriptors = received
            if not isinstance(reply, Loaded):
                raise HelperError(f"{path}: {getattr(reply, 'text', reply)}")
            found = _content(descriptors)
        except (OSError, MessageError) as error:
            raise HelperError(f"the privileged helper: {error}") from error
        return self._take(found)

    async def load(self) -> Configuration:
        """Has the same file read again; a caller that is cancelled ends that.

        Raises ConfigurationError and HelperError.
        """
        assert self._loop is not None
        self._loads += 1
        self._loading = self._loop.create_future()
        if not self._give(Load(self._loads)):
            raise HelperError(self._unable)
        try:
            found = await self._loading
        except asyncio.CancelledError:
            self._give(StopLoading())
            raise
        finally:
            self._loading = None
        return self._take(found)

    def applied(self) -> None:
        """Takes note that the configuration that was read last is the running one now."""
        if self._read is not None:
            self._give(Applied(self._read.table))
            self._applied.insert(0, self._read)
            del self._applied[1 + FORMER_MAX :]
            self._read = None

    def use_first(self, configuration: Configuration) -> None:
        """Uses the table that the helper was started with, of this configuration."""
        self._applied = [_Numbered(0, table.numbers(configuration))]

    def _take(self, found: bytes) -> Configuration:
        try:
            configuration = outcome.take(found)
        except ImageError as error:
            raise HelperError(f"the privileged helper: {error}") from error
        self._read = _Numbered(self._loads, table.numbers(configuration))
        return configuration

    # -- its life

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serves this loop from now on."""
        self._loop = loop
        self._end.setblocking(False)
        loop.add_reader(self._end.fileno(), self._on_readable)

    def close(self) -> None:
        """Lets the helper end, which kills what it still runs, and waits for it."""
        self._disconnect()
        if self._successor is not None:
            self._successor.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            logger.error("the privileged helper does not end, sending SIGKILL")
            self._kill()
        self.ended = self.ended or "closed"

    def _kill(self) -> None:
        """Kills it and waits; where this process is not root any more, it only waits.

        As our end of the socket is closed, it ends in any case.
        """
        with contextlib.suppress(PermissionError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)

    def _disconnect(self) -> None:
        if self._loop is not None and self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
        self._end.close()
        for _, descriptors in self._unsent:
            close_all(descriptors)
        self._unsent.clear()

    def _on_end(self, why: str | None = None) -> None:
        """Handles that the helper has ended, or has to, as it sends what is no message."""
        if self.ended is not None:
            return
        self._disconnect()
        if why is not None:
            self._kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)  # our end of the socket is closed: it is about to end
        status = self._process.returncode
        self.ended = why or ("still running" if status is None else ending(status))
        logger.warning(
            "%s (%s): until a restart no hook and no script can be started, and the configuration"
            " cannot be read again; everything else goes on",
            ENDED,
            self.ended,
        )
        if self._loading is not None and not self._loading.done():
            self._loading.set_exception(HelperError(ENDED))
        error = LauncherEnded(f"{ENDED}: how a program ends is not known", ENDED)
        for each in list(self._programs.values()):
            each.on_lost(error)
        self._programs.clear()

    @property
    def state(self) -> str:
        """ "running", or how it ended."""
        return self.ended or HELPER_RUNS

    # -- messages

    @property
    def _unable(self) -> str:
        return ENDED if self.ended else "the privileged helper does not answer"

    def _give(self, request: Request, descriptors: list[int] | None = None) -> bool:
        """Sends a request, now or when the socket has room. False: nothing was sent.

        `descriptors` are closed in any case, at the latest once they were sent. Raises
        MessageError.
        """
        given = descriptors or []
        try:
            packet = packed(request)
        except MessageError:
            close_all(given)
            raise
        if self.ended is not None or len(self._unsent) >= UNSENT_MAX:
            close_all(given)
            return False
        self._unsent.append((packet, given))
        if len(self._unsent) == 1:
            self._send()
        return self.ended is None

    def _send(self) -> None:
        assert self._loop is not None
        while self._unsent:
            packet, descriptors = self._unsent[0]
            try:
                send(self._end, packet, descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._end.fileno(), self._send)
                return
            except OSError:
                self._loop.call_soon(self._on_end)  # not within a launch()
                break
            self._unsent.popleft()
            close_all(descriptors)
        self._loop.remove_writer(self._end.fileno())

    def _on_readable(self) -> None:
        for _ in range(64):  # per turn of the loop
            if self.ended is not None or not self._receive(self._on_reply):
                return

    def _receive(self, take: Callable[[Reply, list[int]], None]) -> bool:
        """Receives one reply, if there is one."""
        try:
            received = receive(self._end, REPLIES)
        except BlockingIOError:
            return False
        except MessageError as error:
            self._on_garbled(error)
            return False
        except OSError:  # it was killed with requests unread
            received = None
        if received is None:
            self._on_end()
            return False
        take(*received)
        return True

    def _on_garbled(self, error: MessageError) -> None:
        self._on_end(f"given up, as it sent what is no message: {error}")

    def _on_reply(self, reply: Reply, descriptors: list[int]) -> None:
        if isinstance(reply, Exited | Failed):
            close_all(descriptors)
            program = self._programs.pop(reply.handle, None)
            if program is not None:
                program.on_reply(reply)
            return
        if isinstance(reply, Begun):
            self._on_begun(reply, descriptors)
            return
        try:
            found = _content(descriptors) if isinstance(reply, Loaded) else b""
        except MessageError as error:
            self._on_garbled(error)
            return
        if self._loading is None or self._loading.done() or reply.number != self._loads:
            return
        if isinstance(reply, NotLoaded):
            self._loading.set_exception(HelperError(reply.text))
        else:
            self._loading.set_result(found)

    # -- a successor

    async def succeed(self, channel: int) -> RemoteSuccessor:
        """Has a successor of this process started, with this descriptor as its end of a channel.

        A caller that is cancelled ends it. Raises ChildError and OSError.
        """
        assert self._loop is not None
        given = [os.dup(channel)]
        self._handles += 1
        kill = partial(self.kill, self._handles, signal.SIGKILL, rest=False)
        successor = RemoteSuccessor(self._loop, kill)
        self._programs[self._handles] = self._successor = successor
        if not self._give(Succeed(self._handles), given):
            self.forget(self._handles)
            raise LauncherEnded(f"cannot start a successor: {self._unable}", self._unable)
        try:
            await successor.begun
        except asyncio.CancelledError:
            successor.kill()
            raise
        return successor

    def _on_begun(self, reply: Begun, descriptors: list[int]) -> None:
        successor = self._programs.get(reply.handle)
        if not isinstance(successor, RemoteSuccessor) or len(descriptors) != 1:
            close_all(descriptors)
            self._on_end("given up, as it began what it was not asked for")
            return
        successor.on_begun(reply.pid, *descriptors)

    # -- programs

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
        assert self._loop is not None
        if self.ended is not None:
            raise LauncherEnded(f"cannot start {program.path}: {ENDED}", ENDED)
        key = table.key_of(program)
        known = [each for each in (self._read, *self._applied) if each and key in each.programs]
        if not known:
            raise _refused(program, "no configuration that was read has it")
        self._handles += 1
        request = Start(
            self._handles,
            known[0].table,
            known[0].programs[key],
            program.place,
            dict(variables),
            stdin,
            leaves_nothing,
        )
        callbacks = _Callbacks(on_output, on_exit, on_failed)
        given: list[int] = []
        try:
            remote = _Remote(self, self._loop, self._handles, callbacks)
            if not program.inherits:
                given = remote.open_pipes(stdin)
        except OSError as error:
            remote.leave()
            raise _refused(program, error.strerror or str(error)) from None
        self._programs[self._handles] = remote
        try:
            sent = self._give(request, given)
        except MessageError as error:
            sent, why = False, f"its environment is too long: {error}"
        else:
            why = self._unable
        if not sent:
            remote.leave()
            raise _refused(program, why)
        return remote

    def kill(self, handle: int, number: signal.Signals, *, rest: bool) -> None:
        """Sends a signal to a program."""
        self._give(Kill(handle, number, rest))

    def forget(self, handle: int) -> None:
        """Drops what the helper reports of a program from now on."""
        self._programs.pop(handle, None)

    def await_end(self, handle: int, timeout_s: float) -> None:
        """Blocks until a program that was abandoned has ended, at most for so long.

        What else comes meanwhile is handled in a later turn of the loop.
        """
        assert self._loop is not None
        end_s = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        while self.ended is None and handle in self._programs:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1e3):
                self.forget(handle)
                return
            self._receive(self._on_reply_meanwhile)

    def _on_reply_meanwhile(self, reply: Reply, descriptors: list[int]) -> None:
        assert self._loop is not None
        if isinstance(reply, Exited | Failed):
            program = self._programs.get(reply.handle)
            if program is not None and program.abandoned:
                self._on_reply(reply, descriptors)
                return
        self._loop.call_soon(self._on_reply, reply, descriptors)


class _Callbacks(NamedTuple):
    output: Callable[[bytes], None]
    exit: Callable[[int], None]
    failed: Callable[[ChildError], None]


class _Remote:
    """A program that the helper runs, as Running has it; its pipes are ours."""

    def __init__(
        self,
        helper: PrivilegedHelper,
        loop: asyncio.AbstractEventLoop,
        handle: int,
        callbacks: _Callbacks,
    ) -> None:
        self.abandoned = False
        self._helper = helper
        self._loop = loop
        self._handle = handle
        self._callbacks = callbacks
        self._output_fd = self._stdin_fd = -1
        self._watched = True

    def open_pipes(self, stdin: bool) -> list[int]:
        """Opens its pipes; returns the ends that are the program's. Raises OSError."""
        self._output_fd, theirs = os.pipe()
        given = [theirs]
        if stdin:
            try:
                stdin_end, self._stdin_fd = os.pipe()
            except OSError:
                os.close(theirs)
                raise
            given.append(stdin_end)
            os.set_blocking(self._stdin_fd, False)
        os.set_blocking(self._output_fd, False)
        self._loop.add_reader(self._output_fd, self._on_output)
        return given

    @property
    def stdin_fd(self) -> int:
        """The non-blocking end of its standard input."""
        return self._stdin_fd

    def close_stdin(self) -> None:
        """Closes its standard input; a second call does nothing."""
        if self._stdin_fd >= 0:
            os.close(self._stdin_fd)
            self._stdin_fd = -1

    def kill(self, number: signal.Signals) -> None:
        """Sends the signal to the program and its children, except those that left its group."""
        self._helper.kill(self._handle, number, rest=False)

    def terminate(self) -> None:
        """Sends SIGTERM, and SIGKILL to the rest of its group once the program has ended."""
        self._helper.kill(self._handle, signal.SIGTERM, rest=True)

    def abandon(self) -> None:
        """Kills it now and stops watching it; no callback is called. reap() has to follow."""
        if self._watched:
            self.abandoned = True
            self.kill(signal.SIGKILL)
            self._unwatch()

    def leave(self) -> None:
        """Stops watching it; it continues, without its pipes, and no callback is called."""
        if self._watched:
            self._helper.forget(self._handle)
            self._unwatch()

    def reap(self, timeout_s: float) -> None:
        """Waits for the end of an abandoned program, at most for so long."""
        self._helper.await_end(self._handle, timeout_s)

    def on_reply(self, reply: Exited | Failed) -> None:
        """Handles that it has ended, or could not be started."""
        if not self._watched:
            return
        if isinstance(reply, Failed):
            self.on_lost(ChildError(reply.text, reply.reason))
            return
        if self._output_fd >= 0:
            self._on_output()  # its last output
        self._unwatch_output()
        # A watch on the other end of stdin must end before that is closed.
        self._watched = False
        self._callbacks.exit(reply.status)
        self.close_stdin()

    def on_lost(self, error: ChildError) -> None:
        """Handles that nothing more will be known of it."""
        if self._watched:
            self._unwatch_output()
            self._watched = False
            self._callbacks.failed(error)
            self.close_stdin()

    def _on_output(self) -> None:
        try:
            data = os.read(self._output_fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._callbacks.output(data)
        else:
            self._loop.remove_reader(self._output_fd)

    def _unwatch_output(self) -> None:
        if self._output_fd >= 0:
            self._loop.remove_reader(self._output_fd)
            os.close(self._output_fd)
            self._output_fd = -1

    def _unwatch(self) -> None:
        self._watched = False
        self._unwatch_output()
        self.close_stdin()


def _refused(program: Program, reason: str) -> ChildError:
    return ChildError(f"cannot start {program.path}: {reason}", reason)


def _content(descriptors: list[int]) -> bytes:
    """What sealed memory holds; the descriptors are closed. Raises MessageError."""
    if len(descriptors) != 1:
        close_all(descriptors)
        raise MessageError(f"{len(descriptors)} descriptors in place of an outcome")
    try:
        with Sealed(descriptors[0], OUTCOME_BYTES_MAX) as memory:
            return bytes(memory.view)
    except SealError as error:
        raise MessageError(str(error)) from error
