"""Orders to the pump and their completion: bounded batches, and futures for "done" reports.

Must not know what the orders mean.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carp_fast.pump._pump import Pump

# Orders given between two waits for the pump: it takes 512 per turn, after advertisements.
ORDERS_A_BATCH = 512
RETRY_S = 0.001  # until the pump has taken some orders of a nearly full ring
STEPS_A_SECOND = 50  # of what is paced

Order = Callable[[], object]


class Orders:
    """Gives orders to the pump without overrunning its ring."""

    def __init__(self, pump: Pump) -> None:
        self.pump = pump
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._waiting_settled: dict[int, asyncio.Future[None]] = {}
        self.backlog: deque[Order] = deque()  # posted, but not given yet
        self._giving = self._held = False
        self._mark_due = False

    async def done(self, *, when_settled: bool = False) -> None:
        """Waits until every order so far has been carried out.

        With `when_settled`, also waits until what follows from them (advertisements, addresses,
        announcements) has been carried out.
        """
        pause_s = 0.0  # what was posted in this turn is given in the next
        while self.backlog or self.pump.room() == 0:
            await asyncio.sleep(pause_s)
            pause_s = RETRY_S
        mark = self.pump.mark(when_settled)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting_settled if when_settled else self._waiting)[mark] = future
        await future

    async def room_for(self, count: int) -> None:
        """Waits until `count` orders, a few hundred at most, and a mark fit into the ring."""
        while self.pump.room() <= count:
            await asyncio.sleep(RETRY_S)

    async def give(self, orders: Iterable[Order]) -> int:
        """Gives the orders in batches, each when the previous one is carried out; returns their
        number.
        """
        count, rest, last = 0, iter(orders), False
        while not last:
            # An order may change a table when it is taken, so not before it can be given.
            await self.room_for(ORDERS_A_BATCH)
            before = count
            for order in itertools.islice(rest, ORDERS_A_BATCH):
                order()
                count += 1
            last = count - before < ORDERS_A_BATCH
            await self.done()
        return count

    def post(self, order: Order) -> None:
        """Gives one order from a callback, after this turn of the loop or a little later.

        Posted orders stay in order: of two about one link the later one must win. All that were
        posted in one turn share one mark, since the pump reserves room for that many reports.
        """
        self.backlog.append(order)
        if not self._giving:
            self._giving = True
            asyncio.get_running_loop().call_soon(self._give_backlog)

    def hold(self) -> None:
        """Gives nothing that is posted until release(): the pump does not run yet."""
        self._held = True

    def release(self) -> None:
        """Gives what was posted since hold()."""
        self._held = False
        if self.backlog and not self._giving:
            self._giving = True
            asyncio.get_running_loop().call_soon(self._give_backlog)

    def carry_out(self, orders: Iterable[Order]) -> None:
        """Gives orders, after those that were posted, to a pump that does not run yet."""
        posted, self.backlog = self.backlog, deque()
        for number, order in enumerate(itertools.chain(posted, orders)):
            if number % ORDERS_A_BATCH == 0:
                self.pump.carry_out_orders()
            order()
        self.pump.carry_out_orders()

    def _give_backlog(self) -> None:
        self._giving = False
        if self._held:
            return
        gave = False
        while self.backlog and self.pump.room() > 2 * ORDERS_A_BATCH:
            self.backlog.popleft()()
            gave = True
        if gave:
            self.pump.mark()
        if self.backlog:
            self._giving = True
            asyncio.get_running_loop().call_later(RETRY_S, self._give_backlog)

    def abandon(self) -> None:
        """Cancels all waits, because the pump has ended."""
        for future in [*self._waiting.values(), *self._waiting_settled.values()]:
            future.cancel()

    def on_done(self, mark: int) -> None:
        """Handles a "done" report: ends the waits for this mark.

        It stands for those of earlier orders, too, which may not have fitted into the ring.
        """
        if mark in self._waiting_settled:
            # The pump remembers only the last mark, and is done with all before it.
            ended = [each for each in self._waiting_settled if each <= mark]
            futures = [self._waiting_settled.pop(each) for each in ended]
        else:
            ended = [each for each in self._waiting if each <= mark]
            futures = [self._waiting.pop(each) for each in ended]
        for future in futures:
            if not future.done():
                future.set_result(None)


async def at_the_pace(
    orders: Orders, wanted: Iterator[Order], rate: Callable[[], int]
) -> AsyncIterator[None]:
    """Gives orders at the rate, `rate()` a second, a step after the other; yields after each."""
    due_s = time.monotonic()
    while batch := list(itertools.islice(wanted, max(1, rate() // STEPS_A_SECOND))):
        await orders.give(batch)
        yield
        due_s = max(due_s + len(batch) / rate(), time.monotonic())
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
