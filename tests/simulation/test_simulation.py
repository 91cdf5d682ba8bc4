"""The election in simulated worlds: a few hundred seeds of `make simulate`, and what it relies on.

Every world must keep its invariants; that they are able to break is shown here where a world can
break them without a fault of the engine, and in mutants.py by faults put into it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from carp_fast.cli.main import main
from carp_fast.simulate import run as simulate
from carp_fast.simulate._world import (
    ALWAYS,
    BROKEN_WORDS,
    FAULT_WORDS,
    LINK_WORDS,
    PAUSE_WORDS,
    Random,
    Simulator,
)
from carp_fast.simulate.episodes import EPISODES
from carp_fast.simulate.seeds import draw
from carp_fast.simulate.world import IPV4, IPV6, MS_NS, SECOND_NS, Member, World

SMALL = range(1, 251)
LARGE = range(1, 3)


def member(machine: int, slot: int, *, segments: int = 1, advskew: int = 0, **host: Any) -> Member:
    """A plain virtual host: advbase 1, dead_ratio 3, never preempts, unless `host` says so."""
    plain = Member(
        machine=machine,
        slot=slot,
        segment=slot % segments,
        vhid=slot // segments + 1,
        advbase=1,
        advskew=advskew,
        dead_ratio=3,
        preempt=False,
        addresses=1,
        startup_delay_ns=0,
        preempt_delay_ns=0,
        foreign=(),
    )
    return replace(plain, **host)


def two_machines(slots: int = 1, segments: int = 1, **limits: Any) -> Simulator:
    """Two machines with the same virtual hosts, the second one slower; nothing wrong yet."""
    return some_machines(2, slots, segments, {}, **limits)


def sources(machine: int, segment: int) -> tuple[bytes, bytes]:
    """In IPv4 the first machine precedes, in IPv6 the last."""
    return bytes((10, segment, 0, 1 + machine)), b"\xfe\x80" + bytes(13) + bytes((99 - machine,))


def some_machines(
    machines: int, slots: int, segments: int, host: dict[str, Any], **limits: Any
) -> Simulator:
    """Machines with the same virtual hosts, each slower than the last unless `host` says so.

    An advskew is one for all, or a list of each machine's.
    """
    advskews = host.get("advskew", [100 * machine for machine in range(machines)])
    simulator = Simulator(7, machines, segments, slots, **limits)
    for machine in range(machines):
        for segment in range(segments):
            simulator.attach(machine, segment, *sources(machine, segment))
        for slot in range(slots):
            advskew = advskews if isinstance(advskews, int) else advskews[machine]
            settings = host | {"advskew": advskew}
            wanted = member(machine, slot, segments=segments, **settings)
            right, other = (simulate.prepared(wanted, word) for word in (b"right", b"other"))
            simulator.add(machine, slot, right, other)
        simulator.fault(0, "boot", machine=machine)
    return simulator


# ---------------------------------------------------------------------------------------- worlds


def test_small_worlds_keep_every_invariant() -> None:
    summary = simulate.Summary()
    for outcome in simulate.run_all(SMALL):
        summary.add(outcome)
    assert [(outcome.broken, outcome.command) for outcome in summary.failed] == []
    assert summary.seeds == len(SMALL)
    # Not because nothing happened.
    assert summary.partitions > len(SMALL) / 2
    for name, count in summary.tally.items():
        assert count > 0 or name == "long_ties", name
    assert summary.unsettled is None
    assert summary.tally["judged"] > 2 * len(SMALL)
    assert summary.tally["groups_demoted"] > len(SMALL)
    assert summary.tally["stepped_down"] > len(SMALL) // 4
    assert summary.tally["conditions_failed"] > len(SMALL) // 40
    assert summary.tally["upgrades"] > len(SMALL)


def test_large_worlds_keep_every_invariant() -> None:
    for outcome in simulate.run_all(LARGE, large=True):
        assert (outcome.broken, outcome.command) == (None, outcome.command)
        assert (outcome.machines, outcome.slots) == (8, 4_000)
        assert outcome.tally["take_overs"] >= 4_000


def test_a_seed_gives_the_same_trace_again() -> None:
    lines: list[str] = []
    first, second = simulate.run(11), simulate.run(11)
    traced = simulate.Simulation(11, tracing=True).run(lines.append)
    assert first.digest == second.digest == traced.digest
    assert first.tally == second.tally == traced.tally
    again: list[str] = []
    simulate.Simulation(11, tracing=True).run(again.append)
    assert lines == again
    assert len(lines) > 500


def test_seeds_and_sizes_are_worlds_of_their_own() -> None:
    digests = {simulate.run(seed).digest for seed in range(20)}
    assert len(digests) == 20
    assert draw(3).faults != draw(3, large=True).faults


def test_worlds_are_drawn_as_said() -> None:
    befallen: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for seed in SMALL:
        world = draw(seed)
        assert 2 <= world.machines <= 5
        assert 1 <= world.segments <= 2
        assert 1 <= world.slots <= 20
        assert len(world.episodes) >= 3
        assert all(0 <= fault.at_ns <= world.quiet_at_ns for fault in world.faults)
        befallen.update(world.episodes)
        words.update(fault.word for fault in world.faults)
    assert set(befallen) == {episode.__name__ for episode in EPISODES}
    assert set(words) == set(FAULT_WORDS)


OVERLOADED = 9_365
"""Two hosts of this world advertise up to 256 times a second over both families, beside machines
that would read four frames in 10 ms."""


def test_a_turn_reads_what_all_may_send_in_a_tick() -> None:
    for seed in (*SMALL, OVERLOADED):
        world = draw(seed)
        a_second = 0.0
        for one in world.members:
            families = sum(1 for addresses in (one.addresses, one.addresses6) if addresses)
            a_second += families * 256 / max(1, one.advbase * 256 + one.advskew)
        assert world.limits.batch * world.limits.slices >= a_second / 100, seed


def test_a_world_becomes_quiet_though_some_hosts_advertise_very_often() -> None:
    outcome = simulate.run(OVERLOADED)
    assert outcome.broken is None
    assert outcome.virtual_ns < 90 * SECOND_NS


def test_random_numbers_are_splitmix64() -> None:
    # The first outputs for seed 1234567, as published with the reference implementation.
    random = Random(1_234_567)
    assert [random.below(1 << 63) for _ in range(3)] == [
        number % (1 << 63)
        for number in (
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        )
    ]
    assert {Random(seed).between(3, 5) for seed in range(100)} == {3, 4, 5}


def test_ties_that_go_on_too_often_are_a_failure() -> None:
    summary = simulate.Summary()
    good = simulate.run(5)
    for tied, long_ties, said in ((250, 2, None), (49, 1, "3 of 299 ties lasted for more")):
        summary.add(replace(good, tally={"tied": tied, "long_ties": long_ties}))
        assert (summary.unsettled is None) == (said is None)
        assert summary.unsettled is None or summary.unsettled.startswith(said or "")


# ------------------------------------------------------------------------------------ by themselves


def test_nothing_wrong_ends_quiet_with_one_master() -> None:
    simulator = two_machines(slots=3)
    simulator.fault(SECOND_NS, "quiet")
    assert simulator.run(20 * SECOND_NS)
    assert simulator.quiet
    assert simulator.check()
    assert simulator.tally["take_overs"] == 3


@pytest.mark.parametrize("how", PAUSE_WORDS[1:])
@pytest.mark.parametrize(("slots", "socket_room"), [(1, 4_096), (2_000, 16_000)])
def test_a_backup_that_was_away_stays_backup(how: str, slots: int, socket_room: int) -> None:
    """Its socket overflows with 2,000 virtual hosts, and holds more than one turn reads."""
    simulator = two_machines(slots, 8, socket_room=socket_room)
    simulator.fault(20 * SECOND_NS, "pause", machine=1, value=PAUSE_WORDS.index(how))
    simulator.fault(32 * SECOND_NS, "resume", machine=1)
    assert simulator.run(19 * SECOND_NS)
    before = simulator.tally["take_overs"]
    assert before >= slots
    assert simulator.run(60 * SECOND_NS), simulator.broken
    assert simulator.tally["take_overs"] == before
    assert (simulator.tally["drops"] > 0) == (how == "stopped" and slots == 2_000)


def test_what_waits_in_the_socket_counts_before_deadlines() -> None:
    """Advertisements that came in time lie behind others when the backup runs again, too late.

    Two of each are lost, the third comes 0.39 s before its deadline. In 0.49 s in which the backup
    is stopped, both arrive for all; two frames are read at a time. The stall rule needs 1 s, and a
    turn may have been 0.5 s ago.
    """
    simulator = two_machines(slots=60, batch=2)
    blocked = LINK_WORDS.index("blocked")
    for at_ms, word, value in ((20_700, "link", 1), (22_700, "link", 0)):
        simulator.fault(at_ms * MS_NS, word, machine=0, other=1, slot=blocked, value=value)
    simulator.fault(23_500 * MS_NS, "pause", machine=1, value=PAUSE_WORDS.index("stopped"))
    simulator.fault(23_990 * MS_NS, "resume", machine=1)
    assert simulator.run(19 * SECOND_NS)
    before = simulator.tally
    assert simulator.run(30 * SECOND_NS), simulator.broken
    assert simulator.tally["take_overs"] == before["take_overs"]
    assert simulator.tally["stalls"] == before["stalls"]


@pytest.mark.parametrize(("source_room", "segments"), [(1, 2), (2_000, 2), (2_000, 20)])
def test_a_backup_takes_over_though_strangers_fill_its_common_lane(
    source_room: int, segments: int
) -> None:
    """Its master's frames have their lane; where there is no room for that, it waits on and on.

    With 20 segments the master has more sources than a pump tells of in one turn.
    """
    covered, slots = source_room > 1, 5 * segments
    limits = {"batch": 2, "slices": 2, "source_room": source_room}
    simulator = some_machines(2, slots, segments, {"addresses6": 1}, **limits)
    simulator.fault(12 * SECOND_NS, "flood", machine=1, slot=10, value=ALWAYS)
    if not covered:
        simulator.fault(40 * SECOND_NS, "flood", machine=1)
    simulator.fault(20 * SECOND_NS, "crash", machine=0)
    simulator.fault(20 * SECOND_NS, "quiet")
    assert simulator.run(19_900 * MS_NS), simulator.broken
    before = simulator.tally
    assert before["strangers"] > 2_000
    # Both families of each segment: where each has its lane, none of its frames is dropped.
    assert (before["drops"] > 0) == (before["stalls"] > 0) == (not covered)
    # Within the master-down time of its advskew, a tick and what the backlog may add.
    taken_by_ns = (20_000 + 3_391 + 250 + 50) * MS_NS
    assert simulator.run(taken_by_ns), simulator.broken
    assert simulator.tally["take_overs"] - before["take_overs"] == (slots if covered else 0)
    assert simulator.run(60 * SECOND_NS), simulator.broken
    assert simulator.check(), simulator.broken
    assert simulator.tally["take_overs"] - before["take_overs"] == slots


def test_a_resignation_after_a_stranger_was_heard_is_not_its_masters() -> None:
    """The backup waits for silence, and after drops for two intervals of what the stranger says."""
    simulator = some_machines(
        2, 1, 1, {"advskew": [0, 200], "replay": "off"}, source_room=1, tracing=True
    )
    set_links(simulator, 15, "stranger", ALWAYS, "01")
    simulator.fault(20 * SECOND_NS, "resign_all", machine=0)
    simulator.fault(21 * SECOND_NS, "crash", machine=0)
    simulator.fault(22_300 * MS_NS, "flood", machine=1, slot=10, value=ALWAYS)
    simulator.fault(22_400 * MS_NS, "flood", machine=1)
    assert simulator.run(30 * SECOND_NS), simulator.broken
    assert simulator.tally["stalls"] > 0
    rises = [simulate.trace_line(line) for line in simulator.take_trace() if line[1] == "state"]
    assert rises[-1].split()[-2:] == ["MASTER", "master_down"]
    down_s = 3 + 200 / 256
    assert float(rises[-1].split()[0]) == pytest.approx(20.019 + down_s + 2, abs=0.05)


def test_an_address_is_announced_until_the_engine_has_taken_up_that_it_is_gone() -> None:
    """Two were removed while their MASTER was paused, which then answers all that it missed.

    What the look at its interface found waits behind the addresses of two others, which yield.
    """
    host = {"advbase": 0, "advskew": [20, 60]}
    simulator = some_machines(2, 4, 1, host, batch=5, slices=4)
    simulator.fault(20 * SECOND_NS, "pause", machine=0, value=PAUSE_WORDS.index("stopped"))
    for slot in range(2):
        simulator.fault(24 * SECOND_NS, "address_removed", machine=0, slot=slot)
        simulator.fault(24 * SECOND_NS, "demote", machine=0, slot=2 + slot, value=100)
    simulator.fault(27 * SECOND_NS, "resume", machine=0)
    simulator.fault(28 * SECOND_NS, "quiet")
    assert simulator.run(60 * SECOND_NS), simulator.broken
    assert simulator.check(), simulator.broken
    assert simulator.tally["looks"] > 0
    assert simulator.tally["take_overs"] == 8


def test_a_clock_step_changes_nothing() -> None:
    plain, stepped = two_machines(5), two_machines(5)
    for at_s, hours in ((8, 1), (9, -2), (12, 1)):
        for machine in range(2):
            stepped.fault(
                at_s * SECOND_NS, "clock_step", machine=machine, value=hours * 3_600 * SECOND_NS
            )
    assert plain.run(40 * SECOND_NS)
    assert stepped.run(40 * SECOND_NS)
    assert plain.tally == stepped.tally


def test_without_a_common_passphrase_there_are_two_masters() -> None:
    simulator = two_machines()
    simulator.fault(5 * SECOND_NS, "key", machine=1, value=1)
    simulator.fault(6 * SECOND_NS, "quiet")
    assert not simulator.run(60 * SECOND_NS)
    assert simulator.broken is not None
    assert simulator.broken[0] == "two_masters"
    assert simulator.tally["rejected"] > 0


def test_a_fault_after_the_end_is_not_missed() -> None:
    simulator = two_machines()
    simulator.fault(SECOND_NS, "quiet")
    simulator.fault(15 * SECOND_NS, "crash", machine=0)
    assert not simulator.run(60 * SECOND_NS)
    assert simulator.broken is not None
    assert simulator.broken[0] == "changed_while_quiet"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 8 machines and 32 segments"):
        Simulator(1, 9, 1, 1)
    with pytest.raises(ValueError, match="at least 1"):
        Simulator(1, 2, 1, 0)
    simulator = Simulator(1, 2, 1, 1)
    with pytest.raises(ValueError, match="machine 2 of 2"):
        simulator.fault(0, "boot", machine=2)
    with pytest.raises(ValueError, match="segment 1 of 1"):
        simulator.attach(0, 1, b"\x0a\0\0\1", bytes(16))
    with pytest.raises(ValueError, match="4 and 16 bytes"):
        simulator.attach(0, 0, b"\x0a\0\0\1", bytes(4))
    right, other = (simulate.prepared(member(0, 1), word) for word in (b"right", b"other"))
    with pytest.raises(ValueError, match="slot 1 of 1"):
        simulator.add(0, 1, right, other)
    with pytest.raises(ValueError, match="not in"):
        simulator.fault(0, "earthquake")


# ------------------------------------------------------------------------ families, dialects, peers

BOTH: dict[str, Any] = {"addresses6": 1}


def set_links(simulator: Simulator, at_s: float, name: str, value: int, *pairs: str) -> None:
    """Set a field of links "01": from machine 0 to machine 1."""
    for pair in pairs:
        simulator.fault(
            int(at_s * SECOND_NS),
            "link",
            machine=int(pair[0]),
            other=int(pair[1]),
            slot=LINK_WORDS.index(name),
            value=value,
        )


def master_of(simulator: Simulator, until_s: int) -> int:
    """Run until all is quiet, and see who is MASTER."""
    assert simulator.run(until_s * SECOND_NS), simulator.broken
    assert simulator.quiet
    assert simulator.check(), simulator.broken
    (*_, last) = (event for event in simulator.take_trace() if event[1] == "checked")
    return last[5]


@pytest.mark.parametrize("silent", [IPV4, IPV6])
def test_the_silence_of_one_family_is_no_master_down(silent: int) -> None:
    simulator = some_machines(2, 1, 1, BOTH)
    set_links(simulator, 10, "blocked", silent, "01", "10")
    assert simulator.run(9 * SECOND_NS)
    before = simulator.tally["take_overs"]
    assert simulator.run(30 * SECOND_NS), simulator.broken
    assert simulator.tally["take_overs"] == before
    assert simulator.tally["silent_families"] == 1
    set_links(simulator, 31, "blocked", IPV4 | IPV6, "01", "10")
    assert simulator.run(40 * SECOND_NS)
    assert simulator.tally["take_overs"] == before + 1


@pytest.mark.parametrize(
    ("blocked", "pairs", "master"),
    [
        (0, (), 0),  # IPv4 decides
        (IPV6, ("01", "10"), 0),
        (IPV4, ("01", "10"), 1),  # nothing is left but IPv6, where the order is another one
        (IPV4, ("01",), 1),
        (IPV4, ("10",), 0),
        (IPV6, ("01",), 0),
        (IPV6, ("10",), 0),
    ],
)
def test_equal_hosts_settle_their_tie_over_what_is_left(
    blocked: int, pairs: tuple[str, ...], master: int
) -> None:
    """Both are MASTER when one family, or all, gets through again: both ways or one."""
    simulator = some_machines(2, 1, 1, BOTH | {"advskew": 50}, tracing=True)
    set_links(simulator, 0, "blocked", IPV4 | IPV6, "01", "10")
    set_links(simulator, 10, "blocked", 0, "01", "10")
    set_links(simulator, 10, "blocked", blocked, *pairs)
    simulator.fault(10 * SECOND_NS, "quiet")
    assert master_of(simulator, 40) == master


@pytest.mark.parametrize("delay_ns", [1_000, 100_000, 20 * MS_NS, 240 * MS_NS])
@pytest.mark.parametrize("dialect", ["freebsd", "openbsd"])
@pytest.mark.parametrize("machines", [2, 3])
def test_a_tie_that_all_sides_lose_is_settled_by_jitter(
    machines: int, dialect: str, delay_ns: int
) -> None:
    host = BOTH | {"advskew": 50, "dialect": dialect}
    simulator = some_machines(machines, 1, 1, host, aligned=True, tracing=True)
    pairs = [f"{a}{b}" for a in range(machines) for b in range(machines) if a != b]
    set_links(simulator, 0, "delay_ns", delay_ns, *pairs)
    simulator.fault(SECOND_NS, "quiet")
    master_of(simulator, 60)
    # What takes no longer than a turn lets the second one hear the first before it rises.
    assert (simulator.tally["crossed_ties"] > 0) == (delay_ns > 1_000)
    assert simulator.tally["long_ties"] == 0


@pytest.mark.parametrize(("replay", "refused"), [("off", False), ("learn", True), ("strict", True)])
def test_what_was_sent_before_changes_nothing(replay: str, refused: bool) -> None:
    simulator = some_machines(2, 3, 1, BOTH | {"replay": replay})
    set_links(simulator, 10, "replay", ALWAYS, "01", "10")
    set_links(simulator, 30, "replay", 0, "01", "10")
    assert simulator.run(9 * SECOND_NS)
    before = simulator.tally
    assert simulator.run(40 * SECOND_NS), simulator.broken
    assert simulator.tally["take_overs"] == before["take_overs"]
    assert (simulator.tally["rejected"] > before["rejected"]) == refused


@pytest.mark.parametrize("name", ["reflect", "forward"])
def test_copies_that_come_back_or_from_afar_are_refused(name: str) -> None:
    simulator = some_machines(2, 1, 1, BOTH)
    set_links(simulator, 10, name, ALWAYS, *(("00", "11") if name == "reflect" else ("01", "10")))
    assert simulator.run(9 * SECOND_NS)
    before = simulator.tally
    assert before["rejected"] == 0
    assert simulator.run(30 * SECOND_NS), simulator.broken
    assert simulator.tally["take_overs"] == before["take_overs"]
    assert simulator.tally["rejected"] >= 36


def test_a_unicast_goes_to_one_machine() -> None:
    simulator = Simulator(7, 3, 1, 1, tracing=True)
    for machine in range(3):
        simulator.attach(machine, 0, *sources(machine, 0))
        peers = tuple(sources(other, 0)[0] for other in range(3) if other != machine)
        wanted = member(machine, 0, advskew=100 * machine, peers=peers)
        right, other = (simulate.prepared(wanted, word) for word in (b"right", b"other"))
        simulator.add(machine, 0, right, other)
        simulator.fault(0, "boot", machine=machine)
    assert simulator.run(10 * SECOND_NS), simulator.broken
    trace = simulator.take_trace()
    sent, heard = (sum(event[1] == word for event in trace) for word in ("sent", "heard"))
    assert sent == heard > 10


def test_the_least_demoted_is_master_in_openbsd_however_slow() -> None:
    for dialect, master in (("openbsd", 2), ("freebsd", 0)):
        host = {"dialect": dialect, "preempt": True, "addresses6": 1}
        simulator = some_machines(3, 1, 1, host, tracing=True)
        for machine, demotion in ((0, 2), (1, 1)):
            at_ns = 10 * SECOND_NS
            simulator.fault(at_ns, "demote", machine=machine, slot=0, value=demotion)
        simulator.fault(11 * SECOND_NS, "quiet")
        assert master_of(simulator, 40) == master


def test_equal_hosts_that_take_over_from_a_demoted_master_part_in_the_end() -> None:
    """It is the fastest, and so the next to rise whenever all of them have yielded."""
    host = {"dialect": "openbsd", "advskew": [0, 50, 50, 50]}
    simulator = some_machines(4, 1, 1, host, tracing=True)
    simulator.fault(10 * SECOND_NS, "demote", machine=0, slot=0, value=2)
    simulator.fault(11 * SECOND_NS, "quiet")
    assert master_of(simulator, 60) != 0
    assert simulator.tally["crossed_ties"] > 0


def test_sends_that_fail_over_one_family_demote_nobody() -> None:
    for families, more in (((1,), False), ((0, 1), True)):
        simulator = some_machines(2, 1, 1, BOTH)
        assert simulator.run(9 * SECOND_NS)
        before = simulator.tally["take_overs"]
        for family in families:
            simulator.fault(10 * SECOND_NS, "send_errors", machine=0, slot=family, value=ALWAYS)
        assert simulator.run(20 * SECOND_NS), simulator.broken
        assert (simulator.tally["take_overs"] > before) == more


# ------------------------------------------------------------------------------------- the command


def test_the_command_shows_every_event_of_a_seed_in_aligned_lines() -> None:
    result = CliRunner().invoke(main, ["simulate", "--seed", "5"])
    assert result.exit_code == 0, result.output
    *events, outcome, totals, counted, rate = result.output.splitlines()
    assert len(events) > 500
    for line in events:
        assert re.fullmatch(r" *\d+\.\d{6}  h\d  (s\d/\d+|-) +[a-z_]+ +\S.*", line), line
        assert {line[14:17], line[18:20], line[28]} == {"  h", "  ", " "}, line
    assert any("MASTER master_down" in line for line in events)
    assert outcome.startswith("seed 5: ")
    assert totals == "1 seed: 0 broke an invariant"
    assert "take-overs" in counted
    assert "virtual s per s" in rate


def test_the_command_sums_up_seeds() -> None:
    result = CliRunner().invoke(main, ["simulate", "--seeds", "5-8", "--jobs", "2"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == "4 seeds: 0 broke an invariant"
    assert len(result.output.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--seed N or --seeds A-B"),
        (["--seed", "1", "--seeds", "1-2"], "--seed N or --seeds A-B"),
        (["--seeds", "7-3"], "A-B"),
        (["--seeds", "many"], "A-B"),
    ],
)
def test_the_command_refuses(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["simulate", *arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_a_failing_seed_is_named_with_the_command_that_shows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = simulate.run(5)
    bad = replace(good, seed=6, broken=f"{BROKEN_WORDS[1]} at 9.000000 s: h1 s0/3 (2)")
    monkeypatch.setattr(simulate, "run_all", lambda *_, **__: iter([good, bad]))
    result = CliRunner().invoke(main, ["simulate", "--seeds", "5-6"])
    assert result.exit_code == 1
    assert "seed 6: two_masters at 9.000000 s: h1 s0/3 (2)" in result.output
    assert "to show it: carp-fast simulate --seed 6\n" in result.output
    assert "2 seeds: 1 broke an invariant" in result.output


def test_the_world_of_a_seed_is_a_value() -> None:
    world = draw(9)
    assert isinstance(world, World)
    assert world == draw(9)
