"""Changes of state on their way to those that follow them: control socket, tap, notify program.

Must not know what a change consists of, nor who follows.
"""

from __future__ import annotations

from collections.abc import Callable

from carp_fast.control.documents import StateEvent

Take = Callable[[StateEvent], None]


class Feed:
    """Hands each change to every subscriber, in the order in which they subscribed."""

    def __init__(self) -> None:
        self._subscribers: list[Take] = []

    def subscribe(self, take: Take) -> None:
        """Has `take` called with each change from now on."""
        self._subscribers.append(take)

    def publish(self, change: StateEvent) -> None:
        """Hands a change to all; what one of them raises comes out here."""
        for take in self._subscribers:
            take(change)
