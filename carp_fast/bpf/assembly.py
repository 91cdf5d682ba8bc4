"""eBPF instructions by name, and the assembler that turns a list of them into bytes.

A program is a list of instructions and labels:

    [
        load(R2, R1, 0, WORD),
        jump_if(R2, ">", 60, "long"),
        move(R0, 0),
        leave(),
        label("long"),
        move(R0, 1),
        leave(),
    ]

Wrong programs fail here as far as the encoding shows it, and otherwise in the kernel's verifier
(programs.py). Pure: no system call, no map but by its file descriptor. Encoding: RFC 9669; numbers
of helpers: linux/bpf.h.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from carp_fast.errors import CarpFastError


class AssemblyError(CarpFastError):
    """Raised when a program cannot be encoded: which instruction or label, and why."""


class Register(enum.IntEnum):
    """R0: results; R1 to R5: arguments, which a call destroys; R6 to R9: kept; R10: the stack."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register


class Size(enum.IntEnum):
    """Bytes of a load, a store or an atomic operation."""

    BYTE, HALF, WORD, DOUBLE = 1, 2, 4, 8


BYTE, HALF, WORD, DOUBLE = Size


class Helper(enum.IntEnum):
    """The kernel's functions that programs call, bpf-helpers(7)."""

    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    KTIME_GET_NS = 5
    GET_SMP_PROCESSOR_ID = 8
    SKB_STORE_BYTES = 9
    CLONE_REDIRECT = 13
    REDIRECT = 23
    SKB_LOAD_BYTES = 26
    SKB_CHANGE_TAIL = 38
    SKB_PULL_DATA = 39
    SET_HASH = 48
    REDIRECT_MAP = 51
    XDP_ADJUST_TAIL = 65
    SKB_LOAD_BYTES_RELATIVE = 68
    KTIME_GET_BOOT_NS = 125
    RINGBUF_OUTPUT = 130
    KTIME_GET_COARSE_NS = 160
    KTIME_GET_TAI_NS = 208


class HasFd(Protocol):
    """A map, or anything else with the file descriptor of one."""

    fd: int


# The low three bits of a code: its class. For arithmetic and jumps bit 3 selects a register rather
# than a value, for loads and stores bits 3 and 4 are the size.
_LD, _LDX, _ST, _STX, _ALU32, _JUMP64, _JUMP32, _ALU64 = range(8)
_MEM, _ATOMIC, _BY_REGISTER = 0x60, 0xC0, 0x08
_SIZE_BITS = {WORD: 0x00, HALF: 0x08, BYTE: 0x10, DOUBLE: 0x18}
_SIZE_WORDS = {WORD: "u32", HALF: "u16", BYTE: "u8", DOUBLE: "u64"}
_ALU = {"+=": 0x00, "-=": 0x10, "*=": 0x20, "/=": 0x30, "|=": 0x40, "&=": 0x50, "<<=": 0x60,
        ">>=": 0x70, "neg": 0x80, "%=": 0x90, "^=": 0xA0, "=": 0xB0, "s>>=": 0xC0}  # fmt: skip
_SWAP, _JUMP, _CALL, _EXIT = 0xD0, 0x00, 0x80, 0x90
_CONDITIONS = {"==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "s>": 0x60, "s>=": 0x70,
               "<": 0xA0, "<=": 0xB0, "s<": 0xC0, "s<=": 0xD0}  # fmt: skip
_ATOMICS = {"+=": 0x00, "|=": 0x40, "&=": 0x50, "^=": 0xA0}
_FETCH, _EXCHANGE, _COMPARE_EXCHANGE = 0x01, 0xE1, 0xF1
_IMM64, _MAP_FD, _MAP_VALUE = 0x18, 1, 2


@dataclass(frozen=True)
class Instruction:
    """One instruction: its fields, the label that it jumps to, and its text for a listing."""

    code: int
    target: int
    source: int
    offset: int
    value: int
    text: str
    place: str | None = None
    second: int | None = None  # the value of the second half, of instructions with 16 bytes

    @property
    def slots(self) -> int:
        """How many times 8 bytes it has; jumps count in these."""
        return 1 if self.second is None else 2

    def encode(self, distance: int = 0) -> bytes:
        """Its bytes; `distance`: slots from the next instruction to the label."""
        registers = self.source << 4 | self.target
        offset = self.offset if self.place is None else distance
        code = struct.pack("=BBhi", self.code, registers, offset, self.value)
        return code if self.second is None else code + struct.pack("=BBhi", 0, 0, 0, self.second)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Label:
    """A place in a program, which jumps name."""

    name: str

    def __str__(self) -> str:
        return f"{self.name}:"


