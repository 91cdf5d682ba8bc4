"""Holds the kernel's RTNL lock for some seconds, as a driver's reset does.

    python -m tests.chaos.rtnl INTERFACE SECONDS

An ethtool request is read by the kernel while it has the lock; the second half of ours is on a page
that userfaultfd(2) withholds. Prints "held" when the lock is held, ends when it is free. The lock
is the whole machine's, in all network namespaces. Root; x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04
UFFD_API, REGISTER_MISSING = 0xAA, 1
SIOCETHTOOL, ETHTOOL_GSTRINGS = 0x8946, 0x1B


def main() -> None:
    name, seconds = sys.argv[1], float(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    fault_fd = libc.syscall(SYS_USERFAULTFD[os.uname().machine], os.O_CLOEXEC | os.O_NONBLOCK)
    if fault_fd < 0:
        sys.exit(f"userfaultfd: {os.strerror(ctypes.get_errno())}")
    fcntl.ioctl(fault_fd, UFFDIO_API, bytearray(struct.pack("QQQ", UFFD_API, 0, 0)))
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 2 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    at = ctypes.addressof(ctypes.c_char.from_buffer(area))
    withheld = struct.pack("QQQQ", at + page, page, REGISTER_MISSING, 0)
    fcntl.ioctl(fault_fd, UFFDIO_REGISTER, bytearray(withheld))
    area[page - 4 : page] = struct.pack("I", ETHTOOL_GSTRINGS)  # the command; the rest is withheld
    request = bytearray(struct.pack("16sQ16x", name.encode(), at + page - 4))
    pointer = (ctypes.c_char * len(request)).from_buffer(request)
    with socket.socket() as sock:
        number = sock.fileno()
        thread = threading.Thread(target=lambda: libc.ioctl(number, SIOCETHTOOL, pointer))
        thread.start()
        if not select.select([fault_fd], [], [], 10)[0]:
            print("the kernel does not read the request under the lock", flush=True)
        else:
            print("held", flush=True)
            time.sleep(seconds)
        fcntl.ioctl(
            fault_fd, UFFDIO_ZEROPAGE, bytearray(struct.pack("QQQQ", at + page, page, 0, 0))
        )
        thread.join()


if __name__ == "__main__":
    main()
