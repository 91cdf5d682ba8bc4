"""Tracks by interfaces of this machine: their link, carrier and addresses.

It keeps what the kernel notified of. Must not know how notifications are read, nor what becomes of
a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from carp_fast.config.tracks import InterfaceTrack, Track
from carp_fast.net.interfaces import Interface, without_marked
from carp_fast.tracking.judging import Result

SCOPE_LINK = 253  # addresses of this scope and beyond are of the link or the host only

Take = Callable[[Result], None]


class Interfaces:
    """The interfaces as they are now, and the tracks that name them."""

    def __init__(self) -> None:
        self._now: dict[str, Interface] = {}
        self._tracks: dict[str, dict[int, tuple[InterfaceTrack, Take]]] = {}
        self._next = 0

    @property
    def names(self) -> list[str]:
        """The interfaces that tracks name."""
        return [name for name, tracks in self._tracks.items() if tracks]

    def watch(self, track: Track, take: Take) -> Callable[[], None]:
        """Follows a track's interface; `take` gets each result. Returns what ends that."""
        assert isinstance(track, InterfaceTrack)
        self._next += 1
        number, tracks = self._next, self._tracks.setdefault(track.interface, {})
        tracks[number] = (track, take)
        known = self._now.get(track.interface)
        if known is not None:
            take(judged(track, known))

        def stop() -> None:
            tracks.pop(number, None)

        return stop

    def keep(self, names: Iterable[str]) -> None:
        """Forgets the interfaces other than these: their changes are no longer reported."""
        self._now = {name: self._now[name] for name in names if name in self._now}

    def on_interface(self, interface: Interface) -> None:
        """Handles that an interface is now like this."""
        self._now[interface.name] = interface
        for track, take in list(self._tracks.get(interface.name, {}).values()):
            take(judged(track, interface))


def judged(track: InterfaceTrack, interface: Interface) -> Result:
    """Whether an interface has what a track needs; a virtual address of ours does not count."""
    name = interface.name
    if not interface.ifindex:
        return Result(False, f"{name} does not exist")
    if not interface.set_up:
        return Result(False, f"{name} is set down")
    if track.needs == "link":
        return Result(True, f"{name} is set up")
    if not interface.up:
        return Result(False, f"{name} has no carrier")
    if track.needs == "carrier":
        return Result(True, f"{name} has carrier")
    there = without_marked(interface).addresses
    count = sum(address.scope < SCOPE_LINK for address in there)
    if not count:
        return Result(False, f"{name} has no address")
    return Result(True, f"{name} has {count} address{'es' if count > 1 else ''}")
