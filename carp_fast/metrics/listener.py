"""The metrics' listener: a TCP or Unix socket on the loop, its clients and their number.

Binds before it leaves the place that it had, so a failure changes nothing. Must not know what the
answers hold: a handler for each path is passed to it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping

from carp_fast.config.model import ControlGroup, MetricsAddress
from carp_fast.control.protocol import ControlError
from carp_fast.control.socket_file import SocketFile
from carp_fast.errors import CarpFastError
from carp_fast.metrics.connection import REFUSALS, Connection, Refusal
from carp_fast.metrics.exchange import Handler

logger = logging.getLogger(__name__)

CLIENTS_MAX = 32  # beyond it an idle client gives its place up, or the new one is refused
REFUSED_LOG_S = 60.0  # between two log lines about clients that were refused
FILE = "metrics socket", "daemon.metrics"


class ListenerError(CarpFastError):
    """Raised when a place cannot be listened at; one line says which and why."""


class Listener:
    """Serves `routes`, handlers by path, at one place at a time.

    `refusals` counts clients that were refused or disconnected. All methods are called on the
    loop's thread.
    """

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self.routes = routes
        self.loopback_only = True
        self.address: MetricsAddress | None = None
        self.refusals: Counter[Refusal] = Counter(dict.fromkeys(REFUSALS, 0))
        self._group: ControlGroup | None = None
        self._server: asyncio.Server | None = None
        self._file: SocketFile | None = None
        self._connections: set[Connection] = set()
        self._logged_at: float | None = None

    @property
    def clients(self) -> int:
        """The number of connections."""
        return len(self._connections)

    def counted(self) -> dict[str, int]:
        """Clients that were refused or disconnected so far, by reason."""
        return {word: self.refusals[word] for word in REFUSALS}

    async def listen(self, address: MetricsAddress, group: ControlGroup | None) -> None:
        """Listens at this place from now on, and no longer where it did.

        `group`: whose members may connect to a Unix socket; None: root and this user alone. Raises
        ListenerError, and then listens where it did.
        """
        if address == self.address:
            if self._file is not None and group != self._group:
                self._file.use_group(group)
            self._group = group
            return
        before = self.address
        try:
            opened = await self._open(address, group)
        except ListenerError as error:
            # A wildcard address and another one of the same port exclude each other.
            blocked = error.__cause__
            ours = before is not None and before.port == address.port and before.path is None
            if not (ours and isinstance(blocked, OSError) and blocked.errno == errno.EADDRINUSE):
                raise
            opened = await self._open_instead(address, group)
        self._leave()
        self._take(address, group, opened)

    async def _open_instead(
        self, address: MetricsAddress, group: ControlGroup | None
    ) -> tuple[asyncio.Server, SocketFile | None]:
        """Opens a place that the present one may be in the way of. Raises ListenerError."""
        before, former_group = self.address, self._group
        assert before is not None
        self._leave()
        try:
            return await self._open(address, group)
        except ListenerError:
            self._take(before, former_group, await self._open(before, former_group))
            raise

    async def stop(self) -> None:
        """Listens nowhere from now on, and disconnects every client."""
        self._leave()
        for connection in list(self._connections):
            connection.abort()

    def leave(self) -> None:
        """Listens nowhere; answers that are under way are finished."""
        self._leave()

    def refused(self, why: Refusal) -> None:
        """Counts a client that was refused or disconnected; logs that now and then."""
        self.refusals[why] += 1
        now = time.monotonic()
        if self._logged_at is None or now - self._logged_at >= REFUSED_LOG_S:
            self._logged_at = now
            counts = ", ".join(f"{count} {word}" for word, count in self.refusals.items() if count)
            logger.warning("metrics: a client was refused (%s); all so far: %s", why, counts)

    def ended(self, connection: Connection) -> None:
        """Forgets a connection that has ended."""
        self._connections.discard(connection)

    # -- places

    async def _open(
        self, address: MetricsAddress, group: ControlGroup | None
    ) -> tuple[asyncio.Server, SocketFile | None]:
        loop = asyncio.get_running_loop()
        if address.path is not None:
            file = SocketFile(address.path, group, *FILE)
            try:
                listening = await file.bind(CLIENTS_MAX)
            except ControlError as error:
                raise ListenerError(str(error)) from error
            return await loop.create_unix_server(self._connect, sock=listening), file
        try:
            listening = _tcp_socket(address)
        except OSError as error:
            text = f"daemon.metrics: cannot listen at {address}: {error.strerror}"
            raise ListenerError(text) from error
        return await loop.create_server(self._connect, sock=listening), None

    def _take(
        self,
        address: MetricsAddress,
        group: ControlGroup | None,
        opened: tuple[asyncio.Server, SocketFile | None],
    ) -> None:
        self._server, self._file = opened
        self.address, self._group = address, group

    def _leave(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._file is not None:
            self._file.remove()
        self._server = self._file = self.address = None
        for connection in list(self._connections):
            connection.leave()

    # -- clients

    def _connect(self) -> Connection:
        full = None
        if len(self._connections) >= CLIENTS_MAX and not self._take_place():
            full = f"too many clients (limit {CLIENTS_MAX})"
            self.refused("clients")
            return Connection(self, full=full)
        connection = Connection(self)
        self._connections.add(connection)
        return connection

    def _take_place(self) -> bool:
        """Ends the connection that has been idle for longest; False: none is."""
        idle = [each for each in self._connections if each.idle_since is not None]
        if not idle:
            return False
        longest = min(idle, key=lambda each: each.idle_since or 0.0)
        self._connections.discard(longest)
        longest.close()
        return True


def _tcp_socket(address: MetricsAddress) -> socket.socket:
    """A socket that listens there. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((address.host, address.port))
        listening.listen(CLIENTS_MAX)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening
