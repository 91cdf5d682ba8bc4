"""Other processes, as /proc shows them: children, a daemon's helper, who stands still."""

from __future__ import annotations

from pathlib import Path

from carp_fast.lab.lab import wait_for

HELPER = "carp-helper\n"
STOPPED_S = 30.0


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    found = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(word) for text in found for word in text.split()]


def is_helper(pid: int) -> bool:
    """Whether a process is a privileged helper."""
    return Path(f"/proc/{pid}/comm").read_text() == HELPER


def helper_of(pid: int) -> int:
    """The privileged helper of a daemon, its only child."""
    (helper,) = children(pid)
    assert is_helper(helper)
    return helper


def state_of(pid: int) -> str:
    """The letter of a process's state: "T" if it was stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def wait_stopped(pid: int) -> None:
    """Returns once a process was stopped by a signal."""
    wait_for(lambda: state_of(pid) == "T", STOPPED_S, f"a stop of process {pid}")
