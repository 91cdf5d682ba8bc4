"""What tcpdump and tshark make of our frames: readers that share nothing with our own parser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Host, Lab, interface_name, wait_for
from carp_fast.lab.observer import Key, Observer
from tests.support.daemons import start_daemon, write_configuration

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths("receive", "hold", reason="others read what is sent"),
]

INTERFACE = interface_name(1)
# By vhid: (advbase, advskew, addresses).
PLAIN, SKEWED, MANY, SLOW = 1, 20, 200, 255
VIRTUAL_HOSTS = {
    PLAIN: (1, 0, ["10.1.1.1/32"]),
    SKEWED: (1, 254, ["10.1.1.2/16"]),
    MANY: (1, 7, [f"10.1.2.{n}/32" for n in range(1, 13)]),
    SLOW: (2, 100, ["192.0.2.1/24"]),
}
ADVERTISED_MIN = 3
TSHARK_FIELDS = (
    "carp.vhid",
    "carp.adver_int",
    "carp.advskew",
    "carp.authlen",
    "carp.version",
    "carp.type",
    "carp.counter",
    "carp.checksum.status",
    "ip.checksum.status",
    "ip.ttl",
    "ip.dst",
    "eth.dst",
)
GOOD = "1"  # of a field *.checksum.status


def captured(lab: Lab) -> Path:
    """A capture made on host b of the whole life of a daemon on host a."""
    a, b = lab.hosts
    path = lab.directory / "ours.pcap"
    capture = b.start(
        [
            "tcpdump",
            "--immediate-mode",
            "-U",
            "-n",
            "-i",
            INTERFACE,
            "-w",
            path,
            "arp or ip proto 112",
        ],
        log=lab.directory / "capture.log",
    )
    wait_for(lambda: "listening on" in capture.output(), 10, "tcpdump listening")
    tables = [
        {
            "interface": INTERFACE,
            "vhid": vhid,
            "advbase": advbase,
            "advskew": advskew,
            "addresses": addresses,
            "dead_ratio": 1,
        }
        for vhid, (advbase, advskew, addresses) in VIRTUAL_HOSTS.items()
    ]
    with Observer(b) as observer:
        daemon = start_daemon(a, write_configuration(lab.directory, "a", tables))

        def advertised() -> bool:
            heard = observer.advertisements(a)
            return all(
                Key(1, vhid) in heard and heard[Key(1, vhid)].frames >= ADVERTISED_MIN
                for vhid in VIRTUAL_HOSTS
            )

        observer.wait_until(advertised, 25, "advertisements of every virtual host")
        assert daemon.stop() == 0
    resigned = "advbase=255 advskew=255"
    wait_for(
        lambda: as_carp(b, path).count(resigned) == len(VIRTUAL_HOSTS), 10, "resignations on file"
    )
    assert capture.stop() == 0, capture.output()
    return path


def test_tcpdump_and_tshark_find_our_frames_valid(
    lab_factory: Callable[..., Lab], program: Callable[[str], str]
) -> None:
    """Advertisements, resignations and gratuitous ARPs of four virtual hosts, read by both.

    No checksum is called wrong, and every field says what the configuration says.
    """
    for name in ("tcpdump", "tshark"):
        program(name)
    lab = lab_factory("carp-fast-readers", segments=1)
    path = captured(lab)
    reader = lab["b"]
    source = lab["a"].address(1)
    read_as_vrrp(reader, path, source)
    by_tcpdump = read_by_tcpdump(reader, path, source)
    by_tshark = read_by_tshark(reader, path, source)
    assert by_tcpdump == by_tshark

    for vhid, (advbase, advskew, _) in VIRTUAL_HOSTS.items():
        sent = [(base, skew) for number, base, skew, _ in by_tcpdump if number == vhid]
        assert len(sent) > ADVERTISED_MIN
        assert set(sent[:-1]) == {(advbase, advskew)}
        assert sent[-1] == (255, 255)
        counters = [counter for number, _, _, counter in by_tcpdump if number == vhid]
        assert counters == list(range(counters[0], counters[0] + len(counters)))
    announced = announcements(reader, path)
    every = {
        address.partition("/")[0]
        for _, _, addresses in VIRTUAL_HOSTS.values()
        for address in addresses
    }
    assert announced == every


def as_carp(reader: Host, path: Path, *more: str) -> str:
    """What tcpdump, told that protocol 112 is CARP, prints of it."""
    argv = ["tcpdump", "-T", "carp", "-vvn", "-r", str(path), "ip proto 112", *more]
    return reader.run(argv, check=False).stdout  # its last record may be half written


def read_as_vrrp(reader: Host, path: Path, source: str) -> None:
    """tcpdump takes protocol 112 for VRRP unless told: the checksum has to be right even so."""
    text = reader.run(
        ["tcpdump", "-vvn", "-r", str(path), "src", source, "and ip proto 112"]
    ).stdout
    assert "VRRPv2, Advertisement" in text
    assert "bad" not in text
    assert text.count("ttl 255") == text.count("flags [DF]") == text.count("VRRPv2")


def read_by_tcpdump(reader: Host, path: Path, source: str) -> list[tuple[int, int, int, int]]:
    """(vhid, advbase, advskew, counter) of each advertisement."""
    text = as_carp(reader, path, "and src", source)
    assert "bad" not in text
    found = re.findall(
        r"CARPv2-advertise 36: vhid=(\d+) advbase=(\d+) advskew=(\d+) authlen=7 counter=(\d+)$",
        text,
        re.MULTILINE,
    )
    assert len(found) == text.count("proto VRRP (112)")
    return [(int(vhid), int(base), int(skew), int(count)) for vhid, base, skew, count in found]


def read_by_tshark(reader: Host, path: Path, source: str) -> list[tuple[int, int, int, int]]:
    """The same, after every other field was found right."""
    argv = ["tshark", "-r", str(path), "-d", "ip.proto==112,carp", "-o", "ip.check_checksum:TRUE"]
    whose = f"ip.src == {source} && ip.proto == 112"
    faults = reader.run([*argv, "-Y", f"{whose} && (_ws.malformed || _ws.expert)"]).stdout
    assert faults == ""
    fields = [word for field in TSHARK_FIELDS for word in ("-e", field)]
    text = reader.run([*argv, "-Y", whose, "-T", "fields", *fields]).stdout
    rows = []
    for line in text.splitlines():
        row = dict(zip(TSHARK_FIELDS, line.split("\t"), strict=True))
        assert row["carp.checksum.status"] == row["ip.checksum.status"] == GOOD, row
        assert (row["carp.version"], row["carp.type"], row["carp.authlen"]) == ("2", "1", "7")
        assert (row["ip.ttl"], row["ip.dst"]) == ("255", "224.0.0.18")
        assert row["eth.dst"] == "01:00:5e:00:00:12"
        numbers = ("carp.vhid", "carp.adver_int", "carp.advskew", "carp.counter")
        vhid, base, skew, count = (int(row[number]) for number in numbers)
        rows.append((vhid, base, skew, count))
    return rows


def announcements(reader: Host, path: Path) -> set[str]:
    """The addresses of what tshark calls a gratuitous ARP request, none of them malformed."""
    argv = ["tshark", "-r", str(path), "-Y", "arp.isgratuitous == 1 && arp.opcode == 1"]
    text = reader.run([*argv, "-T", "fields", "-e", "arp.src.proto_ipv4", "-e", "eth.dst"]).stdout
    rows = [line.split("\t") for line in text.splitlines()]
    assert {destination for _, destination in rows} == {"ff:ff:ff:ff:ff:ff"}
    return {address for address, _ in rows}
