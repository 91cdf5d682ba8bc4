"""A real pump in a thread, without a wire, for tests of who gives it orders."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from carp_fast.daemon.orders import Orders
from carp_fast.engine.reports import Done
from carp_fast.net import addresses
from carp_fast.pump._pump import Pump

DEADLINE_S = 60.0


@asynccontextmanager
async def pump_with_orders() -> AsyncIterator[Orders]:
    """A pump without a wire, in a thread of its own, and its orders."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        silent_fd = os.eventfd(0)
        pump = Pump([("packet", silent_fd)], silent_fd, netlink.fileno(), addresses.templates())
        orders = Orders(pump)

        def on_readable() -> None:
            for report in pump.take_reports(1000):
                if isinstance(report, Done):
                    orders.on_done(report.mark)

        loop.add_reader(pump.report_fd, on_readable)
        pump.start("normal")
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield orders
        finally:
            loop.remove_reader(pump.report_fd)
            pump.stop()
            os.close(silent_fd)
