"""Says how a running process starts its children: by fork, by vfork, or as threads.

A program of its own, since it waits for every process that it traces:
`python -m tests.support.birth_tracer PID` prints "tracing" once it is attached to every thread, and
at SIGTERM one line of JSON with how often each kind of birth happened.  It must not know what the
process is.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

PTRACE_CONT, PTRACE_DETACH = 7, 17
PTRACE_SEIZE, PTRACE_LISTEN, PTRACE_GETEVENTMSG, PTRACE_INTERRUPT = 0x4206, 0x4208, 0x4201, 0x4207
PTRACE_O_TRACEFORK, PTRACE_O_TRACEVFORK, PTRACE_O_TRACECLONE = 0x2, 0x4, 0x8
EVENTS = {1: "fork", 2: "vfork", 3: "clone"}
EVENT_STOP = 128
WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, tid: int, data: int = 0) -> None:
    """Raises OSError."""
    if _libc.ptrace(request, tid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} {tid}")


def born(tid: int) -> int:
    """The number of the process or thread that the event is about."""
    number = ctypes.c_ulong()
    ptrace(PTRACE_GETEVENTMSG, tid, ctypes.addressof(number))
    return number.value


def thread_group(tid: int) -> int:
    for line in Path(f"/proc/{tid}/status").read_text().splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{tid}/status without Tgid")


class Tracer:
    """Follows the threads of one process; its children are let go at once."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.births = {"fork": 0, "vfork": 0, "thread": 0, "clone": 0}
        options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE
        for task in Path(f"/proc/{pid}/task").iterdir():
            ptrace(PTRACE_SEIZE, int(task.name), options)

    def run(self) -> None:
        """Until the process ends."""
        while True:
            try:
                tid, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                self.on_stop(tid, os.WSTOPSIG(status), status >> 16)

    def on_stop(self, tid: int, number: int, event: int) -> None:
        if event in EVENTS:
            kind = EVENTS[event]
            if kind == "clone" and thread_group(born(tid)) == self.pid:
                kind = "thread"
            self.births[kind] += 1
            ptrace(PTRACE_CONT, tid)
        elif event == EVENT_STOP and thread_group(tid) != self.pid:
            ptrace(PTRACE_DETACH, tid)  # a child, attached to by the kernel
        elif event == EVENT_STOP and number in (signal.SIGSTOP, signal.SIGTSTP):
            ptrace(PTRACE_LISTEN, tid)  # the whole process was stopped
        else:
            ptrace(PTRACE_CONT, tid, 0 if event else number)


def main() -> None:
    tracer = Tracer(int(sys.argv[1]))

    def stop(number: int, frame: object) -> None:
        raise InterruptedError

    signal.signal(signal.SIGTERM, stop)
    print("tracing", flush=True)
    with contextlib.suppress(InterruptedError):
        tracer.run()
    print(json.dumps(tracer.births), flush=True)
    # The kernel lets go of every tracee when its tracer ends.


if __name__ == "__main__":
    main()
