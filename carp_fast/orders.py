"""Orders to the pump and their completion: bounded batches, and futures for "done" reports.

Must not know what the orders mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carp_fast._pump import Pump

# Orders handed over between two waits for the pump: it takes 512 a turn, advertisements first.
ORDERS_A_BATCH = 512


class Orders:
    """Hands orders to the pump without ever overrunning its ring."""

    def __init__(self, pump: Pump) -> None:
        self.pump = pump
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def done(self, *, when_idle: bool = False) -> None:
        """Waits until every order so far has been carried out.

        With `when_idle`, until what follows from them (advertisements, addresses, announcements)
        has been carried out, too.
        """
        mark = self.pump.mark(when_idle)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[mark] = future
        await future

    async def give(self, orders: Iterable[Callable[[], object]]) -> int:
        """Gives the orders in batches, each when the one before has been carried out; how many."""
        count = 0
        for order in orders:
            order()
            count += 1
            if count % ORDERS_A_BATCH == 0:
                await self.done()
        await self.done()
        return count

    def post(self, order: Callable[[], object]) -> None:
        """Gives one order from a callback; when the ring is nearly full, a little later."""
        if self.pump.room() > 2 * ORDERS_A_BATCH:
            order()
            self.pump.mark()
        else:
            asyncio.get_running_loop().call_later(0.001, self.post, order)

    def on_done(self, mark: int) -> None:
        """A "done" report came: wakes who waits for this mark."""
        future = self._waiting.pop(mark, None)
        if future is not None and not future.done():
            future.set_result(None)
