"""A metrics' listener on this host, and clients of it that say what they like."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import h11

from carp_fast.config.model import MetricsAddress
from carp_fast.metrics.exchange import Handler
from carp_fast.metrics.listener import Listener

DEADLINE_S = 60.0


class Got(NamedTuple):
    """An answer: its status, headers by lower-case name, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port at which nothing listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def local(port: int | None = None) -> MetricsAddress:
    return MetricsAddress("127.0.0.1", free_port() if port is None else port)


@asynccontextmanager
async def listening(
    routes: Mapping[str, Handler], address: MetricsAddress | None = None
) -> AsyncIterator[Listener]:
    """A listener with these routes, at a free port of 127.0.0.1 unless told otherwise."""
    listener = Listener(routes)
    async with asyncio.timeout(DEADLINE_S):
        await listener.listen(local() if address is None else address, None)
        try:
            yield listener
        finally:
            await listener.stop()


class Client:
    """A connection to a listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http = h11.Connection(h11.CLIENT)

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.writer.write(data)

    async def ask(self, target: str = "/metrics", method: str = "GET", **headers: str) -> Got:
        """Sends a request, with the header Host unless `host` is given, and takes the answer."""
        given = {"host": "localhost"} | {k.replace("_", "-"): v for k, v in headers.items()}
        request = h11.Request(
            method=method, target=target, headers=[(k, v) for k, v in given.items()]
        )
        self.send((self.http.send(request) or b"") + (self.http.send(h11.EndOfMessage()) or b""))
        got = await self.answer()
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return got

    async def answer(self) -> Got:
        """Takes an answer to what was sent."""
        status, headers, body = 0, {}, bytearray()
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(65_536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage), event
                return Got(status, headers, bytes(body))

    async def until_closed(self) -> bytes:
        """What still comes, until the listener has closed the connection."""
        rest = b""
        try:
            while data := await self.reader.read(65_536):
                rest += data
        except ConnectionResetError:
            pass
        return rest

    def close(self) -> None:
        self.writer.close()


async def connect(address: MetricsAddress | None) -> Client:
    """A client of this place."""
    assert address is not None
    if address.path is not None:
        return Client(*await asyncio.open_unix_connection(address.path))
    return Client(*await asyncio.open_connection(address.host, address.port))


async def ask(
    address: MetricsAddress | None, target: str = "/metrics", method: str = "GET", **headers: str
) -> Got:
    """An answer to one request over a connection of its own."""
    client = await connect(address)
    try:
        return await client.ask(target, method, **headers)
    finally:
        client.close()


def unix(path: Path) -> MetricsAddress:
    return MetricsAddress(path=path)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, which the network namespaces of a machine share."""

    def __init__(self, path: Path, timeout_s: float = DEADLINE_S) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def get(path: Path, target: str = "/metrics", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """An answer over a Unix socket: status, headers, body."""
    connection = UnixConnection(path)
    connection.request("GET", target, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body
