"""The key `control_group`: a group by name or number, none, and the usual one where it exists."""

from __future__ import annotations

import grp
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carp_fast.config import accounts
from carp_fast.config.load import ConfigurationError, load
from carp_fast.config.model import ControlGroup, Daemon
from carp_fast.daemon import control_group
from carp_fast.daemon.control_group import doubts, group_of
from carp_fast.daemon.reload import daemon_changes

ALLOWED = 'allowed: the name or the number of a group, or "" for none'


def configured(directory: Path, value: Any) -> Daemon:
    path = directory / "carp.toml"
    shown = msgspec.json.encode(value).decode()
    path.write_text(f"[daemon]\ncontrol_group = {shown}\n")
    return load(path).daemon


def fault(directory: Path, value: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        configured(directory, value)
    return str(raised.value).removeprefix(f"{directory}/carp.toml:2: daemon: control_group = ")


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of groups."""
    path = tmp_path / "group"
    path.write_text("root:x:0:\n")
    monkeypatch.setattr(accounts, "_groups", accounts.LocalNames(path))
    return path


def test_a_group_by_its_name_and_by_its_number(tmp_path: Path) -> None:
    name = grp.getgrgid(0).gr_name
    assert configured(tmp_path, name).control_group == ControlGroup(name, 0)
    assert configured(tmp_path, 0).control_group == ControlGroup(name, 0)
    unnamed = next(gid for gid in range(54_321, 99_999) if accounts.group_name(gid) is None)
    assert configured(tmp_path, unnamed).control_group == ControlGroup(str(unnamed), unnamed)


def test_an_unknown_group_is_refused_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "group_names", lambda: ["netops", "wheel", "root"])
    text = 'is not a group of this host; the nearest one is "netops"'
    assert fault(tmp_path, "no-netops") == f'"no-netops": {text}; {ALLOWED}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, f"-1: must be {ALLOWED[9:]}, from 0 to 4294967294"),
        (2**32 - 1, f"4294967295: must be {ALLOWED[9:]}, from 0 to 4294967294"),
        (True, f"true: must be {ALLOWED[9:]}"),
        (1.5, f"1.5: must be {ALLOWED[9:]}"),
        ([], f"[]: must be {ALLOWED[9:]}"),
        ("a\0b", f'"a\\u0000b": holds a NUL character; must be {ALLOWED[9:]}'),
    ],
)
def test_what_is_not_a_group_is_refused(tmp_path: Path, value: Any, text: str) -> None:
    assert fault(tmp_path, value) == text


def test_the_group_that_stands_for_unknown_ones_is_refused(tmp_path: Path) -> None:
    number = accounts.overflow("gid")
    text = "is the group of all processes whose groups this user namespace does not know"
    assert fault(tmp_path, number) == f"{number}: {text}; allowed: another group"


def test_the_usual_group_is_used_where_it_exists(local: Path) -> None:
    assert group_of(Daemon()) is None
    local.write_text("root:x:0:\nodd\ncarp-fast:x:990:alice\nother:x:990:\n")
    assert group_of(Daemon()) == ControlGroup("carp-fast", 990)
    assert group_of(Daemon(control_group=ControlGroup("", None))) is None
    assert group_of(Daemon(control_group=ControlGroup("lan", 7))) == ControlGroup("lan", 7)
    local.unlink()
    assert group_of(Daemon()) is None


def test_no_group_can_be_configured(tmp_path: Path) -> None:
    assert group_of(configured(tmp_path, "")) is None


@pytest.mark.parametrize(
    ("rights", "warned"),
    [((0, True, []), 0), ((0, False, [990]), 0), ((0, False, [1]), 1), ((1000, False, [1]), 0)],
)
def test_check_warns_where_the_daemon_cannot_give_the_socket_to_the_group(
    tmp_path: Path,
    local: Path,
    monkeypatch: pytest.MonkeyPatch,
    rights: tuple[int, bool, list[int]],
    warned: int,
) -> None:
    euid, capable, groups = rights
    local.write_text("carp-fast:x:990:\n")
    path = tmp_path / "carp.toml"
    path.write_text("[daemon]\n")
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(os, "getgroups", lambda: groups)
    monkeypatch.setattr(control_group, "has_capability", lambda bit: capable)
    expected = (
        f"{path}: daemon: control_group: without CAP_CHOWN the control socket cannot be given to"
        " group carp-fast (gid 990), and stays with root (mode 0600); allowed: a group that the"
        " daemon is a member of (SupplementaryGroups= in a unit)"
    )
    assert list(doubts(load(path))) == [expected] * warned


def test_a_reload_changes_the_group_at_once() -> None:
    lines = daemon_changes(Daemon(), Daemon(control_group=ControlGroup("lan", 7)))
    assert lines == ["daemon.control_group none -> {name = lan, gid = 7}"]


def test_names_are_read_again_when_their_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    names = accounts.LocalNames(path)
    assert names.by_number() == {}
    path.write_bytes(b"root:x:0:0\n\xff\x1b:x:7:7\nsecond:x:0:0\n:x:8:8\nodd:x:-1:\n#c\n")
    assert names.by_number() == {0: "root", 7: "\ufffd\\u001b"}
    path.write_text("alice:x:1000:\n")
    assert names.by_number() == {1000: "alice"}
