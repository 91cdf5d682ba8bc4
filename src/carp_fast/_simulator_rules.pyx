"""The rules of CARP and of its dialects, written a second time, to judge the engine by.

What a host advertises, who yields to whom, who may take over, what was sent before: from a host's
configuration, the demotion that was ordered, and frames as they are on the wire. Of the engine
only a host's master-down time is asked, and whether its sends fail. Must not know what a world
does with a verdict.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from carp_fast._simulator_network cimport (
    Frame, Learned, MACHINES_MAX, MISSED_MAX, Machine, Missed, Slot)
from carp_fast._vhid cimport (
    DIALECT_FREEBSD, DIALECT_OPENBSD, DIALECT_UCARP, FASTER_MASTER, LESS_DEMOTED_MASTER,
    PREEMPT_ALWAYS, PREEMPT_DEMOTED, PREEMPT_NEVER, REPLAY_OFF, REPLAY_STRICT, SECOND_NS,
    SEND_DEMOTED, SOURCES, TIE_LOST, VirtualHost, vhid_master_down, vhid_master_down_ns)

cdef int64_t TICKS_NS = 20 * 1000000            # what a pump may not notice of an absence

cdef enum:
    MOST_DEMOTED = 240
    PROVEN = 3                      # advertisements in a row until a source has shown an order
    A_STEP = 65536                  # ... each above the last by so much at most
    ANEW = 3                        # refused in a row that ascend


# ------------------------------------------------------------------------------- what is advertised

cdef uint32_t rule_advskew(const Slot* known, const VirtualHost* host) noexcept nogil:
    """FreeBSD adds its demotion and stops at 240; ucarp goes no lower than its configuration.

    Who could not hold its addresses lately is demoted as far as possible.
    """
    cdef uint32_t configured = known.right.advskew
    cdef uint32_t demoted = configured + known.demotion
    if known.right.dialect == DIALECT_OPENBSD:
        return configured
    if demoted > MOST_DEMOTED or host.flags & SEND_DEMOTED or known.lost_at_ns:
        demoted = MOST_DEMOTED
    if known.right.dialect == DIALECT_UCARP and demoted < configured:
        return configured
    return demoted


cdef uint32_t rule_demote(const Slot* known, const VirtualHost* host) noexcept nogil:
    """Byte 4: OpenBSD's counter; nothing in the others."""
    if known.right.dialect != DIALECT_OPENBSD:
        return 0
    return min(255, <uint32_t>known.demotion + (1 if host.flags & SEND_DEMOTED else 0)
               + (MOST_DEMOTED if known.lost_at_ns else 0))


cdef uint32_t rule_interval(const Slot* known, const VirtualHost* host) noexcept nogil:
    """In 1/256 s."""
    return max(1, <uint32_t>known.right.advbase * 256 + rule_advskew(known, host))


cdef uint32_t least_skew(const Slot* known) noexcept nogil:
    """The advskew without demotion: it is never less."""
    if known.right.dialect == DIALECT_FREEBSD and known.right.advskew > MOST_DEMOTED:
        return MOST_DEMOTED
    return known.right.advskew


cdef int64_t rule_least_skew_ns(const Slot* known) noexcept nogil:
    return <int64_t>least_skew(known) * SECOND_NS // 256


cdef int64_t rule_least_master_down_ns(const Slot* known) noexcept nogil:
    """The master-down time without demotion: it is never shorter.

    OpenBSD multiplies the whole interval, the others only its seconds, where it has any.
    """
    cdef uint32_t ratio = known.right.dead_ratio, seconds = known.right.advbase * 256
    cdef uint32_t least = ratio * seconds + least_skew(known)
    if known.right.dialect == DIALECT_OPENBSD or not seconds:
        least = ratio * max(1, seconds + least_skew(known))
    return <int64_t>least * SECOND_NS // 256


# ----------------------------------------------------------------------------------- the election

cdef uint32_t rule_theirs(const Frame* frame) noexcept nogil:
    """The interval of who sent the frame, in 1/256 s."""
    cdef const uint8_t* carp = frame.bytes + frame.carp_at
    return max(1, <uint32_t>carp[5] * 256 + carp[2])


cdef uint64_t rule_counter(const Frame* frame) noexcept nogil:
    cdef uint64_t counter = 0
    cdef int i
    for i in range(8):
        counter = counter << 8 | frame.bytes[frame.carp_at + 8 + i]
    return counter


cdef bint rule_leaves(const Frame* frame, const VirtualHost* host) noexcept nogil:
    """Its master will be silent for longer than this host waits; OpenBSD's advbase 0 never looks.
    """
    if host.dialect == DIALECT_OPENBSD and host.advbase == 0:
        return False
    return rule_theirs(frame) > vhid_master_down(host)


