"""Passes the pump's reports to people and programs: log, events, hooks, notify.

Runs on the loop, a bounded number of reports per turn. Must not decide anything about CARP: when a
report arrives here, the pump has already advertised.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carp_fast.config.model import Group
from carp_fast.control.documents import NOT_DEMOTED, Demotion, StateEvent
from carp_fast.daemon import systemd
from carp_fast.daemon.hooks import HookResult
from carp_fast.daemon.noted import Noted
from carp_fast.daemon.table import MASTER, STATES, Hosts, every_address
from carp_fast.engine import reports
from carp_fast.engine.copies import HostCopy
from carp_fast.inet import address_text, mac_text

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.manner import Manner
    from carp_fast.daemon.orders import Orders
    from carp_fast.pump._pump import Pump

logger = logging.getLogger(__name__)

STALLED_EVERY_NS = 10_000_000_000
REPORTS_A_TURN = 1000
FOREIGN = "address_foreign"
ROUTE_GONE = "had no local route any more (it goes with the last address of the interface)"
FOREIGN_LOGGED_MAX = (
    20  # lines about foreign addresses of one interface at a time; the others are counted
)
# Reasons caused by another host's advertisement: the log line names that host.
PEER_REASONS = frozenset(
    {"faster_master", "tie_lost", "preempted", "master_resigned", "master_too_slow"}
    | {"less_demoted_master", "master_demoted"}
)


def rfc3339(monotonic_ns: int) -> str:
    """A CLOCK_MONOTONIC time as RFC 3339 in UTC, with milliseconds."""
    return systemd.rfc3339((monotonic_ns + time.time_ns() - time.monotonic_ns()) // 1_000_000)


def named(host: VirtualHost | None) -> dict[str, str]:
    """The name of a virtual host, if it has one, as a field of its log lines."""
    return {"name": host.labels.name} if host is not None and host.labels.name else {}


def log_lines(level: int, line: str, every: Sequence[tuple[str, ...]]) -> None:
    """Logs a line for each, and beyond FOREIGN_LOGGED_MAX one with the number of the others."""
    for each in every[:FOREIGN_LOGGED_MAX]:
        logger.log(level, line, *each)
    if len(every) > FOREIGN_LOGGED_MAX:
        logger.log(level, "... and %d more", len(every) - FOREIGN_LOGGED_MAX)


def known_address(address: bytes | None) -> str | None:
    """The text of an address of 4 or 16 bytes; None if there is none."""
    return address_text(address) if address else None


def ignore(*_: object) -> None:
    """Does nothing: the default of every callback."""


class Reports:
    """Handles the pump's reports.

    `publish` gets every change of state; `on_released` the slot of a virtual host that has left;
    `on_address_restored` slot and text of an address that another program had removed, and what
    happened to it if not that;
    `on_source_proven` a source, by ifindex and address, that was heard genuine for the first time.
    `on_clones_given_up` the name of an interface that gets no more clones, None for all of them,
    and the report.
    `resync` is called after reports were lost. `noted`: what reports have left to remember.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        manner: Manner,
        *,
        publish: Callable[[StateEvent], None] = ignore,
        on_released: Callable[[int], None] = ignore,
        on_address_restored: Callable[..., None] = ignore,
        on_source_proven: Callable[[int, bytes], None] = ignore,
        on_clones_given_up: Callable[[str | None, reports.ClonesGivenUp], None] = ignore,
        resync: Callable[[], None] = ignore,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._manner = manner
        self._pump: Pump = orders.pump
        self.on_report: Callable[[reports.Report], None] = ignore  # called with each, before it
        self.noted = Noted()
        # By slot: the `up` hook after which it announces, until it is MASTER no longer.
        self._announcing: dict[int, object] = {}
        self._lost = 0
        self._stalled_ns = self._stalls = 0  # when it was last logged, and how often since
        self._publish = publish
        self._tell_released = on_released
        self._on_restored = on_address_restored
        self._tell_proven = on_source_proven
        self._tell_given_up = on_clones_given_up
        self._resync = resync
        self._changed_ns: list[dict[int, int]] = []  # by slot, for each reading of all states
        self._takers: dict[type[reports.Report], Callable[[Any], None]] = {
            reports.StateChanged: self._on_state,
            reports.AddressesChanged: self._on_addresses,
            reports.AddressFailed: self._on_address_failed,
            reports.AddressForeign: self._on_address_foreign,
            reports.AddressRestored: self._on_address_restored,
            reports.AddressGone: self._on_address_gone,
            reports.Undemoted: self._on_undemoted,
            reports.GroupChanged: self._on_group_changed,
            reports.SecondariesNotPromoted: self._on_secondaries,
            reports.DuplicateSource: self._on_duplicate_source,
            reports.DuplicateEnded: self._on_duplicate_ended,
            reports.OtherMaster: self._on_other_master,
            reports.WrongDigest: self._on_wrong_digest,
            reports.DemoteHeard: self._on_demote_heard,
            reports.ResignedHolding: self._on_resigned_holding,
            reports.SendsFailing: self._on_sends_failing,
            reports.SendsRecovered: self._on_sends_recovered,
            reports.Released: self._on_released,
            reports.ConfigurationReleased: self._on_configuration_released,
            reports.Stalled: self._on_stalled,
            reports.SocketDropped: self._on_socket_dropped,
            reports.LostPriority: self._on_lost_priority,
            reports.ClonesGivenUp: self._on_clones_given_up,
            reports.Reasserted: self._on_reasserted,
            reports.CounterReset: self._on_counter_reset,
            reports.FamilySilent: self._on_family_silent,
            reports.FamilyHeard: self._on_family_heard,
            reports.SourceProven: self._on_source_proven,
            reports.Done: self._on_done,
        }

    @property
    def address_problems(self) -> dict[int, dict[str, str]]:
        """By slot: {address: what is wrong with it}."""
        return self.noted.address_problems

    @property
    def wrong_digest_ns(self) -> dict[int, int]:
        """By slot: when the engine last reported advertisements with a wrong digest."""
        return self.noted.wrong_digest_ns

    @property
    def reading_states(self) -> bool:
        """Whether states are read from the engine, after reports were lost."""
        return bool(self._changed_ns)

    def on_readable(self) -> int:
        """Handles up to REPORTS_A_TURN reports, when `report_fd` is readable; how many."""
        taken = self._pump.take_reports(REPORTS_A_TURN)
        for report in taken:
            try:
                self.on_report(report)
                self._takers[type(report)](report)
            except Exception:  # one report must not hold up the others
                logger.exception("handling report %s failed", report)
        lost = self._pump.facts.reports_lost
        if lost != self._lost:
            logger.error("lost %d reports of the pump, reading all states again", lost - self._lost)
            self._lost = lost
            self._resync()
        return len(taken)

    # -- states

    async def take_copies(self, copies: AsyncIterator[Iterable[tuple[int, HostCopy]]]) -> None:
        """Handles states as they are copied from the engine, after reports of changes were lost.

        A copy waits for the loop, and reports that follow it may be handled first: what is older
        than a change reported meanwhile is ignored.
        """
        changed_ns: dict[int, int] = {}
        self._changed_ns.append(changed_ns)
        try:
            async for hosts in copies:
                for slot, copy in hosts:
                    if copy.since_ns >= changed_ns.get(slot, copy.since_ns):
                        self._take_copy(slot, copy)
        finally:
            self._changed_ns.remove(changed_ns)

    def _take_copy(self, slot: int, copy: HostCopy) -> None:
        if copy.state != STATES[self._hosts.states[slot]]:
            now = demotion_of(copy.demotions)
            peer = peer_of(copy)
            self.on_state(slot, copy.state, copy.reason, copy.since_ns, peer, demotion=now)
        if copy.state == "MASTER":
            # That its addresses were added may have been among the lost reports.
            self.on_addresses(slot, copy.reason)

    def on_state(
        self,
        slot: int,
        state: reports.State,
        reason: str,
        at_ns: int,
        peer: str | None,
        *,
        demotion: Demotion = NOT_DEMOTED,
    ) -> None:
        """Handles another state of a virtual host than was known."""
        host = self._hosts.hosts[slot]
        previous = STATES[self._hosts.states[slot]]
        self._hosts.states[slot] = STATES.index(state)
        for changed_ns in self._changed_ns:
            changed_ns[slot] = at_ns
        if host is None:
            return
        self._manner.on_state(state)
        heard = f" from {peer}" if peer and reason in PEER_REASONS else ""
        change = state if state == previous else f"{previous} -> {state}"
        group = self._hosts.group_status(host)
        fields = {"state": state, "previous": previous, "reason": reason, **named(host)}
        line = f"{change} ({reason}{heard})"
        self._manner.host_log.log(logging.INFO, host.name, line, fields=fields)
        event = StateEvent(
            rfc3339(at_ns),
            host.interface,
            host.vhid,
            state,
            previous,
            reason,
            peer,
            demotion,
            group,
            **host.labels.given,
        )
        self._publish(event)
        if state == previous:
            return
        if state == "MASTER":
            self.noted.up_due[slot] = demotion
        elif previous == "MASTER":
            self.noted.up_due.pop(slot, None)
            self._announcing.pop(slot, None)
            left: dict[str, object] = {"state": state, "previous": previous, "reason": reason}
            self._run_hook(slot, host, "down", left | {"demotion": demotion, "group": group})

    def _on_state(self, report: reports.StateChanged) -> None:
        peer = known_address(report.peer)
        host = self._hosts.hosts[report.slot]
        if report.reason == "address_deadline" and report.state == "BACKUP" and host is not None:
            deadline_s = host.settings.address_deadline_s
            text = "address_deadline: none of its addresses could be added for"
            self._log(logging.ERROR, report.slot, f"{text} {deadline_s:g} s, given up")
        now = demotion_of(dict(report.demotions))
        self.on_state(report.slot, report.state, report.reason, report.at_ns, peer, demotion=now)

    # -- hooks

    def _on_addresses(self, report: reports.AddressesChanged) -> None:
        failed = self.noted.address_problems.get(report.slot, {})
        self._hosts.settle(report.slot, report.configuration, failed)
        if report.state == "MASTER":
            self.on_addresses(report.slot, report.reason)

    def on_addresses(self, slot: int, reason: str) -> None:
        """Runs `up` once every address of a MASTER was added, or could not be."""
        host = self._hosts.hosts[slot]
        if slot in self.noted.up_due and host is not None:
            event: dict[str, object] = {"state": "MASTER", "previous": "BACKUP", "reason": reason}
            event["demotion"] = self.noted.up_due.pop(slot)
            event["group"] = self._hosts.group_status(host)
            self._run_hook(slot, host, "up", event)

    def _run_hook(
        self, slot: int, host: VirtualHost, which: str, event: Mapping[str, object]
    ) -> None:
        # Without our own addresses the announcement waits for the script that adds them.
        done = None
        if which == "up" and not host.settings.manage_addresses:
            done = self._announce_after(slot)
        self._manner.run_hook(self._hosts.generations[slot], host, which, event, done)

    def _announce_after(self, slot: int) -> Callable[[HookResult], None]:
        """Makes a callback that has a MASTER announce its addresses after its `up` hook.

        It does nothing once the MASTER has left that state: the next one has an `up` hook of its
        own, also where another virtual host has the slot by then.
        """
        this = self._announcing[slot] = object()

        def order() -> None:
            if self._announcing.get(slot) is this:
                self._pump.announce(slot)

        def announce(result: HookResult) -> None:
            if not result.superseded:
                self._orders.post(order)

        return announce

    # -- addresses

    def is_foreign(self, slot: int, text: str) -> bool:
        """Whether this address of a virtual host was left alone as another program's."""
        return (slot, text) in self.noted.left_alone

    def on_foreign(self, found: Mapping[int, Mapping[str, str]]) -> None:
        """Handles the foreign addresses of an interface, see foreign.Found; logs changes."""
        come: list[tuple[str, str, str]] = []
        gone: list[tuple[str, str, str]] = []
        for slot, now in found.items():
            before = self.noted.foreign.get(slot, {})
            if now == before:
                continue
            name = self._hosts.name(slot)
            come += [
                (name, text, found_as)
                for text, found_as in now.items()
                if before.get(text) != found_as
            ]
            gone += [(name, text, found_as) for text, found_as in before.items() if text not in now]
            self.noted.foreign[slot] = dict(now)
            if not now:
                del self.noted.foreign[slot]
            for text in {**before, **now}:
                self._note_foreign(slot, text)
        log_lines(
            logging.WARNING,
            "%s: " + FOREIGN + ": %s is on the interface and not ours, left alone (as %s)",
            come,
        )
        log_lines(logging.INFO, "%s: %s is no longer foreign (as %s)", gone)

    def _note_foreign(self, slot: int, text: str) -> None:
        """Sets or clears the problem of a foreign address; a failed change takes precedence."""
        found_as = self.noted.foreign.get(slot, {}).get(text)
        if not self.noted.address_problems.get(slot, {}).get(text, FOREIGN).startswith(FOREIGN):
            return
        if found_as is not None:
            self._set_problem(
                slot, text, FOREIGN if found_as == text else f"{FOREIGN} as {found_as}"
            )
        elif not self.is_foreign(slot, text) or self._hosts.states[slot] != MASTER:
            self._set_problem(slot, text, None)  # cleared for a MASTER once it has added its own

    def on_reload(self) -> None:
        """Clears problems with addresses that a virtual host no longer has."""
        self.noted.left_alone = {
            (slot, text)
            for slot, text in self.noted.left_alone
            if (host := self._hosts.hosts[slot]) is not None and text in every_address(host)
        }
        for slot, problems in list(self.noted.address_problems.items()):
            host = self._hosts.hosts[slot]
            every = () if host is None else every_address(host)
            left = self._hosts.unsettled.get(slot, set())
            kept = {
                text: why
                for text, why in problems.items()
                if text in every or (text in left and not why.startswith(FOREIGN))
            }
            if kept:
                self.noted.address_problems[slot] = kept
            else:
                del self.noted.address_problems[slot]

    def _address(self, report: reports.AddressReport) -> str:
        """The address that the report is about."""
        return self._hosts.address(report.slot, report.address, report.configuration)

    def _log(self, level: int, slot: int, text: str, kind: str = "") -> None:
        name, fields = self._hosts.name(slot), named(self._hosts.hosts[slot])
        self._manner.host_log.log(level, name, text, kind, fields=fields)

    def _log_address(self, level: int, slot: int, line: str, address: str) -> None:
        kind = line.replace("address {}", "{}").format("an address")
        self._log(level, slot, line.format(address), kind)

    def _log_mac(self, level: int, slot: int, line: str, mac: bytes) -> None:
        known = f" ({mac_text(mac)})" if any(mac) else ""  # unknown with a raw socket
        self._log(level, slot, line.format(known), line.format(""))

    def _note(self, report: reports.AddressReport, text: str, problem: str | None) -> None:
        self._set_problem(report.slot, text, problem)

    def _set_problem(self, slot: int, text: str, problem: str | None) -> None:
        problems = self.noted.address_problems.setdefault(slot, {})
        if problem is None:
            problems.pop(text, None)
        else:
            problems[text] = problem
        if not problems:
            del self.noted.address_problems[slot]

    def _on_address_failed(self, report: reports.AddressFailed) -> None:
        text = self._address(report)
        why = os.strerror(report.error)
        if ":" in text and report.error == errno.EACCES:
            why = "IPv6 is disabled on the interface (disable_ipv6)"
        wanted = self._hosts.wants(report.slot, text, report.configuration)
        doing = "adding" if report.state == "MASTER" and wanted else "removing"
        kind = f"{doing} an address failed: {why}"
        self._log(logging.ERROR, report.slot, f"{doing} address {text} failed: {why}", kind)
        self._note(report, text, why)

    def _on_address_foreign(self, report: reports.AddressForeign) -> None:
        text = self._address(report)
        found = "is on the interface and not ours, left alone"
        kind = f"{FOREIGN}: an address {found}"
        self._log(logging.WARNING, report.slot, f"{FOREIGN}: {text} {found}", kind)
        self.noted.left_alone.add((report.slot, text))
        self._note(report, text, FOREIGN)

    def _on_address_restored(self, report: reports.AddressRestored) -> None:
        text = self._address(report)
        was_left_alone = self.is_foreign(report.slot, text)
        self.noted.left_alone.discard((report.slot, text))
        if report.why == "removed":
            self._on_restored(report.slot, text)
        elif report.why == "route":
            self._on_restored(report.slot, text, ROUTE_GONE)
        elif report.why == "with_ours":
            line = "the kernel removed {} with another address of ours, added again"
            self._log_address(logging.WARNING, report.slot, line, text)
        elif was_left_alone:
            line = "address {} is no longer foreign, added"
            self._log_address(logging.INFO, report.slot, line, text)
        else:
            self._log_address(logging.INFO, report.slot, "address {} is added now", text)
        self._note(report, text, None)
        self._note_foreign(report.slot, text)

    def _on_address_gone(self, report: reports.AddressGone) -> None:
        text = self._address(report)
        self._log_address(logging.INFO, report.slot, "address {} is removed now", text)
        self._note(report, text, None)
        self._hosts.unsettled.get(report.slot, set()).discard(text)

    def _on_undemoted(self, report: reports.Undemoted) -> None:
        self._log(logging.INFO, report.slot, "no longer demoted, tries again")

    def _on_group_changed(self, report: reports.GroupChanged) -> None:
        """Logs that a group is demoted, or no longer, at the member that decided it."""
        groups = self._hosts.demotion_groups
        changed = groups.on_changed(report, tuple(map(self._hosts.name, report.because)))
        if not changed:
            return
        name = groups.name(report.group)
        text, level = f"group {name} is no longer demoted", logging.INFO
        if report.demoted:
            why = groups.status(Group(name)).why
            text, level = f"group {name} is demoted: {why}", logging.WARNING
        self._log(level, report.slot, text, "decided that a group is demoted, or no longer")

    def _on_secondaries(self, report: reports.SecondariesNotPromoted) -> None:
        """Handles that promote_secondaries was not 1 when we were about to remove an address."""
        name = self._hosts.names[report.interface]
        if report.error == 0:
            logger.warning("%s: promote_secondaries was no longer 1, set again", name)
            return
        if name not in self.noted.unpromoted:
            self.noted.unpromoted.add(name)
            logger.error(
                "%s: promote_secondaries is not 1 and cannot be set (%s): the kernel may remove"
                " addresses of this host with ours; ours are added again",
                name,
                os.strerror(report.error),
            )

    # -- the wire

    def _on_duplicate_source(self, report: reports.DuplicateSource) -> None:
        line = "duplicate_source: another host{} advertises from our address"
        self._log_mac(logging.WARNING, report.slot, line, report.mac)

    def _on_duplicate_ended(self, report: reports.DuplicateEnded) -> None:
        line = "duplicate_source ended: another host{} is no longer heard from our address"
        self._log_mac(logging.INFO, report.slot, line, report.mac)

    def _on_other_master(self, report: reports.OtherMaster) -> None:
        self.noted.wrong_digest_ns[report.slot] = report.at_ns
        self._manner.on_wrong_digest(self._hosts.name(report.slot), "other_master", "MASTER")

    def _on_wrong_digest(self, report: reports.WrongDigest) -> None:
        self.noted.wrong_digest_ns[report.slot] = report.at_ns
        self._manner.on_wrong_digest(self._hosts.name(report.slot), "bad_auth", report.state)

    def _on_reasserted(self, report: reports.Reasserted) -> None:
        peer = known_address(report.peer) or "?"
        self._manner.on_reasserted(self._hosts.name(report.slot), peer)

    def _on_counter_reset(self, report: reports.CounterReset) -> None:
        line = "counter_reset: a host's{} counters went back and are learned again"
        self._log_mac(logging.WARNING, report.slot, line, report.mac)

    def _on_family_silent(self, report: reports.FamilySilent) -> None:
        heard, silent = 10 - report.family, report.family
        text = f"family_silent: the master is heard only over IPv{heard}, not over IPv{silent}"
        self._log(logging.WARNING, report.slot, text)

    def _on_family_heard(self, report: reports.FamilyHeard) -> None:
        text = f"the master is heard over IPv{report.family} again"
        self._log(logging.INFO, report.slot, text)

    def _on_demote_heard(self, report: reports.DemoteHeard) -> None:
        text = f"the peer advertises demotion {report.demote} as OpenBSD does"
        self._log(logging.WARNING, report.slot, f"{text}; set dialect = openbsd")

    def _on_sends_failing(self, report: reports.SendsFailing) -> None:
        why = os.strerror(report.error)
        self._manner.on_sends_failing(why)
        text = f"no advertisement was sent for an interval ({why}): demoted"
        self._log(logging.ERROR, report.slot, text)

    def _on_sends_recovered(self, report: reports.SendsRecovered) -> None:
        self._log(logging.INFO, report.slot, "advertisements are sent again")

    def _on_resigned_holding(self, report: reports.ResignedHolding) -> None:
        logger.warning(
            "%s: resigned although the kernel, busy for a second, has not removed %d of its"
            " addresses yet",
            self._hosts.name(report.slot),
            report.left,
        )

    # -- the pump

    def _on_released(self, report: reports.Released) -> None:
        self.noted.forget(report.slot)
        self._announcing.pop(report.slot, None)
        self._tell_released(report.slot)

    def _on_configuration_released(self, report: reports.ConfigurationReleased) -> None:
        """Does nothing: the report only returns memory."""

    def _on_stalled(self, report: reports.Stalled) -> None:
        """Logs one line in STALLED_EVERY_NS: with intervals of some milliseconds there are many a
        second.
        """
        if self._stalled_ns and report.at_ns - self._stalled_ns < STALLED_EVERY_NS:
            self._stalls += 1
            return
        before = f" ({self._stalls} more times since it was last logged)" if self._stalls else ""
        self._stalled_ns, self._stalls = report.at_ns, 0
        logger.warning(
            "the pump did not run for %.3f s%s: a BACKUP with a shorter interval waits longer",
            report.away_ns / 1e9,
            before,
        )

    def _on_socket_dropped(self, report: reports.SocketDropped) -> None:
        """Logs it; the pump reports it at most once in ten seconds."""
        if report.waits_anew:
            logger.warning(
                "the kernel dropped %d frames: every BACKUP waits for its master-down time again",
                report.frames,
            )
        else:
            logger.warning(
                "the kernel dropped %d frames of unknown sources: a flood? Frames of known sources"
                " have a socket of their own, and none of them was lost",
                report.frames,
            )

    def _on_source_proven(self, report: reports.SourceProven) -> None:
        self._tell_proven(report.ifindex, report.source)

    def _on_lost_priority(self, report: reports.LostPriority) -> None:
        logger.error("the pump used up its real-time budget and now runs without priority")

    def _on_clones_given_up(self, report: reports.ClonesGivenUp) -> None:
        number = report.interface
        self._tell_given_up(None if number is None else self._hosts.names[number], report)

    def _on_done(self, report: reports.Done) -> None:
        self._orders.on_done(report.mark)


def peer_of(host: HostCopy) -> str | None:
    """The peer of a virtual host as text."""
    return known_address(host.peer)


def demotion_of(reasons: dict[str, int]) -> Demotion:
    """A virtual host's demotion as its events have it."""
    return Demotion(sum(reasons.values()), reasons) if reasons else NOT_DEMOTED
