"""Orders to a real pump: kept in order, never lost where the ring is full, each wait ended."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from carp_fast import addresses
from carp_fast._prepared import PreparedHost
from carp_fast._pump import Pump
from carp_fast.orders import Orders

DEADLINE_S = 10.0
MAC = b"\x02\0\0\0\0\x01"


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
                if report[0] == "done":
                    orders.on_done(report[10])

        loop.add_reader(pump.report_fd, on_readable)
        pump.start("normal")
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield orders
        finally:
            loop.remove_reader(pump.report_fd)
            pump.stop()
            os.close(silent_fd)


def host(vhid: int) -> PreparedHost:
    address = socket.inet_aton(f"10.0.1.{vhid}")
    return PreparedHost(
        interface=0, vhid=vhid, addresses=[(address, 32)], passphrase=b"secret", counter=1
    )


async def states(orders: Orders, count: int) -> list[str]:
    snapshot = orders.pump.snapshot(0, count)
    await orders.done()
    return [fields["state"] for _, fields in snapshot.hosts()]


def test_what_was_given_has_been_carried_out() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            pump = orders.pump
            given = await orders.give(
                lambda vhid=vhid: pump.add(vhid - 1, host(vhid)) for vhid in range(1, 256)
            )
            assert given == 255
            assert await states(orders, 255) == ["INIT"] * 255

    asyncio.run(scenario())


def test_what_is_posted_beyond_the_room_of_the_ring_stays_in_order() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            pump = orders.pump
            await orders.give([lambda: pump.add(0, host(1))])
            # Far more than the ring holds, in one turn of the loop: the last word must win.
            for number in range(20_000):
                up = number % 2 == 1
                orders.post(
                    lambda up=up: pump.set_interface(
                        0, ifindex=7, up=up, mac=MAC, source=b"\x0a\0\0\x01"
                    )
                )
            await orders.done()
            assert orders.backlog == deque()
            assert await states(orders, 1) == ["BACKUP"]

    asyncio.run(scenario())


def test_every_wait_for_idleness_ends() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            waits = [orders.done(when_idle=True) for _ in range(50)]
            await asyncio.gather(*waits, orders.done(), orders.done(when_idle=True))

    asyncio.run(scenario())


def test_no_wait_is_forgotten() -> None:
    # Reports come while reports are being taken: none of them may lie there unseen.
    async def ask(orders: Orders) -> None:
        for _ in range(400):
            await orders.done()

    async def scenario() -> None:
        async with pump_with_orders() as orders:
            await asyncio.gather(*(ask(orders) for _ in range(20)))

    asyncio.run(scenario())