Line = Instruction | Label
Program = Sequence[Line]


def label(name: str) -> Label:
    """Marks the place of the next instruction."""
    return Label(name)


def _fits(value: int, bits: int) -> bool:
    """Whether a signed number of so many bits can have the value."""
    return -(1 << bits - 1) <= value < 1 << bits - 1


def _instruction(
    code: int,
    text: str,
    *,
    target: int = 0,
    source: int = 0,
    offset: int = 0,
    value: int = 0,
    place: str | None = None,
) -> Instruction:
    if not _fits(offset, 16):
        raise AssemblyError(f"{text}: an offset of {offset}; allowed: -32768 to 32767")
    if not -(1 << 31) <= value < 1 << 32:
        raise AssemblyError(f"{text}: the value {value} has more than 32 bits")
    signed = value if _fits(value, 32) else value - (1 << 32)
    return Instruction(code, target, source, offset, signed, text, place)


def _place(base: Register, offset: int, size: Size) -> str:
    return f"*({_SIZE_WORDS[size]} *)({_name(base)} {'-' if offset < 0 else '+'} {abs(offset)})"


def _name(register: Register, bits: int = 64) -> str:
    return f"{'r' if bits == 64 else 'w'}{int(register)}"


def _operand(value: Register | int, bits: int = 64) -> str:
    return _name(value, bits) if isinstance(value, Register) else str(value)


def _check_signed(value: Register | int, text: str, bits: int) -> None:
    """64-bit operations extend a value's sign: one above 31 bits would be another number."""
    if not isinstance(value, Register) and bits == 64 and not _fits(value, 32):
        raise AssemblyError(f"{text}: the value {value} is not a signed one of 32 bits")


# ------------------------------------------------------------------------------ loads and stores


def load(target: Register, base: Register, offset: int, size: Size) -> Instruction:
    """target = *(base + offset), zero-extended."""
    text = f"{_name(target)} = {_place(base, offset, size)}"
    code = _LDX | _MEM | _SIZE_BITS[size]
    return _instruction(code, text, target=target, source=base, offset=offset)


def store(base: Register, offset: int, value: Register | int, size: Size) -> Instruction:
    """*(base + offset) = value, a register or a number of 32 bits, sign-extended."""
    text = f"{_place(base, offset, size)} = {_operand(value)}"
    code = _MEM | _SIZE_BITS[size]
    if isinstance(value, Register):
        return _instruction(_STX | code, text, target=base, source=value, offset=offset)
    _check_signed(value, text, 64 if size == DOUBLE else 32)
    return _instruction(_ST | code, text, target=base, offset=offset, value=value)


def atomic(
    base: Register,
    offset: int,
    operation: str,
    source: Register,
    size: Size = DOUBLE,
    *,
    fetch: bool = False,
) -> Instruction:
    """*(base + offset) operation source, by "+=", "|=", "&=" or "^=", for WORD or DOUBLE.

    With `fetch` source gets the old value, and memory is ordered (Linux 5.12); without it only
    "+=" is known before 5.12.
    """
    text = f"lock {_place(base, offset, size)} {operation} {_name(source)}"
    text = f"{_name(source)} = fetch {text}" if fetch else text
    if operation not in _ATOMICS:
        raise AssemblyError(f"{text}: allowed operations: {', '.join(_ATOMICS)}")
    return _atomic(
        text, base, offset, source=source, size=size,
        operation=_ATOMICS[operation] | (_FETCH * fetch),
    )  # fmt: skip


def exchange(base: Register, offset: int, source: Register, size: Size = DOUBLE) -> Instruction:
    """Swaps source and *(base + offset) atomically; orders memory (Linux 5.12)."""
    text = f"{_name(source)} = exchange {_place(base, offset, size)}, {_name(source)}"
    return _atomic(text, base, offset, source=source, size=size, operation=_EXCHANGE)


