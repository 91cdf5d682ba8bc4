"""Dropping root: what every thread has afterwards, what can no longer be done, and what is lacking.

Each test drops in a process of its own, since nothing can be regained.
"""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from carp_fast.capabilities import Capability
from carp_fast.config.model import User
from carp_fast.daemon import landlock, privileges
from carp_fast.daemon.privileges import Privileges
from carp_fast.daemon.process import StartError
from tests.support.dropped import EVERYTHING, USER, bits, public_python

pytestmark = pytest.mark.root

BEGIN = f"""
import ctypes, errno, json, os, subprocess, sys, threading, time
from pathlib import Path
from carp_fast.capabilities import Capability, has_capability, keep_only
from carp_fast.config.model import User
from carp_fast.daemon import landlock, privileges
from carp_fast.daemon.privileges import Privileges, drop_to
from carp_fast.daemon.process import StartError
from tests.support.dropped import statuses
USER = User("daemon", {USER.pw_uid}, {USER.pw_gid})

def refused(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
"""


def result_of(script: str, *arguments: str, program: Sequence[str] = ()) -> Any:
    """What a script that has begun as root has printed, as JSON."""
    argv = [*program, *public_python(), sys.executable, "-c", BEGIN + textwrap.dedent(script)]
    done = subprocess.run(
        [*argv, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DROP = """
drop_to(USER, groups=[54321, USER.gid], bpf=sys.argv[1] == "bpf")
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
found = statuses("self")
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
done.set()
regained = refused(os.setuid, 0), refused(os.setgid, 0), refused(os.setgroups, [0])
print(json.dumps([found, dumpable, regained, refused(os.kill, 1, 0)]))
"""


@pytest.mark.parametrize("bpf", ["bpf", "no bpf"])
def test_every_thread_is_the_user_with_the_few_capabilities(bpf: str) -> None:
    found, dumpable, regained, signalled = result_of(DROP, bpf)
    kept = EVERYTHING if bpf == "bpf" else EVERYTHING - {Capability.BPF}
    assert len(found) == 2
    for each in found:
        assert each["Uid"].split() == [str(USER.pw_uid)] * 4
        assert each["Gid"].split() == [str(USER.pw_gid)] * 4
        assert set(each["Groups"].split()) == {"54321", str(USER.pw_gid)}
        assert (each["CapInh"], each["CapAmb"], each["NoNewPrivs"]) == (bits([]), bits([]), "1")
        assert {each["CapPrm"], each["CapEff"], each["CapBnd"]} == {bits(kept)}
    assert dumpable == 0
    assert regained == ["EPERM"] * 3
    assert signalled == "EPERM"


def test_what_root_has_not_is_not_kept() -> None:
    less = ["setpriv", "--bounding-set=-bpf,-sys_nice"]
    found, _, _, _ = result_of(DROP, "bpf", program=less)
    assert {each["CapEff"] for each in found} == {bits({Capability.NET_RAW, Capability.NET_ADMIN})}


def test_without_cap_setpcap_the_bounding_set_stays_and_a_program_gets_nothing_of_it() -> None:
    script = """
    drop_to(USER, groups=[], bpf=False)
    words = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    print(json.dumps([statuses("self")[0], words]))
    """
    own, program = result_of(script, program=["setpriv", "--bounding-set=-setpcap"])
    assert own["CapEff"] == bits(EVERYTHING - {Capability.BPF})
    assert own["CapBnd"] not in (own["CapEff"], bits([]))
    assert f"CapPrm:\t{bits([])}" in program


@pytest.mark.parametrize(
    ("lacking", "names"),
    [("-setuid", "CAP_SETUID"), ("-setuid,-setgid", "CAP_SETUID and CAP_SETGID")],
)
def test_root_who_may_not_become_another_user_is_told_what_is_missing(
    lacking: str, names: str
) -> None:
    script = """
    try:
        drop_to(USER, groups=[], bpf=False)
    except StartError as error:
        print(json.dumps([str(error), os.getuid(), has_capability(Capability.CHOWN)]))
    """
    said = result_of(script, program=["setpriv", f"--bounding-set={lacking}"])
    assert said == [f"cannot become daemon (uid {USER.pw_uid}): missing {names}", 0, True]


def test_what_root_has_not_cannot_be_kept_by_asking_for_it() -> None:
    script = "print(json.dumps(refused(keep_only, {Capability.BPF})))"
    assert result_of(script, program=["setpriv", "--bounding-set=-bpf"]) == "EPERM"


def test_nothing_is_dropped_while_another_thread_runs() -> None:
    script = """
    privileges.THREADS_END_S = 0.05
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        drop_to(USER, groups=[], bpf=False)
    except StartError as error:
        said = str(error)
    user = os.getuid()
    done.set()
    drop_to(USER, groups=[], bpf=False)
    print(json.dumps([said, user, os.getuid()]))
    """
    text = "cannot become another user: 2 threads run already"
    assert result_of(script) == [text, 0, USER.pw_uid]


def test_a_group_that_does_not_exist_here_ends_the_start_with_a_reason() -> None:
    script = """
    try:
        drop_to(User("odd", 5, 5), groups=[2**32 - 1], bpf=False)
    except StartError as error:
        print(json.dumps(str(error)))
    """
    assert result_of(script) == "cannot become odd (uid 5): Invalid argument"


CONFINED = """
place = Path(sys.argv[1])
inside, outside = place / "inside", place / "outside"
for each in (inside, outside):
    each.mkdir()
    each.chmod(0o777)
(outside / "there").write_text("x")
(outside / "there").chmod(0o666)
(inside / "there").write_text("x")
(inside / "there").chmod(0o666)
program = place / "program"
program.write_text("#!/bin/sh\\n")
program.chmod(0o755)
other = subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=USER.uid)
held = Privileges(lock_file=place / "lock")
held.drop_to(USER, groups=[], bpf=False)
held.confine([inside])

def create(path):
    path.write_text("new")

def rename(path):
    create(path / "one")
    os.rename(path / "one", path / "two")
    (path / "two").unlink()

setting = Path("/proc/sys/net/ipv4/conf/lo/promote_secondaries")
in_thread = []
thread = threading.Thread(target=lambda: in_thread.append(refused(create, outside / "there")))
thread.start()
thread.join()
print(json.dumps({
    "confined": held.confined,
    "inside": [refused(create, inside / "new"), refused(rename, inside)],
    "replaced": refused(create, inside / "there"),
    "outside": [refused(create, outside / "new"), refused(create, outside / "there")],
    "moved": refused(os.rename, inside / "there", outside / "moved"),
    "removed": refused((outside / "there").unlink),
    "directory": refused((inside / "more").mkdir),
    "link": refused(os.symlink, "/", inside / "link"),
    "thread": in_thread,
    "read": refused((outside / "there").read_text),
    "executed": [refused(os.execv, path, ["x"]) for path in ("/bin/true", str(program))],
    "setting": refused(setting.write_text, setting.read_text()),
    "signalled": refused(os.kill, other.pid, 0) if landlock.version() >= 6 else "EPERM",
    "own": refused(os.kill, os.getpid(), 0),
    "locked": held.locks.take(1, 1, ["224.0.0.18"]),
}))
other.stdin.close()
other.wait()
"""


def landlock_version() -> int:
    try:
        return landlock.version()
    except OSError as error:
        pytest.skip(f"needs Landlock: {error.strerror}")


def test_a_confined_process_writes_only_where_it_may_and_executes_nothing(tmp_path: Path) -> None:
    landlock_version()
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)
    assert result_of(CONFINED, str(tmp_path), program=["unshare", "--net"]) == {
        "confined": True,
        "inside": [None, None],
        "replaced": None,
        "outside": ["EACCES", "EACCES"],
        "moved": "EACCES",
        "removed": "EACCES",
        "directory": "EACCES",
        "link": "EACCES",
        "thread": ["EACCES"],
        "read": None,
        "executed": ["EACCES", "EACCES"],
        "setting": "EACCES",
        "signalled": "EPERM",
        "own": None,
        "locked": None,
    }


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_older_versions_of_landlock_are_asked_only_for_what_they_know(version: int) -> None:
    if landlock_version() < version:
        pytest.skip(f"needs version {version} of Landlock")
    script = """
    landlock.version = lambda: int(sys.argv[1])
    drop_to(USER, groups=[], bpf=False)
    got = landlock.restrict({Path("/tmp"): landlock.KEEP_FILES})
    print(json.dumps([got, refused(os.execv, "/bin/true", ["x"])]))
    """
    assert result_of(script, str(version)) == [version, "EACCES"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSYS, "the kernel has no Landlock (before Linux 5.13, or built without it)"),
        (errno.EOPNOTSUPP, "Landlock is not among the kernel's security modules (lsm= at boot)"),
        (errno.EPERM, "Operation not permitted"),
    ],
)
def test_without_landlock_one_line_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    text: str,
) -> None:
    def version() -> int:
        raise OSError(number, "Operation not permitted")

    monkeypatch.setattr(landlock, "version", version)
    caplog.set_level(logging.INFO)
    with Privileges(lock_file=tmp_path / "lock") as held:
        held.confine([tmp_path])
    assert not held.confined
    assert caplog.messages == [f"not confined: {text}"]


def test_a_pid_file_that_another_holds_keeps_root(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(privileges, "drop_to", lambda *_, **__: pytest.fail("dropped"))
    path = tmp_path / "pid"
    user = User("daemon", USER.pw_uid, USER.pw_gid)
    with (
        Privileges(path, tmp_path / "lock") as first,
        Privileges(path, tmp_path / "lock") as second,
    ):
        first.pid.write()
        with pytest.raises(StartError, match=r"is running with it$"):
            second.drop_to(user, groups=[], bpf=False)
    assert not path.exists()
