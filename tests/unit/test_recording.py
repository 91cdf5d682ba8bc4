"""The ring of records, checkpoints, and recordings as scenarios that decide the same again."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from random import Random

import pytest

from carp_fast.engine._engine import Engine
from carp_fast.engine._recorder import CHECKPOINT_RECORDS_MAX, RECORD_BYTES
from carp_fast.replay import scenario as scenarios
from carp_fast.replay.comparison import compare
from carp_fast.replay.player import Player, play
from carp_fast.replay.recording import STATE_RECORDS, budget, capacity
from carp_fast.replay.scenario import Line
from tests.support.anything import anything
from tests.support.recorded import CAPACITY, RecordingPlayer, played, recording
from tests.support.segment import (
    PASSPHRASE,
    SECOND_NS,
    START_NS,
    Node,
    advertisement,
    ip,
    next_deadline,
    prepared,
)

SCENARIOS = sorted((Path(__file__).parent.parent / "scenarios").glob("*.toml"))


def assert_same_again(text: str, at_least: int) -> list[str]:
    """Plays a recording; its decisions, all as they were recorded."""
    scenario = scenarios.parse(text)
    rows = list(compare(scenario, play(scenario)))
    assert [row for row in rows if not row.same] == []
    assert len(rows) >= at_least
    return [f"{row.name} {row.recorded}" for row in rows]


def long_scenario(seconds: int, host: str, also: str = "") -> scenarios.Scenario:
    """A backup that hears a master each second, but for 5 s of every 50; then it resigns.

    Beside it one that hears nobody, of both families.
    """
    lines = [also]
    for second in range(seconds):
        if second % 50 < 45:
            lines.append(f"{second}.25 eth0/42 hear 10.77.0.1 1/0")
        elif second % 50 == 45:
            lines.append(f"{second}.5 eth0/42 hear 10.77.0.9 bad_auth")
    return scenarios.parse(
        "\n".join(
            (
                "transcript = '''",
                *lines,
                f"{seconds} resign",
                f"{seconds} end",
                "'''",
                "[[host]]",
                "source = '10.77.0.2'",
                host,
                "[[host]]",
                "vhid = 43",
                "dialect = 'freebsd'",
                "addresses = ['10.77.0.101/24', 'fd00::1/64']",
                "source6 = 'fe80::2'",
            )
        )
    )


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_what_a_scenario_recorded_is_decided_again(path: Path) -> None:
    player = played(scenarios.read(path))
    reloaded = any(line.words[0] == "reload" for line in player.scenario.lines)
    text = recording(player)
    decided = assert_same_again(text, 1)
    if not reloaded:  # what was before a reload is left out
        assert decided == [f"{output.name} {output.text}" for output in player.outputs]
    assert "secret" not in text


@pytest.mark.parametrize("preempt", ["false", "true"])
@pytest.mark.parametrize("advskew", [0, 100])
def test_a_recording_may_begin_in_the_middle(preempt: str, advskew: int) -> None:
    host = f"advskew = {advskew}\npreempt = {preempt}\nannounce = {{refresh_s = 7}}"
    player = played(long_scenario(1000, host))
    records = player.engine.records()
    assert len(player.outputs) > len(records) // 3
    text = recording(player)
    assert text.count("state = {") == 2
    decided = assert_same_again(text, 50)
    # Each host begins with its own state, so that the two may not begin at the same time.
    names = [line.split()[0] for line in decided]
    both = max(names.index("eth0/42"), names.index("eth0/43"))
    outputs = [f"{o.name} {o.text}" for o in player.outputs]
    assert decided[both:] == outputs[both - len(decided) :]
    for name in ("eth0/42 ", "eth0/43 "):
        mine = [line for line in decided if line.startswith(name)]
        assert mine == [line for line in outputs if line.startswith(name)][-len(mine) :]
    # One host alone decides the same as beside the other.
    alone = assert_same_again(recording(player, vhid=42), 20)
    assert alone == [line for line in decided if line.startswith("eth0/42 ")][-len(alone) :]


def test_a_reload_begins_a_recording_anew_and_a_removal_ends_it() -> None:
    also = "20.5 eth0/42 reload advskew=7\n30.5 eth0/43 remove\n40.5 eth0/42 demote 9"
    player = played(long_scenario(100, "advskew = 50", also), 8192)
    text = recording(player)
    assert_same_again(text, 10)
    assert "advskew = 7" in text
    assert "advskew = 50" not in text
    assert "eth0/42 demote 9" in text
    assert "ADVERTISE 1/16" in text
    assert "eth0/43 remove" in text


def test_a_hard_condition_is_recorded() -> None:
    also = "30.1 eth0/42 demote 240 track hard\n40.5 eth0/42 demote 0 track\n40.6 eth0/43 demote 5"
    text = recording(played(long_scenario(100, "", also), 8192))
    assert_same_again(text, 10)
    assert "30.100 eth0/42 demote 240 track hard\n" in re.sub(r"(\.\d{3})\d+", r"\1", text)
    # A state from a checkpoint after it began has it, too.
    assert "cannot_be_master" in recording(played(long_scenario(900, "", also[:34]), 1024))


def test_an_advertisement_that_was_refused_in_part_is_recorded() -> None:
    """The host sends all its frames once more, in the next tick."""
    also = "60.1 eth0/43 kernel sends ENOBUFS 1\n70.1 eth0/43 kernel sends ok"
    text = recording(played(long_scenario(100, "", also), 8192))
    assert_same_again(text, 30)
    assert "eth0/43 kernel sends ENOBUFS 1\n" in text
    advertised = re.findall(r"^(\S+) eth0/43 > ADVERTISE", text, re.MULTILINE)
    gaps = [float(at) - float(before) for before, at in itertools.pairwise(advertised)]
    assert min(gaps) == pytest.approx(0.01, abs=0.005)


def test_the_kernels_answers_are_recorded() -> None:
    also = "\n".join(
        (
            "0.1 eth0/42 kernel 10.77.0.100 EEXIST",
            "0.1 eth0/43 kernel sends ENETDOWN",
            "45.1 eth0/42 kernel 10.77.0.100 ok",
            "60.1 eth0/42 found 10.77.0.100 none",
            "65.1 eth0/42 found 10.77.0.100 none",
            "60.1 eth0/43 kernel sends ok",
            "70.1 eth0/42 address_lost",
            "80.1 eth0/42 address_lost undemoted",
        )
    )
    player = played(long_scenario(100, "", also), 8192)
    text = recording(player)
    assert_same_again(text, 30)
    assert "eth0/42 kernel 10.77.0.100 EEXIST" in text
    assert "eth0/43 kernel sends ENETDOWN" in text
    assert "eth0/43 kernel sends ok" in text
    assert text.count("BACKUP address_lost") == 2
    assert text.count("eth0/42 address_lost undemoted") == 1
    assert "eth0/42 found 10.77.0.100 none" in text


def test_configured_sources_that_come_and_go() -> None:
    scenario = """
