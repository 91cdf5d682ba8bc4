"""The reports of the engine and the pump: one class for each kind.

A report becomes an object when it is taken, never in the pump's thread. Dispatch by class. Instants
are in ns of the engine's clock (CLOCK_MONOTONIC in a daemon); addresses are 4 or 16 bytes, MACs 6.
A slot is the index of a virtual host in the engine's table. Must not know how a report is used.
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["INIT", "BACKUP", "MASTER"]


class Report(msgspec.Struct, frozen=True, gc=False):
    """Base class of reports: something happened at `at_ns`."""

    at_ns: int


class HostReport(Report, frozen=True, gc=False):
    """Base class of reports about the virtual host in `slot`."""

    slot: int


class AddressReport(HostReport, frozen=True, gc=False):
    """Base class of reports about one address of a virtual host.

    `address` is its index, counted as Hosts.address() does, in the configuration with the number
    `configuration`: how often the virtual host was replaced before the report, modulo 256. The
    report may be read after later orders were given.
    """

    address: int
    configuration: int


# ------------------------------------------------------------------------------- states, demotion


class StateChanged(HostReport, frozen=True, gc=False):
    """The virtual host went from `previous` to `state`; INIT to INIT: its reason changed.

    `reason`: one of _vhid.REASON_WORDS. `peer`: the master that it knew at that time, or None.
    `demotions`: its demotion then, the amount by each reason that has one, see copies.HostCopy.
    """

    state: State
    previous: State
    reason: str
    peer: bytes | None
    demotions: tuple[tuple[str, int], ...] = ()


class SendsFailing(HostReport, frozen=True, gc=False):
    """No advertisement could be sent for an interval, so the virtual host is demoted.

    `error`: the errno of the last one.
    """

    error: int


class SendsRecovered(HostReport, frozen=True, gc=False):
    """Three advertisements in a row were sent again: the demotion for SendsFailing ends."""


class Undemoted(HostReport, frozen=True, gc=False):
    """A demotion by time has ended: of a host that could not hold its addresses, or of one that is
    not MASTER and could not send.
    """


class GroupChanged(HostReport, frozen=True, gc=False):
    """The members of the group number `group` have changed, or which of them can be MASTER here.

    `impeded` of its `members` cannot be MASTER here; `because`: the slots of the first four of
    these. `slot`: the last virtual host that changed it.
    """

    group: int
    demoted: bool
    members: int
    impeded: int
    because: tuple[int, ...]


class Reasserted(HostReport, frozen=True, gc=False):
    """A MASTER answered the slower master `peer`. At most once a minute."""

    peer: bytes | None


class Released(HostReport, frozen=True, gc=False):
    """A removed virtual host has resigned and its addresses are removed: the slot is free."""


class ConfigurationReleased(Report, frozen=True, gc=False):
    """The memory of a configuration that was replaced has been freed."""


# -------------------------------------------------------------------------------------- addresses


class AddressesChanged(HostReport, frozen=True, gc=False):
    """All addresses of the virtual host were added or removed as `state` requires, or failed to be.

    `reason`: of that state, as in StateChanged. `configuration`: as in AddressReport.
    """

    state: State
    reason: str
    configuration: int


class AddressFailed(AddressReport, frozen=True, gc=False):
    """The kernel refused to add or remove an address, with the errno `error`; tried again later."""

    state: State
    error: int


class AddressForeign(AddressReport, frozen=True, gc=False):
    """An address to be added exists already and is not ours; it is left alone."""


class AddressRestored(AddressReport, frozen=True, gc=False):
    """An address that a MASTER should have was added again.

    `why`: "refused": it could not be added before, or belonged to another program; "removed":
    another program removed it; "with_ours": the kernel removed it with another one of ours;
    "route": the local route that held it was gone.
    """

    why: Literal["refused", "removed", "with_ours", "route"]


class AddressGone(AddressReport, frozen=True, gc=False):
    """An address whose removal had failed is now removed."""


class SecondariesNotPromoted(Report, frozen=True, gc=False):
    """promote_secondaries of the interface number `interface` was not 1.

    `error`: the errno of the attempt to set it; 0: it is 1 again.
    """

    interface: int
    error: int


# ---------------------------------------------------------------------------------- what is heard


class DuplicateSource(HostReport, frozen=True, gc=False):
    """Another host, with the MAC `mac`, advertises from our source. At most once a minute.

    A frame from a raw socket has no MAC: six zero bytes.
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


class ResignedHolding(HostReport, frozen=True, gc=False):
    """It resigned after a second without the kernel's answer; it may still have `left` addresses.

    Their removal goes on.
    """

    left: int


class DemoteHeard(HostReport, frozen=True, gc=False):
    """A peer sent OpenBSD's demote byte `demote`, which this dialect ignores. Reported once."""

    demote: int


class CounterReset(HostReport, frozen=True, gc=False):
    """The counters of the host with the MAC `mac` went back and are learned again."""

    mac: bytes


class FamilySilent(HostReport, frozen=True, gc=False):
    """The master is not heard over IPv`family` (4 or 6), only over the other one."""

    family: int


class FamilyHeard(HostReport, frozen=True, gc=False):
    """The master is heard over IPv`family` (4 or 6) again."""

    family: int


class SourceProven(Report, frozen=True, gc=False):
    """`source` sent a genuine frame to the interface `ifindex` and has no lane of its own yet."""

    ifindex: int
    source: bytes


# --------------------------------------------------------------------------------------- the pump


class Done(Report, frozen=True, gc=False):
    """All orders before the mark with the number `mark` have been carried out."""

    mark: int


class Stalled(Report, frozen=True, gc=False):
    """The pump did not run for `away_ns`: every BACKUP with a shorter interval waits longer."""

    away_ns: int


class SocketDropped(Report, frozen=True, gc=False):
    """The kernel dropped `frames` since the last such report; at most once in ten seconds.

    `waits_anew`: frames of genuine sources may be among them, so every BACKUP starts its
    master-down time again; false: they were frames of strangers.
    """

    frames: int
    waits_anew: bool


class LostPriority(Report, frozen=True, gc=False):
    """The pump used up its real-time budget and now runs as a normal thread."""


class ClonesGivenUp(Report, frozen=True, gc=False):
    """The pump sends no more clones to the interface `interface`, by our number; None: at all.

    `why`: "run": the program cannot be run; "unread": the interface's transmit counter cannot be
    read; "uncounted": it did not count the first clones; "refused": the interface refused clones,
    but not the same frames from a packet socket. `error`: an errno, 0 for "uncounted".
    """

    interface: int | None
    why: Literal["run", "unread", "uncounted", "refused"]
    error: int
