"""What was sent against what arrived, and the search for the highest rate without loss."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from carp_fast.inet import mac_bytes
from carp_fast.loadtest.receiver import Latency, Uncounted
from carp_fast.loadtest.trial import (
    Crossing,
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


@pytest.mark.parametrize(
    ("sent_ns", "arrived_ns", "queued"),
    [(10**9, 10**9, 0), (10**9, 2 * 10**9, 0.5), (10**9, 9 * 10**8, 0), (0, 10**9, 0)],
)
def test_what_was_on_its_way_at_the_end_was_queued(
    sent_ns: int, arrived_ns: int, queued: float
) -> None:
    sent = Sent(frames=20, seconds=1.0, by_source={A: 10, B: 10}, span_ns=sent_ns, late=3)
    half = arrived_ns // 2
    flows = [
        flow(*A, 10, first_at_ns=5, last_at_ns=5 + half),
        flow(*B, 10, first_at_ns=5 + half, last_at_ns=5 + arrived_ns),
        flow("10.1.0.9", 7, *WHERE, 3, first_at_ns=1, last_at_ns=10**12),
    ]
    trial = compare(sent, received(by_source=flows))
    assert trial.queued == pytest.approx(queued)
    assert trial.sent_late == 3


def stamped(trial: Trial, **latency: int) -> Trial:
    fields: dict[str, Any] = {name: getattr(trial, name) for name in trial.__struct_fields__}
    return Trial(**{**fields, "latency": Latency(frames=1, **latency)})


def test_the_figure_has_labelled_axes_with_units() -> None:
    wire = Wire(100_000)
    steps = [wire.attempt(rate) for rate in (1_000, 50_000, 200_000, 400_000)]
    texts = [each.text for each in ET.fromstring(figure(steps, "veth")).iter() if each.text]
    assert {"sent, frames/s", "lost on the way, % of frames", "loss", "veth"} <= set(texts)
    assert "Latency against rate" not in texts
    steps = [stamped(step, p50_ns=0, p99_ns=9_000, max_ns=10**6) for step in steps]
    texts = [each.text for each in ET.fromstring(figure(steps, "veth")).iter() if each.text]
    assert {"latency, microseconds", "p50", "p99", "max"} <= set(texts)


def test_trials_without_loss_are_marks_and_gaps_in_the_line_of_the_others() -> None:
    wires = [Wire(10), Wire(1e9), Wire(10), Wire(10), Wire(1e9)]
    steps = [wire.attempt(1_000 * (n + 1)) for n, wire in enumerate(wires)]
    drawn = ET.fromstring(figure(steps, "veth"))
    lines = [each.get("points", "").split() for each in drawn.iter() if "polyline" in each.tag]
    assert sorted(map(len, lines)) == [1, 2]


def test_a_figure_without_any_loss() -> None:
    assert "no loss" in figure([Wire(1e9).attempt(1_000)], "veth")
