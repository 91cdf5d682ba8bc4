"""The state machine as a table: that it is whole, and that the engine does what each row says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from carp_fast.engine import _vhid
from tests.support.segment import (
    SECOND_NS,
    START_NS,
    TICK_NS,
    Node,
    advertisement,
    next_deadline,
    read_advertisement,
)

ADVSKEW = 100
MASTER_DOWN_NS = (3 * 256 + ADVSKEW) * SECOND_NS // 256
OPENBSD_DOWN_NS = 3 * (256 + ADVSKEW) * SECOND_NS // 256
LATER_NS = START_NS + 11 * SECOND_NS  # MASTER by then, and the announcement repeated
SKEW_NS = ADVSKEW * SECOND_NS // 256
FIRST_JITTER_NS = (256 + ADVSKEW) * SECOND_NS // 256 // 4

# What need not be listed, because it cannot happen or means nothing.
MEANS_NOTHING = {
    # Outside of the election nothing that is heard counts, and no timer of it runs.
    "INIT": "master_heard slower_master master_leaving master_left master_down "
    "advertisement_due faster tie_lost slower less_demoted master_demoted tie_yielded contested "
    "our_turn address_lost renamed source_lost",
    # Ready already; what compares with our own advertisements is judged only while we send them.
    "BACKUP": "ready advertisement_due faster tie_lost slower less_demoted tie_yielded "
    "address_lost renamed source_lost",
    # Ready already; a master waits for no other.
    "MASTER": "ready master_heard slower_master master_leaving master_left master_down "
    "master_demoted contested our_turn",
}


def rows() -> list[tuple[str, str, str, str, str]]:
    return list(_vhid.TRANSITIONS)


def test_each_state_and_event_is_listed_once_or_means_nothing() -> None:
    listed = [(state, event) for state, event, *_ in rows()]
    nothing = [(state, event) for state in MEANS_NOTHING for event in MEANS_NOTHING[state].split()]
    everything = [(state, event) for state in _vhid.STATE_WORDS for event in _vhid.EVENT_WORDS]
    assert sorted(listed + nothing) == sorted(everything)


def test_only_known_words() -> None:
    for state, event, following, effects, reason in rows():
        assert {state, following} <= set(_vhid.STATE_WORDS)
        assert event in _vhid.EVENT_WORDS
        assert set(effects.split()) <= set(_vhid.EFFECT_WORDS)
        assert reason in _vhid.REASON_WORDS


def test_what_every_row_must_respect() -> None:
    for state, event, following, effects, _ in rows():
        does = set(effects.split())
        entered, left = following == "MASTER" != state, state == "MASTER" != following
        assert ("add_addresses" in does) == entered, (state, event)
        assert ("remove_addresses" in does) == left, (state, event)
        # Each state has exactly the timer it needs: none may be left without one.
        assert ("disarm" in does) == (following == "INIT"), (state, event)
        if following == "BACKUP":
            timers = {"arm_master_down", "arm_jittered", "arm_jitter", "arm_skew"}
            assert len(does & timers) == 1, (state, event)
        # A tie is lost in silence: a BSD master would step down on a last advertisement too.
        assert ("last_advertisement" in does) == (event == "faster"), (state, event)
        assert "resign" not in does or left, (state, event)


# How to bring an engine to each state and to let each event happen to it.


def node_in(state: str, **settings: Any) -> Node:
    node = Node("10.77.0.2", **({"advskew": ADVSKEW, "preempt": True} | settings))
    if state == "INIT":
        node.attach(START_NS, up=False)
    elif state == "MASTER":
        node.run(START_NS + 10 * SECOND_NS)
    node.take(START_NS)
    assert node.state == state
    node.forget()
    return node


def hear(node: Node, now_ns: int, source: str = "10.77.0.1", **carp: Any) -> None:
    assert node.engine.receive(0, advertisement(source=source, **carp), now_ns) == "ok"


def not_ready(node: Node, now_ns: int) -> int:
    if node.state == "INIT":
        node.attach(now_ns, ifindex=0)
    else:
        node.attach(now_ns, up=False)
    return now_ns


def ready(node: Node, now_ns: int) -> int:
    node.attach(now_ns)
    return now_ns


def renamed(node: Node, now_ns: int) -> int:
    node.attach(now_ns, renamed=True)
    return now_ns


def source_lost(node: Node, now_ns: int) -> int:
    node.attach(now_ns, source=None)
    node.forget()
    return deadline(node, now_ns)


def resign(node: Node, now_ns: int) -> int:
    node.engine.resign_all(now_ns)
    return now_ns


def master_leaving(node: Node, now_ns: int) -> int:
    hear(node, now_ns - SECOND_NS // 2, counter=8)
    hear(node, now_ns, advbase=255, advskew=255, counter=9)
    return now_ns


def deadline(node: Node, now_ns: int) -> int:
    at_ns: int = -(-node.engine.host(0).deadline_ns // TICK_NS) * TICK_NS
    node.run(at_ns)
    return at_ns


def master_left(node: Node, now_ns: int) -> int:
    return deadline(node, master_leaving(node, now_ns))


def heard(**carp: Any) -> Callable[[Node, int], int]:
    def happen(node: Node, now_ns: int) -> int:
        hear(node, now_ns, **carp)
        return now_ns

    return happen


def contested(node: Node, now_ns: int) -> int:
    node.run(LATER_NS)
    hear(node, LATER_NS, advskew=ADVSKEW)
    node.take(LATER_NS)
    assert node.reason == "tie_lost"
    node.forget()
    hear(node, LATER_NS + SECOND_NS, advskew=200, counter=9)
    return LATER_NS + SECOND_NS


def our_turn(node: Node, now_ns: int) -> int:
    return deadline(node, contested(node, now_ns))


def address_lost(node: Node, now_ns: int) -> int:
    node.engine.lose_address(0, now_ns)
    return now_ns


def less_demoted(node: Node, now_ns: int) -> int:
    node.engine.demote(0, 2, now_ns)
    hear(node, now_ns, advskew=254, demote=1)
    return now_ns


HAPPEN: dict[str, Callable[[Node, int], int]] = {
    "ready": ready,
    "not_ready": not_ready,
    "renamed": renamed,
    "master_heard": heard(advskew=0),
    "slower_master": heard(advskew=200),
    "master_leaving": master_leaving,
    "master_left": master_left,
    "master_down": deadline,
    "advertisement_due": deadline,
    "faster": heard(advskew=0),
    "tie_lost": heard(advskew=ADVSKEW),
    "slower": heard(advskew=200),
    "less_demoted": less_demoted,
    "master_demoted": heard(demote=1, advskew=0),
    "tie_yielded": heard(advskew=ADVSKEW),
    "contested": contested,
    "our_turn": our_turn,
    "address_lost": address_lost,
    "resign": resign,
    "source_lost": source_lost,
}
# Of other dialects: OpenBSD's demote byte, and who hears a tie in the BSDs yields.
SETTINGS: dict[str, dict[str, Any]] = {
    "less_demoted": {"dialect": "openbsd"},
    "master_demoted": {"dialect": "openbsd"},
    "tie_yielded": {"dialect": "freebsd"},
    "contested": {"dialect": "freebsd"},
    "our_turn": {"dialect": "freebsd"},
}
CAUSES = {
    ("INIT", "ready"): "link_up",
    ("INIT", "not_ready"): "interface_missing",
    ("BACKUP", "not_ready"): "link_down",
    ("MASTER", "not_ready"): "link_down",
    ("MASTER", "renamed"): "interface_missing",
    ("MASTER", "address_lost"): "address_lost",
    ("BACKUP", "master_left"): "master_resigned",
    ("BACKUP", "contested"): "tie_lost",
    ("BACKUP", "our_turn"): "preempted",
}


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}-{row[1]}")
def test_engine_does_what_the_row_says(row: tuple[str, str, str, str, str]) -> None:
    state, event, following, effects, reason = row
    node = node_in(state, **SETTINGS.get(event, {}))
    before = node.reason
    at_ns = HAPPEN[event](node, LATER_NS if state == "MASTER" else START_NS)
    node.take(at_ns)
    host, does = node.engine.host(0), set(effects.split())
    assert host.state == following
    assert host.reason == (reason or CAUSES.get((state, event), before))
    if state != following:
        assert node.changes()[-1] == (state, following, host.reason)
    wanted = []
    if "advertise" in does or "answer" in does or "last_advertisement" in does:
        wanted.append("ADVERTISE")
    if "remove_addresses" in does:
        wanted.append("REMOVE_ADDRESSES")
    if "add_addresses" in does:
        wanted += ["ADD_ADDRESSES", "ANNOUNCE"]
    if "answer" in does:
        wanted.append("ANNOUNCE")
    if "resign" in does:
        wanted.append("RESIGN")
    assert node.words() == wanted
    if "arm_master_down" in does:
        openbsd = SETTINGS.get(event, {}).get("dialect") == "openbsd"
        down_ns = OPENBSD_DOWN_NS if openbsd else MASTER_DOWN_NS
        if event == "address_lost":  # demoted from then on
            down_ns = (3 * 256 + 240) * SECOND_NS // 256
        assert host.deadline_ns == at_ns + down_ns
    if "arm_skew" in does:
        assert host.deadline_ns == at_ns + SKEW_NS
    if "arm_jittered" in does:
        assert 0 <= host.deadline_ns - at_ns - MASTER_DOWN_NS < FIRST_JITTER_NS
    if "arm_jitter" in does:
        assert 0 <= host.deadline_ns - at_ns < FIRST_JITTER_NS
    if "disarm" in does:
        assert host.deadline_ns == 0
        assert node.engine.next_deadline_ns() is None
    if "advertise" in does:
        interval_ns = (256 + ADVSKEW) * SECOND_NS // 256
        assert at_ns < host.deadline_ns <= at_ns + interval_ns


@pytest.mark.parametrize("state", ["INIT", "BACKUP"])
@pytest.mark.parametrize("event", ["lose_address", "announce"])
def test_orders_for_a_master_change_nothing_in_other_states(state: str, event: str) -> None:
    node = node_in(state)
    before = node.engine.host(0)
    getattr(node.engine, event)(0, START_NS)
    node.take(START_NS)
    assert node.engine.host(0) == before
    assert node.words() == []


def test_backup_sends_nothing() -> None:
    node = node_in("BACKUP")
    for step in range(1, 40):
        now_ns = START_NS + step * SECOND_NS // 4
        node.run(now_ns)
        hear(node, now_ns, counter=step)
    assert node.state == "BACKUP"
    assert node.done == []


def test_last_advertisement_has_our_own_interval_and_not_255() -> None:
    node = node_in("MASTER")
    now_ns = LATER_NS
    hear(node, now_ns)
    (frame,) = node.take(now_ns)
    assert read_advertisement(frame)[:3] == (42, 1, ADVSKEW)


def test_master_leaving_is_said_of_the_longest_wait_and_not_of_one_unit_less() -> None:
    # R > our own master-down time, in 1/256 s: 3 s + 100/256 s is 868, which is 3 s + 100.
    for advskew, wait_ns in ((ADVSKEW, MASTER_DOWN_NS), (ADVSKEW + 1, SKEW_NS)):
        node = node_in("BACKUP", preempt=False)
        hear(node, START_NS, advbase=3, advskew=advskew)
        assert node.engine.host(0).deadline_ns == START_NS + wait_ns
        assert next_deadline(node.engine) <= START_NS + wait_ns + TICK_NS
