"""eBPF: the bytes of instructions as RFC 9669 has them, programs run by the kernel on packets, and
what is reported of those that it refuses.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from carp_fast.bpf import programs, system
from carp_fast.bpf.assembly import (
    BYTE,
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R8,
    R9,
    R10,
    WORD,
    AssemblyError,
    Helper,
    Instruction,
    Line,
    add,
    assemble,
    atomic,
    big_endian,
    bit_and,
    bit_or,
    bit_xor,
    call,
    compare_exchange,
    copy,
    divide,
    exchange,
    jump,
    jump_if,
    label,
    leave,
    listing,
    little_endian,
    load,
    load_map,
    load_map_value,
    load_number,
    modulo,
    move,
    multiply,
    negate,
    shift_left,
    shift_right,
    shift_right_signed,
    store,
    subtract,
)
from carp_fast.bpf.maps import Array
from carp_fast.bpf.programs import BpfError, Kind
from carp_fast.bpf.system import Command
from carp_fast.loadtest.backends import live_program

PACKET = bytes(range(64))


class Five:
    """A map by its number alone."""

    fd = 5


# ------------------------------------------------------------------------------------- encoding

ENCODED = {
    # From linux/bpf.h: BPF_ALU64_IMM(BPF_MOV, 0, 1), BPF_LDX_MEM(BPF_DW, 8, 7, 64) and so on.
    "b700000001000000": move(R0, 1),
    "bf16000000000000": move(R6, R1),
    "b4010000ffffffff": move(R1, 0xFFFFFFFF, bits=32),
    "bc21000000000000": move(R1, R2, bits=32),
    "07020000fcffffff": add(R2, -4),
    "0f32000000000000": add(R2, R3),
    "0402000001000000": add(R2, 1, bits=32),
    "1702000008000000": subtract(R2, 8),
    "2702000003000000": multiply(R2, 3),
    "3702000003000000": divide(R2, 3),
    "3f32000000000000": divide(R2, R3),
    "9702000003000000": modulo(R2, 3),
    "4702000003000000": bit_or(R2, 3),
    "57020000ffff0000": bit_and(R2, 0xFFFF),
    "a702000003000000": bit_xor(R2, 3),
    "6702000020000000": shift_left(R2, 32),
    "7702000020000000": shift_right(R2, 32),
    "7c32000000000000": shift_right(R2, R3, bits=32),
    "c702000020000000": shift_right_signed(R2, 32),
    "8702000000000000": negate(R2),
    "8402000000000000": negate(R2, bits=32),
    "dc02000010000000": big_endian(R2, 16),
    "d402000040000000": little_endian(R2, 64),
    "7978400000000000": load(R8, R7, 64, DOUBLE),
    "6162040000000000": load(R2, R6, 4, WORD),
    "6992010000000000": load(R2, R9, 1, HALF),
    "7192010000000000": load(R2, R9, 1, BYTE),
    "632afcff00000000": store(R10, -4, R2, WORD),
    "7b87000000000000": store(R7, 0, R8, DOUBLE),
    "720afcff07000000": store(R10, -4, 7, BYTE),
    "7a0af8ffffffffff": store(R10, -8, -1, DOUBLE),
    "db87000000000000": atomic(R7, 0, "+=", R8),
    "db87000001000000": atomic(R7, 0, "+=", R8, fetch=True),
    "c387040050000000": atomic(R7, 4, "&=", R8, WORD),
    "c387040041000000": atomic(R7, 4, "|=", R8, WORD, fetch=True),
    "db870000a0000000": atomic(R7, 0, "^=", R8),
    "db870000e1000000": exchange(R7, 0, R8),
    "db870000f1000000": compare_exchange(R7, 0, R8),
    "8500000017000000": call(Helper.REDIRECT),
    "9500000000000000": leave(),
    "18110000050000000000000000000000": load_map(R1, Five()),
    "18270000050000000000000000000000": load_map_value(R7, Five()),
    "18270000050000000000000040000000": load_map_value(R7, Five(), 64),
    "18010000887766550000000044332211": load_number(R1, 0x1122334455667788),
    "18010000ffffffff00000000ffffffff": load_number(R1, -1),
}


@pytest.mark.parametrize("code", ENCODED)
def test_instructions_are_encoded_as_the_kernel_reads_them(code: str) -> None:
    assert assemble([ENCODED[code]]).hex() == code


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("==", 0x15), (">", 0x25), (">=", 0x35), ("&", 0x45), ("!=", 0x55), ("s>", 0x65),
        ("s>=", 0x75), ("<", 0xA5), ("<=", 0xB5), ("s<", 0xC5), ("s<=", 0xD5),
    ],
)  # fmt: skip
def test_conditions_are_encoded_with_a_value_a_register_and_half_a_register(
    condition: str, code: int
) -> None:
    def bytes_of(instruction: Instruction) -> str:
        return assemble([instruction, label("next")]).hex()

    assert bytes_of(jump_if(R2, condition, 7, "next")) == f"{code:02x}02000007000000"
    assert bytes_of(jump_if(R2, condition, R3, "next")) == f"{code + 8:02x}32000000000000"
    assert bytes_of(jump_if(R2, condition, 7, "next", bits=32)) == f"{code + 1:02x}02000007000000"


def test_jumps_count_instructions_from_the_next_one() -> None:
    program: list[Line] = [
        jump_if(R0, "==", 0, "end"),
        load_map(R1, Five()),
        move(R0, 1),
        label("end"),
        leave(),
    ]
    code = assemble(program)
    assert len(code) == 8 * 5
    assert struct.unpack_from("<h", code, 2)[0] == 3
    back: list[Line] = [label("again"), move(R0, 1), jump_if(R1, ">", R2, "again")]
    assert assemble(back)[8:].hex() == "2d21feff00000000"
    assert assemble([label("again"), jump("again")]).hex() == "0500ffff00000000"


def test_a_copy_uses_the_largest_sizes() -> None:
    lines = [str(line) for line in copy(R1, 0, R2, 16, 15, scratch=R3)]
    assert lines[::2] == [
        "r3 = *(u64 *)(r2 + 16)",
        "r3 = *(u32 *)(r2 + 24)",
        "r3 = *(u16 *)(r2 + 28)",
        "r3 = *(u8 *)(r2 + 30)",
    ]
    assert lines[-1] == "*(u8 *)(r1 + 14) = r3"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: assemble([jump("out")]), "goto out: the program has no label out"),
        (lambda: assemble([label("a"), label("a")]), "the label a is in the program twice"),
        (
            lambda: assemble([jump("far"), *[move(R0, 0)] * 32768, label("far")]),
            "goto far: 32768 instructions away; a jump has 16 bits",
        ),
        (lambda: load(R1, R2, 32768, WORD), "an offset of 32768; allowed: -32768 to 32767"),
        (lambda: move(R1, 1 << 31), "r1 = 2147483648: the value 2147483648 is not a signed one"),
        (lambda: move(R1, 1 << 32, bits=32), "w1 = 4294967296: the value 4294967296 has more"),
        (lambda: load_number(R1, 1 << 64), "the value has more than 64 bits"),
        (lambda: jump_if(R1, "=>", 1, "x"), "allowed conditions: ==, >, >=, &, !=, s>"),
        (lambda: atomic(R1, 0, "-=", R2), "allowed operations: +=, |=, &=, ^="),
        (lambda: atomic(R1, 0, "+=", R2, HALF), "allowed sizes: WORD, DOUBLE"),
        (lambda: big_endian(R1, 8), "8 bits; allowed: 16, 32, 64"),
        (lambda: add(R1, 1, bits=16), "16 bits; allowed: 32, 64"),
    ],
)
def test_a_program_that_cannot_be_encoded_is_refused_with_its_instruction(
    make: Callable[[], object], text: str
) -> None:
    with pytest.raises(AssemblyError) as refused:
        make()
    assert text in str(refused.value)


def test_a_listing_numbers_instructions_as_the_verifier_does() -> None:
    program: list[Line] = [
        load_map(R1, Five()),
        label("again"),
        jump_if(R1, "s<", R2, "again", bits=32),
        store(R10, -8, 3, WORD),
        leave(),
    ]
    assert listing(program) == [
        "    0: r1 = map 5",
        "again:",
        "    2: if w1 s< w2 goto again",
        "    3: *(u32 *)(r10 - 8) = 3",
        "    4: exit",
    ]


# ------------------------------------------------------------------------------- in the kernel

root = pytest.mark.root

# Each ends with the number that the program returns.
RESULTS: dict[str, tuple[list[Line], int]] = {
    "64 bits": ([load_number(R0, 0x1122334455667788), shift_right(R0, 32)], 0x11223344),
    "signed shift": ([move(R0, -16), shift_right_signed(R0, 2)], 0xFFFFFFFC),
    "half a register": ([load_number(R0, -1), add(R0, 2, bits=32)], 1),
    "arithmetic": (
        [move(R0, 7), multiply(R0, 6), subtract(R0, 2), divide(R0, 3), modulo(R0, 8)],
        (7 * 6 - 2) // 3 % 8,
    ),
    "bits": ([move(R0, 12), bit_and(R0, 10), bit_or(R0, 1), bit_xor(R0, 3), negate(R0)], -10),
    "network order": ([load(R0, R10, -2, HALF), big_endian(R0, 16)], 0x1234),
    "exchange": (
        [move(R3, 9), exchange(R10, -16, R3), load(R0, R10, -16, DOUBLE), multiply(R0, 10),
         add(R0, R3)],
        95,
    ),
    "compare and exchange": (
        [move(R0, 5), move(R3, 8), compare_exchange(R10, -16, R3), load(R0, R10, -16, DOUBLE)],
        8,
    ),
    "fetch": (
        [move(R3, 2), atomic(R10, -16, "+=", R3, fetch=True), load(R0, R10, -16, DOUBLE),
         multiply(R0, 10), add(R0, R3)],
        75,
    ),
}  # fmt: skip


@root
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("which", RESULTS)
def test_programs_compute_what_their_instructions_state(kind: Kind, which: str) -> None:
    lines, expected = RESULTS[which]
    begin = [store(R10, -16, 5, DOUBLE), store(R10, -2, 0x12, BYTE), store(R10, -1, 0x34, BYTE)]
    with programs.load(kind, [*begin, *lines, leave()]) as program:
        assert program.run(PACKET).value == expected & 0xFFFFFFFF


@root
@pytest.mark.parametrize(
    ("condition", "left", "right", "jumps"),
    [
        ("==", 5, 5, True), ("==", 5, 6, False), ("!=", 5, 6, True), (">", -1, 5, True),
        ("s>", -1, 5, False), ("s<", -1, 5, True), ("<", -1, 5, False), (">=", 5, 5, True),
        ("<=", 6, 5, False), ("s>=", -1, -1, True), ("s<=", -1, -2, False), ("&", 6, 2, True),
        ("&", 4, 2, False),
    ],
)  # fmt: skip
def test_conditions_mean_what_they_look_like(
    condition: str, left: int, right: int, jumps: bool
) -> None:
    # The numbers come from a map, so that the verifier does not compute the result.
    with Array(1, 8) as numbers:
        numbers[0] = struct.pack("=ii", left, right)
        program: list[Line] = [
            load_map_value(R7, numbers),
            load(R2, R7, 0, WORD),
            load(R3, R7, 4, WORD),
            *(shift(each, 32) for each in (R2, R3) for shift in (shift_left, shift_right_signed)),
            move(R0, 1),
            jump_if(R2, condition, R3, "out"),
            move(R0, 0),
            label("out"),
            leave(),
        ]
        with programs.load(Kind.SCHED_CLS, program) as loaded:
            assert loaded.run(PACKET).value == jumps


@root
def test_a_program_reads_and_writes_the_packet_and_the_values_of_maps() -> None:
    with Array(4, 12) as table, Array(1, 64) as counts:
        table[3] = b"before the e"
        program: list[Line] = [
            move(R6, R1),
            store(R10, -4, 3, WORD),
            load_map(R1, table),
            move(R2, R10),
            add(R2, -4),
            call(Helper.MAP_LOOKUP_ELEM),
            jump_if(R0, "==", 0, "out"),
            load(R1, R6, 76, WORD),  # data, data_end of struct __sk_buff
            load(R2, R6, 80, WORD),
            move(R3, R1),
            add(R3, 32),
            jump_if(R3, ">", R2, "out"),
            *copy(R1, 20, R0, 0, 12, scratch=R4),
            *copy(R0, 0, R1, 0, 12, scratch=R4),
            load_map_value(R1, counts, 8),
            move(R2, 1),
            atomic(R1, 0, "+=", R2),
            label("out"),
            move(R0, 7),
            leave(),
        ]
        with programs.load(Kind.SCHED_CLS, program) as loaded:
            outcome = loaded.run(PACKET, repeat=3)
        assert outcome.value == 7
        assert outcome.data == PACKET[:20] + PACKET[:12] + PACKET[32:]
        assert table[3] == PACKET[:12]
        assert table[2] == bytes(12)
        assert struct.unpack("=8Q", counts[0]) == (0, 3, 0, 0, 0, 0, 0, 0)
        assert outcome.duration_ns >= 0


@root
def test_a_run_takes_a_context_and_returns_it() -> None:
    context = struct.pack("=IIII", 0, 0, 40, 0).ljust(192, b"\0")  # mark
    program: list[Line] = [load(R2, R1, 8, WORD), add(R2, 2), store(R1, 8, R2, WORD), move(R0, 0)]
    with programs.load(Kind.SCHED_CLS, [*program, leave()]) as loaded:
        outcome = loaded.run(PACKET, context=context)
    assert struct.unpack_from("=I", outcome.context, 8) == (42,)


@root
def test_the_values_of_a_map_are_checked() -> None:
    with Array(4, 12) as table:
        assert len(table) == 4
        assert table.address % 4096 == 0
        for index in (-1, 4):
            with pytest.raises(IndexError, match=f"value {index} of 4"):
                table[index]
        with pytest.raises(ValueError, match="11 bytes for a value of 12"):
            table[0] = bytes(11)


@root
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("longest", [42, 70, 107, 1518])
def test_the_kernel_takes_the_program_that_sends(longest: int, paced: bool, ordered: bool) -> None:
    with Array(1, 128) as control, Array(64, 16 + -(-longest // 8) * 8) as ring:
        program = live_program(control, ring, 1, longest, paced=paced, ordered=ordered)
        programs.load(Kind.XDP, program).close()


# -------------------------------------------------------------------------------------- refused


@root
def test_the_words_of_the_verifier_are_shown_with_the_instruction() -> None:
    program: list[Line] = [move(R0, 0), label("wrong"), load(R0, R1, 4096, DOUBLE), leave()]
    with pytest.raises(BpfError) as refused:
        programs.load(Kind.XDP, program)
    first, *rest = str(refused.value).splitlines()
    assert first == (
        "the kernel refused the program (XDP) at instruction 1"
        " (r0 = *(u64 *)(r1 + 4096), after wrong): Permission denied"
    )
    assert any("invalid bpf_context access" in line for line in rest)
    assert len(rest) <= programs.LOG_LINES
    assert refused.value.log.splitlines()[-len(rest) :] == rest
    assert refused.value.line == f"{first}: invalid bpf_context access off=4096 size=8"
    assert refused.value.listing[-1].endswith("2: exit")


@pytest.mark.parametrize("command", [Command.MAP_CREATE, Command.PROG_LOAD])
@pytest.mark.parametrize(
    ("number", "capable", "text"),
    [
        (errno.ENOSYS, True, "this kernel was built without it"),
        (errno.EPERM, False, "needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN"),
        (errno.EPERM, True, "in spite of the capabilities: a seccomp filter, a security module"),
        (errno.ENOMEM, True, "Cannot allocate memory"),
    ],
)
def test_a_refused_command_is_explained(
    monkeypatch: pytest.MonkeyPatch, command: Command, number: int, capable: bool, text: str
) -> None:
    def refuse(command: Command, attributes: bytearray) -> int:
        raise OSError(number, {errno.ENOMEM: "Cannot allocate memory"}.get(number, "refused"))

    monkeypatch.setattr(system, "may_use_bpf", lambda: capable)
    if command == Command.PROG_LOAD:
        monkeypatch.setattr(programs, "bpf", refuse)
        with pytest.raises(BpfError) as refused:
            programs.load(Kind.XDP, [move(R0, 0), leave()])
        assert str(refused.value).startswith("the kernel refused the program (XDP): ")
        assert text in str(refused.value)
    else:
        monkeypatch.setattr("carp_fast.bpf.maps.bpf", refuse)
        with pytest.raises(OSError, match=r".") as failed:
            Array(1, 8)
        assert text in system.refusal(failed.value)


@root
def test_root_may_use_bpf() -> None:
    assert system.may_use_bpf()
