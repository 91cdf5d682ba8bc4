"""The counters that a virtual host has sent or heard: ranges, and when each was in use.

A group of hosts shares one sequence of counters, since each continues above what it hears, so a few
ranges hold all of it. A *span* is the host's master-down time: counters of the last two spans are
kept in ranges of half a span, older ones in at most three ranges. If there is no room for another
range, the shortest is dropped, so random counters do not displace a sequence.

Times are in ms modulo 2^32, 49 days. Must not know what an age means, nor which
host sent a counter.
"""

from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memmove

assert sizeof(History) == 192


cdef enum:
    BACKWARDS_MS = 259200000    # time may go back by two spans, the longest of which has 18 hours


cdef inline int64_t since_ms(uint32_t at_ms, uint32_t now_ms) noexcept nogil:
    cdef uint32_t age_ms = now_ms - at_ms
    return 0 if age_ms > UINT32_MAX - BACKWARDS_MS else age_ms


cdef inline uint32_t later_ms(uint32_t one_ms, uint32_t other_ms) noexcept nogil:
    return one_ms if other_ms - one_ms > BACKWARDS_MS else other_ms


cdef bint is_near(const Range* one, const Range* other) noexcept nogil:
    """Whether both belong to one sequence: they overlap, or a few counters lie between."""
    return (other.begin - one.begin <= <uint64_t>one.count + HISTORY_NEAR
            or one.begin - other.begin <= <uint64_t>other.count + HISTORY_NEAR)


cdef void join(Range* to, const Range* other) noexcept nogil:
    """Extend `to` over the other range; of more than 2^32 counters it keeps the latest."""
    cdef uint64_t begin = other.begin if counter_above(to.begin, other.begin) else to.begin, count
    count = max(to.begin - begin + to.count, other.begin - begin + other.count)
    if count > UINT32_MAX:
        begin, count = begin + (count - UINT32_MAX), UINT32_MAX
    to.begin, to.count = begin, <uint32_t>count


cdef uint32_t shortest(const Range* ranges, uint32_t count) noexcept nogil:
    """The index of a free place, or of the shortest range."""
    cdef uint32_t i, place = 0
    for i in range(count):
        if ranges[i].count < ranges[place].count:
            place = i
    return place


cdef void retire(History* history, const Range* old) noexcept nogil:
    """Keep a range among the old ones: joined with its sequence, or replacing the shortest."""
    cdef Range* formerly = history.formerly
    cdef Range whole = old[0]
    cdef uint32_t i
    for i in range(HISTORY_FORMERLY):
        if formerly[i].count and is_near(&formerly[i], &whole):
            join(&whole, &formerly[i])
            whole.at_ms = later_ms(whole.at_ms, formerly[i].at_ms)
            formerly[i].count = 0
    formerly[shortest(formerly, HISTORY_FORMERLY)] = whole


cdef void history_note_late(History* history, uint64_t begin, uint32_t count, int64_t at_ns,
                            int64_t now_ns, uint32_t span_ms) noexcept nogil:
    """Add counters that were in use at `at_ns`, however long ago that is."""
    cdef Range old
    if now_ns - at_ns <= 2000000 * <int64_t>span_ms:
        history_note(history, begin, count, history_ms(at_ns), history_ms(now_ns), span_ms)
        return
    old.begin, old.count, old.at_ms = begin, count, history_ms(at_ns)
    retire(history, &old)


