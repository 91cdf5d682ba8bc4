"""Mutants of a turn: its order, pairs of digests, address changes, announcements, the next turn.

They stand in what the pump runs; the simulator catches each with small seeds.
"""

from __future__ import annotations

from tests.simulation.mutant import Mutant

MUTANTS = (
    Mutant(
        "expire before receive",
        (
            (
                "pump/_turn.pyx",
                "    take_orders(turn, now_ns)\n\n\n",
                "    take_orders(turn, now_ns)\n    engine_expire(turn.core, now_ns, now_ns)\n\n\n",
            ),
        ),
    ),
)
