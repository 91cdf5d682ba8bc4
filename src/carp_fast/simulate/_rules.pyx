"""The rules of CARP and its dialects, written a second time, independently of the engine.

What a host advertises, who yields to whom, who may take over, what was sent before: from a host's
configuration, the ordered demotion, and frames as they are on the wire. Of the engine it uses only
a host's master-down time, and whether its sends fail. Must not know what a world does with the
results.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from carp_fast.simulate._network cimport (
    Frame, Learned, MACHINES_MAX, MISSED_MAX, Machine, Missed, Nic, Sighting, Slot, World, grown)
from carp_fast.engine._vhid cimport (
    BY_ADDRESS, BY_LINK, BY_MAINTENANCE, BY_SENDS, DIALECT_FREEBSD, DIALECT_OPENBSD, DIALECT_UCARP,
    FASTER_MASTER, INIT, INTERFACE_MISSING, LESS_DEMOTED_MASTER, LINK_DOWN, NO_SOURCE,
    PREEMPT_ALWAYS, PREEMPT_DEMOTED, PREEMPT_NEVER, REPLAY_OFF, REPLAY_STRICT, SECOND_NS,
    SEND_DEMOTED, SOURCES, TIE_LOST, VirtualHost, vhid_master_down, vhid_master_down_ns)

cdef int64_t TICKS_NS = 20 * 1000000            # a pump may not notice so much of an absence

cdef enum:
    MOST_DEMOTED = 240
    PROVEN = 3                      # advertisements in a row after which a source has an order
    A_STEP = 65536                  # ... each above the last by so much at most
    A_GAP = 64                      # lost between two that a host has seen: it may know them
    ANEW = 3                        # refused in a row that ascend: learned again
    SEQUENCES = 3                   # of counters, far from each other, that a host remembers
    TURNING = 0x1000000000000       # counters before and after 2^64 that are compared across it
    UNTOLD_NS = 150000000           # tolerance for a host's times, with clocks that step

cdef enum Knowledge:                # of a counter
    NEW
    MAYBE_KNOWN
    SEEN_LATELY                     # as the next, but of a source without an order
    KNOWN_LATELY                    # for less than two master-down times
    KNOWN_LONG


# ------------------------------------------------------------------------------- what is advertised

cdef uint32_t ordered_demotion(const Slot* known) noexcept nogil:
    """What was ordered, by all reasons: they add up."""
    cdef uint32_t total = 0
    cdef int by
    for by in range(4):
        total += known.ordered[by]
    return total


cdef uint32_t rule_demoted_by(const Slot* known, const VirtualHost* host, int by) noexcept nogil:
    """The demotion that status has to show for a reason; without a link it is shown as 240."""
    cdef uint8_t why = host.reason
    if by < BY_LINK:
        return known.ordered[by]
    if by == BY_SENDS:
        return 0 if not host.flags & SEND_DEMOTED else (
            1 if known.right.configured.dialect == DIALECT_OPENBSD else MOST_DEMOTED)
    if by == BY_ADDRESS:
        return MOST_DEMOTED if known.lost_at_ns else 0
    return MOST_DEMOTED if known.state == INIT and (
        why == LINK_DOWN or why == INTERFACE_MISSING or why == NO_SOURCE) else 0


cdef uint32_t rule_advskew(const Slot* known, const VirtualHost* host) noexcept nogil:
    """FreeBSD adds its demotion up to 240; ucarp never sends less than its configuration.

    A host that could not hold its addresses lately is demoted as far as possible.
    """
    cdef uint32_t configured = known.right.configured.advskew
    cdef uint32_t demoted = configured + ordered_demotion(known)
    if known.right.configured.dialect == DIALECT_OPENBSD:
        return configured
    if demoted > MOST_DEMOTED or host.flags & SEND_DEMOTED or known.lost_at_ns:
        demoted = MOST_DEMOTED
    if known.right.configured.dialect == DIALECT_UCARP and demoted < configured:
        return configured
    return demoted


cdef uint32_t rule_demote(const Slot* known, const VirtualHost* host) noexcept nogil:
    """Byte 4: OpenBSD's counter; 0 in the others."""
    if known.right.configured.dialect != DIALECT_OPENBSD:
        return 0
    return min(255, ordered_demotion(known) + (1 if host.flags & SEND_DEMOTED else 0)
               + (MOST_DEMOTED if known.lost_at_ns else 0))


