"""Files that are followed: what wakes the process. The tests of tracks by files test the rest."""

from __future__ import annotations

import os
import select
import subprocess
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from carp_fast.inotify import Paths


class Loop:
    """Keeps the one reader that it gets, to be called by the test."""

    fd = -1

    def add_reader(self, fd: int, read: Callable[[], None]) -> None:
        self.fd, self.read = fd, read

    def remove_reader(self, fd: int) -> None:
        assert fd == self.fd

    def call_later(self, _: float, callback: Callable[..., None], *arguments: Any) -> None:
        callback(*arguments)

    def woken(self) -> bool:
        """Whether the kernel has reported anything; reads it."""
        if not select.select([self.fd], [], [], 0)[0]:
            return False
        self.read()
        return True


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def paths(loop: Loop) -> Iterator[Paths]:
    followed = Paths(cast(AbstractEventLoop, loop))
    yield followed
    followed.close()


@pytest.mark.parametrize("content", [False, True])
def test_what_is_written_on_the_way_to_a_file_is_not_reported(
    paths: Paths, loop: Loop, tmp_path: Path, content: bool
) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    above, beside, file = tmp_path / "log", directory / "log", directory / "file"
    for each in (above, beside, file):
        each.touch()
    changes: list[None] = []
    paths.follow(str(file), lambda: changes.append(None), content=content)
    above.write_text("1")
    assert not loop.woken()
    beside.write_text("1")
    assert loop.woken() is content, "the directory of a file whose content matters is watched"
    assert not changes
    file.write_text("1")
    assert loop.woken() is content
    assert bool(changes) is content
    changes.clear()
    file.unlink()
    assert loop.woken()
    assert changes


def test_a_directory_is_watched_for_content_as_soon_as_one_path_needs_it(
    paths: Paths, loop: Loop, tmp_path: Path
) -> None:
    changes: list[str] = []
    for name, content in (("first", False), ("second", True), ("third", False)):
        (tmp_path / name).touch()
        paths.follow(str(tmp_path / name), lambda n=name: changes.append(n), content=content)  # type: ignore[misc]
    for name in ("first", "second", "third"):
        (tmp_path / name).write_text("1")
    assert loop.woken()
    assert set(changes) >= {"second"}
    changes.clear()
    for name in ("first", "second", "third"):
        (tmp_path / name).unlink()
    assert loop.woken()
    assert set(changes) == {"first", "second", "third"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a directory at a second place")
def test_two_paths_to_one_directory_are_both_followed(
    paths: Paths, loop: Loop, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "file").touch()
    subprocess.run(["mount", "--bind", first, second], check=True)
    try:
        changes: list[str] = []
        leave = paths.follow(str(first / "file"), lambda: changes.append("first"))
        paths.follow(str(second / "file"), lambda: changes.append("second"), content=False)
        (first / "file").write_text("1")
        assert loop.woken()
        assert set(changes) == {"first", "second"}
        leave()
        changes.clear()
        (first / "file").unlink()
        assert loop.woken()
        assert changes == ["second"]
    finally:
        subprocess.run(["umount", second], check=True)


def test_a_directory_is_followed_on_after_another_one_took_its_name(
    paths: Paths, loop: Loop, tmp_path: Path
) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    changes: list[str] = []
    paths.follow(str(here / "file"), lambda: changes.append("here"))
    here.rename(other)
    paths.follow(str(other / "file"), lambda: changes.append("other"))
    here.mkdir()
    while loop.woken():
        pass
    for name, directory in (("here", here), ("other", other)):
        changes.clear()
        (directory / "file").touch()
        assert loop.woken()
        assert changes
        assert set(changes) == {name}
