"""The fuzzers by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.cases import Fuzzer
from tests.fuzz.control import ControlFuzzer
from tests.fuzz.election import ElectionFuzzer
from tests.fuzz.wire import WireFuzzer

FUZZERS: dict[str, Callable[[], Fuzzer]] = {
    "wire": WireFuzzer,
    "control": ControlFuzzer,
    "election": ElectionFuzzer,
}
