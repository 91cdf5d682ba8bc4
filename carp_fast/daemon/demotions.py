"""The operator's demotions: kept across restarts, and added to virtual hosts of this daemon.

Each has a reason of its own; the amounts add up. It is for every virtual host, for those of one
group, which may have a reason of the same text as another group, or for those of one interface and
vhid. A change is written to the state directory before it is applied, so a crash at any point
leaves a demotion that the next run has, or none. Must not know who asks, nor how the engine
demotes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from carp_fast.config.model import nearest_to
from carp_fast.config.state import content_of, replace_file
from carp_fast.control.documents import (
    DEMOTION_MAX,
    OPENBSD_DEMOTION_MAX,
    REASON_LENGTH_MAX,
    REASONS_MAX,
    Demoted,
)
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import DemoteRequest, UndemoteRequest

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.orders import Orders
    from carp_fast.daemon.table import Hosts

logger = logging.getLogger(__name__)


class Limited(msgspec.Struct, frozen=True, omit_defaults=True):
    """A demotion of the virtual hosts of one group, or of one interface and vhid."""

    amount: int
    group: str | None = None
    interface: str | None = None
    vhid: int | None = None


Amount = int | Limited


def amount_of(ordered: Amount) -> int:
    return ordered if isinstance(ordered, int) else ordered.amount


def amount_for(ordered: Amount, host: VirtualHost) -> int:
    """What a demotion adds to this virtual host: 0 if it is for others."""
    if isinstance(ordered, int):
        return ordered
    concerned = (
        ordered.group in (None, group_of(host))
        and ordered.interface in (None, host.interface)
        and ordered.vhid in (None, host.vhid)
    )
    return ordered.amount if concerned else 0


def group_of(host: VirtualHost) -> str | None:
    return None if host.settings.group is None else host.settings.group.name


def key_of(reason: str, group: str | None) -> str:
    """What a demotion is kept by: its reason, and its group on a second line."""
    return reason if group is None else f"{reason}\n{group}"


def shown(key: str) -> str:
    """The key as people see it: "disks (group lan)"."""
    reason, _, group = key.partition("\n")
    return f"{reason} (group {group})" if group else reason


class Demotions:
    """The operator's demotions by reason; read() has what the last run was told.

    `path`: the file that keeps them; None: they end with this run. A new virtual host begins with
    its sum, see of(), the others get it by orders.
    """

    def __init__(self, path: Path | None, worker: concurrent.futures.Executor) -> None:
        self._path = path
        self._worker = worker
        self._by_reason: dict[str, Amount] = {}  # by key_of()
        self._changing = asyncio.Lock()

    @property
    def by_reason(self) -> Mapping[str, int]:
        """The amount by each reason, and group if it has one, the oldest first."""
        return {shown(key): amount_of(each) for key, each in self._by_reason.items()}

    def by_group(self) -> Mapping[str, int]:
        """The sum for every virtual host, by "", and for each group that has one of its own.

        Those of a single virtual host are left out.
        """
        found: dict[str, int] = {}
        for ordered in self._by_reason.values():
            group = None if isinstance(ordered, int) else ordered.group
            if group is not None or isinstance(ordered, int):
                found[group or ""] = found.get(group or "", 0) + amount_of(ordered)
        return found

    def of(self, host: VirtualHost) -> int:
        """The amount that one virtual host is demoted by; more than the engine sends is cut."""
        return min(sum(self.reasons_of(host).values()), OPENBSD_DEMOTION_MAX)

    def reasons_of(self, host: VirtualHost) -> Mapping[str, int]:
        """The amount by each reason that one virtual host is demoted by."""
        found = {shown(key): amount_for(each, host) for key, each in self._by_reason.items()}
        return {reason: amount for reason, amount in found.items() if amount}

    @property
    def state(self) -> dict[str, Amount]:
        """What a successor has to go on with."""
        return dict(self._by_reason)

    def go_on(self, state: Mapping[str, Amount]) -> None:
        """Goes on with the `state` of another process, instead of read()."""
        self._by_reason = dict(state)

    def read(self) -> None:
        """Reads what the last run was told, and logs it; a file that is not usable is logged."""
        if self._path is None:
            return
        try:
            found = msgspec.json.decode(content_of(self._path), type=dict[str, Amount])
            if not all(1 <= amount_of(each) <= OPENBSD_DEMOTION_MAX for each in found.values()):
                raise ValueError(f"a demotion is from 1 to {OPENBSD_DEMOTION_MAX}")
        except FileNotFoundError:
            return
        except (OSError, ValueError, msgspec.DecodeError) as error:
            logger.error("demotions are lost: %s is not usable: %s", self._path, error)
            return
        self._by_reason = found
        for reason, amount in self.by_reason.items():
            logger.warning("demoted by %d (%s), as before the start", amount, reason)

    async def demote(self, request: DemoteRequest, hosts: Hosts, orders: Orders) -> Demoted:
        """Demotes virtual hosts; the same reason replaces its amount. Raises ControlError."""
        check_reason("demote", request.reason)
        concerned = members(hosts, request.group)
        if request.group is not None and not concerned:
            check_group(request.group, hosts)
        check_amount(request.amount, concerned)
        key, amount = key_of(request.reason, request.group), request.amount
        async with self._changing:
            limited = amount if request.group is None else Limited(amount, request.group)
            await self._add("demote", key, limited, hosts, orders)
            return self._answer(hosts, request.group)

    async def hold(
        self, command: str, reason: str, limited: Limited, hosts: Hosts, orders: Orders
    ) -> Amount | None:
        """Demotes what the demotion is limited to, until undemote(); errors name the command.

        Returns the demotion that it replaced, None if there was none. Raises ControlError.
        """
        key = key_of(reason, limited.group)
        async with self._changing:
            former = self._by_reason.get(key)
            await self._add(command, key, limited, hosts, orders)
            return former

    async def put_back(
        self, reason: str, group: str | None, former: Amount | None, hosts: Hosts, orders: Orders
    ) -> None:
        """Undoes hold(), which returned `former`; nothing if the reason was ended meanwhile.

        Raises ControlError.
        """
        key = key_of(reason, group)
        async with self._changing:
            if key not in self._by_reason:
                return
            wanted = dict(self._by_reason)
            if former is None:
                del wanted[key]
            else:
                wanted[key] = former
            await self._change(wanted, hosts, orders)
            if former is None:
                logger.warning("no longer demoted (%s)", shown(key))
            else:
                logger.warning("demoted by %d again (%s)", amount_of(former), shown(key))

    async def undemote(self, request: UndemoteRequest, hosts: Hosts, orders: Orders) -> Demoted:
        """Ends the demotion by this reason, those by others stay. Raises ControlError."""
        key = key_of(request.reason, request.group)
        async with self._changing:
            wanted = dict(self._by_reason)
            if wanted.pop(key, None) is None:
                raise ControlError(
                    f'undemote: reason = "{request.reason}"{self._instead(request.group, hosts)}'
                )
            await self._change(wanted, hosts, orders)
            logger.warning("no longer demoted (%s)", shown(key))
            return self._answer(hosts, request.group)

    async def order_all(self, hosts: Hosts, orders: Orders) -> None:
        """Orders every demotion again, if some are limited: a reload may have changed groups."""
        if not all(isinstance(each, int) for each in self._by_reason.values()):
            async with self._changing:
                await self._order(hosts, orders)

    def _instead(self, group: str | None, hosts: Hosts) -> str:
        """Why there is no demotion to end, and which reasons there are."""
        there: dict[str | None, list[str]] = {}
        for key in self._by_reason:
            reason, _, name = key.partition("\n")
            there.setdefault(name or None, []).append(f'"{reason}"')
        if group is not None and group not in there:
            check_group(group, hosts, (name for name in there if name))
        allowed = ", ".join(there.get(group, ())) or "none"
        scope = "" if group is None else f" in group {group}"
        text = f": not demoted by this reason{scope}; allowed: {allowed}"
        others = [name for name in there if name not in (None, group)]
        more = f"; with --group: {', '.join(map(str, others))}" if others and not group else ""
        return text + more

    async def _add(
        self, command: str, key: str, amount: Amount, hosts: Hosts, orders: Orders
    ) -> None:
        wanted = self._by_reason | {key: amount}
        if len(wanted) > REASONS_MAX:
            raise ControlError(
                f"{command}: there are {REASONS_MAX} reasons of demotions already, no more fit;"
                " carp-fast undemote ends one"
            )
        await self._change(wanted, hosts, orders)
        logger.warning("demoted by %d (%s)", amount_of(amount), shown(key))

    async def _change(self, wanted: dict[str, Amount], hosts: Hosts, orders: Orders) -> None:
        """Writes them down, then orders them. A virtual host that is added meanwhile has them."""
        if self._path is not None:
            write = partial(replace_file, self._path, msgspec.json.encode(wanted))
            try:
                await asyncio.get_running_loop().run_in_executor(self._worker, write)
            except OSError as error:
                text = f"{self._path}: {error.strerror}; nothing was changed"
                raise ControlError(f"cannot be written down: {text}") from error
        self._by_reason = wanted
        await self._order(hosts, orders)

    async def _order(self, hosts: Hosts, orders: Orders) -> None:
        amounts = [(slot, self.of(host)) for slot, host in hosts.used()]
        await orders.give(partial(orders.pump.demote, slot, amount) for slot, amount in amounts)

    def _answer(self, hosts: Hosts, group: str | None) -> Demoted:
        """The demotions of a group alone, or those of every virtual host."""
        reasons = {
            key.partition("\n")[0]: amount_of(each)
            for key, each in self._by_reason.items()
            if (None if isinstance(each, int) else each.group or "") == group
        }
        total = min(sum(reasons.values()), OPENBSD_DEMOTION_MAX)
        return Demoted(True, total, reasons, len(members(hosts, group)))


def members(hosts: Hosts, group: str | None) -> list[VirtualHost]:
    """The virtual hosts of a group, None: every one."""
    return [host for _, host in hosts.used() if group in (None, group_of(host))]


def check_group(group: str, hosts: Hosts, others: Iterable[str] = ()) -> None:
    """Raises ControlError unless a virtual host is in this group, or it is one of the others."""
    known = {*others, *(group_of(host) for _, host in hosts.used())} - {None}
    if group not in known:
        names = [name for name in known if name is not None]
        near = "no virtual host is in one"
        if names:
            near = f'the nearest is "{nearest_to(group, names)}"'
        raise ControlError(f'group = "{group}": no such group; {near}')


def check_reason(command: str, reason: str) -> None:
    """Raises ControlError if the text of a reason is not one line of a sensible length."""
    if not reason.strip() or len(reason) > REASON_LENGTH_MAX or not reason.isprintable():
        raise ControlError(
            f"{command}: reason = {reason!r}: must be 1 to {REASON_LENGTH_MAX} printable characters"
        )


def check_amount(amount: int, concerned: Iterable[VirtualHost]) -> None:
    """Raises ControlError if an amount is not allowed with the dialects of the virtual hosts."""
    most = DEMOTION_MAX
    if all(host.settings.dialect == "openbsd" for host in concerned):
        most = OPENBSD_DEMOTION_MAX
    if not 1 <= amount <= most:
        raise ControlError(
            f"demote: N = {amount}: allowed: 1 to {DEMOTION_MAX}, or 1 to {OPENBSD_DEMOTION_MAX}"
            ' if every virtual host has dialect = "openbsd"'
        )
