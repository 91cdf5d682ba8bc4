"""A fleet: virtual hosts spread over the segments of a lab, their files, and the daemons' commands.

Two hosts have the same virtual hosts; "a" prefers to be master. Must not know what is measured or
shown of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

import carp_fast
from carp_fast.lab.lab import segment_network
from carp_fast.lab.observer import Key

VHIDS_PER_SEGMENT = 255
ADVBASE = 1
DEAD_RATIO = 3
ADVSKEW = {"a": 0, "b": 100}  # by the host's name
# This installation: `-m` would start the sources in the current directory, if there are any.
CARP_FAST = (sys.executable, "-P", str(Path(carp_fast.__file__).absolute().parent / "__main__.py"))
PASSPHRASE = "demo-7Qm4xW2r"  # protects nothing: both hosts are in namespaces of this machine


def spread(instances: int, segments: int) -> dict[int, int]:
    """The number of virtual hosts of each segment; segments without any are left out."""
    share, rest = divmod(instances, segments)
    counts = {k: share + (k <= rest) for k in range(1, segments + 1)}
    return {k: count for k, count in counts.items() if count}


def keys_of(counts: Mapping[int, int]) -> set[Key]:
    """Every virtual host, by segment and vhid."""
    return {Key(k, vhid) for k, count in counts.items() for vhid in range(1, count + 1)}


def run_command(
    counts: Mapping[int, int],
    directory: Path,
    host: str,
    daemon: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes the configuration of a host and returns the command line of `carp-fast run`.

    `daemon` and `defaults`: further keys of these tables.
    """
    # Of each host its own: the other's daemon may be reading.
    passphrase, path = _passphrase_file(directory, host), directory / f"carp-fast-{host}.toml"
    for file, text in (
        (passphrase, PASSPHRASE + "\n"),
        (path, configuration(counts, directory, host, daemon, defaults)),
    ):
        file.touch(mode=0o600)
        file.write_text(text)
    return [*CARP_FAST, "run", "-c", str(path)]


def configuration(
    counts: Mapping[int, int],
    directory: Path,
    host: str,
    daemon: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> str:
    """The TOML file of one host: a range table for each run of equal segments."""
    return tomli_w.dumps(
        {
            "daemon": {
                "control_socket": str(control_socket(directory, host)),
                "state_directory": str(directory / f"state-{host}"),
                **(daemon or {}),
            },
            "defaults": {
                "passphrase_file": str(_passphrase_file(directory, host)),
                "advbase": ADVBASE,
                "advskew": ADVSKEW[host],
                "dead_ratio": DEAD_RATIO,
                "preempt": True,
                **(defaults or {}),
            },
            "virtual_host": [
                {
                    "interface": f"s[{first}-{last}]",
                    "vhid": f"1-{counts[first]}",
                    "addresses": [f"{_network(first, last)}.1.{{vhid}}/32"],
                }
                for first, last in _alike(counts)
            ],
        }
    )


def _passphrase_file(directory: Path, host: str) -> Path:
    return directory / f"passphrase-{host}"


def control_socket(directory: Path, host: str) -> Path:
    """The control socket of a host's daemon."""
    return directory / f"{host}.sock"


def _network(first: int, last: int) -> str:
    return "10.{number}" if last < 256 else segment_network(first)


def _alike(counts: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of segments with equal numbers of virtual hosts; from 256 on
    singly.
    """
    first = previous = 0
    for k in sorted(counts):
        if previous and (k != previous + 1 or counts[k] != counts[first] or k >= 256):
            yield first, previous
            first = k
        first, previous = first or k, k
    yield first, previous
