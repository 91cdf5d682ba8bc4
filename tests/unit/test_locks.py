"""The locks by which processes of one machine keep a virtual host to one of them."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from carp_fast.daemon.locks import LOCK_FILE, Locks, _locked, named

GROUP, GROUP6, OTHER = "224.0.0.18", "ff02::12", "239.0.0.18"
BOTH = (GROUP, GROUP6)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Locks, Locks]]:
    """The locks of two daemons: what counts is the open file, not the process."""
    with Locks(tmp_path / "lock") as one, Locks(tmp_path / "lock") as other:
        yield one, other


def test_one_alone_has_a_virtual_host(two: tuple[Locks, Locks]) -> None:
    one, other = two
    assert one.take(2, 7, BOTH) is None
    assert one.take(2, 7, BOTH) is None, "its own lock does not keep it out"
    assert other.take(2, 7, BOTH) == GROUP
    assert other.take(2, 7, (GROUP6,)) == GROUP6
    for ifindex, vhid, destination in ((2, 8, GROUP), (3, 7, GROUP), (2, 7, OTHER)):
        assert other.take(ifindex, vhid, (destination,)) is None, (ifindex, vhid, destination)
    one.give_back(2, 7, BOTH)
    assert other.take(2, 7, BOTH) is None


def test_locks_are_passed_on_with_the_open_file(tmp_path: Path) -> None:
    with Locks(tmp_path / "lock") as other:
        former = Locks(tmp_path / "lock")
        assert former.take(2, 7, BOTH) is None
        passed_on = os.dup(former.fileno())
        with Locks(tmp_path / "lock", descriptor=passed_on) as successor:
            former.close()
            assert former.fileno() == -1
            assert other.take(2, 7, BOTH) == GROUP, "at no time they were free"
            assert successor.take(2, 7, BOTH) is None
            successor.give_back(2, 7, (GROUP,))
            assert other.take(2, 7, (GROUP,)) is None
            assert other.take(2, 7, (GROUP6,)) == GROUP6
        assert other.take(2, 7, (GROUP6,)) is None


def test_all_destinations_are_had_or_none(two: tuple[Locks, Locks]) -> None:
    one, other = two
    peers = tuple(f"192.0.2.{number}" for number in range(1, 17))
    assert one.take(2, 7, peers[9:10]) is None
    assert other.take(2, 7, peers) == peers[9]
    assert one.take(2, 7, peers) is None, "what was locked before the one that was not is free"


def test_an_interface_is_taken_as_a_whole_or_not_at_all(two: tuple[Locks, Locks]) -> None:
    one, other = two
    every = [(vhid, BOTH) for vhid in range(1, 256)]
    assert one.take(2, 200, (GROUP6,)) is None
    assert not other.take_many(2, every)
    assert one.take_many(2, every)
    assert other.conflict(2, GROUP, 1, 255) == range(1, 256)
    assert other.conflict(2, GROUP, 10, 20) == range(1, 256)
    one.give_back(2, 15, (GROUP,))
    assert other.conflict(2, GROUP, 15, 20) == range(16, 256)
    assert not other.conflict(2, GROUP, 15, 15)
    assert not other.conflict(3, GROUP, 1, 255)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_taken_and_given_back_no_two_have_the_same(
    two: tuple[Locks, Locks], seed: int
) -> None:
    draw = random.Random(seed)
    had: dict[tuple[int, str], int] = {}  # (vhid, destination) to who has it
    for _ in range(2000):
        who, vhid = draw.randrange(2), draw.randint(1, 20)
        wanted = draw.choice(((GROUP,), (GROUP6,), BOTH))
        if draw.random() < 0.5:
            free = all(had.get((vhid, each), who) == who for each in wanted)
            # What was had before a refusal is given up with the rest: as a new one has nothing.
            if not free and any(had.get((vhid, each)) == who for each in wanted):
                continue
            assert (two[who].take(2, vhid, wanted) is None) == free
            if free:
                had.update(dict.fromkeys(((vhid, each) for each in wanted), who))
        else:
            two[who].give_back(2, vhid, wanted)
            for each in wanted:
                if had.get((vhid, each)) == who:
                    del had[vhid, each]


HOLDER = """
import sys
from pathlib import Path
from carp_fast.daemon.locks import Locks
locks = Locks(Path(sys.argv[1]))
assert locks.take_many(2, [(vhid, ("224.0.0.18",)) for vhid in range(1, 11)])
print("locked", flush=True)
sys.stdin.read()
"""


def test_who_has_it_is_named_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    argv = [sys.executable, "-c", HOLDER, str(path)]
    with (
        Locks(path) as locks,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        assert locks.take(2, 7, (GROUP,)) == GROUP
        assert locks.owner(2, 7, GROUP) == process.pid
        assert named(process.pid).startswith(f"pid {process.pid} (python")
        assert locks.owner(2, 11, GROUP) is None
        assert named(None) == "a process that cannot be seen from here"
        process.kill()
        process.wait()
        assert locks.take(2, 7, (GROUP,)) is None, "a lock ends with its process"


def test_nobody_else_may_open_the_file(tmp_path: Path) -> None:
    assert Path("/run/carp-fast.lock") == LOCK_FILE
    with Locks(tmp_path / "lock") as locks:
        assert stat.S_IMODE(locks.path.stat().st_mode) == 0o600
    with pytest.raises(NotADirectoryError):
        Locks(tmp_path / "lock" / "lock")


def test_what_the_kernel_says_of_locks_is_read() -> None:
    text = (
        "pos:\t0\nflags:\t02100002\n"
        "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:1a:1234 100 199\n"
        "lock:\t2: OFDLCK ADVISORY  WRITE -1 00:1a:1234 300 EOF\n"
        "lock:\t3: FLOCK  ADVISORY  WRITE 99 00:1a:1234 0 EOF\n"
    )
    assert list(_locked(text)) == [range(100, 200), range(300, 1 << 63)]
