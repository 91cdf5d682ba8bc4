"""Signals that arrive before there is anything to act on them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from carp_fast.signals import remember, take_remembered


@pytest.fixture
def restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("restored")
def test_each_signal_is_taken_once_in_the_order_of_arrival() -> None:
    remember(signal.SIGHUP, signal.SIGUSR1)
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    assert take_remembered() == [signal.SIGUSR1, signal.SIGHUP]
    assert take_remembered() == []
