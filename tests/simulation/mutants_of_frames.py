"""Mutants of what is heard, sent and held: replays, lanes, addresses, announcements, turns."""

from __future__ import annotations

from tests.simulation.mutant import Mutant

MUTANTS = (
    Mutant(
        "digest not checked",
        (
            (
                "engine/_receive.pyx",
                "if not hearing.fits and not fits_alternate(&core.hosts[hearing.slot], heard, "
                "arrived_ns):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "checksum of CARP not checked",
        (("engine/_wire.pyx", "if wire_checksum(carp, CARP_LENGTH):", "if False:"),),
    ),
    Mutant(
        "checksum of IPv4 not checked",
        (
            (
                "engine/_wire.pyx",
                "if a.family == 4 and wire_checksum(a.ip, (a.ip[0] & 15) * 4):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "TTL not checked",
        (
            (
                "engine/_wire.pyx",
                "return BAD_TTL if hop_limit != 255 and not a.unicast else VERDICT_OK",
                "return VERDICT_OK",
            ),
        ),
    ),
    Mutant(
        "a source that was found a second ago is taken to be sorted",
        (
            (
                "engine/_lanes.pyx",
                "lanes.sources_told != lanes.sources_sorted or now_ns",
                "now_ns",
            ),
        ),
    ),
    Mutant(
        "a stranger that is read late is taken to be long ago",
        (("engine/_vhid.pyx", "return ago_ms if ago_ms <= INT32_MAX else 0", "return ago_ms"),),
    ),
    Mutant(
        "a counter past 2^64 is below those before",
        (
            (
                "engine/_history.pxd",
                "    return one - other <= COUNTER_TURN and one != other\n",
                "    return False\n",
            ),
        ),
    ),
    Mutant(
        "replay not checked",
        (
            (
                "engine/_receive.pyx",
                "    if source_replays(core, slot, source, heard, own, arrived_ns):",
                "    if False:",
            ),
        ),
    ),
    Mutant(
        "a silent source learned anew only after our master-down",
        (
            (
                "engine/_sources.pyx",
                "strict or arrived_ns - source.heard_ns < vhid_silence_ns(host, source)",
                "strict or arrived_ns - source.heard_ns < vhid_master_down_ns(host)",
            ),
        ),
    ),
    Mutant(
        "what a source sent in order is news after a short silence",
        (
            (
                "engine/_sources.pyx",
                "    elif known and back and (strict or source.ascended == ASCENDED):",
                "    elif False:",
            ),
        ),
    ),
    Mutant(
        "a constant counter shows an order",
        (("engine/_sources.pyx", "    if step == 0:\n", "    if False:\n"),),
    ),
    Mutant(
        "loop by counter alone",
        (
            (
                "engine/_receive.pyx",
                "cdef bint lately = own and sent_lately(",
                "cdef bint lately = sent_lately(",
            ),
        ),
    ),
    Mutant(
        "loop without our MAC",
        (("engine/_receive.pyx", "if lately and vhid_has_our_mac(host, heard):", "if lately:"),),
    ),
    Mutant(
        "loop for longer than an interval",
        (
            (
                "engine/_receive.pyx",
                "ago_ms >= 0 and (ago_ms - 1) * 1000000 <= vhid_interval_ns(host)",
                "ago_ms >= 0",
            ),
        ),
    ),
    Mutant(
        "our own frames are forgotten among the sequences of others",
        (
            (
                "engine/_history.pyx",
                "return last.count and counter - first < last.begin + last.count - first",
                "return False",
            ),
        ),
    ),
    Mutant(
        "our own counters begin where those heard do",
        (("engine/_actions.pyx", "    if not host.history.sent[0].count:\n", "    if True:\n"),),
    ),
    Mutant(
        "our own frames, late, are another host's",
        (
            (
                "engine/_receive.pyx",
                "if own and is_ours_late(host, heard, arrived_ns):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "what we sent long ago is taken from our own source",
        (
            (
                "engine/_sources.pyx",
                "    if age_ms * 1000000 > 2 * vhid_master_down_ns(host):\n",
                "    if age_ms * 1000000 > 2 * vhid_master_down_ns(host) and not own:\n",
            ),
        ),
    ),
    Mutant(
        "hosts with one source in step for ever",
        (("engine/_receive.pyx", "+ <uint64_t>arrived_ns) % LEAP", "+ <uint64_t>arrived_ns) % 1"),),
    ),
    Mutant(
        "ranges of counters lost when they are old",
        (
            (
                "engine/_history.pyx",
                "            retire(history, &lately[i])\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "ranges of counters retired too early",
        (
            (
                "engine/_history.pyx",
                "if lately[i].count and since_ms(lately[i].at_ms, now_ms) > 2 * <int64_t>span_ms:",
                "if lately[i].count and since_ms(lately[i].at_ms, now_ms) > <int64_t>span_ms // 2:",
            ),
        ),
    ),
    Mutant(
        "counters that were passed over are known",
        (("engine/_history.pxd", "HISTORY_NEAR = 64 ", "HISTORY_NEAR = 65536 "),),
    ),
    Mutant(
        "known counters are taken from strangers for ever",
        (
            (
                "engine/_sources.pyx",
                "    if age_ms * 1000000 > 2 * vhid_master_down_ns(host):\n",
                "    if age_ms * 1000000 > 2 * vhid_master_down_ns(host) and not stranger:\n",
            ),
        ),
    ),
    Mutant(
        "known counters are refused from a host that is not heard",
        (
            (
                "engine/_sources.pyx",
                "    if age_ms * 1000000 > 2 * vhid_master_down_ns(host):\n",
                "    if age_ms >= 0:\n",
            ),
        ),
    ),
    Mutant(
        "known counters are refused from known hosts",
        (
            (
                "engine/_sources.pyx",
                "    if not off and (own or stranger or back or strict):",
                "    if not off:",
            ),
        ),
    ),
    Mutant(
        "a known counter is taken from a stranger again and again",
        (("engine/_sources.pyx", "if back or is_used_up(host, heard, arrived_ns):", "if False:"),),
    ),
    Mutant(
        "whoever is taken is genuine",
        (("engine/_sources.pyx", "    source.genuine |= new\n", "    source.genuine |= True\n"),),
    ),
    Mutant(
        "an OpenBSD that moved is refused",
        (("engine/_sources.pyx", "if other.constant and arrived_ns", "if False and arrived_ns"),),
    ),
    Mutant(
        "a host that was apart for long is not answered",
        (
            (
                "engine/_receive.pyx",
                "            answer_stranger(core, slot, arrived_ns)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "one family's silence ignored: not said",
        (
            (
                "engine/_receive.pyx",
                "if (now_ns - since_ns > vhid_master_down_ns(host)\n",
                "if (False\n",
            ),
        ),
    ),
    Mutant(
        "one family's silence: absences do not count",
        (
            (
                "engine/_receive.pyx",
                "now_ns - absence_end(&core.absences, vhid",
                "now_ns - 0 * absence_end(&core.absences, vhid",
            ),
        ),
    ),
    Mutant(
        "one family's silence is enough to take over",
        (
            (
                "engine/_receive.pyx",
                "    if event != EVENTS:\n        engine_event",
                "    if event != EVENTS and not (host.state == BACKUP and heard.family == 6\n"
                "                                and host.configured.expects_4):\n"
                "        engine_event",
            ),
        ),
    ),
    Mutant(
        "no announcement",
        (
            (
                "engine/_actions.pyx",
                "    plan_announcement(host, now_ns)\n"
                "    engine_ask(core, &core.announce, slot, TO_ANNOUNCE)",
                "    plan_announcement(host, now_ns)",
            ),
        ),
    ),
    Mutant(
        "absence in a checkpoint forgotten",
        (
            (
                "engine/_assume.pyx",
                "    for i in range(was.absence_count):",
                "    for i in range(0):",
            ),
        ),
    ),
    Mutant(
        "lanes: every drop counts",
        (
            (
                "engine/_lanes.pyx",
                "    if covers(lanes, now_ns):\n        return False",
                "    if False:\n        return False",
            ),
        ),
    ),
    Mutant(
        "lanes: a drop of known sources does not count",
        (("engine/_lanes.pyx", "return lane == LANE_GENUINE", "return False"),),
    ),
    Mutant(
        "lanes: no drop of strangers ever counts",
        (
            (
                "engine/_lanes.pyx",
                "    if covers(lanes, now_ns):\n        return False",
                "    return False",
            ),
        ),
    ),
    Mutant(
        "lanes: where nobody is known drops count for ever",
        (
            (
                "engine/_lanes.pyx",
                "return now_ns - lanes.dropping_since_ns < UNPROVEN_NS",
                "return True",
            ),
        ),
    ),
    Mutant(
        "lanes: a source that was just found counts as sorted",
        (("engine/_lanes.pyx", "lanes.unsorted_until_ns = now_ns + TELL_AGAIN_NS", "pass"),),
    ),
    Mutant(
        "lanes: strangers' backlog is not waited for",
        (("engine/_lanes.pyx", "max(common_ns, genuine_ns - COMMON_LAG_NS)", "genuine_ns"),),
    ),
    Mutant(
        "lanes: strangers' backlog is waited for without end",
        (("engine/_lanes.pyx", "max(common_ns, genuine_ns - COMMON_LAG_NS)", "common_ns"),),
    ),
    Mutant(
        "a refused change is never tried again",
        (("engine/_upkeep.pyx", "host.retry_at_ns = now_ns + (RETRY_NS << host.retries)", "pass"),),
    ),
    Mutant(
        "what fails is tried again without waiting longer",
        (("engine/_upkeep.pyx", "host.retries = min(host.retries + 1, RETRIES_MAX)", "pass"),),
    ),
    Mutant(
        "a removed host leaves before its addresses are gone",
        (
            (
                "engine/_actions.pyx",
                "return host.flags & LEAVING and not host.held and not",
                "return host.flags & LEAVING and not",
            ),
        ),
    ),
    Mutant(
        "a lost address is not added again",
        (
            (
                "engine/_upkeep.pyx",
                "there == THERE_NONE and address.flags & (HELD | FOREIGN)",
                "False",
            ),
        ),
    ),
    Mutant(
        "an address of ours on a BACKUP stays",
        (
            (
                "engine/_upkeep.pyx",
                "host.state == MASTER or host.state == BACKUP) and (",
                "host.state == MASTER) and (",
            ),
        ),
    ),
    Mutant(
        "an address that another hand put in the place of ours is still ours",
        (("engine/_upkeep.pyx", "there == THERE_FOREIGN and address.flags & HELD", "False"),),
    ),
    Mutant(
        "the address of another virtual host is taken for ours",
        (("engine/_upkeep.pyx", "not held_elsewhere(core, slot, which)):", "True):"),),
    ),
    Mutant(
        "an address that is there and foreign is taken for ours",
        (
            (
                "engine/_actions.pyx",
                "    elif error:\n        if not address.flags & FOREIGN:",
                "    elif False:\n        if not address.flags & FOREIGN:",
            ),
        ),
    ),
    Mutant(
        "a removal of ours has nobody look what went with it",
        (
            (
                "engine/_actions.pyx",
                "verify_all_soon(core, host.interface, now_ns + REMOVED_NS)",
                "pass",
            ),
        ),
    ),
    Mutant(
        "nobody looks again before a minute has passed",
        (
            (
                "engine/_orders.pyx",
                "verify_all_soon(core, core.hosts[slot].interface, now_ns)",
                "pass",
            ),
        ),
    ),
    Mutant(
        "a MASTER without addresses stays",
        (("engine/_upkeep.pyx", "upkeep_lose(core, slot, ADDRESS_DEADLINE, now_ns)", "pass"),),
    ),
    Mutant(
        "a foreign address does not count as there",
        (
            (
                "engine/_upkeep.pyx",
                "there |= address.flags & (HELD | FOREIGN) != 0",
                "there |= address.flags & HELD != 0",
            ),
        ),
    ),
    Mutant(
        "who gave up for its addresses is not demoted",
        (("engine/_upkeep.pyx", "    host.flags |= ADDRESS_DEMOTED\n", ""),),
    ),
    Mutant(
        "the demotion for addresses ends at once",
        (("engine/_upkeep.pyx", "now_ns + (DEMOTED_NS << host.losses)", "now_ns + 1000000"),),
    ),
)