cdef uint32_t rule_interval(const Slot* known, const VirtualHost* host) noexcept nogil:
    """The interval in 1/256 s."""
    return max(1, <uint32_t>known.right.configured.advbase * 256 + rule_advskew(known, host))


cdef int64_t rule_interval_ns(const Slot* known, const VirtualHost* host) noexcept nogil:
    return <int64_t>rule_interval(known, host) * SECOND_NS // 256


cdef uint32_t least_skew(const Slot* known, const VirtualHost* configured) noexcept nogil:
    """The advskew of a configuration without demotion, which is the lowest."""
    if (known.right.configured.dialect == DIALECT_FREEBSD
            and configured.configured.advskew > MOST_DEMOTED):
        return MOST_DEMOTED
    return configured.configured.advskew


cdef uint32_t rule_least_advskew(const Slot* known) noexcept nogil:
    return least_skew(known, known.right)


cdef int64_t rule_least_skew_ns(const Slot* known) noexcept nogil:
    """The wait after a resignation; a change of priority since does not change it."""
    cdef uint32_t least = least_skew(known, known.right)
    cdef int variant
    if known.priority_ns >= known.left_at_ns:
        for variant in range(2):
            least = min(least, least_skew(known, known.variants[variant]))
    return <int64_t>least * SECOND_NS // 256


cdef int64_t rule_least_master_down_ns(const Slot* known) noexcept nogil:
    """The master-down time without demotion, which is the shortest.

    OpenBSD multiplies the whole interval, the others only its seconds, if it has any.
    """
    cdef uint32_t ratio = known.right.configured.dead_ratio
    cdef uint32_t seconds = known.right.configured.advbase * 256
    cdef uint32_t least = ratio * seconds + least_skew(known, known.right)
    if known.right.configured.dialect == DIALECT_OPENBSD or not seconds:
        least = ratio * max(1, seconds + least_skew(known, known.right))
    return <int64_t>least * SECOND_NS // 256


# ----------------------------------------------------------------------------------- the election

cdef uint32_t rule_theirs(const Frame* frame) noexcept nogil:
    """The interval of the frame's sender, in 1/256 s."""
    cdef const uint8_t* carp = frame.bytes + frame.carp_at
    return max(1, <uint32_t>carp[5] * 256 + carp[2])


cdef bint rule_follows(uint64_t counter, uint64_t other) noexcept nogil:
    """Whether a counter is later than another one: a sender goes on from 0 after 2^64 - 1.

    Only near there: two senders may have counters that are any number apart.
    """
    cdef uint64_t ahead = counter - other, behind = other - counter
    if ahead == 0 or behind < TURNING:
        return False
    return ahead < TURNING or counter > other


cdef uint64_t rule_counter(const Frame* frame) noexcept nogil:
    cdef uint64_t counter = 0
    cdef int i
    for i in range(8):
        counter = counter << 8 | frame.bytes[frame.carp_at + 8 + i]
    return counter


cdef bint rule_resigns(const Frame* frame) noexcept nogil:
    """Whether its sender resigns: 255/255. Any other that leaves is only too slow for us."""
    return rule_theirs(frame) == 255 * 256 + 255


cdef bint rule_leaves(const Frame* frame, const VirtualHost* host) noexcept nogil:
    """Whether its master will be silent for longer than our wait; with advbase 0 OpenBSD ignores
    it.
    """
    if host.configured.dialect == DIALECT_OPENBSD and host.configured.advbase == 0:
        return False
    return rule_theirs(frame) > vhid_master_down(host)


cdef int compare_demotion(const Slot* known, const VirtualHost* host,
                          const Frame* frame) noexcept nogil:
    """Their demote byte minus ours if demotion decides first, otherwise 0."""
    if known.right.configured.dialect != DIALECT_OPENBSD:
        return 0
    return <int>frame.bytes[frame.carp_at + 4] - <int>rule_demote(known, host)


cdef bint rule_may_preempt(const Slot* known, const VirtualHost* host,
                           const Frame* frame) noexcept nogil:
    cdef uint8_t preempt = known.right.configured.preempt
    if (preempt == PREEMPT_NEVER or known.ordered[<int>BY_MAINTENANCE]
            or compare_demotion(known, host, frame)):
        return False
    if preempt == PREEMPT_DEMOTED and frame.bytes[frame.carp_at + 2] < MOST_DEMOTED:
        return False
    return rule_interval(known, host) < rule_theirs(frame)


