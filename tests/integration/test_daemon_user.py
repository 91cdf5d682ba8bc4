"""A daemon of root that has become another user: it does all that it did as root."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from carp_fast.capabilities import Capability
from carp_fast.control.protocol import ControlError
from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.daemons import (
    RunningDaemon,
    reasons,
    start_daemon,
    write_configuration,
)
from tests.support.dropped import (
    EVERYTHING,
    USER,
    assert_dropped,
    public_python,
    statuses,
    with_usual_user,
)
from tests.support.programs import script
from tests.support.users import ALICE, READERS, User, connected_as, program_as, public_directory

pytestmark = pytest.mark.root

CARP_FAST = [sys.executable, "-m", "carp_fast"]
TABLE = {"interface": "s1", "vhid": "1-40", "addresses": ["10.1.1.{vhid}/32"]}
STATE_S = 15


@pytest.fixture
def directory() -> Iterator[Path]:
    with public_directory() as path:
        yield path


def configure(
    directory: Path,
    *tables: Mapping[str, Any],
    name: str = "a",
    advskew: int = 0,
    tracks: Sequence[Mapping[str, Any]] = (),
    **daemon: Any,
) -> Path:
    """Writes a configuration with directories of its own; a key that is None is left out."""
    keys = {
        "user": USER.pw_name,
        "control_socket": str(directory / f"{name}-run" / "control.sock"),
        "state_directory": str(directory / f"{name}-state"),
        **daemon,
    }
    return write_configuration(
        directory,
        name,
        tables or [TABLE],
        defaults={"advskew": advskew, "dead_ratio": 1, "preempt": True},
        daemon={key: value for key, value in keys.items() if value is not None},
        tracks=tracks,
    )


def started(host: Host, path: Path, *arguments: str) -> RunningDaemon:
    program = [*public_python(), *CARP_FAST]
    return start_daemon(host, path, program=program, arguments=arguments)


def threads(daemon: RunningDaemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/task").iterdir()))


@pytest.mark.parametrize("receive", ["packet", "ring", "tcx", "raw"])
@pytest.mark.parametrize("send", ["packet", "clones"])
@pytest.mark.own_paths("send", "receive", reason="is about each of them")
def test_each_path_takes_over_and_hands_over_as_the_user(
    lab_factory: Callable[..., Lab], directory: Path, send: str, receive: str
) -> None:
    a, b = lab_factory(hosts=("a", "b"), segments=1).hosts
    keys: dict[str, Any] = {"send": send, "receive": receive}
    master = started(a, configure(directory, name="a", **keys))
    master.wait_state("MASTER", STATE_S)
    backup = started(b, configure(directory, name="b", advskew=100, **keys))
    for daemon in (master, backup):
        bpf = send == "clones" or receive in ("ring", "tcx")
        lacking = set() if bpf else {Capability.BPF}
        assert threads(daemon) > 1
        assert_dropped(daemon.process.pid, EVERYTHING - lacking, [USER.pw_gid])
        shown = daemon.status()["daemon"]
        assert (shown["send"], shown["receive"]) == (send, receive)
        daemon.wait_log("with SCHED_FIFO", 10)
    backup.wait_state("BACKUP", STATE_S)
    assert master.stop() == 0
    backup.wait_state("MASTER", STATE_S)
    wait_for(lambda: len(b.addresses()) >= 41, 10, "the addresses on host b")
    if send == "clones":
        assert backup.status()["daemon"]["pump"]["clones"] > 0
    assert backup.stop() == 0
    assert not [each for each in b.addresses() if each[1].startswith("10.1.1.")]


def test_a_reload_needs_only_what_is_still_allowed(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    """Another family, unicast peers, and an interface that comes later."""
    a, _ = lab_factory(hosts=("a", "b"), segments=1, ipv6=True).hosts
    daemon = started(a, configure(directory))
    daemon.wait_state("MASTER", STATE_S)
    six = {"interface": "s1", "vhid": 41, "addresses": ["fd00::41/64"], "hold": "address"}
    peer = {"interface": "s1", "vhid": 42, "addresses": ["10.1.1.42/32"], "peers": ["10.1.0.2"]}
    later = {"interface": "later", "vhid": 43, "addresses": ["10.9.1.43/24"]}
    route = {"interface": "s1", "vhid": 44, "addresses": ["10.1.1.44/32"], "hold": "route"}
    a.run(["ip", "-6", "addr", "add", "fe80::a/64", "dev", "s1", "nodad"])
    configure(directory, TABLE, six, peer, later, route)
    done = daemon.reload()
    assert (done["added"], done["kept"]) == (4, 40)
    daemon.wait_state("MASTER", STATE_S, [("s1", 41), ("s1", 42), ("s1", 44)])
    assert "fd00::41/64" in a.run(["ip", "-6", "addr", "show", "dev", "s1"]).stdout
    assert daemon.states()["later", 43] == "INIT"
    a.run(["ip", "link", "add", "later", "type", "veth", "peer", "name", "other"])
    a.run(["ip", "addr", "add", "10.9.0.1/24", "dev", "later"])
    a.run(["ip", "link", "set", "later", "up"])
    a.run(["ip", "link", "set", "other", "up"])
    daemon.wait_state("MASTER", STATE_S, [("later", 43)])
    setting = a.run(["cat", "/proc/sys/net/ipv4/conf/later/promote_secondaries"])
    assert setting.stdout == "1\n"
    assert_dropped(daemon.process.pid, EVERYTHING, [USER.pw_gid])
    assert daemon.stop() == 0


def test_a_reload_that_would_need_root_again_changes_nothing(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    daemon = started(a, configure(directory))
    tracked = {**TABLE, "track": ["t"], "advskew": 7}
    track = {"name": "t", "kind": "process", "executable": "/bin/true"}
    configure(directory, tracked, tracks=[track])
    with pytest.raises(ControlError, match=r"what a process executes, .*; allowed: a restart"):
        daemon.reload()
    (directory / "mine.py").write_text("def up(event):\n    pass\n")
    configure(directory, {**TABLE, "up": "json:loads", "advskew": 7})
    confined = daemon.log_lines("confined by Landlock")
    if confined:
        with pytest.raises(ControlError, match=r"functions could neither write nor execute"):
            daemon.reload()
    assert daemon.virtual_host("s1", 1)["advskew"] == 0
    path = configure(directory)
    assert path.stat().st_mode & 0o777 == 0o600
    assert daemon.reload()["kept"] == 40  # the helper's loader reads it, as root


def recorder(directory: Path, name: str, then: str = "") -> str:
    """A program that writes down which user and capabilities it has."""
    return script(
        directory / name,
        f"""
        file={directory}/{name}-ran
        {{ id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status; }} > $file.new
        mv $file.new $file
        {then}""",
    )


def test_programs_run_as_root_from_a_daemon_that_is_not(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    """Also those that come with a reload; each of them could be read by root alone."""
    a, _ = lab_factory(segments=1).hosts
    up, down, check = (recorder(directory, name) for name in ("up", "down", "check"))
    notify = recorder(directory, "notify", "exec cat > /dev/null")
    track = {"name": "t", "kind": "script", "script": [check], "interval_s": 0.2}
    host = {**TABLE, "vhid": 1, "addresses": ["10.1.1.1/32"], "track": ["t"]}
    path = configure(directory, {**host, "up": up}, tracks=[track], notify=notify)
    for each in (up, down, check, notify):
        Path(each).chmod(0o700)
    daemon = started(a, path)
    daemon.wait_log("up .*: exit status 0 after", STATE_S)
    assert_dropped(daemon.process.pid, EVERYTHING, [USER.pw_gid])
    configure(directory, {**host, "down": down}, tracks=[track], notify=notify)
    daemon.reload()
    daemon.client.request("demote", amount=20, reason="test")  # no other host takes over
    assert daemon.stop() == 0
    expected = ["0", *Path("/proc/self/status").read_text().splitlines()]
    expected = [each for each in expected if re.match("0|CapEff|NoNewPrivs", each)]
    for name in ("up", "down", "check", "notify"):
        assert (directory / f"{name}-ran").read_text().splitlines() == expected, name


def test_without_the_key_it_becomes_the_usual_user_or_tells_why_not(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    pid_file = directory / "a-run" / "pid"
    lacking = ["setpriv", "--bounding-set=-setuid"]
    for program, log in (
        ([], f"became carp-fast .uid {USER.pw_uid}"),
        (lacking, "stays root and does not become carp-fast .*: CAP_SETUID missing"),
        ([], f"became carp-fast .uid {USER.pw_uid}"),
    ):
        path = configure(directory, user=None)
        words = [*public_python(), *with_usual_user(directory), *program, *CARP_FAST]
        daemon = start_daemon(a, path, program=words, arguments=["--pid-file", str(pid_file)])
        daemon.wait_log(log, 10)
        daemon.wait_state("MASTER", STATE_S)
        assert int(pid_file.read_text()) == daemon.process.pid
        if program:
            assert threads_are_of(daemon.process.pid) == {0}
        else:
            assert_dropped(daemon.process.pid, EVERYTHING, [USER.pw_gid])
        assert daemon.reload()["kept"] == 40
        assert daemon.stop() == 0
        assert not pid_file.exists()
        path.with_suffix(".log").unlink()


def threads_are_of(pid: int) -> set[int]:
    return {int(each["Uid"].split()[0]) for each in statuses(pid)}


def test_ucarp_becomes_the_usual_user_and_its_scripts_run_as_root(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    secret = directory / "secret"
    secret.write_text("interop-4Tz8Wq\n")
    secret.chmod(0o600)
    up, down = recorder(directory, "up"), recorder(directory, "down")
    words = f"ucarp -i s1 -s {a.address(1)} -v 1 -a 10.1.1.1 -r 1 -z -u {up} -d {down}"
    program = [*public_python(), *with_usual_user(directory), *CARP_FAST]
    argv = [*program, *words.split(), "-o", str(secret)]
    process = a.start(argv, log=directory / "log")
    wait_for((directory / "up-ran").exists, STATE_S, "the up script")
    assert_dropped(process.pid, EVERYTHING - {Capability.BPF}, [USER.pw_gid])
    process.signal(signal.SIGUSR1)
    wait_for(lambda: "MASTER on s1 id 1" in process.output(), STATE_S, "its state")
    (directory / "down-ran").unlink()  # of the start
    process.signal(signal.SIGTERM)
    assert process.wait(STATE_S) == 0
    for name in ("up", "down"):
        assert (directory / f"{name}-ran").read_text().splitlines()[0] == "0"


def test_what_it_keeps_is_there_at_the_next_start_of_the_user_and_of_root(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    for user in (USER.pw_name, USER.pw_name, "root", USER.pw_name):
        pid_file = directory / "a-run" / "pid"
        path = configure(directory, user=user)
        daemon = started(a, path, "--pid-file", str(pid_file))
        uid = USER.pw_uid if user != "root" else 0
        assert int(pid_file.read_text()) == daemon.process.pid
        assert daemon.control_socket.stat().st_uid == uid
        assert (directory / "a-state").stat().st_uid == USER.pw_uid
        kept = set(daemon.status()["daemon"]["demotions"])
        daemon.client.request("demote", amount=20, reason=f"test-{len(kept)}")
        daemon.client.request("maintenance", action="on")
        daemon.wait_state("BACKUP", 10)
        daemon.client.request("maintenance", action="off")
        assert len(daemon.status()["daemon"]["demotions"]) == len(kept) + 1
        daemon.wait_state("MASTER", STATE_S)
        daemon.process.signal(signal.SIGHUP)
        daemon.wait_log("audit: SIGHUP", 10)
        assert daemon.stop() == 0
        assert not daemon.control_socket.exists()
        assert not pid_file.exists()
    assert len(kept) == 3


def test_a_pid_file_that_it_may_not_remove_is_emptied(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    pid_file = directory / "pid"
    for _ in range(2):
        daemon = started(a, configure(directory), "--pid-file", str(pid_file))
        assert int(pid_file.read_text()) == daemon.process.pid
        assert daemon.stop() == 0
        assert pid_file.read_text() == ""


def test_what_a_killed_one_left_is_removed_by_the_next(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    daemon = started(a, configure(directory))
    daemon.wait_state("MASTER", STATE_S)
    wait_for(lambda: len(a.addresses()) >= 41, 10, "the addresses")
    daemon.kill()
    again = started(a, configure(directory))
    again.wait_log("removed 40 addresses left by the last run", 10)
    again.wait_state("MASTER", STATE_S)


def test_two_daemons_one_of_root_and_one_of_the_user_share_the_locks(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    first = started(a, configure(directory, name="a"))
    first.wait_state("MASTER", STATE_S)
    second = started(a, configure(directory, name="b", user="root"))
    assert reasons(second) == {("INIT", "in_use")}
    third = started(a, configure(directory, name="c"))
    assert reasons(third) == {("INIT", "in_use")}
    third.wait_log("a process that cannot be seen from here of this machine has it", 10)
    assert first.stop() == 0
    wait_for(lambda: "MASTER" in {*second.states().values(), *third.states().values()}, 15, "one")


def test_the_users_of_the_control_socket_are_root_the_user_and_the_group(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    daemon = started(a, configure(directory, control_group=READERS))
    status = daemon.control_socket.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (USER.pw_uid, READERS, 0o660)
    assert_dropped(daemon.process.pid, EVERYTHING, [USER.pw_gid, READERS])

    def asked(user: User | None, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*CARP_FAST, *words, "--control-socket", str(daemon.control_socket)]
        argv = argv if user is None else program_as(user, argv)
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)

    own = User(USER.pw_uid, USER.pw_gid)
    for user in (None, own):
        assert asked(user, "demote", "20", "--reason", "test").returncode == 0
        assert asked(user, "undemote", "--reason", "test").returncode == 0
    assert asked(ALICE, "status").returncode == 0
    refused = asked(ALICE, "demote", "20", "--reason", "test")
    who = re.escape(f"only root and daemon (uid {USER.pw_uid}), the daemon's user may change")
    assert re.search(who, refused.stderr)
    with pytest.raises(PermissionError):
        closing(connected_as(User(50_020, 50_020), daemon.control_socket))
    # Removed, it is bound again, and a reload gives it to another group that it is a member of.
    daemon.control_socket.unlink()
    daemon.wait_log("the file was gone, created again", 10)
    configure(directory, control_group="")
    daemon.reload()
    status = daemon.control_socket.stat()
    assert (status.st_gid, status.st_mode & 0o777) == (USER.pw_gid, 0o600)


def test_tracks_go_on_as_the_user(lab_factory: Callable[..., Lab], directory: Path) -> None:
    a, b = lab_factory(hosts=("a", "b"), segments=1).hosts
    number, pid = directory / "number", directory / "pid"
    number.write_text("7\n")
    pid.write_text(f"{os.getpid()}\n")
    listener = socket.create_server(("127.0.0.1", 0))
    tracks = [
        {"name": "file", "kind": "file", "path": str(number), "demotion": 240},
        {"name": "process", "kind": "process", "pid_file": str(pid), "demotion": 3},
        {"name": "ping", "kind": "ping", "target": "10.1.0.2", "demotion": 3},
        {"name": "link", "kind": "interface", "interface": "s1", "demotion": 3},
    ]
    names = [each["name"] for each in tracks]
    path = configure(directory, {**TABLE, "track": names}, tracks=tracks)
    with closing(listener):
        daemon = started(a, path)

        def demotion() -> int:
            return int(daemon.virtual_host("s1", 1)["demotion"]["total"])

        wait_for(lambda: demotion() == 7, 10, "the demotion of the file alone")
        number.write_text("9\n")
        wait_for(lambda: demotion() == 9, 10, "the demotion that the file has now")
        b.run(["ip", "link", "set", "s1", "down"])
        wait_for(lambda: demotion() >= 12, 15, "the demotion of what does not answer")


def test_check_and_run_say_the_same_of_a_user_that_is_no_good(
    lab_factory: Callable[..., Lab], directory: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    number = directory / "number"
    number.touch(0o600)
    track = {"name": "t", "kind": "file", "path": str(number)}
    path = configure(directory, {**TABLE, "track": ["t"]}, tracks=[track])
    unreadable = f"daemon (uid {USER.pw_uid}) may not read {number}; allowed: a user who may, or"
    lacking = ["setpriv", "--bounding-set=-setuid"]
    for program, text in (
        ([], unreadable),
        (lacking, "CAP_SETUID missing; allowed: grant them, or"),
    ):
        for command in ("check", "run"):
            argv = [*public_python(), *program, *CARP_FAST, command, "-c", str(path)]
            done = a.run(argv, check=False)
            assert done.returncode == 1
            assert f'{path}: daemon: user = "daemon": {text} daemon.user = "root"' in done.stderr
            assert "Traceback" not in done.stderr
    assert not (directory / "a-state").exists()
