"""Distributes changes of state to those that follow them: control socket, tap, notify program.

Must not know what a change consists of, nor what follows it.
"""

from __future__ import annotations

from collections.abc import Callable

from carp_fast.control.documents import StateEvent, TrackEvent

Take = Callable[[StateEvent], None]
TakeTrack = Callable[[TrackEvent], None]


class Feed:
    """Passes each change to every subscriber, in the order in which they subscribed."""

    def __init__(self) -> None:
        self._subscribers: list[Take] = []
        self._of_tracks: list[TakeTrack] = []

    def subscribe(self, take: Take) -> None:
        """Calls `take` with each change from now on."""
        self._subscribers.append(take)

    def subscribe_tracks(self, take: TakeTrack) -> None:
        """Calls `take` with each change of a track from now on."""
        self._of_tracks.append(take)

    def publish_track(self, change: TrackEvent) -> None:
        """Passes a change of a track to all who follow these."""
        for take in self._of_tracks:
            take(change)

    def publish(self, change: StateEvent) -> None:
        """Passes a change to all; an exception of a subscriber propagates."""
        for take in self._subscribers:
            take(change)
