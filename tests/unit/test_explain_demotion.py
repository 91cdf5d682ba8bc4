"""`explain`: what it tells of a demotion, its causes and its end."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from carp_fast.daemon import explain_demotion, explain_text
from tests.support.asked import Asked, explained
from tests.support.segment import ADDRESS, SECOND_NS, START_NS


def test_no_demotion_is_shown_as_none() -> None:
    assert Asked().sections()["demotion"] == ["none"]


def test_demoted_for_a_lost_address() -> None:
    asked = Asked().become("MASTER")
    asked.engine.lose_address(0, asked.now_ns)
    assert asked.sections()["demotion"] == [
        "address_lost: 240 (another program kept removing an address; undone after a minute, or"
        " more each time)",
        "240 in total: advskew 100 becomes 240",
        "the demotion by address_lost ends in 1m 0s",
    ]
    assert (
        "advskew 100 (240 is sent): an advertisement every 1.938 s"
        in (asked.sections()["virtual host eth0/42"][1])
    )


def test_a_master_without_addresses_says_when_it_gives_up() -> None:
    asked = Asked({"address_deadline_s": 30}, address_deadline_ns=30 * SECOND_NS)
    asked.node.errors = {ADDRESS: errno.EPERM}
    asked.become("MASTER")
    asked.problems.address_problems[0] = {"10.77.0.100/24": "Operation not permitted"}
    since_ns = asked.engine.host(0).without_ns
    asked.now_ns = since_ns + 14 * SECOND_NS
    asked.node.run(asked.now_ns)
    failed, retried, without = asked.sections()["addresses"]
    assert failed == "failed: 10.77.0.100/24 could not be added (Operation not permitted)"
    assert retried.startswith("failed changes are tried again in ")
    assert without == (
        "without any address for 14.000 s: after 30 s (address_deadline_s) it gives up"
    )


def test_a_master_without_addresses_and_deadline_says_that_it_stays() -> None:
    asked = Asked({"address_deadline_s": 0}, address_deadline_ns=0)
    asked.node.errors = {ADDRESS: errno.EPERM}
    asked.become("MASTER")
    asked.now_ns = asked.engine.host(0).without_ns + 20 * SECOND_NS
    assert asked.sections()["addresses"][-1] == (
        "without any address for 20.000 s: address_deadline_s = 0: it stays MASTER"
    )


def test_demoted_in_openbsds_way() -> None:
    asked = Asked(dialect="openbsd")
    asked.engine.demote(0, 20, START_NS)
    assert asked.sections()["demotion"][1] == "20 in total: demote byte 20 is sent"


def test_each_reason_of_a_demotion_is_explained_by_itself() -> None:
    asked = Asked()
    for amount, by in ((10, "operator"), (20, "track"), (240, "group"), (1, "maintenance")):
        asked.engine.demote(0, amount, START_NS, by)
    assert asked.sections()["demotion"] == [
        "operator: 10 (it was ordered)",
        "track: 20 (something that it tracks failed)",
        "group: 240 (a member of its group cannot be MASTER here)",
        "maintenance: 1 (this host is in maintenance)",
        "271 in total: advskew 100 becomes 240",
    ]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"reason": "kernel update"}, " (kernel update)"),
        ({"until": "T2"}, ", until T2"),
        ({"until_stop": True}, ", until the daemon ends"),
        ({"force": True}, ", with --force"),
    ],
)
def test_maintenance_has_a_reason_and_maybe_an_end(more: dict[str, Any], text: str) -> None:
    asked = Asked()
    asked.engine.demote(0, 240, START_NS, "maintenance")
    state = {"since": "T1", "reason": "", "until": None, "until_stop": False, "force": False} | more
    facts = asked.facts() | {"maintenance": state}
    first, *_ = explain_demotion.demotion(explained(facts))
    assert first == (
        f"maintenance: 240 (this host is in maintenance since T1{text}; carp-fast maintenance off"
        " ends it)"
    )


def test_a_master_in_maintenance_is_one_that_nobody_adopted() -> None:
    asked = Asked().become("MASTER")
    asked.engine.demote(0, 240, asked.now_ns, "maintenance")
    assert asked.sections()["demotion"][2:] == [
        "still MASTER in maintenance: no other host has taken it over, and demotion never stops a"
        " host that hears no other; to give it up all the same: carp-fast maintenance off, then on"
        " --force"
    ]


def test_what_is_withheld_waits_for_the_end_of_the_maintenance() -> None:
    asked = Asked()
    asked.engine.withhold(0, True, START_NS)
    (text,) = asked.sections()["to take part"]
    assert text == (
        "nothing is missing: in a maintenance with --force no virtual host takes part, until"
        " carp-fast maintenance off"
    )


TRACK = {
    "name": "web", "kind": "script", "state": "failed", "since": "T1", "last": "exit status 1",
    "flaps": 1, "demotion": 240, "hard": True, "for_s": 3.5, "ends": "after the next good result",
}  # fmt: skip
LOAD = TRACK | {
    "name": "load", "kind": "file", "state": "ok", "last": "150", "flaps": 0, "demotion": 150,
    "hard": False, "ends": "",
}  # fmt: skip


def tracked(asked: Asked, amount: int, *tracks: dict[str, Any]) -> list[str]:
    """The section when these tracks demote it by an amount."""
    asked.engine.demote(0, amount, asked.now_ns, "track")
    return list(explain_demotion.demotion(explained(asked.facts() | {"tracks": list(tracks)})))


def test_demoted_by_tracks_names_each_and_what_ends_its_failure() -> None:
    assert tracked(Asked(), 255, TRACK, LOAD) == [
        "track: 255 (web: 240; load: 150; at most 255 together)",
        "255 in total: advskew 100 becomes 240",
        "track web (script): it cannot be MASTER here, and is demoted by 240: failed since T1 (for"
        " 3.500 s, 1 change so far): exit status 1; it is ok again after the next good result",
        "track load (file): demoted by 150: ok since T1 (for 3.500 s): 150",
    ]
    assert tracked(Asked(), 150, LOAD | {"flaps": 2})[0::2] == [
        "track: 150 (load: 150)",
        "track load (file): demoted by 150: ok since T1 (for 3.500 s, 2 changes so far): 150",
    ]


def test_many_tracks_that_demote_it_are_counted_and_the_first_named() -> None:
    every = [LOAD | {"name": f"t{number}", "demotion": 1} for number in range(20)]
    first, *_ = tracked(Asked(), 20, *every)
    assert first.startswith("track: 20 (t0: 1; t1: 1; ")
    assert first.endswith("; t15: 1 and 4 more)")


@pytest.mark.parametrize("by", ["operator", "track"])
def test_a_master_that_is_demoted_is_one_that_nobody_took_over(by: str) -> None:
    asked = Asked().become("MASTER")
    asked.engine.demote(0, 240, asked.now_ns, by)
    assert asked.sections()["demotion"][2] == (
        "it is MASTER all the same: no other host has taken it over so far (none is there, none"
        " preempts, or all are demoted as much), and demotion never stops a host that hears no"
        " other; carp-fast explain eth0 42 there shows more"
    )


def test_a_master_that_a_hard_track_is_against_is_not_told_that_it_cannot_be_one() -> None:
    found = tracked(Asked().become("MASTER"), 240, TRACK)
    assert found[2].startswith(
        "track web (script): it is not to be MASTER here, and is demoted by 240: failed since T1"
    )


def test_what_failed_is_named_where_it_is_the_reason_of_the_state() -> None:
    asked = Asked().become("MASTER")
    asked.engine.demote(0, 240, asked.now_ns, "track", hard=True)
    facts = asked.facts() | {"tracks": [TRACK, LOAD]}
    assert facts["reason"] == "track_failed"
    *_, why = explain_text.identity(explained(facts))
    assert why.endswith(": something that it tracks failed, without which it cannot be MASTER here"
                        " (web)")  # fmt: skip
    *_, why = explain_text.identity(explained(facts | {"tracks": [LOAD]}))
    assert why.endswith(" it cannot be MASTER here")


@pytest.mark.parametrize(
    ("settings", "advskew", "then"),
    [
        ({"preempt": True}, 200, "takes over from 10.77.0.3 (1/200)"),
        ({"preempt": "demoted"}, 240, "takes over from 10.77.0.3 (1/240)"),
        (
            {"preempt": "demoted"},
            200,
            'stays BACKUP of 10.77.0.3 (1/200), since preempt = "demoted"; carp-fast preempt eth0'
            " 42 takes over then",
        ),
        (
            {"preempt": False},
            240,
            "stays BACKUP of 10.77.0.3 (1/240), since preempt = false; carp-fast preempt eth0 42"
            " takes over then",
        ),
        (
            {"preempt": True},
            50,
            "stays BACKUP of 10.77.0.3 (1/50), which is not slower than 1/100",
        ),
    ],
)
def test_a_demoted_backup_is_explained_by_what_comes_after(
    settings: dict[str, Any], advskew: int, then: str
) -> None:
    asked = Asked(**settings)
    asked.engine.demote(0, 240, asked.now_ns, "track")
    asked.hear(advskew=advskew)
    assert asked.sections()["demotion"][-1] == f"when it is no longer demoted, it {then}"


def test_a_preempt_delay_comes_after_the_demotion() -> None:
    asked = Asked({"preempt_delay_s": 3.0}, preempt=True, preempt_delay_ns=3 * SECOND_NS)
    asked.engine.demote(0, 240, asked.now_ns, "track")
    assert "no longer demoted" not in asked.sections()["demotion"][-1]  # no master was heard
    asked.hear(advskew=200)
    assert asked.sections()["demotion"][-1] == (
        "when it is no longer demoted, it takes over from 10.77.0.3 (1/200), after preempt_delay_s"
        " = 3"
    )
    asked.hear(advbase=255, advskew=255, counter=2)
    assert "no longer demoted" not in asked.sections()["demotion"][-1]


def test_advertisements_that_are_not_sent() -> None:
    facts = Asked().facts()
    assert facts["failed_sends"] == 0
    assert list(explain_demotion.demotion(explained(facts | {"failed_sends": 2}))) == [
        "none",
        "the last 2 advertisements could not be sent: an interval without any demotes it",
    ]
    failing = {"total": 240, "reasons": {"send_errors": 240}}
    assert list(
        explain_demotion.demotion(
            explained(facts | {"failed_sends": 3, "demotion": failing, "effective_advskew": 240})
        )
    ) == [
        "send_errors: 240 (no advertisement could be sent for an interval; undone after three are, "
        "as BACKUP after a minute, or more each time)",
        "240 in total: advskew 100 becomes 240",
    ]
