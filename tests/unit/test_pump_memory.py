"""What the garbage collector may do to a pump that runs."""

from __future__ import annotations

import subprocess
import sys

DEADLINE_S = 60.0
# 200 virtual hosts keep the thread at work; it is in a cycle when the last name of it goes.
PROGRAM = """
import gc, os, socket, time
from carp_fast.engine._prepared import PreparedHost
from carp_fast.net import addresses
from carp_fast.pump._pump import Pump

gc.disable()
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
netlink.bind((0, 0))
silent_fd = os.eventfd(0)


def abandon():
    pump = Pump([("packet", silent_fd)], silent_fd, netlink.fileno(), addresses.templates())
    pump.set_interface(0, ifindex=1, up=True, mac=bytes(6), source=bytes((10, 0, 0, 1)))
    for slot in range(200):
        pump.add(slot, PreparedHost(
            interface=0, vhid=slot + 1, addresses=[(bytes((10, 0, 0, slot)), 32)],
            passphrase=b"x", advbase=0, advskew=1, dead_ratio=1, manage_addresses=False))
    pump.mark()
    pump.start("normal")
    deadline = time.monotonic() + 20
    while pump.facts.turns < 50 and time.monotonic() < deadline:
        os.sched_yield()
    assert pump.facts.turns >= 50
    holder = [pump]
    holder.append(holder)


for _ in range(5):
    abandon()
    assert gc.collect() > 0
"""


def test_a_running_pump_in_a_reference_cycle_is_stopped_before_its_engine_goes() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
