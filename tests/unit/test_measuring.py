"""What metrics are measured from: an engine with virtual hosts in every state, and the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from carp_fast.config.model import Labels
from carp_fast.daemon import measuring
from carp_fast.daemon.measuring import Reloads
from carp_fast.metrics.measured import InterfaceMeasured, Measured, SegmentMeasured
from tests.support.measured import Staged
from tests.support.scene import NOW_NS
from tests.support.segment import SECOND_NS


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: NOW_NS)


def measure(
    *, problems: bool = True, by_group: Mapping[str, int] | None = None, demoted: Any = ()
) -> Measured:
    async def scenario() -> Measured:
        made = Staged(by_group or {}, list(demoted))
        made.scene.problems.wrong_digest_ns = {0: NOW_NS - SECOND_NS, 2: NOW_NS - 500 * SECOND_NS}
        return made.measured(await made.gather(), problems=problems)

    return asyncio.run(scenario())


def test_an_interface_has_what_its_virtual_hosts_add_up_to() -> None:
    (interface,) = measure().interfaces
    assert (interface.name, interface.up) == ("eth0", True)
    assert sum(interface.tallied.states.values()) == 6
    assert interface.sources == {"4": True, "6": True}
    assert interface.counters["advertisements_sent"] > 0
    assert interface.foreign == 1


def test_problems_are_named_by_words_of_a_closed_list() -> None:
    problems = measure().problems
    assert problems is not None
    by_vhid: dict[int, set[str]] = {}
    for interface, vhid, _, word in problems.rows:
        assert interface == "eth0"
        by_vhid.setdefault(vhid, set()).add(word)
    assert "bad_auth" in by_vhid[42]
    assert {"addresses", "demoted"} <= by_vhid[45]
    assert "bad_auth" not in by_vhid.get(44, set()), "that was long ago"
    assert problems.truncated == 0


def test_problems_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    every = measure().problems
    assert every is not None
    monkeypatch.setattr(measuring, "PROBLEMS_MAX", 2)
    some = measure().problems
    assert some is not None
    assert some.rows == every.rows[:2]
    assert some.truncated == len(every.rows) - 2 > 0


def test_without_that_detail_there_are_no_problems() -> None:
    assert measure(problems=False).problems is None


def test_demotions_are_by_group_and_reason() -> None:
    found = measure(by_group={"": 5, "lan": 7}, demoted=["wan"]).demotions
    assert found == {
        ("", "operator"): 5,
        ("", "maintenance"): 0,
        ("lan", "operator"): 7,
        ("wan", "group"): 240,
    }


def test_requests_at_the_same_time_share_one_pass() -> None:
    async def scenario() -> None:
        made = Staged({}, [])
        first, second = await asyncio.gather(made.gather(), made.gather())
        assert first is second
        passes = made.passes
        assert await made.gather() is not first
        assert made.passes == 2 * passes

    asyncio.run(scenario())


def test_a_request_that_is_given_up_does_not_end_the_pass_of_another() -> None:
    async def scenario() -> None:
        made = Staged({}, [])
        given_up = asyncio.ensure_future(made.gather())
        kept = asyncio.ensure_future(made.gather())
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await kept).names == ["eth0"]

    asyncio.run(scenario())


def test_rows_leave_out_virtual_hosts_that_have_changed_since() -> None:
    async def scenario() -> None:
        made = Staged({}, [])
        gathered = await made.gather()
        rows = made.measuring.rows(gathered)
        every = [row for part in rows for row in part]
        assert [row[1] for row in every] == [42, 43, 44, 45, 46, 47]
        made.scene.hosts.hosts[1] = None
        made.scene.hosts.hosts[2] = made.scene.hosts.hosts[3]
        assert [row[1] for part in rows for row in part] == [42, 45, 46, 47]

    asyncio.run(scenario())


def labelled(**segments: str) -> InterfaceMeasured:
    """The interface, where virtual hosts have segments, by "v" and their vhid."""

    async def scenario() -> Measured:
        made = Staged({}, [])
        hosts = made.scene.hosts.hosts
        for slot, host in made.scene.hosts.used():
            labels = Labels(name=f"web-{host.vhid}", segment=segments.get(f"v{host.vhid}", ""))
            hosts[slot] = msgspec.structs.replace(host, labels=labels)
        gathered = await made.gather()
        assert [row[2] for part in made.measuring.rows(gathered) for row in part] == [
            f"web-{vhid}" for vhid in range(42, 48)
        ]
        return made.measured(gathered)

    (interface,) = asyncio.run(scenario()).interfaces
    return interface


def test_an_interface_is_a_segment_unless_a_segment_is_configured() -> None:
    (interface,) = measure().interfaces
    whole = SegmentMeasured(interface.tallied.states, interface.tallied.second_masters)
    assert interface.segments == {"eth0": whole}
    every = {f"v{vhid}": "office" for vhid in range(42, 48)}
    assert labelled(**every).segments == {"office": whole}


def test_virtual_hosts_of_several_segments_are_counted_by_segment() -> None:
    interface = labelled(v42="office", v43="office", v44="lab")
    assert set(interface.segments) == {"office", "lab", "eth0"}
    sums = {
        state: sum(each.states.get(state, 0) for each in interface.segments.values())
        for state in interface.tallied.states
    }
    assert sums == interface.tallied.states
    assert sum(interface.segments["office"].states.values()) == 2
    assert sum(interface.segments["lab"].states.values()) == 1
    seconds = sum(each.second_masters for each in interface.segments.values())
    assert seconds == interface.tallied.second_masters


def test_a_reload_that_fails_keeps_the_time_of_the_last_that_did_not() -> None:
    reloads = Reloads(at=5.0)
    reloads.note(succeeded=False)
    assert (reloads.succeeded, reloads.at) == (False, 5.0)
    reloads.note(succeeded=True)
    assert reloads.succeeded
    assert reloads.at > 5.0
