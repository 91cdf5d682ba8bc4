"""Scenarios read, played and compared; the commands `replay` and `record`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from carp_fast.cli.main import main
from carp_fast.replay import scenario as scenarios
from carp_fast.replay.comparison import compare
from carp_fast.replay.player import play
from carp_fast.replay.scenario import ScenarioError, parse, parse_line, seconds_ns, seconds_text
from tests.support.recorded import outputs_text
from tests.support.vectors import EL7

TAKEOVER = Path(__file__).parent.parent / "scenarios" / "takeover.toml"


def scenario(transcript: str, rest: str = "host = {source = '10.77.0.2'}") -> scenarios.Scenario:
    return parse(f"transcript = '''\n{transcript}\n'''\n{rest}\n")


def decided(transcript: str, rest: str = "host = {source = '10.77.0.2'}") -> list[str]:
    return outputs_text(play(scenario(transcript, rest)))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# -- the format


@pytest.mark.parametrize(
    ("text", "at_ns", "digits"),
    [
        ("5.391", 5_391_000_000, 3),
        ("0", 0, 0),
        ("-0.000000001", -1, 9),
        ("12.5", 12_500_000_000, 1),
    ],
)
def test_seconds_keep_their_digits_both_ways(text: str, at_ns: int, digits: int) -> None:
    assert seconds_ns(text) == (at_ns, digits)
    assert seconds_text(at_ns, digits) == text


def test_seconds_are_rounded_to_the_digits_asked_for() -> None:
    assert seconds_text(1_999_600_000, 3) == "2.000"
    assert seconds_text(-400_000, 3) == "0.000"
    for wrong in ("1.0000000001", "x", "", "1.x", "1e3"):
        with pytest.raises(ValueError, match="seconds"):
            seconds_ns(wrong)


def test_a_time_that_has_no_room_in_64_bits_is_refused() -> None:
    assert seconds_ns("1000000000.000")[0] == 10**18
    for wrong in ("1000000000.1", "1000000001", "9" * 40, "-9300000000", "9" * 5000):
        with pytest.raises(ValueError, match="more than 1,000,000,000 seconds"):
            seconds_ns(wrong)


def test_a_line_has_a_time_a_name_and_words() -> None:
    line = parse_line("1.500 eth0/7 > MASTER master_down", 3)
    assert line == (3, 1_500_000_000, 3, "eth0/7", True, ("MASTER", "master_down"))
    assert parse_line("1 hear 10.0.0.1 1/0").name == ""
    assert parse_line("1 link up").output is False


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("host = {}", "transcript: must be a string of lines"),
        ("transcript = '''\n1 hear\n'''", "the last line must be `end`"),
        ("transcript = '''\n1 eth0/7\n1 end\n'''", "line 1: 1 eth0/7: is neither an input nor an"),
        ("transcript = '''\n1 eth0/7 dance\n1 end\n'''", "line 1: dance: not an input; allowed: "),
        ("transcript = '1 end'\nstroy = 'x'", "stroy: unknown key; did you mean story?"),
        ("transcript = '1 end'\nhost = {advskw = 1}", "advskw: unknown key; did you mean advskew?"),
        ("transcript = '1 end'\nhost = 3", "host: must be a table or an array of tables"),
        ("transcript = '1 end'\ninterface = 3", "interface: must be tables by name"),
        ("transcript = '1 end'\nstory = 3", "Expected `str`, got `int` - at `$.story`"),
        ("transcript = ", "Invalid value"),
    ],
)
def test_a_file_that_is_no_scenario(text: str, why: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "x.toml")
    assert str(caught.value).startswith("x.toml: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1 hear 10.0.0.1", "hear: something is missing"),
        ("1 hear 10.0.0.1 loop", "loop: neither ADVBASE/ADVSKEW nor one of bad_length, "),
        ("1 hear nobody 1/0", "'nobody' does not appear to be an IPv4 or IPv6 address"),
        ("1 hear 10.0.0.1 1/0 colour 3", "hear: unknown colour"),
        ("1 eth9/7 demote 1", "no virtual host 'eth9/7' in this scenario"),
        ("1 eth9/7 hear 10.0.0.1 1/0", "no interface 'eth9' in this scenario"),
        ("1 link sideways", "link: must be up or down"),
        ("1 interface broken", "interface: must be up, down or missing"),
        ("1 kernel 10.77.0.100 EWHAT", "EWHAT: must be ok or the name of an error such as EEXIST"),
        ("1 reload colour=3", "reload: colour: unknown key"),
        ("1 start", "start: the process was not killed"),
    ],
)
def test_an_input_with_a_fault_is_named_by_its_line(line: str, why: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        play(scenario(f"\n{line}\n2 end"))
    assert "transcript line 2: " in str(caught.value)
    assert why in str(caught.value)


def test_a_host_with_a_fault_is_named() -> None:
    for rest, why in (
        ("host = {addresses = ['x']}", "'x' does not appear to be"),
        ("host = {advskew = 300}", "eth0/42: advskew = 300: must be an integer from 0 to 254"),
        ("host = {passphrase = ''}", "a passphrase"),
        ("host = {passphrase = 3}", "host: "),
        ("host = {dialect = 'vrrp'}", 'eth0/42: dialect = "vrrp": must be "ucarp" or "freebsd" or'),
        ("host = {announce = 3}", "host: "),
        ("host = {state = []}", "host: "),
        ("host = {slot = 131072}", "host: slot 131072 is in use or not below 131072"),
    ):
        with pytest.raises(ScenarioError, match=why):
            decided("1 end", rest)


# -- what is played


def test_several_hosts_of_both_families_and_dialects() -> None:
    rest = """
        interface.eth0 = {source = "10.0.0.2", source6 = "fe80::2"}
        interface.eth1 = {source = "10.1.0.2"}
        [[host]]
        vhid = 7
        addresses = ["fd00::7/64", "10.0.0.7/24"]
        [[host]]
        interface = "eth1"
        vhid = 7
        dialect = "openbsd"
        preempt = true
        addresses = ["10.1.0.7/32"]
        unsigned_addresses = ["10.1.0.8/32"]
        [[host]]
        name = "pair"
        interface = "eth1"
        vhid = 8
        advskew = 10
        peers = ["10.1.0.1", "10.1.0.3"]
    """
    assert decided(
        """
        0.5 eth0/7 hear fe80::1 1/0
        0.6 pair hear 10.1.0.3 1/0
        0.7 eth1/7 hear 10.1.0.1 1/0 demote 2
        1.5 pair hear 10.1.0.3 1/0
        1.6 eth1/7 demote 3
        1.8 eth1/7 hear 10.1.0.1 1/0 demote 2
        3.6 end
        """,
        rest,
    ) == [
        "0.000 eth0/7 BACKUP started",
        "0.000 eth1/7 BACKUP started",
        "0.000 pair BACKUP started",
        "0.700 eth1/7 MASTER master_demoted",
        "0.700 eth1/7 ADVERTISE 1/0",
        "0.700 eth1/7 ADD_ADDRESSES 10.1.0.7 10.1.0.8",
        "0.700 eth1/7 ANNOUNCE 10.1.0.7 10.1.0.8",
        "0.763 eth1/7 ADVERTISE 1/0",
        "1.000 eth1/7 ADVERTISE 1/0",
        "1.800 eth1/7 BACKUP less_demoted_master",
        "1.800 eth1/7 REMOVE_ADDRESSES 10.1.0.7 10.1.0.8",
        "3.500 eth0/7 MASTER master_down",
        "3.500 eth0/7 ADVERTISE 1/0",
        "3.500 eth0/7 ADD_ADDRESSES fd00::7 10.0.0.7",
        "3.500 eth0/7 ANNOUNCE fd00::7 10.0.0.7",
        "3.563 eth0/7 ADVERTISE 1/0",
    ]


def test_killed_and_started_anew() -> None:
    lines = decided(
        """
        3.5 kill
        3.6 hear 10.77.0.1 1/0
        4 reload advskew=100
        9 start
        9.5 resign
        10 end
        """
    )
    assert [line for line in lines if line > "3.5"] == [
        "9.000 eth0/42 BACKUP started",
        "9.500 eth0/42 INIT resigned",
    ]


def test_turns_say_when_deadlines_are_looked_at() -> None:
    # Due at 3.000, looked at late: what was heard until then comes first.
    turns = "turns = true\nhost = {source = '10.77.0.2'}"
    assert decided("3.2 hear 10.77.0.1 1/0\n3.3 turn 3.3\n4 end", turns) == [
        "0.000 eth0/42 BACKUP started"
    ]
    # And not yet proven where only what arrived until 2.9 was read.
    assert (
        decided("3.1 turn 2.9\n3.3 turn 3.3\n4 end", turns)[1] == "3.300 eth0/42 MASTER master_down"
    )
    # Nobody looked, for longer than a daemon goes without saying so.
    assert decided("9 hear 10.77.0.1 1/0\n9 end", turns)[1] == "3.000 eth0/42 MASTER master_down"


def test_the_first_difference_is_named_and_what_is_too_much_comes_last() -> None:
    text = TAKEOVER.read_text()
    assert all(row.same for row in compare(parse(text), play(parse(text))))
    changed = parse(text.replace("5.391 > ADVERTISE 1/100", "5.391 > ADVERTISE 1/0"))
    assert [row[1:4] for row in compare(changed, play(changed)) if not row.same] == [
        ("eth0/42", "ADVERTISE 1/0", "ADVERTISE 1/100")
    ]
    late = parse(text.replace("6.360 > ADVERTISE", "6.361 > ADVERTISE"))
    assert [row.at_ns for row in compare(late, play(late)) if not row.same] == [6_361_000_000]
    short = parse("".join(line for line in text.splitlines(True) if "9.140" not in line))
    assert [row[1:4] for row in compare(short, play(short)) if not row.same] == [
        ("eth0/42", None, "ADVERTISE 1/100")
    ]


def test_a_recorded_answer_of_the_kernel_may_come_after_the_next_advertisement() -> None:
    host = "host = {source = '10.77.0.2', advbase = 1, addresses = ['10.77.0.100/24']}"
    text = """
        3 turn 3
        3 > MASTER master_down
        3 > ADVERTISE 1/0
        4 turn 4
        4 > ADVERTISE 1/0
        4.5 > ADD_ADDRESSES 10.77.0.100
        4.5 > ANNOUNCE 10.77.0.100
        4.6 end"""
    recorded = scenario(f"0 > BACKUP started{text}", f"turns = true\n{host}")
    assert [row for row in compare(recorded, play(recorded)) if not row.same] == []
    without = text.replace("ANNOUNCE 10.77.0.100", "ANNOUNCE 10.77.0.101")
    recorded = scenario(f"0 > BACKUP started{without}", f"turns = true\n{host}")
    assert [row.recorded for row in compare(recorded, play(recorded)) if not row.same] == [
        "ANNOUNCE 10.77.0.101"
    ]


def test_a_change_that_is_tried_again_may_be_answered_after_the_announcement_is_repeated() -> None:
    host = (
        "host = {source = '10.77.0.2', advbase = 1, addresses = ['10.77.0.100/24'],"
        " unsigned_addresses = ['fd00::1/64']}"
    )
    text = """
        2 kernel fd00::1 EACCES
        3 turn 3
        3 > MASTER master_down
        3 > ADVERTISE 1/0
        3 > ADD_ADDRESSES 10.77.0.100 fd00::1
        3 > ANNOUNCE 10.77.0.100 fd00::1
        4 turn 4
        4 > ADVERTISE 1/0
        4 > ADD_ADDRESSES fd00::1
        5 turn 5
        5 > ADVERTISE 1/0
        5 > ADD_ADDRESSES fd00::1
        6 turn 6
        6 > ADVERTISE 1/0
        6 > ANNOUNCE 10.77.0.100 fd00::1
        6.2 > ADD_ADDRESSES fd00::1
        6.3 end"""
    recorded = scenario(f"0 > BACKUP started{text}", f"turns = true\n{host}")
    assert [row for row in compare(recorded, play(recorded)) if not row.same] == []
    once = text.replace("        6 > ANNOUNCE 10.77.0.100 fd00::1\n", "")
    recorded = scenario(f"0 > BACKUP started{once}", f"turns = true\n{host}")
    assert [row.now for row in compare(recorded, play(recorded)) if not row.same] == [
        "ANNOUNCE 10.77.0.100 fd00::1"
    ]


# -- the commands


def test_replay_shows_both_sides() -> None:
    result = run("replay", TAKEOVER)
    assert result.exit_code == 0
    row = "         5.391  eth0/42  MASTER master_down         MASTER master_down"
    assert row in result.output.splitlines()
    assert result.output.endswith("10 decisions, all the same\n")
    document = json.loads(run("replay", TAKEOVER, "--json").output)
    assert document["same"] is True
    assert document["rows"][0][1:4] == ["eth0/42", "BACKUP started", "BACKUP started"]


def test_replay_ends_at_the_first_difference(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(TAKEOVER.read_text().replace("6.360 > ADVERTISE 1/100", "6.360 > RESIGN 1/1"))
    result = run("replay", path)
    assert result.exit_code == 1
    assert result.stderr == (
        f"carp-fast: {path}: differs at 6.360 s, eth0/42: RESIGN 1/1 was recorded, "
        "now ADVERTISE 1/100 at 6.360 s\n"
    )
    assert "7.750" not in result.stdout
    result = run("replay", path, "--json")
    assert (result.exit_code, json.loads(result.stdout)["same"]) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["{tmp}/none"], 1, "carp-fast: {tmp}/none: No such file or directory"),
        (["{tmp}"], 1, "carp-fast: {tmp}: Is a directory"),
        (["{tmp}/bad"], 1, "carp-fast: {tmp}/bad: eth0/42: advskew = 300: must be an integer"),
        ([EL7], 2, "is a pcap: give the host to replace with --as"),
        ([TAKEOVER, "--vhid", "3"], 2, "these options need --as"),
        ([EL7, "--as", "10.77.0.1"], 2, "--as needs -c, or --passphrase-file and --address"),
        ([TAKEOVER, "--as", "10.77.0.1", "-c", "{tmp}/none"], 1, "none: "),
    ],
)
def test_replay_that_cannot_be(tmp_path: Path, arguments: list[Any], code: int, why: str) -> None:
    (tmp_path / "bad").write_text("transcript = '1 end'\nhost = {advskew = 300}")
    given = [str(argument).replace("{tmp}", str(tmp_path)) for argument in arguments]
    result = run("replay", *given)
    assert result.exit_code == code
    assert why.replace("{tmp}", str(tmp_path)) in result.stderr


def test_record_without_a_daemon(tmp_path: Path) -> None:
    result = run("record", tmp_path / "x", "--control-socket", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr.startswith("carp-fast: no carp-fast daemon at ")
    (tmp_path / "x").touch()
    result = run("record", tmp_path / "x", "--control-socket", tmp_path / "none")
    assert result.stderr == f"carp-fast: {tmp_path}/x: exists already; --force overwrites it\n"
