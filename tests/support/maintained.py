"""A daemon's virtual hosts, orders and peers as maintenance sees them, without a pump."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.config.model import Group
from carp_fast.control.documents import Maintenance
from carp_fast.control.requests import MaintenanceRequest
from carp_fast.daemon.maintenance import MaintenanceMode
from carp_fast.daemon.table import BACKUP, INIT, MASTER, STATES, Hosts

DEADLINE_S = 60.0
PEER = bytes((192, 0, 2, 9))
DOWN_S = 0.2


class Crash(BaseException):
    """Raised at a crash point: nothing after it happens."""


class Machine:
    """A daemon's table of virtual hosts on two interfaces, its orders, and its peers.

    `preempts`: slots that a peer takes over once we are demoted; `adopts`: those that one takes
    over after a resignation. `points`: crash points passed; at `crash_at` it crashes.
    """

    def __init__(
        self, path: Path | None, worker: ThreadPoolExecutor, each: int = 3, group: str = ""
    ) -> None:
        self.path = path
        self.worker = worker
        self.hosts = Hosts()
        for interface in ("eth0", "eth1"):
            for vhid in range(1, each + 1):
                lan = Group(group) if group and vhid == 1 else None
                settings = Settings(passphrase=b"secret", group=lan)
                self.hosts.take(VirtualHost(interface, vhid, (f"192.0.2.{vhid}/24",), (), settings))
        for slot in range(2 * each):
            self.hosts.states[slot] = MASTER
        self.every = set(range(2 * each))
        self.preempts: set[int] = set()
        self.adopts = set(self.every)
        self.heard: set[int] = set()
        self.heard_ns: dict[int, int] = {}
        self.log: list[tuple[Any, ...]] = []
        self.given_s: list[float] = []
        self.points = self.crash_at = 0
        self.pump = self
        self.now = 1_800_000_000.0
        self.tasks: list[asyncio.Task[None]] = []

    def mode(self) -> MaintenanceMode:
        orders: Any = self
        mode = MaintenanceMode(
            self.path,
            self.worker,
            hosts=self.hosts,
            orders=orders,
            snapshots=self.snapshots,
            run=self.run,
            clock=lambda: self.now,
        )
        mode.rate = 10_000
        return mode

    def point(self) -> None:
        self.points += 1
        if self.points == self.crash_at:
            raise Crash

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    # -- orders

    async def give(self, orders: Iterable[Callable[[], object]]) -> None:
        for order in orders:
            order()

    def demote(self, slot: int, amount: int, by: str) -> None:
        self.point()
        assert by == "maintenance"
        self.log.append(("demote", slot, amount))
        if amount and self.hosts.states[slot] == MASTER and slot in self.preempts:
            self.hosts.states[slot] = BACKUP

    def hand_over(self, slot: int, why: str) -> None:
        self.point()
        assert why == "maintenance"
        self.log.append(("hand_over", slot))
        self.given_s.append(time.monotonic())
        self.hosts.states[slot] = BACKUP
        loop = asyncio.get_running_loop()
        if slot in self.adopts:
            loop.call_later(DOWN_S / 2, lambda: self.heard_ns.update({slot: time.monotonic_ns()}))
        else:
            loop.call_later(DOWN_S, lambda: self.hosts.states.__setitem__(slot, MASTER))

    def take_over(self, slot: int) -> None:
        self.point()
        self.log.append(("take_over", slot))
        self.hosts.states[slot] = MASTER

    def withhold(self, slot: int, withheld: bool) -> None:
        self.point()
        self.log.append(("withhold", slot, withheld))
        self.hosts.states[slot] = INIT if withheld else BACKUP

    async def snapshots(self, slots: Iterable[int]) -> AsyncIterator[Iterable[tuple[int, Any]]]:
        yield [(slot, self.copy(slot)) for slot in slots]

    def copy(self, slot: int) -> Any:
        peers = [SimpleNamespace(source=PEER, advbase=1)] if slot in self.heard else []
        return SimpleNamespace(
            state=STATES[self.hosts.states[slot]],
            heard_ns=self.heard_ns.get(slot, 0),
            peer=PEER if slot in self.heard_ns else None,
            peer_advbase=1,
            source=bytes(4),
            source6=bytes(16),
            peers=peers,
        )

    # -- what tests do

    async def ask(self, mode: MaintenanceMode, action: Any, **how: Any) -> Maintenance:
        """A request, and what follows until it is done."""
        answer = await mode.answer(MaintenanceRequest(action, **how))
        await self.settled(mode)
        return answer

    async def settled(self, mode: MaintenanceMode) -> None:
        async with asyncio.timeout(DEADLINE_S):
            for task in self.tasks:
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()

    def words(self) -> list[str]:
        return [word for word, *_ in self.log]

    def slots(self, word: str) -> list[int]:
        return [each[1] for each in self.log if each[0] == word]

    def masters(self) -> set[int]:
        return {slot for slot in self.every if self.hosts.states[slot] == MASTER}
