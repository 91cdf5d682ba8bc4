"""What the virtual hosts of an interface add up to, as the engine's tallies give it to Python."""

from __future__ import annotations

import msgspec


class Durations(msgspec.Struct, frozen=True):
    """A histogram: how many durations are at most each bound and above the one before.

    The last count is of those above all bounds; `sum_ns` is the sum of all durations.
    """

    counts: list[int]
    sum_ns: int


class Tallied(msgspec.Struct, frozen=True):
    """The virtual hosts of an interface.

    `states`: their number by state; `held`: addresses that are on the interface, and ours;
    `wanted`: those that its MASTERs should have; `second_masters`: MASTERs that hear another one;
    `families`: 4 or 6, those that need a source of the interface itself. The others only grow, and
    count those of virtual hosts that have left: `transitions` by (new state, reason).
    """

    states: dict[str, int]
    held: int
    wanted: int
    second_masters: int
    families: list[int]
    transitions: dict[tuple[str, str], int]
    addresses_restored: int
    duplicate_source: int
    counter_reset: int
    family_silent: int
