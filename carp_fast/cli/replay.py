"""The commands `record` and `replay`: save what a daemon recorded, and play it again.

Holds their options and what they print. Must not know how a daemon records or how a scenario is
played. Each command imports what it needs when it runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import (
    control_path,
    daemon_options,
    failure,
    json_option,
    print_json,
    print_prose,
    print_table,
)

if TYPE_CHECKING:
    from carp_fast.replay.comparison import Row
    from carp_fast.replay.election import Election, Period

PCAP_MAGICS = (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d")
PREEMPT = {"true": True, "false": False, "demoted": "demoted"}
# The first difference is also in the error, with both decisions.
DECISIONS = columns(("time", "virtual host", "recorded", "now"), ("recorded",), {"now": 16})
PERIODS = columns(
    ("", "FROM", "TO", "SENT", "FROM HERE", "TO HERE", "SENT HERE", "APART"),
    ("FROM", "FROM HERE", "TO", "TO HERE", "SENT", "SENT HERE", "APART"),
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@daemon_options
@click.option("--interface", metavar="IF", help="Only virtual hosts on this interface.")
@click.option("--vhid", type=click.IntRange(1, 255), metavar="N", help="Only this vhid.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def record(
    file: Path,
    config: Path | None,
    control_socket: Path | None,
    *,
    interface: str | None,
    vhid: int | None,
    force: bool,
) -> None:
    """Writes recent input and decisions to FILE. It contains no secrets.

    FILE is a scenario, which `carp-fast replay` and tests can play.
    """
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import ControlError

    if file.exists() and not force:
        raise failure(f"{file}: exists already; --force overwrites it")
    client = ControlClient(control_path(config, control_socket))
    try:
        answer = client.record(interface=interface, vhid=vhid)
    except ControlError as error:
        raise failure(error) from error
    if not answer.virtual_hosts:
        raise failure("no such virtual host, or its records were overwritten in the ring")
    try:
        write_whole(file, answer.lines, force=force)
    except OSError as error:
        raise failure(f"{file}: {error.strerror}") from error
    print_prose(
        f"{file}: {answer.virtual_hosts:,} virtual hosts from {answer.records:,} records;"
        f" {answer.overwritten:,} older ones were overwritten"
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@click.option(
    "--as", "source", metavar="SOURCE", help="Take the place of this host; FILE is a pcap."
)
@click.option("-c", "--config", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--vhid", type=click.IntRange(1, 255), metavar="N")
@click.option("--address", "addresses", multiple=True, metavar="A/LEN")
@click.option("--passphrase-file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--advbase", type=click.IntRange(0, 255), metavar="N")
@click.option("--advskew", type=click.IntRange(0, 254), metavar="N")
@click.option("--preempt", type=click.Choice(tuple(PREEMPT)))
@click.option("--dialect", type=click.Choice(("ucarp", "freebsd", "openbsd")))
@click.option("--order", "orders", multiple=True, metavar="'SECONDS ORDER'")
def replay(file: Path, as_json: bool, source: str | None, **given: Any) -> None:
    """Plays a recording and compares decisions. The engine gets the recorded input.

    FILE is a scenario written by `carp-fast record`. Exit code 1: the decisions differ; the first
    difference is printed.

    With --as, FILE is a pcap of advertisements, and the engine takes the place of the host SOURCE.
    Its settings come from the configuration (-c, and --vhid to select) or from the options;
    advbase, advskew and vhid default to those of SOURCE. Exit code 1: the engine does not start and
    stop advertising within an interval of the times at which SOURCE did. --order '13.5 kill' gives
    an order at that time, for example what was done to SOURCE then.
    """
    from carp_fast.replay.scenario import ScenarioError

    try:
        if source is not None:
            text = show_election(file, source, given, as_json=as_json)
        elif any(value not in (None, ()) for value in given.values()):
            raise click.UsageError("these options need --as")
        elif is_pcap(file):
            raise click.UsageError(f"{file} is a pcap: give the host to replace with --as")
        else:
            text = show_replay(file, as_json=as_json)
    except ScenarioError as error:
        raise failure(error) from error
    except OSError as error:
        raise failure(f"{error.filename}: {error.strerror}") from error
    if text:
        raise failure(text)


def write_whole(path: Path, lines: Iterable[str], *, force: bool) -> None:
    """Writes a file completely or not at all. Raises OSError, also if it exists and not `force`."""
    import tempfile  # 0.7 MiB, which every daemon would hold

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        if force:
            Path(name).replace(path)
        else:
            os.link(name, path)  # fails if the path exists by now
    finally:
        Path(name).unlink(missing_ok=True)


def is_pcap(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in PCAP_MAGICS


def encoded(document: Any) -> bytes:
    import msgspec

    return msgspec.json.encode(document)


# ------------------------------------------------------------------------------------- scenarios


def show_replay(path: Path, *, as_json: bool) -> str:
    """Prints decisions up to the first difference and returns the error that names it, or "".

    Raises ScenarioError.
    """
    from carp_fast.replay import scenario as scenarios
    from carp_fast.replay.comparison import compare
    from carp_fast.replay.player import play

    scenario = scenarios.read(path)
    try:
        outputs = play(scenario)
    except scenarios.ScenarioError as error:
        raise scenarios.ScenarioError(f"{path}: {error}") from error
    rows = []
    different: Row | None = None
    for row in compare(scenario, outputs):
        rows.append(row)
        if not row.same:
            different = row
            break
    if as_json:
        print_json(encoded({"same": different is None, "rows": rows}))
    else:
        print_table(DECISIONS, [decision_row(row) for row in rows], headed=False)
    if different is not None:
        return f"{path}: {difference_text(different)}"
    if not as_json:
        print_prose(f"{len(rows):,} decisions, all the same")
    return ""


def decision_row(row: Row) -> list[str]:
    """The cells of DECISIONS: a mark and the time, the virtual host, both decisions."""
    mark = "  " if row.same else "! "
    now = row.now or "-"
    if not row.same and row.now_ns is not None:
        now += f"  at {row.now_ns / 1e9:.3f}"
    return [f"{mark}{row.at_ns / 1e9:12.3f}", row.name, row.recorded or "-", now]


def difference_text(row: Row) -> str:
    """The first difference in one sentence."""
    where = f"{row.at_ns / 1e9:.3f} s, {row.name}"
    if row.recorded is None:
        return f"differs at {where}: {row.now} is not in the recording"
    if row.now is None or row.now_ns is None:
        return f"differs at {where}: {row.recorded} was recorded and is not decided now"
    now = f"{row.now} at {row.now_ns / 1e9:.3f} s"
    return f"differs at {where}: {row.recorded} was recorded, now {now}"


# --------------------------------------------------------------------------------------- elections


def host_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The table of the host that the engine replaces, from options or a configuration.

    Raises ScenarioError.
    """
    from carp_fast.config.load import ConfigurationError, load
    from carp_fast.replay.recording import configured_table
    from carp_fast.replay.scenario import ScenarioError

    table: dict[str, Any] = {}
    if given["config"] is not None:
        try:
            hosts = load(given["config"]).virtual_hosts
        except ConfigurationError as error:
            raise ScenarioError(str(error)) from error
        found = [host for host in hosts if given["vhid"] in (None, host.vhid)]
        if len(found) != 1:
            raise ScenarioError(f"{given['config']}: {len(found)} virtual hosts match; use --vhid")
        table = configured_table(found[0])
    elif given["passphrase_file"] is None or not given["addresses"]:
        raise click.UsageError("--as needs -c, or --passphrase-file and --address")
    if given["addresses"]:
        table["addresses"] = list(given["addresses"])
    if given["passphrase_file"] is not None:
        lines = given["passphrase_file"].read_text("utf-8").splitlines()
        table["passphrase"] = lines[0] if lines else ""
    if given["preempt"] is not None:
        table["preempt"] = PREEMPT[given["preempt"]]
    for key in ("vhid", "advbase", "advskew", "dialect"):
        if given[key] is not None:
            table[key] = given[key]
    return table


