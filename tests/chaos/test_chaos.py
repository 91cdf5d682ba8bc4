"""The short cases of tests.chaos, one test each, and the switch that impairs."""

from __future__ import annotations

import time

import pytest

from carp_fast.lab.observer import Key
from tests.chaos.case import CASES, Run, play
from tests.chaos.cases import MODULES
from tests.chaos.world import World
from tests.support.pairs import Wire
from tests.support.segment import advertisement

pytestmark = pytest.mark.root

assert MODULES
# They take the processors, or a lock of the whole machine's, from whatever runs beside them.
ALONE = {"starve", "rtnl_held"}
FRAMES = 100  # twice as many fit the receiver's buffer


def parameters() -> list[object]:
    return [
        pytest.param(name, marks=[pytest.mark.alone] if name in ALONE else [])
        for name, each in CASES.items()
        if each.quick
    ]


@pytest.mark.parametrize("name", parameters())
def test_no_oracle_finds_a_violation(name: str) -> None:
    run = Run(name, seed=1, seconds=2.0, quick=True)
    outcome = play(CASES[name], run)
    if outcome.lacks:
        pytest.skip(f"needs {outcome.lacks}")
    print(run.figures)
    told = "\n".join(run.failures) or f"it passes: remove its mark {outcome.known!r}"
    assert outcome.passed, told


def frames_through(world: World) -> list[float]:
    """Sends FRAMES from a to b; the time that each took, s."""
    with Wire(world.lab["a"], 1) as sender, Wire(world.lab["b"], 1) as receiver:
        sent_at = {}
        for number in range(1, FRAMES + 1):
            sent_at[number] = time.monotonic()
            sender.send(advertisement(counter=number))
        took = []
        try:
            for frame in receiver.heard(0.5):
                number = int.from_bytes(frame[42:50], "big")
                took.append(time.monotonic() - sent_at[number])
        except AssertionError:
            pass  # no more come
    return took


def test_the_switch_loses_duplicates_delays_and_cuts() -> None:
    run = Run("switch", seed=1, seconds=1.0, quick=True)
    with World(run, impaired=True, addresses={Key(1, 1): ["10.1.1.1"]}) as world:
        world.limits.silence_s = world.limits.nobody_holds_s = None
        world.begin()
        assert len(frames_through(world)) == FRAMES
        world.impair("loss", 50, sender="a", receiver="b")
        assert FRAMES * 0.3 < len(frames_through(world)) < FRAMES * 0.7
        world.impair("loss", 0)
        world.impair("duplicate", 50)
        assert FRAMES * 1.3 < len(frames_through(world)) < FRAMES * 1.7
        world.impair("duplicate", 0)
        world.impair("delay", 100, 200)
        took = frames_through(world)
        assert len(took) == FRAMES
        assert min(took) >= 0.1
        world.impair("delay", 0, 0)
        world.impair("cut", 1, sender="a", receiver="b")
        assert frames_through(world) == []
        world.impair("cut", 0)
        assert len(frames_through(world)) == FRAMES
    assert run.failures == []
