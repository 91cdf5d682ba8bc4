"""The receiving end: its filter, who may have signed, what its tables say, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from carp_fast.cli import main as cli
from carp_fast.cli import sink as cli_sink
from carp_fast.config.load import load
from carp_fast.engine._wire import build_announcement
from carp_fast.loadtest._tally import Tally
from carp_fast.loadtest.receiver import Latency, ways_to_sign
from carp_fast.net.filters import sink_filter
from tests.support.bpf import run
from tests.support.segment import (
    ADDRESS,
    advertisement,
    carp_header,
    in_fragments4,
    in_fragments6,
    ip,
)
from tests.support.transfers import received

MAC = bytes.fromhex("00005e00012a")
OVER_IPV4, OVER_IPV6 = advertisement(), advertisement(source="fe80::1")
ARP, NA = build_announcement(MAC, ADDRESS), build_announcement(MAC, ip("2001:db8::100"))
ECHO = NA[:54] + b"\x80" + NA[55:]
TCP = OVER_IPV4[:23] + b"\x06" + OVER_IPV4[24:]
LLDP = OVER_IPV4[:12] + b"\x88\xcc" + OVER_IPV4[14:]


@pytest.mark.parametrize("announcements", [False, True])
def test_what_the_filter_lets_through(announcements: bool) -> None:
    program = sink_filter(announcements=announcements)
    passing = [run(program, frame)[0] > 1514 for frame in (OVER_IPV4, OVER_IPV6, ARP, NA)]
    assert passing == [True, True, announcements, announcements]
    for frame in (ECHO, TCP, LLDP, b"", OVER_IPV4[:20]):
        assert run(program, frame)[0] == 0
    for frame in (*in_fragments4(carp_header()), *in_fragments6(carp_header())):
        assert run(program, frame)[0] > 1514


def test_the_filter_passes_every_vlan() -> None:
    # Those that are not counted are named; see test_tally.
    for tag in (0, 0x6005, 6):
        assert run(sink_filter(), OVER_IPV4, tagged=True, tag=tag)[0] > 1514


CONFIGURATION = """
defaults = {passphrase = "secret"}
virtual_host = [
    {interface = "eth0", vhid = 42, addresses = ["10.77.0.100/24", "fe80::5e:1/64"]},
    {interface = "eth1", vhid = 42, addresses = "10.77.0.100/24", peers = ["10.77.0.1"]},
]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "carp-fast.toml"
    path.touch(mode=0o600)
    path.write_text(CONFIGURATION)
    return path


def test_ways_to_sign(file: Path) -> None:
    configuration = load(file)
    # Three forms, with a link-local address, without and with OpenBSD's, to each family's group.
    assert len(list(ways_to_sign(configuration, "eth0"))) == 6
    (peer,) = ways_to_sign(configuration, "eth1")
    assert (peer[0], peer[3], peer[4]) == (42, ip("10.77.0.1"), True)
    # An interface that the file lacks: every virtual host.
    tally = Tally(list(ways_to_sign(configuration, "s1")))
    for passphrase in (b"secret", b"other"):
        both = [ADDRESS, ip("fe80::5e:1")]
        tally.receive(advertisement(passphrase=passphrase, addresses=both))
    tally.receive(advertisement(destination="10.77.0.9"))
    assert tally.facts()["verdicts"] == {"ok": 2, "bad_auth": 1}


def test_tables_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    cli_sink.print_received(received())
    assert capsys.readouterr().out.splitlines() == [
        "verdict   frames",
        "ok        1,200",
        "bad_auth  34",
        "",
        "source    vhid  destination  vlan  first             last              received  lost"
        "  duplicates  reordered",
        "10.1.0.2  42    224.0.0.18   -     0000000000000000  ffffffffffffffff  1,234     7   "
        "  0           0",
        "",
        "1,234 frames in 2.0 s, 617/s; counters lost: 0",
    ]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"kernel_dropped": 5}, "included in the lost: 5 by the socket, 0 by the interface"),
        ({"interface_dropped": 5}, "included in the lost: 0 by the socket, 5 by the interface"),
        ({"latency": Latency(9, 1_500, 2_000_000, 3_000_000)}, "p50 1.5 us, p99 2,000 us, max"),
        ({"before_sent": 2}, "different clocks"),
        ({"strays": 3}, "(more than 1,024 back, COUNTER_WINDOW, or 16,777,216 ahead)"),
        ({"restarts": 1}, "a sender restarted with other counters 1 times"),
        ({"left_out": 4}, "4 frames are in no row: the table holds 131,072"),
        (
            {"skipped": {0: 7, 5: 30}},
            "37 frames were skipped (--vlan): 30 of VLAN 5, 7 without a tag",
        ),
        ({"skipped": dict.fromkeys(range(1, 9), 2)}, "2 of VLAN 5, 3 more VLANs"),
        ({"judged": False}, "digests were not judged"),
    ],
)
def test_what_is_said_of_it(fields: dict[str, Any], line: str) -> None:
    plain = list(cli_sink.summary(received()))
    (more,) = [each for each in cli_sink.summary(received(**fields)) if each not in plain]
    assert line in more


def test_the_document_has_every_count() -> None:
    document = json.loads(msgspec.json.encode(received()))
    assert document["by_source"][0]["last"] == "f" * 16
    assert document["verdicts"] == {"ok": 1_200, "bad_auth": 34}


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ((), 2, "Missing option '-i'"),
        (("-i", "lo", "--vlan", "4095"), 2, "'4095': must be 1 to 4094 or \"any\""),
        (("-i", "lo", "--duration", "0"), 2, "0.0 is not in the range x>0"),
        (("-i", "lo", "--duration", "nan"), 2, "nan: must be a number from 1e-09 to 1e+09"),
        (("-i", "lo", "--duration", "1e300"), 2, "1e300: must be a number from 1e-09 to 1e+09"),
        (("-i", "lo", "--count", "0"), 2, "0 is not in the range x>=1"),
        (("-i", "lo", "-c", "/nowhere"), 1, "/nowhere: cannot be read: No such file or directory"),
        (("-i", "nosuch0"), 1, "carp-fast: "),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], code: int, line: str) -> None:
    result = CliRunner().invoke(cli.main, ["sink", *arguments], prog_name="carp-fast")
    assert (result.exit_code, result.stdout) == (code, "")
    assert line in result.stderr
