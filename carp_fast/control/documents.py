"""The answers and events of the control socket: one class for each document.

Both ends use these. On the wire each is a JSON object whose keys are the names of the fields, in
this order; the daemon encodes them, a client decodes and validates them. A client ignores keys that
it does not know, since a newer daemon may send more. Times of day are RFC 3339 in UTC, durations
are in seconds; addresses and MACs are text. Counters are by word, those of rejections by the words
of _wire.VERDICT_WORDS. Must not know how a document is made, nor how it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from carp_fast.engine.reports import State
from carp_fast.pump.facts import PumpFacts

DEMOTION_MAX, OPENBSD_DEMOTION_MAX = 240, 255  # of the advskew, of OpenBSD's demote byte
REASONS_MAX, REASON_LENGTH_MAX = 32, 200  # of the operator's demotions
KEYS_NAMED_MAX = 5  # of the keys that a reload changed; the others are counted

# ------------------------------------------------------------------------------------------ events


class Demotion(msgspec.Struct, frozen=True):
    """The amounts added to the advskew, by reason; `demote`: the byte sent in dialect "openbsd"."""

    total: int
    reasons: dict[str, int]
    demote: int | msgspec.UnsetType = msgspec.UNSET


NOT_DEMOTED = Demotion(0, {})


class GroupStatus(msgspec.Struct, frozen=True, gc=False):
    """A group of virtual hosts: whether it is demoted, and why.

    `impeded` of its `members` cannot be MASTER here; `because`: the names of the first of these, a
    few. `demote_when`: "any" or "all" of them.
    """

    name: str
    demote_when: str
    demoted: bool
    members: int
    impeded: int
    because: tuple[str, ...]

    @property
    def why(self) -> str:
        """ "2 of 8 members cannot be MASTER here: eth0/1, eth0/2"."""
        more = self.impeded - len(self.because)
        others = f" and {more:,} more" if more > 0 else ""
        named = f": {', '.join(self.because)}{others}" if self.because else ""
        return f"{self.impeded:,} of {self.members:,} members cannot be MASTER here{named}"


class StateEvent(msgspec.Struct, frozen=True, gc=False):
    """A change of a virtual host's state, or of its reason for INIT: a line of `events`.

    `peer`: the source address of the master that it knew then, None if none; `demotion`: its own;
    `group`: its group as it was last reported, None: it is in none. `name`, `description` and
    `segment` are its labels.
    """

    at: str
    interface: str
    vhid: int
    state: State
    previous: State
    reason: str
    peer: str | None
    demotion: Demotion = NOT_DEMOTED
    group: GroupStatus | None = None
    name: str | None = None
    description: str | None = None
    segment: str | None = None


class TrackEvent(msgspec.Struct, frozen=True, gc=False):
    """A change of a track's state, or of the number in a file: a line of `events` with `tracks`.

    `last`: what was found last; `demotion`: of each virtual host that names it, from now on;
    `hard`: they cannot be MASTER here.
    """

    at: str
    track: str
    state: str
    previous: str
    last: str
    demotion: int
    hard: bool


class EventsGap(msgspec.Struct, frozen=True, gc=False):
    """Events that a reader may have missed: a line of `carp-fast events --json --reconnect`.

    No daemon sends it. From `since` until `at` there was no stream; `gap`: why it ended.
    """

    at: str
    since: str
    gap: str


# ------------------------------------------------------------------------------------------ status


class MaintenanceState(msgspec.Struct, frozen=True):
    """A host in maintenance: since when, why, until when; None: until it is ended."""

    since: str
    reason: str
    until: str | None
    until_stop: bool
    force: bool


MaintenancePhase = Literal[
    "demoting", "waiting", "canaries", "giving_up", "returning", "done", "failed"
]


class MaintenanceProgress(msgspec.Struct):
    """How far the way into maintenance, or back, has come.

    `given` of `masters` are MASTER elsewhere; `taken_back`: the first of those that no other host
    adopted, by name; `not_tried`: how many stayed MASTER because of these. `reason`: of the phase
    "failed", "" otherwise: an error of the daemon ended it halfway.
    """

    phase: MaintenancePhase = "demoting"
    masters: int = 0
    given: int = 0
    taken_back: list[str] = []
    taken_back_count: int = 0
    not_tried: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether some virtual hosts are still MASTER here because no other host adopts them."""
        return bool(self.taken_back_count or self.not_tried)


