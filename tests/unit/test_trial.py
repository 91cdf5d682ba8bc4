"""What was sent against what arrived, and the search for the highest rate without loss."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.inet import mac_bytes
from carp_fast.loadtest.receiver import Latency, Uncounted
from carp_fast.loadtest.trial import (
    RESOLUTION,
    STEPS_MAX,
    Crossing,
    Search,
    Sent,
    Trial,
    compare,
    figure,
)
from tests.support.transfers import WHERE, A, B, Wire, flow, received


def test_each_source_and_vhid_is_compared() -> None:
    flows = [flow(*A, 90, duplicates=5, reordered=2), flow("10.1.0.9", 7, *WHERE, 3)]
    trial = compare(
        Sent(frames=150, seconds=2.0, by_source={A: 100, B: 50}, asked_per_s=80.0),
        received(frames=93, by_source=flows, kernel_dropped=4, interface_dropped=1),
    )
    assert trial.by_source == [Crossing(*A, 100, 85, 15, 5, 2), Crossing(*B, 50, 0, 50, 0, 0)]
    # The sums are those of the rows: a frame that arrived twice arrived once.
    assert (trial.sent, trial.arrived, trial.duplicates, trial.foreign) == (150, 85, 5, 3)
    # What the receiving end itself dropped was not lost on the way.
    assert (trial.lost, trial.lost_on_the_way, trial.loss) == (65, 60, 0.4)
    assert (trial.asked_per_s, trial.sent_per_s) == (80.0, 75.0)


@pytest.mark.parametrize(
    ("received_count", "duplicates", "arrived", "lost", "more"),
    [(15, 5, 15, 0, 0), (13, 4, 13, 2, 0), (10, 0, 10, 5, 0), (17, 7, 15, 0, 2), (14, 7, 12, 3, 2)],
)
def test_what_was_replayed_is_no_duplicate(
    received_count: int, duplicates: int, arrived: int, lost: int, more: int
) -> None:
    trial = compare(
        Sent(frames=15, seconds=1.0, by_source={A: 10}, replayed={A: 5}),
        received(by_source=[flow(*A, received_count, duplicates=duplicates)]),
    )
    assert trial.by_source == [Crossing(*A, 15, arrived, lost, more, 0)]


def test_a_full_table_at_the_receiver_is_no_loss() -> None:
    trial = compare(
        Sent(frames=30, seconds=1.0, by_source={A: 10, B: 20}),
        received(by_source=[flow(*A, 9)], left_out=18),
    )
    assert (trial.arrived, trial.lost, trial.left_out) == (27, 3, 18)


OURS, FOREIGN = "02:00:00:00:00:01", "02:00:00:00:00:09"


def test_frames_without_a_counter_have_a_row_of_their_own() -> None:
    sent = Sent(
        frames=40,
        seconds=1.0,
        by_source={A: 10},
        uncounted={("bad_length", A): 6, ("vrrp", A): 6, ("arp", None): 9, ("na", None): 9},
        announces=lambda mac, address, vlan: mac == mac_bytes(OURS) and vlan is None,
    )
    trial = compare(
        sent,
        received(
            frames=36,
            by_source=[flow(*A, 10)],
            uncounted=[
                Uncounted("bad_length", A.source, A.destination, A.vhid, None, 5),
                Uncounted("vrrp", A.source, A.destination, A.vhid, None, 6),
                Uncounted("arp", OURS, "10.1.0.100", None, None, 7),
                Uncounted("na", OURS, "fe80::100", None, None, 8),
            ],
        ),
    )
    assert trial.by_source[-1] == Crossing(None, None, None, None, 30, 26, 4, 0, 0)
    assert (trial.lost, trial.foreign) == (4, 0)


def test_what_others_announce_hides_no_loss() -> None:
    sent = Sent(
        frames=30,
        seconds=1.0,
        by_source={},
        uncounted={("vrrp", A): 10, ("arp", None): 20},
        announces=lambda mac, address, vlan: mac == mac_bytes(OURS) and vlan is None,
    )
    uncounted = [
        Uncounted("vrrp", A.source, A.destination, A.vhid, None, 4),
        Uncounted("vrrp", B.source, B.destination, B.vhid, None, 100),
        Uncounted("arp", OURS, "10.1.0.100", None, None, 12),
        Uncounted("arp", OURS, "10.1.0.100", None, 5, 100),
        Uncounted("arp", FOREIGN, "10.1.0.100", None, None, 100),
        Uncounted("na", OURS, "fe80::100", None, None, 100),
    ]
    trial = compare(sent, received(frames=416, by_source=[], uncounted=uncounted))
    assert trial.by_source == [Crossing(None, None, None, None, 30, 16, 14, 0, 0)]
    assert (trial.arrived, trial.lost, trial.foreign) == (16, 14, 400)


def test_flows_are_told_apart_by_destination_and_vlan_too() -> None:
    keys = [
        A,
        A._replace(destination="10.1.0.7"),
        A._replace(vlan=5),
        A._replace(vhid=2),
        A._replace(source="10.1.0.3"),
    ]
    sent = {key: 10 + number for number, key in enumerate(keys)}
    flows = [flow(*key, count - 1) for key, count in sent.items()]
    trial = compare(
        Sent(frames=sum(sent.values()), seconds=1.0, by_source=sent), received(by_source=flows)
    )
    assert trial.by_source == [
        Crossing(*key, count, count - 1, 1, 0, 0) for key, count in sent.items()
    ]
    assert (trial.lost, trial.foreign) == (len(keys), 0)


def test_nothing_sent() -> None:
    trial = compare(Sent(frames=0, seconds=0.0, by_source={}), received(frames=0, by_source=[]))
    assert (trial.loss, trial.sent_per_s, trial.by_source) == (0.0, 0.0, [])


@given(st.floats(1_000, 999_000))
def test_the_search_closes_in_on_the_capacity(capacity: float) -> None:
    wire = Wire(capacity)
    found = Search(wire.attempt, 1_000, 1_000_000).run()
    assert found.converged
    assert found.limited_by == "network"
    assert found.rate_per_s is not None
    assert found.above_per_s is not None
    assert found.rate_per_s <= capacity + 1 <= found.above_per_s + 2
    assert found.above_per_s - found.rate_per_s <= RESOLUTION * found.above_per_s + 1
    assert len(found.steps) < 22


@pytest.mark.parametrize(
    ("wire", "rate", "above", "limited_by"),
    [
        (Wire(2e6), 1_000_000, None, "range"),
        (Wire(2e6, most=500_000), 500_000, None, "sender"),
        (Wire(500), None, 1_000, "network"),
        (Wire(400, most=800), None, 800, "network"),
    ],
)
def test_where_there_is_nothing_to_close_in_on(
    wire: Wire, rate: float | None, above: float | None, limited_by: str
) -> None:
    found = Search(wire.attempt, 1_000, 1_000_000).run()
    assert (found.rate_per_s, found.above_per_s, found.limited_by) == (rate, above, limited_by)
    assert found.converged


def test_a_sender_that_is_slower_than_the_wire_seems() -> None:
    # It lost at what it reached: rates beyond that are not asked for again.
    wire = Wire(300_000, most=400_000)
    found = Search(wire.attempt, 1_000, 1_000_000).run()
    assert found.rate_per_s == pytest.approx(300_000, rel=0.011)
    assert max(wire.asked[1:]) <= 400_000


def test_a_sender_that_cannot_reach_what_the_network_carries() -> None:
    # At first it lost, in a burst; later it does not, and stays below what it was asked for.
    wires = iter([Wire(1), *[Wire(1e9, most=50_000)] * STEPS_MAX])
    found = Search(lambda rate: next(wires).attempt(rate), 1_000, 200_000).run()
    assert (found.rate_per_s, found.limited_by) == (50_000, "sender")
    assert not found.converged


def test_some_loss_may_be_allowed_and_each_step_is_told() -> None:
    told: list[tuple[float, bool]] = []
    wire = Wire(100_000)
    found = Search(
        wire.attempt,
        1_000,
        1_000_000,
        loss=0.5,
        show=lambda trial, passed: told.append((trial.sent_per_s, passed)),
    ).run()
    assert found.rate_per_s == pytest.approx(200_000, rel=0.011)
    assert [passed for _, passed in told[:2]] == [False, True]
    assert len(told) == len(found.steps)


def test_a_wire_that_makes_up_its_mind_anew_each_time_ends_the_search() -> None:
    outcomes = iter([0, 10**9, *[10**9] * STEPS_MAX])
    found = Search(lambda rate: Wire(next(outcomes)).attempt(rate), 1, 1e6).run()
    assert len(found.steps) <= STEPS_MAX


def stamped(trial: Trial, **latency: int) -> Trial:
    fields: dict[str, Any] = {name: getattr(trial, name) for name in trial.__struct_fields__}
    return Trial(**{**fields, "latency": Latency(frames=1, **latency)})


def test_the_figure_has_labelled_axes_with_units() -> None:
    wire = Wire(100_000)
    steps = Search(wire.attempt, 1_000, 1_000_000).run().steps
    texts = [each.text for each in ET.fromstring(figure(steps, "veth")).iter() if each.text]
    assert {"sent, frames/s", "lost on the way, % of frames", "loss", "veth"} <= set(texts)
    assert "Latency against rate" not in texts
    steps = [stamped(step, p50_ns=0, p99_ns=9_000, max_ns=10**6) for step in steps]
    texts = [each.text for each in ET.fromstring(figure(steps, "veth")).iter() if each.text]
    assert {"latency, microseconds", "p50", "p99", "max"} <= set(texts)


def test_a_figure_without_any_loss() -> None:
    assert "no loss" in figure([Wire(1e9).attempt(1_000)], "veth")
