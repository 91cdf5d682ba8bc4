"""Copies of the engine's state: virtual hosts, the sources that advertised to them, rejections.

Instants are in ns of the engine's clock, 0: none; addresses are 4 or 16 bytes, MACs 6. Must not
know how a copy is used.
"""

from __future__ import annotations

import msgspec

from carp_fast.engine.reports import State


class SourceCopy(msgspec.Struct, frozen=True, gc=False):
    """A source that advertised to a virtual host, and the fields that it sent last.

    `genuine`: it has sent a counter that was not known before; `current`: it is the master of its
    family.
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
    """The state of a virtual host and the settings that it depends on.

    `interface`: its number; `demotions`: the amount by each reason that has one,
    "operator", "track", "group", "maintenance", "link", "send_errors", and "address_lost" or
    "address_deadline", which is also `address_demotion`; `demote`: OpenBSD's byte as it is sent;
    `held`: how many addresses it has; `by_route`: its IPv4 addresses are added as local routes;
    `holds_routes`: some are held so;
    `peer`: the master heard last; `duplicate_source`: the MAC of a host that sends from our
    address; `counters`: by word; `deadline_ns`: of its next event if nothing is heard.
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
    demotions: dict[str, int]
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
    by_route: bool
    holds_routes: bool
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
    """A source that advertised, and what would happen if it advertised again now.

    `event`: one of _vhid.EVENT_WORDS, None: nothing; `own_source`: it sends from our address.
    `as_backup`: the event if we were BACKUP, heard no other host, and waited no preempt delay;
    `undemoted`: the same if we were not demoted either;
    `beaten`: whether the election would keep us MASTER against it.
    """

    heard: SourceCopy
    interval_ns: int
    event: str | None
    own_source: bool
    as_backup: str | None
    undemoted: str | None
    beaten: bool


class ExplainedHost(msgspec.Struct, frozen=True):
    """A virtual host and the reasons for its state: its timers, and the effect of each source.

    `attentive_ns`: until when a BACKUP has missed no frame, as far as is known.
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
    """A frame that was refused; `vhid` and `source` are None if it was too short to have them."""

    at_ns: int
    verdict: str
    vhid: int | None
    source: bytes | None
