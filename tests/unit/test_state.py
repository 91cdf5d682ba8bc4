"""The state of an engine, handed over to another one: it goes on as if nothing had happened."""

from __future__ import annotations

import errno
import struct
from random import Random
from typing import Any

import pytest

from carp_fast.engine._engine import Engine
from carp_fast.engine._state import State
from carp_fast.engine.actions import AddAddresses, Advertise
from carp_fast.engine.reports import GroupChanged, Report, StateChanged
from carp_fast.engine.states import HeldAddress, Placed
from carp_fast.replay import scenario as scenarios
from carp_fast.replay.player import Output, Player
from tests.support.anything import anything
from tests.support.segment import (
    PASSPHRASE,
    SECOND_NS,
    START_NS,
    VHID,
    Node,
    advertisement,
    ip,
    prepared,
    read_advertisement,
    risen,
)

AT_NS = START_NS + 10 * SECOND_NS
PARTS = ("engine", "absence", "interface", "rejection", "host", "source", "address", "key")
HEAD, PART, ROW = 32, 40, 72  # bytes of each


def exported(engine: Engine) -> bytearray:
    room = bytearray(engine.state_size())
    assert engine.export_state(room) <= len(room)
    return room


def successor(of: Engine, *hosts: Any, **how: Any) -> tuple[Engine, Placed]:
    """Another engine with these hosts, by slot, that has taken over, and what became of it."""
    engine = Engine(seed=99)
    for slot, host in enumerate(hosts or (prepared(),)):
        engine.add(slot, host, AT_NS)
    placed = engine.assume_state(exported(of), AT_NS, **how)
    return engine, placed


def assert_same_state(one: Engine, other: Engine) -> None:
    first, second = State(exported(one)), State(exported(other))
    for part in PARTS:
        assert second.records(part) == first.records(part), part
    # By queue, and in each in order.
    queues = [sorted(s.records("queued"), key=lambda q: q["queue"]) for s in (first, second)]
    assert queues[1] == queues[0]


# ------------------------------------------------------------------------------ nothing happens


def test_a_master_advertises_when_it_would_have() -> None:
    node = risen(AT_NS)
    due_ns = node.engine.next_deadline_ns()
    counter = node.engine.host(0).counter
    engine, placed = successor(node.engine)
    assert placed == Placed(1, [], [], [], 0)
    assert engine.take_reports() == []
    assert engine.take_actions(AT_NS) == []
    assert engine.host(0) == node.engine.host(0)
    assert engine.next_deadline_ns() == due_ns
    assert due_ns is not None
    engine.expire(due_ns)
    (sent,) = engine.take_actions(due_ns)
    assert isinstance(sent, Advertise)
    assert read_advertisement(sent.frame).counter == counter + 1
    node.carry_out(due_ns)
    assert sent.frame == node.done[-1].content


