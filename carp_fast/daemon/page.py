"""The page's data: the map of all virtual hosts, live messages, explanations.

A tick makes its messages once, for all who look at the page, in the worker's thread; without
anybody there is no tick. Must not know how the page shows anything, nor HTTP's wire format.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

import msgspec

from carp_fast.control.overview import Overview
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import ExplainRequest
from carp_fast.daemon import explain_text
from carp_fast.daemon.problems import having
from carp_fast.metrics.exchange import Answer, Handler, Refused, Request
from carp_fast.metrics.negotiation import accepts_gzip, is_address_host
from carp_fast.metrics.page import HEADERS, PageFile
from carp_fast.metrics.streams import Streams, message

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.control.documents import StateEvent
    from carp_fast.control.explanations import Explanation
    from carp_fast.daemon.feed import Feed
    from carp_fast.daemon.opened import Opened
    from carp_fast.daemon.overview import Overviews
    from carp_fast.metrics.connection import Refusal

logger = logging.getLogger(__name__)

TICK_S = 0.25
OVERVIEW_TICKS = 4  # between two overviews
CHANGES_SENT = 50  # of states, the last ones of a tick; the others are counted
CELLS_SENT = 4_096  # of the map; beyond it the whole map is sent
MARKS_SHIFT = 2  # a cell is a state in its lowest bits, and the marks of problems above
NO_INTERFACE = -1
GZIP_LEVEL = 1

encode = msgspec.json.encode


class Run(NamedTuple):
    """Adjacent slots of the map: `length` virtual hosts with ascending vhids from `vhid` on.

    `interface`: its place among the names of the map; NO_INTERFACE: the slots are free.
    """

    interface: int
    vhid: int
    length: int


class Captured(NamedTuple):
    """The states and the marks of problems by slot at one time, for a tick or a map."""

    tick: int
    layout: int
    states: bytes
    marks: bytes

    @property
    def cells(self) -> bytes:
        """A byte for each slot."""
        size = len(self.states)
        marks = int.from_bytes(self.marks[:size], "little") << MARKS_SHIFT
        return (marks | int.from_bytes(self.states, "little")).to_bytes(size, "little")


class Page:
    """Answers what the page asks for. `refused`: counts clients that are refused, by reason."""

    def __init__(self, opened: Opened, overviews: Overviews, feed: Feed) -> None:
        self._opened = opened
        self._hosts = opened.hosts
        self._overviews = overviews
        self._feed = feed
        self._worker = opened.worker
        self.refused: Callable[[Refusal], None] = lambda why: None
        self._file: PageFile | None = None
        self._streams = Streams(lambda: self.refused("streams"), lambda: self.refused("stalled"))
        self._ticking: asyncio.Task[None] | None = None
        self._tick = 0
        self._told = 0  # changes of states
        self._before: tuple[int, bytes] | None = None  # layout and cells of the last tick
        self._overview_before: Overview | None = None
        self._runs: tuple[int, list[str], list[Run]] | None = None  # of a layout

    @property
    def routes(self) -> dict[str, Handler]:
        """What answers each path."""
        return {
            "/": self._page,
            "/map": self._checked(self._map),
            "/events": self._checked(self._events),
            "/explain": self._checked(self._explain),
        }

    def leave(self) -> None:
        """Ends every stream: there is no page any more."""
        self._streams.end()

    def close(self) -> None:
        """Ends the ticks."""
        if self._ticking is not None:
            self._ticking.cancel()

    # -- who may ask

    def _checked(self, handler: Handler) -> Handler:
        async def checked(request: Request) -> Answer:
            self._check(request)
            site = request.headers.get("sec-fetch-site", "none")
            if site not in ("none", "same-origin"):
                self.refused("host")
                raise Refused(403, "asked for by a page of another site")
            return await handler(request)

        return checked

    def _check(self, request: Request) -> None:
        """Refuses a request for a name that may be anybody's, also where metrics are public.

        A page of another site may let its own name resolve to this host; an address cannot be
        redirected, nor the name of this host.
        """
        host, name = request.headers.get("host", ""), socket.gethostname()
        if not is_address_host(host) and host.partition(":")[0].lower() != name.lower():
            self.refused("host")
            raise Refused(400, f"the Host header: allowed: an address, localhost, {name}")

    # -- answers

    async def _page(self, request: Request) -> Answer:
        self._check(request)
        if self._file is None:
            self._file = PageFile()
        return self._file.answer()

    async def _map(self, request: Request) -> Answer:
        captured = self._capture((await self._overviews.found()).marks)
        compressed = accepts_gzip(request.headers.get("accept-encoding"))
        body = await self._in_worker(self._map_body, captured, compressed)
        headers = [("Content-Type", "application/octet-stream"), ("Vary", "Accept-Encoding")]
        headers += [("Content-Encoding", "gzip")] if compressed else []
        return Answer(200, [*headers, *HEADERS], body)

    async def _events(self, request: Request) -> Answer:
        self._streams.check_room()
        told = self._feed.published
        overview = await self._overviews.overview(max(0, told - CHANGES_SENT))
        first = [
            message("layout", encode(self._hosts.layout)),
            message("overview", encode(overview)),
        ]
        answer = self._streams.answer(*first)
        answer.headers.extend(HEADERS)
        if self._ticking is None:
            # The client asks for the map after this: what changes from now on it gets by a tick.
            captured = self._capture((await self._overviews.found()).marks)
            self._told, self._overview_before = told, None
            self._before = captured.layout, captured.cells
            self._ticking = asyncio.get_running_loop().create_task(self._tick_on())
            self._ticking.add_done_callback(self._on_ticked)
        return answer

    async def _explain(self, request: Request) -> Answer:
        wanted = _wanted(request.query)
        try:
            found = (await self._opened.explanations.answer(wanted)).explain
        except ControlError as error:
            raise Refused(404, str(error)) from error
        body = await self._in_worker(_explained, found)
        return Answer(200, [("Content-Type", "text/plain; charset=utf-8"), *HEADERS], body)

    async def _in_worker(self, make: Callable[..., bytes], *given: object) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._worker, make, *given)

    # -- ticks

    def _capture(self, marks: bytes) -> Captured:
        hosts = self._hosts
        states = bytes(hosts.states)
        return Captured(self._tick, hosts.layout, states, marks.ljust(len(states), b"\0"))

    async def _tick_on(self) -> None:
        """Sends messages while somebody listens."""
        number, marks = 0, (await self._overviews.found()).marks
        while len(self._streams):
            overview = None
            if number % OVERVIEW_TICKS == 0:
                overview = await self._overviews.overview(self._feed.published)
                marks = (await self._overviews.found()).marks
            number += 1
            self._tick += 1
            captured, changes = self._capture(marks), self._feed.since(self._told)
            self._told = self._feed.published
            loop = asyncio.get_running_loop()
            made = await loop.run_in_executor(
                self._worker, self._messages, captured, overview, changes, self._told
            )
            for each in made:
                self._streams.send(each)
            await asyncio.sleep(TICK_S)

    def _on_ticked(self, task: asyncio.Task[None]) -> None:
        self._ticking = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("the page is not told any more", exc_info=task.exception())
            self._streams.end()  # browsers connect again

    # -- in the worker's thread

    def _messages(
        self,
        captured: Captured,
        overview: Overview | None,
        changes: Sequence[StateEvent],
        told: int,
    ) -> list[bytes]:
        """What has changed since the last tick; `told`: changes of states so far."""
        made = self._cells(captured)
        if changes:
            sent = list(changes[-CHANGES_SENT:])
            made.append(message("changes", encode({"changes": told, "last": sent})))
        if overview is not None:
            still = msgspec.structs.replace(overview, at="", problems_at="", changes=0, last=[])
            if still != self._overview_before:
                self._overview_before = still
                made.append(message("overview", encode(overview)))
            else:
                made.append(message("at", encode(overview.at)))
        return made

    def _cells(self, captured: Captured) -> list[bytes]:
        """The cells of the map that have changed, or that it has another layout."""
        cells = captured.cells
        before, self._before = self._before, (captured.layout, cells)
        if before is None or before[0] != captured.layout:
            return [message("layout", encode(captured.layout))]
        if before[1] == cells:
            return []
        size = len(cells)
        differing = int.from_bytes(before[1], "little") ^ int.from_bytes(cells, "little")
        changed = having(differing.to_bytes(size, "little"), 255)
        head = {"tick": captured.tick, "layout": captured.layout}
        if changed.count(1) > CELLS_SENT:
            return [message("cells", encode({**head, "all": base64.b64encode(cells).decode()}))]
        pairs: list[int] = []
        slot = changed.find(1)
        while slot >= 0:
            pairs += (slot, cells[slot])
            slot = changed.find(1, slot + 1)
        return [message("cells", encode({**head, "cells": pairs}))]

    def _map_body(self, captured: Captured, compressed: bool) -> bytes:
        """A line of JSON, and the cells."""
        if self._runs is None or self._runs[0] != captured.layout:
            names, runs = runs_of(self._hosts.hosts)
            self._runs = captured.layout, names, runs
        _, names, runs = self._runs
        head = {
            "tick": captured.tick,
            "layout": captured.layout,
            "interfaces": names,
            "runs": runs,
        }
        body = encode(head) + b"\n" + captured.cells
        return gzip.compress(body, GZIP_LEVEL, mtime=0) if compressed else body


def runs_of(hosts: Sequence[VirtualHost | None]) -> tuple[list[str], list[Run]]:
    """The names of interfaces, and the slots in runs, in their order."""
    places: dict[str, int] = {}
    runs: list[Run] = []
    interface, vhid, count = NO_INTERFACE, 0, 0
    for host in hosts:
        place = NO_INTERFACE if host is None else places.setdefault(host.interface, len(places))
        follows = host is None or host.vhid == vhid + count
        if count and place == interface and follows:
            count += 1
            continue
        if count:
            runs.append(Run(interface, vhid, count))
        interface, vhid, count = place, 0 if host is None else host.vhid, 1
    if count:
        runs.append(Run(interface, vhid, count))
    return list(places), runs


def _wanted(query: str) -> ExplainRequest:
    """The virtual host that is named by a query. Raises Refused."""
    try:
        found = parse_qs(query, strict_parsing=True, max_num_fields=8, errors="strict")
        ((interface,), (vhid,)) = found["interface"], found["vhid"]
        return ExplainRequest(interface, int(vhid))
    except (ValueError, KeyError):
        text = "must be /explain?interface=NAME&vhid=NUMBER"
        raise Refused(400, text) from None


def _explained(found: Explanation) -> bytes:
    return explain_text.text(found).encode()
