"""Control servers on a loop in a thread, for tests of who talks to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from carp_fast.control.access import READS
from carp_fast.control.server import Answer, ControlServer, Handler

DEADLINE_S = 60.0
Answering = Callable[[dict[str, Any]], Awaitable[Answer]]


def server_of(path: Path, **answering: Answering) -> ControlServer:
    """A server whose commands take any arguments."""
    return ControlServer(
        path, {name: Handler(dict, each, READS) for name, each in answering.items()}
    )


class ServedLoop:
    """A uvloop in a thread, with control servers on it."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.servers: list[ControlServer] = []
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def call(self, function: Callable[[], Any]) -> Any:
        async def called() -> Any:
            return function()

        return self.run(called())

    def serve(self, path: Path, **handlers: Answering) -> ControlServer:
        server = server_of(path, **handlers)
        self.run(server.start())
        self.servers.append(server)
        return server

    def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Asks the loop turn by turn, with a deadline."""

        async def until() -> None:
            async with asyncio.timeout(DEADLINE_S):
                while not predicate():
                    await asyncio.sleep(0.001)

        self.run(until())

    def close(self) -> None:
        for server in self.servers:
            self.run(server.stop())
        left = self.call(lambda: [t for t in asyncio.all_tasks() if "called" not in repr(t)])
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()
        assert not left, "the server left tasks behind"


async def echo(request: dict[str, Any]) -> dict[str, object]:
    return {"heard": request}
