"""What the engine holds, as it was copied out: virtual hosts, who advertised to them, rejections.

Instants are in ns of the engine's clock, 0: there is none; addresses are 4 or 16 bytes, MACs 6.
Must not know what anybody makes of a copy.
"""

from __future__ import annotations

import msgspec

from carp_fast.engine.reports import State


class SourceCopy(msgspec.Struct, frozen=True, gc=False):
    """Somebody who advertised to a virtual host, and what it sent last.

    `genuine`: it has sent a counter that we did not know; `current`: the master of its family.
    """

    source: bytes
    family: int
    mac: bytes
    advbase: int
    advskew: int
    demote: int
    counter: int
    heard_ns: int
    genuine: bool
    current: bool


class HostCopy(msgspec.Struct, frozen=True):
    """A virtual host's changing part, and what it follows from.

    `interface`: its number; `demotion`: as ordered; `address_demotion`: the reason of one for its
    addresses; `demote`: OpenBSD's byte as it is sent; `held`: how many addresses it has; `peer`:
    the master heard last; `duplicate_source`: the MAC of who sends from our address; `counters`: by
    word; `deadline_ns`: of its next event if nothing is heard.
    """

    interface: int
    vhid: int
    state: State
    reason: str
    since_ns: int
    families: list[int]
    dialect: str
    replay: str
    advbase: int
    advskew: int
    dead_ratio: int
    effective_advskew: int
    demotion: int
    demote: int
    sends_failing: bool
    address_demotion: str | None
    address_deadline_ns: int
    demoted_until_ns: int
    without_ns: int
    retry_at_ns: int
    interval_ns: int
    master_down_ns: int
    source: bytes
    source6: bytes
    held: int
    peer: bytes | None
    peer_advbase: int
    peer_advskew: int
    heard_ns: int
    duplicate_source: bytes | None
    peers: list[SourceCopy]
    counter: int
    deadline_ns: int
    counters: dict[str, int]


class JudgedSource(msgspec.Struct, frozen=True, gc=False):
    """Somebody who advertised, and what would follow if it did again now.

    `event`: one of _vhid.EVENT_WORDS, None: nothing; `own_source`: it sends from our address.
    """

    heard: SourceCopy
    interval_ns: int
    event: str | None
    own_source: bool


class ExplainedHost(msgspec.Struct, frozen=True):
    """A virtual host and why it is so: what runs, and what each source means to it.

    `attentive_ns`: until when a BACKUP missed nothing, as far as it knows.
    """

    host: HostCopy
    heard: list[JudgedSource]
    master_leaves: bool
    contested: bool
    preempt_from_ns: int
    ties: int
    jitter_ns: int
    attentive_ns: int
    failed_sends: int
    silent_families: list[int]


class RejectedFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame that was refused; `vhid`, `source`: None where it was too short to have them."""

    at_ns: int
    verdict: str
    vhid: int | None
    source: bytes | None
