#!/usr/bin/env python3
"""How punctual advertisements are while the same process is busy with other work.

Two hosts, sixteen segments, 4,080 virtual hosts that are MASTER. The daemon's work meanwhile:

idle    none
reload  one reload after the other, each of which changes every virtual host
status  reports the status of every virtual host, every second
busy    a thread of its own process parses a TOML file of 65,280 tables, encodes a status of as many
        virtual hosts and collects garbage, repeatedly, while 1,000 hook scripts run

On the wire, at the other host, the kernel's timestamp of every advertisement is compared with its
wake tick.

  sudo PYTHONPATH=. .venv/bin/python benches/punctuality.py [--seconds 20] [--pump thread]
       [--work idle]

Prints p50, p99, p99.9 and max of the lateness in ms, for the pump as a thread and in the loop.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import struct
import sys
import threading
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from carp_fast.control.client import ControlClient
from carp_fast.lab.lab import Lab, wait_for
from carp_fast.net.filters import attach_filter, packet_filter
from carp_fast.net.sockets import open_receiver

SEGMENTS, VHIDS = 16, 255
HOOKED_SEGMENTS = 4  # with hooks for their virtual hosts, when busy
WORKS = ("idle", "reload", "status", "busy")
STATUS_EVERY_S = 1.0
TICK_NS = 10_000_000
INTERVAL_NS = 1_000_000_000
TABLES = 65_280


def burn(fields: dict[str, str]) -> None:
    """The `up` hook of one virtual host: runs in the daemon, and keeps one of its threads busy."""
    threading.Thread(target=_burn, args=(float(os.environ["BURN_SECONDS"]),), daemon=True).start()


def _burn(seconds: float) -> None:
    table = '[[virtual_host]]\ninterface = "eth{}"\nvhid = {}\naddresses = ["10.0.0.1/32"]\n'
    document = "".join(table.format(i // 255, 1 + i % 255) for i in range(TABLES))
    status = [
        {"interface": f"eth{i // 255}", "vhid": 1 + i % 255, "state": "MASTER", "counters": {}}
        for i in range(TABLES)
    ]
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        tomllib.loads(document)
        msgspec.json.encode(status)
        gc.collect()
        rounds += 1
    Path(os.environ["BURN_ROUNDS"]).write_text(str(rounds))


def configuration(directory: Path, pump: str, busy: bool, mark: int = 0) -> Path:
    secret = directory / "secret"
    secret.write_text("punctual\n")
    secret.chmod(0o600)
    script = directory / "hook"
    script.write_text("#!/bin/sh\nexec sleep 0.15\n")  # 16 at once: 1,000 last about ten seconds
    script.chmod(0o755)
    hooks = f'up = "{script}"\n' if busy else ""
    burner = 'up = "punctuality:burn"\n' if busy else ""
    path = directory / f"{pump}.toml"
    path.write_text(
        f"""[daemon]
