"""The command `flood` without a network: files, what goes in and out of them, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from carp_fast.capture.pcap import RAW_IP, Reader, Record, Writer
from carp_fast.cli import flood as cli_flood
from carp_fast.cli.flood_options import CONFLICTS
from carp_fast.cli.main import main
from carp_fast.engine._wire import parse
from carp_fast.loadtest import guard
from carp_fast.net import drivers as netdev
from tests.support.segment import advertisement, carp_digest, ip

TOGETHER = "cannot be combined with"
CONFIGURATION = """
[[virtual_host]]
interface = "eth0"
vhid = "1-3"
passphrase = "secret"
addresses = ["10.0.0.{vhid}/24", "2001:db8::{vhid}/64"]
"""


def flood(*words: object) -> Result:
    return CliRunner().invoke(main, ["flood", *map(str, words)])


def written(file: Path, *words: object) -> list[Record]:
    result = flood("--write", file, *words)
    assert result.exit_code == 0, result.output
    with open(file, "rb") as opened:
        return list(Reader(opened, file.name))


def test_a_file_has_the_mix_the_pace_and_nanoseconds(tmp_path: Path) -> None:
    file = tmp_path / "out.pcap"
    records = written(file, "--rate", "4000", "--duration", "0.5", "--mix", "ok=7,bad_ttl,replay=2")
    assert len(records) == 2_000
    gaps = {later.at_ns - one.at_ns for one, later in pairwise(records)}
    assert gaps == {250_000}
    assert Counter(parse(each.data)["verdict"] for each in records) == {"ok": 1800, "bad_ttl": 200}
    sources = {parse(each.data)["source"] for each in records}
    assert sources == {ip("198.18.0.1")}


def test_the_summary_in_text_and_in_json(tmp_path: Path) -> None:
    words = ("--write", tmp_path / "x", "--count", "30", "--vhid", "1-3", "--mix", "ok,vrrp")
    text = flood(*words).output
    assert "30 frames written in 0.03 s, 1,000/s of 1,000 requested" in text
    assert "sources and vhids with counters: 3" in text
    said = json.loads(flood(*words, "--json").output)
    assert (said["sent"], said["kinds"], said["backend"]) == (30, {"ok": 15, "vrrp": 15}, "file")
    assert [(each["vhid"], each["sent"]) for each in said["by_source"]] == [(1, 5), (2, 5), (3, 5)]


def test_digests_of_a_configuration(tmp_path: Path) -> None:
    configuration = tmp_path / "carp-fast.toml"
    configuration.touch(mode=0o600)
    configuration.write_text(CONFIGURATION)
    records = written(tmp_path / "x", "-c", configuration, "--count", "60", "--vhid", "2-3")
    families = Counter[tuple[int, int]]()
    for each in records:
        said = parse(each.data)
        vhid = said["vhid"]
        addresses = [ip(f"10.0.0.{vhid}"), ip(f"2001:db8::{vhid}")]
        assert said["digest"] == carp_digest(b"secret", vhid, addresses, said["counter"])
        families[said["family"], vhid] += 1
    assert families == {(4, 2): 15, (6, 2): 15, (4, 3): 15, (6, 3): 15}


def test_a_storm_and_bursts(tmp_path: Path) -> None:
    records = written(tmp_path / "x", "--storm", "--vhid", "1-5", "--duration", "2.5")
    first = records[0].at_ns
    assert Counter((each.at_ns - first) // 10**9 for each in records) == {0: 5, 1: 5, 2: 5}
    assert len({each.at_ns for each in records}) == 3
    records = written(tmp_path / "y", "--burst", "4", "0.1", "--duration", "0.25")
    assert Counter(each.at_ns - records[0].at_ns for each in records) == {
        0: 4, 100_000_000: 4, 200_000_000: 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "frames", "gap_s"),
    [
        (("--advbase", "3"), 5, 3),
        (("--advbase", "1,2", "--advskew", "128"), 5, 2.5),
        (("--mix", "ok=1,arp=1"), 10, 1),
        (("--mix", "ok=2,vrrp=1,na=1,arp=1", "--address", "2001:db8::1-2001:db8::5",
          "--address", "10.0.0.1-10.0.0.5"), 25, 1),
        (("--mix", "bad_auth=3,resignation=1"), 7, 1),
    ],
)  # fmt: skip
def test_in_a_storm_all_virtual_hosts_advertise_in_their_interval(
    tmp_path: Path, words: tuple[str, ...], frames: int, gap_s: float
) -> None:
    records = written(tmp_path / "x", "--storm", "--vhid", "1-5", "--count", "100", *words,
                      "--duration", "50")  # fmt: skip
    bursts = Counter(each.at_ns - records[0].at_ns for each in records)
    assert list(bursts)[1] == gap_s * 1e9
    assert bursts[0] == frames
    first = [parse(each.data) for each in records[:frames]]
    assert {each["vhid"] for each in first if each["verdict"] == "ok"} == set(range(1, 6))


def recorded(file: Path, frames: list[bytes], link: int = 1, cut: int = 0) -> Path:
    with open(file, "wb") as opened:
        writer = Writer(opened, link)
        for number, frame in enumerate(frames):
            writer.write(10**18 + number * 20_000_000, frame, len(frame) + cut)
    return file


def test_a_recording_multiplied_as_recorded_faster_and_at_a_rate(tmp_path: Path) -> None:
    frames = [advertisement(counter=counter) for counter in range(3)]
    file = recorded(tmp_path / "in", frames)

    def sent(*words: object) -> list[tuple[int, bytes]]:
        records = written(tmp_path / "out", "--from", file, *words)
        return [(each.at_ns - records[0].at_ns, each.data) for each in records]

    assert sent("--times", 2) == [(n * 20_000_000, frames[n % 3]) for n in range(6)]
    assert [at for at, _ in sent("--speed", 4)] == [0, 5_000_000, 10_000_000]
    assert [at for at, _ in sent("--rate", 10)] == [0, 100_000_000, 200_000_000]
    assert len(sent("--times", 100, "--duration", "0.1")) == 5
    # It is played to its end, unless told otherwise.
    assert len(sent("--times", 1_000)) == 3_000


def test_frames_that_did_not_fit_into_the_duration_are_reported(tmp_path: Path) -> None:
    file = recorded(tmp_path / "in", [advertisement(counter=counter) for counter in range(10)])
    for words in (("--from", file), ("--rate", 50, "--count", 10)):
        cut = flood("--write", tmp_path / "out", *words, "--duration", "0.1")
        assert "5 of 10 frames were not sent within --duration" in cut.output.splitlines()
        whole = flood("--write", tmp_path / "out", *words, "--duration", "1")
        assert "not sent" not in whole.output
        assert "10 frames written in 0.20 s, 50/s" in whole.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "0"], "rate 0: must be frames/s above 0"),
        (["--rate", "-5"], "rate -5: must be frames/s above 0"),
        (["--rate", "fast"], "rate fast: must be frames/s above 0"),
        (["--rate", "5e9"], "a rate of 5e+09 frames/s: above 0, at most"),
        (["--rate", "max"], "a file has no fastest rate"),
        (["--rate", "40%"], "a file does not report a speed"),
        (["--mix", "nonsense"], "mix: 'nonsense' is not a kind of frame"),
        (["--mix", "ok=0"], "mix: weights are whole numbers"),
        (["--mix", "ok=-1"], "--mix: 'ok=-1': must be KIND or KIND=N"),
        (["--mix", "na"], "mix: na: no virtual host has an IPv6 address"),
        (["--vhid", "0"], "--vhid: 0: must be from 1 to 255"),
        (["--advskew", "255"], "--advskew: 255: must be from 0 to 254"),
        (["--source", "fe80::1"], "--source: fe80::1 is not an IPv4 address"),
        (["--source", "10.0.0.0-10.255.255.255"], "more than 1,048,576 (FLOWS_MAX)"),
        (["--address", "10.0.0.0-10.0.255.255"], "--address: 65,536 addresses; allowed: 4,096"),
        (["--burst", "9", "0.001", "--rate", "100"], "takes longer than the 0.001 s"),
        (["--passphrase-file", "/nowhere"], "/nowhere"),
        (["-c", "/nowhere"], "/nowhere"),
        (["--from", "/nowhere"], "/nowhere: No such file or directory"),
        (["--rate", "10x"], "rate 10x: must be frames/s above 0 (1000, 10k, 1M)"),
        (["--rate", "bit"], "rate bit: must be frames/s"),
        (["-i", "nosuch0", "--rate", "40%"], "nosuch0: no such interface"),
        (["--counter", "0-18446744073709551615"], "allowed: 4,294,967,295 (VALUES_MAX)"),
        (["--counter", "fixed:0-4294967290"], "values in a list; allowed: 1,000,000"),
        (["--source6", "::-ffff::"], "allowed: 4,294,967,295 (VALUES_MAX)"),
        (["--advskew", "1-9/two"], "'two': a step is a whole number"),
        (["--source-mac", "01:00:5e:00:00:12"], "is the MAC of a group"),
        (["--source-mac", "00:00:00:00:00:00"], "is not the MAC of a host"),
        (["--burst", "9", "1", "--rate", "10-100"], "bursts and a rate that changes"),
        (["--storm", "--rate", "10-100"], "bursts and a rate that changes"),
        (["--storm", "--advbase", "0"], "--storm: advbase and advskew 0 are no interval"),
        (["--storm", "--mix", "arp"], "--storm: no kind of --mix is an advertisement"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    result = flood("--write", tmp_path / "x", *words)
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1), result.output
    assert said in result.output


def test_recordings_that_cannot_be_sent(tmp_path: Path) -> None:
    frame = advertisement()
    for name, made, said in (
        ("raw", recorded(tmp_path / "raw", [frame[14:]], RAW_IP), "have no Ethernet header"),
        (
            "cut",
            recorded(tmp_path / "cut", [frame], cut=1),
            "record 1 is truncated: 70 of 71 bytes",
        ),
        ("none", recorded(tmp_path / "none", []), "contains no frame"),
        ("long", recorded(tmp_path / "long", [bytes(2000)]), "from 14 to 1,518 bytes"),
    ):
        result = flood("--write", tmp_path / "x", "--from", made)
        assert (result.exit_code, said in result.output) == (1, True), (name, result.output)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "missing option -i IF or --write PCAP"),
        (["-i", "s1", "--storm", "--burst", "1", "1"], f"--storm {TOGETHER} --burst"),
        (["-i", "s1", "-c", "x", "--address", "10.0.0.1"], f"--config {TOGETHER} --address"),
        (["-i", "s1", "--from", "x", "--vhid", "1"], f"unchanged and {TOGETHER} --vhid"),
        (["-i", "s1", "--from", "x", "--rate", "1", "--speed", "2"], f"--speed {TOGETHER} --rate"),
        (["-i", "s1", "--from", "x", "--address", "10.0.0.1"], f"{TOGETHER} --address"),
        (["-i", "s1", "--from", "x", "--source-mac", "any"], f"{TOGETHER} --source-mac"),
        (["-i", "s1", "--speed", "2"], "--speed needs --from PCAP"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], said: str) -> None:
    result = flood(*words)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


@pytest.mark.parametrize("number", ["nan", "1e-320", "1e-10", "inf", "1e308", "9" * 30])
@pytest.mark.parametrize("option", ["--duration", "--speed", "--step-duration", "--from-rate"])
def test_a_number_that_is_none_or_out_of_reach_is_refused(option: str, number: str) -> None:
    result = flood("-i", "lo", option, number)
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
    assert f"Invalid value for '{option}'" in result.output


def test_the_table_of_conflicts_names_options_that_there_are() -> None:
    options = {each.name for each in cli_flood.flood.params}
    for rule in CONFLICTS:
        assert {rule.option, *rule.without, *rule.needs} - {None} <= options, rule
        assert rule.without or rule.needs, rule


def test_an_interface_that_somebody_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "refusal", lambda interface: f"{interface} holds the default route")
    result = flood("-i", "lo")
    assert result.exit_code == 1
    assert result.output == (
        "carp-fast: lo holds the default route; use --i-own-this-network to send anyway\n"
    )
    monkeypatch.setattr(cli_flood, "_send", lambda *_: None)
    assert flood("-i", "lo", "--i-own-this-network").exit_code == 0


@pytest.mark.parametrize(
    ("rate", "gap_ns"),
    [("10k", 100_000), ("0.01M", 100_000), ("7.52Mbit", 100_000), ("752kbit", 1_000_000)],
)
def test_rates_have_units(tmp_path: Path, rate: str, gap_ns: int) -> None:
    # 70 bytes of a frame and 24 around it are 752 bits on the wire.
    first, second = written(tmp_path / "x", "--rate", rate, "--count", 2)
    assert second.at_ns - first.at_ns == gap_ns


def test_a_share_of_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carp_fast.loadtest.sender.speed_mbits", lambda interface: 1000)
    file = tmp_path / "x"
    # 70 bytes and 24 around them: 1,329,787 frames/s fill a gigabit; a thousandth of that.
    result = flood("-i", "lo", "--write", file, "--rate", "0.1%", "--duration", "1", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["sent"] == 1330


def test_an_interface_that_does_not_exist() -> None:
    assert netdev.counters().get("none-such") is None
    assert netdev.speed_mbits("none-such") is None
    assert netdev.features_of(999_999) is None
    result = flood("-i", "none-such")
    assert result.exit_code == 1
    assert result.output == "carp-fast: none-such: no such interface\n"
