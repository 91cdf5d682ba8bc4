"""The daemon's send path: clones in both kinds of pump, and every way in which BPF is refused."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.bpf_objects import MAP_GET_FD_BY_ID, PROG_GET_FD_BY_ID, exists, objects_of
from tests.support.bpf_refused import shim
from tests.support.daemons import PASSPHRASE, RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import start_ucarp

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths("send", "receive", "hold", reason="send paths are compared"),
]

HOSTS = 40
TABLE = {"interface": "s1", "vhid": f"1-{HOSTS}", "addresses": "{10.1.1.1+index}/16"}
ALONE = {"dead_ratio": 1}  # MASTER after 1 s
STATE_S = 10
PYTHON = (sys.executable, "-m", "carp_fast")
CAPABILITIES = "-all,+net_admin,+net_raw"


def start(
    host: Host,
    directory: Path,
    *,
    program: Sequence[str] = PYTHON,
    daemon: Any = None,
    **defaults: Any,
) -> RunningDaemon:
    keys = {**ALONE, **defaults}
    path = write_configuration(directory, host.name, [TABLE], defaults=keys, daemon=daemon)
    return start_daemon(host, path, program=program)


def lab_of(lab_factory: Callable[..., Lab]) -> tuple[Host, Host]:
    a, b = lab_factory(hosts=("a", "b"), segments=1).hosts
    return a, b


def sent_as_clones(daemon: RunningDaemon) -> int:
    return int(daemon.status()["daemon"]["pump"]["clones"])


@pytest.mark.parametrize("pump", ["thread", "loop"])
def test_a_pair_uses_clones_in_both_kinds_of_pump(
    lab_factory: Callable[..., Lab], tmp_path: Path, pump: str
) -> None:
    a, b = lab_of(lab_factory)
    master = start(a, tmp_path, daemon={"pump": pump})
    master.wait_state("MASTER", STATE_S)
    backup = start(b, tmp_path, daemon={"pump": pump, "send": "packet"}, advskew=100)
    wait_for(lambda: sent_as_clones(master) >= 4 * HOSTS, STATE_S, "clones")
    wait_for(lambda: backup.counters("s1", HOSTS)["advertisements_heard"] >= 3, STATE_S, "heard")
    assert set(backup.states().values()) == {"BACKUP"}
    interface = backup.interface("s1")["counters"]
    assert [interface[word] for word in ("bad_checksum", "bad_auth", "replay", "loop")] == [0] * 4
    shown = master.status()["daemon"]
    assert shown["send"] == "clones"
    assert shown["send_reason"].startswith('daemon.send = "auto"; ')
    assert master.interface("s1")["send"] == "clones"
    assert master.log_lines(r'send path: clones \(daemon.send = "auto"; ')
    assert backup.status()["daemon"]["send"] == backup.interface("s1")["send"] == "packet"
    # All resign, which takes clones, too.
    assert master.stop() == 0
    backup.wait_state("MASTER", STATE_S)
    assert not backup.log_lines("master_down")


def test_ucarp_hears_what_is_sent_as_clones(
    lab_factory: Callable[..., Lab], tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("ucarp")
    a, b = lab_of(lab_factory)
    master = start(a, tmp_path)
    master.wait_state("MASTER", STATE_S)
    wait_for(lambda: sent_as_clones(master) >= 2 * HOSTS, STATE_S, "clones")
    address = "10.1.1.1"  # of virtual host 1
    ucarp = start_ucarp(
        b, tmp_path, 1, 1, address=address, passphrase=PASSPHRASE, arguments=["--deadratio=2"]
    )
    before = sent_as_clones(master)
    # It would have taken over after two intervals of a second without a valid advertisement.
    wait_for(lambda: sent_as_clones(master) >= before + 5 * HOSTS, 20, "five intervals")
    assert ucarp.states == ["BACKUP"]
    assert "Bad digest" not in ucarp.process.output()
    assert set(master.states().values()) == {"MASTER"}


def test_tcpdump_on_the_host_sees_clones_that_leave(
    lab_factory: Callable[..., Lab], tmp_path: Path, program: Callable[[str], str]
) -> None:
    a, _ = lab_of(lab_factory)
    reader = [program("tcpdump"), "-lnni", "s1", "-Q", "out", "ip proto 112"]
    capture = a.start(reader, log=tmp_path / "tcpdump.log")
    wait_for(lambda: "listening on" in capture.output(), STATE_S, "tcpdump listening")
    master = start(a, tmp_path)
    wait_for(lambda: sent_as_clones(master) >= 3 * HOSTS, STATE_S, "clones")
    wait_for(
        lambda: (
            set(re.findall(r"vrid (\d+)", capture.output()))
            == {str(vhid) for vhid in range(1, HOSTS + 1)}
        ),
        STATE_S,
        "all virtual hosts seen",
    )
    # More of them than a packet socket may have sent until the interface was trusted.
    wait_for(lambda: capture.output().count("vrid") > 5 * HOSTS, STATE_S, "five intervals")


# --------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("MAP_CREATE", "auto"),
        ("MMAP", "auto"),
        ("PROG_LOAD", "clones"),
        ("PROG_TEST_RUN", "auto"),
    ],
)
def test_the_daemon_starts_where_a_command_of_bpf_is_refused(
    lab_factory: Callable[..., Lab], tmp_path: Path, what: str, wanted: str
) -> None:
    a, _ = lab_of(lab_factory)
    program = (*shim(what, errno.EPERM), *PYTHON)
    daemon = start(a, tmp_path, program=program, daemon={"send": wanted})
    daemon.wait_state("MASTER", STATE_S)
    (line,) = daemon.log_lines("send path: ")
    assert re.search(r"packet \(no clones: .*in spite of the capabilities: a seccomp filter", line)
    assert ("WARNING" in line.upper()) == (wanted == "clones")
    shown = daemon.status()["daemon"]
    assert (shown["send"], shown["pump"]["clones"]) == ("packet", 0)


def test_two_capabilities_are_enough_and_without_them_the_packet_socket_sends(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_of(lab_factory)
    few = ("setpriv", f"--bounding-set={CAPABILITIES}", *PYTHON)
    enough = ("setpriv", f"--bounding-set={CAPABILITIES},+bpf", *PYTHON)
    without = start(a, tmp_path, program=few)
    (line,) = without.log_lines("send path: ")
    assert "packet (no clones: needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN)" in line
    without.wait_state("MASTER", STATE_S)
    assert sent_as_clones(without) == 0
    with_both = start(b, tmp_path, program=enough)
    (line,) = with_both.log_lines("send path: ")
    assert "send path: clones (" in line


# --------------------------------------------------------------------------------- what is left


def test_nothing_is_left_of_a_daemon_that_was_killed(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_of(lab_factory)
    daemon = start(a, tmp_path)
    wait_for(lambda: sent_as_clones(daemon) > 0, STATE_S, "clones")
    made = objects_of(daemon.process.pid)
    assert {command for command, _ in made} == {PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID}
    assert all(map(exists, made))
    daemon.kill()
    wait_for(lambda: not any(map(exists, made)), STATE_S, "program and map are gone")
    assert "bpf" not in a.run(["tc", "filter", "show", "dev", "s1", "egress"]).stdout
