"""The virtual host: its timing and its state machine INIT / BACKUP / MASTER, as one table.

Turns an advertisement into an event and looks the event's effects up; carries out nothing.
Source of the rules: carp_proto_input_c, carp_master_down and carp_setrun in the BSDs' ip_carp.c,
and ucarp's carp.c where they differ (tie, master-down). Uses no socket, clock or table of hosts.
"""

from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from carp_fast.engine._history cimport HISTORY_NEAR, counter_above, history_ms
from carp_fast.engine._wire cimport Advertisement

STATE_WORDS = ("INIT", "BACKUP", "MASTER")
REASON_WORDS = (
    "", "started", "link_up", "link_down", "interface_missing", "interface_found", "no_source",
    "source_found", "startup_delay", "master_down", "master_resigned", "preempted",
    "faster_master", "tie_lost", "address_lost", "resigned", "less_demoted_master",
    "master_demoted", "in_use", "freed", "address_deadline", "master_too_slow", "track_failed",
    "group_demoted", "yielded", "taken_over", "maintenance", "maintenance_over")
DEMOTION_WORDS = (
    "operator", "track", "group", "maintenance", "link", "send_errors", "address_lost")
EVENT_WORDS = (
    "ready", "not_ready", "renamed", "master_heard", "slower_master", "master_leaving",
    "master_left", "master_down", "advertisement_due", "faster", "tie_lost", "slower",
    "less_demoted", "master_demoted", "tie_yielded", "contested", "our_turn", "address_lost",
    "resign", "source_lost")
EFFECT_WORDS = {
    "arm_master_down": ARM_MASTER_DOWN, "arm_skew": ARM_SKEW, "disarm": DISARM,
    "advertise": ADVERTISE, "last_advertisement": LAST_ADVERTISEMENT, "answer": ANSWER,
    "add_addresses": ADD_ADDRESSES, "remove_addresses": REMOVE_ADDRESSES, "resign": RESIGN,
    "arm_jittered": ARM_JITTERED, "arm_jitter": ARM_JITTER, "advertise_again": ADVERTISE_AGAIN}
assert len(REASON_WORDS) == REASONS and len(EVENT_WORDS) == EVENTS
assert len(DEMOTION_WORDS) == DEMOTIONS
assert sizeof((<VirtualHost*>NULL).ordered) == ORDERED_BY
assert sizeof(Source) == 64 and sizeof(VirtualHost) % 64 == 0, sizeof(VirtualHost)

# The whole election. Other events change nothing. An empty reason: the event has its own.
cdef str RISE = "advertise advertise_again add_addresses"
cdef str YIELD = "arm_master_down remove_addresses"
cdef str LOSE = "arm_jittered remove_addresses"
cdef str LEAVE = "disarm remove_addresses"
TRANSITIONS = (
    # state     event                next      effects                        reason
    ("INIT",   "ready",             "BACKUP", "arm_master_down",             ""),
    ("INIT",   "not_ready",         "INIT",   "disarm",                      ""),
    ("INIT",   "resign",            "INIT",   "disarm",                      "resigned"),
    ("BACKUP", "not_ready",         "INIT",   "disarm",                      ""),
    ("BACKUP", "master_heard",      "BACKUP", "arm_master_down",             ""),
    ("BACKUP", "slower_master",     "MASTER", RISE,                          "preempted"),
    ("BACKUP", "master_leaving",    "BACKUP", "arm_skew",                    ""),
    ("BACKUP", "master_left",       "MASTER", RISE,                          ""),
    ("BACKUP", "master_down",       "MASTER", RISE,                          "master_down"),
    ("BACKUP", "master_demoted",    "MASTER", RISE,                          "master_demoted"),
    ("BACKUP", "contested",         "BACKUP", "arm_jitter",                  ""),
    ("BACKUP", "our_turn",          "MASTER", RISE,                          ""),
    ("BACKUP", "resign",            "INIT",   "disarm",                      "resigned"),
    ("MASTER", "not_ready",         "INIT",   LEAVE,                         ""),
    ("MASTER", "renamed",           "INIT",   LEAVE + " resign",             ""),
    ("MASTER", "advertisement_due", "MASTER", "advertise",                   ""),
    ("MASTER", "faster",            "BACKUP", "last_advertisement " + YIELD, "faster_master"),
    ("MASTER", "tie_lost",          "BACKUP", LOSE,                          "tie_lost"),
    ("MASTER", "tie_yielded",       "BACKUP", LOSE,                          "tie_lost"),
    ("MASTER", "less_demoted",      "BACKUP", YIELD,                         "less_demoted_master"),
    ("MASTER", "slower",            "MASTER", "answer",                      ""),
    ("MASTER", "source_lost",       "INIT",   LEAVE + " resign",             "no_source"),
    ("MASTER", "address_lost",      "BACKUP", YIELD + " resign",             ""),
    ("MASTER", "resign",            "INIT",   LEAVE + " resign",             "resigned"),
)

