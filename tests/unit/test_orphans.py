"""What is left behind is reaped where the daemon is process 1, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from carp_fast.daemon.orphans import zombies

DEADLINE_S = 60.0
# Process 1 of a namespace: a child of its own ends with 3 and leaves a process in the background.
PROGRAM = """
import asyncio, os
from carp_fast.programs.children import Child
from carp_fast.daemon.orphans import reap_orphans, zombies

assert os.getpid() == 1

async def scenario():
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    read_end, write_end = os.pipe()
    # In the background a shell reads from /dev/null, unless it is told otherwise.
    script = "exec 3<&0; (read line <&3; exit 7) & exit 3"
    Child(loop, ["sh", "-c", script], {**os.environ}, print, ended.set_result, stdin=read_end)
    assert await ended == 3
    os.close(read_end)
    others = [int(each) for each in os.listdir("/proc") if each.isdigit() and int(each) > 1]
    assert len(others) == 1, others
    os.close(write_end)
    while not zombies(1):
        await asyncio.sleep(0)
    assert zombies(1) == set(others)
    task = asyncio.ensure_future(reap_orphans(0.01))
    while zombies(1):
        await asyncio.sleep(0)
    task.cancel()
    own = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
    again = asyncio.ensure_future(reap_orphans(0.5))
    assert await own.wait() == 5
    again.cancel()

asyncio.run(asyncio.wait_for(scenario(), 30))
"""


def test_a_child_that_has_ended_is_a_zombie_until_it_is_waited_for() -> None:
    read_end, write_end = os.pipe()
    with subprocess.Popen(["sh", "-c", "exit 4"], pass_fds=(write_end,)) as process:
        os.close(write_end)
        assert os.read(read_end, 1) == b"", "it has ended, or is about to"
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.pid in zombies(os.getpid())
        assert zombies(process.pid) == set()
        assert process.wait() == 4
        assert process.pid not in zombies(os.getpid())
    os.close(read_end)


@pytest.mark.root
def test_process_1_reaps_what_a_child_left_behind_and_takes_no_exit_status() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
