"""What tshark makes of a flood in a file: kinds as asked for, checksums as they should be.

tshark shares nothing with the code that makes them.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from carp_fast.cli.main import main

EACH = 200
KINDS = ("ok", "bad_auth", "bad_checksum", "bad_ttl", "bad_version", "bad_length", "replay")
OTHERS = ("resignation", "changed_skew", "vrrp", "arp", "na")
GOOD, BAD = "1", "0"
AS_CARP = ["-d", "ip.proto==112,carp", "-o", "ip.check_checksum:TRUE"]


def fields(file: Path, only: str, *names: str) -> list[tuple[str, ...]]:
    words = [word for name in names for word in ("-e", name)]
    argv = ["tshark", "-r", str(file), *AS_CARP, "-Y", only, "-T", "fields", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def test_tshark_finds_the_mix_and_the_checksums(
    tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("tshark")
    file = tmp_path / "flood.pcap"
    mix = ",".join((*KINDS, *OTHERS))
    words = ["--write", str(file), "--count", str(EACH * len((*KINDS, *OTHERS))), "--mix", mix]
    hosts = ["--vhid", "7", "--address", "192.0.2.7", "--advskew", "100", "--vlan", "20"]
    hosts += ["--address", "2001:db8::7", "--counter", "5000"]
    assert CliRunner().invoke(main, ["flood", *words, *hosts]).exit_code == 0

    assert set(fields(file, "frame", "vlan.id")) == {("20",)}
    half = EACH // 2  # of each kind are IPv4, the rest IPv6
    heads = fields(file, "ip", "ip.checksum.status", "ip.ttl")
    assert Counter(heads) == {(GOOD, "255"): 9 * half, (GOOD, "254"): half}
    names = ("carp.checksum.status", "carp.version", "carp.advskew", "carp.adver_int")
    whole = fields(file, "carp", *names)
    assert Counter(whole) == {
        (GOOD, "2", "100", "1"): 4 * EACH,  # ok, bad_auth, bad_ttl, replay
        (BAD, "2", "100", "1"): EACH,
        (GOOD, "2", "255", "255"): EACH,
        (GOOD, "2", "0", "1"): EACH,
    }
    # The seventh kind that counts is of a version that tshark does not read; what it replays is.
    counters = [int(each) for (each,) in fields(file, "carp", "carp.counter")]
    assert Counter(counters) == dict.fromkeys(range(5_000, 5_000 + 7 * half), 2)  # two families
    assert (
        len(fields(file, "arp.isgratuitous == 1 && arp.src.proto_ipv4 == 192.0.2.7", "arp")) == EACH
    )
    announced = fields(file, "icmpv6.type == 136", "icmpv6.checksum.status", "icmpv6.nd.na.flag.o")
    assert announced == [(GOOD, "1")] * EACH
