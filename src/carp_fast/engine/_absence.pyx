"""Absences of the pump and losses of frames, and what they mean to a host's silence.

The pump notes each absence once, for all hosts. A host that is about to take over because of
silence checks the absences within its wait. It waits longer if one of them was longer than its own
interval, or if frames were lost: by as much as was missed, and at least until it must have heard a
living master again. This is pure, as all of the engine; it must not know the table of hosts.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memmove

from carp_fast.engine._vhid cimport (
    CONTESTED, EXTENDED, MASTER_LEAVES, SECOND_NS, Source, vhid_advskew, vhid_heard_ns,
    vhid_interval_ns, vhid_interval_of, vhid_jitter_ns, vhid_master, vhid_master_down_ns,
    VirtualHost)


cdef inline int64_t length_ns(const Absence* absence) noexcept nogil:
    return absence.until_ns - absence.since_ns + absence.asleep_ns


cdef bint absence_counts(const Absence* absence, int64_t interval_ns) noexcept nogil:
    """Whether a host with this interval may have missed its master during the absence."""
    return absence.dropped or length_ns(absence) > interval_ns


cdef bint is_covered(const Absences* absences, uint32_t which) noexcept nogil:
    """Whether a later absence counts for every host that this one counts for."""
    cdef const Absence* one = &absences.kept[which]
    cdef uint32_t later
    for later in range(which + 1, absences.count):
        if absences.kept[later].dropped or (
                not one.dropped and length_ns(&absences.kept[later]) >= length_ns(one)):
            return True
    return False


cdef void make_room(Absences* absences) noexcept nogil:
    """Drop the oldest absence that a later one covers; if there is none, merge the first two."""
    cdef uint32_t which
    cdef Absence* second = &absences.kept[1]
    for which in range(absences.count):
        if is_covered(absences, which):
            break
    else:
        which = 0
        second.dropped |= absences.kept[0].dropped
        second.since_ns = min(second.since_ns, absences.kept[0].since_ns)
        second.asleep_ns += absences.kept[0].asleep_ns
    absences.count -= 1
    memmove(&absences.kept[which], &absences.kept[which + 1],
            (absences.count - which) * sizeof(Absence))


cdef void absence_note(Absences* absences, const Absence* absence) noexcept nogil:
    """Insert an absence, ordered by its end; adjoining losses of frames are merged into one."""
    cdef Absence* last
    cdef uint32_t at = absences.count, same
    if at:
        last = &absences.kept[at - 1]
        if (absence.dropped and last.dropped and absence.since_ns <= last.until_ns
                and absence.until_ns >= last.until_ns):
            last.until_ns = absence.until_ns
            return
    while at and absences.kept[at - 1].until_ns > absence.until_ns:
        at -= 1
    for same in range(at, 0, -1):
        if absences.kept[same - 1].until_ns != absence.until_ns:
            break
        if (absences.kept[same - 1].since_ns == absence.since_ns
                and absences.kept[same - 1].dropped == absence.dropped):
            return                                      # noted already, by another recording
    if absences.count == ABSENCES:
        make_room(absences)
        at = min(at, absences.count)
    memmove(&absences.kept[at + 1], &absences.kept[at], (absences.count - at) * sizeof(Absence))
    absences.kept[at] = absence[0]
    absences.count += 1


cdef int64_t absence_end(const Absences* absences, int64_t interval_ns) noexcept nogil:
    """When the last absence ended that counts for this interval; 0: there was none."""
    cdef uint32_t i
    for i in range(absences.count, 0, -1):
        if absence_counts(&absences.kept[i - 1], interval_ns):
            return absences.kept[i - 1].until_ns
    return 0


cdef int64_t began_ns(const VirtualHost* host) noexcept nogil:
    """When the wait began that ends at a BACKUP's deadline.

    Its length may have changed since, by a demotion: so the last advertisement heard is a bound.
    """
    cdef int64_t heard_ns = max(vhid_heard_ns(host), host.since_ns)
    cdef int64_t wait_ns = vhid_master_down_ns(host) + vhid_jitter_ns(host)
    if host.flags & EXTENDED:
        return host.judged_ns
    if host.flags & MASTER_LEAVES:
        wait_ns = <int64_t>vhid_advskew(host) * SECOND_NS // 256
    elif host.flags & CONTESTED:
        wait_ns = vhid_jitter_ns(host)
    return min(host.deadline_ns - wait_ns, heard_ns)


cdef int64_t absence_extended(const Absences* absences, const VirtualHost* host,
                              int64_t* counted_until_ns) noexcept nogil:
    """The deadline of a BACKUP whose silence is not proven yet; 0: nothing was missed in its wait.

    It is later by the time missed. After the beginning of the wait and the end of the last absence,
    it leaves at least two intervals of the master heard, at most a master-down time; a whole
    master-down time if that much was missed. It accounts for absences until `counted_until_ns`.
    """
    cdef int64_t from_ns = began_ns(host), interval_ns = vhid_interval_ns(host)
    cdef int64_t down_ns = vhid_master_down_ns(host), least_ns = down_ns
    cdef int64_t missed_ns = 0, asleep_ns = 0, last_ns = 0, before_ns, since_ns
    cdef const Source* master = vhid_master(host)
    cdef const Absence* absence
    cdef uint32_t i
    for i in range(absences.count, 0, -1):
        absence = &absences.kept[i - 1]
        if absence.until_ns <= from_ns:
            break
        if not absence_counts(absence, interval_ns):
            continue
        if last_ns == 0:
            last_ns = before_ns = absence.until_ns
        since_ns = max(absence.since_ns, from_ns)       # an overlap of two absences counts once
        missed_ns += max(0, min(absence.until_ns, before_ns) - since_ns)
        before_ns = min(before_ns, since_ns)
        asleep_ns += absence.asleep_ns
    if last_ns == 0:
        return 0
    counted_until_ns[0] = max(host.deadline_ns, last_ns)
    if missed_ns + asleep_ns < down_ns and master != NULL:
        least_ns = 2 * <int64_t>vhid_interval_of(master.advbase, master.advskew) * SECOND_NS // 256
    return max(host.deadline_ns + missed_ns,
               counted_until_ns[0] + min(least_ns, down_ns) + vhid_jitter_ns(host))