cdef int compare_demotion(const Slot* known, const VirtualHost* host,
                          const Frame* frame) noexcept nogil:
    """Theirs less ours where demotion comes first, else 0."""
    if known.right.dialect != DIALECT_OPENBSD:
        return 0
    return <int>frame.bytes[frame.carp_at + 4] - <int>rule_demote(known, host)


cdef bint rule_may_preempt(const Slot* known, const VirtualHost* host,
                           const Frame* frame) noexcept nogil:
    cdef uint8_t preempt = known.right.preempt
    if preempt == PREEMPT_NEVER or compare_demotion(known, host, frame):
        return False
    if preempt == PREEMPT_DEMOTED and frame.bytes[frame.carp_at + 2] < MOST_DEMOTED:
        return False
    return rule_interval(known, host) < rule_theirs(frame)


cdef bint rule_more_demoted(const Slot* known, const VirtualHost* host,
                            const Frame* frame) noexcept nogil:
    return compare_demotion(known, host, frame) > 0


cdef bint tie_goes_to(const Frame* frame, const VirtualHost* host) noexcept nogil:
    """Whether the sender precedes: in ucarp the lower source, an IPv4 one by its last octet first.

    On a BSD whoever hears yields.
    """
    cdef const uint8_t* theirs = frame.bytes + (26 if frame.family == 4 else 22)
    cdef int i
    if host.dialect != DIALECT_UCARP:
        return True
    if frame.family == 6:
        return memcmp(theirs, host.source6, 16) < 0
    for i in range(3, -1, -1):
        if theirs[i] != host.source4[i]:
            return theirs[i] < host.source4[i]
    return False


cdef bint rule_yields(const Slot* known, const VirtualHost* host, const Frame* frame,
                      uint8_t reason) noexcept nogil:
    """Whether a MASTER that hears the frame steps down, for this reason."""
    cdef int demotion = compare_demotion(known, host, frame)
    if reason == LESS_DEMOTED_MASTER:
        return demotion < 0
    if demotion:
        return False
    if reason == TIE_LOST:
        return rule_theirs(frame) == rule_interval(known, host) and tie_goes_to(frame, host)
    return reason == FASTER_MASTER and rule_theirs(frame) < rule_interval(known, host)


cdef bint rule_replaces(const Slot* known, const VirtualHost* host, const Slot* other,
                        const VirtualHost* master) noexcept nogil:
    """Whether a BACKUP that hears this master must not leave it at that."""
    cdef uint32_t ours = rule_demote(known, host), theirs = rule_demote(other, master)
    if ours != theirs:
        return ours < theirs
    if rule_interval(known, host) >= rule_interval(other, master):
        return False
    return known.right.preempt == PREEMPT_ALWAYS or (
        known.right.preempt == PREEMPT_DEMOTED and rule_advskew(other, master) >= MOST_DEMOTED)


# ----------------------------------------------------------------------------------------- silence

cdef int64_t longest_interval_ns(const Slot* known, const VirtualHost* host,
                                 int64_t since_ns) noexcept nogil:
    """Its own interval; where its priority changed since, the longest that it may have had."""
    cdef uint32_t interval = rule_interval(known, host)
    if known.priority_ns >= since_ns and known.right.dialect != DIALECT_OPENBSD:
        interval = max(interval, <uint32_t>known.right.advbase * 256 + MOST_DEMOTED)
    return <int64_t>interval * SECOND_NS // 256


