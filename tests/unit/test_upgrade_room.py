"""Room for a second process: each limit is named with what it leaves."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from carp_fast.daemon.upgrade_room import MIB, SPARE_BYTES, shortage

PAGE = resource.getpagesize()
RESIDENT = 100 * MIB
NEEDED = RESIDENT + SPARE_BYTES


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A process of 100 MiB in the cgroup /service/inner, without limits."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "statm").write_text(f"{4 * RESIDENT // PAGE} {RESIDENT // PAGE} 1 1 0 1 0\n")
    (proc / "cgroup").write_text("1:name=systemd:/other\n0::/service/inner\n")
    (tmp_path / "cgroups" / "service" / "inner").mkdir(parents=True)
    return tmp_path


def limit(machine: Path, group: str, most: object, *, used: int = 0, cached: int = 0) -> Path:
    path = machine / "cgroups" / group
    (path / "memory.max").write_text(f"{most}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
    return path


def found(machine: Path) -> str | None:
    return shortage(machine / "proc", machine / "cgroups")


def test_without_a_limit_there_is_room(machine: Path) -> None:
    assert found(machine) is None
    limit(machine, "service/inner", "max", used=1 << 60)
    assert found(machine) is None


@pytest.mark.parametrize("group", ["service/inner", "service", "."])
def test_the_limit_of_each_cgroup_above_counts(machine: Path, group: str) -> None:
    path = limit(machine, group, NEEDED + RESIDENT, used=RESIDENT)
    assert found(machine) is None
    limit(machine, group, NEEDED + RESIDENT, used=RESIDENT + MIB)
    assert found(machine) == (
        f"memory.max = 232 MiB of {path} leaves 131 MiB, and a second process needs about 132 MiB"
    )


def test_pages_of_files_that_nothing_uses_are_room(machine: Path) -> None:
    limit(machine, "service", NEEDED + RESIDENT, used=NEEDED + RESIDENT, cached=NEEDED)
    assert found(machine) is None
    limit(machine, "service", NEEDED + RESIDENT, used=NEEDED + RESIDENT, cached=NEEDED - 1)
    assert found(machine) is not None


def test_a_limit_of_the_address_space_counts(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 * RESIDENT
    for soft, enough in ((size + SPARE_BYTES, True), (size + SPARE_BYTES - MIB, False)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert (found(machine) is None) == enough
    assert (found(machine) or "").startswith("RLIMIT_AS = 431 MiB leaves 131 MiB, and")


@pytest.mark.parametrize("odd", ["", "x y z\n", "1\n"])
def test_figures_that_cannot_be_read_are_no_limit(machine: Path, odd: str) -> None:
    path = limit(machine, "service", 1)
    (path / "memory.current").write_text(odd)
    if odd != "1\n":
        assert found(machine) is None
    (machine / "proc" / "cgroup").write_text(odd)
    assert found(machine) is None
    (machine / "proc" / "statm").write_text(odd)
    assert found(machine) is None
