"""The options of `flood`, their values as FloodOptions, and which cannot be combined.

Must not know what is done with them (flood.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from carp_fast.cli.conflicts import Rule
from carp_fast.cli.masters import masters_options
from carp_fast.cli.terminal import Finite, json_option, together
from carp_fast.cli.trial import TRIAL_NAMES, trial_options

DEFAULT_RATE = "1000"
DEFAULT_S, RECORDING_S = 10.0, 1e6
"""Seconds of a flood, and the most that a recording is played."""
WALKED = (
    "source", "source6", "source_mac", "destination", "destination6", "advbase", "advskew",
    "demote", "counter", "vlan",
)  # fmt: skip
"""Options for a field of the frames, whose value is a walk."""


def _path(*names: str, metavar: str, text: str, dash: bool = False) -> Callable[..., Any]:
    kind = click.Path(dir_okay=False, allow_dash=dash, path_type=Path)
    return click.option(*names, type=kind, metavar=metavar, help=text)


def _walk(name: str, text: str) -> Callable[..., Any]:
    return click.option(name, metavar="WALK", help=text)


_OPTIONS = (
    click.option("-i", "--interface", metavar="IF", help="Send on this interface."),
    _path("-c", "--config", metavar="FILE", text="Advertise the virtual hosts of a configuration."),
    click.option("--rate", metavar="RATE", help=f"Send at this rate.  [default: {DEFAULT_RATE}]"),
    click.option(
        "--duration",
        type=Finite(0, 1e6, min_open=True),
        metavar="S",
        help=f"Stop after S seconds.  [default: {DEFAULT_S:g}; with --from the end of PCAP]",
    ),
    click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after N frames."),
    click.option(
        "--burst",
        type=(click.IntRange(1), Finite(0, min_open=True)),
        metavar="N S",
        help="Send N frames at once (or at --rate, if given), again every S seconds.",
    ),
    click.option(
        "--storm",
        is_flag=True,
        help="Advertise all virtual hosts at once, again in each advertisement interval.",
    ),
    click.option(
        "--mix",
        metavar="KIND=N,...",
        help="Mix these kinds of frames by weight.  [default: ok=1]",
    ),
    _walk("--vhid", "Use only these vhids.  [default: all in FILE; 1 without -c]"),
    click.option(
        "--address",
        "addresses",
        multiple=True,
        metavar="WALK",
        help="Without -c: give the virtual hosts these addresses, one each if there are as many as"
        " vhids, otherwise all to each.  [default: 198.51.100.VHID]",
    ),
    _path(
        "--passphrase-file",
        metavar="FILE",
        text="Without -c: use the first line of FILE as the passphrase.",
    ),
    _walk("--source", "Set the IPv4 source.  [default: that of FILE or of the interface]"),
    _walk("--source6", "Set the IPv6 source.  [default: that of FILE or of the interface]"),
    _walk("--source-mac", "Set the source MAC.  [default: that of the interface]"),
    _walk("--destination", "Set the IPv4 group.  [default: that of FILE or 224.0.0.18]"),
    _walk("--destination6", "Set the IPv6 group.  [default: that of FILE or ff02::12]"),
    click.option(
        "--destination-mac", metavar="MAC", help="Send to this MAC for virtual hosts with peers."
    ),
    _walk("--advbase", "Set the advertised advbase.  [default: that of FILE or 1]"),
    _walk("--advskew", "Set the advertised advskew.  [default: that of FILE or 0]"),
    _walk("--demote", "Set OpenBSD's demote byte.  [default: 0]"),
    _walk("--counter", "Start the counters of all flows here.  [default: the time in ns]"),
    _walk("--vlan", "Add this 802.1Q tag to each frame."),
    click.option(
        "--seed",
        type=click.IntRange(0, (1 << 64) - 1),
        default=0,
        help="Set the random seed.  [default: 0]",
    ),
    _path(
        "--from",
        "recording",
        metavar="PCAP",
        text="Send the frames of a capture file instead; - is standard input.",
        dash=True,
    ),
    click.option(
        "--times",
        type=click.IntRange(1, 2**32 - 1),
        default=1,
        help="Send PCAP this many times.  [default: 1]",
    ),
    click.option(
        "--speed",
        type=Finite(0, 1e6, min_open=True),
        metavar="X",
        help="Send PCAP X times as fast as it was recorded.  [default: 1, or --rate]",
    ),
    _path("--write", metavar="PCAP", text="Write the frames to a file instead of sending them."),
    click.option(
        "--backend",
        type=click.Choice(("auto", "sendmmsg", "live")),
        default="auto",
        show_default=True,
        help="Choose how frames are sent: by sendmmsg(2), or live from an XDP program.",
    ),
    click.option(
        "--stamp",
        is_flag=True,
        help="Append the time of sending to each frame, from which sink computes latency.",
    ),
    click.option(
        "--i-own-this-network",
        is_flag=True,
        help="Send even on the interface of the default route or of your SSH session.",
    ),
    trial_options,
    masters_options,
    json_option,
)

# FloodOptions.of() takes their values.
flood_options = together(*_OPTIONS)


@dataclass(frozen=True)
class FloodOptions:
    """The values of the options; None where an option was not given.

    `interface`: "" when frames are only written. `burst`: frames and seconds. `walks`: the options
    of WALKED that were given, as text.
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
        """From the values of flood_options, by name. Raises click.UsageError."""
        walks = {name: values[name] for name in WALKED if values[name]}
        own: dict[str, Any] = {each.name: values.get(each.name) for each in fields(cls)}
        usual = RECORDING_S if values["recording"] else DEFAULT_S
        duration = values["duration"] or usual
        if values["write"] == Path("-"):
            raise click.UsageError("--write -: name a file; the result is on standard output")
        interface = values["interface"] or ""
        return cls(**(own | {"walks": walks, "interface": interface, "duration": duration}))


_WITH_HOSTS = {
    "interface", "hosts", "election", "duration", "i_own_this_network", "as_json", "walks",
}  # fmt: skip
_NOT_WITH_HOSTS = {each.name for each in fields(FloodOptions)} - _WITH_HOSTS
_FRAME_FIELDS = ("vhid", "addresses", *WALKED, "destination_mac", "mix", "config", "storm", "stamp")

_TOGETHER = "{option} cannot be combined with {other}"
CONFLICTS = (
    Rule(None, "missing option -i IF or --write PCAP", needs=("interface", "write")),
    Rule("config", _TOGETHER, without=("addresses", "passphrase_file")),
    Rule("hosts", _TOGETHER, without=tuple(sorted(_NOT_WITH_HOSTS.union(WALKED, TRIAL_NAMES)))),
    Rule("election", "--election needs --hosts N", needs=("hosts",)),
    Rule("sink_interface", _TOGETHER, without=("recording", "speed", "times", "write")),
    Rule("find_rate", _TOGETHER, without=("burst", "count", "duration", "rate", "storm")),
    Rule("storm", _TOGETHER, without=("burst",)),
    Rule(
        "recording",
        "--from sends frames unchanged and cannot be combined with {other}",
        without=_FRAME_FIELDS,
    ),
    Rule("speed", "--speed needs --from PCAP", needs=("recording",)),
    Rule("speed", _TOGETHER, without=("rate", "burst")),
)
"""Which options cannot be combined; the first rule that is broken is reported."""
