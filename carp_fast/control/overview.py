"""The answer to `overview`: totals, problems and the last changes, at any number of virtual hosts.

Its size is bounded: no list grows with the virtual hosts, only with the interfaces. As the other
documents (documents.py) in form, and known by both ends. Must not know how it is made or shown.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from carp_fast.control.documents import Answer, StateEvent, Summary
from carp_fast.engine.reports import State


class InterfaceTotals(msgspec.Struct, frozen=True, gc=False):
    """The virtual hosts of an interface; `problems`: how many of them have one."""

    name: str
    link: Literal["missing", "up", "down"]
    virtual_hosts: int
    master: int
    backup: int
    init: int
    problems: int


class Problem(msgspec.Struct, frozen=True, gc=False):
    """A virtual host that is not as configured: the sentences of `status --problems`, its name."""

    interface: str
    vhid: int
    state: State
    since: str
    sentences: list[str]
    name: str | None = None


class Overview(msgspec.Struct, frozen=True):
    """A daemon and its virtual hosts.

    `notices`: sentences about the host as a whole, such as maintenance. `problems`: the first of
    `problem_hosts` virtual hosts that have one, the worst first, as of `problems_at`;
    `problem_kinds`: how many have each kind. `changes`: of states since the start; `last`: those
    after the one that was asked for, the oldest first, as far as the daemon keeps them.
    """

    at: str
    host: str
    version: str
    pid: int
    started_at: str
    notices: list[str]
    summary: Summary
    interfaces: list[InterfaceTotals]
    problem_hosts: int
    problem_kinds: dict[str, int]
    problems: list[Problem]
    problems_at: str
    changes: int
    last: list[StateEvent]


class Overviewed(Answer, frozen=True):
    """The answer to OverviewRequest."""

    overview: Overview
