"""How long requests about a link wait for RTNL, the kernel's lock for changes of interfaces.

A process of its own at real-time priority, so that what is waited for is the lock, and neither a
processor nor an interpreter that others use. The wait may spin, which takes a processor from
others. Every millisecond a request that changes nothing of lo is sent, until standard input ends;
then the longest wait is printed, in seconds, and their number.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time

RTM_NEWLINK, NLM_F_REQUEST, NLM_F_ACK = 16, 1, 4
EVERY_S = 0.001


def main() -> None:
    """Send requests and print what they waited."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    link = struct.pack("=BxHiII", 0, 0, 1, 0, 0)  # lo, no flag to change
    flags = NLM_F_REQUEST | NLM_F_ACK
    request = struct.pack("=IHHII", 16 + len(link), RTM_NEWLINK, flags, 1, 0) + link
    longest_s, count = 0.0, 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        while not select.select([sys.stdin], [], [], EVERY_S)[0]:
            begun_s = time.monotonic()
            kernel.send(request)
            kernel.recv(4096)
            longest_s = max(longest_s, time.monotonic() - begun_s)
            count += 1
    print(longest_s, count)


if __name__ == "__main__":
    main()
