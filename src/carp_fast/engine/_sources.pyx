"""The sources that a virtual host hears: their places, and their counters, new, known or replayed.

Nothing here allocates, logs or uses a socket, a clock or a file.
"""

from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp

from carp_fast.engine._core cimport Core, COUNTER_RESET, engine_may_tell, engine_tell
from carp_fast.engine._history cimport (
    counter_above, HISTORY_NEAR, history_age_ms, history_is_ours, history_ms, history_note_late)
from carp_fast.engine._vhid cimport (
    REPLAY_OFF, REPLAY_STRICT, Source, SOURCES, vhid_goes_on, vhid_has_our_mac,
    vhid_interval_ns, vhid_master_down_ns, vhid_proves_order, vhid_silence_ns, vhid_source,
    vhid_span_ms, vhid_stranger_ms, VirtualHost)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport Advertisement

cdef enum:
    NEAR = 65536                    # advertisements in a row, each above the last by at most this
    ASCENDED = 3                    # ... as many: the source's counters are in order


cdef uint32_t source_known(const VirtualHost* host, const Advertisement* heard) noexcept nogil:
    """The index of the frame's source in the host's table, or NOBODY."""
    cdef uint32_t i
    cdef const Source* source
    for i in range(SOURCES):
        source = vhid_source(host, i)
        if source.family == heard.family and memcmp(source.address, heard.source, 16) == 0:
            return i
    return NOBODY


cdef uint32_t source_place(VirtualHost* host, const Source* new, int64_t now_ns) noexcept nogil:
    """Add a source: in a free place, or replacing the one that was heard longest ago.

    A master is not replaced, and a source that has been genuine only if all others have been, too:
    strangers who replay from many addresses displace only each other.
    """
    cdef uint32_t i, place = NOBODY
    cdef const Source* other
    cdef const Source* least = NULL
    for i in range(SOURCES):
        if host.master[0] == i + 1 or host.master[1] == i + 1:
            continue
        other = vhid_source(host, i)
        if least == NULL or least.family and (
                other.family == 0 or other.genuine < least.genuine
                or other.genuine == least.genuine and other.heard_ns < least.heard_ns):
            place, least = i, other
    note_run(host, least, now_ns)
    vhid_source(host, place)[0] = new[0]
    return place


cdef void note_run(VirtualHost* host, const Source* source, int64_t now_ns) noexcept nogil:
    """Add the counters of a source that came in order to the history."""
    if source.genuine and source.run and source.ascended > 1:
        history_note_late(&host.history, source.counter - source.run, source.run + 1,
                          source.heard_ns, now_ns, vhid_span_ms(host))


