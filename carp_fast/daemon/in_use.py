"""Virtual hosts that another process of this machine has: they wait until it gives them up.

Takes the locks as interfaces and virtual hosts come and go, and informs the engine of those that
another process has. Must not know addresses, hooks or the control socket.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from carp_fast.daemon.locks import Locks, named
from carp_fast.daemon.table import Hosts, by_interface

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.orders import Orders

logger = logging.getLogger(__name__)

RETRY_S = 1.0  # between attempts to lock what another process has
UNKNOWN = "another process"


class InUseState(msgspec.Struct, forbid_unknown_fields=True):
    """What a process knows of the locks, for its successor, which gets their file as well.

    `ifindexes` by interface number; `held`: (slot, ifindex) of locks; `waiting`: (interface number,
    destination, slots).
    """

    ifindexes: dict[int, int] = {}
    held: list[tuple[int, int]] = []
    barred: dict[int, str] = {}
    locked_out: set[int] = set()
    overheard: set[int] = set()
    waiting: list[tuple[int, str, set[int]]] = []


class InUse:
    """Follows which process has the virtual hosts of this daemon.

    `barred`: those that another process has, by slot, with a description of the process.
    `locked_out` are those of them whose lock it has, `overheard` those that it was heard to
    advertise. `locks`: None: none can be taken, and every virtual host is this process's.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        worker: Executor,
        locks: Locks | None,
    ) -> None:
        self.barred: dict[int, str] = {}
        self.locked_out: set[int] = set()
        self.overheard: set[int] = set()
        self._hosts = hosts
        self._orders = orders
        self._worker = worker
        self._ifindexes: dict[int, int] = {}  # by interface number; only those that exist
        self._held = array("i")  # by slot: the ifindex of its lock, 0: none
        # The slots that wait for a lock, by interface number and the destination that is locked.
        self._waiting: dict[tuple[int, str], set[int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._locks = locks

    def close(self) -> None:
        """Tries no longer to lock what another process has."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    @property
    def descriptor(self) -> int | None:
        """The lock file; None: it could not be opened."""
        return None if self._locks is None else self._locks.fileno()

    @property
    def state(self) -> InUseState:
        """What a successor has to go on with."""
        return InUseState(
            dict(self._ifindexes),
            [(slot, ifindex) for slot, ifindex in enumerate(self._held) if ifindex],
            dict(self.barred),
            set(self.locked_out),
            set(self.overheard),
            [(number, text, slots) for (number, text), slots in self._waiting.items() if slots],
        )

    def go_on(self, state: InUseState, locks: Locks | None) -> None:
        """Goes on with the state of another process, and the locks that it has passed on."""
        self._locks = locks
        self._ifindexes = state.ifindexes
        self._held = array("i", bytes(4 * len(self._hosts.hosts)))
        for slot, ifindex in state.held:
            self._held[slot] = ifindex
        self.barred.clear()  # others have it
        self.barred.update(state.barred)
        self.locked_out, self.overheard = state.locked_out, state.overheard
        self._waiting = {(number, text): slots for number, text, slots in state.waiting}
        if self._waiting and self._locks is not None:
            self._try_again_later(self._locks)

    def on_ifindex(self, number: int, ifindex: int) -> None:
        """Handles that an interface has another ifindex, 0 if it is gone.

        Must be called before the engine is informed, and before anything there is taken for ours.
        """
        if self._ifindexes.get(number, 0) == ifindex:
            return
        self._ifindexes[number] = ifindex
        slots = list(self._hosts.slots[number])
        for slot in slots:
            self._give_back(slot, self._hosts.hosts[slot])
        if not ifindex:
            return
        wanted = [
            (host.vhid, host.destinations) for slot in slots if (host := self._hosts.hosts[slot])
        ]
        if self._locks is not None and wanted and _all_at_once(self._locks, ifindex, wanted):
            for slot in slots:
                self._note_held(slot, ifindex)
        else:
            self._log_soon([slot for slot in slots if not self.take(slot)])

    def take(self, slot: int) -> bool:
        """Whether this process has a virtual host now, or its interface does not exist yet."""
        host = self._hosts.hosts[slot]
        return host is None or self._take(slot, host)

    def _take(self, slot: int, host: VirtualHost) -> bool:
        ifindex = self._ifindexes.get(self._hosts.number(host.interface), 0)
        if not ifindex or self._locks is None:
            return True
        try:
            destination = self._locks.take(ifindex, host.vhid, host.destinations)
        except OSError as error:
            logger.warning("%s: cannot be locked: %s", host.name, error.strerror)
            destination = None
        if destination is None:
            self._note_held(slot, ifindex)
            return True
        self._waiting.setdefault((self._hosts.number(host.interface), destination), set()).add(slot)
        self.locked_out.add(slot)
        self._bar(slot)
        self._try_again_later(self._locks)
        return False

    def take_new(self, slot: int) -> bool:
        """As take(), for a virtual host that a reload adds; logs which process has it."""
        taken = self.take(slot)
        if not taken:
            self._log_soon([slot])
        return taken

    def on_replace(self, slot: int, now: VirtualHost) -> None:
        """Prepares a change of a virtual host by a reload, which may change its destinations."""
        before = self._hosts.hosts[slot]
        if before is None or before.destinations == now.destinations:
            return
        self._give_back(slot, before)
        if not self._take(slot, now):
            self._log_soon([slot])

    def on_released(self, slot: int) -> None:
        """Handles that a virtual host has left; the slot still has it."""
        self._give_back(slot, self._hosts.hosts[slot])
        self.barred.pop(slot, None)
        self.locked_out.discard(slot)
        self.overheard.discard(slot)

    def overhear(self, slot: int, owner: str) -> None:
        """Handles that another process was heard to advertise a virtual host, without having its
        lock.
        """
        self.overheard.add(slot)
        self._bar(slot)
        self.barred[slot] = owner

    def free(self, slot: int) -> None:
        """Handles that this process is no longer heard."""
        self.overheard.discard(slot)
        if self._unbar(slot):
            logger.info("%s: no longer in_use, takes part", self._hosts.name(slot))

    def ours(self, found: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Addresses by interface, without those of virtual hosts that another process has."""
        if not self.barred:
            return dict(found)
        used = [host for slot, host in self._hosts.used() if slot not in self.barred]
        kept = by_interface(used)
        barred = by_interface(host for slot, host in self._hosts.used() if slot in self.barred)
        theirs = {name: {*texts}.difference(kept.get(name, ())) for name, texts in barred.items()}
        return {
            name: [text for text in texts if text not in theirs.get(name, ())]
            for name, texts in found.items()
        }

    def _note_held(self, slot: int, ifindex: int) -> None:
        if slot >= len(self._held):
            self._held.extend([0] * (slot + 1 - len(self._held)))
        self._held[slot] = ifindex
        self.locked_out.discard(slot)
        self._unbar(slot)

    def _give_back(self, slot: int, host: VirtualHost | None) -> None:
        for waiting in self._waiting.values():
            waiting.discard(slot)
        if slot < len(self._held) and self._held[slot] and host and self._locks is not None:
            self._locks.give_back(self._held[slot], host.vhid, host.destinations)
            self._held[slot] = 0

    def _bar(self, slot: int) -> None:
        if slot not in self.barred:
            self.barred[slot] = UNKNOWN
            self._order_bar(slot, True)

    def _unbar(self, slot: int) -> bool:
        """Returns whether no other process has a virtual host now; if so, informs the engine."""
        if slot not in self.barred or slot in self.locked_out or slot in self.overheard:
            return False
        del self.barred[slot]
        self._order_bar(slot, False)
        return True

    def _order_bar(self, slot: int, barred: bool) -> None:
        pump = self._orders.pump
        self._orders.post(self._hosts.only_now(slot, lambda: pump.bar(slot, barred)))

    # -- trying again

    def _try_again_later(self, locks: Locks) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(RETRY_S, self._try_again, locks)

    def _try_again(self, locks: Locks) -> None:
        self._timer = None
        self._waiting = {key: slots for key, slots in self._waiting.items() if slots}
        freed: list[int] = []
        for (number, destination), slots in list(self._waiting.items()):
            ifindex = self._ifindexes.get(number, 0)
            if ifindex and self._may_be_free(locks, ifindex, destination, slots):
                for slot in sorted(slots):
                    slots.discard(slot)
                    if self.take(slot):
                        freed.append(slot)
        if freed:
            logger.info("%s: no longer in_use, takes part", self._listed(freed))
        if any(self._waiting.values()):
            self._try_again_later(locks)

    def _may_be_free(
        self, locks: Locks, ifindex: int, destination: str, slots: Iterable[int]
    ) -> bool:
        """Whether no other process has all of these: one query instead of one for each."""
        vhids = [host.vhid for slot in slots if (host := self._hosts.hosts[slot]) is not None]
        if not vhids:
            return False
        first, last = min(vhids), max(vhids)
        taken = locks.conflict(ifindex, destination, first, last)
        return not (taken.start <= first and last < taken.stop)

    # -- log messages

    def _log_soon(self, slots: list[int]) -> None:
        """Logs soon which process has these virtual hosts."""
        if slots and self._locks is not None:
            task = asyncio.get_running_loop().create_task(self._log_owners(self._locks, slots))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _log_owners(self, locks: Locks, slots: list[int]) -> None:
        loop, hosts = asyncio.get_running_loop(), self._hosts
        generations = {slot: hosts.generations[slot] for slot in slots}
        groups = [
            (key, here) for key, all_of in self._waiting.items() if (here := all_of & {*slots})
        ]
        for (number, destination), waiting in groups:
            first = min(waiting)
            host, ifindex = hosts.hosts[first], self._ifindexes.get(number, 0)
            if host is None:
                continue
            pid = await loop.run_in_executor(
                self._worker, locks.owner, ifindex, host.vhid, destination
            )
            owner = named(pid)
            # Some may have left meanwhile, and their slots may have other virtual hosts.
            still = [slot for slot in waiting if hosts.generations[slot] == generations[slot]]
            if not still:
                continue
            for slot in self.locked_out.intersection(still):
                self.barred[slot] = owner
            logger.warning(
                "%s: in_use: %s of this machine has it, waiting", self._listed(sorted(still)), owner
            )

    def _listed(self, slots: list[int]) -> str:
        more = len(slots) - 1
        return self._hosts.name(slots[0]) + (f" and {more:,} more" if more else "")


def _all_at_once(locks: Locks, ifindex: int, wanted: list[tuple[int, tuple[str, ...]]]) -> bool:
    try:
        return locks.take_many(ifindex, wanted)
    except OSError:
        return False  # one by one, so that the conflicts are reported
