"""The arithmetic of the bench, its tables and its figure, on figures made up for the purpose."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec
import pytest

from carp_fast.bench import measurements
from carp_fast.bench.measurements import (
    MIB,
    Contender,
    Floor,
    Report,
    Row,
    Side,
    Spread,
    Stage,
    TakeOver,
    Tax,
)
from carp_fast.bench.usage import Machine, Memory, Usage

SECOND_NS = 1_000_000_000


def side(cpu_percent: float = 1.0) -> Side:
    return Side(1, cpu_percent, 0.25, 0.75, 40 * MIB, 30 * MIB, 50.0, 255.0)


def report(rows: list[Row]) -> Report:
    return Report(
        carp_fast="0",
        begun_at="2030-01-02T03:04:05+00:00",
        machine=Stage("a processor", 2, "6.1", (0.1, 0.2, 0.3)),
        contenders=[Contender("carp-fast", "0", "as it is"), Contender("ucarp", "1", "so")],
        rows=rows,
        pings=[
            measurements.pings("ucarp", 1, 0.01, {"x": 5}, {"x": [1, 2, 40_000_000, 50_000_000]})
        ],
        notes=["something was skipped"],
        taxes=[Tax("ucarp", 1, 400, 1_000.0, 70.0, 60.0, 90.0, 2.0)],
    )


def row(daemon: str, hosts: int, cpu_percent: float) -> Row:
    over = measurements.take_over(
        [(1, 1), (1, 2)],
        10 * SECOND_NS,
        address_at_ns={(1, 1): 12 * SECOND_NS, (1, 2): 13 * SECOND_NS},
        announced_at_ns={(1, 1): 12 * SECOND_NS, (1, 2): 14 * SECOND_NS},
        last_at_ns={(1, 1): 9 * SECOND_NS, (1, 2): 9 * SECOND_NS},
        first_at_ns={(1, 1): 12 * SECOND_NS, (1, 2): 12 * SECOND_NS},
    )
    return Row(
        daemon, hosts, 1, 5.0, 3.25, side(cpu_percent), side(cpu_percent / 2), [over],
        Floor(0.5, 0.25, 255.0, 255.0), notes=["odd"],
    )  # fmt: skip


def test_a_side_is_what_was_used_in_the_window() -> None:
    used = Usage(cpu_ns=SECOND_NS, user_ns=SECOND_NS // 4, system_ns=SECOND_NS // 2, switches=80)
    made = measurements.side(3, used, Memory(7, 5), frames=500, window_ns=4 * SECOND_NS)
    assert made == Side(
        processes=3,
        cpu_percent=25.0,
        user_percent=6.25,
        system_percent=12.5,
        rss_bytes=7,
        pss_bytes=5,
        switches_per_s=20.0,
        frames_per_s=125.0,
    )


def test_a_spread_is_least_median_and_greatest() -> None:
    assert measurements.spread([3.0, 1.0, 2.0, 10.0]) == Spread(1.0, 2.5, 10.0)
    assert measurements.spread([]) is None


def test_a_take_over_counts_from_the_kill_and_leaves_out_what_is_missing() -> None:
    keys = [(1, 1), (1, 2), (2, 1), (2, 2)]
    over = measurements.take_over(
        keys,
        100 * SECOND_NS,
        address_at_ns={(1, 1): 103 * SECOND_NS, (1, 2): 105 * SECOND_NS, (2, 1): 104 * SECOND_NS},
        announced_at_ns={(1, 1): 104 * SECOND_NS, (1, 2): 105 * SECOND_NS},
        last_at_ns={(1, 1): 99 * SECOND_NS, (1, 2): 100 * SECOND_NS},
        first_at_ns={(1, 1): 103 * SECOND_NS, (1, 2): 103 * SECOND_NS, (2, 2): 109 * SECOND_NS},
    )
    assert over == TakeOver(
        virtual_hosts=4,
        adopted=3,
        announced=2,
        address_s=Spread(3.0, 4.0, 5.0),
        silence_s=Spread(3.0, 3.5, 4.0),
        span_s=2.0,
        lag_s=Spread(1.0, 1.5, 2.0),
        announced_s=Spread(4.0, 4.5, 5.0),
        phase_s=Spread(0.0, 0.5, 1.0),
    )


def test_a_take_over_that_did_not_happen() -> None:
    over = measurements.take_over(
        [(1, 1)], 5, address_at_ns={}, announced_at_ns={}, last_at_ns={(1, 1): 4}, first_at_ns={}
    )
    nanosecond = Spread(1e-9, 1e-9, 1e-9)
    assert over == TakeOver(1, 0, 0, None, None, None, None, None, phase_s=nanosecond)


def test_several_take_overs_are_told_by_their_extremes_and_the_median_of_medians() -> None:
    spreads = [Spread(1.0, 2.0, 9.0), None, Spread(0.5, 4.0, 5.0), Spread(2.0, 3.0, 4.0)]
    assert measurements.merged(spreads) == Spread(0.5, 3.0, 9.0)
    assert measurements.merged([None, None]) is None
    overs = [
        TakeOver(2, adopted, adopted, Spread(first, 3.0, 4.0), None, span_s, None)
        for adopted, first, span_s in ((2, 3.0, 0.5), (1, 2.0, 0.25))
    ]
    cells = dict(
        zip(
            measurements.TAKE_OVER_HEADER,
            measurements.take_over_row(Row("ucarp", 2, 1, take_overs=overs)),
            strict=True,
        )
    )
    assert (cells["KILLS"], cells["ADOPTED"]) == ("2", "1"), "the least of all"
    assert (cells["TAKE-OVER S"], cells["SPAN S"]) == ("2.00 / 3.00 / 4.00", "0.50")
    assert (cells["PHASE S"], cells["LAG MS"]) == ("-", "-")


def test_a_machine_that_does_other_work_is_noted() -> None:
    second = Machine(busy_ns=SECOND_NS, softirq_ns=SECOND_NS // 4, stolen_ns=0)
    assert measurements.busy(second, SECOND_NS, own_percent=60.0) == (15.0, 0.0, [])
    assert measurements.busy(second, SECOND_NS, own_percent=90.0) == (0.0, 0.0, [])
    others, _, [note] = measurements.busy(second, SECOND_NS, own_percent=50.0)
    assert others == 25.0
    assert note == "the machine was busy: other processes took 25 % of a core"
    stolen = second._replace(stolen_ns=SECOND_NS)
    _, percent, [note] = measurements.busy(stolen, 2 * SECOND_NS, own_percent=60.0)
    assert percent == 50.0
    assert note == "the hypervisor gave 50 % of a core to other machines"


def test_the_tax_is_what_a_daemon_adds_to_a_difference_that_was_there_before() -> None:
    found = measurements.tax(
        "carp-fast",
        10,
        400,
        free_ns=1_000.0,
        before_ns=[8.0, 10.0, 12.0],
        after_ns=[70.0, 80.0, 100.0],
    )
    assert found == Tax("carp-fast", 10, 400, 1_000.0, 70.0, 60.0, 90.0, 2.0)
    assert measurements.tax_row(found)[3:] == ("1000", "70", "60 / 90", "2")


def test_pings_lost_and_the_longest_gap() -> None:
    seen = measurements.pings(
        "carp-fast",
        2,
        0.01,
        {"x": 10, "y": 4, "z": 3},
        {"x": [0, SECOND_NS, 4 * SECOND_NS], "y": [1, 2, 3, 4]},
    )
    assert (seen.sent, seen.lost, seen.lost_max, seen.gap_max_s) == (17, 10, 7, 3.0)


def test_the_cells_stand_under_their_headings() -> None:
    found = {title: (header, rows) for title, header, rows in measurements.tables(
        report([row("ucarp", 1_020, 10.0), Row("keepalived", 7, 1, notes=["did not start"])])
    )}  # fmt: skip
    assert all(len(cells) == len(header) for header, rows in found.values() for cells in rows)
    (header, (cost, failed)), (over_header, (over, _)), *others = found.values()
    (pings_header, (pinged,)), (tax_header, (taxed,)) = others
    cells = dict(zip(header, cost, strict=True))
    assert cells["VHIDS"] == "1,020"
    assert cells["CPU %"] == "10.00 + 5.00"
    assert cells["FLOOR %"] == "0.50 + 0.25"
    assert cells["RATIO"] == "20.0"
    assert cells["RSS MIB"] == "40 + 40"
    assert set(failed[3:]) == {"-"}
    times = dict(zip(over_header, over, strict=True))
    assert times["TAKE-OVER S"] == "2.00 / 2.50 / 3.00"
    assert times["SILENCE S"] == "3.00 / 3.00 / 3.00"
    assert (times["SPAN S"], times["LAG MS"]) == ("2.00", "1000.0 / 2000.0")
    assert times["ANNOUNCED S"] == "2.00 / 3.00 / 4.00"
    assert dict(zip(pings_header, pinged, strict=True))["LOST"] == "1"
    assert dict(zip(tax_header, taxed, strict=True))["TAX NS"] == "70"


def test_another_wire_stands_behind_the_daemon() -> None:
    rows = [row("ucarp", 10, 1.0), msgspec.structs.replace(row("ucarp", 10, 1.0), wire="bridge")]
    found = measurements.tables(report(rows))
    for _, _, cells in found[:2]:
        assert [first for first, *_ in cells] == ["ucarp", "ucarp, bridge"]
    texts = [each.text for each in ET.fromstring(measurements.figure(report(rows))).iter()]
    assert {"ucarp", "ucarp, bridge"} <= set(texts)


def test_what_was_not_measured_has_no_table() -> None:
    assert measurements.tables(msgspec.structs.replace(report([]), pings=[], taxes=[])) == []


def test_the_remarks_name_the_machine_the_set_up_and_every_note() -> None:
    lines = measurements.remarks(report([row("ucarp", 10, 1.0)]))
    assert "a processor" in lines[0]
    assert "ucarp 1: so" in lines
    assert "something was skipped" in lines
    assert "ucarp 10: odd" in lines


def test_the_report_is_a_json_document_that_reads_back() -> None:
    made = report([row("ucarp", 10, 1.0), Row("carp-fast", 10, 1)])
    assert msgspec.json.decode(msgspec.json.encode(made), type=Report) == made


def test_the_figure_has_a_line_for_each_daemon_and_one_for_the_floor() -> None:
    rows = [row(name, n, n / 100) for n in (1, 10, 100) for name in ("carp-fast", "ucarp")]
    root = ET.fromstring(measurements.figure(report([*rows, Row("keepalived", 5, 1)])))
    space = "{http://www.w3.org/2000/svg}"
    lines = root.findall(f".//{space}polyline")
    assert len(lines) == 2 + 1 + 2 + 2
    texts = {text.text for text in root.iter(f"{space}text")}
    assert {"carp-fast", "ucarp", measurements.FLOOR_LINE, "virtual hosts"} <= texts
    assert {"% of one core", "PSS, MiB", "RSS, MiB", "1", "100"} <= texts
    assert "keepalived" not in texts


def test_no_figure_without_a_point() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        measurements.figure(report([Row("ucarp", 5, 1)]))
