"""The standard descriptors: opened at the start, and given up when no process reads them.

Must not import what is not needed before everything else.
"""

from __future__ import annotations

import contextlib
import os
import sys

STDIN, STDOUT, STDERR = 0, 1, 2


def open_missing() -> None:
    """Opens /dev/null in place of each standard descriptor that is closed.

    Otherwise the next socket or file would get its number, and be used as standard output.
    """
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number, which is this one
            os.set_inheritable(descriptor, True)
    # Python sets these to None if the descriptors were closed when it started.
    sys.stdin = sys.stdin or os.fdopen(STDIN, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)


def discard_output() -> None:
    """Discards buffered output, whose flush would fail again when the interpreter exits."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), STDOUT)
