"""Hooks: programs and functions that run when a virtual host becomes MASTER or ceases to be.

Holds `Hooks`, which runs `up` and `down`, one after the other for each virtual host, and what it
shares with other runners of them; the long-lived program of `daemon.notify` is in notify. Must not
know the engine or what is configured; nothing here waits, so no hook ever blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import inspect
import logging
import signal
import threading
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from carp_fast.config.model import is_function
from carp_fast.config.writers import Writers
from carp_fast.daemon.hook_figures import HookFigures
from carp_fast.daemon.host_log import HostLog
from carp_fast.errors import CarpFastError
from carp_fast.programs.children import printable
from carp_fast.programs.launching import DirectLauncher, Launcher, Running, reap
from carp_fast.programs.spawning import ChildError, Program, ending
from carp_fast.programs.starting import Starting

logger = logging.getLogger(__name__)

OUTPUT_BYTES_MAX = 4_096  # per hook, kept for the log; what follows is counted
KILL_AFTER_S = 2.0  # between SIGTERM and SIGKILL
SLOW_S = 10.0  # a hook that still runs then is logged
ABANDONED_MAX = 16  # functions that still run after their timeout, since no thread can be ended


class HookError(CarpFastError):
    """Raised when a hook cannot be used; one line says which and why."""


class Hook(msgspec.Struct, frozen=True):
    """A hook and its arguments, for one change of one virtual host.

    `target` is the path of a program, run as `target interface address [xparam]`, or
    "module:function". `address` is the first one, without prefix length. `environment` has the
    CARP_* variables by their full names, which a program gets besides PATH and LANG; a function
    gets them in a dict, in lower case, without "CARP_".
    """

    event: Literal["up", "down"]
    target: str
    interface: str
    address: str
    xparam: str | None
    environment: dict[str, str]


class HookResult(msgspec.Struct, frozen=True):
    """How a hook ended.

    `exit_status` is negative for a signal, 0 for a function that returned, None if there was none:
    `error`, `timed_out` or `superseded` (not run) tells why.
    """

    event: Literal["up", "down"]
    exit_status: int | None = None
    duration_s: float = 0.0
    output: str = ""
    error: str | None = None
    timed_out: bool = False
    superseded: bool = False

    @property
    def ok(self) -> bool:
        return self.exit_status == 0

    @property
    def outcome(self) -> Literal["ok", "failed", "timeout", "superseded"]:
        """The result in one word."""
        if self.superseded:
            return "superseded"
        if self.timed_out:
            return "timeout"
        return "ok" if self.ok else "failed"


def program_of(hook: Hook, *, inherits: bool = False) -> Program:
    """The program that runs a hook, with its arguments as ucarp gives them."""
    more = () if hook.xparam is None else (hook.xparam,)
    return Program(hook.target, (hook.interface, hook.address), more, inherits)


Done = Callable[[HookResult], None]
Function = Callable[[dict[str, str]], Any]


class HookRunner(Protocol):
    """Runs hooks for a daemon."""

    def prepare(self, target: str) -> None:
        """Checks whether a hook can be run. Raises HookError."""

    def submit(self, key: Hashable, name: str, hook: Hook, done: Done | None = None) -> None:
        """Runs a hook after those of the same virtual host, `key`, and of others with one of its
        addresses; `done` is called with its result.
        """

    async def drain(self, deadline_s: float) -> tuple[str, ...]:
        """Waits until nothing runs or waits, or `deadline_s`; returns what has not ended."""
        ...

    def close(self) -> None:
        """Stops: no hook is run afterwards."""


Place = tuple[str, str]  # an interface and an address without its prefix length


class _Job(msgspec.Struct, frozen=True, eq=False):
    key: Hashable
    name: str  # "eth0/7", for the log
    hook: Hook
    done: Done | None
    places: frozenset[Place]  # that the hook may change

    @property
    def what(self) -> str:
        return f"{self.hook.event} {self.hook.target}"

    @property
    def label(self) -> str:
        return f"{self.name}: {self.what}"


def load_function(target: str) -> Function:
    """Imports "module:function".  Raises HookError."""
    module, _, path = target.partition(":")
    _check_writers(target, module)
    try:
        found = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:  # whatever a module raises when it is imported
        raise HookError(f"cannot import {target}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise HookError(f"{target} is not a function but {type(found).__name__}")
    return found


def _check_writers(target: str, module: str) -> None:
    """Raises HookError if everybody may write the file of a module, before that is imported."""
    parts, writers = module.split("."), Writers()
    for count in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:count]))  # imports those before it
        except (Exception, SystemExit):
            return  # the import itself reports it
        if spec is None or spec.origin is None or not spec.has_location:
            continue
        for each in writers.of(Path(spec.origin)):
            if each.to_all:
                raise HookError(f"cannot import {target}: {spec.origin}: {each.text}")
            logger.warning("%s: %s: %s", target, spec.origin, each.text)


class _Run(ABC):
    """A running hook: its timers, and its one result."""

    def __init__(self, hooks: Hooks, job: _Job) -> None:
        self.hooks = hooks
        self.job = job
        self.loop = hooks.loop
        self.started_at = self.loop.time()
        self.timed_out = False
        self.timers = [
            self.loop.call_later(SLOW_S, self._on_slow),
            self.loop.call_later(hooks.timeout_s, self._on_timeout),
        ]

    @abstractmethod
    def start(self) -> None:
        """Starts it. Raises ChildError or HookError."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it after its timeout; Hooks.finished() is called when it has ended."""

    @abstractmethod
    def abandon(self) -> list[Running]:
        """Ends it now; nothing more is logged or reported. Returns what is to be reaped."""

    @property
    def duration_s(self) -> float:
        return self.loop.time() - self.started_at

    def cancel_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()

    def _on_slow(self) -> None:
        self.hooks.log(self.job, logging.WARNING, f"still running after {SLOW_S:g} s")

    def _on_timeout(self) -> None:
        self.timed_out = True
        self.hooks.timed_out += 1
        self.hooks.log(self.job, logging.ERROR, f"not finished within {self.hooks.timeout_s:g} s")
        # The result is reported at the timeout, however the hook ends.
        result = HookResult(self.job.hook.event, None, self.duration_s, timed_out=True)
        self.hooks.tell(self.job, result)
        self.stop()


