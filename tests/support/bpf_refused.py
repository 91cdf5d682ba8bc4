"""Runs a program to which the kernel refuses a command of the bpf system call.

`python -m tests.support.bpf_refused COMMAND ERRNO PROGRAM ...`: a seccomp filter, which cannot be
taken off, makes that command (its number) fail.  It must not know what is run.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

from carp_fast.bpf.system import SYSCALLS
from carp_fast.net.filters import JEQ, LD_W_ABS, RET

# linux/prctl.h, linux/seccomp.h; offsets in struct seccomp_data
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000
NUMBER_AT, FIRST_ARGUMENT_AT = 0, 16


def main() -> None:
    command, number = int(sys.argv[1]), int(sys.argv[2])
    low_word = FIRST_ARGUMENT_AT + (4 if sys.byteorder == "big" else 0)
    program = [
        (LD_W_ABS, 0, 0, NUMBER_AT),
        (JEQ, 0, 3, SYSCALLS[platform.machine()]),
        (LD_W_ABS, 0, 0, low_word),
        (JEQ, 0, 1, command),
        (RET, 0, 0, FAIL | number),
        (RET, 0, 0, ALLOW),
    ]
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
