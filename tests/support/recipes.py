"""docs/recipes.md as a test plays it: its files on hosts of a lab, its commands run there.

A recipe is a section of the document. Every fenced block of it is used: a block under a line such
as "On a and b, `/etc/carp-fast/carp-fast.toml`:" is that file on these hosts; one under "On b,
`FILE`, as on a but for:" is a's file with these lines in place of those with the same keys; and a
`console` block is commands, such as "a# carp-fast status", and what they print. There `...` stands
for any text, on a line of its own for any lines, and blanks for one or more blanks.

Every host has its own /etc, /run and /var/lib and its own name; `systemctl` is played by the scene,
which knows how each service is started. This module must not know what a recipe is about.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from carp_fast.control.client import ControlClient
from carp_fast.lab.lab import Host, Lab, LabTimeout, Process, interface_name, wait_for
from carp_fast.lab.namespaces import ip_batch
from tests.support.daemons import RunningDaemon

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"
CONFIGURATION = "/etc/carp-fast/carp-fast.toml"
SECRET = "/etc/carp-fast/secret"
SEEN_DEADLINE_S = 15.0
INTERFACES = {"eth0": "192.0.2.{}/24", "eth1": "198.51.100.{}/24"}
"""Names and addresses on segments 1 and 2; the last byte is the number of the host, from 1 on."""

_HOSTS = r"On (?P<hosts>[a-z](?:(?:, | and )[a-z])*)"
_FILE = re.compile(rf"{_HOSTS}, `(?P<path>/[^`]+)`(?:, as on (?P<base>[a-z]) but for)?:")
_FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"(?P<host>[a-z])# (?P<command>.*)")
_READING = re.compile(r"carp-fast (status|explain)\b|ip ")  # may be repeated until it has the words

# Private directories need a mount point each; /etc shows the machine's entries, and the host's own.
_ENTER = """
set -e
root=$1 name=$2
shift 2
mount --bind /etc "$root/machine"
mount --bind "$root/etc" /etc
mount --bind "$root/run" /run
mount --bind "$root/lib" /var/lib
echo "$name" > /proc/sys/kernel/hostname
exec "$@"
"""


class Step(NamedTuple):
    """A command on a host, and the lines that it prints."""

    host: str
    command: str
    seen: tuple[str, ...]


class Recipe(NamedTuple):
    """A section: files by host and path, and the steps of each console block."""

    files: dict[str, dict[str, str]]
    consoles: list[list[Step]]


def titles(document: str) -> list[str]:
    """The headings of the recipes, without their numbers, in order."""
    return re.findall(r"^## \d+\. (.+)$", document, re.MULTILINE)


def read(document: str, title: str) -> Recipe:
    """The recipe of that title; ValueError for a block of which it is not clear what it is."""
    found = re.search(rf"^## \d+\. {re.escape(title)}\n(.*?)(?=^## |\Z)", document, re.M | re.S)
    if found is None:
        raise ValueError(f"no recipe {title!r}, but {titles(document)}")
    recipe = Recipe({}, [])
    text, end = found[1], 0
    for block in _FENCE.finditer(text):
        before = text[end : block.start()].strip().rpartition("\n\n")[2].replace("\n", " ")
        end = block.end()
        if block["language"] == "console":
            recipe.consoles.append(_steps(block["body"]))
            continue
        place = _FILE.fullmatch(before)
        if place is None:
            raise ValueError(f"recipe {title!r}: no host and file above a block, but {before!r}")
        body = block["body"]
        if place["base"] is not None:
            body = _varied(recipe.files[place["base"]][place["path"]], body)
        for host in re.split(", | and ", place["hosts"]):
            recipe.files.setdefault(host, {})[place["path"]] = body
    return recipe


def _varied(base: str, lines: str) -> str:
    """`base` with these lines in place of those that set the same keys: "KEY=...", "KEY ..."."""
    for line in lines.splitlines():
        key = re.split("[ =]", line.strip())[0]
        before, *others = re.split(rf"(?m)^ *{re.escape(key)}[ =].*$", base)
        if len(others) != 1:
            raise ValueError(f"{line!r}: {len(others)} lines with that key to be replaced")
        base = before + line + others[0]
    return base


def _steps(body: str) -> list[Step]:
    steps: list[Step] = []
    for line in body.splitlines():
        if begun := _STEP.fullmatch(line):
            steps.append(Step(begun["host"], begun["command"], ()))
        elif steps:
            steps[-1] = steps[-1]._replace(seen=(*steps[-1].seen, line))
        else:
            raise ValueError(f"a console begins with {line!r}, not with a command")
    return steps


def matches(seen: Iterable[str], output: str) -> bool:
    """Whether a command printed what a console shows below it."""
    pattern = ""
    for line in seen:
        words = [re.escape(part).replace(r"\.\.\.", ".*") for part in line.split()]
        pattern += r"(?:.*\n)*" if line.strip() == "..." else " ".join(words) + "\n"
    printed = "".join(" ".join(line.split()) + "\n" for line in output.splitlines())
    return re.fullmatch(pattern, printed) is not None


class RecipeDaemon(RunningDaemon):
    """A daemon that is asked on the control socket of its host's own /run."""

    def __init__(self, host: Host, root: Path, process: Process) -> None:
        self.host = host
        self.configuration = root / CONFIGURATION.removeprefix("/")
        self.process = process
        self.control_socket = root / "run/carp-fast/control.sock"
        self.client = ControlClient(self.control_socket)


