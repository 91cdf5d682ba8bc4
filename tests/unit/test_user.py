"""The key `user`, and what would not work as that user."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carp_fast.config import accounts
from carp_fast.config.load import Configuration, ConfigurationError, load
from carp_fast.config.model import User
from carp_fast.daemon import user as user_module
from carp_fast.daemon.process import StartError
from carp_fast.daemon.reload import daemon_changes
from carp_fast.daemon.user import acting_as, faults_of, leave_root, needs_root
from tests.support.dropped import USER
from tests.support.users import public_directory

ALLOWED = "allowed: the name or the number of a user"
HOST = '[[virtual_host]]\ninterface = "eth0"\nvhid = 1\naddresses = "192.0.2.1/24"\n'
EXECUTABLE = '[[track]]\nname = "t"\nkind = "process"\nexecutable = "/bin/true"\n'
ONLY_ROOT = "only root sees what a process executes, as the track t wants"
needs_privileges = pytest.mark.root


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(user_module, "PYTHON", ())
    with public_directory() as path:
        yield path


def configuration(
    directory: Path, text: str = "", mode: int = 0o644, **daemon: Any
) -> Configuration:
    keys = {
        "user": USER.pw_name,
        "state_directory": str(directory / "state"),
        "control_socket": str(directory / "run" / "control.sock"),
        **daemon,
    }
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in keys.items()]
    path = directory / "carp.toml"
    path.write_text("\n".join(["[daemon]", *lines, text]) + "\n")
    path.chmod(mode)
    return load(path)


def hosted(keys: str = "") -> str:
    return f'{HOST}passphrase = "interop-4Tz8Wq"\n{keys}\n'


def fault_of_value(directory: Path, value: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        configuration(directory, user=value)
    return str(raised.value).removeprefix(f"{directory}/carp.toml:2: daemon: user = ")


def test_a_user_by_name_and_by_number(directory: Path) -> None:
    expected = User(USER.pw_name, USER.pw_uid, USER.pw_gid)
    for value in (USER.pw_name, USER.pw_uid):
        assert configuration(directory, user=value).daemon.user == expected
    assert configuration(directory, user="root").daemon.user == User("root", 0, 0)
    assert load(directory / "carp.toml").daemon.user is not None


def test_an_unknown_user_is_refused_with_the_nearest_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "user_names", lambda: ["carp-fast", "root"])
    text = 'is not a user of this host; the nearest one is "carp-fast"'
    assert fault_of_value(directory, "carpfast") == f'"carpfast": {text}; {ALLOWED}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, f"-1: must be {ALLOWED[9:]}, from 0 to 4294967294"),
        (2**32 - 1, f"4294967295: must be {ALLOWED[9:]}, from 0 to 4294967294"),
        (4_000_000_000, f"4000000000: is not a user of this host; {ALLOWED}"),
        (True, f"true: must be {ALLOWED[9:]}"),
        ([], f"[]: must be {ALLOWED[9:]}"),
        ("a\0b", f'"a\\u0000b": holds a NUL character; must be {ALLOWED[9:]}'),
    ],
)
def test_what_is_not_a_user_is_refused(directory: Path, value: Any, text: str) -> None:
    assert fault_of_value(directory, value) == text


def test_the_user_that_stands_for_unknown_ones_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "overflow", lambda kind: USER.pw_uid)
    text = "is the user of all processes whose users this user namespace does not know"
    name = USER.pw_name
    assert fault_of_value(directory, name) == f'"{name}": {text}; allowed: another user'


def test_another_user_takes_effect_at_the_next_start(directory: Path) -> None:
    root, other = configuration(directory, user="root"), configuration(directory)
    (line,) = daemon_changes(root.daemon, other.daemon)
    assert line.startswith("daemon.user {name = root, uid = 0, gid = 0} -> {name = daemon, ")
    assert line.endswith(" (takes effect at the next start)")


@needs_privileges
def test_a_configuration_that_the_user_can_read_has_no_fault(directory: Path) -> None:
    assert list(faults_of(configuration(directory, hosted()))) == []
    assert not (directory / "state").exists()


@needs_privileges
def test_what_only_root_can_do_is_a_fault(directory: Path) -> None:
    found = configuration(directory, hosted('track = ["t"]') + EXECUTABLE)
    begin = f'{directory}/carp.toml: daemon: user = "daemon": '
    end = '; allowed: a configuration without that, or daemon.user = "root"'
    assert list(faults_of(found)) == [f"{begin}{ONLY_ROOT}{end}"]
    assert list(needs_root(found)) == [ONLY_ROOT]
    with pytest.raises(StartError) as raised:
        leave_root(found, None)
    assert str(raised.value) == f"{begin}{ONLY_ROOT}{end}"
    assert os.getresuid() == (0, 0, 0)


@needs_privileges
def test_what_the_helper_starts_and_reads_for_it_is_no_fault(directory: Path) -> None:
    """Whatever the user may do: programs, and files that root alone can read."""
    secret, more = directory / "secret", directory / "conf.d"
    secret.write_text("interop-4Tz8Wq\n")
    secret.chmod(0o600)
    more.mkdir(mode=0o700)
    (more / "a.toml").write_text(
        f"""{HOST}passphrase_file = "{secret}"
        track = ["t"]
        up = "/bin/true"
        down = "/bin/true"
        [[track]]
        name = "t"
        kind = "script"
        script = "/bin/true"
        """
    )
    configuration(directory, mode=0o600, notify="/bin/cat")
    path = directory / "carp.toml"
    path.write_text(f'include = ["conf.d/*.toml"]\n{path.read_text()}')
    found = load(path)
    assert len(found.files) == 2
    assert list(needs_root(found)) == []
    assert list(faults_of(found)) == []


@needs_privileges
def test_every_file_that_a_track_reads_must_be_readable_for_the_user(directory: Path) -> None:
    track, pid = directory / "track", directory / "pid"
    for path in (track, pid):
        path.write_text("1\n")
        path.chmod(0o600)
    tracks = f"""
        [[track]]
        name = "file"
        kind = "file"
        path = "{track}"
        [[track]]
        name = "process"
        kind = "process"
        pid_file = "{pid}"
    """
    found = configuration(directory, hosted('track = ["file", "process"]') + tracks)
    begin = f'{directory}/carp.toml: daemon: user = "daemon": daemon (uid {USER.pw_uid}) may not'
    end = 'allowed: a user who may, or daemon.user = "root"'
    assert list(faults_of(found)) == [f"{begin} read {path}; {end}" for path in (track, pid)]
    for path in (track, pid):
        os.chown(path, -1, USER.pw_gid)
        path.chmod(0o640)
    assert list(faults_of(found)) == []
    track.unlink()  # it may come later
    assert list(faults_of(found)) == []


@needs_privileges
def test_a_directory_that_cannot_be_given_is_a_fault(directory: Path) -> None:
    state, run = directory / "state", directory / "run"
    for path in (state, run):
        path.mkdir(mode=0o755)
        (path / "other").touch()
    found = configuration(directory, hosted())
    who = f"daemon (uid {USER.pw_uid}) may not use"
    why = "and it holds other files, such as other, so that it is not given; allowed: a directory"
    end = "of carp-fast alone, or one that belongs to that user"
    begin = f"{directory}/carp.toml: daemon:"
    assert list(faults_of(found)) == [
        f'{begin} state_directory = "{state}": {who} {state}, {why} {end}',
        f'{begin} control_socket = "{run}/control.sock": {who} {run}, {why} {end}',
    ]
    state.chmod(0o777)
    os.chown(run, USER.pw_uid, -1)
    assert list(faults_of(found)) == []


@needs_privileges
def test_the_directory_of_the_metrics_socket_is_one_of_these(directory: Path) -> None:
    run, other = directory / "run", directory / "other"
    for path, name in ((run, "metrics.sock"), (other, "strange")):
        path.mkdir(mode=0o755)
        (path / name).touch()
    beside = configuration(directory, hosted(), metrics=str(run / "metrics.sock"))
    assert list(faults_of(beside)) == []
    apart = configuration(directory, hosted(), metrics=str(other / "metrics.sock"))
    (fault,) = (each for each in faults_of(apart) if " metrics = " in each)
    begin = f'{directory}/carp.toml: daemon: metrics = "{other}/metrics.sock": '
    assert fault.startswith(f"{begin}daemon (uid {USER.pw_uid}) may not use {other}, and it holds")


@needs_privileges
def test_a_port_of_metrics_for_root_alone_is_a_fault(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = directory / "bounds"
    monkeypatch.setattr(user_module, "FREE_PORTS", bounds)  # missing: the usual ones
    found = configuration(directory, hosted(), metrics="127.0.0.1:1023")
    fault = "only root may listen at port 1023, as metrics is set"
    assert list(needs_root(found)) == [fault]
    (line,) = faults_of(found)
    assert f"{fault}; allowed: a configuration without that, or daemon.user" in line
    free = configuration(directory, hosted(), metrics="127.0.0.1:1024")
    assert list(needs_root(free)) == []
    bounds.write_text("80\n")
    assert list(needs_root(found)) == []


@needs_privileges
def test_python_must_be_readable_for_the_user(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = directory / "private"
    private.mkdir(mode=0o700)
    (private / "os.py").touch()
    monkeypatch.setattr(user_module, "PYTHON", (private / "os.py",))
    (found,) = faults_of(configuration(directory, hosted()))
    assert f"may not read {private}/os.py; allowed: a user who may, or" in found


@needs_privileges
def test_capabilities_that_are_missing_for_it_are_a_fault(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_module, "missing_for_drop", lambda: ["CAP_SETUID"])
    (found,) = faults_of(configuration(directory, hosted()))
    assert found.endswith('CAP_SETUID missing; allowed: grant them, or daemon.user = "root"')


@needs_privileges
def test_root_stays_root_without_a_word_if_the_key_says_so(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = configuration(directory, hosted('up = "/bin/true"'), user="root")
    assert list(faults_of(found)) == []
    with leave_root(found, None) as held:
        assert held.user is None
    assert caplog.messages == []
    assert not (directory / "state").exists()


@needs_privileges
def test_who_is_not_root_can_only_stay_who_it_is(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = configuration(directory, hosted('up = "/bin/true"'))
    monkeypatch.setattr(os, "geteuid", lambda: USER.pw_uid)
    assert list(faults_of(found)) == []
    with leave_root(found, None) as held:
        assert held.user is None
    monkeypatch.setattr(os, "geteuid", lambda: 50_001)
    text = "only root can become another user; allowed: start as root, or as daemon"
    with pytest.raises(StartError, match=text):
        leave_root(found, None)


@needs_privileges
def test_a_user_whom_the_kernel_refuses_is_a_fault(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a user namespace that does not map it."""

    def refuse(uid: int) -> None:
        if uid:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    found = configuration(directory, hosted())
    monkeypatch.setattr(os, "seteuid", refuse)
    (line,) = faults_of(found)
    text = f"cannot become daemon (uid {USER.pw_uid}): Invalid argument; allowed: a user who exists"
    assert f"{text}, or" in line
    assert os.getegid() == 0


@needs_privileges
def test_acting_as_a_user_ends_whatever_happens(directory: Path) -> None:
    before = os.getresuid(), os.getresgid(), os.getgroups()
    user = User(USER.pw_name, USER.pw_uid, USER.pw_gid)
    seen = []

    def act() -> None:
        with acting_as(user, [USER.pw_gid, 54_321]):
            seen.append((os.geteuid(), os.getegid(), os.getgroups()))
            (directory / "file").touch()

    with pytest.raises(PermissionError):
        act()
    assert seen == [(USER.pw_uid, USER.pw_gid, [USER.pw_gid, 54_321])]
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
