"""What is read from /proc: against a made-up one, and against this very process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carp_fast.bench.usage import Machine, Memory, Usage, descendants, machine, memory, usage


def fake_process(proc: Path, pid: int, parent: int, tasks: dict[int, tuple[int, int, int]]) -> None:
    """`tasks`: by number, (run ns, voluntary, involuntary switches)."""
    (proc / str(pid)).mkdir(parents=True)
    before = "S " + f"{parent} " + "0 " * 9
    (proc / str(pid) / "stat").write_text(f"{pid} (a) name) {before}200 300 0 0")
    (proc / str(pid) / "smaps_rollup").write_text(
        "0000-ffff ---p 0 00:00 0 [rollup]\nRss:  100 kB\nPss:   40 kB\nPss_Dirty: 7 kB\n"
    )
    for task, (run_ns, voluntary, involuntary) in tasks.items():
        at = proc / str(pid) / "task" / str(task)
        at.mkdir(parents=True)
        (at / "schedstat").write_text(f"{run_ns} 5 6\n")
        (at / "status").write_text(
            f"Name: x\nvoluntary_ctxt_switches:\t{voluntary}\n"
            f"nonvoluntary_ctxt_switches:\t{involuntary}\n"
        )


def test_processes_and_threads_add_up(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, 1, {10: (1_000, 3, 1), 11: (500, 2, 0)})
    fake_process(tmp_path, 20, 10, {20: (7, 1, 1)})
    used = usage([10, 20, 999], tmp_path)
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert used == Usage(1_507, 400 * tick_ns, 600 * tick_ns, 8)
    assert used.since(Usage(1_500, 0, 600 * tick_ns, 8)) == Usage(7, 400 * tick_ns, 0, 0)
    assert memory([10, 20, 999], tmp_path) == Memory(200 * 1024, 80 * 1024)


def test_descendants_come_after_their_parents(tmp_path: Path) -> None:
    for pid, parent in ((5, 1), (6, 5), (7, 6), (8, 1), (9, 6)):
        fake_process(tmp_path, pid, parent, {})
    (tmp_path / "self").mkdir()
    found = descendants([5], tmp_path)
    assert found[:2] == [5, 6]
    assert set(found) == {5, 6, 7, 9}


def test_the_machine_is_busy_when_it_neither_idles_nor_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_ns = 1_000_000_000
    hertz = os.sysconf("SC_CLK_TCK")
    clock = {"ns": 70 * second_ns}
    monkeypatch.setattr(time, "monotonic_ns", lambda: clock["ns"])
    (tmp_path / "stat").write_text("cpu  1 2 3 4000 500 6 7 8 0 0\ncpu0 1 1 1\ncpu1 1 1 1\n")
    before = machine(tmp_path)
    clock["ns"] += 10 * second_ns
    idle, waiting, stolen, softirq = 15 * hertz, 2 * hertz, hertz // 2, 3
    (tmp_path / "stat").write_text(
        f"cpu  1 2 3 {4000 + idle} {500 + waiting} 6 {7 + softirq} {8 + stolen} 0 0\n"
        "cpu0 1 1 1\ncpu1 1 1 1\n"
    )
    busy_ns = 2 * 10 * second_ns - 15 * second_ns - 2 * second_ns - second_ns // 2
    softirq_ns = softirq * second_ns // hertz
    assert machine(tmp_path).since(before) == Machine(busy_ns, softirq_ns, second_ns // 2)


def test_usage_of_this_process_is_what_it_spent() -> None:
    before, begun_ns = usage([os.getpid()]), time.process_time_ns()
    while time.process_time_ns() - begun_ns < 30_000_000:
        pass
    spent_ns = time.process_time_ns() - begun_ns
    used = usage([os.getpid()]).since(before)
    assert 0.5 * spent_ns < used.cpu_ns < 3 * spent_ns + 50_000_000
    held = memory([os.getpid()])
    assert 1 << 20 < held.pss_bytes <= held.rss_bytes


def test_a_child_is_found_and_one_that_has_ended_counts_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        assert child.pid in descendants([os.getpid()])
        assert child.stdin is not None
        child.stdin.close()
        child.wait(20)
    assert child.pid not in descendants([os.getpid()])
    assert usage([child.pid]) == Usage(0, 0, 0, 0)
    assert memory([child.pid]) == Memory(0, 0)
