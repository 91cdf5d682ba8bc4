"""ucarp and `carp-fast ucarp` behind one face: started alike, what each of them left to compare.

Holds how a ucarp command line is run by either program on a lab's host, the recording script that
it is given, and the transcript: log lines, script calls and exit code without what must differ
(times, names of interfaces, addresses).  It must not know what is compared.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host, Lab, Process, interface_name, segment_network, wait_for
from carp_fast.net.kernel import ETH_P_IP, PROTOCOL_CARP

# ucarp fills a buffer of 4 KiB before it writes to a file, unless it is told otherwise.
UCARP = ("stdbuf", "-oL", "ucarp")
OURS = (sys.executable, "-m", "carp_fast", "ucarp")
PROGRAMS = {"ucarp": UCARP, "carp-fast": OURS}
SECRET = "s3cret"
VHID = 7
DEADLINE_S = 12.0

_RECORDER = """#!/bin/bash
echo "$EPOCHREALTIME ${0##*/} $*" >> "RECORD"
SLEEP
"""
_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}: ")


class Call(NamedTuple):
    """A script that was run: when (UNIX time, s), "up" or "down", its arguments in one string."""

    at_s: float
    script: str
    arguments: str


class Transcript(msgspec.Struct, frozen=True):
    """What one run left.  `calls`: "up IF VIP" and the like; `exit_code`: negative for a signal."""

    lines: list[str]
    calls: list[str]
    exit_code: int | None


class DropIn:
    """One running program with a ucarp command line."""

    def __init__(self, process: Process, interface: str, virtual: str, scripts: Path) -> None:
        self.process = process
        self.interface = interface
        self.virtual = virtual
        self.scripts = scripts

    @property
    def calls(self) -> list[Call]:
        """The scripts that have begun to run, oldest first."""
        record = self.scripts / "record"
        found = [line.split(" ", 2) for line in record.read_text().splitlines()]
        return [Call(float(at), script, rest) for at, script, rest in found]

    @property
    def log(self) -> str:
        return self.process.output()

    @property
    def states(self) -> list[str]:
        return re.findall(r"Switching to state: (\w+)", self.log)

    def wait_line(self, text: str, count: int = 1, deadline_s: float = DEADLINE_S) -> None:
        """Returns when the log has `text` so many times."""
        wait_for(
            lambda: self.log.count(text) >= count or not self._require_alive(text),
            deadline_s,
            f"{count} x {text!r} in the log of {self.process.argv}:\n{self.log}",
        )

    def wait_master(self, count: int = 1, deadline_s: float = DEADLINE_S) -> None:
        """Returns when it has become master so often, and run the up script."""
        self.wait_line("Switching to state: MASTER", count, deadline_s)
        self.wait_calls("up", count)

    def wait_calls(self, script: str, count: int, deadline_s: float = DEADLINE_S) -> None:
        """Returns when this script has been called so often."""

        def called() -> bool:
            return sum(call.script == script for call in self.calls) >= count

        wait_for(called, deadline_s, f"{count} x the {script} script: {self.calls}\n{self.log}")

    def end(self, number: int = signal.SIGTERM, deadline_s: float = DEADLINE_S) -> int:
        """Sends the signal and returns the exit code."""
        self.process.signal(number)
        return self.process.wait(deadline_s)

    def transcript(self, exit_code: int | None = None) -> Transcript:
        calls = [f"{call.script} {self._neutral(call.arguments)}" for call in self.calls]
        lines = [self._neutral(_STAMP.sub("", line)) for line in self.log.splitlines()]
        return Transcript(lines, calls, exit_code)

    def _neutral(self, text: str) -> str:
        for name, word in ((str(self.scripts), "DIR"), (self.virtual, "VIP")):
            text = text.replace(name, word)
        text = re.sub(rf"\b{self.interface}\b", "IF", text)
        return re.sub(r"\[[0-9a-f]{2}(:[0-9a-f]{2}){5}\]", "[MAC]", text)

    def _require_alive(self, text: str) -> bool:
        assert self.process.alive(), f"ended before {text!r}:\n{self.log}"
        return True


class Stage:
    """Where one program plays: a segment of a lab of its own, its log and records by host."""

    def __init__(self, lab: Lab, program: str, segment: int) -> None:
        self.lab = lab
        self.program = program
        self.segment = segment
        self.interface = interface_name(segment)
        self.virtual = f"{segment_network(segment)}.9.9"
        self.count = 0

    def start(
        self,
        *arguments: str,
        host: str = "a",
        program: str | None = None,
        body: str = "",
        scripts: bool = True,
    ) -> DropIn:
        """Starts the program, on another host also another program, with these arguments added.

        The scripts are called `up` and `down`, record their calls, and then run `body`.
        """
        self.count += 1
        name = program or self.program
        directory = self.lab.directory / f"{name}-{self.segment}-{self.count}"
        write_scripts(directory, body)
        machine = self.lab[host]
        argv = [*PROGRAMS[name], *self.basics(machine), *arguments]
        if scripts:
            argv += ["--upscript", str(directory / "up"), "--downscript", str(directory / "down")]
        process = machine.start(argv, log=directory / "log")
        return DropIn(process, self.interface, self.virtual, directory)

    def basics(self, machine: Host) -> list[str]:
        """What every command line has."""
        return [
            *("--interface", self.interface, "--srcip", machine.address(self.segment)),
            *("--vhid", str(VHID), "--pass", SECRET, "--addr", self.virtual),
        ]


class Ear(Closing):
    """Hears protocol 112 on a host's segment, from when it was made.  A context manager."""

    def __init__(self, host: Host, segment: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with host.inside():
            self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_IP))
            self._socket.bind((interface_name(segment), ETH_P_IP))

    def close(self) -> None:
        self._socket.close()

    def frames(self, count: int, deadline_s: float = DEADLINE_S) -> list[bytes]:
        """The next so many; AssertionError where fewer come."""
        end_at = time.monotonic() + deadline_s
        found: list[bytes] = []
        while len(found) < count:
            self._socket.settimeout(max(0.001, end_at - time.monotonic()))
            try:
                frame, origin = self._socket.recvfrom(2048)
            except TimeoutError:
                raise AssertionError(
                    f"{len(found)} of {count} advertisements in {deadline_s:g} s"
                ) from None
            if origin[2] != socket.PACKET_OUTGOING and frame[23] == PROTOCOL_CARP:
                found.append(frame)
        return found

    def waiting(self) -> int:
        """How many have come that `frames` has not given."""
        self._socket.setblocking(False)
        count = 0
        try:
            while True:
                frame, origin = self._socket.recvfrom(2048)
                count += origin[2] != socket.PACKET_OUTGOING and frame[23] == PROTOCOL_CARP
        except BlockingIOError:
            return count


def write_scripts(directory: Path, body: str = "") -> None:
    """The recording scripts `up` and `down`, and their empty record, in a new directory."""
    directory.mkdir()
    (directory / "record").touch()
    text = _RECORDER.replace("RECORD", str(directory / "record")).replace("SLEEP", body)
    for name in ("up", "down"):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)


def run_to_end(
    host: Host, program: str, arguments: Sequence[str], deadline_s: float = DEADLINE_S
) -> tuple[int, list[str]]:
    """(exit code, lines of stderr and stdout without times) of what ends by itself."""
    done = host.run([*PROGRAMS[program], *arguments], check=False, deadline_s=deadline_s)
    lines = [_STAMP.sub("", line) for line in (done.stderr + done.stdout).splitlines()]
    return done.returncode, lines


def need_ucarp(program: Callable[[str], str]) -> None:
    """Skips the test where the real one, or what unbuffers its output, is missing."""
    program("ucarp")
    assert shutil.which("stdbuf"), "coreutils without stdbuf"