class _ScriptRun(_Run):
    output = b""
    output_bytes = 0
    child: Running | None = None

    def start(self) -> None:
        hook = self.job.hook
        self.child = self.hooks.launcher.launch(
            program_of(hook), hook.environment, self._on_output, self._on_exit, self._on_failed
        )

    def stop(self) -> None:
        assert self.child is not None
        self.child.terminate()
        self.timers.append(self.loop.call_later(KILL_AFTER_S, self._on_deaf))

    def abandon(self) -> list[Running]:
        if self.child is None:
            return []
        self.child.abandon()
        return [self.child]

    def _on_deaf(self) -> None:
        assert self.child is not None
        text = f"ignored SIGTERM for {KILL_AFTER_S:g} s, sending SIGKILL"
        self.hooks.log(self.job, logging.ERROR, text)
        self.child.kill(signal.SIGKILL)

    def _on_output(self, data: bytes) -> None:
        self.output += data[: OUTPUT_BYTES_MAX - len(self.output)]
        self.output_bytes += len(data)

    def _on_exit(self, exit_status: int) -> None:
        for line in printable(self.output):
            self.hooks.log(self.job, logging.INFO, line, kind="a line of output")
        if self.output_bytes > len(self.output):
            more = self.output_bytes - len(self.output)
            unshown = "more bytes of output not shown"
            self.hooks.log(self.job, logging.WARNING, f"{more} {unshown}", kind=unshown)
        level = logging.INFO if exit_status == 0 else logging.WARNING
        ended = ending(exit_status)
        self.hooks.log(self.job, level, f"{ended} after {self.duration_s:.3f} s", kind=ended)
        text = self.output.decode("utf-8", "replace")
        self.hooks.finished(
            self, HookResult(self.job.hook.event, exit_status, self.duration_s, text)
        )

    def _on_failed(self, error: ChildError) -> None:
        self.hooks.not_run(self, error)


