"""Keeps an XDP program among those that the kernel calls directly, so that its runs start at once.

BPF_PROG_RUN with live frames adds the program to the kernel's dispatcher (kernel/bpf/dispatcher.c)
and takes it out at the end, and waits each time until every CPU has noticed: some 12 ms. A program
that is attached to an interface stays there meanwhile. Must not know what the program is for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

from carp_fast.bpf.programs import Attach, Loaded
from carp_fast.closing import Closing
from carp_fast.net.kernel import CLONE_NEWNET, LOOPBACK

_libc = ctypes.CDLL(None, use_errno=True)


class Held(Closing):
    """Attaches an XDP program to the loopback interface of a network namespace of its own.

    That interface is down, nobody else sees it, and it ends with the process at the latest. Raises
    OSError, mostly for lack of CAP_SYS_ADMIN.
    """

    def __init__(self, program: Loaded) -> None:
        with ThreadPoolExecutor(1) as elsewhere:  # a thread that ends in the new namespace
            self._opened = elsewhere.submit(_attached, program).result()

    def close(self) -> None:
        self._opened.close()


def _attached(program: Loaded) -> contextlib.ExitStack:
    """Attaches it in a new namespace, which the calling thread is in from then on."""
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with contextlib.ExitStack() as opened:
        # A link does not keep the namespace of its interface.
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, namespace)
        opened.callback(os.close, program.attach(LOOPBACK, Attach.XDP))
        return opened.pop_all()
