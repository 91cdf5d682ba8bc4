"""The helper's process: it starts loaders and programs, and ends when the daemon does.

Its one thread waits in poll() for messages and for the ends of its children. Whatever the daemon
asks is either typed, known and configured, or refused: the daemon may be in the hands of an
attacker, this process must not be. Must not know what a configuration consists of.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import msgspec

from carp_fast.privileged import rows
from carp_fast.privileged.loading import Loader, LoadingError, content
from carp_fast.privileged.messages import (
    REQUESTS,
    Applied,
    Beginning,
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
    Succeed,
    packed,
    receive,
    send,
)
from carp_fast.privileged.starting import Starter, forbid_tracing, kill_successor, refused
from carp_fast.programs.packets import close_all
from carp_fast.programs.spawning import ChildError, kill_group
from carp_fast.signals import inherit_nothing

NAME = b"carp-helper"
RUNNING_MAX = 1024  # programs at once
SUCCESSORS_MAX = 2  # of which one is ending
PR_SET_NAME = 15
# Those of a terminal or a service manager reach the whole group; only the daemon acts on them.
LEFT_TO_THE_DAEMON = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2),
)


class _Running(NamedTuple):
    handle: int
    process: subprocess.Popen[bytes]
    row: rows.Row | None  # None: a successor

    @property
    def alone(self) -> bool:
        """Whether signals are for itself and not its group, and it outlives the helper."""
        return self.row is None or self.row.inherits


class Helper:
    """Serves one daemon until that closes the socket. `beginning`: what it was started with."""

    def __init__(self, end: socket.socket, beginning: Beginning) -> None:
        self._end = end
        self._tables = rows.Tables()
        self._path: bytes | None = None
        self._loader: Loader | None = None
        self._loading: int | None = None  # the number of the Load that waits for the loader
        self._running: dict[int, _Running] = {}  # by pidfd
        self._rest: set[int] = set()  # handles of programs whose group is killed after them
        self._last_handle = -1
        self._starter = Starter(beginning.again)
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._loads = beginning.table is None
        if beginning.table is None:
            with contextlib.suppress(OSError):  # it is tried again when it is needed
                self._start_loader()
        else:
            self._tables.keep(0, rows.decode(beginning.table))
            self._tables.apply(0)

    def run(self) -> None:
        """Serves until the daemon is gone or sends what is no message; then kills what runs."""
        try:
            while self._turn():
                pass
        except (MessageError, OSError) as error:
            if not isinstance(error, BrokenPipeError | ConnectionResetError):
                print(f"carp-fast: privileged helper: {error}", file=sys.stderr, flush=True)
        finally:
            self._end.close()
            self._end_loader()
            for each in self._running.values():
                if not each.alone:  # a script of ucarp's is left alone, as ucarp leaves it
                    kill_group(each.process, signal.SIGKILL)

    def _turn(self) -> bool:
        ready = {descriptor for descriptor, _ in self._poll.poll()}
        for descriptor in ready - {self._end.fileno()}:
            if descriptor in self._running:
                self._on_exit(descriptor)
            else:
                assert self._loader is not None
                self._on_loader_ended(self._loader)
        # Last: a message may open descriptors with the numbers of those that were ready.
        if self._end.fileno() in ready:
            received = receive(self._end, REQUESTS)
            if received is None:
                return False
            self._take(*received)
        return True

    def _take(self, request: Request, descriptors: list[int]) -> None:
        try:
            if len(descriptors) > 0 and not isinstance(request, Start | Succeed):
                raise MessageError("descriptors with a message that has none")
            if isinstance(request, Start | Succeed):
                self._start(request, descriptors)
            elif isinstance(request, Kill):
                self._kill(request)
            elif isinstance(request, Load):
                self._load(request)
            elif isinstance(request, Applied):
                self._tables.apply(request.number)
            else:
                self._end_loader()
        finally:
            close_all(descriptors)

    def _answer(self, reply: Reply, *descriptors: int) -> None:
        send(self._end, packed(reply), descriptors)

    # -- loading

    def _load(self, request: Load) -> None:
        if self._path is None:
            self._path = request.path
        elif request.path is not None:
            raise MessageError("another path of the configuration")
        if self._loading is not None:
            self._end_loader()
        try:
            if not self._loads or self._path is None:
                raise LoadingError("there is no configuration file")
            if self._loader is None:
                self._start_loader()
            assert self._loader is not None
            self._loader.ask(self._path)
        except (OSError, LoadingError) as error:
            self._answer(NotLoaded(request.number, str(error)))
        else:
            self._loading = request.number

    def _start_loader(self) -> None:
        self._loader = Loader()
        self._poll.register(self._loader.pidfd, select.POLLIN)

    def _end_loader(self) -> None:
        """Ends the loader, if there is one: it has no answer."""
        self._loading = None
        if self._loader is not None:
            self._poll.unregister(self._loader.pidfd)
            self._loader.close()
            self._loader = None

    def _on_loader_ended(self, loader: Loader) -> None:
        number = self._loading
        try:
            if number is None:
                return  # the daemon asked it nothing
            outcome_fd, table = loader.take()
            try:
                if table:
                    self._tables.keep(number, rows.decode(table))
                self._answer(Loaded(number), outcome_fd)
            finally:
                os.close(outcome_fd)
        except (LoadingError, msgspec.MsgspecError) as error:
            assert number is not None
            self._answer(NotLoaded(number, str(error)))
        finally:
            self._end_loader()

    # -- programs, and successors

    def _start(self, request: Start | Succeed, descriptors: list[int]) -> None:
        if request.handle <= self._last_handle:
            raise MessageError("a handle that was used before")
        self._last_handle = request.handle
        try:
            if isinstance(request, Succeed):
                row, process = None, self._successor(descriptors)
            else:
                row = self._row(request)
                process = self._starter.program(row, request, descriptors)
            try:
                pidfd = os.pidfd_open(process.pid)
            except OSError as error:  # no descriptor left
                process.kill()
                process.wait()
                raise refused("a process", f"it cannot be watched: {error.strerror}") from None
        except ChildError as error:
            self._answer(Failed(request.handle, str(error), error.reason))
            return
        self._running[pidfd] = _Running(request.handle, process, row)
        self._poll.register(pidfd, select.POLLIN)
        if isinstance(request, Succeed):
            self._answer(Begun(request.handle, process.pid), pidfd)
        elif request.leaves_nothing:
            self._rest.add(request.handle)

    def _successor(self, descriptors: list[int]) -> subprocess.Popen[bytes]:
        if sum(each.row is None for each in self._running.values()) >= SUCCESSORS_MAX:
            raise refused("a successor", f"{SUCCESSORS_MAX} run (SUCCESSORS_MAX)")
        return self._starter.successor(descriptors)

    def _row(self, request: Start) -> rows.Row:
        """The program that is named. Raises ChildError unless it is configured with that place."""
        row = self._tables.row(request.table, request.program)
        if row is None:
            raise refused("a program", "no configuration that was read has it")
        if not self._tables.allows(row, request.place):
            raise refused(row.path, "no configuration that was read has it with these arguments")
        if len(self._running) >= RUNNING_MAX:
            raise refused(row.path, f"{RUNNING_MAX} programs run (RUNNING_MAX)")
        return row

    def _kill(self, request: Kill) -> None:
        for each in self._running.values():
            if each.handle == request.handle:
                if request.rest:
                    self._rest.add(each.handle)
                if each.row is None:
                    kill_successor(each.process, request.signal)
                elif each.alone:
                    each.process.send_signal(request.signal)
                else:
                    kill_group(each.process, request.signal)

    def _on_exit(self, pidfd: int) -> None:
        ended = self._running.pop(pidfd)
        if ended.handle in self._rest:
            self._rest.remove(ended.handle)
            if not ended.alone:
                # Before it is reaped: until then the number of its group cannot be reused.
                kill_group(ended.process, signal.SIGKILL)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._answer(Exited(ended.handle, ended.process.wait()))


def main(end_fd: int, beginning_fd: int) -> int:
    """Serves the daemon at the other end of this socket; returns the exit code."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_NAME, NAME, 0, 0, 0)
    forbid_tracing()
    beginning = msgspec.msgpack.decode(content(beginning_fd), type=Beginning)
    os.close(beginning_fd)
    if beginning.table is None:  # scripts written for ucarp inherit what they find
        inherit_nothing()
        _set_limit(resource.RLIMIT_CORE, 0)  # of programs, too
    for number in LEFT_TO_THE_DAEMON:
        # Not ignored: programs would inherit that.
        signal.signal(number, lambda number, frame: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _set_limit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    os.set_inheritable(end_fd, False)
    Helper(socket.socket(fileno=end_fd), beginning).run()
    return 0


def _set_limit(limit: int, soft: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))
