"""Distributes changes of state to those that follow them, and keeps the last ones for who asks.

Must not know what a change consists of, nor what follows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from carp_fast.control.documents import StateEvent, TrackEvent

KEPT_MAX = 256  # changes of state that are kept

Take = Callable[[StateEvent], None]
TakeTrack = Callable[[TrackEvent], None]


class Feed:
    """Passes each change to every subscriber, in the order in which they subscribed.

    `published`: the number of changes of state so far.
    """

    def __init__(self) -> None:
        self.published = 0
        self._kept: deque[StateEvent] = deque(maxlen=KEPT_MAX)
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
        self.published += 1
        self._kept.append(change)
        for take in self._subscribers:
            take(change)

    def since(self, number: int) -> list[StateEvent]:
        """The changes after the first `number`, the oldest first; at most the last KEPT_MAX."""
        count = min(max(self.published - number, 0), len(self._kept))
        return list(islice(self._kept, len(self._kept) - count, None))