control_socket = "{directory}/control.sock"
state_directory = "{directory}/state"
pump = "{pump}"
[defaults]
passphrase_file = "{secret}"
dead_ratio = {3 + mark % 2}
[[virtual_host]]
interface = "s1"
vhid = 1
addresses = ["10.1.1.1/32"]
{burner}
[[virtual_host]]
interface = "s1"
vhid = "2-{VHIDS}"
addresses = ["10.1.1.{{vhid}}/32"]
{hooks}
[[virtual_host]]
interface = "s[2-{HOOKED_SEGMENTS}]"
vhid = "1-{VHIDS}"
addresses = ["{{10.2.1.0+index}}/32"]
{hooks}
[[virtual_host]]
interface = "s[{HOOKED_SEGMENTS + 1}-{SEGMENTS}]"
vhid = "1-{VHIDS}"
addresses = ["{{10.20.1.0+index}}/32"]
"""
    )
    return path


@contextmanager
def asked(directory: Path, pump: str, work: str) -> Iterator[list[int]]:
    """Repeats one request to the daemon in the background; yields [how often]."""
    client, ended, count = ControlClient(directory / "control.sock"), threading.Event(), [0]

    def ask() -> None:
        while not ended.is_set():
            if work == "reload":
                configuration(directory, pump, False, mark=count[0] + 1)
                answer = client.request("reload")
                assert len(answer["changed"]) > 1, answer
            else:
                client.request("status")
                ended.wait(STATUS_EVERY_S)
            count[0] += 1

    thread = threading.Thread(target=ask, daemon=True)
    if work in {"reload", "status"}:
        thread.start()
    try:
        yield count
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()


def capture(receiver: socket.socket, seconds: float) -> dict[tuple[int, int], list[int]]:
    """Arrival times (CLOCK_MONOTONIC, ns) of every advertisement by (ifindex, vhid)."""
    arrivals: dict[tuple[int, int], list[int]] = defaultdict(list)
    offset_ns = time.time_ns() - time.monotonic_ns()
    end = time.monotonic() + seconds
    receiver.settimeout(0.1)
    while time.monotonic() < end:
        try:
            frame, ancillary, _, sender = receiver.recvmsg(128, 64)
        except TimeoutError:
            continue
        seconds_part, nanoseconds = struct.unpack("qq", ancillary[0][2])
        at_ns = seconds_part * 1_000_000_000 + nanoseconds - offset_ns
        arrivals[socket.if_nametoindex(sender[0]), frame[35]].append(at_ns)
    return arrivals


def lateness_ms(arrivals: dict[tuple[int, int], list[int]]) -> list[float]:
    """How long after its tick each advertisement came, ascending.

    A virtual host advertises every second on its own tick. The first advertisements, which may be
    early to reach that tick, are left out; the most punctual of the others gives the tick.
    """
    late = []
    for times in arrivals.values():
        settled = [at for at in times if at - times[0] > 2 * INTERVAL_NS]
        beats = [at - round((at - settled[0]) / INTERVAL_NS) * INTERVAL_NS for at in settled]
        tick_ns = min(beats) // TICK_NS * TICK_NS
        late += [(beat - tick_ns) / 1e6 for beat in beats]
    return sorted(late)


def measure(pump: str, seconds: float, work: str) -> None:
    busy = work == "busy"
    with Lab("carp-fast-punctuality", segments=SEGMENTS) as lab:
        a, b = lab["a"], lab["b"]
        rounds = lab.directory / "rounds"
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "BURN_SECONDS": str(seconds),
            "BURN_ROUNDS": str(rounds),
        }
        with b.inside():
            receiver = open_receiver(SEGMENTS * VHIDS)
            attach_filter(receiver, packet_filter(None))
            wanted = configuration(lab.directory, pump, busy)
            argv = [sys.executable, "-m", "carp_fast", "run", "-c", str(wanted)]
            daemon = a.start(argv, log=lab.directory / "log", env=environment)
            wait_for(lambda: len(a.addresses()) >= SEGMENTS * VHIDS, 30, "all addresses on host a")
            with asked(lab.directory, pump, work) as count:
                arrivals = capture(receiver, seconds)
            receiver.close()
        if busy:
            wait_for(rounds.exists, 60, "the end of the work in the daemon")
        times = int(rounds.read_text()) if busy else count[0]
        daemon.stop()
    late = lateness_ms(arrivals)
    marks = [late[min(len(late) - 1, int(len(late) * q))] for q in (0.5, 0.99, 0.999)]
    said = f"{work}, {times} times" if times else work
    print(
        f"pump = {pump:6}  {said:18}  {len(late)} advertisements  lateness ms: "
        f"p50 {marks[0]:.2f}  p99 {marks[1]:.2f}  p99.9 {marks[2]:.2f}  max {late[-1]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--pump", choices=("thread", "loop"), action="append")
    parser.add_argument("--work", choices=WORKS, action="append")
    options = parser.parse_args()
    for pump in options.pump or ("thread", "loop"):
        for work in options.work or WORKS:
            measure(pump, options.seconds, work)


if __name__ == "__main__":
    main()
