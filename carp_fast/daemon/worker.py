"""A thread for work that would block the loop, and that may itself hang for ever.

A file on a dead NFS server blocks its reader in the kernel. So nothing waits for this thread:
neither the end of the process nor, once it was given up, other work. Must not know what the work
is.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Jobs = queue.SimpleQueue[Callable[[], None] | None]


class Worker(Executor):
    """An executor with one thread at a time, which runs its jobs in order.

    Unlike a ThreadPoolExecutor's, the thread does not keep the interpreter from exiting.
    """

    def __init__(self) -> None:
        self._jobs: _Jobs | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Calls `fn` in the thread, after what was submitted before."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._put(job)
        return future

    def give_up(self) -> None:
        """Abandons the thread with its present job; the waiting jobs get another thread.

        The abandoned thread ends when its job does.
        """
        for job in self._leave():
            self._put(job)

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Ends the thread after its present job and drops the others; never waits for it."""
        self._leave()

    def _put(self, job: Callable[[], None]) -> None:
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            thread = threading.Thread(target=_work, args=(self._jobs,), name="worker", daemon=True)
            thread.start()
        self._jobs.put(job)

    def _leave(self) -> list[Callable[[], None]]:
        """Has the thread end after its present job; returns the jobs that wait."""
        left, self._jobs = self._jobs, None
        waiting: list[Callable[[], None]] = []
        if left is not None:
            with contextlib.suppress(queue.Empty):
                while (job := left.get_nowait()) is not None:
                    waiting.append(job)
            left.put(None)
        return waiting


def _work(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
