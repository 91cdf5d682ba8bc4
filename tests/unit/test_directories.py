"""Directories that the daemon writes to: which are given to its user, and which never."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.config.model import User
from carp_fast.config.state import state_name
from carp_fast.daemon import directories
from carp_fast.daemon.directories import Directory
from carp_fast.daemon.user import acting_as
from tests.support.users import public_directory

pytestmark = pytest.mark.root

USER, OTHER = User("one", 50_001, 50_011), User("two", 50_002, 50_012)
NAMES = ("control.sock", "control.sock.lock")


def owners(place: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in (place, *place.iterdir()):
        status = os.lstat(path)
        found["." if path == place else path.name] = status.st_uid, status.st_gid
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


def state(place: Path, kind: str = "addresses") -> Path:
    path = place / state_name(kind, "/etc/carp-fast/carp-fast.toml")
    path.write_text("{}")
    return path


def test_a_missing_directory_is_created_for_the_user(tmp_path: Path) -> None:
    path = tmp_path / "some" / "state"
    assert Directory(path).not_given() is None
    Directory(path).give(USER)
    assert owners(path) == {".": (USER.uid, USER.gid)}
    assert path.stat().st_mode & 0o777 == 0o755
    assert path.parent.stat().st_uid == 0


def test_what_earlier_runs_left_is_given_with_the_directory(place: Path) -> None:
    names = [state(place, kind).name for kind in ("addresses", "demotions", "maintenance")]
    (place / "addresses-0123456789abcdef.new").write_text("{")
    (place / "control.sock").touch()
    directory = Directory(place, NAMES)
    for user in (USER, OTHER):
        assert directory.not_given() is None
        directory.give(user)
        assert set(owners(place).values()) == {(user.uid, user.gid)}
        assert set(owners(place)) == {".", *names, "addresses-0123456789abcdef.new", "control.sock"}


def test_a_directory_that_holds_anything_else_is_never_given(place: Path) -> None:
    state(place)
    (place / "utmp").touch()
    (place / "passwd").touch()
    before = owners(place)
    directory = Directory(place, NAMES)
    assert directory.not_given() == (
        "it holds other files, such as passwd, so that it is not given; allowed: a directory of"
        " carp-fast alone, or one that belongs to that user"
    )
    directory.give(USER)
    assert owners(place) == before


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_only_files_count_as_what_earlier_runs_left(place: Path, kind: str) -> None:
    path = place / state_name("addresses", "/etc/carp-fast/carp-fast.toml")
    target = place.parent / "target"
    target.touch()
    if kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(target)
    assert Directory(place).not_given() is not None
    Directory(place).give(USER)
    assert (place.stat().st_uid, target.stat().st_uid) == (0, 0)


def test_a_file_with_a_second_name_elsewhere_is_not_given(place: Path) -> None:
    path = state(place)
    (place.parent / "elsewhere").hardlink_to(path)
    other = state(place, "demotions")
    Directory(place).give(USER)
    assert (path.stat().st_uid, other.stat().st_uid) == (0, USER.uid)


def test_what_is_no_directory_is_named(place: Path) -> None:
    path = state(place)
    assert Directory(path).not_given() == "it cannot be given: Not a directory"
    Directory(path).give(USER)
    assert path.stat().st_uid == 0


def test_without_cap_chown_nothing_is_given(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "has_capability", lambda capability: False)
    text = "without CAP_CHOWN it is not given; allowed: one that belongs to that user"
    assert Directory(place).not_given() == text
    Directory(place).give(USER)
    assert place.stat().st_uid == 0


def test_one_is_usable_by_who_may_write_there_and_read_what_was_left() -> None:
    with public_directory() as place:
        directory = Directory(place)
        assert not as_effective(directory.is_usable)
        os.chown(place, -1, USER.gid)
        place.chmod(0o770)
        assert as_effective(directory.is_usable)
        path = state(place)
        path.chmod(0o600)
        assert not as_effective(directory.is_usable)
        os.chown(path, -1, USER.gid)
        path.chmod(0o640)
        (place / "other").touch(0o600)
        assert as_effective(directory.is_usable)
    assert not as_effective(directory.is_usable)


def as_effective(function: Callable[[], bool]) -> bool:
    with acting_as(USER, [USER.gid]):
        return function()
