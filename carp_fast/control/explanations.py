"""The document of `explain`: why a virtual host is in its state, in facts.

Beside documents.py, whose rules it follows. Must not know how a fact is found, nor its sentences.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from carp_fast.control.documents import (
    Answer,
    GroupStatus,
    Heard,
    MaintenanceState,
    TrackStatus,
    VirtualHostFacts,
)

Link = Literal["missing", "unusable", "up", "down"]


class Digest(msgspec.Struct, frozen=True):
    """How a digest over link-local addresses is made: `form` is that of _prepared.signed_forms.

    `link_local`: the configured ones; `automatic`: the one of OpenBSD's carp interface.
    """

    form: str
    link_local: list[str]
    automatic: str


class HeardMaster(msgspec.Struct, frozen=True, gc=False):
    """A host that advertised, and the effect that its next advertisement would have.

    `interval_s`: between two of its advertisements; `own_source`: it sends from our own address;
    `event`: one of _vhid.EVENT_WORDS, None if it would have no effect; `undemoted`: the same for a
    BACKUP that is not demoted and waits no preempt delay.
    """

    source: str
    family: int
    mac: str
    advbase: int
    advskew: int
    demote: int
    interval_s: float
    counter: int
    heard_ago_s: float
    current: bool
    own_source: bool
    event: str | None
    undemoted: str | None = None


Event = Literal["ready", "master_down", "master_left", "our_turn", "advertisement_due"]


class Timer(msgspec.Struct, frozen=True, gc=False):
    """The next event if nothing is heard, and when it is due."""

    event: Event
    in_s: float


class Stalled(msgspec.Struct, frozen=True, gc=False):
    """A BACKUP waits longer because it may have missed something `until` then, `ago_s` ago."""

    until: str
    ago_s: float


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """A frame that was refused; `vhid`, `source`: None if it was too short to contain them."""

    at: str
    ago_s: float
    verdict: str
    vhid: int | None
    source: str | None


class VirtualHostExplanation(VirtualHostFacts, frozen=True):
    """Why a virtual host is in its state.

    `digest`: None without link-local addresses. `configured_sources`: by address, where it is, see
    own_sources.Where. `..._in_s`, `without_addresses_s`: None if no such time is running.
    `rejections`: the last of its interface that concern it or an unknown vhid, newest first;
    `interface_rejected`: its interface's counters, most of which have no known vhid. `set_up`: its
    interface is set up, with or without carrier; `group_masters`: how many members of its group are
    MASTER here. `name`, `description` and `segment` are its labels.
    """

    peers: list[Heard]
    counters: dict[str, int]
    digest: Digest | None
    source: str | None
    source6: str | None
    configured_sources: dict[str, str]
    dialect: str
    replay: str
    dead_ratio: int
    interval_s: float
    master_down_s: float
    preempt: bool | str
    preempt_delay_s: float
    startup_delay_s: float
    ignore_link_state: bool
    manage_addresses: bool
    hold: str
    no_routes_because: str | None
    address_deadline_s: float
    without_addresses_s: float | None
    retries_in_s: float | None
    undemoted_in_s: float | None
    link: Link
    for_s: float
    heard: list[HeardMaster]
    silent_families: list[int]
    timer: Timer | None
    preempts_in_s: float | None
    stalled: Stalled | None
    ties: int
    jitter_s: float
    demote: int
    failed_sends: int
    rejections: list[Rejection]
    interface_rejected: dict[str, int]
    operator_demotions: dict[str, int] = msgspec.field(default_factory=dict)
    group: GroupStatus | None = None
    maintenance: MaintenanceState | None = None
    tracks: list[TrackStatus] = msgspec.field(default_factory=list)
    set_up: bool = True
    group_masters: int = 0
    name: str | None = None
    description: str | None = None
    segment: str | None = None


class Explanation(msgspec.Struct, frozen=True):
    """The answer to `explain`: every virtual host of the interface and vhid."""

    virtual_hosts: list[VirtualHostExplanation]


class Explained(Answer, frozen=True):
    """The answer to ExplainRequest."""

    explain: Explanation
