"""Holds one thread of another process still, until its input ends.

`python -m tests.support.thread_holder TID` prints "held" when the thread has stopped.  It must not
know whose thread it is.
"""

from __future__ import annotations

import os
import sys

from tests.support.birth_tracer import PTRACE_INTERRUPT, PTRACE_SEIZE, WALL, ptrace


def main() -> None:
    tid = int(sys.argv[1])
    ptrace(PTRACE_SEIZE, tid)
    ptrace(PTRACE_INTERRUPT, tid)
    os.waitpid(tid, WALL)
    print("held", flush=True)
    sys.stdin.read()
    # The kernel lets go of the tracee when its tracer ends.


if __name__ == "__main__":
    main()
