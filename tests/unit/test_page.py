"""The page: what it may load and who may ask for its data, its map, and its live messages."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

import carp_fast
from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.documents import StateEvent
from carp_fast.daemon import page
from carp_fast.daemon.feed import Feed
from carp_fast.daemon.overview import Overviews
from carp_fast.daemon.page import MARKS_SHIFT, NO_INTERFACE, Page, Run, runs_of
from carp_fast.daemon.table import BACKUP, MASTER, STATES
from carp_fast.metrics import streams
from carp_fast.metrics.exchange import Answer, Refused, Request
from carp_fast.metrics.page import policy_of
from tests.support.measured import Staged
from tests.support.scene import NOW_NS, Scene, stop_time
from tests.support.segment import SECOND_NS

HTML = (Path(carp_fast.__file__).parent / "metrics" / "page.html").read_text()
HOST = {"host": "127.0.0.1:9112"}


class Message(NamedTuple):
    """A server-sent event."""

    event: str
    data: Any


class Stage:
    """The page of the scene."""

    def __init__(self, worker: ThreadPoolExecutor) -> None:
        staged = Staged({}, [])
        self.scene: Scene = staged.scene
        self.scene.problems.wrong_digest_ns = {0: NOW_NS - SECOND_NS}
        staged.opened.explanations = self.scene.explanations
        staged.opened.worker = worker
        self.feed = Feed()
        overviews = Overviews(staged.opened, staged.measuring, self.feed)
        self.page = Page(staged.opened, overviews, self.feed)
        self.refused: list[str] = []
        self.page.refused = self.refused.append

    async def get(self, path: str, query: str = "", **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.page.routes[path](Request(path, {**HOST, **given}, query))

    async def body(self, path: str, query: str = "", **headers: str) -> bytes:
        body = (await self.get(path, query, **headers)).body
        assert isinstance(body, bytes)
        return body

    async def map(self) -> tuple[dict[str, Any], bytes]:
        head, _, cells = (await self.body("/map")).partition(b"\n")
        return msgspec.json.decode(head), cells

    def set_state(self, slot: int, state: int) -> None:
        before, self.scene.hosts.states[slot] = self.scene.hosts.states[slot], state
        vhid = 42 + slot
        self.feed.publish(
            StateEvent("at", "eth0", vhid, STATES[state], STATES[before], "master_down", None)
        )


class Live:
    """The messages of a stream, one after the other."""

    def __init__(self, answer: Answer) -> None:
        assert answer.endless
        assert not isinstance(answer.body, bytes)
        self.body: Any = answer.body

    async def next(self, event: str) -> Any:
        """The data of the next message of this kind; others are passed over."""
        while True:
            found = re.fullmatch(rb"event: (\w+)\ndata: (.*)\n\n", await anext(self.body))
            if found is not None and found[1] == event.encode():
                return msgspec.json.decode(found[2])


Scenario = Callable[[Stage], Coroutine[Any, Any, None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    stop_time(monkeypatch)
    monkeypatch.setattr(page, "TICK_S", 0.001)

    def run_scenario(scenario: Scenario) -> None:
        async def staged() -> None:
            with ThreadPoolExecutor(1) as worker:
                stage = Stage(worker)
                try:
                    async with asyncio.timeout(20):
                        await scenario(stage)
                finally:
                    stage.page.close()

        asyncio.run(staged())

    return run_scenario


# --- the file -------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere() -> None:
    assert re.findall(r"https?:|//[a-z]|\bimport\b|@import|url\(", HTML) == []
    assert set(re.findall(r'(?:href|src)="([^"]*)"', HTML)) == {"data:,", "metrics"}
    assert set(re.findall(r"(?:fetch|EventSource)\([`\"](\w+)", HTML)) == {
        "map", "explain", "events"
    }  # fmt: skip


def test_what_a_daemon_sends_is_never_taken_as_html() -> None:
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", HTML) == []
    )


def test_the_policy_allows_the_inline_script_and_style_and_nothing_else() -> None:
    policy = dict(each.split(" ", 1) for each in policy_of(HTML).split("; "))
    assert policy.pop("default-src") == "'none'"
    for tag, source in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*)</{tag}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(source) == f"'sha256-{digest}'"
    assert policy == {
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    # Neither of these has a hash: a browser would refuse it.
    assert re.findall(r"<[^>]+\s(?:style|on\w+)=", HTML) == []


def test_the_page_is_answered_with_its_policy(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        answer = await stage.get("/")
        assert (answer.status, answer.body) == (200, HTML.encode())
        headers = dict(answer.headers)
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Content-Security-Policy"] == policy_of(HTML)
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        for path in ("/map", "/events"):
            assert dict((await stage.get(path)).headers)["Cross-Origin-Resource-Policy"]

    run(scenario)


# --- who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *((host, True) for host in ("127.0.0.1", "[::1]:9112", "localhost:80", "192.0.2.1:9112")),
        *((host, True) for host in ("alpha", "ALPHA:9112")),  # this host's name
        *((host, False) for host in ("evil.example", "alpha.evil.example:9112", "", "127.0.0.1.x")),
    ],
)
@pytest.mark.parametrize("path", ["/", "/map", "/events", "/explain"])
def test_the_host_header_must_be_an_address_or_this_hosts_name(
    run: Any, path: str, host: str, allowed: bool
) -> None:
    async def scenario(stage: Stage) -> None:
        asking = stage.get(path, "interface=eth0&vhid=42", host=host)
        if allowed:
            assert (await asking).status == 200
            return
        with pytest.raises(Refused) as refused:
            await asking
        assert str(refused.value) == "the Host header: allowed: an address, localhost, alpha"
        assert (refused.value.status, stage.refused) == (400, ["host"])

    run(scenario)


@pytest.mark.parametrize("path", ["/map", "/events", "/explain"])
def test_pages_of_other_sites_get_no_data(run: Any, path: str) -> None:
    async def scenario(stage: Stage) -> None:
        for site in ("cross-site", "same-site"):
            with pytest.raises(Refused) as refused:
                await stage.get(path, sec_fetch_site=site)
            assert refused.value.status == 403
        for site in ("same-origin", "none"):
            await stage.get(path, "interface=eth0&vhid=42", sec_fetch_site=site)
        assert (await stage.get("/", sec_fetch_site="cross-site")).status == 200, "a link"

    run(scenario)


# --- the map --------------------------------------------------------------------------------------


def test_the_map_has_a_byte_for_each_virtual_host(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        head, cells = await stage.map()
        assert head["interfaces"] == ["eth0"]
        assert head["runs"] == [[0, 42, 6]]
        states = stage.scene.hosts.states
        assert bytes(cell & 3 for cell in cells) == states
        marks = (await stage.page._overviews.found()).marks
        assert bytes(cell >> MARKS_SHIFT for cell in cells) == marks
        assert any(marks)
        packed = await stage.get("/map", accept_encoding="gzip")
        assert isinstance(packed.body, bytes)
        assert gzip.decompress(packed.body).endswith(cells)
        assert ("Content-Encoding", "gzip") in packed.headers

    run(scenario)


def test_the_map_follows_virtual_hosts_that_leave_and_come(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        hosts = stage.scene.hosts
        before, _ = await stage.map()
        hosts.give_back(2)
        head, cells = await stage.map()
        assert head["layout"] != before["layout"]
        assert head["runs"] == [[0, 42, 2], [NO_INTERFACE, 0, 1], [0, 45, 3]]
        assert len(cells) == 6
        hosts.take(VirtualHost("eth1", 7, ("10.0.0.1/32",), (), Settings(passphrase=b"secret")))
        head, cells = await stage.map()
        assert head["interfaces"] == ["eth0", "eth1"]
        assert head["runs"] == [[0, 42, 2], [1, 7, 1], [0, 45, 3]]
        assert cells[2] & 3 == 0

    run(scenario)


def virtual_host(interface: str, vhid: int) -> VirtualHost:
    return VirtualHost(interface, vhid, (), (), Settings(passphrase=b"secret"))


def test_runs_are_of_adjacent_slots_with_ascending_vhids() -> None:
    assert runs_of([]) == ([], [])
    hosts = [virtual_host(name, vhid) for name in ("eth0", "eth1") for vhid in (1, 2, 3)]
    assert runs_of([*hosts, None, None, virtual_host("eth0", 9), virtual_host("eth0", 9)]) == (
        ["eth0", "eth1"],
        [Run(0, 1, 3), Run(1, 1, 3), Run(NO_INTERFACE, 0, 2), Run(0, 9, 1), Run(0, 9, 1)],
    )


# --- live -----------------------------------------------------------------------------------------


def test_a_stream_begins_with_the_layout_and_an_overview_with_the_last_changes(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        for _ in range(page.CHANGES_SENT):
            stage.set_state(0, BACKUP)
            stage.set_state(0, MASTER)
        live = Live(await stage.get("/events"))
        assert await live.next("layout") == stage.scene.hosts.layout
        overview = await live.next("overview")
        assert overview["summary"]["virtual_hosts"] == 6
        assert overview["changes"] == 2 * page.CHANGES_SENT
        assert len(overview["last"]) == page.CHANGES_SENT
        await live.body.aclose()

    run(scenario)


def test_changes_are_sent_as_cells_and_as_events(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        live = Live(await stage.get("/events"))
        head, cells = await stage.map()
        slot = stage.scene.hosts.states.index(BACKUP)
        stage.set_state(slot, MASTER)
        message = await live.next("cells")
        assert message["layout"] == head["layout"]
        assert message["tick"] > head["tick"]
        expected = cells[slot] & ~3 | MASTER
        assert message["cells"] == [slot, expected]
        _, later = await stage.map()
        assert later[slot] == expected
        stage.set_state(slot, BACKUP)
        while (changed := await live.next("changes"))["changes"] < 2:
            pass
        assert [each["state"] for each in changed["last"]] == ["BACKUP"]
        await live.body.aclose()

    run(scenario)


def test_a_change_before_the_first_tick_is_not_missed(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        live = Live(await stage.get("/events"))
        slot = stage.scene.hosts.states.index(BACKUP)
        stage.set_state(slot, MASTER)
        assert (await live.next("cells"))["cells"][0] == slot
        await live.body.aclose()

    run(scenario)


def test_many_changes_are_sent_as_the_whole_map(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "CELLS_SENT", 2)

    async def scenario(stage: Stage) -> None:
        live = Live(await stage.get("/events"))
        for slot in range(6):
            stage.scene.hosts.states[slot] = (stage.scene.hosts.states[slot] + 1) % 3
        message = await live.next("cells")
        assert base64.b64decode(message["all"]) == (await stage.map())[1]
        await live.body.aclose()

    run(scenario)


def test_another_layout_is_told_instead_of_cells(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        live = Live(await stage.get("/events"))
        first = await live.next("layout")
        stage.scene.hosts.give_back(3)
        assert await live.next("layout") == stage.scene.hosts.layout != first
        await live.body.aclose()

    run(scenario)


def test_an_overview_is_sent_when_something_in_it_has_changed(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        live = Live(await stage.get("/events"))
        await live.next("overview")
        await live.next("overview")  # of the first tick
        assert await live.next("at") == (await stage.page._overviews.overview(0)).at
        stage.scene.status.demotions = lambda: {"slow uplink": 20}
        assert (await live.next("overview"))["notices"] == ["demoted by 20: slow uplink"]
        await live.body.aclose()

    run(scenario)


def test_there_are_no_ticks_without_anybody_and_the_next_one_begins_them_again(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        for _ in range(2):
            first, second = [Live(await stage.get("/events")) for _ in range(2)]
            await first.next("at")
            await second.next("at")
            await first.body.aclose()
            await second.next("at")
            await second.body.aclose()
            while stage.page._ticking is not None:
                await asyncio.sleep(0.001)

    run(scenario)


def test_streams_end_when_the_page_is_switched_off(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        live = Live(await stage.get("/events"))
        await live.next("at")
        stage.page.leave()
        with pytest.raises(StopAsyncIteration):
            await live.next("nothing")
        await live.body.aclose()

    run(scenario)


def test_a_fault_of_a_tick_ends_the_streams_and_is_logged(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(stage: Stage) -> None:
        def fail(number: int) -> list[StateEvent]:
            raise RuntimeError("a fault")

        live = Live(await stage.get("/events"))
        stage.feed.since = fail  # type: ignore[method-assign]
        with pytest.raises(StopAsyncIteration):
            await live.next("nothing")
        await live.body.aclose()

    run(scenario)
    assert "the page is not told any more" in caplog.text


def test_pages_beyond_the_limit_are_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS_MAX", 1)

    async def scenario(stage: Stage) -> None:
        live = Live(await stage.get("/events"))
        with pytest.raises(Refused, match=r"too many pages are open \(limit 1\)"):
            await stage.get("/events")
        assert stage.refused == ["streams"]
        await live.body.aclose()

    run(scenario)


# --- explain --------------------------------------------------------------------------------------


def test_explain_answers_with_the_text_of_the_command(run: Any) -> None:
    async def scenario(stage: Stage) -> None:
        answer = await stage.get("/explain", "interface=eth0&vhid=42")
        assert isinstance(answer.body, bytes)
        assert answer.body.startswith(b"virtual host eth0/42\n")
        assert ("Content-Type", "text/plain; charset=utf-8") in answer.headers

    run(scenario)


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 400, "must be /explain?interface=NAME&vhid=NUMBER"),
        ("interface=eth0", 400, "must be"),
        ("interface=eth0&vhid=x", 400, "must be"),
        ("interface=eth0&vhid=1&vhid=2", 400, "must be"),
        ("interface=%ff&vhid=1", 400, "must be"),
        ("&".join(["a=b"] * 100), 400, "must be"),
        ("interface=eth0&vhid=99", 404, "eth0 has no virtual host 99: the nearest is 47"),
        ("interface=eth%30x&vhid=42", 404, "no virtual host on 'eth0x'"),
        ("interface=eth0&vhid=" + "9" * 5_000, 400, "must be"),
    ],
)
def test_explain_refuses_what_is_not_there(run: Any, query: str, status: int, text: str) -> None:
    async def scenario(stage: Stage) -> None:
        with pytest.raises(Refused) as refused:
            await stage.get("/explain", query)
        assert refused.value.status == status
        assert str(refused.value).startswith(text)

    run(scenario)
