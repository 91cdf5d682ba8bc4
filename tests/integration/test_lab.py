"""The lab and its observer, with C ucarp as the daemon: what the other tests stand on.

Must not know carp-fast's own daemon.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carp_fast.lab import namespaces
from carp_fast.lab.lab import (
    Host,
    Lab,
    LabError,
    LabTimeout,
    Process,
    segment_network,
    virtual_address,
    wait_for,
)
from carp_fast.lab.observer import Key, Observer
from carp_fast.net.kernel import PACKET_ADD_MEMBERSHIP, PACKET_MR_MULTICAST, SOL_PACKET
from tests.support.burst import CARP_GROUP_MAC, carp_frame, packet_socket

LabFactory = Callable[..., Lab]
PORT = 9


@contextmanager
def datagrams(lab: Lab, segment: int) -> Iterator[Callable[[], bool]]:
    """Yields a question: does a datagram from host a reach host b now?"""
    with lab["a"].inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with lab["b"].inside():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    target = (lab["b"].address(segment), PORT)
    numbers = iter(range(1, 1000))

    def arrives() -> bool:
        text = str(next(numbers)).encode()
        sender.sendto(text, target)
        while select.select([receiver], [], [], 0.25)[0]:
            if receiver.recv(16) == text:
                return True
        return False

    with sender, receiver:
        receiver.bind(target)
        yield arrives


def link(host: Host, interface: str) -> dict[str, object]:
    found = json.loads(host.run(["ip", "-j", "link", "show", "dev", interface]).stdout)[0]
    assert isinstance(found, dict)
    return found


def arp_frame(sender: str, target: str) -> bytes:
    mac = bytes.fromhex("020000000001")
    return (
        b"\xff" * 6 + mac + b"\x08\x06" + bytes.fromhex("0001080006040001")
        + mac + socket.inet_aton(sender) + mac + socket.inet_aton(target)
    )  # fmt: skip


# Without root.


def test_wait_for_takes_a_last_look_and_names_what_it_awaited() -> None:
    answers = iter([False, False, True])
    wait_for(lambda: next(answers), 10, "the third answer")
    assert next(answers, None) is None
    with pytest.raises(LabTimeout, match=r"^not within 0.05 s: the end of days$"):
        wait_for(lambda: False, 0.05, "the end of days")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"name": "../x"}, "lab name"),
        ({"segments": 0}, "0 segments: 1 to 1024"),
        ({"segments": 1025}, "1025 segments"),
        ({"hosts": ("a", "a")}, "each named once"),
        ({"hosts": ("switch",)}, "host name 'switch'"),
        ({"hosts": ("a b", "c")}, "host name 'a b'"),
        ({"hosts": ("a", "b", "c")}, "veth joins exactly two hosts, not 3"),
    ],
)
def test_a_lab_that_cannot_be_is_refused(arguments: dict[str, object], fault: str) -> None:
    with pytest.raises(LabError, match=fault):
        Lab(**arguments)  # type: ignore[arg-type]


def test_addresses_go_on_after_segment_255() -> None:
    assert segment_network(7) == "10.7"
    assert segment_network(256) == "11.0"
    assert virtual_address(300, 9) == "11.44.1.9"


# Wiring.


@pytest.mark.root
def test_256_segments_all_with_carrier_and_address(lab_factory: LabFactory) -> None:
    lab = lab_factory(segments=256)
    for number, host in enumerate(lab.hosts, 1):
        expected = {(f"s{k}", f"{segment_network(k)}.0.{number}") for k in range(1, 257)}
        assert host.addresses() == expected
    with datagrams(lab, 1) as first, datagrams(lab, 256) as last:
        assert first()
        assert last()


@pytest.mark.root
@pytest.mark.parametrize(
    ("medium", "hosts"),
    [("veth", "ab"), ("macvlan", "ab"), ("macvlan", "abc"), ("bridge", "abc")],
)
def test_a_partition_keeps_the_carrier_and_heals(
    lab_factory: LabFactory, medium: str, hosts: str
) -> None:
    lab = lab_factory(medium=medium, hosts=tuple(hosts), segments=2)
    with datagrams(lab, 1) as arrives, datagrams(lab, 2) as arrives_beside:
        assert arrives()
        lab.partition(1)
        assert not arrives()
        assert arrives_beside()
        assert {link(host, "s1")["operstate"] for host in lab.hosts} == {"UP"}
        lab.heal(1)
        assert arrives()


@pytest.mark.root
def test_a_partition_may_cut_off_one_host_of_three(lab_factory: LabFactory) -> None:
    lab = lab_factory(medium="bridge", hosts=("a", "b", "c"), segments=1)
    with datagrams(lab, 1) as arrives:
        lab.partition(1, ["c"])
        assert arrives()
        lab.partition(1, ["b"])
        assert not arrives()
        lab.heal(1, ["b"])
        assert arrives()


@pytest.mark.root
@pytest.mark.parametrize(
    ("medium", "hosts"), [("veth", "ab"), ("macvlan", "ab"), ("bridge", "abc")]
)
def test_links_go_down_lose_carrier_and_come_back_anew(
    lab_factory: LabFactory, medium: str, hosts: str
) -> None:
    lab = lab_factory(medium=medium, hosts=tuple(hosts), segments=2)
    b = lab["b"]
    before = b.addresses()
    with datagrams(lab, 1) as arrives:
        lab.set_link("b", 1, up=False)
        assert link(b, "s1")["operstate"] == "DOWN"
        lab.set_link("b", 1, up=True)
        wait_for(arrives, 10, "datagrams after link up")
        lab.set_carrier("b", 1, up=False)
        wait_for(
            lambda: (
                "NO-CARRIER" in str(link(b, "s1")["flags"])
                or link(b, "s1")["operstate"] == "LOWERLAYERDOWN"
            ),
            10,
            "loss of carrier",
        )
        assert "UP" in str(link(b, "s1")["flags"])
        lab.set_carrier("b", 1, up=True)
        wait_for(arrives, 10, "datagrams after carrier")
    old_index = link(b, "s1")["ifindex"]
    lab.delete_interface("b", 1)
    assert "s1" not in b.interfaces()
    lab.recreate_interface(1)
    assert b.addresses() == before
    assert link(b, "s1")["ifindex"] != old_index
    # The other host remembers the old interface's MAC.
    lab["a"].run(["ip", "neigh", "flush", "dev", "s1"])
    with datagrams(lab, 1) as arrives:
        assert arrives()


@pytest.mark.root
@pytest.mark.parametrize(("medium", "filters"), [("veth", False), ("macvlan", True)])
def test_macvlan_lets_a_group_through_only_once_it_is_joined(
    lab_factory: LabFactory, medium: str, filters: bool
) -> None:
    lab = lab_factory(medium=medium, segments=1)
    with packet_socket(lab["a"], "s1") as sender, packet_socket(lab["b"], "s1") as receiver:
        receiver.settimeout(5)
        broadcast = arp_frame("10.1.0.1", "10.1.0.1")

        def heard() -> list[bytes]:
            """What arrives of an advertisement and of the broadcast sent after it."""
            sender.send(carp_frame(1, "10.1.0.1"))
            sender.send(broadcast)
            frames = [receiver.recv(128)]
            while frames[-1] != broadcast:
                frames.append(receiver.recv(128))
            return frames

        assert (carp_frame(1, "10.1.0.1") in heard()) is not filters
        index = link(lab["b"], "s1")["ifindex"]
        join = struct.pack("iHH8s", index, PACKET_MR_MULTICAST, 6, CARP_GROUP_MAC)
        receiver.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, join)
        assert carp_frame(1, "10.1.0.1") in heard()


@pytest.mark.root
def test_a_host_takes_another_address(lab_factory: LabFactory) -> None:
    lab = lab_factory(segments=1)
    lab["a"].set_address(1, "10.1.9.200")
    assert lab["a"].address(1) == "10.1.9.200"
    assert lab["a"].addresses() == {("s1", "10.1.9.200")}
    with datagrams(lab, 1) as arrives:
        assert arrives()


@pytest.mark.root
def test_the_wire_is_quiet_unless_ipv6_is_asked_for(lab_factory: LabFactory) -> None:
    quiet, loud = lab_factory(segments=1), lab_factory(segments=1, ipv6=True)

    def v6(lab: Lab) -> str:
        return lab["a"].run(["ip", "-6", "addr", "show", "dev", "s1"]).stdout

    assert v6(quiet) == ""
    assert "fe80::" in v6(loud)


# Processes.


@pytest.mark.root
def test_a_process_is_the_program_itself_in_its_hosts_namespace(
    lab_factory: LabFactory, tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    log = tmp_path / "log"
    process = lab["b"].start(
        ["sh", "-c", "echo $WORD; read line; echo $line; exit 7"],
        log=log,
        env={**os.environ, "WORD": "begun"},
        stdin=subprocess.PIPE,
    )
    wait_for(lambda: process.output() == "begun\n", 10, "the first word")
    assert Path(f"/proc/{process.pid}/comm").read_text() == "sh\n"
    here = (namespaces.NAMESPACES / lab["b"].namespace).stat()
    there = Path(f"/proc/{process.pid}/ns/net").stat()
    assert (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    assert process.alive()
    assert process.stdin is not None
    process.stdin.write(b"over\n")
    process.stdin.flush()
    assert process.wait(10) == 7
    assert not process.alive()
    assert process.output() == "begun\nover\n"


@pytest.mark.root
def test_a_program_that_fails_is_reported_with_its_words(lab_factory: LabFactory) -> None:
    host = lab_factory(segments=1)["a"]
    with pytest.raises(LabError, match=r'host a: ip link show nonesuch: exit code 1: .*"nonesuch"'):
        host.run(["ip", "link", "show", "nonesuch"])
    assert host.run(["false"], check=False).returncode == 1
    with pytest.raises(LabTimeout, match="sleep 60"):
        host.run(["sleep", "60"], deadline_s=0.05)
    with pytest.raises(LabError, match="cannot start /no/such/program: No such file"):
        host.start(["/no/such/program"])


@pytest.mark.root
def test_cpu_and_memory_of_a_process(lab_factory: LabFactory) -> None:
    host = lab_factory(segments=1)["a"]
    spinning = (
        "import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()"
    )
    process = host.start([sys.executable, "-c", spinning])
    # Spent by the second thread, so the leader's own schedstat would not show it.
    wait_for(lambda: process.cpu_ns() > 300_000_000, 10, "0.3 s of CPU time")
    leader = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
    assert leader < 300_000_000
    assert 1 << 20 < process.rss_bytes() < 1 << 28
    process.kill()
    with pytest.raises(LabError, match="has ended"):
        process.cpu_ns()


@pytest.mark.root
def test_closing_ends_what_was_started_and_what_that_started(tmp_path: Path) -> None:
    with Lab(segments=1) as lab:
        names = [host.namespace for host in lab.hosts]
        (lab.directory / "log").write_text("goes with the lab")
        note = tmp_path / "pid"
        lab["a"].start(["sh", "-c", 'setsid sleep 1000 & echo $! > "$0"; exec sleep 1000', note])
        wait_for(lambda: note.exists() and note.read_text(), 10, "the second process")
        escaped = os.pidfd_open(int(note.read_text()))
        leader = lab["a"].processes[0]
    try:
        assert select.select([escaped], [], [], 0)[0], "the process with a session of its own lives"
    finally:
        os.close(escaped)
    assert not leader.alive()
    assert not any((namespaces.NAMESPACES / name).exists() for name in names)
    assert not list(namespaces.RECORDS.glob(f"{lab.identity}*")), "record or directory"


# Whatever ends the owner, nothing stays.

OWNER = """
import sys
from carp_fast.lab.lab import Lab
with Lab("crashing", segments=1) as lab:
    process = lab["a"].start(["sleep", "1000"])
    print(lab.identity, process.pid, *[host.namespace for host in lab.hosts], flush=True)
    sys.stdin.readline()
    {end}
