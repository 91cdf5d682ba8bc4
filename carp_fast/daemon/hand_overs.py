"""Hand-overs by hand: `carp-fast yield` and `preempt`, refused where the election would undo them.

The engine judges what the election makes of the hosts that were heard; this module asks it, gives
the order, and looks at what came of it. Must not decide an election, nor know who asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from carp_fast.control.documents import DEMOTION_MAX, HandedOver
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import PreemptRequest, YieldRequest
from carp_fast.daemon.demotions import Limited, group_of, key_of, shown
from carp_fast.daemon.orders import at_the_pace
from carp_fast.daemon.table import MASTER
from carp_fast.engine.copies import ExplainedHost, HostCopy, JudgedSource
from carp_fast.inet import address_text

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.demotions import Amount, Demotions
    from carp_fast.daemon.explain import Explanations
    from carp_fast.daemon.orders import Order, Orders
    from carp_fast.daemon.table import Hosts

logger = logging.getLogger(__name__)

Snapshots = Callable[[Iterable[int]], AsyncIterator[Iterable[tuple[int, HostCopy]]]]

RESIGNED = 255  # advbase of a resignation
LOOK_S = 0.05  # between two looks at what was handed over
# A hand-over is answered by then, whatever the intervals: a client waits for a minute.
ANSWERED_S = 40.0
GIVEN_S = 10.0  # of that, for the hand-overs of a group at the pace
# Demoted intervals in which peers that preempt take over: one advertisement may be lost.
PREEMPTED_WITHIN = 2
HEARD_WITHIN = 2  # intervals in which a master is heard, unless it is gone
# What a BACKUP does about a master that it may preempt.
TAKEN_BACK = frozenset({"slower_master", "master_demoted", "contested"})


class HandOvers:
    """Answers requests to yield and to preempt.

    `snapshots`: copies of the virtual hosts in ascending slots, as the engine has them; `rate`:
    returns the hand-overs a second; `now_ns`: the pump's clock.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        explanations: Explanations,
        demotions: Demotions,
        *,
        snapshots: Snapshots,
        rate: Callable[[], int],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._explanations = explanations
        self._demotions = demotions
        self._snapshots = snapshots
        self._rate = rate
        self._now_ns = now_ns

    async def yields(self, request: YieldRequest) -> HandedOver:
        """Hands virtual hosts over. Raises ControlError: refused, or no other host took them."""
        interface, vhid = request.interface, request.vhid
        slots = self._explanations.find(interface, vhid)
        limited, group = Limited(DEMOTION_MAX, interface=interface, vhid=vhid), None
        if request.group:
            group = self._group(slots)
            slots, limited = self._masters_of(group), Limited(DEMOTION_MAX, group)
            self._check_rate(group, len(slots))
        for slot in slots:
            judged = await self._explanations.judged(slot)
            why = why_not_yield(judged, self._settings(slot), demoted=request.demote)
            if why:
                raise ControlError(f"yield: {self._hosts.name(slot)}: {why}")
        reason = "" if not request.demote else "yield" if group else f"yield {interface}/{vhid}"
        former = None
        if reason:
            former = await self._demotions.hold("yield", reason, limited, self._hosts, self._orders)
        yielding = _Yielding(
            slots,
            self._hosts,
            self._orders,
            snapshots=self._snapshots,
            rate=self._rate,
            now_ns=self._now_ns,
        )
        try:
            done = await yielding.hand_over(demoted=request.demote)
        except Exception as error:
            stays = await self._no_longer_held(reason, group, former) if reason else ""
            if group:
                await self._take_back(slots)
            if stays and isinstance(error, ControlError):
                raise ControlError(f"{error}; {stays}") from error
            raise
        return HandedOver(True, done, reason, group if reason else None)

    def _check_rate(self, group: str, masters: int) -> None:
        """Raises ControlError if these cannot be handed over before the client gives up."""
        rate = self._rate()
        if masters > rate * GIVEN_S:
            raise ControlError(
                f"yield: group {group} has {masters} MASTER: allowed: {rate * GIVEN_S:.0f}, what"
                f" daemon.maintenance_rate = {rate} hands over in {GIVEN_S:g} s"
            )

    async def _no_longer_held(self, reason: str, group: str | None, former: Amount | None) -> str:
        """Ends the demotion of a yield that failed; why it stays, "" if it does not."""
        try:
            await self._demotions.put_back(reason, group, former, self._hosts, self._orders)
        except ControlError as error:
            stays = f"it stays demoted ({shown(key_of(reason, group))}): {error}"
            logger.error("yield: %s", stays)
            return stays
        return ""

    def _group(self, slots: list[int]) -> str:
        """The group of these virtual hosts. Raises ControlError if they are in none."""
        for slot in slots:
            if group := group_of(self._settings(slot)):
                return group
        raise ControlError(f"yield: {self._hosts.name(slots[0])} is in no group")

    def _masters_of(self, group: str) -> list[int]:
        """Raises ControlError if no member is MASTER."""
        found = [
            slot
            for slot, host in self._hosts.used()
            if group_of(host) == group and self._hosts.states[slot] == MASTER
        ]
        if not found:
            raise ControlError(f"yield: no virtual host of group {group} is MASTER here")
        return found

    async def _take_back(self, slots: Iterable[int]) -> None:
        """Takes these over again at the pace, as far as the other hosts are slower."""
        async for _ in at_the_pace(
            self._orders, (self._take_over(slot) for slot in slots), self._rate
        ):
            pass

    async def preempts(self, request: PreemptRequest) -> HandedOver:
        """Takes virtual hosts over. Raises ControlError where that is refused."""
        slots = self._explanations.find(request.interface, request.vhid)
        peers = []
        for slot in slots:
            judged = await self._explanations.judged(slot)
            why = why_not_preempt(judged, self._now_ns())
            if why:
                raise ControlError(f"preempt: {self._hosts.name(slot)}: {why}")
            peers.append(peer_of(judged.host))
        await self._orders.give([self._take_over(slot) for slot in slots])
        taken = []
        for slot, peer in zip(slots, peers, strict=True):
            host = (await self._explanations.judged(slot)).host
            if host.state != "MASTER":
                text = f"it is {host.state} ({host.reason}): its master has changed meanwhile"
                raise ControlError(f"preempt: {self._hosts.name(slot)}: {text}")
            logger.info("%s: taken over by hand", self._hosts.name(slot))
            taken.append(HandedOver.Host(*self._which(slot), host.state, peer))
        return HandedOver(True, taken)

    def _take_over(self, slot: int) -> Callable[[], object]:
        return self._hosts.only_now(slot, partial(self._orders.pump.take_over, slot))

    def _settings(self, slot: int) -> VirtualHost:
        host = self._hosts.hosts[slot]
        if host is None:
            raise ControlError("it is being removed")
        return host

    def _which(self, slot: int) -> tuple[str, int]:
        host = self._settings(slot)
        return host.interface, host.vhid


