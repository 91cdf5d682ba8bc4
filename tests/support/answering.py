"""A daemon that only answers: a control server in a thread, with a status of its own making."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from carp_fast.control.access import CHANGES, READS
from carp_fast.control.protocol import ControlError
from carp_fast.control.server import Answer, ControlServer, Handler
from carp_fast.control.slices import document_slices, in_slices
from carp_fast.pump.facts import PumpFacts

DEADLINE_S = 60.0


def ago(**delta: float) -> str:
    at = datetime.now(UTC) - timedelta(**delta)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def host(interface: str, vhid: int, state: str, **more: Any) -> dict[str, Any]:
    return {
        "interface": interface,
        "vhid": vhid,
        "families": [4],
        "destinations": ["224.0.0.18"],
        "state": state,
        "since": ago(hours=3, minutes=12, seconds=30),
        "reason": "master_down",
        "in_use_by": None,
        "addresses": ["192.0.2.10/24", "192.0.2.11/24", "192.0.2.12/24"],
        "addresses_held": 3,
        "held_by": "address",
        "address_problems": {},
        "warnings": {},
        "advbase": 1,
        "advskew": 0,
        "effective_advskew": 0,
        "demotion": {"total": 0, "reasons": {}},
        "peer": None,
        "peers": [],
        "counters": {},
        **more,
    }


class FakeDaemon:
    """A control server in a thread, with a status of its own making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hosts = [
            host("eth0", 7, "MASTER"),
            host(
                "eth0",
                8,
                "BACKUP",
                since=ago(days=40, hours=1, minutes=30),
                reason="advertisement",
                addresses=["192.0.2.20/24"],
                advskew=100,
                effective_advskew=240,
                peer={"source": "192.0.2.2", "advbase": 1, "advskew": 0, "heard_ago_s": 0.4},
            ),
            host(
                "vlan100", 255, "INIT", since=ago(days=2, hours=5, minutes=30), reason="link_down"
            ),
        ]
        self.requests: list[dict[str, Any]] = []
        self.reload_answer: dict[str, Any] | ControlError = ControlError("not set")
        self.demote_answer: dict[str, Any] | ControlError = ControlError("not set")
        # By command, for those without an answer of their own: the next answers, the last for ever.
        self.answers: dict[str, list[dict[str, Any] | ControlError]] = {}
        self.version = "0.1.0"
        self.upgrades: list[dict[str, Any] | None] = [None]  # in the status, the last for ever
        self.loop = uvloop.new_event_loop()
        handlers = {
            "status": Handler(dict, self.status, READS),
            **{
                command: Handler(dict, partial(self.given, command), READS)
                for command in ("overview", "explain")
            },
            "reload": Handler(dict, self.reload, CHANGES),
            "demote": Handler(dict, self.demote, CHANGES),
            "undemote": Handler(dict, self.demote, CHANGES),
            **{
                command: Handler(dict, partial(self.given, command), CHANGES)
                for command in ("yield", "preempt", "maintenance", "upgrade")
            },
        }
        self._handlers = handlers
        self.server = ControlServer(path, handlers)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.run(self.server.start())

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def pass_on(self, why: str, within_s: float) -> None:
        """Has another server go on with the socket, as after an upgrade."""

        async def passing_on() -> None:
            former, self.server = self.server, ControlServer(self.path, self._handlers)
            await former.pause(within_s)
            passed_on = former.passed_on()
            assert passed_on is not None
            document, descriptor = passed_on
            await self.server.adopt(document, socket.socket(fileno=os.dup(descriptor)))
            await former.leave(why)

        self.run(passing_on())

    def wait_for_subscribers(self, count: int) -> None:
        async def until() -> None:
            async with asyncio.timeout(DEADLINE_S):
                while self.server.subscribers != count:
                    await asyncio.sleep(0.005)

        self.run(until())

    def publish(self, *events: dict[str, Any]) -> None:
        async def publish_all() -> None:
            for event in events:
                self.server.publish(event)

        self.run(publish_all())

    async def status(self, request: dict[str, Any]) -> Answer:
        self.requests.append(request)
        keys = ("interface", "vhid", "state")
        shown = [
            one for one in self.hosts if all(request.get(key) in (None, one[key]) for key in keys)
        ]
        states = [one["state"] for one in self.hosts]
        fields = {
            "daemon": {
                "version": self.version,
                "pid": 4711,
                "started_at": ago(hours=1, minutes=5, seconds=30),
                "host": "alpha",
                "receive": "packet",
                "maintenance": False,
                "pump": PumpFacts(0, 0, 0, 0, 0, 10_000_000, "fifo"),
                "upgrades": self.upgrades.pop(0) if len(self.upgrades) > 1 else self.upgrades[0],
            },
            "summary": {
                "virtual_hosts": len(self.hosts),
                **{name.lower(): states.count(name) for name in ("MASTER", "BACKUP", "INIT")},
            },
            "interfaces": [],
        }
        return document_slices("status", fields, "virtual_hosts", in_slices(shown))

    async def reload(self, request: dict[str, Any]) -> Answer:
        self.requests.append(request)
        if isinstance(self.reload_answer, ControlError):
            raise self.reload_answer
        return self.reload_answer

    async def demote(self, request: dict[str, Any]) -> Answer:
        self.requests.append(request)
        if isinstance(self.demote_answer, ControlError):
            raise self.demote_answer
        return self.demote_answer

    async def given(self, command: str, request: dict[str, Any]) -> Answer:
        self.requests.append(request)
        answers = self.answers[command]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, ControlError):
            raise answer
        return answer

    def stop(self) -> None:
        self.run(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()
