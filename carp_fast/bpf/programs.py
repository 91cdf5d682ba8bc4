"""Programs in the kernel: loading, running on a packet of ours, attaching.

The verifier's reasons are part of the exception. What a kernel can do is found by trying, never
from its version. Must not know the purpose of a program. Commands: linux/bpf.h and
Documentation/bpf/bpf_prog_run.rst of Linux.
"""

from __future__ import annotations

import ctypes
import enum
import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from carp_fast.bpf.assembly import Program, assemble, instruction_at, listing
from carp_fast.bpf.system import NAME, Command, bpf, name_of, refusal
from carp_fast.closing import Closing
from carp_fast.errors import CarpFastError

logger = logging.getLogger(__name__)

LICENCE = b"Dual BSD/GPL"
LOG_BYTES, LOG_LINES = 1 << 20, 12
SO_ATTACH_BPF = 50  # asm-generic/socket.h
DATA_OUT_BYTES = 4096  # the kernel's limit for the data of a program of ours
TEST_XDP_LIVE_FRAMES = 2


class Kind(enum.IntEnum):
    """What a program is run for, which decides its argument and the helpers that it may call."""

    SOCKET_FILTER = 1
    SCHED_CLS = 3
    XDP = 6


class Attach(enum.IntEnum):
    """Where a link puts a program (Linux 5.9 for XDP, 6.6 for tcx)."""

    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class BpfError(CarpFastError):
    """Raised when the kernel refuses a program: the reason and the last lines of the verifier's
    log. `log`: all of it; `listing`: the program, by instructions as the log numbers them.
    """

    def __init__(self, text: str, log: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.log, self.listing = log, lines

    @property
    def line(self) -> str:
        """The reason in one line, with the verifier's last words."""
        first, *rest = str(self).splitlines()
        words = [line for line in rest if not line.startswith("processed ")]
        return f"{first}: {words[-1]}" if words else first


@contextmanager
def refused_as(kind: type[CarpFastError]) -> Iterator[None]:
    """Raises refusals of the kernel as a `kind` whose text is the reason in one line.

    The verifier's log goes to our log, at level debug.
    """
    try:
        yield
    except BpfError as error:
        logger.debug("%s", error)
        raise kind(error.line) from error
    except OSError as error:
        raise kind(refusal(error)) from error


@dataclass(frozen=True)
class Outcome:
    """What a run returned: R0, the packet and the context after it, and its duration."""

    value: int
    data: bytes
    context: bytes
    duration_ns: int


class Loaded(Closing):
    """A program in the kernel, until it is closed and nothing is attached any more."""

    def __init__(self, kind: Kind, fd: int) -> None:
        self.kind, self.fd = kind, fd

    def run(self, data: bytes, *, repeat: int = 1, context: bytes = b"", flags: int = 0) -> Outcome:
        """Runs it on a packet, from the Ethernet header on, 14 bytes at least. Raises OSError.

        A SOCKET_FILTER sees the packet from its network header on: a packet socket's from the
        Ethernet header. `context`: struct __sk_buff or xdp_md. The duration is the mean of
        `repeat` runs.
        """
        given = ctypes.create_string_buffer(data, len(data))
        got = ctypes.create_string_buffer(0 if flags else DATA_OUT_BYTES)
        before = ctypes.create_string_buffer(context, len(context))
        after = ctypes.create_string_buffer(len(context))
        sizes = (len(given), len(got), *map(ctypes.addressof, (given, got)), repeat, 0)
        rest = (len(context), len(context), ctypes.addressof(before), ctypes.addressof(after))
        if flags:  # of live frames, nothing comes back
            sizes = (len(given), 0, ctypes.addressof(given), 0, repeat, 0)
        if not context:
            rest = (0, 0, 0, 0)
        attributes = bytearray(struct.pack("=II", self.fd, 0))
        attributes += struct.pack("=IIQQIIIIQQIII4x", *sizes, *rest, flags, 0, 0)
        bpf(Command.PROG_TEST_RUN, attributes)
        value, _, size = struct.unpack_from("=III", attributes, 4)
        duration, _, context_size = struct.unpack_from("=III", attributes, 36)
        return Outcome(value, got.raw[:size], after.raw[:context_size], duration)

    def attach(self, ifindex: int, where: Attach) -> int:
        """Attaches it to an interface until the returned file descriptor is closed, by its end at
        the latest. Raises OSError.
        """
        attributes = bytearray(struct.pack("=IIII", self.fd, ifindex, where, 0).ljust(64, b"\0"))
        return bpf(Command.LINK_CREATE, attributes)

    def attach_to_socket(self, sock: socket.socket) -> None:
        """Makes a SOCKET_FILTER the filter of a socket, in place of any other. Raises OSError."""
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, self.fd)

    def close(self) -> None:
        os.close(self.fd)


def load(kind: Kind, program: Program, name: str = NAME) -> Loaded:
    """Loads a program. Raises BpfError with the verifier's log, AssemblyError."""
    code = assemble(program)
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(LICENCE)
    addresses = ctypes.addressof(instructions), ctypes.addressof(licence)

    def attributes(log: ctypes.Array[ctypes.c_char] | None) -> bytearray:
        level, size, at = (1, LOG_BYTES, ctypes.addressof(log)) if log else (0, 0, 0)
        head = (kind, len(code) // 8, *addresses, level, size, at, 0, 0)
        return bytearray(struct.pack("=IIQQIIQII16s", *head, name_of(name)))

    try:
        return Loaded(kind, bpf(Command.PROG_LOAD, attributes(None)))
    except OSError as error:
        log = ctypes.create_string_buffer(LOG_BYTES)
        try:
            return Loaded(kind, bpf(Command.PROG_LOAD, attributes(log)))
        except OSError:
            text = log.value.decode(errors="replace")
            raise _refused(kind, program, error, text) from error


def _refused(kind: Kind, program: Program, error: OSError, log: str) -> BpfError:
    """The exception for a program that was not loaded; without a log the verifier was not asked."""
    what = f"the kernel refused the program ({kind.name})"
    lines = log.splitlines()
    if not lines:
        return BpfError(f"{what}: {refusal(error)}", log, tuple(listing(program)))
    numbers = [int(found[1]) for line in lines if (found := re.match(r"(\d+): \(", line))]
    at = instruction_at(program, numbers[-1]) if numbers else None
    if at is not None:
        what += f" at instruction {numbers[-1]} ({at})"
    text = "\n".join([f"{what}: {error.strerror}", *lines[-LOG_LINES:]])
    return BpfError(text, log, tuple(listing(program)))
