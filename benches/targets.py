#!/usr/bin/env python3
"""Changes of state and CPU of each daemon under each kind of a flood.

Three hosts on a bridge: a and b run one virtual host of ucarp, keepalived or carp-fast, settled
with a as its master; c floods the segment with one kind of frame after the other. Between two kinds
the pair settles again.

  sudo .venv/bin/python benches/targets.py [--seconds 10] [--rate 100000] [--kind bad_auth] ...

Prints for each daemon and kind: the rate on the segment, how often an address was added or removed
on either host, the host that had it at the end, and the CPU of each side in % of a core.
`carp-fast flood --help` describes the kinds; the flood knows the key of ucarp and carp-fast.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import carp_fast
from carp_fast.bench.contenders import DAEMONS, MEASURED, Daemon, carp_fast_commands
from carp_fast.bench.run import Pair
from carp_fast.bench.usage import descendants, usage
from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import print_table
from carp_fast.lab.lab import Host, Lab, LabError, interface_name
from carp_fast.loadtest._mix import KIND_WORDS

LAB = "carp-fast-targets"
SEGMENT, COUNTS = 1, {1: 1}
ADDRESS6 = "2001:db8::64"  # announced by the kind na: not an address of the virtual host
RATE_PER_S, SECONDS = 100_000, 10.0
DEADLINE_S = 30.0  # in addition to the flood itself
SETTLE_S = 60.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
HEADER = ("daemon", "kind", "frames/s", "address changes", "master at the end", "CPU a", "CPU b")


def flood(
    host: Host, configuration: Path, kind: str, rate: float, seconds: float
) -> tuple[float, float]:
    """Floods from this host: the rate reached, frames/s, and how long. LabError if it failed."""
    argv = [sys.executable, "-m", "carp_fast", "flood", "-i", interface_name(SEGMENT)]
    argv += ["--address", ADDRESS6] if kind == "na" else ["-c", str(configuration)]
    argv += ["--mix", f"{kind}=1", "--rate", f"{rate:g}", "--duration", f"{seconds:g}", "--json"]
    done = host.run(argv, env=ENVIRONMENT, deadline_s=seconds + DEADLINE_S)
    document = json.loads(done.stdout)
    return float(document["rate"]), float(document["seconds"])


def holders(pair: Pair) -> str:
    """The hosts that have the address now."""
    hosts = [host.name for host in (pair.a, pair.b) if pair.addresses.count(host)]
    return " and ".join(hosts) or "nobody"


def settle(pair: Pair) -> None:
    """Host a holds the address and host b does not, and nothing has changed for some seconds."""
    pair.addresses.wait_until(pair.settled, SETTLE_S, "settled after a flood", every_s=0.1)


def measure(
    pair: Pair, host: Host, configuration: Path, kind: str, options: argparse.Namespace
) -> list[str]:
    """The row of one kind."""
    processes = {name: descendants(pair.roots(name)) for name in ("a", "b")}
    before = {name: usage(pids) for name, pids in processes.items()}
    changes = pair.addresses.changes
    reached, elapsed_s = flood(host, configuration, kind, options.rate, options.seconds)
    used = [usage(processes[name]).since(before[name]).cpu_ns for name in ("a", "b")]
    return [
        pair.daemon.name,
        kind,
        f"{reached:,.0f}",
        str(pair.addresses.changes - changes),
        holders(pair),
        *(f"{cpu_ns / elapsed_s / 1e7:.1f} %" for cpu_ns in used),
    ]


def rows_of(daemon: Daemon, options: argparse.Namespace) -> Iterator[list[str]]:
    """A row for each kind; a kind after which the pair does not settle gets a new pair."""
    kinds = list(options.kind or KIND_WORDS)
    while kinds:
        with (
            Lab(LAB, hosts=("a", "b", "c"), segments=1, medium="bridge", ipv6=True) as lab,
            Pair(lab, daemon, COUNTS) as pair,
        ):
            pair.start()
            # The daemons' own key, address and vhid, the same for all daemons.
            carp_fast_commands(lab["a"], COUNTS, lab.directory)
            configuration = lab.directory / "carp-fast-a.toml"
            while kinds:
                yield measure(pair, lab["c"], configuration, kinds.pop(0), options)
                try:
                    settle(pair)
                except LabError:
                    break


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rate", type=float, default=RATE_PER_S)
    parser.add_argument("--daemon", choices=tuple(DAEMONS), action="append")
    parser.add_argument("--kind", choices=KIND_WORDS, action="append")
    options = parser.parse_args(words)
    rows: list[list[str]] = []
    for name in options.daemon or MEASURED:
        if not DAEMONS[name].installed():
            print(f"{name}: not installed (Debian package {DAEMONS[name].package}), skipped")
            continue
        for row in rows_of(DAEMONS[name], options):
            print("  ".join(row), file=sys.stderr)
            rows.append(row)
    print_table(columns(HEADER), rows)


if __name__ == "__main__":
    main()
