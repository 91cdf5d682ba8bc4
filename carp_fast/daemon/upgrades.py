"""What a daemon remembers of its upgrades. Must not know how one is done."""

from __future__ import annotations

import msgspec


class Upgrades(msgspec.Struct, forbid_unknown_fields=True):
    """How many there were since the start, and of the last one: from which version, when
    (CLOCK_MONOTONIC), for how long nothing was sent, and what the reload after it changed, None
    before that is over.
    """

    count: int = 0
    from_version: str = ""
    at_ns: int = 0
    still_s: float = 0.0
    reload: str | None = None
