"""Distributes changes of state to those that follow them: control socket, tap, notify program.

Must not know what a change consists of, nor what follows it.
"""

from __future__ import annotations

from collections.abc import Callable

from carp_fast.control.documents import StateEvent

Take = Callable[[StateEvent], None]


class Feed:
    """Passes each change to every subscriber, in the order in which they subscribed."""

    def __init__(self) -> None:
        self._subscribers: list[Take] = []

    def subscribe(self, take: Take) -> None:
        """Calls `take` with each change from now on."""
        self._subscribers.append(take)

    def publish(self, change: StateEvent) -> None:
        """Passes a change to all; an exception of a subscriber propagates."""
        for take in self._subscribers:
            take(change)