"""


@contextmanager
def owner(end: str) -> Iterator[tuple[subprocess.Popen[str], int, list[Path]]]:
    """Another Python process with a lab: (process, pidfd of what runs in the lab, namespaces)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER.format(end=end)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment,
    ) as popen:  # fmt: skip
        try:
            assert popen.stdout is not None
            _, pid, *names = popen.stdout.readline().split()
            pid_fd = os.pidfd_open(int(pid))
            try:
                assert popen.stdin is not None
                popen.stdin.write("what runs there is known now\n")
                popen.stdin.flush()
                yield popen, pid_fd, [namespaces.NAMESPACES / name for name in names]
            finally:
                os.close(pid_fd)
        finally:
            popen.kill()


def ended(pid_fd: int) -> bool:
    return bool(select.select([pid_fd], [], [], 0)[0])


@pytest.mark.root
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_an_interrupted_owner_removes_its_lab(number: int, code: int) -> None:
    with owner("sys.stdin.read()") as (popen, pid_fd, names):
        assert all(name.exists() for name in names)
        popen.send_signal(number)
        assert popen.wait(10) == code
        assert ended(pid_fd)
        assert not any(name.exists() for name in names)


@pytest.mark.root
def test_an_owner_that_fails_or_forgets_removes_its_lab() -> None:
    for end in ("raise RuntimeError", "lab.__class__.__exit__ = lambda *args: None"):
        with owner(end) as (popen, pid_fd, names):
            popen.wait(10)
            assert ended(pid_fd)
            assert not any(name.exists() for name in names)


