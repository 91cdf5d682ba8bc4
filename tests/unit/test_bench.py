"""What the bench plans from a command line, what it starts, what its watches read from messages."""

from __future__ import annotations

import io
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from carp_fast.bench import contenders, floor
from carp_fast.bench import run as bench
from carp_fast.bench.contenders import DAEMONS, MEASURED, VARIANTS
from carp_fast.bench.measurements import Report, Row
from carp_fast.bench.run import Bars, Lines, Plan, planned
from carp_fast.cli import main as cli
from carp_fast.config import load as config
from carp_fast.lab.fleet import ADVSKEW, CARP_FAST
from carp_fast.lab.lab import Host, LabError, virtual_address
from carp_fast.lab.pings import ECHO_REPLY, echo_request, is_reply
from carp_fast.lab.witness import Holdings, address_changes
from carp_fast.net.kernel import RTM_DELADDR, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWROUTE


class Placed:
    """What commands are made from: of a host, its name and its own addresses."""

    def __init__(self, name: str) -> None:
        self.name = name

    def address(self, segment: int) -> str:
        return f"10.{segment}.0.{'ab'.index(self.name) + 1}"


def host(name: str) -> Host:
    placed: Any = Placed(name)
    return placed  # type: ignore[no-any-return]


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders.Daemon, "installed", lambda self: True)


# The plan


@pytest.mark.usefixtures("all_installed")
def test_daemons_of_one_size_follow_each_other() -> None:
    plan = planned("ucarp,carp-fast", "255,10,10", 2.5)
    assert [(daemon.name, count) for daemon, count, _ in plan.rows()] == [
        ("ucarp", 10),
        ("carp-fast", 10),
        ("ucarp", 255),
        ("carp-fast", 255),
    ]
    assert (plan.window_s, plan.pings, list(plan.skipped())) == (2.5, True, [])


@pytest.mark.usefixtures("all_installed")
def test_wires_of_one_size_follow_each_other() -> None:
    plan = planned("carp-fast-tcx,keepalived", "10,1", wires="bridge,macvlan")
    rows = [(daemon.name, count, wire) for daemon, count, wire in plan.rows()]
    assert rows == [
        (name, count, wire)
        for count in (1, 10)
        for wire in ("macvlan", "bridge")
        for name in ("carp-fast-tcx", "keepalived")
    ]
    assert {wire for _, _, wire in planned().rows()} == {"veth"}
    with pytest.raises(ValueError, match="wire 'wifi': one of veth, macvlan, bridge"):
        planned(wires="veth,wifi")


@pytest.mark.usefixtures("all_installed")
def test_ucarp_is_not_started_thousandfold_unless_forced() -> None:
    plan = planned("ucarp", "1020,4080")
    assert [count for _, count, _ in plan.rows()] == [1_020]
    (line,) = plan.skipped()
    assert "ucarp: 4,080" in line
    assert "--force" in line
    forced = planned("ucarp", "1020,4080", force=True)
    assert [count for _, count, _ in forced.rows()] == [1_020, 4_080]
    assert list(forced.skipped()) == []


def test_what_is_not_installed_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    plan = planned(instances="10")
    assert [daemon.name for daemon, _, _ in plan.rows()] == ["carp-fast"]
    assert [daemon.package for daemon in plan.lacking()] == ["ucarp", "keepalived"]
    assert list(plan.skipped()) == [
        "ucarp: not installed (Debian package ucarp), skipped",
        "keepalived: not installed (Debian package keepalived), skipped",
    ]


def test_quick_stands_for_what_is_not_given() -> None:
    quick = planned(quick=True)
    counts, window_s = bench.INSTANCES_QUICK, bench.WINDOW_QUICK_S
    assert quick == Plan(tuple(MEASURED), counts, window_s, pings=False, tax=False, repeats=1)
    assert planned(repeats=7, quick=True).repeats == 7
    assert planned(instances="7", window_s=9, quick=True).instances == (7,)
    assert planned() == Plan()


