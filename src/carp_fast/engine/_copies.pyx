"""Copies of the engine's structs as Python objects; their classes are in copies.py.

Changes nothing. Uses no socket, clock or file.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset

from carp_fast.engine._core cimport Interface, REJECTIONS, Rejection
from carp_fast.engine._reports cimport address_bytes
from carp_fast.engine._vhid cimport (
    ADDRESS_DEMOTED, BACKUP, BY_ADDRESS, CONTESTED, DEMOTIONS, DUPLICATE, Event, EVENTS,
    HOLDS_ROUTES, MASTER_LEAVES, SECOND_NS, SEND_DEMOTED, SILENT_4, SILENT_6, Source, SOURCES,
    vhid_advskew, vhid_beats, vhid_demote, vhid_demoted_by, vhid_interval_ns, vhid_interval_of,
    vhid_is_own_source, vhid_jitter_ns, vhid_judge, vhid_master, vhid_master_down_ns, vhid_source,
    VirtualHost)
from carp_fast.engine._wire cimport Advertisement, VERDICTS

from carp_fast.engine._vhid import (
    DEMOTION_WORDS as _DEMOTIONS, EVENT_WORDS as _EVENTS, REASON_WORDS as _REASONS,
    STATE_WORDS as _STATES)
from carp_fast.engine._wire import VERDICT_WORDS as _VERDICTS
from carp_fast.engine.keys import DIALECTS as _DIALECTS, REPLAYS as _REPLAYS
import carp_fast.engine.copies as _copies

cdef Source[SOURCES] NOBODY_HEARD
memset(NOBODY_HEARD, 0, sizeof(NOBODY_HEARD))

cdef object SourceCopy = _copies.SourceCopy
cdef object HostCopy = _copies.HostCopy
cdef object JudgedSource = _copies.JudgedSource
cdef object ExplainedHost = _copies.ExplainedHost
cdef object RejectedFrame = _copies.RejectedFrame


cdef object source_copy(const VirtualHost* host, int which):
    """One of the sources of a host; the arguments are in the order of the class's fields."""
    cdef const Source* source = vhid_source(host, which)
    return SourceCopy(
        address_bytes(source.address, source.family), source.family, (<const char*>source.mac)[:6],
        source.advbase, source.advskew, source.demote, source.counter, source.heard_ns,
        bool(source.genuine), host.master[source.family == 6] == which + 1)


cdef dict host_counters(const VirtualHost* host):
    cdef dict counters = {
        "advertisements_sent": host.sent, "advertisements_heard": host.heard,
        "announcements_sent": host.announced, "announcement_errors": host.announce_errors,
        "send_errors": host.send_errors,
        "became_master": host.became_master, "addresses_restored": host.addresses_restored,
        "duplicate_source": host.duplicates, "counter_reset": host.counter_resets,
        "family_silent": host.family_silences}
    cdef int i
    for i in range(1, VERDICTS):
        counters[_VERDICTS[i]] = host.rejected[i]
    return counters


cdef dict demotions_dict(const VirtualHost* host):
    cdef int by
    return {_REASONS[host.lost_reason] if by == BY_ADDRESS else _DEMOTIONS[by]:
            vhid_demoted_by(host, by)
            for by in range(DEMOTIONS) if vhid_demoted_by(host, by)}


cdef object host_copy(const VirtualHost* host):
    """A host as a Python object; the arguments are in the order of the class's fields."""
    cdef const Source* master = vhid_master(host)
    cdef int i
    return HostCopy(
        host.interface, host.vhid, _STATES[host.state], _REASONS[host.reason],
        host.since_ns,
        [family for family, expected in ((4, host.configured.expects_4),
                                         (6, host.configured.expects_6)) if expected],
        _DIALECTS.values[host.configured.dialect], _REPLAYS.values[host.configured.replay],
        host.configured.advbase, host.configured.advskew, host.configured.dead_ratio,
        vhid_advskew(host), demotions_dict(host), vhid_demote(host),
        bool(host.flags & SEND_DEMOTED),
        _REASONS[host.lost_reason] if host.flags & ADDRESS_DEMOTED else None,
        host.configured.address_deadline_ms * <int64_t>1000000, host.demoted_until_ns,
        host.without_ns, host.retry_at_ns, vhid_interval_ns(host), vhid_master_down_ns(host),
        (<const char*>host.source4)[:4], (<const char*>host.source6)[:16], host.held,
        bool(host.configured.by_route), bool(host.flags & HOLDS_ROUTES),
        address_bytes(master.address, master.family) if master != NULL else None,
        master.advbase if master != NULL else 0, master.advskew if master != NULL else 0,
        master.heard_ns if master != NULL else 0,
        (<const char*>host.duplicate_mac)[:6] if host.flags & DUPLICATE else None,
        [source_copy(host, i) for i in range(SOURCES) if vhid_source(host, i).heard_ns],
        host.counter, host.deadline_ns, host_counters(host))


