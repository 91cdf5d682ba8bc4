"""The daemon as a service manager and an administrator meet it: start, refusals, status, end."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from carp_fast import __version__
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.lab.observer import Observer
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.recording import AddressChanges, advertisement_socket, read_advertisement
from tests.support.users import public_directory

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="start, end, status of one daemon")]

# Where nobody else advertises: MASTER after 1 s.
ALONE = {"dead_ratio": 1}
# With the pump in the loop an advertisement may wait for what Python does meanwhile.
LOOP_LATE_S = 0.25
CARP_FAST = [sys.executable, "-m", "carp_fast"]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def table(vhids: str = "1-3", **keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": vhids, "addresses": ["10.1.1.{vhid}/32"], **keys}


def configuration(directory: Path, name: str = "a", vhids: str = "1-3", **daemon: Any) -> Path:
    return write_configuration(directory, name, [table(vhids)], defaults=ALONE, daemon=daemon)


def refusal(host: Host, path: Path, wrapper: Sequence[str] = ()) -> str:
    """What `carp-fast run` says on stderr when it ends at once with exit code 1."""
    argv = [*wrapper, *CARP_FAST, "run", "-c", str(path)]
    done = host.run(argv, check=False, deadline_s=10)
    assert done.returncode == 1, done
    assert done.stdout == ""
    return done.stderr


# -- the end


@pytest.mark.parametrize("pump", ["thread", "loop"])
def test_at_sigterm_addresses_go_first_and_then_resignations(
    lab_factory: Callable[..., Lab], tmp_path: Path, pump: str
) -> None:
    a, _ = lab_factory(segments=1).hosts
    pid_file = tmp_path / "pid"
    path = configuration(tmp_path, vhids="1-255", pump=pump, control_group="")
    daemon = start_daemon(a, path, arguments=["--pid-file", str(pid_file)])
    assert pid_file.read_text() == f"{daemon.process.pid}\n"
    assert stat.S_IMODE(daemon.control_socket.stat().st_mode) == 0o600
    daemon.wait_state("MASTER", 15)
    wait_for(lambda: len(a.addresses()) == 256, 10, "255 addresses")
    # An address leaves before its host resigns: when the resignation is seen, the notification
    # that the address is gone has been in the other socket's queue for some time.
    gone: set[str] = set()
    resigned: list[int] = []
    with a.inside():
        listener = advertisement_socket()
    with closing(listener), AddressChanges(a) as changes:
        began_at = time.monotonic()
        daemon.process.signal(15)
        while len(resigned) < 255:
            assert select.select([listener], [], [], 5)[0], f"{len(resigned)} resignations of 255"
            while (frame := read_advertisement(listener)) is not None:
                if not frame.resigned:
                    assert not resigned, "no advertisement after a resignation"
                    continue
                gone |= {address for added, address in changes.read() if not added}
                assert f"10.1.1.{frame.vhid}" in gone
                assert frame.vhid not in resigned
                resigned.append(frame.vhid)
        told_s = time.monotonic() - began_at
        assert daemon.process.wait(10) == 0
        ended_s = time.monotonic() - began_at
        assert read_advertisement(listener) is None
    assert a.addresses() == {("s1", "10.1.0.1")}
    assert not daemon.control_socket.exists()
    assert not pid_file.exists()
    print(f"pump {pump}: 255 resigned within {told_s * 1e3:.0f} ms of SIGTERM, each after its")
    print(f"address was gone; exit code 0 after {ended_s:.2f} s")


def test_sigint_ends_a_backup_without_a_word(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    master = start_daemon(a, configuration(tmp_path))
    master.wait_state("MASTER", 15)
    backup = start_daemon(b, write_configuration(tmp_path, "b", [table()]))
    with Observer(a) as observer:
        backup.process.signal(2)
        assert backup.process.wait(10) == 0
        assert not observer.advertisements(b)
    assert not backup.log_lines("Traceback|KeyboardInterrupt")
    assert set(master.states().values()) == {"MASTER"}


def test_with_the_pump_in_the_loop_the_backup_takes_over(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    master = start_daemon(a, configuration(tmp_path, vhids="1-100", pump="loop"))
    master.wait_state("MASTER", 15)
    assert master.log_lines("the pump runs in the event loop")
    path = write_configuration(
        tmp_path,
        "b",
        [table("1-100")],
        defaults={"advskew": 100, "dead_ratio": 2},
        daemon={"pump": "loop"},
    )
    backup = start_daemon(b, path)
    with Observer(b) as observer:
        observer.wait_until(lambda: len(observer.advertisements(a)) == 100, 10, "host a")
        master.kill()
        observer.mark()
        observer.wait_until(lambda: len(observer.first_since_mark(b)) == 100, 10, "host b")
        silences_s = observer.silences_s(a, b).values()
    backup.wait_state("MASTER", 10)
    wait_for(lambda: len(b.addresses()) == 101, 10, "100 addresses on host b")
    timeout_s = 2 + 100 / 256
    assert max(silences_s) <= timeout_s + LOOP_LATE_S
    print(f"pump loop: silence of 100 virtual hosts at most {max(silences_s):.3f} s", end=" ")
    print(f"(configured: {timeout_s:.3f} s)")
    assert backup.stop() == 0
    assert b.addresses() == {("s1", "10.1.0.2")}


# -- refusals


def test_a_control_socket_in_use_is_refused_and_a_stale_one_replaced(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    path = configuration(tmp_path)
    daemon = start_daemon(a, path)
    daemon.wait_state("MASTER", 15)
    line = refusal(a, path)
    socket_path = daemon.control_socket
    assert line.splitlines()[-1] == (
        f"carp-fast: control socket {socket_path} is in use by a running daemon"
        f" (pid {daemon.process.pid})"
    )
    assert set(daemon.states().values()) == {"MASTER"}
    daemon.kill()
    assert socket_path.exists()
    again = start_daemon(a, path)
    again.wait_state("MASTER", 15)
    assert again.log_lines(f"control socket {socket_path}: stale, replaced")
    assert again.stop() == 0


def test_the_control_socket_outlives_its_file_and_a_lock_of_its_directory(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    path = configuration(tmp_path)
    directory = os.open(tmp_path, os.O_RDONLY)  # any user who may list it can do this
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        daemon = start_daemon(a, path)
    finally:
        os.close(directory)
    daemon.control_socket.unlink()
    again = "the file was gone, created again"
    wait_for(lambda: bool(daemon.log_lines(again)), 10, "the control socket")
    assert len(daemon.states()) == 3
    assert daemon.stop() == 0
    assert not daemon.control_socket.exists()


# Not root, but with leave to import what only root may read.
DAC_OVERRIDE = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


@pytest.mark.parametrize(
    ("wrapper", "missing"),
    [
        (["--bounding-set=-net_raw"], "CAP_NET_RAW"),
        (["--bounding-set=-net_admin"], "CAP_NET_ADMIN"),
        (
            ["--reuid=65534", "--clear-groups", *DAC_OVERRIDE],
            "CAP_NET_RAW and CAP_NET_ADMIN",
        ),
    ],
)
def test_a_missing_capability_is_named_in_one_line(
    lab_factory: Callable[..., Lab], wrapper: list[str], missing: str
) -> None:
    a, _ = lab_factory(segments=1).hosts
    with public_directory() as directory:
        path = configuration(directory)
        path.chmod(0o644)
        line = refusal(a, path, ["setpriv", *wrapper])
        assert line == f"carp-fast: missing {missing}: run as root, or grant it\n"
        assert not path.with_suffix(".sock").exists()


@pytest.mark.parametrize("limit", [14, 18, 22, 24, 26, 28])
def test_too_few_file_descriptors_are_one_line(
    lab_factory: Callable[..., Lab], tmp_path: Path, limit: int
) -> None:
    a, _ = lab_factory(segments=1).hosts
    wrapper = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
    text = refusal(a, configuration(tmp_path), wrapper)
    assert re.search(r"^carp-fast: c\w+ .*: Too many open files\n\Z", text, re.MULTILINE)
    assert "Traceback" not in text


def test_who_manages_no_addresses_needs_no_capability_for_them(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    without = table(manage_addresses=False)
    path = write_configuration(tmp_path, "a", [without], defaults=ALONE)
    daemon = start_daemon(a, path, program=["setpriv", "--bounding-set=-net_admin", *CARP_FAST])
    daemon.wait_state("MASTER", 15)
    write_configuration(tmp_path, "a", [without, table("7")], defaults=ALONE)
    done = a.run(
        [*CARP_FAST, "reload", "--control-socket", str(daemon.control_socket)], check=False
    )
    missing = "missing CAP_NET_ADMIN: run as root, or grant it"
    assert (done.returncode, done.stderr) == (1, f"carp-fast: {missing}\n")
    assert set(daemon.states().values()) == {"MASTER"}
    assert daemon.stop() == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_harm_nothing(
    lab_factory: Callable[..., Lab], tmp_path: Path, closed: str
) -> None:
    a, _ = lab_factory(segments=1).hosts
    program = ["sh", "-c", f'exec "$@" {closed}', "sh", *CARP_FAST]
    daemon = start_daemon(a, configuration(tmp_path), program=program)
    daemon.wait_state("MASTER", 15)
    assert daemon.stop() == 0


def test_what_cannot_be_used_at_the_start_is_said_in_one_line(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    function = write_configuration(tmp_path, "f", [table(up="no_such_module:function")])
    assert "cannot import no_such_module:function" in refusal(a, function)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a directory should be")
    state = configuration(tmp_path, "s", state_directory=str(blocked / "state"))
    line = refusal(a, state).splitlines()[-1]
    assert re.fullmatch(r"carp-fast: state file \S+: Not a directory", line)
    for path in (function, state):
        assert not path.with_suffix(".sock").exists()


def test_every_fault_of_a_configuration_is_said_and_nothing_started(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    tables = [table("1", addbase=2), table("0"), table("2", addresses=["10.1.1"])]
    path = write_configuration(tmp_path, "a", tables)
    lines = refusal(a, path).splitlines()
    assert len(lines) == 3
    text = path.read_text().splitlines()
    for line in lines:
        place = re.fullmatch(rf"{re.escape(str(path))}:(\d+): virtual_host\[\d\]: (\w+) = .*", line)
        assert place is not None, line
        assert text[int(place.group(1)) - 1].startswith(place.group(2))
    assert any("advbase" in line for line in lines), "the nearest known key"
    assert not path.with_suffix(".sock").exists()


# -- status and events


COUNTERS = {
    "advertisements_sent",
    "advertisements_heard",
    "announcements_sent",
    "send_errors",
    "became_master",
    *VERDICT_WORDS[1:],
}
# The keys of the status document. A tuple: any of these types; None stands for null.
CONTRACT: dict[str, dict[str, tuple[type | None, ...]]] = {
    "daemon": {
        "version": (str,),
        "pid": (int,),
        "started_at": (str,),
        "host": (str,),
        "receive": (str,),
        "maintenance": (bool,),
    },
    "summary": dict.fromkeys(("virtual_hosts", "master", "backup", "init"), (int,)),
    "interface": {
        "name": (str,),
        "ifindex": (int,),
        "link": (str,),
        "source": (str, None),
        "source6": (str, None),
        **dict.fromkeys(("virtual_hosts", "master", "backup", "init"), (int,)),
        "counters": (dict,),
    },
    "virtual_host": {
        "interface": (str,),
        "vhid": (int,),
        "families": (list,),
        "destinations": (list,),
        "state": (str,),
        "since": (str,),
        "reason": (str,),
        "addresses": (list,),
        "advbase": (int,),
        "advskew": (int,),
        "effective_advskew": (int,),
        "demotion": (dict,),
        "peer": (dict, None),
        "counters": (dict,),
    },
    "demotion": {"total": (int,), "reasons": (dict,)},
    "peer": {
        "source": (str,),
        "advbase": (int,),
        "advskew": (int,),
        "heard_ago_s": (float, int),
    },
}
INTERFACE_COUNTERS = {"announcements_paced", "announcement_errors"}
HOST_COUNTERS = {
    "addresses_restored",
    "announcement_errors",
    "counter_reset",
    "duplicate_source",
    "family_silent",
}
ADDITIONS = {
    "daemon": {
        *("demotions", "maintenance_progress", "maintenance_state", "pump", "receive_fallbacks"),
        *("control", "helper", "receive_reason", "send", "send_reason", "upgrades"),
    },
    "interface": {"send"},
    "virtual_host": {
        *("addresses_held", "address_problems", "group", "held_by", "in_use_by"),
        *("name", "description", "segment", "peers", "warnings"),
    },
}


def assert_contract(kind: str, found: dict[str, Any]) -> None:
    contract = CONTRACT[kind]
    assert found.keys() == contract.keys() | ADDITIONS.get(kind, set()), kind
    for key, types in contract.items():
        kinds = {type(None) if each is None else each for each in types}
        assert type(found[key]) in kinds, (kind, key, found[key])


def assert_counters(found: dict[str, Any], additions: set[str]) -> None:
    assert found.keys() == COUNTERS | additions
    assert {type(value) for value in found.values()} == {int}


@pytest.mark.own_paths("receive", reason="the whole document is compared")
def test_status_is_as_the_contract_has_it(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    a, b = lab_factory(segments=1).hosts
    started_at = time.time()
    master = start_daemon(a, configuration(tmp_path))
    master.wait_state("MASTER", 15)
    path = write_configuration(
        tmp_path, "b", [table(unsigned_addresses=["10.1.2.{vhid}/24"])], defaults={"advskew": 9}
    )
    backup = start_daemon(b, path)
    wait_for(lambda: backup.counters("s1", 1)["advertisements_heard"] >= 2, 10, "a master")
    done = b.run([*CARP_FAST, "status", "-c", path, "--json"])
    document = json.loads(done.stdout)  # one document and nothing else
    assert done.stderr == ""
    parts = ["daemon", "summary", "interfaces", "groups", "tracks", "virtual_hosts"]
    assert list(document) == parts
    assert document["groups"] == document["tracks"] == []
    daemon = document["daemon"]
    assert_contract("daemon", daemon)
    assert RFC3339.fullmatch(daemon["started_at"])
    assert started_at < datetime.fromisoformat(daemon["started_at"]).timestamp() < time.time()
    assert (daemon["version"], daemon["pid"]) == (__version__, backup.process.pid)
    assert (daemon["host"], daemon["receive"]) == (socket.gethostname(), "ring")
    assert_contract("summary", document["summary"])
    assert document["summary"] == {"virtual_hosts": 3, "master": 0, "backup": 3, "init": 0}
    (interface,) = document["interfaces"]
    assert_contract("interface", interface)
    assert_counters(interface["counters"], INTERFACE_COUNTERS)
    assert (interface["name"], interface["link"]) == ("s1", "up")
    assert (interface["source"], interface["source6"]) == ("10.1.0.2", None)
    assert interface["counters"]["advertisements_heard"] >= 6
    assert len(document["virtual_hosts"]) == 3
    for number, host in enumerate(document["virtual_hosts"], 1):
        assert_contract("virtual_host", host)
        assert_contract("demotion", host["demotion"])
        assert_contract("peer", host["peer"])
        assert_counters(host["counters"], HOST_COUNTERS)
        assert RFC3339.fullmatch(host["since"])
        assert (host["vhid"], host["families"], host["destinations"]) == (
            number,
            [4],
            ["224.0.0.18"],
        )
        assert host["addresses"] == [f"10.1.1.{number}/32", f"10.1.2.{number}/24"]
        assert (host["advbase"], host["advskew"], host["effective_advskew"]) == (1, 9, 9)
        assert (host["peer"]["source"], host["peer"]["advskew"]) == ("10.1.0.1", 0)
        assert 0 <= host["peer"]["heard_ago_s"] < 2
    (own,) = master.status(vhid=2, state="master", interface="s1")["virtual_hosts"]
    assert_contract("virtual_host", own)
    assert (own["state"], own["reason"], own["addresses_held"]) == ("MASTER", "master_down", 1)
    assert own["counters"]["became_master"] == 1
    assert own["counters"]["announcements_sent"] >= 1
    assert master.status(vhid=2, state="BACKUP")["virtual_hosts"] == []


def test_events_are_told_as_they_happen(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(segments=1)
    a, _ = lab.hosts
    path = configuration(tmp_path, vhids="7")
    daemon = start_daemon(a, path)
    with daemon.events() as events:
        first = events.next_event(10)
        assert abs(datetime.fromisoformat(first.pop("at")).timestamp() - time.time()) < 1
        assert first == {
            "interface": "s1",
            "vhid": 7,
            "previous": "BACKUP",
            "state": "MASTER",
            "reason": "master_down",
            "peer": None,
            "demotion": {"total": 0, "reasons": {}},
            **dict.fromkeys(("group", "name", "description", "segment")),
        }
        process = a.start([*CARP_FAST, "events", "-c", path, "--json"], log=tmp_path / "events")

        def printed_one() -> bool:
            lab.set_link("a", 1, up=False)
            daemon.wait_state("INIT", 10)
            lab.set_link("a", 1, up=True)
            daemon.wait_state("MASTER", 10)
            return "{" in process.output()

        wait_for(printed_one, 20, "an event that the command prints")
        assert daemon.stop() == 0
        last = events.next_event(10)
        while last["reason"] != "resigned":
            last = events.next_event(10)
        assert (last["previous"], last["state"]) == ("MASTER", "INIT")
    process.wait(10)
    printed = [line for line in process.output().splitlines() if line.startswith("{")]
    assert json.loads(printed[-1]) == last


def test_log_lines_name_interface_and_vhid_the_same_way(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    a, b = lab.hosts
    daemon = start_daemon(a, configuration(tmp_path, vhids="1-2"))
    daemon.wait_state("MASTER", 15)
    path = write_configuration(
        tmp_path, "b", [table("1")], defaults={**ALONE, "passphrase": "another"}
    )
    start_daemon(b, path).wait_state("MASTER", 15)
    daemon.wait_log("other_master", 10)
    lab.set_link("a", 1, up=False)
    daemon.wait_state("INIT", 10)
    lab.set_link("a", 1, up=True)
    daemon.wait_state("MASTER", 15)
    assert daemon.stop() == 0
    told = [line.partition(" ")[2] for line in daemon.log.splitlines()]
    assert [line for line in told if "->" in line and "s1/2" in line] == [
        "INFO s1/2: INIT -> BACKUP (started)",
        "INFO s1/2: BACKUP -> MASTER (master_down)",
        "INFO s1/2: MASTER -> INIT (link_down)",
        "INFO s1/2: INIT -> BACKUP (link_up)",
        "INFO s1/2: BACKUP -> MASTER (master_down)",
        "INFO s1/2: MASTER -> INIT (resigned)",
    ]
    assert [line for line in told if line.startswith("WARNING s1/1: other_master: ")]
    for line in told:
        level, text = line.split(" ", 1)
        assert level in ("INFO", "WARNING", "ERROR")
        assert re.match(r"s1/[12]: |s1: |[a-zA-Z]", text), line
        assert not re.search(r"slot|vhid", text), line


# -- the service manager


def read_messages(manager: socket.socket, last: str, deadline_s: float) -> list[dict[str, str]]:
    """Messages of sd_notify until one that has the field `last`."""
    found: list[dict[str, str]] = []
    manager.settimeout(deadline_s)
    while not found or last not in found[-1]:
        lines = manager.recv(4096).decode().splitlines()
        found.append(dict(line.split("=", 1) for line in lines))
    return found


def test_the_service_manager_hears_of_start_reload_life_and_end(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with closing(manager):
        manager.bind(str(tmp_path / "notify"))
        env = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "400000",
        }
        daemon = start_daemon(a, configuration(tmp_path), ready=False, env=env)
        (ready,) = read_messages(manager, "READY", 10)
        assert ready == {"READY": "1", "STATUS": "3 virtual hosts"}
        assert set(daemon.states().values()) == {"BACKUP"}, "READY when it takes part"
        for _ in range(3):
            (alive,) = read_messages(manager, "WATCHDOG", 0.4)
            assert alive == {"WATCHDOG": "1"}
        daemon.reload()
        reloading = read_messages(manager, "RELOADING", 2)[-1]
        assert int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert read_messages(manager, "READY", 2)[-1]["READY"] == "1"
        whole = daemon.configuration.read_text()
        daemon.configuration.write_text("")
        daemon.process.signal(signal.SIGHUP)
        read_messages(manager, "RELOADING", 2)
        status = read_messages(manager, "READY", 2)[-1]["STATUS"]
        assert status.startswith("3 virtual hosts; the last reload changed nothing: refused: ")
        daemon.configuration.write_text(whole)
        daemon.reload()
        read_messages(manager, "RELOADING", 2)
        assert read_messages(manager, "READY", 2)[-1]["STATUS"] == "3 virtual hosts"
        assert daemon.stop() == 0
        assert read_messages(manager, "STOPPING", 2)[-1]["STOPPING"] == "1"


def test_a_stopped_pump_is_no_life_sign(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    """The watchdog is fed only when the pump has answered: its thread alone is stopped here."""
    a, _ = lab_factory(segments=1).hosts
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with closing(manager):
        manager.bind(str(tmp_path / "notify"))
        env = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "200000",
        }
        daemon = start_daemon(a, configuration(tmp_path), ready=False, env=env)
        read_messages(manager, "WATCHDOG", 10)
        with frozen(pump_thread(daemon)):
            while select.select([manager], [], [], 0)[0]:
                manager.recv(4096)  # sent before, and not looked at yet
            seen = 0
            while select.select([manager], [], [], 0.6)[0]:
                manager.recv(4096)
                seen += 1
        assert seen <= 1, "one may have been under way"
        read_messages(manager, "WATCHDOG", 2)
        assert daemon.stop() == 0


def pump_thread(daemon: RunningDaemon) -> int:
    """The thread with a real-time priority."""
    for task in Path(f"/proc/{daemon.process.pid}/task").iterdir():
        if os.sched_getscheduler(int(task.name)) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO:
            return int(task.name)
    pytest.skip("no thread with SCHED_FIFO: this machine does not allow it")


@contextmanager
def frozen(tid: int) -> Iterator[None]:
    """Holds one thread of another process by ptrace, in a process of its own."""
    argv = [sys.executable, "-m", "tests.support.thread_holder", str(tid)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate()  # the end of its input lets go