@pytest.mark.root
def test_the_next_lab_removes_what_a_killed_one_left_and_nothing_else(
    lab_factory: LabFactory,
) -> None:
    foreign = f"foreign-{os.getpid()}-1-a"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    try:
        with (
            owner("sys.stdin.read()") as (_, living_fd, living),
            owner("sys.stdin.read()") as (popen, dead_fd, dead),
        ):
            onlooker = subprocess.Popen(["nsenter", f"--net={dead[0]}", "sleep", "1000"])
            try:
                popen.kill()
                popen.wait(10)
                assert all(name.exists() for name in dead)
                assert not ended(dead_fd)
                lab_factory(segments=1)
                assert not any(name.exists() for name in dead)
                assert not list(namespaces.RECORDS.glob(f"*-{popen.pid}-*"))
                assert ended(dead_fd)
                assert all(name.exists() for name in living)
                assert not ended(living_fd)
                assert (namespaces.NAMESPACES / foreign).exists()
                assert onlooker.poll() is None
            finally:
                onlooker.kill()
                onlooker.wait()
    finally:
        subprocess.run(["ip", "netns", "del", foreign], check=True)


@pytest.mark.root
def test_a_lab_stands_in_a_user_namespace_too(program: Callable[[str], str]) -> None:
    unshare = [program("unshare"), "--user", "--map-root-user", "--net", "--mount"]
    own_run = ["sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$0" "$@"']
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs user namespaces (the kernel refuses them)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*unshare, *own_run, sys.executable, "-m", "tests.support.burst"],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (0, "all of 2000\n"), done.stderr


