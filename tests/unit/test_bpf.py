"""eBPF programs: their bytes as RFC 9669 has them, and what the kernel says of a wrong one."""

from __future__ import annotations

import os
import struct

import pytest

from carp_fast.bpf import assembly as bpf
from carp_fast.loadtest.backends import live_program


def test_instructions_are_encoded_as_the_kernel_reads_them() -> None:
    # From linux/bpf.h: BPF_ALU64_IMM(BPF_MOV, 0, 1), BPF_LDX_MEM(BPF_DW, 8, 7, 64) and so on.
    cases = {
        bpf.put(0, 1): "b700000001000000",
        bpf.move(6, 1): "bf16000000000000",
        bpf.add(2, -4): "07020000fcffffff",
        bpf.mask(2, 0xFFFF): "57020000ffff0000",
        bpf.load(8, 7, 64, 8): "7978400000000000",
        bpf.load(2, 6, 4, 4): "6162040000000000",
        bpf.load(2, 9, 1, 2): "6992010000000000",
        bpf.load(2, 9, 1, 1): "7192010000000000",
        bpf.store(10, -4, 2, 4): "632afcff00000000",
        bpf.store(7, 0, 8, 8): "7b87000000000000",
        bpf.fetch_add(7, 0, 8): "db87000001000000",
        bpf.call(bpf.REDIRECT): "8500000017000000",
        bpf.leave(): "9500000000000000",
        bpf.put_map(1, 5): "18110000050000000000000000000000",
        bpf.put_map(7, 5, value=True): "18270000050000000000000000000000",
    }
    assert [code.hex() for code in cases] == list(cases.values())


def test_jumps_count_instructions_from_the_next_one() -> None:
    program: list[bytes | str] = [
        bpf.jump_if_zero(0, "end"),
        bpf.put_map(1, 5),
        bpf.put(0, 1),
        "end:",
        bpf.leave(),
    ]
    code = bpf.assemble(program)
    assert len(code) == 8 * 5
    assert struct.unpack_from("<h", code, 2)[0] == 3
    back: list[bytes | str] = ["again:", bpf.put(0, 1), bpf.jump_if(">", 1, 2, "again")]
    assert bpf.assemble(back)[8:].hex() == "2d21feff00000000"


@pytest.mark.root
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("longest", [42, 70, 107, 1518])
def test_the_kernel_takes_the_program_that_sends(longest: int, paced: bool, ordered: bool) -> None:
    control, ring = bpf.SharedArray(1, 128), bpf.SharedArray(64, 16 + -(-longest // 8) * 8)
    try:
        program = live_program(control.fd, ring, 1, longest, paced=paced, ordered=ordered)
        os.close(bpf.load_xdp(program))
    finally:
        control.close()
        ring.close()


@pytest.mark.root
def test_the_words_of_the_verifier_are_shown() -> None:
    with pytest.raises(bpf.BpfError) as refused:
        bpf.load_xdp([bpf.load(0, 1, 4096, 8), bpf.leave()])
    first, *rest = str(refused.value).splitlines()
    assert first.startswith("the kernel refused the program: ")
    assert any("invalid bpf_context access" in line for line in rest)
    assert len(rest) <= bpf.LOG_LINES
