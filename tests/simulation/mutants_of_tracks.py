"""Mutants of tracks: what a hard condition does to a virtual host, and for how long."""

from __future__ import annotations

from tests.simulation.mutant import Mutant

DEMOTIONS = "engine/_demotions.pyx"

MUTANTS = (
    Mutant(
        "a master stays when a hard condition fails",
        ((DEMOTIONS, "        why = TRACK_FAILED\n", "        pass\n"),),
    ),
    Mutant(
        "a master resigns again with each order of a hard condition that lasts",
        ((DEMOTIONS, "    elif hard and not host.flags & CANNOT_BE_MASTER", "    elif hard"),),
    ),
    Mutant(
        "a track without a hard condition lets a master resign",
        (
            (
                DEMOTIONS,
                "    elif hard and not host.flags & CANNOT_BE_MASTER:\n",
                "    elif by == BY_TRACK and amount and not host.flags & CANNOT_BE_MASTER:\n",
            ),
        ),
    ),
    Mutant(
        "a hard condition that is met again is not forgotten",
        ((DEMOTIONS, "        host.flags &= ~<uint32_t>CANNOT_BE_MASTER\n", ""),),
    ),
    Mutant(
        "a demotion by another reason ends a hard condition",
        ((DEMOTIONS, "    if by == BY_TRACK:\n", "    if True:\n"),),
    ),
)
