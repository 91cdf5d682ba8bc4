"""The control socket's commands: refused until the daemon serves, and again when it ends.

The socket exists from the first moment, so that two daemons never start with one. Must not know
what a command does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from carp_fast.closing import Closing
from carp_fast.control.access import CHANGES, READS, Access, reads_if
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import (
    DemoteRequest,
    EventsRequest,
    ExplainRequest,
    MaintenanceRequest,
    OverviewRequest,
    PreemptRequest,
    RecordRequest,
    ReloadRequest,
    Request,
    StatusRequest,
    UndemoteRequest,
    UpgradeRequest,
    YieldRequest,
)
from carp_fast.control.server import Answer, Handler

COMMANDS: dict[str, type[Request]] = {
    "status": StatusRequest,
    "overview": OverviewRequest,
    "explain": ExplainRequest,
    "demote": DemoteRequest,
    "undemote": UndemoteRequest,
    "yield": YieldRequest,
    "maintenance": MaintenanceRequest,
    "preempt": PreemptRequest,
    "reload": ReloadRequest,
    "record": RecordRequest,
    "upgrade": UpgradeRequest,
}
# Who may give each: what reads is for the members of daemon.control_group as well, what changes
# something for root and the daemon's user, with a line in the audit log.
ACCESS: dict[type[Request], Access] = {
    StatusRequest: READS,
    OverviewRequest: READS,
    ExplainRequest: READS,
    RecordRequest: READS,
    EventsRequest: READS,  # the server's own command
    DemoteRequest: CHANGES,
    UndemoteRequest: CHANGES,
    YieldRequest: CHANGES,
    PreemptRequest: CHANGES,
    ReloadRequest: CHANGES,
    UpgradeRequest: CHANGES,
    MaintenanceRequest: reads_if("action", "plan", "show"),
}
Answering = Mapping[str, Callable[[Any], Awaitable[Answer]]]


class Requests(Closing):
    """Passes requests on to the serving daemon, or refuses them.

    `wait`: those that come before it serves wait for that, as where another process served before.
    """

    def __init__(self, *, wait: bool = False) -> None:
        self._wait = wait
        self._answering: Answering = {}
        self._serving = asyncio.Event()

    @property
    def handlers(self) -> dict[str, Handler]:
        """A handler for each of COMMANDS, in the form that a ControlServer takes."""
        return {
            command: Handler(request, partial(self._answer, command), ACCESS[request])
            for command, request in COMMANDS.items()
        }

    def serve(self, answering: Answering) -> None:
        """Answers with these handlers from now on; one for each of COMMANDS."""
        self._answering = answering
        self._serving.set()

    async def served(self) -> None:
        """Waits until serve() was called."""
        await self._serving.wait()

    def close(self) -> None:
        """Refuses every request from now on."""
        self._answering = {}
        self._wait = False
        self._serving.clear()

    async def _answer(self, command: str, request: Request) -> Answer:
        if self._wait:
            await self._serving.wait()
        if not self._serving.is_set():
            raise ControlError("the daemon is starting or ending")
        return await self._answering[command](request)
