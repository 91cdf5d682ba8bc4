"""Capabilities of this process, as it reads them; giving them up is in test_privileges."""

from __future__ import annotations

from pathlib import Path

import pytest

from carp_fast import capabilities
from carp_fast.bpf import system
from carp_fast.capabilities import Capability, has_capability, permitted


def shown(field: str) -> set[int]:
    """The capabilities that /proc shows."""
    words = Path("/proc/thread-self/status").read_text().split()
    bits = int(words[words.index(f"{field}:") + 1], 16)
    return {number for number in range(64) if bits >> number & 1}


def test_what_is_read_is_what_proc_shows() -> None:
    assert {number for number in range(64) if has_capability(number)} == shown("CapEff")
    assert permitted() == shown("CapPrm")


def test_names_are_those_that_people_know() -> None:
    assert Capability.NET_RAW.text == "CAP_NET_RAW"


def test_the_highest_one_is_read_from_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(range(capabilities.highest() + 1)) >= shown("CapBnd")
    for text, number in (("37\n", 37), ("odd\n", capabilities.LAST_USUAL)):
        (tmp_path / "last").write_text(text)
        monkeypatch.setattr(capabilities, "LAST", tmp_path / "last")
        assert capabilities.highest() == number


@pytest.mark.parametrize(
    ("has", "may"),
    [
        ({Capability.BPF, Capability.NET_ADMIN}, True),
        ({Capability.SYS_ADMIN}, True),
        ({Capability.BPF}, False),
        ({Capability.NET_ADMIN}, False),
    ],
)
def test_two_capabilities_or_a_third_are_enough_for_bpf(
    monkeypatch: pytest.MonkeyPatch, has: set[int], may: bool
) -> None:
    monkeypatch.setattr(system, "has_capability", has.__contains__)
    assert system.may_use_bpf() is may