class ControlStatus(msgspec.Struct, frozen=True):
    """The control socket since the daemon started.

    `group`: whose members may read, None for no group; `clients`: connected now; `changes`:
    requests of users who may change something; `not_permitted`: requests of users who may not give
    them; `clients_refused`: connections for which there was no place, `clients_refused_of_user`
    those because their user had as many as one may have. The others are clients that were
    disconnected: slow to read, slow to ask, with a line too long, or too far behind in events;
    `events_dropped`: events that these did not get.
    """

    group: str | None
    clients: int
    requests: int
    changes: int
    errors: int
    not_permitted: int
    clients_refused: int
    clients_refused_of_user: int
    clients_stalled: int
    clients_idle: int
    lines_too_long: int
    readers_dropped: int
    events_dropped: int


HELPER_RUNS = "running"


class UpgradesStatus(msgspec.Struct, frozen=True):
    """The upgrades of a daemon: `count` since it was started, and of the last one: when, from which
    version, and for how long nothing was sent.

    `reload`: what the reload after it changed, or why it was refused; None: it is not over.
    """

    count: int
    at: str
    from_version: str
    still_s: float
    reload: str | None


class DaemonStatus(msgspec.Struct, frozen=True):
    """The daemon's process.

    `receive`: "packet", "ring", "tcx" or "raw"; `receive_fallbacks`: how often it has changed;
    `send`: "clones" or "packet"; `..._reason`: why.
    `demotions`: the operator's, by the text of their reasons, to which the group is added if it is
    one's: "disks (group lan)"; virtual hosts have the sum of those that concern them.
    `maintenance_state`: None if it is in none; `maintenance_progress`: None if there was none in
    this run. `control`: None for a daemon without a control socket. `helper`: "running", or how the
    privileged helper ended; None for a daemon that was not started as root, which has none.
    this run. `control`: None for a daemon without a control socket. `started_at` is before all
    `upgrades`; None: there was none.
    """

    version: str
    pid: int
    started_at: str
    host: str
    receive: str
    maintenance: bool
    pump: PumpFacts
    receive_reason: str = ""
    receive_fallbacks: int = 0
    send: str = "packet"
    send_reason: str = ""
    demotions: dict[str, int] = {}
    maintenance_state: MaintenanceState | None = None
    maintenance_progress: MaintenanceProgress | None = None
    control: ControlStatus | None = None
    helper: str | None = None
    upgrades: UpgradesStatus | None = None


class Summary(msgspec.Struct, frozen=True, gc=False):
    """The number of virtual hosts, in total and in each state."""

    virtual_hosts: int
    master: int
    backup: int
    init: int


class InterfaceStatus(msgspec.Struct, frozen=True):
    """An interface that has virtual hosts.

    `ifindex`: 0 if it does not exist; `source`, `source6`: the addresses that it advertises from;
    `send`: the path of large batches to it, "clones" or "packet".
    """

    name: str
    ifindex: int
    link: Literal["missing", "up", "down"]
    source: str | None
    source6: str | None
    virtual_hosts: int
    master: int
    backup: int
    init: int
    counters: dict[str, int]
    send: str = "packet"


class Peer(msgspec.Struct, frozen=True, gc=False):
    """The master that a virtual host knows."""

    source: str
    advbase: int
    advskew: int
    heard_ago_s: float


class Heard(msgspec.Struct, frozen=True, gc=False):
    """A host that advertised. `mac`: None from a raw socket; `current`: it is the master now."""

    source: str
    mac: str | None
    advbase: int
    advskew: int
    demote: int
    counter: int
    heard_ago_s: float
    current: bool


class VirtualHostFacts(msgspec.Struct, frozen=True):
    """The fields that status and explain share for a virtual host.

    `since`: when it entered `state`; `reason`: one of _vhid.REASON_WORDS; `in_use_by`: the process
    of this machine that has it instead. `addresses_held`: how many of `addresses` were added;
    `held_by`: "route" if its IPv4 addresses are local routes, or would be as MASTER.
    `address_problems`: a description by address; `warnings`: a sentence by word.
    `effective_advskew`: the advskew that is sent, with the demotion.
    """

    interface: str
    vhid: int
    families: list[int]
    destinations: list[str]
    state: State
    since: str
    reason: str
    in_use_by: str | None
    addresses: list[str]
    addresses_held: int
    held_by: Literal["address", "route"]
    address_problems: dict[str, str]
    warnings: dict[str, str]
    advbase: int
    advskew: int
    effective_advskew: int
    demotion: Demotion


class VirtualHostStatus(VirtualHostFacts, frozen=True):
    """A virtual host of the status document.

    `peers`: all hosts that it remembers; `group`: the name of its group, None: it is in none.
    `name`, `description` and `segment` are its labels.
    """

    peer: Peer | None
    peers: list[Heard]
    counters: dict[str, int]
    group: str | None = None
    name: str | None = None
    description: str | None = None
    segment: str | None = None


class TrackStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """What virtual hosts track.

    `state`: "unknown" before the first result, "ok" or "failed"; `since`: when it entered that,
    `for_s` ago; `last`: what was found last; `flaps`: how often it changed between ok and failed.
    `demotion`: of each virtual host that names it, now; `hard`: they cannot be MASTER here.
    `virtual_hosts`: how many name it; None where that is not counted. `ends`: what ends its
    failure, in words: "it is ok again ..."; "" if it has not failed, or there is nothing to count.
    """

    name: str
    kind: str
    state: str
    since: str
    last: str
    flaps: int
    demotion: int
    hard: bool
    for_s: float
    virtual_hosts: int | None = None
    ends: str = ""


class StatusHead(msgspec.Struct, frozen=True):
    """The status without the virtual hosts, which a daemon writes in slices."""

    daemon: DaemonStatus
    summary: Summary
    interfaces: list[InterfaceStatus]
    groups: list[GroupStatus] = []
    tracks: list[TrackStatus] = []


class Status(StatusHead, frozen=True, kw_only=True):
    """The answer to `status`: the virtual hosts that match; the other fields cover all of them."""

    virtual_hosts: list[VirtualHostStatus]


# ----------------------------------------------------------------------------------------- answers


class Answer(msgspec.Struct, frozen=True):
    """The first field of every successful answer; a refusal is a protocol.Verdict."""

    ok: bool


class Reloaded(Answer, frozen=True):
    """What a reload did: `changed`, a line for each change; numbers of virtual hosts.

    `altered`: how many changed in place, None from a daemon that does not count them; `keys`: the
    keys that differ.
    """

    changed: list[str]
    added: int
    removed: int
    kept: int
    seconds: float
    altered: int | None = None
    keys: list[str] = []


class Upgraded(Answer, frozen=True):
    """An upgrade: `pid` and `version` of the process that is the daemon now.

    `seconds`: in all; `still_s`: of these nothing was sent, as seen by the former process.
    """

    pid: int
    version: str
    from_version: str
    seconds: float
    still_s: float


def counts_text(
    added: int, removed: int, altered: int | None, keys: Sequence[str], kept: int
) -> str:
    """What a reload did to the virtual hosts: "1 added, 0 removed, 9 changed (advskew), 3 kept"."""
    named = ", ".join(keys[:KEYS_NAMED_MAX])
    more = f" and {len(keys) - KEYS_NAMED_MAX} more" if len(keys) > KEYS_NAMED_MAX else ""
    changed = f"{altered or 0:,} changed" + (f" ({named}{more})" if named else "")
    counts = [f"{added:,} added", f"{removed:,} removed", changed, f"{kept:,} kept"]
    return ", ".join(counts if altered is not None else [*counts[:2], counts[3]])


class Demoted(Answer, frozen=True):
    """The operator's demotion of this daemon, or of the group that was asked about.

    `total`: what is left of the sum of `reasons` after the most that is sent; `virtual_hosts`: how
    many have it.
    """

    total: int
    reasons: dict[str, int]
    virtual_hosts: int


class PlannedUnit(msgspec.Struct, frozen=True):
    """What maintenance would give up together: the masters of an interface, and of a group.

    `heard`: of how many of them another host has been heard; `canary`: the first to be given up.
    """

    interface: str
    group: str
    masters: int
    heard: int
    canary: str


class Maintenance(Answer, frozen=True):
    """The answer to MaintenanceRequest: how it stands, and for "plan" what would be given up."""

    state: MaintenanceState | None
    progress: MaintenanceProgress | None
    plan: list[PlannedUnit] | None = None


class HandedOver(Answer, frozen=True):
    """What a hand-over by hand did to each virtual host.

    `state`: its state since; `peer`: the other host that has it now, or had it; None if no other
    host has been heard yet. `reason`: of the operator's demotion that holds it, "" for none;
    `group`: whose it is, None if it is of one virtual host.
    """

    class Host(msgspec.Struct, frozen=True):
        """One virtual host."""

        interface: str
        vhid: int
        state: State
        peer: str | None

    virtual_hosts: list[Host]
    reason: str = ""
    group: str | None = None


class RecordingHead(msgspec.Struct, frozen=True):
    """A recording without its lines, which a daemon writes in slices.

    `overwritten`: older records that are gone; `unrecorded`: refused frames that came too fast.
    """

    records: int
    overwritten: int
    unrecorded: int
    virtual_hosts: int


class Recording(RecordingHead, frozen=True):
    """The answer to `record`: `lines` of a scenario, as `carp-fast replay` plays it."""

    lines: list[str]
