"""The tables of a state that is handed over: no field of the engine is forgotten."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from carp_fast.engine._fields import CHECKPOINT_BYTES, HOST_BYTES, HOST_FIELDS, REBUILT
from carp_fast.engine._tables import (
    FIELDS,
    REBUILT_OF_ENGINES,
    REBUILT_OF_INTERFACES,
    SECTION_WORDS,
    WORDS,
)

ENGINE = Path(__file__).parent.parent.parent / "src" / "carp_fast" / "engine"
SIZES = {"uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "int32_t": 4, "uint64_t": 8, "int64_t": 8}
# Fields of a nested struct that have rows of their own.
NESTED = {"history", "configured", "key"}


def fields_of(module: str, struct: str) -> list[tuple[str, str]]:
    """(type, name) of each field of a struct, as its source declares it, in order."""
    text = (ENGINE / f"{module}.pxd").read_text()
    body = text.partition(f"cdef struct {struct}:")[2].partition("\n\ncdef ")[0]
    return re.findall(r"^    (\w+\*{0,2}) (\w+)", body, re.MULTILINE)


def rows_of(part: str) -> set[str]:
    return {name.partition(".")[0] for name, *_ in FIELDS[part]}


@pytest.mark.parametrize(
    ("module", "struct", "part", "rebuilt"),
    [
        ("_vhid", "VirtualHost", "host", set(REBUILT)),
        ("_core", "Interface", "interface", set(REBUILT_OF_INTERFACES)),
        ("_core", "Core", "engine", set(REBUILT_OF_ENGINES)),
        ("_core", "Rejection", "rejection", set()),
        ("_absence", "Absence", "absence", set()),
        ("_vhid", "Source", "source", {"to_line"}),
        ("_vhid", "Address", "address", set()),
    ],
)
def test_every_field_is_handed_over_or_rebuilt_for_a_reason(
    module: str, struct: str, part: str, rebuilt: set[str]
) -> None:
    declared = {name for _, name in fields_of(module, struct)}
    assert declared
    # What orders change of a configuration is handed over, the rest of it is not.
    assert rows_of(part) & rebuilt - {"configured"} == set()
    assert rows_of(part) | rebuilt == declared


def test_every_byte_of_a_virtual_host_is_accounted_for() -> None:
    places = {name: (at, width * count) for name, at, width, count, _ in HOST_FIELDS}
    end, sure = 0, True
    for kind, name in fields_of("_vhid", "VirtualHost"):
        rows = [place for row, place in places.items() if row.partition(".")[0] == name]
        if name in NESTED or not rows:
            sure = False  # of another size than its type alone tells
            continue
        ((at, size),) = rows
        # Between two fields that are handed over, and adjoin, nothing is hidden.
        assert size % SIZES[kind] == 0
        assert at == end if sure else at >= end
        end, sure = at + size, True
    assert end <= HOST_BYTES


def test_checkpoints_have_fields_of_the_same_table() -> None:
    recorded = {name.partition(".")[0] for name, *_, place in HOST_FIELDS if place is not None}
    declared = {name for _, name in fields_of("_fields", "Checkpoint")}
    assert recorded < declared
    # The rest of a checkpoint is not a host's, or is taken in another way.
    assert declared - recorded == {
        *("at_ns", "slot", "interface", "added", "changed", "wake_tick_ns", "owed_at_ns", "seed"),
        *("absences", "absence_count", "pace", "ifindex", "up", "has_source", "has_source6"),
        *("forwards6", "renamed", "mac", "source", "source6", "configured", "vhid"),
        *("own_source4", "own_source6", "held", "sources"),
    }
    assert max(place for *_, place in HOST_FIELDS if place is not None) < CHECKPOINT_BYTES


def test_a_name_stands_once_and_fits() -> None:
    assert tuple(FIELDS) == SECTION_WORDS
    for rows in FIELDS.values():
        names = [name for name, *_ in rows]
        assert len(names) == len(set(names))
    assert all(len(name) < 40 for name in WORDS)
    assert {"state.MASTER", "reason.tie_lost", "flag.withheld", "verdict.replay"} < set(WORDS)


def test_reasons_say_why() -> None:
    for rebuilt in (REBUILT, REBUILT_OF_ENGINES, REBUILT_OF_INTERFACES):
        assert all(len(why) > 3 for why in rebuilt.values())
