"""What `carp-fast bench` measures: its figures, the arithmetic behind them, their tables.

Pure: takes instants and readings, returns figures. Must not know processes, sockets or files.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from carp_fast.bench.plot import Line, Panel, draw
from carp_fast.bench.usage import Machine, Memory, Usage

MIB = 1 << 20
NONE = "-"
BUSY_PERCENT = 20.0
"""Other work than this, in % of a core, is noted beside a row."""
USUAL_WIRE: Literal["veth"] = "veth"

Identity = tuple[int, int]


class Side(msgspec.Struct, frozen=True):
    """One host's daemon in the steady state. Percentages are of one core."""

    processes: int
    cpu_percent: float
    user_percent: float
    system_percent: float
    rss_bytes: int
    pss_bytes: int
    switches_per_s: float
    frames_per_s: float  # sent on its interfaces: advertisements, when nothing else happens


class Spread(msgspec.Struct, frozen=True):
    """First, median and maximum of many times, in s."""

    first: float
    median: float
    max: float


class TakeOver(msgspec.Struct, frozen=True):
    """Results of SIGKILL of the master: times from the first signal unless noted otherwise, in s.

    `phase_s`: how long before the kill each virtual host had last advertised, which the times from
    the kill depend on: a successor waits from the last advertisement.
    `announced_s`: when each virtual host's first announcement left; the maximum is the last one.
    `silence_s` is from the dead host's last advertisement to the successor's first; `span_s` from
    the first adopted address to the last one adopted and announced; `lag_s` of each virtual host
    from the successor's first advertisement until its address was added and announced.
    """

    virtual_hosts: int
    adopted: int
    announced: int
    address_s: Spread | None
    silence_s: Spread | None
    span_s: float | None
    lag_s: Spread | None
    announced_s: Spread | None = None
    phase_s: Spread | None = None


class Pings(msgspec.Struct, frozen=True):
    """A third host's pings while host a dies. The gap is the longest time between two answers."""

    daemon: str
    virtual_hosts: int
    every_s: float
    sent: int
    lost: int
    lost_max: int  # of one address
    gap_max_s: float


class Tax(msgspec.Struct, frozen=True):
    """What a daemon costs each packet that does not concern it: ns of CPU, and the quartiles.

    `free_ns`: a packet sent and received without any daemon. `still_ns`: the half of the distance
    between quartiles before the daemon was started, which is what noise alone makes.
    """

    daemon: str
    virtual_hosts: int
    packets: int
    free_ns: float
    tax_ns: float
    low_ns: float
    high_ns: float
    still_ns: float


class Floor(msgspec.Struct, frozen=True):
    """The kernel's own cost of a rate: CPU in % of a core; frames a second, sent and received."""

    send_cpu_percent: float
    receive_cpu_percent: float
    sent_per_s: float
    received_per_s: float


class Row(msgspec.Struct, frozen=True):
    """The results of one daemon with one number of virtual hosts on one kind of wire."""

    daemon: str
    virtual_hosts: int
    segments: int
    window_s: float = 0.0
    settle_s: float | None = None
    master: Side | None = None
    backup: Side | None = None
    take_overs: list[TakeOver] = []  # one for each time that the master was killed
    floor: Floor | None = None
    machine_busy_percent: float = 0.0
    machine_softirq_percent: float = 0.0
    machine_others_percent: float = 0.0  # work of other processes than the daemons
    machine_stolen_percent: float = 0.0  # what the hypervisor gave to others
    notes: list[str] = []
    wire: str = USUAL_WIRE

    @property
    def title(self) -> str:
        """The daemon, and the wire if it is not the usual one."""
        return self.daemon if self.wire == USUAL_WIRE else f"{self.daemon}, {self.wire}"

    @property
    def cpu_percent(self) -> float | None:
        """The CPU of both hosts together."""
        if self.master is None or self.backup is None:
            return None
        return self.master.cpu_percent + self.backup.cpu_percent

    @property
    def floor_percent(self) -> float | None:
        if self.floor is None:
            return None
        return self.floor.send_cpu_percent + self.floor.receive_cpu_percent


class Contender(msgspec.Struct, frozen=True):
    """A measured daemon and its set-up."""

    daemon: str
    version: str
    configured: str


class Stage(msgspec.Struct, frozen=True):
    """The machine that was measured on."""

    processor: str
    cores: int
    kernel: str
    load_average: tuple[float, float, float]  # before the first row


