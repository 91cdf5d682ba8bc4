"""The thread of a load test and the signals that end one: neither spoils what was counted."""

from __future__ import annotations

import os
import signal
import threading

import click
import pytest

from carp_fast.cli.interrupts import EXIT_CODE, PATIENCE, Interrupts
from carp_fast.loadtest.worker import Worker

DEADLINE_S = 60.0


def test_an_interrupted_wait_is_not_the_end_of_the_task() -> None:
    may_end = threading.Event()
    worker = Worker("task", lambda: assert_waited(may_end))
    worker.start()
    interrupt = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        worker.wait(DEADLINE_S)
    assert worker.running
    assert not worker.wait(0)
    may_end.set()
    assert worker.wait()
    assert not worker.running
    interrupt.join()


def assert_waited(event: threading.Event) -> None:
    assert event.wait(DEADLINE_S)


def test_a_worker_that_was_not_started_is_not_waited_for() -> None:
    worker = Worker("task", lambda: None)
    assert not worker.wait()
    assert not worker.running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_noted_until_there_are_too_many(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        interrupts.exit()
        assert not interrupts.came
        for _ in range(PATIENCE - 1):
            signal.raise_signal(number)
        assert interrupts.came
        with pytest.raises(click.exceptions.Exit) as ended:
            interrupts.exit()
        assert ended.value.exit_code == EXIT_CODE
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before