class _FunctionRun(_Run):
    task: asyncio.Task[BaseException | None] | None = None
    left = False  # it still runs, but its result is no longer awaited

    def start(self) -> None:
        hook = self.job.hook
        if self.hooks.abandoned >= ABANDONED_MAX:
            raise HookError(f"{ABANDONED_MAX} functions still run after their timeout")
        function = self.hooks.function(hook.target)
        fields = {k.removeprefix("CARP_").lower(): v for k, v in hook.environment.items()}
        call = getattr(function, "__call__", function)  # noqa: B004 (an object may be async, too)
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
            self.task = self.loop.create_task(_outcome(function(fields)))
            self.task.add_done_callback(self._on_task_done)
        else:
            threading.Thread(
                target=self._work, args=(function, fields), name=self.job.label, daemon=True
            ).start()

    def stop(self) -> None:
        if self.task is None:
            self._leave()
        else:
            self.task.cancel()
            self.timers.append(self.loop.call_later(KILL_AFTER_S, self._leave))

    def abandon(self) -> list[Running]:
        self.left = True
        self.hooks.abandoned += 1
        if self.task is not None:
            self.task.cancel()
        return []

    def _work(self, function: Function, fields: dict[str, str]) -> None:
        """Runs in the function's own thread."""
        outcome: BaseException | None = None
        try:
            function(fields)
        except BaseException as error:  # the thread is at its end, and the loop gets it
            outcome = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, the daemon has left
            self.loop.call_soon_threadsafe(self._on_done, outcome)

    def _on_task_done(self, task: asyncio.Task[BaseException | None]) -> None:
        self._on_done(asyncio.CancelledError() if task.cancelled() else task.result())

    def _leave(self) -> None:
        self.left = True
        self.hooks.abandoned += 1
        self.hooks.log(self.job, logging.ERROR, "still runs and cannot be ended")
        self.hooks.finished(self, HookResult(self.job.hook.event, None, self.duration_s))

    def _on_done(self, outcome: BaseException | None) -> None:
        if self.left:
            self.hooks.abandoned -= 1
            text = "ended at last"
            self.hooks.log(
                self.job, logging.WARNING, f"{text}, after {self.duration_s:.3f} s", kind=text
            )
            return
        error = None
        if outcome is not None:
            error = f"{type(outcome).__name__}: {outcome}".rstrip(": ")
            traceback = None if isinstance(outcome, asyncio.CancelledError) else outcome
            self.hooks.log(self.job, logging.WARNING, error, error=traceback)
        else:
            text = f"done after {self.duration_s:.3f} s"
            self.hooks.log(self.job, logging.INFO, text, kind="done")
        self.hooks.finished(
            self,
            HookResult(self.job.hook.event, None if error else 0, self.duration_s, error=error),
        )


async def _outcome(call: Coroutine[Any, Any, Any]) -> BaseException | None:
    """The exception of a coroutine: if the task raised it, SystemExit would end the daemon."""
    try:
        await call
    except (Exception, SystemExit) as error:
        return error
    return None


def _places(hook: Hook) -> frozenset[Place]:
    """The first address of a virtual host, and all others that the environment names."""
    every = hook.environment.get("CARP_ADDRESSES", "").split()
    return frozenset(
        (hook.interface, address.partition("/")[0]) for address in (hook.address, *every)
    )


