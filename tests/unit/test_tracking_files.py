"""Tracks by files, and how changes of a path are noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carp_fast import inotify
from carp_fast.config.tracks import FileTrack
from carp_fast.tracking.files import number_in
from carp_fast.tracking.judging import Effect
from tests.support.followed import Follower, open_descriptors


@pytest.mark.parametrize(
    ("content", "number", "text"),
    [
        ("0", 0, "0"),
        (" 17\n", 17, "17"),
        ("240", 240, "240"),
        ("255", 255, "255"),
        ("256", 255, "256 counts as 255"),
        ("-1", None, "PATH: holds '-1', not a number from 0 to 255"),
        ("1.5", None, "PATH: holds '1.5', not a number from 0 to 255"),
        ("12 13", None, "PATH: holds '12 13', not a number from 0 to 255"),
        ("", None, "PATH: is empty, not a number from 0 to 255"),
    ],
)
def test_the_number_in_a_file(tmp_path: Path, content: str, number: int | None, text: str) -> None:
    path = tmp_path / "number"
    path.write_text(content)
    found = number_in(str(path))
    assert (found.number, found.text.replace(str(path), "PATH")) == (number, text)
    assert found.ok == (number is not None)


def test_what_is_no_file() -> None:
    assert number_in("/nonexistent").text == "/nonexistent: No such file or directory"
    assert number_in("/dev/zero").text == "/dev/zero: not a regular file"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not number_in(str(tmp_path / "pipe")).ok


def wait_effect(follower: Follower, effect: Effect) -> None:
    follower.wait(lambda: follower.tracks.effect_of("n") == effect, f"{effect}")


def test_each_way_to_change_a_file_is_noticed(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there" / "yet"
    path = directory / "number"
    with Follower(FileTrack(name="n", path=str(path), demotion=99)) as follower:
        assert follower.judged("n").state == "failed"
        directory.mkdir(parents=True)
        path.write_text("1")
        wait_effect(follower, Effect(1))
        path.write_text("2")
        wait_effect(follower, Effect(2))
        other = directory / "other"
        other.write_text("3")
        other.rename(path)  # as an editor does
        wait_effect(follower, Effect(3))
        path.rename(other)
        wait_effect(follower, Effect(99))
        path.symlink_to(other)
        wait_effect(follower, Effect(3))
        other.write_text("4")
        wait_effect(follower, Effect(4))
        with other.open("r+") as left_open:
            left_open.write("5")
            left_open.flush()
            wait_effect(follower, Effect(5))
        directory.rename(tmp_path / "elsewhere")
        wait_effect(follower, Effect(99))
        directory.mkdir()
        path.write_text("6")
        wait_effect(follower, Effect(6))
        assert follower.judged("n").flaps == 5


def test_a_link_to_a_directory_that_is_exchanged_is_noticed(tmp_path: Path) -> None:
    for name in "12":
        (tmp_path / name).mkdir()
        (tmp_path / name / "number").write_text(name)
    link = tmp_path / "current"
    link.symlink_to("1")
    with Follower(FileTrack(name="n", path=str(link / "number"))) as follower:
        wait_effect(follower, Effect(1))
        (tmp_path / "new").symlink_to("2")
        (tmp_path / "new").rename(link)
        wait_effect(follower, Effect(2))
        (tmp_path / "2" / "number").write_text("7")
        wait_effect(follower, Effect(7))


def test_a_directory_that_is_exchanged_while_events_are_lost_is_followed(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    path = directory / "number"
    path.write_text("1")
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with Follower(FileTrack(name="n", path=str(path))) as follower:
        for _ in range(most // 2 + 1):  # two events each: it comes and goes
            (directory / "other").symlink_to("nowhere")
            (directory / "other").unlink()
        directory.rename(tmp_path / "elsewhere")
        directory.mkdir()
        path.write_text("2")
        wait_effect(follower, Effect(2))
        path.write_text("3")
        wait_effect(follower, Effect(3))


def test_a_file_that_is_missing_from_the_start_says_nothing_where_that_is_initially_ok(
    tmp_path: Path,
) -> None:
    path = tmp_path / "number"
    with Follower(FileTrack(name="n", path=str(path), initial="ok")) as follower:
        assert (follower.judged("n").state, follower.judged("n").effect) == ("unknown", Effect())
        path.write_text("8")
        wait_effect(follower, Effect(8))
        path.unlink()
        wait_effect(follower, Effect(240, True))


def test_without_inotify_files_are_looked_at_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        def inotify_init1(self, _: int) -> int:
            return -1

    monkeypatch.setattr(inotify, "_libc", Refusing())
    monkeypatch.setattr(inotify, "POLL_S", 0.02)
    path = tmp_path / "number"
    path.write_text("1")
    tracks = [FileTrack(name=name, path=str(path)) for name in "nm"]
    with Follower(*tracks) as follower:
        path.write_text("2")
        wait_effect(follower, Effect(2))
    assert [each.levelname for each in caplog.records if "inotify" in each.message] == ["WARNING"]


def test_nothing_is_watched_after_the_last_track(tmp_path: Path) -> None:
    before = open_descriptors()
    with Follower() as follower:
        base = open_descriptors()
        follower.follow(FileTrack(name="n", path=str(tmp_path / "number")))
        assert open_descriptors() == base + 1
        follower.follow()
        assert open_descriptors() == base
    assert open_descriptors() == before