class Report(msgspec.Struct, frozen=True):
    """The document of `--json`."""

    carp_fast: str
    begun_at: str  # RFC 3339, UTC
    machine: Stage
    contenders: list[Contender]
    rows: list[Row]
    pings: list[Pings]
    notes: list[str]
    taxes: list[Tax] = []
    interrupted: bool = False


# The arithmetic.


def side(processes: int, used: Usage, held: Memory, frames: int, window_ns: int) -> Side:
    """The figures of a side from what it used in a window."""
    return Side(
        processes=processes,
        cpu_percent=100 * used.cpu_ns / window_ns,
        user_percent=100 * used.user_ns / window_ns,
        system_percent=100 * used.system_ns / window_ns,
        rss_bytes=held.rss_bytes,
        pss_bytes=held.pss_bytes,
        switches_per_s=used.switches * 1e9 / window_ns,
        frames_per_s=frames * 1e9 / window_ns,
    )


def spread(times_s: Collection[float]) -> Spread | None:
    """The spread of some times; None if there are none."""
    if not times_s:
        return None
    return Spread(min(times_s), statistics.median(times_s), max(times_s))


def take_over(
    wanted: Collection[Identity],
    killed_at_ns: int,
    *,
    address_at_ns: Mapping[Identity, int],
    announced_at_ns: Mapping[Identity, int],
    last_at_ns: Mapping[Identity, int],
    first_at_ns: Mapping[Identity, int],
) -> TakeOver:
    """The figures of a take-over, from instants by virtual host.

    A virtual host without an instant is left out of the figures that need it.
    """
    adopted = [key for key in wanted if key in address_at_ns]
    announced = [key for key in wanted if key in announced_at_ns]
    whole = {
        key: max(address_at_ns[key], announced_at_ns[key])
        for key in adopted
        if key in announced_at_ns
    }
    return TakeOver(
        virtual_hosts=len(wanted),
        adopted=len(adopted),
        announced=len(announced),
        address_s=spread([(address_at_ns[key] - killed_at_ns) / 1e9 for key in adopted]),
        silence_s=spread(
            [
                (first_at_ns[key] - last_at_ns[key]) / 1e9
                for key in wanted
                if key in first_at_ns and key in last_at_ns
            ]
        ),
        span_s=(max(whole.values()) - min(address_at_ns[key] for key in whole)) / 1e9
        if whole
        else None,
        lag_s=spread(
            [(at - first_at_ns[key]) / 1e9 for key, at in whole.items() if key in first_at_ns]
        ),
        announced_s=spread([(announced_at_ns[key] - killed_at_ns) / 1e9 for key in announced]),
        phase_s=spread(
            [(killed_at_ns - last_at_ns[key]) / 1e9 for key in wanted if key in last_at_ns]
        ),
    )


def merged(spreads: Sequence[Spread | None]) -> Spread | None:
    """The spread of all take-overs: the lowest first, the median of medians, the highest maximum.

    None where nothing was measured.
    """
    found = [each for each in spreads if each is not None]
    if not found:
        return None
    return Spread(
        min(each.first for each in found),
        statistics.median(each.median for each in found),
        max(each.max for each in found),
    )


def busy(load: Machine, elapsed_ns: int, own_percent: float) -> tuple[float, float, list[str]]:
    """What others took in a window, in % of a core: processes of this machine, the hypervisor.

    And notes about what is too much to be ignored. Soft interrupts count as the daemons' work,
    since they mostly carry its frames.
    """
    others = max(0.0, 100 * (load.busy_ns - load.softirq_ns) / elapsed_ns - own_percent)
    stolen = 100 * load.stolen_ns / elapsed_ns
    notes = []
    if others > BUSY_PERCENT:
        notes.append(f"the machine was busy: other processes took {others:.0f} % of a core")
    if stolen > BUSY_PERCENT:
        notes.append(f"the hypervisor gave {stolen:.0f} % of a core to other machines")
    return others, stolen, notes


def pings(
    daemon: str,
    virtual_hosts: int,
    every_s: float,
    sent: Mapping[str, int],
    answered_at_ns: Mapping[str, Sequence[int]],
) -> Pings:
    """The figures of pings, by address: how many were sent, and the times of the answers,
    ascending.
    """
    lost = {
        address: count - len(answered_at_ns.get(address, ())) for address, count in sent.items()
    }
    gaps_ns = [
        later - earlier for at_ns in answered_at_ns.values() for earlier, later in pairwise(at_ns)
    ]
    return Pings(
        daemon=daemon,
        virtual_hosts=virtual_hosts,
        every_s=every_s,
        sent=sum(sent.values()),
        lost=sum(lost.values()),
        lost_max=max(lost.values(), default=0),
        gap_max_s=max(gaps_ns, default=0) / 1e9,
    )