cdef void history_note(History* history, uint64_t begin, uint64_t count, uint32_t at_ms,
                       uint32_t now_ms, uint32_t span_ms) noexcept nogil:
    """Add `count` counters from `begin` on, the last of them in use at `at_ms`.

    Ranges older than two spans make room first, however old the new one is: the places suffice
    for one sequence.
    """
    cdef Range* lately = history.lately
    cdef uint32_t i, place, half_ms = max(1, (span_ms + 1) // 2)
    cdef Range new
    if count > UINT32_MAX:
        begin, count = begin + (count - UINT32_MAX), UINT32_MAX
    new.begin, new.count, new.at_ms = begin, <uint32_t>count, at_ms
    if since_ms(at_ms, now_ms) > 2 * <int64_t>span_ms:
        retire(history, &new)
        return
    for i in range(HISTORY_LATELY):
        if lately[i].count and since_ms(lately[i].at_ms, now_ms) > 2 * <int64_t>span_ms:
            retire(history, &lately[i])
            lately[i].count = 0
        elif (lately[i].count and lately[i].at_ms // half_ms == at_ms // half_ms
                and is_near(&lately[i], &new)):
            join(&lately[i], &new)
            lately[i].at_ms = later_ms(lately[i].at_ms, at_ms)
            return
    place = shortest(lately, HISTORY_LATELY)
    if lately[place].count:
        place = place_joined(lately, HISTORY_LATELY, place)
    lately[place], lately[0] = lately[0], new           # the next is most likely joined with it


cdef uint32_t place_joined(Range* ranges, uint32_t count, uint32_t otherwise) noexcept nogil:
    """Free a place by joining two ranges of one sequence; the result has the later time.

    It joins the two that are closest in time. `otherwise`: the place to use if every range
    belongs to another sequence.
    """
    cdef uint32_t i, k, apart_ms, least_ms = UINT32_MAX, one = 0, other = otherwise
    for i in range(count):
        for k in range(i + 1, count):
            apart_ms = min(ranges[i].at_ms - ranges[k].at_ms, ranges[k].at_ms - ranges[i].at_ms)
            if apart_ms < least_ms and is_near(&ranges[i], &ranges[k]):
                least_ms, one, other = apart_ms, i, k
    if least_ms != UINT32_MAX:
        join(&ranges[one], &ranges[other])
        ranges[one].at_ms = later_ms(ranges[one].at_ms, ranges[other].at_ms)
    return other


cdef void history_send(History* history, uint64_t begin, uint32_t count, uint32_t at_ms,
                       uint32_t span_ms, uint32_t interval_ms) noexcept nogil:
    """Add the counters of one advertisement of ours, `count` from `begin` on.

    An advertisement within an eighth of an interval of the last one shares its place and gives it
    the later time: otherwise those sent twice would leave no room for a whole interval. If there is
    still no room, two ranges of one sequence are joined.
    """
    cdef Range* sent = history.sent
    cdef uint32_t place = HISTORY_SENT - 1
    if (sent[0].count and begin == sent[0].begin + sent[0].count
            and since_ms(sent[0].at_ms, at_ms) <= interval_ms // 8):
        sent[0].count += count
        sent[0].at_ms = at_ms
        return
    if sent[place].count:
        if since_ms(sent[place].at_ms, at_ms) <= interval_ms:
            place = place_joined(sent, HISTORY_SENT, place)
        history_note(history, sent[place].begin, sent[place].count, sent[place].at_ms, at_ms,
                     span_ms)
    memmove(&sent[1], sent, place * sizeof(Range))
    sent[0].begin, sent[0].count, sent[0].at_ms = begin, count, at_ms


cdef bint history_is_ours(const History* history, uint64_t first, uint64_t counter) noexcept nogil:
    """Whether the counter is none before `first`, our first one, or after the last that we sent.

    We have sent it, or gone past it: to be asked only of what comes from our own source. All of
    ours stay known by this, while longer sequences of others may displace their ranges.
    """
    cdef const Range* last = &history.sent[0]
    return last.count and counter - first < last.begin + last.count - first


cdef int64_t history_sent_ms(const History* history, uint64_t counter,
                             uint32_t now_ms) noexcept nogil:
    """How long ago one of our last advertisements had this counter, ms; -1: none had it."""
    cdef uint32_t i
    for i in range(HISTORY_SENT):
        if history_in(counter, history.sent[i].begin, history.sent[i].count):
            return since_ms(history.sent[i].at_ms, now_ms)
    return -1


cdef bint is_read_late(const History* history, uint32_t now_ms, uint32_t span_ms) noexcept nogil:
    """Whether a counter in use half a span after `now_ms`, or later, was added already."""
    cdef uint32_t i, ahead_ms
    for i in range(HISTORY_LATELY):
        ahead_ms = history.lately[i].at_ms - now_ms
        if history.lately[i].count and span_ms // 2 < ahead_ms <= BACKWARDS_MS:
            return True
    ahead_ms = history.sent[0].at_ms - now_ms
    return history.sent[0].count and span_ms // 2 < ahead_ms <= BACKWARDS_MS


cdef int64_t history_age_ms(const History* history, uint64_t counter, uint32_t now_ms,
                            uint32_t span_ms) noexcept nogil:
    """How long ago the counter was in use, ms, or HISTORY_LONG_AGO; -1: unknown counter.

    Too young by half a span at most, if no other sequence shares the places: a range has the time
    of its last counter. A frame read so late that later ones have moved the ranges on is judged by
    the times that are left.
    """
    cdef int64_t age_ms = history_sent_ms(history, counter, now_ms)
    cdef uint32_t i
    for i in range(HISTORY_LATELY):
        if history_in(counter, history.lately[i].begin, history.lately[i].count):
            age_ms = max(age_ms, since_ms(history.lately[i].at_ms, now_ms))
    for i in range(HISTORY_FORMERLY):
        if history_in(counter, history.formerly[i].begin, history.formerly[i].count):
            if not is_read_late(history, now_ms, span_ms):
                return HISTORY_LONG_AGO
            age_ms = max(age_ms, since_ms(history.formerly[i].at_ms, now_ms))
    return age_ms