def compare_exchange(
    base: Register, offset: int, source: Register, size: Size = DOUBLE
) -> Instruction:
    """Stores source at *(base + offset) if R0 is there; R0 gets the old value (Linux 5.12)."""
    text = f"r0 = compare_exchange {_place(base, offset, size)}, r0, {_name(source)}"
    return _atomic(text, base, offset, source=source, size=size, operation=_COMPARE_EXCHANGE)


def _atomic(
    text: str, base: Register, offset: int, *, source: Register, size: Size, operation: int
) -> Instruction:
    if size not in (WORD, DOUBLE):
        raise AssemblyError(f"{text}: allowed sizes: WORD, DOUBLE")
    code = _STX | _ATOMIC | _SIZE_BITS[size]
    return _instruction(code, text, target=base, source=source, offset=offset, value=operation)


def _wide(target: Register, source: int, low: int, high: int, text: str) -> Instruction:
    """The instruction of 16 bytes; `low` and `high` are its two values of 32 bits."""
    first, second = struct.unpack("=ii", struct.pack("=II", low, high))
    return Instruction(_IMM64, target, source, 0, first, text, second=second)


def load_number(target: Register, value: int) -> Instruction:
    """target = a number of 64 bits; move() is shorter for those of 31."""
    text = f"{_name(target)} = {value} ll"
    if not -(1 << 63) <= value < 1 << 64:
        raise AssemblyError(f"{text}: the value has more than 64 bits")
    return _wide(target, 0, value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF, text)


def load_map(target: Register, of: HasFd) -> Instruction:
    """target = a map, the first argument of MAP_LOOKUP_ELEM."""
    return _wide(target, _MAP_FD, of.fd, 0, f"{_name(target)} = map {of.fd}")


def load_map_value(target: Register, of: HasFd, offset: int = 0) -> Instruction:
    """target = the address of the only value of an array map, plus offset (Linux 5.5)."""
    text = f"{_name(target)} = map {of.fd}[0] + {offset}"
    return _wide(target, _MAP_VALUE, of.fd, offset, text)


# ----------------------------------------------------------------------------------- arithmetic


def _alu(target: Register, operation: str, value: Register | int, bits: int) -> Instruction:
    text = f"{_name(target, bits)} {operation} {_operand(value, bits)}"
    if bits not in (32, 64):
        raise AssemblyError(f"{text}: {bits} bits; allowed: 32, 64")
    code = (_ALU64 if bits == 64 else _ALU32) | _ALU[operation]
    if isinstance(value, Register):
        return _instruction(code | _BY_REGISTER, text, target=target, source=value)
    _check_signed(value, text, bits)
    return _instruction(code, text, target=target, value=value)


