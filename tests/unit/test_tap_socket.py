"""What of the frames that this machine sends is looked at, as a program."""

from __future__ import annotations

from typing import Any

import pytest

from carp_fast.net.filters import (
    ALL_VHIDS,
    FILTERED_INTERFACES_MAX,
    INSTRUCTIONS_MAX,
    OWN_MACS_MAX,
    mac_end,
    tap_filter,
)
from carp_fast.net.tap_socket import open_tap
from tests.support.bpf import run
from tests.support.segment import advertisement

OURS, UCARP = b"\x02\0\0\0\0\x01", b"\0\0\x5e\0\0\x2a"
EVERY = range(ALL_VHIDS)


def heard(frame: bytes, vhids: range = EVERY, ends: set[int] | None = None, **about: Any) -> bool:
    program = tap_filter([3, 5], {mac_end(OURS)} if ends is None else ends, vhids)
    return bool(run(program, frame, **{"kind": 4, "ifindex": 5, **about})[0])


@pytest.mark.parametrize("vhids", [EVERY, range(40, 50)])
def test_only_advertisements_that_this_machine_sends_on_our_interfaces_pass(vhids: range) -> None:
    frame = advertisement(vhid=42)
    assert heard(frame, vhids)
    assert not heard(frame, vhids, ifindex=4)
    assert not any(heard(frame, vhids, kind=kind) for kind in (0, 1, 2, 3))
    assert not heard(frame[:23] + b"\x06" + frame[24:], vhids)


@pytest.mark.parametrize("source", ["10.77.0.1", "fe80::1"])
@pytest.mark.parametrize("begin", [0, 1, 128, 250])
def test_of_what_comes_from_our_own_mac_the_chosen_vhids_pass(source: str, begin: int) -> None:
    vhids = range(begin, begin + 6)
    for vhid in range(1, 256):
        assert heard(advertisement(source=source, vhid=vhid, source_mac=OURS), vhids) is (
            vhid in vhids
        )
        assert heard(advertisement(source=source, vhid=vhid, source_mac=UCARP), vhids)


@pytest.mark.parametrize("count", [1, 2, 255, OWN_MACS_MAX])
def test_each_of_our_macs_is_known(count: int) -> None:
    macs = [bytes((2, 0, 0, 0, i // 256, i % 256)) for i in range(count + 1)]
    ends = {mac_end(mac) for mac in macs[:count]}
    for mac in (macs[0], macs[count // 2], macs[count - 1]):
        assert not heard(advertisement(vhid=7, source_mac=mac), range(8, 9), ends)
        assert heard(advertisement(vhid=8, source_mac=mac), range(8, 9), ends)
    assert heard(advertisement(vhid=7, source_mac=macs[count]), range(8, 9), ends)
    assert len(tap_filter(None, ends, range(8, 9))) <= INSTRUCTIONS_MAX


@pytest.mark.root
@pytest.mark.parametrize("macs", [0, 1, OWN_MACS_MAX + 1])
@pytest.mark.parametrize("count", [0, 1, FILTERED_INTERFACES_MAX, FILTERED_INTERFACES_MAX + 1])
def test_the_kernel_takes_the_filter(count: int, macs: int) -> None:
    open_tap(list(range(1, count + 1)), range(macs), range(8, 9)).close()
