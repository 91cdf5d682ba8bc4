"""The operator's demotions: kept across restarts, and added to every virtual host of this daemon.

Each has a reason of its own; the amounts add up. A change is written to the state directory before
it is applied, so a crash at any point leaves a demotion that the next run has, or none. Must not
know who asks, nor how the engine demotes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from carp_fast.config.state import content_of, replace_file
from carp_fast.control.documents import (
    DEMOTION_MAX,
    OPENBSD_DEMOTION_MAX,
    REASON_LENGTH_MAX,
    REASONS_MAX,
    Demoted,
    DemoteRequest,
    UndemoteRequest,
)
from carp_fast.control.protocol import ControlError

if TYPE_CHECKING:
    from carp_fast.daemon.orders import Orders
    from carp_fast.daemon.table import Hosts

logger = logging.getLogger(__name__)


class Demotions:
    """The operator's demotions by reason; read() has what the last run was told.

    `path`: the file that keeps them; None: they end with this run. A new virtual host begins with
    `total`, the others get it by orders.
    """

    def __init__(self, path: Path | None, worker: concurrent.futures.Executor) -> None:
        self._path = path
        self._worker = worker
        self._by_reason: dict[str, int] = {}
        self._changing = asyncio.Lock()

    @property
    def by_reason(self) -> Mapping[str, int]:
        """The amount by each reason, the oldest first."""
        return self._by_reason

    @property
    def total(self) -> int:
        """The amount that every virtual host is demoted by; more than the engine sends is cut."""
        return min(sum(self._by_reason.values()), OPENBSD_DEMOTION_MAX)

    def read(self) -> None:
        """Reads what the last run was told, and logs it; a file that is not usable is logged."""
        if self._path is None:
            return
        try:
            found = msgspec.json.decode(content_of(self._path), type=dict[str, int])
            if not all(1 <= amount <= OPENBSD_DEMOTION_MAX for amount in found.values()):
                raise ValueError(f"a demotion is from 1 to {OPENBSD_DEMOTION_MAX}")
        except FileNotFoundError:
            return
        except (OSError, ValueError, msgspec.DecodeError) as error:
            logger.error("demotions are lost: %s is not usable: %s", self._path, error)
            return
        self._by_reason = found
        for reason, amount in found.items():
            logger.warning("demoted by %d (%s), as before the start", amount, reason)

    async def demote(self, request: DemoteRequest, hosts: Hosts, orders: Orders) -> Demoted:
        """Demotes every virtual host; the same reason replaces its amount. Raises ControlError."""
        check_reason("demote", request.reason)
        check_amount(request.amount, hosts)
        async with self._changing:
            wanted = self._by_reason | {request.reason: request.amount}
            if len(wanted) > REASONS_MAX:
                raise ControlError(f"demote: there are {REASONS_MAX} reasons already, no more fit")
            await self._change(wanted, hosts, orders)
            logger.warning("demoted by %d (%s)", request.amount, request.reason)
            return self._answer(hosts)

    async def undemote(self, request: UndemoteRequest, hosts: Hosts, orders: Orders) -> Demoted:
        """Ends the demotion by this reason, those by others stay. Raises ControlError."""
        async with self._changing:
            wanted = dict(self._by_reason)
            if wanted.pop(request.reason, None) is None:
                there = ", ".join(f'"{reason}"' for reason in self._by_reason) or "none"
                raise ControlError(
                    f'undemote: reason = "{request.reason}": not demoted by this reason;'
                    f" allowed: {there}"
                )
            await self._change(wanted, hosts, orders)
            logger.warning("no longer demoted (%s)", request.reason)
            return self._answer(hosts)

    async def _change(self, wanted: dict[str, int], hosts: Hosts, orders: Orders) -> None:
        """Writes them down, then orders them. A virtual host that is added meanwhile has them."""
        if self._path is not None:
            write = partial(replace_file, self._path, msgspec.json.encode(wanted))
            try:
                await asyncio.get_running_loop().run_in_executor(self._worker, write)
            except OSError as error:
                text = f"{self._path}: {error.strerror}; nothing was changed"
                raise ControlError(f"cannot be written down: {text}") from error
        self._by_reason = wanted
        slots = [slot for slot, _ in hosts.used()]
        await orders.give(partial(orders.pump.demote, slot, self.total) for slot in slots)

    def _answer(self, hosts: Hosts) -> Demoted:
        count = sum(1 for _ in hosts.used())
        return Demoted(True, self.total, dict(self._by_reason), count)


def check_reason(command: str, reason: str) -> None:
    """Raises ControlError if the text of a reason is not one line of a sensible length."""
    if not reason.strip() or len(reason) > REASON_LENGTH_MAX or not reason.isprintable():
        raise ControlError(
            f"{command}: reason = {reason!r}: must be 1 to {REASON_LENGTH_MAX} printable characters"
        )


def check_amount(amount: int, hosts: Hosts) -> None:
    """Raises ControlError if an amount is not allowed with the dialects of the virtual hosts."""
    most = DEMOTION_MAX
    if all(host.settings.dialect == "openbsd" for _, host in hosts.used()):
        most = OPENBSD_DEMOTION_MAX
    if not 1 <= amount <= most:
        raise ControlError(
            f"demote: N = {amount}: allowed: 1 to {DEMOTION_MAX}, or 1 to {OPENBSD_DEMOTION_MAX}"
            ' if every virtual host has dialect = "openbsd"'
        )