@pytest.mark.parametrize(
    ("daemons", "instances", "said"),
    [
        ("carp", None, "daemon 'carp': one of carp-fast, ucarp, keepalived"),
        (None, "10,x", "instances 'x': a number from 1 to 65280"),
        (None, "0", "instances '0'"),
        (None, "65281", "instances '65281'"),
        (None, "1,", "instances ''"),
    ],
)
def test_a_plan_with_a_fault(daemons: str | None, instances: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        planned(daemons, instances)


def test_lines_tell_the_step_and_the_phase() -> None:
    written: list[str] = []
    lines = Lines(written.append)
    lines.begin(2)
    lines.step("ucarp 10")
    lines.phase("starting")
    lines.end()
    assert written[0] == "2 steps"
    assert written[1].endswith("s  ucarp 10: starting")
    assert written[2].endswith("done")


def test_bars_show_the_step_on_a_terminal() -> None:
    shown = io.StringIO()
    bars = Bars(Console(file=shown, force_terminal=True, width=120))
    bars.begin(2)
    bars.step("ucarp 10")
    bars.step("keepalived 10")
    bars.phase("starting")
    bars.end()
    assert "keepalived 10" in shown.getvalue()
    assert "1/2" in shown.getvalue()
    assert "starting" in shown.getvalue()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--instances", "70000"], 2, "a number from 1 to 65280"),
        (["--daemon", "vrrpd"], 2, "one of carp-fast, ucarp, keepalived"),
        (["--window", "0"], 2, "--window"),
        (["--daemon", "carp-fast,ucarp"], 1, "not installed: ucarp (Debian packages)"),
        (["--plot", "/nowhere/at/all.svg"], 1, "/nowhere/at/all.svg: cannot write there"),
        (["--save", "/nowhere/at/all.json"], 1, "--save /nowhere/at/all.json: cannot write there"),
        (["--repeats", "0"], 2, "--repeats"),
        (["--from", "/nowhere.json"], 2, "/nowhere.json"),
        (["--from", "/proc/self/stat"], 1, "--from /proc/self/stat: not a document of --save"),
        (["--from", "/proc/self/stat", "--quick"], 2, "--from shows what was measured before"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(bench, "run_bench", lambda *given: pytest.fail("it started"))
    result = CliRunner().invoke(cli.main, ["bench", *arguments])
    assert result.exit_code == code
    assert said in result.stderr


class Quiet:
    """An audience that only takes part."""

    def begin(self, steps: int) -> None: ...
    def step(self, title: str) -> None: ...
    def phase(self, text: str) -> None: ...
    def end(self) -> None: ...


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit(128 + signal.SIGTERM)])
def test_an_interrupted_run_keeps_what_was_measured(
    interrupt: BaseException, all_installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measure(daemon: contenders.Daemon, row: Row, *others: object) -> Row:
        if row.virtual_hosts == 10:
            raise LabError("not settled")
        if row.virtual_hosts == 50:
            raise interrupt
        return row

    monkeypatch.setattr(bench, "require_privilege", lambda: None)
    monkeypatch.setattr(bench, "measure_row", measure)
    monkeypatch.setattr(contenders.Daemon, "version", lambda self: "0")
    saved = tmp_path / "result.json"
    arguments = ["--daemon", "ucarp", "--instances", "1,10,50,255", "--save", str(saved)]
    result = CliRunner().invoke(cli.main, ["bench", *arguments])
    assert result.exit_code == 130
    assert "interrupted after 2 of 6 steps" in result.stdout
    report = msgspec.json.decode(saved.read_bytes(), type=Report)
    assert [row.virtual_hosts for row in report.rows] == [1]
    assert report.notes == ["ucarp 10: not settled", "interrupted after 2 of 6 steps"]
    shown = CliRunner().invoke(cli.main, ["bench", "--from", str(saved)])
    assert (shown.exit_code, shown.stdout) == (0, result.stdout)
    document = CliRunner().invoke(cli.main, ["bench", "--from", str(saved), "--json"])
    assert msgspec.json.decode(document.stdout, type=Report) == report


def test_what_there_is_can_be_kept_after_each_step(
    all_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "require_privilege", lambda: None)
    monkeypatch.setattr(bench, "measure_row", lambda daemon, row, *others: row)
    monkeypatch.setattr(contenders.Daemon, "version", lambda self: "0")
    kept: list[int] = []
    plan = planned("ucarp", "1,10,255", quick=True)
    report = bench.run_bench(plan, Quiet(), lambda report: kept.append(len(report.rows)))
    assert kept == [1, 2, 3]
    assert not report.interrupted


# The contenders


def test_carp_fast_runs_one_process_on_a_configuration_without_faults(tmp_path: Path) -> None:
    (command,) = DAEMONS["carp-fast"].commands(host("b"), {1: 255, 2: 3}, tmp_path)
    assert command[:4] == [*CARP_FAST, "run"]
    made = config.load(Path(command[-1]))
    assert len(made.virtual_hosts) == 258
    assert not made.warnings
    assert made.virtual_hosts[0].settings.advskew == ADVSKEW["b"]


def test_variants_of_carp_fast_are_measured_where_they_are_named(tmp_path: Path) -> None:
    assert not VARIANTS.keys() & MEASURED.keys()
    assert planned().daemons == ("carp-fast", "ucarp", "keepalived")
    assert planned("carp-fast,carp-fast-clones").daemons == ("carp-fast", "carp-fast-clones")
    keys = {}
    for name, variant in VARIANTS.items():
        (command,) = variant.commands(host("a"), {1: 2}, tmp_path)
        made = config.load(Path(command[-1]))
        keys[name] = (made.daemon.send, made.daemon.receive, made.virtual_hosts[0].settings.hold)
    assert keys == {
        "carp-fast-packet": ("packet", "packet", "address"),
        "carp-fast-clones": ("clones", "packet", "address"),
        "carp-fast-ring": ("clones", "ring", "address"),
        "carp-fast-tcx": ("clones", "tcx", "address"),
        "carp-fast-raw": ("clones", "raw", "address"),
        "carp-fast-route": ("auto", "auto", "route"),
    }


def test_ucarp_runs_a_process_for_each_virtual_host(tmp_path: Path) -> None:
    commands = DAEMONS["ucarp"].commands(host("b"), {1: 2, 2: 1}, tmp_path)
    assert len(commands) == 3
    options = dict(zip(commands[2][1:15:2], commands[2][2:15:2], strict=False))
    assert options["-i"] == "s2"
    assert options["-s"] == "10.2.0.2"
    assert options["-a"] == virtual_address(2, 1)
    assert options["-k"] == "100"
    for option in ("-u", "-d"):
        script = Path(commands[0][commands[0].index(option) + 1])
        assert script.stat().st_mode & 0o111


@pytest.mark.parametrize("name", [*MEASURED, *VARIANTS])
def test_the_files_of_a_host_that_runs_are_not_written_for_the_other(
    tmp_path: Path, name: str
) -> None:
    DAEMONS[name].commands(host("a"), {1: 2}, tmp_path)
    files = list(tmp_path.iterdir())
    written_ns = [path.stat().st_mtime_ns for path in files]
    DAEMONS[name].commands(host("b"), {1: 2}, tmp_path)
    assert [path.stat().st_mtime_ns for path in files] == written_ns


def test_keepalived_waits_as_long_as_carp_does(tmp_path: Path) -> None:
    assert (256 - contenders.PRIORITY["b"]) == ADVSKEW["b"]
    (command,) = DAEMONS["keepalived"].commands(host("a"), {1: 255, 2: 255}, tmp_path)
    text = Path(command[command.index("--use-file") + 1]).read_text()
    assert text.count("vrrp_instance ") == 510
    assert f"{virtual_address(2, 255)}/32 dev s2" in text
    assert text.count("{") == text.count("}")


def test_a_program_that_names_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ucarp").write_text("#!/bin/sh\necho ucarp\n")
    (tmp_path / "ucarp").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="reports no version"):
        DAEMONS["ucarp"].version()