cdef bint rule_more_demoted(const Slot* known, const VirtualHost* host,
                            const Frame* frame) noexcept nogil:
    return compare_demotion(known, host, frame) > 0 and not known.ordered[<int>BY_MAINTENANCE]


cdef inline const uint8_t* source_of(const Frame* frame) noexcept nogil:
    return frame.bytes + (26 if frame.family == 4 else 22)


cdef bint rule_from_master(const Slot* known, const Frame* frame) noexcept nogil:
    """Whether its source is the one last heard in its family, or the first one."""
    cdef int family = frame.family == 6
    return not known.keeper[family] or memcmp(
        known.keeper_source[family], source_of(frame), 16 if family else 4) == 0


cdef void rule_note_master(Slot* known, const Frame* frame, bint late) noexcept nogil:
    """Note the frame's source as the last of its family; `late`: not of both."""
    cdef int family = frame.family == 6
    known.keeper[family] = 255 if frame.strange else <uint8_t>(frame.sender + 1)
    memcpy(known.keeper_source[family], source_of(frame), 16 if family else 4)
    known.keeper_interval[family] = rule_theirs(frame)
    known.keeper_demote[family] = frame.bytes[frame.carp_at + 4]
    if not late:
        known.theirs = rule_theirs(frame)


cdef bint tie_goes_to(const Frame* frame, const VirtualHost* host, const Nic* nic) noexcept nogil:
    """Whether the sender precedes: in ucarp the lower source, an IPv4 one by its last octet first.

    On a BSD the hearer yields.
    """
    cdef const uint8_t* theirs = source_of(frame)
    cdef int i
    if host.configured.dialect != DIALECT_UCARP:
        return True
    if frame.family == 6:
        return memcmp(theirs, nic.source6, 16) < 0
    for i in range(3, -1, -1):
        if theirs[i] != nic.source[i]:
            return theirs[i] < nic.source[i]
    return False


cdef bint rule_could_hold(const Slot* known, const VirtualHost* host) noexcept nogil:
    """Whether a machine that was heard would not take it back, if this host took over from it."""
    cdef int family
    cdef uint32_t ours = rule_demote(known, host)
    for family in range(2):
        if not known.keeper[family]:
            continue
        # One that has resigned does not take it back, however little it is demoted.
        if (known.right.configured.dialect == DIALECT_OPENBSD
                and known.keeper_interval[family] != 255 * 256 + 255
                and known.keeper_demote[family] != ours):
            if known.keeper_demote[family] > ours:
                return True
        elif known.keeper_interval[family] > rule_interval(known, host):
            return True
    return False


cdef bint rule_outdone(const Slot* known, const VirtualHost* host, const Frame* frame,
                       int64_t at_ns) noexcept nogil:
    """Whether a machine at least as fast was heard within its interval, besides the frame's sender.

    Nothing is known of a demote byte, nor of machines that the host may have forgotten.
    """
    cdef const Learned* learned
    cdef int machine
    if known.right.configured.dialect == DIALECT_OPENBSD or may_be_forgotten(known):
        return False
    for machine in range(MACHINES_MAX):
        learned = &known.learned[frame.family == 6][machine]
        if (machine != frame.sender and learned.taken_ns and learned.interval
                and at_ns - learned.taken_ns <= in_ns(learned.interval)
                and learned.interval <= rule_interval(known, host)):
            return True
    return False


cdef bint rule_yields(const Slot* known, const VirtualHost* host, const Nic* nic,
                      const Frame* frame, uint8_t reason) noexcept nogil:
    """Whether a MASTER that hears the frame steps down, for this reason.

    nic: its own sources, the last ones if they are gone.
    """
    cdef int demotion = compare_demotion(known, host, frame)
    if reason == LESS_DEMOTED_MASTER:
        return demotion < 0
    if demotion:
        return False
    if reason == TIE_LOST:
        return rule_theirs(frame) == rule_interval(known, host) and tie_goes_to(
            frame, host, nic)
    return reason == FASTER_MASTER and rule_theirs(frame) < rule_interval(known, host)


