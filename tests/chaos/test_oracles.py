"""What the oracles find in evidence made by hand: each passes what is right, and fails the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_fast.lab.observer import Key
from tests.chaos import oracles
from tests.chaos.holdings import Change
from tests.chaos.oracles import Evidence, Excuse, Foreign, Limits, Verdict
from tests.chaos.spans import Span, common, total_s, union, without
from tests.chaos.tape import Advertisement, read_carp, read_vrrp
from tests.support.segment import carp_header

KEY, ADDRESS = Key(1, 1), "10.1.1.1"
SECOND = 1_000_000_000
START, END = 100 * SECOND, 120 * SECOND


def at(second: float) -> int:
    return START + int(second * SECOND)


def advertised(
    host: str, seconds: Iterable[float], *, interval_s: float = 1.0, resigned: bool = False
) -> list[Advertisement]:
    return [
        Advertisement(at(each), host, KEY, "10.1.0.1", "", interval_s, resigned, 0, b"")
        for each in seconds
    ]


def span(first: float, last: float) -> Span:
    return at(first), at(last)


def evidence(
    sent: Sequence[Advertisement],
    held: Mapping[str, list[Span]],
    *,
    absent: Mapping[str, list[Span]] | None = None,
    excuses: Sequence[Excuse] = (),
    delay_s: float = 0.0,
) -> Evidence:
    """Twenty seconds of hosts a and b and one virtual host."""
    return Evidence(
        (START, END),
        ("a", "b"),
        {KEY: [ADDRESS]},
        sorted(sent),
        {(host, ADDRESS): spans for host, spans in held.items()},
        absent or {},
        excuses,
        delay_s,
    )


def master(first: int, last: int, host: str = "a") -> list[Advertisement]:
    return advertised(host, range(first, last + 1))


def steady() -> Evidence:
    return evidence(master(-3, 20), {"a": [span(-3, 20)]})


def handed_over(second: float = 10.0) -> Evidence:
    """From a to b, with a resignation."""
    sent = master(-3, int(second)) + advertised("a", [second + 0.1], resigned=True)
    sent += advertised("b", [second + 0.5 + each for each in range(20 - int(second))])
    return evidence(sent, {"a": [span(-3, second + 0.1)], "b": [span(second + 0.5, 20)]})


LIMITS = Limits(silence_s=1.5, nobody_holds_s=1.0, take_overs=1)


@pytest.mark.parametrize("made", [steady, handed_over])
def test_what_is_right_passes_every_oracle(made: Callable[[], Evidence]) -> None:
    assert [each for each in oracles.judge(made(), LIMITS) if not each.passed] == []


TWO_ADVERTISE = evidence(
    master(-3, 20) + master(5, 8, "b"), {"a": [span(-3, 20)], "b": [span(5, 5.1)]}
)
TWO_HOLD = evidence(master(-3, 20), {"a": [span(-3, 20)], "b": [span(5, 5.4)]})
SILENT = evidence(master(-3, 8) + master(11, 20), {"a": [span(-3, 20)]})
UNHELD = evidence(master(-3, 20), {"a": [span(-3, 8), span(10, 20)]})
DEAD_HOLDER = evidence(
    master(-3, 20), {"a": [span(-3, 20)]}, absent={"a": [span(8, 10)], "b": [span(8, 10)]}
)
HELD_ALONE = evidence(
    master(-3, 8) + advertised("a", [8.1], resigned=True) + advertised("b", range(9, 21)),
    {"a": [span(-3, 8.8)], "b": [span(8.9, 20)]},
)
LATE = evidence(
    master(-3, 8) + advertised("a", [9.2 + each for each in range(11)]), {"a": [span(-3, 20)]}
)
FLAPPING = evidence(
    master(-3, 4) + master(6, 8, "b") + master(10, 12) + master(14, 16, "b") + master(18, 20),
    {"a": [span(-3, 20)]},
)


@pytest.mark.parametrize(
    ("name", "made", "worst"),
    [
        ("two_advertise", TWO_ADVERTISE, 3.0),
        ("two_hold", TWO_HOLD, 0.4),
        ("silence", SILENT, 3.0),
        ("nobody_holds", UNHELD, 2.0),
        ("nobody_holds", DEAD_HOLDER, 2.0),
        ("held_alone", HELD_ALONE, 0.7),
        ("not_held", UNHELD, 2.0),
        ("late", LATE, 0.2),
        ("take_overs", FLAPPING, 4),
    ],
)
def test_each_oracle_finds_its_violation(name: str, made: Evidence, worst: float) -> None:
    (verdict,) = [each for each in oracles.judge(made, LIMITS) if each.oracle == name]
    assert not verdict.passed
    assert verdict.worst == pytest.approx(worst)
    assert "vhid 1" in str(verdict)


def test_what_is_excused_does_not_count() -> None:
    for made, name, host in (
        (TWO_ADVERTISE, "two_advertise", "b"),
        (TWO_HOLD, "two_hold", "a"),
        (SILENT, "silence", "*"),
        (UNHELD, "not_held", "a"),
        (LATE, "late", "a"),
    ):
        for excused, passed in ((host, True), ("c", False)):
            excuses = [Excuse(frozenset([name]), excused, span(0, 20))]
            again = Evidence(
                made.span,
                made.hosts,
                made.addresses,
                made.advertisements,
                made.held,
                made.absent,
                excuses,
            )
            (verdict,) = [each for each in oracles.judge(again, LIMITS) if each.oracle == name]
            assert verdict.passed == passed, (name, excused)


def test_a_host_that_was_killed_is_not_late_and_may_keep_its_address() -> None:
    sent = master(-3, 5) + advertised("b", range(8, 21)) + advertised("a", [20])
    held = {"a": [span(-3, 9)], "b": [span(8, 20)]}
    killed = evidence(sent, held, absent={"a": [span(5.5, 9.1)]})
    found = oracles.judge(killed, Limits(silence_s=3.5, nobody_holds_s=3, take_overs=2))
    assert [each.oracle for each in found if not each.passed] == []
    alive = evidence(sent, held)
    found = oracles.judge(alive, Limits(silence_s=3.5, nobody_holds_s=3, take_overs=2))
    assert {each.oracle for each in found if not each.passed} == {"two_hold", "held_alone"}


def test_the_machines_own_delay_is_added_to_every_limit() -> None:
    assert not oracles.late(LATE, 0.1).passed
    late = Evidence(
        LATE.span, LATE.hosts, LATE.addresses, LATE.advertisements, LATE.held, {}, (), 0.15
    )
    assert oracles.late(late, 0.1).passed


def test_silence_begins_with_the_last_advertisement_before() -> None:
    made = evidence([*master(-3, -1), *master(3, 20)], {"a": [span(-3, 20)]})
    assert oracles.silence(made, 1.5).worst == pytest.approx(4.0)


def test_one_advertisement_of_another_host_is_a_take_over() -> None:
    made = evidence(master(-3, 20) + advertised("b", [5.5, 5.56]), {"a": [span(-3, 20)]})
    assert [host for host, _ in oracles.changes_of_master(made, KEY)] == ["b"]


def test_a_take_over_from_a_host_that_was_silent_all_the_time_counts() -> None:
    made = evidence(master(-3, -1) + master(3, 20, "b"), {"b": [span(3, 20)]})
    assert [host for host, _ in oracles.changes_of_master(made, KEY)] == ["b"]


def test_addresses_left_behind_and_those_of_others_that_went() -> None:
    left = oracles.left_behind(["a", "b"], {"a": {ADDRESS}, "b": {"10.1.0.2"}}, {ADDRESS})
    assert (left.passed, left.worst) == (False, 1)
    assert oracles.left_behind(["b"], {"b": {"10.1.0.2"}}, {ADDRESS}).passed
    owned = {("a", ADDRESS): Foreign(24, at(2))}
    for second, prefixlen, there, passed in (
        (3, 24, False, False),
        (1, 24, False, True),  # before it was planted
        (3, 32, False, True),  # the daemon's own, with another prefix length
        (3, 24, True, True),
    ):
        change = Change(at(second), "a", 2, ADDRESS, prefixlen, there)
        assert oracles.foreign([change], owned).passed == passed


def test_a_verdict_names_what_it_measured() -> None:
    verdict = Verdict("late", 0.25, 0.05, "segment 1 vhid 1: a advertises late", KEY, (0, 1))
    assert str(verdict) == (
        "late: 0.25 s, at most 0.05 s allowed: segment 1 vhid 1: a advertises late"
    )


def test_headers_of_both_protocols() -> None:
    assert read_carp(carp_header(vhid=7, advskew=64, counter=9)) == (7, 1.25, False, 9)
    assert read_carp(carp_header(advbase=255, advskew=255)[:36]) is not None
    resigned = read_carp(carp_header(advbase=255, advskew=255))
    assert resigned is not None
    assert resigned[2]
    assert read_vrrp(bytes.fromhex("2109c8010001abcd0a010109")) == (9, 1.0, False, 0)
    assert read_vrrp(bytes.fromhex("310900010064abcd0a010109")) == (9, 1.0, True, 0)
    assert read_vrrp(carp_header(version=4)) is None


SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20)).map(lambda each: (each[0], sum(each)))
)


def covered(spans: Iterable[Span]) -> set[int]:
    return {point for start, end in spans for point in range(start, end)}


@settings(deadline=None)  # of a busy machine
@given(SPANS, SPANS)
def test_spans_are_sets_of_instants(one: list[Span], other: list[Span]) -> None:
    assert covered(union(one, other)) == covered(one) | covered(other)
    assert covered(common(one, other)) == covered(one) & covered(other)
    assert covered(without(one, other)) == covered(one) - covered(other)
    assert total_s(union(one)) * 1e9 == pytest.approx(len(covered(one)))