def show_election(path: Path, source: str, given: dict[str, Any], *, as_json: bool) -> str:
    """Prints both sides and returns the error if they differ, or "". Raises ScenarioError."""
    from carp_fast.replay.election import advertisements, read_frames, take_place
    from carp_fast.replay.scenario import ScenarioError, parse_line

    table = host_settings(given)
    orders = []
    for text in given["orders"]:
        try:
            orders.append(parse_line(text))
        except ValueError as error:
            raise ScenarioError(f"--order: {error}") from error
        if orders[-1].output:
            raise ScenarioError(f"--order: {text}: is an output, not an order")
    heard = advertisements(read_frames(path), table.get("vhid"))
    election = take_place(heard, source, table, orders)
    if as_json:
        print_json(encoded({"same": election.same, **election._asdict()}))
    else:
        print_prose(f"{source} (FROM, TO, SENT) and our engine in its place (HERE), in seconds:")
        print_table(PERIODS, period_rows(election))
        print_prose(f"sent: {election.theirs} by {source}, {election.ours} here")
        for line in state_lines(election):
            print_prose(line)
    if election.same:
        return ""
    apart = f"within {election.interval_ns / 1e9:.3f} s of {source}"
    return f"{path}: does not start and stop advertising {apart}"


def period_rows(election: Election) -> list[list[str]]:
    """The rows of PERIODS: starts, stops and counts of both sides."""

    def side(period: Period | None) -> list[str]:
        if period is None:
            return ["-", "-", "-"]
        return [f"{period.start_ns / 1e9:.3f}", f"{period.stop_ns / 1e9:.3f}", str(period.sent)]

    rows = []
    for pair in election.pairs:
        apart = (
            "" if pair.apart_ns is None else " ".join(f"{ns / 1e9:+.3f}" for ns in pair.apart_ns)
        )
        rows.append(["" if pair.near else "!", *side(pair.theirs), *side(pair.ours), apart])
    return rows


def state_lines(election: Election) -> Iterator[str]:
    """The states of our engine by time."""
    for output in election.outputs:
        if output.text.split()[0] in ("INIT", "BACKUP", "MASTER"):
            yield f"  {output.at_ns / 1e9:10.3f}  {output.text}"