def move(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    """target = value. Here and below: a register, or a number whose sign is extended; with
    `bits` = 32 the upper half of target becomes 0.
    """
    return _alu(target, "=", value, bits)


def add(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    return _alu(target, "+=", value, bits)


def subtract(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    return _alu(target, "-=", value, bits)


def multiply(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    return _alu(target, "*=", value, bits)


def divide(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    """target /= value, unsigned; 0 if the value is 0."""
    return _alu(target, "/=", value, bits)


def modulo(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    """target %= value, unsigned; unchanged if the value is 0."""
    return _alu(target, "%=", value, bits)


def bit_or(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    return _alu(target, "|=", value, bits)


def bit_and(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    return _alu(target, "&=", value, bits)


def bit_xor(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    return _alu(target, "^=", value, bits)


def shift_left(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    return _alu(target, "<<=", value, bits)


def shift_right(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    """target >>= value, unsigned."""
    return _alu(target, ">>=", value, bits)


def shift_right_signed(target: Register, value: Register | int, bits: int = 64) -> Instruction:
    return _alu(target, "s>>=", value, bits)


def negate(target: Register, bits: int = 64) -> Instruction:
    code = (_ALU64 if bits == 64 else _ALU32) | _ALU["neg"]
    return _instruction(code, f"{_name(target, bits)} = -{_name(target, bits)}", target=target)


def big_endian(target: Register, bits: int) -> Instruction:
    """Converts the low 16, 32 or 64 bits between the CPU's order and the network's; the rest
    becomes 0.
    """
    return _swap(target, bits, _BY_REGISTER, "be")


def little_endian(target: Register, bits: int) -> Instruction:
    """Converts the low 16, 32 or 64 bits between the CPU's order and little-endian; the rest
    becomes 0.
    """
    return _swap(target, bits, 0, "le")


def _swap(target: Register, bits: int, order: int, word: str) -> Instruction:
    text = f"{_name(target)} = {word}{bits} {_name(target)}"
    if bits not in (16, 32, 64):
        raise AssemblyError(f"{text}: {bits} bits; allowed: 16, 32, 64")
    return _instruction(_ALU32 | _SWAP | order, text, target=target, value=bits)


# ---------------------------------------------------------------------------------------- jumps


def jump(place: str) -> Instruction:
    """Continues at a label."""
    return _instruction(_JUMP64 | _JUMP, f"goto {place}", place=place)


def jump_if(
    left: Register, condition: str, right: Register | int, place: str, bits: int = 64
) -> Instruction:
    """Continues at a label if `left condition right`.

    Conditions: "==", "!=", ">", ">=", "<", "<=" for unsigned numbers; "s>", "s>=", "s<", "s<=" for
    signed ones; "&": they have a bit in common. With `bits` = 32 the low halves are compared
    (Linux 5.1).
    """
    text = f"if {_name(left, bits)} {condition} {_operand(right, bits)} goto {place}"
    if condition not in _CONDITIONS or bits not in (32, 64):
        allowed = ", ".join(_CONDITIONS)
        raise AssemblyError(f"{text}: allowed conditions: {allowed}; bits: 32, 64")
    code = (_JUMP64 if bits == 64 else _JUMP32) | _CONDITIONS[condition]
    if isinstance(right, Register):
        return _instruction(
            code | _BY_REGISTER, text, target=left, source=right, place=place
        )  # fmt: skip
    _check_signed(right, text, bits)
    return _instruction(code, text, target=left, value=right, place=place)


def call(helper: Helper) -> Instruction:
    """R0 = the helper's result for R1 to R5, which are lost."""
    return _instruction(_JUMP64 | _CALL, f"call {helper.name.lower()}", value=helper)


def leave() -> Instruction:
    """Ends the program, whose result is R0."""
    return _instruction(_JUMP64 | _EXIT, "exit")


def copy(
    target: Register, to: int, source: Register, at: int, length: int, *, scratch: Register
) -> list[Line]:
    """*(target + to) = *(source + at), `length` bytes, by way of a register that is lost."""
    lines: list[Line] = []
    done = 0
    for size in (DOUBLE, WORD, HALF, BYTE):
        while length - done >= size:
            lines += [
                load(scratch, source, at + done, size),
                store(target, to + done, scratch, size),
            ]
            done += size
    return lines


# ------------------------------------------------------------------------------------- programs


def assemble(program: Program) -> bytes:
    """The bytes of a program, with the distances of its jumps. Raises AssemblyError."""
    places: dict[str, int] = {}
    at = 0
    for each in program:
        if isinstance(each, Instruction):
            at += each.slots
        elif each.name in places:
            raise AssemblyError(f"the label {each.name} is in the program twice")
        else:
            places[each.name] = at
    code = b""
    for each in program:
        if isinstance(each, Instruction):
            code += each.encode(_distance(each, places, len(code) // 8 + each.slots))
    return code


def _distance(instruction: Instruction, places: dict[str, int], following: int) -> int:
    if instruction.place is None:
        return 0
    if instruction.place not in places:
        raise AssemblyError(f"{instruction}: the program has no label {instruction.place}")
    distance = places[instruction.place] - following
    if not _fits(distance, 16):
        raise AssemblyError(f"{instruction}: {distance} instructions away; a jump has 16 bits")
    return distance


def listing(program: Program) -> list[str]:
    """A line for each label and instruction; the number before it is that in the verifier's log."""
    lines = []
    at = 0
    for each in program:
        if isinstance(each, Label):
            lines.append(str(each))
        else:
            lines.append(f"{at:5}: {each}")
            at += each.slots
    return lines


def instruction_at(program: Program, number: int) -> str | None:
    """The instruction with a number of the verifier's log, with the label before it, as text."""
    at, after = 0, ""
    for each in program:
        if isinstance(each, Label):
            after = f", after {each}"
        elif at == number:
            return f"{each}{after.removesuffix(':')}"
        else:
            at += each.slots
    return None
