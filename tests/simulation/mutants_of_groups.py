"""Mutants of groups: when they are demoted, and what their members do."""

from __future__ import annotations

from tests.simulation.mutant import Mutant

GROUPS, DEMOTIONS, ACTIONS = "engine/_groups.pyx", "engine/_demotions.pyx", "engine/_actions.pyx"
ORDERS, UPKEEP = "engine/_orders.pyx", "engine/_upkeep.pyx"

MUTANTS = (
    Mutant(
        "a group that demands all is demoted by one member",
        ((GROUPS, "(not group.all or group.impeded == group.members)", "(True)"),),
    ),
    Mutant(
        "a member stays MASTER when its group is demoted",
        (
            (
                DEMOTIONS,
                "    if by == BY_GROUP and amount and not host.ordered[by]:\n",
                "    if by == BY_GROUP and amount and host.ordered[by]:\n",
            ),
        ),
    ),
    Mutant(
        "a member resigns when the demotion of its group ends, too",
        (
            (
                DEMOTIONS,
                "    if by == BY_GROUP and amount and not host.ordered[by]:\n",
                "    if by == BY_GROUP:\n",
            ),
        ),
    ),
    Mutant(
        "an operator's demotion makes a member resign as its group's does",
        (
            (
                DEMOTIONS,
                "    if by == BY_GROUP and amount and not host.ordered[by]:\n",
                "    if amount and not host.ordered[by]:\n",
            ),
        ),
    ),
    Mutant(
        "the walk over the members leaves out those that are impeded",
        (
            (
                GROUPS,
                " if host.group_next or host.impeded else group.first[1]\n",
                "\n",
            ),
        ),
    ),
    Mutant(
        "a member that moves before the walk is over is left behind",
        ((GROUPS, "        group.due |= DUE_AGAIN", "        pass"),),
    ),
    Mutant(
        "a member that leaves is still counted as impeded",
        ((GROUPS, "    group.impeded -= host.impeded\n", ""),),
    ),
    Mutant(
        "a member that joins a demoted group is not demoted",
        (
            (
                DEMOTIONS,
                "    if core.hosts[slot].ordered[<int>BY_GROUP] != group_demotion(core, slot):\n",
                "    if False:\n",
            ),
        ),
    ),
    Mutant(
        "sends that succeed again do not end the demotion of a group",
        (
            (
                ACTIONS,
                "        host.flags &= ~<uint32_t>SEND_DEMOTED\n"
                "        group_review(core, slot, now_ns)\n",
                "        host.flags &= ~<uint32_t>SEND_DEMOTED\n",
            ),
        ),
    ),
    Mutant(
        "a group stays demoted when the demotion for lost addresses has ended",
        (
            (
                UPKEEP,
                "    host.flags &= ~over\n    group_review(core, slot, now_ns)\n",
                "    host.flags &= ~over\n",
            ),
        ),
    ),
    Mutant(
        "the startup delay after a link failure does not count",
        ((GROUPS, "        return host.impeded != 0\n", "        return False\n"),),
    ),
    Mutant(
        "another process that has a member demotes its group",
        (
            (
                GROUPS,
                "vhid_demoted_by(host, BY_LINK) != 0\n",
                "host.state == INIT\n",
            ),
        ),
    ),
)