def test_a_backup_takes_over_when_it_would_have() -> None:
    node = Node("10.77.0.2", advskew=100, replay="strict")
    node.run(START_NS + SECOND_NS)
    node.engine.receive(0, advertisement(counter=5), AT_NS - SECOND_NS // 2)
    deadline_ns = node.engine.host(0).deadline_ns
    engine, _ = successor(node.engine, prepared(advskew=100, replay="strict"))
    assert engine.receive(0, advertisement(counter=3), AT_NS + SECOND_NS) == "replay"
    engine.expire(deadline_ns - 1_000_000)
    assert engine.host(0).state == "BACKUP"
    engine.expire(deadline_ns + 1_000_000)  # the tick after it
    assert engine.host(0).state == "MASTER"


def scene(random: Random, hosts: int = 3) -> str:
    texts = [
        f"[[host]]\nvhid = {vhid}\naddresses = [{addresses}]\ndialect = '{dialect}'\n"
        f"preempt = {random.choice(('true', 'false'))}\nadvskew = {random.choice((0, 50))}\n"
        f"replay = '{random.choice(('off', 'learn', 'strict'))}'\n"
        for vhid, dialect, addresses in (
            (1, "ucarp", "'10.0.1.1/24'"),
            (2, "openbsd", "'10.0.1.1/32', '10.0.1.2/32'"),
            (3, "freebsd", "'10.0.1.1/32', 'fd00::3/64'"),
        )[:hosts]
    ]
    interface = "interface.eth0 = {source = '10.0.0.2', source6 = 'fe80::2'}\n"
    transcript = f"transcript = '''\n{anything(random, 240)}\n'''\n"
    return "".join((transcript, interface, *texts))


def taken_over(player: Player, at_ns: int) -> Player:
    """Another player whose engine has assumed the state of this one's."""
    other = Player(player.scenario)
    other.hosts, other.passphrases = player.hosts, player.passphrases
    other.first = []
    other.start(at_ns)
    other.alive, other.away, other.away_ns = player.alive, player.away, player.away_ns
    other.back_ns, other.given_ns = player.back_ns, player.given_ns
    other.interfaces, other.errors = dict(player.interfaces), dict(player.errors)
    other.counter = player.counter
    for name, slot in player.slots.items():
        other.engine.add(slot, other._prepared(name), START_NS + at_ns)
    placed = other.engine.assume_state(exported(player.engine), START_NS + at_ns)
    assert placed == Placed(len(player.slots), [], [], [], 0)
    assert other.engine.take_reports() == []
    return other


def by_host(outputs: list[Output]) -> list[Output]:
    """The decisions of one host after those of another, each in their order."""
    return sorted(outputs, key=lambda output: output.name)


@pytest.mark.parametrize("seed", [*range(40), 68])
def test_whatever_comes_later_is_decided_as_the_former_engine_would(seed: int) -> None:
    random = Random(seed)
    scenario = scenarios.parse(scene(random))
    player = Player(scenario)
    player.start(0)
    inputs = [line for line in scenario.lines if not line.output]
    half = random.randrange(len(inputs) // 4, len(inputs) * 3 // 4)
    for line in inputs[:half]:
        player.give(line)
    done = len(player.outputs)
    other = taken_over(player, inputs[half - 1].at_ns)
    assert_same_state(player.engine, other.engine)
    for line in inputs[half:]:
        player.give(line)
        other.give(line)
    # Hosts with one deadline advertise one after the other, in an order that is not handed over.
    assert by_host(other.outputs) == by_host(player.outputs[done:])
    for slot in player.slots.values():
        assert other.engine.host(slot) == player.engine.host(slot)
    assert other.engine.interface_counters(0) == player.engine.interface_counters(0)
    assert other.engine.rejections(0) == player.engine.rejections(0)


def test_most_fields_of_these_scenes_are_not_0_when_they_are_handed_over() -> None:
    seen: set[str] = set()
    for seed in range(6):
        scenario = scenarios.parse(scene(Random(seed)))
        player = Player(scenario)
        player.start(0)
        inputs = [line for line in scenario.lines if not line.output]
        for line in inputs:
            player.give(line)
            for record in State(exported(player.engine)).records("host"):
                seen |= {name for name, value in record.items() if any(value_bytes(value))}
    fields = {name for part, name, *_ in State(exported(player.engine)).table if part == "host"}
    # So the comparison of states above says something about each of the others.
    assert fields - seen <= {
        *("impeded", "configured.by_route", "announce_from", "announce_errors", "of"),
        *("configured.source6_missing", "configured.source_missing", "group6", "leaving_ns"),
        *("failed_sends", "good_sends", "failing_ns", "send_errors", "interface"),
        *("configured.own_source", "configured.own_source6", "announce_left", "announce_at_ns"),
        *("tie_since_ns", "addresses_restored"),
    }


def value_bytes(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.to_bytes(8, "little")


def test_what_waits_goes_on_in_its_order() -> None:
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"))
    for slot in range(5):
        engine.add(slot, prepared(vhid=slot + 1, addresses=[(ip(f"10.1.0.{slot}"), 24)]), START_NS)
    engine.expire(AT_NS)  # all of them are MASTER, and have advertisements and addresses due
    hosts = [prepared(vhid=slot + 1, addresses=[(ip(f"10.1.0.{slot}"), 24)]) for slot in range(5)]
    other, _ = successor(engine, *hosts)
    assert_same_state(engine, other)
    actions = engine.take_actions(AT_NS)
    assert len(actions) == 15
    assert other.take_actions(AT_NS) == actions


def test_what_a_full_queue_refused_is_sent_when_it_would_have_been() -> None:
    node = risen(AT_NS - SECOND_NS)
    node.engine.remove(0, AT_NS)
    refused = {(0, None): errno.ENOBUFS}
    node.engine.take_actions(AT_NS, refused)
    assert node.engine.checkpoint(0, AT_NS)["state"]["flags"].count("owed") == 1
    other, placed = successor(node.engine, slots=[0])
    assert placed.hosts == 1
    assert other.take_actions(AT_NS) == []
    at_ns = other.next_deadline_ns()
    assert at_ns == node.engine.next_deadline_ns()
    assert at_ns is not None
    for engine in (node.engine, other):
        engine.expire(at_ns)
    actions = node.engine.take_actions(at_ns)
    assert [action.word for action in actions] == ["RESIGN"]
    assert other.take_actions(at_ns) == actions


def test_frames_are_those_that_the_former_engine_would_send() -> None:
    """Whatever was known of the interface before."""
    node = risen(AT_NS)
    other = Engine()
    other.set_interface(0, AT_NS, ifindex=9, mac=b"\2\0\0\0\0\7", source=ip("10.77.0.7"))
    other.add(0, prepared(), AT_NS)
    other.assume_state(exported(node.engine), AT_NS)
    at_ns = node.engine.next_deadline_ns()
    assert at_ns is not None
    for engine in (node.engine, other):
        engine.expire(at_ns)
    actions = node.engine.take_actions(at_ns)
    assert [action.word for action in actions] == ["ADVERTISE"]
    assert other.take_actions(at_ns) == actions


def test_room_is_for_what_there_is_now() -> None:
    def more() -> Any:
        addresses = [(ip(f"10.1.0.{n}"), 24) for n in range(5)]
        return prepared(vhid=2, addresses=addresses, alternates=True)

    engine, fresh = Engine(), Engine()
    for slot in range(3):
        engine.add(slot, prepared(vhid=slot + 1), START_NS)
    engine.replace(1, more(), START_NS)
    engine.remove(2, START_NS)
    fresh.add(0, prepared(vhid=1), START_NS)
    fresh.add(1, more(), START_NS)
    assert engine.state_size() == fresh.state_size()
    assert [State(exported(engine)).count(part) for part in ("host", "address")] == [2, 6]


# ---------------------------------------------------------------------------- who is who


def test_slots_and_interfaces_may_have_other_numbers() -> None:
    node = risen(AT_NS)
    other = Engine()
    other.add(7, prepared(interface=3), AT_NS)
    placed = other.assume_state(exported(node.engine), AT_NS, interfaces=[3], slots=[7])
    assert placed.hosts == 1
    assert other.host(7).state == "MASTER"
    assert other.interface_counters(3) == node.engine.interface_counters(0)
    assert other.receive(3, advertisement(vhid=9), AT_NS) == "bad_vhid"


def test_what_is_only_in_the_state_is_named_with_its_addresses() -> None:
    node = risen(AT_NS)
    engine = Engine()
    engine.add(0, prepared(vhid=VHID + 1), AT_NS)
    placed = engine.assume_state(exported(node.engine), AT_NS)
    (gone,) = placed.gone
    assert (gone.slot, gone.interface, gone.vhid, gone.state) == (0, 0, VHID, "MASTER")
    assert gone.held == [HeldAddress(1, ip("10.77.0.100"), 24, False)]
    assert (placed.hosts, placed.added) == (0, [0])
    # The one that is only here begins, on an interface that is there already.
    (begun,) = engine.take_reports()
    assert isinstance(begun, StateChanged)
    assert (begun.previous, begun.state) == ("INIT", "BACKUP")


def test_a_changed_address_is_added_and_the_former_one_named() -> None:
    node = risen(AT_NS)
    engine, placed = successor(node.engine, prepared(addresses=[(ip("10.77.0.101"), 24)]))
    assert placed.unheld == [(0, HeldAddress(1, ip("10.77.0.100"), 24, False))]
    added = engine.take_actions(AT_NS)
    assert [action for action in added if isinstance(action, AddAddresses)] == [
        AddAddresses(0, [ip("10.77.0.101")])
    ]
    assert engine.host(0).held == 1


def test_hosts_with_one_vhid_go_on_by_their_group() -> None:
    groups = [bytes((224, 0, 0, 18)), bytes((224, 0, 0, 19))]
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"))
    for slot, group in enumerate(groups):
        engine.add(slot, prepared(destination=group, advskew=10 * slot), START_NS)
    engine.expire(AT_NS)
    engine.take_actions(AT_NS)
    engine.demote(1, 33, AT_NS)
    hosts = [prepared(destination=group) for group in reversed(groups)]
    other, placed = successor(engine, *hosts)
    assert placed.hosts == 2
    assert [other.host(slot).demotions for slot in (0, 1)] == [{"operator": 33}, {}]


@pytest.mark.parametrize("slots", [[1], [0, 0], [5]])
def test_a_slot_of_another_virtual_host_is_refused(slots: list[int]) -> None:
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"))
    for slot in range(len(slots)):
        engine.add(slot, prepared(vhid=VHID), START_NS)
    other = Engine()
    other.add(0, prepared(), AT_NS)
    other.add(1, prepared(vhid=VHID + 1), AT_NS)
    before = other.host(0)
    with pytest.raises(ValueError, match="becomes"):
        other.assume_state(exported(engine), AT_NS, slots=slots)
    assert other.host(0) == before


def test_former_digests_are_accepted_for_as_long_as_before() -> None:
    node = Node("10.77.0.2", alternates=True)
    node.run(AT_NS)
    second = {"passphrase": b"second", "alternates": True}
    node.engine.replace(0, prepared(**second), AT_NS, grace_ns=5 * SECOND_NS)
    engine, placed = successor(node.engine, prepared(**second))
    assert placed.digests_lost == 0
    for after_s, words in ((1, ("ok", "ok")), (6, ("bad_auth", "ok"))):
        for number, (passphrase, word) in enumerate(
            zip((PASSPHRASE, b"second"), words, strict=True)
        ):
            frame = advertisement(passphrase=passphrase, counter=after_s * 10 + number, advskew=9)
            assert engine.receive(0, frame, AT_NS + after_s * SECOND_NS) == word, after_s


def test_digests_without_room_are_counted() -> None:
    node = Node("10.77.0.2", alternates=True)
    node.engine.replace(
        0, prepared(passphrase=b"second", alternates=True), AT_NS, grace_ns=5 * SECOND_NS
    )
    _, placed = successor(node.engine, prepared(passphrase=b"second"))
    assert placed.digests_lost == 1


def test_a_state_has_no_key_that_is_accepted_without_end() -> None:
    """The successor has it from the configuration: who reads a state cannot sign by it."""
    state = State(exported(risen(AT_NS).engine))
    assert state.count("host") == 1
    assert state.count("key") == 0


def test_a_group_is_demoted_as_it_was_and_reported_once() -> None:
    def hosts() -> list[Any]:
        return [prepared(interface=slot, group=1) for slot in range(2)]

    engine = Engine()
    for slot, host in enumerate(hosts()):
        engine.set_interface(slot, START_NS, ifindex=slot + 1, source=ip("10.77.0.2"))
        engine.add(slot, host, START_NS)
    engine.expire(AT_NS)
    engine.take_actions(AT_NS)
    engine.set_interface(1, AT_NS, ifindex=2, up=False, source=ip("10.77.0.2"))
    for _ in range(2):
        engine.expire(AT_NS)
        engine.take_actions(AT_NS)
    other, _ = successor(engine, *hosts())
    assert other.take_reports() == []
    other.expire(AT_NS)
    reports: list[Report] = other.take_reports()
    assert [type(report) for report in reports] == [GroupChanged]
    assert [other.host(slot) for slot in (0, 1)] == [engine.host(slot) for slot in (0, 1)]
    assert other.host(0).demotions == {"group": 240}
    for one in (engine, other):
        one.set_interface(1, AT_NS, ifindex=2, up=True, source=ip("10.77.0.2"))
        one.expire(AT_NS)
    assert other.host(0).demotions == engine.host(0).demotions == {}


# ------------------------------------------------------------------------------- refused


def test_a_change_without_an_outcome_is_not_handed_over() -> None:
    node = Node("10.77.0.2")
    node.busy = True
    node.run(AT_NS)
    with pytest.raises(ValueError, match="slot 0 waits for the outcome"):
        exported(node.engine)
    node.answer(AT_NS)
    exported(node.engine)


def test_a_buffer_has_to_have_room() -> None:
    node = risen(AT_NS)
    with pytest.raises(ValueError, match="may need"):
        node.engine.export_state(bytearray(node.engine.state_size() - 1))
    with pytest.raises(BufferError):
        node.engine.export_state(bytes(node.engine.state_size()))


def rows_at(state: bytearray) -> tuple[int, int]:
    """Where the rows begin, and how many there are."""
    parts, rows = struct.unpack_from("<II", state, 12)
    return HEAD + parts * PART, rows


def row_of(state: bytearray, part: str, name: str) -> int:
    """Where the row of a field is."""
    at, rows = rows_at(state)
    wanted = part.encode().ljust(16, b"\0") + name.encode().ljust(40, b"\0")
    (found,) = (at + k * ROW for k in range(rows) if state[at + k * ROW :][:56] == wanted)
    return found


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s, at: s.__setitem__(slice(at + 16, at + 23), b"colours"), "host.colours: a field"),
        (lambda s, at: struct.pack_into("<I", s, at + 60, 4), "host.counter: 1 of 4 bytes"),
        (lambda s, at: struct.pack_into("<I", s, at + 64, 2), "host.counter: 2 of 8 bytes"),
        (lambda s, at: struct.pack_into("<I", s, at + 56, 9999), "host.counter: not within"),
        (lambda s, at: s.__setitem__(slice(at, at + 4), b"hops"), "hops.counter: of records"),
    ],
)
def test_a_field_of_another_version_is_refused_by_name(change: Any, error: str) -> None:
    state = exported(risen(AT_NS).engine)
    change(state, row_of(state, "host", "counter"))
    with pytest.raises(ValueError, match=error):
        State(state)
    engine = Engine()
    engine.add(0, prepared(), AT_NS)
    with pytest.raises(ValueError, match=error):
        engine.assume_state(state, AT_NS)
    assert engine.host(0).state == "INIT"


