"""A part of each fuzzer's run: the corpus, then the first seeds, which are the same every time.

CARP_FAST_FUZZ_SECONDS: how long each runs, 30 unless given. `make fuzz` draws others, on modules
built with sanitizers.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.fuzz.cases import Fuzzer
from tests.fuzz.control import ControlFuzzer
from tests.fuzz.election import ElectionFuzzer
from tests.fuzz.runs import KEPT, Run, report, shrunk
from tests.fuzz.wire import WireFuzzer

SECONDS = float(os.environ.get("CARP_FAST_FUZZ_SECONDS", "30"))


def run(fuzzer: Fuzzer, directory: Path) -> None:
    """Fails with the case that fails, shrunk and written."""
    with closing(fuzzer):
        outcome = Run(fuzzer, SECONDS, corpus=[KEPT]).run(range(1, fuzzer.seeds + 1))
        assert outcome.worlds, "the time is over before the first world"
        if outcome.failed is not None:
            pytest.fail(report(shrunk(fuzzer, outcome.failed), directory / "case.json"))


def test_frames_of_every_kind_have_their_verdict_and_change_nothing_unsigned(
    tmp_path: Path,
) -> None:
    run(WireFuzzer(), tmp_path)


def test_one_host_decides_in_random_worlds_as_the_rules_do(tmp_path: Path) -> None:
    run(ElectionFuzzer(), tmp_path)


@pytest.mark.root
def test_a_daemon_answers_whatever_is_written_to_its_control_socket(tmp_path: Path) -> None:
    run(ControlFuzzer(), tmp_path)
