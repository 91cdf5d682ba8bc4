"""The worker's thread: in order, and given up where it hangs."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from carp_fast.daemon.worker import Worker

DEADLINE_S = 60.0


def test_work_is_done_in_order_by_one_thread() -> None:
    worker = Worker()
    done: list[int] = []
    futures = [worker.submit(done.append, number) for number in range(100)]
    names = {worker.submit(threading.get_ident).result(DEADLINE_S) for _ in range(3)}
    assert [future.result(DEADLINE_S) for future in futures] == [None] * 100
    assert done == list(range(100))
    assert len(names) == 1
    worker.shutdown()


def test_what_work_raises_comes_out_of_its_future() -> None:
    worker = Worker()

    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        worker.submit(fail).result(DEADLINE_S)
    assert worker.submit(int, "7").result(DEADLINE_S) == 7
    worker.shutdown()


def test_cancelled_work_is_not_done() -> None:
    worker, begun, go_on = Worker(), threading.Event(), threading.Event()
    done: list[int] = []

    def hang() -> None:
        begun.set()
        go_on.wait(DEADLINE_S)

    worker.submit(hang)
    assert begun.wait(DEADLINE_S)
    cancelled = worker.submit(done.append, 1)
    assert cancelled.cancel()
    last = worker.submit(done.append, 2)
    go_on.set()
    last.result(DEADLINE_S)
    assert done == [2]
    worker.shutdown()


def test_work_behind_one_that_hangs_is_done_once_that_is_given_up() -> None:
    worker, begun, go_on = Worker(), threading.Event(), threading.Event()

    def hang() -> str:
        begun.set()
        go_on.wait(DEADLINE_S)
        return "late"

    hanging: Future[str] = worker.submit(hang)
    assert begun.wait(DEADLINE_S)
    behind = worker.submit(str, "behind")
    worker.give_up()
    assert behind.result(DEADLINE_S) == "behind"
    assert worker.submit(str, "after").result(DEADLINE_S) == "after"
    assert not hanging.done()
    go_on.set()
    assert hanging.result(DEADLINE_S) == "late"
    worker.shutdown()


def test_a_process_ends_although_its_worker_hangs() -> None:
    program = (
        "import threading\n"
        "from carp_fast.daemon.worker import Worker\n"
        "worker = Worker()\n"
        "worker.submit(threading.Event().wait)\n"
        "worker.shutdown(wait=False, cancel_futures=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=DEADLINE_S, check=False)
    assert done.returncode == 0
