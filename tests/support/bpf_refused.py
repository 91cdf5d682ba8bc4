"""Runs a program to which the kernel refuses one thing that BPF takes.

`python -m tests.support.bpf_refused WHAT ERRNO PROGRAM ...`: a seccomp filter, which cannot be
taken off, makes it fail. WHAT: a name of Command; "ATTACH", putting a program on a socket; "MMAP",
mapping what others write, as an array's values.  It must not know what is run.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

from carp_fast.bpf.programs import SO_ATTACH_BPF
from carp_fast.bpf.system import SYSCALLS, Command
from carp_fast.net.filters import JEQ, LD_W_ABS, RET, Instruction

# linux/prctl.h, linux/seccomp.h; offsets in struct seccomp_data
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000
NUMBER_AT, FIRST_ARGUMENT_AT = 0, 16
SETSOCKOPT = {"x86_64": 54, "aarch64": 208, "riscv64": 208, "ppc64le": 339, "s390x": 366}
MMAP = {"x86_64": 9, "aarch64": 222, "riscv64": 222, "ppc64le": 90, "s390x": 90}
SOL_SOCKET, PROT_READ_WRITE, MAP_SHARED = 1, 3, 1

REFUSABLE = (*(command.name for command in Command), "ATTACH", "MMAP")


def shim(what: str, number: int) -> tuple[str, ...]:
    """The beginning of a command line that has this refused with an errno."""
    return (sys.executable, "-m", "tests.support.bpf_refused", what, str(number))


def calls(what: str) -> tuple[int, dict[int, int]]:
    """The system call that is refused, and the arguments with which it is, by their index."""
    machine = platform.machine()
    if what == "ATTACH":
        return SETSOCKOPT[machine], {1: SOL_SOCKET, 2: SO_ATTACH_BPF}
    if what == "MMAP":
        return MMAP[machine], {2: PROT_READ_WRITE, 3: MAP_SHARED}
    return SYSCALLS[machine], {0: Command[what]}


def refusing(what: str, number: int) -> list[Instruction]:
    """The seccomp filter: classic BPF, whose jumps skip what follows by their second place."""
    call, arguments = calls(what)
    low_word = FIRST_ARGUMENT_AT + (4 if sys.byteorder == "big" else 0)
    tests = [(NUMBER_AT, call), *((low_word + 8 * at, value) for at, value in arguments.items())]
    program: list[Instruction] = []
    for left, (at, value) in zip(range(len(tests), 0, -1), tests, strict=True):
        program += [(LD_W_ABS, 0, 0, at), (JEQ, 0, 2 * left - 1, value)]
    return [*program, (RET, 0, 0, FAIL | number), (RET, 0, 0, ALLOW)]


def main() -> None:
    program = refusing(sys.argv[1], int(sys.argv[2]))
    code = b"".join(struct.pack("=HBBI", *each) for each in program)
    instructions = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("HP", len(program), ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
