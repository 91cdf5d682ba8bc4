"""Mutants of a state that is handed over: what is lost, or begins anew, in the other engine."""

from __future__ import annotations

from tests.simulation.mutant import Mutant

PLACING, FIELDS, STATE = "engine/_placing.pyx", "engine/_fields.pyx", "engine/_state.pyx"
ARRIVALS = "pump/_arrivals.pyx"
OF_STATES = "unit/test_state.py::"
OF_PUMPS = "integration/test_pump_handed_over.py::"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a field of a host is not handed over",
        ((FIELDS, 'put(&HOST, "heard", offset(&h.heard), sizeof(h.heard))\n', ""),),
        caught_by=(
            "unit/test_state_fields.py::"
            "test_every_field_is_handed_over_or_rebuilt_for_a_reason[_vhid-VirtualHost-host-rebuilt0]",
        ),
    ),
    Mutant(
        "a deadline begins anew in an upgrade",
        (
            (
                PLACING,
                "        engine_set_deadline(core, slot, deadline_ns)\n",
                "        engine_set_deadline(core, slot, deadline_ns + 1000000000)\n",
            ),
        ),
    ),
    Mutant(
        "counters begin anew in an upgrade",
        (
            (
                PLACING,
                "    host.interface, host.recorded = fresh.interface, 0\n",
                "    host.interface, host.recorded = fresh.interface, 0\n"
                "    host.counter = fresh.counter\n",
            ),
        ),
    ),
    Mutant(
        "why a host is demoted is lost in an upgrade",
        (
            (
                PLACING,
                "    vhid_add_up(host)\n    if placing.changed[host.interface] ",
                "    memset(host.ordered, 0, 4)\n    vhid_add_up(host)\n"
                "    if placing.changed[host.interface] ",
            ),
        ),
    ),
    Mutant(
        "what sources have sent is lost in an upgrade",
        (
            (
                PLACING,
                "part_get(part, placing.source, vhid_source(host, of % SOURCES_APART))",
                "pass",
            ),
        ),
    ),
    Mutant(
        "what waits in queues is lost in an upgrade",
        (
            (
                PLACING,
                "    place_queues(placing)\n    for slot",
                "    for slot",
            ),
        ),
    ),
    Mutant(
        "addresses are added again in an upgrade",
        ((PLACING, "    KEPT_OF_ADDRESS = HELD | FOREIGN |", "    KEPT_OF_ADDRESS = FOREIGN |"),),
    ),
    Mutant(
        "absences before an upgrade are forgotten",
        ((PLACING, "        core.absences.count += 1\n", "        pass\n"),),
        caught_by=(f"{OF_STATES}test_whatever_comes_later_is_decided_as_the_former_engine_would",),
    ),
    Mutant(
        "former digests end with an upgrade",
        ((PLACING, "            block.alternates[at] = former\n", "            pass\n"),),
        caught_by=(f"{OF_STATES}test_former_digests_are_accepted_for_as_long_as_before",),
    ),
    Mutant(
        "groups are not decided again after an upgrade",
        ((PLACING, "    groups_decide(core, placing.now_ns)\n", "    pass\n"),),
        caught_by=(f"{OF_STATES}test_a_group_is_demoted_as_it_was_and_reported_once",),
    ),
    Mutant(
        "a word with another number is taken for another word",
        ((STATE, "    if WORDS[name] != number:\n", "    if False:\n"),),
        caught_by=(f"{OF_STATES}test_a_word_with_another_number_is_refused_by_name",),
    ),
    Mutant(
        "frames that the former pump heard are heard again",
        ((ARRIVALS, "            continue\n", "            pass\n"),),
        caught_by=(f"{OF_PUMPS}test_each_frame_is_heard_once",),
    ),
)