cdef int64_t known_ms(const VirtualHost* host, const Source* from_whom, const Advertisement* heard,
                      bint own, int64_t arrived_ns) noexcept nogil:
    """How long ago the counter was in use, ms; -1: it is new, as far as we know.

    In use: sent by us, or heard from a source that has been genuine, in order or as the last of
    another one in this family. The constant counter of an OpenBSD does not count once that is
    silent: it may have another address now. Both of its families have the same counter. `own`: from
    our source and MAC, of which any counter that we have gone past counts as ours.
    """
    cdef int64_t age_ms = history_age_ms(&host.history, heard.counter, history_ms(arrived_ns),
                                         vhid_span_ms(host))
    cdef uint32_t i
    cdef const Source* other
    if own and age_ms < 0 and history_is_ours(&host.history, host.first_sent, heard.counter):
        age_ms = 0
    for i in range(SOURCES):
        other = vhid_source(host, i)
        if not other.genuine or other.counter - heard.counter > other.run:
            continue
        if other.run == 0:
            if other == from_whom or other.family != heard.family:
                continue
            if other.constant and arrived_ns - other.heard_ns > 2 * vhid_master_down_ns(host):
                continue
        age_ms = max(age_ms, (arrived_ns - other.heard_ns) // 1000000, 0)
    return age_ms


cdef bint is_used_up(const VirtualHost* host, const Advertisement* heard,
                     int64_t arrived_ns) noexcept nogil:
    """Whether a source that never sent a new counter sent this one, or a later one, lately.

    Not within half an interval: hosts that continue from the same counter may be in step.
    """
    cdef int family = heard.family == 6
    cdef int64_t ago_ms = vhid_stranger_ms(host, heard, arrived_ns)
    return (host.stranger[family] and not counter_above(heard.counter, host.stranger[family])
            and vhid_interval_ns(host) // 2 < ago_ms * 1000000
            and ago_ms <= 2 * <int64_t>vhid_span_ms(host))


cdef bint source_replays(Core* core, uint32_t slot, Source* source, const Advertisement* heard,
                         bint own, int64_t arrived_ns) noexcept nogil:
    """Whether the counter shows that the frame was sent before; learns the source's counters.

    First: is the counter known, sent by us or heard from a genuine source? If more than two
    master-down times ago, it is refused from our own source, from one that has not sent a new
    counter yet or has sent a later one, with "strict" from all; but not right after an accepted
    one. A host that hears us, unheard itself, continues from our counters: until such a source has
    sent a new one, each may come once, in ascending order.

    Second: is it in the source's own order? This applies only to a source that has kept an order.
    OpenBSD sends one counter for ever, and a ucarp or FreeBSD that hears no other host sends random
    ones: refusing those would mean taking over from a living master.

    Third: has the source been restarted? If it was silent and sends an unknown counter, or
    continues to ascend from a lower one, its counters are learned again; with "strict" only if they
    ascend.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef bint strict = host.configured.replay == REPLAY_STRICT
    cdef bint off = host.configured.replay == REPLAY_OFF
    cdef bint learned = source.heard_ns != 0
    cdef bint back = learned and not counter_above(heard.counter, source.counter)
    cdef bint stranger = not own and not source.genuine
    cdef bint known
    cdef int64_t age_ms = -1
    if not off and (own or stranger or back or strict):
        age_ms = known_ms(host, source, heard, own and vhid_has_our_mac(host, heard), arrived_ns)
    known = age_ms >= 0
    if known and not own and vhid_goes_on(host, source, heard, arrived_ns):
        age_ms = 0
    if age_ms * 1000000 > 2 * vhid_master_down_ns(host):
        vhid_proves_order(host, source, heard)          # it may still be one of three in a row
        return True
    if known and stranger:
        if back or is_used_up(host, heard, arrived_ns):
            vhid_proves_order(host, source, heard)      # for a new one that may follow
            return True
        if (counter_above(heard.counter, host.stranger[heard.family == 6])
                or vhid_stranger_ms(host, heard, arrived_ns) > 2 * <int64_t>vhid_span_ms(host)):
            host.stranger[heard.family == 6] = heard.counter
            host.stranger_ms[heard.family == 6] = history_ms(arrived_ns)
    elif known and own:
        if (not learned or back
                or arrived_ns - source.heard_ns >= vhid_silence_ns(host, source)):
            if not vhid_proves_order(host, source, heard):
                return True
    elif known and back and (strict or source.ascended == ASCENDED):
        if not vhid_proves_order(host, source, heard):
            return True
        tell_reset(core, slot, source, heard, arrived_ns)
    elif back and not off and (strict or source.ascended == ASCENDED):
        if not vhid_proves_order(host, source, heard) and (
                strict or arrived_ns - source.heard_ns < vhid_silence_ns(host, source)):
            return True
        tell_reset(core, slot, source, heard, arrived_ns)
    learn_counter(host, source, heard.counter, not off and not known, arrived_ns)
    return False


cdef void tell_reset(Core* core, uint32_t slot, const Source* source, const Advertisement* heard,
                     int64_t arrived_ns) noexcept nogil:
    """Report that the source's counters went back and are learned again."""
    cdef VirtualHost* host = &core.hosts[slot]
    host.counter_resets += 1
    core.figures.interfaces[host.interface].counter_resets += 1
    if engine_may_tell(&host.told_reset_ms, arrived_ns):
        engine_tell(core, COUNTER_RESET, slot, 0, heard.source_mac, arrived_ns)


cdef void learn_counter(VirtualHost* host, Source* source, uint64_t counter, bint new,
                        int64_t arrived_ns) noexcept nogil:
    """Store an accepted counter; those in order go into the history, by half a master-down time.

    A run is added with the time of its last counter when the next one comes, maybe after hours.
    `new`: the counter may make the source genuine.
    """
    cdef uint64_t step = counter - source.counter       # a lower one wraps around, to a large step
    cdef uint32_t now_ms = history_ms(arrived_ns)
    source.genuine |= new
    source.refusals = 0
    if (source.heard_ns == 0 or step > HISTORY_NEAR     # nobody has seen the counters skipped
            or source.ascended > 1
            and <uint32_t>(now_ms - source.noted_ms) >= vhid_span_ms(host) // 2):
        note_run(host, source, arrived_ns)
        source.run, source.noted_ms = 0, now_ms
    if source.heard_ns == 0 or step > NEAR:
        source.constant = source.ascended = 0
        source.counter = counter
        return
    source.counter = counter
    if step == 0:
        source.constant = True
        if source.ascended < ASCENDED:
            source.ascended, source.run = 0, 0
        return
    source.constant = False
    source.ascended += source.ascended < ASCENDED
    if host.configured.replay == REPLAY_OFF:
        source.run = 0
        return
    if step <= HISTORY_NEAR:
        source.run = <uint32_t>min(source.run + step, <uint64_t>UINT32_MAX)
