#!/usr/bin/env python3
"""How punctual advertisements stay while the same process is busy with something else.

Two hosts, four segments, 1,020 virtual hosts that are MASTER. In the daemon's own process a
thread parses a TOML file of 65,280 tables, encodes a status of as many virtual hosts and collects
garbage, over and over, while 1,019 hook scripts run. On the wire, from the other host, the
kernel's timestamp of every advertisement is compared with the wake tick it belongs to.

  sudo .venv/bin/python benches/punctuality.py [--seconds 20] [--pump thread] [--idle]

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
from pathlib import Path

import msgspec

from carp_fast.lab import Lab, wait_for
from carp_fast.sockets import attach_filter, open_receiver, packet_filter

SEGMENTS, VHIDS = 4, 255
TICK_NS = 20_000_000
INTERVAL_NS = 1_000_000_000
TABLES = 65_280


def burn(fields: dict[str, str]) -> None:
    """The `up` hook of one virtual host: runs in the daemon, and keeps a thread of it busy."""
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


def configuration(directory: Path, pump: str, busy: bool) -> Path:
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
interface = "s[2-{SEGMENTS}]"
vhid = "1-{VHIDS}"
addresses = ["{{10.2.1.0+index}}/32"]
{hooks}
"""
    )
    return path


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

    A virtual host advertises every second on a tick of its own. The first advertisements, which
    may be early to reach that tick, are left out; the most punctual of the rest shows the tick.
    """
    late = []
    for times in arrivals.values():
        settled = [at for at in times if at - times[0] > 2 * INTERVAL_NS]
        beats = [at - round((at - settled[0]) / INTERVAL_NS) * INTERVAL_NS for at in settled]
        tick_ns = min(beats) // TICK_NS * TICK_NS
        late += [(beat - tick_ns) / 1e6 for beat in beats]
    return sorted(late)


def measure(pump: str, seconds: float, busy: bool) -> None:
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
            arrivals = capture(receiver, seconds)
            receiver.close()
        if busy:
            wait_for(rounds.exists, 60, "the end of the work in the daemon")
        said = rounds.read_text() if busy else "0"
        daemon.stop()
    late = lateness_ms(arrivals)
    marks = [late[min(len(late) - 1, int(len(late) * q))] for q in (0.5, 0.99, 0.999)]
    work = f"busy, {said} rounds of it" if busy else "idle"
    print(
        f"pump = {pump:6}  {work:32}  {len(late)} advertisements  lateness ms: "
        f"p50 {marks[0]:.2f}  p99 {marks[1]:.2f}  p99.9 {marks[2]:.2f}  max {late[-1]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--pump", choices=("thread", "loop"), action="append")
    options = parser.parse_args()
    for pump in options.pump or ("thread", "loop"):
        for busy in (False, True):
            measure(pump, options.seconds, busy)


if __name__ == "__main__":
    main()
