"""A pump that is to freeze while the kernel does not answer."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator

import pytest

from carp_fast.engine.reports import StateChanged
from carp_fast.net import addresses
from carp_fast.pump._pump import Pump
from tests.support.segment import ip, prepared

DEADLINE_S = 60.0


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """What stands for the netlink socket, and its far end: a request waits until that is read."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                near.send(b"full")
        near.setblocking(True)
        far.setblocking(False)
        yield near, far


def test_what_hangs_is_named_and_the_pump_goes_on(
    kernel: tuple[socket.socket, socket.socket],
) -> None:
    near, far = kernel
    silent_fd = os.eventfd(0)
    pump = Pump([("packet", silent_fd)], silent_fd, near.fileno(), addresses.templates())
    try:
        pump.set_interface(0, ifindex=1, up=True, mac=bytes(6), source=ip("10.77.0.2"))
        pump.add(0, prepared(advbase=0, advskew=8, dead_ratio=1))
        pump.mark()
        pump.start_netlink("normal")
        states: list[str] = []
        end_at = time.monotonic() + DEADLINE_S
        while "MASTER" not in states:
            assert time.monotonic() < end_at
            select.select([pump.epoll_fd], [], [], DEADLINE_S)
            pump.run_due()
            states += [r.state for r in pump.take_reports() if isinstance(r, StateChanged)]
        with pytest.raises(TimeoutError, match="1 changes of addresses have no outcome"):
            pump.freeze(0.05)
        with pytest.raises(RuntimeError, match="not frozen"):
            pump.resume()
        while select.select([far], [], [], 0)[0]:
            far.recv(1 << 16)
        pump.freeze(DEADLINE_S)
        assert pump.export_state(bytearray(pump.state_size())) > 0
        pump.run_due()  # does nothing
        pump.resume()
    finally:
        pump.stop()
        os.close(silent_fd)
