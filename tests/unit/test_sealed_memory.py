"""Memory for another process: what was checked there cannot change afterwards."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest

from carp_fast.programs.memory import SEALS, Sealed, SealError, filled, sealed
from tests.support.followed import open_descriptors

MOST = 1 << 20


def test_memory_has_the_parts_one_after_the_other() -> None:
    with Sealed(sealed("parts", [b"ab", bytearray(b"c"), memoryview(b"de")]), MOST) as memory:
        assert bytes(memory.view) == b"abcde"
        assert memory.view.readonly


def test_memory_is_written_in_place() -> None:
    def fill(view: memoryview) -> None:
        view[:3] = b"xyz"

    with Sealed(filled("filled", 5, fill), MOST) as memory:
        assert bytes(memory.view) == b"xyz\0\0"


@pytest.mark.parametrize("descriptor", [sealed("e", ()), filled("e", 0, lambda view: None)])
def test_memory_may_be_empty(descriptor: int) -> None:
    with Sealed(descriptor, 0) as memory:
        assert not memory.view


def test_nothing_can_change_sealed_memory() -> None:
    descriptor = sealed("kept", [b"abc"])
    try:
        for change in (
            lambda: os.write(descriptor, b"x"),
            lambda: os.ftruncate(descriptor, 1),
            lambda: os.ftruncate(descriptor, 9),
            lambda: mmap.mmap(descriptor, 3),
            lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0),
        ):
            with pytest.raises(PermissionError):
                change()
        assert os.pread(descriptor, 9, 0) == b"abc"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW])
def test_memory_without_all_seals_is_refused(missing: int) -> None:
    descriptor = os.memfd_create("half", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS & ~missing)
    with pytest.raises(SealError, match="whose seals are"):
        Sealed(descriptor, MOST)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_file_is_refused(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with pytest.raises(SealError, match="not memory that can be sealed"):
        Sealed(descriptor, MOST)


def test_more_memory_than_allowed_is_refused() -> None:
    with pytest.raises(SealError, match="memory of 3 bytes: allowed: 2"):
        Sealed(sealed("large", [b"abc"]), 2)


def test_a_failed_fill_leaves_no_descriptor() -> None:
    def fill(view: memoryview) -> None:
        raise ValueError("no")

    before = open_descriptors()
    with pytest.raises(ValueError, match="no"):
        filled("failed", 5, fill)
    assert open_descriptors() == before