def tax(
    daemon: str,
    virtual_hosts: int,
    packets: int,
    *,
    free_ns: float,
    before_ns: Sequence[float],
    after_ns: Sequence[float],
) -> Tax:
    """The tax from differences of the cost of a packet with and without a daemon: before it was
    started, which is the error of the measurement, and while it runs. At least two of each.
    """
    low, middle, high = statistics.quantiles(before_ns, n=4)
    taxed = [quartile - middle for quartile in statistics.quantiles(after_ns, n=4)]
    return Tax(
        daemon, virtual_hosts, packets, free_ns,
        tax_ns=taxed[1], low_ns=taxed[0], high_ns=taxed[2], still_ns=(high - low) / 2,
    )  # fmt: skip


# The tables: a header and rows of text.

COST_HEADER = ("DAEMON", "VHIDS", "SEGMENTS", "PROCESSES", "CPU %", "FLOOR %", "RATIO", "RSS MIB",
               "PSS MIB", "SWITCHES/S", "ADVERTS/S")  # fmt: skip
TAKE_OVER_HEADER = ("DAEMON", "VHIDS", "SETTLE S", "KILLS", "PHASE S", "ADOPTED", "TAKE-OVER S",
                    "SILENCE S", "SPAN S", "LAG MS", "ANNOUNCED S")  # fmt: skip
TAX_HEADER = ("DAEMON", "VHIDS", "PACKETS", "NS WITHOUT", "TAX NS", "QUARTILES", "NOISE NS")
PINGS_HEADER = ("DAEMON", "VHIDS", "PINGS", "LOST", "LOST OF ONE", "LONGEST GAP S")


def cost_row(row: Row) -> tuple[str, ...]:
    """A row for master + backup, in the order of COST_HEADER."""
    start = (row.title, f"{row.virtual_hosts:,}", str(row.segments))
    if row.master is None or row.backup is None:
        return (*start, *[NONE] * (len(COST_HEADER) - len(start)))
    a, b, floor = row.master, row.backup, row.floor
    cpu, price = row.cpu_percent, row.floor_percent
    return (
        *start,
        f"{a.processes} + {b.processes}",
        f"{a.cpu_percent:.2f} + {b.cpu_percent:.2f}",
        f"{floor.send_cpu_percent:.2f} + {floor.receive_cpu_percent:.2f}" if floor else NONE,
        f"{cpu / price:.1f}" if cpu is not None and price else NONE,
        f"{a.rss_bytes / MIB:.0f} + {b.rss_bytes / MIB:.0f}",
        f"{a.pss_bytes / MIB:.0f} + {b.pss_bytes / MIB:.0f}",
        f"{a.switches_per_s:.0f} + {b.switches_per_s:.0f}",
        f"{a.frames_per_s:.0f} + {b.frames_per_s:.0f}",
    )


def take_over_row(row: Row) -> tuple[str, ...]:
    """A row in the order of TAKE_OVER_HEADER; spreads as first / median / max."""
    settle = NONE if row.settle_s is None else f"{row.settle_s:.2f}"
    start = (row.title, f"{row.virtual_hosts:,}", settle)
    overs = row.take_overs
    if not overs:
        return (*start, *[NONE] * (len(TAKE_OVER_HEADER) - len(start)))
    lag = merged([over.lag_s for over in overs])
    spans_s = [over.span_s for over in overs if over.span_s is not None]
    return (
        *start,
        str(len(overs)),
        _slashed(merged([over.phase_s for over in overs])),
        f"{min(over.adopted for over in overs):,}",
        _slashed(merged([over.address_s for over in overs])),
        _slashed(merged([over.silence_s for over in overs])),
        f"{max(spans_s):.2f}" if spans_s else NONE,
        NONE if lag is None else f"{1e3 * lag.median:.1f} / {1e3 * lag.max:.1f}",
        _slashed(merged([over.announced_s for over in overs])),
    )