class Hooks:
    """Runs hooks, in order for each key and for each address, at most `concurrency` at a time.

    If several wait for one key, the last one runs and the others are superseded: only the current
    state of the virtual host matters. A running hook is never interrupted for that. Hooks of
    different keys that have an address in common, as `down` of a removed virtual host and `up` of
    the one that a reload adds in its place, all run, in order.

    `launcher`: starts the programs; without one they are children of this process.

    Counters: `started`, `failed` (could not be run, or did not exit with 0), `timed_out`,
    `superseded`. All methods must be called on the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        concurrency: int = 16,
        timeout_s: float = 30.0,
        *,
        launcher: Launcher | None = None,
    ) -> None:
        self.loop = loop
        self.launcher: Launcher = launcher or DirectLauncher(loop)
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.started = self.failed = self.timed_out = self.superseded = 0
        self.figures = HookFigures()
        self._host_log = HostLog(loop.call_later)
        self.abandoned = 0  # functions that still run after their timeout
        self._functions: dict[str, Function] = {}
        self._waiting: dict[Hashable, _Job] = {}
        self._running: dict[Hashable, _Run] = {}
        # What waits or runs, by place, in order: the first may run.
        self._places: dict[Place, deque[_Job]] = {}
        # Keys for which the job that waits may start, in order.
        self._ready: OrderedDict[Hashable, None] = OrderedDict()
        self._starting = Starting(loop, self._may_start_one, self._start_next)
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return self._idle.is_set()

    @property
    def counters(self) -> tuple[int, int, int, int]:
        """`started`, `failed`, `timed_out` and `superseded`."""
        return self.started, self.failed, self.timed_out, self.superseded

    def count_on(self, counters: tuple[int, int, int, int]) -> None:
        """Goes on with the `counters` of another process."""
        self.started, self.failed, self.timed_out, self.superseded = counters

    def prepare(self, target: str) -> None:
        """Imports a "module:function", so that its faults show before it is needed.

        Does nothing for a path. Raises HookError.
        """
        if is_function(target):
            self.function(target)

    def function(self, target: str) -> Function:
        """The function named by "module:function", imported once. Raises HookError."""
        if target not in self._functions:
            self._functions[target] = load_function(target)
        return self._functions[target]

    def submit(self, key: Hashable, name: str, hook: Hook, done: Done | None = None) -> None:
        """Queues the hook; nothing is started within this call.

        Hooks with the same `key` run in order, see Hooks; `name` ("eth0/7") appears in the log.
        `done` is called once: when the hook has ended, at its timeout, or if it will not be run.
        """
        job = _Job(key, name, hook, done, _places(hook))
        if self._closed:
            self._refuse(job, "not run, the daemon ends")
            return
        self._idle.clear()
        before = self._waiting.get(key)
        self._waiting[key] = job
        for place in job.places:
            self._places.setdefault(place, deque()).append(job)
        if before is not None:
            self._leave_places(before)
        self._offer(job)
        if before is not None:
            self.superseded += 1
            self.log(before, logging.INFO, f"not run, superseded by {hook.event}")
            self.tell(before, HookResult(before.hook.event, superseded=True))
        self._starting.soon()

    async def drain(self, deadline_s: float) -> tuple[str, ...]:
        """Waits until nothing runs or waits, or for `deadline_s`.

        Returns the labels of what has not ended, which is logged, too.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
        except TimeoutError:
            jobs = [run.job for run in self._running.values()] + list(self._waiting.values())
            for job in jobs:
                self.log(job, logging.ERROR, f"still not finished after {deadline_s:g} s")
            return tuple(job.label for job in jobs)
        return ()

    def present(self) -> tuple[Counter[str], Counter[str]]:
        """The number of hooks that run, and of those that wait, by kind."""
        running: Counter[str] = Counter(run.job.hook.event for run in self._running.values())
        return running, Counter(job.hook.event for job in self._waiting.values())

    def close(self) -> None:
        """Kills what runs and refuses what waits; called after `drain`."""
        self._closed = True
        for job in list(self._waiting.values()):
            self._refuse(job, "not run, the daemon ends")
        self._waiting.clear()
        self._ready.clear()
        self._places.clear()
        killed: list[Running] = []
        for run in list(self._running.values()):
            run.cancel_timers()
            killed += run.abandon()
            if not run.timed_out:
                self._refuse(run.job, "killed, the daemon ends")
        self._running.clear()
        reap(killed)
        self._idle.set()
        self._host_log.flush()

    def log(
        self,
        job: _Job,
        level: int,
        text: str,
        *,
        kind: str = "",
        error: BaseException | None = None,
    ) -> None:
        """Logs a line about a hook; `kind` and `error` as in HostLog.log()."""
        what, name = job.what, job.hook.environment.get("CARP_NAME")
        line, kind = f"{what}: {text}", f"{what}: {kind or text}"
        fields = {"name": name} if name else {}
        self._host_log.log(level, job.name, line, kind, error=error, fields=fields)

    def finished(self, run: _Run, result: HookResult) -> None:
        """Handles the end of a run: the next of its key may start."""
        run.cancel_timers()
        key = run.job.key
        del self._running[key]
        self._leave_places(run.job)
        if key in self._waiting:
            self._offer(self._waiting[key])
        if not run.timed_out:
            self.failed += not result.ok
            self.tell(run.job, result)
        if not self._running and not self._waiting:
            self._idle.set()
        self._starting.soon()

    def not_run(self, run: _Run, error: CarpFastError) -> None:
        """Handles that a hook could not be started, or that how it ends will not be known."""
        self.log(run.job, logging.ERROR, str(error))
        self.finished(run, HookResult(run.job.hook.event, error=str(error)))

    def tell(self, job: _Job, result: HookResult) -> None:
        """Counts a result and passes it to its callback, whose exceptions are logged."""
        self.figures.note(result.event, result.outcome, result.duration_s)
        if job.done is None:
            return
        try:
            job.done(result)
        except Exception:
            logger.exception("%s: the callback for its result failed", job.label)

    def _refuse(self, job: _Job, reason: str) -> None:
        self.failed += 1
        self.log(job, logging.ERROR, reason)
        self.tell(job, HookResult(job.hook.event, error=reason))

    def _leave_places(self, job: _Job) -> None:
        """Removes a job that has ended or was superseded; the next of its places may start."""
        for place in job.places:
            jobs = self._places[place]
            jobs.remove(job)
            if jobs:
                self._offer(jobs[0])
            else:
                del self._places[place]

    def _offer(self, job: _Job) -> None:
        """Has a job start soon, if nothing keeps it back."""
        if self._may_start(job):
            self._ready[job.key] = None

    def _may_start(self, job: _Job) -> bool:
        return (
            self._waiting.get(job.key) is job
            and job.key not in self._running
            and all(self._places[place][0] is job for place in job.places)
        )

    def _may_start_one(self) -> bool:
        return bool(self._ready) and len(self._running) < self.concurrency

    def _start_next(self) -> None:
        key, _ = self._ready.popitem(last=False)
        job = self._waiting.get(key)
        if job is None or not self._may_start(job):
            return  # another one waits now, for one that came before it
        del self._waiting[key]
        self._start(job)

    def _start(self, job: _Job) -> None:
        run = (_FunctionRun if is_function(job.hook.target) else _ScriptRun)(self, job)
        self._running[job.key] = run
        try:
            run.start()
        except (ChildError, HookError) as error:
            self.not_run(run, error)
        else:
            self.started += 1