cdef enum:
    RESIGNATION = 255 * 256 + 255   # as an interval
    TIES_BELOW_INTERVAL = 2         # after so many the jitter's range is a whole interval
    TIES_MAX = 255
    REFUSALS = 3                    # in a row that ascend: the source's counters are learned again

cdef Transition[3][EVENTS] table
memset(table, 0, sizeof(table))


def _fill() -> None:
    cdef Transition* row
    for state, event, following, effects, reason in TRANSITIONS:
        row = &table[<int>STATE_WORDS.index(state)][<int>EVENT_WORDS.index(event)]
        if row.known:
            raise AssertionError(f"two transitions for {state} on {event}")
        row.known = 1
        row.next = STATE_WORDS.index(following)
        row.reason = REASON_WORDS.index(reason)
        row.effects = sum(EFFECT_WORDS[word] for word in effects.split())


_fill()


cdef const Transition* vhid_transition(uint8_t state, Event event) noexcept nogil:
    """The row of the table, or NULL where the event changes nothing in that state."""
    cdef Transition* row = &table[state][<int>event]
    return row if row.known else NULL


cdef uint32_t vhid_demoted_by(const VirtualHost* host, int by) noexcept nogil:
    """The amount of the host's demotion by one reason, a DemotedBy."""
    if by < ORDERED_BY:
        return host.ordered[by]
    if by == BY_SENDS and host.flags & SEND_DEMOTED:
        if host.configured.dialect == DIALECT_OPENBSD:
            return OPENBSD_SEND_DEMOTION
        return DEMOTED_ADVSKEW
    if by == BY_ADDRESS and host.flags & ADDRESS_DEMOTED:
        return ADDRESS_DEMOTION
    if by == BY_LINK and host.state == INIT and (
            host.reason == LINK_DOWN or host.reason == INTERFACE_MISSING
            or host.reason == NO_SOURCE):
        return LINK_DEMOTION
    return 0


cdef void vhid_add_up(VirtualHost* host) noexcept nogil:
    """Set the sum of the ordered demotions, which every advertisement reads, from their amounts."""
    cdef int by
    host.demotion = 0
    for by in range(ORDERED_BY):
        host.demotion += host.ordered[by]


cdef uint8_t vhid_demote(const VirtualHost* host) noexcept nogil:
    """The demote byte that is sent: OpenBSD's, 0 in the other dialects."""
    cdef uint32_t demote = host.demotion
    if host.configured.dialect != DIALECT_OPENBSD:
        return 0
    if host.flags & SEND_DEMOTED:
        demote += OPENBSD_SEND_DEMOTION
    if host.flags & ADDRESS_DEMOTED:
        demote += ADDRESS_DEMOTION
    return <uint8_t>(demote if demote < 255 else 255)