# The watches


def netlink_message(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 7)
    for name, value in attributes:
        body += struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_addresses_are_read_from_netlink_messages() -> None:
    one, two = bytes((10, 1, 1, 1)), bytes((10, 1, 1, 2))
    label = (3, b"s1\0")
    data = (
        netlink_message(RTM_NEWADDR, label, (1, two), (2, one))
        + netlink_message(16, (2, two))
        + netlink_message(RTM_DELADDR, (2, two))
        + netlink_message(RTM_NEWADDR, (1, one))
    )
    assert address_changes(data) == [(RTM_NEWADDR, one), (RTM_DELADDR, two)]
    assert address_changes(data[:-3] + b"\0" * 3 + data[:10]) == address_changes(data)


def route_message(kind: int, address: bytes, protocol: int, table: int = 255) -> bytes:
    body = struct.pack("=8BI", socket.AF_INET, 32, 0, 0, table, protocol, 254, 2, 0)
    body += struct.pack("=HH4s", 8, 1, address) + struct.pack("=HHI", 8, 4, 7)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_local_routes_of_ours_are_read_from_netlink_messages_and_no_others() -> None:
    one, two = bytes((10, 1, 1, 1)), bytes((10, 1, 1, 2))
    data = (
        route_message(RTM_NEWROUTE, one, 112)
        + route_message(RTM_NEWROUTE, two, 2)  # the kernel's, of an address
        + route_message(RTM_NEWROUTE, two, 112, table=254)
        + route_message(RTM_DELROUTE, two, 112)
    )
    assert address_changes(data) == [(RTM_NEWROUTE, one), (RTM_DELROUTE, two)]
    assert address_changes(data[:20]) == []


