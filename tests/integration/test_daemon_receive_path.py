"""The daemon's receive path: rings in both kinds of pump, and every way in which BPF is refused."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.bpf_objects import (
    MAP_GET_FD_BY_ID,
    PROG_GET_FD_BY_ID,
    every_object,
    exists,
    held_objects,
    objects_of,
)
from tests.support.bpf_refused import shim
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths("send", "receive", "hold", reason="receive paths are compared"),
]

HOSTS = 40
TABLE = {"vhid": f"1-{HOSTS}", "addresses": "{10.1.1.1+index}/16"}
STATE_S = 10
PYTHON = (sys.executable, "-m", "carp_fast")
RINGS = {"receive": "ring"}


def start(
    host: Host,
    directory: Path,
    *,
    program: Sequence[str] = PYTHON,
    interface: str = "s1",
    daemon: dict[str, str] | None = None,
    advskew: int = 0,
) -> RunningDaemon:
    path = write(host, directory, interface=interface, daemon=daemon, advskew=advskew)
    return start_daemon(host, path, program=program)


def write(
    host: Host,
    directory: Path,
    *,
    interface: str,
    advskew: int,
    daemon: dict[str, str] | None = None,
) -> Path:
    """Writes the configuration of start(), also of one that runs."""
    return write_configuration(
        directory,
        host.name,
        [{**TABLE, "interface": interface}],
        defaults={"dead_ratio": 1, "advskew": advskew},  # MASTER after a second, and by advskew
        daemon={**RINGS, **(daemon or {})},
    )


def lab_of(lab_factory: Callable[..., Lab], segments: int = 1) -> tuple[Host, Host]:
    a, b = lab_factory(hosts=("a", "b"), segments=segments).hosts
    return a, b


def heard(daemon: RunningDaemon, interface: str = "s1") -> int:
    return min(daemon.counters(interface, vhid)["advertisements_heard"] for vhid in (1, HOSTS))


@pytest.mark.parametrize("pump", ["thread", "loop"])
def test_a_pair_uses_rings_in_both_kinds_of_pump(
    lab_factory: Callable[..., Lab], tmp_path: Path, pump: str
) -> None:
    a, b = lab_of(lab_factory)
    master = start(a, tmp_path, daemon={"pump": pump})
    master.wait_state("MASTER", STATE_S)
    backup = start(b, tmp_path, daemon={"pump": pump}, advskew=100)
    wait_for(lambda: heard(backup) >= 3, STATE_S, "three advertisements")
    assert set(backup.states().values()) == {"BACKUP"}
    counters = backup.interface("s1")["counters"]
    assert [counters[word] for word in ("bad_checksum", "bad_auth", "replay", "loop")] == [0] * 4
    shown = backup.status()["daemon"]
    assert (shown["receive"], shown["pump"]["dropped"]) == ("ring", 0)
    assert backup.log_lines(r'receive path: ring \(daemon.receive = "ring"\)')
    master.kill()
    backup.wait_state("MASTER", STATE_S)
    # It has heard nothing for a second: the first frame wakes it, and is answered.
    master = start(a, tmp_path, daemon={"pump": pump})
    wait_for(lambda: heard(master) >= 1, STATE_S, "the other host is heard")


def test_an_interface_that_a_reload_adds_is_heard(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_of(lab_factory, segments=2)
    master = start(a, tmp_path, interface="s[1-2]")
    master.wait_state("MASTER", STATE_S)
    backup = start(b, tmp_path, advskew=100)
    wait_for(lambda: heard(backup) >= 1, STATE_S, "the first interface is heard")
    write(b, tmp_path, interface="s[1-2]", advskew=100)
    backup.reload()
    wait_for(lambda: heard(backup, "s2") >= 1, STATE_S, "the second interface is heard")


def test_an_interface_that_a_reload_removes_is_not_heard_any_more(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_of(lab_factory, segments=2)
    master = start(a, tmp_path, interface="s[1-2]")
    master.wait_state("MASTER", STATE_S)
    backup = start(b, tmp_path, interface="s[1-2]", advskew=100)
    wait_for(lambda: heard(backup, "s2") >= 1, STATE_S, "the second interface is heard")
    write(b, tmp_path, interface="s1", advskew=100)
    backup.reload()

    def frames() -> tuple[int, int]:
        """All that were read, and those of them that virtual hosts of s1 heard."""
        document = backup.status()
        (interface,) = document["interfaces"]
        return document["daemon"]["pump"]["frames"], interface["counters"]["advertisements_heard"]

    read, for_s1 = frames()
    wait_for(lambda: frames()[1] >= for_s1 + 3 * HOSTS, STATE_S, "three intervals")
    more_read, more_for_s1 = frames()
    # The pump counts frames before it judges them: at most one tick's may be between the two.
    assert more_read - read <= more_for_s1 - for_s1 + HOSTS
    write(b, tmp_path, interface="s[1-2]", advskew=100)
    backup.reload()
    wait_for(lambda: heard(backup, "s2") >= 1, STATE_S, "the second interface is heard again")


@pytest.mark.parametrize("medium", ["veth", "macvlan", "bridge port", "bridge"])
def test_an_interface_of_any_kind_that_goes_and_comes_back_is_heard(
    lab_factory: Callable[..., Lab], tmp_path: Path, medium: str
) -> None:
    """It comes back with another number. A bridge is heard once, not once more by its port."""
    wire = {"bridge port": "bridge", "bridge": "veth"}.get(medium, medium)
    lab = lab_factory(hosts=("a", "b"), segments=1, medium=wire)
    a, b = lab.hosts
    if medium == "bridge":
        make_bridge(b)
    name = "br1" if medium == "bridge" else "s1"
    master = start(a, tmp_path, daemon={"receive": "auto"})
    master.wait_state("MASTER", STATE_S)
    backup = start(b, tmp_path, interface=name, daemon={"receive": "auto"}, advskew=100)
    wait_for(lambda: heard(backup, name) >= 3, STATE_S, "three advertisements")
    assert backup.status()["daemon"]["receive"] == "ring"
    before = backup.interface(name)
    assert [before["counters"][word] for word in ("bad_auth", "replay", "loop")] == [0] * 3
    if medium == "bridge":
        b.run(["ip", "link", "del", "br1"])
    else:
        lab.delete_interface("b", 1)
    backup.wait_state("INIT", STATE_S)
    if medium == "bridge":
        make_bridge(b)
    else:
        lab.recreate_interface(1)
        master.wait_state("MASTER", STATE_S)  # with a veth its interface went, too
    at_first = heard(backup, name)
    wait_for(lambda: heard(backup, name) >= at_first + 3, STATE_S, "it is heard again")
    after = backup.interface(name)
    assert after["ifindex"] not in (0, before["ifindex"])
    assert [after["counters"][word] for word in ("bad_auth", "replay", "loop")] == [0] * 3
    assert set(backup.states().values()) == {"BACKUP"}


def make_bridge(host: Host) -> None:
    """A bridge with the port s1 and its addresses."""
    for line in (
        "link add br1 type bridge",
        "link set s1 master br1",
        "addr flush dev s1",
        f"addr add {host.address(1)}/16 dev br1",
        "link set br1 up",
    ):
        host.run(["ip", *line.split()])


# ---------------------------------------------------------------------------- refused, and left


@pytest.mark.parametrize("what", ["MAP_CREATE", "MMAP", "PROG_LOAD", "ATTACH"])
@pytest.mark.parametrize("wanted", ["auto", "ring"])
def test_the_daemon_hears_by_a_packet_socket_where_bpf_is_refused(
    lab_factory: Callable[..., Lab], tmp_path: Path, what: str, wanted: str
) -> None:
    a, b = lab_of(lab_factory)
    master = start(a, tmp_path)
    master.wait_state("MASTER", STATE_S)
    program = (*shim(what, errno.EPERM), *PYTHON)
    backup = start(b, tmp_path, program=program, advskew=100, daemon={"receive": wanted})
    (line,) = backup.log_lines("receive path: ")
    assert re.search(r"packet \(no rings: .*in spite of the capabilities: a seccomp filter", line)
    assert ("WARNING" in line.upper()) == (wanted == "ring")
    shown = backup.status()["daemon"]
    assert shown["receive"] == "packet"
    assert f"({shown['receive_reason']})" in line
    # Each path falls back by itself: clones need no filter of a socket.
    assert shown["send"] == ("clones" if what == "ATTACH" else "packet")
    wait_for(lambda: heard(backup) >= 2, STATE_S, "two advertisements")
    master.kill()
    backup.wait_state("MASTER", STATE_S)


def test_rings_are_used_where_clones_are_refused(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_of(lab_factory)
    master = start(a, tmp_path, program=(*shim("PROG_TEST_RUN", errno.EPERM), *PYTHON))
    master.wait_state("MASTER", STATE_S)
    backup = start(b, tmp_path, program=(*shim("PROG_TEST_RUN", errno.EPERM), *PYTHON), advskew=100)
    wait_for(lambda: heard(backup) >= 2, STATE_S, "two advertisements")
    shown = backup.status()["daemon"]
    assert (shown["receive"], shown["send"]) == ("ring", "packet")


@pytest.mark.parametrize(
    ("capability", "path"), [("", "packet"), (",+bpf", "ring"), (",+sys_admin", "ring")]
)
def test_capabilities_decide_and_are_named_where_they_lack(
    lab_factory: Callable[..., Lab], tmp_path: Path, capability: str, path: str
) -> None:
    """As in a unit or a container, of a kernel that forbids BPF to others (by a sysctl)."""
    if Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() == "0":
        pytest.skip("kernel.unprivileged_bpf_disabled is 0: everybody may use BPF")
    a, b = lab_of(lab_factory)
    master = start(a, tmp_path)
    master.wait_state("MASTER", STATE_S)
    limited = ("setpriv", f"--bounding-set=-all,+net_admin,+net_raw{capability}", *PYTHON)
    backup = start(b, tmp_path, program=limited, advskew=100, daemon={"receive": "auto"})
    (line,) = backup.log_lines("receive path: ")
    assert f"receive path: {path} (" in line
    lacking = "no rings: needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN"
    assert (lacking in line) == (path == "packet")
    wait_for(lambda: heard(backup) >= 2, STATE_S, "two advertisements")


def test_nothing_is_left_of_a_daemon_that_was_killed(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    """Neither what it held by descriptors, nor anything else that was not there before."""
    a, _ = lab_of(lab_factory)
    before = every_object()
    capable = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw,+bpf", *PYTHON)
    daemon = start(a, tmp_path, program=capable)
    daemon.wait_state("MASTER", STATE_S)
    made = objects_of(daemon.process.pid)
    assert {command for command, _ in made} == {PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID}
    assert made <= every_object() - before
    daemon.kill()
    wait_for(lambda: not any(map(exists, made)), STATE_S, "programs and maps are gone")
    # Other tests may run at the same time: what they made, they hold.
    wait_for(lambda: not every_object() - before - held_objects(), STATE_S, "nothing else is left")
