"""`explain`: who was heard and what it means, of engines driven into every situation."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from carp_fast.config.model import Settings, VirtualHost
from carp_fast.control.requests import StatusRequest
from carp_fast.daemon import explain, explain_text, explain_words
from carp_fast.daemon.status import Status
from carp_fast.engine import _vhid
from carp_fast.engine._engine import Engine
from carp_fast.engine._vhid import REASON_WORDS
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.engine.actions import Advertise
from tests.support.asked import ADVSKEW, MASTER_NS, OTHER, OURS, Asked, explained
from tests.support.segment import SECOND_NS, START_NS, advertisement, ip, prepared

# What an advertisement can be to a virtual host, by its state.
JUDGED = {
    "BACKUP": {"master_heard", "slower_master", "master_leaving", "master_demoted", "contested"},
    "MASTER": {"faster", "tie_lost", "tie_yielded", "slower", "less_demoted"},
}


# ----------------------------------------------------------------------- the tables


def test_every_reason_has_a_meaning() -> None:
    assert set(explain_words.REASON_MEANINGS) == set(REASON_WORDS)


def test_every_rejection_has_a_hint() -> None:
    assert set(explain_words.VERDICT_HINTS) == set(VERDICT_WORDS) - {"ok"}


def test_every_event_of_an_advertisement_has_a_consequence() -> None:
    assert set(explain_words.CONSEQUENCES) == JUDGED["BACKUP"] | JUDGED["MASTER"]
    assert set(explain_words.CONSEQUENCES) <= set(_vhid.EVENT_WORDS)


# ----------------------------------------------------------------------- what the election makes


def worlds() -> list[dict[str, Any]]:
    dialects, preempts = ("ucarp", "freebsd", "openbsd"), (False, True, "demoted")
    return [
        {"dialect": dialect, "preempt": preempt, "advbase": advbase}
        for dialect, preempt, advbase in itertools.product(dialects, preempts, (0, 1))
    ]


# advbase and advskew, demote, source: each to a virtual host of its own.
SAID = ((0, 0), (0, 50), (0, 100), (1, 0), (1, 100), (1, 240), (9, 9), (255, 255))
ADVERTISED = list(itertools.product(SAID, (0, 20, 40), ("10.77.0.1", OTHER, OURS)))


@pytest.mark.parametrize("settings", worlds(), ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("state", JUDGED)
@pytest.mark.parametrize("demote", [0, 20])
def test_the_event_told_is_the_event_that_happens(
    settings: dict[str, Any], state: str, demote: int
) -> None:
    """Heard once more, the same advertisement does what was foretold."""
    following = {(before, event): after for before, event, after, *_ in _vhid.TRANSITIONS}
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip(OURS))
    for slot in range(len(ADVERTISED)):
        engine.add(slot, prepared(vhid=slot + 1, advskew=ADVSKEW, **settings), START_NS)
        engine.demote(slot, demote, START_NS)
    now_ns = START_NS
    if state == "MASTER":
        now_ns = MASTER_NS
        engine.expire(now_ns)
        engine.take_actions(now_ns)

    def hear(slot: int, counter: int) -> str:
        (advbase, advskew), theirs, source = ADVERTISED[slot]
        carp: dict[str, Any] = {"advbase": advbase, "advskew": advskew, "demote": theirs}
        frame = advertisement(source=source, vhid=slot + 1, counter=counter, **carp)
        assert engine.receive(0, frame, now_ns) == "ok"
        return str(engine.host(slot).state)

    for slot, said in enumerate(ADVERTISED):
        assert engine.host(slot).state == state
        before = hear(slot, 1 << 40)
        [heard] = engine.explained(slot, now_ns).heard
        event = heard.event
        assert event is None or event in JUDGED[before]
        after = hear(slot, (1 << 40) + 1)
        assert after == following.get((before, event or ""), before), (said, event)


def test_to_tell_it_changes_nothing() -> None:
    # Judging notes when a preempt delay begins, and a tie over IPv6.
    asked = Asked(preempt=True, preempt_delay_ns=SECOND_NS).hear(advskew=200)
    asked.engine.take_reports()
    before = asked.engine.explained(0, asked.now_ns)
    assert before.preempt_from_ns == asked.now_ns + SECOND_NS
    for later_ns in (0, SECOND_NS, 100 * SECOND_NS):
        asked.engine.explained(0, asked.now_ns + later_ns)
    assert asked.engine.explained(0, asked.now_ns) == before
    assert asked.engine.take_reports() == []


def test_a_slot_that_is_free_is_not_explained() -> None:
    with pytest.raises(IndexError, match="slot 5 is not in use"):
        Engine().explained(5, START_NS)


SENTENCES: list[tuple[dict[str, Any], str, dict[str, Any], str]] = [
    (
        {},
        "BACKUP",
        {},
        "advertises 1/0 (1.000 s), faster than our 1/100 (1.391 s): it keeps us BACKUP",
    ),
    (
        {},
        "BACKUP",
        {"advskew": 200},
        'advertises 1/200 (1.781 s), slower than our 1/100 (1.391 s), but preempt = "demoted" and '
        "it is not (advskew below 240): it keeps us BACKUP",
    ),
    ({"preempt": False}, "BACKUP", {"advskew": 240}, ", but preempt = false: it keeps us BACKUP"),
    (
        {"preempt_delay_ns": 3 * SECOND_NS},
        "BACKUP",
        {"advskew": 240},
        ", but preempt_delay_s = 3 runs for another 3.000 s: it keeps us BACKUP",
    ),
    (
        {},
        "BACKUP",
        {"advskew": ADVSKEW},
        "as fast as our 1/100 (1.391 s), a tie that changes nothing: it keeps us BACKUP",
    ),
    (
        {},
        "BACKUP",
        {"advbase": 9},
        "slower than our 1/100 (1.391 s): it would be silent for longer than our master-down time, "
        "and we do not wait",
    ),
    (
        {},
        "BACKUP",
        {"advbase": 255, "advskew": 255},
        "resigned (255/255): we do not wait for our master-down time",
    ),
    (
        {},
        "MASTER",
        {"advskew": 200},
        "slower than our 1/100 (1.391 s): we stay MASTER, and answer it",
    ),
    (
        {},
        "MASTER",
        {"advskew": ADVSKEW},
        "as fast as our 1/100 (1.391 s), a tie that goes to the lower source, which is ours "
        "(dialect ucarp): we stay MASTER, and answer it",
    ),
    (
        {"dialect": "openbsd"},
        "MASTER",
        {"demote": 1},
        "more demoted than we are (demote byte 1, ours 0): we stay MASTER, and answer it",
    ),
    ({}, "MASTER", {"advbase": 255, "advskew": 255}, "resigned (255/255): we stay MASTER"),
    ({}, "INIT", {}, "advertises 1/0 (1.000 s): nothing that is heard counts in INIT"),
]


@pytest.mark.parametrize(("settings", "state", "carp", "sentence"), SENTENCES)
def test_what_is_made_of_who_was_heard(
    settings: dict[str, Any], state: str, carp: dict[str, Any], sentence: str
) -> None:
    delay_s = settings.get("preempt_delay_ns", 0) / 1e9
    asked = Asked({"preempt_delay_s": delay_s}, **settings).become(state).hear(**carp)
    assert asked.node.state == state
    assert asked.sections()["heard masters"][0].endswith(sentence)


def test_demotion_that_was_equal_when_it_was_heard() -> None:
    asked = Asked(dialect="openbsd").hear(demote=20)
    assert asked.node.state == "MASTER"
    asked.engine.demote(0, 40, asked.now_ns)
    assert asked.sections()["heard masters"][0].endswith(
        "less demoted than we are (demote byte 20, ours 40): its next advertisement makes us BACKUP"
    )
    asked.hear(demote=20, counter=2)
    assert asked.node.state == "BACKUP"
    asked.engine.demote(0, 0, asked.now_ns)
    assert asked.sections()["heard masters"][0].endswith(
        "more demoted than we are (demote byte 20, ours 0): its next advertisement makes us MASTER"
    )


def test_what_stands_before_it() -> None:
    asked = Asked().hear(counter=99, source_mac=b"\x02\0\0\0\0\x77")
    asked.now_ns += SECOND_NS // 4
    [line] = asked.sections()["heard masters"]
    assert line.startswith(
        "10.77.0.3 (02:00:00:00:00:77, IPv4, counter 99, the current master), 0.250 s ago, adv"
    )
    assert asked.heard() == {
        "source": "10.77.0.3",
        "family": 4,
        "mac": "02:00:00:00:00:77",
        "advbase": 1,
        "advskew": 0,
        "demote": 0,
        "interval_s": 1.0,
        "counter": 99,
        "heard_ago_s": 0.25,
        "current": True,
        "own_source": False,
        "event": "master_heard",
        "undemoted": "master_heard",
    }


def test_a_master_that_was_heard_and_is_faster_now() -> None:
    """MASTER since the other one fell silent: what its return would mean."""
    asked = Asked(dead_ratio=1).hear()
    asked.now_ns += 100 * SECOND_NS
    asked.node.run(asked.now_ns)
    assert asked.node.state == "MASTER"
    line, silent = asked.sections()["heard masters"]
    assert silent.startswith("10.77.0.3 fell silent 1m 40s ago, and no resignation was heard")
    assert "heard last), 1m 40s ago" in line
    assert line.endswith(
        "faster than our 1/100 (1.391 s): if it is heard again, its next advertisement makes us"
        " BACKUP"
    )


@pytest.mark.parametrize(
    ("dialect", "sentence"),
    [
        ("ucarp", "a tie that goes to the lower source, which is not ours (dialect ucarp)"),
        ("freebsd", "a tie, which the host that hears it loses"),
    ],
)
def test_a_tie_that_would_be_lost(dialect: str, sentence: str) -> None:
    asked = Asked(dialect=dialect, dead_ratio=1).hear("10.77.0.1", advskew=ADVSKEW)
    asked.now_ns += 10 * SECOND_NS
    asked.node.run(asked.now_ns)
    assert asked.node.state == "MASTER"
    assert f": if it is heard again, {sentence}" in asked.sections()["heard masters"][0]


def test_a_resignation_of_who_is_not_the_master_means_nothing() -> None:
    asked = Asked().hear().hear("10.77.0.4", advbase=255, advskew=255, counter=2)
    first, second = asked.facts()["heard"]
    assert (first["current"], first["event"]) == (True, "master_heard")
    assert (second["current"], second["event"]) == (False, None)
    assert asked.sections()["heard masters"][1].endswith("resigned (255/255): it has no effect")
    asked.hear("10.77.0.5", advbase=9, counter=3)
    assert asked.sections()["heard masters"][2].endswith(
        "less often than our master-down time, and is not the master that we know: it has no effect"
    )


def test_another_host_with_our_source() -> None:
    asked = Asked().become("MASTER").hear(OURS, advskew=ADVSKEW, counter=1 << 40)
    line, warning = asked.sections()["heard masters"]
    assert "our own source address, which another host has, too" in line
    assert warning.startswith("duplicate_source: another host (02:00:00:00:00:99) advertises from")
    assert asked.facts()["warnings"] == {
        "duplicate_source": "another host (02:00:00:00:00:99) advertises from our source"
    }
    assert line.endswith(
        ", a tie with our own source address that goes to our higher MAC:"
        " we stay MASTER, and answer it"
    )


def test_a_demote_byte_in_a_dialect_that_has_none() -> None:
    asked = Asked().hear(demote=20)
    assert asked.sections()["heard masters"][1] == (
        "10.77.0.3 sends demote byte 20 as OpenBSD does, and dialect ucarp ignores it: "
        'set dialect = "openbsd"'
    )


def test_explain_says_that_nobody_was_heard() -> None:
    assert Asked().sections()["heard masters"] == ["no host has been heard"]
    assert Asked().become("INIT").sections()["heard masters"] == [
        "no host has been heard, and none would count in INIT"
    ]
    assert Asked().become("MASTER").sections()["heard masters"] == [
        "no host has been heard: a BACKUP sends nothing, and nothing is heard across a split"
        " segment"
    ]


def silenced(**heard: Any) -> Asked:
    """MASTER for two seconds since the last one that was heard so fell silent."""
    asked = Asked(preempt=False).hear(**heard)
    asked.now_ns += 4 * SECOND_NS
    asked.node.run(asked.now_ns)
    assert (asked.node.state, asked.node.reason) == ("MASTER", "master_down")
    asked.now_ns += 2 * SECOND_NS
    return asked


def test_a_master_that_fell_silent_may_be_beyond_a_split_segment() -> None:
    asked = silenced()
    _, silent = asked.sections()["heard masters"]
    assert silent == (
        "10.77.0.3 fell silent 6.000 s ago, and no resignation was heard: that host or its link is"
        " down, or the segment of eth0 is split and it is MASTER, too: compare carp-fast explain"
        " eth0 42 there"
    )
    # Heard again, or long before: that is not what made it MASTER.
    facts = asked.facts()
    for heard_ago_s in (1.0, 9.0):
        asked_facts = facts | {"heard": [facts["heard"][0] | {"heard_ago_s": heard_ago_s}]}
        assert len(list(explain_text.heard_masters(explained(asked_facts)))) == 1
    for other in ({"state": "BACKUP"}, {"reason": "preempted"}):
        assert len(list(explain_text.heard_masters(explained(facts | other)))) == 1


def test_a_master_that_resigned_did_not_fall_silent() -> None:
    facts = silenced().facts()
    resigned = facts["heard"][0] | {"advbase": 255, "advskew": 255}
    found = explain_text.heard_masters(explained(facts | {"heard": [resigned]}))
    assert not any("fell silent" in line for line in found)


# ----------------------------------------------------------------------- both families


SOURCE6, OTHER6 = bytes.fromhex("fe80" + "00" * 13 + "02"), bytes.fromhex("fe80" + "00" * 13 + "03")


def both_families(source6: bytes, source: str, now_ns: int) -> tuple[Engine, list[bytes]]:
    """An engine that is MASTER over both families, and its last advertisements."""
    engine = Engine()
    engine.set_interface(0, now_ns, source=ip(source), source6=source6)
    addresses = [(bytes((10, 77, 0, 100)), 24), (bytes.fromhex("fd00" + "00" * 13 + "64"), 64)]
    counter = int.from_bytes(ip(source)) << 20  # of each its own, as in life
    engine.add(0, prepared(addresses=addresses, advskew=ADVSKEW, counter=counter), now_ns)
    frames: list[bytes] = []
    while not frames:
        deadline_ns = engine.next_deadline_ns()
        assert deadline_ns is not None
        engine.expire(deadline_ns)
        actions = engine.take_actions(deadline_ns)
        frames = [action.frame for action in actions if isinstance(action, Advertise)]
    return engine, frames


def test_both_families_and_who_is_heard_over_each() -> None:
    ours, _ = both_families(SOURCE6, OURS, START_NS)
    _, [over4, over6] = both_families(OTHER6, OTHER, START_NS)
    asked = Asked()
    asked.engine = asked.orders.pump.engine = ours
    asked.now_ns = MASTER_NS
    for frame in (over4, over6):
        assert ours.receive(0, frame, MASTER_NS) == "ok"
    facts = asked.facts()
    assert facts["families"] == [4, 6]
    assert (facts["source"], facts["source6"]) == (OURS, "fe80::2")
    found = [(each["source"], each["family"], each["current"]) for each in facts["heard"]]
    assert found == [("10.77.0.3", 4, True), ("fe80::3", 6, True)]
    first, second = asked.sections()["heard masters"]
    assert "which is ours (dialect ucarp): we stay MASTER" in first
    assert "a tie that IPv4 decides, or the lower source if it goes on: we stay MASTER" in second
    what = asked.sections()["virtual host eth0/42"][0]
    assert what.startswith("advertises over IPv4 and IPv6 to the group 224.0.0.18, from ")
    assert what.endswith("from 10.77.0.2 and fe80::2, dialect ucarp")


def test_a_family_that_is_silent() -> None:
    asked = Asked()
    asked.engine = Engine()
    asked.orders.pump.engine = asked.engine
    asked.engine.set_interface(0, START_NS, source=ip(OURS), source6=SOURCE6)
    addresses = [(bytes((10, 77, 0, 100)), 24), (bytes.fromhex("fd00" + "00" * 13 + "64"), 64)]
    asked.engine.add(0, prepared(addresses=addresses, advskew=ADVSKEW), START_NS)
    signed = [address for address, _ in addresses]
    for counter in range(1, 6):
        asked.now_ns = START_NS + counter * SECOND_NS
        frame = advertisement(source=OTHER, counter=counter, addresses=signed)
        assert asked.engine.receive(0, frame, asked.now_ns) == "ok"
    assert asked.facts()["silent_families"] == [6]
    assert asked.sections()["heard masters"][1] == (
        "nothing is heard over IPv6, only over the other family: that alone does not make it take"
        " over"
    )


# ----------------------------------------------------------------------- what it is, and why


def test_what_it_is() -> None:
    asked = Asked().hear()
    asked.now_ns = START_NS + 2 * SECOND_NS
    destination, rates, state = asked.sections()["virtual host eth0/42"]
    assert destination == (
        "advertises over IPv4 to the group 224.0.0.18, from 10.77.0.2, dialect ucarp"
    )
    assert rates == (
        "advbase 1, advskew 100: an advertisement every 1.391 s, master-down time 3.391 s"
        " (dead_ratio 3)"
    )
    assert state.startswith("BACKUP since 2")
    assert state.endswith(
        "Z (for 2.000 s), reason started: it was added, its interface was ready, and it listens"
        " for a master"
    )


def test_what_is_wrong_in_few_words() -> None:
    facts = Asked().facts()
    assert explain_text.problems(explained(facts)) == []
    text = "10.77.0.100/24"
    facts["address_problems"] = {text: "address_foreign"}
    facts["demotion"] = {"total": 480, "reasons": {"address_lost": 240, "send_errors": 240}}
    assert explain_text.problems(explained(facts)) == [
        "demoted (address_lost)",
        "demoted (send_errors)",
        f"{text}: address_foreign",
    ]
    down = Asked().become("INIT").facts()
    assert explain_text.problems(explained(down)) == ["INIT (link_down)"]
    assert explain_text.problems(explained(down | {"reason": ""})) == ["INIT (not started)"]


@pytest.mark.parametrize(
    ("dialect", "addresses", "sentence"),
    [
        (
            "ucarp",
            ("10.77.0.100/24", "fe80::100/64"),
            "its digest includes link-local fe80::100, as in FreeBSD and NetBSD; OpenBSD refuses"
            " it, since its carp interface has fe80::200:5eff:fe00:12a, too: if another host runs"
            ' OpenBSD, set dialect = "openbsd" here',
        ),
        (
            "openbsd",
            ("10.77.0.100/24", "fe80::100/64"),
            "its digest leaves out link-local fe80::100, as OpenBSD's does: FreeBSD and NetBSD"
            " refuse it, and both would be MASTER",
        ),
        (
            "openbsd",
            ("fe80::101/64", "fe80::100/64"),
            "its digest includes link-local fe80::101, fe80::100 and fe80::200:5eff:fe00:12a, which"
            " OpenBSD's carp interface has, too: FreeBSD and NetBSD refuse it, and both would be"
            " MASTER",
        ),
        (
            "openbsd",
            ("fe80::200:5eff:fe00:12a/64",),
            "its digest includes link-local fe80::200:5eff:fe00:12a, as in every system",
        ),
    ],
)
def test_who_refuses_a_digest_over_link_local_addresses(
    dialect: Any, addresses: tuple[str, ...], sentence: str
) -> None:
    settings = Settings(passphrase=b"secret", dialect=dialect)
    digest = explain.digest(VirtualHost("eth0", 42, addresses, (), settings))
    facts = Asked().facts()
    assert facts["digest"] is None
    assert list(explain_text.identity(explained(facts | {"digest": digest})))[2] == sentence


def test_peers_are_no_group() -> None:
    facts = Asked().facts() | {"destinations": ["10.77.0.3", "fe80::3"]}
    assert " unicast to 10.77.0.3, fe80::3, " in next(explain_text.lines(explained(facts))) + next(
        explain_text.identity(explained(facts))
    )


def test_the_facts_are_those_of_the_status_and_more() -> None:
    asked = Asked()
    facts = asked.facts()
    status = Status(asked.hosts, asked.orders, asked.network, asked.problems)
    copied = asked.orders.pump.snapshot(0, 1).hosts()
    [entry] = map(msgspec.to_builtins, status.virtual_hosts(copied, StatusRequest()))
    assert "peer" not in facts
    assert {key: facts[key] for key in entry if key != "peer"} == {
        key: value for key, value in entry.items() if key != "peer"
    } | {"since": facts["since"]}
