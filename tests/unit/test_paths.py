"""The combinations of paths that `pytest --paths` runs tests with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import paths
from tests.support.daemons import write_configuration
from tests.support.paths import (
    COMBINATIONS,
    DEFAULT,
    EACH,
    HOLD,
    LEFT_OUT,
    MOST,
    RECEIVE,
    SEND,
    Paths,
    chosen_by,
    taken,
    without,
)


def test_every_two_values_meet_in_few_combinations() -> None:
    assert paths.missing((*COMBINATIONS, DEFAULT)) == {LEFT_OUT}
    assert len(COMBINATIONS) <= MOST
    assert len(set(COMBINATIONS)) == len(COMBINATIONS)
    assert paths.missing(COMBINATIONS[1:]) >= {("receive=packet", "hold=address")}


def test_each_value_is_in_one_of_fewer_combinations_that_are_run_anyway() -> None:
    values = [set(each) for each in zip(*EACH, strict=True)]
    assert values == [set(SEND), set(RECEIVE), set(HOLD)]
    assert len(EACH) == len(RECEIVE)
    assert set(EACH) <= set(COMBINATIONS)


def test_a_configuration_takes_the_combination_and_keeps_what_a_test_sets(tmp_path: Path) -> None:
    with taken(Paths("clones", "raw", "route")):
        text = write_configuration(
            tmp_path, "a", [], daemon={"receive": "packet"}, defaults={"advskew": 1}
        ).read_text()
    for line in ('send = "clones"', 'receive = "packet"', 'hold = "route"', "advskew = 1"):
        assert line in text.splitlines()
    assert "raw" not in text
    text = write_configuration(tmp_path, "a", []).read_text()
    assert not any(word in text for word in ("send", "receive", "hold"))


def test_what_a_test_has_of_its_own_is_left_out_and_runs_once() -> None:
    run = (Paths("packet", "raw", "route"), Paths("packet", "raw", "auto"))
    (left,) = without(run, ["hold"])
    assert (left.daemon, left.defaults) == ({"send": "packet", "receive": "raw"}, {})
    assert without(run, []) == run
    assert without(run, ["send", "hold", "receive"]) == ()
    with pytest.raises(ValueError, match="recieve"):
        without(run, ["recieve"])


def test_an_unknown_combination_is_refused_with_what_is_allowed() -> None:
    assert chosen_by("all") == COMBINATIONS
    assert chosen_by("all", each=True) == EACH
    assert chosen_by("packet-raw-route", each=True) == chosen_by("packet-raw-route")
    assert chosen_by("packet-raw-route") == (Paths("packet", "raw", "route"),)
    with pytest.raises(ValueError, match=r"packet-tun-route: one of all, .*clones-ring-address"):
        chosen_by("packet-tun-route")