class Scene:
    """The hosts of a recipe, their files written, their segments' `interfaces` named and addressed.

    `services`: for each unit but carp-fast the command line that `systemctl start` runs;
    `programs`: for each name a shell script that is found first on every host's PATH.
    """

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        title: str,
        *,
        services: Mapping[str, Sequence[str]] | None = None,
        programs: Mapping[str, str] | None = None,
        interfaces: Mapping[str, str] = INTERFACES,
    ) -> None:
        self.lab = lab
        self.directory = directory
        self.recipe = read(DOCUMENT.read_text(), title)
        self.daemons: dict[str, RecipeDaemon] = {}
        self._services = dict(services or {})
        self._running: dict[tuple[str, str], Process] = {}
        directory.chmod(0o755)
        every = {"carp-fast": f'exec {sys.executable} -m carp_fast "$@"', **(programs or {})}
        for name, body in every.items():
            self._write(directory / "bin" / name, f"#!/bin/sh\n{body}\n")
        self._env = {**os.environ, "PATH": f"{directory / 'bin'}:{os.environ['PATH']}"}
        for host in lab.hosts:
            self._prepare(host, dict(list(interfaces.items())[: lab.segments]))

    def _prepare(self, host: Host, interfaces: Mapping[str, str]) -> None:
        root = self.directory / host.name
        for name in ("machine", "etc", "run/carp-fast", "lib/carp-fast"):
            (root / name).mkdir(parents=True)
        files = {SECRET: "q7Zt0mYc4HkPx2Ve\n", **self.recipe.files.get(host.name, {})}
        for path, text in files.items():
            self._write(self.file(host.name, path), text)
        for entry in Path("/etc").iterdir():
            if not (root / "etc" / entry.name).exists():
                (root / "etc" / entry.name).symlink_to(root / "machine" / entry.name)
        lines = []
        for segment, (name, address) in enumerate(interfaces.items(), 1):
            old = interface_name(segment)
            lines += [
                f"address flush dev {old}",
                f"link set {old} down",
                f"link set {old} name {name}",
            ]
            lines.append(f"address add {address.format(host.number)} brd + dev {name}")
            lines.append(f"link set {name} up")
        ip_batch(lines, host.namespace)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)

    def file(self, host: str, path: str) -> Path:
        """Where a file of a host is for the test: one below /etc, /run or /var/lib."""
        return self.directory / host / path.removeprefix("/var").removeprefix("/")

    def started(self, *hosts: str) -> list[RecipeDaemon]:
        """Starts carp-fast on these hosts, one after the other, and returns the daemons."""
        return [self._start_carp_fast(host) for host in hosts]

    def run(self, host: str, command: str) -> str:
        """Runs a shell command on a host; returns what it printed on stdout, then on stderr."""
        done = self.lab[host].run(self._entered(host, ["sh", "-c", command]), env=self._env)
        return done.stdout + done.stderr

    def start(self, host: str, argv: Sequence[str], log: str) -> Process:
        """Starts a program on a host, its output in the file `log`."""
        path = self.directory / f"{host}-{log}.log"
        return self.lab[host].start(self._entered(host, argv), log=path, env=self._env)

    def play(self, number: int) -> None:
        """Runs a console block, counted from 1; AssertionError with the output that differs."""
        for step in self.recipe.consoles[number - 1]:
            self._play(step)

    def _play(self, step: Step) -> None:
        words = shlex.split(step.command)
        if words[0] == "systemctl":
            self.control(step.host, *words[1:])
            return
        outputs: list[str] = []

        def shown() -> bool:
            outputs.append(self.run(step.host, step.command))
            return matches(step.seen, outputs[-1])

        try:
            deadline_s = SEEN_DEADLINE_S if _READING.match(step.command) else 0
            wait_for(shown, deadline_s, step.command)
        except LabTimeout:
            wanted = "\n".join(step.seen)
            raise AssertionError(
                f"{step.host}# {step.command}: printed\n{outputs[-1]}\nnot\n{wanted}"
            ) from None
        print(f"{step.host}# {step.command}\n{outputs[-1]}")

    def control(self, host: str, verb: str, unit: str) -> None:
        """What `systemctl start|stop|reload UNIT` does."""
        if unit == "carp-fast" and verb == "start":
            self._start_carp_fast(host)
        elif unit == "carp-fast" and verb == "stop":
            assert self.daemons[host].stop() == 0
        elif verb == "start":
            self._running[host, unit] = self.start(host, self._services[unit], unit)
        elif verb == "stop":
            self._running[host, unit].stop()
        else:
            raise ValueError(f"systemctl {verb} {unit}")

    def _start_carp_fast(self, host: str) -> RecipeDaemon:
        process = self.start(host, ["carp-fast", "run"], "carp-fast")
        daemon = RecipeDaemon(self.lab[host], self.directory / host, process)
        daemon.wait_ready()
        self.daemons[host] = daemon
        return daemon

    def _entered(self, host: str, argv: Sequence[str]) -> list[str]:
        private = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c"]
        return [*private, _ENTER, "sh", str(self.directory / host), host, *argv]