interface.eth0 = { source = "10.77.0.2" }
host = { source = "10.77.0.99", source_missing = true }
transcript = '''
0.5 own_source there
10.5 own_source missing 4
20.5 own_source missing 4 6
25.5 own_source there
60 end
'''
"""
    player = played(scenarios.parse(scenario), 8192)
    text = recording(player)
    decided = assert_same_again(text, 10)
    assert "eth0/42 INIT no_source" in decided
    assert "eth0/42 BACKUP source_found" in decided
    assert "own_source missing 4 6\n" in text
    assert "own_source there\n" in text
    assert "source_missing = true" in text


def test_routes_and_when_they_are_replaced() -> None:
    also = "\n".join(
        (
            "10.5 eth0/42 by_route no",
            "20.5 eth0/42 by_route yes",
            "25.5 eth0/42 found 10.77.0.100 none",
            "35.5 eth0/42 found 10.77.0.100 none",
        )
    )
    player = played(long_scenario(100, "by_route = true", also), 8192)
    text = recording(player)
    decided = assert_same_again(text, 20)
    assert "eth0/42 ADD_ROUTES 10.77.0.100" in decided
    assert "eth0/42 REMOVE_ROUTES 10.77.0.100" in decided
    assert "eth0/42 ADD_ADDRESSES 10.77.0.100" in decided
    assert "eth0/42 by_route no\n" in text
    assert "by_route = true" in text


def test_hand_overs_by_hand_and_what_a_host_began_with() -> None:
    also = "\n".join(
        (
            "10.5 eth0/42 yield",
            "20.5 eth0/42 yield maintenance",
            "25.5 eth0/42 withhold yes",
            "27.5 eth0/42 withhold no",
            "40 eth0/43 hear 10.77.0.9 1/200",
            "40.5 eth0/43 preempt",
        )
    )
    began = "demoted = {operator = 3, maintenance = 240}"
    player = played(long_scenario(100, began, also), 8192)
    text = recording(player)
    decided = assert_same_again(text, 20)
    assert {"eth0/42 BACKUP yielded", "eth0/42 BACKUP maintenance"} <= set(decided)
    assert {"eth0/42 INIT maintenance", "eth0/42 BACKUP maintenance_over"} <= set(decided)
    assert text.count("demoted = {operator = 3, maintenance = 240}") == 1
    assert "eth0/42 yield maintenance\n" in text
    assert "eth0/42 ADVERTISE 1/240" in decided


@pytest.mark.parametrize("by_route", ["false", "true"])
def test_a_recording_that_begins_with_routes_goes_on_with_them(by_route: str) -> None:
    also = f"40.5 eth0/42 reload by_route={by_route}"
    player = played(long_scenario(1000, "by_route = true", also))
    text = recording(player)
    assert text.count("state = {") == 2
    decided = assert_same_again(text, 50)
    kind = "ROUTES" if by_route == "true" else "ADDRESSES"
    assert {f"eth0/42 {word}_{kind} 10.77.0.100" for word in ("ADD", "REMOVE")} <= set(decided)


def test_another_pace_of_announcements_is_recorded() -> None:
    scenario = long_scenario(100, "")
    scenario.pace = (3, 1, 2)
    player = played(scenario, 8192)
    text = recording(player)
    assert "pace = [3, 1, 2]" in text
    assert_same_again(text, 20)
    assert "pace" not in recording(played(long_scenario(100, ""), 8192))


def test_an_interface_that_comes_and_goes() -> None:
    also = "\n".join(
        (
            "10.5 eth0 link down",
            "12.5 eth0 interface up source 10.77.0.7 source6 fe80::7 router",
            "17.5 eth0 interface up source 10.77.0.7 source6 fe80::7 router announce",
            "18.5 eth0 interface up source 10.77.0.7 source6 fe80::7 router announce",
            "20.5 eth0 interface missing",
            "25.5 eth0 interface up source 10.77.0.2 source6 fe80::2 ifindex 9",
            "25.5 eth0/42 adopt 10.77.0.100/24",
            "27.1 away",
            "31.1 stall",
            "50.5 eth0 interface up source 10.77.0.2 ifindex 9 renamed",
            "51.5 eth0 interface missing",
            "52.5 eth0 interface up source 10.77.0.2 ifindex 9",
        )
    )
    player = played(long_scenario(100, "", also), 8192)
    text = recording(player)
    decided = assert_same_again(text, 20)
    assert "eth0/42 INIT interface_missing" in decided
    assert "interface up source 10.77.0.7 source6 fe80::7 mac 02:00:00:00:00:01 ifindex 1" in text
    assert " stall\n" in text
    assert " away\n" in text
    assert "eth0/42 adopt 10.77.0.100/24\n" in text
    assert "mac 02:00:00:00:00:01 ifindex 9 renamed\n" in text
    assert text.count("mac 02:00:00:00:00:01 ifindex 1 router announce\n") == 2
    assert "eth0/42 RESIGN 255/255" in decided


# What is heard so that the last of it is refused; MASTER from 3 s on where nobody is heard.
REFUSALS = {
    "bad_length": ["4.9 hear - bad_length"],
    "loop": ["4.9 hear 10.77.0.2 1/0 counter 3 mac 02:00:00:00:00:01"],
    "replay": ["1 hear 10.77.0.1 1/0 counter 100", "2 hear 10.77.0.1 1/0 counter 99"],
    **{
        verdict: [f"4.9 hear 10.77.0.9 {verdict}"]
        for verdict in ("bad_ttl", "bad_checksum", "vrrp", "bad_version", "bad_type")
    },
    **{
        verdict: ["1 hear 10.77.0.1 1/0", f"1.5 hear 10.77.0.9 {verdict}"]
        for verdict in ("bad_destination", "bad_auth")
    },
}


@pytest.mark.parametrize("verdict", REFUSALS)
def test_refused_frames_are_recorded_and_refused_again(verdict: str) -> None:
    transcript = "\n".join((*REFUSALS[verdict], "5.5 end"))
    host = "host = {source = '10.77.0.2', replay = 'strict'}"
    player = played(scenarios.parse(f"transcript = '''\n{transcript}\n'''\n{host}"))
    assert f"refused {verdict}" in [output.text for output in player.outputs]
    decided = assert_same_again(recording(player), 2)
    # Of what is too short to say its vhid, only the interface is known.
    name = "eth0" if verdict == "bad_length" else "eth0/42"
    assert f"{name} refused {verdict}" in decided


def test_an_unknown_vhid_and_an_unlisted_peer() -> None:
    transcript = "1 eth0/99 hear 10.0.0.9 1/0\n2 eth0/42 hear 10.0.0.9 1/0\n3 end"
    host = "host = {source = '10.77.0.2', peers = ['10.77.0.1']}"
    player = played(scenarios.parse(f"transcript = '''\n{transcript}\n'''\n{host}"))
    refused = ["eth0/99 refused bad_vhid", "eth0/42 refused bad_source"]
    assert [f"{o.name} {o.text}" for o in player.outputs if "refused" in o.text] == refused
    decided = assert_same_again(recording(player), 3)
    assert [line for line in decided if "refused" in line] == refused


def test_strangers_cannot_overwrite_a_recording() -> None:
    node = Node("10.77.0.2")
    node.engine.record(CAPACITY)
    node.engine.add(1, prepared(vhid=43), START_NS)
    for number in range(20_000):
        at_ns = START_NS + SECOND_NS + number * 10_000
        node.engine.receive(0, advertisement(passphrase=b"wrong"), at_ns)
    records = node.engine.records()
    assert records[0][0] == "checkpoint"  # of the host that was added, first of all
    assert sum(record[0] == "heard" for record in records) <= 200


def test_nothing_is_recorded_unless_asked_for() -> None:
    node = Node("10.77.0.2")
    node.run(START_NS + 10 * SECOND_NS)
    assert node.engine.records() == []
    assert capacity(0, 1) == 0
    assert [capacity(number, 1) for number in (64, 1024, 1025)] == [1024, 1024, 2048]
    with pytest.raises(ValueError, match="power of two"):
        node.engine.record(1000)


def test_the_ring_grows_with_the_number_of_virtual_hosts() -> None:
    assert capacity(65_536, 2048) == 65_536
    assert capacity(65_536, 2049) == 131_072
    assert capacity(1, 65_280) == 2_097_152
    assert capacity(4_194_304, 65_280) == 4_194_304
    assert capacity(0, 65_280) == 0


def test_the_budget_of_the_ring_is_stated() -> None:
    assert budget(0, 9, 9.0) == "nothing is recorded (daemon.record = 0)"
    assert budget(65_536, 9, 0.0) == "4.0 MiB for the last 65,536 records"
    assert budget(65_536, 65_280, 65_280.0) == (
        "128.0 MiB for the last 2,097,152 records: about 16 s of advertisements alone"
    )


def test_a_record_fits_a_cache_line_and_a_checkpoint_a_few() -> None:
    assert RECORD_BYTES == 64
    assert CHECKPOINT_RECORDS_MAX <= 17  # of the 32 that a host has at least


def test_every_host_of_many_is_in_a_ring_of_the_least_size() -> None:
    hosts = 255
    engine = Engine()
    size = capacity(1, hosts)
    engine.record(size)
    engine.set_interface(0, START_NS, mac=bytes((2, 0, 0, 0, 0, 1)), source=ip("10.77.0.2"))
    for slot in range(hosts):
        addresses = [(ip(f"10.1.0.{slot + 1}"), 24)]
        engine.add(slot, prepared(vhid=slot + 1, addresses=addresses), START_NS)
    at_ns = START_NS
    while at_ns < START_NS + 60 * SECOND_NS:
        at_ns = next_deadline(engine)
        engine.expire(at_ns)
        list(engine.take_actions(at_ns))
        engine.take_reports()
    records = engine.records()
    begun = {record[2]: record[1] for record in reversed(records) if record[0] == "checkpoint"}
    assert len(begun) == hosts
    assert max(begun.values()) <= at_ns - 5 * SECOND_NS
    states = [record for record in records if record[0] == "checkpoint"]
    assert size - len(records) + len(states) <= STATE_RECORDS * len(states)


def test_a_flood_of_one_host_leaves_it_a_checkpoint() -> None:
    node = Node("10.77.0.2", preempt=False)
    node.engine.record(CAPACITY)
    for number in range(10 * CAPACITY):
        frame = advertisement(counter=number + 1)
        assert node.engine.receive(0, frame, START_NS + SECOND_NS + number * 1000) == "ok"
    kinds = [record[0] for record in node.engine.records()]
    assert kinds.count("checkpoint") in (1, 2)
    assert kinds.count("heard") > CAPACITY - 3 * CHECKPOINT_RECORDS_MAX


@pytest.mark.parametrize("before", range(0, 16, 3))
def test_a_recording_may_begin_with_any_input_of_all_hosts(before: int) -> None:
    """The state that is recorded of each is that before the input, wherever in the ring it is."""
    lines = [f"0.5 eth0/{41 + number % 3} hear 10.77.0.9 bad_auth" for number in range(before)]
    lines += [f"{second}.5 eth0 link {('down', 'up')[second % 2]}" for second in range(2, 400)]
    hosts = [f"[[host]]\nvhid = {vhid}\nsource = '10.77.0.2'" for vhid in (41, 42, 43)]
    transcript = "\n".join((*lines, "400 end"))
    player = played(scenarios.parse("\n".join((f"transcript = '''\n{transcript}\n'''", *hosts))))
    assert_same_again(recording(player), 50)


def test_the_end_of_a_demotions_time_is_recorded_of_a_master() -> None:
    """It stays demoted until a send succeeds: when it steps down later, that time begins anew."""
    transcript = "4 kernel sends ENETDOWN\n8.1 yield\n68.2 yield\n80 end"
    host = "host = {source = '10.77.0.2'}"
    player = played(scenarios.parse(f"transcript = '''\n{transcript}\n'''\n{host}"))
    assert_same_again(recording(player), 10)


# The last ones: a recording that begins after a turn of others that owe resignations; with a change
# of addresses that finds nothing to change; with a place for a source that is free.
@pytest.mark.parametrize("seed", [*range(60), 137, 369, 1247, 1014])
def test_whatever_comes_is_decided_again(seed: int) -> None:
    random = Random(seed)
    hosts = [
        f"[[host]]\nvhid = {vhid}\naddresses = [{addresses}]\ndialect = '{dialect}'\n"
        f"preempt = {random.choice(('true', 'false'))}\nadvskew = {random.choice((0, 50))}\n"
        f"replay = '{random.choice(('off', 'learn', 'strict'))}'\n"
        for vhid, dialect, addresses in (
            (1, "ucarp", "'10.0.1.1/24'"),
            (2, "openbsd", "'10.0.1.1/32', '10.0.1.2/32'"),
            (3, "freebsd", "'10.0.1.1/32', 'fd00::3/64'"),
        )
    ]
    interface = "interface.eth0 = {source = '10.0.0.2', source6 = 'fe80::2'}\n"
    transcript = f"transcript = '''\n{anything(random, 400)}\n'''\n"
    player = played(scenarios.parse("".join((transcript, interface, *hosts))), 2048)
    text = recording(player)
    decided = assert_same_again(text, 10)
    for name in ("eth0/1", "eth0/2", "eth0/3"):
        before = [f"{o.name} {o.text}" for o in player.outputs if o.name == name]
        again = [line for line in decided if line.startswith(f"{name} ")]
        # A frame that was refused before the host begins here is in the recording as well.
        refused = [line for line in again if line.startswith(f"{name} refused ")]
        before, again = (
            [line for line in lines if line not in refused] for lines in (before, again)
        )
        assert before[len(before) - len(again) :] == again


# -- a state taken from one engine and assumed by another


def assuming(player: Player, at_ns: int) -> Player:
    """Another player whose engine goes on where this one's is."""
    other = Player(player.scenario)
    other.first = []
    other.start(at_ns)
    other.counter = player.counter
    for name, slot in player.slots.items():
        state = player.engine.checkpoint(slot, START_NS + at_ns)["state"]
        other.engine.add(slot, other._prepared(name), START_NS + at_ns)
        other.engine.assume(slot, state, START_NS + at_ns)
    return other