# The observer.


@pytest.mark.root
def test_the_observer_tells_sources_marks_and_resignations(lab_factory: LabFactory) -> None:
    lab = lab_factory(segments=2)
    a, b = lab.hosts
    with (
        Observer(b) as observer,
        packet_socket(a, "s2") as from_a,
        packet_socket(b, "s2") as from_b,
    ):
        from_a.send(carp_frame(7, "10.2.0.1"))
        from_a.send(carp_frame(7, "10.2.0.1", advskew=3))
        from_a.send(arp_frame("10.2.1.7", "10.2.0.9"))  # a question, no announcement
        from_a.send(arp_frame("10.2.1.7", "10.2.1.7"))
        observer.wait_until(observer.announced, 10, "the announcement")
        assert observer.announced() == {(2, "10.2.1.7")}
        heard = observer.advertisements(a)[Key(2, 7)]
        assert (heard.frames, heard.advbase, heard.advskew) == (2, 1, 3)
        assert (heard.source, heard.mac) == ("10.2.0.1", "00:00:5e:00:00:01")
        assert heard.first_at_ns < heard.last_at_ns
        assert observer.masters(60) == {Key(2, 7): frozenset({"10.2.0.1"})}
        assert observer.first_since_mark(a) == {Key(2, 7): heard.first_at_ns}

        mark_at_ns = observer.mark()
        assert observer.announcements() == {}
        assert observer.first_since_mark() == {}
        assert observer.advertisements(b) == {}
        from_a.send(carp_frame(7, "10.2.0.1", 255, 255))
        from_b.send(carp_frame(7, "10.2.0.2"))
        observer.wait_until(lambda: observer.advertisements(b), 10, "the other host")
        first = observer.first_since_mark(b)[Key(2, 7)]
        assert first > mark_at_ns
        assert observer.masters(60) == {Key(2, 7): frozenset({"10.2.0.2"})}
        last = observer.advertisements("10.2.0.1")[Key(2, 7)].last_at_ns
        assert observer.silences_s(a, b) == {Key(2, 7): (first - last) / 1e9}
        assert observer.advertisements()[Key(2, 7)].source == "10.2.0.2"
        with pytest.raises(LabTimeout, match=r"^host b: not within 0.05 s: a third$"):
            observer.wait_until(lambda: len(observer.masters(60)) > 2, 0.05, "a third")
        assert observer.dropped() == 0
        assert observer.unrecorded == 0


