"""Draws the world of a seed.

A seed gives the same world on every machine and with every version of Python.
"""

from __future__ import annotations

from carp_fast.simulate.episodes import ENDINGS, EPISODES
from carp_fast.simulate.world import World
from carp_fast.simulate.worlds import Drawing

SEED_MAX = 10**18


def draw(seed: int, large: bool = False) -> World:
    """The world of a seed (0 to SEED_MAX); the large world of the same seed is another one."""
    drawing = Drawing(seed, large)
    drawing.draw_faults(EPISODES, ENDINGS)
    return drawing.world