@pytest.mark.parametrize("second", range(0, 60, 7))
def test_an_engine_goes_on_where_another_was(second: int) -> None:
    scenario = long_scenario(60, "advskew = 100")
    inputs = [line for line in scenario.lines if not line.output]
    first = RecordingPlayer(scenario)
    first.start(0)
    later: list[Line] = []
    for line in inputs:
        (first.give if line.at_ns <= second * SECOND_NS else later.append)(line)
    first.run(second * SECOND_NS)
    done = len(first.outputs)
    second_player = assuming(first, second * SECOND_NS)
    for line in later:
        first.give(line)
        second_player.give(line)
    assert second_player.outputs == first.outputs[done:]
    assert second_player.outputs


def test_a_state_with_a_fault_is_refused() -> None:
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"))
    engine.add(0, prepared(), START_NS)
    state = engine.checkpoint(0, START_NS)["state"]
    assert PASSPHRASE not in str(state).encode()
    for change, error in (
        ({"state": "KING"}, ValueError),
        ({"colour": 1}, ValueError),
        ({"flags": ["tired"]}, KeyError),
        ({"sources": [{}]}, KeyError),
        ({"addresses": [(ip("10.0.0.1"), ["held"])]}, ValueError),
    ):
        with pytest.raises(error):
            engine.assume(0, {**state, **change}, START_NS)
    with pytest.raises(IndexError):
        engine.assume(1, state, START_NS)
