"""The virtual host: its timing and its state machine INIT / BACKUP / MASTER, as one table.

Judges an advertisement into an event and looks up what the event means; carries out nothing.
Source of the rules: carp_proto_input_c, carp_master_down and carp_setrun in the BSDs' ip_carp.c,
and ucarp's carp.c where they differ (tie, master-down). Knows no socket, clock or table of hosts.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memset

from carp_fast._wire cimport Advertisement

STATE_WORDS = ("INIT", "BACKUP", "MASTER")
REASON_WORDS = (
    "", "started", "link_up", "link_down", "interface_missing", "interface_found", "no_source",
    "source_found", "startup_delay", "master_down", "master_resigned", "preempted",
    "faster_master", "tie_lost", "address_lost", "resigned")
EVENT_WORDS = (
    "ready", "not_ready", "master_heard", "slower_master", "master_leaving", "master_left",
    "master_down", "advertisement_due", "faster", "tie_lost", "slower", "address_lost", "resign")
EFFECT_WORDS = {
    "arm_master_down": ARM_MASTER_DOWN, "arm_skew": ARM_SKEW, "disarm": DISARM,
    "advertise": ADVERTISE, "last_advertisement": LAST_ADVERTISEMENT, "answer": ANSWER,
    "add_addresses": ADD_ADDRESSES, "remove_addresses": REMOVE_ADDRESSES, "resign": RESIGN}
assert len(REASON_WORDS) == REASONS and len(EVENT_WORDS) == EVENTS

# The whole election. What is not listed changes nothing. An empty reason: the event brings its own.
TRANSITIONS = (
    # state     event                next      effects                                     reason
    ("INIT",   "ready",             "BACKUP", "arm_master_down",                          ""),
    ("INIT",   "not_ready",         "INIT",   "disarm",                                   ""),
    ("INIT",   "resign",            "INIT",   "disarm",                                   "resigned"),
    ("BACKUP", "not_ready",         "INIT",   "disarm",                                   ""),
    ("BACKUP", "master_heard",      "BACKUP", "arm_master_down",                          ""),
    ("BACKUP", "slower_master",     "MASTER", "advertise add_addresses",                  "preempted"),
    ("BACKUP", "master_leaving",    "BACKUP", "arm_skew",                                 ""),
    ("BACKUP", "master_left",       "MASTER", "advertise add_addresses",                  "master_resigned"),
    ("BACKUP", "master_down",       "MASTER", "advertise add_addresses",                  "master_down"),
    ("BACKUP", "resign",            "INIT",   "disarm",                                   "resigned"),
    ("MASTER", "not_ready",         "INIT",   "disarm remove_addresses",                  ""),
    ("MASTER", "advertisement_due", "MASTER", "advertise",                                ""),
    ("MASTER", "faster",            "BACKUP", "last_advertisement arm_master_down remove_addresses", "faster_master"),
    ("MASTER", "tie_lost",          "BACKUP", "arm_master_down remove_addresses",         "tie_lost"),
    ("MASTER", "slower",            "MASTER", "answer",                                   ""),
    ("MASTER", "address_lost",      "BACKUP", "arm_master_down remove_addresses resign",  "address_lost"),
    ("MASTER", "resign",            "INIT",   "disarm remove_addresses resign",           "resigned"),
)

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


cdef uint8_t vhid_advskew(const VirtualHost* host) noexcept nogil:
    """The advskew that goes out: demotion makes at most 240 of it, and never less than it was."""
    cdef uint32_t skew = host.advskew + host.demotion
    if host.flags & SEND_DEMOTED:
        skew += DEMOTED_ADVSKEW
    if skew > DEMOTED_ADVSKEW:
        skew = DEMOTED_ADVSKEW
    return <uint8_t>(skew if skew > host.advskew else host.advskew)


cdef uint32_t vhid_interval(const VirtualHost* host) noexcept nogil:
    """Our advertisement interval in 1/256 s, demotion included: what the election compares."""
    return host.advbase * 256 + vhid_advskew(host)


cdef int64_t vhid_interval_ns(const VirtualHost* host) noexcept nogil:
    return <int64_t>vhid_interval(host) * SECOND_NS // 256


cdef uint32_t vhid_master_down(const VirtualHost* host) noexcept nogil:
    """The master-down time in 1/256 s, as ucarp: the ratio multiplies only the seconds.

    With advbase 0 the ratio multiplies the whole interval, else one lost packet would flip it.
    """
    if host.advbase == 0:
        return host.dead_ratio * vhid_interval(host)
    return <uint32_t>host.dead_ratio * host.advbase * 256 + vhid_advskew(host)


cdef int64_t vhid_master_down_ns(const VirtualHost* host) noexcept nogil:
    return <int64_t>vhid_master_down(host) * SECOND_NS // 256


cdef inline uint32_t last_octet_first(const uint8_t* address) noexcept nogil:
    # ucarp compares s_addr as a number of its little-endian machines: 10.0.2.1 < 10.0.1.2.
    return (<uint32_t>address[3] << 24 | <uint32_t>address[2] << 16
            | <uint32_t>address[1] << 8 | address[0])


cdef bint may_preempt(VirtualHost* host, const Advertisement* heard, int64_t now_ns) noexcept nogil:
    """Whether preemption is allowed against this slower master, its delay over."""
    if host.preempt == PREEMPT_NEVER:
        return False
    if host.preempt == PREEMPT_DEMOTED and heard.advskew < DEMOTED_ADVSKEW:
        host.preempt_from_ns = 0                # the delay begins anew with its demotion
        return False
    if host.preempt_from_ns == 0:
        host.preempt_from_ns = now_ns + <int64_t>host.preempt_delay_ms * 1000000
    return now_ns >= host.preempt_from_ns


cdef Event vhid_judge(VirtualHost* host, const Advertisement* heard, bint duplicate,
                      int64_t now_ns) noexcept nogil:
    """What a valid advertisement means to `host`; EVENTS when it means nothing.

    `duplicate`: another host sends from our own source address; on a tie we stay.
    """
    cdef uint32_t theirs = heard.advbase * 256 + heard.advskew
    cdef uint32_t ours = vhid_interval(host)
    if host.state == MASTER:
        if theirs < ours:
            return ON_FASTER
        if theirs > ours or duplicate:
            return ON_SLOWER
        if last_octet_first(host.source) <= last_octet_first(heard.source):
            return ON_SLOWER
        return ON_TIE_LOST
    if host.state != BACKUP:
        return EVENTS
    if theirs > vhid_master_down(host):
        # Nobody authenticates who resigns: only the master that we heard can leave.
        if host.peer_family and memcmp(host.peer, heard.source, 16) != 0:
            return EVENTS
        return ON_MASTER_LEAVING
    if ours < theirs:
        return ON_SLOWER_MASTER if may_preempt(host, heard, now_ns) else ON_MASTER_HEARD
    host.preempt_from_ns = 0
    return ON_MASTER_HEARD


cdef bint vhid_same_address(const Address* one, const Address* other) noexcept nogil:
    return (one.family == other.family and one.prefixlen == other.prefixlen
            and memcmp(one.bytes, other.bytes, 16) == 0)