cdef int64_t vhid_silence_ns(const VirtualHost* host, const Source* source) noexcept nogil:
    """The silence after which a source may have been restarted, with new counters.

    It is two of the source's intervals, so that one lost advertisement is not a silence; but short
    enough for an advertisement that follows a refused one to be accepted before our master-down
    time is over. That depends on the source's interval, not on ours: it decides when the next one
    comes.
    """
    cdef int64_t interval_ns = (<int64_t>vhid_interval_of(source.advbase, source.advskew)
                                * SECOND_NS // 256)
    return max(0, min(2 * interval_ns, vhid_master_down_ns(host) - interval_ns))


cdef bint vhid_goes_on(const VirtualHost* host, const Source* source, const Advertisement* heard,
                       int64_t arrived_ns) noexcept nogil:
    """Whether the source is within its counters: one just below was accepted, just now.

    A master that others ran ahead of, without hearing it, sends all their counters before a new
    one.
    """
    return (source.heard_ns and 0 < heard.counter - source.counter <= HISTORY_NEAR
            and arrived_ns - source.heard_ns <= vhid_master_down_ns(host))


cdef int64_t vhid_stranger_ms(const VirtualHost* host, const Advertisement* heard,
                              int64_t arrived_ns) noexcept nogil:
    """How long ago a stranger's known counter was accepted in this family, ms; 0: it came later."""
    cdef uint32_t ago_ms = history_ms(arrived_ns) - host.stranger_ms[heard.family == 6]
    return ago_ms if ago_ms <= INT32_MAX else 0


cdef bint vhid_proves_order(const VirtualHost* host, Source* source,
                            const Advertisement* heard) noexcept nogil:
    """Count a counter in doubt; whether it is the third in a row that ascends."""
    source.refusals = source.refusals + 1 if (
        source.refusals and counter_above(heard.counter, source.refused)) else 1
    source.refused = heard.counter
    return source.refusals >= REFUSALS and host.configured.replay != REPLAY_STRICT


cdef inline int64_t jitter_part_ns(const VirtualHost* host) noexcept nogil:
    """A part of the jitter's range: a quarter interval, doubled by each tie, at most all of it."""
    cdef int64_t range_ns = vhid_interval_ns(host)
    if host.ties <= TIES_BELOW_INTERVAL:
        range_ns = (range_ns // JITTER_PARTS) << (host.ties - 1)
    return range_ns // JITTER_PARTS


cdef void vhid_tied(VirtualHost* host, uint64_t random) noexcept nogil:
    """The host lost a tie, or yielded: set the jitter of its waits from now on.

    The wait ends in the last quarter of the jitter's range, after hosts without jitter, such as a
    BSD; but in every other tie in the first quarter if no lower source was heard, before the hosts
    that have heard one. So both kinds of hosts are separated, even if advertisements take long.
    """
    cdef int64_t part_ns, wait_ns
    host.ties = host.ties + 1 if host.ties < TIES_MAX else TIES_MAX - 1
    part_ns = jitter_part_ns(host)
    wait_ns = <int64_t>(random % <uint64_t>part_ns)
    if host.flags & PRECEDED or not host.ties & 1:
        wait_ns += (JITTER_PARTS - 1) * part_ns
    host.jitter_us = <uint32_t>(wait_ns // 1000)


cdef void vhid_forget_ties(VirtualHost* host) noexcept nogil:
    host.ties = 0
    host.jitter_us = 0
    host.flags &= ~<uint32_t>PRECEDED


cdef bint vhid_is_own_source(const VirtualHost* host, const Advertisement* heard) noexcept nogil:
    if heard.family == 4:
        return memcmp(host.source4, heard.source, 4) == 0
    return memcmp(host.source6, heard.source, 16) == 0


cdef bint vhid_duplicate_over(const VirtualHost* host, int64_t now_ns) noexcept nogil:
    """Whether no other host was heard from our source for so long that it must be gone."""
    cdef uint32_t silent_ms = <uint32_t>(now_ns // 1000000) - host.duplicate_ms
    return (silent_ms <= INT32_MAX              # frames are not in the order of their arrival
            and silent_ms * <int64_t>1000000 > DUPLICATE_ENDS * vhid_master_down_ns(host))


cdef bint vhid_is_addressed(const VirtualHost* host, const Advertisement* heard) noexcept nogil:
    """Whether a unicast is addressed to the address that the host advertises from, if any."""
    cdef uint8_t[16] nowhere
    cdef uint32_t size = 4 if heard.family == 4 else 16
    memset(nowhere, 0, size)
    if memcmp(nowhere, heard.destination, size) == 0:
        return False                                # a host without a source has zeros
    if heard.family == 4:
        return memcmp(host.source4, heard.destination, 4) == 0
    return memcmp(host.source6, heard.destination, 16) == 0


cdef bint vhid_any_mac(const uint8_t* mac) noexcept nogil:
    """Whether this is a MAC: a raw socket has none, and leaves zeros in its place."""
    return mac[0] or mac[1] or mac[2] or mac[3] or mac[4] or mac[5]


cdef const Source* vhid_master(const VirtualHost* host) noexcept nogil:
    """The master that was heard last, of either family; NULL: none yet."""
    cdef const Source* found = NULL
    cdef const Source* source
    cdef int family
    for family in range(2):
        if host.master[family]:
            source = vhid_source(host, host.master[family] - 1)
            if found == NULL or source.heard_ns > found.heard_ns:
                found = source
    return found


cdef inline uint32_t last_octet_first(const uint8_t* address) noexcept nogil:
    # ucarp compares s_addr as a number of its little-endian machines: 10.0.2.1 < 10.0.1.2.
    return (<uint32_t>address[3] << 24 | <uint32_t>address[2] << 16
            | <uint32_t>address[1] << 8 | address[0])


cdef bint may_preempt(VirtualHost* host, const Advertisement* heard, int64_t now_ns) noexcept nogil:
    """Whether we may preempt this slower master: allowed, and the delay is over."""
    if host.configured.preempt == PREEMPT_NEVER or host.ordered[<int>BY_MAINTENANCE]:
        return False
    if host.configured.preempt == PREEMPT_DEMOTED and heard.advskew < DEMOTED_ADVSKEW:
        host.preempt_from_ns = 0                # the delay begins again with its demotion
        return False
    if host.preempt_from_ns == 0:
        host.preempt_from_ns = now_ns + <int64_t>host.configured.preempt_delay_ms * 1000000
    return now_ns >= host.preempt_from_ns


cdef bint precedes(const VirtualHost* host, const Advertisement* heard) noexcept nogil:
    """Whether the source heard is lower than ours: in IPv4 as ucarp compares it."""
    if heard.family == 4:
        return last_octet_first(host.source4) > last_octet_first(heard.source)
    return memcmp(host.source6, heard.source, 16) > 0


cdef void note_precedence(VirtualHost* host, const Advertisement* heard,
                          int64_t now_ns) noexcept nogil:
    """Heard in a tie: note if the other host takes precedence at the next rise.

    If both families are heard, IPv4 decides; otherwise each of two hosts could have precedence in
    one of them.
    """
    if host.flags & PRECEDED or not precedes(host, heard):
        return
    if (heard.family == 6 and host.configured.expects_4 and host.heard_ns[0]
            and now_ns - host.heard_ns[0] <= 2 * vhid_master_down_ns(host)):
        return
    host.flags |= PRECEDED
    # The jitter of a former tie may have been moved to the last quarter already.
    if (host.state == BACKUP and host.ties & 1
            and vhid_jitter_ns(host) < jitter_part_ns(host)):
        host.jitter_us += <uint32_t>((JITTER_PARTS - 1) * jitter_part_ns(host) // 1000)


cdef void follow_tie(VirtualHost* host, const Advertisement* heard, uint32_t theirs,
                     int64_t now_ns) noexcept nogil:
    """As BACKUP after a tie: note whether a single master is heard, and whether it was in the tie.

    A host that is not heard for two of its intervals has yielded, too, and is not a master yet.
    """
    cdef uint8_t known = host.master[heard.family == 6]
    cdef const Source* master = vhid_source(host, known - 1) if known else NULL
    if (master == NULL or memcmp(master.address, heard.source, 16) != 0
            or now_ns - master.heard_ns > 2 * <int64_t>theirs * SECOND_NS // 256):
        host.settled_ns = now_ns
    if theirs == vhid_interval(host):
        note_precedence(host, heard, now_ns)


cdef bint loses_tie(VirtualHost* host, const Advertisement* heard, int64_t now_ns) noexcept nogil:
    """Whether the other host has precedence: the lower source, in IPv4 as ucarp compares it.

    If both families are in use, IPv4 decides; otherwise two hosts could both yield, each in
    another family. Over IPv6 a tie is lost only if it lasts an interval without a decision in IPv4.
    """
    cdef int64_t interval_ns = vhid_interval_ns(host)
    if heard.family == 4:
        return precedes(host, heard)
    if host.tie_since_ns == 0 or now_ns - host.judged_ns > 2 * interval_ns:
        host.tie_since_ns = now_ns
    host.judged_ns = now_ns
    if host.configured.expects_4 and now_ns - host.tie_since_ns <= interval_ns:
        return False
    return precedes(host, heard)


cdef Event judge_twin(VirtualHost* host, const Advertisement* heard, int64_t now_ns) noexcept nogil:
    """Judge a tie with a host that has our source: the higher MAC stays, the lower one yields.

    An advertisement from our own MAC was sent before our restart, and we stay. If hosts share a
    virtual MAC, or our MAC is unknown, the hearer yields as in the BSDs, and jitter separates the
    two. A ucarp with our source never yields to it: a tie that lasts for two intervals after our
    answers is left to the other host. A BSD yields in any case.
    """
    cdef int order = memcmp(host.mac, heard.source_mac, 6)
    cdef int64_t interval_ns = vhid_interval_ns(host)
    if order == 0 and not vhid_virtual_mac(host):
        return ON_SLOWER
    if order == 0 or not vhid_any_mac(heard.source_mac):
        return ON_TIE_YIELDED
    if order < 0:
        return ON_TIE_LOST
    if host.tie_since_ns == 0 or now_ns - host.judged_ns > 2 * interval_ns:
        host.tie_since_ns = now_ns
    host.judged_ns = now_ns
    return ON_TIE_LOST if now_ns - host.tie_since_ns > 2 * interval_ns else ON_SLOWER


cdef Event judge_as_master(VirtualHost* host, const Advertisement* heard, uint32_t theirs,
                           bint duplicate, int64_t now_ns) noexcept nogil:
    cdef uint32_t ours = vhid_interval(host)
    if host.configured.dialect == DIALECT_OPENBSD and theirs != RESIGNATION:
        if heard.demote < vhid_demote(host):
            return ON_LESS_DEMOTED
        if heard.demote > vhid_demote(host):
            return ON_SLOWER
    if theirs < ours:
        return ON_FASTER
    if theirs > ours:
        return ON_SLOWER
    if duplicate:
        return judge_twin(host, heard, now_ns)
    note_precedence(host, heard, now_ns)
    if host.configured.dialect != DIALECT_UCARP:
        return ON_TIE_YIELDED
    return ON_TIE_LOST if loses_tie(host, heard, now_ns) else ON_SLOWER


cdef bint vhid_beats(const VirtualHost* host, const Source* master) noexcept nogil:
    """Whether the election keeps us MASTER against this one: it is slower, or more demoted, or has
    resigned. A resignation is the slowest of all, whatever its demotion.
    """
    cdef uint32_t theirs = vhid_interval_of(master.advbase, master.advskew)
    if (host.configured.dialect == DIALECT_OPENBSD and theirs != RESIGNATION
            and master.demote != vhid_demote(host)):
        return master.demote > vhid_demote(host)
    return vhid_interval(host) < theirs


cdef bint outdone(const VirtualHost* host, const Advertisement* heard,
                  int64_t now_ns) noexcept nogil:
    """Whether a host that we do not beat was heard within two of its intervals, besides this one.

    That one is the next MASTER, and makes the slower one step down: we would only come in between.
    A host may be heard over both families, so only this one counts.
    """
    cdef uint32_t i
    cdef const Source* other
    cdef int64_t interval_ns
    for i in range(SOURCES):
        other = vhid_source(host, i)
        if (other.heard_ns == 0 or other.family != heard.family
                or memcmp(other.address, heard.source, 16) == 0 or vhid_beats(host, other)):
            continue
        interval_ns = <int64_t>vhid_interval_of(other.advbase, other.advskew) * SECOND_NS // 256
        if now_ns - other.heard_ns <= 2 * interval_ns:
            return True
    return False


cdef Event judge_as_backup(VirtualHost* host, const Advertisement* heard, uint32_t theirs,
                           int64_t now_ns) noexcept nogil:
    cdef uint8_t known = host.master[heard.family == 6]
    # Read from another socket after one that arrived later, or after the tie that it lost: it
    # begins no take-over, and does not end what the later one began.
    cdef bint late = now_ns < vhid_heard_ns(host) or host.ties and now_ns < host.since_ns
    if host.ties:
        follow_tie(host, heard, theirs, now_ns)
    if late and host.flags & (MASTER_LEAVES | CONTESTED):
        return EVENTS
    # If its own advbase is 0, OpenBSD does not check for masters that will time out.
    if theirs > vhid_master_down(host) and (
            host.configured.advbase or host.configured.dialect != DIALECT_OPENBSD):
        # The digest does not cover the sender: only the master that we heard can resign.
        if known and memcmp(vhid_source(host, known - 1).address, heard.source, 16) != 0:
            return EVENTS
        if late:
            return EVENTS
        host.flags &= ~<uint32_t>MASTER_RESIGNS
        host.flags |= MASTER_RESIGNS if theirs == RESIGNATION else 0
        return ON_MASTER_LEAVING
    if host.configured.dialect == DIALECT_OPENBSD and heard.demote != vhid_demote(host):
        if (heard.demote > vhid_demote(host) and not late
                and not host.ordered[<int>BY_MAINTENANCE] and not outdone(host, heard, now_ns)):
            return ON_CONTESTED if host.ties else ON_MASTER_DEMOTED
    elif vhid_interval(host) < theirs:
        if late or not may_preempt(host, heard, now_ns) or outdone(host, heard, now_ns):
            return ON_MASTER_HEARD
        return ON_CONTESTED if host.ties else ON_SLOWER_MASTER
    if host.preempt_from_ns:                    # a write costs more than a look
        host.preempt_from_ns = 0
    return ON_MASTER_HEARD


cdef Event vhid_judge(VirtualHost* host, const Advertisement* heard, bint duplicate,
                      int64_t now_ns) noexcept nogil:
    """The event of a valid advertisement for `host`; EVENTS if it has no effect.

    In the BSDs equal hosts that take over from the same master tie, and all of them yield. That
    would repeat for ever: a host with ties waits for its jitter first. `duplicate`: another host
    sends from our own source address.
    """
    cdef uint32_t theirs = vhid_interval_of(heard.advbase, heard.advskew)
    if host.state == MASTER:
        return judge_as_master(host, heard, theirs, duplicate, now_ns)
    if host.state == BACKUP:
        return judge_as_backup(host, heard, theirs, now_ns)
    return EVENTS


cdef bint vhid_same_address(const Address* one, const Address* other) noexcept nogil:
    return (one.family == other.family and one.prefixlen == other.prefixlen
            and memcmp(one.bytes, other.bytes, 16) == 0)