class _Yielding:
    """Virtual hosts that are handed over together: one look at all of them, at one pace."""

    def __init__(
        self,
        slots: Iterable[int],
        hosts: Hosts,
        orders: Orders,
        *,
        snapshots: Snapshots,
        rate: Callable[[], int],
        now_ns: Callable[[], int],
    ) -> None:
        self._slots = sorted(slots)
        self._hosts = hosts
        self._orders = orders
        self._snapshots = snapshots
        self._rate = rate
        self._now_ns = now_ns
        self._awaited: dict[int, int] = {}  # by slot: since when another host is waited for
        self._peers: dict[int, str | None] = {}

    async def hand_over(self, *, demoted: bool) -> list[HandedOver.Host]:
        """Hands all over; returns when other hosts have them, or after ANSWERED_S.

        Ends at the first that no other host takes over, or that is removed: raises ControlError.
        """
        end_s, begun_ns = time.monotonic() + ANSWERED_S, self._now_ns()
        masters = await self._masters(self._slots)
        if demoted:  # peers that preempt take over while the addresses are still here
            longest_s = max((copy.interval_ns for copy in masters.values()), default=0) / 1e9
            until_s = min(
                time.monotonic() + PREEMPTED_WITHIN * longest_s,
                end_s - len(masters) / self._rate(),
            )
            while masters and time.monotonic() < until_s:
                await asyncio.sleep(LOOK_S)
                masters = await self._masters(masters)
        self._awaited = {slot: begun_ns for slot in self._slots if slot not in masters}
        await self._resign(masters)
        while self._awaited and time.monotonic() <= end_s:
            await asyncio.sleep(LOOK_S)
            await self._look()
        return [
            HandedOver.Host(host.interface, host.vhid, "BACKUP", self._peers.get(slot))
            for slot in self._slots
            if (host := self._hosts.hosts[slot]) is not None
        ]

    async def _resign(self, masters: Iterable[int]) -> None:
        looked_s = time.monotonic()

        def wanted() -> Iterator[Order]:
            for slot in masters:
                self._awaited[slot] = self._now_ns()
                logger.info("%s: handed over by hand", self._hosts.name(slot))
                order = partial(self._orders.pump.hand_over, slot)
                yield self._hosts.only_now(slot, order)

        async for _ in at_the_pace(self._orders, wanted(), self._rate):
            if time.monotonic() - looked_s >= LOOK_S:
                await self._look()
                looked_s = time.monotonic()
        await self._look()

    async def _look(self) -> None:
        """Finds out which other hosts have taken over. Raises ControlError."""
        copies = await self._copies(sorted(self._awaited))
        for slot, copy in copies.items():
            if copy.state != "BACKUP":
                down_s = copy.master_down_ns / 1e9
                raise ControlError(
                    f"yield: {self._hosts.name(slot)}: no other host took it over within its"
                    f" master-down time ({down_s:.3f} s): it is {copy.state} ({copy.reason}) again"
                )
            if is_adopted(copy, self._awaited[slot]):
                del self._awaited[slot]
                self._peers[slot] = peer_of(copy)

    async def _masters(self, slots: Iterable[int]) -> dict[int, HostCopy]:
        copies = await self._copies(slots)
        return {slot: copy for slot, copy in copies.items() if copy.state == "MASTER"}

    async def _copies(self, slots: Iterable[int]) -> dict[int, HostCopy]:
        """Of ascending slots. Raises ControlError if one is being removed."""
        wanted = list(slots)
        found: dict[int, HostCopy] = {}
        async for copies in self._snapshots(wanted):
            found.update(copies)
        for slot in wanted:
            if slot not in found:
                raise ControlError(f"yield: {self._hosts.name(slot)} is being removed")
        return found


