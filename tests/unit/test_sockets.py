"""The packet filter as a program, and what is asked of the kernel."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_fast.net.filters import (
    FILTERED_INTERFACES_MAX,
    INSTRUCTIONS_MAX,
    attach_filter,
    packet_filter,
    raw_filter,
)
from carp_fast.net.kernel import PROTOCOL_CARP, SO_ATTACH_FILTER
from carp_fast.net.sockets import filter_interfaces
from tests.support.bpf import run
from tests.support.segment import behind_extension

ADVERTISEMENT = bytes(12) + b"\x08\x00" + b"\x45" + bytes(8) + b"\x70" + bytes(46)
ADVERTISEMENT6 = bytes(12) + b"\x86\xdd" + b"\x60" + bytes(5) + b"\x70" + bytes(69)


@pytest.mark.parametrize(("frame", "at"), [(ADVERTISEMENT, 23), (ADVERTISEMENT6, 20)])
def test_only_ip_of_protocol_112_without_a_vlan_passes(frame: bytes, at: int) -> None:
    program = packet_filter(None)
    assert run(program, frame)[0] > 1514
    assert run(program, frame, tagged=True, tag=0xA000)[0] > 1514, "VLAN 0: a priority"
    for tag in (1, 0xA001, 0xFFF):
        assert run(program, frame, tagged=True, tag=tag)[0] == 0
    for where, value in ((12, 0x81), (13, 0x06), (at, 6), (at, 111)):
        other = bytearray(frame)
        other[where] = value
        assert run(program, bytes(other))[0] == 0
    assert run(program, frame[:at])[0] == 0
    # Each family's protocol is looked for in its own place.
    moved = bytearray(frame)
    moved[at], moved[43 - at] = 0, PROTOCOL_CARP
    assert run(program, bytes(moved))[0] == 0


@pytest.mark.parametrize("kind", [0, 43, 44, 60])
def test_protocol_112_passes_behind_one_extension_header_of_ipv6(kind: int) -> None:
    program = packet_filter(None)
    passing = bytearray(behind_extension(bytes(36), kind))
    assert run(program, bytes(passing))[0] > 1514
    for where, value in ((20, 51), (20, 17), (54, 17), (54, 44)):
        other = bytearray(passing)
        other[where] = value
        assert run(program, bytes(other))[0] == 0
    assert run(program, bytes(passing[:54]))[0] == 0


def test_what_is_not_protocol_112_costs_the_tap_few_instructions() -> None:
    for frame, at in ((ADVERTISEMENT, 23), (ADVERTISEMENT6, 20)):
        other = bytearray(frame)
        other[at] = 6
        assert run(packet_filter(None), bytes(other))[1] <= 12


@settings(max_examples=60)
@given(st.sets(st.integers(1, 2**31 - 1), max_size=FILTERED_INTERFACES_MAX), st.data())
def test_only_the_interfaces_that_are_used_pass(used: set[int], data: Any) -> None:
    given = sorted(used, key=lambda ifindex: ifindex % 7)
    program, raw = packet_filter(given), raw_filter(given)
    assert len(program) <= INSTRUCTIONS_MAX
    asked = {1, 2**31 - 1} | {each + step for each in list(used)[:20] for step in (-1, 0, 1)}
    if used:
        asked.add(data.draw(st.sampled_from(sorted(used))))
    for ifindex in asked:
        accepted, count = run(program, ADVERTISEMENT, ifindex)
        assert bool(accepted) is (ifindex in used)
        assert count < 60, "a search, not a walk"
        # A raw socket's data may be shorter than any header: nothing of it is looked at.
        assert bool(run(raw, b"", ifindex)[0]) is (ifindex in used)


def test_the_longest_filter_is_within_the_kernels_limit() -> None:
    program = packet_filter(list(range(1, FILTERED_INTERFACES_MAX + 1)))
    assert len(program) <= INSTRUCTIONS_MAX
    beyond = packet_filter(list(range(1, FILTERED_INTERFACES_MAX + 2)))
    assert beyond == packet_filter(None)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 300])
def test_the_kernel_takes_the_filter(count: int) -> None:
    # It checks every jump; any socket will do for that, and none of this needs root.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        attach_filter(sock, packet_filter(list(range(1, count + 1))))
        filter_interfaces({"packet": sock, "raw4": sock}, list(range(1, count + 1)))


class Refusing:
    """A socket whose kernel has no room for long filters."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.lengths: list[int] = []

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        assert (level, name) == (socket.SOL_SOCKET, SO_ATTACH_FILTER)
        length = int.from_bytes(value[:2], "little")
        if length > self.longest:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        self.lengths.append(length)


def test_without_room_for_the_filter_all_interfaces_pass_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusing: Any = Refusing(longest=len(packet_filter([1, 2])))
    with caplog.at_level(logging.INFO, "carp_fast.net.sockets"):
        filter_interfaces({"packet": refusing}, [1, 2])
        assert not caplog.text
        filter_interfaces({"packet": refusing}, list(range(1, 101)))
    assert refusing.lengths == [len(packet_filter([1, 2])), len(packet_filter(None))]
    assert "100 interfaces: Cannot allocate memory, see net.core.optmem_max" in caplog.text


def test_a_limit_that_is_passed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    refusing: Any = Refusing(longest=INSTRUCTIONS_MAX)
    with caplog.at_level(logging.INFO, "carp_fast.net.sockets"):
        filter_interfaces({"packet": refusing}, list(range(1, FILTERED_INTERFACES_MAX + 2)))
    text = f"{FILTERED_INTERFACES_MAX + 1} interfaces, at most {FILTERED_INTERFACES_MAX}"
    assert text in caplog.text
