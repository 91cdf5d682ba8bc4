"""The flight recorder: what happened before and during an incident becomes a file.

Reports come on the loop; the ring of records is copied in slices, and converted and written in the
worker's thread. Must not know what an incident is, nor how files are named and removed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from carp_fast.daemon.incident_files import IncidentFiles, Written
from carp_fast.daemon.incidents import HOSTS_MAX, Incident, Incidents
from carp_fast.replay.recording import (
    Recorded,
    Writer,
    copy_slices,
    joined,
    scenario_lines,
    slot_flags,
)

if TYPE_CHECKING:
    from carp_fast.daemon.orders import Orders
    from carp_fast.daemon.table import Hosts
    from carp_fast.engine.reports import Report
    from carp_fast.pump._snapshots import Records

logger = logging.getLogger(__name__)

SETTLE_S = 3.0  # of an incident are recorded, too
BEFORE_NS = 60_000_000_000  # recorded before an incident, if the ring has it
RECORDS_MAX = 131_072  # converted for one incident, the newest: some seconds of the worker


class _Taken(NamedTuple):
    """What the worker's thread gets: an incident, what was copied for it, and its story."""

    incident: Incident
    slices: Sequence[Records]
    hosts: dict[int, Recorded]
    names: Sequence[str]
    text: str
    at: datetime


class Flight(NamedTuple):
    """A flight record: its virtual hosts, and seconds that it begins before the incident."""

    hosts: int
    before_s: float
    written: Written


class FlightRecorder:
    """Records each incident that reports tell of. `run` runs a coroutine as long as the daemon."""

    def __init__(
        self,
        files: IncidentFiles,
        hosts: Hosts,
        orders: Orders,
        worker: Executor,
        run: Callable[[Coroutine[Any, Any, None]], None],
        *,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._files = files
        self._hosts = hosts
        self._orders = orders
        self._worker = worker
        self._run = run
        self._settle_s = settle_s
        self._incidents = Incidents()

    def on_report(self, report: Report) -> None:
        """Handles a report of the pump; returns without waiting."""
        if self._incidents.take(report):
            self._run(self._record(datetime.now(UTC)))

    async def _record(self, at: datetime) -> None:
        await asyncio.sleep(self._settle_s)
        incident = self._incidents.end()
        wanted, names = self._wanted(incident), list(self._hosts.names)
        text = f"{incident.kind} {self._about(incident)}"
        if incident.earlier:
            text += f"; {incident.earlier} more reports belonged to the incident before"
        slices = await copy_slices(self._orders, slot_flags(wanted))
        taken = _Taken(incident, slices, wanted, names, text, at)
        try:
            flight = await asyncio.get_running_loop().run_in_executor(
                self._worker, self._write, taken
            )
        except OSError as error:
            why = error.strerror or str(error)
            logger.error("incident: %s: it could not be recorded: %s", text, why)
            return
        if flight is None:
            logger.error("incident: %s: nothing of it is in the recording any more", text)
            return
        logger.warning(
            "incident: %s: %s has %d virtual hosts from %.1f s before it on (%d bytes)",
            text,
            flight.written.path,
            flight.hosts,
            flight.before_s,
            flight.written.size,
        )
        if flight.written.removed:
            removed = ", ".join(flight.written.removed)
            logger.info("removed for it, the oldest of too many or too large: %s", removed)
        if flight.written.trouble:
            logger.error("older incidents cannot be removed: %s", flight.written.trouble)

    def _wanted(self, incident: Incident) -> dict[int, Recorded]:
        """The virtual hosts that are recorded, by slot: those of the incident, or the first."""
        used = (
            [(slot, host) for slot in incident.slots if (host := self._hosts.hosts[slot])]
            if incident.slots
            else islice(self._hosts.used(), HOSTS_MAX)
        )
        return {slot: Recorded(host, self._hosts.retired(slot)) for slot, host in used}

    def _about(self, incident: Incident) -> str:
        """ "of eth0/7 and 3 more virtual hosts (4 second_master)"."""
        counts = ", ".join(f"{count} {kind}" for kind, count in incident.kinds.items())
        if not incident.slots:
            return f"of this host ({counts})"
        text = f"of {self._hosts.name(incident.slots[0])}"
        if incident.hosts > 1:
            text += f" and {incident.hosts - 1} more virtual hosts"
        return f"{text} ({counts})"

    # -- in the worker's thread

    def _write(self, taken: _Taken) -> Flight | None:
        """Writes the file; None: the ring has nothing of these virtual hosts. Raises OSError."""
        incident, wanted, at = taken.incident, taken.hosts, taken.at
        copy = joined(newest(taken.slices))
        since_ns = incident.at_ns - BEFORE_NS
        while True:
            writer = Writer(copy, wanted, taken.names, None, since_ns)
            if not writer.tables:
                return None
            before_s = (incident.at_ns - writer.start_ns) / 1e9
            story = [
                f"Incident: {taken.text}.",
                f"Recorded by carp-fast on {socket.gethostname()},"
                f" {at.isoformat(timespec='seconds')}, from {before_s:.1f} s before it on.",
                f"{len(writer.tables)} of its {incident.hosts or len(wanted)} virtual hosts.",
            ]
            lines = scenario_lines(writer, story)
            content = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
            if len(content) <= self._files.size:
                break
            if len(wanted) == 1:
                raise OSError(f"{len(content)} bytes are more than {self._files.size}")
            wanted = dict(islice(wanted.items(), len(wanted) // 2))
        time = at.strftime("%Y%m%dT%H%M%SZ")
        return Flight(len(writer.tables), before_s, self._files.write(time, incident.kind, content))


def newest(slices: Sequence[Records]) -> Sequence[Records]:
    """The last of these, with at most RECORDS_MAX records together; at least one."""
    total = 0
    for number, each in enumerate(reversed(slices)):
        total += each.count
        if total > RECORDS_MAX and number:
            return slices[len(slices) - number :]
    return slices
