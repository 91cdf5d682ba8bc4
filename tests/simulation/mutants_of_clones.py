"""Mutants of the frames that are sent as clones; the tests that catch them need root."""

from __future__ import annotations

from tests.simulation.mutant import Mutant

CLONES, ENVIRONMENT = "pump/_clones.pyx", "pump/_environment.pyx"
LIVE = "integration/test_clones_live.py::"

MUTANTS = (
    Mutant(
        "a trial passes whatever its interface has counted",
        (
            (
                CLONES,
                "    elif counted_since(clones, core, interface) >= trial.frames:\n",
                "    elif True:\n",
            ),
        ),
        caught_by=(f"{LIVE}test_an_interface_that_does_not_count_the_first_clones_falls_back",),
    ),
    Mutant(
        "an interface that was down has no new trial",
        (
            (
                ENVIRONMENT,
                "        clones_forget(&pump.clones, order.interface)\n",
                "        pass\n",
            ),
        ),
        caught_by=(f"{LIVE}test_an_interface_that_does_not_count_the_first_clones_falls_back",),
    ),
    Mutant(
        "a late counter is not looked at again",
        ((CLONES, "    if now_ns < trial.check_ns:\n", "    if True:\n"),),
        caught_by=(f"{LIVE}test_a_counter_that_is_late_is_looked_at_again",),
    ),
    Mutant(
        "the rest of the batch of a trial takes the packet socket",
        (
            (
                CLONES,
                "[interface_of(core, &frames[i])].state == TRIAL_PASSED):\n",
                "[interface_of(core, &frames[i])].state == TRIAL_FAILED):\n",
            ),
        ),
        caught_by=(f"{LIVE}test_every_frame_of_a_large_batch_leaves_once",),
    ),
    Mutant(
        "the frames of a run that failed count as sent",
        (
            (
                CLONES,
                "        slot.ifindex, slot.result = frames[i].ifindex, NOT_RUN\n",
                "        slot.ifindex, slot.result = frames[i].ifindex, 0\n",
            ),
        ),
        caught_by=(f"{LIVE}test_a_program_that_cannot_be_run_any_more_costs_no_frame",),
    ),
    Mutant(
        "what an interface refuses counts as sent",
        ((CLONES, "        elif result == NET_XMIT_CN: ", "        elif result != NOT_RUN: "),),
        caught_by=(f"{LIVE}test_an_interface_that_refuses_only_clones_falls_back",),
    ),
)
