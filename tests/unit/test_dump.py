"""`carp-fast dump` of recordings: lines, JSON, the summary, what it refuses."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from carp_fast.capture import listen
from carp_fast.capture.pcap import LINUX_SLL, Writer
from carp_fast.cli import main as cli
from tests.support.segment import advertisement, carp_header, ipv4_frame

VECTORS = Path(__file__).parent.parent / "vectors"
EL1 = VECTORS / "el1-bsd-master-killed-ucarp-takes-over.pcap"
AT = 1_700_000_000 * 10**9 + 123_456_789
TIME = "2023-11-14T22:13:20.123456Z"
NOT_JUDGED = "digests were not judged: no configuration was given (-c FILE)"


def dump(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    words = ["dump", *map(str, arguments)]
    return CliRunner().invoke(cli.main, words, input=stdin, prog_name="carp-fast")


def recording(*frames: bytes) -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    for frame in frames:
        writer.write(AT, frame)
    return file.getvalue()


def configuration(tmp_path: Path, **host: Any) -> Path:
    wanted = {"interface": "eth0", "vhid": 42, "passphrase": "secret"} | host
    lines = [f"{key} = {json.dumps(value)}" for key, value in wanted.items()]
    file = tmp_path / "carp-fast.toml"
    file.touch(mode=0o600)
    file.write_text("\n".join(("[[virtual_host]]", *lines)) + "\n")
    return file


def test_a_line_each_and_a_summary() -> None:
    frames = (
        advertisement(counter=1),
        advertisement(source="192.168.100.200", advskew=100, demote=3, counter=2**64 - 1),
        b"\xff" * 60,
        advertisement(vhid=7, checksum_error=1),
        ipv4_frame(carp_header()[:20]),
    )
    result = dump("-r", "-", stdin=recording(*frames))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{TIME}  10.77.0.1 > 224.0.0.18  IPv4  vhid 42  1/0  0000000000000001  ok",
        f"{TIME}  192.168.100.200 > 224.0.0.18  IPv4  vhid 42  1/100 demote 3"
        "  ffffffffffffffff  ok",
        f"{TIME}  10.77.0.1 > 224.0.0.18        IPv4  vhid 7   1/0           "
        "  0000000000000001  bad_checksum",
        f"{TIME}  10.77.0.1 > 224.0.0.18        IPv4  -        -             "
        "  -                 bad_length",
    ]
    assert result.stderr.splitlines() == [
        "4 advertisements: 2 ok, 1 bad_length, 1 bad_checksum",
        NOT_JUDGED,
    ]


def test_json_is_a_line_each_and_nothing_else() -> None:
    frames = (advertisement(advskew=5, counter=0x76A204439B979A43), ipv4_frame(bytes(8)))
    result = dump("--json", "-r", "-", stdin=recording(*frames))
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == {
        "at": TIME,
        "interface": None,
        "source": "10.77.0.1",
        "destination": "224.0.0.18",
        "family": 4,
        "vhid": 42,
        "advbase": 1,
        "advskew": 5,
        "demote": 0,
        "counter": "76a204439b979a43",
        "verdict": "ok",
    }
    assert list(first)[:3] == ["at", "interface", "source"]
    assert (second["source"], second["vhid"], second["verdict"]) == (
        "10.77.0.1",
        None,
        "bad_length",
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("el1-bsd-master-killed-ucarp-takes-over", 30),
        ("el4-freebsd13-vs-ucarp", 33),
        ("el7-openbsd-demote-beats-skew", 17),
        ("netbsd-one-v4", 4),
    ],
)
def test_recorded_elections_are_ok(tmp_path: Path, name: str, count: int) -> None:
    # The interface of the file is not asked for; the numbers are those of test_vectors.py.
    file = configuration(tmp_path, addresses="10.77.0.100/24")
    result = dump("-c", file, "-r", VECTORS / f"{name}.pcap")
    assert result.exit_code == 0
    assert result.stderr == f"{count} advertisements: {count} ok\n"
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == count
    assert {line[-1] for line in lines} == {"ok"}


def test_golden_frames_over_both_families(tmp_path: Path) -> None:
    golden = json.loads((VECTORS / "golden.json").read_text())
    frames = [bytes.fromhex(v["frame"]) for v in golden if v["case"] == "v4+linklocal"]
    both = configuration(tmp_path, addresses=["fe80::5e:1/64", "10.77.0.100/24"])
    result = dump("-c", both, "-r", "-", stdin=recording(*frames))
    assert result.stderr == "2 advertisements: 2 ok\n"
    assert [line.split()[4] for line in result.stdout.splitlines()] == ["IPv4", "IPv6"]
    hashed = configuration(
        tmp_path,
        addresses=["fe80::5e:1/64", "10.77.0.100/24"],
        dialect="openbsd",
        lladdr="02:00:00:00:00:01",
    )
    result = dump("-c", hashed, "-r", "-", "--json", stdin=recording(*frames))
    assert [json.loads(line)["why"] for line in result.stdout.splitlines()] == [
        "digest right without lladdr 02:00:00:00:00:01 (remove it here, or set it on the sender)"
    ] * 2


def test_el1_as_it_went() -> None:
    heard = [json.loads(line) for line in dump("--json", "-r", EL1).stdout.splitlines()]
    told = [(each["source"], each["advbase"], each["advskew"]) for each in heard]
    # NetBSD is master, ucarp takes over, NetBSD preempts and bows out.
    assert list(dict.fromkeys(told)) == [
        ("10.77.0.1", 1, 0),
        ("10.77.0.2", 1, 100),
        ("10.77.0.1", 255, 255),
    ]
    assert [each["at"] for each in heard] == sorted(each["at"] for each in heard)
    assert heard[0]["at"].endswith(":07.397894Z")


def test_why_a_digest_is_wrong(tmp_path: Path) -> None:
    file = configuration(tmp_path, addresses=["10.77.0.100/24", "10.77.0.101/24"])
    why = (
        "digest right without 10.77.0.101"
        " (ucarp signs exactly one address: move the rest to unsigned_addresses)"
    )
    text = dump("-c", file, "-r", EL1)
    assert text.stderr == "30 advertisements: 30 bad_auth\n"
    assert all(line.endswith(f"  bad_auth: {why}") for line in text.stdout.splitlines())
    heard = [json.loads(line) for line in dump("-c", file, "-r", EL1, "--json").stdout.splitlines()]
    assert {each["why"] for each in heard} == {why}


def test_what_nothing_explains_is_in_the_summary(tmp_path: Path) -> None:
    file = configuration(tmp_path, addresses="10.9.9.9/24")
    result = dump("-c", file, "-r", EL1)
    assert result.stderr.splitlines() == [
        "30 advertisements: 30 bad_auth",
        "sources with unexplained digests: 2 (at most 30,000 tries, TRIES_MAX;"
        " all subsets of up to 12 addresses, SUBSET_ADDRESSES_MAX)",
    ]
    assert "why" not in json.loads(dump("-c", file, "-r", EL1, "--json", "--count", "1").stdout)


def test_count_ends_it() -> None:
    result = dump("-r", EL1, "--count", "2")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    assert result.stderr.startswith("2 advertisements: 2 ok\n")
    assert dump("-r", EL1, "--count", "0").exit_code == 2


def test_vrrp_is_called_so() -> None:
    vrrp2 = bytes((0x21, 1, 100, 1, 0, 1)) + bytes(2) + bytes((10, 0, 0, 1)) + bytes(8)
    result = dump("-r", "-", stdin=recording(ipv4_frame(vrrp2), advertisement(version=3)))
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["vrrp", "vrrp"]


def test_a_frame_that_was_cut_by_the_capture_is_not_called_bad() -> None:
    file = io.BytesIO()
    frame = advertisement()
    Writer(file).write(AT, frame[:60], len(frame))
    cooked = struct.pack(">HHH8sH", 4, 1, 6, frame[6:12], 0x0800) + frame[14:]
    second = io.BytesIO()
    Writer(second, LINUX_SLL).write(AT, cooked[:50], len(cooked))
    for data, missing in ((file.getvalue(), 10), (second.getvalue(), 22)):
        line = dump("-r", "-", stdin=data).stdout
        said = f"bad_length: {missing} bytes were not captured (snap length)"
        assert line.endswith(f"  {said}\n")


def test_a_damaged_recording_gives_what_comes_before(tmp_path: Path) -> None:
    result = dump("-r", "-", stdin=recording(advertisement(), advertisement())[:-1])
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr.splitlines() == [
        "1 advertisement: 1 ok",
        NOT_JUDGED,
        "carp-fast: -: truncated: record 2 has 69 of 70 bytes",
    ]
    file = tmp_path / "ng.pcap"
    file.write_bytes(b"\x0a\x0d\x0d\x0a" + bytes(40))
    result = dump("-r", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"carp-fast: {file}: is pcapng, not pcap; ")


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "none"
    assert dump("-r", missing).stderr == f"carp-fast: {missing}: No such file or directory\n"
    result = dump("-r", EL1, "-c", missing)
    assert (result.exit_code, result.stderr) == (
        1,
        f"{missing}: cannot be read: No such file or directory\n",
    )

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(listen, "open_receiver", refused)
    result = dump("-i", "lo")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "carp-fast: listening needs root, or the capability CAP_NET_RAW\n",
    )


def test_an_interface_or_a_recording() -> None:
    assert dump("-i", "lo", "-r", EL1).exit_code == 2


def test_a_reader_that_leaves_early_is_no_failure(tmp_path: Path) -> None:
    file = tmp_path / "many.pcap"
    file.write_bytes(recording(*[advertisement()] * 5_000))
    words = [sys.executable, "-m", "carp_fast", "dump", "-r", str(file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