def is_adopted(host: HostCopy, since_ns: int) -> bool:
    """Whether a BACKUP has heard another master since then."""
    return host.heard_ns > since_ns and host.peer is not None and host.peer_advbase != RESIGNED


def peer_of(host: HostCopy) -> str | None:
    return None if host.peer is None else address_text(host.peer)


def others_of(judged: ExplainedHost) -> list[JudgedSource]:
    """The other hosts that were heard and did not resign; one that did may be back, unheard."""
    return [each for each in judged.heard if not each.own_source and each.heard.advbase != RESIGNED]


def why_not_yield(judged: ExplainedHost, host: VirtualHost, *, demoted: bool) -> str:
    """Why the election would undo a hand-over, "" if it would not as far as is known.

    `demoted`: it will be demoted before.
    """
    copy = judged.host
    if copy.state != "MASTER":
        return f"it is {copy.state} ({copy.reason}): only a MASTER can hand over"
    if demoted:
        return ""
    others = others_of(judged)
    if not others:
        down_s = copy.master_down_ns / 1e9
        return (
            f"no other host has been heard: if none is there, its addresses are gone for the"
            f" master-down time of {down_s:.3f} s, and then it is MASTER again; --demote lets peers"
            " that preempt take over before"
        )
    # The one that takes over first: it waits for its own skew only.
    first = min(others, key=lambda each: (each.heard.demote, each.interval_ns))
    if first.as_backup not in TAKEN_BACK:
        return ""
    after = host.settings.preempt_delay_s
    delay = f" after preempt_delay_s = {after:g}" if after else ""
    preempt = host.settings.preempt
    shown = f'"{preempt}"' if isinstance(preempt, str) else str(preempt).lower()
    return (
        f"it would be taken back{delay}: preempt = {shown}, and {described(first)} is slower than"
        f" our {copy.advbase}/{copy.effective_advskew}; --demote keeps it there until undemote"
    )


def why_not_preempt(judged: ExplainedHost, now_ns: int) -> str:
    """Why the election would undo a take-over, or there is none to do; "" otherwise.

    Where several masters are heard, as after a split, none of them may take it back.
    """
    copy = judged.host
    if copy.state == "MASTER":
        return "it is MASTER already"
    if copy.state != "BACKUP":
        return f"it is {copy.state} ({copy.reason}): only a BACKUP can take over"
    if "maintenance" in copy.demotions:
        return "this host is in maintenance; carp-fast maintenance off ends it"
    known = [
        each
        for each in others_of(judged)
        if each.heard.current or now_ns - each.heard.heard_ns <= HEARD_WITHIN * each.interval_ns
    ]
    if not known:
        return "no master has been heard: it becomes MASTER by itself unless one is"
    master = min(known, key=lambda each: each.beaten)
    if master.beaten:
        return ""
    demoted = f", demoted by {sum(copy.demotions.values())}" if copy.demotions else ""
    ours = f"our {copy.advbase}/{copy.effective_advskew}{demoted}"
    if copy.dialect == "openbsd" and master.heard.demote != copy.demote:
        ours += f" with demote byte {copy.demote}"
        how = "is less demoted than"
    else:
        same = master.interval_ns == copy.interval_ns
        how = "is as fast as" if same else "is faster than"
    return f"its master would take it back: {described(master)} {how} {ours}"


def described(other: JudgedSource) -> str:
    heard = other.heard
    demote = f" with demote byte {heard.demote}" if heard.demote else ""
    return f"{address_text(heard.source)} at {heard.advbase}/{heard.advskew}{demote}"
