"""The daemon's metrics: where they and the page are asked for, and how requests become documents.

Documents are made in the worker's thread; the libraries for them are imported when metrics are
first wanted. Must not know what is measured, nor HTTP's wire format.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from carp_fast.daemon.control_group import group_of
from carp_fast.daemon.measuring import Gathered, Measuring
from carp_fast.metrics.exchange import Answer, Refused, Request
from carp_fast.metrics.negotiation import CONTENT_TYPES, Format, accepts_gzip, format_for
from carp_fast.metrics.virtual_hosts import parts

if TYPE_CHECKING:
    from carp_fast.config.model import Daemon as Settings
    from carp_fast.daemon.feed import Feed
    from carp_fast.daemon.opened import Opened
    from carp_fast.daemon.overview import Overviews
    from carp_fast.daemon.page import Page
    from carp_fast.metrics.collector import Documents
    from carp_fast.metrics.listener import Listener

logger = logging.getLogger(__name__)

RETRY_S = 10.0  # until the next attempt to listen, where nothing is listened at
GZIP_LEVEL = 1  # half the time of level 6, for a document a tenth of its size in any case
GZIP_WBITS = 31  # of zlib: with gzip's header
PATH, OF_VIRTUAL_HOSTS = "/metrics", "/metrics/virtual_hosts"


class Metrics:
    """Answers with what `measuring` measures, at the place that is configured."""

    def __init__(
        self, opened: Opened, measuring: Measuring, overviews: Overviews, feed: Feed
    ) -> None:
        self._opened = opened
        self._measuring = measuring
        self._overviews = overviews
        self._feed = feed
        self._worker = opened.worker
        self._background = opened.background
        self._detail = "interface"
        self._page: Page | None = None
        self._listener: Listener | None = None
        self._documents: Documents | None = None
        self._wanted: object = None  # the settings that were used last

    async def use(self, settings: Settings) -> list[str]:
        """Listens as configured. Returns a line for what that was not possible for, if anything:
        then it listens where it did, or tries again until it can.
        """
        self._wanted = settings
        self._detail = settings.metrics_detail
        if settings.metrics is None:
            if self._listener is not None:
                self._listener.leave()
            return []
        error = await self._listen(settings)
        if not error:
            return []
        assert self._listener is not None
        if self._listener.address is not None:
            error = f"{error}; still at {self._listener.address}"
        else:
            error = f"{error}; tried again every {RETRY_S:g} s"
            self._background.run(self._try_again(settings))
        logger.error("%s", error)
        return [error]

    async def stop(self) -> None:
        """Listens nowhere from now on, and disconnects every client."""
        self._wanted = None
        self._measuring.close()
        self._overviews.close()
        if self._page is not None:
            self._page.close()
        if self._listener is not None:
            await self._listener.stop()

    async def _listen(self, settings: Settings) -> str:
        """Listens; returns why that failed."""
        from carp_fast.daemon.page import Page
        from carp_fast.metrics.collector import Documents
        from carp_fast.metrics.listener import Listener, ListenerError

        address = settings.metrics
        assert address is not None
        if self._listener is None or self._documents is None or self._page is None:
            self._listener, self._documents = Listener({}), Documents()
            self._page = Page(self._opened, self._overviews, self._feed)
            self._measuring.refused = self._listener.counted
            self._page.refused = self._listener.refused
        self._listener.routes = {
            PATH: self._answer,
            OF_VIRTUAL_HOSTS: self._answer_virtual_hosts,
            **(self._page.routes if settings.metrics_page else {}),
        }
        if not settings.metrics_page:
            self._page.leave()
        before = self._listener.address
        try:
            await self._listener.listen(address, group_of(settings))
        except ListenerError as error:
            return str(error)
        # A site elsewhere cannot name a Unix socket, nor is a name known that is public.
        self._listener.loopback_only = address.path is None and address.is_local
        if address != before:
            logger.info("metrics: at %s", address)
        return ""

    async def _try_again(self, settings: Settings) -> None:
        """Listens as soon as that is possible, unless something else is wanted by then."""
        while True:
            await asyncio.sleep(RETRY_S)
            if self._wanted is not settings or not await self._listen(settings):
                return

    # -- requests

    async def _answer(self, request: Request) -> Answer:
        form = _form(request)
        gathered = await self._measuring.gather()
        compressed = accepts_gzip(request.headers.get("accept-encoding"))
        body = await asyncio.get_running_loop().run_in_executor(
            self._worker, self._document, gathered, form, compressed
        )
        return Answer(200, _headers(form, compressed=compressed), body)

    def _document(self, gathered: Gathered, form: Format, compressed: bool) -> bytes:
        """Makes the document, in the worker's thread."""
        assert self._documents is not None
        problems = self._detail != "interface"
        measured = self._measuring.measured(gathered, problems=problems)
        document = self._documents.document(measured, form)
        return gzip.compress(document, GZIP_LEVEL, mtime=0) if compressed else document

    async def _answer_virtual_hosts(self, request: Request) -> Answer:
        if self._detail != "full":
            raise Refused(404, 'only with daemon.metrics_detail = "full"')
        form = _form(request)
        gathered = await self._measuring.gather()
        compressed = accepts_gzip(request.headers.get("accept-encoding"))
        made = parts(self._measuring.rows(gathered), form)
        if compressed:
            made = _compressed(made)
        return Answer(200, _headers(form, compressed=compressed), self._in_worker(made))

    async def _in_worker(self, made: Iterator[bytes]) -> AsyncIterator[bytes]:
        """The parts, each made in the worker's thread when its turn comes."""
        loop = asyncio.get_running_loop()
        while (part := await loop.run_in_executor(self._worker, next, made, None)) is not None:
            yield part


def _form(request: Request) -> Format:
    """The format that a client accepts. Raises Refused."""
    form = format_for(request.headers.get("accept"))
    if form is None:
        raise Refused(406, f"allowed: {', '.join(CONTENT_TYPES.values())}")
    return form


def _headers(form: Format, *, compressed: bool) -> list[tuple[str, str]]:
    headers = [("Content-Type", CONTENT_TYPES[form]), ("Vary", "Accept, Accept-Encoding")]
    return [*headers, ("Content-Encoding", "gzip")] if compressed else headers


def _compressed(made: Iterator[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WBITS)
    for part in made:
        yield compressor.compress(part)
    yield compressor.flush()
