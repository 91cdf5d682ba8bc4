"""What the virtual hosts track: each is demoted by the sum of its tracks, in batches of orders.

Must not know how anything is tracked, nor how the engine demotes.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from carp_fast.closing import Closing
from carp_fast.config.load import Configuration, VirtualHost
from carp_fast.control.documents import OPENBSD_DEMOTION_MAX, TrackEvent, TrackStatus
from carp_fast.daemon.reports import rfc3339
from carp_fast.daemon.table import Hosts
from carp_fast.net.interfaces import Interface, absent
from carp_fast.tracking.judging import Effect, Judged, JudgedState, State
from carp_fast.tracking.tracks import NOTHING_KNOWN, Tracks

if TYPE_CHECKING:
    from carp_fast.daemon.background import Background
    from carp_fast.daemon.orders import Order, Orders
    from carp_fast.programs.launching import Launcher

HARD = 256  # of an effect as one number, besides its demotion


class TrackedState(msgspec.Struct, forbid_unknown_fields=True):
    """What is known of each track, by name, and the last effects that were ordered, by slot: two
    bytes each in this machine's order.
    """

    known: dict[str, JudgedState] = {}
    ordered: bytes = b""


class Tracked(Closing):
    """Follows the tracks of a configuration, and orders what follows for the virtual hosts.

    `publish` gets every change of a track; `launcher` starts scripts, see Scripts.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hosts: Hosts,
        orders: Orders,
        background: Background,
        publish: Callable[[TrackEvent], None],
        *,
        launcher: Launcher | None = None,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._background = background
        self._publish = publish
        self._tracks = Tracks(loop, self._on_change, launcher=launcher)
        self._ordered = array("H")  # by slot: the last effect that was ordered, as one number
        self._effects: dict[tuple[str, ...], int] = {}  # of the names that virtual hosts have
        self._due = self._ordering = False
        self._ordering_ended = asyncio.Event()
        self._ordering_ended.set()

    @property
    def names(self) -> list[str]:
        """The interfaces that tracks name."""
        return self._tracks.interfaces.names

    @property
    def ordering(self) -> bool:
        """Whether orders are being given."""
        return self._ordering

    @property
    def state(self) -> TrackedState:
        """What a successor has to go on with."""
        return TrackedState(self._tracks.known, self._ordered.tobytes())

    def go_on(
        self, state: TrackedState, configuration: Configuration, there: Mapping[str, Interface]
    ) -> None:
        """Starts with what another process knew and ordered; apply() has to follow."""
        self._ordered = array("H", state.ordered)
        self.start(configuration, there, state.known)

    def start(
        self,
        configuration: Configuration,
        there: Mapping[str, Interface],
        known: Mapping[str, JudgedState] = NOTHING_KNOWN,
    ) -> None:
        """Follows the tracks of a configuration; `there`: the interfaces as they are now.

        `known`: what another process knew of each, by name.
        """
        concurrency = configuration.daemon.track_concurrency
        self._effects.clear()
        self._tracks.follow(configuration.tracks, concurrency=concurrency, known=known)
        for name in self.names:
            self.on_interface(there.get(name) or absent(name))

    def reload(self, configuration: Configuration) -> list[str]:
        """Follows those of another configuration; returns a line for each that differs.

        A new one counts from its first result on: so far it has demoted nothing. apply() has to
        follow, once the virtual hosts are those of the configuration.
        """
        self._effects.clear()
        concurrency = configuration.daemon.track_concurrency
        return self._tracks.follow(configuration.tracks, concurrency=concurrency, reloaded=True)

    async def apply(self) -> None:
        """Orders what differs from what was ordered, and waits until that is done."""
        self._order_soon()
        await self._ordering_ended.wait()

    def close(self) -> None:
        """Follows nothing from now on; no script is left running."""
        self._tracks.close()

    def on_interface(self, interface: Interface) -> None:
        """Handles that an interface is now like this."""
        self._tracks.interfaces.on_interface(interface)

    def keep_interfaces(self, names: Iterable[str]) -> None:
        """Forgets what is known of interfaces other than these, which are followed."""
        self._tracks.interfaces.keep(names)

    def effect_on_new(self, slot: int) -> Effect:
        """What a virtual host is to be added with, which counts as ordered."""
        host = self._hosts.hosts[slot]
        effect = self._effect_of(host) if host is not None else 0
        self._note(slot, effect)
        return Effect(effect % HARD, effect >= HARD)

    def judged(self) -> list[Judged]:
        """The tracks, in the order of the configuration."""
        return list(self._tracks)

    def status(self) -> list[TrackStatus]:
        """Every track, with the number of virtual hosts that name it."""
        users: Counter[tuple[str, ...]] = Counter()
        users.update(host.settings.track for _, host in self._hosts.used())
        counts: Counter[str] = Counter()
        for names, count in users.items():
            counts.update(dict.fromkeys(names, count))
        return [status_of(judged, counts[judged.track.name]) for judged in self._tracks]

    def status_for(self, host: VirtualHost) -> list[TrackStatus]:
        """The tracks that a virtual host names."""
        return [status_of(judged) for judged in self._tracks.of(host.settings.track)]

    # -- changes

    def _on_change(self, judged: Judged, before: State) -> None:
        now = status_of(judged)
        self._publish(
            TrackEvent(
                at=rfc3339(time.monotonic_ns()),
                track=now.name,
                state=now.state,
                previous=before,
                last=now.last,
                demotion=now.demotion,
                hard=now.hard,
            )
        )
        self._effects.clear()
        self._order_soon()

    def _order_soon(self) -> None:
        self._due = True
        if not self._ordering:
            self._ordering = True
            self._ordering_ended.clear()
            self._background.run(self._order())

    async def _order(self) -> None:
        """Orders what is due, and what becomes due meanwhile: the newest effects, at once each."""
        try:
            while self._due:
                self._due = False
                await self._orders.give(self._changes())
        finally:
            self._ordering = False
            self._ordering_ended.set()

    def _changes(self) -> Iterator[Order]:
        pump = self._orders.pump
        for slot, host in self._hosts.used():
            effect = self._effect_of(host)
            if slot not in self._hosts.leaving and effect != self._ordered_for(slot):
                self._note(slot, effect)
                yield partial(pump.demote, slot, effect % HARD, "track", hard=effect >= HARD)

    def _effect_of(self, host: VirtualHost) -> int:
        names = host.settings.track
        if not names:
            return 0
        effect = self._effects.get(names)
        if effect is None:
            found = self._tracks.effect_of(names)
            effect = min(found.demotion, OPENBSD_DEMOTION_MAX) + HARD * found.hard
            self._effects[names] = effect
        return effect

    def _ordered_for(self, slot: int) -> int:
        return self._ordered[slot] if slot < len(self._ordered) else 0

    def _note(self, slot: int, effect: int) -> None:
        if slot >= len(self._ordered):
            if not effect:
                return
            self._ordered.extend([0] * (slot + 1 - len(self._ordered)))
        self._ordered[slot] = effect


def status_of(judged: Judged, virtual_hosts: int | None = None) -> TrackStatus:
    """A track as the status shows it."""
    effect = judged.effect
    return TrackStatus(
        name=judged.track.name,
        kind=judged.track.kind,
        state=judged.state,
        since=rfc3339(judged.since_ns),
        last=judged.text,
        flaps=judged.flaps,
        demotion=effect.demotion,
        hard=effect.hard,
        for_s=round((time.monotonic_ns() - judged.since_ns) / 1e9, 3),
        virtual_hosts=virtual_hosts,
        ends=judged.ends,
    )