cdef bint rule_replaces(const Slot* known, const VirtualHost* host, const Slot* other,
                        const VirtualHost* master) noexcept nogil:
    """Whether a BACKUP that hears this master must do more than wait."""
    cdef uint32_t ours = rule_demote(known, host), theirs = rule_demote(other, master)
    if known.ordered[<int>BY_MAINTENANCE]:
        return False
    if ours != theirs:
        return ours < theirs
    if rule_interval(known, host) >= rule_interval(other, master):
        return False
    return known.right.configured.preempt == PREEMPT_ALWAYS or (
        known.right.configured.preempt == PREEMPT_DEMOTED
        and rule_advskew(other, master) >= MOST_DEMOTED)


# ----------------------------------------------------------------------------------------- silence

cdef int64_t longest_interval_ns(const Slot* known, const VirtualHost* host,
                                 int64_t since_ns) noexcept nogil:
    """Its own interval, or the longest that it may have had if its priority changed since."""
    cdef uint32_t interval = rule_interval(known, host)
    if known.priority_ns >= since_ns and known.right.configured.dialect != DIALECT_OPENBSD:
        interval = max(interval, <uint32_t>known.right.configured.advbase * 256 + MOST_DEMOTED)
    return <int64_t>interval * SECOND_NS // 256


cdef int64_t rule_silence_until_ns(const Machine* machine, const Slot* known,
                                   const VirtualHost* host, int64_t heard_ns) noexcept nogil:
    """How long a BACKUP that last heard its master at `heard_ns` must hear no master to rise.

    The time missed since, in absences longer than its interval, is added; after that, and after
    each frame that its socket dropped, it listens for two intervals of that master, or for a whole
    master-down time if it was away for as long as that. What was dropped after the end of its wait
    proves nothing about the wait, which may be judged later.
    """
    cdef int64_t down_ns = rule_least_master_down_ns(known), until_ns = heard_ns + down_ns
    cdef int64_t interval_ns = longest_interval_ns(known, host, heard_ns)
    cdef int64_t listen_ns = down_ns, away_ns = 0
    cdef const Missed* missed
    cdef uint32_t i, count = min(machine.missed_count, <uint32_t>MISSED_MAX)
    if known.theirs:
        listen_ns = min(down_ns, 2 * <int64_t>known.theirs * SECOND_NS // 256)
    for i in range(machine.missed_count - count, machine.missed_count):
        missed = &machine.missed[i % MISSED_MAX]
        if missed.until_ns <= heard_ns or 0 < missed.length_ns <= interval_ns + TICKS_NS:
            continue
        if missed.length_ns == 0 and missed.since_ns > max(until_ns, heard_ns + down_ns + away_ns):
            continue
        away_ns += missed.clock_ns
        until_ns = max(until_ns, missed.until_ns + (
            down_ns if missed.length_ns > down_ns + TICKS_NS else listen_ns))
    return max(until_ns, heard_ns + down_ns + away_ns)


# ------------------------------------------------------------------------------- ties that all lose

cdef void rule_fell(Slot* known, const VirtualHost* host, int64_t at_ns) noexcept nogil:
    """A MASTER stepped down: after two master-down times as MASTER its former ties are over."""
    if at_ns - known.rose_ns > 2 * vhid_master_down_ns(host):
        known.ties = 0
    known.alone_ns = at_ns


cdef int64_t rule_jitter_most_ns(const Slot* known, const VirtualHost* host) noexcept nogil:
    """The longest jitter of a host: a quarter interval after a tie, then a half, then a whole."""
    cdef int64_t interval_ns = rule_interval_ns(known, host)
    if known.ties == 0:
        return 0
    if known.ties == 1:
        return interval_ns >> 2
    return interval_ns >> 1 if known.ties == 2 else interval_ns


cdef void rule_heard_after_tie(Slot* known, const VirtualHost* host, const Frame* frame,
                               int64_t at_ns) noexcept nogil:
    """A BACKUP accepted a frame, and will learn from it: note whether a single master advertises.

    If that has been so for two master-down times, without silence of two of its intervals, the
    ties are over at the next frame that makes it wait for silence.
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
    """Whether there are more sources than a host remembers."""
    cdef uint32_t count = known.strangers
    cdef int family, machine
    for family in range(2):
        for machine in range(MACHINES_MAX):
            count += known.learned[family][machine].taken_ns != 0
    return count > SOURCES


cdef void sight(World* world, Slot* known, uint64_t counter, bint in_order,
                int64_t at_ns) noexcept nogil:
    """The host has sent or accepted this counter: it may know it from now on."""
    cdef uint32_t i
    cdef Sighting* seen
    cdef bint near = False
    for i in range(known.sighting_count):
        seen = &known.sightings[known.sighting_count - 1 - i]
        if seen.counter == counter:
            seen.in_order |= in_order
            return
        if seen.counter - counter <= A_GAP or counter - seen.counter <= A_GAP:
            near = True
            if seen.counter + 1 == counter:
                break                                   # the usual case: it is new to all
    if not near:
        known.sequences += 1
    if known.sighting_count == known.sighting_room:
        known.sightings = <Sighting*>grown(world, known.sightings, &known.sighting_room,
                                           sizeof(Sighting))
        if world.out_of_memory:
            return
    seen = &known.sightings[known.sighting_count]
    known.sighting_count += 1
    seen.counter, seen.at_ns, seen.in_order = counter, at_ns, in_order


cdef Knowledge knows(const Slot* known, const VirtualHost* host, uint64_t counter,
                     int64_t at_ns) noexcept nogil:
    """The host's knowledge of a counter.

    A host remembers ranges: counters between two that it has seen may count as seen. It need not
    report the last half of a master-down time, nor remember more than three sequences. A demotion
    lengthens that time, but not for what it had forgotten by the shorter one.
    """
    cdef uint32_t i
    cdef const Sighting* seen
    cdef Knowledge knowledge = NEW
    cdef int64_t down_ns = vhid_master_down_ns(host), age_ns
    cdef int64_t lately_ns = 2 * rule_least_master_down_ns(known) - UNTOLD_NS
    cdef bint passed_over = False                       # a higher one was seen long ago
    for i in range(known.sighting_count):
        seen = &known.sightings[i]
        age_ns = at_ns - seen.at_ns
        if seen.counter == counter:
            if age_ns < lately_ns:
                knowledge = KNOWN_LATELY if seen.in_order else SEEN_LATELY
            elif (seen.in_order and age_ns > 3 * down_ns + UNTOLD_NS
                  and known.sequences < SEQUENCES):
                return KNOWN_LONG
            else:
                return MAYBE_KNOWN
        elif seen.counter - counter <= A_GAP or counter - seen.counter <= A_GAP:
            passed_over |= rule_follows(seen.counter, counter) and age_ns >= lately_ns
            if knowledge == NEW:
                knowledge = MAYBE_KNOWN
    return MAYBE_KNOWN if passed_over else knowledge


cdef Expected rule_stranger(const Slot* known, const VirtualHost* host, const Frame* frame,
                            int64_t at_ns) noexcept nogil:
    """The expected outcome of a frame that was captured and is resent from a new source."""
    cdef uint64_t counter = rule_counter(frame)
    if known.right.configured.replay == REPLAY_OFF or not frame.stranger or known.stranger_taken:
        return EITHER
    if knows(known, host, counter, at_ns) == KNOWN_LONG:
        return TO_BE_REFUSED
    return EITHER


cdef bint goes_on(const Learned* learned, uint64_t counter, int64_t at_ns,
                  int64_t down_ns) noexcept nogil:
    """Whether a counter just below was accepted of its source, within a master-down time."""
    return (learned.taken_ns and 0 < counter - learned.highest <= A_GAP
            and at_ns - learned.taken_ns <= down_ns)


cdef Expected rule_replay(const Slot* known, const VirtualHost* host, const Frame* frame,
                          bint own, int64_t at_ns) noexcept nogil:
    """The expected outcome of a genuine frame, whose counter may not be above the last.

    A source that has sent a counter new to the host, and ascends, is accepted, whatever the host
    knows of the counter ("strict": unless it is known for long); so is one of which the counter
    just below was accepted within a master-down time. A counter known for long is refused from all
    others; one known lately, from a source that sends it the second time, or goes back in its
    order. An unknown counter below the source's order is new after a silence of two intervals, or
    one so long that the next advertisement would come after our master-down, and if the source
    continues to ascend from there, in the third of a row; a known one only so, and only from a
    source that has sent a new one.
    """
    cdef const Learned* learned = &known.learned[frame.family == 6][frame.sender]
    cdef uint64_t counter = rule_counter(frame)
    cdef bint strict = known.right.configured.replay == REPLAY_STRICT
    cdef bint back = learned.taken_ns and not rule_follows(counter, learned.highest)
    cdef int64_t silence_ns
    cdef bint anew, silent
    cdef Knowledge knowledge
    if frame.strange:
        return rule_stranger(known, host, frame, at_ns)
    if known.right.configured.replay == REPLAY_OFF:
        return TO_BE_TAKEN
    if own:
        return EITHER                                   # see ACCEPTED_LOOP
    if learned.genuine and not back and not strict and not may_be_forgotten(known):
        return TO_BE_TAKEN
    knowledge = knows(known, host, counter, at_ns)
    if knowledge >= MAYBE_KNOWN and goes_on(learned, counter, at_ns, vhid_master_down_ns(host)):
        if learned.genuine or rule_follows(counter, known.known_again[frame.family == 6]):
            return EITHER if may_be_forgotten(known) else TO_BE_TAKEN
        return EITHER
    if knowledge == KNOWN_LONG and (not learned.perhaps or back or strict):
        return EITHER if may_be_forgotten(known) else TO_BE_REFUSED
    if (knowledge == MAYBE_KNOWN or knowledge == KNOWN_LONG
            or (knowledge >= SEEN_LATELY and may_be_forgotten(known))):
        return EITHER                               # it may have forgotten which source was genuine
    if not back:
        if knowledge == NEW or learned.genuine or rule_follows(
                counter, known.known_again[frame.family == 6]):
            return TO_BE_TAKEN
        return EITHER
    if not strict and learned.ascended < PROVEN:
        return TO_BE_TAKEN if knowledge == NEW or learned.genuine else EITHER
    if not strict:                                      # what came in no order it may forget
        silence_ns = min(vhid_master_down_ns(host) - in_ns(learned.interval),
                         in_ns(2 * learned.interval))
        anew = learned.refusals + 1 >= ANEW and rule_follows(counter, learned.refused)
        silent = at_ns - learned.taken_ns >= silence_ns
        if anew and (knowledge == NEW or learned.genuine) or knowledge == NEW and silent:
            return TO_BE_TAKEN
        if knowledge == SEEN_LATELY and (anew or silent) or anew and learned.perhaps:
            return EITHER
    return EITHER if may_be_forgotten(known) else TO_BE_REFUSED


cdef inline int64_t in_ns(uint32_t interval) noexcept nogil:
    return <int64_t>interval * SECOND_NS // 256


cdef void rule_send(World* world, Slot* known, uint64_t counter, int64_t at_ns) noexcept nogil:
    """The host advertises with this counter."""
    if known.right.configured.replay != REPLAY_OFF:
        sight(world, known, counter, True, at_ns)


cdef void rule_learn(World* world, Slot* known, const VirtualHost* host, const Frame* frame,
                     bint taken, int64_t at_ns) noexcept nogil:
    """A genuine frame was taken, or refused as sent before."""
    cdef Learned* learned = &known.learned[frame.family == 6][frame.sender]
    cdef uint64_t counter = rule_counter(frame)
    cdef Knowledge knowledge = NEW
    if not taken:
        if not frame.strange:
            learned.refusals = learned.refusals + 1 if (
                learned.refusals and rule_follows(counter, learned.refused)) else 1
            learned.refused = counter
        return
    if known.right.configured.replay != REPLAY_OFF and (frame.strange or not learned.genuine):
        knowledge = knows(known, host, counter, at_ns)
        if (frame.strange or not learned.genuine) and knowledge != NEW:
            if rule_follows(counter, known.known_again[frame.family == 6]):
                known.known_again[frame.family == 6] = counter
    if frame.strange:
        known.strangers += 1
        known.stranger_taken |= knowledge != KNOWN_LATELY and knowledge != SEEN_LATELY
        return
    if not learned.taken_ns or not 0 < counter - learned.highest <= A_STEP:
        if counter != learned.highest or learned.ascended < PROVEN:
            learned.ascended = 0                        # below it wraps around, and is far, too
    elif learned.ascended < PROVEN:
        learned.ascended += 1
    learned.highest, learned.refusals = counter, 0
    learned.taken_ns = max(learned.taken_ns, at_ns)
    learned.interval = rule_theirs(frame)
    if known.right.configured.replay != REPLAY_OFF:
        learned.genuine |= knowledge == NEW
        learned.perhaps |= knowledge == NEW or knowledge == MAYBE_KNOWN
        sight(world, known, counter, learned.genuine and learned.ascended > 1, at_ns)
