"""Without the key `user`: the user carp-fast, where there is one, and what keeps a daemon root."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from carp_fast.cli.main import main
from carp_fast.config import accounts
from carp_fast.config.load import Configuration, load
from carp_fast.config.model import User
from carp_fast.daemon import user as user_module
from carp_fast.daemon.directories import Directory
from carp_fast.daemon.privileges import Privileges
from carp_fast.daemon.user import faults_of, leave_root, leave_root_by_default, usual_user
from tests.support.dropped import USER
from tests.support.users import public_directory

pytestmark = pytest.mark.root

HOST = """
[[virtual_host]]
interface = "eth0"
vhid = 1
addresses = "192.0.2.1/24"
passphrase = "interop-4Tz8Wq"
"""
USUAL = User(USER.pw_name, USER.pw_uid, USER.pw_gid)
EXECUTABLE = '[[track]]\nname = "t"\nkind = "process"\nexecutable = "/bin/true"\n'


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host with such a user; the drop itself, which nothing undoes, is only noted."""
    monkeypatch.setattr(user_module, "PYTHON", ())
    monkeypatch.setattr(user_module, "USUAL_USER", USER.pw_name)

    def note(privileges: Privileges, user: User, **how: object) -> None:
        privileges.user = user

    monkeypatch.setattr(Privileges, "drop_to", note)
    monkeypatch.setattr(Privileges, "confine", lambda privileges, directories: None)
    with public_directory() as path:
        yield path


def configuration(directory: Path, text: str = HOST) -> Configuration:
    path = directory / "carp.toml"
    path.write_text(
        f"""[daemon]
        state_directory = "{directory}/state"
        control_socket = "{directory}/run/control.sock"
        {text}"""
    )
    return load(path)


@pytest.fixture
def stays(directory: Path, caplog: pytest.LogCaptureFixture) -> Callable[[Configuration], str]:
    """Why a daemon stays root, from its one line about that."""

    def why(found: Configuration) -> str:
        caplog.clear()
        caplog.set_level("INFO")
        assert list(faults_of(found)) == []
        with leave_root(found, None) as held:
            assert held.user is None
        (line,) = caplog.messages
        begin, _, reason = line.partition(": ")
        assert begin == f"stays root and does not become {USUAL}"
        shown = CliRunner().invoke(main, ["check", "-c", str(found.path)])
        assert f"user: root, and not {USUAL}: {reason}" in " ".join(shown.output.split())
        return reason

    return why


def test_a_daemon_of_root_becomes_the_usual_user(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = configuration(directory)
    with leave_root(found, None) as held:
        assert held.user == USUAL
    assert caplog.messages == [f"became {USUAL}"]
    for name in ("state", "run"):
        assert (directory / name).stat().st_uid == USUAL.uid
    shown = CliRunner().invoke(main, ["check", "-c", str(found.path)])
    assert f"user: {USUAL}\n" in shown.output


def test_without_the_usual_user_it_stays_root(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(user_module, "USUAL_USER", "no-such-user")
    found = configuration(directory)
    with leave_root(found, None) as held:
        assert held.user is None
    assert caplog.messages == [
        "stays root: daemon.user is not set, and there is no user no-such-user"
    ]
    assert not (directory / "state").exists()
    shown = CliRunner().invoke(main, ["check", "-c", str(found.path)])
    assert "user:" not in shown.output
    caplog.clear()
    with leave_root_by_default(found) as held:
        assert held.user is None
    assert caplog.messages == [], "ucarp's log is that of the original"


def test_the_usual_user_is_one_of_the_local_file_and_not_root(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usual_user() == USUAL
    monkeypatch.setattr(user_module, "USUAL_USER", "root")
    assert usual_user() is None
    monkeypatch.setattr(user_module, "USUAL_USER", "carp-fast")
    monkeypatch.setattr(accounts, "local_user_number", lambda name: None)
    monkeypatch.setattr(accounts, "user_named", lambda name: pytest.fail("a server was asked"))
    assert usual_user() is None


def test_another_user_than_root_stays_who_it_is(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = configuration(directory)
    monkeypatch.setattr(os, "geteuid", lambda: 50_001)
    with leave_root(found, None) as held:
        assert held.user is None
    assert caplog.messages == []


def test_a_track_that_needs_root_keeps_it_root(
    directory: Path, stays: Callable[[Configuration], str]
) -> None:
    found = configuration(directory, f'{HOST}track = ["t"]\n{EXECUTABLE}')
    assert stays(found) == "only root sees what a process executes, as the track t wants"
    assert not (directory / "state").exists()


def test_capabilities_that_are_missing_keep_it_root(
    directory: Path, stays: Callable[[Configuration], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = ["CAP_SETUID", "CAP_SETGID"]
    monkeypatch.setattr(user_module, "missing_for_drop", lambda: lacking)
    assert stays(configuration(directory)) == "CAP_SETUID and CAP_SETGID missing"


def test_hooks_that_are_functions_keep_it_root(
    directory: Path, stays: Callable[[Configuration], str]
) -> None:
    found = configuration(directory, f'{HOST}up = "json:loads"\n')
    assert stays(found) == "hooks that are functions run in the daemon, and may need root"
    explicit = msgspec.structs.replace(found.daemon, user=USUAL)
    with leave_root(msgspec.structs.replace(found, daemon=explicit), None) as held:
        assert held.user == USUAL


def test_directories_that_hold_other_files_keep_it_root(
    directory: Path, stays: Callable[[Configuration], str]
) -> None:
    for name in ("state", "run"):
        (directory / name).mkdir(mode=0o755)
        (directory / name / "other").touch()
    reason = stays(configuration(directory))
    assert reason.startswith(f"{USUAL} may not use {directory}/state, and it holds other files")
    assert reason.endswith(" (and 1 more)")


def test_if_one_directory_cannot_be_given_none_is(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    give = Directory.give

    def refuse(place: Directory, user: User) -> None:
        if place.path.name == "run":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        give(place, user)

    monkeypatch.setattr(Directory, "give", refuse)
    caplog.set_level("INFO")
    with leave_root(configuration(directory), None) as held:
        assert held.user is None
    text = f"{directory}/run cannot be given to {USUAL}: Read-only file system"
    assert caplog.messages == [f"stays root and does not become {USUAL}: {text}"]
    assert (directory / "state").stat().st_uid == 0
