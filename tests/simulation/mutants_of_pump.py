"""Mutants of the pump and what it stands on: turn, sockets, netlink, orders, wheel, reports.

Most stand where the simulator has functions of its own, or none: `caught_by` names the tests.
"""

from __future__ import annotations

from tests.simulation.mutant import Mutant

SOCKETS = "tests/integration/test_pump_sockets.py::"
TURN, ENVIRONMENT = "pump/_turn.pyx", "pump/_environment.pyx"
ARRIVALS = "pump/_arrivals.pyx"
SOCKET, CHANGES = "pump/_socket.pyx", "pump/_changes.pyx"
EXISTING, PROMOTION = "pump/_existing.pyx", "pump/_promotion.pyx"
REQUESTS = "pump/_requests.pyx"
ORDERS, SOURCES = "engine/_orders.pyx", "engine/_sources.pyx"
ACTIONS, TRANSITIONS = "engine/_actions.pyx", "engine/_transitions.pyx"
OF_ROUTES = "integration/test_daemon_routes.py::"
RING, OF_RINGS = "pump/_ring.pyx", "unit/test_ring.py::"
OF_NETLINK = "unit/test_netlink.py::"
OF_A_BUSY_KERNEL = "unit/test_engine_busy_kernel.py::"

MUTANTS = (
    Mutant(
        "a full batch counts as read up to now",
        (
            (
                TURN,
                "    if count == turn.batch or intake.blocked:   # more may wait",
                "    if False:   # more may wait",
            ),
        ),
        caught_by=(
            "integration/test_pump_sockets.py::test_silence_counts_only_as_far_as_a_socket_was_read",
        ),
    ),
    Mutant(
        "a frame that is being written to a ring does not hold silence back",
        (
            (
                TURN,
                "heard_until_ns = since_ns if intake.blocked else until_ns",
                "heard_until_ns = until_ns",
            ),
        ),
        caught_by=(f"{OF_RINGS}test_silence_proves_nothing_while_a_frame_is_being_written",),
    ),
    Mutant(
        "no frame of a ring wakes the pump",
        ((ENVIRONMENT, "came |= ring_watch(&socket.ring)", "pass"),),
        caught_by=(
            f"{OF_RINGS}test_a_pump_sleeps_until_a_frame_wakes_it_and_then_reads_every_tick",
        ),
    ),
    Mutant(
        "what woke the pump stays in the socket of a ring",
        (
            (
                ENVIRONMENT,
                "        while not ring_take_waking(ring) and take_waking(socket.fd):\n",
                "        while False:\n",
            ),
        ),
        caught_by=(
            f"{OF_RINGS}test_a_pump_sleeps_until_a_frame_wakes_it_and_then_reads_every_tick",
        ),
    ),
    Mutant(
        "the slots of a ring's last batch are kept",
        ((ENVIRONMENT, "            ring_give_back(&socket.ring)\n", "            pass\n"),),
        caught_by=(f"{OF_RINGS}test_more_frames_than_a_batch_are_all_read",),
    ),
    Mutant(
        "a frame of a ring is read before it is published",
        ((RING, "        if ahead < 0:\n", "        if False:\n"),),
        caught_by=(f"{OF_RINGS}test_a_frame_that_is_not_published_keeps_those_behind_it_back",),
    ),
    Mutant(
        "what a ring drops is not noticed",
        ((RING, "load_acquire(&ring.control.full) + ring.lost", "ring.lost"),),
        caught_by=(f"{OF_RINGS}test_a_full_ring_is_reported_and_every_backup_waits_again",),
    ),
    Mutant(
        "the kernel's time of a frame is not bounded below",
        (
            (
                ARRIVALS,
                "if receiver.heard_until_ns - STAMP_SLACK_NS <= stamp_ns <= now_ns else",
                "if stamp_ns <= now_ns else",
            ),
        ),
        caught_by=("integration/test_daemon_time.py::test_a_stepped_wall_clock_changes_nothing",),
    ),
    Mutant(
        "the kernel's time of a frame is ignored",
        (
            (
                ARRIVALS,
                "    return stamp_ns if receiver.heard_until_ns",
                "    return now_ns if receiver.heard_until_ns",
            ),
        ),
        caught_by=(
            "integration/test_pump_sockets.py::test_all_paths_hear_the_same_and_judge_it_alike",
        ),
    ),
    Mutant(
        "the time that the machine was suspended does not count",
        (
            (
                TURN,
                "asleep_ns = max(0, suspended_ns - turn.suspended_ns)",
                "asleep_ns = 0",
            ),
        ),
    ),
    Mutant(
        "a former ifindex of an interface is still its own",
        (
            (
                ENVIRONMENT,
                "        memset(pump.ifindexes, 0, sizeof(pump.ifindexes))\n",
                "        pass\n",
            ),
        ),
        caught_by=(
            "integration/test_pump_sockets.py::test_a_former_ifindex_of_an_interface_is_not_heard",
        ),
    ),
    Mutant(
        "the pump does not wake to notice that it was away",
        (
            (
                TURN,
                "    if core.slots and (at_ns < 0 or at_ns > now_ns + core.shortest_ns // 2):",
                "    if False:",
            ),
        ),
    ),
    Mutant(
        "orders are done although what follows from them goes on",
        (
            (
                TURN,
                "turn.changing.slot == NOBODY and turn.asked == 0\n",
                "turn.changing.slot == NOBODY\n",
            ),
        ),
        caught_by=(
            "unit/test_pump_reports.py::test_nothing_is_done_while_the_addresses_of_a_host_change",
        ),
    ),
    Mutant(
        "silence counts as far as the first lane alone was read",
        (
            (
                TURN,
                "            common_ns = min(common_ns, receiver.heard_until_ns)\n",
                "            pass\n",
            ),
        ),
        caught_by=(
            "integration/test_pump_sockets.py::test_silence_counts_only_as_far_as_a_socket_was_read",
        ),
    ),
    Mutant(
        "an address of ours that exists already is a failure",
        (
            (
                CHANGES,
                "    elif change.added and found == FOUND_OURS:\n",
                "    elif False:\n",
            ),
        ),
        caught_by=(
            "integration/test_netlink_faults.py::test_our_addresses_come_and_go_whatever_fails",
        ),
    ),
    Mutant(
        "a route is removed whatever its protocol",
        ((CHANGES, "    request.body.rtm_protocol = OWN_PROTOCOL\n", ""),),
        caught_by=(OF_ROUTES + "test_what_another_program_has_is_left_alone",),
    ),
    Mutant(
        "a route that another program has is ours",
        (
            (
                CHANGES,
                "    if change.routed and found == FOUND_NONE and change.done and"
                " change.error == EEXIST:\n",
                "    if False:\n",
            ),
        ),
        caught_by=(OF_ROUTES + "test_what_another_program_has_is_left_alone",),
    ),
    Mutant(
        "routes that do not do any more stay",
        ((ORDERS, "        host.flags |= REPLACES_ROUTES\n", ""),),
        caught_by=(
            "unit/test_engine_routes.py::test_an_order_replaces_the_routes_of_a_master_by_addresses",
        ),
    ),
    Mutant(
        "an announcement in parts begins again with each",
        (("engine/_actions.pyx", "    core.hosts[slot].announce_from = at\n", ""),),
        caught_by=(
            "unit/test_engine_announcements.py"
            "::test_a_host_with_more_addresses_than_go_at_once_pauses_between",
        ),
    ),
    Mutant(
        "routes that may be gone are not looked at",
        (("engine/_core.pxd", "    core.interfaces[number].routes_due = 1\n", ""),),
    ),
    Mutant(
        "lost answers are not noticed",
        ((CHANGES, "        lost |= error == ENOBUFS\n", "        pass\n"),),
        caught_by=(OF_NETLINK + "test_a_lost_answer_leaves_what_became_of_its_change_open",),
    ),
    Mutant(
        "a batch counts as carried out without its last answer",
        (
            (
                CHANGES,
                "    if not lost and netlink.changes[netlink.count - 1].done:\n",
                "    if not lost:\n",
            ),
        ),
        caught_by=(OF_NETLINK + "test_only_the_last_answer_shows_that_a_batch_was_carried_out",),
    ),
    Mutant(
        "an answer to an older batch counts for this one",
        (
            (
                CHANGES,
                "            if header.nlmsg_seq - netlink.sequence >= netlink.count:\n"
                "                continue                            "
                "# of a batch that was given up\n"
                "            change = &netlink.changes[header.nlmsg_seq - netlink.sequence]\n",
                "            change = &netlink.changes[\n"
                "                (header.nlmsg_seq - netlink.sequence) % netlink.count]\n",
            ),
        ),
        caught_by=(OF_NETLINK + "test_an_answer_to_an_older_batch_is_none_to_this_one",),
    ),
    Mutant(
        "every batch has the numbers of the one before",
        (
            (
                CHANGES,
                "    netlink.sequence += CHANGES                     # no other answer",
                "    pass                     # no other answer",
            ),
        ),
        caught_by=(
            OF_NETLINK + "test_an_answer_to_an_older_batch_is_none_to_this_one",
            OF_NETLINK + "test_an_answer_to_another_message_is_none_to_a_change",
        ),
    ),
    Mutant(
        "what an older look found counts for this one",
        (
            (
                EXISTING,
                "            if header.nlmsg_seq == netlink.sequence:\n",
                "            if True:\n",
            ),
        ),
        caught_by=(OF_NETLINK + "test_a_look_takes_only_what_is_its_own",),
    ),
    Mutant(
        "any answer is one about promote_secondaries",
        ((PROMOTION, " or header.nlmsg_seq != netlink.sequence:\n", ":\n"),),
        caught_by=(OF_NETLINK + "test_an_answer_to_a_change_is_none_about_promote_secondaries",),
    ),
    Mutant(
        "the thread sends changes that no longer apply",
        (
            (
                REQUESTS,
                "    return load_acquire_16(request.generation) == request.change.generation",
                "    return True",
            ),
        ),
        caught_by=(OF_NETLINK + "test_a_change_that_no_longer_applies_is_not_sent",),
    ),
    Mutant(
        "changes of a replaced configuration still apply",
        ((ORDERS, "    engine_redirect(core, order.slot)\n", "    pass\n"),),
        caught_by=(OF_NETLINK + "test_a_change_that_no_longer_applies_is_not_sent",),
    ),
    Mutant(
        "a replaced configuration is not noticed while its addresses change",
        (
            (
                TURN,
                "        if host.block != at.block:                  # replaced",
                "        if False:                  # replaced",
            ),
        ),
        caught_by=(
            "unit/test_pump_reports.py::"
            "test_the_addresses_of_a_host_that_is_replaced_change_from_the_first_on",
        ),
    ),
    Mutant(
        "an outcome counts for the address that has the number now",
        (
            (
                ACTIONS,
                "    if which < block.address_count and vhid_same_address(",
                "    if which < block.address_count or vhid_same_address(",
            ),
        ),
        caught_by=(
            OF_A_BUSY_KERNEL
            + "test_an_answer_counts_for_its_address_wherever_a_new_configuration_has_it",
        ),
    ),
    Mutant(
        "an outcome of an address that is configured no longer ends nothing",
        (
            (
                TURN,
                "    if which != NOBODY:\n        address_changed(",
                "    if which == NOBODY:\n        return\n    if True:\n        address_changed(",
            ),
        ),
        caught_by=(OF_NETLINK + "test_a_change_that_no_longer_applies_is_not_sent",),
    ),
    Mutant(
        "changes are counted again when a configuration is replaced",
        (
            (
                ORDERS,
                "    host.held = 0                           # every change",
                "    host.held = host.asked = 0              # every change",
            ),
            (
                ORDERS,
                "        host.held += 1 if block.addresses[i].flags & HELD else 0\n        if",
                "        host.held += 1 if block.addresses[i].flags & HELD else 0\n"
                "        host.asked += 1 if block.addresses[i].flags & ASKED else 0\n        if",
            ),
        ),
        caught_by=(
            OF_A_BUSY_KERNEL
            + "test_answers_to_a_configuration_that_is_gone_do_not_hold_up_the_new_one",
        ),
    ),
    Mutant(
        "a repeat of an announcement outlives its time as MASTER",
        ((TRANSITIONS, "    host.repeat_in = host.retries = 0\n", "    host.retries = 0\n"),),
        caught_by=(
            OF_A_BUSY_KERNEL
            + "test_a_repeat_of_a_former_time_as_master_is_not_sent_with_the_first_announcement",
        ),
    ),
    Mutant(
        "announcements by time outlive their time as MASTER",
        (
            (
                TRANSITIONS,
                "    host.announce_at_ns = host.without_ns = host.leaving_ns = 0\n",
                "    host.without_ns = host.leaving_ns = 0\n",
            ),
        ),
        caught_by=(
            "unit/test_engine_addresses.py::"
            "test_announcements_by_time_end_with_their_time_as_master",
        ),
    ),
    Mutant(
        "another source takes the place of a master",
        (
            (
                SOURCES,
                "        if host.master[0] == i + 1 or host.master[1] == i + 1:\n",
                "        if False:\n",
            ),
        ),
        caught_by=(
            "unit/test_engine_strangers.py::"
            "test_a_master_keeps_its_place_though_all_others_were_heard_later",
        ),
    ),
    Mutant(
        "another source takes the place of a master in IPv6",
        ((SOURCES, " or host.master[1] == i + 1:\n", ":\n"),),
        caught_by=(
            "unit/test_engine_strangers.py::"
            "test_a_master_keeps_its_place_though_all_others_were_heard_later",
        ),
    ),
    Mutant(
        "the error of a frame ends its batch",
        (
            (
                SOCKET,
                "            batch.errors[at] = errno\n            at += 1",
                "            batch.errors[at] = errno\n            return",
            ),
        ),
        caught_by=(
            "integration/test_pump_sockets.py::test_failures_are_counted_for_the_virtual_host_whose_they_are",
        ),
    ),
    Mutant(
        "an interrupted call is an error of its frame",
        (
            (
                SOCKET,
                "        elif errno != EINTR:\n            batch",
                "        else:\n            batch",
            ),
        ),
        caught_by=(
            "integration/test_netlink_faults.py::test_an_interrupted_call_is_repeated_and_is_no_failure_of_a_frame",
        ),
    ),
    Mutant(
        "the interface of a raw socket's IPv4 packet is not read",
        ((SOCKET, "            arrival.ifindex = info.ipi_ifindex\n", "            pass\n"),),
        caught_by=(
            "integration/test_pump_sockets.py::test_all_paths_hear_the_same_and_judge_it_alike",
        ),
    ),
    Mutant(
        "what a raw socket dropped is not counted",
        (
            (
                SOCKET,
                "    total[0] = memory[SK_MEMINFO_DROPS]\n    return total[0] - before",
                "    return 0",
            ),
        ),
        caught_by=(
            "integration/test_pump_sockets.py::test_what_the_kernel_drops_is_counted_and_every_backup_waits_anew",
        ),
    ),
    Mutant(
        "addresses are still held after their interface has gone",
        (
            (
                ORDERS,
                "                host.block.addresses[i].flags &= ~<uint32_t>"
                "(HELD | FOREIGN | LOST | LOST_WITH_OURS)\n            host.held = 0",
                "                pass\n            host.held = 0",
            ),
        ),
        caught_by=("unit/test_engine_addresses.py::test_a_slot_is_used_again",),
    ),
    Mutant(
        "the newest former key gives way instead of the oldest",
        (
            (
                "engine/_grace.pyx",
                "        if block.alternates[i].until_ns < block.alternates[oldest].until_ns:",
                "        if block.alternates[i].until_ns > block.alternates[oldest].until_ns:",
            ),
        ),
        caught_by=(
            "unit/test_engine_orders.py::test_a_change_without_grace_leaves_former_digests_their_time",
        ),
    ),
    Mutant(
        "a host has the sources of the one that had its slot",
        (
            (
                ORDERS,
                "            memset(vhid_source(host, i), 0, sizeof(Source))\n    host.flags |=",
                "            pass\n    host.flags |=",
            ),
        ),
    ),
    Mutant(
        "a host behind another of its vhid stays in the table",
        (
            (
                "engine/_core.pyx",
                "        core.hosts[before].next_same = host.next_same",
                "        pass",
            ),
        ),
        caught_by=(
            "unit/test_engine_receive.py::test_one_vhid_in_several_groups_of_one_interface",
        ),
    ),
    Mutant(
        "marks have no room of their own among the reports",
        (("engine/_core.pyx", "        kept = 0\n", "        kept = RESERVED_REPORTS\n"),),
        caught_by=(
            "unit/test_pump_reports.py::test_a_mark_is_reported_at_once_though_other_reports_fill_the_ring",
        ),
    ),
    Mutant(
        "an empty wheel does not move on",
        (
            (
                "engine/_wheel.pyx",
                "    if not wheel.armed and wheel.tick < tick:\n        wheel.tick = tick",
                "    pass",
            ),
        ),
        caught_by=(
            "unit/test_engine.py::test_the_first_expire_on_a_machine_up_for_sixty_days_is_quick",
        ),
    ),
    Mutant(
        "every reset of counters is reported",
        (
            (
                SOURCES,
                "    if engine_may_tell(&host.told_reset_ms, arrived_ns):\n",
                "    if True:\n",
            ),
        ),
        caught_by=(
            "unit/test_engine_replay.py::test_resets_of_counters_are_all_counted_and_reported_once_a_minute",
        ),
    ),
    Mutant(
        "the last four bytes of a digest are not compared",
        (("engine/_auth.pyx", " | (first_end ^ second_end)) == 0", ") == 0"),),
        caught_by=("unit/test_auth.py::test_refuses_a_digest_with_any_one_bit_wrong",),
    ),
    Mutant(
        "the memory of an order goes with an earlier mark",
        (
            (
                "pump/_pump.pyx",
                "self.waiting.append((self.next_mark + 1, thing))",
                "self.waiting.append((self.next_mark, thing))",
            ),
        ),
        caught_by=(
            "unit/test_pump_reports.py::test_the_memory_of_an_order_stays_until_a_mark_after_it_is_done",
        ),
    ),
)
