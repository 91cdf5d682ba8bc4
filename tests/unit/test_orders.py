"""Orders to a real pump: kept in order, never lost where the ring is full, each wait ended."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from carp_fast.daemon.orders import Orders
from carp_fast.engine._prepared import PreparedHost
from tests.support.pumped import pump_with_orders

MAC = b"\x02\0\0\0\0\x01"


def host(vhid: int) -> PreparedHost:
    address = socket.inet_aton(f"10.0.1.{vhid}")
    return PreparedHost(
        interface=0, vhid=vhid, addresses=[(address, 32)], passphrase=b"secret", counter=1
    )


async def states(orders: Orders, count: int) -> list[str]:
    snapshot = orders.pump.snapshot(0, count)
    await orders.done()
    return [fields.state for _, fields in snapshot.hosts()]


def test_what_was_given_has_been_carried_out() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            pump = orders.pump
            given = await orders.give(
                partial(pump.add, vhid - 1, host(vhid)) for vhid in range(1, 256)
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
                    partial(
                        pump.set_interface, 0, ifindex=7, up=up, mac=MAC, source=b"\x0a\0\0\x01"
                    )
                )
            await orders.done()
            assert orders.backlog == deque()
            assert await states(orders, 1) == ["BACKUP"]

    asyncio.run(scenario())


def test_every_wait_for_idleness_ends() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            waits = [orders.done(when_settled=True) for _ in range(50)]
            await asyncio.gather(*waits, orders.done(), orders.done(when_settled=True))

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


def test_there_is_room_for_what_waited_for_it() -> None:
    async def ask(orders: Orders) -> None:
        await orders.room_for(64)
        snapshots = [orders.pump.snapshot(0, 1) for _ in range(64)]
        await orders.done()
        assert all(each.hosts() for each in snapshots)

    async def scenario() -> None:
        async with pump_with_orders() as orders:
            await orders.give([lambda: orders.pump.add(0, host(1))])
            # Sixteen times what the ring holds, of all at once.
            await asyncio.gather(*(ask(orders) for _ in range(1_024)))

    asyncio.run(scenario())


def test_batches_of_many_find_room() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            await orders.give([lambda: orders.pump.add(0, host(1))])
            many = [[lambda: orders.pump.demote(0, 1)] * 1_200 for _ in range(12)]
            given = await asyncio.gather(*(orders.give(each) for each in many))
            assert given == [1_200] * 12

    asyncio.run(scenario())


def test_an_order_is_taken_only_when_it_can_be_given() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            taken: list[int] = []

            def every() -> Iterator[Callable[[], object]]:
                for number in range(1_500):
                    assert orders.pump.room() > 0
                    taken.append(number)
                    yield partial(given.append, number)

            given: list[int] = []
            task = asyncio.create_task(orders.give(every()))
            while not task.done():
                assert taken == given
                await asyncio.sleep(0)
            assert await task == 1_500

    asyncio.run(scenario())


def test_who_waits_for_a_pump_that_has_ended_is_cancelled() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            orders.pump.stop()
            waiting = [
                asyncio.create_task(orders.done(when_settled=when_settled))
                for when_settled in (False, True)
            ]
            await asyncio.sleep(0)
            orders.abandon()
            await asyncio.wait(waiting)
            assert all(task.cancelled() for task in waiting)

    asyncio.run(scenario())


def test_a_snapshot_has_every_host_with_its_own_fields() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            pump = orders.pump
            pump.set_interface(0, ifindex=7, up=True, mac=MAC, source=b"\x0a\0\0\x01")
            await orders.give(partial(pump.add, vhid - 1, host(vhid)) for vhid in range(1, 101))
            snapshot = pump.snapshot(40, 60)
            await orders.done()
            found = [(slot, fields.vhid, fields.peers) for slot, fields in snapshot.hosts()]
            assert found == [(slot, slot + 1, []) for slot in range(40, 100)]

    asyncio.run(scenario())


def test_a_later_mark_ends_the_waits_for_earlier_ones() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            last = orders.pump.mark() + 4
            waits = [asyncio.ensure_future(orders.done()) for _ in range(4)]
            idle = asyncio.ensure_future(orders.done(when_settled=True))
            asyncio.get_running_loop().remove_reader(orders.pump.report_fd)
            await asyncio.sleep(0)
            # Of the reports before it none fitted into the ring.
            orders.on_done(last)
            await asyncio.gather(*waits)
            assert not idle.done()
            orders.on_done(last + 1)
            await idle

    asyncio.run(scenario())