@pytest.mark.parametrize(
    ("kinds", "held"),
    [
        ([RTM_NEWROUTE], True),
        ([RTM_NEWROUTE, RTM_DELROUTE], False),
        ([RTM_NEWROUTE, RTM_NEWADDR, RTM_DELROUTE], True),
        ([RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWADDR], True),
        ([RTM_NEWADDR, RTM_NEWADDR, RTM_DELADDR], False),
        ([RTM_DELROUTE], False),
    ],
)
def test_what_an_address_or_a_route_holds_is_held(kinds: list[int], held: bool) -> None:
    holdings = Holdings()
    for at_ns, kind in enumerate(kinds, 1):
        holdings.take(kind, (1, 7), at_ns)
    assert ((1, 7) in holdings.since_ns) is held
    if kinds[1:2] == [RTM_NEWADDR] and held:
        assert holdings.since_ns[1, 7] == 1, "since the first, also where one replaced the other"


def test_an_attribute_that_claims_no_length_ends_the_message() -> None:
    broken = netlink_message(RTM_NEWADDR, (2, bytes(4))).replace(b"\x08\0\x02\0", b"\0\0\x02\0")
    assert address_changes(broken) == []
    assert address_changes(bytes(16)) == []


def test_a_ping_has_the_internet_checksum() -> None:
    request = echo_request(0xFEDC, 0xBA98)
    assert request[:2] == b"\x08\0"
    total = sum(struct.unpack(">4H", request))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_only_a_reply_to_us_is_an_answer() -> None:
    head = bytes((0x46, *bytes(23)))
    reply = struct.pack(">BBHHH", ECHO_REPLY, 0, 0, 77, 1)
    assert is_reply(head + reply, 77)
    assert not is_reply(head + reply, 78)
    assert not is_reply(head + echo_request(77, 1), 77)
    assert not is_reply(head + reply[:7], 77)


def test_nobody_takes_the_frames_of_the_floor_for_advertisements() -> None:
    from carp_fast.engine._wire import parse

    frame = floor.frame()
    assert len(frame) == 70
    assert frame[23] == 112
    assert parse(frame)["verdict"] != "ok"