cdef object judged(const VirtualHost* host, int which, int64_t now_ns):
    """The event of an advertisement at `now_ns` like the source's last one.

    The host does not change.
    """
    cdef const Source* source = vhid_source(host, which)
    cdef Advertisement heard
    cdef bint duplicate
    memset(&heard, 0, sizeof(heard))
    heard.family = source.family
    memcpy(heard.source, source.address, 16)
    memcpy(heard.source_mac, source.mac, 6)
    heard.advbase, heard.advskew, heard.demote = source.advbase, source.advskew, source.demote
    duplicate = vhid_is_own_source(host, &heard)
    return JudgedSource(
        source_copy(host, which),
        <int64_t>vhid_interval_of(source.advbase, source.advskew) * SECOND_NS // 256,
        event_of(host, &heard, duplicate, now_ns), bool(duplicate),
        event_as_backup(host, &heard, now_ns), event_undemoted(host, &heard, now_ns),
        bool(vhid_beats(host, source)))


cdef object event_of(const VirtualHost* host, const Advertisement* heard, bint duplicate,
                     int64_t now_ns):
    cdef VirtualHost copy = host[0]                     # judging changes fields
    cdef Event event = vhid_judge(&copy, heard, duplicate, now_ns)
    return None if event == EVENTS else _EVENTS[<int>event]


cdef object event_as_backup(const VirtualHost* host, const Advertisement* heard, int64_t now_ns):
    """The same for a BACKUP whose preempt delay is over, and that hears no other master."""
    cdef VirtualHost copy = host[0]
    copy.state, copy.ties, copy.configured.preempt_delay_ms = BACKUP, 0, 0
    copy.master[0] = copy.master[1] = 0
    copy.heard_ns[0] = copy.heard_ns[1] = 0
    copy.preempt_from_ns = 0
    copy.sources = &NOBODY_HEARD[0]
    copy.sources_apart = 1
    return event_of(&copy, heard, False, now_ns)


cdef object event_undemoted(const VirtualHost* host, const Advertisement* heard, int64_t now_ns):
    """The same for one whose demotions have ended."""
    cdef VirtualHost copy = host[0]
    memset(copy.ordered, 0, sizeof(copy.ordered))
    copy.demotion = 0
    copy.flags &= ~<uint32_t>(ADDRESS_DEMOTED | SEND_DEMOTED)
    return event_as_backup(&copy, heard, now_ns)


cdef object explained_host(const VirtualHost* host, int64_t now_ns):
    """A host that engine_shown() has completed, and the reasons for its state."""
    cdef int i
    return ExplainedHost(
        host_copy(host),
        [judged(host, i, now_ns) for i in range(SOURCES) if vhid_source(host, i).heard_ns],
        bool(host.flags & MASTER_LEAVES), bool(host.flags & CONTESTED), host.preempt_from_ns,
        host.ties, vhid_jitter_ns(host), host.judged_ns if host.state == BACKUP else 0,
        host.failed_sends,
        [family for family, flag in ((4, SILENT_4), (6, SILENT_6)) if host.flags & flag])


cdef dict interface_dict(const Interface* interface):
    """An interface's counters: those of its hosts, and the frames rejected, by word."""
    cdef dict counters = {
        "advertisements_sent": interface.sent, "advertisements_heard": interface.heard,
        "announcements_sent": interface.announced, "announcements_paced": interface.paced,
        "announcement_errors": interface.announce_errors,
        "send_errors": interface.send_errors, "became_master": interface.became_master}
    cdef int i
    for i in range(1, VERDICTS):
        counters[_VERDICTS[i]] = interface.rejected[i]
    return counters


cdef list rejections_list(const Interface* interface):
    """The last frames rejected on an interface, newest first."""
    cdef const Rejection* rejection
    cdef list found = []
    cdef uint32_t i
    for i in range(1, REJECTIONS + 1):
        rejection = &interface.rejections[(interface.rejections_count - i) & (REJECTIONS - 1)]
        if rejection.at_ns:
            found.append(RejectedFrame(
                rejection.at_ns, _VERDICTS[rejection.verdict],
                rejection.vhid if rejection.family else None,
                address_bytes(rejection.source, rejection.family) if rejection.family else None))
    return found
