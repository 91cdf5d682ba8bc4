"""The requests of the control socket: one class for each command, with its arguments.

On the wire each is a JSON object with the command under "command"; arguments that are left out have
the defaults. documents.py has the answers.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec


class Request(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="command"):
    """A request: the command and its arguments. `needs`: the error for wrong arguments."""

    needs: ClassVar[str] = ""


class StatusRequest(Request, frozen=True, tag="status"):
    """Asks for the virtual hosts that match; None matches all. `problems`: only those with
    problems.
    """

    interface: str | None = None
    vhid: int | None = None
    state: str | None = None
    problems: bool | None = None


class OverviewRequest(Request, frozen=True, tag="overview"):
    """Asks for totals, problems, and the changes of state after the first `since`."""

    needs: ClassVar[str] = "overview: since must be a number"
    since: int = 0


class ExplainRequest(Request, frozen=True, tag="explain"):
    """Asks for the virtual hosts of an interface with this vhid."""

    needs: ClassVar[str] = "explain: an interface's name and a vhid are needed"
    interface: str
    vhid: int


class ReloadRequest(Request, frozen=True, tag="reload"):
    """Reads the configuration again; `force`: also if the change looks like an accident."""

    needs: ClassVar[str] = "force must be true or false"
    force: bool = False


class RecordRequest(Request, frozen=True, tag="record"):
    """Asks what the matching virtual hosts heard and decided lately; None matches all."""

    interface: str | None = None
    vhid: int | None = None


class EventsRequest(Request, frozen=True, tag="events"):
    """Asks for every change of a state from now on; `tracks`: also for those of tracks."""

    needs: ClassVar[str] = "events: tracks must be true or false"
    tracks: bool = False


class DemoteRequest(Request, frozen=True, tag="demote"):
    """Demotes virtual hosts by `amount`; the same reason replaces its amount.

    `group`: those of this group; None: every one.
    """

    needs: ClassVar[str] = "demote: an amount and a reason are needed"
    amount: int
    reason: str
    group: str | None = None


class UndemoteRequest(Request, frozen=True, tag="undemote"):
    """Ends the demotion by this reason; `group`: the one that it was given for, None: none."""

    needs: ClassVar[str] = "undemote: a reason is needed"
    reason: str
    group: str | None = None


class YieldRequest(Request, frozen=True, tag="yield"):
    """Hands the virtual hosts of an interface with this vhid over, once.

    `demote`: demotes them first, and until `undemote`, so that they are not taken back; `group`:
    all masters of their group.
    """

    needs: ClassVar[str] = "yield: an interface's name and a vhid are needed"
    interface: str
    vhid: int
    demote: bool = False
    group: bool = False


class PreemptRequest(Request, frozen=True, tag="preempt"):
    """Takes the virtual hosts of an interface with this vhid over from slower masters, once."""

    needs: ClassVar[str] = "preempt: an interface's name and a vhid are needed"
    interface: str
    vhid: int


class UpgradeRequest(Request, frozen=True, tag="upgrade"):
    """Has the installed version of carp-fast take over from the running process."""


class MaintenanceRequest(Request, frozen=True, tag="maintenance"):
    """Begins or ends maintenance, tells what beginning it would do ("plan"), or shows it.

    `force`: what no other host adopts is given up, too; `for_s`: ends by itself after that;
    `until_stop`: is not written down, and ends with the daemon.
    """

    needs: ClassVar[str] = "maintenance: action must be on, off, plan or show"
    action: Literal["on", "off", "plan", "show"]
    reason: str = ""
    force: bool = False
    for_s: float | None = None
    until_stop: bool = False
