"""The options of `flood`: what they are, what they become, and which do not go together.

Must not know what is done with them (flood.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from carp_fast.cli.conflicts import Rule
from carp_fast.cli.masters import masters_options
from carp_fast.cli.terminal import json_option
from carp_fast.cli.trial import TRIAL_NAMES, trial_options

DEFAULT_RATE = "1000"
WALKED = (
    "source", "source6", "source_mac", "destination", "destination6", "advbase", "advskew",
    "demote", "counter", "vlan",
)  # fmt: skip
"""Options that name a field of the frames and how it changes."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _path(*names: str, metavar: str, text: str, dash: bool = False) -> Callable[..., Any]:
    kind = click.Path(dir_okay=False, allow_dash=dash, path_type=Path)
    return click.option(*names, type=kind, metavar=metavar, help=text)


def _walk(name: str, text: str) -> Callable[..., Any]:
    return click.option(name, metavar="WALK", help=text)


_OPTIONS = (
    click.option("-i", "--interface", metavar="IF", help="Where frames leave."),
    _path(
        "-c", "--config", metavar="FILE", text="Its virtual hosts are advertised, digests right."
    ),
    click.option("--rate", metavar="RATE", help=f"Frames/s.  [default: {DEFAULT_RATE}]"),
    click.option(
        "--duration",
        type=click.FloatRange(0, 1e6, min_open=True),
        default=10.0,
        show_default=True,
        metavar="S",
        help="Ends after so many seconds.",
    ),
    click.option("--count", type=click.IntRange(1), metavar="N", help="Ends after so many frames."),
    click.option(
        "--burst",
        type=(click.IntRange(1), click.FloatRange(0, min_open=True)),
        metavar="N S",
        help="N frames at once (at --rate, if given), again each S seconds.",
    ),
    click.option("--storm", is_flag=True, help="All virtual hosts at once, each interval."),
    click.option("--mix", metavar="KIND=N,...", help="Kinds of frames by weight.  [default: ok=1]"),
    _walk("--vhid", "Only these of FILE; without FILE, these.  [default without FILE: 1]"),
    click.option(
        "--address",
        "addresses",
        multiple=True,
        metavar="WALK",
        help="Without FILE: what they hold, one each if there are as many, else all of them.",
    ),
    _path("--passphrase-file", metavar="FILE", text="Without -c: its first line."),
    _walk("--source", "Source of IPv4.  [default: FILE's, the interface's]"),
    _walk("--source6", "Source of IPv6."),
    _walk("--source-mac", "Source MAC."),
    _walk("--destination", "Another group of IPv4."),
    _walk("--destination6", "Another group of IPv6."),
    click.option("--destination-mac", metavar="MAC", help="Where unicast to peers of FILE goes."),
    _walk("--advbase", "Advertised seconds.  [default: FILE's, 1]"),
    _walk("--advskew", "Advertised skew.  [default: FILE's, 0]"),
    _walk("--demote", "Byte 4 of CARP.  [default: 0]"),
    _walk("--counter", "One value: where all flows begin.  [default: the clock, ns]"),
    _walk("--vlan", "An 802.1Q tag in each frame."),
    click.option(
        "--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, help="Of what is random."
    ),
    _path("--from", "recording", metavar="PCAP", text="Sends a recording instead.", dash=True),
    click.option(
        "--times", type=click.IntRange(1, 2**32 - 1), default=1, help="PCAP so many times."
    ),
    click.option(
        "--speed",
        type=click.FloatRange(0, 1e6, min_open=True),
        metavar="X",
        help="PCAP X times as fast as recorded.  [default: 1, or --rate]",
    ),
    _path("--write", metavar="PCAP", text="Writes the frames there instead of sending them."),
    click.option(
        "--backend",
        type=click.Choice(("auto", "sendmmsg", "live")),
        default="auto",
        show_default=True,
        help="How frames leave.",
    ),
    click.option(
        "--stamp", is_flag=True, help="Says behind each frame when it was sent, for sink."
    ),
    click.option("--i-own-this-network", is_flag=True, help="Also where it may cut you off."),
    trial_options,
    masters_options,
    json_option,
)


def flood_options(function: _Function) -> _Function:
    """Adds the options to a command; FloodOptions.of() takes their values."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True)
class FloodOptions:
    """What was asked for, a field an option; None where it was not given.

    `interface`: "" where frames are only written. `burst`: frames, seconds. `walks`: the options of
    WALKED that were given, as they were written.
    """

    interface: str
    config: Path | None
    rate: str | None
    duration: float
    count: int | None
    burst: tuple[int, float] | None
    storm: bool
    mix: str | None
    vhid: str | None
    addresses: tuple[str, ...]
    passphrase_file: Path | None
    destination_mac: str | None
    walks: Mapping[str, str]
    seed: int
    recording: Path | None
    times: int
    speed: float | None
    write: Path | None
    backend: str
    stamp: bool
    i_own_this_network: bool
    hosts: int | None
    election: bool
    as_json: bool

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> FloodOptions:
        """From the values of flood_options, by name."""
        walks = {name: values[name] for name in WALKED if values[name]}
        own: dict[str, Any] = {each.name: values.get(each.name) for each in fields(cls)}
        return cls(**(own | {"walks": walks, "interface": values["interface"] or ""}))


_BESIDE_HOSTS = {
    "interface", "hosts", "election", "duration", "i_own_this_network", "as_json", "walks",
}  # fmt: skip
_NOT_BESIDE_HOSTS = {each.name for each in fields(FloodOptions)} - _BESIDE_HOSTS
_MADE = ("vhid", "addresses", *WALKED, "destination_mac", "mix", "config", "storm", "stamp")

CONFLICTS = (
    Rule(None, "say where: -i IF, or --write PCAP", needs=("interface", "write")),
    Rule(
        "config",
        "-c FILE says addresses and passphrases: no --address, no --passphrase-file beside it",
        without=("addresses", "passphrase_file"),
    ),
    Rule(
        "hosts",
        "--hosts goes without {other}",
        without=tuple(sorted(_NOT_BESIDE_HOSTS.union(WALKED, TRIAL_NAMES))),
    ),
    Rule("election", "--election needs --hosts N", needs=("hosts",)),
    Rule(
        "sink_interface",
        "--sink goes without {other}",
        without=("recording", "speed", "times", "write"),
    ),
    Rule(
        "find_rate",
        "--find-rate goes without {other}",
        without=("burst", "count", "duration", "rate", "storm"),
    ),
    Rule("storm", "either --storm or --burst", without=("burst",)),
    Rule("recording", "--from sends frames as they are: no {other} beside it", without=_MADE),
    Rule("speed", "--speed is for --from", needs=("recording",)),
    Rule("speed", "a recording goes at --speed, or at a rate", without=("rate", "burst")),
)
"""Which options do not go together; the first that is broken is what is said."""
