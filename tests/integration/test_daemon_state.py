"""The state file where its disk is full or read-only, and where the configuration is a link."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Lab
from tests.support.daemons import start_daemon, write_configuration

pytestmark = pytest.mark.root

WARNING = "WARNING state file .*: {}: if this run crashes"


def table(vhids: str, **keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": vhids, "addresses": ["10.1.1.{vhid}/32"], **keys}


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 64 KiB of its own."""
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def fill(place: Path) -> None:
    with suppress(OSError), open(place / "fill", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.own_paths("send", "receive", reason="the file has what is held")
def test_a_full_or_read_only_disk_keeps_no_daemon_from_starting_or_reloading(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    own = a.addresses()

    def write(vhids: str) -> Path:
        return write_configuration(tmp_path, "a", [table(vhids)], daemon={"state_directory": state})

    with small_disk(tmp_path / "disk") as disk:
        state = str(disk / "state")
        daemon = start_daemon(a, write("1-2"))
        daemon.wait_state("MASTER", 10)
        fill(disk)
        # Less than is recorded needs no room, and more is marked in the kernel.
        write("1-3")
        assert daemon.reload()["added"] == 1
        daemon.wait_log(WARNING.format("No space left on device"), 10)
        daemon.wait_held(own, 3)
        daemon.kill()
        daemon = start_daemon(a, write("1-3"))
        daemon.wait_log("removed 3 addresses left by the last run", 10)
        daemon.wait_held(own, 3)
        daemon.kill()
        (disk / "fill").unlink()
        mount("-o", "remount,ro", str(disk))
        daemon = start_daemon(a, write("2-3"))
        daemon.wait_log(WARNING.format("Read-only file system"), 10)
        daemon.wait_log("removed 3 addresses left by the last run", 10)
        daemon.wait_state("MASTER", 10)
        assert daemon.stop() == 0
        assert a.addresses() == own


@pytest.mark.own_paths("send", "receive", reason="what was held is removed")
def test_a_link_that_is_switched_after_a_crash_leaves_no_address(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    own = a.addresses()
    daemon = {"state_directory": str(tmp_path / "state"), "control_socket": str(tmp_path / "sock")}
    for generation, vhids in (("one", "1-3"), ("two", "3-4")):
        (tmp_path / generation).mkdir()
        write_configuration(tmp_path / generation, "carp", [table(vhids)], daemon=daemon)
    link = tmp_path / "current"
    link.symlink_to("one")
    running = start_daemon(a, link / "carp.toml")
    running.wait_held(own, 3)
    running.kill()
    link.unlink()
    link.symlink_to("two")
    running = start_daemon(a, link / "carp.toml")
    running.wait_state("BACKUP", 10)
    assert a.addresses() == own
    running.wait_held(own, 2)  # those of the other configuration
    assert running.stop() == 0
    assert a.addresses() == own
