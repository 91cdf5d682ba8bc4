"""Mutants of the election: who yields, who rises, how long a host waits, what silence proves."""

from __future__ import annotations

from tests.simulation.mutant import Mutant

MUTANTS = (
    Mutant(
        "tie reversed",
        (
            (
                "engine/_vhid.pyx",
                "last_octet_first(host.source4) > last_octet_first(heard.source)",
                "last_octet_first(host.source4) < last_octet_first(heard.source)",
            ),
        ),
    ),
    Mutant(
        "tie over IPv6 reversed",
        (
            (
                "engine/_vhid.pyx",
                "memcmp(host.source6, heard.source, 16) > 0",
                "memcmp(host.source6, heard.source, 16) < 0",
            ),
        ),
    ),
    Mutant(
        "tie over IPv6 decided at once where IPv4 decides",
        (
            (
                "engine/_vhid.pyx",
                "if host.configured.expects_4 and now_ns - ",
                "if False and now_ns - ",
            ),
        ),
    ),
    Mutant(
        "tie without jitter",
        (
            (
                "engine/_vhid.pyx",
                "    host.jitter_us = <uint32_t>(wait_ns // 1000)",
                "    host.jitter_us = 0",
            ),
        ),
    ),
    Mutant(
        "tie: jitter does not double",
        (
            (
                "engine/_vhid.pyx",
                "(range_ns // JITTER_PARTS) << (host.ties - 1)",
                "range_ns // JITTER_PARTS",
            ),
        ),
    ),
    Mutant(
        "tie: jitter of an interval at once",
        (("engine/_vhid.pyx", "    if host.ties <= TIES_BELOW_INTERVAL:", "    if False:"),),
    ),
    Mutant(
        "tie: jitter undone by the next advertisement",
        (
            (
                "engine/_transitions.pyx",
                "elif host.ties and now_ns - host.settled_ns > 2 * down_ns:",
                "else:",
            ),
        ),
    ),
    Mutant(
        "a wait from what was read last, not from what arrived last",
        (
            (
                "engine/_transitions.pyx",
                "from_ns = max(now_ns, vhid_heard_ns(host))",
                "from_ns = now_ns",
            ),
        ),
    ),
    Mutant(
        "an advertisement that is read late begins a take-over",
        (
            (
                "engine/_vhid.pyx",
                "late = now_ns < vhid_heard_ns(host) or host.ties",
                "late = host.ties",
            ),
        ),
    ),
    Mutant(
        "an advertisement that is read late ends a take-over",
        (
            (
                "engine/_vhid.pyx",
                "if late and host.flags & (MASTER_LEAVES | CONTESTED):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "the silence of a family from what was read last",
        (
            (
                "engine/_receive.pyx",
                "host.heard_ns[this] = max(host.heard_ns[this], now_ns)",
                "host.heard_ns[this] = now_ns",
            ),
        ),
    ),
    Mutant(
        "tie: jitter never undone",
        (
            (
                "engine/_transitions.pyx",
                "elif host.ties and now_ns - host.settled_ns > 2 * down_ns:",
                "elif False:",
            ),
        ),
    ),
    Mutant(
        "tie: jitter undone by whoever is heard for two master-down times",
        (("engine/_vhid.pyx", "        host.settled_ns = now_ns\n", "        pass\n"),),
    ),
    Mutant(
        "tie: who was MASTER alone goes on with the former range",
        (
            (
                "engine/_transitions.pyx",
                "if previous == vhid.MASTER and now_ns - host.since_ns >",
                "if False and 0 >",
            ),
        ),
    ),
    Mutant(
        "tie: precedence not heeded",
        (
            (
                "engine/_vhid.pyx",
                "if host.flags & PRECEDED or not precedes(host, heard):",
                "if True:",
            ),
        ),
    ),
    Mutant(
        "tie: the lowest source never waits behind a BSD",
        (
            (
                "engine/_vhid.pyx",
                "if host.flags & PRECEDED or not host.ties & 1:",
                "if host.flags & PRECEDED:",
            ),
        ),
    ),
    Mutant(
        "tie: jitter moved behind a lower source twice",
        (
            (
                "engine/_vhid.pyx",
                "            and vhid_jitter_ns(host) < jitter_part_ns(host)):",
                "):",
            ),
        ),
    ),
    Mutant(
        "tie lost in dialect ucarp without jitter",
        (
            (
                "engine/_vhid.pyx",
                '("MASTER", "tie_lost",          "BACKUP", LOSE, ',
                '("MASTER", "tie_lost",          "BACKUP", YIELD, ',
            ),
        ),
    ),
    Mutant(
        "tie: jitter on the first rise after a resignation",
        (
            (
                "engine/_transitions.pyx",
                "now_ns + <int64_t>vhid_advskew(host) * vhid.SECOND_NS // 256)",
                "now_ns + vhid_interval_ns(host) // 4\n"
                "            + <int64_t>vhid_advskew(host) * vhid.SECOND_NS // 256)",
            ),
        ),
    ),
    Mutant(
        "tie of a BSD: take-overs from one demoted master not parted",
        (
            (
                "engine/_vhid.pyx",
                "return ON_CONTESTED if host.ties else ON_MASTER_DEMOTED",
                "return ON_MASTER_DEMOTED",
            ),
        ),
    ),
    Mutant(
        "the first advertisement of a master is not repeated",
        (("engine/_transitions.pyx", "if effects & vhid.ADVERTISE_AGAIN:", "if False:"),),
    ),
    Mutant(
        "an answer is not repeated",
        (
            (
                "engine/_transitions.pyx",
                "        engine_ask(core, &core.advertise, slot, vhid.TO_ADVERTISE)\n"
                "        advertise_again(core, slot, now_ns)\n",
                "        engine_ask(core, &core.advertise, slot, vhid.TO_ADVERTISE)\n",
            ),
        ),
    ),
    Mutant(
        "expire before receive: the engine expires what is not proven",
        (("engine/_transitions.pyx", "if host.deadline_ns > heard_until_ns:", "if False:"),),
    ),
    Mutant(
        "a silent source learned anew too late for a longer interval",
        (
            (
                "engine/_vhid.pyx",
                "min(2 * interval_ns, vhid_master_down_ns(host) - interval_ns)",
                "2 * interval_ns",
            ),
        ),
    ),
    Mutant(
        "hosts with one source both stay",
        (("engine/_vhid.pyx", "    if order < 0:\n", "    if False:\n"),),
    ),
    Mutant(
        "a tie with a ucarp that has our source goes on for ever",
        (
            (
                "engine/_vhid.pyx",
                "if now_ns - host.tie_since_ns > 2 * interval_ns else",
                "if False else",
            ),
        ),
    ),
    Mutant(
        "hosts with one source and one MAC both stay",
        (
            (
                "engine/_vhid.pyx",
                "vhid_any_mac(heard.source_mac):\n        return ON_TIE_YIELDED",
                "vhid_any_mac(heard.source_mac):\n        return ON_SLOWER",
            ),
        ),
    ),
    Mutant(
        "duplicate_source never ends",
        (("engine/_vhid.pxd", "DUPLICATE_ENDS = 2 ", "DUPLICATE_ENDS = 2000000 "),),
    ),
    Mutant(
        "address kept at BACKUP",
        (
            (
                "engine/_vhid.pyx",
                '"last_advertisement " + YIELD',
                '"last_advertisement arm_master_down"',
            ),
        ),
    ),
    Mutant(
        "renamed: taken for gone only when it is told to be",
        (
            (
                "engine/_transitions.pyx",
                "interface.ifindex == 0 or interface.renamed:",
                "interface.ifindex == 0:",
            ),
        ),
    ),
    Mutant(
        "renamed: addresses kept",
        (
            (
                "engine/_vhid.pyx",
                'LEAVE + " resign",             ""),',
                '"disarm resign",             ""),',
            ),
        ),
    ),
    Mutant(
        "hosts with a short interval advertise behind all others",
        (
            (
                "engine/_core.pyx",
                "        if vhid_interval_ns(host) < SECOND_NS:",
                "        if False:",
            ),
        ),
    ),
    Mutant(
        "absence means nothing",
        (("engine/_transitions.pyx", "elif waits_on(core, slot, now_ns):", "elif False:"),),
    ),
    Mutant(
        "absence: whatever its length counts, as by the shortest interval of all",
        (
            (
                "engine/_absence.pyx",
                "return absence.dropped or length_ns(absence) > interval_ns",
                "return True",
            ),
        ),
    ),
    Mutant(
        "absence: drops do not count",
        (
            (
                "engine/_absence.pyx",
                "return absence.dropped or length_ns(absence) > interval_ns",
                "return not absence.dropped and length_ns(absence) > interval_ns",
            ),
        ),
    ),
    Mutant(
        "absence: what was missed is not added",
        (("engine/_absence.pyx", "max(host.deadline_ns + missed_ns,", "max(host.deadline_ns,"),),
    ),
    Mutant(
        "absence: no two intervals of the master after it",
        (
            (
                "engine/_absence.pyx",
                "min(least_ns, down_ns) + vhid",
                "0 * min(least_ns, down_ns) + vhid",
            ),
        ),
    ),
    Mutant(
        "absence of a master-down: two intervals are enough",
        (("engine/_absence.pyx", "if missed_ns + asleep_ns < down_ns and master", "if master"),),
    ),
    Mutant(
        "absence: sleep forgotten",
        (("engine/_absence.pyx", "absence.since_ns + absence.asleep_ns", "absence.since_ns"),),
    ),
    Mutant(
        "absence counted again for ever",
        (("engine/_transitions.pyx", "    host.flags |= vhid.EXTENDED\n", "    pass\n"),),
    ),
    Mutant(
        "absence counted no more once a frame from before its end is read",
        (
            (
                "engine/_transitions.pyx",
                "~<uint32_t>vhid.OF_ONE_WAIT\n    engine_set",
                "~<uint32_t>(vhid.OF_ONE_WAIT & ~vhid.EXTENDED)\n    engine_set",
            ),
        ),
    ),
    Mutant(
        "resignation sent as BACKUP",
        (
            (
                "engine/_vhid.pyx",
                '("BACKUP", "resign",            "INIT",   "disarm", ',
                '("BACKUP", "resign",            "INIT",   "disarm remove_addresses resign", ',
            ),
        ),
    ),
    Mutant(
        "demotion lost: OpenBSD's byte 4 stays 0",
        (
            (
                "engine/_vhid.pyx",
                "    if host.configured.dialect != DIALECT_OPENBSD:\n        return 0",
                "    if True:\n        return 0",
            ),
        ),
    ),
    Mutant(
        "a MASTER without a source goes on",
        (
            (
                "engine/_transitions.pyx",
                "            if host.flags & vhid.UNSOURCED:\n                engine_event",
                "            if False:\n                engine_event",
            ),
        ),
    ),
    Mutant(
        "who yields without a source stays BACKUP",
        (
            (
                "engine/_transitions.pyx",
                "    if host.flags & vhid.UNSOURCED and host.state == vhid.BACKUP:",
                "    if False:",
            ),
        ),
    ),
    Mutant(
        "a BACKUP stays demoted for its sends",
        (("engine/_upkeep.pyx", "(0 if host.state == MASTER else SEND_DEMOTED)", "0"),),
    ),
    Mutant(
        "one reason of a demotion replaces another",
        (
            (
                "engine/_demotions.pyx",
                "    host.ordered[by] = ",
                "    host.ordered[0] = host.ordered[1] = host.ordered[3] = 0\n"
                "    host.ordered[by] = ",
            ),
        ),
    ),
    Mutant(
        "only the operator's demotion is sent",
        (
            (
                "engine/_vhid.pyx",
                "        host.demotion += host.ordered[by]",
                "        host.demotion = host.ordered[<int>BY_OPERATOR]",
            ),
        ),
    ),
    Mutant(
        "a reason of a demotion is shown as another one's",
        (
            (
                "engine/_vhid.pyx",
                "        return host.ordered[by]",
                "        return host.ordered[0]",
            ),
        ),
    ),
    Mutant(
        "a host in maintenance preempts",
        (
            (
                "engine/_vhid.pyx",
                "== PREEMPT_NEVER or host.ordered[<int>BY_MAINTENANCE]:",
                "== PREEMPT_NEVER:",
            ),
        ),
    ),
    Mutant(
        "a host takes over by hand from a faster master",
        (
            (
                "engine/_orders.pyx",
                "            and vhid_beats(host, master)):",
                "            and True):",
            ),
        ),
    ),
    Mutant(
        "an order to hand over is ignored",
        (
            (
                "engine/_orders.pyx",
                "        if core.hosts[slot].state == MASTER:\n"
                "            engine_event(core, slot, ON_ADDRESS_LOST, order.reason, now_ns)",
                "        pass",
            ),
        ),
    ),
    Mutant(
        "a slow master is preempted while a faster one is heard",
        (
            (
                "engine/_vhid.pyx",
                "may_preempt(host, heard, now_ns) or outdone(host, heard, now_ns):",
                "may_preempt(host, heard, now_ns):",
            ),
        ),
    ),
    Mutant(
        "a withheld host takes part",
        (("engine/_transitions.pyx", "    if host.flags & vhid.WITHHELD:", "    if False:"),),
    ),
    Mutant(
        "a demoted host is added undemoted",
        (
            ("engine/_orders.pyx", "<uint8_t>(order.value >> 8 * i)", "0"),
            ("engine/_orders.pyx", "        if amount:\n", "        if False:\n"),
        ),
        (
            "unit/test_engine_demotion.py::"
            "test_a_host_that_is_added_demoted_does_not_preempt_before_it_is",
        ),
    ),
)
