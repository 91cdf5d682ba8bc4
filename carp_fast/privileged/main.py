"""The command line by which the daemon starts its helper, and the helper a loader.

Nobody else starts them: both need descriptors that they are given. Must not import what only one of
the two needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from carp_fast.privileged.start import HELPER, LOADER

WRONG_USAGE = 2


def main(words: Sequence[str]) -> int:
    """Runs the helper or a loader; returns the exit code."""
    which, *numbers = words or ("",)
    descriptors = _open(numbers)
    if which == HELPER and len(descriptors) == 2:
        from carp_fast.privileged.server import main as helper

        return helper(*descriptors)
    if which == LOADER and len(descriptors) == 2:
        from carp_fast.privileged.loader import main as loader

        return loader(*descriptors)
    print("carp-fast privileged: only `carp-fast run` and ucarp start this", file=sys.stderr)
    return WRONG_USAGE


def _open(numbers: Sequence[str]) -> list[int]:
    """These descriptors; none if one of them is not open."""
    try:
        descriptors = [int(each) for each in numbers]
        for each in descriptors:
            os.fstat(each)
    except (ValueError, OSError):
        return []
    return descriptors
