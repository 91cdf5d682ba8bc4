"""Scenarios: what virtual hosts hear and are told, and everything that they then do, line by line.

Each TOML file beside this one is a scenario in the format of carp_fast/replay/scenario.py; a file
that `carp-fast record` wrote may be put here as it is. The transcript must hold all outputs up to
its end, and none besides.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from carp_fast.replay import scenario as scenarios
from carp_fast.replay.comparison import compare
from carp_fast.replay.player import play

FILES = sorted(Path(__file__).parent.glob("*.toml"))


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    scenario = scenarios.read(path)
    assert scenario.story
    rows = list(compare(scenario, play(scenario)))
    assert rows
    assert [row for row in rows if not row.same] == []
