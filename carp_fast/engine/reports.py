"""What the engine and the pump report: one class for each thing that happened.

A report is made when it is taken, never in the pump's thread. Dispatch by its class. Instants are
in ns of the engine's clock (CLOCK_MONOTONIC in a daemon); addresses are 4 or 16 bytes, MACs 6. A
slot is the virtual host's place in the engine's table, as its owner gave it. Must not know what
anybody makes of a report.
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["INIT", "BACKUP", "MASTER"]


class Report(msgspec.Struct, frozen=True, gc=False):
    """Something happened at `at_ns`."""

    at_ns: int


class HostReport(Report, frozen=True, gc=False):
    """It happened to the virtual host in `slot`."""

    slot: int


class AddressReport(HostReport, frozen=True, gc=False):
    """It happened to one address of the virtual host: `address` counts the signed ones first."""

    address: int


# ------------------------------------------------------------------------------- states, demotion


class StateChanged(HostReport, frozen=True, gc=False):
    """The virtual host went from `previous` to `state`; INIT to INIT: its reason changed.

    `reason`: one of _vhid.REASON_WORDS. `peer`: the master that it knew then, None if none.
    """

    state: State
    previous: State
    reason: str
    peer: bytes | None


class SendsFailing(HostReport, frozen=True, gc=False):
    """Three advertisements in a row were not sent, the last with the errno `error`: demoted."""

    error: int


class SendsRecovered(HostReport, frozen=True, gc=False):
    """Three advertisements in a row were sent again: no longer demoted for that."""


class Undemoted(HostReport, frozen=True, gc=False):
    """It was demoted since it could not hold its addresses, and is no longer."""


class Reasserted(HostReport, frozen=True, gc=False):
    """A MASTER answered the slower master `peer`. At most once a minute."""

    peer: bytes | None


class Released(HostReport, frozen=True, gc=False):
    """A removed virtual host has left, its addresses are gone: the slot is free."""


class ConfigurationReleased(Report, frozen=True, gc=False):
    """The memory of a configuration that was replaced has been freed."""


# -------------------------------------------------------------------------------------- addresses


class AddressesChanged(HostReport, frozen=True, gc=False):
    """Every address of the virtual host was added or removed, as `state` wants it, or could not be.

    `reason`: of that state, as in StateChanged.
    """

    state: State
    reason: str


class AddressFailed(AddressReport, frozen=True, gc=False):
    """The kernel refused to add or remove an address, with the errno `error`; tried again later."""

    state: State
    error: int


class AddressForeign(AddressReport, frozen=True, gc=False):
    """An address that was to be added is there already, and not ours: left alone."""


class AddressRestored(AddressReport, frozen=True, gc=False):
    """An address that a MASTER should have was added again.

    `why`: "refused": it could not be added before, or was somebody else's; "removed": somebody
    removed it; "with_ours": it went when another one of ours was removed.
    """

    why: Literal["refused", "removed", "with_ours"]


class AddressGone(AddressReport, frozen=True, gc=False):
    """An address whose removal had failed is removed now."""


class SecondariesNotPromoted(Report, frozen=True, gc=False):
    """promote_secondaries of the interface number `interface` was not 1.

    `error`: the errno of setting it; 0: it is 1 again.
    """

    interface: int
    error: int


# ---------------------------------------------------------------------------------- what is heard


class DuplicateSource(HostReport, frozen=True, gc=False):
    """Another host, with the MAC `mac`, advertises from our source. At most once a minute.

    A raw socket knows no MAC: six zero bytes.
    """

    mac: bytes


class DuplicateEnded(HostReport, frozen=True, gc=False):
    """The host that advertised from our source, with the MAC `mac`, is not heard any more."""

    mac: bytes


class OtherMaster(HostReport, frozen=True, gc=False):
    """An advertisement with a wrong digest was heard while MASTER. At most once a minute."""


class WrongDigest(HostReport, frozen=True, gc=False):
    """An advertisement with a wrong digest was heard while in `state`. At most once a minute."""

    state: State


class DemoteHeard(HostReport, frozen=True, gc=False):
    """A peer sent OpenBSD's demote byte `demote`, which this dialect ignores. Reported once."""

    demote: int


class CounterReset(HostReport, frozen=True, gc=False):
    """The counters of the host with the MAC `mac` went back, and are learned anew."""

    mac: bytes


class FamilySilent(HostReport, frozen=True, gc=False):
    """The master is not heard over IPv`family` (4 or 6), only over the other one."""

    family: int


class FamilyHeard(HostReport, frozen=True, gc=False):
    """The master is heard over IPv`family` (4 or 6) again."""

    family: int


class SourceProven(Report, frozen=True, gc=False):
    """`source` was heard genuine on the interface `ifindex`, and has no lane of its own yet."""

    ifindex: int
    source: bytes


# --------------------------------------------------------------------------------------- the pump


class Done(Report, frozen=True, gc=False):
    """Every order before the mark number `mark` has been carried out."""

    mark: int


class Stalled(Report, frozen=True, gc=False):
    """The pump did not run for `away_ns`: every BACKUP whose interval is shorter waits on."""

    away_ns: int


class SocketDropped(Report, frozen=True, gc=False):
    """The kernel dropped `frames` since this was reported last, at most once in ten seconds.

    `waits_anew`: a genuine source's may be among them, so every BACKUP waits its master-down time
    anew; else they were strangers'.
    """

    frames: int
    waits_anew: bool


class LostPriority(Report, frozen=True, gc=False):
    """The pump used up its real-time budget, and runs as a plain thread now."""
