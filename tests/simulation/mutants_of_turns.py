"""Mutants of a turn: its order, digests together, address changes, announcements, the next turn.

They stand in what the pump runs, and the simulator catches most: `caught_by` names the tests of
those that it does not.
"""

from __future__ import annotations

from tests.simulation.mutant import Mutant

OF_A_BUSY_KERNEL = "unit/test_engine_busy_kernel.py::"

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
    Mutant(
        "the common lane is read before the genuine one",
        (
            (
                "pump/_turn.pyx",
                "take_lane(turn, LANE_GENUINE), common = True, last",
                "take_lane(turn, LANE_COMMON), common = True, last",
            ),
        ),
    ),
    Mutant(
        "a turn does not notice that none was for long",
        (
            (
                "pump/_turn.pyx",
                "        engine_absent(turn.core, since_ns, now_ns, asleep_ns)\n",
                "        pass\n",
            ),
        ),
    ),
    Mutant(
        "a turn does not notice what its sockets dropped",
        (
            (
                "pump/_turn.pyx",
                "            engine_dropped(turn.core, since_ns, now_ns)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "digest of another frame of those heard together",
        (("engine/_receive.pyx", "passed[i].fits = fits[i]", "passed[i].fits = fits[0]"),),
    ),
    Mutant(
        "digests of frames heard together by the key of the first",
        (
            (
                "engine/_receive.pyx",
                "= &core.hosts[hearings[i].slot].key",
                "= &core.hosts[passed[0].slot].key",
            ),
        ),
    ),
    Mutant(
        "digest of a frame beside one without a digest passes for that one's",
        (
            (
                "engine/_receive.pyx",
                "passed[some] = &hearings[i]",
                "passed[some] = &hearings[some]",
            ),
        ),
    ),
    Mutant(
        "the last frames, fewer than are heard together, are lost",
        (
            (
                "engine/_receive.pyx",
                "    while begin < count:\n",
                "    while begin + TOGETHER <= count:\n",
            ),
        ),
    ),
    Mutant(
        "a refused change of an address counts as done",
        (
            (
                "pump/_turn.pyx",
                "                        change.error, now_ns)\n    if not host.asked",
                "                        0, now_ns)\n    if not host.asked",
            ),
        ),
    ),
    Mutant(
        "the outcome of the first change is that of all in its batch",
        (
            (
                "pump/_turn.pyx",
                "take_outcome(turn, &turn.pending[i], now_ns)",
                "take_outcome(turn, &turn.pending[0], now_ns)",
            ),
        ),
    ),
    Mutant(
        "the last change of a batch has no outcome",
        (
            (
                "pump/_turn.pyx",
                "    for i in range(count):\n        take_outcome(",
                "    for i in range(count - (count > 1)):\n        take_outcome(",
            ),
        ),
    ),
    Mutant(
        "a change of one address is not carried out",
        (
            (
                "pump/_turn.pyx",
                "        turn.environment.change(turn.where, turn.pending, count)\n",
                "        turn.environment.change(turn.where, turn.pending, count - (count == 1))\n",
            ),
        ),
    ),
    Mutant(
        "an announcement goes on after its host stepped down",
        (
            (
                "pump/_turn.pyx",
                "if host.block != at.block or host.state != MASTER or not host.flags & ANNOUNCING:",
                "if host.block != at.block:",
            ),
        ),
        caught_by=(
            "unit/test_pump_reports.py::test_an_announcement_ends_with_the_role_of_its_host",
        ),
    ),
    Mutant(
        "what does not fit in a batch of announcements is lost",
        (
            (
                "pump/_turn.pyx",
                "        elif at.at >= frames:\n",
                "        else:\n",
            ),
        ),
    ),
    Mutant(
        "the first address is announced in place of all",
        (
            (
                "pump/_turn.pyx",
                "            which = at.at % host.block.address_count\n",
                "            which = 0\n",
            ),
        ),
    ),
    Mutant(
        "the next turn is planned without the next deadline",
        (
            (
                "pump/_turn.pyx",
                "at_ns = engine_next_deadline(core)",
                "at_ns = -1",
            ),
        ),
    ),
    Mutant(
        "a turn that heard frames waits for the next deadline",
        (
            (
                "pump/_turn.pyx",
                "    if turn.any_frame and (at_ns < 0 or at_ns > next_tick_ns):\n",
                "    if False:\n",
            ),
        ),
    ),
    Mutant(
        "the next turn is planned later than the shortest interval",
        (
            (
                "pump/_turn.pyx",
                "at_ns > now_ns + core.shortest_ns // 2):\n"
                "        at_ns = (now_ns + core.shortest_ns // 2)",
                "at_ns > now_ns + core.shortest_ns * 2):\n"
                "        at_ns = (now_ns + core.shortest_ns * 2)",
            ),
        ),
    ),
    Mutant(
        "nobody waits for frames where none came",
        (
            (
                "pump/_turn.pyx",
                "    turn.watching = not turn.any_frame\n",
                "    turn.watching = False\n",
            ),
        ),
    ),
    Mutant(
        "what a look finds is not compared",
        (
            (
                "pump/_look.pyx",
                "verify_hosts(core, look.number, find, where, now_ns)\n",
                "pass\n",
            ),
        ),
    ),
    Mutant(
        "a change without an outcome is asked for again",
        (("engine/_upkeep.pyx", "    if address.flags & ASKED:\n        return 0\n", ""),),
        caught_by=(
            OF_A_BUSY_KERNEL
            + "test_a_new_configuration_while_a_lost_address_is_added_is_no_change_of_addresses",
        ),
    ),
    Mutant(
        "a host is done before the last outcome of its addresses",
        (
            (
                "pump/_turn.pyx",
                "    if not host.asked and turn.changing.slot != change.slot:\n",
                "    if turn.changing.slot != change.slot:\n",
            ),
        ),
    ),
    Mutant(
        "a host is done as soon as its changes were handed over",
        (
            (
                "pump/_turn.pyx",
                "        if not turn.core.hosts[turn.changed[i]].asked:\n",
                "        if True:\n",
            ),
        ),
    ),
    Mutant(
        "an outcome on an interface that is gone counts",
        (
            (
                "pump/_turn.pyx",
                "    if change.ifindex != core.interfaces[host.interface].ifindex:\n",
                "    if False:\n",
            ),
        ),
        caught_by=(
            "unit/test_netlink.py::test_an_outcome_on_an_interface_that_is_gone_does_not_count",
        ),
    ),
    Mutant(
        "a former time as MASTER is announced",
        (
            (
                "engine/_actions.pyx",
                "                or not host.flags & ANNOUNCING):\n",
                "                ):\n",
            ),
        ),
        caught_by=(OF_A_BUSY_KERNEL + "test_an_announcement_of_a_former_time_as_master_waits_too",),
    ),
    Mutant(
        "a resignation does not wait for the removal",
        (
            (
                "engine/_core.pxd",
                "    LEAVING_NS = 1000000000\n    LEAVING_FIRST_NS = 10000000\n",
                "    LEAVING_NS = 0\n    LEAVING_FIRST_NS = 0\n",
            ),
        ),
    ),
    Mutant(
        "a resignation waits for the removal for ever",
        (("engine/_core.pxd", "    LEAVING_NS = 1000000000\n", "    LEAVING_NS = 9000000000\n"),),
    ),
    Mutant(
        "a removed host does not wait for outcomes",
        (
            (
                # While a change has no outcome, TO_CHANGE_ADDRESSES is pending, too.
                "engine/_actions.pyx",
                "not host.held and not host.asked and not host.pending & (\n"
                "        TO_CHANGE_ADDRESSES | TO_RESIGN",
                "not host.held and not host.pending & (\n        TO_RESIGN",
            ),
        ),
        caught_by=(
            OF_A_BUSY_KERNEL
            + "test_a_host_removed_while_its_addresses_are_added_removes_them_first",
        ),
    ),
    Mutant(
        "an outcome is lost in a reload",
        (
            (
                "engine/_orders.pyx",
                "HELD | FOREIGN | FAILED | LOST | LOST_WITH_OURS | ASKED)",
                "HELD | FOREIGN | FAILED | LOST | LOST_WITH_OURS)",
            ),
        ),
        caught_by=(
            OF_A_BUSY_KERNEL
            + "test_a_new_configuration_while_a_lost_address_is_added_is_no_change_of_addresses",
        ),
    ),
    Mutant(
        "changes that no longer apply are carried out",
        (
            (
                "engine/_core.pyx",
                "<uint16_t>(core.hosts[slot].generation + 1))",
                "core.hosts[slot].generation)",
            ),
        ),
        caught_by=("unit/test_netlink.py::test_a_change_that_no_longer_applies_is_not_sent",),
    ),
    Mutant(
        "an order puts off an advertisement",
        (("engine/_core.pyx", "    if due_ns < host.deadline_ns:", "    if False:"),),
    ),
    Mutant(
        "a change begins the wait of a BACKUP anew",
        (
            (
                "engine/_orders.pyx",
                "max(began_ns + down_ns + jitter_ns,",
                "max(now_ns + down_ns + jitter_ns,",
            ),
        ),
    ),
    Mutant(
        "a refused advertisement waits for its next interval",
        (
            (
                "engine/_actions.pyx",
                "        if (now_ns // tick_ns + ticks) * tick_ns < host.deadline_ns:",
                "        if False:",
            ),
        ),
    ),
    Mutant(
        "three failures in a row demote at once",
        (
            (
                "engine/_actions.pyx",
                "            or now_ns - host.failing_ns < vhid_interval_ns(host)):",
                "            or False):",
            ),
        ),
    ),
    Mutant(
        "a refused resignation is not tried again",
        (("engine/_actions.pyx", "    elif now_ns - host.since_ns < OWED_NS:", "    elif False:"),),
    ),
    Mutant(
        "a refused announcement counts as sent",
        (
            (
                "pump/_turn.pyx",
                "        if frame.error:\n            goes_on",
                "        if False:\n            goes_on",
            ),
        ),
    ),
    Mutant(
        "a refused announcement goes on behind the frame that was refused",
        (
            (
                "engine/_actions.pyx",
                "        host.announce_from = at\n",
                "        host.announce_from = at + 1\n",
            ),
        ),
    ),
)