def pings_row(seen: Pings) -> tuple[str, ...]:
    return (
        seen.daemon,
        f"{seen.virtual_hosts:,}",
        f"{seen.sent:,}",
        f"{seen.lost:,}",
        f"{seen.lost_max:,}",
        f"{seen.gap_max_s:.2f}",
    )


def tax_row(found: Tax) -> tuple[str, ...]:
    return (
        found.daemon,
        f"{found.virtual_hosts:,}",
        f"{found.packets:,}",
        f"{found.free_ns:.0f}",
        f"{found.tax_ns:.0f}",
        f"{found.low_ns:.0f} / {found.high_ns:.0f}",
        f"{found.still_ns:.0f}",
    )


def _slashed(times: Spread | None) -> str:
    return NONE if times is None else f"{times.first:.2f} / {times.median:.2f} / {times.max:.2f}"


def tables(report: Report) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """(title, header, rows) of each table that has rows."""
    every_ms = 1e3 * report.pings[0].every_s if report.pings else 0
    found = [
        ("In the steady state, master + backup; % of one core", COST_HEADER,
         [cost_row(row) for row in report.rows]),
        ("After SIGKILL of the master: first / median / max of all kills, lag median / max; the"
         " phase is the time since the last advertisement", TAKE_OVER_HEADER,
         [take_over_row(row) for row in report.rows]),
        (f"Host a dies, cable and all; host c pings each address every {every_ms:g} ms",
         PINGS_HEADER, [pings_row(seen) for seen in report.pings]),
        ("The cost of a packet that does not concern the daemon; CPU of sending and receiving it",
         TAX_HEADER, [tax_row(found) for found in report.taxes]),
    ]  # fmt: skip
    return [table for table in found if table[2]]


def remarks(report: Report) -> list[str]:
    """Where it was measured, how each daemon was set up, and what was unusual."""
    stage = report.machine
    load = " ".join(f"{value:.2f}" for value in stage.load_average)
    lines = [
        f"{stage.processor}, {stage.cores} cores, Linux {stage.kernel}, load average before {load}"
    ]
    lines += [f"{each.daemon} {each.version}: {each.configured}" for each in report.contenders]
    lines += report.notes
    for row in report.rows:
        lines += [f"{row.title} {row.virtual_hosts:,}: {note}" for note in row.notes]
    return lines


FLOOR_LINE = "kernel floor (send and receive only)"


def figure(report: Report) -> str:
    """CPU and memory by number of virtual hosts, for every daemon, as SVG.

    Raises ValueError if there is no point.
    """
    done = sorted((row for row in report.rows if row.master), key=lambda row: row.virtual_hosts)
    names = list(dict.fromkeys(row.title for row in done))
    floors: dict[int, list[float]] = {}
    for row in done:
        if row.floor_percent:
            floors.setdefault(row.virtual_hosts, []).append(row.floor_percent)
    floor = [(float(count), statistics.median(prices)) for count, prices in floors.items()]
    cpu = [_line(name, done, lambda row: row.cpu_percent) for name in names]
    memory = {
        "PSS": [_line(name, done, lambda row: _mib(row, "pss_bytes")) for name in names],
        "RSS": [_line(name, done, lambda row: _mib(row, "rss_bytes")) for name in names],
    }
    versions = ", ".join(f"{each.daemon} {each.version}" for each in report.contenders)
    caption = (
        f"carp-fast bench, {report.begun_at[:10]}: {versions}; {report.machine.cores} cores,"
        f" {report.machine.processor}, Linux {report.machine.kernel.partition('-')[0]}"
    )
    panels = [
        Panel("CPU, master and backup together", "virtual hosts", "% of one core",
              [*cpu, Line(FLOOR_LINE, floor, dashed=True)]),
        *(
            Panel(f"{name} of one host's processes", "virtual hosts", f"{name}, MiB", lines)
            for name, lines in memory.items()
        ),
    ]  # fmt: skip
    return draw(panels, caption)


def _line(name: str, rows: Sequence[Row], value: Callable[[Row], float | None]) -> Line:
    """The line of a daemon, without values of 0, which a logarithmic axis cannot show."""
    found = [(row.virtual_hosts, value(row)) for row in rows if row.title == name]
    return Line(name, [(float(count), figure) for count, figure in found if figure])


def _mib(row: Row, field: Literal["pss_bytes", "rss_bytes"]) -> float | None:
    if row.master is None or row.backup is None:
        return None
    held: int = max(getattr(row.master, field), getattr(row.backup, field))
    return held / MIB