@pytest.mark.root
def test_the_observer_counts_a_macvlan_once_and_survives_a_new_interface(
    lab_factory: LabFactory,
) -> None:
    lab = lab_factory(segments=1, medium="macvlan")
    a, b = lab.hosts
    with Observer(b) as observer:
        for vhid in (1, 2):
            with packet_socket(a, "s1") as sender:
                sender.send(arp_frame("10.1.0.1", f"10.1.1.{vhid}"))  # a question
                sender.send(arp_frame(f"10.1.1.{vhid}", f"10.1.1.{vhid}"))
            observer.wait_until(
                lambda: len(observer.announced()) == vhid,  # noqa: B023 (called in this turn)
                10,
                f"announcement {vhid}",
            )
            lab.delete_interface("b", 1)
            lab.recreate_interface(1)
        assert {seen.frames for seen in observer.announcements().values()} == {1}


@pytest.mark.root
def test_a_full_observer_counts_what_it_cannot_keep(
    lab_factory: LabFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carp_fast.lab.observer.MAX_RECORDS", 3)
    lab = lab_factory(segments=1)
    with Observer(lab["b"]) as observer, packet_socket(lab["a"], "s1") as sender:
        for vhid in range(1, 6):
            sender.send(carp_frame(vhid, "10.1.0.1"))
            sender.send(arp_frame(f"10.1.1.{vhid}", f"10.1.1.{vhid}"))
        observer.wait_until(lambda: observer.unrecorded == 4, 10, "four frames beyond the limit")
        assert len(observer.advertisements()) == len(observer.announced()) == 3


@pytest.mark.root
def test_ucarp_takes_over_and_the_observer_measures_it(
    lab_factory: LabFactory, program: Callable[[str], str], tmp_path: Path
) -> None:
    """Ten virtual hosts on two segments; the master's processes are killed."""
    ucarp = program("ucarp")
    script = tmp_path / "up"
    script.write_text('#!/bin/sh\nexec ip addr add "$2/32" dev "$1"\n')
    script.chmod(0o755)
    lab = lab_factory(segments=2)
    a, b = lab.hosts
    keys = {Key(segment, vhid) for segment in (1, 2) for vhid in range(1, 6)}
    addresses = {(f"s{key.segment}", virtual_address(*key)) for key in keys}

    def start(host: Host, key: Key, advskew: int) -> Process:
        options = (
            f"-i s{key.segment} -s {host.address(key.segment)} -v {key.vhid} -p secret"
            f" -a {virtual_address(*key)} -b 1 -k {advskew} -r 1 -P -u {script}"
        )
        return host.start([ucarp, *options.split()], log=tmp_path / f"{host.name}.log")

    with Observer(b) as observer:
        masters = [start(a, key, 0) for key in keys]
        expected = {key: frozenset({a.address(key.segment)}) for key in keys}
        observer.wait_until(lambda: observer.masters(1.5) == expected, 10, "host a master of all")
        for key in keys:
            start(b, key, 50)
        wait_for(lambda: a.addresses() >= addresses, 10, "all addresses on host a")
        assert not b.addresses() & addresses

        observer.mark()
        for process in masters:
            process.kill()
        observer.wait_until(
            lambda: observer.first_since_mark(b).keys() == keys, 10, "host b master of all"
        )
        silences = observer.silences_s(a, b)
        assert silences.keys() == keys
        # Configured: one second of dead ratio and 50/256; ucarp looks once an interval.
        assert all(1.0 < silence < 3.5 for silence in silences.values()), silences
        wait_for(lambda: b.addresses() >= addresses, 10, "all addresses on host b")
        wanted = {(key.segment, virtual_address(*key)) for key in keys}
        observer.wait_until(lambda: observer.announced() >= wanted, 10, "all announcements")
        assert observer.dropped() == 0


def test_without_root_a_lab_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(LabError, match=r"^network namespaces need root$"), Lab(segments=1):
        pytest.fail("a lab without root")