def test_a_field_that_is_missing_is_0() -> None:
    node = risen(AT_NS)
    state = exported(node.engine)
    at, other = row_of(state, "host", "sent"), row_of(state, "host", "counter")
    state[at : at + ROW] = state[other : other + ROW]
    engine = Engine()
    engine.add(0, prepared(), AT_NS)
    engine.assume_state(state, AT_NS)
    assert engine.host(0).counters["advertisements_sent"] == 0
    assert engine.host(0).counter == node.engine.host(0).counter


def test_a_word_with_another_number_is_refused_by_name() -> None:
    state = exported(risen(AT_NS).engine)
    struct.pack_into("<I", state, row_of(state, "words", "reason.tie_lost") + 56, 5)
    with pytest.raises(ValueError, match=r"reason\.tie_lost: has the number 5 in the state"):
        State(state)
    state = exported(risen(AT_NS).engine)
    at = row_of(state, "words", "reason.tie_lost") + 16
    state[at : at + 15] = b"reason.tie_gone"
    with pytest.raises(ValueError, match=r"reason\.tie_gone: a word that this version does not"):
        State(state)


def test_what_is_not_a_state_is_refused() -> None:
    state = exported(risen(AT_NS).engine)
    for length in range(0, len(state), 97):
        with pytest.raises(ValueError, match=r"not a state|cut off|not within"):
            State(state[:length])
    with pytest.raises(ValueError, match="not a state"):
        State(bytes(len(state)))
    struct.pack_into("<I", state, 8, 2)
    with pytest.raises(ValueError, match="layout 2, not 1"):
        State(state)


@pytest.mark.parametrize("seed", range(30))
def test_a_state_with_faults_is_refused_or_taken_but_never_harms(seed: int) -> None:
    random = Random(seed)
    node = Node("10.77.0.2", alternates=True)
    node.run(AT_NS)
    node.engine.receive(0, advertisement(), AT_NS)
    node.engine.receive(0, advertisement(passphrase=b"wrong"), AT_NS)
    good = exported(node.engine)
    for _ in range(200):
        state = bytearray(good)
        for _ in range(random.choice((1, 1, 2, 8))):
            state[random.randrange(len(state))] = random.choice((0, 1, 2, 127, 128, 255))
        engine = Engine()
        engine.add(0, prepared(alternates=True), AT_NS)
        try:
            engine.assume_state(state, AT_NS)
        except ValueError:
            continue
        engine.host(0)
        engine.rejections(0)
        engine.receive(0, advertisement(counter=9), AT_NS + SECOND_NS)
