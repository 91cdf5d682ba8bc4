"""Addresses where netlink fails: nothing is guessed, nothing foreign removed, nothing forgotten."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
OWN, OURS, OTHER, LATER = "10.9.0.1", "10.9.1.50", "10.9.1.51", "10.9.1.52"
ENOBUFS_FOR_GOOD = 30  # attempts, three a batch: until the wait has grown to seconds
EVERY_FAULT: tuple[dict[str, int], ...] = (
    {},
    {"NO_CHANGES": 1},
    {"NO_CHANGES": 7},
    {"NO_CHANGES": ENOBUFS_FOR_GOOD},
    {"NO_ANSWERS": 1},
    {"NO_ANSWERS": 5},
    {"NO_LOOKS": 4},
    {"NO_ANSWERS": 3, "NO_LOOKS": 9},
    {"NO_ANSWERS": 3, "CUT_LOOKS": 5},
    {"NO_ANSWERS": 3, "STALE_LOOKS": 5},
    {"NO_CHANGES": 5, "NO_ANSWERS": 3, "NO_LOOKS": 4, "CUT_LOOKS": 2, "STALE_LOOKS": 2},
)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that fails; built with the compiler that builds the modules."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    source = ROOT / "tests" / "support" / "netlink_faults.c"
    subprocess.run(
        [*compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True
    )
    return library


def play(library: Path, scene: str, faults: dict[str, int]) -> dict[str, Any]:
    """What a scene comes to in a namespace of its own."""
    environment = os.environ | {name: str(count) for name, count in faults.items()}
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "tests.support.netlink_scene", scene],
        env=environment | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("which", EVERY_FAULT, ids=str)
def test_the_hosts_own_address_is_never_taken_for_ours(faults: Path, which: dict[str, int]) -> None:
    assert play(faults, "foreign", which) == {"held": 0, "there": {OWN: False}}


@pytest.mark.parametrize("which", EVERY_FAULT, ids=str)
def test_our_addresses_come_and_go_whatever_fails(faults: Path, which: dict[str, int]) -> None:
    found = play(faults, "ours", which)
    assert found["during"] == {OWN: False, OURS: True, OTHER: True, LATER: True}
    assert found["there"] == {OWN: False}
    assert found["foreign"] == 0


def test_what_became_of_a_change_is_not_guessed(faults: Path) -> None:
    which = {"NO_ANSWERS": 2, "NO_LOOKS": 12}
    assert play(faults, "blind", which) == {"held": 0, "there": {OWN: False}}


def test_promote_secondaries_is_set_before_a_removal(faults: Path) -> None:
    found = play(faults, "secondaries", {})
    assert found["secondaries"] == [0]
    assert found["restored"] == []
    assert found["there"] == {OWN: False, OTHER: True, LATER: True}


def test_secondaries_that_the_kernel_removes_are_added_again(faults: Path) -> None:
    # Of those of one subnet the first is primary, and the others go with it.
    found = play(faults, "secondaries", {"NO_SETLINK": 1000})
    assert found["there"] == {OWN: False, OTHER: True, LATER: True}
    assert found["restored"] == ["with_ours", "with_ours"]
    assert found["secondaries"] == [1]
    assert found["seconds"] < 5.0


def test_more_addresses_than_one_look_holds(faults: Path) -> None:
    found = play(faults, "many", {})
    assert found["held"] == 8999
    assert found["there"] == {OWN: False, "10.10.0.6": False}


def test_an_address_of_ours_on_a_backup_is_removed_and_a_foreign_one_stays(faults: Path) -> None:
    assert play(faults, "backup", {}) == {"there": {OWN: False, OTHER: False}}


@pytest.mark.parametrize("scene", ["busy", "busy_loop"])
def test_advertisements_do_not_wait_for_a_kernel_that_is_busy(faults: Path, scene: str) -> None:
    found = play(faults, scene, {})
    assert found["held_meanwhile"] == 0, "the kernel answered before it was looked"
    # 30 intervals of 62.5 ms; a machine that is busy itself is behind in turns, and reports that.
    assert found["took_s"] < 2.2 + found["stalled_s"]
    assert (found["announced"], found["left"]) == (True, [OWN, OURS, OTHER])
    assert found["there"] == {OWN: False}


def test_an_interrupted_call_is_repeated_and_is_no_failure_of_a_frame(faults: Path) -> None:
    assert play(faults, "sent", {"INTERRUPTED": 4}) == {"send_errors": 0}
