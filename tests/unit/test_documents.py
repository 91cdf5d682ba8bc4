"""The documents of the control socket, byte for byte: what programs read from `--json`.

An engine with virtual hosts in every state, at times that do not move; `documents/` holds what a
daemon answers then. A difference there is a change of the contract.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.scene import Scene, Served, stop_time

DOCUMENTS = Path(__file__).parent / "documents"


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    stop_time(monkeypatch)
    return Scene()


REQUESTS: dict[str, dict[str, Any]] = {
    "status": {"command": "status"},
    "status-some": {"command": "status", "state": "master", "problems": True},
    "status-none": {"command": "status", "interface": "eth9"},
    "explain": {"command": "explain", "interface": "eth0"},
    "reload": {"command": "reload"},
    "refused": {"command": "reload", "force": True},
    "unknown": {"command": "nothing"},
}


# Arguments that are missing, or of another type.
FAILED = (
    {"command": "explain", "interface": "eth0"},
    {"command": "explain", "interface": "eth0", "vhid": "42"},
    {"command": "explain", "interface": None, "vhid": 42},
)


def answers(scene: Scene, path: Path) -> dict[str, list[bytes]]:
    """By the name of their file: every line."""

    async def asked() -> dict[str, list[bytes]]:
        served = Served(scene, path)
        await served.server.start()
        found = {}
        for name, request in REQUESTS.items():
            every: list[dict[str, Any]] = [request]
            if name == "explain":
                every = [{**request, "vhid": vhid} for vhid in range(42, 48)]
            found[name] = await served.ask(*every)
        found["failed"] = await served.ask(*FAILED)
        found["events"] = await served.events()
        await served.server.stop()
        return found

    return asyncio.run(asked())


def test_what_a_daemon_answers_is_the_same_byte_for_byte(scene: Scene, tmp_path: Path) -> None:
    found = answers(scene, tmp_path / "control.sock")
    assert set(found) == {path.stem for path in DOCUMENTS.glob("*.jsonl")}
    for name, lines in found.items():
        assert b"".join(lines) == (DOCUMENTS / f"{name}.jsonl").read_bytes(), name
