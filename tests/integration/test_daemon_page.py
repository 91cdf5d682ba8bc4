"""The page of a running daemon, through a fail-over: its data, its live messages, its end."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carp_fast.lab.lab import Lab, wait_for
from tests.support.daemons import start_daemon, write_configuration
from tests.support.scraped import UnixConnection, get

pytestmark = pytest.mark.root

TABLE = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"], "name": "web{vhid}"}
DEADLINE_S = 30.0
MASTER = 2


@contextmanager
def messages(path: Path) -> Iterator[Iterator[tuple[str, Any]]]:
    """The messages of a stream, until it ends."""
    connection = UnixConnection(path, DEADLINE_S)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.status == 200

    def each() -> Iterator[tuple[str, Any]]:
        event = ""
        while line := answer.readline():
            kind, _, text = line.decode().rstrip("\n").partition(": ")
            if kind == "event":
                event = text
            elif kind == "data":
                yield event, msgspec.json.decode(text)

    try:
        yield each()
    finally:
        connection.close()


def ends(stream: Iterator[tuple[str, Any]]) -> bool:
    """Reads to the end of a stream; TimeoutError if it has none."""
    with suppress(http.client.HTTPException, ConnectionError):  # it may end within a message
        for _ in stream:
            pass
    return True


def test_the_page_shows_a_fail_over_and_ends_with_the_daemon(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    path = tmp_path / "metrics.sock"
    first = start_daemon(a, write_configuration(tmp_path, a.name, [TABLE]))
    first.wait_state("MASTER", 20)
    keys = {"metrics": str(path)}
    second = start_daemon(b, write_configuration(tmp_path, b.name, [TABLE], daemon=keys))
    second.wait_state("BACKUP", 20)
    wait_for(
        lambda: all(each["peer"] for each in second.status()["virtual_hosts"]), 20, "the master"
    )
    status, _, html = get(path, "/")
    assert status == 200
    assert html.startswith(b"<!doctype html>")
    with messages(path) as stream:
        found = dict([next(stream), next(stream)])
        assert found["overview"]["summary"] == {
            "virtual_hosts": 3, "master": 0, "backup": 3, "init": 0
        }  # fmt: skip
        head, _, cells = get(path, "/map")[2].partition(b"\n")
        layout = msgspec.json.decode(head)
        assert (layout["interfaces"], layout["runs"]) == (["s1"], [[0, 1, 3]])
        assert layout["layout"] == found["layout"]
        assert cells == b"\1\1\1"
        first.kill()
        shown, changed = bytearray(cells), []
        for event, data in stream:
            if event == "cells":
                for slot, cell in zip(data["cells"][::2], data["cells"][1::2], strict=True):
                    shown[slot] = cell
            elif event == "changes":
                changed += [(each["name"], each["state"]) for each in data["last"]]
            if bytes(cell & 3 for cell in shown) == bytes([MASTER] * 3) and len(changed) == 3:
                break
        assert sorted(changed) == [(f"web{vhid}", "MASTER") for vhid in (1, 2, 3)]
        status, _, text = get(path, "/explain?interface=s1&vhid=2")
        assert status == 200
        assert text.startswith(b"virtual host s1/2 (web2)\n")
        assert b"MASTER since" in text
        assert get(path, "/explain?interface=s1&vhid=9")[0] == 404
        off = {**keys, "metrics_page": False}
        write_configuration(tmp_path, b.name, [TABLE], daemon=off)
        second.reload()
        assert get(path, "/")[0] == 404
        assert get(path, "/metrics")[0] == 200
        assert ends(stream)
    write_configuration(tmp_path, b.name, [TABLE], daemon=keys)
    second.reload()
    with messages(path) as stream:
        next(stream)
        assert second.stop() == 0
        assert ends(stream)
