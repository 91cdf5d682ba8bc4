"""The daemons that `carp-fast bench` compares: their versions, configurations and command lines.

Each is set up to perform at its best: the same intervals, no work that another does not have, the
cheapest script if it needs scripts. `configured` describes that for people. Host a prefers to be
master; before a take-over each daemon waits for 3 + 100/256 s of silence by its own rule. Must not
know how they are measured.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from carp_fast import __version__
from carp_fast.lab.fleet import ADVSKEW, PASSPHRASE, keys_of, run_command
from carp_fast.lab.lab import Host, LabError, interface_name, virtual_address

UCARP_MOST = 1_020
# VRRPv3: 3 intervals + (256 - priority) / 256, so that 156 waits as long as advskew 100.
PRIORITY = {"a": 254, "b": 156}

Commands = list[list[str]]


@dataclass(frozen=True)
class Daemon:
    """One program. `commands` writes its files to a directory and returns what to start."""

    name: str
    program: str | None  # as shutil.which finds it; None: this Python
    package: str  # of Debian
    configured: str
    most: int | None  # virtual hosts; more are only tried with --force
    commands: Callable[[Host, Mapping[int, int], Path], Commands]

    def installed(self) -> bool:
        return self.program is None or shutil.which(self.program) is not None

    def version(self) -> str:
        """The version that the program reports. Raises LabError if it reports none."""
        if self.program is None:
            return __version__
        option = {"ucarp": "--help"}.get(self.name, "--version")
        output = subprocess.run([self.program, option], capture_output=True, text=True, check=False)
        found = re.search(r"\bv?(\d+\.\d+(?:\.\d+)?)\b", output.stdout + output.stderr)
        if found is None:
            raise LabError(f"{self.program} {option} reports no version")
        return found[1]


def carp_fast_commands(
    host: Host,
    counts: Mapping[int, int],
    directory: Path,
    daemon: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> Commands:
    return [run_command(counts, directory, host.name, daemon, defaults)]


def ucarp_commands(host: Host, counts: Mapping[int, int], directory: Path) -> Commands:
    # Of each host its own: what runs cannot be written.
    up, down = (directory / f"{host.name}-ucarp-{end}" for end in ("up", "down"))
    for script, action in ((up, "add"), (down, "del")):
        script.write_text(f'#!/bin/sh\nexec ip addr {action} "$2/32" dev "$1"\n')
        script.chmod(0o755)
    skew = str(ADVSKEW[host.name])
    return [
        [
            *("ucarp", "-i", interface_name(key.segment), "-s", host.address(key.segment)),
            *("-v", str(key.vhid), "-p", PASSPHRASE, "-a", virtual_address(*key)),
            *("-b", "1", "-k", skew, "-P", "-n", "-u", str(up), "-d", str(down)),
        ]
        for key in sorted(keys_of(counts))
    ]


_KEEPALIVED_HEAD = """global_defs {{
  router_id bench_{host}
  vrrp_version 3
  vrrp_garp_master_repeat 1
  vrrp_garp_master_delay 0
  vrrp_garp_master_refresh 0
  vrrp_skip_check_adv_addr
}}
"""
_KEEPALIVED_INSTANCE = """vrrp_instance {interface}_{vhid} {{
  state BACKUP
  interface {interface}
  virtual_router_id {vhid}
  priority {priority}
  advert_int 1
  virtual_ipaddress {{
    {address}/32 dev {interface}
  }}
}}
"""


def keepalived_commands(host: Host, counts: Mapping[int, int], directory: Path) -> Commands:
    path = directory / f"keepalived-{host.name}.conf"
    instances = [
        _KEEPALIVED_INSTANCE.format(
            interface=interface_name(key.segment),
            vhid=key.vhid,
            priority=PRIORITY[host.name],
            address=virtual_address(*key),
        )
        for key in sorted(keys_of(counts))
    ]
    path.write_text(_KEEPALIVED_HEAD.format(host=host.name) + "".join(instances))
    pid_files = [str(directory / f"keepalived-{host.name}{kind}.pid") for kind in ("", "-vrrp")]
    return [
        [
            *("keepalived", "--dont-fork", "--log-console", "--no-syslog", "--vrrp"),
            *("--use-file", str(path), "--pid", pid_files[0], "--vrrp_pid", pid_files[1]),
        ]
    ]


_CONFIGURED = (
    "one process a host, as `carp-fast run` starts; advbase 1, advskew 0 and 100, preempt, signed"
    " by HMAC-SHA1"
)


def _variant(name: str, daemon: dict[str, str], **defaults: str) -> Daemon:
    """carp-fast with other paths than its defaults."""
    keys = {**daemon, **defaults}
    words = ", ".join(f'{key} = "{value}"' for key, value in keys.items())
    commands = partial(carp_fast_commands, daemon=daemon, defaults=defaults)
    return Daemon(f"carp-fast-{name}", None, "", f"{_CONFIGURED}; {words}", None, commands)


MEASURED = {
    daemon.name: daemon
    for daemon in (
        Daemon(
            "carp-fast",
            None,
            "",
            _CONFIGURED,
            None,
            carp_fast_commands,
        ),
        Daemon(
            "ucarp",
            "ucarp",
            "ucarp",
            "one process a virtual host; -b 1, -k 0 and 100, -P -n, signed by HMAC-SHA1;"
            " scripts of one line, sh that becomes `ip addr add`",
            UCARP_MOST,
            ucarp_commands,
        ),
        Daemon(
            "keepalived",
            "keepalived",
            "keepalived",
            "one process and its child a host; VRRPv3 (unsigned), advert_int 1, priority 254 and"
            " 156 (the same silence), one gratuitous ARP, no repeats, vrrp_skip_check_adv_addr,"
            " no other subsystem",
            None,
            keepalived_commands,
        ),
    )
}

VARIANTS = {
    daemon.name: daemon
    for daemon in (
        _variant("packet", {"send": "packet", "receive": "packet"}),
        _variant("clones", {"send": "clones", "receive": "packet"}),
        _variant("ring", {"send": "clones", "receive": "ring"}),
        _variant("tcx", {"send": "clones", "receive": "tcx"}),
        _variant("raw", {"send": "clones", "receive": "raw"}),
        _variant("route", {}, hold="route"),
    )
}
"""Measured where they are named."""
DAEMONS = {**MEASURED, **VARIANTS}