cdef int64_t rule_silence_until_ns(const Machine* machine, const Slot* known, const VirtualHost* host,
                                   int64_t heard_ns) noexcept nogil:
    """How long a BACKUP that heard its master last at `heard_ns` must hear nobody to rise.

    What it missed since, being away for longer than its interval, comes on top; after that, and
    after each frame that its socket dropped, it listens for two intervals of that master, or for a
    whole master-down time where it was away as long as that.
    """
    cdef int64_t down_ns = rule_least_master_down_ns(known), until_ns = heard_ns + down_ns
    cdef int64_t interval_ns = longest_interval_ns(known, host, heard_ns)
    cdef int64_t listen_ns = down_ns, away_ns = 0
    cdef const Missed* missed
    cdef uint32_t i
    if known.theirs:
        listen_ns = min(down_ns, 2 * <int64_t>known.theirs * SECOND_NS // 256)
    for i in range(min(machine.missed_count, <uint32_t>MISSED_MAX)):
        missed = &machine.missed[i]
        if missed.until_ns <= heard_ns or 0 < missed.length_ns <= interval_ns + TICKS_NS:
            continue
        away_ns += missed.clock_ns
        until_ns = max(until_ns, missed.until_ns + (
            down_ns if missed.length_ns > down_ns + TICKS_NS else listen_ns))
    return max(until_ns, heard_ns + down_ns + away_ns)


# ------------------------------------------------------------------------------- ties that all lose

cdef void rule_fell(Slot* known, const VirtualHost* host, int64_t at_ns) noexcept nogil:
    """A MASTER stepped down: who was it for two master-down times has no ties any more."""
    if at_ns - known.rose_ns > 2 * vhid_master_down_ns(host):
        known.ties = 0
    known.alone_ns = at_ns


cdef int64_t rule_jitter_most_ns(const Slot* known, const VirtualHost* host) noexcept nogil:
    """How much longer a host may wait: a quarter interval after a tie, then a half, then all."""
    cdef int64_t interval_ns = <int64_t>rule_interval(known, host) * SECOND_NS // 256
    if known.ties == 0:
        return 0
    return interval_ns >> 2 if known.ties == 1 else interval_ns >> 1 if known.ties == 2 else interval_ns


cdef void rule_heard_after_tie(Slot* known, const VirtualHost* host, const Frame* frame,
                               int64_t at_ns) noexcept nogil:
    """A BACKUP took a frame, and is about to learn from it: does one master alone advertise?

    Where that has been so for two master-down times, never silent for two of its intervals, the
    ties are over: with the next frame that makes it wait for silence.
    """
    cdef int family = frame.family == 6
    cdef int64_t silent_ns = at_ns - known.learned[family][frame.sender].taken_ns
    if (frame.strange or known.keeper[family] != frame.sender + 1
            or silent_ns > 2 * <int64_t>rule_theirs(frame) * SECOND_NS // 256):
        known.alone_ns = at_ns
    elif (at_ns - known.alone_ns > 2 * vhid_master_down_ns(host) and not rule_leaves(frame, host)
            and not known.may_take_over):
        known.ties = 0


# ------------------------------------------------------------------------------------ sent before

cdef bint may_be_forgotten(const Slot* known) noexcept nogil:
    """More sources than a host remembers."""
    cdef uint32_t count = known.strangers
    cdef int family, machine
    for family in range(2):
        for machine in range(MACHINES_MAX):
            count += known.learned[family][machine].taken_ns != 0
    return count > SOURCES


cdef Expected rule_replay(const Slot* known, const VirtualHost* host, const Frame* frame,
                          int64_t at_ns) noexcept nogil:
    """What is to become of a genuine frame, whose counter may not be above the last.

    Refused is only what comes from a source that has shown an order, or with "strict"; and not
    where the source was silent for two of its intervals, or so long that its next advertisement
    comes after our master-down; what it sent in order, only after a whole master-down time. Nor
    where it goes on ascending from there.
    """
    cdef const Learned* learned = &known.learned[frame.family == 6][frame.sender]
    cdef uint64_t counter = rule_counter(frame)
    cdef int64_t down_ns = vhid_master_down_ns(host), silence_ns
    cdef bint again
    if frame.strange:
        return EITHER
    if (known.right.replay == REPLAY_OFF or not learned.taken_ns
            or counter > learned.highest):
        return TO_BE_TAKEN
    if known.right.replay != REPLAY_STRICT:
        silence_ns = down_ns
        if counter < learned.ordered_from:
            silence_ns = min(down_ns - in_ns(learned.interval), in_ns(2 * learned.interval))
        again = learned.refusals + 1 >= ANEW and counter > learned.refused
        if learned.ascended < PROVEN or again or at_ns - learned.taken_ns >= silence_ns:
            return TO_BE_TAKEN
    return EITHER if may_be_forgotten(known) else TO_BE_REFUSED


cdef inline int64_t in_ns(uint32_t interval) noexcept nogil:
    return <int64_t>interval * SECOND_NS // 256


cdef void rule_learn(Slot* known, const Frame* frame, bint taken, int64_t at_ns) noexcept nogil:
    """A genuine frame was taken, or refused as sent before."""
    cdef Learned* learned = &known.learned[frame.family == 6][frame.sender]
    cdef uint64_t counter = rule_counter(frame)
    if frame.strange:
        known.strangers += taken
    elif not taken:
        learned.refusals = learned.refusals + 1 if (
            learned.refusals and counter > learned.refused) else 1
        learned.refused = counter
    else:
        if not learned.taken_ns or not 0 < counter - learned.highest <= A_STEP:
            if counter != learned.highest or known.right.replay != REPLAY_OFF:
                learned.ascended = 0                    # below it wraps around, and is far, too
                learned.ordered_from = counter
        elif learned.ascended < PROVEN:
            learned.ascended += 1
        learned.highest, learned.taken_ns, learned.refusals = counter, at_ns, 0
        learned.interval = rule_theirs(frame)
