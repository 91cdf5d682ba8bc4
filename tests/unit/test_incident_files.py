"""The files of incidents: their names, the limits of number and size, a directory that is full."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from carp_fast.daemon.incident_files import NAME, IncidentFiles

CONFIGURATION = Path("/etc/carp-fast/carp-fast.toml")


def time(number: int) -> str:
    return f"20261130T2045{number:02}Z"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_named_by_time_and_kind_and_is_for_its_group_only(tmp_path: Path) -> None:
    place = tmp_path / "state"
    written = IncidentFiles(place, CONFIGURATION).write(time(1), "stall", b"content\n")
    assert written.path.read_bytes() == b"content\n"
    assert (written.size, written.removed, written.trouble) == (8, (), "")
    assert written.path.name.endswith("-20261130T204501Z-stall.scenario")
    assert NAME.fullmatch(written.path.name)
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o640
    assert names(place) == [written.path.name]


def test_the_oldest_beyond_the_limits_are_removed(tmp_path: Path) -> None:
    files = IncidentFiles(tmp_path, CONFIGURATION, files=3, size=10)
    kept = [files.write(time(number), "stall", b"1").path.name for number in range(3)]
    written = files.write(time(3), "address_lost", b"1")
    assert written.removed == (kept[0],)
    assert names(tmp_path) == [*kept[1:], written.path.name]
    large = files.write(time(4), "stall", b"123456789")
    assert sorted(large.removed) == kept[1:]
    assert names(tmp_path) == [written.path.name, large.path.name]
    whole = files.write(time(5), "stall", b"1234567890")
    assert names(tmp_path) == [whole.path.name]


def test_only_files_of_the_configurations_incidents_are_removed(tmp_path: Path) -> None:
    other = IncidentFiles(tmp_path, Path("/etc/other.toml")).write(time(0), "stall", b"1")
    (tmp_path / "addresses-0123456789abcdef.json").write_text("{}")
    files = IncidentFiles(tmp_path, CONFIGURATION, files=1)
    first = files.write(time(1), "stall", b"1").path
    odd = first.with_name(first.name.replace(time(1), "notes"))
    odd.write_text("mine")
    unfinished = first.with_name(first.name.replace(time(1), time(2))).with_suffix(".new")
    unfinished.write_text("half of")
    last = files.write(time(3), "stall", b"1")
    assert set(last.removed) == {first.name, unfinished.name}
    others = {other.path.name, "addresses-0123456789abcdef.json", odd.name}
    assert set(names(tmp_path)) == {*others, last.path.name}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_file_that_cannot_be_written_leaves_the_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    files = IncidentFiles(tmp_path, CONFIGURATION, files=1)
    first = files.write(time(1), "stall", b"1").path

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        files.write(time(2), "stall", b"1")
    assert names(tmp_path) == [first.name]


def test_older_files_that_cannot_be_removed_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    files = IncidentFiles(tmp_path, CONFIGURATION)
    monkeypatch.setattr(os, "scandir", refuse)
    written = files.write(time(1), "stall", b"1")
    assert (written.removed, written.trouble) == ((), "Permission denied")
    assert written.path.exists()
